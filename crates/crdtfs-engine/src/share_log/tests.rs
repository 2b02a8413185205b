#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::key::Key;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_core::replica::Created;
use crdtfs_store::{Space, Store, StoreOptions};

use super::*;
use crate::registry::ShareDir;
use crate::retention::HistoryOptions;
use crate::share::{Events, Parts};

/// Counts how often all sessions are told to look what is to be said.
#[derive(Default)]
pub(super) struct Told(AtomicUsize);

impl Told {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Events for Told {
    fn uncommitted(&self, _: &Share) {}
    fn changed(&self, _: &Share) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn progressed(&self) {}
    fn later(&self, _: &Share, _: Instant) {}
    fn make_room(&self) -> bool {
        false
    }
    fn settle(&self, share: &Share, _: Instant) -> bool {
        share.commit_all()
    }
}

struct NoSource;

impl crdtfs_store::ChunkSource for NoSource {
    fn fetch(
        &self,
        _: &[crdtfs_store::Want],
        _: crdtfs_store::Urgency,
        _: &dyn crdtfs_store::ChunkSink,
    ) -> std::io::Result<()> {
        Err(std::io::ErrorKind::HostUnreachable.into())
    }
}

/// A device that was given a share, in a directory of its own.
pub(super) fn open(state: &Path, made: &Created, told: &Arc<Told>) -> Arc<Share> {
    open_as(Key::new(&[7; 32]), state, made, told)
}

fn open_as(key: Key, state: &Path, made: &Created, told: &Arc<Told>) -> Arc<Share> {
    let dir = ShareDir::create(state, &made.replica.share()).unwrap();
    dir.write_genesis(&made.genesis).unwrap();
    dir.write_membership(&made.membership).unwrap();
    let parts = Parts {
        key,
        name: "two".to_owned(),
        store: Store::open(&state.join("store"), StoreOptions::default()).unwrap(),
        source: Arc::new(NoSource),
        space: Arc::new(Space::new(state.to_owned())),
        events: told.clone(),
        history: HistoryOptions::default(),
        snapshot_turn: Arc::default(),
    };
    Share::open(made.replica.share(), dir, parts).unwrap()
}

fn create(n: u8, name: &str, content: crdtfs_core::content::ContentRef) -> Op {
    let node = NewNode { content, ..NewNode::new(Kind::File, 0o644) };
    let name = Name::try_from(name).unwrap();
    Op::Create { dir: InodeId::ROOT, name, inode: InodeId([n; 16]), place: PlaceId([n; 16]), node, beside: None }
}

/// A change by the share's creator that makes an entry of this content.
pub(super) fn change(replica: &mut Replica, n: u8, content: crdtfs_core::content::ContentRef) -> Vec<Vec<u8>> {
    replica.apply(&create(n, &format!("file {n}"), content), 0).unwrap();
    std::iter::from_fn(|| replica.commit(0).unwrap()).map(|change| change.envelope).collect()
}

pub(super) fn created() -> (Created, DeviceId) {
    let key = Key::new(&[1; 32]);
    let id = key.id();
    (Replica::create(key, Incarnation([1; 16]), [2; 32], "one", 0).unwrap(), id)
}

#[test]
fn everyone_is_told_of_changes_that_came_from_one_device_also_without_content() {
    let dir = tempfile::tempdir().unwrap();
    let (mut made, author) = created();
    let told = Arc::new(Told::default());
    let share = open(dir.path(), &made, &told);
    let envelopes = change(&mut made.replica, 1, crdtfs_core::content::ContentRef::empty());
    told.take();
    share.receive(&author, envelopes.clone()).unwrap();
    assert_eq!(share.vector(), *made.replica.vector());
    assert_eq!(told.take(), 1, "the other sessions do not know what is here now");
    share.receive(&author, envelopes).unwrap();
    assert_eq!(told.take(), 0, "nothing is new");
}

#[test]
fn what_is_held_back_is_committed_by_who_asks_for_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (made, author) = created();
    let share = open_as(Key::new(&[1; 32]), dir.path(), &made, &Arc::new(Told::default()));
    let by = Adapter(1);
    let do_it = |n, name| share.apply(by, create(n, name, crdtfs_core::content::ContentRef::empty())).unwrap();
    let logged = || share.order.lock().logged.iter().map(|(_, tip)| tip.seq).sum::<u64>();
    assert_eq!(share.device(), author);
    do_it(1, "first");
    // Another thread's turn, or the chores, may come at any time.
    do_it(2, ".first.swp");
    share.take_turn();
    assert_eq!(
        (logged(), share.read(Replica::queued) > 0),
        (1, true),
        "what came before the lock goes, the lock stays"
    );
    do_it(3, "first.tmp");
    share.chores();
    share.take_turn();
    assert_eq!((logged(), share.read(Replica::queued) > 0), (1, true));
    share.apply(by, create(4, "first", crdtfs_core::content::ContentRef::empty())).unwrap_err();
    share.take_turn();
    assert_eq!(logged(), 1, "what failed did nothing");
    share.make_durable().unwrap();
    assert_eq!((logged(), share.read(Replica::queued)), (2, 0));
    do_it(5, ".second.swp");
    do_it(6, "second");
    share.take_turn();
    assert_eq!((logged(), share.read(Replica::queued)), (3, 0), "anything else sends everything");
}

/// A lock that was removed a moment ago and is made anew is held back with what is done to it, whether it goes on as what it was
/// or is another one.
#[test]
fn a_lock_that_is_made_again_and_again_is_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let (made, _) = created();
    let share = open_as(Key::new(&[1; 32]), dir.path(), &made, &Arc::new(Told::default()));
    let by = Adapter(1);
    let empty = crdtfs_core::content::ContentRef::empty();
    let git = InodeId([9; 16]);
    let mut mkdir = create(9, ".git", empty);
    if let Op::Create { node, .. } = &mut mkdir {
        node.kind = Kind::Dir;
    }
    share.apply(by, mkdir).unwrap();
    share.take_turn();
    for (n, dir, name, goes_on) in [
        (1, InodeId::ROOT, ".f.swp", false),
        (2, InodeId::ROOT, ".f.swp", false),
        (3, git, "index.lock", false),
        (4, git, "index.lock", true),
        (5, git, "index.lock", true),
    ] {
        let mut op = create(n, name, empty);
        if let Op::Create { dir: at, .. } = &mut op {
            *at = dir;
        }
        let name = Name::try_from(name).unwrap();
        share.apply(by, op).unwrap();
        let node = share.child(dir, &name).unwrap();
        let (inode, content, mtime) = (node.inode, share.store().put_bytes(&[n; 10]).unwrap(), node.mtime);
        assert_eq!(inode, InodeId([if goes_on { 3 } else { n }; 16]));
        share.apply(by, Op::Edit { inode, via: None, basis: None, content, mtime }).unwrap();
        share.take_turn();
        assert!(share.read(Replica::queued) > 0, "try {n}");
        share.apply(by, Op::Unlink { dir, name }).unwrap();
        share.take_turn();
        assert_eq!(share.read(Replica::queued), 0);
    }
}

/// The bytes of the store's packs that the system has.
fn written(store: &Path) -> Vec<u8> {
    let files =
        std::fs::read_dir(store.join("packs")).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.flatten().collect()
}

#[test]
fn content_that_is_said_to_be_here_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (mut made, author) = created();
    let share = open(dir.path(), &made, &Arc::new(Told::default()));
    let bytes = b"what only this process has had so far";
    let elsewhere = Store::open(&dir.path().join("elsewhere"), StoreOptions::default()).unwrap();
    let content = elsewhere.put_bytes(bytes).unwrap();
    share.receive(&author, change(&mut made.replica, 1, content)).unwrap();
    assert_eq!(share.holding().missing_files, 1);
    share.store().put_bytes(bytes).unwrap();
    share.arrived(&content);
    let has = || written(&dir.path().join("store")).windows(bytes.len()).any(|part| part == bytes);
    assert!(!has(), "the store gathers what it writes");
    assert_eq!(share.holding().missing_files, 0);
    assert!(has(), "killed now, this device would lack what it said that it has");
}

/// Records that no honest device makes, and those that this program does not know, each as `check` is to tell of it.
mod bad_records {
    use crdtfs_core::document::{Filed, Schema};
    use crdtfs_core::envelope::{self, Draft};
    use crdtfs_core::id::RecordId;
    use crdtfs_core::record::{Content, Family, Place, Record};
    use crdtfs_testkit::records;

    use super::*;

    fn place(n: u8, inode: u8, parent: InodeId, kind: Kind) -> Record {
        let place = records::place(n, parent, &format!("x{n}"), kind);
        Record::Place(Place { inode: records::inode(inode), ..place })
    }

    fn content(n: u8, replaces: Vec<RecordId>) -> Record {
        Record::Content(Content { replaces, ..records::content(n, &[n]) })
    }

    fn filed(record: &Record) -> Filed {
        Filed::new(record.encode()).unwrap().0
    }

    /// What a program would file that does not look at what it files.
    fn raw(n: u8, bytes: Vec<u8>) -> Filed {
        Filed { family: Family::Place, subject: [n; 16], id: RecordId::of(&bytes), bytes }
    }

    /// The creator's next change, of these records.
    fn forge(creator: &Replica, records: Vec<Filed>) -> (u64, Vec<u8>) {
        let (seq, start_op, deps) = creator.chains().next(&creator.actor());
        let draft = Draft {
            epoch: 0,
            incarnation: Incarnation([1; 16]),
            membership: creator.membership().heads(),
            seq,
            start_op,
            deps,
            time_ms: 0,
            records,
        };
        let share = creator.share();
        (seq, envelope::seal(&Key::new(&[1; 32]), &share, &Schema::new(&share), draft).unwrap().0)
    }

    #[test]
    fn are_told_by_check() {
        let dir = tempfile::tempdir().unwrap();
        let (made, author) = created();
        let share = open(dir.path(), &made, &Arc::new(Told::default()));
        assert_eq!(share.check(false, &mut |_| ()).unwrap(), vec![]);
        let file = place(1, 1, InodeId::ROOT, Kind::File);
        let of_file = content(1, Vec::new());
        let cases = [
            ("a missing parent", place(2, 2, InodeId([77; 16]), Kind::File), "a directory that is not known"),
            ("a self-parent", place(3, 3, InodeId([3; 16]), Kind::Dir), "a directory into itself"),
            ("a place below a file", place(4, 4, InodeId([1; 16]), Kind::File), "below what is no directory"),
            ("content for no inode", content(5, Vec::new()), "an inode without a name"),
            ("replaces of another id", content(6, vec![filed(&of_file).id]), "replaces a record of something else"),
            ("two kinds for one inode", place(7, 6, InodeId::ROOT, Kind::Dir), "another kind of an inode"),
        ];
        let mut records = vec![filed(&file), filed(&of_file), filed(&place(6, 6, InodeId::ROOT, Kind::File))];
        records.extend([2, 3, 4].map(|n| filed(&content(n, Vec::new()))));
        records.extend(cases.iter().map(|(_, record, _)| filed(record)));
        let newer = [raw(8, vec![9, 0, 1]), raw(9, vec![9, 0, 2])];
        records.extend(newer.clone());
        share.receive(&author, vec![forge(&made.replica, records).1]).unwrap();
        let told = share.check(false, &mut |_| ()).unwrap();
        let says = |words: &[&str]| told.iter().any(|finding| words.iter().all(|word| finding.message.contains(word)));
        for (case, record, words) in &cases {
            // Of two kinds the record with the least id says which: the other one is told.
            let id = filed(record).id.to_string();
            let id = if *case == "two kinds for one inode" { "the record" } else { &id };
            assert!(says(&[id, words]), "{case}: {told:#?}");
        }
        assert!(says(&["2 records of one", "format 9", "newer crdtfs", "nothing is damaged"]), "{told:#?}");
        assert_eq!(told.len(), cases.len() + 1, "each once: {told:#?}");
    }

    #[test]
    fn that_do_not_read_are_not_taken_and_told_should_they_lie_there() {
        let dir = tempfile::tempdir().unwrap();
        let (made, author) = created();
        let share = open(dir.path(), &made, &Arc::new(Told::default()));
        let mut named = place(1, 1, InodeId::ROOT, Kind::File).encode();
        let at = named.windows(2).position(|pair| pair == b"x1").unwrap();
        named[at..at + 2].copy_from_slice(b"..");
        for (n, bytes) in [vec![1, 0, 0xff], named].into_iter().enumerate() {
            let (seq, forged) = forge(&made.replica, vec![raw(1, bytes)]);
            share.receive(&author, vec![forged.clone()]).unwrap_err();
            assert!(share.log().get(&made.replica.actor(), seq).unwrap().is_none(), "it changed nothing");
            share.log().append(&ActorId([u8::try_from(n).unwrap(); 32]), 1, &forged).unwrap();
            let told = share.check(false, &mut |_| ()).unwrap();
            assert_eq!(told.len(), n + 1, "{told:?}");
            assert!(told[n].message.contains("change 1 of") && told[n].message.contains("not a record"), "{told:?}");
        }
    }
}
