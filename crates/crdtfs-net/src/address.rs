//! Where a device may be reached: the addresses that were seen, and which of them may be used on the local network.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Addresses kept of one device: those last heard of.
const MAX_ADDRESSES: usize = 16;

/// The addresses of one device, the last heard of first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    sockets: VecDeque<SocketAddr>,
    relays: VecDeque<String>,
}

impl Addresses {
    /// Adds addresses; true if one of them is new.
    pub(crate) fn add(&mut self, sockets: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut new = false;
        for socket in sockets {
            new |= push_front(&mut self.sockets, canonical(socket));
        }
        new
    }

    /// Adds relay URLs; true if one of them is new.
    pub(crate) fn add_relays(&mut self, relays: impl IntoIterator<Item = String>) -> bool {
        let mut new = false;
        for relay in relays {
            new |= push_front(&mut self.relays, relay);
        }
        new
    }

    /// All socket addresses.
    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        self.sockets.iter().copied().collect()
    }

    /// All relay URLs.
    pub(crate) fn relays(&self) -> impl Iterator<Item = &str> {
        self.relays.iter().map(String::as_str)
    }

    /// Whether one of the addresses lies on a local network.
    pub(crate) fn near(&self) -> bool {
        self.sockets.iter().any(|socket| is_local(socket.ip()))
    }
}

/// Puts an item in front; true if it was not there.
fn push_front<T: PartialEq>(items: &mut VecDeque<T>, item: T) -> bool {
    let at = items.iter().position(|other| *other == item);
    if let Some(at) = at {
        items.remove(at);
    }
    items.push_front(item);
    items.truncate(MAX_ADDRESSES);
    at.is_none()
}

/// An IPv4 address that came as IPv6 is the same address.
fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

/// Whether an address is of a private, link-local, shared or loopback network.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether a device that must stay on its own networks may send to `ip`: a local address, or one in the same /24 (IPv6:
/// /64) as one of its `own`, as on networks that give out public addresses.
pub(crate) fn may_use_locally(ip: IpAddr, own: &[SocketAddr]) -> bool {
    is_local(ip)
        || own.iter().any(|own| match (own.ip().to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => own.octets()[..3] == ip.octets()[..3],
            (IpAddr::V6(own), IpAddr::V6(ip)) => own.octets()[..8] == ip.octets()[..8],
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_heard_of_addresses_stay() {
        let mut addresses = Addresses::default();
        assert!(addresses.add((0..40).map(|port| SocketAddr::from(([10, 0, 0, 1], port)))));
        assert_eq!(addresses.sockets().len(), MAX_ADDRESSES);
        assert_eq!(addresses.sockets()[0].port(), 39);
        assert!(!addresses.add([addr("10.0.0.1:30")]), "known");
        assert_eq!(addresses.sockets()[0].port(), 30);
        assert!(!addresses.add([addr("[::ffff:10.0.0.1]:31")]), "the same address, mapped");
        assert!(addresses.near());
    }

    #[test]
    fn only_own_networks_are_local() {
        for local in ["127.0.0.1", "10.9.8.7", "192.168.1.1", "169.254.3.4", "100.64.0.1", "::1", "fd00::1", "fe80::1"]
        {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for far in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert!(!is_local(far.parse().unwrap()), "{far}");
        }
        let own = [addr("203.0.113.5:1"), addr("[2001:db8:0:7::5]:1")];
        assert!(may_use_locally("203.0.113.77".parse().unwrap(), &own));
        assert!(may_use_locally("2001:db8:0:7:9::1".parse().unwrap(), &own));
        assert!(!may_use_locally("203.0.114.77".parse().unwrap(), &own));
        assert!(!may_use_locally("2001:db8:0:8::1".parse().unwrap(), &own));
    }
}
