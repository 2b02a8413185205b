//! What `stat` tells, and the times that only this mount knows.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crdtfs_core::id::InodeId;
use crdtfs_core::node::{Kind, Node, Owner, Time};
use parking_lot::Mutex;

/// Who owns what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Everything belongs to this user and group; no owner is recorded.
    Fixed(Owner),
    /// The recorded owners; this one where none is recorded.
    Keep(Owner),
}

impl Owners {
    /// The owner to show for a recorded one.
    pub(crate) fn shown(self, recorded: Option<Owner>) -> Owner {
        match self {
            Self::Fixed(owner) => owner,
            Self::Keep(fallback) => recorded.unwrap_or(fallback),
        }
    }
}

/// Attributes of a node as `stat(2)` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number, stable while the inode is known.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (`07777`).
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub owner: Owner,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes (of a symlink: its target's).
    pub size: u64,
    /// Bytes of disk that it takes: fewer than its length if it has holes.
    pub allocated: u64,
    /// Last access, as set by `utimensat`, else the last modification: reading does not move it.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of anything, as far as this mount saw it.
    pub ctime: Time,
}

/// The time now.
pub(crate) fn now() -> Time {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let (secs, nanos) = (before.as_secs() as i64, before.subsec_nanos());
            if nanos == 0 {
                Time { secs: -secs, nanos }
            } else {
                Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos }
            }
        }
    }
}

/// Times of one inode that no record carries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Set by `utimensat`.
    pub(crate) atime: Option<Time>,
    /// Last change that did not move the modification time.
    pub(crate) ctime: Option<Time>,
    /// Of directories: when entries last came or went.
    pub(crate) mtime: Option<Time>,
    /// Of the root, which no record speaks of: its permission bits.
    pub(crate) mode: Option<u32>,
}

/// The times that this mount saw or was told, for as long as it is mounted. Lost at unmount: they fall back to what the
/// records say.
#[derive(Debug, Default)]
pub(crate) struct LocalTimes(Mutex<HashMap<InodeId, Times>>);

impl LocalTimes {
    /// Changes the times of an inode.
    pub(crate) fn update(&self, inode: InodeId, change: impl FnOnce(&mut Times)) {
        change(self.0.lock().entry(inode).or_default());
    }

    /// The inode's attributes or names changed now.
    pub(crate) fn changed(&self, inode: InodeId) {
        self.update(inode, |times| times.ctime = Some(now()));
    }

    /// Entries of the directory changed now.
    pub(crate) fn entries_changed(&self, dir: InodeId) {
        let now = now();
        self.update(dir, |times| (times.mtime, times.ctime) = (Some(now), Some(now)));
    }

    /// The inode is gone for good.
    pub(crate) fn forget(&self, inode: InodeId) {
        self.0.lock().remove(&inode);
    }

    fn get(&self, inode: InodeId) -> Times {
        self.0.lock().get(&inode).copied().unwrap_or_default()
    }

    /// The attributes of a node under an inode number.
    pub(crate) fn attr(&self, ino: u64, id: InodeId, node: &Node, owners: Owners) -> Attr {
        let times = self.get(id);
        let mtime = if node.kind == Kind::Dir { times.mtime.unwrap_or(node.mtime) } else { node.mtime };
        let size = match node.kind {
            Kind::File => node.content.size,
            Kind::Symlink => node.target.len() as u64,
            _ => 0,
        };
        Attr {
            ino,
            kind: node.kind,
            mode: times.mode.unwrap_or(node.mode),
            nlink: node.nlink,
            owner: owners.shown(node.owner),
            rdev: node.rdev,
            size,
            allocated: size,
            atime: times.atime.unwrap_or(mtime),
            mtime,
            ctime: times.ctime.map_or(mtime, |ctime| ctime.max(mtime.min(now()))),
        }
    }
}
