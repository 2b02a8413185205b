//! What was taken from its place, under a name of ours in the root, so that it can be looked at with nobody in between.
//!
//! Either it is what we know, and goes for good, its bytes kept by the store; or somebody changed it in the instant before,
//! and it goes back, or, where it cannot, beside: nothing that anybody wrote stays under a name that nobody looks at.

use std::io;

use crdtfs_core::id::{Hash, InodeId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::port::FolderContent;
use rustix::io::Errno;

use crate::conflict;
use crate::disk::{self, ASIDE, Dir, Root, TEMPORARY};
use crate::synced::{Synced, SyncedTree};

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Aside<'a> {
    /// The root.
    pub(crate) root: &'a Dir,
    /// Its name there.
    pub(crate) name: &'a Name,
}

/// The name for what a node's place held. `n` is one that no other such name of this process has.
pub(crate) fn name(id: InodeId, n: u64) -> Name {
    let name = [ASIDE, format!("{id}-{}-{n}", std::process::id()).as_bytes()].concat();
    Name::new(&name).expect("short and without a separator")
}

/// The node at whose place it was.
pub(crate) fn origin(name: &Name) -> Option<InodeId> {
    let text = std::str::from_utf8(name.as_bytes().strip_prefix(ASIDE)?).ok()?;
    InodeId::from_hex(text.split('-').next()?)
}

impl Aside<'_> {
    /// It is what is known, and is to be no more. The store keeps what nothing else has; the file of `instead` stays.
    pub(crate) fn give_up(
        self,
        known: &Synced,
        content: &dyn FolderContent,
        instead: Option<InodeId>,
    ) -> io::Result<()> {
        if known.kind == Kind::File && known.content.size > 0 {
            let file = match self.root.open(self.name) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // Its owner may read it, whatever its bits say.
                    self.root.chmod(self.name, known.stamp.mode | 0o400)?;
                    self.root.open(self.name)
                }
                other => other,
            }?;
            content.keep_file(&known.content, &file, instead)?;
        }
        self.root.unlink(self.name)
    }

    /// It is what somebody wrote, and its place is taken: it becomes a file of its own beside it (in the root, where that
    /// is not known), which is then seen like any other new file.
    pub(crate) fn rescue(self, root: &Root, synced: &SyncedTree, device: &str) -> io::Result<()> {
        let id = Hash::of(self.name.as_bytes()).to_string();
        let place = origin(self.name).and_then(|id| synced.names(id).first().cloned());
        let beside = place.and_then(|(dir, name)| Some((root.dir(&synced.path(dir)?).ok()?, name)));
        let plain = Name::try_from("recovered").expect("a legal name");
        let (dir, name) = match &beside {
            Some((dir, name)) => (dir, name),
            None => (self.root, &plain),
        };
        for attempt in 0..conflict::TRIES {
            let to = conflict::name(name, device, &id, attempt);
            // A copy of a file that we know under another name would look like that one, moved.
            let moved = match synced.by_ident(&self.root.stat(self.name)?.ok_or(Errno::NOENT)?.stamp.ident) {
                Some(_) => self.copy_to(dir, &to),
                None => self.root.rename(self.name, dir, &to),
            };
            match moved {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn copy_to(self, dir: &Dir, to: &Name) -> io::Result<()> {
        let stat = self.root.stat(self.name)?.ok_or(Errno::NOENT)?;
        let temp = [TEMPORARY, self.name.as_bytes()].concat();
        let temp = Name::new(&temp).map_err(io::Error::other)?;
        let mut copy = self.root.create(&temp)?;
        let copied = self.root.open(self.name).and_then(|mut file| {
            io::copy(&mut file, &mut copy)?;
            disk::set_xattrs(&copy, &disk::xattrs(&file)?.unwrap_or_default())?;
            disk::set_attrs(&copy, stat.stamp.mode & 0o777, stat.stamp.mtime)
        });
        let placed = copied.and_then(|()| copy.sync_all()).and_then(|()| self.root.rename(&temp, dir, to));
        match placed {
            Ok(()) => self.root.unlink(self.name),
            Err(error) => {
                // The error that matters is the first.
                let _ = self.root.unlink(&temp);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_place_it_was() {
        let id = InodeId([0xab; 16]);
        assert_eq!(origin(&name(id, 7)), Some(id));
        assert_eq!(origin(&Name::try_from(".crdtfs-aside-xy").expect("legal")), None);
    }
}
