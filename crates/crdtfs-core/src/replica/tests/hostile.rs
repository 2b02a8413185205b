//! Bad input changes nothing and never panics.

use super::members::forge;
use super::*;
use crate::envelope::EnvelopeError;

fn unchanged(device: &mut Device, envelope: Vec<u8>) -> Refused {
    let before = (device.tree(), device.replica.vector().clone(), device.replica.heads(), device.replica.waiting());
    let received = device.replica.receive(vec![envelope], &device.by_seq);
    let after = (device.tree(), device.replica.vector().clone(), device.replica.heads(), device.replica.waiting());
    assert_eq!(before, after);
    assert!(received.accepted.is_empty() && received.delta.is_empty());
    received.blame.expect("refused")
}

#[test]
fn an_envelope_cut_or_flipped_anywhere_is_refused() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    b.create("b");
    b.commit();
    let good = b.log[0].envelope.clone();
    for cut in 0..good.len() {
        unchanged(&mut a, good[..cut].to_vec());
    }
    for at in 0..good.len() {
        for flip in [0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            unchanged(&mut a, bad);
        }
    }
    let mut longer = good.clone();
    longer.push(0);
    unchanged(&mut a, longer);
    assert!(matches!(unchanged(&mut a, vec![1; 2_000_000]), Refused::Envelope(EnvelopeError::TooLong { .. })));
    let received = a.replica.receive(vec![good], &a.by_seq);
    assert_eq!(received.accepted.len(), 1, "and the good one is still taken");
}

#[test]
fn well_signed_changes_that_no_program_makes_are_refused() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    b.create("b");
    meet(&mut a, &mut b);
    type Alter = Box<dyn FnOnce(&mut Draft)>;
    let cases: Vec<(&str, Alter)> = vec![
        ("an operation number far ahead", Box::new(|d| d.start_op = u64::from(u32::MAX) - 2)),
        ("one too high", Box::new(|d| d.start_op += 1)),
        ("one too low", Box::new(|d| d.start_op -= 1)),
        ("no dependency", Box::new(|d| d.deps = vec![])),
        ("not its own last change", Box::new(|d| d.deps = vec![ChangeHash([0; 32])])),
        ("another epoch", Box::new(|d| d.epoch = 1)),
        ("number 0", Box::new(|d| d.seq = 0)),
        ("a huge number", Box::new(|d| d.seq = 1 << 40)),
        ("a gap in its numbers", Box::new(|d| d.seq += 1)),
        ("no record", Box::new(|d| d.records.clear())),
        ("a record twice", Box::new(|d| d.records.push(d.records[0].clone()))),
        ("too many records", Box::new(|d| d.records = vec![d.records[0].clone(); RECORDS_MAX + 1])),
        ("membership out of order", Box::new(|d| d.membership = vec![Hash([2; 32]), Hash([1; 32])])),
        ("no membership", Box::new(|d| d.membership = vec![])),
    ];
    for (case, alter) in cases {
        let waits = case == "not its own last change";
        let forged = forge(&b, alter);
        if waits {
            let received = a.replica.receive(vec![forged], &a.by_seq);
            assert_eq!((received.blame, received.accepted.len()), (None, 0), "{case}");
        } else {
            let refused = unchanged(&mut a, forged);
            assert!(!matches!(refused, Refused::Full), "{case}");
        }
    }
    let received = a.replica.receive(vec![forge(&b, |_| {})], &a.by_seq);
    assert_eq!(received.blame, None, "unaltered it is taken");
}

#[test]
fn records_that_reach_for_the_root_or_carry_dirt_are_refused() {
    use crate::record::{Birth, Content, Place, PlaceState, Record};
    let mut a = Device::creator(1);
    let b = a.invite(2, Role::Write);
    let place = Place {
        place: PlaceId([1; 16]),
        inode: InodeId([2; 16]),
        kind: Kind::File,
        parent: InodeId::ROOT,
        parent_stamp: None,
        name: name("x"),
        name_stamp: None,
        device: "b".into(),
        state: PlaceState::Live,
        replaces: vec![],
        saw: vec![],
    };
    let content = Content {
        inode: InodeId([2; 16]),
        via: PlaceId([1; 16]),
        device: "b".into(),
        bytes: None,
        bytes_stamp: None,
        mode: 0o644,
        mode_stamp: None,
        owner: None,
        owner_stamp: None,
        mtime: Time::default(),
        mtime_stamp: None,
        xattrs: Xattrs::new(),
        xattrs_stamp: None,
        target: None,
        rdev: None,
        replaces: vec![],
        saw: vec![],
    };
    let bad = [
        Record::Place(Place { inode: InodeId::ROOT, ..place.clone() }),
        Record::Place(Place { device: "a/b".into(), ..place }),
        Record::Content(Content { inode: InodeId::ROOT, ..content.clone() }),
        Record::Content(Content { device: String::new(), ..content }),
        Record::Birth(Birth { origin: InodeId::ROOT, version: RecordId([1; 16]) }),
    ];
    for record in bad {
        let filed = Filed::new(record.encode()).unwrap().0;
        let refused = unchanged(&mut a, forge(&b, |draft| draft.records = vec![filed]));
        assert!(matches!(refused, Refused::Envelope(EnvelopeError::Record { .. })), "{refused}");
    }
}

#[test]
fn records_that_cannot_be_read_are_refused() {
    let mut a = Device::creator(1);
    let b = a.invite(2, Role::Write);
    for bytes in [vec![], vec![0, 0], vec![crate::record::VERSION, 0, 0xff], vec![crate::record::VERSION, 3, 0xa0]] {
        let family = crate::record::Family::Place;
        let filed = Filed { family, subject: [4; 16], id: RecordId::of(&bytes), bytes };
        let refused = unchanged(&mut a, forge(&b, |draft| draft.records = vec![filed]));
        assert!(matches!(refused, Refused::Envelope(_)), "{refused}");
    }
}

#[test]
fn a_record_of_a_later_format_is_kept_and_passed_on() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let bytes = vec![9, 0, 1, 2, 3];
    let filed = Filed { family: crate::record::Family::Place, subject: [4; 16], id: RecordId::of(&bytes), bytes };
    let forged = forge(&b, |draft| draft.records.push(filed));
    let received = a.replica.receive(vec![forged.clone()], &a.by_seq);
    a.keep(received).unwrap();
    assert_eq!(a.replica.newer(), 1);
    meet(&mut a, &mut b);
    assert_eq!(b.replica.newer(), 1);
    let snapshot = a.snapshot(None);
    a.restart(Some(&snapshot));
    assert_eq!(a.replica.newer(), 1);
}

#[test]
fn what_waits_is_bounded() {
    let mut a = Device::creator(1);
    let b = a.invite(2, Role::Write);
    let mut full = None;
    for n in 0..10_000_u32 {
        let mut dep = [0; 32];
        dep[..4].copy_from_slice(&n.to_be_bytes());
        let forged = forge(&b, |draft| (draft.deps, draft.seq) = (vec![ChangeHash(dep)], 2));
        let received = a.replica.receive(vec![forged], &a.by_seq);
        if let Some(refused) = received.blame {
            full = Some(refused);
            break;
        }
    }
    assert_eq!(full, Some(Refused::Full));
    assert!(matches!(Fault::from(Refused::Full), Fault::Local(_)));
    assert_eq!(a.replica.waiting(), receive::WAITING_MAX);
}

#[test]
fn a_damaged_snapshot_is_refused_and_the_log_still_loads() {
    let mut a = Device::creator(1);
    a.create("a");
    a.commit();
    let good = a.snapshot(None);
    let share = a.replica.share();
    for cut in (0..good.len()).step_by(7) {
        assert!(snapshot::Snapshot::decode(&share, &good[..cut]).is_err());
    }
    for at in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert!(snapshot::Snapshot::decode(&share, &bad).is_err());
    }
    assert!(snapshot::Snapshot::decode(&ShareId([0; 32]), &good).is_err());
    a.restart(None);
    assert_eq!(a.names(), ["a"]);
}
