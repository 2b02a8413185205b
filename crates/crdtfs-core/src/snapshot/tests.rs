#![allow(clippy::unwrap_used)]
use super::*;
use crate::document::{Filed, GENESIS_OPS};
use crate::envelope::{Draft, seal};
use crate::id::{InodeId, PlaceId, RecordId};
use crate::key::Key;
use crate::name::Name;
use crate::record::{Family, Pin, Record};

const SHARE: ShareId = ShareId([5; 32]);

/// A snapshot that an earlier program wrote: it is read for ever. Its document is compressed by automerge, which may come
/// to do that otherwise; so what it says is compared, and the bytes of the rest.
const GOLDEN: &str = include_str!("golden.hex");

fn record(n: u8) -> Filed {
    let name = Name::new(&[b'a' + n]).unwrap();
    let pin = Pin { place: PlaceId([n; 16]), covers: vec![], parent: InodeId::ROOT, name, saw: vec![] };
    Filed::new(Record::Pin(pin).encode()).unwrap().0
}

/// Two changes of one device, under other membership heads each, and one of another device that follows the first.
fn changes() -> Vec<(Vec<u8>, Change)> {
    let schema = Schema::new(&SHARE);
    let later = Filed { family: Family::Content, subject: [8; 16], id: RecordId::of(&[2, 0, 1]), bytes: vec![2, 0, 1] };
    let of = [(3, 1, 1, vec![record(1), record(2)]), (3, 2, 2, vec![record(3)]), (4, 1, 2, vec![later])];
    let mut first = None;
    let mut changes = Vec::new();
    for (device, seq, membership, records) in of {
        let key = Key::new(&[device; 32]);
        let incarnation = Incarnation([device; 16]);
        let membership = vec![Hash([membership; 32])];
        let draft = Draft {
            epoch: 0,
            incarnation,
            membership: membership.clone(),
            seq,
            start_op: GENESIS_OPS + if first.is_none() { 1 } else { 3 },
            deps: vec![first.unwrap_or(schema.genesis())],
            time_ms: 1_800_000_000_000,
            records,
        };
        let (envelope, hash, body) = seal(&key, &SHARE, &schema, draft).unwrap();
        first.get_or_insert(hash);
        changes.push((envelope, Change { hash, author: Origin { device: key.id(), incarnation }, membership, body }));
    }
    changes
}

fn golden() -> Vec<u8> {
    data_encoding::HEXLOWER.decode(GOLDEN.lines().collect::<String>().as_bytes()).unwrap()
}

fn made() -> Vec<u8> {
    extend(&SHARE, None, changes().into_iter().map(|(envelope, _)| envelope)).unwrap()
}

/// All of a snapshot but automerge's bytes.
fn tables(snapshot: Snapshot) -> Vec<u8> {
    minicbor::to_vec(Content { document: ByteVec::from(vec![]), ..snapshot.content }).unwrap()
}

/// What a snapshot says, in an order that does not depend on it.
fn said(snapshot: &Snapshot) -> Vec<String> {
    let mut said: Vec<_> = snapshot.changes().unwrap().map(|change| format!("{:?}", change.unwrap())).collect();
    said.sort();
    said
}

#[test]
fn golden_and_back() {
    let bytes = golden();
    let golden = Snapshot::decode(&SHARE, &bytes).unwrap();
    let mut expected: Vec<_> = changes().into_iter().map(|(_, change)| format!("{change:?}")).collect();
    expected.sort();
    assert_eq!(said(&golden), expected);
    let now = made();
    let now = Snapshot::decode(&SHARE, &now).unwrap();
    assert_eq!(said(&now), expected);
    assert_eq!(tables(now), tables(golden));
    assert_eq!(bytes[0], VERSION);
}

#[test]
fn an_old_snapshot_is_gone_on_from() {
    let bytes = golden();
    let again = extend(&SHARE, Some(&bytes), changes().into_iter().map(|(envelope, _)| envelope)).unwrap();
    assert_eq!(said(&Snapshot::decode(&SHARE, &again).unwrap()).len(), 3, "what it has is not taken twice");
}

#[test]
fn what_is_damaged_of_another_format_or_share_is_none() {
    let bytes = golden();
    for end in 0..bytes.len() {
        assert!(Snapshot::decode(&SHARE, &bytes[..end]).is_err(), "cut to {end} bytes");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        assert!(Snapshot::decode(&SHARE, &bad).is_err(), "with another byte {at}");
    }
    let later = [&[VERSION + 1], &bytes[1..]].concat();
    assert_eq!(Snapshot::decode(&SHARE, &later).err(), Some(SnapshotError::Version(VERSION + 1)));
    assert_eq!(Snapshot::decode(&ShareId([6; 32]), &bytes).err(), Some(SnapshotError::OtherShare));
}
