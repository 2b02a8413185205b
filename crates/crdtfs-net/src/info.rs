//! What `crdtfs peers` and `crdtfs status` show of the network.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crdtfs_core::id::{DeviceId, ShareId};

/// The way that packets to a device take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathKind {
    /// Not connected.
    #[default]
    None,
    /// From address to address.
    Direct,
    /// Over a relay.
    Relayed,
}

/// One member, connected or not.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The device.
    pub device: DeviceId,
    /// The way that packets take now.
    pub path: PathKind,
    /// Its addresses: of the connection, or, without one, those known.
    pub addresses: Vec<SocketAddr>,
    /// Round trip time of the path.
    pub rtt: Option<Duration>,
    /// Bytes received on this connection, with all overhead.
    pub received: u64,
    /// Bytes sent on this connection, with all overhead.
    pub sent: u64,
    /// Bytes received a second, over the time since the last look (at least half a second).
    pub receive_rate: u64,
    /// Bytes sent a second.
    pub send_rate: u64,
    /// Connected since.
    pub since: Option<SystemTime>,
    /// Why the last connection ended or could not be made; `None` after one was made.
    pub last_error: Option<String>,
    /// Shares that are being synced with it.
    pub shares: Vec<ShareId>,
}

/// Byte counts and rates of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) receive_rate: u64,
    pub(crate) send_rate: u64,
    /// Counts at the beginning of the time that the rates are measured over.
    base: Option<(Instant, u64, u64)>,
}

impl Traffic {
    /// Takes new counts; rates are renewed after half a second at the earliest.
    pub(crate) fn sample(&mut self, received: u64, sent: u64, made: Instant, now: Instant) {
        let (at, base_received, base_sent) = self.base.unwrap_or((made, 0, 0));
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        (self.received, self.sent) = (received, sent);
        if seconds >= 0.5 {
            self.receive_rate = (received.saturating_sub(base_received) as f64 / seconds) as u64;
            self.send_rate = (sent.saturating_sub(base_sent) as f64 / seconds) as u64;
            self.base = Some((now, received, sent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_since_the_last_look() {
        let made = Instant::now();
        let mut traffic = Traffic::default();
        traffic.sample(1000, 10, made, made + Duration::from_secs(2));
        assert_eq!((traffic.receive_rate, traffic.send_rate), (500, 5));
        traffic.sample(9000, 10, made, made + Duration::from_millis(2100));
        assert_eq!((traffic.received, traffic.receive_rate), (9000, 500), "too soon for another rate");
        traffic.sample(9000, 20, made, made + Duration::from_secs(4));
        assert_eq!((traffic.receive_rate, traffic.send_rate), (4000, 5));
    }
}
