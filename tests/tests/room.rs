//! Room on the state directory's disk: what is fetched leaves some, what is removed gives some back, and who waits is told.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, Mode, bytes, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Takes up everything, also what only the superuser can use; the file's path.
fn fill_up(disk: &LoopFs) -> PathBuf {
    let ballast = disk.dir().join("ballast");
    let mut file = File::options().append(true).create(true).open(&ballast).unwrap();
    for piece in [&[1; 65_536][..], &[1; 4096]] {
        while file.write_all(piece).and_then(|()| file.sync_data()).is_ok() {}
    }
    ballast
}

fn text(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

fn says(device: &Device, words: &[&str]) -> Result<(), String> {
    let said = device.ok(&["status"]);
    if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
}

#[test]
fn what_is_removed_on_a_full_disk_gives_room() {
    needs!("what_is_removed_on_a_full_disk_gives_room", Fuse, Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 96);
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    a.set_state_dir(small.dir().join("state"));
    let mount = a.dir("shared");
    a.show(Mode::Mount, None, &mount);
    durable(&mount.join("kept"), &bytes(1, 3 << 20)).unwrap();
    durable(&mount.join("large"), &bytes(2, 30 << 20)).unwrap();
    for n in 0..300 {
        fs::write(mount.join(format!("small-{n}")), bytes(1_000 + n, 60_000)).unwrap();
    }
    let more = bytes(3, 50 << 20);
    let error = durable(&mount.join("more"), &more).expect_err("it does not fit");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error:?}");
    fs::remove_file(mount.join("more")).unwrap();
    // Overwritten, removed, many small ones: nothing of it is in the tree any more.
    fs::remove_file(mount.join("large")).unwrap();
    for n in 0..300 {
        fs::remove_file(mount.join(format!("small-{n}"))).unwrap();
    }
    // Its room is there for who needs it, at once.
    durable(&mount.join("more"), &more).unwrap();
    assert_eq!(fs::read(mount.join("kept")).unwrap(), bytes(1, 3 << 20));
    a.check();
    a.kill();
    a.show(Mode::Mount, None, &mount);
    assert_eq!(fs::read(mount.join("kept")).unwrap(), bytes(1, 3 << 20));
    assert_eq!(fs::read(mount.join("more")).unwrap(), more);
    a.check();
    a.stop();
}

#[test]
fn what_does_not_fit_is_fetched_once_it_does() {
    needs!("what_does_not_fit_is_fetched_once_it_does", Fuse, Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 96);
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    a.set_state_dir(small.dir().join("state"));
    let (mount, folder) = (a.dir("shared"), b.dir("shared"));
    a.show(Mode::Mount, None, &mount);
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    let ballast = small.fill(24 * MIB);
    fs::write(folder.join("large"), bytes(1, 40 << 20)).unwrap();
    fs::write(folder.join("little"), bytes(2, 100_000)).unwrap();
    until("what fits arrives", LIMIT, || match fs::metadata(mount.join("little")) {
        Ok(_) if fs::read(mount.join("little")).is_ok_and(|got| got == bytes(2, 100_000)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("the user is told", LIMIT, || says(&a, &["fetching is paused", "large"]));
    assert!(small.free() > 16 * MIB, "what does not fit is not begun: {}", small.free());
    let said = a.fails(3, &["wait", text(&mount), "--timeout", "100ms"]);
    assert!(said.contains("large"), "{said}");
    fs::remove_file(ballast).unwrap();
    a.wait(&mount, "all");
    same_trees(&[&mount, &folder], LIMIT);
    until("all is well", LIMIT, || match a.status()["shares"][0]["problems"].as_array().unwrap().len() {
        0 => Ok(()),
        _ => Err(a.status().to_string()),
    });
    a.stop();
    b.stop();
}

#[test]
fn what_is_removed_elsewhere_gives_room_on_a_disk_without_any() {
    needs!("what_is_removed_elsewhere_gives_room_on_a_disk_without_any", Fuse, Loop, Tool("mkfs.ext4"));
    for mode in [Mode::Mount, Mode::Watch] {
        let lab = Lab::new();
        let small = LoopFs::new(&lab, "small", 96);
        let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
        a.set_state_dir(small.dir().join("state"));
        let (here, there) =
            (if mode == Mode::Mount { a.dir("shared") } else { small.dir().join("shared") }, b.dir("shared"));
        a.show(mode, None, &here);
        let ticket = a.invite(&here, &[]);
        b.show(Mode::Watch, Some(&ticket), &there);
        for n in 0..4 {
            durable(&here.join(format!("{n}")), &bytes(n, 8 << 20)).unwrap();
        }
        a.wait(&here, "all");
        // While there is room, some of it is kept for this.
        let spare = a.state_dir().join("spare");
        until("there is a spare", LIMIT, || fs::metadata(&spare).map_err(|error| error.to_string()));
        let ballast = fill_up(&small);
        assert!(small.free() < 4096);
        for n in 0..3 {
            fs::remove_file(there.join(format!("{n}"))).unwrap();
        }
        until("their room is there", LIMIT, || match small.free() {
            free if free > 20 * MIB => Ok(()),
            free => Err(format!("{free}; {}", a.ok(&["status"]))),
        });
        durable(&there.join("new"), &bytes(9, 4 << 20)).unwrap();
        b.wait(&there, "all");
        until("there is a spare again", LIMIT, || fs::metadata(&spare).map_err(|error| error.to_string()));
        fs::remove_file(ballast).unwrap();
        same_trees(&[&here, &there], LIMIT);
        a.check();
        a.stop();
        b.stop();
    }
}

#[test]
fn a_full_log_disk_ends_nothing_and_both_sides_say_why_they_wait() {
    needs!("a_full_log_disk_ends_nothing_and_both_sides_say_why_they_wait", Fuse, Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 64);
    let (_segment, [mut a, b]) = lab.on_one_segment(["a", "b"]);
    a.set_state_dir(small.dir().join("state"));
    let (mount, folder) = (a.dir("shared"), b.dir("shared"));
    // In the background: its log is on the disk that is full.
    a.ok(&["mount", text(&mount), "-vv"]);
    let ticket = a.invite(&mount, &[]);
    b.ok(&["watch", &ticket, text(&folder)]);
    durable(&mount.join("f"), b"one\n").unwrap();
    a.wait(&mount, "all");
    let engine = a.status()["engine"]["pid"].to_string();
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{engine}/task")).unwrap().flatten();
        let mut names: Vec<_> = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).collect();
        names.retain(|name| ["store-keeper\n", "crdtfs-commit\n", "crdtfs-fetch\n"].contains(&name.as_str()));
        names.sort_unstable();
        names
    };
    let before = threads();
    assert_eq!(before.len(), 3, "{before:?}");
    let ballast = fill_up(&small);
    until("the log cannot grow", LIMIT, || {
        durable(&mount.join("g"), &bytes(9, 3 << 20)).err().map(|_| ()).ok_or_else(|| "written".to_owned())
    });
    until("the full device says so", LIMIT, || says(&a, &["is full"]));
    // There is room kept for some changes; not for more, once somebody else has that, too.
    fs::write(folder.join("from-b"), bytes(1, 100_000)).unwrap();
    until("it is known here", LIMIT, || fs::metadata(mount.join("from-b")).map_err(|error| error.to_string()));
    let mut more = 0;
    until("the other one says why it is not in sync", LIMIT, || {
        fill_up(&small);
        more += 1;
        fs::write(folder.join("more"), bytes(more, 100_000)).unwrap();
        says(&b, &["not connected", "disk may be full"])
    });
    until("this one, too", LIMIT, || says(&a, &["not connected", "its disk is full"]));
    assert_eq!(threads(), before, "no thread has panicked");
    fs::remove_file(ballast).unwrap();
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], LIMIT);
    assert_eq!(threads(), before);
    until("nothing is said of it any more", LIMIT, || {
        match a.status()["shares"][0]["problems"].as_array().unwrap().len() {
            0 => Ok(()),
            _ => Err(a.status().to_string()),
        }
    });
    a.check();
    a.ok(&["stop"]);
    b.ok(&["stop"]);
}

/// What a folder knows of itself lies on the disk, too; after an error it has to be opened anew.
#[test]
fn a_folder_whose_own_state_had_no_room_goes_on() {
    needs!("a_folder_whose_own_state_had_no_room_goes_on", Fuse, Loop, Tool("mkfs.ext4"));
    const FILES: usize = 1500;
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 96);
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    b.set_state_dir(small.dir().join("state"));
    let (mount, folder) = (a.dir("shared"), small.dir().join("shared"));
    a.show(Mode::Mount, None, &mount);
    for n in 0..FILES {
        fs::write(mount.join(format!("{n}")), format!("{n}\n")).unwrap();
    }
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    a.wait(&mount, "all");
    let mut ballast = fill_up(&small);
    let mut turn = 0;
    until("its state cannot be saved", LIMIT, || {
        // Names take no room in a folder, but in what it knows of itself.
        for n in 0..FILES {
            let name =
                |turn: usize| if turn == 0 { format!("{n}") } else { format!("{n}-{turn}-{}", "long".repeat(40)) };
            fs::rename(mount.join(name(turn)), mount.join(name(turn + 1))).unwrap();
        }
        turn += 1;
        ballast = fill_up(&small);
        says(&b, &["cannot be saved"])
    });
    fs::remove_file(&ballast).unwrap();
    a.wait(&mount, "all");
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], LIMIT);
    until("all is well", LIMIT, || match b.status()["shares"][0]["problems"].as_array().unwrap().len() {
        0 => Ok(()),
        _ => Err(b.status().to_string()),
    });
    b.check();
    a.stop();
    b.stop();
}
