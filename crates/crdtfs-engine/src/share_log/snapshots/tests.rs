#![allow(clippy::unwrap_used)]
use std::path::Path;

use crdtfs_core::content::ContentRef;
use crdtfs_core::replica::Replica;

use super::*;
use crate::share_log::tests::{Told, change, created, open};

fn began(share: &Share) -> (u64, Staged) {
    let began = share.begin_snapshot();
    (began, share.stage_snapshot(began).unwrap().unwrap())
}

fn snapshot(share: &Share) -> Option<Vec<u8>> {
    share.log().read_snapshot("document").unwrap()
}

fn begun(share: &Share) -> bool {
    share.snapshots.lock().thread.is_some()
}

/// Two copies of a device's state made a change each; one of them counts, whichever came first.
#[test]
fn what_is_dropped_while_a_snapshot_is_made_does_not_come_back_by_it() {
    let (mut one, author) = created();
    let (mut two, _) = created();
    let changes = [(1, &mut one), (2, &mut two)].map(|(n, made)| change(&mut made.replica, n, ContentRef::empty()));
    let run = |dir: &Path, first: usize| {
        let (made, _) = created();
        let share = open(dir, &made, &Arc::default());
        share.receive(&author, changes[first].clone()).unwrap();
        let (began, staged) = began(&share);
        share.receive(&author, changes[1 - first].clone()).unwrap();
        let dropped = share.voids.load(Ordering::Relaxed) != began;
        if dropped {
            assert_eq!(share.order.lock().since_snapshot, share.log().len(), "a new one has everything to take");
        }
        assert_eq!(share.place_snapshot(staged, began).unwrap(), !dropped);
        let heads = share.heads();
        share.close().unwrap();
        let log = share.dir().path().join("log");
        drop(share);
        // Another build of the program has no use for it.
        std::fs::remove_file(log.join("view.snap")).unwrap();
        assert_eq!(open(dir, &made, &Arc::default()).heads(), heads);
        (dropped, heads)
    };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let outcomes = [0, 1].map(|first| run(dirs[first].path(), first));
    assert_eq!(outcomes[0].1, outcomes[1].1);
    assert_eq!(outcomes.iter().filter(|(dropped, _)| *dropped).count(), 1);
}

#[test]
fn a_share_that_was_closed_gets_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut made, author) = created();
    let share = open(dir.path(), &made, &Arc::default());
    share.receive(&author, change(&mut made.replica, 1, ContentRef::empty())).unwrap();
    let (began, staged) = began(&share);
    share.close().unwrap();
    assert!(!share.place_snapshot(staged, began).unwrap());
    assert_eq!(snapshot(&share), None);
    share.order.lock().since_snapshot = SNAPSHOT_AFTER * 2;
    share.chores();
    assert!(!begun(&share));
}

#[test]
fn one_snapshot_is_made_at_a_time_of_all_shares() {
    let dir = tempfile::tempdir().unwrap();
    let (mut made, author) = created();
    let share = open(dir.path(), &made, &Arc::<Told>::default());
    share.receive(&author, change(&mut made.replica, 1, ContentRef::empty())).unwrap();
    share.order.lock().since_snapshot = SNAPSHOT_AFTER * 2;
    let turn = share.snapshot_turn.clone();
    let other = turn.lock();
    share.chores();
    assert!(!begun(&share));
    // As a thread that was begun at the same moment.
    share.make_snapshot();
    assert_eq!((snapshot(&share), share.order.lock().since_snapshot), (None, SNAPSHOT_AFTER * 2));
    drop(other);
    share.chores();
    let thread = share.snapshots.lock().thread.take();
    thread.unwrap().join().unwrap();
    assert!(snapshot(&share).is_some());
    assert_eq!(share.order.lock().since_snapshot, 0);
    assert_eq!(share.read(Replica::heads), made.replica.heads());
}
