//! Names, links and permission bits that a folder's filesystem cannot hold: an exFAT beside a mount, which holds all of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, LoopKind, Mode, Tree, needs, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// Names of regular files; each holds its own name.
const FILES: [&str; 13] = [
    "README",
    "Readme",
    "readme",
    "a:b",
    "aux",
    "what?.txt",
    "trailing.",
    "caf\u{e9}",
    "cafe\u{301}",
    "STRASSE",
    "plain.txt",
    "looks~0123456789.txt",
    "Dir/x",
];

/// A share in a mount, and an exFAT that watches it.
struct Two {
    a: Device,
    b: Device,
    one: PathBuf,
    other: PathBuf,
}

impl Two {
    fn new(lab: &Lab, disk: &LoopFs) -> Self {
        let (_segment, [mut a, b]) = lab.on_one_segment(["anna", "bert"]);
        let (one, other) = (a.dir("s"), disk.dir().join("s"));
        a.show(Mode::Mount, None, &one);
        fs::create_dir(&other).unwrap();
        Self { a, b, one, other }
    }

    fn join(&mut self) {
        let ticket = self.a.invite(&self.one, &[]);
        self.b.show(Mode::Watch, Some(&ticket), &self.other);
        self.settle();
    }

    fn settle(&self) {
        self.b.wait(&self.other, "all");
        self.a.wait(&self.one, "all");
    }

    /// How many things happened to the share.
    fn events(&self) -> usize {
        self.a.ok(&["log".as_ref(), self.one.as_os_str(), "--json".as_ref()]).lines().count()
    }

    fn theirs(&self) -> Tree {
        Tree::read(&self.one).unwrap()
    }

    /// What the files on the exFAT hold, by the names that they have there.
    fn here(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for name in Tree::read(&self.other).unwrap().names() {
            let path = self.other.join(&name);
            if path.is_file() {
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
        found
    }

    /// The one file on the exFAT that holds exactly this.
    #[track_caller]
    fn holder(&self, text: &str) -> PathBuf {
        let here = self.here();
        let mut found = here.iter().filter(|(_, bytes)| *bytes == text).map(|(name, _)| name);
        let name = found.next().unwrap_or_else(|| panic!("{text:?} is not in {here:#?}"));
        assert_eq!(found.next(), None, "{text:?} is twice in {here:#?}");
        self.other.join(name)
    }

    fn problems(&self) -> Vec<Value> {
        self.b.status()["shares"][0]["problems"].as_array().unwrap().clone()
    }

    fn restart(&mut self, disk: &LoopFs) {
        self.b.stop();
        disk.remount();
        self.b.show(Mode::Watch, None, &self.other);
        self.settle();
    }
}

fn exfat(lab: &Lab) -> LoopFs {
    LoopFs::of(LoopKind::Exfat, lab, "stick", 64)
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn is_of(problem: &Value, path: &str) -> bool {
    Path::new(problem["path"].as_str().unwrap()).ends_with(path)
}

#[track_caller]
fn alias_of(name: &str, path: &Path) {
    let local = path.file_name().unwrap().to_str().unwrap();
    let (stem, _) = name.split_once('.').unwrap_or((name, ""));
    let digits = local.rsplit_once('~').map(|(_, rest)| rest.split('.').next().unwrap());
    assert!(local != name && digits.is_some_and(|d| d.len() == 10), "{name} is {local}");
    assert!(local.starts_with(&stem[..1]) || local.starts_with('_'), "{name} is {local}");
}

fn populate(one: &Path) {
    fs::create_dir(one.join("Dir")).unwrap();
    fs::create_dir(one.join("dir")).unwrap();
    for name in FILES {
        fs::write(one.join(name), name).unwrap();
    }
    fs::write(one.join("dir/x"), "dir/x").unwrap();
    symlink("plain.txt", one.join("link")).unwrap();
    fs::write(one.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(one.join("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(one.join("first"), "linked").unwrap();
    fs::hard_link(one.join("first"), one.join("second")).unwrap();
}

#[test]
fn what_an_exfat_cannot_hold() {
    needs!("what_an_exfat_cannot_hold", Fuse, Loop, Tool("losetup"), Tool("mkfs.exfat"), Tool("mount.exfat-fuse"));
    let lab = Lab::new();
    let disk = exfat(&lab);
    let mut two = Two::new(&lab, &disk);
    populate(&two.one);
    let before = two.theirs();
    two.join();
    assert_eq!(two.theirs().differences(&before), [""; 0], "whoever joins changes nothing");
    let events = two.events();

    // Each file has its own bytes, under its name or under an alias.
    for name in FILES.iter().chain(&["dir/x"]) {
        two.holder(name);
    }
    for plain in ["README", "caf\u{e9}", "cafe\u{301}", "STRASSE", "plain.txt"] {
        assert_eq!(read(two.other.join(plain)), plain);
    }
    for name in ["Readme", "readme", "a:b", "aux", "what?.txt", "trailing.", "looks~0123456789.txt"] {
        alias_of(name, &two.holder(name));
    }
    assert_eq!(two.here().values().filter(|text| *text == "linked").count(), 1, "one name of a file with two");
    let said = two.problems();
    for path in ["link", "second"] {
        assert!(said.iter().any(|problem| is_of(problem, path)), "{path} is not in {said:#?}");
    }
    assert!(said.iter().any(|problem| problem["message"].as_str().unwrap().contains("permission")), "{said:#?}");

    // Nothing comes of starting again, though all inode numbers are others; nor of times cut to 2 s.
    for _ in 0..2 {
        two.restart(&disk);
    }
    assert_eq!(two.theirs().differences(&before), [""; 0]);
    assert_eq!(two.events(), events, "{}", two.a.ok(&["log".as_ref(), two.one.as_os_str()]));

    // An edit of an alias is one of what it stands for, and leaves alone what this filesystem does not know.
    for (name, also) in [("readme", "Readme"), ("a:b", "aux"), ("dir/x", "Dir/x")] {
        append(&two.holder(name), " edited");
        two.settle();
        assert_eq!(read(two.one.join(name)), format!("{name} edited"));
        assert_eq!(read(two.one.join(also)), also);
    }
    append(&two.other.join("run.sh"), "true\n");
    two.settle();
    assert_eq!(read(two.one.join("run.sh")), "#!/bin/sh\ntrue\n");
    let after = two.theirs();
    assert_eq!(after.names(), before.names());
    assert_eq!(after.0[Path::new("run.sh")].mode, 0o750);
    assert_eq!(after.0[Path::new("link")], before.0[Path::new("link")]);

    // Removed while it is open, it is removed: what the filesystem makes of it is nobody's file.
    fs::write(two.other.join("open"), "open").unwrap();
    two.settle();
    assert!(two.theirs().has("open"));
    let open = fs::File::open(two.other.join("open")).unwrap();
    fs::remove_file(two.other.join("open")).unwrap();
    two.settle();
    assert_eq!(two.theirs().names(), before.names());
    drop(open);

    // What is deleted here is what is deleted there.
    fs::remove_file(two.holder("aux")).unwrap();
    fs::remove_file(two.other.join("README")).unwrap();
    two.settle();
    let left: Vec<String> = before.names().into_iter().filter(|name| name != "aux" && name != "README").collect();
    assert_eq!(two.theirs().names(), left);
    assert_eq!(read(two.other.join("Readme")), "Readme", "the next one has the name now");
    // And a problem goes with what it was of.
    fs::remove_file(two.one.join("link")).unwrap();
    two.settle();
    assert!(two.problems().iter().all(|problem| !is_of(problem, "link")), "{:#?}", two.problems());
    two.a.check();
    two.b.check();
    two.b.stop();
    two.a.stop();
}

#[test]
fn renames_where_names_differ_in_case() {
    needs!(
        "renames_where_names_differ_in_case",
        Fuse,
        Loop,
        Tool("losetup"),
        Tool("mkfs.exfat"),
        Tool("mount.exfat-fuse"),
    );
    let lab = Lab::new();
    let disk = exfat(&lab);
    let mut two = Two::new(&lab, &disk);
    populate(&two.one);
    two.join();
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(two.one.join(name)).unwrap().ino()
    };
    let (plain, a_b, strasse) = (inode("plain.txt"), inode("a:b"), inode("STRASSE"));

    // Only the case, here and there: the same file.
    fs::rename(two.other.join("plain.txt"), two.other.join("Plain.TXT")).unwrap();
    fs::rename(two.one.join("STRASSE"), two.one.join("Strasse")).unwrap();
    two.settle();
    assert_eq!((read(two.one.join("Plain.TXT")).as_str(), inode("Plain.TXT")), ("plain.txt", plain));
    let names = two.here();
    assert!(names.contains_key("Strasse") && !names.contains_key("STRASSE"), "{names:#?}");
    assert_eq!(inode("Strasse"), strasse);

    // Into an alias and out of it.
    fs::rename(two.one.join("plain.txt"), two.one.join("none")).unwrap_err();
    fs::rename(two.holder("a:b"), two.other.join("a-b")).unwrap();
    fs::rename(two.one.join("caf\u{e9}"), two.one.join("CON")).unwrap();
    two.settle();
    assert_eq!((read(two.one.join("a-b")).as_str(), inode("a-b")), ("a:b", a_b));
    assert!(!two.theirs().has("a:b"));
    alias_of("CON", &two.holder("caf\u{e9}"));

    // What is made here under a name that differs in case only is what is there.
    fs::write(two.other.join("PLAIN.txt"), "other case").unwrap();
    // A directory that is renamed keeps what is in it.
    fs::rename(two.one.join("dir"), two.one.join("moved")).unwrap();
    two.settle();
    assert_eq!((read(two.one.join("Plain.TXT")).as_str(), inode("Plain.TXT")), ("other case", plain));
    assert!(!two.theirs().has("PLAIN.txt"));
    assert_eq!((read(two.other.join("moved/x")), read(two.other.join("Dir/x"))), ("dir/x".into(), "Dir/x".into()));

    // Made there, beside one that differs in case only.
    fs::write(two.one.join("PLAIN.TXT"), "beside").unwrap();
    // Two of them exchanged there, one put over another here.
    fs::rename(two.one.join("README"), two.one.join("t")).unwrap();
    fs::rename(two.one.join("Readme"), two.one.join("README")).unwrap();
    fs::rename(two.one.join("t"), two.one.join("Readme")).unwrap();
    two.settle();
    let held = |text: &str| two.holder(text).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!((held("beside"), held("Readme")), ("PLAIN.TXT".into(), "README".into()));
    alias_of("Plain.TXT", &two.holder("other case"));
    alias_of("Readme", &two.holder("README"));
    fs::rename(two.other.join("STRASSE"), two.holder("other case")).unwrap();
    two.settle();
    assert_eq!(read(two.one.join("Plain.TXT")), "STRASSE");
    assert!(!two.theirs().has("Strasse"));

    let (tree, here, events) = (two.theirs(), two.here(), two.events());
    for _ in 0..2 {
        two.restart(&disk);
    }
    assert_eq!((two.theirs().differences(&tree), two.here(), two.events()), (vec![], here, events));
    two.a.check();
    two.b.check();
    two.b.stop();
    two.a.stop();
}

/// What the engine was killed in the middle of is mended without harm, though the filesystem exchanges nothing.
#[test]
fn an_exfat_after_a_kill() {
    needs!("an_exfat_after_a_kill", Fuse, Loop, Tool("losetup"), Tool("mkfs.exfat"), Tool("mount.exfat-fuse"));
    let lab = Lab::new();
    let disk = exfat(&lab);
    let mut two = Two::new(&lab, &disk);
    for n in 0..200 {
        fs::write(two.one.join(format!("f{n}")), "first").unwrap();
    }
    two.join();
    let start = two.theirs().names();
    for round in 1..=3 {
        for n in 0..200 {
            fs::write(two.one.join(format!("f{n}")), format!("{round} {n}")).unwrap();
        }
        let begun = || {
            // In an instant a file may be neither the old nor the new one.
            let is_new = |n: &i32| {
                fs::read_to_string(two.other.join(format!("f{n}")))
                    .is_ok_and(|text| text.starts_with(&format!("{round} ")))
            };
            let new = (0..200).filter(is_new).count();
            if new > 0 { Ok(()) } else { Err("nothing replaced yet".to_owned()) }
        };
        until("it replaces", LIMIT, begun);
        two.b.kill();
        two.b.show(Mode::Watch, None, &two.other);
        two.settle();
        assert_eq!(two.theirs().names(), start);
        let here = two.here();
        for n in 0..200 {
            assert_eq!(here[&format!("f{n}")], format!("{round} {n}"));
        }
        assert_eq!(here.len(), 200, "{here:#?}");
    }
    two.a.check();
    two.b.check();
    two.b.stop();
    two.a.stop();
}

/// Files of one length, made together: on this filesystem nothing but what they hold tells which is which once its numbers
/// are others. Each holds its own path.
fn alike(two: &Two, paths: &[String], length: usize) {
    for path in paths {
        let path = two.one.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, holding(&two.one, &path, length)).unwrap();
    }
}

fn holding(root: &Path, path: &Path, length: usize) -> String {
    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
    name.to_owned() + &" ".repeat(length - name.len())
}

/// Two entries exchanged, files or directories.
fn exchange(dir: &Path, one: &str, other: &str) {
    for (from, to) in [(one, "between"), (other, one), ("between", other)] {
        fs::rename(dir.join(from), dir.join(to)).unwrap();
    }
}

/// Renames that are made while no engine runs, between files that look the same: what was done is found out by reading.
#[test]
fn renames_of_what_looks_the_same() {
    needs!("renames_of_what_looks_the_same", Fuse, Loop, Tool("losetup"), Tool("mkfs.exfat"), Tool("mount.exfat-fuse"),);
    const LARGE: usize = 5 << 20;
    let lab = Lab::new();
    let disk = exfat(&lab);
    let mut two = Two::new(&lab, &disk);
    let small = ["x", "y", "from", "to", "d1/f", "d2/f", "v1/f", "v1/sub/g", "v2/f", "v2/sub/g", "stays", "also"];
    two.join();
    let rounds = [("stopped", false, false), ("killed", true, false), ("stopped and mounted", false, true)];
    for (round, ..) in rounds {
        alike(&two, &small.map(|name| format!("{round}/{name}")), 40);
        alike(&two, &["l1", "l2"].map(|name| format!("{round}/{name}")), LARGE);
    }
    two.settle();

    // Read again, they are what they were.
    let (before, events) = (two.theirs(), two.events());
    two.b.stop();
    two.b.show(Mode::Watch, None, &two.other);
    two.settle();
    assert_eq!((two.theirs().differences(&before), two.events()), (vec![], events));

    for (round, kill, mount) in rounds {
        if kill {
            two.b.kill()
        } else {
            two.b.stop()
        }
        let dir = two.other.join(round);
        exchange(&dir, "x", "y");
        exchange(&dir, "l1", "l2");
        exchange(&dir, "d1", "d2");
        fs::rename(dir.join("from"), dir.join("to")).unwrap();
        fs::remove_dir_all(dir.join("v2")).unwrap();
        fs::rename(dir.join("v1"), dir.join("v2")).unwrap();
        if mount {
            disk.remount();
        }
        let done = two.here();
        two.b.show(Mode::Watch, None, &two.other);
        two.settle();
        assert!(two.here() == done, "{round}: what was done here stays: {:#?}", two.theirs().names());
        for (name, text) in &done {
            let there = read(two.one.join(name));
            assert!(there == *text, "{name} is {:?}, not {:?}", there.trim_end(), text.trim_end());
        }
        assert_eq!(two.theirs().names(), Tree::read(&two.other).unwrap().names());
        let now = |name: &str| read(two.one.join(round).join(name)).trim_end().to_owned();
        for (name, was) in [("x", "y"), ("l2", "l1"), ("d1/f", "d2/f"), ("to", "from"), ("v2/sub/g", "v1/sub/g")] {
            assert_eq!(now(name), format!("{round}/{was}"));
        }
    }
    let (after, events) = (two.theirs(), two.events());
    two.restart(&disk);
    assert_eq!((two.theirs().differences(&after), two.events()), (vec![], events));
    two.a.check();
    two.b.check();
    two.b.stop();
    two.a.stop();
}
