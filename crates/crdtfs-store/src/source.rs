//! Where chunks come from that are not on this device.

use std::io;
use std::sync::Arc;

use crdtfs_core::content::{ChunkRef, ContentRef};

use crate::space::Space;

/// One chunk that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub chunk: ChunkRef,
    /// Its length in bytes; 0 where it is not known (a node of a manifest, at most 64 KiB).
    pub len: u32,
    /// A chunk that is here and probably like it: what differs is all that has to come.
    pub base: Option<ChunkRef>,
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

    /// Other versions of the file that a content is of: what is here of them may be like what is wanted. The likeliest first.
    fn other_versions(&self, _content: &ContentRef) -> Vec<ContentRef> {
        Vec::new()
    }

    /// The store's disk, if what is fetched is to leave its reserve alone.
    fn space(&self) -> Option<&Arc<Space>> {
        None
    }
}

/// Takes what arrives.
pub trait ChunkSink: Send + Sync {
    /// Takes the chunk `want[index]`. Called from any thread, in any order, each index at most once; the source has
    /// verified the bytes, the store does so again.
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()>;
}
