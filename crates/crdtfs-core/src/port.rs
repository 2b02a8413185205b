//! The ports through which an adapter (a mount, a watched folder) sees one share.
//!
//! The engine implements them over the replica and the store; tests implement them over memory. Calls may block: on a
//! lock for microseconds, on [`Content`] for as long as a fetch takes. None may be called on an async runtime's thread.

use std::any::Any;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::content::ContentRef;
use crate::id::InodeId;
use crate::name::Name;
use crate::node::{Delta, Entry, Node};
use crate::op::{Applied, Op, OpError};

/// Bytes on the state directory's disk that are kept free for the log, the index and snapshots, by who takes what is fetched and
/// by who takes what is written: with less even old versions could not be dropped.
pub const RESERVE: u64 = 4 << 20;

/// Who makes an operation or listens: one adapter of one share. Its own operations are not echoed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Adapter(pub u32);

/// The tree of one share.
pub trait Tree: Send + Sync + 'static {
    /// A node, if it is shown.
    fn node(&self, inode: InodeId) -> Option<Node>;

    /// The node that a name in a directory stands for.
    fn child(&self, dir: InodeId, name: &Name) -> Option<Node>;

    /// At most `limit` entries of a directory in the order of their names' bytes, from the first name after `after`.
    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry>;

    /// The shown names of a node: (directory, name), in order. For the root none.
    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)>;

    /// Does an operation at once in memory; it is committed and sent within 50 ms, and durable after [`Tree::sync`].
    /// `by` does not get the returned delta again from its subscription.
    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError>;

    /// Waits until what a file shows is merged, if the bytes for that are on their way: who reads it has all of it before their
    /// eyes, and not one version alone. Returns at the latest after `patience`, and at once where nothing is merged, or bytes
    /// were asked for or waited for in vain. Trees that have all bytes do not wait.
    fn await_merge(&self, _inode: InodeId, _patience: Duration) {}

    /// Says that somebody still has a node open that was removed just now: a file that takes its name is another one, and no
    /// save of it by removal and creation.
    fn keep_apart(&self, inode: InodeId);

    /// A fresh random 128-bit identifier for a new inode or place.
    fn fresh_id(&self) -> [u8; 16];

    /// Returns when every operation applied before the call is durable on this device.
    fn sync(&self) -> io::Result<()>;

    /// Subscribes: every later change of the view that `by` did not make itself, in order. The channel is unbounded in
    /// items but each is one change batch; a subscriber that went away is dropped.
    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>>;

    /// How many deltas its subscription has been sent until now: who has handled as many has heard of all that the view shows.
    /// Trees whose subscribers do not ask need not count.
    fn sent(&self, _by: Adapter) -> u64 {
        0
    }

    /// Bytes that the share's contents take in the view, and the number of nodes, for `statfs`.
    fn totals(&self) -> (u64, u64);

    /// Whether this device may write to the share.
    fn writable(&self) -> bool;
}

/// Reads one content at any place.
pub trait Reader: Send + Sync {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`, short only at the end; verified bytes only. Blocks while chunks are fetched.
    /// Errors: `TimedOut` or `HostUnreachable` if nobody reachable has them (the mount's EIO).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The next data (`true`) or hole (`false`) at or after `offset`, as `lseek` finds it; `None` past the end. What is not here
    /// counts as data.
    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        let size = self.size();
        Ok((offset < size).then_some(if data { offset } else { size }))
    }

    /// The file that holds exactly these bytes, verified, if there is one (for kernel passthrough).
    fn backing(&self) -> Option<Arc<File>> {
        None
    }
}

/// A file being written, in the state directory, on the store's filesystem. Plain file semantics; `File` is positioned
/// nowhere in particular: use `read_at` and `write_at`.
pub trait WriteFile: Any + Send + Sync {
    /// Length in bytes now.
    fn size(&self) -> u64;
    /// As `pread`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `pwrite`, extending if need be.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// As `ftruncate`.
    fn set_len(&self, size: u64) -> io::Result<()>;
    /// As `fallocate`, `mode` being Linux's flags; `Unsupported` where it cannot.
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> io::Result<()>;
    /// The next data (`true`) or hole (`false`) at or after `offset`, as `lseek` finds it; `None` past the end.
    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>>;
    /// As `fdatasync`: what was written survives a crash, together with `note`, which [`Content::recover`] gives back.
    fn sync(&self, note: &[u8]) -> io::Result<()>;
    /// The file behind, where one plain file has all the bytes (no overlay).
    fn backing(&self) -> Option<Arc<File>>;
}

/// A write file of an earlier run, with its last note.
pub type RecoveredFile = (Vec<u8>, Arc<dyn WriteFile>);

/// While it is there, what was put since it was made is kept, though no version is of it yet ([`Content::hold`]).
#[derive(Clone, Default)]
pub struct Hold(#[expect(dead_code, reason = "it only has to be there")] Option<Arc<dyn Any + Send + Sync>>);

impl Hold {
    /// Holds until the last clone is dropped, and `lease` with it.
    pub fn new(lease: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(lease)))
    }
}

/// All are alike: what has one is compared by the rest of it.
impl PartialEq for Hold {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hold {}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hold")
    }
}

/// The bytes of one share.
pub trait Content: Send + Sync + 'static {
    /// Has what is put and sealed from now on be kept until the value is dropped. To be held until an operation names it:
    /// what nothing names may be collected at any time.
    fn hold(&self) -> Hold {
        Hold::default()
    }

    /// Opens a content; returns at once, reads may block.
    fn open(&self, content: &ContentRef) -> io::Result<Arc<dyn Reader>>;

    /// Whether all bytes are on this device.
    fn is_local(&self, content: &ContentRef) -> bool;

    /// Bytes of disk that a content takes in a file of its own, without its holes; `None` if it has none here.
    fn allocated(&self, _content: &ContentRef) -> Option<u64> {
        None
    }

    /// A write file that starts with the bytes of `base` (nothing: empty), copied lazily or cloned.
    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>>;

    /// Hashes, chunks and keeps what is in the write file now; the file may be written on afterwards (its later state is
    /// sealed by a later call). The content is served to others from its return on, and durable after [`Tree::sync`].
    ///
    /// `go_on` is asked once the state that is sealed is fixed, and again and again while that takes long: `None` if it said no.
    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>>;

    /// Keeps bytes that are in memory (small files, merged texts).
    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef>;

    /// Something did not fit: gives room back that is only taken by what the user can do without (old versions). True if there is
    /// more than before, so that it is worth another try. May take a while.
    fn make_room(&self) -> bool {
        false
    }

    /// Ends a write file: its bytes stay only as far as they were sealed. Dropping one does the same, but that what was
    /// synced and not sealed since is given back by [`Content::recover`] at the next start.
    fn discard(&self, file: Arc<dyn WriteFile>);

    /// Leaves a write file to who calls [`Content::recover`] next, in this life or the next: it is synced with `note`. After an
    /// error it is as it was.
    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()>;

    /// Write files that were left, or synced but not sealed when the engine ended, each with its last note; each is given once.
    fn recover(&self) -> io::Result<Vec<RecoveredFile>>;
}

/// A watched folder's side of the store: contents that lie in its files.
pub trait FolderContent: Content {
    /// Says that the file of `key`, opened as `file`, holds a content: hashes and chunks it in place, no copy is made. The
    /// caller checks that the file did not change meanwhile, and calls [`FolderContent::forget_file`] when it does. `like` is
    /// what it or the file before it held: an edit of a large file is found sooner, and others are sent what differs.
    fn index_file(&self, key: InodeId, file: &File, like: Option<&ContentRef>) -> io::Result<ContentRef>;

    /// Keeps the bytes of a content without its file: `file`, which holds exactly it, is about to be removed or replaced by
    /// somebody else's change, and nobody writes to it. What only this file has is kept; what the file of `instead`, which
    /// takes its place, has as well is not. Errors: `InvalidData` if the file holds something else.
    fn keep_file(&self, content: &ContentRef, file: &File, instead: Option<InodeId>) -> io::Result<()>;

    /// The file of `key` no longer holds what was indexed. Contents of at most 1 MiB outlive it: a merge may need them.
    fn forget_file(&self, key: InodeId) -> io::Result<()>;

    /// Fetches a content into `file` (empty, open for writing): written at its offsets as chunks arrive, verified, all
    /// there at return, then served from there as the file of `key`. Chunks that this device has are not fetched.
    fn fetch_into(&self, key: InodeId, content: &ContentRef, file: &File) -> io::Result<()>;

    /// Fetches many small contents at once; the same promise for each.
    fn fetch_many(&self, wanted: &[(InodeId, ContentRef, &File)]) -> Vec<io::Result<()>>;

    /// Sets who opens the file of a key for reading chunks back.
    fn set_opener(&self, opener: Arc<dyn FileOpener>);
}

/// Opens files of a watched folder by the inode they show.
pub trait FileOpener: Send + Sync {
    /// The file, open for reading, without following links; `NotFound` if it is not there.
    fn open(&self, key: InodeId) -> io::Result<File>;
}
