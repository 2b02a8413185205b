//! The envelope log of one share, and its snapshots.
//!
//! One append-only file. What a crash may lose: what was appended since the last [`Log::sync`].

use std::collections::BTreeMap;
use std::path::Path;

use crdtfs_core::id::ActorId;

use crate::error::StoreError;

/// One share's envelopes in the order in which they were accepted, which is causal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {}

/// One envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The author.
    pub actor: ActorId,
    /// Its place in the author's chain.
    pub seq: u64,
    /// The envelope.
    pub bytes: Vec<u8>,
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Envelopes that are there.
    pub entries: u64,
    /// Bytes of an unfinished append at the end, cut off; nothing that was synced.
    pub torn: u64,
    /// Places, as (offset, length), where durable bytes went bad; what was there has to come from other devices.
    pub damaged: Vec<(u64, u64)>,
}

impl Log {
    /// Opens the log in a directory of its own, or makes it.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), StoreError> {
        let _ = dir;
        unimplemented!()
    }

    /// Appends an envelope; durable after [`Log::sync`].
    pub fn append(&self, actor: &ActorId, seq: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = (actor, seq, bytes);
        unimplemented!()
    }

    /// Returns when all that was appended before the call is durable. Concurrent calls share one fsync.
    pub fn sync(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Calls `each` with every envelope from the `from`-th on (0: all), in append order, until it returns false.
    pub fn for_each(&self, from: u64, each: &mut dyn FnMut(LogEntry) -> bool) -> Result<(), StoreError> {
        let _ = (from, each);
        unimplemented!()
    }

    /// Number of envelopes.
    pub fn len(&self) -> u64 {
        unimplemented!()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last seq of each actor.
    pub fn vector(&self) -> BTreeMap<ActorId, u64> {
        unimplemented!()
    }

    /// One envelope.
    pub fn get(&self, actor: &ActorId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = (actor, seq);
        unimplemented!()
    }

    /// Envelopes with a seq above what `known` says of their actor, in append order, until their bytes reach
    /// `max_bytes` (at least one if there is one).
    pub fn read_after(&self, known: &BTreeMap<ActorId, u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError> {
        let _ = (known, max_bytes);
        unimplemented!()
    }

    /// Writes a snapshot (a cache: the document, the view) in place of the last one of this name, atomically, durably.
    pub fn write_snapshot(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = (name, bytes);
        unimplemented!()
    }

    /// The last snapshot of a name; one that is damaged is passed over with a warning in the log.
    pub fn read_snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = name;
        unimplemented!()
    }

    /// Verifies every stored byte; the findings, as sentences.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        unimplemented!()
    }
}
