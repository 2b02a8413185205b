#![allow(clippy::unwrap_used)]
use std::fmt::Debug;

use minicbor::bytes::ByteSlice;

use super::*;
use crate::content::{ChunkRef, ContentRef};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, ShareId};
use crate::vector::{Tip, Vector};

fn vector() -> Vector {
    [(ActorId([1; 32]), Tip { seq: 7, hash: ChangeHash([2; 32]) })].into_iter().collect()
}

fn opens() -> Vec<Open> {
    let share = ShareTag([3; 32]);
    let join = Join { share, invitation: Hash([4; 32]), claim: [5; 64], name: "laptop".into() };
    vec![Open::Sync { share }, Open::Chunks { share }, Open::Join(join)]
}

fn messages() -> Vec<Message> {
    vec![
        Message::Have(Have { epoch: 0, vector: vector(), membership: Some(vec![Hash([6; 32])]) }),
        Message::Membership { records: vec![vec![1, 2].into(), vec![].into()] },
        Message::Envelopes { envelopes: vec![vec![3].into()] },
        Message::Holding(Holding { vector: vector(), missing_files: 2, missing_bytes: 4096, partial: true }),
        Message::Statements { statements: vec![vec![4].into()] },
        Message::Probe { number: 1 },
        Message::Probed { number: u64::MAX },
    ]
}

fn answers() -> Vec<JoinAnswer> {
    let reasons = [
        Refusal::Spent,
        Refusal::Expired,
        Refusal::Unknown,
        Refusal::Cancelled,
        Refusal::WrongVersion,
        Refusal::Revoked,
        Refusal::Unable,
    ];
    std::iter::once(JoinAnswer::Welcome { genesis: vec![1], membership: vec![vec![2].into()] })
        .chain(reasons.map(|reason| JoinAnswer::Refused { reason }))
        .collect()
}

/// A content of one chunk, a part of a large one, and one with a base.
fn wanted() -> Vec<(ChunkRef, Option<ChunkRef>)> {
    let new = ContentRef { hash: Hash([4; 32]), size: 1 << 30, manifest: Some(Hash([5; 32])) };
    let old = ContentRef { hash: Hash([6; 32]), size: 1 << 29, manifest: Some(Hash([7; 32])) };
    let base = ChunkRef::within(&old, 70_000, Hash([8; 32]));
    vec![
        (ChunkRef::whole(Hash([1; 32])), None),
        (ChunkRef::within(&new, 0, Hash([2; 32])), None),
        (ChunkRef::within(&new, 80_000, Hash([3; 32])), Some(base)),
    ]
}

/// Every encoded form by a name, for the golden file and for the bad-input test.
fn golden() -> Vec<(String, Vec<u8>)> {
    fn all<M: Wire + Debug>(messages: &[M]) -> Vec<(String, Vec<u8>)> {
        messages.iter().enumerate().map(|(i, m)| (format!("{} {i}", M::NAME), encode(m))).collect()
    }
    let mut out = all(&[Hello { version: 1, oldest: 1, features: 5, nonce: [9; 32] }]);
    out.extend(all(&opens()));
    out.extend(all(&[Opened::Here { share: ShareTag([8; 32]) }, Opened::Unknown]));
    out.extend(all(&answers()));
    out.extend(all(&messages()));
    out.extend(all(&[ChunkRequest::want(3, wanted()), ChunkRequest::Cancel { request: 3 }]));
    let chunk = ChunkAnswer::Chunk { request: 3, index: 1, bytes: <&ByteSlice>::from(&b"bytes"[..]) };
    out.push(("chunk answer 0".into(), chunk.encode()));
    out.push(("chunk answer 1".into(), ChunkAnswer::Absent { request: 3, index: 0 }.encode()));
    let delta = ChunkAnswer::Delta { request: 3, index: 2, bytes: <&ByteSlice>::from(&b"frame"[..]) };
    out.push(("chunk answer 2".into(), delta.encode()));
    out
}

#[test]
fn golden_messages() {
    let text: Vec<String> =
        golden().iter().map(|(name, bytes)| format!("{name}: {}", data_encoding::HEXLOWER.encode(bytes))).collect();
    insta::assert_snapshot!("wire", text.join("\n"));
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    fn same<M: Wire + PartialEq + Debug>(messages: Vec<M>) {
        for message in messages {
            assert_eq!(decode::<M>(&encode(&message)).unwrap(), message);
        }
    }
    same(opens());
    same(messages());
    same(answers());
    same(vec![Hello::new([1; 32])]);
}

#[test]
fn malformed_messages_are_refused_and_never_panic() {
    fn any(bytes: &[u8]) -> usize {
        usize::from(decode::<Hello>(bytes).is_ok())
            + usize::from(decode::<Open>(bytes).is_ok())
            + usize::from(decode::<Opened>(bytes).is_ok())
            + usize::from(decode::<JoinAnswer>(bytes).is_ok())
            + usize::from(decode::<Message>(bytes).is_ok())
            + usize::from(decode::<ChunkRequest>(bytes).is_ok())
            + usize::from(ChunkAnswer::decode(bytes).is_ok())
    }
    for (name, bytes) in golden() {
        assert!(any(&bytes) > 0, "{name}");
        for cut in 0..bytes.len() {
            assert_eq!(any(&bytes[..cut]), 0, "{name} cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(any(&longer), 0, "{name} with a byte behind it");
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                any(&bad);
            }
        }
    }
}

#[test]
fn claimed_lengths_allocate_nothing() {
    // An array and a map and a byte string of 2^62 elements, and nothing behind.
    for head in [0x9b_u8, 0xbb, 0x5b] {
        let mut claim = vec![0x82, 0x01, 0x81, head];
        claim.extend((1_u64 << 62).to_be_bytes());
        assert!(decode::<Message>(&claim).is_err());
    }
}

#[test]
fn over_the_limit_is_refused_before_decoding() {
    assert!(matches!(decode::<Message>(&vec![0; MESSAGE_MAX + 1]), Err(WireError::TooLong { .. })));
    assert!(matches!(ChunkAnswer::decode(&vec![0; FRAME_MAX + 1]), Err(WireError::TooLong { .. })));
    let largest = vec![7; CHUNK_MAX];
    let chunk = ChunkAnswer::Chunk { request: u64::MAX, index: u32::MAX, bytes: largest.as_slice().into() };
    let bytes = chunk.encode();
    assert!(bytes.len() <= FRAME_MAX);
    assert_eq!(ChunkAnswer::decode(&bytes).unwrap(), chunk);
    let larger = vec![7; CHUNK_MAX + 1];
    let chunk = ChunkAnswer::Chunk { request: 0, index: 0, bytes: larger.as_slice().into() };
    assert!(ChunkAnswer::decode(&chunk.encode()).is_err());
}

#[test]
fn what_is_asked_for_is_resolved_with_the_requests_contents() {
    let ChunkRequest::Want { chunks, contents, .. } = ChunkRequest::want(3, wanted()) else {
        panic!("another request")
    };
    assert_eq!(contents.len(), 2, "each once");
    let resolved: Vec<_> = chunks.iter().map(|asked| asked.resolve(&contents).unwrap()).collect();
    assert_eq!(resolved, wanted());
    assert!(chunks[0].resolve(&[]).is_ok());
    assert!(chunks[1].resolve(&[]).is_err());
    assert!(chunks[2].resolve(&contents[..1]).is_err(), "its base is of another content");
}

#[test]
fn header_and_bytes_are_the_encoded_chunk() {
    for (request, index, len) in [(0, 0, 0), (23, 24, 1), (300, 70_000, 4096), (u64::MAX, u32::MAX, 70_000)] {
        let bytes = vec![1; len];
        let whole = ChunkAnswer::Chunk { request, index, bytes: bytes.as_slice().into() }.encode();
        let mut parts = ChunkAnswer::header(request, index, len);
        parts.extend(&bytes);
        assert_eq!(parts, whole);
    }
}

#[test]
fn versions_are_agreed_or_refused() {
    let own = Hello { version: 3, oldest: 2, features: 0b110, nonce: [0; 32] };
    assert_eq!(agree(&own, &Hello { version: 9, oldest: 3, features: 0b011, nonce: [1; 32] }), Ok((3, 0b010)));
    assert_eq!(agree(&own, &Hello { version: 2, oldest: 1, features: 0, nonce: [1; 32] }), Ok((2, 0)));
    assert!(agree(&own, &Hello { version: 1, oldest: 1, features: 0, nonce: [1; 32] }).is_err());
    assert!(agree(&own, &Hello { version: 9, oldest: 4, features: 0, nonce: [1; 32] }).is_err());
}

#[test]
fn tags_are_of_one_share_connection_and_prover() {
    let handshake = Handshake {
        dialer: DeviceId([1; 32]),
        listener: DeviceId([2; 32]),
        dialer_nonce: [3; 32],
        listener_nonce: [4; 32],
        exporter: [5; 32],
    };
    let share = ShareId([6; 32]);
    let tag = handshake.tag(&share, &handshake.dialer);
    assert_eq!(
        data_encoding::HEXLOWER.encode(&tag.0),
        "24089d2a89b00b4d21ad91e35dad006b71041c6102a2f9ac557cb5effc5a2619"
    );
    assert_ne!(tag, handshake.tag(&share, &handshake.listener));
    assert_ne!(tag, handshake.tag(&ShareId([7; 32]), &handshake.dialer));
    for other in [
        Handshake { dialer_nonce: [9; 32], ..handshake },
        Handshake { listener_nonce: [9; 32], ..handshake },
        Handshake { exporter: [9; 32], ..handshake },
        Handshake { listener: DeviceId([9; 32]), ..handshake },
    ] {
        assert_ne!(tag, other.tag(&share, &handshake.dialer));
    }
}
