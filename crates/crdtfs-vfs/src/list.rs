//! Listing directories.

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;

use crate::attr::Attr;
use crate::directory::{AFTER_DOT, AFTER_DOT_DOT};
use crate::error::{Error, Result};
use crate::vfs::Vfs;

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct Listed<'a> {
    /// Inode number.
    pub ino: u64,
    /// Position to go on from after this entry.
    pub next: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Its kind.
    pub kind: Kind,
    /// Its attributes, if they were asked for; then it is looked up once more, but for `.` and `..`.
    pub attr: Option<Attr>,
}

/// Entries taken from the tree at a time.
const BATCH: usize = 128;

impl Vfs {
    /// Lists a directory from a position (0: the start) until `emit` says that it has no room for the entry given.
    pub fn list(
        &self,
        ino: u64,
        position: u64,
        with_attrs: bool,
        mut emit: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        let inode = self.inode(ino)?;
        let dir = inode.id;
        if !self.list_dots(ino, dir, position, with_attrs, &mut emit)? {
            return Ok(());
        }
        let mut after: Option<Name> = match position {
            0..=AFTER_DOT_DOT => None,
            _ => {
                let state = inode.state.lock();
                let name = state.cookies.as_ref().and_then(|cookies| cookies.name(position)).cloned();
                Some(name.ok_or(Error::Invalid)?)
            }
        };
        loop {
            let entries = self.tree.entries(dir, after.as_ref(), BATCH);
            for entry in &entries {
                let next = inode.state.lock().cookies.get_or_insert_default().after(&entry.name);
                let mut listed = Listed { ino: 0, next, name: entry.name.as_bytes(), kind: entry.kind, attr: None };
                if !with_attrs {
                    listed.ino = self.inodes.number(entry.inode);
                    if !emit(&listed) {
                        return Ok(());
                    }
                    continue;
                }
                // It may be gone since the batch was taken.
                let Some(node) = self.tree.node(entry.inode) else { continue };
                let known = self.inodes.intern(node.inode, 1);
                listed.ino = known.ino;
                listed.attr = Some(self.attr_found(&known, &node));
                if !emit(&listed) {
                    self.inodes.forget(known.ino, 1);
                    return Ok(());
                }
            }
            match entries.last() {
                Some(last) if entries.len() == BATCH => after = Some(last.name.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// `.` and `..`; false if there was no room.
    fn list_dots(
        &self,
        ino: u64,
        dir: InodeId,
        position: u64,
        with_attrs: bool,
        emit: &mut impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<bool> {
        if position == 0 {
            let attr = if with_attrs { Some(self.getattr(ino)?) } else { None };
            if !emit(&Listed { ino, next: AFTER_DOT, name: b".", kind: Kind::Dir, attr }) {
                return Ok(false);
            }
        }
        if position <= AFTER_DOT {
            let parent = self.tree.names(dir).first().map_or(InodeId::ROOT, |(parent, _)| *parent);
            let ino = self.inodes.number(parent);
            let attr = if with_attrs {
                self.tree.node(parent).map(|node| self.times.attr(ino, parent, &node, self.options.owner))
            } else {
                None
            };
            if !emit(&Listed { ino, next: AFTER_DOT_DOT, name: b"..", kind: Kind::Dir, attr }) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
