//! `crdtfs restore` brings back what was, in mounts and in folders, as an operation that others merge.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crdtfs_tests::{Device, Lab, Mode, Tree, bytes, needs, same_trees, until};
use serde_json::Value;

const SETTLED: Duration = Duration::from_secs(30);

#[test]
fn in_a_mount() {
    needs!("in_a_mount", Fuse);
    what_was_comes_back(Mode::Mount, Mode::Watch);
}

#[test]
fn in_a_folder() {
    needs!("in_a_folder", Fuse);
    what_was_comes_back(Mode::Watch, Mode::Mount);
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn restore<'a>(path: &'a Path, flags: &'a [&'a str]) -> Vec<&'a OsStr> {
    let flags = flags.iter().map(OsStr::new);
    ["restore".as_ref(), path.as_os_str()].into_iter().chain(flags).collect()
}

/// What `crdtfs log PATH` knows.
fn events(device: &Device, path: &Path) -> Vec<Value> {
    let said = device.ok(&["log".as_ref(), path.as_os_str(), "--json".as_ref()]);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for the last event that fits; all of it.
fn event(device: &Device, path: &Path, fits: impl Fn(&Value) -> bool) -> Value {
    until("the event is in the log", SETTLED, || {
        let all = events(device, path);
        all.iter().rev().find(|event| fits(event)).cloned().ok_or(format!("{all:?}"))
    })
}

/// Waits for the version with these bytes.
fn written(device: &Device, path: &Path, text: &str) -> Value {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    event(device, path, |event| event["blake3"] == hash.as_str())
}

fn deleted(device: &Device, path: &Path) -> Value {
    event(device, path, |event| event["event"] == "delete")
}

fn id(event: &Value) -> &str {
    event["version"].as_str().unwrap()
}

fn what_was_comes_back(left: Mode, right: Mode) {
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [left, right]);
    let both = || {
        a.wait(&one, "all");
        same_trees(&[&one, &other], SETTLED)
    };
    a_file(&a, &one, &both);
    versions(&a, &one, &both);
    removed_under_another_name(&a, &one, &both);
    a_directory(&a, &one, &both);
    a_time(&a, &one, &both);
    refused(&a, &one);
    // The other device brings back what this one did, and this one sees it.
    fs::remove_file(one.join("f.txt")).unwrap();
    both();
    b.ok(&restore(&other.join("f.txt"), &[]));
    b.wait(&other, "all");
    same_trees(&[&one, &other], SETTLED);
    assert_eq!(text(&one.join("f.txt")), "three\n");
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// Removed, and changed.
fn a_file(a: &Device, one: &Path, both: &dyn Fn() -> Tree) {
    let file = one.join("f.txt");
    fs::write(&file, "one\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5_000_000);
    fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    let before = both();
    fs::remove_file(&file).unwrap();
    assert!(!both().has("f.txt"));
    let said = a.run(&restore(&file, &[]));
    assert!(said.code == Some(0) && said.stdout.is_empty() && said.stderr.contains("f.txt"), "{said}");
    assert_eq!(both(), before, "bytes, mode and times are as they were");
    // The version before the present one; done again, it is the one after.
    fs::write(&file, "two\n").unwrap();
    both();
    let told = a.json(&restore(&file, &[]));
    assert_eq!((&told["path"], &told["entries"], &told["changed"]), (&"f.txt".into(), &1.into(), &1.into()));
    both();
    assert_eq!(text(&file), "one\n");
    a.ok(&restore(&file, &[]));
    both();
    assert_eq!(text(&file), "two\n");
}

/// By their ids, also elsewhere.
fn versions(a: &Device, one: &Path, both: &dyn Fn() -> Tree) {
    let file = one.join("f.txt");
    fs::write(&file, "three\n").unwrap();
    both();
    let first = written(a, &file, "one\n");
    let copy = one.join("new/below/old.txt");
    a.ok(&restore(&file, &["--version", &id(&first)[..12], "--to", copy.to_str().unwrap()]));
    both();
    assert_eq!((text(&copy), text(&file)), ("one\n".into(), "three\n".into()));
    // A deletion stands for what it took away; what was moved is known under both names.
    fs::remove_file(&copy).unwrap();
    both();
    let gone = deleted(a, &copy);
    a.ok(&restore(&copy, &["--version", id(&gone)]));
    both();
    assert_eq!(text(&copy), "one\n");
    fs::rename(&file, one.join("g.txt")).unwrap();
    both();
    let moved = events(a, &one.join("g.txt"));
    assert!(moved.iter().any(|event| event["path"] == "f.txt"), "earlier names are told: {moved:?}");
    a.ok(&restore(&one.join("g.txt"), &["--version", id(&first)]));
    both();
    assert_eq!(text(&one.join("g.txt")), "one\n");
    a.ok(&restore(&one.join("g.txt"), &[]));
    fs::rename(one.join("g.txt"), &file).unwrap();
    both();
    assert_eq!(text(&file), "three\n");
}

/// What was renamed, or lay in a directory that was, and was removed then is known by its last name with all that it was.
fn removed_under_another_name(a: &Device, one: &Path, both: &dyn Fn() -> Tree) {
    let at = |dir: &str, name: &str| one.join(dir).join(name);
    let save = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        both();
        written(a, path, text)
    };
    fs::create_dir(one.join("h")).unwrap();
    let first = save(&at("h", "f"), "f, first\n");
    save(&at("h", "f"), "f, second\n");
    fs::rename(at("h", "f"), at("h", "g")).unwrap();
    both();
    save(&at("h", "g"), "f, third\n");
    fs::rename(one.join("h"), one.join("k")).unwrap();
    both();
    let file = at("k", "g");
    let told = |path: &Path| -> Vec<_> { events(a, path).iter().map(|event| id(event).to_owned()).collect() };
    let before = told(&file);
    assert!(before.contains(&id(&first).to_owned()), "{before:?}");
    // Removed with its directory, and brought back with it, again and again: nothing of it is told no more.
    for _ in 0..2 {
        fs::remove_dir_all(one.join("k")).unwrap();
        both();
        deleted(a, &file);
        let after = told(&file);
        assert!(after.starts_with(&before), "as if it still lay there: {before:?}, {after:?}");
        let of_dir = events(a, &one.join("k"));
        assert!(of_dir.iter().any(|event| event["event"] == "create" && event["path"] == "h"), "{of_dir:?}");
        a.ok(&restore(&one.join("k"), &[]));
        both();
        assert_eq!(text(&file), "f, third\n");
        let after = told(&file);
        assert!(after.starts_with(&before), "also of what was brought back: {before:?}, {after:?}");
    }
    a.ok(&restore(&file, &[]));
    both();
    assert_eq!(text(&file), "f, second\n", "the version before the present one, from before the rename");
    a.ok(&restore(&file, &["--version", id(&first)]));
    both();
    assert_eq!(text(&file), "f, first\n");
    fs::remove_file(&file).unwrap();
    both();
    deleted(a, &file);
    a.ok(&restore(&file, &["--version", id(&first)]));
    both();
    assert_eq!(text(&file), "f, first\n", "what is told of a path can be had there");
    // What was moved away is another matter: what becomes of it there is not told here.
    fs::rename(&file, at("k", "away")).unwrap();
    both();
    let later = save(&at("k", "away"), "away\n");
    assert!(!told(&file).contains(&id(&later).to_owned()));
}

/// `rm -r`, with all that was in it.
fn a_directory(a: &Device, one: &Path, both: &dyn Fn() -> Tree) {
    let dir = one.join("d");
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::set_permissions(dir.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.join("deep/er/a.txt"), "a\n").unwrap();
    fs::write(dir.join("big.bin"), bytes(1, 3_000_000)).unwrap();
    fs::hard_link(dir.join("big.bin"), dir.join("deep/same.bin")).unwrap();
    symlink("deep/er/a.txt", dir.join("link")).unwrap();
    let before = both();
    fs::remove_dir_all(&dir).unwrap();
    assert!(!both().has("d"));
    let told = a.json(&restore(&dir, &[]));
    assert_eq!((&told["entries"], &told["lost"]), (&8.into(), &0.into()), "{told}");
    assert_eq!(both(), before);
    let ino = |name: &str| fs::metadata(dir.join(name)).unwrap().ino();
    assert_eq!(ino("big.bin"), ino("deep/same.bin"), "names of one file again");
    // A part of it, and all of it elsewhere, as it is.
    fs::remove_dir_all(dir.join("deep")).unwrap();
    both();
    a.ok(&restore(&dir.join("deep/er"), &[]));
    assert_eq!(both().names().iter().filter(|name| name.starts_with("d/deep")).count(), 3);
    assert_eq!(text(&dir.join("deep/er/a.txt")), "a\n");
}

/// Everything as it was at one time; what came since stays.
fn a_time(a: &Device, one: &Path, both: &dyn Fn() -> Tree) {
    let dir = one.join("t");
    fs::create_dir(&dir).unwrap();
    for name in ["changed", "removed", "kept"] {
        fs::write(dir.join(name), format!("{name}, first\n")).unwrap();
    }
    both();
    let last = written(a, &dir, "kept, first\n");
    let times = events(a, &dir).into_iter().map(|event| event["time_ms"].as_i64().unwrap()).max().unwrap();
    let time = last["time_ms"].as_i64().unwrap().max(times);
    fs::write(dir.join("changed"), "changed, second\n").unwrap();
    fs::write(dir.join("since"), "since\n").unwrap();
    fs::remove_file(dir.join("removed")).unwrap();
    both();
    let seconds = format!("{}.{:03}Z", utc(time / 1000), time % 1000);
    let said = a.fails(2, &restore(&dir, &[]));
    assert!(said.contains("--at"), "which state is meant has to be said: {said}");
    a.ok(&restore(&dir, &["--at", &seconds]));
    both();
    for name in ["changed", "removed", "kept"] {
        assert_eq!(text(&dir.join(name)), format!("{name}, first\n"));
    }
    assert_eq!(text(&dir.join("since")), "since\n");
    let again = a.run(&restore(&dir, &["--at", &seconds]));
    assert!(again.code == Some(0) && again.stderr.contains("nothing to restore"), "{again}");
    let events_now = events(a, one).len();
    a.ok(&restore(&dir, &["--at", &seconds]));
    assert_eq!(events(a, one).len(), events_now, "nothing was written for it");
}

/// Seconds since 1970 as RFC 3339 without the zone (days by the algorithm `civil_from_days` of H. Hinnant).
fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn refused(a: &Device, one: &Path) {
    let fails = |code: i32, path: &str, flags: &[&str], word: &str| {
        let path = one.join(path);
        let said = a.fails(code, &restore(&path, flags));
        assert!(said.contains(word), "{word} is not in: {said}");
    };
    let f = written(a, &one.join("f.txt"), "two\n");
    let there = one.join("d").to_str().unwrap().to_owned();
    fails(1, "never.txt", &[], "never.txt: nothing of this name is in the share, nor ever was");
    fs::rename(one.join("t/kept"), one.join("t/moved")).unwrap();
    fails(1, "t/kept", &[], "it was moved to t/moved");
    fs::rename(one.join("t/moved"), one.join("t/kept")).unwrap();
    fails(1, "f.txt", &["--at", "2001-01-01"], "was not there");
    fails(1, "f.txt", &["--version", "0123456789abcdef"], "0123456789abcdef");
    fails(2, "f.txt", &["--version", "nonsense"], "hexadecimal");
    fails(2, "f.txt", &["--at", "some day"], "some day");
    fails(2, "f.txt", &["--at", "1h", "--version", id(&f)], "cannot be used with");
    fails(2, "d/big.bin", &["--version", id(&f)], "f.txt");
    fails(1, "f.txt", &["--version", id(&f), "--to", &there], "there already");
    fails(1, "t/since", &[], "no earlier version");
    // Something else has the name by now.
    fs::create_dir(one.join("x")).unwrap();
    a.wait(one, "all");
    fs::remove_dir(one.join("x")).unwrap();
    a.wait(one, "all");
    fs::write(one.join("x"), "a file\n").unwrap();
    a.wait(one, "all");
    let made = deleted(a, &one.join("x"));
    fails(1, "x", &["--version", id(&made)], "--to");
    assert_eq!(text(&one.join("x")), "a file\n");
}

/// A conflict copy is known by the name that it was shown under, also when it is gone, and the file beside it tells of it.
#[test]
fn conflict_copies() {
    needs!("conflict_copies", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Mount, Mode::Watch]);
    // The long ones have to be cut to make room for the suffix.
    let long = ["Edited", "Made"].map(|name| format!("{name}{}.txt", "ä".repeat(120)));
    let [edited, made] = [["edited.txt", &long[0]], ["made.txt", &long[1]]];
    edited.iter().for_each(|name| fs::write(one.join(name), format!("{name} as it was\n")).unwrap());
    a.wait(&one, "all");
    segment.cut(&b);
    for (dir, who) in [(&one, "anna"), (&other, "bert")] {
        for name in edited.iter().chain(&made) {
            fs::write(dir.join(name), format!("{name} as {who} has it\n")).unwrap();
        }
    }
    fs::create_dir(one.join("kind")).unwrap();
    fs::write(other.join("kind"), "a file\n").unwrap();
    // Each had said so before it heard of the other.
    written(&b, &other, "a file\n");
    for name in edited.iter().chain(&made) {
        written(&a, &one, &format!("{name} as anna has it\n"));
        written(&b, &other, &format!("{name} as bert has it\n"));
    }
    segment.heal(&b);
    a.wait(&one, "all");
    b.wait(&other, "all");
    let before = same_trees(&[&one, &other], SETTLED);
    let copies: Vec<_> = before.names().into_iter().filter(|name| name.contains(" (conflict ")).collect();
    assert_eq!(copies.len(), 5, "{copies:?}");
    let kept: Vec<_> = copies.iter().map(|copy| text(&one.join(copy))).collect();
    let hash = |text: &str| Value::from(blake3::hash(text.as_bytes()).to_hex().as_str());
    let tells = |path: &str, text: &str| {
        let told = events(&a, &one.join(path));
        assert!(told.iter().any(|event| event["blake3"] == hash(text)), "{path}: {told:#?}");
    };
    let names_of = |copy: &str| {
        let mut names = edited.iter().chain(&made).chain(&["kind"]);
        *names.find(|name| copy.starts_with(&name[..4])).unwrap()
    };
    for (copy, bytes) in copies.iter().zip(&kept) {
        tells(copy, bytes);
        tells(names_of(copy), bytes);
    }
    // What the file had before is not what stands beside it.
    a.ok(&restore(&one.join("edited.txt"), &[]));
    assert_eq!(text(&one.join("edited.txt")), "edited.txt as it was\n");
    a.wait(&one, "all");
    for copy in &copies {
        fs::remove_file(one.join(copy)).unwrap();
    }
    a.wait(&one, "all");
    assert!(copies.iter().all(|copy| !other.join(copy).exists()));
    for (copy, bytes) in copies.iter().zip(&kept) {
        tells(copy, bytes);
        let gone = deleted(&a, &one.join(copy));
        assert_eq!(gone["path"], copy.as_str(), "what was removed is told by the name that it had");
        // The other device, too, knows it by that name.
        b.wait(&other, "all");
        b.ok(&restore(&other.join(copy), &[]));
    }
    b.wait(&other, "all");
    let after = same_trees(&[&one, &other], SETTLED);
    assert_eq!(after.names(), before.names());
    assert_eq!(copies.iter().map(|copy| text(&one.join(copy))).collect::<Vec<_>>(), kept);
    a.check();
    a.stop();
    b.stop();
}

/// What could not have its name is known by the one that it was shown under also when it is moved.
#[test]
fn a_suffixed_name_that_was_left() {
    needs!("a_suffixed_name_that_was_left");
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Watch, Mode::Watch]);
    segment.cut(&b);
    for (dir, who) in [(&one, "anna"), (&other, "bert")] {
        fs::write(dir.join("f.txt"), format!("{who}\n")).unwrap();
    }
    written(&a, &one, "anna\n");
    written(&b, &other, "bert\n");
    segment.heal(&b);
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    let copy = tree.names().into_iter().find(|name| name.contains(" (conflict ")).unwrap();
    fs::rename(one.join(&copy), one.join("kept.txt")).unwrap();
    a.wait(&one, "all");
    for (device, dir) in [(&a, &one), (&b, &other)] {
        let said = device.fails(1, &restore(&dir.join(&copy), &[]));
        assert!(said.contains("it was moved to kept.txt"), "{said}");
        let moved = event(device, &dir.join(&copy), |event| event["event"] == "move");
        assert_eq!((&moved["from"], &moved["path"]), (&Value::from(copy.as_str()), &Value::from("kept.txt")));
    }
    a.stop();
    b.stop();
}

/// A directory that is there and was emptied comes back as it was, also the share's own.
#[test]
fn an_emptied_directory() {
    needs!("an_emptied_directory", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["anna"]);
    let share = a.dir("s");
    a.show(Mode::Mount, None, &share);
    let dir = share.join("d");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("x"), "x\n").unwrap();
    fs::write(dir.join("below/y"), "y\n").unwrap();
    let before = Tree::read(&share).unwrap();
    let said = a.fails(2, &restore(&dir, &[]));
    assert!(said.contains("something is in it") && said.contains("--at"), "{said}");
    fs::remove_file(dir.join("x")).unwrap();
    fs::remove_dir_all(dir.join("below")).unwrap();
    a.ok(&restore(&dir, &[]));
    assert_eq!(Tree::read(&share).unwrap().names(), before.names());
    fs::remove_dir_all(&dir).unwrap();
    a.ok(&restore(&share, &[]));
    assert_eq!(Tree::read(&share).unwrap().names(), before.names());
    assert_eq!((text(&dir.join("x")), text(&dir.join("below/y"))), ("x\n".into(), "y\n".into()));
    fs::create_dir(share.join("never")).unwrap();
    let said = a.fails(1, &restore(&share.join("never"), &[]));
    assert!(said.contains("nothing was ever removed from it"), "{said}");
    a.stop();
}

/// Restoring is an operation: what the other device did at once is merged with it.
#[test]
fn at_once_with_others() {
    needs!("at_once_with_others", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Mount, Mode::Watch]);
    let lines = |third: &str, last: &str| format!("1\n2\n{third}\n4\n5\n6\n7\n8\n9\n{last}\n");
    let file = one.join("f.txt");
    for (third, last) in [("3", "10"), ("three", "10")] {
        fs::write(&file, lines(third, last)).unwrap();
        a.wait(&one, "all");
    }
    fs::create_dir(one.join("d")).unwrap();
    fs::write(one.join("d/x"), "x\n").unwrap();
    fs::write(one.join("d/y"), "y\n").unwrap();
    a.wait(&one, "all");
    fs::remove_file(one.join("d/x")).unwrap();
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);
    segment.cut(&b);
    a.ok(&restore(&file, &[]));
    a.ok(&restore(&one.join("d/x"), &[]));
    fs::write(other.join("f.txt"), lines("three", "ten")).unwrap();
    fs::remove_dir_all(other.join("d")).unwrap();
    segment.heal(&b);
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    assert_eq!(text(&file), lines("3", "ten"), "both edits");
    assert_eq!(tree.names(), ["d", "d/x", "f.txt"], "what was brought back survives, with its directory");
    a.stop();
    b.stop();
}

/// Old bytes come from who has them; where nobody reachable does, it is said who may.
#[test]
fn bytes_from_others() {
    needs!("bytes_from_others", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &one);
    for (name, seed) in [("first", 1), ("second", 2), ("third", 3)] {
        fs::write(one.join(name), bytes(seed, 2_000_000)).unwrap();
    }
    let hash = |seed| Value::from(blake3::hash(&bytes(seed, 2_000_000)).to_hex().as_str());
    until("all versions are told", SETTLED, || {
        let all = events(&a, &one);
        let told = |seed| all.iter().any(|event| event["blake3"] == hash(seed));
        if (1..=3).all(told) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    for name in ["first", "second", "third"] {
        fs::remove_file(one.join(name)).unwrap();
    }
    // It joins after all of that: what is gone was never there.
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    b.wait(&other, "all");
    assert!(Tree::read(&other).unwrap().0.is_empty());
    b.ok(&restore(&other.join("first"), &[]));
    assert!(fs::read(other.join("first")).unwrap() == bytes(1, 2_000_000));
    segment.cut(&b);
    until("the other one is known to be away", SETTLED, || {
        let status = b.status();
        let devices = status["shares"][0]["devices"].as_array().unwrap().clone();
        let away = devices.iter().any(|device| device["name"] == "anna" && device["connected"] == false);
        if away { Ok(()) } else { Err(format!("{devices:?}")) }
    });
    let said = b.fails(1, &restore(&other.join("second"), &[]));
    assert!(said.contains("anna") && said.contains("second"), "{said}");
    assert!(!other.join("second").exists());
    segment.heal(&b);
    b.wait(&other, "all");
    b.ok(&restore(&other.join("second"), &[]));
    assert!(fs::read(other.join("second")).unwrap() == bytes(2, 2_000_000));
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);
    a.stop();
    b.stop();
}

/// A member that may only read brings nothing back.
#[test]
fn a_reader_may_not() {
    needs!("a_reader_may_not", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &one);
    let ticket = a.invite(&one, &["--role", "read"]);
    b.show(Mode::Watch, Some(&ticket), &other);
    fs::write(one.join("f"), "one\n").unwrap();
    a.wait(&one, "all");
    fs::remove_file(one.join("f")).unwrap();
    a.wait(&one, "all");
    let said = b.fails(1, &restore(&other.join("f"), &[]));
    assert!(said.contains("read-only") && said.contains("ticket"), "{said}");
    a.stop();
    b.stop();
}
