//! Bytes that go bad on the disk: `crdtfs check` names them, and what can be brought back is.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, same_trees};

const LIMIT: Duration = Duration::from_secs(30);

/// Where `what` is in one of the files, and which.
fn find(files: &[PathBuf], what: &[u8]) -> (PathBuf, u64) {
    let at = files.iter().find_map(|file| {
        let held = fs::read(file).unwrap();
        let at = held.windows(what.len()).position(|bytes| bytes == what)?;
        Some((file.clone(), at as u64))
    });
    at.unwrap_or_else(|| panic!("in none of {files:?}"))
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The only share's directory in a state directory.
fn share_dir(device: &Device) -> PathBuf {
    files(&device.state_dir().join("shares")).into_iter().find(|path| path.join("log").is_dir()).unwrap()
}

/// Runs a check that finds something: what it says.
fn finds(device: &Device) -> String {
    let done = device.run(&["check"]);
    assert_eq!(done.code, Some(1), "{done}");
    done.said()
}

#[test]
fn a_byte_that_goes_bad_is_named_and_what_it_was_comes_back() {
    needs!("a_byte_that_goes_bad_is_named_and_what_it_was_comes_back", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &one);
    let ticket = a.invite(&one, &["--role", "admin"]);
    b.show(Mode::Mount, Some(&ticket), &other);
    // A change each, so that the log of the one has something before and behind the one that goes bad.
    for n in 0..6 {
        fs::write(one.join(format!("file {n}")), bytes(n, 30_000)).unwrap();
        a.wait(&one, "all");
    }
    let tree = same_trees(&[&one, &other], LIMIT);
    b.check();

    // A chunk. Nobody else is there to give it.
    b.stop();
    segment.cut(&b);
    let (pack, at) = find(&files(&b.state_dir().join("store/packs")), &bytes(3, 30_000)[100..200]);
    flip(&pack, at);
    b.show(Mode::Mount, None, &other);
    let said = finds(&b);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("damaged"), "{said}");
    assert!(finds(&b).contains(name), "it was only looked at");
    let repaired = b.run(&["check", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired}");
    assert!(repaired.said().contains(name) && repaired.said().contains("fetched again"), "{repaired}");
    b.check();
    assert_eq!(b.status()["shares"][0]["missing"]["files"], 1);
    segment.heal(&b);
    b.wait(&other, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT), tree);
    b.check();

    // A change in the log: that of a file in the middle, which all later ones build on.
    b.stop();
    segment.cut(&b);
    let log = share_dir(&b).join("log/envelopes");
    let (log, at) = find(&[log], blake3::hash(&bytes(3, 30_000)).as_bytes());
    flip(&log, at);
    b.show(Mode::Mount, None, &other);
    let said = finds(&b);
    assert!(said.contains("log/envelopes") && said.contains("damaged"), "{said}");
    // What lies behind it is named one by one.
    assert!(said.contains("change") && said.contains("anna"), "{said}");
    segment.heal(&b);
    b.wait(&other, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT), tree);
    assert!(finds(&b).contains("log/envelopes"), "the place is still bad");
    let repaired = b.run(&["check", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired}");
    for _ in 0..2 {
        b.check();
        b.stop();
        b.show(Mode::Mount, None, &other);
    }
    // It has all changes to give.
    let mut c = lab.device("carl", &[&segment]);
    let ticket = b.invite(&other, &["--role", "read"]);
    a.stop();
    let third = c.dir("s");
    c.show(Mode::Mount, Some(&ticket), &third);
    b.wait(&other, "connected");
    assert_eq!(same_trees(&[&other, &third], LIMIT), tree);
    c.check();
    b.stop();
    c.stop();
}

/// Who is a member is on disk as it is in memory.
#[test]
fn a_bad_byte_among_the_members_is_found_and_written_again() {
    needs!("a_bad_byte_among_the_members_is_found_and_written_again");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["anna"]);
    let dir = a.dir("s");
    a.show(Mode::Watch, None, &dir);
    a.check();
    let members = share_dir(&a).join("membership");
    flip(&members, fs::metadata(&members).unwrap().len() - 7);
    assert!(finds(&a).contains("membership"));
    let repaired = a.run(&["check", "--repair"]);
    assert!(repaired.code == Some(0) && repaired.said().contains("written again"), "{repaired}");
    a.check();
    a.stop();
    a.show(Mode::Watch, None, &dir);
    a.check();
    a.stop();
}
