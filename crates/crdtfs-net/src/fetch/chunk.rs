//! Chunks that are wanted now. One that several fetches of a share want is one chunk: it is asked for once, and given to all.

use std::collections::HashMap;
use std::time::Instant;

use crdtfs_core::id::{DeviceId, Hash, ShareId};

use super::request::{ChunkId, JobId, Urgency, Want};

/// What a chunk of unknown length counts as.
const GUESS: u64 = 256 << 10;

/// What makes two wants the same. An answer that fits one length does not fit another.
type Key = (ShareId, Hash, Option<u32>);

/// A job that wants a chunk.
pub(super) struct Taker {
    pub(super) job: JobId,
    /// Where the chunk stands in the job's list of wants; several places if it is wanted there more than once.
    indexes: Vec<u32>,
    /// It is in the job's queue.
    pub(super) listed: bool,
}

/// A chunk that has not been given to all that want it.
pub(super) struct Chunk {
    pub(super) share: ShareId,
    pub(super) want: Want,
    pub(super) takers: Vec<Taker>,
    /// Of the most urgent taker.
    pub(super) urgency: Urgency,
    /// It came, and is being given to its takers.
    pub(super) claimed: bool,
    pub(super) queued: bool,
    /// Flights that it is in.
    pub(super) flying: u8,
    /// Since when somebody wants it more urgently than the flight that it is in.
    pub(super) raised: Option<Instant>,
    /// Peers that said they lack it, with their generation at that time.
    pub(super) absent: Vec<(DeviceId, u64)>,
}

impl Chunk {
    pub(super) fn bytes(&self) -> u64 {
        self.want.len.map_or(GUESS, u64::from)
    }

    /// Notes one more place where a job wants it; true if it is the job's first.
    fn add(&mut self, job: JobId, index: u32) -> bool {
        // A job is the last one that was added until all its wants are.
        if let Some(taker) = self.takers.last_mut().filter(|taker| taker.job == job) {
            taker.indexes.push(index);
            return false;
        }
        self.takers.push(Taker { job, indexes: vec![index], listed: false });
        true
    }

    /// Notes whether it is in a job's queue; the value before.
    pub(super) fn list(&mut self, job: JobId, listed: bool) -> bool {
        let taker = self.takers.iter_mut().find(|taker| taker.job == job);
        taker.is_some_and(|taker| std::mem::replace(&mut taker.listed, listed))
    }

    /// The next place to give it to, of the most urgent taker.
    fn pop(&mut self, urgency: impl Fn(&JobId) -> Urgency) -> Option<(JobId, u32)> {
        let (at, _) = self.takers.iter().enumerate().min_by_key(|(_, taker)| urgency(&taker.job))?;
        let taker = &mut self.takers[at];
        let slot = taker.indexes.pop().map(|index| (taker.job, index));
        if taker.indexes.is_empty() {
            self.takers.swap_remove(at);
        }
        slot
    }
}

/// All chunks that are wanted now.
#[derive(Default)]
pub(super) struct Chunks {
    chunks: HashMap<ChunkId, Chunk>,
    ids: HashMap<Key, ChunkId>,
    last: u64,
}

impl Chunks {
    pub(super) fn get(&self, id: &ChunkId) -> Option<&Chunk> {
        self.chunks.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &ChunkId) -> Option<&mut Chunk> {
        self.chunks.get_mut(id)
    }

    /// Whether a job waits for a chunk.
    pub(super) fn is_wanted(&self, share: ShareId, want: &Want) -> bool {
        let id = self.ids.get(&(share, want.chunk.hash, want.len));
        id.and_then(|id| self.chunks.get(id)).is_some_and(|chunk| !chunk.takers.is_empty())
    }

    /// A job wants a chunk. Gives the chunk if this is the first time that the job does; a new one is queued.
    pub(super) fn want(
        &mut self,
        share: ShareId,
        want: Want,
        urgency: Urgency,
        (job, index): (JobId, u32),
    ) -> Option<(ChunkId, &mut Chunk)> {
        let last = &mut self.last;
        let id = *self.ids.entry((share, want.chunk.hash, want.len)).or_insert_with(|| {
            *last += 1;
            ChunkId::new(*last)
        });
        let chunk = self.chunks.entry(id).or_insert_with(|| Chunk {
            share,
            want,
            takers: Vec::new(),
            urgency,
            claimed: false,
            queued: true,
            flying: 0,
            raised: None,
            absent: Vec::new(),
        });
        chunk.add(job, index).then_some((id, chunk))
    }

    /// A job does not want a chunk any more. One that nobody wants is forgotten, but not before it has landed: somebody may
    /// want it again until then.
    pub(super) fn unwant(&mut self, id: ChunkId, job: JobId, urgency: impl Fn(&JobId) -> Urgency) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        chunk.takers.retain(|taker| taker.job != job);
        match chunk.takers.iter().map(|taker| urgency(&taker.job)).min() {
            Some(urgency) => chunk.urgency = urgency,
            None => chunk.urgency = Urgency::Background,
        }
        self.forget_unwanted(id);
    }

    /// A chunk is in one flight less.
    pub(super) fn unfly(&mut self, id: ChunkId) {
        if let Some(chunk) = self.chunks.get_mut(&id) {
            chunk.flying -= 1;
            self.forget_unwanted(id);
        }
    }

    fn forget_unwanted(&mut self, id: ChunkId) {
        let unwanted = |chunk: &Chunk| chunk.takers.is_empty() && !chunk.claimed && chunk.flying == 0;
        if self.chunks.get(&id).is_some_and(unwanted) {
            self.forget(id);
        }
    }

    /// The next place to give a claimed chunk to; `None` once all have it, and then it is forgotten.
    pub(super) fn next_taker(&mut self, id: ChunkId, urgency: impl Fn(&JobId) -> Urgency) -> Option<(JobId, u32)> {
        let slot = self.chunks.get_mut(&id)?.pop(urgency);
        if slot.is_none() {
            self.forget(id);
        }
        slot
    }

    fn forget(&mut self, id: ChunkId) {
        if let Some(chunk) = self.chunks.remove(&id) {
            self.ids.remove(&(chunk.share, chunk.want.chunk.hash, chunk.want.len));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}
