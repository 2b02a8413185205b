//! Where chunks come from that are not on this device.

use std::io;

use crdtfs_core::id::Hash;

/// One chunk that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Want {
    /// Its blake3.
    pub hash: Hash,
    /// Its length in bytes; 0 where it is not known (a node of a manifest, at most 64 KiB).
    pub len: u32,
}

/// How soon chunks are needed: earlier variants come before later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits in a read.
    Read,
    /// A merge cannot be shown without them.
    Merge,
    /// A folder is being brought to the state of the view.
    Apply,
    /// Nobody waits.
    Prefetch,
}

/// Fetches chunks. The engine implements it over the network.
pub trait ChunkSource: Send + Sync + 'static {
    /// Fetches `want`, handing each chunk to `sink` as it arrives; blocks until all were handed over, or nobody reachable
    /// has those that are left (`HostUnreachable`), or time is up (`TimedOut`). An error of the sink ends the fetch and is
    /// returned.
    fn fetch(&self, want: &[Want], urgency: Urgency, sink: &dyn ChunkSink) -> io::Result<()>;
}

/// Takes what arrives.
pub trait ChunkSink: Send + Sync {
    /// Takes the chunk `want[index]`. Called from any thread, in any order, each index at most once; the source has
    /// verified the bytes, the store does so again.
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()>;
}
