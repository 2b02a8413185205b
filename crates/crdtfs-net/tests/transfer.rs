//! Chunks from one peer and from several, honest and not.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_core::wire::{self, ChunkAnswer, ChunkRequest, Open, Opened};
use crdtfs_net::{FetchError, Node, Sink, Urgency, Want};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use world::*;

const KIB: usize = 1024;

/// A reader (device 1) connected to honest sources.
async fn reader_and(sources: &[u8]) -> (Node, Arc<FakeHost>, Vec<(Node, Arc<FakeHost>)>) {
    let all: Vec<u8> = std::iter::once(1).chain(sources.iter().copied()).collect();
    let own = host(9, &all);
    let node = start(1, &own).await;
    let mut others = Vec::new();
    for number in sources {
        let other = host(9, &all);
        let other_node = start(*number, &other).await;
        introduce(&node, &other_node);
        in_session(&own, &share(), device(*number)).await;
        others.push((other_node, other));
    }
    (node, own, others)
}

fn share() -> ShareId {
    genesis(9).share()
}

async fn end(node: Node, others: Vec<(Node, Arc<FakeHost>)>) {
    node.shutdown().await;
    for (node, _) in others {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_all_sizes_arrive_whole_and_once() {
    let (node, _, others) = reader_and(&[2]).await;
    let mut content = chunks(3000, 4 * KIB, 1);
    content.extend(chunks(20, 1024 * KIB, 2));
    content.extend(chunks(40, 200 * KIB + 7, 3));
    content.push(Bytes::from_static(b"x"));
    others[0].1.put(&share(), &content);
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&content);
    // Of unknown length, and nothing at all.
    let got = Got::default();
    let unknown = content[..50].iter().map(|chunk| want(Hash::of(chunk), None)).collect();
    node.fetch(share(), unknown, Urgency::Waiting, LONG, got.sink()).await.unwrap();
    got.assert_is(&content[..50]);
    node.fetch(share(), Vec::new(), Urgency::Waiting, LONG, got.sink()).await.unwrap();
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_lacks_the_other_gives() {
    let (node, _, others) = reader_and(&[2, 3]).await;
    let content = chunks(600, 20 * KIB, 1);
    others[0].1.put(&share(), &content[..400]);
    others[1].1.put(&share(), &content[200..]);
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Soon, LONG, got.sink()).await.unwrap();
    got.assert_is(&content);
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_sources_work_at_once() {
    let (node, _, others) = reader_and(&[2, 3]).await;
    let content = chunks(300, 128 * KIB, 1);
    others.iter().for_each(|(_, host)| host.put(&share(), &content));
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&content);
    for (_, host) in &others {
        let reads = host.reads.load(Ordering::Relaxed);
        assert!(reads > 30, "one of them gave only {reads} of 300 chunks");
    }
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_fetches_want_at_once_is_sent_once() {
    let (own, other) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let (node, source) = (start(1, &own).await, start(2, &other).await);
    let content = chunks(200, 128 * KIB, 1);
    other.put(&share(), &content);
    let (prefetched, read) = (Got::default(), Got::default());
    let prefetch = node.fetch(share(), wants(&content), Urgency::Background, LONG, prefetched.sink());
    let reader = node.fetch(share(), wants(&content), Urgency::Waiting, LONG, read.sink());
    // Both want all of it before any of it can come.
    introduce(&node, &source);
    let (prefetch, reader) = tokio::join!(prefetch, reader);
    prefetch.unwrap();
    reader.unwrap();
    prefetched.assert_is(&content);
    read.assert_is(&content);
    assert_eq!(other.reads.load(Ordering::Relaxed), content.len());
    node.shutdown().await;
    source.shutdown().await;
}

/// A store in memory for a list of chunks.
#[derive(Clone)]
struct Keeping {
    hashes: Arc<[Hash]>,
    kept: Arc<Mutex<HashMap<Hash, Bytes>>>,
    changes: watch::Sender<()>,
}

impl Keeping {
    fn of(&self, content: &[Bytes]) -> Self {
        Self { hashes: content.iter().map(|chunk| Hash::of(chunk)).collect(), ..self.clone() }
    }

    fn keeps(&self, chunk: &Bytes) -> bool {
        self.kept.lock().get(&Hash::of(chunk)) == Some(chunk)
    }

    async fn until_kept(&self, chunk: &Bytes) {
        self.changes.subscribe().wait_for(|()| self.keeps(chunk)).await.unwrap();
    }
}

impl Sink for Keeping {
    fn take(&self, index: usize, bytes: Bytes) -> io::Result<()> {
        self.kept.lock().insert(self.hashes[index], bytes);
        self.changes.send_replace(());
        Ok(())
    }

    fn has(&self, index: usize) -> bool {
        self.kept.lock().contains_key(&self.hashes[index])
    }
}

/// Readers look whether chunks are here, and ask for those that are not. Some of these have come by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_a_reader_is_about_to_ask_for_it_is_sent_once() {
    let (node, _, others) = reader_and(&[2]).await;
    let content: Arc<[Bytes]> = chunks(4000, 8 * KIB, 1).into();
    others[0].1.put(&share(), &content);
    let store = Keeping { hashes: Arc::new([]), kept: Arc::default(), changes: watch::Sender::default() };
    let background = node.fetch(share(), wants(&content), Urgency::Background, LONG, store.of(&content));
    let readers: Vec<_> = (0..4)
        .map(|seed| {
            let (node, content, store) = (node.clone(), content.clone(), store.clone());
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed);
                while store.kept.lock().len() < content.len() {
                    let at = rng.random_range(0..content.len());
                    let some = &content[at..content.len().min(at + 16)];
                    let lacking: Vec<Bytes> = some.iter().filter(|chunk| !store.keeps(chunk)).cloned().collect();
                    if let Some(chunk) = lacking.choose(&mut rng).filter(|_| rng.random_bool(0.5)) {
                        store.until_kept(chunk).await;
                    }
                    let read = node.fetch(share(), wants(&lacking), Urgency::Waiting, LONG, store.of(&lacking));
                    read.await.unwrap();
                    assert!(some.iter().all(|chunk| store.keeps(chunk)));
                }
            })
        })
        .collect();
    background.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(store.kept.lock().len(), content.len());
    assert_eq!(others[0].1.reads.load(Ordering::Relaxed), content.len());
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_peer_is_noticed_and_the_rest_comes_from_another() {
    let (node, _, others) = reader_and(&[2, 3]).await;
    let content = chunks(200, 64 * KIB, 1);
    others.iter().for_each(|(_, host)| host.put(&share(), &content));
    others[0].1.shares.lock().get_mut(&share()).unwrap().serving = Serving::Lying;
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&content);
    let peers = node.peers();
    let blamed = peers.iter().find(|peer| peer.device == device(2)).unwrap();
    assert!(blamed.last_error.as_ref().unwrap().contains("wrong bytes"), "{:?}", blamed.last_error);
    let honest = peers.iter().find(|peer| peer.device == device(3)).unwrap();
    assert_eq!(honest.last_error, None);
    // It is not asked again now.
    let before = others[0].1.reads.load(Ordering::Relaxed);
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Background, LONG, got.sink()).await.unwrap();
    assert_eq!(others[0].1.reads.load(Ordering::Relaxed), before);
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_nobody_has_is_an_error_and_one_that_appears_is_fetched() {
    let (node, _, others) = reader_and(&[2, 3]).await;
    let content = chunks(4, 30 * KIB, 1);
    others[0].1.put(&share(), &content[..3]);
    let got = Got::default();
    let patience = Duration::from_millis(300);
    let error = node.fetch(share(), wants(&content), Urgency::Waiting, patience, got.sink()).await.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable { missing: 1, wanted: 4, sources: 2, .. }), "{error:?}");
    got.assert_is(&content[..3]);

    let got = Got::default();
    let fetch = node.fetch(share(), wants(&content), Urgency::Waiting, LONG, got.sink());
    let appears = async {
        // The source says that it has something new once the reader has been told that it lacks it.
        while others[1].1.reads.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        others[1].1.put(&share(), &content[3..]);
        others[1].1.make(&share(), 3, 1);
    };
    let (fetched, ()) = tokio::join!(fetch, appears);
    fetched.unwrap();
    got.assert_is(&content);
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_where_it_was_when_its_source_comes_back() {
    let (node, _, mut others) = reader_and(&[2]).await;
    let content = chunks(400, 100 * KIB, 1);
    others[0].1.put(&share(), &content);
    let got = Got::default();
    let count = Arc::new(AtomicUsize::new(0));
    let (half, reached) = tokio::sync::oneshot::channel();
    let half = parking_lot::Mutex::new(Some(half));
    let (sink, counted) = (got.sink(), count.clone());
    let fetch = node.fetch(share(), wants(&content), Urgency::Background, LONG, move |index, bytes| {
        if counted.fetch_add(1, Ordering::SeqCst) == 100 {
            let _ = half.lock().take().unwrap().send(());
        }
        sink(index, bytes)
    });
    let source = others.pop().unwrap();
    let cut = async {
        reached.await.unwrap();
        source.0.shutdown().await;
        let at_cut = count.load(Ordering::SeqCst);
        assert!(at_cut < 400, "cut too late");
        let again = restart(2, &source.1, "127.0.0.1:0".parse().unwrap()).await;
        introduce(&again.1, &node);
        again
    };
    let (fetched, (_, again)) = tokio::join!(fetch, cut);
    fetched.unwrap();
    got.assert_is(&content);
    again.shutdown().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_fails_ends_its_fetch_and_no_other() {
    let (node, _, others) = reader_and(&[2]).await;
    let content = chunks(100, 50 * KIB, 1);
    others[0].1.put(&share(), &content);
    let got = Got::default();
    let full = |_: usize, _: Bytes| Err(io::Error::from(io::ErrorKind::StorageFull));
    let (failed, fetched) = tokio::join!(
        node.fetch(share(), wants(&content), Urgency::Background, LONG, full),
        node.fetch(share(), wants(&content), Urgency::Background, LONG, got.sink()),
    );
    assert!(matches!(failed, Err(FetchError::Sink(error)) if error.kind() == io::ErrorKind::StorageFull));
    fetched.unwrap();
    got.assert_is(&content);
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_waits_ends_with_the_node() {
    let own = host(9, &[1, 2]);
    let node = start(1, &own).await;
    let content = chunks(1, 10, 1);
    let fetch = node.fetch(share(), wants(&content), Urgency::Waiting, LONG, |_, _| Ok(()));
    let (ended, ()) = tokio::join!(fetch, async {
        tokio::task::yield_now().await;
        node.shutdown().await;
    });
    assert!(matches!(ended, Err(FetchError::Closed)), "{ended:?}");
    let late = node.fetch(share(), wants(&content), Urgency::Waiting, LONG, |_, _| Ok(())).await;
    assert!(matches!(late, Err(FetchError::Closed)));
}

/// A member that takes requests and answers as `answer` says, over and over.
async fn serve_by_hand<F, A>(
    number: u8,
    members: &[u8],
    mut answer: F,
) -> (Node, Arc<FakeHost>, tokio::task::JoinHandle<()>)
where
    F: FnMut(iroh::endpoint::SendStream, u64, Vec<Hash>) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let own = host(9, members);
    let node = start(1, &own).await;
    let raw = Raw::new(number).await;
    node.remember(device(number), &raw.endpoint.bound_sockets());
    let serving = tokio::spawn(async move {
        let (conn, handshake) = raw.accept().await;
        let mut held = Vec::new();
        while let Ok((mut send, mut recv)) = conn.accept_bi().await {
            let Some(open) = read(&mut recv).await else { continue };
            let opened = Opened::Here { share: handshake.tag(&share(), &device(raw.number)) };
            write(&mut send, &wire::encode(&opened)).await;
            match wire::decode(&open).unwrap() {
                Open::Sync { .. } => {
                    let have = wire::Message::Have(wire::Have::default());
                    write(&mut send, &wire::encode(&have)).await;
                    held.push((send, recv));
                }
                Open::Chunks { .. } => {
                    let request = wire::decode(&read(&mut recv).await.unwrap()).unwrap();
                    let ChunkRequest::Want { request, chunks, .. } = request else { panic!("no request") };
                    let hashes = chunks.iter().map(|asked| asked.hash).collect();
                    tokio::spawn(answer(send, request, hashes));
                    held.extend([]);
                }
                Open::Join(_) => panic!("a join"),
            }
        }
    });
    in_session(&own, &share(), device(number)).await;
    (node, own, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stalled_peer_was_asked_comes_from_another() {
    let (node, own, serving) = serve_by_hand(2, &[1, 2, 3], |send, _, _| async move {
        // Asked, and silent for ever.
        let _send = send;
        std::future::pending::<()>().await;
    })
    .await;
    let other = host(9, &[1, 2, 3]);
    let content = chunks(50, 10 * KIB, 1);
    other.put(&share(), &content);
    let got = Got::default();
    let fetch = node.fetch(share(), wants(&content), Urgency::Waiting, LONG, got.sink());
    let helps = async {
        let other_node = start(3, &other).await;
        introduce(&node, &other_node);
        in_session(&own, &share(), device(3)).await;
        other_node
    };
    let (fetched, other_node) = tokio::join!(fetch, helps);
    fetched.unwrap();
    got.assert_is(&content);
    assert!(node.connected().contains(&device(2)), "being slow is no offence");
    node.shutdown().await;
    other_node.shutdown().await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_in_any_order_are_taken() {
    let content = chunks(9, 10 * KIB, 1);
    let source = content.clone();
    let (node, _, serving) = serve_by_hand(2, &[1, 2], move |mut send, request, hashes| {
        let source = source.clone();
        async move {
            for (index, hash) in hashes.iter().enumerate().rev() {
                let bytes = source.iter().find(|chunk| Hash::of(chunk) == *hash).unwrap();
                let answer = ChunkAnswer::Chunk { request, index: index as u32, bytes: bytes[..].into() };
                write(&mut send, &answer.encode()).await;
            }
            send.finish().unwrap();
            let _ = send.stopped().await;
        }
    })
    .await;
    let got = Got::default();
    node.fetch(share(), wants(&content), Urgency::Soon, LONG, got.sink()).await.unwrap();
    got.assert_is(&content);
    node.shutdown().await;
    serving.abort();
}

/// Makes an answer to the request of this number.
type Answer = fn(u64) -> Vec<u8>;

/// Wrong answers of every kind: nothing reaches the sink, and the peer is told off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_none_end_the_connection_and_reach_no_one() {
    let bad: [(&str, Answer); 4] = [
        ("garbage", |_| b"garbage".to_vec()),
        ("another request", |request| ChunkAnswer::Absent { request: request + 4, index: 0 }.encode()),
        ("an index out of range", |request| ChunkAnswer::Absent { request, index: 77 }.encode()),
        ("too long", |_| vec![0; wire::FRAME_MAX + 1]),
    ];
    for (what, answer) in bad {
        let (node, own, serving) = serve_by_hand(2, &[1, 2], move |mut send, request, _| async move {
            let answer = answer(request);
            let mut frame = (answer.len() as u32).to_le_bytes().to_vec();
            frame.extend(answer);
            // The reader may hang up before it has all of it.
            let _ = send.write_all(&frame).await;
            let _ = send.stopped().await;
        })
        .await;
        let content = chunks(1, 100, 1);
        let patience = Duration::from_millis(500);
        let fetch = node.fetch(share(), wants(&content), Urgency::Waiting, patience, |_, _| panic!("a chunk"));
        let error = fetch.await.unwrap_err();
        assert!(matches!(error, FetchError::Unavailable { missing: 1, .. }), "{what}: {error:?}");
        own.until("hung up", |own| own.disconnects.load(Ordering::SeqCst) == 1).await;
        let said = node.peers()[0].last_error.clone().unwrap();
        assert!(said.contains("broke the protocol") || said.contains("left alone"), "{what}: {said}");
        node.shutdown().await;
        serving.abort();
    }
}

/// Later versions of chunks, with the earlier ones as their bases.
fn edited(earlier: &[Bytes]) -> (Vec<Bytes>, Vec<Want>) {
    let later: Vec<Bytes> = earlier.iter().map(|chunk| [chunk, &b"and more"[..]].concat().into()).collect();
    let mut wanted = wants(&later);
    wanted.iter_mut().zip(earlier).for_each(|(want, base)| want.base = Some(ChunkRef::whole(Hash::of(base))));
    (later, wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_edited_chunk_only_what_differs_is_sent() {
    let (node, own, others) = reader_and(&[2]).await;
    let earlier = chunks(100, 200 * KIB, 1);
    let (later, wanted) = edited(&earlier);
    own.put(&share(), &earlier);
    others[0].1.put(&share(), &earlier);
    others[0].1.put(&share(), &later);
    let got = Got::default();
    node.fetch(share(), wanted, Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&later);
    let received = node.peers()[0].received;
    assert!(received < 200 * KIB as u64, "{received} bytes for 100 chunks of 200 KiB");
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_one_side_lacks_costs_nothing_but_the_whole_chunk() {
    let (node, own, others) = reader_and(&[2]).await;
    let earlier = chunks(10, 200 * KIB, 1);
    let (later, wanted) = edited(&earlier);
    // The first half only this side has, the other half only the source.
    own.put(&share(), &earlier[..5]);
    others[0].1.put(&share(), &earlier[5..]);
    others[0].1.put(&share(), &later);
    let got = Got::default();
    node.fetch(share(), wanted, Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&later);
    assert_eq!(node.peers()[0].last_error, None);
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bases_that_are_not_alike_cost_nothing_but_the_whole_chunk() {
    let (node, own, others) = reader_and(&[2]).await;
    let (earlier, later) = (chunks(60, 64 * KIB, 1), chunks(60, 64 * KIB, 2));
    let mut wanted = wants(&later);
    wanted.iter_mut().zip(&earlier).for_each(|(want, base)| want.base = Some(ChunkRef::whole(Hash::of(base))));
    own.put(&share(), &earlier);
    others[0].1.put(&share(), &earlier);
    others[0].1.put(&share(), &later);
    let got = Got::default();
    node.fetch(share(), wanted, Urgency::Background, LONG, got.sink()).await.unwrap();
    got.assert_is(&later);
    let reads = others[0].1.reads.load(Ordering::Relaxed);
    assert!(reads < 2 * later.len(), "{reads} chunks were read for {}: every base was tried", later.len());
    end(node, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_are_served_to_members_of_their_share_only() {
    let source = host(9, &[1, 2]);
    let other = add_share(&source, 8, &[1, 3]);
    let content = chunks(2, 100, 1);
    source.put(&share(), &content[..1]);
    source.put(&other, &content[1..]);
    let node = start(1, &source).await;
    let raw = Raw::new(2).await;
    let conn = raw.connect(&node, wire::ALPN).await;
    let handshake = raw.hello(&conn).await;
    let ask = async |share: &ShareId, prover: DeviceId, hash: Hash| {
        let tag = handshake.tag(share, &prover);
        let (mut send, mut recv, opened) = raw.open(&conn, &Open::Chunks { share: tag }).await;
        if opened == Some(Opened::Unknown) {
            return None;
        }
        write(&mut send, &wire::encode(&ChunkRequest::want(0, [(ChunkRef::whole(hash), None)]))).await;
        let frame = read(&mut recv).await.unwrap();
        match ChunkAnswer::decode(&frame).unwrap() {
            ChunkAnswer::Chunk { bytes, .. } => Some(Some(bytes.to_vec())),
            ChunkAnswer::Absent { .. } => Some(None),
            ChunkAnswer::Delta { .. } => panic!("a delta of nothing"),
        }
    };
    let hashes: Vec<Hash> = content.iter().map(|chunk| Hash::of(chunk)).collect();
    assert_eq!(ask(&share(), device(2), hashes[0]).await, Some(Some(content[0].to_vec())));
    assert_eq!(ask(&share(), device(2), hashes[1]).await, Some(None), "of another share");
    assert_eq!(ask(&other, device(2), hashes[1]).await, None, "not a member");
    assert_eq!(ask(&other, device(3), hashes[1]).await, None, "with a member's name");
    assert_eq!(ask(&share(), device(1), hashes[0]).await, None, "the node's own proof sent back");
    // Revoked while connected: the next request is not answered.
    source.shares.lock().get_mut(&share()).unwrap().members.remove(&device(2));
    assert_eq!(ask(&share(), device(2), hashes[0]).await, None);
    node.shutdown().await;
}
