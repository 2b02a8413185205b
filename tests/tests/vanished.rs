//! A watched folder that vanishes, or has something else in its place, while its engine runs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, LoopFs, LoopKind, Tree, needs, tool, until};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is said of it.
const VANISHED: &str = "nothing counts as deleted. Put it back, and it goes on";

fn says_that_it_vanished(device: &Device) {
    until("status says that the folder vanished", PATIENCE, || {
        let said = device.ok(&["status"]);
        if said.contains(VANISHED) { Ok(()) } else { Err(said) }
    });
}

fn fill(dir: &Path) {
    for name in ["d0", "d1", "d2"] {
        fs::create_dir(dir.join(name)).unwrap();
        for n in 0..5 {
            fs::write(dir.join(name).join(format!("f{n}")), format!("{name}/{n}\n")).unwrap();
        }
    }
}

fn subvolume<const N: usize>(words: [&Path; N]) {
    let words = ["subvolume".as_ref()].into_iter().chain(words.into_iter().map(Path::as_os_str));
    tool("btrfs", words.collect::<Vec<_>>());
}

/// As a user goes back to how it was: the subvolume is deleted and a snapshot put in its place, which gets its device number,
/// its root's inode number, and its time of birth.
fn roll_back(dir: &Path, snapshot: &Path) {
    subvolume(["delete".as_ref(), dir]);
    subvolume(["snapshot".as_ref(), snapshot, dir]);
}

#[test]
fn a_subvolume_that_is_rolled_back_deletes_nothing() {
    needs!("a_subvolume_that_is_rolled_back_deletes_nothing", Loop, Tool("mkfs.btrfs"), Tool("btrfs"));
    let lab = Lab::new();
    let disk = LoopFs::of(LoopKind::Btrfs, &lab, "disk", 256);
    let (_segment, [a, b]) = lab.on_one_segment(["a", "b"]);
    let (dir, snapshot, there) = (disk.dir().join("folder"), disk.dir().join("snapshot"), b.dir("there"));
    let path = dir.to_str().unwrap();
    subvolume(["create".as_ref(), &dir]);
    fill(&dir);
    a.ok(&["watch", path]);
    b.ok(&["watch", &a.invite(&dir, &[]), there.to_str().unwrap()]);
    subvolume(["snapshot".as_ref(), &dir, &snapshot]);
    fs::write(dir.join("d0/later"), "later\n").unwrap();
    a.wait(&dir, "all");
    let before = Tree::read(&there).unwrap();

    roll_back(&dir, &snapshot);
    // A change from elsewhere has the engine look into a directory of the subvolume that is no more, where nothing is.
    fs::write(there.join("d1/new"), "new\n").unwrap();
    says_that_it_vanished(&a);
    a.fails(3, &["wait", path, "--timeout", "1s"]);
    fs::remove_file(there.join("d1/new")).unwrap();
    assert_eq!(Tree::read(&there).unwrap(), before);
    // Another directory is for its user to decide about; it joins, and takes nothing away.
    a.ok(&["watch", path]);
    a.wait(&dir, "all");
    b.wait(&there, "all");
    assert_eq!(Tree::read(&there).unwrap(), before);
    assert_eq!(Tree::read(&dir).unwrap(), before);

    // The same while nobody looks.
    a.ok(&["stop"]);
    roll_back(&dir, &snapshot);
    a.ok(&["start"]);
    a.wait(&dir, "all");
    b.wait(&there, "all");
    assert_eq!(Tree::read(&there).unwrap(), before);
    assert_eq!(Tree::read(&dir).unwrap(), before);
    a.ok(&["stop"]);
    b.ok(&["stop"]);
}

#[test]
fn a_folder_that_vanishes_is_noticed_by_itself_and_goes_on_when_it_is_back() {
    needs!("a_folder_that_vanishes_is_noticed_by_itself_and_goes_on_when_it_is_back");
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let (above, away) = (a.dir("above"), a.dir("away"));
    let dir = above.join("folder");
    let path = dir.to_str().unwrap();
    fs::create_dir(&above).unwrap();
    a.ok(&["watch", path]);
    fill(&dir);
    a.wait(&dir, "all");
    let before = Tree::read(&dir).unwrap();
    let replace = || {
        // No event tells of the folder itself.
        fs::rename(&above, &away).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("other"), "other\n").unwrap();
    };
    let put_back = || {
        fs::remove_dir_all(&above).unwrap();
        fs::rename(&away, &above).unwrap();
    };

    replace();
    let said = a.fails(3, &["wait", path, "--timeout", "1s"]);
    assert!(said.contains(VANISHED), "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "it is not taken for the folder");
    put_back();
    a.wait(&dir, "all");
    assert_eq!(Tree::read(&dir).unwrap(), before);

    replace();
    says_that_it_vanished(&a);
    put_back();
    a.wait(&dir, "all");
    fs::write(dir.join("d0/new"), "new\n").unwrap();
    a.wait(&dir, "all");
    let below = |said: &str| said.lines().filter(|line| line.contains("d0/new")).count();
    assert!(below(&a.ok(&["log", path])) > 0, "it goes on");
    a.ok(&["stop"]);
}

/// An empty directory may be where a disk is not mounted; who asks for it is not told that it is kept in sync.
#[test]
fn who_asks_for_a_folder_that_is_not_there_is_told_so() {
    needs!("who_asks_for_a_folder_that_is_not_there_is_told_so", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let disk = LoopFs::new(&lab, "disk", 64);
    let (_segment, [a]) = lab.on_one_segment(["a"]);
    let dir = disk.dir().to_owned();
    let path = dir.to_str().unwrap();
    fs::remove_dir(dir.join("lost+found")).unwrap();
    a.ok(&["watch", path]);
    fill(&dir);
    a.wait(&dir, "all");
    let before = Tree::read(&dir).unwrap();
    tool("umount", ["--lazy", path]);
    let said = a.fails(1, &["watch", path]);
    assert!(said.contains("is empty and not the directory that was synced before"), "{said}");
    a.fails(3, &["wait", path, "--timeout", "1s"]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    // Nothing holds the old one, so that this is a mount as of a disk that was taken out and put in.
    disk.mount_again();
    a.wait(&dir, "all");
    assert_eq!(Tree::read(&dir).unwrap(), before);
    a.ok(&["stop"]);
}

#[test]
fn a_disk_can_be_taken_out_once_its_folder_is_watched_no_more() {
    needs!("a_disk_can_be_taken_out_once_its_folder_is_watched_no_more", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let disk = LoopFs::new(&lab, "disk", 64);
    let (_segment, [a, b]) = lab.on_one_segment(["a", "b"]);
    let (dir, there) = (disk.dir().join("folder"), b.dir("there"));
    let path = dir.to_str().unwrap();
    fs::create_dir(&dir).unwrap();
    fill(&dir);
    a.ok(&["watch", path]);
    b.ok(&["watch", &a.invite(&dir, &[]), there.to_str().unwrap()]);
    a.wait(&dir, "all");
    assert!(!open_below(&a, disk.dir()).is_empty(), "the test looks at the wrong place");
    a.ok(&["unmount", path]);
    assert_eq!(open_below(&a, disk.dir()), Vec::<PathBuf>::new());
    disk.remount();
    a.ok(&["watch", path]);
    fs::write(dir.join("more"), "more\n").unwrap();
    a.wait(&dir, "all");
    assert_eq!(Tree::read(&dir).unwrap(), Tree::read(&there).unwrap());
    a.ok(&["stop"]);
    b.ok(&["stop"]);
}

/// What the device's engine has open below a directory.
fn open_below(device: &Device, dir: &Path) -> Vec<PathBuf> {
    let lock = fs::read_to_string(device.state_dir().join("lock")).unwrap();
    let engine = lock.lines().next().unwrap();
    let open = fs::read_dir(format!("/proc/{engine}/fd")).unwrap();
    let open = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    open.filter(|path| path.starts_with(dir)).collect()
}
