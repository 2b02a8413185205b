//! Engines come and go: in the background, in the foreground, killed; what was shown is shown again.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, is_mounted, lives, needs, run, same_trees, until};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(30);

fn engine(device: &Device) -> Pid {
    let pid = device.status()["engine"]["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn text(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

#[test]
fn the_background_engine() {
    needs!("the_background_engine", Fuse);
    let lab = Lab::new();
    let (_segment, [a, b]) = lab.on_one_segment(["a", "b"]);
    let (mount, folder) = (a.dir("s"), b.dir("s"));
    // `mount` starts it, and it outlives the command.
    a.ok(&["mount", text(&mount)]);
    assert!(is_mounted(&mount));
    fs::write(mount.join("f"), "one\n").unwrap();
    let first = engine(&a);
    a.ok(&["start"]);
    assert_eq!(engine(&a), first, "one engine a state directory");
    let ticket = a.invite(&mount, &[]);
    b.ok(&["watch", &ticket, text(&folder)]);
    a.wait(&mount, "all");
    same_trees(&[&mount, &folder], LIMIT);

    // `stop` takes all away, `start` brings it back, with what happened meanwhile.
    a.ok(&["stop"]);
    assert!(!is_mounted(&mount));
    assert!(!lives(first), "its process is gone");
    fs::write(folder.join("g"), "two\n").unwrap();
    a.ok(&["start"]);
    until("shown again", LIMIT, || if is_mounted(&mount) { Ok(()) } else { Err("not mounted".into()) });
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], LIMIT);

    // A folder is rescanned: what was done while no engine ran is found.
    b.ok(&["stop"]);
    fs::write(folder.join("h"), "three\n").unwrap();
    fs::remove_file(folder.join("f")).unwrap();
    fs::rename(folder.join("g"), folder.join("i")).unwrap();
    b.ok(&["start"]);
    until("scanned and synced", LIMIT, || {
        // Entries come and go meanwhile: one that is listed may be gone when it is looked at.
        let names = crdtfs_tests::Tree::read(&mount).map_err(|error| error.to_string())?.names();
        if names == ["h", "i"] { Ok(()) } else { Err(format!("{names:?}")) }
    });
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], LIMIT);

    // Killed: the dead mount is taken away, and all is shown again.
    let pid = engine(&a);
    kill_process(pid, Signal::KILL).unwrap();
    until("it is dead", LIMIT, || if lives(pid) { Err("alive".into()) } else { Ok(()) });
    until("its mount is dead", LIMIT, || rustix::fs::statvfs(&mount).map_or(Ok(()), |_| Err("alive".into())));
    a.ok(&["start"]);
    until("shown again", LIMIT, || fs::read(mount.join("h")).map_err(|e| e.to_string()));
    same_trees(&[&mount, &folder], LIMIT);
    a.check();
    a.ok(&["stop"]);
    b.ok(&["stop"]);
}

#[test]
fn nothing_falls_below_a_mount_that_is_replaced() {
    needs!("nothing_falls_below_a_mount_that_is_replaced", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("s");
    a.ok(&["mount", text(&mount)]);
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // A program that goes on writing, whatever it is told.
        scope.spawn(|| {
            for n in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let ok = fs::write(mount.join(format!("f{}", n % 50)), format!("{n}\n")).is_ok();
                written.fetch_add(u64::from(ok), Ordering::Relaxed);
            }
        });
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for how in [["mount", text(&mount)].as_slice(), &["start"], &["mount", text(&mount)], &["start"]] {
                let pid = engine(&a);
                kill_process(pid, Signal::KILL).unwrap();
                until("it is dead", LIMIT, || if lives(pid) { Err("alive".into()) } else { Ok(()) });
                a.ok(how);
                let before = written.load(Ordering::Relaxed);
                until("writing goes on", LIMIT, || match written.load(Ordering::Relaxed) {
                    now if now > before => Ok(()),
                    _ => Err(format!("{}", a.run(&["status"]))),
                });
            }
        }));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    a.ok(&["stop"]);
    assert!(!is_mounted(&mount));
    let below: Vec<_> = fs::read_dir(&mount).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(below.is_empty(), "{below:?}");

    // Written while it is not mounted: the refusal says what lies there, and what to do about it.
    fs::write(mount.join("astray"), "mine\n").unwrap();
    let said = a.fails(1, &["mount", text(&mount)]);
    assert!(said.contains("astray") && said.contains("move it"), "{said}");
    fs::rename(mount.join("astray"), a.dir("astray")).unwrap();
    a.ok(&["mount", text(&mount)]);
    assert!(fs::read_dir(&mount).unwrap().next().is_some(), "what was written before the orderly end");
    a.ok(&["stop"]);
}

#[test]
fn unmounted_and_shown_again() {
    needs!("unmounted_and_shown_again", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let (mount, folder) = (a.dir("m"), a.dir("w"));
    a.ok(&["mount", text(&mount)]);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("was-here"), "before\n").unwrap();
    a.ok(&["watch", text(&folder)]);
    fs::write(mount.join("f"), "mine\n").unwrap();
    let shares = |device: &Device| device.status()["shares"].as_array().unwrap().len();
    assert_eq!(shares(&a), 2);
    a.ok(&["unmount", text(&mount)]);
    a.ok(&["umount", text(&folder)]);
    assert!(!is_mounted(&mount));
    assert!(fs::read_dir(&mount).unwrap().next().is_none());
    assert_eq!(fs::read_to_string(folder.join("was-here")).unwrap(), "before\n", "a folder keeps its files");
    // What the user took away stays away.
    a.ok(&["stop"]);
    a.ok(&["start"]);
    let states = |device: &Device| -> Vec<String> {
        let status = device.status();
        let dirs = status["shares"].as_array().unwrap().iter().flat_map(|share| share["dirs"].as_array().unwrap());
        dirs.map(|dir| dir["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&a), ["stopped", "stopped"]);
    assert!(!is_mounted(&mount));
    // Without a ticket it is the same share again.
    a.ok(&["mount", text(&mount)]);
    a.ok(&["watch", text(&folder)]);
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "mine\n");
    assert_eq!(shares(&a), 2);
    assert_eq!(states(&a), ["ready", "ready"]);
    // One that was taken away by hand is not there any more, from then on.
    for _ in 0..3 {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).unwrap();
        a.ok(&["mount", text(&mount)]);
        assert!(is_mounted(&mount));
        assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "mine\n");
    }
    a.ok(&["stop"]);
}

#[test]
fn a_busy_mount_is_not_torn_away() {
    needs!("a_busy_mount_is_not_torn_away", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("m");
    a.ok(&["mount", text(&mount)]);
    fs::write(mount.join("f"), "mine\n").unwrap();
    let held = fs::File::open(mount.join("f")).unwrap();
    let said = a.fails(1, &["unmount", text(&mount)]);
    assert!(said.to_lowercase().contains("busy") || said.contains("in use"), "{said}");
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "mine\n");
    drop(held);
    a.ok(&["unmount", text(&mount)]);
    assert!(!is_mounted(&mount));
    a.ok(&["stop"]);
}

#[test]
fn in_the_foreground_on_a_running_engine() {
    needs!("in_the_foreground_on_a_running_engine", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("m");
    a.ok(&["start"]);
    let background = engine(&a);
    a.show(Mode::Mount, None, &mount);
    assert_eq!(engine(&a), background, "handed over");
    assert!(is_mounted(&mount) && a.is_running());
    fs::write(mount.join("f"), "mine\n").unwrap();
    a.stop();
    assert!(!is_mounted(&mount), "as with an engine of its own");
    assert_eq!(engine(&a), background);
    // The engine goes, and who is attached ends with it.
    a.show(Mode::Mount, None, &mount);
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "mine\n");
    a.ok(&["stop"]);
    until("the attached command ends", LIMIT, || if a.is_running() { Err("runs".into()) } else { Ok(()) });
    assert!(!is_mounted(&mount));
}

/// A service file with other flags than before, or `mount` where no engine runs.
#[test]
fn who_begins_the_engine_chooses_the_options() {
    needs!("who_begins_the_engine_chooses_the_options", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("m");
    a.show(Mode::Mount, None, &mount);
    fs::write(mount.join("f"), "mine\n").unwrap();
    a.stop();
    let said = |a: &Device| a.log().matches("shown with `--read-only`, as before").count();
    for flags in [&["--read-only"][..], &[]] {
        assert_eq!(said(&a), 0);
        a.show_with(Mode::Mount, None, &mount, flags);
        assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "mine\n");
        fs::write(mount.join("g"), "").unwrap_err();
        // Of what is shown the options stay.
        let refused = a.fails(1, &["mount", text(&mount), "--owner", "keep"]);
        assert!(refused.contains("`--read-only`") && refused.contains("crdtfs unmount"), "{refused}");
        a.stop();
    }
    assert_eq!(said(&a), 1, "{}", a.log());
    // In the background it is the same.
    a.ok(&["mount", text(&mount), "--owner", "keep"]);
    fs::write(mount.join("g"), "").unwrap();
    let refused = a.fails(1, &["mount", text(&mount), "--read-only"]);
    assert!(refused.contains("`--owner keep`"), "{refused}");
    a.ok(&["stop"]);
}

#[test]
fn signals_end_the_foreground() {
    needs!("signals_end_the_foreground", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("m");
    for (n, signal) in [Signal::INT, Signal::TERM, Signal::HUP].into_iter().enumerate() {
        a.show(Mode::Mount, None, &mount);
        for before in 0..n {
            assert_eq!(fs::read_to_string(mount.join(format!("{before}"))).unwrap(), "unsynced\n");
        }
        // Just written, no fsync: leaving flushes it.
        fs::write(mount.join(format!("{n}")), "unsynced\n").unwrap();
        assert_eq!(a.leave(signal).code(), Some(0), "{signal:?}");
        assert!(!is_mounted(&mount));
    }
    // Taken away from outside: the command notices, and ends.
    a.show(Mode::Mount, None, &mount);
    run(
        {
            let mut umount = Command::new("umount");
            umount.arg(&mount);
            umount
        },
        LIMIT,
    )
    .ok();
    until("it ends", LIMIT, || if a.is_running() { Err("runs".into()) } else { Ok(()) });
}

#[test]
fn a_mount_that_is_taken_away_while_in_use_is_told_from_one_that_is_there() {
    needs!("a_mount_that_is_taken_away_while_in_use_is_told_from_one_that_is_there", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let above = a.dir("above");
    let mount = above.join("m");
    a.ok(&["mount", text(&mount)]);
    let take_away = || {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&mount);
        run(umount, LIMIT).ok();
        assert!(!is_mounted(&mount));
    };
    let open = |name: &str| {
        let file = fs::File::options().create(true).append(true).open(mount.join(name)).unwrap();
        fs::write(mount.join(name), "before\n").unwrap();
        file
    };
    let says_who = |said: &str| {
        let who = format!("(process {})", std::process::id());
        assert!(said.contains("was unmounted, but") && said.contains(&who), "{said}");
    };

    // Who has it open can go on; it is mounted again once nobody has.
    let mut used = open("f");
    take_away();
    says_who(&a.fails(1, &["mount", text(&mount)]));
    says_who(&a.ok(&["status"]));
    used.write_all(b"after\n").unwrap();
    drop(used);
    until("it can be mounted", LIMIT, || match a.run(&["mount", text(&mount)]) {
        done if done.code == Some(0) => Ok(()),
        done => Err(done.to_string()),
    });
    assert!(is_mounted(&mount));
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "before\nafter\n");

    // Or is cut off.
    let mut used = open("g");
    take_away();
    a.ok(&["unmount", text(&mount)]);
    a.ok(&["mount", text(&mount)]);
    assert!(used.write_all(b"too late\n").and_then(|()| used.sync_all()).is_err());
    assert_eq!(fs::read_to_string(mount.join("g")).unwrap(), "before\n");
    drop(used);

    // Moved with a directory above it.
    let moved = a.dir("moved");
    fs::rename(&above, &moved).unwrap();
    fs::create_dir_all(&mount).unwrap();
    let said = a.fails(1, &["mount", text(&mount)]);
    assert!(said.contains(&format!("is mounted at {} now", moved.join("m").display())), "{said}");
    a.ok(&["unmount", text(&mount)]);
    assert!(!is_mounted(&moved.join("m")));
    a.ok(&["mount", text(&mount)]);
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "before\nafter\n");
    a.ok(&["stop"]);
}

#[test]
fn wait_says_who_lacks_what() {
    needs!("wait_says_who_lacks_what");
    let lab = Lab::new();
    let (segment, [mut a, mut b, mut c]) = lab.on_one_segment(["a", "bertha", "carl"]);
    let dirs = [a.dir("s"), b.dir("s"), c.dir("s")];
    a.show(Mode::Watch, None, &dirs[0]);
    let ticket = a.invite(&dirs[0], &["--uses", "2"]);
    b.show(Mode::Watch, Some(&ticket), &dirs[1]);
    c.show(Mode::Watch, Some(&ticket), &dirs[2]);
    fs::write(dirs[0].join("f"), "for all\n").unwrap();
    for devices in ["all", "2", "1", "connected"] {
        a.wait(&dirs[0], devices);
    }
    a.ok(&["wait"]);

    segment.cut(&c);
    fs::write(dirs[0].join("f"), "for those who are here\n").unwrap();
    a.wait(&dirs[0], "1");
    let path = text(&dirs[0]);
    for devices in ["all", "2"] {
        let said = a.fails(3, &["wait", path, "--devices", devices, "--timeout", "300ms"]);
        assert!(said.contains("carl") && !said.contains("bertha"), "{said}");
    }
    // Nobody else is there: not even `connected` is satisfied.
    b.stop();
    c.stop();
    until("the others are known to be gone", LIMIT, || {
        let done = a.run(&["wait", path, "--devices", "connected", "--timeout", "100ms"]);
        if done.code == Some(3) { Ok(()) } else { Err(done.to_string()) }
    });
    let done = a.run(&["wait", path, "--timeout", "100ms", "--json"]);
    assert_eq!(done.code, Some(3), "{done}");
    let said: serde_json::Value = serde_json::from_str(&done.text()).unwrap();
    assert_eq!(said["done"], false);
    assert!(said["devices"].as_array().unwrap().iter().any(|device| device["name"] == "carl"), "{said}");
    a.stop();
}
