//! The flags of `mount` that say who may do what: `--read-only`, `--owner`, `--allow-other`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, needs, run, same_trees};

const LIMIT: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65_534;

/// Runs a shell command line as somebody else; its exit code.
fn as_nobody(script: &str) -> Option<i32> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
    command.args(["--", "sh", "-c", script]);
    run(command, LIMIT).code
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn read_only_owner_and_allow_other() {
    needs!("read_only_owner_and_allow_other", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    // The recorded owners, also of what was given to somebody.
    let (dir, other) = (a.dir("s"), b.dir("s"));
    a.show_with(Mode::Mount, None, &dir, &["--owner", "keep"]);
    for name in ["roots", "theirs"] {
        fs::write(dir.join(name), name).unwrap();
    }
    chown(dir.join("theirs"), Some(1234), Some(2345)).unwrap();
    assert_eq!((owner(&dir.join("roots")), owner(&dir.join("theirs"))), ((0, 0), (1234, 2345)));
    let ticket = a.invite(&dir, &[]);

    // Read only: nothing changes, and what others write comes.
    b.show_with(Mode::Mount, Some(&ticket), &other, &["--read-only"]);
    a.wait(&dir, "all");
    let before = same_trees(&[&dir, &other], LIMIT);
    for refused in [
        fs::write(other.join("roots"), "x"),
        fs::write(other.join("new"), "x"),
        fs::create_dir(other.join("dir")),
        fs::rename(other.join("roots"), other.join("moved")),
        fs::remove_file(other.join("roots")),
        chown(other.join("roots"), Some(1), None),
    ] {
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    fs::write(dir.join("roots"), "more\n").unwrap();
    a.wait(&dir, "all");
    assert_ne!(same_trees(&[&dir, &other], LIMIT), before);
    // Without the flag files belong to who mounts.
    assert_eq!(owner(&other.join("theirs")), (0, 0));
    // What is shown keeps its flags until it is unmounted; then the engine that was there for it leaves, too.
    let text = other.to_str().unwrap();
    for flags in [
        &["--on-demand"][..],
        &["--read-only", "--allow-other"],
        &["--owner", "keep"],
        &["--on-demand", "--cache", "1GiB"],
    ] {
        let said = b.fails(1, &[&["mount"], flags, &[text]].concat());
        assert!(["--read-only", "crdtfs unmount"].iter().all(|word| said.contains(word)), "{said}");
        assert!(said.contains(&flags.join(" ")), "what to do then: {said}");
    }
    for same in [&["mount", "--read-only", text][..], &["mount", text]] {
        let told = b.json(same);
        assert_eq!((&told["how"], &told["options"]["read_only"]), (&"already".into(), &true.into()), "{told}");
    }
    assert_eq!(fs::write(other.join("new"), "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    b.ok(&["unmount", other.to_str().unwrap()]);
    b.stop();

    // A user and a group; only one of them takes the other with it.
    b.show_with(Mode::Mount, None, &other, &["--owner", "1111:2222", "--allow-other"]);
    for name in ["roots", "theirs"] {
        assert_eq!(owner(&other.join(name)), (1111, 2222));
    }
    assert_eq!(chown(other.join("roots"), Some(1), None).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    fs::write(other.join("here"), "written here\n").unwrap();
    assert_eq!(owner(&other.join("here")), (1111, 2222));

    // Others are let in where that was asked for, and nowhere else; the modes say what they may do there.
    fs::set_permissions(other.join("here"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let cat = |path: &Path| as_nobody(&format!("cat {} > /dev/null 2>&1", path.display()));
    assert_eq!((cat(&other.join("roots")), cat(&other.join("here"))), (Some(0), Some(1)));
    assert_eq!(cat(&dir.join("roots")), Some(1), "{} was not shown to others", dir.display());
    b.wait(&other, "all");
    assert_eq!(fs::read_to_string(dir.join("here")).unwrap(), "written here\n");
    a.stop();
    b.stop();
}
