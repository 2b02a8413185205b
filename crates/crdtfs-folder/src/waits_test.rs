//! What the folder waits with, and what it says and does meanwhile: a file that somebody has open, names that look
//! temporary, a share that has no room.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Entry, Node};
use crdtfs_core::op::{Applied, Op, OpError};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_testkit::MemoryShare;

use crate::folder_test::{Side, meet, pair};

/// Long enough for everything to be looked at, and too short for what waits.
const LOOK: Duration = Duration::from_millis(400);

fn shown(side: &Side, name: &str) -> Option<Node> {
    side.share.child(InodeId::ROOT, &Name::try_from(name).unwrap())
}

/// Everything was looked at, and something is waited for.
#[track_caller]
fn waits(side: &Side) {
    let folder = side.shown.as_ref().unwrap();
    assert!(!folder.settle(Instant::now() + LOOK), "there is nothing to wait for");
}

#[test]
fn a_newer_version_waits_for_a_file_to_be_closed_and_says_so() {
    let (a, b) = pair();
    a.write("f", "one");
    a.write("gone", "one");
    meet(&a, &b);
    let open = ["f", "gone"].map(|name| OpenOptions::new().append(true).open(b.path(name)).unwrap());
    a.write("f", "second");
    fs::remove_file(a.path("gone")).unwrap();
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    // Told, and still so after everything was looked at again, twice.
    for _ in 0..2 {
        waits(&b);
        let said = b.problems();
        for name in ["f", "gone"] {
            assert!(said.get(name).is_some_and(|why| why.contains("open for writing")), "{said:?}");
            assert_eq!(b.read(name), "one");
        }
    }
    assert!(b.shown.as_ref().unwrap().behind());
    drop(open);
    b.settle();
    assert_eq!(b.read("f"), "second");
    assert!(!b.path("gone").exists());
    assert!(b.problems().is_empty(), "{:?}", b.problems());
}

#[test]
fn a_temporary_name_is_seen_by_nobody_unless_it_stays() {
    let (a, b) = pair();
    a.write("notes.txt", "one\n");
    meet(&a, &b);
    let before = shown(&a, "notes.txt").unwrap().inode;
    let records = a.share.records().len();

    // A lock, and a file that is renamed over another once it is written: looked at in between.
    a.write(".~lock.notes.txt#", "me");
    a.write("notes.txt.tmp", "two\n");
    waits(&a);
    assert_eq!(a.share.records().len(), records, "nothing is published");
    fs::rename(a.path("notes.txt.tmp"), a.path("notes.txt")).unwrap();
    fs::remove_file(a.path(".~lock.notes.txt#")).unwrap();
    a.settle();
    let after = shown(&a, "notes.txt").unwrap();
    assert_eq!((after.inode, a.share.records().len()), (before, records + 1), "one edit of what had the name");

    // Moved aside, looked at, written anew; the backup stays.
    fs::rename(a.path("notes.txt"), a.path("notes.txt~")).unwrap();
    waits(&a);
    assert_eq!(shown(&a, "notes.txt").unwrap().content, after.content, "it is not taken for deleted");
    a.write("notes.txt", "three\n");
    waits(&a);
    assert_eq!(shown(&a, "notes.txt").unwrap().inode, before, "at once");
    assert_eq!((shown(&a, "notes.txt~"), a.share.records().len()), (None, records + 2));
    // It is still there after a while: a file like any other.
    meet(&a, &b);
    assert_eq!((b.read("notes.txt"), b.read("notes.txt~")), ("three\n".into(), "two\n".into()));
}

#[test]
fn what_only_looks_temporary_is_published() {
    let (a, b) = pair();
    a.write("f", "one");
    meet(&a, &b);
    a.write("film.part", "whole");
    std::os::unix::fs::symlink("nowhere", a.path(".#link")).unwrap();
    fs::create_dir(a.path("dir.tmp")).unwrap();
    a.write("dir.tmp/f", "in it");
    fs::rename(a.path("f"), a.path("f~")).unwrap();
    meet(&a, &b);
    assert_eq!(
        (b.read("film.part"), b.read("dir.tmp/f"), b.read("f~")),
        ("whole".into(), "in it".into(), "one".into())
    );
    assert!(b.path(".#link").is_symlink() && !b.path("f").exists());
    // Known by now, it is edited like any other.
    a.write("film.part", "more of it");
    meet(&a, &b);
    assert_eq!(b.read("film.part"), "more of it");
}

/// A share with a disk that can be full.
struct Tight {
    share: Arc<MemoryShare>,
    full: AtomicBool,
}

impl Tree for Tight {
    fn keep_apart(&self, inode: InodeId) {
        self.share.keep_apart(inode);
    }

    fn node(&self, inode: InodeId) -> Option<Node> {
        self.share.node(inode)
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        self.share.child(dir, name)
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        self.share.entries(dir, after, limit)
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        self.share.names(inode)
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        if self.full.load(Ordering::SeqCst) { Err(OpError::NoSpace) } else { self.share.apply(by, op) }
    }

    fn fresh_id(&self) -> [u8; 16] {
        self.share.fresh_id()
    }

    fn sync(&self) -> io::Result<()> {
        self.share.sync()
    }

    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>> {
        self.share.subscribe(by)
    }

    fn totals(&self) -> (u64, u64) {
        self.share.totals()
    }

    fn writable(&self) -> bool {
        self.share.writable()
    }
}

#[test]
fn what_there_was_no_room_for_goes_in_once_there_is() {
    let (mut a, b) = pair();
    for name in ["edited", "removed", "moved", "x", "y"] {
        a.write(name, name);
    }
    meet(&a, &b);
    a.stop();
    let tight = Arc::new(Tight { share: a.share.clone(), full: AtomicBool::new(false) });
    a.try_start_on(tight.clone()).unwrap();
    a.settle();
    let records = a.share.records().len();
    tight.full.store(true, Ordering::SeqCst);
    a.write("new", "new");
    fs::create_dir_all(a.path("dir/below")).unwrap();
    a.write("dir/below/f", "below");
    OpenOptions::new().append(true).open(a.path("edited")).unwrap().write_all(b" more").unwrap();
    fs::remove_file(a.path("removed")).unwrap();
    fs::rename(a.path("moved"), a.path("to")).unwrap();
    fs::rename(a.path("x"), a.path("t")).unwrap();
    fs::rename(a.path("y"), a.path("x")).unwrap();
    fs::rename(a.path("t"), a.path("y")).unwrap();
    for _ in 0..2 {
        waits(&a);
        let said = a.problems();
        for name in ["new", "dir", "edited", "removed", "to", "x", "y"] {
            assert!(said.get(name).is_some_and(|why| why.contains("Free some space")), "{name}: {said:#?}");
        }
        assert!(a.shown.as_ref().unwrap().behind());
    }
    assert_eq!(a.share.records().len(), records);
    assert_eq!((a.read("to"), a.read("x"), a.path("removed").exists()), ("moved".into(), "y".into(), false));
    tight.full.store(false, Ordering::SeqCst);
    meet(&a, &b);
    assert!(a.problems().is_empty() && !a.shown.as_ref().unwrap().behind(), "{:#?}", a.problems());
    for (name, text) in
        [("new", "new"), ("dir/below/f", "below"), ("edited", "edited more"), ("to", "moved"), ("x", "y"), ("y", "x")]
    {
        assert_eq!(b.read(name), text);
    }
    assert!(!b.path("removed").exists() && !b.path("moved").exists());
}
