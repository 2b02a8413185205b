//! One authenticated connection to a member, from the hello on, and the streams on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::wire::{self, Handshake, Hello, ShareTag};
use iroh::TransportAddr;
use iroh::endpoint::{Connection, RecvStream, SendStream, Side};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::{HANDSHAKE_TIMEOUT, MAX_STREAMS, SIMULTANEOUS};
use crate::endpoint::{Code, device_id};
use crate::error::LinkError;
use crate::frame::{FrameError, Reader, write_frame};
use crate::info::{PathKind, Traffic};
use crate::peers::Tie;

/// Label of the exported key, as [`Handshake::exporter`] defines it.
const EXPORTER_LABEL: &[u8] = b"crdtfs share";

/// A connection on which both sides have said hello.
pub(crate) struct Link {
    conn: Connection,
    device: DeviceId,
    own: DeviceId,
    tie: Tie,
    handshake: Handshake,
    pub(crate) since: SystemTime,
    /// Features that both sides have.
    pub(crate) features: u64,
    /// Ends the link's tasks.
    pub(crate) cancel: CancellationToken,
    /// Streams being opened by the peer, or served.
    pub(crate) streams: Arc<Semaphore>,
    slots: Mutex<HashMap<ShareId, Slot>>,
    /// Shares by the tags with which the peer opens streams.
    tags: Mutex<HashMap<ShareTag, ShareId>>,
    traffic: Mutex<Traffic>,
    /// Why it was closed here.
    ended: Mutex<Option<String>>,
}

/// The one session of a share on a connection.
struct Slot {
    id: u64,
    /// This device opened it.
    ours: bool,
    /// Both sides have agreed, and nothing that was said in an earlier session counts any more.
    open: bool,
    made: Instant,
    /// The peer tried, too, and was told that ours counts.
    peer_tried: bool,
    cancel: CancellationToken,
    changed: Arc<Notify>,
}

/// A slot as its session task sees it.
#[derive(Clone)]
pub(crate) struct SlotHandle {
    pub(crate) share: ShareId,
    pub(crate) id: u64,
    pub(crate) cancel: CancellationToken,
    /// The share changed here.
    pub(crate) changed: Arc<Notify>,
}

impl Link {
    /// Says hello on a fresh connection of the member protocol. `instance` names this run of the program: it makes the first
    /// half of the nonce, so that the peer can tell a restart from a simultaneous dial; the second half is fresh.
    pub(crate) async fn greet(
        conn: Connection,
        own: DeviceId,
        instance: &[u8; 16],
        parent: &CancellationToken,
    ) -> Result<Arc<Self>, LinkError> {
        let mut nonce = [0; 32];
        nonce[..16].copy_from_slice(instance);
        nonce[16..].copy_from_slice(&rand::random::<[u8; 16]>());
        let timeout = tokio::time::timeout(HANDSHAKE_TIMEOUT, hello(&conn, own, nonce));
        let greeted = timeout.await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs())));
        let Greeted { handshake, features, nonce: theirs } = match greeted {
            Ok(greeted) => greeted,
            Err(error) => return Err(close_for(&conn, error)),
        };
        let mut instance = [0; 16];
        instance.copy_from_slice(&theirs[..16]);
        Ok(Arc::new(Self {
            device: device_id(conn.remote_id()),
            own,
            tie: Tie { dialer: handshake.dialer, instance, made: Instant::now() },
            handshake,
            since: SystemTime::now(),
            features,
            cancel: parent.child_token(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            slots: Mutex::new(HashMap::new()),
            tags: Mutex::new(HashMap::new()),
            traffic: Mutex::new(Traffic::default()),
            ended: Mutex::new(None),
            conn,
        }))
    }

    pub(crate) fn device(&self) -> DeviceId {
        self.device
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(crate) fn tie(&self) -> Tie {
        self.tie
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.conn.close_reason().is_none()
    }

    /// Closes the connection and ends its tasks. The first reason given is the one that counts.
    pub(crate) fn close(&self, code: Code, why: &str) {
        if self.is_alive() {
            self.ended.lock().get_or_insert_with(|| why.to_owned());
        }
        // The peer's log is to say what was wrong with it.
        let text = if code == Code::Fault { why.as_bytes() } else { code.reason() };
        self.conn.close(code.into(), &text[..text.len().min(200)]);
        self.cancel.cancel();
    }

    /// Why the connection ended, if that is worth telling.
    pub(crate) fn end_reason(&self) -> Option<String> {
        if let Some(why) = self.ended.lock().clone() {
            return Some(why);
        }
        self.conn.close_reason().map(|error| LinkError::closed(&error).to_string())
    }

    /// Our proof that we know a share.
    pub(crate) fn own_tag(&self, share: &ShareId) -> ShareTag {
        self.handshake.tag(share, &self.own)
    }

    /// The proof that the peer gives for a share.
    pub(crate) fn peer_tag(&self, share: &ShareId) -> ShareTag {
        self.handshake.tag(share, &self.device)
    }

    /// The share that the peer named before with this tag.
    pub(crate) fn known_tag(&self, tag: &ShareTag) -> Option<ShareId> {
        self.tags.lock().get(tag).copied()
    }

    /// Remembers the tags of these shares.
    pub(crate) fn learn_tags(&self, shares: &[ShareId]) {
        let mut tags = self.tags.lock();
        for share in shares {
            tags.insert(self.peer_tag(share), *share);
        }
    }

    /// Makes the slot for a session that we open; `None` if there is one already.
    pub(crate) fn reserve(&self, share: ShareId) -> Option<SlotHandle> {
        let mut slots = self.slots.lock();
        if slots.contains_key(&share) {
            return None;
        }
        Some(self.enter(&mut slots, share, true))
    }

    /// Makes the slot for a session that the peer opens; `None` if ours counts: of two openings at once both ends keep the one
    /// of the device with the smaller id, else the newer one.
    pub(crate) fn accept(&self, share: ShareId) -> Option<SlotHandle> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(&share) {
            let at_once = slot.ours && (!slot.open || slot.made.elapsed() < SIMULTANEOUS);
            if at_once && self.own < self.device {
                slot.peer_tried = true;
                return None;
            }
            slot.cancel.cancel();
        }
        let handle = self.enter(&mut slots, share, false);
        Some(handle)
    }

    fn enter(&self, slots: &mut HashMap<ShareId, Slot>, share: ShareId, ours: bool) -> SlotHandle {
        let handle = SlotHandle {
            share,
            id: rand::random(),
            cancel: self.cancel.child_token(),
            changed: Arc::new(Notify::new()),
        };
        let slot = Slot {
            id: handle.id,
            ours,
            open: false,
            made: Instant::now(),
            peer_tried: false,
            cancel: handle.cancel.clone(),
            changed: handle.changed.clone(),
        };
        slots.insert(share, slot);
        handle
    }

    /// Whether a session still has its slot.
    pub(crate) fn holds(&self, handle: &SlotHandle) -> bool {
        self.slots.lock().get(&handle.share).is_some_and(|slot| slot.id == handle.id)
    }

    /// A session begins.
    pub(crate) fn opened(&self, handle: &SlotHandle) {
        if let Some(slot) = self.slots.lock().get_mut(&handle.share).filter(|slot| slot.id == handle.id) {
            slot.open = true;
        }
    }

    /// A session ended. `None` if another one has taken its slot; else whether the peer wanted one meanwhile.
    pub(crate) fn vacate(&self, handle: &SlotHandle) -> Option<bool> {
        let mut slots = self.slots.lock();
        match slots.get(&handle.share) {
            Some(slot) if slot.id == handle.id => slots.remove(&handle.share).map(|slot| slot.peer_tried),
            _ => None,
        }
    }

    /// Tells the session of a share that something changed; false if there is none.
    pub(crate) fn share_changed(&self, share: &ShareId) -> bool {
        let slots = self.slots.lock();
        let slot = slots.get(share);
        if let Some(slot) = slot {
            slot.changed.notify_one();
        }
        slot.is_some()
    }

    /// Ends the session of a share.
    pub(crate) fn end_session(&self, share: &ShareId) {
        if let Some(slot) = self.slots.lock().get(share) {
            slot.cancel.cancel();
        }
        self.tags.lock().retain(|_, known| known != share);
    }

    /// Shares with an open session.
    pub(crate) fn sessions(&self) -> Vec<ShareId> {
        let mut shares: Vec<ShareId> =
            self.slots.lock().iter().filter(|(_, slot)| slot.open).map(|(share, _)| *share).collect();
        shares.sort_unstable();
        shares
    }

    /// The way that the connection takes now, with its round trip time.
    pub(crate) fn path(&self) -> (PathKind, Option<std::time::Duration>) {
        let paths = self.conn.paths();
        let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
        match path {
            Some(path) if path.is_relay() => (PathKind::Relayed, Some(path.rtt())),
            Some(path) => (PathKind::Direct, Some(path.rtt())),
            None => (PathKind::None, None),
        }
    }

    /// The peer's addresses on this connection.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.conn)
    }

    /// Bytes and rates, measured since the last call of at least half a second ago.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.conn.stats();
        let mut traffic = self.traffic.lock();
        traffic.sample(stats.udp_rx.bytes, stats.udp_tx.bytes, self.tie.made, Instant::now());
        *traffic
    }
}

/// The peer's addresses on a connection.
pub(crate) fn addresses(conn: &Connection) -> Vec<SocketAddr> {
    let paths = conn.paths();
    let mut sockets: Vec<SocketAddr> = paths
        .iter()
        .filter_map(|path| match path.remote_addr() {
            TransportAddr::Ip(socket) => Some(SocketAddr::new(socket.ip().to_canonical(), socket.port())),
            _ => None,
        })
        .collect();
    sockets.sort_unstable();
    sockets.dedup();
    sockets
}

/// What the hellos gave.
pub(crate) struct Greeted {
    /// What both ends know.
    pub(crate) handshake: Handshake,
    /// Features that both have.
    pub(crate) features: u64,
    /// The peer's nonce.
    pub(crate) nonce: [u8; 32],
}

/// Exchanges hellos on the connection's first stream.
pub(crate) async fn hello(conn: &Connection, device: DeviceId, nonce: [u8; 32]) -> Result<Greeted, LinkError> {
    let dialled = conn.side() == Side::Client;
    let closed = |error: iroh::endpoint::ConnectionError| LinkError::Closed(error.to_string());
    let (mut send, recv): (SendStream, RecvStream) =
        if dialled { conn.open_bi().await.map_err(closed)? } else { conn.accept_bi().await.map_err(closed)? };
    let mut reader = Reader::new(recv);
    let own = Hello::new(nonce);
    if dialled {
        write_frame(&mut send, &wire::encode(&own)).await?;
    }
    let theirs: Hello = read_message(&mut reader).await?;
    if !dialled {
        write_frame(&mut send, &wire::encode(&own)).await?;
    }
    // A stream that broke shows on the next one.
    let _ = send.finish();
    let (_, features) = wire::agree(&own, &theirs).map_err(|unfit| LinkError::Version(unfit.to_string()))?;
    let handshake = handshake(conn, device, nonce, theirs.nonce)?;
    Ok(Greeted { handshake, features, nonce: theirs.nonce })
}

/// What both ends of a connection know after their hellos.
fn handshake(
    conn: &Connection,
    own: DeviceId,
    own_nonce: [u8; 32],
    their_nonce: [u8; 32],
) -> Result<Handshake, LinkError> {
    let dialled = conn.side() == Side::Client;
    let mut exporter = [0; 32];
    conn.export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .map_err(|_| LinkError::Closed("the connection gives no key".into()))?;
    let peer = device_id(conn.remote_id());
    Ok(if dialled {
        Handshake { dialer: own, listener: peer, dialer_nonce: own_nonce, listener_nonce: their_nonce, exporter }
    } else {
        Handshake { dialer: peer, listener: own, dialer_nonce: their_nonce, listener_nonce: own_nonce, exporter }
    })
}

/// Reads one message of a known kind; the end of the stream is no message.
pub(crate) async fn read_message<M: wire::Wire>(reader: &mut Reader) -> Result<M, LinkError> {
    let frame = reader.next(M::MAX).await?.ok_or(FrameError::Truncated)?;
    wire::decode(&frame).map_err(|error| LinkError::Fault(error.to_string()))
}

/// Closes a connection that failed in its handshake; the error that says most.
pub(crate) fn close_for(conn: &Connection, error: LinkError) -> LinkError {
    if let Some(reason) = conn.close_reason() {
        return LinkError::closed(&reason);
    }
    let code = match &error {
        LinkError::Fault(_) => Code::Fault,
        LinkError::Version(_) => Code::Version,
        LinkError::Timeout(_) => Code::Timeout,
        LinkError::Stranger(_) => Code::Stranger,
        _ => Code::Bye,
    };
    conn.close(code.into(), code.reason());
    error
}
