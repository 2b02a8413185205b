//! The thread of a share that fetches what the view needs: bytes of merges first, then all content, smallest first.
//!
//! What nobody reachable has is put aside until somebody comes, or gets more ([`Share::retry_fetches`]); what the disk has no
//! room for, until it has ([`Share::retry_what_fits`]).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_store::Urgency;

use crate::share::Share;

/// Files in one batch.
const BATCH_FILES: usize = 1024;

/// Bytes in one batch; a larger file is a batch of its own.
const BATCH_BYTES: u64 = 32 << 20;

/// See the module.
pub(crate) struct Fetcher {
    share: Arc<Share>,
    thread: Option<JoinHandle<()>>,
}

/// What to do next.
pub(crate) enum Task {
    Stop,
    Merges,
    Batch(Vec<(InodeId, ContentRef)>),
}

impl Fetcher {
    pub(crate) fn start(share: Arc<Share>) -> io::Result<Self> {
        let theirs = share.clone();
        let name = "crdtfs-fetch".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || run(&theirs))?;
        Ok(Self { share, thread: Some(thread) })
    }

    /// Whether it fetches for this share.
    pub(crate) fn is_of(&self, share: &Share) -> bool {
        self.share.id() == share.id()
    }

    /// Ends the thread. A fetch under way has to end by itself: the network is shut down first.
    pub(crate) fn stop(mut self) {
        self.share.stop_fetching();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(share = %self.share.id(), "the fetcher's thread panicked");
        }
    }
}

fn run(share: &Share) {
    let _span = tracing::info_span!("fetch", share = %share.id()).entered();
    loop {
        match share.next_task(BATCH_FILES, BATCH_BYTES) {
            Task::Stop => return,
            Task::Merges => merge(share),
            Task::Batch(batch) => fetch(share, &batch),
        }
    }
}

/// Gets the bytes of the versions that merges wait for.
fn merge(share: &Share) {
    let wanted = share.read(|replica| replica.view().wanted());
    let mut lacking = BTreeSet::new();
    // Together: what nobody has is waited for once, not once for each.
    for some in wanted.chunks(BATCH_FILES) {
        let lacked = lacking.len();
        let outcomes = share.content().fetch(some, Urgency::Merge);
        for (content, outcome) in some.iter().zip(outcomes) {
            match outcome.and_then(|()| share.content().read_all(content, Urgency::Merge)) {
                Ok(bytes) => share.supply(content, bytes),
                Err(error) => {
                    tracing::debug!(content = %content.hash, %error, "a merge waits for bytes");
                    lacking.insert(content.hash);
                    share.note_in_vain(content, &error);
                }
            }
        }
        if lacking.len() - lacked < some.len() {
            share.merging.got_further(&lacking);
        }
    }
}

fn fetch(share: &Share, batch: &[(InodeId, ContentRef)]) {
    let batch = &share.with_room(batch)[..];
    let contents: Vec<_> = batch.iter().map(|(_, content)| *content).collect();
    let outcomes = share.content().fetch(&contents, Urgency::Prefetch);
    for ((inode, content), outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Ok(()) => share.arrived(content),
            Err(error) => {
                tracing::debug!(content = %content.hash, %error, "not fetched");
                share.put_aside(*inode, content, error.kind());
            }
        }
    }
    share.told_progress();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use crdtfs_core::id::{Hash, Incarnation, PlaceId};
    use crdtfs_core::key::Key;
    use crdtfs_core::name::Name;
    use crdtfs_core::node::{Kind, Shown, Time};
    use crdtfs_core::op::{NewNode, Op};
    use crdtfs_core::port::{Adapter, Tree};
    use crdtfs_core::replica::Replica;
    use crdtfs_core::sync::PeerState;
    use crdtfs_core::wire::Holding;
    use crdtfs_store::{ChunkSink, ChunkSource, Space, Store, StoreOptions, Want};
    use parking_lot::Mutex;

    use super::*;
    use crate::registry::ShareDir;
    use crate::retention::HistoryOptions;
    use crate::share::{Events, Parts};

    /// Gives what it has, and counts how often it is asked.
    #[derive(Default)]
    struct Giver {
        has: Mutex<BTreeMap<Hash, Vec<u8>>>,
        asked: AtomicUsize,
        /// What it says of the rest, if not that nobody has it.
        error: Mutex<Option<io::ErrorKind>>,
    }

    impl ChunkSource for Giver {
        fn fetch(&self, want: &[Want], _: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let has = self.has.lock();
            let mut lacks = false;
            for (at, one) in want.iter().enumerate() {
                match has.get(&one.chunk.hash) {
                    Some(bytes) => sink.accept(at, bytes)?,
                    None => lacks = true,
                }
            }
            let error = self.error.lock().unwrap_or(io::ErrorKind::HostUnreachable);
            if lacks { Err(error.into()) } else { Ok(()) }
        }
    }

    struct Quiet;

    impl Events for Quiet {
        fn uncommitted(&self, _: &Share) {}
        fn changed(&self, _: &Share) {}
        fn progressed(&self) {}
        fn later(&self, _: &Share, _: Instant) {}
        fn make_room(&self) -> bool {
            false
        }
        fn settle(&self, _: &Share, _: Instant) -> bool {
            true
        }
    }

    const FILES: u8 = 3;

    /// A text of ten lines, two of which say who was there.
    fn text(file: u8, first: &str, last: &str) -> Vec<u8> {
        format!("{first}\n{}{last} of file {file}\n", "between\n".repeat(8)).into_bytes()
    }

    fn committed(replica: &mut Replica) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| replica.commit(0).unwrap()).map(|change| change.envelope).collect()
    }

    /// A share in which texts were edited here and by another copy of this device, whose bytes are nowhere.
    fn edited_at_once(state: &std::path::Path, source: &Arc<Giver>) -> Arc<Share> {
        let key = || Key::new(&[1; 32]);
        let mut other = Replica::create(key(), Incarnation([1; 16]), [2; 32], "one", 0).unwrap();
        let dir = ShareDir::create(state, &other.replica.share()).unwrap();
        dir.write_genesis(&other.genesis).unwrap();
        dir.write_membership(&other.membership).unwrap();
        let parts = Parts {
            key: key(),
            name: "one".to_owned(),
            store: Store::open(&state.join("store"), StoreOptions::default()).unwrap(),
            source: source.clone(),
            space: Arc::new(Space::new(state.to_owned())),
            events: Arc::new(Quiet),
            history: HistoryOptions::default(),
            snapshot_turn: Arc::default(),
        };
        let share = Share::open(other.replica.share(), dir, parts).unwrap();
        let keep = |bytes: Vec<u8>| {
            let content = ContentRef::single(&bytes);
            source.has.lock().insert(content.hash, bytes);
            content
        };
        for n in 1..=FILES {
            let node = NewNode { content: keep(text(n, "first", "last")), ..NewNode::new(Kind::File, 0o644) };
            let name = Name::try_from(format!("file {n}").as_str()).unwrap();
            let (inode, place) = (InodeId([n; 16]), PlaceId([n; 16]));
            other.replica.apply(&Op::Create { dir: InodeId::ROOT, name, inode, place, node, beside: None }, 0).unwrap();
        }
        share.receive(&key().id(), committed(&mut other.replica)).unwrap();
        let edit = |n: u8, content| Op::Edit {
            inode: InodeId([n; 16]),
            via: None,
            basis: None,
            content,
            mtime: Time::default(),
        };
        for n in 1..=FILES {
            share.apply(Adapter(1), edit(n, keep(text(n, "edited here", "last")))).unwrap();
            other.replica.apply(&edit(n, keep(text(n, "first", "edited there"))), 0).unwrap();
        }
        share.commit_all();
        share.receive(&key().id(), committed(&mut other.replica)).unwrap();
        share
    }

    #[test]
    fn who_waits_for_a_merge_gets_it_unless_its_bytes_were_asked_for_in_vain() {
        const HOUR: Duration = Duration::from_secs(3600);
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(Giver::default());
        let share = edited_at_once(dir.path(), &source);
        let shown = |n: u8| share.read(|replica| replica.view().node(InodeId([n; 16])).unwrap().shown);
        let has = std::mem::take(&mut *source.has.lock());
        share.await_merge(InodeId([1; 16]), Duration::ZERO);
        assert_eq!(shown(1), Shown::Pending, "there is an end to it");
        merge(&share);
        share.await_merge(InodeId([1; 16]), HOUR);
        assert_eq!(shown(1), Shown::Pending, "nobody has them");
        *source.has.lock() = has;
        share.note_connected(&share.device(), &[]);
        std::thread::scope(|scope| {
            scope.spawn(|| merge(&share));
            for n in 1..=FILES {
                share.await_merge(InodeId([n; 16]), HOUR);
                assert_eq!(shown(n), Shown::Plain);
            }
        });
    }

    /// Whether a wait of an hour for a file's merge ends by itself.
    fn ends(share: &Arc<Share>, file: u8) -> bool {
        let (ended, end) = std::sync::mpsc::channel();
        let share = share.clone();
        std::thread::spawn(move || {
            share.await_merge(InodeId([file; 16]), Duration::from_secs(3600));
            ended.send(())
        });
        end.recv_timeout(Duration::from_secs(60)).is_ok()
    }

    #[test]
    fn merges_whose_bytes_do_not_come_are_waited_for_once_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(Giver::default());
        let share = edited_at_once(dir.path(), &source);
        let mut has = std::mem::take(&mut *source.has.lock());
        // Somebody has them, but nothing fits: that is not in vain.
        *source.error.lock() = Some(io::ErrorKind::StorageFull);
        merge(&share);
        share.await_merge(InodeId([1; 16]), Duration::from_millis(10));
        (1..=FILES).for_each(|n| assert!(ends(&share, n), "file {n}"));
        // Who has them is away, and somebody who does not have them gets more of other files again and again.
        *source.error.lock() = None;
        for missing_files in 1..3 {
            let holding = Some(Holding { missing_files, ..share.holding() });
            share.note_peer(&share.device(), &PeerState { holding, ..PeerState::default() });
            (1..=FILES).for_each(|n| assert!(ends(&share, n), "file {n}"));
            merge(&share);
        }
        // What one file lacks comes, what others lack does not.
        let end = format!("of file {FILES}\n").into_bytes();
        has.retain(|_, bytes| bytes.ends_with(&end));
        *source.has.lock() = has;
        merge(&share);
        share.forget_in_vain();
        let shown = |n: u8| share.read(|replica| replica.view().node(InodeId([n; 16])).unwrap().shown);
        assert_eq!([1, 2, FILES].map(shown), [Shown::Pending, Shown::Pending, Shown::Plain]);
        (1..=FILES).for_each(|n| assert!(ends(&share, n), "file {n}"));
    }

    #[test]
    fn merges_ask_for_all_that_they_lack_together_and_remember_what_nobody_has() {
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(Giver::default());
        let share = edited_at_once(dir.path(), &source);
        let has = std::mem::take(&mut *source.has.lock());
        let files: std::collections::BTreeSet<_> = (1..=FILES).map(|n| InodeId([n; 16])).collect();
        merge(&share);
        assert_eq!(source.asked.load(Ordering::Relaxed), 1);
        let (read, merging) = share.asked_in_vain();
        assert_eq!((read.len(), merging), (0, files), "each is waited for, whatever it lacks");
        *source.has.lock() = has;
        merge(&share);
        assert_eq!(share.read(|replica| replica.view().wanted()), []);
        let (read, merging) = share.asked_in_vain();
        assert!(read.is_empty() && merging.is_empty());
        for n in 1..=FILES {
            let merged = ContentRef::single(&text(n, "edited here", "edited there"));
            assert_eq!(share.read(|replica| replica.view().node(InodeId([n; 16])).unwrap().content.hash), merged.hash);
        }
    }
}
