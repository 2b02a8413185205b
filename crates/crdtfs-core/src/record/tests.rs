#![allow(clippy::unwrap_used)]

use super::*;
use crate::id::Hash;

fn id(n: u8) -> RecordId {
    RecordId([n; 16])
}

fn place(state: PlaceState) -> Place {
    Place {
        place: PlaceId([1; 16]),
        inode: InodeId([2; 16]),
        kind: Kind::File,
        parent: InodeId::ROOT,
        parent_stamp: None,
        name: Name::new(b"name").unwrap(),
        name_stamp: None,
        device: "laptop".into(),
        state,
        replaces: Vec::new(),
        saw: Vec::new(),
    }
}

fn content() -> Content {
    Content {
        inode: InodeId([2; 16]),
        via: PlaceId([1; 16]),
        device: "laptop".into(),
        bytes: Some(ContentRef::single(b"bytes")),
        bytes_stamp: None,
        mode: 0o644,
        mode_stamp: None,
        owner: None,
        owner_stamp: None,
        mtime: Time { secs: -1, nanos: 5 },
        mtime_stamp: None,
        xattrs: Xattrs::new(),
        xattrs_stamp: None,
        target: None,
        rdev: None,
        replaces: Vec::new(),
        saw: Vec::new(),
    }
}

/// One record of every kind and shape.
fn samples() -> Vec<(&'static str, Record)> {
    let moved = Place {
        parent_stamp: Some(id(7)),
        name_stamp: Some(id(8)),
        replaces: vec![id(3), id(4)],
        saw: vec![id(5)],
        ..place(PlaceState::Live)
    };
    let full = Content {
        bytes: Some(ContentRef { manifest: Some(Hash([9; 32])), ..ContentRef::single(b"bytes") }),
        bytes_stamp: Some(id(1)),
        mode_stamp: Some(id(2)),
        owner: Some(Owner { uid: 1000, gid: 100 }),
        owner_stamp: Some(id(3)),
        mtime_stamp: Some(id(4)),
        xattrs: Xattrs::from([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())]),
        xattrs_stamp: Some(id(5)),
        replaces: vec![id(6)],
        saw: vec![id(7), id(8)],
        ..content()
    };
    let symlink = Content { bytes: None, target: Some(b"to/there".to_vec()), ..content() };
    let device = Content { bytes: None, rdev: Some(0x0103), ..content() };
    vec![
        ("place_live", Record::Place(place(PlaceState::Live))),
        ("place_moved", Record::Place(moved)),
        ("place_deleted", Record::Place(place(PlaceState::Deleted { seen: vec![id(1), id(2)] }))),
        (
            "place_merged",
            Record::Place(place(PlaceState::Merged { into: PlaceId([6; 16]), seen: vec![(id(1), id(2))] })),
        ),
        ("content", Record::Content(content())),
        ("content_full", Record::Content(full)),
        ("content_symlink", Record::Content(symlink)),
        ("content_device", Record::Content(device)),
        ("birth", Record::Birth(Birth { origin: InodeId([2; 16]), version: id(3) })),
        (
            "pin",
            Record::Pin(Pin {
                place: PlaceId([1; 16]),
                covers: vec![id(1)],
                parent: InodeId::ROOT,
                name: Name::new(b"shown").unwrap(),
                saw: vec![id(2)],
            }),
        ),
    ]
}

#[test]
fn golden() {
    let lines: Vec<_> = samples()
        .into_iter()
        .map(|(name, record)| {
            let bytes = record.encode();
            format!("{name} {} {}", RecordId::of(&bytes), data_encoding::HEXLOWER.encode(&bytes))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn decoding_gives_what_was_encoded() {
    for (name, record) in samples() {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record), "{name}");
    }
}

#[test]
fn every_truncation_and_flipped_bit_is_an_error_or_another_canonical_record() {
    for (name, record) in samples() {
        let bytes = record.encode();
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            if let Ok(other) = Record::decode(&flipped) {
                assert_ne!(other, record, "{name}, bit {at}");
            }
        }
    }
}

#[test]
fn unknown_fields_are_passed_over_in_canonical_form_only() {
    let Record::Birth(birth) = samples().remove(8).1 else { panic!("the sample is a birth") };
    let mut bytes = Record::Birth(birth.clone()).encode();
    // Map of two becomes a map of three, with the key 40: 1.
    assert_eq!(bytes[2], 0xa2);
    bytes[2] = 0xa3;
    bytes.extend([0x18, 40, 1]);
    assert_eq!(Record::decode(&bytes), Ok(Record::Birth(birth)));
    let longer = [&bytes[..bytes.len() - 1], &[0x18, 1]].concat();
    assert!(matches!(Record::decode(&longer), Err(RecordError::Malformed(_))), "1 in two bytes");
    let indefinite = [&bytes[..bytes.len() - 1], &[0x9f, 0xff]].concat();
    assert!(matches!(Record::decode(&indefinite), Err(RecordError::Malformed(_))));
    let twice = [&[VERSION, 2, 0xa4], &bytes[3..], &[0x18, 40, 1]].concat();
    assert!(matches!(Record::decode(&twice), Err(RecordError::Malformed(_))));
}

#[test]
fn later_formats_are_told_from_rubbish() {
    assert_eq!(Record::decode(&[2, 0, 1, 2, 3]), Err(RecordError::Newer(2)));
    assert_eq!(Record::decode(&[VERSION, 9, 0xa0]), Err(RecordError::Newer(VERSION)));
    assert!(matches!(Record::decode(&[0, 0]), Err(RecordError::Malformed(_))));
    assert!(matches!(Record::decode(&[]), Err(RecordError::Malformed(_))));
    assert_eq!(Record::decode(&vec![1; MAX_LEN + 1]), Err(RecordError::TooLong(MAX_LEN + 1)));
}

#[test]
fn lists_are_in_order_and_values_within_limits() {
    let reject = |record: Record| assert!(Record::decode(&record.encode()).is_err(), "{record:?}");
    reject(Record::Place(Place { replaces: vec![id(2), id(1)], ..place(PlaceState::Live) }));
    reject(Record::Place(Place { saw: vec![id(1), id(1)], ..place(PlaceState::Live) }));
    reject(Record::Place(place(PlaceState::Deleted { seen: vec![id(2), id(1)] })));
    reject(Record::Place(Place { device: "x".repeat(33), ..place(PlaceState::Live) }));
    reject(Record::Content(Content { mode: 0o10000, ..content() }));
    reject(Record::Content(Content { mtime: Time { secs: 0, nanos: 1_000_000_000 }, ..content() }));
    reject(Record::Content(Content { target: Some(vec![b'x'; TARGET_MAX + 1]), ..content() }));
}

#[test]
fn device_names_are_cleaned() {
    assert_eq!(clean_device_name("  Ann's laptop \n"), "Ann's laptop");
    assert_eq!(clean_device_name("a/b(c)\u{7}"), "a-b-c--");
    assert_eq!(clean_device_name(""), "device");
    assert!(clean_device_name(&"ä".repeat(40)).len() <= DEVICE_NAME_MAX);
    let clean = clean_device_name("(x)");
    assert_eq!(clean_device_name(&clean), clean);
}
