//! A state directory that is an older copy of itself, a folder that is a copy: the device goes on, and nothing is lost.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, Tree, needs, same_trees, tool, until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn restored_from_a_backup() {
    needs!("restored_from_a_backup", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [mount, other]) = lab.pair(["a", "b"], [Mode::Mount, Mode::Watch]);
    fs::write(mount.join("before"), "one\n").unwrap();
    fs::write(mount.join("text"), "as backed up\n").unwrap();
    a.wait(&mount, "all");

    a.stop();
    let backup = a.dir("backup");
    tool("cp", ["-a".as_ref(), a.state_dir().as_os_str(), backup.as_os_str()]);
    a.show(Mode::Mount, None, &mount);
    fs::write(mount.join("between"), "two\n").unwrap();
    fs::write(mount.join("text"), "after the backup\n").unwrap();
    a.wait(&mount, "all");

    // The disk dies. The backup does not know what it has published since, and writes other changes in their place.
    a.kill();
    tool("umount", ["-l".as_ref(), mount.as_os_str()]);
    fs::remove_dir_all(a.state_dir()).unwrap();
    fs::rename(&backup, a.state_dir()).unwrap();
    b.stop();
    a.show(Mode::Mount, None, &mount);
    assert_eq!(fs::read_to_string(mount.join("text")).unwrap(), "as backed up\n");
    fs::write(mount.join("after"), "three\n").unwrap();
    b.show(Mode::Watch, None, &other);
    a.wait(&mount, "all");
    b.wait(&other, "all");
    let tree = same_trees(&[&mount, &other], LIMIT);
    assert_eq!(tree.names(), ["after", "before", "between", "text"]);
    assert_eq!(fs::read_to_string(mount.join("text")).unwrap(), "after the backup\n");
    a.check();
    b.check();
    a.stop();
    b.stop();
}

#[test]
fn a_cloned_device() {
    needs!("a_cloned_device");
    let lab = Lab::new();
    let (segment, [mut a, mut b], [folder, other]) = lab.pair(["a", "b"], [Mode::Watch, Mode::Watch]);
    fs::write(folder.join("before"), "one\n").unwrap();
    a.wait(&folder, "all");
    a.stop();
    let state = a.state_dir().to_owned();
    let (original, twin) = ((a.dir("original-state"), a.dir("original-s")), (a.dir("twin-state"), a.dir("twin-s")));
    tool("cp", ["-a".as_ref(), state.as_os_str(), twin.0.as_os_str()]);
    tool("cp", ["-a".as_ref(), folder.as_os_str(), twin.1.as_os_str()]);

    // The original goes on, alone.
    segment.cut(&b);
    a.show(Mode::Watch, None, &folder);
    fs::write(folder.join("of the original"), "two\n").unwrap();
    until("it is in the share", LIMIT, || {
        let entries = a.status()["shares"][0]["entries"].clone();
        if entries == 2 { Ok(()) } else { Err(entries.to_string()) }
    });
    a.stop();
    fs::rename(&state, &original.0).unwrap();
    fs::rename(&folder, &original.1).unwrap();

    // The twin, with the same key and the same past, says something else to the others.
    fs::rename(&twin.0, &state).unwrap();
    fs::rename(&twin.1, &folder).unwrap();
    segment.heal(&b);
    a.show(Mode::Watch, None, &folder);
    fs::write(folder.join("of the twin"), "three\n").unwrap();
    a.wait(&folder, "all");
    assert_eq!(same_trees(&[&folder, &other], LIMIT).names(), ["before", "of the twin"]);
    a.stop();
    fs::remove_dir_all(&state).unwrap();
    fs::remove_dir_all(&folder).unwrap();

    // The original comes back: what both said stands.
    fs::rename(&original.0, &state).unwrap();
    fs::rename(&original.1, &folder).unwrap();
    a.show(Mode::Watch, None, &folder);
    a.wait(&folder, "all");
    b.wait(&other, "all");
    assert_eq!(same_trees(&[&folder, &other], LIMIT).names(), ["before", "of the original", "of the twin"]);
    fs::write(folder.join("later"), "four\n").unwrap();
    a.wait(&folder, "all");
    assert!(same_trees(&[&folder, &other], LIMIT).has("later"));
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// Only the numbers of what lies in a folder are others after it was put back from a copy: nobody did anything to it.
#[test]
fn a_folder_that_was_copied_back() {
    needs!("a_folder_that_was_copied_back");
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [folder, other]) = lab.pair(["a", "b"], [Mode::Watch, Mode::Watch]);
    let dirs = ["", "d/", "d/e/"];
    fs::create_dir_all(folder.join("d/e")).unwrap();
    for dir in dirs {
        for name in ["edited", "moved", "removed", "same"] {
            fs::write(folder.join(dir).join(name), format!("{dir}{name}\n")).unwrap();
        }
    }
    a.wait(&folder, "all");
    b.stop();
    let backup = b.dir("backup");
    tool("cp", ["-a".as_ref(), other.as_os_str(), backup.as_os_str()]);
    tool("find", [other.as_os_str(), "-mindepth".as_ref(), "1".as_ref(), "-delete".as_ref()]);
    tool("cp", ["-a".as_ref(), backup.join(".").as_os_str(), other.as_os_str()]);

    for dir in dirs.map(|dir| folder.join(dir)) {
        fs::write(dir.join("edited"), "by a\n").unwrap();
        fs::rename(dir.join("moved"), dir.join("elsewhere")).unwrap();
        fs::remove_file(dir.join("removed")).unwrap();
    }
    let done = Tree::read(&folder).unwrap();
    b.show(Mode::Watch, None, &other);
    a.wait(&folder, "all");
    b.wait(&other, "all");
    assert_eq!(same_trees(&[&folder, &other], LIMIT).names(), done.names());
    for dir in dirs.map(|dir| other.join(dir)) {
        assert_eq!(fs::read_to_string(dir.join("edited")).unwrap(), "by a\n");
    }
    let log = a.json(&["log".as_ref(), folder.as_os_str()]);
    let of_b: Vec<_> = log.as_array().unwrap().iter().filter(|event| event["device"] == "b").collect();
    assert!(of_b.is_empty(), "{of_b:#?}");
    a.stop();
    b.stop();
}
