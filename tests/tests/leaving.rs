//! The engine comes and goes: what it showed answers when `start` returns, what cannot be shown is shown as soon as it can
//! be, and what is in use when it ends is safe.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, Mode, needs, tool, until};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// The state of the only directory, as `status` has it, and the problems of its share.
fn shown(device: &Device) -> (String, String) {
    let status = device.status();
    let share = &status["shares"][0];
    (share["dirs"][0]["state"].as_str().unwrap_or_default().to_owned(), share["problems"].to_string())
}

#[test]
fn what_was_shown_answers_when_start_returns() {
    needs!("what_was_shown_answers_when_start_returns", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let dirs: Vec<_> = (0..4).map(|n| a.dir(&format!("s{n}"))).collect();
    for dir in &dirs {
        a.ok(&["mount", text(dir)]);
        fs::write(dir.join("f"), "here\n").unwrap();
    }
    a.ok(&["wait", "--devices", "0"]);
    for _ in 0..3 {
        a.ok(&["stop"]);
        a.ok(&["start"]);
        for dir in &dirs {
            assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "here\n");
        }
    }
    // As after `kill -9`: the mounts are dead, and stay so until they are replaced.
    let pid: u32 = a.json(&["status"])["engine"]["pid"].as_u64().unwrap().try_into().unwrap();
    tool("kill", ["-9", &pid.to_string()]);
    a.ok(&["start"]);
    for dir in &dirs {
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "here\n");
    }
    a.ok(&["stop"]);
}

#[test]
fn a_folder_whose_disk_is_not_there_is_shown_when_it_is() {
    needs!("a_folder_whose_disk_is_not_there_is_shown_when_it_is", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let disk = LoopFs::new(&lab, "disk", 32);
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let folder = disk.dir().join("folder");
    a.ok(&["watch", text(&folder)]);
    fs::write(folder.join("f"), "on the disk\n").unwrap();
    a.ok(&["wait", "--devices", "0"]);
    a.ok(&["stop"]);
    tool("umount", [disk.dir()]);
    // It is not made anew where nothing is mounted, and a command that fails does not give it up.
    fs::create_dir(&folder).unwrap();
    for _ in 0..2 {
        let said = a.fails(1, &["watch", text(&folder)]);
        assert!(said.contains("is empty and not the directory that was synced before"), "{said}");
        let (state, problems) = shown(&a);
        assert_eq!(state, "failed");
        assert!(problems.contains("is empty and not the directory"), "{problems}");
    }
    a.ok(&["stop"]);
    a.ok(&["start"]);
    assert_eq!(shown(&a).0, "failed");
    fs::remove_dir(&folder).unwrap();
    let image = lab.root().join("disk.img");
    tool("mount", ["-o", "loop", text(&image), text(disk.dir())]);
    until("it is shown", LIMIT, || {
        let (state, problems) = shown(&a);
        if state == "ready" && problems == "[]" { Ok(()) } else { Err(format!("{state}: {problems}")) }
    });
    fs::write(folder.join("g"), "seen again\n").unwrap();
    a.ok(&["wait", "--devices", "0"]);
    assert!(a.ok(&["ls", text(&folder)]).contains('g'));
    assert_eq!(a.status()["shares"][0]["dirs"].as_array().unwrap().len(), 1);
    a.ok(&["unmount", text(&folder)]);
    assert_eq!(shown(&a).0, "stopped");
    a.ok(&["stop"]);
}

#[test]
fn what_is_in_use_when_the_engine_ends_is_safe() {
    needs!("what_is_in_use_when_the_engine_ends_is_safe", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let mount = a.dir("s");
    a.show(Mode::Mount, None, &mount);
    let mut open = File::create(mount.join("open")).unwrap();
    open.write_all(b"written, and not closed\n").unwrap();
    let said = a.fails(1, &["unmount", text(&mount)]);
    assert!(
        said.contains(&format!("(process {}) uses {}", std::process::id(), mount.join("open").display())),
        "{said}"
    );
    assert_eq!(a.leave(Signal::TERM).code(), Some(0), "{}", a.log());
    let log = a.log();
    assert!(
        log.contains(&format!("{} was unmounted while in use, with all that was written", mount.display())),
        "{log}"
    );
    assert!(!log.contains("another mount namespace"), "{log}");
    drop(open);
    a.show(Mode::Mount, None, &mount);
    assert_eq!(fs::read_to_string(mount.join("open")).unwrap(), "written, and not closed\n");
    a.check();
    a.stop();
}

#[test]
fn a_ticket_for_what_is_shown_already_has_its_own_message() {
    needs!("a_ticket_for_what_is_shown_already_has_its_own_message");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let folder = a.dir("s");
    a.show(Mode::Watch, None, &folder);
    let ticket = a.invite(&folder, &[]);
    let said = a.fails(1, &["watch", &ticket, text(&folder)]);
    assert!(said.contains("this ticket is for a share that this device has already"), "{said}");
    let said = a.fails(2, &["invite", text(&folder), "--expires", "5"]);
    assert!(said.contains("say 5s, 5m, 5h or 5d"), "{said}");
    a.stop();
}
