//! Records that no honest device makes: each has a defined outcome, never a panic, and hides nothing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use crdtfs_core::id::{InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::record::{Birth, Content, Pin, Place, PlaceState, Record, RecordError, birth_id};
use crdtfs_core::view::{ProblemKind, View};
use crdtfs_testkit::records::{content, inode, place};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

fn named(record: Record) -> (RecordId, Record) {
    (RecordId::of(&record.encode()), record)
}

fn file(n: u8, parent: InodeId, name: &str) -> Vec<(RecordId, Record)> {
    vec![named(Record::Place(place(n, parent, name, Kind::File))), named(Record::Content(content(n, &[n])))]
}

fn dir(n: u8, parent: InodeId, name: &str) -> Vec<(RecordId, Record)> {
    vec![named(Record::Place(place(n, parent, name, Kind::Dir))), named(Record::Content(content(n, &[n])))]
}

fn ls(view: &View, dir: InodeId) -> Vec<String> {
    view.entries(dir, None, usize::MAX).into_iter().map(|entry| entry.name.to_string()).collect()
}

fn problems(view: &View) -> Vec<ProblemKind> {
    view.problems().into_iter().map(|problem| problem.kind).collect()
}

#[test]
fn a_missing_parent_puts_the_entry_into_the_root() {
    let view = View::from_records(&file(1, inode(9), "lost"));
    assert_eq!(ls(&view, InodeId::ROOT), ["lost"]);
    assert_eq!(problems(&view), [ProblemKind::MissingParent]);
    // Should the parent come yet, it goes there.
    let mut view = view;
    view.insert(&dir(9, InodeId::ROOT, "d"));
    assert_eq!(ls(&view, inode(9)), ["lost"]);
    assert!(problems(&view).is_empty());
}

#[test]
fn a_directory_in_itself_stands_in_the_root() {
    let view = View::from_records(&dir(1, inode(1), "d"));
    assert_eq!(ls(&view, InodeId::ROOT), ["d"]);
    assert_eq!(problems(&view), [ProblemKind::InItself]);
}

#[test]
fn a_file_in_itself_stands_in_the_root() {
    let view = View::from_records(&file(1, inode(1), "f"));
    assert_eq!(ls(&view, InodeId::ROOT), ["f"]);
    assert_eq!(problems(&view), [ProblemKind::InItself]);
}

#[test]
fn what_is_wrong_with_a_record_is_said_in_words() {
    let records = dir(1, inode(1), "d");
    let told: Vec<_> = View::from_records(&records).problems().iter().map(ToString::to_string).collect();
    let expected = format!(
        "the record {} puts a directory into itself: it stands where it was before, or in the root",
        records[0].0
    );
    assert_eq!(told, [expected]);
}

#[test]
fn a_birth_of_what_is_no_version_says_nothing() {
    let mut records = file(1, InodeId::ROOT, "f");
    let version = records[0].0;
    records.push(named(Record::Birth(Birth { origin: inode(1), version })));
    let view = View::from_records(&records);
    assert_eq!(ls(&view, InodeId::ROOT), ["f"]);
    assert_eq!(problems(&view), [ProblemKind::BadReference]);
}

/// An encoded record with the name `x!` made into another of two bytes.
fn with_name(name: [u8; 2]) -> Vec<u8> {
    let mut bytes = Record::Place(place(1, InodeId::ROOT, "x!", Kind::File)).encode();
    let at = bytes.windows(2).position(|pair| pair == b"x!").unwrap();
    bytes[at..at + 2].copy_from_slice(&name);
    bytes
}

#[test]
fn a_record_with_an_illegal_name_is_none() {
    assert!(Record::decode(&with_name(*b"ok")).is_ok());
    for name in [*b"..", *b"a/", *b"/a", *b"a\0", [0, 0]] {
        assert!(matches!(Record::decode(&with_name(name)), Err(RecordError::Malformed(_))), "{name:?}");
    }
}

#[test]
fn a_place_below_a_file_stands_in_the_root() {
    let mut records = file(1, InodeId::ROOT, "f");
    records.extend(file(2, inode(1), "below"));
    let view = View::from_records(&records);
    assert_eq!(ls(&view, InodeId::ROOT), ["below", "f"]);
    assert_eq!(problems(&view), [ProblemKind::BelowAFile]);
}

#[test]
fn content_for_no_place_is_not_shown() {
    let mut view = View::from_records(&[named(Record::Content(content(1, b"x")))]);
    assert!(ls(&view, InodeId::ROOT).is_empty());
    assert_eq!(problems(&view), [ProblemKind::NoPlace]);
    view.insert(&[named(Record::Place(place(1, InodeId::ROOT, "f", Kind::File)))]);
    assert_eq!(ls(&view, InodeId::ROOT), ["f"]);
}

#[test]
fn a_place_without_content_is_not_shown() {
    let view = View::from_records(&[named(Record::Place(place(1, InodeId::ROOT, "f", Kind::File)))]);
    assert!(ls(&view, InodeId::ROOT).is_empty());
    assert_eq!(problems(&view), [ProblemKind::NoContent]);
}

#[test]
fn replacing_a_record_of_another_id_has_no_effect() {
    let mut records = file(1, InodeId::ROOT, "f");
    let (target, version) = (records[0].0, records[1].0);
    let deleted = PlaceState::Deleted { seen: vec![version] };
    records.extend(file(2, InodeId::ROOT, "g"));
    records.push(named(Record::Place(Place {
        state: deleted,
        replaces: vec![target],
        ..place(3, InodeId::ROOT, "h", Kind::File)
    })));
    records.push(named(Record::Content(Content { replaces: vec![version], ..content(2, b"other") })));
    let view = View::from_records(&records);
    assert!(ls(&view, InodeId::ROOT).contains(&"f".to_string()));
    assert!(problems(&view).contains(&ProblemKind::ForeignReplaces));
}

#[test]
fn of_two_kinds_the_record_with_the_least_id_says_which() {
    let mut records = file(1, InodeId::ROOT, "f");
    records.push(named(Record::Place(Place { place: PlaceId([2; 16]), ..place(1, InodeId::ROOT, "g", Kind::Dir) })));
    let views: Vec<_> = [records.clone(), records.into_iter().rev().collect()]
        .map(|records| {
            records.iter().fold(View::new(), |mut view, record| {
                view.insert(std::slice::from_ref(record));
                view
            })
        })
        .into();
    assert_eq!(ls(&views[0], InodeId::ROOT), ls(&views[1], InodeId::ROOT));
    assert_eq!(problems(&views[0]), [ProblemKind::KindsDiffer]);
    assert_eq!(problems(&views[1]), [ProblemKind::KindsDiffer]);
}

#[test]
fn of_two_inodes_of_a_place_the_record_with_the_least_id_says_which() {
    let mut records = file(1, InodeId::ROOT, "f");
    records.extend(file(2, InodeId::ROOT, "g"));
    records.push(named(Record::Place(Place { inode: inode(2), ..place(1, InodeId::ROOT, "h", Kind::File) })));
    let mut backwards = View::new();
    for record in records.iter().rev() {
        backwards.insert(std::slice::from_ref(record));
    }
    let view = View::from_records(&records);
    assert_eq!(ls(&view, InodeId::ROOT), ls(&backwards, InodeId::ROOT));
    assert_eq!(problems(&view), [ProblemKind::PlaceOfAnother]);
}

#[test]
fn a_place_merged_into_nothing_is_still_there() {
    for into in [1, 7] {
        let mut records = file(1, InodeId::ROOT, "f");
        records.push(named(Record::Place(Place {
            state: PlaceState::Merged { into: PlaceId([into; 16]), seen: Vec::new() },
            replaces: vec![records[0].0],
            ..place(1, InodeId::ROOT, "f", Kind::File)
        })));
        assert_eq!(ls(&View::from_records(&records), InodeId::ROOT), ["f"]);
    }
}

#[test]
fn records_of_the_root_say_nothing() {
    let root = Place { inode: InodeId::ROOT, ..place(1, InodeId::ROOT, "root", Kind::File) };
    let view = View::from_records(&[
        named(Record::Place(root)),
        named(Record::Content(Content { inode: InodeId::ROOT, ..content(1, b"x") })),
    ]);
    assert!(ls(&view, InodeId::ROOT).is_empty());
    assert_eq!(view.node(InodeId::ROOT).unwrap().kind, Kind::Dir);
    assert_eq!(problems(&view), [ProblemKind::OfTheRoot; 2]);
}

#[test]
fn a_record_waits_for_those_that_it_refers_to() {
    let records = file(1, InodeId::ROOT, "f");
    let moved =
        named(Record::Place(Place { replaces: vec![records[0].0], ..place(1, InodeId::ROOT, "g", Kind::File) }));
    let mut view = View::from_records(std::slice::from_ref(&moved));
    assert_eq!(problems(&view), [ProblemKind::MissingRecord]);
    view.insert(&records);
    assert_eq!(ls(&view, InodeId::ROOT), ["g"]);
    assert!(problems(&view).is_empty());
}

#[test]
fn masked_records_say_nothing_but_what_was_built_on_them_stays() {
    let mut records = file(1, InodeId::ROOT, "f");
    let honest = records[0].0;
    let bad = named(Record::Place(Place { replaces: vec![honest], ..place(1, InodeId::ROOT, "bad", Kind::File) }));
    let later = named(Record::Place(Place { replaces: vec![bad.0], ..place(1, InodeId::ROOT, "good", Kind::File) }));
    records.push(bad.clone());
    let mut view = View::from_records(&records);
    view.set_masked(BTreeSet::from([bad.0]));
    assert_eq!(ls(&view, InodeId::ROOT), ["f"]);
    view.insert(&[later]);
    assert_eq!(ls(&view, InodeId::ROOT), ["good"]);
    view.set_masked(BTreeSet::new());
    assert_eq!(ls(&view, InodeId::ROOT), ["good"]);
}

#[test]
fn a_masked_record_is_no_problem() {
    let mut records = file(1, InodeId::ROOT, "f");
    records.extend(file(2, inode(1), "below"));
    records.push(named(Record::Content(Content { replaces: vec![RecordId([9; 16])], ..content(3, b"x") })));
    let mut view = View::from_records(&records);
    assert_eq!(view.problems().len(), 2);
    view.set_masked(records[2..].iter().map(|(id, _)| *id).collect());
    assert_eq!(problems(&view), [], "who wrote it was revoked: nobody can, or has to, do more about it");
}

/// The tree as text.
fn dump(view: &View) -> String {
    let mut out = String::new();
    let mut stack = vec![(String::new(), InodeId::ROOT)];
    let mut count = 1;
    while let Some((path, dir)) = stack.pop() {
        for entry in view.entries(dir, None, usize::MAX) {
            let node = view.node(entry.inode).expect("an entry names a node");
            count += 1;
            assert!(count < 10_000, "endless:\n{out}");
            out += &format!("{path}/{} {node:?}\n", entry.name);
            if entry.kind == Kind::Dir {
                stack.push((format!("{path}/{}", entry.name), entry.inode));
            }
        }
    }
    out
}

/// Records of few ids that refer to any of those before.
fn soup(rng: &mut ChaCha12Rng) -> Vec<(RecordId, Record)> {
    let mut records: Vec<(RecordId, Record)> = Vec::new();
    for _ in 0..rng.random_range(2..40) {
        let any = |rng: &mut ChaCha12Rng, most: usize| -> Vec<RecordId> {
            let count = rng.random_range(0..=most.min(records.len()));
            let ids: BTreeSet<_> = (0..count).map(|_| records[rng.random_range(0..records.len())].0).collect();
            ids.into_iter().collect()
        };
        let name = ["a", "b"][rng.random_range(0..2)];
        let n = rng.random_range(1..6);
        let kind = if n < 4 { Kind::Dir } else { Kind::File };
        // Some are of what a birth made.
        let mut born = records.iter().filter_map(|(_, record)| match record {
            Record::Birth(birth) => Some(birth_id(&birth.origin, &birth.version)),
            _ => None,
        });
        let born = born.next_back().filter(|_| rng.random());
        let kind = if rng.random_range(0..30) == 0 { Kind::Symlink } else { kind };
        let parent = if rng.random() { InodeId::ROOT } else { inode(rng.random_range(1..6)) };
        let record = match rng.random_range(0..10) {
            0..5 => {
                let seen = any(rng, 2);
                let state = match rng.random_range(0..6) {
                    0 => PlaceState::Deleted { seen },
                    1 => PlaceState::Merged { into: PlaceId([rng.random_range(1..7); 16]), seen: Vec::new() },
                    _ => PlaceState::Live,
                };
                let mut place = place(n, parent, name, if born.is_some() { Kind::File } else { kind });
                if let Some(born) = born {
                    (place.place, place.inode) = (PlaceId(born), InodeId(born));
                }
                let inode = if rng.random_range(0..20) == 0 { inode(rng.random_range(1..6)) } else { place.inode };
                let stamp = any(rng, 1).first().copied();
                Record::Place(Place {
                    inode,
                    state,
                    replaces: any(rng, 2),
                    saw: any(rng, 1),
                    name_stamp: stamp,
                    ..place
                })
            }
            5..8 => Record::Content(Content {
                inode: born.map_or(inode(n), InodeId),
                via: PlaceId([rng.random_range(1..6); 16]),
                replaces: any(rng, 2),
                saw: any(rng, 1),
                bytes_stamp: if rng.random_range(0..4) == 0 { any(rng, 1).first().copied() } else { None },
                ..content(n, &[0, rng.random_range(0..3)])
            }),
            8 => match any(rng, 1).first() {
                Some(version) => Record::Birth(Birth { origin: inode(n), version: *version }),
                None => continue,
            },
            _ => Record::Pin(Pin {
                place: PlaceId([n; 16]),
                covers: any(rng, 3),
                parent,
                name: Name::try_from(name).unwrap(),
                saw: any(rng, 1),
            }),
        };
        records.push(named(record));
    }
    records
}

#[test]
fn any_records_in_any_order_with_any_masks_give_one_tree() {
    let from: u64 = std::env::var("SOUP_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in from..from + 4000 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let records = soup(&mut rng);
        let mut view = View::new();
        for record in &records {
            view.insert(std::slice::from_ref(record));
        }
        let expected = dump(&view);
        let mut shuffled = records.clone();
        shuffled.shuffle(&mut rng);
        let mut other = View::new();
        for part in shuffled.chunks(3) {
            other.insert(part);
        }
        assert_eq!(dump(&other), expected, "seed {seed}: another order of {records:#?}");
        assert_eq!(dump(&View::from_records(&records)), expected, "seed {seed}: from scratch");
        let masked: BTreeSet<_> = records.iter().filter(|_| rng.random_range(0..4) == 0).map(|(id, _)| *id).collect();
        view.set_masked(masked.clone());
        let mut fresh = View::new();
        fresh.set_masked(masked);
        for part in shuffled.chunks(2) {
            fresh.insert(part);
        }
        assert_eq!(dump(&view), dump(&fresh), "seed {seed}: masked");
        view.set_masked(BTreeSet::new());
        assert_eq!(dump(&view), expected, "seed {seed}: unmasked");
    }
}
