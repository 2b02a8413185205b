//! Saves that look like other operations: by a temporary file, by moving aside, by removal. The calls of real programs are in
//! `traces.rs`.

#![allow(clippy::unwrap_used)]

use crdtfs_testkit::{Device, copies, meet, two};

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// `online`: the other one sees the temporary file.
fn save_by_temporary_file(online: bool) {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write(".f.tmp", LINES.replace("2\n", "two\n")).unwrap();
    if online {
        b.sync_from(&a);
    }
    a.mv(".f.tmp", "f").unwrap();
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
}

#[test]
fn save_by_temporary_file_and_edit_is_edit_and_edit() {
    save_by_temporary_file(false);
}

#[test]
fn save_by_rename_with_a_peer_online() {
    save_by_temporary_file(true);
}

#[test]
fn save_by_moving_aside_and_edit_is_edit_and_edit() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    let inode = a.find("f").unwrap().inode;
    a.mv("f", "f~").unwrap();
    b.sync_from(&a);
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    a.unlink("f~").unwrap();
    b.write("f~", LINES.replace("8\n", "eight\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
    assert_eq!(a.find("f").unwrap().inode, inode);
}

#[test]
fn save_by_removal_and_creation_and_edit_is_edit_and_edit() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    let inode = a.find("f").unwrap().inode;
    a.unlink("f").unwrap();
    b.sync_from(&a);
    assert!(b.find("f").is_none());
    a.write("f", "").unwrap();
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    assert_eq!(a.find("f").unwrap().inode, inode);
    let (mut c, mut d) = two(|_| {});
    c.sync_from(&b);
    meet(&mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!((d.find("f").unwrap().inode, d.read("f").unwrap()), (inode, LINES.replace("2\n", "two\n")));
}

#[test]
fn a_file_removed_and_created_again_is_merged_with_an_edit_of_the_old_one() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.unlink("f").unwrap();
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    b.mv("f", "g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"], "a rename elsewhere counts");
    assert_eq!(a.read("g").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
}

#[test]
fn save_by_removal_and_rename_and_edit_is_edit_and_edit() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write("f.new", LINES.replace("2\n", "two\n")).unwrap();
    a.unlink("f").unwrap();
    a.mv("f.new", "f").unwrap();
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
}

#[test]
fn a_save_by_removal_leaves_the_copies_of_what_is_saved() {
    let (mut a, mut b) = two(|a| {
        a.write("f", b"\0f").unwrap();
        a.write("new", b"\0base").unwrap();
    });
    let (inode, basis) = a.find("new").map(|node| (node.inode, node.basis)).unwrap();
    a.write("new", b"\0one").unwrap();
    a.close_write(inode, b"\0two", basis).unwrap();
    let copy = copies(&a, "")[0].clone();
    let text = a.read(&copy).unwrap();
    a.unlink("f").unwrap();
    a.mv("new", "f").unwrap();
    assert_eq!(a.read(&copy).unwrap(), text);
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls("").len(), 2);
}

/// Seed 90216676 of the simulator.
#[test]
fn a_temporary_file_is_not_the_one_that_another_device_had_under_its_name() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "1\n2\n3\n4\n"));
    b.write("f.tmp", "one\n2\n3\n4\n").unwrap();
    a.sync_from(&b);
    b.unlink("f").unwrap();
    b.mv("f.tmp", "f").unwrap();
    a.unlink("f.tmp").unwrap();
    a.write("f", "1\n2\n3\n4\nfive\n").unwrap();
    a.write("f.tmp", "1\n2\n3\n4\nfive, six\n").unwrap();
    a.mv("f.tmp", "f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), "one\n2\n3\n4\nfive, six\n");
}

#[test]
fn a_file_removed_a_while_ago_is_another() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0f"));
    let inode = a.find("f").unwrap().inode;
    a.unlink("f").unwrap();
    a.now_ms += 6000;
    a.write("f", b"\0new").unwrap();
    assert_ne!(a.find("f").unwrap().inode, inode);
    b.write("f", b"\0edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
}

#[test]
fn a_real_other_file_moved_over_is_no_save() {
    let (mut a, mut b) = two(|a| {
        a.write("f", b"\0f").unwrap();
        a.write("g", b"\0g").unwrap();
    });
    a.now_ms += 3_600_000;
    a.mv("g", "f").unwrap();
    b.write("f", b"\0edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
    assert_eq!(a.read("f").unwrap(), "\0g");
}

/// Files that were made lately change their names among them: which of them is removed first does not matter.
#[test]
fn files_that_swap_their_names_are_no_saves_of_each_other() {
    for first in ["x", "y"] {
        let (mut a, mut b) = two(|_| {});
        a.write("x", b"\0x").unwrap();
        a.write("y", b"\0y").unwrap();
        let [x, y] = ["x", "y"].map(|name| a.find(name).unwrap().inode);
        a.mv("x", "t").unwrap();
        a.mv("y", "x").unwrap();
        a.mv("t", "y").unwrap();
        let (second, stays) = if first == "x" { ("y", x) } else { ("x", y) };
        a.unlink(first).unwrap();
        assert_eq!(a.find(second).unwrap().inode, stays);
        assert_eq!(b.find(second).map(|node| node.inode), None);
        meet(&mut [&mut a, &mut b]);
        assert_eq!((b.ls(""), b.find(second).unwrap().inode), (vec![second.to_string()], stays));
    }
}

#[test]
fn a_file_that_is_numbered_on_is_no_save_of_the_one_before() {
    let (mut a, _) = two(|_| {});
    a.write("log.1", b"\0older").unwrap();
    a.write("log", b"\0old").unwrap();
    let old = a.find("log").unwrap().inode;
    a.mv("log.1", "log.2").unwrap();
    a.mv("log", "log.1").unwrap();
    a.unlink("log.2").unwrap();
    assert_eq!(a.find("log.1").unwrap().inode, old);
}

/// What is moved out of the way of another is no backup of it, whatever is removed when.
#[test]
fn a_file_that_made_room_for_another_is_no_backup_of_it() {
    for (away, after) in [("log.1", "log"), ("b", "a"), ("log-2026-11-20", "log")] {
        let (mut a, mut b) = two(|a| _ = a.write(after, b"\0older").unwrap());
        let older = a.find(after).unwrap().inode;
        a.mv(after, away).unwrap();
        b.sync_from(&a);
        a.write_new(after, b"\0newer").unwrap();
        let newer = a.find(after).unwrap().inode;
        b.write(away, b"\0edited").unwrap();
        a.unlink(away).unwrap();
        assert_eq!(a.find(after).unwrap().inode, newer);
        meet(&mut [&mut a, &mut b]);
        assert_eq!(a.find(away).map(|node| node.inode), Some(older), "{:?}", a.ls(""));
        assert_eq!((a.read(away).unwrap(), a.read(after).unwrap()), ("\0edited".into(), "\0newer".into()));
    }
}

/// As by moving aside, but what takes the place was written before.
#[test]
fn a_file_written_before_the_old_one_is_moved_aside_is_an_edit_of_it() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    let inode = a.find("f").unwrap().inode;
    a.write("f.new", LINES.replace("2\n", "two\n")).unwrap();
    a.mv("f", "f.old").unwrap();
    a.mv("f.new", "f").unwrap();
    a.unlink("f.old").unwrap();
    assert_eq!(a.find("f").unwrap().inode, inode);
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
}

/// The ways to save that leave one file.
const WAYS: [fn(&mut Device, &str, &str); 5] = [save_over, save_aside, save_anew, save_by_removal, save_in_place];

fn save_in_place(device: &mut Device, path: &str, text: &str) {
    device.write(path, text).unwrap();
}

fn save_over(device: &mut Device, path: &str, text: &str) {
    device.write_new(&format!("{path}.new"), text).unwrap();
    device.mv(&format!("{path}.new"), path).unwrap();
}

fn save_aside(device: &mut Device, path: &str, text: &str) {
    device.mv(path, &format!("{path}~")).unwrap();
    device.write_new(path, text).unwrap();
    device.unlink(&format!("{path}~")).unwrap();
}

fn save_anew(device: &mut Device, path: &str, text: &str) {
    device.unlink(path).unwrap();
    device.write_new(path, "").unwrap();
    device.write(path, text).unwrap();
}

fn save_by_removal(device: &mut Device, path: &str, text: &str) {
    device.write_new(&format!("{path}.new"), text).unwrap();
    device.unlink(path).unwrap();
    device.mv(&format!("{path}.new"), path).unwrap();
}

/// Two devices with a file `f` and a copy beside it: another version of it, or another file that was to have its name.
fn with_copy(versions: bool, texts: [&str; 2], seed: u64) -> (Device, Device, String) {
    let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
    if versions {
        a.write("f", b"\0base").unwrap();
        b.sync_from(&a);
    }
    a.write("f", texts[0]).unwrap();
    b.write("f", texts[1]).unwrap();
    meet(&mut [&mut a, &mut b]);
    let copy = copies(&a, "")[0].clone();
    (a, b, copy)
}

#[test]
fn a_save_of_a_conflict_copy_is_an_edit_of_it_however_it_is_made() {
    for versions in [true, false] {
        for save in WAYS {
            for seed in 0..4 {
                let (mut a, mut b, copy) = with_copy(versions, ["\0one", "\0two"], seed);
                let (inode, holder) = (a.find(&copy).unwrap().inode, a.read("f").unwrap());
                save(&mut a, &copy, "\0three");
                assert_eq!(a.find(&copy).unwrap().inode, inode);
                meet(&mut [&mut a, &mut b]);
                assert_eq!(b.ls(""), ["f", copy.as_str()]);
                assert_eq!((b.read("f").unwrap(), b.read(&copy).unwrap()), (holder, "\0three".to_string()));
                assert!(b.view.conflicts().is_empty());
            }
        }
    }
}

#[test]
fn a_save_of_a_conflict_copy_and_an_edit_of_it_are_edit_and_edit() {
    for versions in [true, false] {
        for save in WAYS {
            for other in WAYS {
                for seed in 0..4 {
                    let (mut a, mut b, copy) = with_copy(versions, ["\0one", "\0two"], seed);
                    save(&mut a, &copy, "\0three");
                    other(&mut b, &copy, "\0four");
                    meet(&mut [&mut a, &mut b]);
                    assert_eq!(a.ls("").len(), 3, "no name is left over: {:?}", a.ls(""));
                    assert_eq!(copies(&a, "").len(), 2, "{:?}", a.ls(""));
                    let mut texts = copies(&a, "").iter().map(|name| a.read(name).unwrap()).collect::<Vec<_>>();
                    texts.sort();
                    assert_eq!(texts, ["\0four", "\0three"]);
                    assert!(["\0four", "\0three"].contains(&a.read(&copy).unwrap().as_str()));
                }
            }
        }
    }
}

#[test]
fn edits_of_other_lines_of_a_conflict_copy_are_merged_however_they_are_saved() {
    for versions in [true, false] {
        for save in WAYS {
            for other in WAYS {
                let changed = |text: &str, from: &str, to: &str| text.replacen(from, to, 1);
                let texts = [LINES.replace('5', "fünf"), LINES.replace('5', "five")];
                let (mut a, mut b, copy) = with_copy(versions, [&texts[0], &texts[1]], 5);
                let text = a.read(&copy).unwrap();
                save(&mut a, &copy, &changed(&text, "1\n", "one\n"));
                other(&mut b, &copy, &changed(&text, "9\n", "nine\n"));
                meet(&mut [&mut a, &mut b]);
                assert_eq!(a.ls(""), ["f", copy.as_str()]);
                assert_eq!(a.read(&copy).unwrap(), changed(&changed(&text, "1\n", "one\n"), "9\n", "nine\n"));
            }
        }
    }
}

#[test]
fn a_conflict_copy_that_is_removed_elsewhere_while_it_is_saved_keeps_its_name() {
    for versions in [true, false] {
        for save in WAYS {
            for seed in 0..4 {
                let (mut a, mut b, copy) = with_copy(versions, ["\0one", "\0two"], seed);
                save(&mut a, &copy, "\0three");
                b.unlink(&copy).unwrap();
                meet(&mut [&mut a, &mut b]);
                assert_eq!(b.ls(""), ["f", copy.as_str()]);
                assert_eq!(b.read(&copy).unwrap(), "\0three");
            }
        }
    }
}

#[test]
fn a_conflict_copy_that_is_renamed_elsewhere_while_it_is_saved_has_its_new_name() {
    for versions in [true, false] {
        for save in WAYS {
            for seed in 0..4 {
                let (mut a, mut b, copy) = with_copy(versions, ["\0one", "\0two"], seed);
                save(&mut a, &copy, "\0three");
                b.mv(&copy, "g").unwrap();
                meet(&mut [&mut a, &mut b]);
                assert_eq!(a.ls(""), ["f", "g"]);
                assert_eq!(a.read("g").unwrap(), "\0three");
            }
        }
    }
}

/// Two directories were shown as one, and are two again: a file goes where it is made, whatever was removed from the other.
#[test]
fn a_file_made_in_what_was_one_directory_with_another_stays_there() {
    for seed in 0..16 {
        let [mut a, mut b, mut c] = ["ann", "bob", "cid"].map(|name| Device::new(name, seed));
        a.mkdir("d").unwrap();
        c.sync_from(&a);
        b.mkdir("d").unwrap();
        b.write("d/f", "old").unwrap();
        a.sync_from(&b);
        a.unlink("d/f").unwrap();
        c.mv("d", "e").unwrap();
        a.sync_from(&c);
        a.write("e/f", "new").unwrap();
        assert_eq!((a.ls("d").len(), a.read("e/f").as_deref()), (0, Some("new")), "seed {seed}");
        meet(&mut [&mut a, &mut b, &mut c]);
    }
}
