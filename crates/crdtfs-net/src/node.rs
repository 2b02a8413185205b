//! The node: one endpoint, its tasks, and what the engine calls.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, ShareId};
use iroh::Endpoint;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{MAX_HANDSHAKES, MAX_JOINERS, NetConfig};
use crate::endpoint::{Code, bind, device_id, own_sockets};
use crate::error::{FetchError, JoinError, NetError};
use crate::fetch::{Fetcher, Order, Sink, Urgency, Want};
use crate::host::{Host, blocking};
use crate::info::PeerInfo;
use crate::join::{JoinRequest, Welcome};
use crate::link::Link;
use crate::lookout::{Lookout, MISSED};
use crate::peers::Peers;
use crate::roster::Roster;
use crate::{dial, discover, join, session};

/// Threads that read chunks for peers at once.
const READERS: usize = 4;
/// Memberships are looked at again at most this often.
const DIRECT_EVERY: Duration = Duration::from_millis(50);

/// This device on the network. Clones are the same node; it runs until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node(Arc<Inner>);

/// What the node's tasks share.
pub(crate) struct Inner {
    pub(crate) config: NetConfig,
    pub(crate) device: DeviceId,
    /// Which run of this program it is.
    pub(crate) instance: [u8; 16],
    pub(crate) endpoint: Endpoint,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) peers: Peers,
    pub(crate) lookout: Lookout,
    pub(crate) fetcher: Fetcher,
    pub(crate) tasks: TaskTracker,
    /// Where the tasks run.
    pub(crate) runtime: Handle,
    pub(crate) cancel: CancellationToken,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) joiners: Arc<Semaphore>,
    pub(crate) readers: Arc<Semaphore>,
    /// Shares or their members may have changed.
    direct: Notify,
}

impl Node {
    /// Binds the endpoint and starts to keep the members of the host's shares connected. Tasks run on the current tokio
    /// runtime, which must have its time and I/O drivers enabled.
    pub async fn start(config: NetConfig, host: Arc<dyn Host>) -> Result<Self, NetError> {
        let tasks = TaskTracker::new();
        let roster = Arc::new(Roster::new(host.clone(), tasks.clone()));
        let endpoint = bind(&config, roster.clone()).await?;
        let inner = Arc::new(Inner {
            device: device_id(endpoint.id()),
            instance: rand::random(),
            endpoint,
            host,
            roster,
            peers: Peers::default(),
            lookout: Lookout::default(),
            fetcher: Fetcher::default(),
            tasks,
            runtime: Handle::current(),
            cancel: CancellationToken::new(),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            joiners: Arc::new(Semaphore::new(MAX_JOINERS)),
            readers: Arc::new(Semaphore::new(READERS)),
            direct: Notify::new(),
            config,
        });
        inner.start(dial::accept);
        inner.start(|inner| async move { inner.fetcher.watch(&inner).await });
        inner.start(direct);
        if inner.config.discovery {
            inner.start(discover::run);
        }
        inner.direct.notify_one();
        tracing::info!(device = %inner.device, sockets = ?inner.endpoint.bound_sockets(), "listening");
        Ok(Self(inner))
    }

    /// This device: the public half of the configured key.
    pub fn device_id(&self) -> DeviceId {
        self.0.device
    }

    /// The socket addresses at which this device can be reached, for tickets. They come and go with the interfaces.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        own_sockets(&self.0.endpoint)
    }

    /// The relays over which this device can be reached, for tickets; none before one was found.
    pub fn relays(&self) -> Vec<String> {
        self.0.endpoint.addr().relay_urls().map(ToString::to_string).collect()
    }

    /// The port that sockets are bound to, to ask for it again at the next start.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.0.endpoint.bound_sockets()
    }

    /// All other members of the shares here, connected or not, in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let known = self.0.peers.map(|device, peer| {
            peer.wanted.then(|| (*device, peer.link.clone(), peer.addresses.sockets(), peer.last_error.clone()))
        });
        known.into_iter().flatten().map(|(device, link, known, error)| peer_info(device, link, known, error)).collect()
    }

    /// Members that are connected now.
    pub fn connected(&self) -> Vec<DeviceId> {
        let mut devices: Vec<DeviceId> = self.0.peers.links().iter().map(|link| link.device()).collect();
        devices.sort_unstable();
        devices
    }

    /// Joins a share with a ticket. The caller checks and keeps what it gets, and then calls [`Node::share_added`].
    pub async fn join(&self, request: JoinRequest) -> Result<Welcome, JoinError> {
        tokio::select! {
            outcome = join::ask(&self.0, request) => outcome,
            () = self.0.cancel.cancelled() => Err(JoinError::Closed),
        }
    }

    /// The share has changes, membership records or content that it did not have: sessions look at once.
    pub fn share_changed(&self, share: ShareId) {
        self.0.share_changed(share);
    }

    /// A share is here now.
    pub fn share_added(&self, share: ShareId) {
        self.0.share_changed(share);
    }

    /// A share is not here any more: its sessions end, and connections that serve no other share.
    pub fn share_removed(&self, share: ShareId) {
        for link in self.0.peers.links() {
            link.end_session(&share);
        }
        self.0.share_changed(share);
    }

    /// Addresses at which a device was reached before. It is dialled if it is a member.
    pub fn remember(&self, device: DeviceId, addresses: &[SocketAddr]) {
        self.0.peers.learn(&device, addresses.iter().copied(), [], true);
    }

    /// Calls a member: dials it at once if it is not connected. Whether it is connected then; an attempt that failed before the
    /// call says nothing. It may take as long as an attempt does: whoever calls sets a limit.
    pub async fn call(&self, device: DeviceId) -> bool {
        self.0.peers.call(&device).await
    }

    /// Fetches chunks of a share from all connected members that have them, and hands each to `sink` once, verified, in
    /// any order, on threads that may block; but for those that the sink has when the fetch begins. It begins with the call,
    /// not with the first poll. It ends when the last chunk was taken, or when for `patience` none came and nobody was left to ask
    /// (peers may come back meanwhile), or when the sink failed. Dropping the future ends the fetch; chunks may still arrive at
    /// the sink for a moment.
    pub fn fetch<S: Sink>(
        &self,
        share: ShareId,
        wants: Vec<Want>,
        urgency: Urgency,
        patience: Duration,
        sink: S,
    ) -> impl Future<Output = Result<(), FetchError>> + Send + use<S> {
        let order = Order { share, wants, urgency, patience };
        let begun = Fetcher::begin(&self.0, order, Arc::new(sink));
        async move {
            match begun? {
                Some(fetching) => fetching.end().await,
                None => Ok(()),
            }
        }
    }

    /// Tells the peers, ends all tasks and waits for them, and closes the endpoint. Fetches and joins that wait fail. Takes
    /// less than a second: a peer that does not acknowledge the end is not waited for longer. The sockets are closed a moment
    /// after the last clone of the node is dropped: a node that is started in the same process at once may not get its port.
    pub async fn shutdown(&self) {
        let inner = &self.0;
        inner.fetcher.close();
        inner.cancel.cancel();
        for link in inner.peers.links() {
            link.close(Code::Bye, "this device closed it");
        }
        inner.tasks.close();
        let endpoint = inner.endpoint.clone();
        let closing = tokio::spawn(async move {
            // The runtime may end first. An endpoint that is dropped before it has closed is an error to iroh, but at the
            // program's end there is nothing left to clean up: then it is left to the system.
            let endpoint = ManuallyDrop::new(endpoint);
            endpoint.close().await;
            drop(ManuallyDrop::into_inner(endpoint));
        });
        if tokio::time::timeout(inner.config.network.close_timeout(), closing).await.is_err() {
            tracing::debug!("a peer has not acknowledged the end: it will notice by itself");
        }
        inner.tasks.wait().await;
    }

    /// Whether [`Node::shutdown`] has closed the endpoint: all peers have acknowledged, or do not answer.
    pub fn is_closed(&self) -> bool {
        self.0.endpoint.is_closed()
    }
}

fn peer_info(device: DeviceId, link: Option<Arc<Link>>, known: Vec<SocketAddr>, error: Option<String>) -> PeerInfo {
    let link = link.filter(|link| link.is_alive());
    let (path, rtt) = link.as_ref().map(|link| link.path()).unwrap_or_default();
    let traffic = link.as_ref().map(|link| link.traffic()).unwrap_or_default();
    let addresses = link.as_ref().map(|link| link.addresses()).filter(|found| !found.is_empty());
    PeerInfo {
        device,
        path,
        addresses: addresses.unwrap_or(known),
        rtt,
        received: traffic.received,
        sent: traffic.sent,
        receive_rate: traffic.receive_rate,
        send_rate: traffic.send_rate,
        since: link.as_ref().map(|link| link.since),
        last_error: error,
        shares: link.map(|link| link.sessions()).unwrap_or_default(),
    }
}

impl Inner {
    /// Starts a task that ends with the node.
    fn start<F: Future<Output = ()> + Send + 'static>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F) {
        let (task, cancel) = (task(self.clone()), self.cancel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = cancel.cancelled() => {}
            }
        });
    }

    /// Sessions look at the share at once, members soon.
    pub(crate) fn share_changed(&self, share: ShareId) {
        for link in self.peers.links() {
            link.share_changed(&share);
        }
        self.direct.notify_one();
    }

    /// Who is connected or wanted has changed: looks for whom is missed on the local network, or rests.
    pub(crate) fn look_around(&self) {
        if self.peers.misses_anybody() { self.lookout.look(MISSED) } else { self.lookout.rest() }
    }

    /// A member broke the protocol: its connection ends, and it is left alone for a while.
    pub(crate) fn offended(&self, link: &Arc<Link>, reason: &str) {
        tracing::warn!(peer = %link.device(), reason, "a device broke the protocol");
        self.roster.offended(link.device(), Instant::now());
        link.close(Code::Fault, reason);
    }
}

/// Follows who is a member: keeps members connected, opens sessions that are missing, drops who is a member no more.
async fn direct(inner: Arc<Inner>) {
    loop {
        inner.direct.notified().await;
        let (host, own) = (inner.host.clone(), inner.device);
        let members = blocking(&inner.tasks, move || {
            let shares = host.shares();
            shares.into_iter().map(|share| (share, host.members(&share))).collect::<Vec<_>>()
        });
        let Some(members) = members.await else { continue };
        let wanted: BTreeSet<DeviceId> =
            members.iter().flat_map(|(_, devices)| devices).copied().filter(|device| *device != own).collect();
        let (unkept, unwanted) = inner.peers.want(&wanted);
        for link in &unwanted {
            link.close(Code::Bye, "it is no member of a share here any more");
        }
        if !unkept.is_empty() || !unwanted.is_empty() {
            inner.look_around();
        }
        for device in unkept {
            inner.start(|inner| dial::keep(inner, device));
        }
        for link in inner.peers.links() {
            for (share, devices) in &members {
                if devices.contains(&link.device()) {
                    session::open(&inner, &link, *share);
                } else {
                    link.end_session(share);
                }
            }
        }
        // No more than so often, however fast the share changes.
        tokio::time::sleep(DIRECT_EVERY).await;
    }
}
