//! The control socket's requests, each to the part that answers it.

use std::sync::Arc;

use crdtfs_control::reply::{Peer, Peers, Pong, Stopped};
use crdtfs_control::{BoxFuture, Failure, PROTOCOL, Reply, Request, Service, Talk};

use crate::convert;
use crate::core::Core;
use crate::shows::blocking;

/// Answers for a [`Core`].
pub(crate) struct EngineService(pub(crate) Arc<Core>);

impl Service for EngineService {
    fn call<'a>(&'a self, request: Request, talk: &'a mut Talk) -> BoxFuture<'a, Result<Reply, Failure>> {
        let core = self.0.clone();
        Box::pin(async move {
            match request {
                Request::Ping(ping) => {
                    if ping.shown {
                        core.resumed(None).await;
                    }
                    Ok(Reply::Pong(core.pong()))
                }
                Request::Show(show) => core.show(show, talk).await,
                Request::Hide(hide) => core.hide(hide).await,
                Request::Invite(invite) => blocking(move || core.invite(&invite)).await,
                Request::Status(status) => blocking(move || core.status(&status)).await,
                Request::Wait(wait) => core.wait(wait, talk).await,
                Request::Peers(_) => blocking(move || Ok(Reply::Peers(core.peers()))).await,
                Request::Members(members) => blocking(move || core.list_members(&members)).await,
                Request::Ls(ls) => core.ls(ls, talk).await,
                Request::Log(log) => core.log(log, talk).await,
                Request::Conflicts(conflicts) => core.conflicts(conflicts, talk).await,
                Request::Keep(keep) => blocking(move || core.keep(&keep)).await,
                Request::Restore(restore) => core.restore(restore, talk).await,
                Request::Check(check) => core.check(check, talk).await,
                Request::Stop(_) => {
                    core.request_stop().await;
                    Ok(Reply::Stopped(Stopped {}))
                }
            }
        })
    }
}

impl Core {
    fn pong(&self) -> Pong {
        Pong {
            protocol: PROTOCOL,
            version: self.config.version.clone(),
            pid: std::process::id(),
            device: self.device.to_string(),
            name: self.config.name.clone(),
            network: self.network_word().to_owned(),
        }
    }

    fn peers(&self) -> Peers {
        let names = self.device_names();
        let peers = self.node().peers().into_iter().map(|peer| Peer {
            device: peer.device.to_string(),
            name: names.get(&peer.device).cloned().unwrap_or_default(),
            connected: peer.path != crdtfs_net::PathKind::None,
            route: convert::route_out(peer.path),
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            rate_in: peer.receive_rate,
            rate_out: peer.send_rate,
            bytes_in: peer.received,
            bytes_out: peer.sent,
            since_ms: peer.since.map(system_ms),
            last_error: peer.last_error,
        });
        Peers { peers: peers.collect() }
    }
}

fn system_ms(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
