//! What an ordinary user has: mounts through fusermount3, and files that are none of its business.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, is_mounted, needs, run, same_trees, until};
use serde_json::Value;

const NOBODY: u32 = 65_534;
const LIMIT: Duration = Duration::from_secs(30);

/// A shell command line as the device's user.
fn shell(device: &Device, script: &str) -> String {
    let mut command = device.program("sh");
    command.args(["-ec", script]);
    run(command, LIMIT).ok()
}

#[test]
fn mounts_without_root() {
    needs!("mounts_without_root", Fuse, Tool("fusermount3"));
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    a.become_user(NOBODY);
    let (mount, folder) = (a.dir("shared"), b.dir("shared"));
    a.show(Mode::Mount, None, &mount);
    assert!(is_mounted(&mount));
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);

    let at = mount.to_str().unwrap();
    shell(&a, &format!("cd {at}; mkdir d; echo mine > d/f; ln -s d/f l; chmod 600 d/f; mv d e"));
    assert_eq!(shell(&a, &format!("stat -c %u:%a {at}/e/f")).trim(), format!("{NOBODY}:600"));
    a.wait(&mount, "all");
    assert_eq!(fs::read_to_string(folder.join("e/f")).unwrap(), "mine\n");
    assert_eq!(fs::read_link(folder.join("l")).unwrap(), Path::new("d/f"));
    fs::write(folder.join("back"), "yours\n").unwrap();
    b.wait(&folder, "all");
    assert_eq!(shell(&a, &format!("cat {at}/back")), "yours\n");
    // Not asked to allow others: not even root looks in.
    assert!(fs::read_dir(&mount).is_err());
    a.stop();
    assert!(!is_mounted(&mount));

    // Again, and taken away by `unmount`.
    a.show(Mode::Mount, None, &mount);
    assert_eq!(shell(&a, &format!("cat {at}/e/f")), "mine\n");
    a.ok(&["unmount", at]);
    assert!(!is_mounted(&mount));
    b.stop();
}

fn problems(device: &Device) -> Vec<Value> {
    let status = device.status();
    status["shares"][0]["problems"].as_array().unwrap_or_else(|| panic!("{status}")).clone()
}

#[test]
fn files_that_cannot_be_read() {
    needs!("files_that_cannot_be_read");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    a.become_user(NOBODY);
    let (folder, other) = (a.dir("shared"), b.dir("shared"));
    fs::create_dir_all(folder.join("closed")).unwrap();
    fs::write(folder.join("closed/inside"), "hidden\n").unwrap();
    fs::write(folder.join("closed.txt"), "hidden, too\n").unwrap();
    fs::write(folder.join("open.txt"), "for all\n").unwrap();
    for path in [&folder, &folder.join("open.txt")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // These two stay root's.
    fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(folder.join("closed.txt"), fs::Permissions::from_mode(0o600)).unwrap();

    a.show(Mode::Watch, None, &folder);
    let ticket = a.invite(&folder, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    fs::write(folder.join("later.txt"), "for all\n").unwrap();
    until("the rest arrives", LIMIT, || {
        let there = ["open.txt", "later.txt"].map(|name| fs::read_to_string(other.join(name)));
        if there.iter().all(|text| text.as_deref().is_ok_and(|text| text == "for all\n")) {
            Ok(())
        } else {
            Err(format!("{there:?}"))
        }
    });
    a.wait(&folder, "all");
    assert!(!other.join("closed.txt").exists() && !other.join("closed/inside").exists());
    let said = problems(&a);
    let about =
        |name: &str| said.iter().any(|problem| problem["path"].as_str().is_some_and(|path| path.ends_with(name)));
    assert!(about("closed.txt") && about("closed"), "{said:?}");
    // People are told, too.
    let text = a.ok(&["status"]);
    assert!(text.contains("closed.txt"), "{text}");

    // Once they can be read they follow, and the problem is gone.
    for path in ["closed", "closed/inside", "closed.txt"] {
        chown(folder.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    until("the problems are gone", LIMIT, || {
        let said = problems(&a);
        if said.is_empty() { Ok(()) } else { Err(format!("{said:?}")) }
    });
    a.wait(&folder, "all");
    same_trees(&[&folder, &other], LIMIT);
    a.stop();
    b.stop();
}
