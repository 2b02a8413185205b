//! Texts that have several last common versions, and texts of more than two: what is shown is made of all of them, the same
//! everywhere.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crdtfs_core::id::{Hash, RecordId};
use crdtfs_core::merge::MergeCache;
use crdtfs_core::node::{Basis, Shown};
use crdtfs_core::record::Record;
use crdtfs_core::text;
use crdtfs_testkit::{Device, copies, meet};

/// How many times devices may edit what was merged on their last merged texts: the eight levels of bases that are merged, and
/// the first texts, which have one base.
const ROUNDS_MERGED: usize = 9;

fn lines(count: usize) -> String {
    (1..=count).map(|line| format!("{line}\n")).collect()
}

/// A text with one of its lines changed.
fn changed(text: &str, line: usize, by: &str) -> String {
    let changed = text.lines().enumerate().map(|(at, old)| format!("{}\n", if at + 1 == line { by } else { old }));
    changed.collect()
}

/// Two devices that have the same text.
fn pair(seed: u64, text: &str) -> (Device, Device) {
    let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
    a.write("f", text).unwrap();
    b.sync_from(&a);
    (a, b)
}

#[test]
fn two_last_common_versions_are_merged_to_the_base() {
    for seed in 0..4 {
        let (mut a, mut b) = pair(seed, &lines(9));
        a.write("f", changed(&lines(9), 2, "two")).unwrap();
        b.write("f", changed(&lines(9), 8, "eight")).unwrap();
        meet(&mut [&mut a, &mut b]);
        let merged = "1\ntwo\n3\n4\n5\n6\n7\neight\n9\n";
        assert_eq!(a.read("f").unwrap(), merged);
        assert_eq!(a.find("f").unwrap().basis.len(), 2, "nobody has written the merged text");
        // Each edits the merged text beside what the other had written: on either one of the two versions alone these are
        // changes of the same lines.
        a.write("f", changed(merged, 7, "seven")).unwrap();
        b.write("f", changed(merged, 3, "three")).unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!(a.ls(""), ["f"]);
        assert_eq!(a.read("f").unwrap(), "1\ntwo\nthree\n4\n5\n6\nseven\neight\n9\n");
    }
}

#[test]
fn tails_that_were_merged_are_there_once() {
    for seed in 0..4 {
        let (mut a, mut b) = pair(seed, "base\n");
        a.write("f", "base\nann\n").unwrap();
        b.write("f", "base\nbob\n").unwrap();
        meet(&mut [&mut a, &mut b]);
        let merged = a.read("f").unwrap();
        a.write("f", format!("{merged}of ann\n")).unwrap();
        b.write("f", format!("{merged}of bob\n")).unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!(a.ls(""), ["f"]);
        let text = a.read("f").unwrap();
        let both = ["of ann\nof bob\n", "of bob\nof ann\n"].map(|tails| format!("{merged}{tails}"));
        assert!(both.contains(&text), "{text:?}");
    }
}

/// Three of one text, each of which knows another one's version when they edit: the last common versions are two, or three.
#[test]
fn three_last_common_versions_are_merged_to_the_base() {
    for seed in 0..4 {
        let (mut a, mut b) = pair(seed, &lines(13));
        let mut c = Device::new("cat", seed);
        c.sync_from(&a);
        a.write("f", changed(&lines(13), 2, "two")).unwrap();
        b.write("f", changed(&lines(13), 6, "six")).unwrap();
        c.write("f", changed(&lines(13), 11, "eleven")).unwrap();
        meet(&mut [&mut a, &mut b, &mut c]);
        let merged = a.read("f").unwrap();
        assert_eq!(merged, "1\ntwo\n3\n4\n5\nsix\n7\n8\n9\n10\neleven\n12\n13\n");
        for (device, line, by) in [(&mut a, 3, "three"), (&mut b, 7, "seven"), (&mut c, 12, "twelve")] {
            device.write("f", changed(&merged, line, by)).unwrap();
        }
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!(a.ls(""), ["f"]);
        assert_eq!(a.read("f").unwrap(), "1\ntwo\nthree\n4\n5\nsix\nseven\n8\n9\n10\neleven\ntwelve\n13\n");
    }
}

/// Who has no bytes yet shows both versions, and asks first for those of which the base is made, then for the rest.
#[test]
fn a_merge_of_several_bases_waits_for_the_bytes_of_all() {
    let (mut a, mut b, expected) = criss_cross(2);
    let mut c = Device::new("cat", 1);
    let log = a.log.clone();
    c.receive(&log);
    let mut rounds = Vec::new();
    while !c.view.wanted().is_empty() {
        assert_eq!(c.find("f").unwrap().shown, Shown::Pending);
        assert_eq!(c.ls("").len(), 2);
        let wanted = c.view.wanted();
        for content in &wanted {
            c.view.supply(content.hash, a.bytes(content).unwrap());
        }
        rounds.push(wanted.len());
        assert!(rounds.len() < 4, "{rounds:?}");
    }
    // The two versions that the base is made of, and theirs; then the two that are merged on it: nobody has to give the base.
    assert_eq!(rounds, [3, 2]);
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.read("f").unwrap(), expected);
}

/// Ways to save a text.
const SAVES: [fn(&mut Device, &str); 3] = [
    |device, text| _ = device.write("f", text).unwrap(),
    |device, text| {
        device.write("f.tmp", text).unwrap();
        device.mv("f.tmp", "f").unwrap();
    },
    |device, text| {
        let open = device.find("f").unwrap().basis;
        device.write_with_basis("f", text.as_bytes(), open).unwrap();
    },
];

/// Who goes on with one of two texts before the bytes of the other are there has that text under its name, and it is merged when
/// they come.
#[test]
fn a_text_that_is_edited_while_it_waits_for_bytes_is_merged_when_they_come() {
    let mut mine = 0;
    for (seed, how) in (0..16).flat_map(|seed| (0..SAVES.len()).map(move |how| (seed, how))) {
        let save = SAVES[how];
        let (mut a, mut b, _) = half_here(seed, 8);
        if a.read("f").is_none() {
            continue;
        }
        mine += 1;
        assert_eq!((a.find("f").unwrap().shown, a.ls("").len()), (Shown::Pending, 2));
        for more in ["again", "and again"] {
            let shown = a.read("f").unwrap();
            save(&mut a, &changed(&shown, 5, more));
            assert_eq!((a.read("f"), a.ls("").len()), (Some(changed(&shown, 5, more)), 2), "seed {seed}, save {how}");
            assert_eq!(a.find("f").unwrap().shown, Shown::Pending, "seed {seed}, save {how}");
        }
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.ls(""), ["f"], "seed {seed}");
        assert_eq!(b.read("f").unwrap(), "1\nann\n3\n4\nand again\n6\n7\nbob\n9\n");
    }
    assert!(mine > 0, "all seeds show the other's first");
}

/// If the bytes show that they cannot be one, it keeps its name, and the other is beside it.
#[test]
fn a_text_that_is_edited_while_it_waits_for_bytes_keeps_its_name() {
    let mut mine = 0;
    for (seed, how) in (0..16).flat_map(|seed| (0..SAVES.len()).map(move |how| (seed, how))) {
        let save = SAVES[how];
        let (mut a, mut b, _) = half_here(seed, 2);
        let Some(shown) = a.read("f") else { continue };
        mine += 1;
        save(&mut a, &changed(&shown, 5, "again"));
        let copy = copies(&a, "").remove(0);
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.read("f").unwrap(), changed(&shown, 5, "again"), "seed {seed}");
        assert!(b.read(&copy).is_some() && b.ls("").len() == 2, "seed {seed}");
    }
    assert!(mine > 0, "all seeds show the other's first");
}

/// A folder goes on with its own version, also if another one is shown that has the name: what is saved there keeps it.
#[test]
fn a_text_that_a_folder_goes_on_with_while_it_waits_for_bytes_keeps_its_name() {
    for (seed, line) in (0..16).flat_map(|seed| [(seed, 2), (seed, 8)]) {
        let (mut a, mut b, own) = half_here(seed, line);
        let text = changed(&changed(&lines(9), 2, "ann"), 5, "again");
        a.write_with_basis("f", text.as_bytes(), own).unwrap();
        assert_eq!((a.read("f").as_ref(), a.ls("").len()), (Some(&text), 2), "seed {seed}");
        meet(&mut [&mut a, &mut b]);
        if line == 2 {
            assert_eq!((b.read("f"), b.ls("").len()), (Some(text), 2), "seed {seed}");
        } else {
            assert_eq!((b.read("f"), b.ls("").len()), (Some(changed(&text, 8, "bob")), 1), "seed {seed}");
        }
    }
}

/// A name more for a text that waits for bytes settles nothing: both versions are merged when they come.
#[test]
fn a_text_that_is_linked_while_it_waits_for_bytes_is_merged_when_they_come() {
    for seed in 0..16 {
        let (mut a, mut b, _) = half_here(seed, 8);
        let before = a.ls("");
        a.link("f", "g").unwrap();
        assert!(before.iter().all(|name| a.ls("").contains(name)), "seed {seed}: {:?}", a.ls(""));
        meet(&mut [&mut a, &mut b]);
        assert_eq!(b.ls(""), ["f", "g"], "seed {seed}");
        assert_eq!(b.read("g").unwrap(), "1\nann\n3\n4\n5\n6\n7\nbob\n9\n");
    }
}

/// Of a file with several names a conflict copy stands beside the one that it was written through, and a name more moves none.
#[test]
fn a_copy_stands_beside_the_name_it_was_written_through() {
    for seed in 0..16 {
        let (mut a, mut b) = pair(seed, &lines(9));
        for (device, by) in [(&mut a, "ann"), (&mut b, "bob")] {
            device.write("f", changed(&lines(9), 2, by)).unwrap();
        }
        meet(&mut [&mut a, &mut b]);
        let before = copies(&a, "");
        assert_eq!(before.len(), 1);
        for more in ["e", "g", "h"] {
            assert_eq!(a.link("f", more).unwrap(), 1, "seed {seed}");
        }
        assert_eq!((copies(&a, ""), a.view.conflicts().len()), (before, 1), "seed {seed}");
    }
}

/// Two that have changed a text, `ann` its second line and `bob` another, and the basis of hers; `ann` has heard of his, and has no
/// bytes yet.
fn half_here(seed: u64, line: usize) -> (Device, Device, Basis) {
    let (mut a, mut b) = pair(seed, &lines(9));
    a.write("f", changed(&lines(9), 2, "ann")).unwrap();
    let own = a.find("f").unwrap().basis;
    b.write("f", changed(&lines(9), line, "bob")).unwrap();
    let log = b.log.clone();
    a.receive(&log);
    (a, b, own)
}

/// Two devices that edit what was merged again and again, and never see each other's text before they edit. They meet after
/// each round; what both have then after the last.
fn criss_cross(rounds: usize) -> (Device, Device, String) {
    let count = 4 * rounds + 4;
    let (mut a, mut b) = pair(1, &lines(count));
    let mut expected = lines(count);
    for round in 0..rounds {
        let merged = a.read("f").unwrap();
        assert_eq!((merged.as_str(), a.ls("").len()), (expected.as_str(), 1), "round {round}");
        let (of_ann, of_bob) = (4 * round + 2, 4 * round + 4);
        a.write("f", changed(&merged, of_ann, "ann")).unwrap();
        b.write("f", changed(&merged, of_bob, "bob")).unwrap();
        meet(&mut [&mut a, &mut b]);
        expected = changed(&changed(&expected, of_ann, "ann"), of_bob, "bob");
    }
    (a, b, expected)
}

#[test]
fn bases_are_merged_to_a_depth_of_eight() {
    let (a, _, expected) = criss_cross(ROUNDS_MERGED);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), expected);
}

#[test]
fn beyond_that_depth_both_are_kept() {
    let (mut a, mut b, expected) = criss_cross(ROUNDS_MERGED + 1);
    let copy = copies(&a, "")[0].clone();
    assert_eq!(a.ls(""), ["f", copy.as_str()]);
    let (holder, other) = (a.read("f").unwrap(), a.read(&copy).unwrap());
    let last = 4 * ROUNDS_MERGED + 2;
    let before = changed(&changed(&expected, last, &last.to_string()), last + 2, &(last + 2).to_string());
    let mut kept = [holder.clone(), other.clone()];
    let mut written = [changed(&before, last, "ann"), changed(&before, last + 2, "bob")];
    kept.sort();
    written.sort();
    assert_eq!(kept, written);
    // Somebody puts both together by hand: that ends it.
    a.write("f", &expected).unwrap();
    a.unlink(&copy).unwrap();
    meet(&mut [&mut a, &mut b]);
    a.write("f", changed(&expected, 1, "ann")).unwrap();
    b.write("f", changed(&expected, 3, "bob")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls(""), ["f"]);
    assert_eq!(b.read("f").unwrap(), changed(&changed(&expected, 1, "ann"), 3, "bob"));
}

/// Three devices that each wrote one of the texts, and what each of them did as records.
fn three(seed: u64, base: &str, texts: [&str; 3]) -> ([Device; 3], [Vec<(RecordId, Record)>; 3]) {
    let mut devices = ["ann", "bob", "cat"].map(|name| Device::new(name, seed));
    let [a, b, c] = &mut devices;
    a.write("f", base).unwrap();
    b.sync_from(a);
    c.sync_from(a);
    let known = devices[0].log.len();
    let mut done = [const { Vec::new() }; 3];
    for ((device, text), done) in devices.iter_mut().zip(texts).zip(&mut done) {
        device.write("f", text).unwrap();
        *done = device.log[known..].to_vec();
    }
    (devices, done)
}

/// Lets three devices, and a fourth that wrote nothing, hear of the texts in every order that there is, one after the
/// other; what all of them show.
fn in_every_order(seed: u64, base: &str, texts: [&str; 3]) -> Device {
    let mut shown: Option<Device> = None;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (mut devices, done) = three(seed, base, texts);
        let mut reader = Device::new("dan", seed);
        reader.receive(&devices[0].log[..devices[0].log.len() - done[0].len()]);
        // The reader has the bytes when the records come, and merges at each; to the others they come last.
        devices.iter().for_each(|device| reader.sync_bytes(device));
        for from in order {
            reader.receive(&done[from]);
            for (_, device) in devices.iter_mut().enumerate().filter(|(at, _)| *at != from) {
                device.receive(&done[from]);
            }
        }
        let [mut a, mut b, mut c] = devices;
        meet(&mut [&mut a, &mut b, &mut c, &mut reader]);
        let last = shown.get_or_insert(reader);
        assert_eq!(a.dump(), last.dump(), "in the order {order:?}");
    }
    shown.unwrap()
}

/// What the rule makes of three versions of a text, by itself: in the order of their records, the greatest first, each
/// merged into what there is, of the two the one with the smaller hash first. The text, and what is left beside it.
fn folded(base: &str, mut versions: Vec<(RecordId, String)>) -> (String, Vec<String>) {
    versions.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let mut versions = versions.into_iter().map(|(_, text)| text);
    let mut folded = versions.next().unwrap();
    let mut left = Vec::new();
    for text in versions {
        let mut sides = [folded.as_bytes(), text.as_bytes()];
        sides.sort_by_key(|side| Hash::of(side));
        match text::merge(base.as_bytes(), sides[0], sides[1]) {
            Some(merged) => folded = String::from_utf8(merged).unwrap(),
            None => left.push(text),
        }
    }
    (folded, left)
}

/// Checks that all show what the rule makes of the three texts.
fn fold_as_ruled(seed: u64, base: &str, texts: [&str; 3]) -> (String, Vec<String>) {
    let device = in_every_order(seed, base, texts);
    let (_, done) = three(seed, base, texts);
    let versions = done.iter().zip(texts).map(|(done, text)| (done.last().unwrap().0, text.to_string())).collect();
    let (text, mut left) = folded(base, versions);
    let mut kept: Vec<_> = copies(&device, "").iter().map(|name| device.read(name).unwrap()).collect();
    kept.sort();
    left.sort();
    assert_eq!((device.read("f").unwrap(), &kept), (text.clone(), &left));
    (text, left)
}

#[test]
fn three_texts_are_one_in_whatever_order_they_come() {
    for seed in 0..8 {
        let base = lines(9);
        let texts = [changed(&base, 2, "two"), changed(&base, 5, "five"), changed(&base, 8, "eight")];
        let (text, left) = fold_as_ruled(seed, &base, texts.each_ref().map(String::as_str));
        assert_eq!((text.as_str(), left.len()), ("1\ntwo\n3\n4\nfive\n6\n7\neight\n9\n", 0));
    }
}

#[test]
fn three_tails_stand_in_one_order() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let (text, left) = fold_as_ruled(seed, "base\n", ["base\na\n", "base\nb\n", "base\nc\n"]);
        assert!(left.is_empty());
        let mut tails: Vec<_> = text.strip_prefix("base\n").unwrap().lines().map(String::from).collect();
        orders.insert(tails.clone());
        tails.sort();
        assert_eq!(tails, ["a", "b", "c"]);
    }
    assert!(orders.len() > 1, "which one is first is nobody's to choose");
}

/// A change of the permissions is a record of its own, and yet the same version: what is merged, and in which order, stays.
#[test]
fn a_chmod_does_not_change_a_text_of_three() {
    for seed in 0..16 {
        let ([mut a, mut b, mut c], _) = three(seed, "base\n", ["base\na\n", "base\nb\n", "base\nc\n"]);
        meet(&mut [&mut a, &mut b, &mut c]);
        let text = a.read("f").unwrap();
        a.chmod("f", 0o600).unwrap();
        assert_eq!(a.read("f").unwrap(), text, "seed {seed}");
        meet(&mut [&mut a, &mut b, &mut c]);
        assert_eq!((c.ls("").len(), c.read("f").unwrap(), c.find("f").unwrap().mode), (1, text, 0o600));
    }
}

#[test]
fn of_three_texts_one_that_does_not_fit_is_kept_beside_the_others() {
    let mut winners = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let base = lines(9);
        let texts = [changed(&base, 2, "two"), changed(&base, 2, "zwei"), changed(&base, 8, "eight")];
        let (text, left) = fold_as_ruled(seed, &base, texts.each_ref().map(String::as_str));
        // The one that fits is in the winner, and not in the other.
        assert!(text.ends_with("7\neight\n9\n"), "{text:?}");
        assert_eq!(left.len(), 1);
        assert!(left[0] == texts[0] || left[0] == texts[1], "{left:?}");
        winners.insert(text.lines().nth(1).unwrap().to_string());
    }
    assert_eq!(winners.len(), 2, "neither wins always");
}

/// What was merged does not depend on which of the two a device had first: the cache of merges, by itself.
#[test]
fn a_merge_does_not_depend_on_which_side_is_given_first() {
    let content = |text: &str| crdtfs_core::content::ContentRef::single(text.as_bytes());
    let texts = ["base\n", "base\na\n", "base\nb\n"];
    let merge = |ours: usize, theirs: usize| {
        let mut cache = MergeCache::default();
        for text in texts {
            cache.supply(content(text).hash, Arc::from(text.as_bytes()));
        }
        cache.merge(&content(texts[0]), &content(texts[ours]), &content(texts[theirs]))
    };
    assert_eq!(merge(1, 2), merge(2, 1));
}
