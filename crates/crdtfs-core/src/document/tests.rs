#![allow(clippy::unwrap_used)]
use super::*;

const SHARE: ShareId = ShareId([5; 32]);

fn filed(n: u32) -> Filed {
    let bytes = [&n.to_be_bytes()[..], b"a record"].concat();
    let hash = Hash::of(&bytes).0;
    let family = if n.is_multiple_of(2) { Family::Place } else { Family::Content };
    Filed { family, subject: hash[16..].try_into().unwrap(), id: RecordId::of(&bytes), bytes }
}

fn body(actor: u8, seq: u64, start_op: u64, deps: Vec<ChangeHash>, records: std::ops::Range<u32>) -> Body {
    Body {
        actor: ActorId([actor; 32]),
        seq,
        start_op,
        deps,
        time_ms: -5,
        context: Hash([actor; 32]),
        records: records.map(filed).collect(),
    }
}

/// Automerge's way of making the same change: the hash must be what a transaction's is.
#[test]
fn a_made_change_is_the_one_that_automerge_makes() {
    use automerge::transaction::{CommitOptions, Transactable};
    let mut automerge = Document::new(&SHARE).automerge.with_actor(AmActor::from([1; 32]));
    let records: Vec<Filed> = (0..20).map(filed).collect();
    let mut tx = automerge.transaction();
    for record in &records {
        let family = if record.family == Family::Place { "place" } else { "content" };
        let map = format!("{family}/{:02x}", record.subject[0]);
        let (_, map) = automerge::ReadDoc::get(&tx, automerge::ROOT, map).unwrap().unwrap();
        tx.put(&map, record.key(), automerge::ScalarValue::Bytes(record.bytes.clone())).unwrap();
    }
    let hash = tx.commit_with(CommitOptions::default().with_time(7)).0.unwrap();
    let change = automerge.get_change_by_hash(&hash).unwrap();
    let schema = Schema::new(&SHARE);
    let mut own = body(1, 1, GENESIS_OPS + 1, vec![schema.genesis()], 0..20);
    own.time_ms = 7;
    let made = schema.make(&own).unwrap();
    // Ours says one thing more: the context. Without it the two are one.
    let mut expanded = made.change.decode();
    expanded.extra_bytes.clear();
    assert_eq!(Change::from(expanded).raw_bytes(), change.raw_bytes());
}

#[test]
fn golden_hashes() {
    let schema = Schema::new(&SHARE);
    let first = schema.make(&body(1, 1, GENESIS_OPS + 1, vec![schema.genesis()], 0..3)).unwrap().hash();
    let second = schema.make(&body(1, 2, GENESIS_OPS + 4, vec![first], 3..4)).unwrap().hash();
    insta::assert_snapshot!("hashes", format!("{}\n{first}\n{second}", schema.genesis()));
}

#[test]
fn what_is_saved_loads_and_says_the_same() {
    let schema = Schema::new(&SHARE);
    let mut document = Document::new(&SHARE);
    assert_eq!(document.heads(), [schema.genesis()]);
    let first = body(1, 1, GENESIS_OPS + 1, vec![schema.genesis()], 0..300);
    let made = schema.make(&first).unwrap();
    let second = body(2, 1, GENESIS_OPS + 301, vec![made.hash()], 300..301);
    let third = body(3, 1, GENESIS_OPS + 301, vec![made.hash()], 299..320);
    let bodies = [first, second, third];
    document.apply(bodies.iter().map(|body| schema.make(body).unwrap()).collect()).unwrap();
    assert_eq!((document.heads().len(), document.len()), (2, 320));
    let loaded = Document::load(&SHARE, &document.save()).unwrap();
    assert_eq!((loaded.heads(), loaded.len()), (document.heads(), 320));
    for (hash, body) in loaded.bodies() {
        assert!(bodies.contains(&body));
        assert_eq!(schema.make(&body).unwrap().hash(), hash);
    }
    assert_eq!(loaded.bodies().count(), 3);
    assert!(matches!(Document::load(&ShareId([6; 32]), &document.save()), Err(DocumentError::OtherShare)));
    assert!(matches!(Document::load(&SHARE, b"nonsense"), Err(DocumentError::Load(_))));
}

#[test]
fn the_numbers_of_operations_are_limited() {
    let schema = Schema::new(&SHARE);
    for start_op in [0, u64::from(u32::MAX) - 1, u64::MAX] {
        assert_eq!(schema.make(&body(1, 1, start_op, vec![schema.genesis()], 0..3)).unwrap_err(), DocumentError::Full);
    }
}

#[test]
fn a_difference_anywhere_in_a_body_is_another_change() {
    let schema = Schema::new(&SHARE);
    let base = body(1, 2, 600, vec![ChangeHash([1; 32])], 0..3);
    let mut variants = vec![base.clone()];
    variants.extend([
        Body { actor: ActorId([2; 32]), ..base.clone() },
        Body { seq: 3, ..base.clone() },
        Body { start_op: 601, ..base.clone() },
        Body { deps: vec![ChangeHash([2; 32])], ..base.clone() },
        Body { time_ms: 0, ..base.clone() },
        Body { context: Hash([0; 32]), ..base.clone() },
        Body { records: vec![filed(0), filed(1)], ..base.clone() },
        Body { records: vec![filed(1), filed(0), filed(2)], ..base.clone() },
    ]);
    let hashes: std::collections::BTreeSet<_> = variants.iter().map(|body| schema.make(body).unwrap().hash()).collect();
    assert_eq!(hashes.len(), variants.len());
}
