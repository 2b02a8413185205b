//! Whole folders over shares in memory: what a user does in one directory is in the other, and nothing is lost.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crdtfs_core::id::{InodeId, ShareId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_engine::present::{PresentError, PresentOptions, Presented, Presenter, SharePorts};
use crdtfs_testkit::MemoryShare;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tempfile::TempDir;

use crate::FolderPresenter;
use crate::crash;
use crate::disk::{Left, Root};
use crate::state::StateDb;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Side {
    tmp: TempDir,
    pub(crate) share: Arc<MemoryShare>,
    pub(crate) shown: Option<Box<dyn Presented>>,
    options: PresentOptions,
    /// See [`SharePorts`].
    pub(crate) asked: bool,
}

impl Side {
    pub(crate) fn idle(device: &str, seed: u64) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("files")).unwrap();
        fs::create_dir(tmp.path().join("state")).unwrap();
        Self {
            tmp,
            share: MemoryShare::new(device, seed),
            shown: None,
            options: PresentOptions::default(),
            asked: true,
        }
    }

    fn new(device: &str, seed: u64) -> Self {
        let mut side = Self::idle(device, seed);
        side.start();
        side
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.tmp.path().join("files")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir().join(path)
    }

    pub(crate) fn try_start(&mut self) -> Result<(), PresentError> {
        self.try_start_on(self.share.clone())
    }

    /// From the next start on it takes nothing from its user.
    pub(crate) fn only_receives(&mut self) {
        self.options.read_only = true;
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.tmp.path().join("state/folder.redb")
    }

    /// On a tree that is not just the share.
    pub(crate) fn try_start_on(&mut self, tree: Arc<dyn Tree>) -> Result<(), PresentError> {
        let ports = SharePorts {
            share: ShareId([7; 32]),
            adapter: Adapter(1),
            tree,
            content: self.share.clone(),
            device_name: "test".into(),
            state: self.tmp.path().join("state"),
            asked: self.asked,
            progressed: Arc::new(|| ()),
        };
        self.shown = Some(FolderPresenter.present(ports, &self.dir(), &self.options)?);
        Ok(())
    }

    pub(crate) fn start(&mut self) {
        self.try_start().unwrap();
    }

    /// Takes what another side has, and is killed after so many steps on the disk.
    pub(crate) fn crash_with(&mut self, steps: i64, other: &Self) {
        let fuse = crash::fuse_of(&self.dir());
        fuse.store(steps, Ordering::SeqCst);
        MemoryShare::exchange(&other.share, &self.share);
        self.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_millis(300));
        drop(self.shown.take());
        fuse.store(-1, Ordering::SeqCst);
    }

    pub(crate) fn stop(&mut self) {
        self.shown.take().unwrap().stop().unwrap();
    }

    pub(crate) fn settle(&self) {
        let shown = self.shown.as_ref().unwrap();
        assert!(shown.settle(Instant::now() + PATIENCE), "settles; {:?} {:?}", shown.problems(), shown.ended());
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}; {:#?}", tree(&self.dir())))
    }

    /// As after another mount of a filesystem whose numbers do not last.
    pub(crate) fn forget_numbers(&self) {
        let (mut db, mut synced, _) = StateDb::open(&self.state_file()).unwrap();
        synced.forget_numbers();
        synced.changed.nodes = synced.nodes().map(|(id, _)| *id).collect();
        db.save(&mut synced, None).unwrap();
    }

    /// The folder was left otherwise than it was.
    fn say_left(&self, otherwise: impl FnOnce(&mut Left)) {
        let (mut db, mut synced, _) = StateDb::open(&self.state_file()).unwrap();
        let mut left = db.left().unwrap().expect("it was written down");
        otherwise(&mut left);
        synced.changed.nodes = synced.nodes().map(|(id, _)| *id).collect();
        db.save(&mut synced, Some(left)).unwrap();
    }

    fn ino(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.path(path)).unwrap().ino()
    }

    pub(crate) fn problems(&self) -> BTreeMap<String, String> {
        self.shown.as_ref().unwrap().problems().into_iter().map(|p| (p.path, p.message)).collect()
    }

    pub(crate) fn records(&self) -> usize {
        self.share.records().len()
    }
}

/// Everything in a directory: path to what is there.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let meta = entry.path().symlink_metadata().unwrap();
            let mode = meta.permissions().mode() & 0o777;
            if meta.is_dir() {
                found.insert(path.clone(), format!("dir {mode:o}"));
                walk(&entry.path(), &format!("{path}/"), found);
            } else if meta.is_symlink() {
                found.insert(path, format!("link {}", fs::read_link(entry.path()).unwrap().display()));
            } else if meta.is_file() {
                let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
                let mtime = (meta.mtime(), meta.mtime_nsec());
                found.insert(path, format!("file {mode:o} {} {mtime:?} {text}", meta.nlink()));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, "", &mut found);
    found
}

/// Everything in the view: path to what is there.
fn viewed(side: &Side) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(InodeId::ROOT, String::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for entry in side.share.entries(dir, None, usize::MAX) {
            let path = format!("{prefix}{}", entry.name);
            let node = side.share.node(entry.inode).unwrap();
            let what = match node.kind {
                Kind::Dir => {
                    todo.push((entry.inode, format!("{path}/")));
                    "dir".to_owned()
                }
                Kind::Symlink => format!("link {}", String::from_utf8_lossy(&node.target)),
                _ => format!("file {}", String::from_utf8_lossy(&side.share.bytes(&node.content).unwrap())),
            };
            found.insert(path, what);
        }
    }
    found
}

/// Until both have all and show it.
pub(crate) fn meet(a: &Side, b: &Side) {
    for _ in 0..4 {
        let before = (a.records(), b.records());
        a.settle();
        b.settle();
        MemoryShare::exchange(&a.share, &b.share);
        a.settle();
        b.settle();
        if before == (a.records(), b.records()) && a.records() == b.records() {
            break;
        }
    }
    assert_eq!(viewed(a), viewed(b), "the views agree");
    for side in [a, b] {
        let shown: BTreeMap<String, String> = tree(&side.dir())
            .into_iter()
            .map(|(p, v)| (p, v.rsplit_once(") ").map_or(v.clone(), |v| v.1.into())))
            .collect();
        let viewed = viewed(side);
        let differ: Vec<_> = viewed
            .iter()
            .filter(|(p, v)| v.starts_with("file ") && shown.get(*p) != Some(&v[5..].to_owned()))
            .collect();
        assert!(
            differ.is_empty() && shown.keys().eq(viewed.keys()),
            "{} {differ:?} shown {shown:#?} viewed {viewed:#?}",
            side.dir().display()
        );
    }
    assert_eq!(tree(&a.dir()), tree(&b.dir()));
    assert!(!tree(&a.dir()).keys().any(|p| p.contains(".crdtfs-")), "{:#?}", tree(&a.dir()));
}

pub(crate) fn pair() -> (Side, Side) {
    (Side::new("one", 1), Side::new("two", 2))
}

/// The store finds an edit of a large file much sooner, and sends less of it, if it knows what the file was before.
#[test]
fn what_a_file_held_before_is_known_when_it_is_read_again() {
    let mut side = Side::new("a", 77);
    let content = |side: &Side, path: &str| {
        let name = Name::try_from(path).unwrap();
        side.share.child(InodeId::ROOT, &name).unwrap().content
    };
    side.write("f", "one");
    side.settle();
    let one = content(&side, "f");
    assert_eq!(side.share.likes(), [None]);
    side.write("f", "one and more");
    side.settle();
    let more = content(&side, "f");
    // Edited and renamed while nobody looks.
    side.stop();
    side.write("f", "other");
    fs::rename(side.path("f"), side.path("g")).unwrap();
    side.start();
    side.settle();
    let other = content(&side, "g");
    // Another file takes its place.
    side.write("new", "another");
    fs::rename(side.path("new"), side.path("g")).unwrap();
    side.settle();
    let likes = side.share.likes();
    assert_eq!(&likes[..3], &[None, Some(one), Some(more)]);
    assert!(likes[3..].contains(&Some(other)), "{likes:?}");
}

#[test]
fn what_is_made_on_one_side_is_on_the_other() {
    let (a, b) = pair();
    fs::create_dir_all(a.path("d/e")).unwrap();
    fs::create_dir(a.path("empty")).unwrap();
    a.write("d/e/f.txt", "hello\n");
    a.write("x", "");
    fs::set_permissions(a.path("x"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("../somewhere/else", a.path("d/link")).unwrap();
    fs::hard_link(a.path("d/e/f.txt"), a.path("hard")).unwrap();
    rustix::fs::setxattr(a.path("x"), "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    meet(&a, &b);
    assert_eq!(b.read("hard"), "hello\n");
    assert_eq!(b.ino("hard"), b.ino("d/e/f.txt"));
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(b.path("x"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..len], b"red");
    assert!(b.path("empty").is_dir());
    assert_eq!(a.problems(), BTreeMap::new());
}

#[test]
fn changes_go_both_ways() {
    let (a, b) = pair();
    fs::create_dir(a.path("d")).unwrap();
    a.write("d/f", "one\n");
    a.write("g", "g\n");
    meet(&a, &b);
    b.write("d/f", "one\ntwo\n");
    fs::remove_file(b.path("g")).unwrap();
    fs::set_permissions(b.path("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    meet(&a, &b);
    assert_eq!(a.read("d/f"), "one\ntwo\n");
    assert!(!a.path("g").exists());
    fs::remove_dir_all(a.path("d")).unwrap();
    meet(&a, &b);
    assert_eq!(tree(&b.dir()), BTreeMap::new());
}

#[test]
fn changes_are_seen_without_being_asked_for() {
    let (a, b) = pair();
    a.write("f", "x");
    let deadline = Instant::now() + PATIENCE;
    while !b.path("f").exists() {
        assert!(Instant::now() < deadline, "f does not come");
        MemoryShare::exchange(&a.share, &b.share);
        std::thread::yield_now();
    }
}

#[test]
fn a_renamed_directory_is_one_operation_and_no_new_file() {
    let (a, b) = pair();
    fs::create_dir_all(a.path("tree/sub")).unwrap();
    for i in 0..300 {
        a.write(&format!("tree/sub/f{i}"), &format!("{i}\n"));
    }
    meet(&a, &b);
    let (before, ino) = (a.records(), b.ino("tree/sub/f7"));
    fs::rename(a.path("tree"), a.path("moved")).unwrap();
    meet(&a, &b);
    assert_eq!(a.records(), before + 1);
    assert_eq!(b.ino("moved/sub/f7"), ino);
    // And what happens below it afterwards is seen.
    a.write("moved/sub/new", "n");
    b.write("moved/sub/f7", "changed\n");
    meet(&a, &b);
    assert_eq!(b.read("moved/sub/new"), "n");
}

#[test]
fn swaps_chains_and_moves_between_directories_come_out_right() {
    let (a, b) = pair();
    fs::create_dir_all(a.path("d/inner")).unwrap();
    for name in ["x", "y", "p", "q", "r", "d/k"] {
        a.write(name, &format!("{name}\n"));
    }
    meet(&a, &b);
    let inos: Vec<u64> = ["x", "y", "p", "q", "r"].iter().map(|n| b.ino(n)).collect();
    let mv = |from: &str, to: &str| fs::rename(a.path(from), a.path(to)).unwrap();
    mv("x", "t");
    mv("y", "x");
    mv("t", "y");
    mv("r", "s");
    mv("q", "r");
    mv("p", "q");
    mv("d/inner", "inner");
    mv("d", "inner/d");
    meet(&a, &b);
    assert_eq!((b.read("x"), b.read("y")), ("y\n".into(), "x\n".into()));
    assert_eq!((b.read("q"), b.read("r"), b.read("s")), ("p\n".into(), "q\n".into(), "r\n".into()));
    let now: Vec<u64> = ["y", "x", "q", "r", "s"].iter().map(|n| b.ino(n)).collect();
    assert_eq!(now, inos);
    assert_eq!(b.read("inner/d/k"), "d/k\n");
}

#[test]
fn saving_by_rename_is_an_edit() {
    let (a, b) = pair();
    a.write("f", "one\n");
    meet(&a, &b);
    a.write(".f.tmp", "two\n");
    fs::rename(a.path(".f.tmp"), a.path("f")).unwrap();
    b.write("f", "zero\none\n");
    meet(&a, &b);
    let all: String = tree(&a.dir()).into_values().collect();
    assert!(all.contains("two") && all.contains("zero"), "{all}");
}

#[test]
fn edits_on_both_sides_are_both_kept() {
    let (a, b) = pair();
    fs::write(a.path("bin"), b"\0base").unwrap();
    a.write("text", "1\n2\n3\n4\n5\n6\n7\n");
    meet(&a, &b);
    fs::write(a.path("bin"), b"\0from a").unwrap();
    fs::write(b.path("bin"), b"\0from b").unwrap();
    a.write("text", "first\n1\n2\n3\n4\n5\n6\n7\n");
    b.write("text", "1\n2\n3\n4\n5\n6\n7\nlast\n");
    meet(&a, &b);
    assert_eq!(a.read("text"), "first\n1\n2\n3\n4\n5\n6\n7\nlast\n");
    let all: String = tree(&b.dir()).into_values().collect();
    assert!(all.contains("from a") && all.contains("from b"), "{:#?}", tree(&b.dir()));
    assert_eq!(tree(&a.dir()).len(), 3);
}

#[test]
fn an_edit_survives_a_delete_and_a_rename_elsewhere() {
    let (a, b) = pair();
    fs::create_dir(a.path("d")).unwrap();
    for name in ["d/edited", "renamed", "gone"] {
        a.write(name, "base\n");
    }
    meet(&a, &b);
    fs::remove_dir_all(a.path("d")).unwrap();
    b.write("d/edited", "base\nmore\n");
    fs::rename(a.path("renamed"), a.path("other")).unwrap();
    b.write("renamed", "base\nagain\n");
    fs::remove_file(a.path("gone")).unwrap();
    fs::remove_file(b.path("gone")).unwrap();
    meet(&a, &b);
    assert_eq!(a.read("d/edited"), "base\nmore\n");
    assert_eq!(a.read("other"), "base\nagain\n");
    assert!(!a.path("renamed").exists() && !b.path("gone").exists());
}

#[test]
fn a_name_taken_unseen_is_not_taken_away() {
    let (a, b) = pair();
    a.write("n", "from a\n");
    a.settle();
    b.write("n", "from b\n");
    // The other's file is in the view before b's was looked at.
    MemoryShare::exchange(&a.share, &b.share);
    meet(&a, &b);
    let all: String = tree(&b.dir()).into_values().collect();
    assert!(all.contains("from a") && all.contains("from b"), "{all}");
    assert_eq!(tree(&a.dir()).len(), 2);
    is_a_conflict(&b);
}

/// Of two that are there the one is told to be the conflict copy of the other.
fn is_a_conflict(side: &Side) {
    let told = side.share.with_view(|view| view.conflicts());
    let [conflict] = &told[..] else { panic!("{told:?}") };
    let inodes = ["n", std::str::from_utf8(conflict.name.as_bytes()).unwrap()].map(|name| {
        let name = Name::try_from(name).unwrap();
        side.share.child(InodeId::ROOT, &name).unwrap().inode
    });
    assert_eq!((conflict.holder, conflict.inode), (Some(inodes[0]), inodes[1]), "{told:?}");
}

#[test]
fn a_file_moved_to_a_name_that_was_taken_unseen_is_a_conflict_with_what_has_it() {
    let (a, b) = pair();
    b.write("moved", "from b\n");
    meet(&a, &b);
    a.write("n", "from a\n");
    a.settle();
    fs::rename(b.path("moved"), b.path("n")).unwrap();
    MemoryShare::exchange(&a.share, &b.share);
    meet(&a, &b);
    assert_eq!(tree(&a.dir()).len(), 2);
    is_a_conflict(&b);
}

#[test]
fn a_directory_made_under_a_name_that_a_file_took_unseen_has_it() {
    let (a, b) = pair();
    a.write("n", "from a\n");
    a.settle();
    fs::create_dir(b.path("n")).unwrap();
    b.write("n/in", "from b\n");
    MemoryShare::exchange(&a.share, &b.share);
    meet(&a, &b);
    assert_eq!(a.read("n/in"), "from b\n");
    assert_eq!(tree(&a.dir()).len(), 3);
    is_a_conflict(&b);
}

#[test]
fn joining_with_the_same_files_adopts_them() {
    let (mut a, mut b) = (Side::idle("one", 1), Side::idle("two", 2));
    for side in [&a, &b] {
        fs::create_dir_all(side.path("d/e")).unwrap();
        side.write("d/e/same", "same\n");
        side.write("d/other", if side.path("").starts_with(a.dir()) { "a\n" } else { "b\n" });
    }
    b.write("only", "b\n");
    a.start();
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    let ino = b.ino("d/e/same");
    b.start();
    meet(&a, &b);
    assert_eq!(b.ino("d/e/same"), ino);
    assert_eq!(a.read("only"), "b\n");
    // d, e, same, other, the other other, only
    assert_eq!(tree(&a.dir()).len(), 6, "{:#?}", tree(&a.dir()));
}

#[test]
fn directories_made_on_both_sides_are_one() {
    let (a, b) = pair();
    for (side, name) in [(&a, "a"), (&b, "b")] {
        fs::create_dir_all(side.path("d/e")).unwrap();
        side.write(&format!("d/e/{name}"), name);
        side.write("d/same", "same\n");
    }
    meet(&a, &b);
    assert_eq!(tree(&a.dir()).len(), 5, "{:#?}", tree(&a.dir()));
    a.write("d/e/later", "l");
    b.write("d/same", "same\nedited\n");
    meet(&a, &b);
    assert_eq!(b.read("d/e/later"), "l");
    assert_eq!(a.read("d/same"), "same\nedited\n");
}

#[test]
fn a_restart_resumes_and_makes_nothing_new() {
    let (mut a, b) = pair();
    fs::create_dir(a.path("d")).unwrap();
    a.write("d/f", "one\n");
    a.write("g", "g\n");
    meet(&a, &b);
    a.stop();
    let before = a.records();
    a.start();
    a.settle();
    assert_eq!(a.records(), before);
    a.stop();
    // Changed on both sides while it did not run.
    fs::rename(a.path("d"), a.path("e")).unwrap();
    b.write("d/f", "one\ntwo\n");
    fs::remove_file(a.path("g")).unwrap();
    b.settle();
    MemoryShare::exchange(&a.share, &b.share);
    a.start();
    meet(&a, &b);
    assert_eq!(b.read("e/f"), "one\ntwo\n");
    assert_eq!(tree(&b.dir()).len(), 2);
}

#[test]
fn what_is_ignored_stays_where_it_is() {
    let (a, b) = pair();
    a.write(".crdtfsignore", "*.o\n/out/\n");
    a.write("x.o", "object");
    fs::create_dir(a.path("out")).unwrap();
    a.write("out/f", "f");
    a.write("x.c", "source");
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    b.settle();
    assert_eq!(tree(&b.dir()).into_keys().collect::<Vec<_>>(), [".crdtfsignore", "x.c"]);
    assert!(a.path("out/f").exists() && a.path("x.o").exists());
}

#[test]
fn special_and_unreadable_files_are_reported_and_the_rest_syncs() {
    let (a, b) = pair();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        a.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    a.write("f", "f");
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    b.settle();
    assert_eq!(tree(&b.dir()).into_keys().collect::<Vec<_>>(), ["f"]);
    assert!(a.problems()["pipe"].contains("named pipe"), "{:?}", a.problems());
    fs::remove_file(a.path("pipe")).unwrap();
    a.settle();
    assert_eq!(a.problems(), BTreeMap::new());
}

#[test]
fn a_root_that_vanishes_deletes_nothing() {
    let (a, b) = pair();
    a.write("f", "f");
    meet(&a, &b);
    let before = a.records();
    fs::rename(a.dir(), a.tmp.path().join("elsewhere")).unwrap();
    fs::create_dir(a.dir()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while a.shown.as_ref().unwrap().ended().is_none() {
        assert!(Instant::now() < deadline, "the end is not noticed");
        std::thread::yield_now();
    }
    assert_eq!(a.records(), before);
}

/// Whoever removes everything while no engine runs, removed it.
#[test]
fn what_was_removed_from_a_folder_while_nobody_looked_is_gone_also_if_it_was_all() {
    let (mut a, b) = pair();
    a.write("f", "f");
    fs::create_dir(a.path("d")).unwrap();
    a.write("d/g", "g");
    meet(&a, &b);
    a.stop();
    fs::remove_file(a.path("f")).unwrap();
    fs::remove_dir_all(a.path("d")).unwrap();
    a.start();
    meet(&a, &b);
    assert_eq!(tree(&b.dir()), BTreeMap::new());
    // Nor is it in the way of what comes next.
    b.write("h", "h");
    meet(&a, &b);
    assert_eq!(a.read("h"), "h");
}

/// A disk that was put back from a copy of before anything was in the folder: it was changed last before the state was saved.
#[test]
fn a_folder_that_is_empty_as_it_was_before_is_filled_again() {
    let (mut a, b) = pair();
    a.write("f", "f");
    meet(&a, &b);
    a.stop();
    fs::remove_file(a.path("f")).unwrap();
    let changed = Root::open(&a.dir()).unwrap().meta().unwrap().stamp.ctime;
    a.say_left(|left| left.changed = Time { nanos: changed.nanos + 1, ..changed });
    // Killed before it has joined anew, it is not taken for emptied later, though the engine itself changed it meanwhile.
    let fuse = crash::fuse_of(&a.dir());
    for n in 0..12 {
        fuse.store(n, Ordering::SeqCst);
        let started = catch_unwind(AssertUnwindSafe(|| a.try_start().unwrap()));
        if started.is_ok() {
            a.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_millis(300));
        }
        drop(a.shown.take());
    }
    fuse.store(-1, Ordering::SeqCst);
    a.start();
    meet(&a, &b);
    assert_eq!(b.read("f"), "f");
}

#[test]
fn an_empty_folder_on_another_filesystem_is_filled() {
    let (mut a, b) = pair();
    a.write("f", "f");
    meet(&a, &b);
    a.stop();
    fs::remove_file(a.path("f")).unwrap();
    a.say_left(|left| left.filesystem ^= 1);
    a.start();
    meet(&a, &b);
    assert_eq!(b.read("f"), "f");
}

#[test]
fn an_empty_directory_in_the_place_of_the_folder_is_refused() {
    let (mut a, b) = pair();
    a.write("f", "f");
    meet(&a, &b);
    a.stop();
    // So that it cannot get the same number.
    fs::rename(a.dir(), a.tmp.path().join("elsewhere")).unwrap();
    fs::create_dir(a.dir()).unwrap();
    let refused = a.try_start().unwrap_err().to_string();
    assert!(refused.contains("is empty and not the directory that was synced before"), "{refused}");
    a.write("other", "other");
    a.start();
    meet(&a, &b);
    assert_eq!((&*b.read("f"), &*b.read("other")), ("f", "other"));
}

#[test]
fn a_folder_that_is_missing_is_not_made_anew_and_goes_on_when_it_is_back() {
    let (mut a, b) = pair();
    a.write("f", "f");
    meet(&a, &b);
    a.stop();
    let before = a.records();
    fs::rename(a.dir(), a.tmp.path().join("elsewhere")).unwrap();
    for _ in 0..2 {
        FolderPresenter.prepare(&a.dir(), &a.options, true).unwrap();
        let refused = a.try_start().unwrap_err().to_string();
        assert!(refused.contains("files is missing") && refused.contains("put it back"), "{refused}");
        assert!(!a.dir().exists(), "it would be in the way of what is put back");
    }
    fs::write(a.tmp.path().join("elsewhere/g"), "g").unwrap();
    fs::rename(a.tmp.path().join("elsewhere"), a.dir()).unwrap();
    FolderPresenter.prepare(&a.dir(), &a.options, true).unwrap();
    a.start();
    meet(&a, &b);
    assert_eq!((&*a.read("f"), &*b.read("f"), &*b.read("g")), ("f", "f", "g"));
    assert_eq!(a.records(), 2 * before, "nothing counts as deleted: one more file was made");
}

/// One in which nothing was ever synced has nothing that belongs there.
#[test]
fn a_known_folder_that_never_had_anything_is_made_again() {
    let (mut a, b) = pair();
    a.stop();
    fs::remove_dir(a.dir()).unwrap();
    FolderPresenter.prepare(&a.dir(), &a.options, true).unwrap();
    a.start();
    b.write("f", "f");
    meet(&a, &b);
    assert_eq!(a.read("f"), "f");
}

#[test]
fn two_engines_on_one_folder_are_refused() {
    let mut a = Side::new("one", 1);
    let first = a.shown.take();
    let error = a.try_start().unwrap_err().to_string();
    assert!(error.contains("already kept in sync"), "{error}");
    drop(first);
    a.try_start().unwrap();
}

#[test]
fn a_receiving_folder_reports_and_keeps_local_changes() {
    let (mut a, mut b) = (Side::idle("one", 1), Side::idle("two", 2));
    b.only_receives();
    a.start();
    b.start();
    a.write("f", "one\n");
    meet(&a, &b);
    b.write("f", "mine\n");
    b.write("new", "mine\n");
    b.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_secs(2));
    assert!(b.problems().contains_key("f") && b.problems().contains_key("new"), "{:?}", b.problems());
    a.write("f", "one\ntwo\n");
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    // It waits for the user; it does not settle, and does not overwrite.
    assert!(!b.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_secs(1)));
    assert_eq!(b.read("f"), "mine\n");
    assert_eq!(a.records(), b.records());
}

#[test]
fn what_cannot_be_a_folder_is_refused_with_a_sentence() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    fs::write(&file, "").unwrap();
    let options = PresentOptions::default();
    let refused = |path: &Path| FolderPresenter.prepare(path, &options, false).unwrap_err().to_string();
    assert!(refused(&file).contains("is a file, not a directory"));
    assert!(refused(&file.join("below")).contains("cannot be"));
    let kernels = refused(Path::new("/proc/self"));
    assert!(kernels.starts_with("/proc/self lies on a filesystem of type proc"), "{kernels}");
    let new = tmp.path().join("a/b");
    FolderPresenter.prepare(&new, &options, false).unwrap();
    assert!(new.is_dir());
}

#[test]
fn large_files_come_whole_and_do_not_hold_up_small_ones() {
    let (a, b) = pair();
    let big: Vec<u8> = (0..9_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(a.path("big"), &big).unwrap();
    a.write("small", "s");
    meet(&a, &b);
    assert_eq!(fs::read(b.path("big")).unwrap(), big);
    let mut edited = b"X".to_vec();
    edited.extend(&big);
    fs::write(b.path("big"), &edited).unwrap();
    meet(&a, &b);
    assert_eq!(fs::read(a.path("big")).unwrap(), edited);
}

#[test]
fn the_store_finds_every_file_by_its_key() {
    let (a, b) = pair();
    fs::create_dir(a.path("d")).unwrap();
    a.write("d/f", "one\n");
    meet(&a, &b);
    fs::rename(b.path("d"), b.path("e")).unwrap();
    meet(&a, &b);
    // Its key is of no other meaning than that it opens the file that was indexed or fetched.
    let keys = b.share.records().len();
    assert!(keys > 0);
    assert_eq!(b.read("e/f"), "one\n");
}

/// Both sides append lines to one file, all the time, while versions come and go.
#[test]
fn racing_local_edits_are_never_lost() {
    const ROUNDS: usize = 60;
    let (a, b) = pair();
    a.write("log", "start\n");
    meet(&a, &b);
    let append = |side: &Side, line: &str| {
        use std::io::Write;
        let file = fs::OpenOptions::new().append(true).create(true).open(side.path("log"));
        file.unwrap().write_all(line.as_bytes()).unwrap();
    };
    for i in 0..ROUNDS {
        if i % 3 == 0 {
            MemoryShare::exchange(&a.share, &b.share);
        }
        // Whatever a folder does next, publish a line or replace its file, the next lines come in the middle of it.
        let state = || [&a, &b].map(|side| (side.records(), side.ino("log")));
        let before = state();
        append(&a, &format!("a{i}\n"));
        append(&b, &format!("b{i}\n"));
        let deadline = Instant::now() + PATIENCE;
        while state() == before {
            assert!(Instant::now() < deadline, "line {i} is not published");
            std::thread::yield_now();
        }
    }
    meet(&a, &b);
    let mut lines: BTreeSet<String> = BTreeSet::new();
    for entry in fs::read_dir(a.dir()).unwrap() {
        lines.extend(fs::read_to_string(entry.unwrap().path()).unwrap().lines().map(str::to_owned));
    }
    for i in 0..ROUNDS {
        assert!(lines.contains(&format!("a{i}")) && lines.contains(&format!("b{i}")), "line {i} is lost");
    }
}

/// A user who does anything.
struct User<'a> {
    side: &'a Side,
    rng: &'a mut ChaCha12Rng,
    count: &'a mut u32,
    /// Words that must be somewhere at the end.
    alive: &'a mut BTreeSet<String>,
}

impl User<'_> {
    fn paths(&self) -> (Vec<String>, Vec<String>) {
        let all = tree(&self.side.dir());
        let is = |kind: &str| all.iter().filter(|(_, v)| v.starts_with(kind)).map(|(p, _)| p.clone()).collect();
        (is("file"), is("dir"))
    }

    fn new_path(&mut self, dirs: &[String]) -> String {
        let name = ["a", "b", "c", "d.txt"].choose(self.rng).unwrap();
        match dirs.choose(self.rng).filter(|_| self.rng.random_bool(0.7)) {
            Some(dir) => format!("{dir}/{name}"),
            None => (*name).to_owned(),
        }
    }

    fn words(&self, path: &str) -> Vec<String> {
        let text = fs::read(self.side.path(path)).unwrap_or_default();
        String::from_utf8_lossy(&text).split_whitespace().map(str::to_owned).collect()
    }

    fn write(&mut self, path: &str, atomic: bool) {
        if self.side.path(path).is_dir() {
            return;
        }
        *self.count += 1;
        let word = format!("w{:04}", self.count);
        // A binary: versions are kept side by side, so that each word is there or is not.
        let text = format!("\0 {word} ");
        let seen = self.words(path);
        let done = if atomic {
            let temp = self.side.path("save.tmp");
            fs::write(&temp, text).and_then(|()| fs::rename(&temp, self.side.path(path)))
        } else {
            fs::write(self.side.path(path), text)
        };
        if done.is_ok() {
            self.gone(seen);
            self.alive.insert(word);
        }
    }

    /// The user removed or replaced these, having seen them. (Another link may have them still, but somebody else may have
    /// removed just that one: unlink of one link ∥ unlink of the other is gone.)
    fn gone(&mut self, words: Vec<String>) {
        for word in words {
            self.alive.remove(&word);
        }
    }

    fn act(&mut self) {
        let (files, dirs) = self.paths();
        let file = files.choose(self.rng).cloned();
        let dir = dirs.choose(self.rng).cloned();
        let fresh = self.new_path(&dirs);
        let side = self.side;
        let what = self.rng.random_range(0..12);
        match (what, file, dir) {
            (0..=2, ..) => self.write(&fresh, false),
            (3, Some(file), _) => self.write(&file, false),
            (4, Some(file), _) => self.write(&file, true),
            (5, ..) => drop(fs::create_dir(side.path(&fresh))),
            (6, Some(file), _) => {
                let words = self.words(&fresh);
                if fs::rename(side.path(&file), side.path(&fresh)).is_ok() {
                    self.gone(words);
                }
            }
            (7, _, Some(dir)) => drop(fs::rename(side.path(&dir), side.path(&fresh))),
            (8, Some(file), _) => {
                let words = self.words(&file);
                fs::remove_file(side.path(&file)).unwrap();
                self.gone(words);
            }
            (9, _, Some(dir)) => {
                let below = files.iter().filter(|f| f.starts_with(&format!("{dir}/")));
                let words = below.flat_map(|f| self.words(f)).collect();
                fs::remove_dir_all(side.path(&dir)).unwrap();
                self.gone(words);
            }
            (10, Some(file), _) => {
                let mode = [0o600, 0o644, 0o755].choose(self.rng).unwrap();
                fs::set_permissions(side.path(&file), fs::Permissions::from_mode(*mode)).unwrap();
            }
            (11, Some(file), _) => drop(fs::hard_link(side.path(&file), side.path(&fresh))),
            _ => {}
        }
    }
}

/// Random users on both sides, meeting now and then, one of them sometimes killed in the middle of what it applies.
fn history(seed: u64, crashes: bool, anew: bool) {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let (mut a, mut b) = (Side::new("one", seed * 2 + 1), Side::new("two", seed * 2 + 2));
    let (mut alive, mut count) = (BTreeSet::new(), 0);
    for _ in 0..5 {
        for side in [&a, &b] {
            for _ in 0..rng.random_range(0..7) {
                User { side, rng: &mut rng, count: &mut count, alive: &mut alive }.act();
            }
            if rng.random_bool(0.5) {
                side.settle();
            }
        }
        let fuse = crash::fuse_of(&b.dir());
        if crashes {
            fuse.store(rng.random_range(0..12), Ordering::SeqCst);
        }
        MemoryShare::exchange(&a.share, &b.share);
        if crashes {
            b.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_millis(300));
            drop(b.shown.take());
            fuse.store(-1, Ordering::SeqCst);
            MemoryShare::exchange(&a.share, &b.share);
            b.start();
        }
        if anew {
            b.stop();
            b.forget_numbers();
            for _ in 0..rng.random_range(0..7) {
                User { side: &b, rng: &mut rng, count: &mut count, alive: &mut alive }.act();
            }
            b.start();
        }
        // What a user does while a newer version is put into place is another test's: here each knows what they saw.
        a.settle();
        b.settle();
    }
    meet(&a, &b);
    let text: String = tree(&a.dir()).into_values().collect();
    let lost: Vec<&String> = alive.iter().filter(|w| !text.contains(*w)).collect();
    assert!(lost.is_empty(), "seed {seed}: {lost:?} lost; {:#?}", tree(&a.dir()));
    a.stop();
    b.stop();
}

/// Which histories: `CRDTFS_FOLDER_SEEDS` (`FROM..TO`), else few.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let given = std::env::var("CRDTFS_FOLDER_SEEDS").ok();
    let range = given.as_deref().and_then(|r| r.split_once("..")).map(|(a, b)| a.parse().unwrap()..b.parse().unwrap());
    range.unwrap_or(0..few)
}

#[test]
fn random_histories_lose_nothing() {
    for seed in seeds(12) {
        history(seed, false, false);
    }
}

#[test]
fn random_histories_with_crashes_lose_nothing() {
    for seed in seeds(8) {
        history(seed + 100_000, true, false);
    }
}

#[test]
fn random_histories_lose_nothing_where_numbers_do_not_last() {
    for seed in seeds(12) {
        history(seed + 200_000, false, true);
    }
}
