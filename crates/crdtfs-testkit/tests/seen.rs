//! What an author had before its eyes and left as it was ranks below what it wrote, for good.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use crdtfs_core::id::RecordId;
use crdtfs_testkit::{Device, copies, meet};

const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// Three devices that know one text.
fn three(seed: u64) -> [Device; 3] {
    let mut devices = ["ann", "bob", "cid"].map(|name| Device::new(name, seed));
    devices[0].write("f", BASE).unwrap();
    let [a, b, c] = &mut devices;
    meet(&mut [a, b, c]);
    devices
}

/// The base with some lines changed.
fn with(lines: &[(usize, &str)]) -> String {
    let mut text: Vec<_> = BASE.lines().collect();
    for (at, line) in lines {
        text[at - 1] = line;
    }
    text.join("\n") + "\n"
}

/// What `cid` did, taken back from all.
fn revoke(done: &BTreeSet<RecordId>, devices: &mut [&mut Device]) {
    for device in devices {
        device.view.set_masked(done.clone());
    }
}

/// Two binary versions of a file, one a conflict copy, which `cid` makes a file of: the devices, the copy's name, and the
/// records by which it did.
fn promoted(seed: u64) -> ([Device; 3], String, BTreeSet<RecordId>) {
    let [mut a, mut b, mut c] = three(seed);
    a.write("f", b"\0ann").unwrap();
    b.write("f", b"\0bob").unwrap();
    meet(&mut [&mut a, &mut b, &mut c]);
    let copy = copies(&c, "").remove(0);
    let before = c.log.len();
    c.mv("f", "g").unwrap();
    let renamed = c.log[before..].iter().map(|(id, _)| *id).collect();
    meet(&mut [&mut a, &mut b, &mut c]);
    ([a, b, c], copy, renamed)
}

/// Permissions that were set in sight of others stay, whatever becomes of the text that they were set on.
#[test]
fn permissions_that_were_set_last_outlive_the_close_of_what_was_open() {
    for seed in 0..32 {
        let [mut a, mut b, mut c] = three(seed);
        a.write("f", with(&[(2, "ann")])).unwrap();
        let open = a.find("f").unwrap().basis;
        b.write("f", with(&[(8, "bob")])).unwrap();
        b.chmod("f", 0o640).unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!((a.find("f").unwrap().mode, a.read("f")), (0o640, Some(with(&[(2, "ann"), (8, "bob")]))));
        a.chmod("f", 0o600).unwrap();
        a.write_with_basis("f", with(&[(2, "ann"), (5, "again")]).as_bytes(), open).unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        let text = with(&[(2, "ann"), (5, "again"), (8, "bob")]);
        assert_eq!((c.ls("").len(), c.read("f").unwrap()), (1, text));
        assert_eq!(c.find("f").unwrap().mode, 0o600, "seed {seed}");
    }
}

/// Of permissions that were set apart the same ones are shown, whoever goes on with one of the texts (seed 90534340 of the
/// simulator).
#[test]
fn permissions_that_were_set_apart_are_the_same_after_an_edit() {
    for seed in 0..32 {
        let [mut a, mut b, mut c] = three(seed);
        a.write("f", with(&[(2, "ann")])).unwrap();
        let open = a.find("f").unwrap().basis;
        a.chmod("f", 0o640).unwrap();
        b.write("f", with(&[(8, "bob")])).unwrap();
        b.chmod("f", 0o600).unwrap();
        meet(&mut [&mut a, &mut b]);
        let mode = a.find("f").unwrap().mode;
        a.write_with_basis("f", with(&[(2, "ann"), (5, "again")]).as_bytes(), open).unwrap();
        assert_eq!(a.find("f").unwrap().mode, mode, "seed {seed}");
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!((c.ls("").len(), c.find("f").unwrap().mode), (1, mode), "seed {seed}");
    }
}

/// What a conflict copy took along when it became a file was before the eyes of all who work on that (seed 96105249 of the
/// simulator).
#[test]
fn permissions_count_that_are_set_after_a_copy_became_a_file() {
    for seed in 0..32 {
        let [mut a, mut b, mut c] = three(seed);
        for (device, by) in [(&mut a, "ann"), (&mut b, "bob")] {
            device.write("f", with(&[(5, by)])).unwrap();
            device.chmod("f", 0o640).unwrap();
        }
        meet(&mut [&mut a, &mut b, &mut c]);
        let copy = copies(&a, "").remove(0);
        for (device, line) in [(&mut a, 1), (&mut b, 9)] {
            let text = device.read(&copy).unwrap();
            let lines = text
                .lines()
                .enumerate()
                .map(|(at, old)| if at + 1 == line { "more\n".into() } else { format!("{old}\n") });
            device.write(&copy, lines.collect::<String>()).unwrap();
        }
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!((c.ls("").len(), c.find(&copy).unwrap().basis.len()), (2, 2), "seed {seed}");
        c.chmod(&copy, 0o600).unwrap();
        assert_eq!(c.find(&copy).unwrap().mode, 0o600, "seed {seed}");
    }
}

/// Who sets permissions of a conflict copy's holder made no version: a later merge is what it was.
#[test]
fn permissions_of_a_copy_do_not_take_a_merge_apart() {
    let mut fits = 0;
    for seed in 0..48 {
        let [mut a, mut b, mut c] = three(seed);
        let (ann, bob) = (with(&[(2, "ann")]), with(&[(8, "bob")]));
        let cid = with(&[(2, "cid"), (8, "cid")]);
        a.write("f", &ann).unwrap();
        b.write("f", &bob).unwrap();
        c.write("f", &cid).unwrap();
        meet(&mut [&mut b, &mut c]);
        // What has the name on these two is the copy of the merge on all three.
        if c.read("f").unwrap() != cid {
            continue;
        }
        c.chmod("f", 0o640).unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        let text = a.read("f").unwrap();
        if text != with(&[(2, "ann"), (8, "bob")]) {
            continue;
        }
        fits += 1;
        let copy = copies(&a, "");
        a.chmod("f", 0o600).unwrap();
        assert_eq!((a.read("f").unwrap(), copies(&a, "")), (text.clone(), copy.clone()), "seed {seed}");
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!((b.read("f").unwrap(), copies(&b, ""), b.find("f").unwrap().mode), (text, copy, 0o600));
    }
    assert!(fits > 1, "of six orders one is meant");
}

/// Permissions and edits apply both, also to a file that was removed meanwhile, and whatever becomes of a copy of it.
#[test]
fn permissions_apply_to_a_file_that_was_edited_and_removed() {
    for seed in 0..8 {
        let [mut a, mut b, mut c] = three(seed);
        let (mut d, mut e) = (Device::new("dan", seed), Device::new("eve", seed));
        meet(&mut [&mut a, &mut d, &mut e]);
        a.write("f", b"\0ann").unwrap();
        b.write("f", b"\0bob").unwrap();
        c.chmod("f", 0o600).unwrap();
        d.unlink("f").unwrap();
        meet(&mut [&mut a, &mut b, &mut c, &mut d, &mut e]);
        let copy = copies(&e, "").remove(0);
        assert_eq!(e.find("f").unwrap().mode, 0o600, "seed {seed}");
        e.chmod(&copy, 0o666).unwrap();
        meet(&mut [&mut a, &mut b, &mut c, &mut d, &mut e]);
        assert_eq!(["f", copy.as_str()].map(|name| a.find(name).unwrap().mode), [0o600, 0o666], "seed {seed}");
    }
}

/// Versions with the same bytes that count as one have one rank, too: whatever else there is, permissions that were set on
/// either are below the versions that were made of them.
#[test]
fn permissions_of_what_became_one_do_not_depend_on_a_copy() {
    for seed in 0..32 {
        let [mut a, mut b, mut c, mut d, mut e] =
            ["ann", "bob", "cid", "dan", "eve"].map(|name| Device::new(name, seed));
        a.write("f", b"\0same").unwrap();
        b.write("f", b"\0same").unwrap();
        c.sync_from(&a);
        d.sync_from(&a);
        e.sync_from(&a);
        e.sync_from(&b);
        e.mv("f", "g").unwrap();
        b.chmod("f", 0o640).unwrap();
        b.write("f", b"\0bob").unwrap();
        c.write("f", b"\0cid").unwrap();
        d.chmod("f", 0o600).unwrap();
        meet(&mut [&mut a, &mut b, &mut c, &mut d, &mut e]);
        let copy = copies(&a, "").remove(0);
        let (text, mode) = (a.read("g"), a.find("g").unwrap().mode);
        a.chmod(&copy, 0o666).unwrap();
        assert_eq!((a.read("g"), a.find("g").unwrap().mode), (text.clone(), mode), "seed {seed}");
        meet(&mut [&mut a, &mut b, &mut c, &mut d, &mut e]);
        assert_eq!((c.read("g"), c.find("g").unwrap().mode), (text, mode), "seed {seed}");
    }
}

/// An edit whose author saw a conflict copy keeps the name, also if the one who made a file of the copy had no right to.
#[test]
fn an_edit_that_saw_a_copy_outranks_it_whoever_made_a_file_of_it() {
    for seed in 0..16 {
        let ([mut a, mut b, mut c], copy, renamed) = promoted(seed);
        a.write("g", b"\0again").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        revoke(&renamed, &mut [&mut a, &mut b, &mut c]);
        for device in [&a, &b, &c] {
            assert_eq!(device.ls(""), ["f", copy.as_str()], "seed {seed}");
            assert_eq!(device.read("f").unwrap(), "\0again", "seed {seed}");
        }
    }
}

/// What was set on a conflict copy goes with it, and not to the file that it was a version of.
#[test]
fn permissions_of_a_copy_stay_its_own() {
    for seed in 0..8 {
        let [mut a, mut b, mut c] = three(seed);
        for (device, text, mode) in [(&mut a, b"\0ann", 0o600), (&mut b, b"\0bob", 0o640)] {
            device.write("f", text).unwrap();
            device.chmod("f", mode).unwrap();
        }
        meet(&mut [&mut a, &mut b, &mut c]);
        let copy = copies(&c, "").remove(0);
        let modes = |device: &Device, holder: &str| [holder, &copy].map(|name| device.find(name).unwrap().mode);
        let before = modes(&c, "f");
        c.mv("f", "g").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!(modes(&a, "g"), before, "seed {seed}");
        a.write("g", b"\0again").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!(modes(&c, "g"), before, "seed {seed}");
    }
}

#[test]
fn an_edit_of_a_copy_stays_whoever_made_a_file_of_it() {
    for seed in 0..4 {
        let ([mut a, mut b, mut c], copy, renamed) = promoted(seed);
        b.write(&copy, b"\0again").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        let name = c.read("g").unwrap();
        revoke(&renamed, &mut [&mut a, &mut b, &mut c]);
        let texts: Vec<_> = a.walk().iter().map(|(path, _)| a.read(path).unwrap()).collect();
        assert!(texts.contains(&"\0again".into()) && texts.contains(&name) && texts.len() == 2, "{}", a.dump());
        assert_eq!((a.dump(), a.dump()), (b.dump(), c.dump()));
    }
}

#[test]
fn a_removed_copy_stays_gone_whoever_made_a_file_of_it() {
    for seed in 0..4 {
        let ([mut a, mut b, mut c], copy, renamed) = promoted(seed);
        b.unlink(&copy).unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        revoke(&renamed, &mut [&mut a, &mut b, &mut c]);
        assert_eq!(a.ls(""), ["f"]);
        assert_eq!((a.dump(), a.dump()), (b.dump(), c.dump()));
    }
}

#[test]
fn a_copy_that_was_renamed_stays_a_file_whoever_made_one_of_it() {
    for seed in 0..4 {
        let ([mut a, mut b, mut c], copy, renamed) = promoted(seed);
        let text = b.read(&copy);
        b.mv(&copy, "h").unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        revoke(&renamed, &mut [&mut a, &mut b, &mut c]);
        assert_eq!((a.ls("").join(" "), a.read("h")), ("f h".into(), text));
        assert_eq!((a.dump(), a.dump()), (b.dump(), c.dump()));
    }
}

/// A directory of a revoked device shows as long as something stands in it that counts.
#[test]
fn what_stands_in_a_masked_directory_stays_in_it() {
    let [mut a, mut b, mut c] = three(1);
    let before = c.log.len();
    c.mkdir("d").unwrap();
    c.mkdir("d/e").unwrap();
    c.mkdir("empty").unwrap();
    c.write("d/theirs", "theirs").unwrap();
    let made: BTreeSet<_> = c.log[before..].iter().map(|(id, _)| *id).collect();
    meet(&mut [&mut a, &mut b, &mut c]);
    a.write("d/e/f", "honest").unwrap();
    // Who hears of the revocation before, and who after.
    revoke(&made, &mut [&mut b]);
    assert_eq!(b.ls(""), ["f"]);
    meet_masked(&made, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(
        (b.ls("").join(" "), b.ls("d"), b.read("d/e/f")),
        ("d f".into(), vec!["e".into()], Some("honest".into()))
    );
    b.rm_r("d").unwrap();
    meet_masked(&made, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(a.ls(""), ["f"]);
    b.mkdir("d").unwrap();
    b.write("d/new", "new").unwrap();
    meet_masked(&made, &mut [&mut a, &mut b, &mut c]);
    assert_eq!((a.ls("").join(" "), a.ls("d")), ("d f".into(), vec!["new".into()]));
}

/// All exchange all, and what is masked is so on each of them, in whatever order.
fn meet_masked(masked: &BTreeSet<RecordId>, devices: &mut [&mut Device; 3]) {
    let [a, b, c] = devices;
    a.sync_from(b);
    b.sync_from(a);
    c.sync_from(a);
    revoke(masked, &mut [a, b, c]);
    assert_eq!((a.dump(), a.dump()), (b.dump(), c.dump()));
    let mut fresh = Device::new("fresh", 9);
    fresh.view.set_masked(masked.clone());
    fresh.sync_from(a);
    assert_eq!(fresh.dump(), a.dump());
}
