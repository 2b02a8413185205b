//! Files that are open for writing on one device when another removes or replaces them: what is written goes on to be in the tree.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(30);

/// What the other one does to `d/f.txt`, and the name under which the file that was written is afterwards.
type Case = (&'static str, fn(&Path), Option<&'static str>);

const CASES: [Case; 4] = [
    ("removed", |dir| fs::remove_file(dir.join("d/f.txt")).unwrap(), Some("d/f.txt")),
    ("removed with its directory", |dir| fs::remove_dir_all(dir.join("d")).unwrap(), Some("d/f.txt")),
    (
        "replaced by a link",
        |dir| {
            fs::remove_file(dir.join("d/f.txt")).unwrap();
            symlink("elsewhere", dir.join("d/f.txt")).unwrap();
        },
        None,
    ),
    (
        "replaced by a directory",
        |dir| {
            fs::remove_file(dir.join("d/f.txt")).unwrap();
            fs::create_dir(dir.join("d/f.txt")).unwrap();
        },
        None,
    ),
];

#[test]
fn what_is_written_to_a_file_that_is_removed_elsewhere_is_kept() {
    needs!("what_is_written_to_a_file_that_is_removed_elsewhere_is_kept", Fuse);
    for (what, act, stays) in CASES {
        for synced in [false, true] {
            let lab = Lab::new();
            let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
            let (mount, folder) = (a.dir("s"), b.dir("s"));
            a.show(Mode::Mount, None, &mount);
            let ticket = a.invite(&mount, &[]);
            b.show(Mode::Watch, Some(&ticket), &folder);
            fs::create_dir(mount.join("d")).unwrap();
            fs::write(mount.join("d/f.txt"), "1\n").unwrap();
            a.wait(&mount, "all");
            let mut file = File::options().append(true).open(mount.join("d/f.txt")).unwrap();
            file.write_all(b"2\n").unwrap();
            if synced {
                file.sync_all().unwrap();
                a.wait(&mount, "all");
            }
            act(&folder);
            b.wait(&folder, "all");
            for piece in [b"3\n", b"4\n"] {
                file.write_all(piece).unwrap();
                file.sync_all().unwrap();
                a.wait(&mount, "all");
            }
            drop(file);
            a.wait(&mount, "all");
            let tree = same_trees(&[&mount, &folder], LIMIT);
            let holder = tree.holder(b"1\n2\n3\n4\n").unwrap_or_else(|| panic!("{what}: {:?}", tree.names()));
            let holder = holder.to_str().unwrap();
            match stays {
                Some(name) => assert_eq!(holder, name, "{what}"),
                None => {
                    let is_beside = holder.starts_with("d/f (conflict anna ") && holder.ends_with(").txt");
                    assert!(is_beside, "{what}, {synced}: {holder}; {}", a.ok(&["log", mount.to_str().unwrap()]));
                }
            }
            assert_eq!(tree.names().iter().filter(|name| name.contains("recovered")).count(), 0, "{:?}", tree.names());
            a.check();
            a.stop();
            b.stop();
        }
    }
}

/// Who removes a file here means it, also with what a handle that is still open here writes to it.
#[test]
fn what_is_removed_here_stays_away_though_it_is_written() {
    needs!("what_is_removed_here_stays_away_though_it_is_written", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["anna"]);
    let mount = a.dir("s");
    a.show(Mode::Mount, None, &mount);
    fs::write(mount.join("f"), "1\n").unwrap();
    let mut file = File::options().append(true).open(mount.join("f")).unwrap();
    file.write_all(b"2\n").unwrap();
    fs::remove_file(mount.join("f")).unwrap();
    file.write_all(b"3\n").unwrap();
    file.sync_all().unwrap();
    drop(file);
    a.wait(&mount, "all");
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
    until("it is written nowhere", LIMIT, || match a.ok(&["conflicts", mount.to_str().unwrap()]).trim() {
        "" => Ok(()),
        said => Err(said.to_owned()),
    });
    a.stop();
}
