//! Keeping one connection to each member: dialling, accepting, and what follows a connection's end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::DeviceId;
use crdtfs_core::wire;
use iroh::endpoint::{Connection, Incoming};
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::config::{ALPN_JOIN, DIAL_TIMEOUT, HANDSHAKE_TIMEOUT, Network, TIE_WAIT};
use crate::endpoint::{Code, device_id, dial_addr, dialling, own_sockets};
use crate::error::{LinkError, innermost};
use crate::host::blocking;
use crate::link::Link;
use crate::node::Inner;
use crate::peers::Adopted;
use crate::{introduce, join, serve, session};

/// A connection that lived this long was a good one: the next attempt follows at once.
const GOOD: Duration = Duration::from_secs(5);

/// Keeps a member connected until it is a member no more.
pub(crate) async fn keep(inner: Arc<Inner>, device: DeviceId) {
    let mut backoff = Backoff::default();
    loop {
        // One lock for the look and the leave: who is wanted again meanwhile gets a new keeper, or keeps this one.
        let wanted = inner.peers.with(&device, |peer| {
            peer.kept = peer.wanted;
            peer.wanted
        });
        if !wanted {
            return;
        }
        if let Some(link) = inner.peers.link(&device) {
            link.conn().closed().await;
            if link.tie().made.elapsed() >= GOOD {
                backoff.reset();
            } else if inner.peers.link(&device).is_none() {
                // Whatever closed it at once will do so again.
                pause(&inner, &device, &mut backoff, Duration::ZERO).await;
            }
            continue;
        }
        let at_least = match dial(&inner, &device).await {
            Ok(()) => continue,
            Err(LinkError::Duplicate) => TIE_WAIT,
            Err(error) => {
                tracing::debug!(peer = %device, %error, "cannot connect");
                inner.peers.with(&device, |peer| {
                    peer.last_error = Some(error.to_string());
                    peer.failed = peer.dialled;
                    peer.tried.notify_waiters();
                });
                if matches!(error, LinkError::Refused) && introduce::ask(&inner, &device).await {
                    continue;
                }
                inner.roster.shut_out(&device, Instant::now()).unwrap_or_default()
            }
        };
        pause(&inner, &device, &mut backoff, at_least).await;
    }
}

/// Waits before the next attempt, until there is a reason to look again.
async fn pause(inner: &Arc<Inner>, device: &DeviceId, backoff: &mut Backoff, at_least: Duration) {
    let (wake, near) = inner.peers.with(device, |peer| (peer.wake.clone(), peer.addresses.near()));
    let until = tokio::time::Instant::now() + backoff.failed(near, rand::random()).max(at_least);
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = wake.notified() => {}
        }
        let (fresh, look) = inner.peers.with(device, |peer| {
            let linked = peer.link.as_ref().is_some_and(|link| link.is_alive());
            (std::mem::take(&mut peer.fresh), linked || !peer.wanted)
        });
        if fresh {
            backoff.reset();
        }
        if fresh || look {
            return;
        }
    }
}

/// Dials a member once and takes the connection into use.
async fn dial(inner: &Arc<Inner>, device: &DeviceId) -> Result<(), LinkError> {
    inner.peers.with(device, |peer| peer.dialled = Some(Instant::now()));
    if let Some(left) = inner.roster.shut_out(device, Instant::now()) {
        return Err(LinkError::Dial(format!("left alone for {} s after it broke the protocol", left.as_secs().max(1))));
    }
    let conn = connect(inner, device, wire::ALPN).await?;
    let link = Link::greet(conn, inner.device, &inner.instance, &inner.cancel).await?;
    use_link(inner, link).await
}

/// Connects to a device at all its known addresses; begins again when another one is learned.
pub(crate) async fn connect(inner: &Arc<Inner>, device: &DeviceId, alpn: &[u8]) -> Result<Connection, LinkError> {
    let wake = inner.peers.with(device, |peer| peer.wake.clone());
    loop {
        // An attempt that begins anew has all of its time again: somebody may have called, and takes its end for an answer.
        let deadline = tokio::time::Instant::now() + DIAL_TIMEOUT;
        let (known, generation) = inner.peers.with(device, |peer| {
            peer.fresh = false;
            peer.dialled = Some(Instant::now());
            (peer.addresses.clone(), peer.generation)
        });
        let to = dial_addr(inner.config.network, &own_sockets(&inner.endpoint), device, &known)
            .ok_or_else(|| LinkError::Dial("its id is no public key".into()))?;
        if to.is_empty() && (inner.config.network == Network::Local || !inner.config.relays.is_empty()) {
            return Err(LinkError::Dial("no address of it is known yet".into()));
        }
        let connecting = async {
            let options = dialling(inner.config.network);
            let connecting =
                inner.endpoint.connect_with_opts(to, alpn, options).await.map_err(|error| innermost(&error))?;
            connecting.await.map_err(|error| innermost(&error))
        };
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                connected = &mut connecting => {
                    return connected.map_err(LinkError::Dial);
                }
                () = tokio::time::sleep_until(deadline) => return Err(LinkError::Timeout(DIAL_TIMEOUT.as_secs())),
                () = wake.notified() => {}
            }
            if inner.peers.get(device, |peer| peer.generation) != Some(generation) {
                break;
            }
        }
    }
}

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let Ok(permit) = inner.handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (cancel, accepting) = (inner.cancel.clone(), inner.clone());
        inner.tasks.spawn(async move {
            let _permit = permit;
            let accepted = tokio::select! {
                accepted = accept_one(&accepting, incoming) => accepted,
                () = cancel.cancelled() => return,
            };
            if let Err(error) = accepted {
                tracing::debug!(%error, "an incoming connection was not used");
            }
        });
    }
}

async fn accept_one(inner: &Arc<Inner>, incoming: Incoming) -> Result<(), LinkError> {
    let accepting = incoming.accept().map_err(|error| LinkError::closed(&error))?;
    let conn = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting)
        .await
        .map_err(|_| LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs()))?
        .map_err(|error| LinkError::Dial(innermost(&error)))?;
    if conn.alpn() == ALPN_JOIN {
        return join::answer(inner, conn).await;
    }
    // The endpoint's hook has asked already; a membership that ended since then counts, too.
    let device = device_id(conn.remote_id());
    if inner.roster.common(device).await.is_empty() {
        conn.close(Code::Stranger.into(), Code::Stranger.reason());
        return Err(LinkError::Stranger(device));
    }
    let link = Link::greet(conn, inner.device, &inner.instance, &inner.cancel).await?;
    use_link(inner, link).await
}

/// Takes a connection into use, unless there is another one that both ends prefer.
async fn use_link(inner: &Arc<Inner>, link: Arc<Link>) -> Result<(), LinkError> {
    let device = link.device();
    let common = inner.roster.common(device).await;
    if common.is_empty() {
        link.close(Code::Stranger, "it is no member of a share here any more");
        return Err(LinkError::Stranger(device));
    }
    link.learn_tags(&common);
    match inner.peers.adopt(&link) {
        Adopted::Lost => {
            link.close(Code::Duplicate, "another connection is used");
            Err(LinkError::Duplicate)
        }
        Adopted::Used(old) => {
            if let Some(old) = old {
                old.close(Code::Duplicate, "another connection is used");
            }
            inner.look_around();
            let span = tracing::info_span!("link", peer = %link.device());
            inner.tasks.spawn(run(inner.clone(), link).instrument(span));
            Ok(())
        }
    }
}

/// A connection's life: tells the host, opens the sessions, serves streams, cleans up.
async fn run(inner: Arc<Inner>, link: Arc<Link>) {
    let device = link.device();
    let addresses = link.addresses();
    tracing::info!(path = ?link.path().0, "connected");
    inner.peers.with(&device, |peer| peer.addresses.add(addresses.iter().copied()));
    let host = inner.host.clone();
    blocking(&inner.tasks, move || host.connected(&device, &addresses)).await;
    for share in inner.roster.common(device).await {
        session::open(&inner, &link, share);
    }
    tokio::select! {
        () = serve::streams(inner.clone(), link.clone()) => {}
        _ = link.conn().closed() => {}
        () = link.cancel.cancelled() => {}
    }
    link.close(Code::Bye, "this device closed it");
    if inner.peers.released(&link, link.end_reason()) {
        tracing::info!(reason = link.end_reason(), "disconnected");
        inner.look_around();
        let host = inner.host.clone();
        blocking(&inner.tasks, move || host.disconnected(&device)).await;
    }
}
