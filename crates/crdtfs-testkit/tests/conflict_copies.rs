//! Conflict copies and entries whose name another has: how they are called, and what becomes of them when somebody works on
//! them or on who has the name.

#![allow(clippy::unwrap_used)]

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::RecordId;
use crdtfs_core::record::Record;
use crdtfs_testkit::{Device, copies, meet, two};

/// Both edit a binary file at once, and meet; the name of its conflict copy.
fn edit_at_once(a: &mut Device, b: &mut Device, path: &str) -> String {
    a.write(path, b"\0one").unwrap();
    b.write(path, b"\0two").unwrap();
    meet(&mut [&mut *a, b]);
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    copies(a, dir)[0].clone()
}

#[test]
fn the_other_keeps_its_suffixed_name_when_the_holder_leaves() {
    for leave in [true, false] {
        let (mut a, mut b) = two(|_| {});
        a.write("f", "x").unwrap();
        b.write("f", "y").unwrap();
        meet(&mut [&mut a, &mut b]);
        let copy = copies(&a, "")[0].clone();
        let text = a.read(&copy).unwrap();
        if leave {
            a.mv("f", "g").unwrap();
        } else {
            a.unlink("f").unwrap();
        }
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.read(&copy).unwrap(), text);
        assert!(b.find("f").is_none());
    }
}

/// Who makes one of two files of one name what the other is, however that is saved, leaves both (seed 110185859 of the simulator).
#[test]
fn the_other_stays_when_the_holder_gets_its_text() {
    let saves: [fn(&mut Device, &str, &str); 3] = [
        |device, path, text| _ = device.write(path, text).unwrap(),
        |device, path, text| {
            device.write("new", text).unwrap();
            device.mv("new", path).unwrap();
        },
        |device, path, text| {
            device.unlink(path).unwrap();
            device.write(path, text).unwrap();
        },
    ];
    for save in saves {
        for texts in [["x", "y"], ["", "y"], ["x", ""]] {
            for of_holder in [true, false] {
                let (mut a, mut b) = two(|_| {});
                a.write("f", texts[0]).unwrap();
                b.write("f", texts[1]).unwrap();
                meet(&mut [&mut a, &mut b]);
                let other = a.ls("").into_iter().find(|name| name != "f").unwrap();
                let [from, to] = if of_holder { [&*other, "f"] } else { ["f", &*other] };
                let text = a.read(from).unwrap();
                let log = a.log.len();
                save(&mut a, to, &text);
                assert!(a.log.len() - log < 8, "{:?}", &a.log[log..]);
                meet(&mut [&mut a, &mut b]);
                assert_eq!((b.read("f"), b.read(&other)), (Some(text.clone()), Some(text.clone())));
                b.write("f", "later").unwrap();
                meet(&mut [&mut a, &mut b]);
                assert_eq!((a.read("f").unwrap(), a.read(&other).unwrap()), ("later".into(), text));
            }
        }
    }
}

#[test]
fn colliding_names_of_255_bytes() {
    let name = "n".repeat(255);
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write(&name, "x").unwrap();
        b.write(&name, "y").unwrap();
        meet(&mut [&mut a, &mut b]);
        let copy = copies(&a, "")[0].clone();
        let text = a.read(&copy).unwrap();
        assert_eq!(a.ls("").len(), 2);
        assert!(a.find(&name).is_some());
        assert_eq!(copy.len(), 255, "{copy}");
        assert_eq!(b.ls(""), a.ls(""));
        assert_ne!(b.read(&name).unwrap(), text);
        // The cut name stays, whatever becomes of who has the name: also when somebody takes that again.
        a.mv(&name, "short").unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.ls(""), [copy.as_str(), "short"]);
        b.write_new(&name, "z").unwrap();
        b.chmod(&copy, 0o600).unwrap();
        meet(&mut [&mut a, &mut b]);
        let mut names = [copy.as_str(), name.as_str(), "short"];
        names.sort_unstable();
        assert_eq!(a.ls(""), names);
        assert_eq!((a.read(&name).unwrap().as_str(), a.read(&copy).unwrap()), ("z", text));
    }
}

#[test]
fn editing_a_copy_makes_it_a_file() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    let copy = edit_at_once(&mut a, &mut b, "f");
    let inode = a.find(&copy).unwrap().inode;
    a.write(&copy, b"\0three").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.read(&copy).unwrap(), "\0three");
    assert_eq!(b.find(&copy).unwrap().inode, inode);
    assert!(b.view.conflicts().is_empty());
    b.mv(&copy, "g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f", "g"]);
}

#[test]
fn an_operation_on_the_holder_leaves_its_copies_where_they_are() {
    for step in 0..4 {
        let (mut a, mut b) = two(|a| {
            a.mkdir("d").unwrap();
            a.write("d/f", b"\0base").unwrap();
        });
        let copy = format!("d/{}", edit_at_once(&mut a, &mut b, "d/f"));
        let text = a.read(&copy).unwrap();
        match step {
            0 => a.write("d/f", b"\0three").unwrap(),
            1 => a.mv("d/f", "g").unwrap(),
            2 => a.unlink("d/f").unwrap(),
            _ => a.mv("d/f", "d/g").unwrap(),
        };
        assert_eq!(a.read(&copy).unwrap(), text);
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.read(&copy).unwrap(), text, "step {step}");
        assert!(b.view.conflicts().is_empty());
    }
}

#[test]
fn a_move_over_the_holder_leaves_its_copies() {
    let (mut a, mut b) = two(|a| {
        a.write("f", b"\0base").unwrap();
        a.write("other", b"\0other").unwrap();
    });
    let copy = edit_at_once(&mut a, &mut b, "f");
    a.now_ms += 3_600_000;
    a.mv("other", "f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls(""), ["f", copy.as_str()]);
}

#[test]
fn a_deleted_copy_stays_gone_when_its_holder_is_edited_and_renamed() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    let copy = edit_at_once(&mut a, &mut b, "f");
    a.unlink(&copy).unwrap();
    b.write("f", b"\0three").unwrap();
    b.mv("f", "g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"]);
}

#[test]
fn a_copy_of_two_equal_edits_is_one_file_once_it_is_promoted() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    let (mut c, mut d) = (Device::new("cat", 3), Device::new("dan", 4));
    c.sync_from(&a);
    d.sync_from(&a);
    for (device, text) in [(&mut a, "x"), (&mut b, "x"), (&mut c, "y"), (&mut d, "y")] {
        device.write("f", format!("\0{text}")).unwrap();
    }
    meet(&mut [&mut a, &mut b, &mut c, &mut d]);
    let copy = copies(&a, "")[0].clone();
    assert_eq!(a.ls("").len(), 2);
    a.mv("f", "g").unwrap();
    meet(&mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!(b.ls(""), [copy.as_str(), "g"]);
    b.unlink(&copy).unwrap();
    meet(&mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!(a.ls(""), ["g"]);
}

#[test]
fn a_deleted_copy_stays_gone_when_its_author_chmods_it_and_its_holder_is_deleted() {
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write("f", b"\0base").unwrap();
        b.sync_from(&a);
        a.write("f", b"\0one").unwrap();
        b.write("f", b"\0two").unwrap();
        let mut c = Device::new("cat", seed);
        c.sync_from(&a);
        c.sync_from(&b);
        let copy = copies(&c, "")[0].clone();
        let of_ann = c.read(&copy).unwrap() == "\0one";
        c.unlink(&copy).unwrap();
        let (author, other) = if of_ann { (&mut a, &mut b) } else { (&mut b, &mut a) };
        author.chmod("f", 0o600).unwrap();
        other.unlink("f").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        assert!(a.ls("").is_empty(), "{:?}", a.ls(""));
    }
}

/// What is said of the one conflict that a device sees: the name of the copy, its device and its version.
fn conflict(device: &Device) -> (String, String, RecordId) {
    let found = device.view.conflicts();
    assert_eq!(found.len(), 1, "{found:?}");
    (found[0].name.to_string(), found[0].device.clone(), found[0].version)
}

/// The record of `author` that brought the bytes of `text`, or made the entry called `text` if it has none.
fn brought(device: &Device, text: &str) -> RecordId {
    let hash = ContentRef::single(text.as_bytes()).hash;
    let made = |(id, record): &(RecordId, Record)| match record {
        Record::Content(content) if content.bytes_stamp.is_none() => {
            content.bytes.is_some_and(|bytes| bytes.hash == hash).then_some(*id)
        }
        _ => None,
    };
    device.log.iter().find_map(made).unwrap()
}

/// Checks that the one copy is called after who wrote `text` and the version that did it.
#[track_caller]
fn is_called_after(device: &Device, author: &str, text: &str) {
    let (name, by, version) = conflict(device);
    assert_eq!(device.read(&name).unwrap(), text);
    assert_eq!(by, author);
    assert_eq!(version, brought(device, text));
    let digits = &version.to_string()[..8];
    assert_eq!(name, format!("f (conflict {author} {digits}).txt"));
}

#[test]
fn a_copy_is_called_after_the_version_that_it_is() {
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write("f.txt", b"\0base").unwrap();
        b.sync_from(&a);
        edit_at_once(&mut a, &mut b, "f.txt");
        let kept = a.read("f.txt").unwrap();
        let (author, text) = if kept == "\0one" { ("bob", "\0two") } else { ("ann", "\0one") };
        is_called_after(&a, author, text);
    }
}

#[test]
fn of_two_files_of_one_name_the_copy_is_called_after_the_version_that_it_is() {
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write("f.txt", b"\0one").unwrap();
        b.write("f.txt", b"\0two").unwrap();
        b.chmod("f.txt", 0o600).unwrap();
        meet(&mut [&mut a, &mut b]);
        let kept = a.read("f.txt").unwrap();
        let (author, text) = if kept == "\0one" { ("bob", "\0two") } else { ("ann", "\0one") };
        is_called_after(&a, author, text);
    }
}

#[test]
fn the_copy_of_an_edited_file_whose_name_was_taken_is_called_after_who_edited_it() {
    let taken: [fn(&mut Device); 5] = [
        |a| _ = a.unlink("f.txt").and_then(|_| a.symlink("elsewhere", "f.txt")).unwrap(),
        |a| _ = a.unlink("f.txt").and_then(|_| a.mkdir("f.txt")).unwrap(),
        |a| {
            a.unlink("f.txt").unwrap();
            a.now_ms += 3_600_000;
            a.write("f.txt", b"\0anew").unwrap();
        },
        |a| _ = a.mv("other", "f.txt").unwrap(),
        |a| {
            _ = a
                .mv("dir", "elsewhere")
                .and_then(|_| a.unlink("f.txt"))
                .and_then(|_| a.mv("elsewhere", "f.txt"))
                .unwrap()
        },
    ];
    for take in taken {
        for seed in 0..4 {
            let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
            a.write("f.txt", b"\0base").unwrap();
            a.write("other", b"\0other").unwrap();
            a.mkdir("dir").unwrap();
            a.now_ms += 3_600_000;
            b.sync_from(&a);
            take(&mut a);
            b.write("f.txt", b"\0edited").unwrap();
            meet(&mut [&mut a, &mut b]);
            is_called_after(&b, "bob", "\0edited");
        }
    }
}

#[test]
fn a_directory_beside_another_is_called_after_who_made_it() {
    let (mut a, mut b) = two(|a| _ = a.mkdir("x").unwrap());
    b.mkdir("y").unwrap();
    a.mv("x", "z").unwrap();
    b.mv("y", "z").unwrap();
    meet(&mut [&mut a, &mut b]);
    let (name, by, version) = conflict(&a);
    let inode = a.find(&name).unwrap().inode;
    let made = |(id, record): &(RecordId, Record)| match record {
        Record::Content(content) if content.inode == inode => Some((*id, content.device.clone())),
        _ => None,
    };
    assert_eq!(a.log.iter().find_map(made), Some((version, by.clone())));
    assert_eq!(name, format!("z (conflict {by} {})", &version.to_string()[..8]));
}

#[test]
fn two_names_of_one_file_that_are_cut_to_the_same_are_both_shown() {
    let long = |end: &str| format!("{}{end}", "n".repeat(254));
    let (mut a, mut b) = two(|_| {});
    a.write(&long("1"), b"\0one").unwrap();
    a.link(&long("1"), &long("2")).unwrap();
    b.mkdir(&long("1")).unwrap();
    b.mkdir(&long("2")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls("").len(), 4);
    assert_eq!(copies(&b, "").len(), 2);
}

#[test]
fn a_conflict_inside_a_conflict_follows_the_same_rules() {
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write("f.txt", b"\0base").unwrap();
        b.sync_from(&a);
        let copy = edit_at_once(&mut a, &mut b, "f.txt");
        let holder = a.read("f.txt").unwrap();
        // Both edit the copy at once: it is a file of its own then, with a conflict copy of its own.
        a.write(&copy, b"\0three").unwrap();
        b.write(&copy, b"\0four").unwrap();
        meet(&mut [&mut a, &mut b]);
        let inner = copies(&a, "").into_iter().find(|name| *name != copy).unwrap();
        assert!(inner.starts_with(copy.strip_suffix(".txt").unwrap()), "{inner:?} is called after {copy:?}");
        assert_eq!(a.ls("").len(), 3);
        assert_eq!(a.read("f.txt").unwrap(), holder);
        let mut texts = [a.read(&copy).unwrap(), a.read(&inner).unwrap()];
        let text = texts[1].clone();
        texts.sort();
        assert_eq!(texts, ["\0four", "\0three"]);
        // What becomes of the one that has the copy's name leaves its copy; deleting that settles it.
        a.mv(&copy, "mine").unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.read(&inner).unwrap(), text);
        b.unlink(&inner).unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!(a.ls(""), ["f.txt", "mine"]);
        assert!(a.view.conflicts().is_empty());
    }
}

/// Who makes or moves something to a name that somebody else's has, unseen, leaves both as two who were apart.
#[test]
fn what_takes_a_name_unseen_is_a_conflict_with_what_has_it() {
    for moved in [false, true] {
        for seed in 0..8 {
            let mut apart = [Device::new("ann", seed), Device::new("bob", seed)];
            let mut seen = [Device::new("ann", seed), Device::new("bob", seed)];
            for [a, b] in [&mut apart, &mut seen] {
                b.write("g", b"\0two").unwrap();
                a.write("f", b"\0one").unwrap();
            }
            let [a, b] = &mut apart;
            if moved {
                b.mv("g", "f").unwrap();
            } else {
                b.write("f", b"\0new").unwrap();
            }
            meet(&mut [a, b]);
            let [a, b] = &mut seen;
            b.sync_from(a);
            if moved {
                b.mv_unseen("g", "f").unwrap();
            } else {
                b.write_unseen("f", b"\0new").unwrap();
            }
            meet(&mut [a, b]);
            for pair in [&apart, &seen] {
                let conflicts = pair[0].view.conflicts();
                assert_eq!(conflicts.len(), 1, "{:?}", pair[0].ls(""));
                assert_eq!(conflicts[0].holder, pair[0].find("f").map(|node| node.inode));
                let mut texts: Vec<_> = pair[0].ls("").iter().map(|path| pair[0].read(path).unwrap()).collect();
                texts.sort();
                let both = if moved { vec!["\0one", "\0two"] } else { vec!["\0new", "\0one", "\0two"] };
                assert_eq!(texts, both);
            }
        }
    }
}
