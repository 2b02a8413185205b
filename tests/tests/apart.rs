//! The link is cut, both sides work, the link comes back: the same tree everywhere, and nothing that was written is lost.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, Tree, bytes, needs, same_trees};

const SETTLED: Duration = Duration::from_secs(20);

#[test]
fn two_mounts() {
    needs!("two_mounts", Fuse);
    apart_and_together(Mode::Mount, Mode::Mount);
}

#[test]
fn a_mount_and_a_folder() {
    needs!("a_mount_and_a_folder", Fuse);
    apart_and_together(Mode::Mount, Mode::Watch);
}

#[test]
fn a_folder_and_a_mount() {
    needs!("a_folder_and_a_mount", Fuse);
    apart_and_together(Mode::Watch, Mode::Mount);
}

#[test]
fn two_folders() {
    needs!("two_folders");
    apart_and_together(Mode::Watch, Mode::Watch);
}

fn apart_and_together(left: Mode, right: Mode) {
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [left, right]);
    before(&one);
    a.wait(&one, "all");
    same_trees(&[&one, &other], SETTLED);

    segment.cut(&b);
    on_the_one(&one);
    on_the_other(&other);
    not_in_sync(&a, &one, "bert");
    not_in_sync(&b, &other, "anna");
    segment.heal(&b);

    a.wait(&one, "all");
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], SETTLED);
    together(&one, &tree);
    // Looking wrote nothing: both are where they were.
    a.wait(&one, "all");
    assert_eq!(same_trees(&[&one, &other], SETTLED), tree);
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// `wait` ends with exit code 3 and names who lacks something.
fn not_in_sync(device: &Device, dir: &Path, other: &str) {
    let said = device.fails(3, &["wait", dir.to_str().unwrap(), "--timeout", "500ms"]);
    assert!(said.contains(other), "{said}");
}

fn lines(count: usize, changed: &[(usize, &str)]) -> String {
    let line = |n: usize| match changed.iter().find(|(at, _)| *at == n) {
        Some((_, text)) => format!("{text}\n"),
        None => format!("line {n}\n"),
    };
    (1..=count).map(line).collect()
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn before(dir: &Path) {
    put(&dir.join("notes.txt"), lines(60, &[]));
    put(&dir.join("clash.txt"), lines(20, &[]));
    put(&dir.join("picture.bin"), bytes(1, 300_000));
    put(&dir.join("docs/deep/x.txt"), "x, as it was\n");
    put(&dir.join("docs/keep.txt"), "kept\n");
    put(&dir.join("src/main.rs"), lines(30, &[]));
    put(&dir.join("src/other.rs"), "other\n");
    for name in ["gone-edited.txt", "tree/a.txt", "tree/b.txt", "both-gone.txt", "old-name.txt", "same.txt"] {
        put(&dir.join(name), format!("{name}, as it was\n"));
    }
    put(&dir.join("log.txt"), lines(10, &[]));
    put(&dir.join("run.sh"), "#!/bin/sh\n");
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
}

fn on_the_one(dir: &Path) {
    for n in 0..5 {
        put(&dir.join(format!("anna/{n}")), format!("anna's {n}\n"));
    }
    put(&dir.join("notes.txt"), lines(60, &[(3, "anna's third")]));
    put(&dir.join("clash.txt"), lines(20, &[(10, "anna's tenth")]));
    put(&dir.join("picture.bin"), bytes(2, 300_000));
    fs::rename(dir.join("docs"), dir.join("papers")).unwrap();
    put(&dir.join("src/main.rs"), lines(30, &[(7, "anna's seventh")]));
    fs::remove_file(dir.join("gone-edited.txt")).unwrap();
    fs::remove_dir_all(dir.join("tree")).unwrap();
    fs::remove_file(dir.join("both-gone.txt")).unwrap();
    fs::rename(dir.join("old-name.txt"), dir.join("new-name.txt")).unwrap();
    put(&dir.join("same.txt"), "agreed\n");
    append(&dir.join("log.txt"), "anna was here\n");
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    put(&dir.join("union/a.txt"), "a\n");
    put(&dir.join("twin.txt"), "the same on both\n");
    put(&dir.join("new.txt"), "anna's new\n");
}

fn on_the_other(dir: &Path) {
    for n in 0..5 {
        put(&dir.join(format!("bert/{n}")), format!("bert's {n}\n"));
    }
    put(&dir.join("notes.txt"), lines(60, &[(50, "bert's fiftieth")]));
    put(&dir.join("clash.txt"), lines(20, &[(10, "bert's tenth")]));
    put(&dir.join("picture.bin"), bytes(3, 300_000));
    put(&dir.join("docs/deep/x.txt"), "x, as bert has it\n");
    put(&dir.join("docs/new.txt"), "below what was renamed\n");
    fs::rename(dir.join("src"), dir.join("lib")).unwrap();
    put(&dir.join("gone-edited.txt"), "edited, so it stays\n");
    put(&dir.join("tree/b.txt"), "edited, so it stays, too\n");
    fs::remove_file(dir.join("both-gone.txt")).unwrap();
    put(&dir.join("old-name.txt"), "edited under its old name\n");
    put(&dir.join("same.txt"), "agreed\n");
    append(&dir.join("log.txt"), "bert was here\n");
    put(&dir.join("run.sh"), "#!/bin/sh\nexit 1\n");
    put(&dir.join("union/b.txt"), "b\n");
    put(&dir.join("twin.txt"), "the same on both\n");
    put(&dir.join("new.txt"), "bert's new\n");
}

/// What SEMANTICS has for each pair.
fn together(dir: &Path, tree: &Tree) {
    let text = |name: &str| {
        fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}; there is {:?}", tree.names()))
    };
    for n in 0..5 {
        assert_eq!(text(&format!("anna/{n}")), format!("anna's {n}\n"));
        assert_eq!(text(&format!("bert/{n}")), format!("bert's {n}\n"));
    }
    // edit ∥ edit, text, regions apart
    assert_eq!(text("notes.txt"), lines(60, &[(3, "anna's third"), (50, "bert's fiftieth")]));
    // edit ∥ edit, text, same region; binary; create ∥ create, other bytes
    both(tree, "clash", "txt", lines(20, &[(10, "anna's tenth")]), lines(20, &[(10, "bert's tenth")]));
    both(tree, "picture", "bin", bytes(2, 300_000), bytes(3, 300_000));
    both(tree, "new", "txt", "anna's new\n", "bert's new\n");
    // rename ∥ edit below, and create below; the other way round
    assert_eq!(text("papers/deep/x.txt"), "x, as bert has it\n");
    assert_eq!(text("papers/new.txt"), "below what was renamed\n");
    assert_eq!(text("papers/keep.txt"), "kept\n");
    assert_eq!(text("lib/main.rs"), lines(30, &[(7, "anna's seventh")]));
    assert_eq!(text("lib/other.rs"), "other\n");
    assert!(!tree.has("docs") && !tree.has("src"), "{:?}", tree.names());
    // edit ∥ delete; rm -r ∥ edit inside; delete ∥ delete
    assert_eq!(text("gone-edited.txt"), "edited, so it stays\n");
    assert_eq!(text("tree/b.txt"), "edited, so it stays, too\n");
    assert!(!tree.has("tree/a.txt") && !tree.has("both-gone.txt"), "{:?}", tree.names());
    // rename ∥ edit
    assert_eq!(text("new-name.txt"), "edited under its old name\n");
    assert!(!tree.has("old-name.txt"));
    // edit ∥ edit to the same bytes; mkdir ∥ mkdir; create ∥ create, same bytes
    assert_eq!(text("same.txt"), "agreed\n");
    assert_eq!((text("union/a.txt"), text("union/b.txt")), ("a\n".into(), "b\n".into()));
    assert_eq!(text("twin.txt"), "the same on both\n");
    // append ∥ append
    let log = text("log.txt");
    let tail = log.strip_prefix(&lines(10, &[])).unwrap_or_else(|| panic!("the base comes first: {log}"));
    assert!(["anna was here\nbert was here\n", "bert was here\nanna was here\n"].contains(&tail), "{log}");
    // chmod ∥ edit
    assert_eq!(text("run.sh"), "#!/bin/sh\nexit 1\n");
    assert_eq!(tree.0[Path::new("run.sh")].mode, 0o755);
    let copies: Vec<_> = tree.names().into_iter().filter(|name| name.contains("(conflict ")).collect();
    assert_eq!(copies.len(), 3, "{copies:?}");
}

/// One of them has the name, the other is its conflict copy, named after its author.
fn both(tree: &Tree, stem: &str, ext: &str, anna: impl AsRef<[u8]>, bert: impl AsRef<[u8]>) {
    let name = |bytes: &[u8]| {
        let holder = tree
            .holder(bytes)
            .unwrap_or_else(|| panic!("a version of {stem}.{ext} is lost; there is {:?}", tree.names()));
        holder.to_string_lossy().into_owned()
    };
    let (annas, berts) = (name(anna.as_ref()), name(bert.as_ref()));
    let plain = format!("{stem}.{ext}");
    let copy_of = |device: &str, name: &str| {
        name.strip_prefix(&format!("{stem} (conflict {device} ")).is_some_and(|rest| {
            rest.strip_suffix(&format!(").{ext}"))
                .is_some_and(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()))
        })
    };
    assert!(
        (annas == plain && copy_of("bert", &berts)) || (berts == plain && copy_of("anna", &annas)),
        "{annas:?} and {berts:?}"
    );
}
