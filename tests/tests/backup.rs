//! A state directory that is an older copy of itself: the device goes on, and nothing is lost.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, needs, same_trees, tool};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn restored_from_a_backup() {
    needs!("restored_from_a_backup", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (mount, other) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &mount);
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
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
fn two_engines_with_one_key() {
    needs!("two_engines_with_one_key");
    let lab = Lab::new();
    let (segment, [mut a, mut b, twin]) = lab.on_one_segment(["a", "b", "twin"]);
    let dirs = [a.dir("s"), b.dir("s"), twin.dir("s")];
    a.show(Mode::Watch, None, &dirs[0]);
    let ticket = a.invite(&dirs[0], &[]);
    b.show(Mode::Watch, Some(&ticket), &dirs[1]);
    fs::write(dirs[0].join("before"), "one\n").unwrap();
    a.wait(&dirs[0], "all");
    a.stop();

    // Somebody clones the machine: both go on from the same state, apart, with different changes.
    tool("cp", ["-a".as_ref(), a.state_dir().as_os_str(), twin.state_dir().as_os_str()]);
    fs::create_dir(&dirs[2]).unwrap();
    segment.cut(&b);
    a.show(Mode::Watch, None, &dirs[0]);
    fs::write(dirs[0].join("of the original"), "two\n").unwrap();
    let _ = a.run(&["wait", "--devices", "1", "--timeout", "500ms"]);
    a.stop();
    // The twin shows the folder elsewhere: the same share, by its own state.
    twin.ok(&["start"]);
    twin.ok(&["stop"]);
    tool("cp", ["-a".as_ref(), dirs[0].join("before").as_os_str(), dirs[2].as_os_str()]);
    segment.heal(&b);
    a.show(Mode::Watch, None, &dirs[0]);
    fs::write(dirs[0].join("later"), "three\n").unwrap();
    a.wait(&dirs[0], "all");
    let tree = same_trees(&[&dirs[0], &dirs[1]], LIMIT);
    assert_eq!(tree.names(), ["before", "later", "of the original"]);
    a.stop();
    b.stop();
    drop(twin);
}
