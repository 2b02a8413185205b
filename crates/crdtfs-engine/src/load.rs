//! Bringing a replica back from a share's directory: snapshot, log, members.

use std::collections::VecDeque;

use crdtfs_core::id::{ActorId, Incarnation, ShareId};
use crdtfs_core::key::Key;
use crdtfs_core::replica::{Envelopes, LoadError, Replica};
use crdtfs_core::snapshot::{self, Snapshot};
use crdtfs_core::sync::Numbered;
use crdtfs_core::vector::Vector;
use crdtfs_store::{Log, LogEntry, StoreError};

use crate::registry::ShareDir;
use crate::share::ShareError;

/// The snapshot's name in the log's directory.
const SNAPSHOT: &str = "document";

/// Bytes of envelopes that are read at a time.
const PORTION: usize = 4 << 20;

/// A log as the replica reads it back, with what could not be written to it yet.
pub(crate) struct LogEnvelopes<'a> {
    pub(crate) log: &'a Log,
    pub(crate) unlogged: &'a VecDeque<Numbered>,
}

impl Envelopes for LogEnvelopes<'_> {
    fn envelope(&self, actor: &ActorId, seq: u64) -> Option<Vec<u8>> {
        let waiting = self.unlogged.iter().find(|envelope| envelope.actor == *actor && envelope.tip.seq == seq);
        if let Some(envelope) = waiting {
            return Some(envelope.bytes.clone());
        }
        match self.log.get(actor, seq) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%actor, seq, %error, "cannot read an envelope back");
                None
            }
        }
    }
}

/// The replica, and how many envelopes of the log do not fit.
pub(crate) fn replica(
    id: &ShareId,
    dir: &ShareDir,
    log: &Log,
    key: Key,
    incarnation: Incarnation,
) -> Result<(Replica, usize), ShareError> {
    let genesis = dir.genesis()?;
    let membership = dir.membership()?;
    let damaged = |error: LoadError| ShareError::Damaged { share: *id, reason: error.to_string() };
    let snapshot = read_snapshot(id, log)?;
    let load = |snapshot: Option<(&[u8], &Vector)>| {
        let known = snapshot.map(|(_, vector)| vector.clone()).unwrap_or_default();
        let mut failed = None;
        let entries = Entries::new(log, known, &mut failed);
        let bytes = snapshot.map(|(bytes, _)| bytes);
        let kept = LogEnvelopes { log, unlogged: &VecDeque::new() };
        let loaded = Replica::load(key.clone(), incarnation, &genesis, &membership, bytes, entries, &kept);
        match failed {
            Some(error) => Err(ShareError::Store(error)),
            None => loaded.map_err(damaged),
        }
    };
    let loaded = match &snapshot {
        Some((bytes, vector)) => match load(Some((bytes, vector))) {
            Err(ShareError::Damaged { reason, .. }) => {
                tracing::warn!(share = %id, reason, "the snapshot is of no use: reading the whole log");
                load(None)
            }
            loaded => loaded,
        },
        None => load(None),
    }?;
    let dropped: Vec<_> = loaded.dropped.iter().map(|(actor, tip)| (*actor, tip.seq)).collect();
    log.forget(&dropped);
    Ok((loaded.replica, loaded.unfit))
}

fn read_snapshot(id: &ShareId, log: &Log) -> Result<Option<(Vec<u8>, Vector)>, StoreError> {
    let Some(bytes) = log.read_snapshot(SNAPSHOT)? else { return Ok(None) };
    match Snapshot::decode(id, &bytes) {
        Ok(snapshot) => {
            let vector = snapshot.vector().clone();
            Ok(Some((bytes, vector)))
        }
        Err(error) => {
            tracing::warn!(share = %id, %error, "the snapshot does not read: reading the whole log");
            Ok(None)
        }
    }
}

/// How many envelopes the snapshot does not have.
pub(crate) fn since_snapshot(id: &ShareId, log: &Log) -> u64 {
    let known = match read_snapshot(id, log) {
        Ok(Some((_, vector))) => vector.iter().map(|(_, tip)| tip.seq).sum(),
        _ => 0,
    };
    log.len().saturating_sub(known)
}

/// Makes a new snapshot of the one before and what came since.
pub(crate) fn write_snapshot(id: &ShareId, log: &Log) -> Result<(), ShareError> {
    let before = read_snapshot(id, log)?;
    let known = before.as_ref().map(|(_, vector)| vector.clone()).unwrap_or_default();
    let mut failed = None;
    let entries = Entries::new(log, known, &mut failed);
    let made = snapshot::extend(id, before.as_ref().map(|(bytes, _)| bytes.as_slice()), entries);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let bytes = made.map_err(|error| ShareError::Damaged { share: *id, reason: error.to_string() })?;
    log.write_snapshot(SNAPSHOT, &bytes)?;
    Ok(())
}

/// Envelopes read at a time where all are.
const PAGE: usize = 256;

/// The envelopes of a log that are not known, in append order; with nothing known all of them, those too that lost
/// against others of their number, so that the replica decides as it did then. An error ends it, and is found in `failed`.
struct Entries<'a> {
    log: &'a Log,
    known: std::collections::BTreeMap<ActorId, u64>,
    /// How many were read, where all are.
    from_start: Option<u64>,
    portion: std::vec::IntoIter<LogEntry>,
    failed: &'a mut Option<StoreError>,
}

impl<'a> Entries<'a> {
    fn new(log: &'a Log, known: Vector, failed: &'a mut Option<StoreError>) -> Self {
        let from_start = known.is_empty().then_some(0);
        let known = known.iter().map(|(actor, tip)| (*actor, tip.seq)).collect();
        Self { log, known, from_start, portion: Vec::new().into_iter(), failed }
    }
}

impl Entries<'_> {
    fn more(&mut self) -> Result<Vec<LogEntry>, StoreError> {
        if let Some(from) = &mut self.from_start {
            let mut page = Vec::with_capacity(PAGE);
            self.log.for_each(*from, &mut |entry| {
                page.push(entry);
                page.len() < PAGE
            })?;
            *from += page.len() as u64;
            return Ok(page);
        }
        let entries = self.log.read_after(&self.known, PORTION)?;
        for entry in &entries {
            let last = self.known.entry(entry.actor).or_default();
            *last = entry.seq.max(*last);
        }
        Ok(entries)
    }
}

impl Iterator for Entries<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.portion.len() == 0 {
            match self.more() {
                Ok(entries) => self.portion = entries.into_iter(),
                Err(error) => {
                    *self.failed = Some(error);
                    return None;
                }
            }
        }
        self.portion.next().map(|entry| entry.bytes)
    }
}

/// Makes the snapshot worthless: it has changes that no longer count.
pub(crate) fn void_snapshot(log: &Log) -> Result<(), StoreError> {
    log.write_snapshot(SNAPSHOT, &[])
}
