//! A folder that is not where it was: nothing counts as deleted, it is noticed without being told, and nothing holds it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crdtfs_core::node::Kind;
use crdtfs_testkit::MemoryShare;

use crate::disk::Root;
use crate::folder_test::{Side, meet, tree};
use crate::presenter::goes_on;
use crate::state::StateDb;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn why_it_ended(side: &Side) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(why) = side.shown.as_ref().unwrap().ended() {
            return why;
        }
        assert!(Instant::now() < deadline, "the end is not noticed");
        std::thread::yield_now();
    }
}

fn point(link: &Path, to: &str) {
    fs::remove_file(link).unwrap();
    symlink(to, link).unwrap();
}

/// A folder whose path is a link to the directory `one` beside it: where the link leads, no event tells of the folder.
fn linked() -> (Side, Side) {
    let mut a = Side::idle("one", 1);
    fs::rename(a.dir(), a.dir().with_file_name("one")).unwrap();
    symlink("one", a.dir()).unwrap();
    a.start();
    let mut b = Side::idle("two", 2);
    b.start();
    fs::create_dir(a.path("d")).unwrap();
    a.write("d/f", "f");
    a.write("d/g", "g");
    meet(&a, &b);
    (a, b)
}

#[test]
fn a_folder_that_is_replaced_where_no_event_tells_is_noticed_and_deletes_nothing() {
    let (mut a, b) = linked();
    let two = a.dir().with_file_name("two");
    fs::create_dir_all(two.join("d")).unwrap();
    fs::write(two.join("d/other"), "other").unwrap();
    let before = a.records();
    point(&a.dir(), "two");
    let why = why_it_ended(&a);
    assert!(why.contains("nothing counts as deleted") && why.contains("Put it back, and it goes on"), "{why}");
    let shown = a.shown.take().unwrap();
    assert!(shown.behind() && !shown.is_back() && !shown.settle(Instant::now() + PATIENCE));
    fs::remove_file(b.path("d/f")).unwrap();
    b.settle();
    MemoryShare::exchange(&a.share, &b.share);
    shown.stop().unwrap();
    assert!(!shown.is_back());
    assert_eq!(a.records(), before + 1, "only what the other did");
    assert_eq!(fs::read_dir(two.join("d")).unwrap().count(), 1, "what lies there is no folder of ours");
    point(&a.dir(), "one");
    assert!(shown.is_back());
    drop(shown);
    a.start();
    meet(&a, &b);
    assert_eq!(tree(&a.path("")), tree(&b.dir()));
    assert_eq!(tree(&b.dir()).into_keys().collect::<Vec<_>>(), ["d", "d/g"]);
}

/// Who asks in the instant after it was replaced is not told that all is well.
#[test]
fn a_look_finds_that_the_folder_is_not_there() {
    let (a, _b) = linked();
    let shown = a.shown.as_ref().unwrap();
    shown.look();
    assert_eq!(shown.ended(), None);
    fs::create_dir(a.dir().with_file_name("two")).unwrap();
    point(&a.dir(), "two");
    shown.look();
    assert!(shown.ended().is_some_and(|why| why.contains("is gone, was moved")), "{:?}", shown.ended());
    shown.stop().unwrap();
}

/// The disk that it lies on could not be unmounted.
#[test]
fn a_folder_that_is_stopped_is_held_by_nothing() {
    let mut a = Side::idle("one", 1);
    a.start();
    a.write("f", "f");
    a.settle();
    let dir = fs::canonicalize(a.dir()).unwrap();
    let held = || {
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        open.filter(|path| path.starts_with(&dir)).count()
    };
    assert!(held() > 0, "the test looks at the wrong place");
    a.stop();
    assert_eq!(held(), 0);
    // What only lies there can be read all the same, by whoever asks this device, and from nowhere else.
    let (_, synced, _) = StateDb::open(&a.dir().with_file_name("state").join("folder.redb")).unwrap();
    let key = synced.nodes().find(|(_, node)| node.kind == Kind::File).unwrap().1.key;
    let read = || a.share.open_file(key).map(|mut file| std::io::read_to_string(&mut file).unwrap());
    assert_eq!(read().unwrap(), "f");
    assert_eq!(held(), 0);
    fs::rename(a.dir(), a.dir().with_file_name("two")).unwrap();
    fs::create_dir(a.dir()).unwrap();
    a.write("f", "f");
    assert_eq!(read().unwrap_err().kind(), std::io::ErrorKind::NotFound, "another folder");
}

/// What could not be shown, or vanished, is tried again by itself: only what was there may come of that.
#[test]
fn another_directory_is_only_taken_if_somebody_asks() {
    let (mut a, _b) = linked();
    a.stop();
    let two = a.dir().with_file_name("two");
    fs::create_dir(&two).unwrap();
    fs::write(two.join("other"), "other").unwrap();
    point(&a.dir(), "two");
    let before = a.records();
    a.asked = false;
    let Err(error) = a.try_start() else { panic!("another directory was taken") };
    assert!(error.to_string().contains("is not the directory that was synced there"), "{error}");
    assert_eq!(fs::read_dir(&two).unwrap().count(), 1);
    assert_eq!(a.records(), before);
    point(&a.dir(), "one");
    a.start();
    a.stop();
    point(&a.dir(), "two");
    a.asked = true;
    a.start();
    a.settle();
    assert_eq!(tree(&two).into_keys().collect::<Vec<_>>(), ["d", "d/f", "d/g", "other"]);
}

/// On FUSE the roots of all filesystems look the same.
#[test]
fn where_a_root_has_no_identity_what_lies_there_tells_it() {
    let (mut a, _b) = linked();
    a.stop();
    let (_, synced, whose) = StateDb::open(&a.dir().with_file_name("state").join("folder.redb")).unwrap();
    let mut whose = whose.unwrap();
    whose.root.born = Default::default();
    whose.filesystem = Some(0);
    let one = Root::open(&a.dir()).unwrap();
    assert!(goes_on(&one, &synced, Some(whose), &whose, None).unwrap());
    fs::write(a.path("d/f"), "edited while nobody looked").unwrap();
    assert!(goes_on(&one, &synced, Some(whose), &whose, None).unwrap());
    let two = a.dir().with_file_name("two");
    fs::create_dir_all(two.join("d")).unwrap();
    fs::write(two.join("d/f"), "of another disk").unwrap();
    let two = Root::open(&two).unwrap();
    assert!(!goes_on(&two, &synced, Some(whose), &whose, None).unwrap());
}
