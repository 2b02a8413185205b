//! Shows a share as a FUSE filesystem: calls of the kernel in, replies out. The meaning is [`crdtfs_vfs`]'s.
//!
//! Threads: as many session threads as processors, which never wait for anything but the tree; a pool that waits for fetches
//! and one that waits for the disk; two that tell the kernel what to forget; those of the filesystem. [`MountPresenter`] starts
//! them, and stopping the mount joins them.
//!
//! Not used: kernel passthrough for files that are only read. While one handle of an inode passes through, the kernel
//! refuses every other open of it that does not pass through to the same file, so a writer would be refused too.

mod busy;
mod convert;
mod errno;
mod mountpoint;
mod notify;
mod pool;
mod present;
mod request;

pub use present::MountPresenter;
