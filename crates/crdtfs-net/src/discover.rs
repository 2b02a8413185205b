//! Finding devices on the local network by mDNS, and being found.
//!
//! Discovery is a convenience: where it cannot run (no multicast route, port taken) that is logged and tried again when the
//! machine's addresses change, or after half a minute. How often this device asks is [`crate::lookout`]'s business; it always
//! answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::Watcher;
use iroh::address_lookup::{AddressLookup, EndpointData};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use n0_future::StreamExt;
use tokio::time::Instant;

use crate::endpoint::device_id;
use crate::lookout::NEWCOMER;
use crate::node::Inner;

/// Own name, so that other programs on iroh are neither found nor bothered.
const SERVICE: &str = "crdtfs";
/// While a device looks around, somebody asks about this often; one that appears asks once itself after this long.
const LOOKING: Duration = Duration::from_millis(1500);
/// The same while nobody misses anybody.
const QUIET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(30);
/// Changes of addresses come in bursts.
const SETTLE: Duration = Duration::from_millis(500);

/// Announces this device and listens for others until cancelled.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut addresses = inner.endpoint.watch_addr();
    let mut lookout = inner.lookout.watch();
    inner.lookout.look(NEWCOMER);
    loop {
        let own = socket_set(&inner);
        let mut until = *lookout.borrow_and_update();
        let looks = Instant::now() < until;
        let mdns = match MdnsAddressLookup::builder()
            .service_name(SERVICE)
            .discovery_cadence(if looks { LOOKING } else { QUIET })
            .build(inner.endpoint.id())
        {
            Ok(mdns) => mdns,
            Err(error) => {
                tracing::warn!(%error, "no discovery on the local network for now");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    _ = addresses.updated() => tokio::time::sleep(SETTLE).await,
                }
                continue;
            }
        };
        mdns.publish(&EndpointData::from(own.clone()));
        let mut events = mdns.subscribe().await;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(DiscoveryEvent::Discovered { endpoint_info, .. }) => {
                        let found: Vec<SocketAddr> = endpoint_info.data.ip_addrs().copied().collect();
                        let device = device_id(endpoint_info.endpoint_id);
                        tracing::debug!(peer = %device, ?found, "found on the local network");
                        inner.peers.learn(&device, found, [], true);
                    }
                    Some(_) => {}
                    None => break,
                },
                updated = addresses.updated() => {
                    if updated.is_err() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                    if socket_set(&inner) != own {
                        // The sockets joined the groups of interfaces that may be gone: begin again.
                        inner.lookout.look(NEWCOMER);
                        break;
                    }
                }
                () = tokio::time::sleep_until(until), if looks => break,
                changed = lookout.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    until = *lookout.borrow_and_update();
                    if (Instant::now() < until) != looks {
                        // How often it asks is fixed when it begins.
                        break;
                    }
                }
            }
        }
    }
}

/// What to announce.
fn socket_set(inner: &Inner) -> BTreeSet<SocketAddr> {
    crate::endpoint::own_sockets(&inner.endpoint).into_iter().collect()
}
