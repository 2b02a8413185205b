//! Folders on filesystems whose numbers do not last: what was renamed while nobody watched is found out by reading.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::port::Tree;

use crate::folder_test::{Side, meet, pair, tree};
use crate::plan_test::state;
use crate::synced::SyncedTree;

/// Files of one length that were modified at one time.
fn alike(side: &Side, paths: &[&str]) {
    for path in paths {
        fs::create_dir_all(side.path(path).parent().unwrap()).unwrap();
        side.write(path, &format!("\0{path:<20}"));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        fs::File::options().write(true).open(side.path(path)).unwrap().set_modified(time).unwrap();
    }
}

fn holds(side: &Side, path: &str) -> String {
    side.read(path).trim_matches(['\0', ' ']).to_owned()
}

fn exchange(side: &Side, one: &str, other: &str) {
    for (from, to) in [(one, "between"), (other, one), ("between", other)] {
        fs::rename(side.path(from), side.path(to)).unwrap();
    }
}

#[test]
fn only_what_may_be_another_file_is_doubted() {
    let file = |n: u8, bytes: &[u8], secs, nanos| {
        let mut file = state(n, Kind::File);
        (file.stamp.size, file.stamp.mtime) = (bytes.len() as u64, Time { secs, nanos });
        file.content = ContentRef::single(bytes);
        file
    };
    let files = [
        file(1, b"one", 2, 0),
        file(2, b"two", 3, 700),
        file(3, b"three", 3, 0),
        file(4, b"one", 4, 0),
        file(5, b"one", 5, 0),
        file(6, b"", 2, 0),
        file(7, b"alone", 9, 0),
        file(8, b"new?", 9, 0),
        file(9, b"six", 6, 0),
    ];
    let mut synced = SyncedTree::default();
    let id = |n: usize| InodeId([n as u8 + 1; 16]);
    for (n, file) in files.iter().enumerate() {
        synced.set(id(n), file.clone());
    }
    let doubted = |synced: &SyncedTree| -> Vec<usize> {
        let doubted = |n: &usize| synced.node(id(*n)).is_some_and(|node| node.stamp.ident.is_doubted());
        (0..files.len()).filter(doubted).map(|n| n + 1).collect()
    };
    let found = [file(0, b"came", 8, 0).stamp.look()].into();
    synced.doubt(&found);
    assert_eq!(doubted(&synced), [0; 0], "numbers tell");
    synced.forget_numbers();
    synced.changed = Default::default();
    synced.doubt(&found);
    assert_eq!(doubted(&synced), [1, 2, 8], "of other times, lengths, or the same bytes are the others");
    assert_eq!(synced.changed.nodes.len(), 3);
    // Again, for all that is known of numbers, and with the other one gone.
    synced.forget_nameless(id(1));
    synced.forget_numbers();
    synced.doubt(&Default::default());
    assert_eq!(doubted(&synced), [1, 8], "once doubted, until it is read");
}

#[test]
fn what_looks_the_same_is_read_at_the_start() {
    let (a, mut b) = pair();
    alike(&a, &["x", "z", "y", "from", "to", "d1/f", "d2/f", "v1/f", "v1/s/g", "v2/f", "v2/s/g", "one", "two", "old"]);
    meet(&a, &b);
    let records = b.records();
    b.stop();
    b.forget_numbers();
    b.start();
    meet(&a, &b);
    assert_eq!(b.records(), records, "nothing comes of a start");

    b.stop();
    b.forget_numbers();
    exchange(&b, "x", "y");
    exchange(&b, "d1", "d2");
    fs::rename(b.path("from"), b.path("to")).unwrap();
    fs::remove_dir_all(b.path("v2")).unwrap();
    fs::rename(b.path("v1"), b.path("v2")).unwrap();
    let done = tree(&b.dir());
    b.start();
    meet(&a, &b);
    assert_eq!(tree(&b.dir()), done);
    let now = ["x", "y", "to", "d1/f", "v2/s/g", "one"].map(|path| holds(&a, path));
    assert_eq!(now, ["y", "x", "from", "d2/f", "v1/s/g", "one"]);
}

/// What is doubted stays so, whatever becomes of that which it could be taken for, until it is read.
#[test]
fn a_doubt_outlives_what_it_comes_from() {
    let (a, mut b) = pair();
    alike(&a, &["from", "to"]);
    meet(&a, &b);
    let made = fs::metadata(b.path("from")).unwrap().modified().unwrap();
    b.stop();
    b.forget_numbers();
    // Somebody writes to it, so that it cannot be read yet.
    fs::rename(b.path("from"), b.path("to")).unwrap();
    let open = fs::File::options().append(true).open(b.path("to")).unwrap();
    b.start();
    let deadline = Instant::now() + Duration::from_secs(30);
    while b.share.child(InodeId::ROOT, &"from".try_into().unwrap()).is_some() {
        assert!(Instant::now() < deadline, "the name that is gone is not given up");
        std::thread::yield_now();
    }
    drop(b.shown.take());
    drop(open);
    assert_eq!(fs::metadata(b.path("to")).unwrap().modified().unwrap(), made);
    b.forget_numbers();
    b.start();
    meet(&a, &b);
    assert_eq!(holds(&a, "to"), "from");
}

/// What the engine itself moved, and had not written down when it ended, is nobody's edit.
#[test]
fn a_crash_while_others_renames_are_applied() {
    for crash_at in 0..16 {
        let (a, mut b) = pair();
        alike(&a, &["x", "z", "y", "from", "to"]);
        meet(&a, &b);
        exchange(&a, "x", "y");
        fs::rename(a.path("from"), a.path("to")).unwrap();
        a.settle();
        let done = tree(&a.dir());
        b.crash_with(crash_at, &a);
        b.forget_numbers();
        b.start();
        meet(&a, &b);
        // What was on its way to a place may come back beside it.
        let mut now = tree(&a.dir());
        now.retain(|path, _| !path.contains(" (conflict "));
        assert_eq!(now, done, "after {crash_at} steps");
    }
}
