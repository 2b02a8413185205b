//! `wait` knows what the others did before it began. What a folder waits with is named, by `status` and by a `wait` that ends
//! in vain, and goes on by itself.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, Mode, Segment, bytes, needs, same_trees, until};

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

/// Two devices that share a directory each, and are in sync.
fn two(lab: &Lab, modes: [Mode; 2]) -> (Segment, [Device; 2], [PathBuf; 2]) {
    let (segment, [a, b], dirs) = lab.pair(["anna", "bert"], modes);
    fs::write(dirs[0].join("early.txt"), "early\n").unwrap();
    a.wait(&dirs[0], "all");
    b.wait(&dirs[1], "all");
    (segment, [a, b], dirs)
}

/// Whether the first device of its share says that the one of this name is connected.
fn connected(device: &Device, name: &str) -> bool {
    let status = device.status();
    let devices = status["shares"][0]["devices"].as_array().unwrap();
    devices.iter().any(|other| other["name"] == name && other["connected"] == true)
}

/// What the other device does in its directory counts from the moment in which it is done, not only once it is told.
fn done_a_moment_ago(mode: Mode) {
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = two(&lab, [Mode::Mount, mode]);
    let read = |name: &str| fs::read_to_string(one.join(name)).ok();
    for (round, devices) in (0..20).zip(["all", "connected", "1"].into_iter().cycle()) {
        let (name, text) = (format!("file {round}.txt"), format!("of round {round}\n"));
        fs::write(other.join(&name), &text).unwrap();
        fs::write(other.join("early.txt"), &text).unwrap();
        a.wait(&one, devices);
        assert_eq!(read(&name), Some(text.clone()), "round {round}, --devices {devices}");
        assert_eq!(read("early.txt"), Some(text.clone()), "round {round}, --devices {devices}");
        // What was looked at here before is seen as it is now.
        fs::rename(other.join(&name), other.join("last.txt")).unwrap();
        a.wait(&one, devices);
        assert_eq!((read(&name), read("last.txt")), (None, Some(text)), "round {round}, --devices {devices}");
        if round % 4 == 0 {
            // What brings names alone that editors use for a moment is held back there; it counts, too.
            let aside = format!("file {round}.tmp");
            fs::write(other.join(&aside), "").unwrap();
            a.wait(&one, devices);
            assert_eq!(read(&aside), Some(String::new()), "round {round}, --devices {devices}");
        }
    }
    a.wait(&one, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT).names().len(), 7);
    a.stop();
    b.stop();
}

#[test]
fn what_was_just_closed_in_a_mount_elsewhere() {
    needs!("what_was_just_closed_in_a_mount_elsewhere", Fuse);
    done_a_moment_ago(Mode::Mount);
}

#[test]
fn what_was_just_closed_in_a_folder_elsewhere() {
    needs!("what_was_just_closed_in_a_folder_elsewhere", Fuse);
    done_a_moment_ago(Mode::Watch);
}

/// The link is gone for a while, for so long that the connection is lost in some rounds; as soon as it is back, `wait` knows
/// what was done on the other side meanwhile.
#[test]
fn what_was_written_while_the_link_was_cut() {
    needs!("what_was_written_while_the_link_was_cut", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = two(&lab, [Mode::Mount, Mode::Mount]);
    for (round, seconds) in [0.0, 0.3, 1.0, 2.0, 3.0, 4.5, 8.0, 8.0].into_iter().enumerate() {
        let name = format!("round {round}.txt");
        until("connected", LIMIT, || if connected(&a, "bert") { Ok(()) } else { Err("not yet".into()) });
        if round % 2 == 0 {
            segment.cut(&b)
        } else {
            segment.unplug(&b)
        }
        fs::write(other.join(&name), &name).unwrap();
        // The link is down for so long: that is what happens, not what is waited for.
        std::thread::sleep(Duration::from_secs_f64(seconds));
        if round % 2 == 0 {
            segment.heal(&b)
        } else {
            segment.plug(&b)
        }
        a.wait(&one, "all");
        assert_eq!(fs::read_to_string(one.join(&name)).ok(), Some(name), "after {seconds} s");
    }
    a.stop();
    b.stop();
}

/// The other device seems to be there, but nothing comes from it any more.
#[test]
fn who_does_not_answer() {
    needs!("who_does_not_answer");
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = two(&lab, [Mode::Watch, Mode::Watch]);
    segment.cut(&b);
    for devices in ["all", "connected", "1"] {
        let args = ["wait", one.to_str().unwrap(), "--devices", devices, "--timeout", "1s"];
        let said = a.fails(3, &args);
        assert!(said.contains("bert has not answered"), "{said}");
    }
    segment.heal(&b);
    a.wait(&one, "all");
    assert_eq!(same_trees(&[&one, &other], LIMIT).names(), ["early.txt"]);
    a.stop();
    b.stop();
}

#[test]
fn a_file_that_a_program_has_open() {
    needs!("a_file_that_a_program_has_open");
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [Mode::Watch, Mode::Watch]);
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
    // What fitted before the log was full waits in memory, with all that it says; of anything else the file is named.
    until("the user is told", LIMIT, || {
        told(&a, &["wait in memory", "Free some space"])
            .or_else(|_| told(&a, &["small", "large", "edited", "Free some space"]))
    });
    in_vain(&a, &one, &["ree some space"]);
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
