//! Directories and state directories that cannot be used.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, Tree, is_mounted, needs, run, tool};
use rustix::fs::{FlockOperation, flock};

const NOBODY: u32 = 65_534;

fn says(said: &str, words: &[&str]) {
    let lower = said.to_lowercase();
    assert!(words.iter().any(|word| lower.contains(word)), "none of {words:?} in: {said}");
}

/// `crdtfs COMMAND DIR` fails, naming the directory, in the background and in the foreground.
fn refused(device: &Device, command: &str, dir: &Path) -> String {
    let path = dir.to_str().unwrap();
    let background = device.fails(1, &[command, path]);
    assert!(background.contains(path), "it does not say which directory: {background}");
    let foreground = device.fails(1, &[command, "--foreground", path]);
    assert!(foreground.contains(path), "it does not say which directory: {foreground}");
    let _ = device.run(&["stop"]);
    background
}

#[test]
fn a_mount_needs_an_empty_directory() {
    needs!("a_mount_needs_an_empty_directory", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let full = a.dir("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("f"), "mine\n").unwrap();
    says(&refused(&a, "mount", &full), &["watch"]);
    assert_eq!(fs::read_to_string(full.join("f")).unwrap(), "mine\n");
    assert!(!is_mounted(&full));
}

#[test]
fn a_file_is_no_directory() {
    needs!("a_file_is_no_directory", Fuse);
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let file = a.dir("file");
    fs::write(&file, "mine\n").unwrap();
    for command in ["mount", "watch"] {
        says(&refused(&a, command, &file), &["not a directory"]);
        says(&refused(&a, command, &file.join("below")), &["not a directory"]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
}

#[test]
fn a_directory_that_may_not_be_written() {
    needs!("a_directory_that_may_not_be_written", Fuse, Tool("fusermount3"));
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    a.become_user(NOBODY);
    let closed = a.dir("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    for command in ["mount", "watch"] {
        says(&refused(&a, command, &closed.join("new")), &["permission"]);
    }
    says(&refused(&a, "watch", &closed), &["permission", "writ"]);
}

#[test]
fn what_is_mounted_already() {
    needs!("what_is_mounted_already", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, b]) = lab.on_one_segment(["a", "b"]);
    let dir = a.dir("shared");
    a.show(Mode::Mount, None, &dir);
    fs::write(dir.join("f"), "in the share\n").unwrap();
    // Another device's engine finds it taken.
    let said = b.fails(1, &["mount", dir.to_str().unwrap()]);
    says(&said, &["mounted", "mount point", "in use", "not empty"]);
    // Its own engine shows it already: no harm, no second mount.
    a.ok(&["mount", dir.to_str().unwrap()]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(table.matches(dir.to_str().unwrap()).count(), 1, "{table}");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "in the share\n");
    // A foreign filesystem is not covered.
    let foreign = b.dir("foreign");
    fs::create_dir(&foreign).unwrap();
    tool("mount", ["-t", "tmpfs", "none", foreign.to_str().unwrap()]);
    says(&b.fails(1, &["mount", foreign.to_str().unwrap()]), &["mounted", "mount point"]);
    a.stop();
    assert!(!is_mounted(&dir));
}

#[test]
fn a_watched_folder_that_is_missing_is_waited_for() {
    needs!("a_watched_folder_that_is_missing_is_waited_for");
    let lab = Lab::new();
    let (_segment, [a, b]) = lab.on_one_segment(["a", "b"]);
    let (dir, there, away) = (a.dir("shared"), b.dir("shared"), a.dir("away"));
    let path = dir.to_str().unwrap();
    a.ok(&["watch", path]);
    fs::write(dir.join("f"), "f\n").unwrap();
    b.ok(&["watch", &a.invite(&dir, &[]), there.to_str().unwrap()]);
    a.wait(&dir, "all");
    a.ok(&["stop"]);
    fs::rename(&dir, &away).unwrap();
    // Also for who asks for it by hand.
    for start in [&["start"][..], &["watch", path]] {
        let started = a.run(start);
        assert_eq!(started.code, Some(i32::from(start[0] == "watch")), "{started}");
        let said = a.fails(3, &["wait", path, "--timeout", "1s"]);
        assert!(said.contains(&format!("{path} is missing")) && said.contains("put it back"), "{said}");
        says(&a.ok(&["status"]), &["is missing"]);
        assert!(!dir.exists(), "what is put back would land in it");
    }
    // Nor does anybody else take its content for held.
    b.fails(3, &["wait", there.to_str().unwrap(), "--timeout", "1s"]);
    fs::rename(&away, &dir).unwrap();
    a.wait(&dir, "all");
    b.wait(&there, "all");
    let trees = [&dir, &there].map(|dir| Tree::read(dir).unwrap());
    assert_eq!(trees[0], trees[1]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "f\n");
    // Given up, it holds nobody up.
    a.ok(&["stop"]);
    fs::rename(&dir, &away).unwrap();
    a.ok(&["start"]);
    a.fails(3, &["wait", "--timeout", "100ms"]);
    a.ok(&["unmount", path]);
    a.ok(&["wait"]);
    a.ok(&["stop"]);
    b.ok(&["stop"]);
}

#[test]
fn a_state_directory_in_use() {
    needs!("a_state_directory_in_use");
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    fs::create_dir(a.state_dir()).unwrap();
    fs::set_permissions(a.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    // Somebody holds the lock and does not answer on the socket.
    let lock = File::create(a.state_dir().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    for args in [vec!["start"], vec!["watch", "--foreground", a.dir("s").to_str().unwrap()]] {
        let said = a.fails(1, &args);
        says(&said, &["in use", "another"]);
        assert!(said.contains(a.state_dir().to_str().unwrap()), "{said}");
    }
    drop(lock);
    a.ok(&["start"]);
    a.ok(&["stop"]);
}

#[test]
fn a_state_directory_that_others_can_read() {
    needs!("a_state_directory_that_others_can_read");
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    a.ok(&["start"]);
    a.ok(&["stop"]);
    fs::set_permissions(a.state_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    says(&a.fails(1, &["start"]), &["chmod"]);
    fs::set_permissions(a.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    a.ok(&["start"]);
    a.ok(&["stop"]);
}

#[test]
fn no_fuse_on_this_system() {
    needs!("no_fuse_on_this_system", Tool("unshare"));
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    // In a mount namespace of its own, a /dev without fuse.
    let script =
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"";
    let inner = a.crdtfs(&["mount", "--foreground", a.dir("s").to_str().unwrap()]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let done = run(command, Duration::from_secs(30));
    assert_eq!(done.code, Some(1), "{done}");
    says(&done.stderr, &["fuse3"]);
    says(&done.stderr, &["watch"]);
    assert!(!a.dir("s").exists() || Tree::read(&a.dir("s")).unwrap().0.is_empty());
}
