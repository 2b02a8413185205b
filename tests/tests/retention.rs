//! Old versions' bytes are kept as long as the user wants, and what a merge or a conflict copy needs for as long as that.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Done, Lab, Mode, bytes, needs, same_trees, until};

const SETTLED: Duration = Duration::from_secs(30);

/// Large enough not to be a text that is kept as a merge base.
const LARGE: usize = 3_000_000;

fn configure(device: &Device, config: &str) {
    fs::DirBuilder::new().mode(0o700).create(device.state_dir()).unwrap();
    fs::write(device.state_dir().join("config.toml"), config).unwrap();
}

/// What was put lately is left by the first collection.
fn collect(device: &Device) {
    for _ in 0..2 {
        device.ok(&["check", "--repair"]);
    }
}

fn restore(device: &Device, path: &Path, to: &Path) -> Done {
    let words: [&OsStr; 4] = ["restore".as_ref(), path.as_ref(), "--to".as_ref(), to.as_ref()];
    device.run(&words)
}

/// Waits until the log tells of a version with these bytes.
fn told(device: &Device, path: &Path, bytes: &[u8]) {
    let hash = blake3::hash(bytes).to_hex();
    until("the version is in the log", SETTLED, || {
        let said = device.ok(&["log".as_ref(), path.as_os_str(), "--json".as_ref()]);
        if said.contains(hash.as_str()) { Ok(()) } else { Err(said) }
    });
}

fn disk_used(device: &Device) -> u64 {
    device.status()["engine"]["disk"]["used"].as_u64().unwrap()
}

#[test]
fn a_mount_keeps_old_versions_for_a_while() {
    needs!("a_mount_keeps_old_versions_for_a_while", Fuse);
    let lab = Lab::new();
    let (_segment, [mut keeps, mut drops]) = lab.on_one_segment(["keeps", "drops"]);
    configure(&drops, "retention = '0s'\n");
    for device in [&mut keeps, &mut drops] {
        let dir = device.dir("s");
        device.show(Mode::Mount, None, &dir);
        for seed in [1, 2] {
            fs::write(dir.join("f"), bytes(seed, LARGE)).unwrap();
            told(device, &dir, &bytes(seed, LARGE));
        }
        collect(device);
        assert!(fs::read(dir.join("f")).unwrap() == bytes(2, LARGE));
        device.check();
    }
    let dir = keeps.dir("s");
    restore(&keeps, &dir.join("f"), &dir.join("old")).ok();
    assert!(fs::read(dir.join("old")).unwrap() == bytes(1, LARGE));
    let dir = drops.dir("s");
    let done = restore(&drops, &dir.join("f"), &dir.join("old"));
    assert!(done.code == Some(1) && done.stderr.contains("no other device"), "{done}");
    assert!(!dir.join("old").exists());
    assert!(disk_used(&drops) < LARGE as u64 * 3 / 2, "{}", disk_used(&drops));
    keeps.stop();
    drops.stop();
}

/// Also where nothing old is kept: what two devices that are apart change can be merged when they meet.
#[test]
fn merges_have_their_bases() {
    needs!("merges_have_their_bases", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    configure(&a, "retention = '0s'\n");
    configure(&b, "retention = '0s'\n");
    a.show(Mode::Mount, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    let lines = |first: &str, last: &str| format!("{first}\n2\n3\n4\n5\n6\n7\n8\n{last}\n");
    for name in ["merged", "clash"] {
        fs::write(one.join(name), "older\n").unwrap();
        a.wait(&one, "all");
        fs::write(one.join(name), lines("1", "9")).unwrap();
    }
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);
    segment.cut(&b);
    fs::write(one.join("merged"), lines("one", "9")).unwrap();
    fs::write(one.join("clash"), lines("one", "9")).unwrap();
    fs::write(other.join("merged"), lines("1", "nine")).unwrap();
    fs::write(other.join("clash"), lines("eins", "9")).unwrap();
    for (device, dir, text) in [(&a, &one, lines("one", "9")), (&b, &other, lines("1", "nine"))] {
        told(device, dir, text.as_bytes());
        collect(device);
    }
    segment.heal(&b);
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    assert_eq!(fs::read_to_string(one.join("merged")).unwrap(), lines("one", "nine"));
    assert!(
        tree.holder(lines("one", "9").as_bytes()).is_some() && tree.holder(lines("eins", "9").as_bytes()).is_some()
    );
    // What is shown now needs more than its own bytes, also after the next start.
    collect(&a);
    collect(&b);
    a.stop();
    b.stop();
    a.show(Mode::Mount, None, &one);
    b.show(Mode::Watch, None, &other);
    a.wait(&one, "all");
    assert_eq!(same_trees(&[&one, &other], SETTLED), tree);
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// What others replace or remove in a watched folder is kept, though no program of this device left a copy.
#[test]
fn a_folder_keeps_what_others_replace() {
    needs!("a_folder_keeps_what_others_replace", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Mount, Mode::Watch]);
    fs::write(one.join("replaced"), bytes(1, LARGE)).unwrap();
    fs::write(one.join("removed"), bytes(2, LARGE)).unwrap();
    a.wait(&one, "all");
    fs::write(one.join("replaced"), bytes(3, LARGE)).unwrap();
    fs::remove_file(one.join("removed")).unwrap();
    a.wait(&one, "all");
    assert!(fs::read(other.join("replaced")).unwrap() == bytes(3, LARGE));
    a.stop();
    collect(&b);
    restore(&b, &other.join("replaced"), &other.join("old")).ok();
    b.ok(&["restore".as_ref(), other.join("removed").as_os_str()]);
    assert!(fs::read(other.join("old")).unwrap() == bytes(1, LARGE));
    assert!(fs::read(other.join("removed")).unwrap() == bytes(2, LARGE));
    b.check();
    b.stop();
}

/// What a program on this device writes over in a watched folder is kept where the user asked for it.
#[test]
fn a_folder_keeps_what_is_replaced_here_if_asked_to() {
    needs!("a_folder_keeps_what_is_replaced_here_if_asked_to");
    let lab = Lab::new();
    let (_segment, [mut keeps, mut plain]) = lab.on_one_segment(["keeps", "plain"]);
    configure(&keeps, "keep-local-history = true\n");
    for device in [&mut keeps, &mut plain] {
        let dir = device.dir("s");
        device.show(Mode::Watch, None, &dir);
        for seed in [1, 2] {
            fs::write(dir.join("f"), bytes(seed, LARGE)).unwrap();
            told(device, &dir, &bytes(seed, LARGE));
        }
        collect(device);
    }
    let dir = keeps.dir("s");
    restore(&keeps, &dir.join("f"), &dir.join("old")).ok();
    assert!(fs::read(dir.join("old")).unwrap() == bytes(1, LARGE));
    let dir = plain.dir("s");
    let done = restore(&plain, &dir.join("f"), &dir.join("old"));
    assert!(done.code == Some(1) && done.stderr.contains("not on this device"), "{done}");
    assert!(disk_used(&plain) < LARGE as u64, "the folder has the bytes, nobody else: {}", disk_used(&plain));
    keeps.stop();
    plain.stop();
}
