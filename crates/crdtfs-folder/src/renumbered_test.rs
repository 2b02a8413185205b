//! Directories with other numbers: copied back while nobody watched they are what they were; what was moved is moved.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::port::Tree;
use crdtfs_core::record::Record;
use crdtfs_testkit::MemoryShare;

use crate::disk::{Ident, Root};
use crate::folder_test::{Side, meet, pair, tree};
use crate::ignores::Ignores;
use crate::observe::{Dirty, Found, Observation, Observer};
use crate::plan_test::state;
use crate::state::StateDb;
use crate::synced::{Place, Synced, SyncedTree};
use crate::watch::Watcher;

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
    assert!(done.success(), "{} is not copied", from.display());
}

/// Everything in a directory is put back from a copy: the same, but for the numbers.
fn copied_back(dir: &Path) {
    let bk = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    copy(dir, &bk.path().join("copy"));
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_dir = path.symlink_metadata().unwrap().is_dir();
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    copy(&bk.path().join("copy/."), dir);
}

fn id_of(side: &Side, path: &str) -> Option<InodeId> {
    path.split('/').try_fold(InodeId::ROOT, |dir, name| Some(side.share.child(dir, &name.try_into().unwrap())?.inode))
}

/// Both have what was done at `a`; `b` does not run.
fn told(a: &Side, b: &Side) -> usize {
    a.settle();
    MemoryShare::exchange(&a.share, &b.share);
    a.records()
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// What the pair of the tests below begins with, and how it is changed at `a` while `b` does not run.
fn begin() -> (Side, Side) {
    let (a, b) = pair();
    fs::create_dir_all(a.path("p/q/r")).unwrap();
    fs::create_dir(a.path("empty")).unwrap();
    for dir in ["p/", "p/q/", "p/q/r/", ""] {
        for name in ["edited", "moved", "removed", "same"] {
            a.write(&format!("{dir}{name}"), &format!("{dir}{name}\n"));
        }
    }
    symlink("elsewhere", a.path("p/link")).unwrap();
    symlink("elsewhere", a.path("link")).unwrap();
    fs::hard_link(a.path("p/same"), a.path("p/q/hard")).unwrap();
    meet(&a, &b);
    (a, b)
}

fn change(a: &Side) {
    for dir in ["p/", "p/q/", "p/q/r/", ""] {
        append(&a.path(&format!("{dir}edited")), "edited\n");
        fs::rename(a.path(&format!("{dir}moved")), a.path(&format!("{dir}elsewhere"))).unwrap();
        fs::remove_file(a.path(&format!("{dir}removed"))).unwrap();
    }
    append(&a.path("p/q/hard"), "by another name\n");
}

#[test]
fn what_was_copied_back_is_what_it_was() {
    let (a, mut b) = begin();
    b.stop();
    change(&a);
    let (records, done) = (told(&a, &b), tree(&a.dir()));
    copied_back(&b.dir());
    b.start();
    meet(&a, &b);
    assert_eq!(tree(&a.dir()), done);
    assert_eq!(
        a.records(),
        records,
        "nobody did anything to it: {:#?}",
        Record::decode(&a.share.records().last().unwrap().1)
    );
    // Nor is anything found at the next start, and what happens in it is seen.
    b.stop();
    b.start();
    b.settle();
    assert_eq!(b.records(), records);
    b.write("p/q/r/new", "new\n");
    meet(&a, &b);
    assert_eq!(a.read("p/q/r/new"), "new\n");
}

/// The whole of what was done while nobody watched is seen, beside the numbers.
#[test]
fn what_else_was_done_to_a_copy_is_done() {
    let (a, mut b) = begin();
    b.stop();
    let before = ["p", "p/q", "p/q/r"].map(|path| id_of(&a, path));
    copied_back(&b.dir());
    append(&b.path("p/q/edited"), "here\n");
    fs::remove_file(b.path("p/q/removed")).unwrap();
    fs::remove_dir(b.path("empty")).unwrap();
    fs::create_dir(b.path("p/q/new")).unwrap();
    b.write("p/q/new/f", "f\n");
    fs::rename(b.path("p/q/r/moved"), b.path("p/moved there")).unwrap();
    fs::set_permissions(b.path("p/q"), fs::Permissions::from_mode(0o750)).unwrap();
    let done = tree(&b.dir());
    b.start();
    meet(&a, &b);
    assert_eq!(tree(&a.dir()), done);
    assert_eq!(["p", "p/q", "p/q/r"].map(|path| id_of(&a, path)), before);
    assert_eq!(fs::metadata(a.path("p/q")).unwrap().mode() & 0o777, 0o750);
}

#[test]
fn a_directory_that_was_moved_and_has_a_copy_in_its_place_is_moved() {
    for to in ["p.old", "p/old", "empty/p"] {
        let (a, mut b) = begin();
        b.stop();
        let before = id_of(&a, "p");
        fs::rename(b.path("p"), b.path("between")).unwrap();
        copy(&b.path("between"), &b.path("p"));
        fs::rename(b.path("between"), b.path(to)).unwrap();
        append(&a.path("p/q/edited"), "edited\n");
        told(&a, &b);
        b.start();
        meet(&a, &b);
        assert_eq!(id_of(&a, to), before, "{to}");
        assert_ne!(id_of(&a, "p"), before, "{to}");
        assert_eq!(a.read(&format!("{to}/q/edited")), "p/q/edited\nedited\n");
        assert_eq!(a.read("p/q/edited"), "p/q/edited\n");
    }
}

#[test]
fn directories_that_changed_names_have_done_so() {
    let (a, mut b) = begin();
    fs::create_dir_all(a.path("x/q")).unwrap();
    a.write("x/q/in x", "x\n");
    meet(&a, &b);
    b.stop();
    let before = ["p", "x", "p/q", "x/q"].map(|path| id_of(&a, path));
    for (from, to) in [("p", "between"), ("x", "p"), ("between", "x")] {
        fs::rename(b.path(from), b.path(to)).unwrap();
    }
    // What lies in one of them was copied back.
    copied_back(&b.path("x"));
    append(&a.path("p/q/edited"), "edited\n");
    told(&a, &b);
    b.start();
    meet(&a, &b);
    assert_eq!(["x", "p", "x/q", "p/q"].map(|path| id_of(&a, path)), before);
    assert_eq!((&*a.read("x/q/edited"), &*a.read("p/q/in x")), ("p/q/edited\nedited\n", "x\n"));
    assert!(!tree(&a.dir()).keys().any(|path| path.contains("conflict")), "{:#?}", tree(&a.dir()));
}

#[test]
fn what_has_another_kind_or_target_is_another() {
    let (a, mut b) = begin();
    b.stop();
    let before = ["p/q", "p/link", "link", "p/same"].map(|path| id_of(&a, path));
    fs::remove_dir_all(b.path("p/q")).unwrap();
    symlink("r", b.path("p/q")).unwrap();
    fs::remove_file(b.path("p/link")).unwrap();
    symlink("nowhere", b.path("p/link")).unwrap();
    fs::remove_file(b.path("link")).unwrap();
    symlink("elsewhere", b.path("link")).unwrap();
    fs::remove_file(b.path("p/same")).unwrap();
    fs::create_dir(b.path("p/same")).unwrap();
    let done = tree(&b.dir());
    b.start();
    meet(&a, &b);
    assert_eq!(tree(&a.dir()), done);
    let now = ["p/q", "p/link", "link", "p/same"].map(|path| id_of(&a, path));
    let same: Vec<bool> = before.iter().zip(&now).map(|(before, now)| before == now).collect();
    assert_eq!(same, [false, false, true, false]);
}

#[test]
fn what_was_ignored_or_cannot_be_read_in_a_copy_stays_in_the_share() {
    let (a, mut b) = begin();
    b.write("p/.crdtfsignore", "moved\n/q/r/\n");
    meet(&a, &b);
    b.stop();
    let done = tree(&a.dir());
    copied_back(&b.dir());
    fs::remove_file(b.path("p/moved")).unwrap();
    fs::remove_dir_all(b.path("p/q/r")).unwrap();
    b.start();
    b.settle();
    MemoryShare::exchange(&a.share, &b.share);
    a.settle();
    assert_eq!(tree(&a.dir()), done);
}

/// One that only receives knows its directories again, too, also where what is otherwise is not taken from it.
#[test]
fn a_receiving_folder_that_was_copied_back_goes_on() {
    let (mut a, mut b) = (Side::idle("one", 1), Side::idle("two", 2));
    b.only_receives();
    a.start();
    b.start();
    fs::create_dir_all(a.path("p/q")).unwrap();
    a.write("p/q/f", "f\n");
    meet(&a, &b);
    b.stop();
    let records = told(&a, &b);
    copied_back(&b.dir());
    fs::set_permissions(b.path("p/q"), fs::Permissions::from_mode(0o711)).unwrap();
    b.start();
    b.shown.as_ref().unwrap().settle(Instant::now() + Duration::from_millis(500));
    a.write("p/q/g", "g\n");
    append(&a.path("p/q/f"), "more\n");
    told(&a, &b);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !b.path("p/q/g").exists() || b.read("p/q/f") != "f\nmore\n" {
        assert!(Instant::now() < deadline, "{:#?}; {:?}", tree(&b.dir()), b.problems());
        std::thread::yield_now();
    }
    assert_eq!(b.records(), a.records());
    assert!(a.records() > records);
}

/// What the engine itself made in the place of another directory, and had not written down when it ended, is no copy.
#[test]
fn a_crash_while_a_directory_is_replaced() {
    for crash_at in 0..20 {
        let (a, mut b) = pair();
        fs::create_dir_all(a.path("d/e")).unwrap();
        a.write("d/f", "\0one");
        a.write("d/e/g", "\0one");
        meet(&a, &b);
        fs::remove_dir_all(a.path("d")).unwrap();
        a.settle();
        fs::create_dir_all(a.path("d/e")).unwrap();
        a.write("d/f", "\0two");
        a.write("d/e/g", "\0two");
        a.settle();
        let done = tree(&a.dir());
        b.crash_with(crash_at, &a);
        b.start();
        meet(&a, &b);
        assert_eq!(tree(&a.dir()), done, "after {crash_at} steps");
    }
}

/// What was published in the place of another directory, and not saved by the engine that did so, is no copy of that one.
#[test]
fn a_directory_that_was_published_just_before_a_crash_is_another() {
    let (a, mut b) = pair();
    fs::create_dir_all(a.path("d/e")).unwrap();
    a.write("d/f", "\0one");
    meet(&a, &b);
    b.stop();
    let before = fs::read(b.state_file()).unwrap();
    b.start();
    fs::remove_dir_all(b.path("d")).unwrap();
    b.settle();
    fs::create_dir(b.path("d")).unwrap();
    b.write("d/f", "\0two");
    meet(&a, &b);
    let (records, done) = (a.records(), tree(&a.dir()));
    b.stop();
    fs::write(b.state_file(), before).unwrap();
    let (db, synced, _) = StateDb::open(&b.state_file()).unwrap();
    let made = Root::open(&b.path("d")).unwrap().meta().unwrap().stamp.ident;
    synced.about_to_make(id_of(&b, "d").unwrap(), &made);
    drop((db, synced));
    b.start();
    meet(&a, &b);
    assert_eq!(tree(&a.dir()), done);
    assert_eq!(a.records(), records);
}

/// A folder that is looked at when the test says so.
struct Looked {
    tmp: tempfile::TempDir,
    watcher: Watcher,
    synced: SyncedTree,
    fresh: AtomicU8,
}

impl Looked {
    /// One in which all that is there is known.
    fn with(dirs: &[&str]) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("files")).unwrap();
        let mut looked =
            Self { tmp, watcher: Watcher::new().unwrap(), synced: SyncedTree::default(), fresh: AtomicU8::new(1) };
        dirs.iter().for_each(|dir| fs::create_dir_all(looked.path(dir)).unwrap());
        let obs = looked.look(&Dirty { all: true, ..Dirty::default() });
        for (place, found) in obs.places {
            let found = found.unwrap();
            looked.synced.set(found.id, Synced { stamp: found.stamp, ..state(1, Kind::Dir) });
            looked.synced.place(found.id, place);
        }
        looked
    }

    fn path(&self, path: &str) -> PathBuf {
        self.tmp.path().join("files").join(path)
    }

    fn look(&mut self, dirty: &Dirty) -> Observation {
        let root = Root::open(&self.path("")).unwrap();
        let (fresh, mut ignores) = (&self.fresh, Ignores::default());
        let observer = Observer {
            root: &root,
            watcher: &mut self.watcher,
            ignores: &mut ignores,
            synced: &self.synced,
            fresh: &|| InodeId([fresh.fetch_add(1, Ordering::SeqCst); 16]),
            clean: false,
            threads: 1,
        };
        observer.observe(dirty)
    }

    /// What is seen of the event of one name in the root.
    fn told_of(&mut self, name: &str) -> Observation {
        self.look(&Dirty { names: [place(name)].into(), ..Dirty::default() })
    }
}

fn place(name: &str) -> Place {
    (InodeId::ROOT, name.try_into().unwrap())
}

fn there<'a>(obs: &'a Observation, place: &Place) -> &'a Found {
    obs.places[place].as_ref().unwrap()
}

/// Of a directory that was removed and made again between two looks only what lies in it tells the difference.
#[test]
fn a_directory_that_was_made_again_at_once_is_the_same() {
    let mut looked = Looked::with(&["d/e", "d/gone"]);
    let (d, name) = (looked.synced.child(&place("d")).unwrap(), |name: &str| Name::try_from(name).unwrap());
    let e = looked.synced.child(&(d, name("e"))).unwrap();
    fs::remove_dir_all(looked.path("d")).unwrap();
    fs::create_dir_all(looked.path("d/e")).unwrap();
    fs::create_dir_all(looked.path("d/new")).unwrap();
    let obs = looked.told_of("d");
    assert_eq!((there(&obs, &place("d")).id, there(&obs, &(d, name("e"))).id), (d, e));
    assert_eq!(obs.places[&(d, name("gone"))], None);
    assert_eq!(obs.new_dirs, [there(&obs, &(d, name("new"))).id]);
    let numbers: Vec<(InodeId, Ident)> = obs.renumbered.clone();
    assert_eq!(numbers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [d, e]);
    for (id, ident) in numbers {
        looked.synced.renumber(id, ident);
    }
    // Its events are those of the one that is known.
    fs::create_dir(looked.path("d/later")).unwrap();
    let obs = looked.told_of("d");
    assert!(there(&obs, &(d, name("later"))).stamp.ident.ino > 0);
    assert_eq!(obs.renumbered, []);
}

/// What lives elsewhere, in the folder or not, is not what has its place.
#[test]
fn a_directory_that_was_moved_while_it_is_watched_is_not_what_is_made_in_its_place() {
    for (to, is_here) in [("d.old", true), ("../outside", false)] {
        let mut looked = Looked::with(&["d/e"]);
        let d = looked.synced.child(&place("d")).unwrap();
        fs::rename(looked.path("d"), looked.path(to)).unwrap();
        fs::create_dir_all(looked.path("d/e")).unwrap();
        let obs = looked.told_of("d");
        assert!(!there(&obs, &place("d")).known, "{to}");
        assert_eq!(obs.renumbered, [], "{to}");
        assert_eq!(obs.moved.get(&d), is_here.then(|| place(to)).as_ref(), "{to}");
        // In the whole of the folder it is not.
        if !is_here {
            let obs = looked.look(&Dirty { all: true, ..Dirty::default() });
            assert_eq!(there(&obs, &place("d")).id, d);
        }
    }
}
