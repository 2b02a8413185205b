//! Saving in a mount or a folder: others see the new state, and nothing of the temporary names by which it came to be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Names in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The versions of a save: each as one program makes it.
fn save(dir: &Path, n: u64) {
    let (at, text) = (|name: &str| dir.join(name), format!("version {n}\n"));
    match n % 4 {
        // A temporary file that is renamed over the old one.
        0 => {
            fs::write(at(".goutputstream-A1B2C3"), &text).unwrap();
            fs::rename(at(".goutputstream-A1B2C3"), at("f")).unwrap();
        }
        1 => {
            fs::write(at("sedA1b2C3"), &text).unwrap();
            fs::rename(at("sedA1b2C3"), at("f")).unwrap();
        }
        // The old one is moved aside, under the eyes of a swap file and a try of what can be done here.
        2 => {
            fs::write(at(".f.swp"), bytes(1, 4096)).unwrap();
            fs::write(at("4913"), "").unwrap();
            fs::remove_file(at("4913")).unwrap();
            fs::rename(at("f"), at("f~")).unwrap();
            fs::write(at("f"), &text).unwrap();
            fs::remove_file(at("f~")).unwrap();
            fs::remove_file(at(".f.swp")).unwrap();
        }
        _ => {
            symlink("me@here.1:1", at(".#f")).unwrap();
            fs::write(at("f.tmp"), &text).unwrap();
            fs::rename(at("f.tmp"), at("f")).unwrap();
            fs::remove_file(at(".#f")).unwrap();
        }
    }
}

#[test]
fn others_see_saves_and_no_temporary_names() {
    needs!("others_see_saves_and_no_temporary_names", Fuse);
    saves_are_seen(Mode::Mount);
}

#[test]
fn others_see_the_saves_of_a_folder_and_no_temporary_names() {
    needs!("others_see_the_saves_of_a_folder_and_no_temporary_names", Fuse);
    saves_are_seen(Mode::Watch);
}

fn saves_are_seen(mode: Mode) {
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    a.show(mode, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Mount, Some(&ticket), &other);
    fs::write(one.join("f"), "version 0\n").unwrap();
    a.wait(&one, "all");
    for n in 1..13 {
        save(&one, n);
        let wanted = format!("version {n}\n");
        // All that the other shows on the way is looked at.
        until("the save is there", LIMIT, || {
            assert_eq!(names(&other), BTreeSet::from(["f".to_owned()]), "while version {n} is saved");
            let got = fs::read_to_string(other.join("f")).map_err(|error| error.to_string())?;
            if got == wanted { Ok(()) } else { Err(got) }
        });
    }
    let versions: Vec<String> = b.ok(&["log", other.join("f").to_str().unwrap()]).lines().map(str::to_owned).collect();
    assert!(versions.len() >= 13, "{versions:#?}");

    // What stays under a temporary name is no save: it comes all the same, and a `wait` does not wait for it.
    fs::write(one.join("kept.tmp"), "a file like any other\n").unwrap();
    until("it is there", LIMIT, || fs::read(other.join("kept.tmp")).map_err(|error| error.to_string()));
    fs::write(one.join("another.tmp"), "at once\n").unwrap();
    a.wait(&one, "all");
    assert_eq!(fs::read_to_string(other.join("another.tmp")).unwrap(), "at once\n");
    a.stop();
    b.stop();
}

/// What the folder has published and not written down when its engine is killed was made of what lay in it: no save of one user
/// stands beside another one of hers.
#[test]
fn saves_around_kills_are_versions_of_one_file() {
    needs!("saves_around_kills_are_versions_of_one_file");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let folder = a.dir("shared");
    a.show(Mode::Watch, None, &folder);
    let file = folder.join("f");
    let is_published = |a: &Device, size: usize| {
        let listed = a.ok(&["ls", "--json", folder.to_str().unwrap()]);
        let found = listed.contains(&format!("\"size\":{size},")) && listed.lines().count() == 1;
        if found { Ok(()) } else { Err(listed) }
    };
    for n in 0..10 {
        let (first, second) = ("x".repeat(100 + 2 * n), "y".repeat(101 + 2 * n));
        fs::write(&file, &first).unwrap();
        until("it is published", LIMIT, || is_published(&a, first.len()));
        fs::write(&file, &second).unwrap();
        a.kill();
        a.show(Mode::Watch, None, &folder);
    }
    let last = "y".repeat(119);
    until("the last one is published", LIMIT, || is_published(&a, last.len()));
    assert_eq!(names(&folder), BTreeSet::from(["f".to_owned()]));
    assert_eq!(fs::read_to_string(&file).unwrap(), last);
    a.stop();
}

/// What is moved over another one and made anew under its old name before a kill, and changed after it, stands beside nothing.
#[test]
fn files_that_change_places_around_kills_have_no_copies() {
    needs!("files_that_change_places_around_kills_have_no_copies");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let folder = a.dir("shared");
    a.show(Mode::Watch, None, &folder);
    let at = |name: &str| folder.join(name);
    let are_published = |a: &Device, sizes: [usize; 2]| {
        let listed = a.ok(&["ls", "--json", folder.to_str().unwrap()]);
        let found =
            sizes.iter().all(|size| listed.contains(&format!("\"size\":{size},"))) && listed.lines().count() == 2;
        if found { Ok(()) } else { Err(listed) }
    };
    for n in 0..10 {
        let size = |k: usize| 100 + 10 * n + k;
        let write = |name: &str, k: usize| fs::write(at(name), "x".repeat(size(k))).unwrap();
        write("f", 0);
        write("g", 1);
        until("both are published", LIMIT, || are_published(&a, [size(0), size(1)]));
        fs::rename(at("g"), at("f")).unwrap();
        write("g", 2);
        until("the move is published", LIMIT, || are_published(&a, [size(1), size(2)]));
        if n % 2 == 0 {
            fs::rename(at("f"), at("g")).unwrap();
            write("f", 3);
            until("the move back is published", LIMIT, || are_published(&a, [size(1), size(3)]));
        }
        a.kill();
        write("f", 4);
        write("g", 5);
        a.show(Mode::Watch, None, &folder);
        until("what was written last is published", LIMIT, || are_published(&a, [size(4), size(5)]));
        assert_eq!(names(&folder), BTreeSet::from(["f".to_owned(), "g".to_owned()]));
    }
    a.stop();
}

/// The folder's state was saved between two moves, and the second was undone while the engine was dead: the file that came with
/// the second move is gone, and the first one is what it was.
#[test]
fn a_move_that_is_undone_after_a_kill_has_no_copies() {
    needs!("a_move_that_is_undone_after_a_kill_has_no_copies");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let folder = a.dir("shared");
    a.show(Mode::Watch, None, &folder);
    let at = |name: &str| folder.join(name);
    let listed = |a: &Device| a.ok(&["ls", "--json", folder.to_str().unwrap()]);
    let are_published = |a: &Device, sizes: [usize; 2]| {
        let listed = listed(a);
        let found = sizes.iter().all(|size| listed.contains(&format!("\"size\":{size},")));
        if found && listed.lines().count() == 2 { Ok(()) } else { Err(listed) }
    };
    for n in 0..4 {
        let size = |k: usize| 100 + 10 * n + k;
        let write = |name: &str, k: usize| fs::write(at(name), "x".repeat(size(k))).unwrap();
        write("f", 0);
        write("g", 1);
        a.wait(&folder, "all");
        fs::rename(at("f"), at("g")).unwrap();
        write("f", 2);
        until("the move is published", LIMIT, || are_published(&a, [size(0), size(2)]));
        a.kill();
        fs::rename(at("g"), at("f")).unwrap();
        write("f", 3);
        write("g", 4);
        a.show(Mode::Watch, None, &folder);
        until("what was written last is published", LIMIT, || are_published(&a, [size(3), size(4)]));
        assert_eq!(names(&folder), BTreeSet::from(["f".to_owned(), "g".to_owned()]));
    }
    a.stop();
}
