//! Connections and sync between members.
#![allow(clippy::unwrap_used)]

mod world;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use crdtfs_core::sync::PeerState;
use crdtfs_net::{NetConfig, Node, PathKind};
use world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_and_what_comes_reaches_the_other_side() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let share = genesis(9).share();
    (0..300).for_each(|_| a.make(&share, 1, 5000));
    (0..3).for_each(|_| b.make(&share, 2, 50));
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    introduce(&node_a, &node_b);
    a.until("b's changes are at a", |a| a.has(&share, 2, 3)).await;
    b.until("a's changes are at b", |b| b.has(&share, 1, 300)).await;
    a.make(&share, 1, 10);
    b.until("a new change is at b", |b| b.has(&share, 1, 301)).await;
    b.make(&share, 2, 10);
    a.until("a new change is at a", |a| a.has(&share, 2, 4)).await;
    let all = a.shares.lock()[&share].vector.clone();
    a.until("a knows what b has", |a| {
        a.states.lock().get(&(share, device(2))).is_some_and(|state| {
            state.vector.as_ref() == Some(&all) && state.holding.as_ref().is_some_and(|holding| holding.vector == all)
        })
    })
    .await;

    let peers = node_a.peers();
    assert_eq!(peers.len(), 1);
    assert_eq!((peers[0].device, peers[0].path), (device(2), PathKind::Direct));
    assert_eq!(peers[0].addresses, node_b.bound());
    assert_eq!(peers[0].shares, [share]);
    assert!(peers[0].sent > 1_500_000 && peers[0].received > 0 && peers[0].rtt.is_some(), "{:?}", peers[0]);
    assert!(peers[0].since.is_some() && peers[0].last_error.is_none());

    node_a.shutdown().await;
    b.until("b sees a leave", |b| b.disconnects.load(Ordering::SeqCst) == 1).await;
    let peers = node_b.peers();
    assert_eq!(peers[0].path, PathKind::None);
    assert!(!peers[0].addresses.is_empty(), "remembered");
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_from_both_ends_at_once_leaves_one_connection() {
    for round in 0..8 {
        let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
        let share = genesis(9).share();
        let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
        introduce(&node_a, &node_b);
        introduce(&node_b, &node_a);
        for seq in 1..20 {
            a.make(&share, 1, 100);
            b.make(&share, 2, 100);
            a.until("b's change is at a", |a| a.has(&share, 2, seq)).await;
            b.until("a's change is at b", |b| b.has(&share, 1, seq)).await;
        }
        assert_eq!((node_a.connected(), node_b.connected()), (vec![device(2)], vec![device(1)]), "round {round}");
        node_a.shutdown().await;
        node_b.shutdown().await;
        for (end, host) in [("a", &a), ("b", &b)] {
            let (up, down) = (host.connects.load(Ordering::SeqCst), host.disconnects.load(Ordering::SeqCst));
            // A connection that replaces another one is no disconnection.
            assert!(up >= 1 && down <= up, "round {round}, {end}: {up} connections, {down} ends");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_middle_one_passes_on_what_the_others_wrote() {
    let hosts = [host(9, &[1, 2, 3]), host(9, &[1, 2, 3]), host(9, &[1, 2, 3])];
    let share = genesis(9).share();
    let nodes = [start(1, &hosts[0]).await, start(2, &hosts[1]).await, start(3, &hosts[2]).await];
    introduce(&nodes[1], &nodes[0]);
    introduce(&nodes[1], &nodes[2]);
    hosts[0].make(&share, 1, 100);
    hosts[2].until("the third has the first one's change", |host| host.has(&share, 1, 1)).await;
    hosts[2].make(&share, 3, 100);
    hosts[0].until("the first has the third one's change", |host| host.has(&share, 3, 1)).await;
    assert_eq!(nodes[0].connected(), [device(2)]);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_starts_again_is_met_again_at_once() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let share = genesis(9).share();
    let node_a = start(1, &a).await;
    let first_life = Life::start(2, &b).await;
    introduce(&node_a, &first_life.node);
    in_session(&a, &share, device(2)).await;
    let bound = first_life.node.bound()[0];
    first_life.kill();
    let (b, node_b) = restart(2, &b, "127.0.0.1:0".parse().unwrap()).await;
    introduce(&node_b, &node_a);
    b.make(&share, 2, 10);
    a.until("the change of b's second life is at a", |a| a.has(&share, 2, 1)).await;
    assert_eq!(a.disconnects.load(Ordering::SeqCst), 0, "the new connection replaced the dead one");
    node_b.shutdown().await;
    // Elsewhere, and it is a that is told.
    let (b, node_b) = restart(2, &b, "127.0.0.1:0".parse().unwrap()).await;
    assert_ne!(node_b.bound()[0], bound);
    introduce(&node_a, &node_b);
    b.make(&share, 2, 10);
    a.until("the change of b's third life is at a", |a| a.has(&share, 2, 2)).await;
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_said_in_an_earlier_session_is_forgotten_before_the_next_counts() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let share = genesis(9).share();
    let state = |a: &FakeHost| a.states.lock().get(&(share, device(2))).cloned().unwrap_or_default();
    b.make(&share, 2, 100);
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    introduce(&node_a, &node_b);
    a.until("a knows what b has", |a| state(a).holding.is_some_and(|holding| holding.vector.len() == 1)).await;
    node_b.shutdown().await;
    a.until("a sees b leave", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    a.told.lock().clear();

    // It comes back as from an old backup, and is given what it lost; it never had what it once said.
    let b = host(9, &[1, 2]);
    let node_b = start(2, &b).await;
    introduce(&node_a, &node_b);
    a.until("a knows what b has now", |a| a.told.lock().len() > 1).await;
    let told = a.told.lock().clone();
    assert_eq!(told[0], PeerState::default());
    assert!(told[1].vector.as_ref().is_some_and(|vector| vector.is_empty()), "{told:?}");
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_answered_in_each_session() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let share = genesis(9).share();
    let probed = |a: &FakeHost| a.states.lock().get(&(share, device(2))).and_then(|state| state.probed);
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    introduce(&node_a, &node_b);
    in_session(&a, &share, device(2)).await;
    a.until("they know of each other what they can", |a| probed(a) == Some(0)).await;
    b.make(&share, 2, 100_000);
    *a.probe.lock() = Some(3);
    a.changed(&share);
    a.until("it is answered", |a| probed(a) == Some(3)).await;
    assert!(a.has(&share, 2, 1), "what was done before came before");
    end(node_b, &b).await;
    a.until("a sees b leave", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    a.states.lock().clear();
    let node_b = start(2, &b).await;
    introduce(&node_a, &node_b);
    a.until("it is answered anew", |a| probed(a) == Some(3)).await;
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_called_is_connected_or_could_not_be_reached() {
    let (a, b) = (host(9, &[1, 2, 3]), host(9, &[1, 2, 3]));
    let node_a = start(1, &a).await;
    let first_life = Life::start(2, &b).await;
    assert!(!node_a.call(device(3)).await, "nobody knows where it is");
    introduce(&node_a, &first_life.node);
    assert!(node_a.call(device(2)).await);
    assert!(node_a.call(device(2)).await, "it is there");
    let bound = first_life.node.bound()[0];
    first_life.end(&b).await;
    a.until("a sees b leave", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    // It comes back where it was while it is being called, and nobody says so.
    let calling = tokio::spawn({
        let node_a = node_a.clone();
        async move { node_a.call(device(2)).await }
    });
    let second_life = Life::start_at(2, &b, bound).await;
    assert_eq!(second_life.node.bound(), [bound]);
    calling.await.unwrap();
    assert!(node_a.call(device(2)).await, "whatever became of that call: now it is there");
    second_life.end(&b).await;
    a.until("a sees b leave again", |a| a.disconnects.load(Ordering::SeqCst) == 2).await;
    assert!(!node_a.call(device(2)).await, "nobody is there any more");
    node_a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_where_it_was_is_found_without_a_hint() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let share = genesis(9).share();
    let node_a = start(1, &a).await;
    let first_life = Life::start(2, &b).await;
    introduce(&node_a, &first_life.node);
    in_session(&a, &share, device(2)).await;
    let bound = first_life.node.bound()[0];
    first_life.end(&b).await;
    a.until("a sees b leave", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    a.make(&share, 1, 10);
    let (b, node_b) = restart(2, &b, bound).await;
    assert_eq!(node_b.bound(), [bound]);
    b.until("a's change is at b", |b| b.has(&share, 1, 1)).await;
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_died_without_a_word_is_noticed() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let node_a = start(1, &a).await;
    let life = Life::start(2, &b).await;
    introduce(&node_a, &life.node);
    in_session(&a, &genesis(9).share(), device(2)).await;
    life.kill();
    // No packet says so: keep-alives are not answered any more.
    a.until("a notices", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    let why = node_a.peers()[0].last_error.clone().unwrap();
    assert!(why.contains("the connection ended"), "{why}");
    node_a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_other_has_not_heard_of_introduces_itself() {
    // The second device knows that the third was admitted; the third's inviter is gone, and the first was away.
    let (a, c) = (host(9, &[1, 2]), host(9, &[1, 2, 3]));
    let share = genesis(9).share();
    let (node_a, node_c) = (start(1, &a).await, start(3, &c).await);
    introduce(&node_c, &node_a);
    c.make(&share, 3, 10);
    a.until("the newcomer's change is there", |a| a.has(&share, 3, 1)).await;
    node_a.shutdown().await;
    node_c.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_and_members_come_and_go_on_a_living_connection() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let first = genesis(9).share();
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    introduce(&node_a, &node_b);
    in_session(&a, &first, device(2)).await;
    // First one side has the second share, then both.
    let second = add_share(&a, 8, &[1, 2]);
    node_a.share_added(second);
    a.make(&second, 1, 10);
    add_share(&b, 8, &[1, 2]);
    node_b.share_added(second);
    b.until("the second share's change is at b", |b| b.has(&second, 1, 1)).await;
    assert_eq!(a.connects.load(Ordering::SeqCst), 1, "on the same connection");
    // One side drops the second share: the first one goes on.
    b.shares.lock().remove(&second);
    node_b.share_removed(second);
    a.make(&second, 1, 10);
    a.make(&first, 1, 10);
    b.until("the first share's change is at b", |b| b.has(&first, 1, 1)).await;
    assert!(!b.shares.lock().contains_key(&second));
    // A member that is none any more is dropped.
    a.shares.lock().remove(&second);
    node_a.share_removed(second);
    a.revoke(&first, device(2));
    a.until("b is dropped", |a| a.disconnects.load(Ordering::SeqCst) == 1).await;
    assert!(node_a.connected().is_empty());
    node_a.shutdown().await;
    node_b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_no_obstacle() {
    let (a, b) = (host(9, &[1]), host(9, &[2]));
    let node_a = start(1, &a).await;
    let node_b = start_at(2, &b, node_a.bound()[0]).await;
    assert_ne!(node_a.bound()[0].port(), node_b.bound()[0].port());
    node_a.shutdown().await;
    node_b.shutdown().await;
}

/// A device that was started again listens where it did, with IPv4 and, where there is IPv6, with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_kept_on_every_interface() {
    let a = host(9, &[1]);
    let config = |bind: SocketAddr| NetConfig { bind: Some(bind), discovery: false, ..NetConfig::local(secret(1)) };
    let v4 = |node: &Node| node.bound().into_iter().find(SocketAddr::is_ipv4).unwrap();
    // Below the ports that the system gives to whoever asks for any: nobody takes it between two starts.
    let first = 10_000 + std::process::id() as u16 % 20_000;
    let is_free = |port: &u16| ["0.0.0.0", "::"].iter().all(|ip| std::net::UdpSocket::bind((*ip, *port)).is_ok());
    let has_v6 = std::net::UdpSocket::bind("[::1]:0").is_ok();
    let port = (first..32_000).find(|port| !has_v6 || is_free(port)).unwrap();
    let bound = SocketAddr::from(([0, 0, 0, 0], port));
    for _ in 0..3 {
        let again = start_with(1, &a, config(bound)).await;
        assert_eq!(v4(&again), bound);
        assert_eq!(again.bound().len(), if has_v6 { 2 } else { 1 }, "{:?}", again.bound());
        assert!(again.bound().iter().all(|socket| socket.port() == bound.port()), "{:?}", again.bound());
        end(again, &a).await;
        // The system may close the sockets a moment later.
        while has_v6 && !is_free(&port) {
            tokio::task::yield_now().await;
        }
    }
}

/// What is closed has not been cut short: with a peer that is there, and with one that is gone and being dialled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_closes_cleanly_whether_its_peer_is_there_or_not() {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let config = |number| NetConfig { discovery: false, ..NetConfig::local(secret(number)) };
    let node_a = start_with(1, &a, config(1)).await;
    let node_b = start_with(2, &b, config(2)).await;
    introduce(&node_a, &node_b);
    in_session(&a, &genesis(9).share(), device(2)).await;
    in_session(&b, &genesis(9).share(), device(1)).await;
    // A device of which there is only an address: nobody answers there.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.admit_member(&genesis(9).share(), device(3));
    node_a.remember(device(3), &[silent.local_addr().unwrap()]);
    let dialled = tokio::task::spawn_blocking(move || silent.recv_from(&mut [0; 2000]).map(|_| silent));
    let _silent = dialled.await.unwrap().unwrap();
    node_a.shutdown().await;
    assert!(node_a.is_closed());
    b.until("gone", |host| host.disconnects.load(Ordering::SeqCst) == 1).await;
    node_b.shutdown().await;
    assert!(node_b.is_closed());
}
