#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::key::Key;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::replica::Created;
use crdtfs_store::{Store, StoreOptions};

use super::*;
use crate::registry::ShareDir;
use crate::retention::HistoryOptions;
use crate::share::{Events, Parts};
use crate::space::Space;

/// Counts how often all sessions are told to look what is to be said.
#[derive(Default)]
struct Told(AtomicUsize);

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
fn open(state: &Path, made: &Created, told: &Arc<Told>) -> Arc<Share> {
    let dir = ShareDir::create(state, &made.replica.share()).unwrap();
    dir.write_genesis(&made.genesis).unwrap();
    dir.write_membership(&made.membership).unwrap();
    let parts = Parts {
        key: Key::new(&[7; 32]),
        name: "two".to_owned(),
        store: Store::open(&state.join("store"), StoreOptions::default()).unwrap(),
        source: Arc::new(NoSource),
        space: Arc::new(Space::new(state.to_owned())),
        events: told.clone(),
        history: HistoryOptions::default(),
    };
    Share::open(made.replica.share(), dir, parts).unwrap()
}

/// A change by the share's creator that makes an entry of this content.
fn change(replica: &mut Replica, n: u8, content: crdtfs_core::content::ContentRef) -> Vec<Vec<u8>> {
    let node = NewNode { content, ..NewNode::new(Kind::File, 0o644) };
    let name = Name::try_from(format!("file {n}").as_str()).unwrap();
    let op = Op::Create { dir: InodeId::ROOT, name, inode: InodeId([n; 16]), place: PlaceId([n; 16]), node };
    replica.apply(&op, 0).unwrap();
    std::iter::from_fn(|| replica.commit(0).unwrap()).map(|change| change.envelope).collect()
}

fn created() -> (Created, DeviceId) {
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
