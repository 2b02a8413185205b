//! Conflict copies are entries like any other, and `crdtfs conflicts` lists and settles them, in mounts and in folders.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, needs, same_trees};
use serde_json::Value;

const SETTLED: Duration = Duration::from_secs(30);

#[test]
fn in_a_mount() {
    needs!("in_a_mount", Fuse);
    copies_are_used(Mode::Mount, Mode::Watch);
}

#[test]
fn in_a_folder() {
    needs!("in_a_folder", Fuse);
    copies_are_used(Mode::Watch, Mode::Mount);
}

/// What each file is for.
const NAMES: [&str; 9] = ["read", "edit", "move", "gone", "held", "keep-name", "keep-copy", "d/stays", "d/chosen"];

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.txt"))
}

/// `crdtfs conflicts ARGS --json`, a line each.
fn list(device: &Device, dir: &Path) -> Vec<Value> {
    let said = device.ok(&["conflicts".as_ref(), dir.as_os_str(), "--json".as_ref()]);
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn path_of(conflict: &Value) -> &str {
    conflict["path"].as_str().unwrap()
}

/// The conflict of the file of that name.
fn of<'a>(conflicts: &'a [Value], name: &str) -> &'a Value {
    let path = format!("{name}.txt");
    let found = conflicts.iter().find(|conflict| conflict["of"]["path"] == path.as_str());
    found.unwrap_or_else(|| panic!("{name} has no conflict: {conflicts:#?}"))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn copies_are_used(left: Mode, right: Mode) {
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [left, right]);
    fs::create_dir(one.join("d")).unwrap();
    for name in NAMES {
        fs::write(file(&one, name), format!("{name}, as it was\n")).unwrap();
    }
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);
    assert!(list(&a, &one).is_empty() && list(&b, &other).is_empty());

    segment.cut(&b);
    for (dir, who) in [(&one, "anna"), (&other, "bert")] {
        for name in NAMES {
            fs::write(file(dir, name), format!("{name}, as {who} has it\n")).unwrap();
        }
    }
    segment.heal(&b);
    a.wait(&one, "all");
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    let copies: Vec<_> = tree.names().into_iter().filter(|name| name.contains(" (conflict ")).collect();
    assert_eq!(copies.len(), NAMES.len(), "{copies:?}");

    // Both devices list the same, with both sides.
    let listed = list(&a, &one);
    both_sides(&listed, &one);
    let theirs = list(&b, &other);
    let told = |conflict: &Value| (path_of(conflict).to_owned(), conflict["version"].clone(), conflict["of"].clone());
    assert_eq!(listed.iter().map(told).collect::<Vec<_>>(), theirs.iter().map(told).collect::<Vec<_>>());
    assert_eq!(listed.iter().map(path_of).collect::<Vec<_>>(), copies, "in the order of their paths");
    assert_eq!(list(&a, &one.join("d")).len(), 2, "only what is below");
    let people = a.ok(&["conflicts"]);
    for word in ["anna", "bert", copies[0].as_str(), one.to_str().unwrap()] {
        assert!(people.contains(word), "{word} is not in:\n{people}");
    }

    use_them(&a, &one, &listed);
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    used(&one, &listed, &tree.names());
    // What nobody touched is a conflict still, on both.
    for (device, dir) in [(&a, &one), (&b, &other)] {
        let left = list(device, dir);
        let mut holders: Vec<_> = left.iter().map(|conflict| conflict["of"]["path"].as_str().unwrap()).collect();
        holders.sort_unstable();
        assert_eq!(holders, ["d/chosen.txt", "d/stays.txt", "read.txt"]);
    }

    // The other device settles one of them, by the conflict copy.
    let chosen = other.join(path_of(of(&listed, "d/chosen")));
    let bytes = text(&chosen);
    b.ok(&["conflicts".as_ref(), "--keep".as_ref(), chosen.as_os_str()]);
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    assert_eq!(text(&file(&one, "d/chosen")), bytes);
    assert_eq!(tree.names().iter().filter(|name| name.starts_with("d/chosen")).count(), 1, "{:?}", tree.names());
    refused(&a, &one);
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// Of each conflict, who made which side when.
fn both_sides(listed: &[Value], dir: &Path) {
    assert_eq!(listed.len(), NAMES.len());
    for name in NAMES {
        let conflict = of(listed, name);
        let (copy, holder) = (&conflict["device"], &conflict["of"]["device"]);
        assert!((copy == "anna" && holder == "bert") || (copy == "bert" && holder == "anna"), "{conflict:#}");
        for (side, device) in [(conflict, copy), (&conflict["of"], holder)] {
            let bytes = format!("{name}, as {} has it\n", device.as_str().unwrap());
            assert_eq!(side["blake3"], blake3::hash(bytes.as_bytes()).to_hex().as_str(), "{conflict:#}");
            assert_eq!(text(&dir.join(side["path"].as_str().unwrap())), bytes);
            assert!(side["time"].as_str().unwrap().starts_with("20") && side["time_ms"].as_i64().unwrap() > 0);
            assert_eq!(side["version"].as_str().unwrap().len(), 32);
        }
        assert_eq!((&conflict["pending"], conflict["dir"].as_str()), (&false.into(), dir.to_str()));
    }
}

/// Each in its own way.
fn use_them(a: &Device, one: &Path, listed: &[Value]) {
    let copy = |name: &str| one.join(path_of(of(listed, name)));
    OpenOptions::new().append(true).open(copy("edit")).unwrap().write_all(b"edited\n").unwrap();
    fs::rename(copy("move"), file(one, "mine")).unwrap();
    fs::remove_file(copy("gone")).unwrap();
    OpenOptions::new().append(true).open(file(one, "held")).unwrap().write_all(b"edited\n").unwrap();
    a.wait(one, "all");
    let kept = a.json(&["conflicts".as_ref(), "--keep".as_ref(), file(one, "keep-name").as_os_str()]);
    assert_eq!(kept["path"], "keep-name.txt");
    assert_eq!(kept["removed"][0]["path"], path_of(of(listed, "keep-name")));
    a.ok(&["conflicts".as_ref(), "--keep".as_ref(), copy("keep-copy").as_os_str()]);
}

fn used(one: &Path, listed: &[Value], names: &[String]) {
    let told = |name: &str, side: &Value| format!("{name}, as {} has it\n", side["device"].as_str().unwrap());
    let copy = |name: &str| format!("{name}, as {} has it\n", of(listed, name)["device"].as_str().unwrap());
    let holder = |name: &str| told(name, &of(listed, name)["of"]);
    let there = |name: &str| names.iter().any(|other| other == path_of(of(listed, name)));
    // Read, and left alone.
    assert_eq!(text(&one.join(path_of(of(listed, "read")))), copy("read"));
    // Edited, it is a file of its own under the name it had.
    assert_eq!(text(&one.join(path_of(of(listed, "edit")))), copy("edit") + "edited\n");
    assert_eq!(text(&file(one, "edit")), holder("edit"));
    // Renamed, it is one under the new name.
    assert_eq!(text(&file(one, "mine")), copy("move"));
    assert_eq!(text(&file(one, "move")), holder("move"));
    assert!(!there("move"));
    // Deleted, the conflict is settled.
    assert!(!there("gone"));
    assert_eq!(text(&file(one, "gone")), holder("gone"));
    // What has the name was edited: the copy stays where it is.
    assert_eq!(text(&one.join(path_of(of(listed, "held")))), copy("held"));
    assert_eq!(text(&file(one, "held")), holder("held") + "edited\n");
    // Kept by command.
    assert!(!there("keep-name") && !there("keep-copy"), "{names:?}");
    assert_eq!(text(&file(one, "keep-name")), holder("keep-name"));
    assert_eq!(text(&file(one, "keep-copy")), copy("keep-copy"));
}

/// What there is nothing to settle of.
fn refused(a: &Device, one: &Path) {
    let keep = |path: &Path| a.fails(1, &["conflicts".as_ref(), "--keep".as_ref(), path.as_os_str()]);
    assert!(keep(&file(one, "mine")).contains("mine.txt"));
    assert!(keep(&file(one, "nowhere")).contains("nowhere.txt"));
    a.fails(2, &["conflicts", "--keep", "x", "y"]);
    let nowhere = one.join("nowhere");
    assert!(a.fails(1, &["conflicts".as_ref(), nowhere.as_os_str()]).contains("nowhere"));
}

/// Entries of two devices that want one name.
#[test]
fn different_things_of_one_name() {
    needs!("different_things_of_one_name", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Mount, Mode::Watch]);
    fs::write(one.join("start"), "").unwrap();
    a.wait(&one, "all");
    segment.cut(&b);
    fs::write(one.join("new.txt"), "anna's\n").unwrap();
    fs::write(other.join("new.txt"), "bert's\n").unwrap();
    for name in ["full", "empty"] {
        fs::create_dir(one.join(name)).unwrap();
        fs::write(other.join(name), "a file\n").unwrap();
    }
    fs::write(one.join("full/f"), "below\n").unwrap();
    // Before they meet, each has told its engine.
    for (device, dir) in [(&a, &one), (&b, &other)] {
        device.fails(3, &["wait", dir.to_str().unwrap(), "--timeout", "500ms"]);
    }
    segment.heal(&b);
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);
    let listed = list(&a, &one);
    assert_eq!(listed.len(), 3, "{listed:#?}");
    let of = |name: &str| listed.iter().find(|conflict| conflict["of"]["path"] == name).unwrap();
    assert_eq!((&of("full")["of"]["kind"], &of("full")["kind"]), (&"dir".into(), &"file".into()));
    let keep = |name: &str| a.run(&["conflicts".as_ref(), "--keep".as_ref(), one.join(name).as_os_str()]);

    // A directory with something in it does not go unasked; an empty one does.
    let done = keep(path_of(of("full")));
    assert!(done.code == Some(1) && done.stderr.contains("full"), "{done}");
    assert_eq!(text(&one.join("full/f")), "below\n");
    keep("full").ok();
    keep(path_of(of("empty"))).ok();
    let (theirs, holder) = (of("new.txt")["device"].as_str().unwrap(), of("new.txt")["of"]["device"].as_str().unwrap());
    assert_ne!(theirs, holder);
    keep(path_of(of("new.txt"))).ok();
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    assert_eq!(tree.names(), ["empty", "full", "full/f", "new.txt", "start"]);
    assert_eq!(text(&one.join("new.txt")), format!("{theirs}'s\n"));
    assert_eq!(text(&one.join("empty")), "a file\n");
    assert!(list(&b, &other).is_empty());
    a.stop();
    b.stop();
}
