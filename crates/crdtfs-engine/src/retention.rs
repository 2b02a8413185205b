//! Which contents a collection leaves: what the view needs, always; old versions, as long as the user wants to be able to
//! bring them back; and what a merge may still need, which is all that stays of them when the disk is full: small contents
//! that a change put aside of which some member has not heard.
//!
//! An old version counts from when the change that put it aside came to *this* device, not from when it was made: what a
//! device that was away for months replaces here can be brought back here for as long as anything else. Of the log only the
//! end that is younger is read; what it puts aside is kept.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdtfs_core::content::ContentRef;
use crdtfs_core::document::Schema;
use crdtfs_core::envelope::{Envelope, Trust};
use crdtfs_core::id::{ActorId, RecordId};
use crdtfs_core::merge::MergeCache;
use crdtfs_core::record::{PlaceState, Record};
use crdtfs_core::replica::Replica;
use crdtfs_core::vector::Vector;
use crdtfs_store::{LogEntry, StoreError};

use crate::clock::Clock;
use crate::core::Core;
use crate::share::{Share, ShareError};

/// How long old versions are kept where nothing else is said: 30 days.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// What may be a merge's base is kept for this long for members that are away, also where old versions are not kept.
const BASES_KEPT: Duration = Duration::from_secs(365 * 86_400);

/// What becomes of old versions on this device.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// How long their bytes are kept.
    pub retention: Duration,
    /// Whether a watched folder keeps a copy of every file, so that what a program on this device overwrites can be brought
    /// back: large files take their room twice.
    pub keep_local: bool,
    /// The time.
    pub clock: Clock,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self { retention: DEFAULT_RETENTION, keep_local: false, clock: Clock::default() }
    }
}

/// Which old versions a collection leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those that are young enough, and what a merge may need with what a member that is away does meanwhile.
    Retained,
    /// Only the latter.
    MergeBases,
}

impl Core {
    /// The contents whose bytes are to be kept. The store is common to all shares.
    pub(crate) fn kept(&self, keep: Keep) -> Vec<ContentRef> {
        self.shares().iter().flat_map(|share| share.kept_contents(keep)).collect()
    }

    /// Drops what is older than the user wants old versions to be, and gives the room back.
    pub(crate) fn collect(&self) -> Result<(), StoreError> {
        self.shares().iter().for_each(|share| share.note_ages());
        let report = self.store().gc(&mut || self.kept(Keep::Retained))?;
        while self.store().compact()? {}
        tracing::info!(chunks = report.chunks, bytes = report.freed, "collected");
        Ok(())
    }

    /// As [`Core::collect`], on a disk that is full: old versions go before their time, and no room is needed for it. True
    /// if that gave any back.
    pub(crate) fn reclaim(&self) -> Result<bool, StoreError> {
        let reclaim = || self.store().reclaim(&mut || self.kept(Keep::MergeBases));
        // Where nothing was removed there is nothing to be had: what was kept for that is for others' removals.
        let report = if self.removals() > 0 { self.space().with_spare(reclaim)? } else { reclaim()? };
        tracing::info!(chunks = report.chunks, bytes = report.freed, "collected early: the disk is full");
        Ok(report.chunks > 0 || report.objects > 0)
    }
}

impl Share {
    /// The contents whose bytes are to be kept here.
    pub(crate) fn kept_contents(&self, keep: Keep) -> Vec<ContentRef> {
        // First what is needed now, then what was put aside: what an operation in between puts aside is in both.
        let mut kept = self.read(|replica| replica.view().needed_contents());
        self.commit_all();
        match self.put_aside_lately(keep) {
            Ok(Some(more)) => kept.extend(more),
            // Nothing is old enough.
            Ok(None) => kept.extend(self.read(|replica| replica.view().all_contents())),
            Err(error) => {
                tracing::warn!(share = %self.id(), %error, "the log does not say which versions are old: all are kept");
                kept.extend(self.read(|replica| replica.view().all_contents()));
            }
        }
        kept
    }

    /// Notes how old the changes are that are here.
    pub(crate) fn note_ages(&self) {
        let now = self.history_options.clock.now_ms();
        let envelopes = self.log().len();
        let mut ages = self.ages.lock();
        if ages.note(now, envelopes)
            && let Err(error) = self.dir().write_ages(&ages)
        {
            // Old versions seem younger than they are, and are kept for longer.
            tracing::warn!(share = %self.id(), %error, "how old the changes are cannot be noted");
        }
    }

    /// The contents that changes which are not old yet put aside or brought, and those that a merge may need with what a
    /// member does that has not heard of the change; `None`: no change is old.
    fn put_aside_lately(&self, keep: Keep) -> Result<Option<BTreeSet<ContentRef>>, ShareError> {
        let older_than = |age: Duration| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            self.ages.lock().older_than(self.history_options.clock.now_ms(), age)
        };
        let retention = self.history_options.retention;
        let young = match keep {
            Keep::Retained => older_than(retention),
            Keep::MergeBases => u64::MAX,
        };
        if young == 0 {
            return Ok(None);
        }
        let from = older_than(retention.max(BASES_KEPT)).min(young);
        let known = self.known_by_all();
        let unheard = |entry: &LogEntry| known.get(&entry.actor).is_none_or(|seq| entry.seq > *seq);
        // Read one after the other: which of the two made it wanted is remembered for each.
        let is_young = Cell::new(false);
        // Before the log: a change that goes there meanwhile is read twice.
        let mut contents = self.put_aside_unlogged()?;
        contents.retain(|content| keep == Keep::Retained || MergeCache::can_be_text(content));
        let mut wanted = |place: u64, entry: &LogEntry| {
            is_young.set(place >= young);
            is_young.get() || unheard(entry)
        };
        self.each_wanted(from, &mut wanted, &mut |change| {
            let found = self.put_aside_by(change.records.iter().map(|(_, record)| record));
            contents.extend(found.into_iter().filter(|c| is_young.get() || MergeCache::can_be_text(c)));
        })?;
        Ok(Some(contents))
    }

    /// What records put aside or brought.
    fn put_aside_by<'a>(&self, records: impl Iterator<Item = &'a Record>) -> BTreeSet<ContentRef> {
        let (mut found, mut older) = (BTreeSet::new(), Vec::new());
        records.for_each(|record| put_aside(record, &mut older, &mut found));
        self.read(|replica| found.extend(older.iter().filter_map(|id| replica.view().content_of(id))));
        found
    }

    /// What changes put aside or brought that are not in the log: a full disk has no room for them, and is to get room.
    fn put_aside_unlogged(&self) -> Result<BTreeSet<ContentRef>, ShareError> {
        let order = self.order.lock();
        let schema = Schema::new(&self.id());
        let mut records = self.read(Replica::queued_records);
        for change in &order.unlogged {
            let envelope = Envelope::decode(&self.id(), &schema, &change.bytes, Trust::Stored)
                .map_err(|error| ShareError::Damaged { share: self.id(), reason: error.to_string() })?;
            records.extend(envelope.records.into_iter().map(|(_, record)| record));
        }
        drop(order);
        Ok(self.put_aside_by(records.iter()))
    }

    /// Up to which change of each chain every member is known to have all.
    fn known_by_all(&self) -> BTreeMap<ActorId, u64> {
        let own = self.vector();
        let mut known: BTreeMap<ActorId, u64> = own.iter().map(|(actor, tip)| (*actor, tip.seq)).collect();
        for member in self.members().into_iter().filter(|member| !member.revoked && member.device != self.device()) {
            let theirs = self.peer_state(&member.device).and_then(|state| state.vector).unwrap_or_default();
            // What it did before it heard of ours may be on its way still.
            let theirs = if own.covers(&theirs) { theirs } else { Vector::new() };
            known.iter_mut().for_each(|(actor, seq)| *seq = theirs.get(actor).map_or(0, |tip| tip.seq.min(*seq)));
        }
        known
    }
}

/// What a record brings, and the records whose versions it puts aside.
fn put_aside(record: &Record, older: &mut Vec<RecordId>, brought: &mut BTreeSet<ContentRef>) {
    match record {
        Record::Content(content) => {
            brought.extend(content.bytes);
            older.extend(content.replaces.iter().chain(&content.bytes_stamp));
        }
        Record::Place(place) => match &place.state {
            PlaceState::Live => {}
            PlaceState::Deleted { seen } => older.extend(seen),
            PlaceState::Merged { seen, .. } => older.extend(seen.iter().flat_map(|(a, b)| [a, b])),
        },
        Record::Birth(birth) => older.push(birth.version),
        Record::Pin(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use crdtfs_core::id::{InodeId, PlaceId};
    use crdtfs_core::name::Name;
    use crdtfs_core::node::{Kind, Time};
    use crdtfs_core::op::{NewNode, Op};
    use crdtfs_core::port::{Adapter, Tree};
    use crdtfs_core::sync::Numbered;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::engine::EngineConfig;

    const DAY: i64 = 86_400_000;
    const ME: Adapter = Adapter(99);

    struct World {
        runtime: Runtime,
        now: Arc<AtomicI64>,
        core: Arc<Core>,
        share: Arc<Share>,
    }

    fn open(dir: &Path, now: &Arc<AtomicI64>, runtime: &Runtime) -> Arc<Core> {
        let time = now.clone();
        let clock = Clock::new(move || time.load(Ordering::Relaxed));
        let history = HistoryOptions { clock, ..HistoryOptions::default() };
        let config = EngineConfig { history, ..EngineConfig::for_tests(dir.to_owned()) };
        Core::open(config, Vec::new(), runtime).unwrap()
    }

    impl World {
        fn new(dir: &Path) -> Self {
            let now = Arc::new(AtomicI64::new(1_000 * DAY));
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let core = open(dir, &now, &runtime);
            let share = core.create_share(None).unwrap();
            Self { runtime, now, core, share }
        }

        fn again(self, dir: &Path) -> Self {
            let (id, now) = (self.share.id(), self.now.clone());
            let runtime = self.end();
            let core = open(dir, &now, &runtime);
            let share = core.share(&id).unwrap();
            Self { runtime, now, core, share }
        }

        fn end(self) -> Runtime {
            let left = self.core.close(std::time::Instant::now() + Duration::from_secs(10));
            assert_eq!(left, crate::engine::LastWords::default());
            self.runtime
        }

        fn put(&self, seed: u8) -> ContentRef {
            let bytes: Vec<u8> =
                (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect();
            self.share.ports().put(&bytes).unwrap()
        }

        fn create(&self, content: ContentRef) -> InodeId {
            let (inode, place) = (InodeId(self.share.fresh_id()), PlaceId(self.share.fresh_id()));
            let node = NewNode { content, ..NewNode::new(Kind::File, 0o644) };
            let name = Name::try_from("f").unwrap();
            self.share.apply(ME, Op::Create { dir: InodeId::ROOT, name, inode, place, node, beside: None }).unwrap();
            inode
        }

        fn edit(&self, inode: InodeId, content: ContentRef) {
            let op = Op::Edit { inode, via: None, basis: None, content, mtime: Time::default() };
            self.share.apply(ME, op).unwrap();
        }

        fn pass(&self, days: i64) {
            self.now.fetch_add(days * DAY, Ordering::Relaxed);
        }

        /// What was put lately is left by the first one.
        fn collect(&self) {
            self.core.collect().unwrap();
            self.core.collect().unwrap();
        }

        fn has(&self, content: &ContentRef) -> bool {
            self.core.store().is_local(content)
        }
    }

    #[test]
    fn old_versions_go_once_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(&dir.path().join("state"));
        let [one, two, never] = [1, 2, 4].map(|seed| world.put(seed));
        let file = world.create(one);
        world.edit(file, two);
        world.collect();
        assert!(world.has(&one) && world.has(&two));
        assert!(!world.has(&never), "no version is of these bytes");
        world.pass(29);
        world.collect();
        assert!(world.has(&one), "it was put aside 29 days ago");
        let three = world.put(3);
        world.edit(file, three);
        world.pass(2);
        world.collect();
        assert!(!world.has(&one), "31 days");
        assert!(world.has(&two), "it was the present one until two days ago");
        world.pass(31);
        world.collect();
        assert!(!world.has(&two) && world.has(&three), "the present one stays, however old");
        world.share.apply(ME, Op::Unlink { dir: InodeId::ROOT, name: Name::try_from("f").unwrap() }).unwrap();
        world.collect();
        assert!(world.has(&three), "removed just now");
        world.pass(31);
        world.collect();
        assert!(!world.has(&three));
        world.end();
    }

    #[test]
    fn ages_are_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let world = World::new(&state);
        let [one, two] = [1, 2].map(|seed| world.put(seed));
        let file = world.create(one);
        world.edit(file, two);
        world.share.commit_all();
        world.share.note_ages();
        world.pass(20);
        let world = world.again(&state);
        world.collect();
        assert!(world.has(&one));
        world.pass(11);
        world.collect();
        assert!(!world.has(&one) && world.has(&two));
        world.end();
    }

    #[test]
    fn room_is_made_of_old_versions_once() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(&dir.path().join("state"));
        let [one, two] = [1, 2].map(|seed| world.put(seed));
        let file = world.create(one);
        world.edit(file, two);
        // How much room there is on the machine's disk is not for this test to say; what goes is.
        world.core.make_room();
        assert!(!world.has(&one) && world.has(&two), "at once, though both came just now");
        let removals = world.core.removals();
        *world.core.futile.lock() = Some(removals);
        let three = world.put(3);
        assert!(!world.core.make_room(), "nothing was replaced since it was tried in vain");
        world.edit(file, three);
        assert!(world.core.removals() > removals);
        world.core.make_room();
        assert!(!world.has(&two) && world.has(&three));
        world.end();
    }

    /// On a full disk changes wait until the log has room; that must not keep it from getting some.
    #[test]
    fn room_is_made_while_changes_wait_for_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(&dir.path().join("state"));
        let [one, two, three, four] = [1, 2, 3, 4].map(|seed| world.put(seed));
        let text = world.share.ports().put(b"a text that may be a base\n").unwrap();
        let file = world.create(one);
        world.edit(file, two);
        world.edit(file, text);
        world.share.commit_all();
        // The log takes nothing.
        world.edit(file, three);
        {
            let mut order = world.share.order.lock();
            let change = world.share.replica.write().commit(0).unwrap().unwrap();
            let waiting = Numbered { actor: change.actor, tip: change.tip, bytes: change.envelope };
            order.unlogged.push_back(waiting);
            // This one is in no change yet.
            let op = Op::Edit { inode: file, via: None, basis: None, content: four, mtime: Time::default() };
            world.share.replica.write().apply(&op, 0).unwrap();
        }
        let kept = world.share.put_aside_lately(Keep::MergeBases).unwrap();
        assert_eq!(kept, Some(BTreeSet::from([text])), "with {two:?} or {three:?} nothing can be merged");
        world.end();
    }

    #[test]
    fn a_full_disk_gets_the_room_of_old_versions() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(&dir.path().join("state"));
        let [one, two] = [1, 2].map(|seed| world.put(seed));
        let file = world.create(one);
        world.edit(file, two);
        world.collect();
        assert!(world.core.reclaim().unwrap());
        assert!(!world.has(&one) && world.has(&two));
        world.end();
    }
}
