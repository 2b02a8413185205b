//! The iroh endpoint: what it binds, what it may send to, and who gets past the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crdtfs_core::id::DeviceId;
use crdtfs_core::wire;
use iroh::endpoint::{
    AfterHandshakeOutcome, Builder, ConnectOptions, Connection, EndpointHooks, IdleTimeout, MtuDiscoveryConfig,
    PortmapperConfig, QuicTransportConfig, presets,
};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, RelayUrl, SecretKey, TransportAddr};

use crate::address::{Addresses, may_use_locally};
use crate::config::{
    ALPN_JOIN, IDLE_TIMEOUT, KEEP_ALIVE, KEEP_ALIVE_LATER, LOCAL_RTT, NetConfig, Network, UDP_PAYLOAD_MAX,
};
use crate::error::NetError;

/// Says who may connect, before anything is read from them.
pub(crate) trait Gate: Send + Sync + 'static {
    /// Whether a device is a member of a share here, and not shut out for a while.
    fn admits(&self, device: DeviceId) -> impl Future<Output = bool> + Send;
}

/// The gate as iroh's hook.
struct Hook<G>(Arc<G>);

impl<G> std::fmt::Debug for Hook<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl<G: Gate> EndpointHooks for Hook<G> {
    /// Strangers may only come with a ticket. (The client's `connect` returns Ok nevertheless, which is why the hello comes
    /// after.)
    async fn after_handshake<'a>(&'a self, conn: &'a Connection) -> AfterHandshakeOutcome {
        if conn.alpn() == ALPN_JOIN || self.0.admits(device_id(conn.remote_id())).await {
            return AfterHandshakeOutcome::Accept;
        }
        tracing::debug!(peer = %conn.remote_id().fmt_short(), "refused a device that is no member");
        AfterHandshakeOutcome::Reject { error_code: Code::Stranger.into(), reason: Code::Stranger.reason().into() }
    }
}

/// Why a connection or a stream is closed, as the other end reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    /// The node ends, or the devices share nothing any more.
    Bye = 0,
    /// Not a member, as far as known here.
    Stranger = 1,
    /// There is another connection, or another stream for the share.
    Duplicate = 2,
    /// The protocol was broken.
    Fault = 3,
    /// Versions do not fit.
    Version = 4,
    /// An answer took too long.
    Timeout = 5,
    /// What was asked for is not wanted any more.
    Unwanted = 6,
    /// Too much at once: try again.
    Busy = 7,
}

impl Code {
    /// The text that goes with the code.
    pub(crate) fn reason(self) -> &'static [u8] {
        match self {
            Self::Bye => b"bye",
            Self::Stranger => b"not a member here",
            Self::Duplicate => b"another connection is used",
            Self::Fault => b"protocol broken",
            Self::Version => b"versions do not fit",
            Self::Timeout => b"too slow",
            Self::Unwanted => b"not wanted any more",
            Self::Busy => b"busy",
        }
    }

    /// Whether a close of the connection carries this code.
    pub(crate) fn is_in(self, error: &iroh::endpoint::ConnectionError) -> bool {
        matches!(error, iroh::endpoint::ConnectionError::ApplicationClosed(close) if close.error_code == self.into())
    }
}

impl From<Code> for iroh::endpoint::VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

/// Our name for a device.
pub(crate) fn device_id(id: EndpointId) -> DeviceId {
    DeviceId(*id.as_bytes())
}

/// iroh's name for a device; `None` if the bytes are no public key.
pub(crate) fn endpoint_id(device: &DeviceId) -> Option<EndpointId> {
    EndpointId::from_bytes(&device.0).ok()
}

/// Binds the endpoint.
pub(crate) async fn bind<G: Gate>(config: &NetConfig, gate: Arc<G>) -> Result<Endpoint, NetError> {
    let Some(wanted) = config.bind.filter(|bind| bind.port() != 0) else {
        return bind_at(config, config.bind, None, gate).await;
    };
    if wanted.ip() == Ipv4Addr::UNSPECIFIED {
        // iroh would give IPv6 a port of its own, and another one at each start.
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), wanted.port());
        match bind_at(config, Some(wanted), Some(v6), gate.clone()).await {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => tracing::debug!(%error, "not the same port with IPv4 and IPv6"),
        }
    }
    match bind_at(config, Some(wanted), None, gate.clone()).await {
        Err(error) => {
            tracing::warn!(%error, "listening on a free port instead");
            bind_at(config, Some(SocketAddr::new(wanted.ip(), 0)), None, gate).await
        }
        other => other,
    }
}

/// Binds one address, and another one of the other family; `None`: iroh's defaults.
async fn bind_at<G: Gate>(
    config: &NetConfig,
    bind: Option<SocketAddr>,
    also: Option<SocketAddr>,
    gate: Arc<G>,
) -> Result<Endpoint, NetError> {
    let failed = |reason: String| NetError::Bind { bind, reason };
    let mut builder = base(config)?;
    if bind.is_some_and(|bind| !bind.ip().is_unspecified()) {
        builder = builder.clear_ip_transports();
    }
    for address in bind.into_iter().chain(also) {
        builder = builder.bind_addr(address).map_err(|error| failed(error.to_string()))?;
    }
    builder
        .secret_key(SecretKey::from_bytes(&config.secret))
        .alpns(vec![wire::ALPN.to_vec(), ALPN_JOIN.to_vec()])
        .transport_config(transport(config.network, KEEP_ALIVE + KEEP_ALIVE_LATER))
        .hooks(Hook(gate))
        .bind()
        .await
        .map_err(|error| failed(format!("{error:#}")))
}

/// Presets, relays and discovery.
fn base(config: &NetConfig) -> Result<Builder, NetError> {
    match config.network {
        Network::Local => Ok(Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .portmapper_config(PortmapperConfig::Disabled)),
        Network::Internet if config.relays.is_empty() => Ok(Endpoint::builder(presets::N0)),
        Network::Internet => {
            let relays: Vec<RelayUrl> = config.relays.iter().map(|url| relay_url(url)).collect::<Result<_, _>>()?;
            Ok(Endpoint::builder(presets::Minimal)
                .relay_mode(RelayMode::custom(relays))
                .clear_address_lookup()
                .portmapper_config(PortmapperConfig::Disabled))
        }
    }
}

fn relay_url(url: &str) -> Result<RelayUrl, NetError> {
    url.parse().map_err(|error| NetError::Relay { url: url.to_owned(), reason: format!("{error}") })
}

/// Timeouts and the size of packets only: larger windows lose connections ("too many gaps in stream buffer").
fn transport(network: Network, keep_alive: Duration) -> QuicTransportConfig {
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("a few seconds fit into a timeout");
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX).minimum_change(1);
    let builder = match network {
        Network::Local => QuicTransportConfig::builder().initial_rtt(LOCAL_RTT),
        Network::Internet => QuicTransportConfig::builder(),
    };
    builder
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(idle))
        .default_path_max_idle_timeout(IDLE_TIMEOUT)
        .keep_alive_interval(keep_alive)
        .default_path_keep_alive_interval(keep_alive)
        .build()
}

/// What is particular to connections that this end dials.
pub(crate) fn dialling(network: Network) -> ConnectOptions {
    ConnectOptions::new().with_transport_config(transport(network, KEEP_ALIVE))
}

/// Where to dial a device: all that is known of it and may be used on this network. `None` if the device id is no key.
pub(crate) fn dial_addr(
    network: Network,
    own: &[SocketAddr],
    device: &DeviceId,
    known: &Addresses,
) -> Option<EndpointAddr> {
    let sockets = known
        .sockets()
        .into_iter()
        .filter(|socket| network == Network::Internet || may_use_locally(socket.ip(), own))
        .filter(|socket| !socket.ip().is_unspecified() && socket.port() != 0)
        .map(TransportAddr::Ip);
    let relays = known
        .relays()
        .filter(|_| network == Network::Internet)
        .filter_map(|url| url.parse().ok())
        .map(TransportAddr::Relay);
    Some(EndpointAddr::from_parts(endpoint_id(device)?, sockets.chain(relays)))
}

/// The endpoint's own socket addresses: of its interfaces, or, until these are known, what it is bound to.
pub(crate) fn own_sockets(endpoint: &Endpoint) -> Vec<SocketAddr> {
    let found: Vec<SocketAddr> = endpoint.addr().ip_addrs().copied().collect();
    if !found.is_empty() {
        return found;
    }
    endpoint
        .bound_sockets()
        .into_iter()
        .map(|socket| match socket.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), socket.port()),
            IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), socket.port()),
            _ => socket,
        })
        .collect()
}
