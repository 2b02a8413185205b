//! What a cache of names, attributes and pages (the kernel's) has to forget.
//!
//! Whoever makes an operation knows what it named; everything else that it changed in the view, and everything that comes
//! from other devices, is told to the [`Invalidate`] sink: what changed, and nothing more.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Delta;
use parking_lot::{Condvar, Mutex};

use crate::vfs::Vfs;

/// Something that is no longer as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// What a name in a directory stands for, or that it stands for nothing.
    Name {
        /// The directory.
        dir: u64,
        /// The name.
        name: Name,
    },
    /// A node's attributes and, with `data`, its pages (of a directory: its listing).
    Inode {
        /// The node.
        ino: u64,
        /// The pages too.
        data: bool,
    },
    /// A part of a file's pages, for they are needed no longer: they were not wrong.
    Pages {
        /// The file.
        ino: u64,
        /// Offset of the first byte.
        from: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// Where invalidations go. Called from any thread, also while an operation is under way: it must return at once and do
/// its work on a thread that serves no requests.
pub trait Invalidate: Send + Sync + 'static {
    /// Takes invalidations, in order.
    fn invalidate(&self, what: Vec<Invalidation>);

    /// Blocks until all that was given before the call is forgotten; gives up at `deadline`. True if it is so.
    fn forgotten(&self, deadline: Instant) -> bool;
}

/// How many deltas were handled.
#[derive(Default)]
pub(crate) struct Heard {
    count: Mutex<u64>,
    more: Condvar,
    /// Held while one is handled.
    turn: Mutex<()>,
}

impl Heard {
    fn one_more(&self) {
        *self.count.lock() += 1;
        self.more.notify_all();
    }

    fn wait(&self, count: u64, deadline: Instant) -> bool {
        let mut heard = self.count.lock();
        while *heard < count && !self.more.wait_until(&mut heard, deadline).timed_out() {}
        *heard >= count
    }
}

impl Vfs {
    /// Passes on what other devices change. It ends with the tree, or at the first change after the filesystem has stopped:
    /// a channel cannot be waited for together with anything else, and a look now and then would never be idle.
    pub(crate) fn listen(vfs: &Weak<Self>, deltas: &Receiver<Arc<Delta>>) {
        while let Ok(delta) = deltas.recv() {
            let Some(vfs) = vfs.upgrade() else { return };
            let _turn = vfs.heard.turn.lock();
            if vfs.stopping.load(Ordering::SeqCst) {
                return;
            }
            vfs.remote_change(&delta);
            vfs.heard.one_more();
        }
    }

    /// Returns when nothing is passed on any more, once the filesystem is stopping.
    pub(crate) fn end_listening(&self) {
        drop(self.heard.turn.lock());
    }

    /// Blocks until nothing older than what the tree now shows is in any cache; gives up at `deadline`. True if it is so.
    pub fn is_seen(&self, deadline: Instant) -> bool {
        let Some(sink) = self.sink.get() else { return true };
        self.heard.wait(self.tree.sent(self.adapter), deadline) && sink.forgotten(deadline)
    }

    fn remote_change(&self, delta: &Delta) {
        for change in &delta.entries {
            if self.inodes.find(change.dir).is_some() {
                self.times.entries_changed(change.dir);
            }
        }
        for change in &delta.nodes {
            if change.gone && self.inodes.find(change.inode).is_none_or(|inode| inode.state.lock().open == 0) {
                self.times.forget(change.inode);
            } else if self.inodes.find(change.inode).is_some() {
                self.times.changed(change.inode);
            }
        }
        self.side_effects(delta, &[], &[]);
    }

    /// Tells of all changes but those to names and nodes that the caller itself named.
    pub(crate) fn side_effects(&self, delta: &Delta, names: &[(InodeId, &Name)], nodes: &[InodeId]) {
        let Some(sink) = self.sink.get() else { return };
        let mut what = Vec::new();
        let mut listed = None;
        for change in &delta.entries {
            if names.iter().any(|(dir, name)| *dir == change.dir && **name == change.name) {
                continue;
            }
            let Some(dir) = self.inodes.find(change.dir) else { continue };
            if listed != Some(dir.ino) {
                // A name that is new to a cache says nothing about the listing: that goes by the directory.
                what.push(Invalidation::Inode { ino: dir.ino, data: true });
                listed = Some(dir.ino);
            }
            what.push(Invalidation::Name { dir: dir.ino, name: change.name.clone() });
        }
        for change in &delta.nodes {
            if nodes.contains(&change.inode) {
                continue;
            }
            let Some(inode) = self.inodes.find(change.inode) else { continue };
            // Handles that write keep their bytes, and so do the pages.
            let pinned = {
                let state = inode.state.lock();
                state.current.as_ref().is_some_and(|version| version.body.lock().pinned())
            };
            what.push(Invalidation::Inode { ino: inode.ino, data: change.content && !pinned });
        }
        if !what.is_empty() {
            sink.invalidate(what);
        }
    }

    pub(crate) fn invalidate_name(&self, dir: InodeId, name: &Name) {
        if let (Some(sink), Some(dir)) = (self.sink.get(), self.inodes.find(dir)) {
            sink.invalidate(vec![
                Invalidation::Inode { ino: dir.ino, data: true },
                Invalidation::Name { dir: dir.ino, name: name.clone() },
            ]);
        }
    }

    pub(crate) fn invalidate_inode(&self, inode: InodeId, data: bool) {
        if let (Some(sink), Some(inode)) = (self.sink.get(), self.inodes.find(inode)) {
            sink.invalidate(vec![Invalidation::Inode { ino: inode.ino, data }]);
        }
    }
}
