//! What a folder waits with is named, by `status` and by a `wait` that ends in vain, and goes on by itself.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, Mode, bytes, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(60);

/// `wait` ends in vain, saying all of these.
#[track_caller]
fn in_vain(device: &Device, dir: &Path, words: &[&str]) {
    let said = device.fails(3, &["wait", dir.to_str().unwrap(), "--timeout", "1s"]);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not in: {said}");
}

fn told(device: &Device, words: &[&str]) -> Result<(), String> {
    let said = device.status()["shares"][0]["problems"].to_string();
    if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
}

#[test]
fn a_file_that_a_program_has_open() {
    needs!("a_file_that_a_program_has_open");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    fs::write(one.join("log.txt"), "first\n").unwrap();
    fs::write(one.join("gone.txt"), "first\n").unwrap();
    a.wait(&one, "all");
    let open = ["log.txt", "gone.txt"].map(|name| OpenOptions::new().append(true).open(other.join(name)).unwrap());
    fs::write(one.join("log.txt"), "second\n").unwrap();
    fs::remove_file(one.join("gone.txt")).unwrap();
    until("the user is told", LIMIT, || told(&b, &["log.txt", "gone.txt", "open for writing"]));
    in_vain(&b, &other, &["log.txt", "gone.txt", "open for writing"]);
    told(&b, &["log.txt", "gone.txt", "open for writing"]).unwrap();
    assert_eq!(fs::read_to_string(other.join("log.txt")).unwrap(), "first\n");
    drop(open);
    b.wait(&other, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT).names(), ["log.txt"]);
    assert_eq!(told(&b, &["impossible"]), Err("[]".into()));
    a.stop();
    b.stop();
}

/// What its user writes while the disk of the state directory is full goes in when there is room, without anything else
/// happening in the folder.
#[test]
fn what_is_written_while_there_is_no_room() {
    needs!("what_is_written_while_there_is_no_room", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 64);
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    a.set_state_dir(small.dir().join("state"));
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    fs::write(one.join("edited"), "first\n").unwrap();
    a.wait(&one, "all");
    let ballast = small.fill(1 << 20);
    let mut rest = OpenOptions::new().append(true).open(&ballast).unwrap();
    while rest.write_all(&[1; 4096]).is_ok() {}
    drop(rest);
    fs::write(one.join("small"), bytes(1, 10_000)).unwrap();
    fs::write(one.join("large"), bytes(2, 5 << 20)).unwrap();
    OpenOptions::new().append(true).open(one.join("edited")).unwrap().write_all(b"second\n").unwrap();
    until("the user is told", LIMIT, || told(&a, &["small", "large", "edited", "Free some space"]));
    in_vain(&a, &one, &["small", "Free some space"]);
    fs::remove_file(ballast).unwrap();
    until("nothing is wrong", LIMIT, || match told(&a, &["impossible"]) {
        Err(said) if said == "[]" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    a.wait(&one, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT).names(), ["edited", "large", "small"]);
    assert_eq!(fs::read_to_string(other.join("edited")).unwrap(), "first\nsecond\n");
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// What is read elsewhere while it is written over is one version or the other, or an error: the bytes of the old one are
/// nowhere, and nobody waits for them once the new one is known.
#[test]
fn a_file_that_is_read_elsewhere_while_it_is_written_over() {
    needs!("a_file_that_is_read_elsewhere_while_it_is_written_over", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    b.show(Mode::Watch, None, &other);
    let ticket = b.invite(&other, &[]);
    a.show_with(Mode::Mount, Some(&ticket), &one, &["--on-demand"]);
    let (old, new) = (bytes(1, 5 << 20), bytes(2, 6 << 20));
    fs::write(other.join("f"), &old).unwrap();
    let size = |size: usize| match fs::metadata(one.join("f")) {
        Ok(meta) if meta.len() == size as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("the old version is known", LIMIT, || size(old.len()));
    let mut file = OpenOptions::new().write(true).open(other.join("f")).unwrap();
    file.write_all(&new).unwrap();
    let path = one.join("f");
    let reader = std::thread::spawn(move || fs::read(path));
    drop(file);
    until("the new version is known", LIMIT, || size(new.len()));
    until(
        "the read ends",
        Duration::from_secs(15),
        || if reader.is_finished() { Ok(()) } else { Err("it waits".into()) },
    );
    if let Ok(read) = reader.join().unwrap() {
        assert!(read == old || read == new, "{} bytes of neither version", read.len());
    }
    assert!(fs::read(one.join("f")).unwrap() == new);
    a.check();
    a.stop();
    b.stop();
}
