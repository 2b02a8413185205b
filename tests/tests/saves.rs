//! Saving in a mount or a folder: others see the new state, and nothing of the temporary names by which it came to be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, Segment, bytes, needs, until};

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

/// A device that shows a share in a folder, by itself.
fn alone() -> (Lab, Segment, Device, PathBuf) {
    let lab = Lab::new();
    let (segment, [mut device]) = lab.on_one_segment(["a"]);
    let folder = device.dir("shared");
    device.show(Mode::Watch, None, &folder);
    (lab, segment, device, folder)
}

/// What the folder has published and not written down when its engine is killed was made of what lay in it: no save of one user
/// stands beside another one of hers.
#[test]
fn saves_around_kills_are_versions_of_one_file() {
    needs!("saves_around_kills_are_versions_of_one_file");
    let (_lab, _segment, mut a, folder) = alone();
    let file = folder.join("f");
    for n in 0..10 {
        let (first, second) = ("x".repeat(100 + 2 * n), "y".repeat(101 + 2 * n));
        fs::write(&file, &first).unwrap();
        are_published(&a, &folder, &[first.len()]);
        fs::write(&file, &second).unwrap();
        a.kill();
        a.show(Mode::Watch, None, &folder);
    }
    let last = "y".repeat(119);
    are_published(&a, &folder, &[last.len()]);
    assert_eq!(names(&folder), BTreeSet::from(["f".to_owned()]));
    assert_eq!(fs::read_to_string(&file).unwrap(), last);
    a.stop();
}

/// What is moved over another one and made anew under its old name before a kill, and changed after it, stands beside nothing.
#[test]
fn files_that_change_places_around_kills_have_no_copies() {
    needs!("files_that_change_places_around_kills_have_no_copies");
    let (_lab, _segment, mut a, folder) = alone();
    for n in 0..10 {
        let size = |k: usize| 100 + 10 * n + k;
        write(&folder, "f", size(0));
        write(&folder, "g", size(1));
        are_published(&a, &folder, &[size(0), size(1)]);
        rename(&folder, "g", "f");
        write(&folder, "g", size(2));
        are_published(&a, &folder, &[size(1), size(2)]);
        if n % 2 == 0 {
            rename(&folder, "f", "g");
            write(&folder, "f", size(3));
            are_published(&a, &folder, &[size(1), size(3)]);
        }
        a.kill();
        write(&folder, "f", size(4));
        write(&folder, "g", size(5));
        a.show(Mode::Watch, None, &folder);
        are_published(&a, &folder, &[size(4), size(5)]);
        assert_eq!(names(&folder), BTreeSet::from(["f".to_owned(), "g".to_owned()]));
    }
    a.stop();
}

/// A folder of one device whose state is saved with the files `f` and `g` in it. What `change` does then is published, step by step
/// (it is given what waits until `ls` shows two files of these sizes), but the folder's state is perhaps not saved with it. What
/// `after` does while the engine is dead are changes of the same files.
fn changed_around_a_kill(change: impl Fn(&Path, &dyn Fn([usize; 2])), after: impl Fn(&Path), last: [usize; 2]) {
    let (_lab, _segment, mut a, folder) = alone();
    for _ in 0..4 {
        write(&folder, "f", 100);
        a.wait(&folder, "all");
        let _ = fs::remove_file(folder.join("g"));
        write(&folder, "g", 101);
        a.wait(&folder, "all");
        change(&folder, &|sizes| are_published(&a, &folder, &sizes));
        a.kill();
        after(&folder);
        a.show(Mode::Watch, None, &folder);
        are_published(&a, &folder, &last);
        assert_eq!(names(&folder), BTreeSet::from(["f".to_owned(), "g".to_owned()]));
    }
    a.stop();
}

/// Waits until `ls` shows files of these sizes, and no others.
fn are_published(a: &Device, folder: &Path, sizes: &[usize]) {
    until("they are published", LIMIT, || {
        let listed = a.ok(&["ls", "--json", folder.to_str().unwrap()]);
        let found = sizes.iter().all(|size| listed.contains(&format!("\"size\":{size},")));
        if found && listed.lines().count() == sizes.len() {
            Ok(())
        } else {
            Err(format!("{sizes:?} are to be in\n{listed}"))
        }
    });
}

fn write(folder: &Path, name: &str, size: usize) {
    fs::write(folder.join(name), "x".repeat(size)).unwrap();
}

fn rename(folder: &Path, from: &str, to: &str) {
    fs::rename(folder.join(from), folder.join(to)).unwrap();
}

#[test]
fn a_move_that_is_undone_after_a_kill_has_no_copies() {
    needs!("a_move_that_is_undone_after_a_kill_has_no_copies");
    let change = |folder: &Path, published: &dyn Fn([usize; 2])| {
        rename(folder, "f", "g");
        write(folder, "f", 102);
        published([100, 102]);
    };
    let after = |folder: &Path| {
        rename(folder, "g", "f");
        write(folder, "f", 103);
        write(folder, "g", 104);
    };
    changed_around_a_kill(change, after, [103, 104]);
}

/// The file that was replaced goes on with the bytes of the one that replaced it, as in a save, and is then moved.
#[test]
fn a_save_that_is_moved_before_a_kill_is_no_fork() {
    needs!("a_save_that_is_moved_before_a_kill_is_no_fork");
    let change = |folder: &Path, published: &dyn Fn([usize; 2])| {
        rename(folder, "g", "f");
        write(folder, "g", 102);
        published([101, 102]);
        rename(folder, "f", "g");
        write(folder, "f", 103);
        published([101, 103]);
    };
    let after = |folder: &Path| {
        write(folder, "f", 104);
        write(folder, "g", 105);
    };
    changed_around_a_kill(change, after, [104, 105]);
}

/// What a folder was given just before its engine was killed, and was not written down, is what the user saves over, or moves.
#[test]
fn what_came_from_elsewhere_before_a_kill_is_what_was_saved_over() {
    needs!("what_came_from_elsewhere_before_a_kill_is_what_was_saved_over");
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [here, there]) = lab.pair(["a", "b"], [Mode::Watch, Mode::Watch]);
    let binary = |n: u64| [b"\0", &bytes(n, 3000)[..]].concat();
    let mut wanted = BTreeSet::new();
    for n in 0..12 {
        let (is_edit, name) = (n % 2 == 0, format!("f{n}"));
        let (f, of_b, temporary) = (here.join(&name), there.join(&name), there.join(format!("{name}.tmp")));
        if is_edit {
            fs::write(&of_b, binary(3 * n)).unwrap();
        }
        b.wait(&there, "all");
        fs::write(&temporary, binary(3 * n + 1)).unwrap();
        fs::rename(&temporary, &of_b).unwrap();
        until("it is in the folder", LIMIT, || match fs::read(&f) {
            Ok(found) if found == binary(3 * n + 1) => Ok(()),
            other => Err(format!("{:?}", other.map(|found| found.len()))),
        });
        a.kill();
        match n / 2 % 3 {
            0 => {
                fs::write(here.join("new"), binary(3 * n + 2)).unwrap();
                fs::rename(here.join("new"), &f).unwrap();
            }
            1 => {
                fs::rename(&f, here.join("f~")).unwrap();
                fs::write(&f, binary(3 * n + 2)).unwrap();
                fs::remove_file(here.join("f~")).unwrap();
            }
            _ => fs::rename(&f, here.join(format!("moved{n}"))).unwrap(),
        }
        let (name, version) = if n / 2 % 3 == 2 { (format!("moved{n}"), 3 * n + 1) } else { (name, 3 * n + 2) };
        wanted.insert(name.clone());
        a.show(Mode::Watch, None, &here);
        until("the other has it", LIMIT, || match fs::read(there.join(&name)) {
            Ok(found) if found == binary(version) => Ok(()),
            other => Err(format!("{:?}", other.map(|found| found.len()))),
        });
        a.wait(&here, "all");
        assert_eq!((names(&here), names(&there)), (wanted.clone(), wanted.clone()), "round {n}");
    }
    a.stop();
    b.stop();
}

/// What `log` shows was there, whatever the folder's state says of it.
#[test]
fn what_was_made_before_a_kill_and_removed_or_moved_after_it_is_so() {
    needs!("what_was_made_before_a_kill_and_removed_or_moved_after_it_is_so");
    let (_lab, _segment, mut a, folder) = alone();
    fs::write(folder.join("kept"), "kept").unwrap();
    let mut wanted = BTreeSet::from(["kept".to_owned()]);
    let shown = |a: &Device| -> BTreeSet<String> {
        let listed = a.ok(&["ls", folder.to_str().unwrap()]);
        listed.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    };
    let is_shown = |a: &Device, wanted: &BTreeSet<String>| {
        until("it is shown", LIMIT, || match shown(a) {
            found if found == *wanted => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}")),
        });
    };
    for n in 0..8usize {
        let (file, moved) = (format!("f{n}"), format!("g{n}"));
        fs::write(folder.join(&file), format!("{n}")).unwrap();
        wanted.insert(file.clone());
        is_shown(&a, &wanted);
        a.kill();
        wanted.remove(&file);
        if n % 2 == 0 {
            fs::remove_file(folder.join(&file)).unwrap();
        } else {
            rename(&folder, &file, &moved);
            wanted.insert(moved);
        }
        a.show(Mode::Watch, None, &folder);
        is_shown(&a, &wanted);
        a.wait(&folder, "all");
        assert_eq!(names(&folder), wanted);
        let log = a.ok(&["log", "--json", folder.to_str().unwrap()]);
        // What was moved is what was made. (What nobody else has heard of may be told as made where it is now.)
        let odd = (1..=n).step_by(2).map(|m| format!("\"event\":\"delete\",\"path\":\"f{m}\""));
        odd.for_each(|gone| assert!(!log.contains(&gone), "round {n}: {log}"));
    }
    a.stop();
}
