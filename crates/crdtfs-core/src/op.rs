//! Operations: what a user did on this device, before it is put into records.

use thiserror::Error;

use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId};
use crate::name::Name;
use crate::node::{Basis, Delta, Kind, Owner, Time, Xattrs};

/// What a rename does with the name that it moves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there, as `rename(2)`.
    Replace,
    /// Fails if something is there (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swaps the two entries (`RENAME_EXCHANGE`).
    Exchange,
    /// Fails if anything but this node is there, which the author had not seen: both are entries of one name then, as if their
    /// authors had been apart.
    Beside(InodeId),
}

/// The attributes of a node at its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits (`07777`).
    pub mode: u32,
    /// Owner, if it is to be kept.
    pub owner: Option<Owner>,
    /// Last modification.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Bytes of a file; empty for everything else.
    pub content: ContentRef,
    /// Target of a symlink; empty for everything else.
    pub target: Vec<u8>,
    /// Device number of a device node; 0 for everything else.
    pub rdev: u64,
}

impl NewNode {
    /// A node of that kind with these permission bits and nothing else: no owner, the epoch's time, no bytes, no target.
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            owner: None,
            mtime: Time::default(),
            xattrs: Xattrs::new(),
            content: ContentRef::empty(),
            target: Vec::new(),
            rdev: 0,
        }
    }
}

/// One operation of a user on the view of this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new node under a name that is free, or that `beside` has. `inode` and `place` are fresh and random.
    Create {
        /// The directory.
        dir: InodeId,
        /// The name.
        name: Name,
        /// Identity of the new node.
        inode: InodeId,
        /// Identity of its name.
        place: PlaceId,
        /// What it is.
        node: NewNode,
        /// The node that has the name and that the author had not seen there: both are entries of one name then, as if their
        /// authors had been apart. `None`: the name has to be free.
        beside: Option<InodeId>,
    },
    /// New bytes for a file. Its mtime is set with them.
    Edit {
        /// The file.
        inode: InodeId,
        /// The name it was opened by, if it still has it (`None`: any).
        via: Option<(InodeId, Name)>,
        /// The versions that the author saw ([`crate::node::Node::basis`] at open); `None`: what is shown now. With it a file
        /// can be edited that was removed since, and comes back by that.
        basis: Option<Basis>,
        /// The new bytes.
        content: ContentRef,
        /// Their modification time.
        mtime: Time,
    },
    /// New attributes; what is `None` stays.
    SetAttr {
        /// The node.
        inode: InodeId,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        owner: Option<Owner>,
        /// Modification time.
        mtime: Option<Time>,
        /// All extended attributes (replaces the map).
        xattrs: Option<Xattrs>,
    },
    /// Moves the entry `(from_dir, from)` to `(to_dir, to)`.
    Rename {
        /// Directory of the entry.
        from_dir: InodeId,
        /// Name of the entry.
        from: Name,
        /// Directory it goes to.
        to_dir: InodeId,
        /// Name it gets.
        to: Name,
        /// What becomes of an entry already there.
        mode: RenameMode,
    },
    /// One more name for a node that is no directory. `place` is fresh and random.
    Link {
        /// The node.
        inode: InodeId,
        /// Directory of the new name.
        dir: InodeId,
        /// The new name, free in the view.
        name: Name,
        /// Identity of the new name.
        place: PlaceId,
    },
    /// Removes one name of a node that is no directory.
    Unlink {
        /// The directory.
        dir: InodeId,
        /// The name.
        name: Name,
    },
    /// Removes an empty directory.
    Rmdir {
        /// The directory above.
        dir: InodeId,
        /// The name.
        name: Name,
    },
}

/// Why an operation cannot be done on this view. Each has its POSIX errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpError {
    /// No such entry or node (`ENOENT`).
    #[error("no such entry")]
    NotFound,
    /// The name is taken (`EEXIST`).
    #[error("the name is taken")]
    Exists,
    /// A directory was needed (`ENOTDIR`).
    #[error("not a directory")]
    NotDir,
    /// A directory cannot be used here (`EISDIR`).
    #[error("is a directory")]
    IsDir,
    /// The directory has entries (`ENOTEMPTY`).
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory cannot go below itself, or the node cannot have this done to it (`EINVAL`).
    #[error("cannot be done to this entry")]
    Invalid,
    /// Nobody may do this: the root, or a hard link of a directory (`EPERM`).
    #[error("not permitted")]
    NotPermitted,
    /// This device may not write to the share (`EROFS`).
    #[error("the share is read-only for this device")]
    ReadOnly,
    /// The disk of this device has no room to write the operation down (`ENOSPC`).
    #[error("no space left on the disk of the state directory")]
    NoSpace,
    /// A value is over its limit (`E2BIG`, `ENAMETOOLONG`).
    #[error("over a limit of the share")]
    TooLarge,
}

/// What an accepted operation did to the view of this device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// All that changed, what the operation named included.
    pub delta: Delta,
}
