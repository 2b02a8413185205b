#![allow(clippy::unwrap_used)]
use super::*;
use crate::document::GENESIS_OPS;
use crate::id::PlaceId;
use crate::name::Name;
use crate::record::Pin;

const SHARE: ShareId = ShareId([5; 32]);

fn record(n: u8) -> Filed {
    let pin = Pin {
        place: PlaceId([n; 16]),
        covers: vec![],
        parent: InodeId::ROOT,
        name: Name::new(&[b'a' + n % 26]).unwrap(),
        saw: vec![],
    };
    Filed::new(Record::Pin(pin).encode()).unwrap().0
}

fn draft(records: Vec<Filed>) -> Draft {
    Draft {
        epoch: 0,
        incarnation: Incarnation([1; 16]),
        membership: vec![Hash([2; 32])],
        seq: 1,
        start_op: GENESIS_OPS + 1,
        deps: vec![Schema::new(&SHARE).genesis()],
        time_ms: 1_800_000_000_000,
        records,
    }
}

fn sealed(draft: Draft) -> Vec<u8> {
    seal(&Key::new(&[3; 32]), &SHARE, &Schema::new(&SHARE), draft).unwrap().0
}

fn decode(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    Envelope::decode(&SHARE, &Schema::new(&SHARE), bytes, Trust::Nothing)
}

#[test]
fn golden_and_back() {
    let foreign =
        Filed { family: Family::Content, subject: [8; 16], id: RecordId::of(&[2, 0, 1]), bytes: vec![2, 0, 1] };
    let bytes = sealed(draft(vec![record(1), record(2), foreign.clone()]));
    insta::assert_snapshot!("envelope", data_encoding::HEXLOWER.encode(&bytes));
    let read = decode(&bytes).unwrap();
    assert_eq!(read.body.records, [record(1), record(2), foreign]);
    assert_eq!((read.records.len(), read.body.seq, read.epoch), (2, 1, 0));
    assert_eq!(read.device, Key::new(&[3; 32]).id());
    assert_eq!(read.body.actor, ActorId::derive(&SHARE, &read.device, &read.incarnation));
}

#[test]
fn many_records_are_compressed_and_inflate_to_the_same() {
    let records: Vec<_> = (0..200).map(record).collect();
    let plain: usize = records.iter().map(|record| record.bytes.len()).sum();
    let bytes = sealed(draft(records.clone()));
    assert!(bytes.len() < plain / 2, "{} of {plain}", bytes.len());
    assert_eq!(decode(&bytes).unwrap().body.records, records);
}

/// Seals what `alter` makes of the signed part, with a right signature.
fn resigned(alter: impl FnOnce(&mut Signed)) -> Vec<u8> {
    let bytes = sealed(draft((0..100).map(record).collect()));
    let text = &bytes[1..bytes.len() - SIGNATURE_LEN];
    let mut signed: Signed = minicbor::decode(text).unwrap();
    alter(&mut signed);
    let mut out = vec![VERSION];
    minicbor::encode(&signed, &mut out).unwrap();
    let signature = Key::new(&[3; 32]).sign(DOMAIN, &out);
    out.extend(signature);
    out
}

#[test]
fn a_bomb_is_refused_before_it_inflates() {
    let zeros = zstd::bulk::compress(&vec![0; 100 << 20], 3).unwrap();
    assert!(zeros.len() < 20_000);
    let honest = resigned(|s| (s.inflated, s.records) = (Some(100 << 20), zeros.clone().into()));
    assert!(matches!(decode(&honest), Err(EnvelopeError::TooLong { .. })));
    let lying = resigned(|s| (s.inflated, s.records) = (Some(1000), zeros.into()));
    assert!(matches!(decode(&lying), Err(EnvelopeError::Malformed(_))));
}

#[test]
fn whoever_signs_cannot_say_what_the_change_does_not() {
    type Alter = Box<dyn FnOnce(&mut Signed)>;
    let cases: [(&str, Alter); 9] = [
        ("share", Box::new(|s| s.share = ShareId([1; 32]))),
        ("epoch", Box::new(|s| s.epoch = 1)),
        ("incarnation", Box::new(|s| s.incarnation = Incarnation([9; 16]))),
        ("number", Box::new(|s| s.seq = 2)),
        ("hash", Box::new(|s| s.hash = ChangeHash([1; 32]))),
        ("membership", Box::new(|s| s.membership.clear())),
        ("time", Box::new(|s| s.time_ms += 1)),
        ("first operation", Box::new(|s| s.start_op += 1)),
        ("dependencies", Box::new(|s| s.deps = vec![ChangeHash([1; 32])])),
    ];
    for (field, alter) in cases {
        let refused = decode(&resigned(alter)).unwrap_err();
        let expected = matches!(refused, EnvelopeError::Hash(_) | EnvelopeError::OtherShare);
        assert!(expected, "{field}: {refused}");
    }
    let device = resigned(|s| s.device = Key::new(&[4; 32]).id());
    assert!(matches!(decode(&device), Err(EnvelopeError::Signature(_))));
    assert!(decode(&resigned(|_| {})).is_ok(), "unaltered it is read");
}

#[test]
fn a_record_of_a_known_format_is_not_filed_by_hand() {
    let mut e = Encoder::new(Vec::new());
    e.array(1).unwrap().array(3).unwrap().u8(0).unwrap().bytes(&[1; 16]).unwrap();
    e.bytes(&record(1).bytes).unwrap();
    let by_hand = resigned(|s| (s.inflated, s.records) = (None, e.into_writer().into()));
    assert!(matches!(decode(&by_hand), Err(EnvelopeError::Record { .. })));
}
