//! Nodes over loopback with hosts in memory, and peers that speak the protocol by hand in order to break it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{ActorId, ChangeHash, DeviceId, Hash, ShareId};
use crdtfs_core::share::{Genesis, Parameters};
use crdtfs_core::sync::{Fault, Numbered, PeerState, SyncHost};
use crdtfs_core::vector::{Tip, Vector};
use crdtfs_core::wire::{self, Handshake, Hello, Holding, Join, JoinAnswer, Open, Opened, Refusal};
use crdtfs_net::{Host, NetConfig, Node, Want};
use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr};
use parking_lot::Mutex;
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;

/// No test takes nearly this long; a test that hangs is to fail.
pub const LONG: Duration = Duration::from_secs(60);

/// What a host in memory does with chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    #[default]
    Honest,
    /// Every chunk has one wrong byte.
    Lying,
}

/// One share in memory. Envelopes are an actor, a number and anything.
#[derive(Clone, Default)]
pub struct Share {
    pub genesis: Vec<u8>,
    pub log: Vec<Numbered>,
    pub vector: Vector,
    pub members: BTreeSet<DeviceId>,
    /// Members that are none any more, whoever says so.
    pub revoked: BTreeSet<DeviceId>,
    pub chunks: HashMap<Hash, Bytes>,
    pub serving: Serving,
}

/// A host in memory.
#[derive(Default)]
pub struct FakeHost {
    pub shares: Mutex<BTreeMap<ShareId, Share>>,
    /// The node to tell of changes.
    pub node: Mutex<Option<Node>>,
    pub states: Mutex<HashMap<(ShareId, DeviceId), PeerState>>,
    /// The same, in the order in which it came.
    pub told: Mutex<Vec<PeerState>>,
    pub connects: AtomicUsize,
    pub disconnects: AtomicUsize,
    pub reads: AtomicUsize,
    /// The probe that peers are to answer.
    pub probe: Mutex<Option<u64>>,
    /// What an invitation answers; unknown ones are refused.
    pub invitations: Mutex<HashMap<Hash, Result<(), Refusal>>>,
    changes: watch::Sender<u64>,
}

impl FakeHost {
    /// Something that tests wait for has changed.
    fn touch(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until a condition holds; looks when something changed.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        let waiting = async {
            while !condition(self) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(LONG, waiting).await.is_err() {
            panic!("never: {what}");
        }
    }

    pub fn has(&self, share: &ShareId, actor: u8, seq: u64) -> bool {
        self.shares.lock().get(share).is_some_and(|share| share.vector.seq(&ActorId([actor; 32])) >= seq)
    }

    /// A local change.
    pub fn make(&self, share: &ShareId, actor: u8, payload: usize) {
        let actor = ActorId([actor; 32]);
        {
            let mut shares = self.shares.lock();
            let share = shares.get_mut(share).unwrap();
            let seq = share.vector.seq(&actor) + 1;
            let mut bytes = actor.0.to_vec();
            bytes.extend(seq.to_be_bytes());
            bytes.extend(vec![7; payload]);
            share.push(bytes).unwrap();
        }
        self.changed(share);
    }

    pub fn changed(&self, share: &ShareId) {
        self.touch();
        let node = self.node.lock().clone();
        if let Some(node) = node {
            node.share_changed(*share);
        }
    }

    pub fn put(&self, share: &ShareId, chunks: &[Bytes]) {
        let mut shares = self.shares.lock();
        let share = shares.get_mut(share).unwrap();
        share.chunks.extend(chunks.iter().map(|chunk| (Hash::of(chunk), chunk.clone())));
    }

    pub fn revoke(&self, share: &ShareId, device: DeviceId) {
        {
            let mut shares = self.shares.lock();
            let share = shares.get_mut(share).unwrap();
            share.members.remove(&device);
            share.revoked.insert(device);
        }
        self.changed(share);
    }

    pub fn admit_member(&self, share: &ShareId, device: DeviceId) {
        self.shares.lock().get_mut(share).unwrap().members.insert(device);
        self.changed(share);
    }
}

impl Share {
    fn push(&mut self, bytes: Vec<u8>) -> Result<(), Fault> {
        let bad = || Fault::Envelope("not an envelope".into());
        let actor = bytes.get(..32).and_then(ActorId::from_slice).ok_or_else(bad)?;
        let seq = u64::from_be_bytes(bytes.get(32..40).ok_or_else(bad)?.try_into().unwrap());
        match seq {
            seq if seq <= self.vector.seq(&actor) => Ok(()),
            seq if seq == self.vector.seq(&actor) + 1 => {
                let tip = Tip { seq, hash: ChangeHash(Hash::of(&bytes).0) };
                self.vector.set(actor, tip);
                self.log.push(Numbered { actor, tip, bytes });
                Ok(())
            }
            _ => Err(bad()),
        }
    }
}

/// A share of a fake host as a session sees it.
struct FakeSync {
    host: Arc<FakeHost>,
    share: ShareId,
}

impl FakeSync {
    /// A session may outlive its share for a moment: then it acts on nothing.
    fn with<T>(&self, act: impl FnOnce(&mut Share) -> T) -> T {
        act(self.host.shares.lock().get_mut(&self.share).unwrap_or(&mut Share::default()))
    }
}

impl SyncHost for FakeSync {
    fn epoch(&self) -> u32 {
        0
    }
    fn vector(&self) -> Vector {
        self.with(|share| share.vector.clone())
    }
    fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        self.with(|share| share.log.iter().find(|e| e.actor == *actor && e.tip.seq == seq).map(|e| e.tip.hash))
    }
    fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered> {
        let mut bytes = 0;
        self.with(|share| {
            let missing = share.log.iter().filter(|e| e.tip.seq > known.seq(&e.actor));
            let batch = missing.take_while(|e| {
                let first = bytes == 0;
                bytes += e.bytes.len();
                first || bytes <= max_bytes
            });
            batch.cloned().collect()
        })
    }
    fn receive(&mut self, _: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault> {
        let outcome = self.with(|share| envelopes.into_iter().try_for_each(|bytes| share.push(bytes)));
        self.host.changed(&self.share);
        outcome
    }
    fn membership_heads(&self) -> Vec<Hash> {
        let members = self.with(|share| share.members.clone());
        vec![Hash::of(&members.iter().flat_map(|device| device.0).collect::<Vec<u8>>())]
    }
    fn membership_after(&self, _: &[Hash]) -> Vec<Vec<u8>> {
        self.with(|share| share.members.iter().map(|device| device.0.to_vec()).collect())
    }
    fn receive_membership(&mut self, _: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault> {
        for record in records {
            let device = DeviceId::from_slice(&record).ok_or(Fault::Membership("no device".into()))?;
            self.with(|share| {
                if !share.revoked.contains(&device) {
                    share.members.insert(device);
                }
            });
        }
        self.host.changed(&self.share);
        Ok(())
    }
    fn holding(&self) -> Holding {
        Holding { vector: self.vector(), missing_files: 0, missing_bytes: 0, partial: false }
    }
    fn probe(&self) -> Option<u64> {
        *self.host.probe.lock()
    }
}

/// The host as a node sees it.
struct Shown(Arc<FakeHost>);

impl Host for Shown {
    fn shares(&self) -> Vec<ShareId> {
        self.0.shares.lock().keys().copied().collect()
    }
    fn members(&self, share: &ShareId) -> Vec<DeviceId> {
        self.0.shares.lock().get(share).map(|share| share.members.iter().copied().collect()).unwrap_or_default()
    }
    fn sync(&self, share: &ShareId) -> Option<Box<dyn SyncHost + Send>> {
        let known = self.0.shares.lock().contains_key(share);
        known.then(|| Box::new(FakeSync { host: self.0.clone(), share: *share }) as Box<dyn SyncHost + Send>)
    }
    fn read_chunk(&self, share: &ShareId, chunk: &ChunkRef) -> Option<Bytes> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let shares = self.0.shares.lock();
        let share = shares.get(share)?;
        let chunk = share.chunks.get(&chunk.hash)?.clone();
        if share.serving == Serving::Lying {
            let mut wrong = chunk.to_vec();
            wrong[0] ^= 1;
            return Some(wrong.into());
        }
        Some(chunk)
    }
    fn admit(&self, share: &ShareId, join: &Join, from: &DeviceId) -> JoinAnswer {
        match self.0.invitations.lock().get(&join.invitation) {
            Some(Ok(())) => {
                let mut shares = self.0.shares.lock();
                let share = shares.get_mut(share).unwrap();
                share.members.insert(*from);
                JoinAnswer::Welcome {
                    genesis: share.genesis.clone(),
                    membership: share.members.iter().map(|device| device.0.to_vec().into()).collect(),
                }
            }
            Some(Err(reason)) => JoinAnswer::Refused { reason: *reason },
            None => JoinAnswer::Refused { reason: Refusal::Unknown },
        }
    }
    fn peer_state(&self, share: &ShareId, device: &DeviceId, state: &PeerState) {
        self.0.told.lock().push(state.clone());
        self.0.states.lock().insert((*share, *device), state.clone());
        self.0.touch();
    }
    fn connected(&self, _: &DeviceId, addresses: &[SocketAddr]) {
        assert!(!addresses.is_empty());
        self.0.connects.fetch_add(1, Ordering::SeqCst);
        self.0.touch();
    }
    fn disconnected(&self, _: &DeviceId) {
        self.0.disconnects.fetch_add(1, Ordering::SeqCst);
        self.0.touch();
    }
}

/// A secret key that a number stands for.
pub fn secret(number: u8) -> [u8; 32] {
    [number; 32]
}

/// Its device.
pub fn device(number: u8) -> DeviceId {
    DeviceId(*SecretKey::from_bytes(&secret(number)).public().as_bytes())
}

/// A share that a number stands for.
pub fn genesis(number: u8) -> Genesis {
    Genesis { creator: device(1), nonce: [number; 32], parameters: Parameters::default() }
}

/// The numbers' devices are members of a share; all of them know.
pub fn host(share: u8, members: &[u8]) -> Arc<FakeHost> {
    let host = Arc::new(FakeHost::default());
    add_share(&host, share, members);
    host
}

pub fn add_share(host: &FakeHost, share: u8, members: &[u8]) -> ShareId {
    let members = members.iter().map(|number| device(*number)).collect();
    let genesis = genesis(share);
    let entry = Share { genesis: genesis.encode(), members, ..Share::default() };
    host.shares.lock().insert(genesis.share(), entry);
    genesis.share()
}

pub async fn start(number: u8, host: &Arc<FakeHost>) -> Node {
    start_at(number, host, "127.0.0.1:0".parse().unwrap()).await
}

pub async fn start_at(number: u8, host: &Arc<FakeHost>, bind: SocketAddr) -> Node {
    let config = NetConfig { bind: Some(bind), discovery: false, ..NetConfig::local(secret(number)) };
    start_with(number, host, config).await
}

pub async fn start_with(number: u8, host: &Arc<FakeHost>, config: NetConfig) -> Node {
    let node = Node::start(config, Arc::new(Shown(host.clone()))).await.unwrap();
    assert_eq!(node.device_id(), device(number));
    *host.node.lock() = Some(node.clone());
    node
}

/// A second life of a device: a new node on the same shares.
pub async fn restart(number: u8, host: &Arc<FakeHost>, bind: SocketAddr) -> (Arc<FakeHost>, Node) {
    let again = Arc::new(FakeHost::default());
    *again.shares.lock() = host.shares.lock().clone();
    let node = start_at(number, &again, bind).await;
    (again, node)
}

/// Ends a node for good. Its sockets are closed a moment later, on a thread that may block: who needs its port has a [`Life`].
pub async fn end(node: Node, host: &FakeHost) {
    node.shutdown().await;
    *host.node.lock() = None;
}

/// A node in a runtime of its own, as if in a process of its own: at its end nothing of it is left, no socket and no task.
pub struct Life {
    pub node: Node,
    runtime: Runtime,
}

impl Life {
    pub async fn start(number: u8, host: &Arc<FakeHost>) -> Self {
        Self::start_at(number, host, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(number: u8, host: &Arc<FakeHost>, bind: SocketAddr) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let host = host.clone();
        let node = runtime.spawn(async move { start_at(number, &host, bind).await }).await.unwrap();
        Self { node, runtime }
    }

    /// Ends the node, and then all that it may have left: its port is free.
    pub async fn end(self, host: &FakeHost) {
        *host.node.lock() = None;
        let node = self.node;
        self.runtime.spawn(async move { node.shutdown().await }).await.unwrap();
        tokio::task::spawn_blocking(|| drop(self.runtime)).await.unwrap();
    }

    /// It goes without a word: no packet tells anybody that its connections are dead.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// Tells one node where the other is.
pub fn introduce(to: &Node, whom: &Node) {
    to.remember(whom.device_id(), &whom.addrs());
}

/// Waits until both have said to the other what they have of a share.
pub async fn in_session(host: &FakeHost, share: &ShareId, peer: DeviceId) {
    host.until("in session", |host| host.states.lock().contains_key(&(*share, peer))).await;
}

/// Chunks of pseudo-random bytes.
pub fn chunks(count: usize, len: usize, seed: u64) -> Vec<Bytes> {
    (0..count)
        .map(|index| {
            let mut bytes = vec![0; len];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(&(index as u64).to_le_bytes());
            hasher.finalize_xof().fill(&mut bytes);
            Bytes::from(bytes)
        })
        .collect()
}

pub fn wants(chunks: &[Bytes]) -> Vec<Want> {
    chunks.iter().map(|chunk| want(Hash::of(chunk), Some(chunk.len() as u32))).collect()
}

pub fn want(hash: Hash, len: Option<u32>) -> Want {
    Want { chunk: ChunkRef::whole(hash), len, base: None }
}

/// Where fetched chunks go; each may come once.
#[derive(Clone, Default)]
pub struct Got(pub Arc<Mutex<BTreeMap<usize, Bytes>>>);

impl Got {
    pub fn sink(&self) -> impl Fn(usize, Bytes) -> std::io::Result<()> + Send + Sync + 'static {
        let got = self.0.clone();
        move |index, bytes| {
            assert!(got.lock().insert(index, bytes).is_none(), "chunk {index} came twice");
            Ok(())
        }
    }

    pub fn assert_is(&self, chunks: &[Bytes]) {
        let got = self.0.lock();
        assert_eq!(got.len(), chunks.len());
        assert!(got.values().eq(chunks), "other bytes");
    }
}

/// A peer that speaks the protocol by hand.
pub struct Raw {
    pub endpoint: Endpoint,
    pub number: u8,
}

impl Raw {
    pub async fn new(number: u8) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .unwrap()
            .secret_key(SecretKey::from_bytes(&secret(number)))
            .alpns(vec![wire::ALPN.to_vec()])
            .bind()
            .await
            .unwrap();
        Self { endpoint, number }
    }

    pub async fn connect(&self, node: &Node, alpn: &[u8]) -> Connection {
        let id = iroh::EndpointId::from_bytes(&node.device_id().0).unwrap();
        let to = EndpointAddr::from_parts(id, node.bound().into_iter().map(TransportAddr::Ip));
        self.endpoint.connect(to, alpn).await.unwrap()
    }

    /// Says hello as the dialler.
    pub async fn hello(&self, conn: &Connection) -> Handshake {
        let (send, recv) = conn.open_bi().await.unwrap();
        self.exchange(conn, send, recv, true).await
    }

    /// Accepts one connection of a member and says hello.
    pub async fn accept(&self) -> (Connection, Handshake) {
        let conn = self.endpoint.accept().await.unwrap().accept().unwrap().await.unwrap();
        let (send, recv) = conn.accept_bi().await.unwrap();
        let handshake = self.exchange(&conn, send, recv, false).await;
        (conn, handshake)
    }

    async fn exchange(&self, conn: &Connection, mut send: SendStream, recv: RecvStream, dialled: bool) -> Handshake {
        let mut recv = recv;
        let own = Hello::new([self.number; 32]);
        write(&mut send, &wire::encode(&own)).await;
        let theirs: Hello = wire::decode(&read(&mut recv).await.unwrap()).unwrap();
        let mut exporter = [0; 32];
        conn.export_keying_material(&mut exporter, b"crdtfs share", b"").unwrap();
        let (own_id, peer) = (device(self.number), DeviceId(*conn.remote_id().as_bytes()));
        if dialled {
            Handshake {
                dialer: own_id,
                listener: peer,
                dialer_nonce: own.nonce,
                listener_nonce: theirs.nonce,
                exporter,
            }
        } else {
            Handshake {
                dialer: peer,
                listener: own_id,
                dialer_nonce: theirs.nonce,
                listener_nonce: own.nonce,
                exporter,
            }
        }
    }

    /// Opens a stream and gives the answer.
    pub async fn open(&self, conn: &Connection, open: &Open) -> (SendStream, RecvStream, Option<Opened>) {
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        write(&mut send, &wire::encode(open)).await;
        let answer = read(&mut recv).await.map(|frame| wire::decode(&frame).unwrap());
        (send, recv, answer)
    }

    /// Accepts the node's sync streams, and answers with the right proof; the streams stay open and silent.
    pub async fn accept_sync(
        &self,
        conn: &Connection,
        handshake: &Handshake,
        share: &ShareId,
    ) -> (SendStream, RecvStream) {
        let (mut send, mut recv) = conn.accept_bi().await.unwrap();
        let open: Open = wire::decode(&read(&mut recv).await.unwrap()).unwrap();
        assert!(matches!(open, Open::Sync { .. }));
        let opened = Opened::Here { share: handshake.tag(share, &device(self.number)) };
        write(&mut send, &wire::encode(&opened)).await;
        (send, recv)
    }
}

pub async fn write(send: &mut SendStream, message: &[u8]) {
    let mut frame = (message.len() as u32).to_le_bytes().to_vec();
    frame.extend(message);
    send.write_all(&frame).await.unwrap();
}

/// A frame; `None` if the stream or the connection ended.
pub async fn read(recv: &mut RecvStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.ok()?;
    let mut frame = vec![0; u32::from_le_bytes(len) as usize];
    recv.read_exact(&mut frame).await.ok()?;
    Some(frame)
}
