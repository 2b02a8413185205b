//! Bringing a replica back from a share's directory: what was saved of it, else a snapshot, and the log; members.

use std::collections::VecDeque;

use crdtfs_core::document::Schema;
use crdtfs_core::envelope::{Envelope, Trust};
use crdtfs_core::id::{ActorId, Incarnation, ShareId};
use crdtfs_core::key::Key;
use crdtfs_core::replica::{Base, Envelopes, LoadError, Loaded, Replica, Saved};
use crdtfs_core::snapshot::{self, Snapshot};
use crdtfs_core::sync::Numbered;
use crdtfs_core::vector::Vector;
use crdtfs_store::{Log, LogEntry, Staged, StoreError};

use crate::registry::ShareDir;
use crate::share::ShareError;

/// The snapshot's name in the log's directory.
const SNAPSHOT: &str = "document";

/// The name there of the replica as it was saved.
const VIEW: &str = "view";

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

/// A replica brought back.
pub(crate) struct Opened {
    pub(crate) replica: Replica,
    /// How many envelopes of the log do not fit.
    pub(crate) unfit: usize,
    /// How many had to be read as what was saved does not have them; all of them if nothing was.
    pub(crate) since_saved: u64,
    /// How many the snapshot does not have, as far as it was looked at.
    pub(crate) since_snapshot: u64,
}

/// Brings a replica back.
pub(crate) fn replica(
    id: &ShareId,
    dir: &ShareDir,
    log: &Log,
    key: Key,
    incarnation: Incarnation,
) -> Result<Opened, ShareError> {
    let genesis = dir.genesis()?;
    let membership = dir.membership()?;
    let load = |base: Base<'_>, known: Vector| -> Result<Loaded, ShareError> {
        let mut failed = None;
        let entries = Entries::new(log, known, &mut failed);
        let kept = LogEnvelopes { log, unlogged: &VecDeque::new() };
        let loaded = Replica::load(key.clone(), incarnation, &genesis, &membership, base, entries, &kept);
        match failed {
            Some(error) => Err(ShareError::Store(error)),
            None => loaded.map_err(|error: LoadError| ShareError::Damaged { share: *id, reason: error.to_string() }),
        }
    };
    let beyond = |known: &Vector| log.len().saturating_sub(known.iter().map(|(_, tip)| tip.seq).sum());
    let (mut since_saved, mut since_snapshot) = (log.len(), log.len());
    // From the quickest to the surest.
    let mut loaded = None;
    if let Some(saved) = read_saved(id, log)? {
        let known = saved.vector().clone();
        since_saved = beyond(&known);
        since_snapshot = since_saved;
        loaded = passed_over(id, "what was saved of it", load(Base::Saved(Box::new(saved)), known))?;
    }
    if loaded.is_none()
        && let Some((bytes, known)) = read_snapshot(id, log)?
    {
        (since_saved, since_snapshot) = (log.len(), beyond(&known));
        loaded = passed_over(id, "the snapshot", load(Base::Snapshot(&bytes), known))?;
    }
    let loaded = match loaded {
        Some(loaded) => loaded,
        None => load(Base::Nothing, Vector::new())?,
    };
    let dropped: Vec<_> = loaded.dropped.iter().map(|(actor, tip)| (*actor, tip.seq)).collect();
    log.forget(&dropped);
    Ok(Opened { replica: loaded.replica, unfit: loaded.unfit, since_saved, since_snapshot })
}

/// What was loaded, or nothing if its base turned out to be damaged.
fn passed_over(id: &ShareId, base: &str, loaded: Result<Loaded, ShareError>) -> Result<Option<Loaded>, ShareError> {
    match loaded {
        Err(ShareError::Damaged { reason, .. }) => {
            tracing::warn!(share = %id, base, reason, "of no use: reading more of the log");
            Ok(None)
        }
        loaded => loaded.map(Some),
    }
}

/// What was saved of the replica, if this program wrote it and the log has all of it.
fn read_saved(id: &ShareId, log: &Log) -> Result<Option<Saved>, StoreError> {
    let Some(bytes) = log.read_snapshot(VIEW)? else { return Ok(None) };
    let saved = match Saved::read(id, &bytes) {
        Ok(Some(saved)) => saved,
        Ok(None) => {
            tracing::info!(share = %id, "what was saved is of another version: reading the log");
            return Ok(None);
        }
        Err(error) => {
            tracing::warn!(share = %id, %error, "what was saved does not read: reading the log");
            return Ok(None);
        }
    };
    let schema = Schema::new(id);
    if saved.vector().iter().map(|(_, tip)| tip.seq).sum::<u64>() > log.len() {
        tracing::warn!(share = %id, "the log lacks some of what was saved: reading the log");
        return Ok(None);
    }
    for (actor, tip) in saved.vector().iter() {
        let logged = log.get(actor, tip.seq)?;
        let hash = logged.and_then(|bytes| Envelope::decode(id, &schema, &bytes, Trust::Stored).ok()).map(|e| e.hash);
        if hash != Some(tip.hash) {
            tracing::warn!(share = %id, %actor, seq = tip.seq, "what was saved is not in the log: reading that alone");
            return Ok(None);
        }
    }
    Ok(Some(saved))
}

/// Saves the replica for the next start. The log is to be durable. False if it cannot be now, as something is under way.
pub(crate) fn save(replica: &Replica, log: &Log) -> Result<bool, StoreError> {
    let Some(bytes) = replica.save() else { return Ok(false) };
    log.write_snapshot(VIEW, &bytes)?;
    Ok(true)
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

/// Makes a new snapshot of the one before and what came since, which does not count yet. `None` if it is `current` no more.
pub(crate) fn make_snapshot(id: &ShareId, log: &Log, current: &dyn Fn() -> bool) -> Result<Option<Staged>, ShareError> {
    let before = read_snapshot(id, log)?;
    let known = before.as_ref().map(|(_, vector)| vector.clone()).unwrap_or_default();
    let mut failed = None;
    // What is read after that would be for nothing.
    let entries = Entries::new(log, known, &mut failed).take_while(|_| current());
    let made = snapshot::extend(id, before.as_ref().map(|(bytes, _)| bytes.as_slice()), entries);
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !current() {
        return Ok(None);
    }
    let bytes = made.map_err(|error| ShareError::Damaged { share: *id, reason: error.to_string() })?;
    Ok(Some(log.stage_snapshot(SNAPSHOT, &bytes)?))
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

/// Removes snapshot and saved replica: they have changes that no longer count.
pub(crate) fn void_snapshots(log: &Log) -> Result<(), StoreError> {
    log.remove_snapshots(&[VIEW, SNAPSHOT])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use crdtfs_core::id::{InodeId, PlaceId};
    use crdtfs_core::name::Name;
    use crdtfs_core::node::Kind;
    use crdtfs_core::op::{NewNode, Op};

    use super::*;

    const LIFE: Incarnation = Incarnation([1; 16]);

    fn key() -> Key {
        Key::new(&[1; 32])
    }

    fn create(replica: &mut Replica, n: u8) {
        let node = NewNode::new(Kind::File, 0o644);
        let name = Name::try_from(format!("file {n}").as_str()).unwrap();
        let op = Op::Create {
            dir: InodeId::ROOT,
            name,
            inode: InodeId([n; 16]),
            place: PlaceId([n; 16]),
            node,
            beside: None,
        };
        replica.apply(&op, 0).unwrap();
    }

    /// Puts a file into the replica, and, if there is one, into the log.
    fn commit(replica: &mut Replica, log: Option<&Log>, n: u8) {
        create(replica, n);
        while let Some(change) = replica.commit(0).unwrap() {
            if let Some(log) = log {
                log.append(&change.actor, change.tip.seq, &change.envelope).unwrap();
            }
        }
    }

    /// A share of one device in a directory.
    fn share(dir: &Path) -> (ShareDir, Log, Replica) {
        let made = Replica::create(key(), LIFE, [2; 32], "one", 0).unwrap();
        let share = ShareDir::create(dir, &made.replica.share()).unwrap();
        share.write_genesis(&made.genesis).unwrap();
        share.write_membership(&made.membership).unwrap();
        let (log, _) = Log::open(&share.path().join("log")).unwrap();
        (share, log, made.replica)
    }

    fn open(dir: &ShareDir, log: &Log, as_before: &Replica) -> Opened {
        let opened = replica(&as_before.share(), dir, log, key(), LIFE).unwrap();
        assert_eq!(opened.unfit, 0);
        opened
    }

    fn files(replica: &Replica) -> usize {
        replica.view().entries(InodeId::ROOT, None, usize::MAX).len()
    }

    #[test]
    fn a_start_goes_on_from_what_was_saved() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, log, mut first) = share(scratch.path());
        commit(&mut first, Some(&log), 1);
        commit(&mut first, Some(&log), 2);
        assert_eq!(open(&dir, &log, &first).since_saved, 2, "nothing was saved");
        create(&mut first, 3);
        assert!(!save(&first, &log).unwrap(), "what is in no log is not saved");
        commit(&mut first, Some(&log), 4);
        assert!(save(&first, &log).unwrap());
        let again = open(&dir, &log, &first);
        assert_eq!((again.since_saved, files(&again.replica)), (0, 4));
        commit(&mut first, Some(&log), 5);
        let again = open(&dir, &log, &first);
        assert_eq!((again.since_saved, files(&again.replica)), (1, 5));
        assert_eq!(again.replica.heads(), first.heads());
        void_snapshots(&log).unwrap();
        let again = open(&dir, &log, &first);
        assert_eq!((again.since_saved, files(&again.replica)), (log.len(), 5));
    }

    #[test]
    fn what_the_log_lacks_was_never_saved() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, log, mut first) = share(scratch.path());
        commit(&mut first, Some(&log), 1);
        let in_log = first.heads();
        // As after a crash that took the log's end, or with an older copy of it put back.
        commit(&mut first, None, 2);
        assert!(save(&first, &log).unwrap());
        let again = open(&dir, &log, &first);
        assert_eq!((again.since_saved, files(&again.replica)), (log.len(), 1));
        assert_eq!(again.replica.heads(), in_log);
    }
}
