//! Who is no member, and who is one and breaks the protocol.
#![allow(clippy::unwrap_used)]

mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crdtfs_core::id::{DeviceId, Hash};
use crdtfs_core::wire::{self, Join, JoinAnswer, Open, Opened, Refusal};
use crdtfs_net::{JoinError, JoinRequest, Node};
use iroh::endpoint::ConnectionError;
use world::*;

const JOIN: &[u8] = b"crdtfs/join/1";

fn request(inviter: &Node, invitation: u8) -> JoinRequest {
    JoinRequest {
        inviter: inviter.device_id(),
        addresses: inviter.bound(),
        relays: vec![],
        share: genesis(9).share(),
        invitation: Hash([invitation; 32]),
        claim: [0; 64],
        name: "laptop".into(),
        patience: LONG,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_leads_into_the_share() {
    let (a, b) = (host(9, &[1]), std::sync::Arc::new(FakeHost::default()));
    let share = genesis(9).share();
    a.invitations.lock().insert(Hash([1; 32]), Ok(()));
    a.make(&share, 1, 10);
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    let welcome = node_b.join(request(&node_a, 1)).await.unwrap();
    assert_eq!(welcome.genesis, genesis(9).encode());
    assert!(welcome.membership.contains(&device(2).0.to_vec()));
    // The answer may get lost: the same ticket welcomes the same device again.
    node_b.join(request(&node_a, 1)).await.unwrap();
    add_share(&b, 9, &[1, 2]);
    node_b.share_added(share);
    b.until("the share's change is at the new member", |b| b.has(&share, 1, 1)).await;
    b.make(&share, 2, 10);
    a.until("the new member's change is at the inviter", |a| a.has(&share, 2, 1)).await;
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_is_told() {
    let (a, b) = (host(9, &[1]), std::sync::Arc::new(FakeHost::default()));
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    let reasons = [Refusal::Spent, Refusal::Expired, Refusal::Cancelled, Refusal::Revoked, Refusal::Unable];
    for (number, reason) in reasons.into_iter().enumerate() {
        a.invitations.lock().insert(Hash([number as u8; 32]), Err(reason));
        let error = node_b.join(request(&node_a, number as u8)).await.unwrap_err();
        assert!(matches!(error, JoinError::Refused(told) if told == reason), "{error:?}");
        assert_eq!(error.to_string(), reason.to_string());
    }
    let error = node_b.join(request(&node_a, 99)).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(Refusal::Unknown)), "{error:?}");
    // A share that is not there is as unknown as an invitation that is not there.
    let elsewhere = JoinRequest { share: genesis(77).share(), ..request(&node_a, 0) };
    let error = node_b.join(elsewhere).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(Refusal::Unknown)), "{error:?}");
    // The right device answers for another share.
    a.shares.lock().get_mut(&genesis(9).share()).unwrap().genesis = genesis(8).encode();
    a.invitations.lock().insert(Hash([50; 32]), Ok(()));
    let error = node_b.join(request(&node_a, 50)).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongShare), "{error:?}");
    // Nobody there.
    node_a.shutdown().await;
    let gone = JoinRequest { patience: Duration::from_millis(300), ..request(&node_a, 1) };
    let error = node_b.join(gone).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error:?}");
    let nowhere =
        JoinRequest { patience: Duration::from_millis(10), inviter: DeviceId([3; 32]), ..request(&node_a, 1) };
    let error = node_b.join(nowhere).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error:?}");
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_nothing_but_a_close() {
    let a = host(9, &[1, 2]);
    let node = start(1, &a).await;
    let stranger = Raw::new(7).await;
    let conn = stranger.connect(&node, wire::ALPN).await;
    let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
    assert_eq!(close.error_code, 1_u32.into());
    assert!(node.connected().is_empty());
    // Over the protocol for tickets it can say hello and ask to join, but for no chunks.
    let conn = stranger.connect(&node, JOIN).await;
    let handshake = stranger.hello(&conn).await;
    let tag = handshake.tag(&genesis(9).share(), &device(7));
    let (_, _, answer) = stranger.open(&conn, &Open::Chunks { share: tag }).await;
    assert_eq!(answer, None);
    let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
    assert_eq!(close.error_code, 3_u32.into());
    node.shutdown().await;
    assert_eq!(a.connects.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_stranger_changes_nothing() {
    let a = host(9, &[1, 2]);
    let share = genesis(9).share();
    let node = start(1, &a).await;
    let stranger = Raw::new(7).await;
    let join = |tag| Open::Join(Join { share: tag, invitation: Hash([0; 32]), claim: [0; 64], name: "x".into() });
    for garbage in [&b"garbage"[..], &[0xff; 5000], &[0; 4]] {
        // Instead of a hello.
        let conn = stranger.connect(&node, JOIN).await;
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        send.write_all(garbage).await.unwrap();
        let _ = send.finish();
        conn.closed().await;
        // Instead of a join.
        let conn = stranger.connect(&node, JOIN).await;
        stranger.hello(&conn).await;
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        send.write_all(garbage).await.unwrap();
        let _ = send.finish();
        conn.closed().await;
    }
    // A join with a tag of another connection.
    let conn = stranger.connect(&node, JOIN).await;
    let handshake = stranger.hello(&conn).await;
    let other = stranger.connect(&node, JOIN).await;
    stranger.hello(&other).await;
    let (mut send, mut recv) = other.open_bi().await.unwrap();
    write(&mut send, &wire::encode(&join(handshake.tag(&share, &device(7))))).await;
    let answer: JoinAnswer = wire::decode(&read(&mut recv).await.unwrap()).unwrap();
    assert_eq!(answer, JoinAnswer::Refused { reason: Refusal::Unknown });
    assert_eq!(a.shares.lock()[&share].members.len(), 2);
    // An introduction by somebody who does not know the share, and one by somebody who knows it but has no records.
    let conn = stranger.connect(&node, JOIN).await;
    let handshake = stranger.hello(&conn).await;
    let nowhere = handshake.tag(&genesis(77).share(), &device(7));
    let (_, _, answer) = stranger.open(&conn, &Open::Sync { share: nowhere }).await;
    assert_eq!(answer, Some(Opened::Unknown));
    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    let open = Open::Sync { share: handshake.tag(&share, &device(7)) };
    write(&mut send, &wire::encode(&open)).await;
    write(&mut send, &wire::encode(&wire::Message::Membership { records: vec![b"bad".to_vec().into()] })).await;
    assert_eq!(wire::decode::<Opened>(&read(&mut recv).await.unwrap()).unwrap(), Opened::Unknown);
    assert_eq!(a.shares.lock()[&share].members.len(), 2);
    // The node still works.
    let b = host(9, &[1, 2]);
    let node_b = start(2, &b).await;
    introduce(&node_b, &node);
    a.make(&share, 1, 10);
    b.until("a's change is at b", |b| b.has(&share, 1, 1)).await;
    node.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_breaks_the_protocol_is_dropped_and_left_alone() {
    let garbage = b"garbage".to_vec();
    let too_long = {
        let mut frame = (wire::MESSAGE_MAX as u32 + 1).to_le_bytes().to_vec();
        frame.extend([0; 100]);
        frame
    };
    let framed = |message: &[u8]| {
        let mut frame = (message.len() as u32).to_le_bytes().to_vec();
        frame.extend(message);
        frame
    };
    let early = wire::Message::Envelopes { envelopes: vec![vec![1].into()] };
    let streams = [framed(&garbage), too_long.clone(), framed(&wire::encode(&early))];
    for (number, bad) in streams.into_iter().enumerate() {
        let a = host(9, &[1, 2]);
        let share = genesis(9).share();
        let node = start(1, &a).await;
        let raw = Raw::new(2).await;
        let conn = raw.connect(&node, wire::ALPN).await;
        let handshake = raw.hello(&conn).await;
        let open = Open::Sync { share: handshake.tag(&share, &device(2)) };
        // The node opens a session of its own at the same time: either may win. Write to whichever does.
        let (mut send, _recv, answer) = raw.open(&conn, &open).await;
        match answer {
            Some(Opened::Here { .. }) => drop(send.write_all(&bad).await),
            _ => {
                let (mut send, _recv) = raw.accept_sync(&conn, &handshake, &share).await;
                drop(send.write_all(&bad).await);
            }
        }
        let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
        assert_eq!(close.error_code, 3_u32.into(), "case {number}");
        a.until("dropped", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
        let error = node.peers()[0].last_error.clone().unwrap();
        assert!(error.contains("protocol"), "{error}");
        assert!(a.shares.lock()[&share].log.is_empty());
        // For a while it is no more welcome than a stranger.
        let conn = raw.connect(&node, wire::ALPN).await;
        let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
        assert_eq!(close.error_code, 1_u32.into(), "case {number}");
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_as_a_members_hello_or_opening_is_refused() {
    let a = host(9, &[1, 2]);
    let node = start(1, &a).await;
    let raw = Raw::new(2).await;
    let conn = raw.connect(&node, wire::ALPN).await;
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    write(&mut send, b"garbage").await;
    let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
    assert_eq!(close.error_code, 3_u32.into());
    // A hello of a time to come.
    let conn = raw.connect(&node, wire::ALPN).await;
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    let newer = wire::Hello { version: 9, oldest: 9, ..wire::Hello::new([0; 32]) };
    write(&mut send, &wire::encode(&newer)).await;
    let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
    assert_eq!(close.error_code, 4_u32.into());
    assert_eq!(a.connects.load(Ordering::SeqCst), 0);
    // An opening that is none.
    let conn = raw.connect(&node, wire::ALPN).await;
    raw.hello(&conn).await;
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    write(&mut send, b"garbage").await;
    let ConnectionError::ApplicationClosed(close) = conn.closed().await else { panic!("another end") };
    assert_eq!(close.error_code, 3_u32.into());
    node.shutdown().await;
}
