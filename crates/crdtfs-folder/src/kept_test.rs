//! What the folder takes away, or had taken when it ended, is nobody's loss; and it says so as long as something is undone.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crdtfs_core::id::{Hash, InodeId};
use crdtfs_core::name::Name;
use crdtfs_core::port::Tree;
use crdtfs_testkit::MemoryShare;

use crate::folder_test::{Side, meet, pair, tree};

fn inode(side: &Side, name: &str) -> InodeId {
    side.share.child(InodeId::ROOT, &Name::try_from(name).unwrap()).unwrap().inode
}

fn given_up(side: &Side) -> Vec<Hash> {
    side.share.given_up().iter().map(|content| content.hash).collect()
}

/// The text of the only conflict copy of a name.
fn copy_of(side: &Side, stem: &str) -> String {
    let names = tree(&side.dir()).into_keys().filter(|name| name.starts_with(&format!("{stem} (conflict ")));
    let names: Vec<String> = names.collect();
    assert_eq!(names.len(), 1, "{:#?}", tree(&side.dir()));
    side.read(&names[0])
}

#[test]
fn what_others_replace_or_remove_goes_to_the_store_first() {
    let (a, b) = pair();
    b.write("f", "\0first");
    b.write("over", "\0over");
    meet(&a, &b);
    b.write("f", "\0second");
    meet(&a, &b);
    assert_eq!(given_up(&a), [Hash::of(b"\0first")]);
    fs::rename(b.path("f"), b.path("over")).unwrap();
    meet(&a, &b);
    fs::remove_file(b.path("over")).unwrap();
    meet(&a, &b);
    let all = [&b"\0first"[..], b"\0over", b"\0second"].map(Hash::of);
    assert!(all.iter().all(|hash| given_up(&a).contains(hash)), "{:?}", given_up(&a));
    assert!(given_up(&b).is_empty(), "what its user does is its user's");
}

/// The engine ended between taking a file from its place and looking at it: the user had just written another.
#[test]
fn what_was_taken_aside_when_the_engine_ended_is_not_lost() {
    let (mut a, b) = pair();
    a.write("new", "\0as it was");
    a.write("edited", "\0as it was");
    a.write("same", "\0same");
    meet(&a, &b);
    let aside = |of: InodeId, n: u32| format!(".crdtfs-aside-{of}-1-{n}");
    let ids = ["new", "edited", "same"].map(|name| inode(&a, name));
    a.stop();
    // Another file, the same file with other bytes, and what was to go.
    a.write(&aside(ids[0], 1), "\0written anew");
    a.write("edited", "\0written over");
    fs::copy(a.path("edited"), a.path("put into place")).unwrap();
    fs::rename(a.path("edited"), a.path(&aside(ids[1], 2))).unwrap();
    fs::rename(a.path("put into place"), a.path("edited")).unwrap();
    a.write("edited", "\0as it was");
    fs::rename(a.path("same"), a.path(&aside(ids[2], 3))).unwrap();
    a.start();
    meet(&a, &b);
    for side in [&a, &b] {
        assert_eq!(copy_of(side, "new"), "\0written anew");
        assert_eq!(copy_of(side, "edited"), "\0written over");
        assert_eq!((side.read("new"), side.read("edited")), ("\0as it was".into(), "\0as it was".into()));
        let names: Vec<String> = tree(&side.dir()).into_keys().collect();
        assert!(!names.iter().any(|name| name.contains("same") || name.contains(".crdtfs")), "{names:?}");
    }
    assert_eq!(given_up(&a), [Hash::of(b"\0same")]);
}

/// Of a file whose directory is not known any more the root has what is left.
#[test]
fn what_was_taken_aside_from_an_unknown_place_is_in_the_root() {
    let (mut a, b) = pair();
    a.stop();
    a.write(".crdtfs-aside-nobody-knows", "words");
    a.start();
    meet(&a, &b);
    assert_eq!(copy_of(&b, "recovered"), "words");
}

#[test]
fn a_merge_that_is_not_decided_is_something_to_wait_for() {
    let (a, b) = pair();
    let lines = |first: &str, last: &str| format!("{first}\n{}{last}\n", "between\n".repeat(20));
    a.write("text", &lines("one", "last"));
    meet(&a, &b);
    a.write("text", &lines("ONE", "last"));
    b.write("text", &lines("one", "LAST"));
    a.settle();
    b.settle();
    b.share.pull_records(&a.share);
    let shown = b.shown.as_ref().unwrap();
    assert!(!shown.settle(Instant::now() + Duration::from_millis(300)) && shown.behind());
    b.share.pull_contents(&a.share);
    b.settle();
    assert_eq!(b.read("text"), lines("ONE", "LAST"));
}

/// Somebody tidied up: what was ready to be put into place is fetched again.
#[test]
fn a_temporary_file_that_vanished_is_fetched_again() {
    let (a, b) = pair();
    a.write("f", "\0one");
    meet(&a, &b);
    // A program has it open for writing, so that the next version has to wait.
    let open = fs::OpenOptions::new().append(true).open(a.path("f")).unwrap();
    b.write("f", "\0two");
    b.settle();
    MemoryShare::exchange(&a.share, &b.share);
    let waits = || {
        let names = fs::read_dir(a.dir()).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.to_string_lossy().contains(".crdtfs-tmp"))
    };
    let start = Instant::now();
    while a.problems().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    fs::remove_file(waits().unwrap()).unwrap();
    drop(open);
    a.settle();
    assert_eq!(a.read("f"), "\0two");
}

/// Each file is to have what another one has: nobody waits for the bytes that somebody else is about to lose.
#[test]
fn contents_that_change_places_hold_nobody_up() {
    let (a, b) = pair();
    let names = ["x", "y", "z"];
    for round in 0..6 {
        for (at, name) in names.iter().enumerate() {
            b.write(name, &format!("\0content {}", (at + round) % 3));
        }
        b.settle();
        MemoryShare::exchange(&a.share, &b.share);
        a.settle();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(a.read(name), format!("\0content {}", (at + round) % 3));
        }
    }
}

#[test]
fn what_directories_hand_down_is_carried_and_what_runs_as_somebody_is_not() {
    let (a, b) = pair();
    fs::create_dir(a.path("shared")).unwrap();
    fs::set_permissions(a.path("shared"), fs::Permissions::from_mode(0o3775)).unwrap();
    a.write("tool", "tool");
    meet(&a, &b);
    fs::set_permissions(a.path("tool"), fs::Permissions::from_mode(0o6755)).unwrap();
    meet(&a, &b);
    let mode = |side: &Side, name: &str| fs::metadata(side.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&b, "shared"), 0o3775);
    assert_eq!((mode(&a, "tool"), mode(&b, "tool")), (0o6755, 0o755));
    fs::set_permissions(b.path("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    meet(&a, &b);
    assert_eq!(mode(&a, "tool") & 0o777, 0o700);
}
