//! What the view shows: nodes, entries, and what changed between two states of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::content::ContentRef;
use crate::id::{InodeId, RecordId};
use crate::name::Name;

/// What kind of node an inode is; fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Kind {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Dir,
    /// A symbolic link.
    #[n(2)]
    Symlink,
    /// A named pipe.
    #[n(3)]
    Fifo,
    /// A Unix socket's name.
    #[n(4)]
    Socket,
    /// A character device.
    #[n(5)]
    CharDevice,
    /// A block device.
    #[n(6)]
    BlockDevice,
}

/// A point in time: nanoseconds count forward from `secs`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Time {
    /// Seconds since the Unix epoch, negative before it.
    #[n(0)]
    pub secs: i64,
    /// 0 to 999,999,999.
    #[n(1)]
    pub nanos: u32,
}

/// Numeric owner and group as the author's system had them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Owner {
    /// User id.
    #[n(0)]
    pub uid: u32,
    /// Group id.
    #[n(1)]
    pub gid: u32,
}

/// Extended attributes: name to value.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The versions that an author had before its eyes: the content records that an edit of what is shown settles.
pub type Basis = Arc<[RecordId]>;

/// How a shown node came to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// As its author left it, or as a clean merge.
    Plain,
    /// A conflict copy: computed by the view, an ordinary inode once a user works on it.
    ConflictCopy,
    /// Stands for versions whose merge needs bytes that this device does not have yet.
    Pending,
}

/// One node of the view with all that `stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its identity: the same for all its names, on all devices.
    pub inode: InodeId,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (`07777`).
    pub mode: u32,
    /// Owner, where its author's system had one worth keeping.
    pub owner: Option<Owner>,
    /// Last modification. Directories have the time of their creation here; mounts keep their own.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Arc<Xattrs>,
    /// The bytes, of files only (empty otherwise).
    pub content: ContentRef,
    /// The target, of symlinks only (empty otherwise).
    pub target: Arc<[u8]>,
    /// Device number, of device nodes only.
    pub rdev: u64,
    /// Number of shown names; for directories 2 plus the number of shown subdirectories.
    pub nlink: u32,
    /// The versions that this state of the bytes stands for; goes into [`crate::op::Op::Edit`].
    pub basis: Basis,
    /// Whether this is as written, a conflict copy, or pending.
    pub shown: Shown,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as shown.
    pub name: Name,
    /// The node that it names.
    pub inode: InodeId,
    /// The node's kind.
    pub kind: Kind,
}

/// One name whose meaning changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// The directory.
    pub dir: InodeId,
    /// The name.
    pub name: Name,
    /// What it named; `None` if it is new.
    pub before: Option<InodeId>,
    /// What it names; `None` if it is gone.
    pub after: Option<InodeId>,
}

/// One node that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// The node.
    pub inode: InodeId,
    /// Mode, owner, times, xattrs, target, link count or size changed.
    pub attrs: bool,
    /// The bytes changed.
    pub content: bool,
    /// The node is shown nowhere any more.
    pub gone: bool,
}

/// What differs between two states of a view. A rename is two entry changes with one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Names, in order of (directory, name); each at most once.
    pub entries: Vec<EntryChange>,
    /// Nodes, in order of inode; each at most once.
    pub nodes: Vec<NodeChange>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.nodes.is_empty()
    }
}
