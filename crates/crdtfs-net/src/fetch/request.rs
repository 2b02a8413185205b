//! What is wanted, what is asked of whom, and what became of it.

use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::wire::CHUNK_MAX;

/// A chunk that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub chunk: ChunkRef,
    /// Its length in bytes, where known: an answer of another length is a lie.
    pub len: Option<u32>,
    /// A chunk that is here and probably like it: a peer that has that, too, sends only what differs.
    pub base: Option<ChunkRef>,
}

impl Want {
    /// Whether an answer of this length can be the chunk.
    pub(super) fn plausible(&self, len: usize) -> bool {
        self.len.map_or(len <= CHUNK_MAX, |wanted| wanted as usize == len)
    }
}

/// How urgent a fetch is: all chunks of a more urgent one are asked for first, and answered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody waits in a read.
    Waiting,
    /// It will be read soon (read-ahead), or everything hangs on it (manifests).
    Soon,
    /// It is to be here one day.
    Background,
}

/// One call of `fetch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(u64);

impl JobId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// One request to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlightId(u64);

impl FlightId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }

    /// The flight's number, unique in this run of the program.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// One sync session of a share with a peer, over one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(u64);

impl SessionId {
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// One chunk that is wanted, by however many jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkId(u64);

impl ChunkId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// A place in a job's list of wants.
pub(crate) type Slot = (JobId, u32);

/// A request that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) flight: FlightId,
    pub(crate) device: DeviceId,
    pub(crate) share: ShareId,
    pub(crate) urgency: Urgency,
    pub(crate) wants: Vec<Want>,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// All was answered.
    Complete,
    /// The stream broke, or the peer refused.
    Broken,
    /// The connection broke, or there was none any more.
    Gone,
    /// Nothing came for too long.
    Stalled,
    /// The peer sent wrong bytes.
    Lied,
    /// It was ended because nobody needed it any more.
    Needless,
}

/// Jobs and flights that ended by what was just said, for the caller to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Jobs that have all their chunks.
    pub(crate) done: Vec<JobId>,
    /// Flights whose answers nobody needs any more.
    pub(crate) needless: Vec<FlightId>,
}
