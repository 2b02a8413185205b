//! Inode numbers and what is known of the inodes that the kernel knows.
//!
//! A number is the first eight bytes of the [`InodeId`], so it is the same at every mount and a listing can give it
//! without keeping anything; if two known inodes would have one number, the later gets another for as long as it is known.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Node, Owner, Xattrs};
use crdtfs_core::op::Op;
use parking_lot::{Mutex, RwLock};

use crate::directory::Cookies;
use crate::version::Version;

/// Number of the root directory.
pub const ROOT: u64 = 1;

/// Attributes that wait to be published together with new bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<Owner>,
    pub(crate) xattrs: Option<Xattrs>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.mode.is_none() && self.owner.is_none() && self.xattrs.is_none()
    }

    /// What `newer` does not set stays.
    pub(crate) fn add(&mut self, newer: Self) {
        self.mode = newer.mode.or(self.mode);
        self.owner = newer.owner.or(self.owner);
        self.xattrs = newer.xattrs.or(self.xattrs.take());
    }

    pub(crate) fn put_into(self, node: &mut Node) {
        node.mode = self.mode.unwrap_or(node.mode);
        node.owner = self.owner.or(node.owner);
        if let Some(xattrs) = self.xattrs {
            node.xattrs = Arc::new(xattrs);
        }
    }

    pub(crate) fn into_op(self, inode: InodeId) -> Op {
        Op::SetAttr { inode, mode: self.mode, owner: self.owner, mtime: None, xattrs: self.xattrs }
    }
}

/// What changes about a known inode.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// What opens of now see; `None` while nobody has it open and nothing is unpublished.
    pub(crate) current: Option<Arc<Version>>,
    /// Open handles of earlier versions: while there are any, pages in the kernel's cache may be theirs.
    pub(crate) stale: u32,
    /// Among all open handles those that were opened under another inode, which was saved over this one: the kernel has
    /// pages of their own for them.
    pub(crate) foreign: u32,
    /// The inode that this one was saved over: it has all of this state since.
    pub(crate) merged: Option<InodeId>,
    /// All open handles.
    pub(crate) open: u32,
    /// The content that the kernel's cached pages are of, while `current` is `None`.
    pub(crate) cached: Option<ContentRef>,
    /// Whether the kernel's cached pages are of `current`.
    pub(crate) cached_current: bool,
    /// The node as it was last seen, for handles that outlive its last name.
    pub(crate) last: Option<Box<Node>>,
    /// Attributes not yet in the tree.
    pub(crate) pending: Option<Box<Pending>>,
    /// Where it was last looked up or made, of files with several names.
    pub(crate) via: Option<Box<(InodeId, Name)>>,
    /// Positions handed out for a directory.
    pub(crate) cookies: Option<Box<Cookies>>,
}

/// One known inode.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) ino: u64,
    pub(crate) id: InodeId,
    lookups: AtomicU64,
    /// Held while names are removed, and from the look at whether a version is dead to the end of its edit, so that no
    /// edit revives what was just removed. Taken before `state`.
    pub(crate) applying: Mutex<()>,
    /// Held for moments, operations of the tree among them: they change it together with the state.
    pub(crate) state: Mutex<State>,
}

/// Numbers are uniformly distributed already.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number ^ number.rotate_left(29);
    }
}

type Numbered = HashMap<u64, Arc<Inode>, BuildHasherDefault<NumberHasher>>;

#[derive(Debug, Default)]
struct Table {
    by_number: Numbered,
    /// Inodes whose own number was taken. Peers choose identifiers, so this may be provoked, but it harms nobody.
    displaced: HashMap<InodeId, u64>,
}

impl Table {
    fn find(&self, id: InodeId) -> Option<&Arc<Inode>> {
        match self.by_number.get(&number_of(id)) {
            Some(inode) if inode.id == id => Some(inode),
            _ if self.displaced.is_empty() => None,
            _ => self.by_number.get(self.displaced.get(&id)?),
        }
    }
}

/// All known inodes.
#[derive(Debug)]
pub(crate) struct Inodes(RwLock<Table>);

/// The number that an inode has unless it is taken.
fn number_of(id: InodeId) -> u64 {
    if id == InodeId::ROOT {
        return ROOT;
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.0[..8]);
    // 63 bits, and neither 0 (no inode) nor 1 (the root).
    (u64::from_le_bytes(bytes) & (u64::MAX >> 1)).max(2)
}

impl Inodes {
    pub(crate) fn new() -> Self {
        let inodes = Self(RwLock::default());
        inodes.intern(InodeId::ROOT, 1);
        inodes
    }

    /// The inode with a number.
    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        self.0.read().by_number.get(&ino).cloned()
    }

    /// The inode with an identity, if it is known.
    pub(crate) fn find(&self, id: InodeId) -> Option<Arc<Inode>> {
        self.0.read().find(id).cloned()
    }

    /// The number that an inode has, or would have.
    pub(crate) fn number(&self, id: InodeId) -> u64 {
        self.0.read().find(id).map_or_else(|| number_of(id), |inode| inode.ino)
    }

    /// The inode with an identity, known from now on, looked up `lookups` times more.
    pub(crate) fn intern(&self, id: InodeId, lookups: u64) -> Arc<Inode> {
        {
            let table = self.0.read();
            if let Some(inode) = table.find(id) {
                inode.lookups.fetch_add(lookups, Ordering::Relaxed);
                return inode.clone();
            }
        }
        let mut table = self.0.write();
        if let Some(inode) = table.find(id) {
            inode.lookups.fetch_add(lookups, Ordering::Relaxed);
            return inode.clone();
        }
        let mut ino = number_of(id);
        while table.by_number.contains_key(&ino) {
            ino = (ino + 1).max(2) & (u64::MAX >> 1);
        }
        if ino != number_of(id) {
            table.displaced.insert(id, ino);
        }
        let inode = Arc::new(Inode {
            ino,
            id,
            lookups: AtomicU64::new(lookups),
            applying: Mutex::default(),
            state: Mutex::default(),
        });
        table.by_number.insert(ino, inode.clone());
        inode
    }

    /// Takes back lookups; the inode is dropped when none is left and nothing holds it.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        let Some(inode) = self.get(ino) else { return };
        let before = inode.lookups.fetch_sub(lookups.min(inode.lookups.load(Ordering::Relaxed)), Ordering::Relaxed);
        if before <= lookups {
            self.sweep(&inode);
        }
    }

    /// Drops an inode that the kernel has forgotten, if it is neither open nor unpublished.
    pub(crate) fn sweep(&self, inode: &Arc<Inode>) {
        if inode.ino == ROOT || inode.lookups.load(Ordering::Relaxed) > 0 {
            return;
        }
        let mut table = self.0.write();
        let unused = {
            let state = inode.state.lock();
            state.open == 0 && state.current.is_none() && state.pending.is_none()
        };
        // Lookups are only added under the table's lock, so nobody can be about to use it.
        if unused && inode.lookups.load(Ordering::Relaxed) == 0 {
            if table.by_number.get(&inode.ino).is_some_and(|known| Arc::ptr_eq(known, inode)) {
                table.by_number.remove(&inode.ino);
            }
            if !table.displaced.is_empty() {
                table.displaced.remove(&inode.id);
            }
        }
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.0.read().by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8, last: u8) -> InodeId {
        let mut bytes = [first; 16];
        bytes[15] = last;
        InodeId(bytes)
    }

    #[test]
    fn an_inode_is_known_until_its_lookups_are_taken_back() {
        let inodes = Inodes::new();
        let inode = inodes.intern(id(7, 1), 1);
        assert_eq!(inodes.intern(id(7, 1), 1).ino, inode.ino);
        inodes.forget(inode.ino, 1);
        assert!(inodes.get(inode.ino).is_some());
        inodes.forget(inode.ino, 1);
        assert!(inodes.get(inode.ino).is_none());
        assert_eq!(inodes.number(id(7, 1)), inode.ino, "the number does not depend on being known");
    }

    #[test]
    fn inodes_of_one_number_are_told_apart() {
        let inodes = Inodes::new();
        let first = inodes.intern(id(7, 1), 1);
        let second = inodes.intern(id(7, 2), 1);
        assert_ne!(first.ino, second.ino);
        inodes.forget(first.ino, 1);
        assert_eq!(inodes.find(id(7, 2)).expect("known").ino, second.ino, "it keeps its number while it is known");
        inodes.forget(second.ino, 1);
        assert_eq!(inodes.number(id(7, 2)), first.ino);
    }

    #[test]
    fn the_root_stays() {
        let inodes = Inodes::new();
        inodes.forget(ROOT, 100);
        assert_eq!(inodes.get(ROOT).expect("the root").id, InodeId::ROOT);
    }
}
