//! Two things at once, and a third device that has seen one side of it: it ends as it does without the third.

#![allow(clippy::unwrap_used)]

use crdtfs_testkit::{Device, copies, meet};

type Act = fn(&mut Device);

/// What was there before, and what each of two devices does.
const PAIRS: [(&str, Act, Act, Act); 16] = [
    ("create ∥ create", |_| {}, |a| _ = a.write("f", "x").unwrap(), |b| _ = b.write("f", "y").unwrap()),
    ("twins, one linked, one renamed", |_| {}, twin_linked, twin_renamed),
    ("edit ∥ edit of a binary", binary, |a| edit(a, "\0one"), |b| edit(b, "\0two")),
    ("edit ∥ edit of other lines", text, |a| edit(a, "one\n2\n3\n"), |b| edit(b, "1\n2\nthree\n")),
    ("edit ∥ delete", text, |a| edit(a, "edited"), |b| _ = b.unlink("f").unwrap()),
    ("edit ∥ edit, then delete", binary, |a| edit(a, "\0one"), edited_and_deleted),
    ("chmod ∥ edit, then delete", binary, |a| _ = a.chmod("f", 0o600).unwrap(), edited_and_deleted),
    ("chmod ∥ edit", binary, |a| _ = a.chmod("f", 0o600).unwrap(), |b| edit(b, "\0two")),
    ("rename ∥ delete", text, |a| _ = a.mv("f", "g").unwrap(), |b| _ = b.unlink("f").unwrap()),
    ("rename ∥ rename", text, |a| _ = a.mv("f", "g").unwrap(), |b| _ = b.mv("f", "h").unwrap()),
    ("save by rename ∥ edit", text, saved_over, |b| edit(b, "1\n2\nthree\n")),
    ("moved aside ∥ edit", text, moved_aside, |b| edit(b, "1\n2\nthree\n")),
    ("copy deleted ∥ holder edited and renamed", conflict, |a| _ = a.unlink(&copy(a)).unwrap(), holder_moved),
    (
        "copy edited ∥ holder removed",
        conflict,
        |a| _ = a.write(&copy(a), "\0new").unwrap(),
        |b| _ = b.unlink("f").unwrap(),
    ),
    (
        "moved over the holder ∥ copy edited",
        conflict,
        |a| _ = a.mv("other", "f").unwrap(),
        |b| _ = b.write(&copy(b), "\0new").unwrap(),
    ),
    ("rm -r ∥ edit inside", dir, |a| _ = a.rm_r("d").unwrap(), |b| _ = b.write("d/e/f", "edited").unwrap()),
];

fn text(a: &mut Device) {
    a.write("f", "1\n2\n3\n").unwrap();
}

fn binary(a: &mut Device) {
    a.write("f", b"\0base").unwrap();
}

fn dir(a: &mut Device) {
    for dir in ["d", "d/e"] {
        a.mkdir(dir).unwrap();
    }
    a.write("d/e/f", "base").unwrap();
}

/// A file with a conflict copy, and another.
fn conflict(a: &mut Device) {
    a.write("f", b"\0base").unwrap();
    let opened = a.find("f").unwrap();
    a.write("f", b"\0one").unwrap();
    a.close_write(opened.inode, b"\0two", opened.basis).unwrap();
    a.write("other", b"\0other").unwrap();
    a.now_ms += 3_600_000;
}

fn copy(device: &Device) -> String {
    copies(device, "")[0].clone()
}

fn edit(device: &mut Device, text: &str) {
    device.write("f", text).unwrap();
}

fn edited_and_deleted(b: &mut Device) {
    edit(b, "\0two");
    b.unlink("f").unwrap();
}

fn twin_linked(a: &mut Device) {
    a.write("f", "x").unwrap();
    a.link("f", "g").unwrap();
}

fn twin_renamed(b: &mut Device) {
    b.write("f", "x").unwrap();
    b.mv("f", "h").unwrap();
}

fn saved_over(a: &mut Device) {
    a.write_new("f.new", "one\n2\n3\n").unwrap();
    a.mv("f.new", "f").unwrap();
}

fn moved_aside(a: &mut Device) {
    a.mv("f", "f~").unwrap();
    a.write_new("f", "one\n2\n3\n").unwrap();
    a.unlink("f~").unwrap();
}

fn holder_moved(b: &mut Device) {
    edit(b, "\0new");
    b.mv("f", "g").unwrap();
}

/// What all show in the end, if the third device has seen the side of one of the two first, and worked on something else.
fn outcome(seed: u64, (setup, one, two): (Act, Act, Act), seen: Option<usize>) -> String {
    let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
    setup(&mut a);
    b.sync_from(&a);
    let mut c = Device::new("cat", seed);
    c.sync_from(&a);
    one(&mut a);
    two(&mut b);
    if let Some(seen) = seen {
        c.sync_from([&a, &b][seen]);
        c.mkdir("elsewhere").unwrap();
        c.rmdir("elsewhere").unwrap();
        // It is the third that brings it to the other.
        [&mut b, &mut a][seen].sync_from(&c);
    }
    meet(&mut [&mut a, &mut b, &mut c]);
    a.dump()
}

#[test]
fn each_pair_ends_as_it_does_without_a_third_that_has_seen_one_side() {
    for (name, setup, one, two) in PAIRS {
        for seed in 0..4 {
            let acts = (setup, one, two);
            let without = outcome(seed, acts, None);
            for seen in [0, 1] {
                assert_eq!(outcome(seed, acts, Some(seen)), without, "{name}, seed {seed}");
            }
        }
    }
}
