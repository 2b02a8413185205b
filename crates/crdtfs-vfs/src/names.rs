//! Names: looking them up, making, linking, moving and removing them.

use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Kind, Node, Owner};
use crdtfs_core::op::{NewNode, Op, OpError, RenameMode};
use crdtfs_core::port::WriteFile;

use crate::attr::{Attr, now};
use crate::error::{Error, Result};
use crate::file::{OpenMode, Opened};
use crate::inodes::{Inode, State};
use crate::version::Version;
use crate::vfs::Vfs;

/// What a new node is to be.
#[derive(Clone, Debug)]
pub struct Make {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with the umask taken off.
    pub mode: u32,
    /// Who makes it.
    pub owner: Owner,
    /// Device number, for device nodes.
    pub rdev: u64,
    /// Target, for symlinks.
    pub target: Vec<u8>,
}

const SET_GID: u32 = 0o2000;

impl Vfs {
    /// The attributes of the node behind a name, which is known (looked up once more) from then on.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let node = self.tree.child(dir, &name).ok_or(Error::NotFound)?;
        Ok(self.known(dir, &name, &node))
    }

    /// Makes a shown node known, looked up once more.
    fn known(&self, dir: InodeId, name: &Name, node: &Node) -> Attr {
        let inode = self.inodes.intern(node.inode, 1);
        if node.nlink > 1 && node.kind != Kind::Dir {
            inode.state.lock().via = Some(Box::new((dir, name.clone())));
        }
        self.attr_found(&inode, node)
    }

    /// Takes back `lookups` of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// How many inodes are known.
    pub fn known_inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Makes a node that is no open file: a directory, symlink, fifo, socket, device or empty file.
    pub fn make(&self, parent: u64, name: &[u8], make: Make) -> Result<Attr> {
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let node = self.create_node(dir, &name, make)?;
        Ok(self.known(dir, &name, &node))
    }

    /// Makes and opens a file; opens the one that is there, unless `exclusive`.
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        make: Make,
        mode: OpenMode,
        exclusive: bool,
        privileged: bool,
    ) -> Result<(Attr, Opened)> {
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let (node, made) = match self.create_node(dir, &name, make) {
            Ok(node) => (node, true),
            Err(Error::Exists) if !exclusive => (self.tree.child(dir, &name).ok_or(Error::NotFound)?, false),
            Err(error) => return Err(error),
        };
        let inode = self.inodes.intern(node.inode, 1);
        let opened = if made {
            // There are no pages of it anywhere.
            self.open_node(&inode, mode).map(|opened| Opened { keep_cache: true, ..opened })
        } else {
            self.open(inode.ino, mode, privileged)
        };
        match opened {
            Ok(opened) => Ok((self.attr_found(&inode, &node), opened)),
            Err(error) => {
                self.inodes.forget(inode.ino, 1);
                Err(error)
            }
        }
    }

    fn create_node(&self, dir: InodeId, name: &Name, make: Make) -> Result<Node> {
        self.check_writable()?;
        let parent = self.tree.node(dir).ok_or(Error::NotFound)?;
        let (mut mode, mut owner) = (make.mode & 0o7777, make.owner);
        if parent.mode & SET_GID != 0 {
            owner.gid = self.options.owner.shown(parent.owner).gid;
            if make.kind == Kind::Dir {
                mode |= SET_GID;
            }
        }
        let inode = self.fresh_inode();
        let new = NewNode {
            kind: make.kind,
            mode,
            owner: matches!(self.options.owner, crate::attr::Owners::Keep(_)).then_some(owner),
            mtime: now(),
            xattrs: Default::default(),
            content: ContentRef::empty(),
            target: make.target,
            rdev: make.rdev,
        };
        let op = Op::Create { dir, name: name.clone(), inode, place: self.fresh_place(), node: new, beside: None };
        let applied = self.apply(op)?;
        self.times.entries_changed(dir);
        self.side_effects(&applied.delta, &[(dir, name)], &[dir, inode]);
        self.tree.child(dir, name).ok_or(Error::NotFound)
    }

    /// One more name for a node that is no directory.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let op = Op::Link { inode: inode.id, dir, name: name.clone(), place: self.fresh_place() };
        let applied = self.apply(op)?;
        self.times.entries_changed(dir);
        self.times.changed(inode.id);
        self.side_effects(&applied.delta, &[(dir, &name)], &[dir, inode.id]);
        let node = self.tree.child(dir, &name).ok_or(Error::NotFound)?;
        Ok(self.known(dir, &name, &node))
    }

    /// Removes a name of a node that is no directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let node = self.tree.child(dir, &name).ok_or(Error::NotFound)?;
        if node.kind == Kind::Dir {
            return Err(Error::IsDir);
        }
        let delta = self.removing(&node, None, || Ok(self.apply(Op::Unlink { dir, name: name.clone() })?.delta))?;
        self.times.entries_changed(dir);
        for change in &delta.entries {
            // A backup was removed: what was written in its place is the old file now.
            if let (Some(before), Some(after)) = (change.before, change.after)
                && before != after
            {
                self.merge(before);
            }
        }
        self.side_effects(&delta, &[(dir, &name)], &[dir, node.inode]);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let dir = self.dir(parent)?;
        let name = Name::new(name)?;
        let node = self.tree.child(dir, &name).ok_or(Error::NotFound)?;
        if node.kind != Kind::Dir {
            return Err(Error::NotDir);
        }
        let delta = self.removing(&node, None, || Ok(self.apply(Op::Rmdir { dir, name: name.clone() })?.delta))?;
        self.times.entries_changed(dir);
        self.side_effects(&delta, &[(dir, &name)], &[dir, node.inode]);
        Ok(())
    }

    /// Does an operation that takes a name from `node`, which may be its last: open handles go on with what they have,
    /// and nothing unpublished of it is published any more. `by` is the file that takes the name.
    fn removing(&self, node: &Node, by: Option<InodeId>, operation: impl FnOnce() -> Result<Delta>) -> Result<Delta> {
        let inode = self.inodes.intern(node.inode, 0);
        let done = self.removing_of(&inode, by, operation);
        if let Ok((_, Some(file))) = &done {
            self.content.discard(file.clone());
        }
        self.inodes.sweep(&inode);
        done.map(|(delta, _)| delta)
    }

    fn removing_of(
        &self,
        inode: &Inode,
        by: Option<InodeId>,
        operation: impl FnOnce() -> Result<Delta>,
    ) -> Result<(Delta, Option<Arc<dyn WriteFile>>)> {
        let _applying = inode.applying.lock();
        // Nobody opens it while it goes.
        let mut state = inode.state.lock();
        if state.open > 0 {
            // Also before it is gone: `stat` of an open file never fails.
            state.last = Some(Box::new(self.node_in(inode, &state)?));
        }
        let delta = operation()?;
        let gone = self.tree.node(inode.id).is_none();
        // A file saved over (by a rename, or moved aside, written anew and removed) lives on as what was written to the
        // other; who has it open keeps the old bytes. Neither the bytes nor the operation tell: the new ones may be those
        // that were published before, and a file with another name lives on as it is.
        let other_bytes = delta.nodes.iter().any(|change| change.inode == inode.id && change.content);
        let named_anew = delta.entries.iter().any(|change| change.after == Some(inode.id));
        let is_the_other = by.and_then(|by| self.tree.node(by)).is_some_and(|node| node.inode == inode.id);
        let replaced = other_bytes || named_anew || is_the_other;
        if !gone && !replaced {
            self.times.changed(inode.id);
            return Ok((delta, None));
        }
        if gone && state.open > 0 {
            self.tree.keep_apart(inode.id);
        }
        let discarded = self.bury(&mut state, gone);
        self.problems.lock().remove(&inode.id);
        if gone && state.open == 0 {
            self.times.forget(inode.id);
        } else if gone {
            self.times.changed(inode.id);
        }
        Ok((delta, discarded))
    }

    /// The bytes of an inode that handles may still have open will not be published; a write file to be discarded.
    fn bury(&self, state: &mut State, gone: bool) -> Option<Arc<dyn WriteFile>> {
        let mut discarded = None;
        if let Some(version) = &state.current {
            let mut body = version.body.lock();
            body.dead = true;
            self.queue.remove(&mut body);
            let handles = body.handles;
            if handles == 0 {
                discarded = body.clean();
                self.memory.fetch_add(body.account(), std::sync::atomic::Ordering::Relaxed);
            }
            drop(body);
            if handles == 0 {
                state.current = None;
            } else if !gone {
                state.current = None;
                state.stale += handles;
            }
        }
        state.pending = None;
        state.cookies = None;
        if !gone || state.open == 0 {
            state.cached = None;
            state.cached_current = false;
        }
        discarded
    }

    /// If an inode was saved over another, its handles and what is unpublished of it are the other's from now on: who
    /// opens the name sees what they write, and they see what is written through the name.
    fn merge(&self, id: InodeId) {
        let Some(node) = self.tree.node(id).filter(|node| node.inode != id) else { return };
        let Some(from) = self.inodes.find(id) else { return };
        let into = self.home(&self.inodes.intern(node.inode, 0));
        if into.id == from.id {
            return;
        }
        let version = from.state.lock().current.clone();
        // Not in the middle of a publication, which takes notes in the state that it began with.
        let _publishing = version.as_ref().map(|version| version.publishing.lock());
        {
            let mut old = from.state.lock();
            if old.merged.is_some() {
                return;
            }
            // Of two states the one saved over another comes first; no inode is saved over one that was saved over it.
            let mut state = into.state.lock();
            old.merged = Some(into.id);
            let open = std::mem::take(&mut old.open);
            state.open += open;
            state.foreign += open;
            state.stale += std::mem::take(&mut old.stale);
            let last = old.last.take();
            if state.open > 0 && state.last.is_none() {
                state.last = last;
            }
            if let Some(pending) = old.pending.take() {
                state.pending.get_or_insert_default().add(*pending);
            }
            if let Some(version) = old.current.take() {
                adopt(&mut state, version, &node);
            }
            state.cached = None;
            state.cached_current = false;
        }
        self.inodes.sweep(&from);
        self.inodes.sweep(&into);
    }

    /// Moves an entry.
    pub fn rename(&self, parent: u64, name: &[u8], to_parent: u64, to_name: &[u8], mode: RenameMode) -> Result<()> {
        self.check_writable()?;
        let (from_dir, to_dir) = (self.dir(parent)?, self.dir(to_parent)?);
        let (from, to) = (Name::new(name)?, Name::new(to_name)?);
        let source = self.tree.child(from_dir, &from).ok_or(Error::NotFound)?;
        let target = self.tree.child(to_dir, &to);
        let op = Op::Rename { from_dir, from: from.clone(), to_dir, to: to.clone(), mode };
        let apply = || self.apply(op).map(|applied| applied.delta).map_err(Error::from);
        let delta = match &target {
            Some(target) if mode == RenameMode::Replace && target.inode != source.inode => {
                // The rename makes what was written to the source the new state of the name: it goes out whole.
                self.publish_inode(source.inode)?;
                self.removing(target, Some(source.inode), apply)?
            }
            _ => apply()?,
        };
        self.times.entries_changed(from_dir);
        if to_dir != from_dir {
            self.times.entries_changed(to_dir);
        }
        self.times.changed(source.inode);
        if let (Some(target), RenameMode::Exchange) = (&target, mode) {
            self.times.changed(target.inode);
        }
        self.moved(&source, to_dir, &to);
        self.merge(source.inode);
        let mut inodes = vec![from_dir, to_dir, source.inode];
        inodes.extend(target.as_ref().map(|target| target.inode));
        self.side_effects(&delta, &[(from_dir, &from), (to_dir, &to)], &inodes);
        if mode != RenameMode::Exchange {
            self.check_moved(&source, to_dir, &to, target.as_ref());
        }
        Ok(())
    }

    /// Whoever writes the moved file writes it through its new name.
    fn moved(&self, source: &Node, to_dir: InodeId, to: &Name) {
        let Some(inode) = self.inodes.find(source.inode) else { return };
        let mut state = inode.state.lock();
        if state.via.is_some() {
            state.via = Some(Box::new((to_dir, to.clone())));
        }
        if let Some(version) = &state.current {
            let mut body = version.body.lock();
            if body.via.is_some() {
                body.via = Some((to_dir, to.clone()));
            }
        }
    }

    /// A cache now takes the new name for the source's; if it stands for another inode (a save by rename), or the
    /// target lives on with other bytes, it has to look again.
    fn check_moved(&self, source: &Node, to_dir: InodeId, to: &Name, target: Option<&Node>) {
        let shown = self.tree.child(to_dir, to);
        if shown.as_ref().is_none_or(|shown| shown.inode != source.inode) {
            self.invalidate_name(to_dir, to);
            if let Some(target) = target {
                self.invalidate_inode(target.inode, true);
            }
        }
    }

    /// Publishes what is unpublished of an inode, now.
    fn publish_inode(&self, id: InodeId) -> Result<()> {
        let Some(inode) = self.inodes.find(id) else { return Ok(()) };
        let version = inode.state.lock().current.clone();
        match version {
            Some(version) => self.publish(&inode, &version),
            None => Ok(()),
        }
    }

    /// Whether a rename has to write out a large file first.
    pub fn may_block_rename(&self, parent: u64, name: &[u8]) -> bool {
        let Ok(dir) = self.dir(parent) else { return false };
        let Some(node) = Name::new(name).ok().and_then(|name| self.tree.child(dir, &name)) else { return false };
        let Some(inode) = self.inodes.find(node.inode) else { return false };
        let state = inode.state.lock();
        state.current.as_ref().is_some_and(|version| {
            let body = version.body.lock();
            body.dirty() && matches!(body.data, crate::version::Data::File(_))
        })
    }

    /// Target of a symlink.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let node = self.node(&*self.inode(ino)?)?;
        if node.kind == Kind::Symlink { Ok(node.target.to_vec()) } else { Err(Error::Invalid) }
    }
}

/// Makes the version of an inode that was saved over this one what opens see, unless somebody began to write already.
fn adopt(state: &mut State, version: Arc<Version>, node: &Node) {
    let handles = |version: &Version| version.body.lock().handles;
    if state.current.as_ref().is_some_and(|current| current.body.lock().pinned()) {
        state.stale += handles(&version);
        return;
    }
    if let Some(before) = state.current.take() {
        state.stale += handles(&before);
    }
    {
        let mut body = version.body.lock();
        if body.content == node.content {
            // The save is the version that the next edit settles.
            body.basis = node.basis.clone();
        }
    }
    state.current = Some(version);
}

/// Whether the operation failed because what it names is not shown.
pub(crate) fn is_missing(error: OpError) -> bool {
    matches!(error, OpError::NotFound)
}
