//! How a node is set up, and the durations and limits that it keeps.

use std::net::SocketAddr;
use std::time::Duration;

/// How far a node's traffic may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The machine's own networks only: mDNS, and addresses that tickets and peers gave. No relay, no DNS, no
    /// publishing, no port mapping.
    Local,
    /// Anywhere: with relays of one's own only those and mDNS; without, the discovery and relays of iroh's makers.
    #[default]
    Internet,
}

impl Network {
    /// How long a node waits at its end for its peers to have heard of it. Local ones take [`LOCAL_RTT`]'s multiple at most;
    /// with the 333 ms that RFC 9002 assumes elsewhere it would be 3 s for each one that is gone.
    pub(crate) fn close_timeout(self) -> Duration {
        match self {
            Self::Local => Duration::from_secs(3),
            Self::Internet => Duration::from_millis(900),
        }
    }
}

/// What a [`crate::Node`] is started with.
#[derive(Clone)]
pub struct NetConfig {
    /// The device's ed25519 secret key; its public half is the device id.
    pub secret: [u8; 32],
    /// How far traffic may go.
    pub network: Network,
    /// Relays of the user's own (URLs), used with [`Network::Internet`]. Then nothing of anybody else's is used.
    pub relays: Vec<String>,
    /// The address to listen on; a taken port falls back to a free one. `None`: every interface, any free port. The
    /// unspecified IPv4 address means every interface, too; IPv6 then has the same port if that is free there.
    pub bind: Option<SocketAddr>,
    /// Whether to find peers on the local network by mDNS, and to be found.
    pub discovery: bool,
}

impl NetConfig {
    /// A node with this key that stays on the machine's own networks, with mDNS.
    pub fn local(secret: [u8; 32]) -> Self {
        Self { secret, network: Network::Local, relays: Vec::new(), bind: None, discovery: true }
    }
}

impl std::fmt::Debug for NetConfig {
    /// All but the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig")
            .field("network", &self.network)
            .field("relays", &self.relays)
            .field("bind", &self.bind)
            .field("discovery", &self.discovery)
            .finish_non_exhaustive()
    }
}

/// The largest UDP payload that is looked for on a path: what Ethernet carries with IPv4. iroh's endpoints take no larger ones.
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1472;

/// The protocol of a device that holds a ticket.
pub(crate) const ALPN_JOIN: &[u8] = b"crdtfs/join/1";

/// A peer that answers no keep-alive for this long is gone. A dead one is noticed after at most [`KEEP_ALIVE`] more: the
/// timer begins again with the keep-alive that it does not answer. (iroh's own 15 s a path would be noticed too late.)
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_millis(6500);
/// Two keep-alives fit into [`IDLE_TIMEOUT`].
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// The end that accepted a connection waits this much longer, and does not send one just as the other end's comes.
pub(crate) const KEEP_ALIVE_LATER: Duration = Duration::from_millis(200);
/// One attempt to connect. It must be shorter than [`SIMULTANEOUS`].
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// Two connections of one pair made within this time were dialled at once by both ends.
pub(crate) const SIMULTANEOUS: Duration = Duration::from_secs(10);
/// Each step of a handshake (hello, share open, join).
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a loser of the tie-break waits for the winner before it dials again.
pub(crate) const TIE_WAIT: Duration = Duration::from_secs(1);
/// The round trip time that is assumed of a path that nobody has answered on, on the machine's own networks. At its end a node
/// waits for a device that does not answer for three times what it would take it to answer: nine round trips and 75 ms.
pub(crate) const LOCAL_RTT: Duration = Duration::from_millis(80);

/// Devices that ask to join and are being answered.
pub(crate) const MAX_JOINERS: usize = 16;
/// Connections that are being accepted.
pub(crate) const MAX_HANDSHAKES: usize = 64;
/// Streams of one connection that are being opened or served.
pub(crate) const MAX_STREAMS: usize = 64;
/// Chunks asked for in one request.
pub(crate) const MAX_REQUEST: usize = 2048;
