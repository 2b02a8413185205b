//! POSIX semantics over the ports of one share ([`crdtfs_core::port`]): inodes, handles, names, write buffering, and what
//! a cache has to forget when another device changed something. Knows nothing of FUSE and is tested without a mount.
//!
//! Promises: an operation on names or attributes is in the tree when the call returns, and durable after `fsync` of any
//! file or directory. Bytes are readable to everybody on this mount when `write` returns, published in the background
//! ([`Vfs::settle`] waits for it), durable after `fsync`; a crash loses what was written in the last seconds and was not
//! synced, and never leaves half of a state. A handle keeps the version that it opened, as changed through this mount,
//! whatever comes from elsewhere; its close is then a concurrent edit.

mod attr;
mod attrs;
mod coherence;
mod directory;
mod error;
mod file;
mod inodes;
mod list;
mod names;
mod note;
mod publish;
mod queue;
mod version;
mod vfs;

pub use attr::{Attr, Owners};
pub use attrs::{SetAttr, SetTime, Space, XattrMode};
pub use coherence::{Invalidate, Invalidation};
pub use error::{Error, Result};
pub use file::{OpenMode, Opened};
pub use inodes::ROOT;
pub use list::Listed;
pub use names::Make;
pub use vfs::{Vfs, VfsOptions};
