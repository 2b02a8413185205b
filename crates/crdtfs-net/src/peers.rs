//! The devices that are known, and the one connection that each pair of devices keeps.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::DeviceId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::address::Addresses;
use crate::config::SIMULTANEOUS;
use crate::link::Link;

/// Devices that were found on the network and are no members (yet); more are not remembered.
const MAX_UNWANTED: usize = 1024;

/// An attempt to connect that began less than this ago may well be answered soon.
const YOUNG: Duration = Duration::from_millis(500);

/// One known device.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) addresses: Addresses,
    /// Raised with each new address.
    pub(crate) generation: u64,
    /// A member of a share here: to be kept connected.
    pub(crate) wanted: bool,
    /// Its keeper task runs.
    pub(crate) kept: bool,
    pub(crate) link: Option<Arc<Link>>,
    pub(crate) last_error: Option<String>,
    /// It was seen, or got a new address, since its keeper last looked: dial at once.
    pub(crate) fresh: bool,
    /// There is a reason for its keeper to look again.
    pub(crate) wake: Arc<Notify>,
    /// When the last attempt to connect began.
    pub(crate) dialled: Option<Instant>,
    /// When the last attempt that failed had begun.
    pub(crate) failed: Option<Instant>,
    /// It is connected, or an attempt failed.
    pub(crate) tried: Arc<Notify>,
}

impl Peer {
    /// Somebody wants to know now whether it can be reached: dials at once, unless an attempt is young. Gives the time at which
    /// the attempt that counts begins at the earliest.
    fn call(&mut self, now: Instant) -> Instant {
        let young = self.dialled.filter(|at| self.failed < Some(*at) && now.saturating_duration_since(*at) < YOUNG);
        young.unwrap_or_else(|| {
            // An old attempt waits longer and longer for its answer, also when there would be one by now.
            self.generation += 1;
            self.fresh = true;
            self.wake.notify_one();
            now
        })
    }

    /// What became of a call: whether it is connected, once that is known.
    fn answer(&self, since: Instant) -> Option<bool> {
        if self.link.as_ref().is_some_and(|link| link.is_alive()) {
            return Some(true);
        }
        self.failed.is_some_and(|failed| failed >= since).then_some(false)
    }
}

/// All known devices.
#[derive(Default)]
pub(crate) struct Peers(Mutex<HashMap<DeviceId, Peer>>);

/// What became of a new connection.
pub(crate) enum Adopted {
    /// It is used, instead of the other one if there was one.
    Used(Option<Arc<Link>>),
    /// The other one stays.
    Lost,
}

impl Peers {
    /// Looks at or changes one device's entry.
    pub(crate) fn with<T>(&self, device: &DeviceId, act: impl FnOnce(&mut Peer) -> T) -> T {
        act(self.0.lock().entry(*device).or_default())
    }

    /// Looks at one device's entry if there is one.
    pub(crate) fn get<T>(&self, device: &DeviceId, look: impl FnOnce(&Peer) -> T) -> Option<T> {
        self.0.lock().get(device).map(look)
    }

    /// The live connection to a device.
    pub(crate) fn link(&self, device: &DeviceId) -> Option<Arc<Link>> {
        self.get(device, |peer| peer.link.clone()).flatten().filter(|link| link.is_alive())
    }

    /// All live connections.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.0.lock().values().filter_map(|peer| peer.link.clone()).filter(|link| link.is_alive()).collect()
    }

    /// Whether a device that is wanted is not connected.
    pub(crate) fn misses_anybody(&self) -> bool {
        self.0.lock().values().any(|peer| peer.wanted && !peer.link.as_ref().is_some_and(|link| link.is_alive()))
    }

    /// Every entry, in the order of the device ids.
    pub(crate) fn map<T>(&self, look: impl Fn(&DeviceId, &Peer) -> T) -> Vec<T> {
        let peers = self.0.lock();
        let mut devices: Vec<&DeviceId> = peers.keys().collect();
        devices.sort_unstable();
        devices.into_iter().map(|device| look(device, &peers[device])).collect()
    }

    /// Adds addresses of a device and wakes its keeper if one is new, or if there is no connection (`seen` says that it is
    /// there now).
    pub(crate) fn learn(
        &self,
        device: &DeviceId,
        sockets: impl IntoIterator<Item = SocketAddr>,
        relays: impl IntoIterator<Item = String>,
        seen: bool,
    ) {
        let mut peers = self.0.lock();
        if !peers.contains_key(device) && peers.values().filter(|peer| !peer.wanted).count() >= MAX_UNWANTED {
            return;
        }
        let peer = peers.entry(*device).or_default();
        let new = peer.addresses.add(sockets) | peer.addresses.add_relays(relays);
        if new {
            peer.generation += 1;
        }
        if (new || seen) && !peer.link.as_ref().is_some_and(|link| link.is_alive()) {
            peer.fresh = true;
            peer.wake.notify_one();
        }
    }

    /// Dials a device at once if it is not connected; whether it is then.
    pub(crate) async fn call(&self, device: &DeviceId) -> bool {
        let (since, tried) = self.with(device, |peer| {
            let since = peer.answer(Instant::now()).is_none().then(|| peer.call(Instant::now()));
            (since.unwrap_or_else(Instant::now), peer.tried.clone())
        });
        loop {
            let next = tried.notified();
            tokio::pin!(next);
            next.as_mut().enable();
            if let Some(answer) = self.with(device, |peer| peer.answer(since)) {
                return answer;
            }
            next.await;
        }
    }

    /// Sets who is wanted. Gives those that need a keeper task (they count as kept from now on) and the connections that
    /// nobody wants any more.
    pub(crate) fn want(&self, wanted: &BTreeSet<DeviceId>) -> (Vec<DeviceId>, Vec<Arc<Link>>) {
        let mut peers = self.0.lock();
        let (mut unkept, mut unwanted) = (Vec::new(), Vec::new());
        for device in wanted {
            let peer = peers.entry(*device).or_default();
            peer.wanted = true;
            if !std::mem::replace(&mut peer.kept, true) {
                unkept.push(*device);
            }
        }
        for (device, peer) in peers.iter_mut() {
            if peer.wanted && !wanted.contains(device) {
                peer.wanted = false;
                unwanted.extend(peer.link.clone());
                peer.wake.notify_one();
            }
        }
        (unkept, unwanted)
    }

    /// Decides whether a new connection is used, and enters it if so.
    pub(crate) fn adopt(&self, link: &Arc<Link>) -> Adopted {
        let mut peers = self.0.lock();
        let peer = peers.entry(link.device()).or_default();
        let old = peer.link.clone().filter(|old| old.is_alive());
        if let Some(old) = &old
            && keeps_old(&old.tie(), &link.tie())
        {
            return Adopted::Lost;
        }
        peer.link = Some(link.clone());
        peer.last_error = None;
        peer.wake.notify_one();
        peer.tried.notify_waiters();
        Adopted::Used(old)
    }

    /// A connection ended; true if it was the device's connection until now.
    pub(crate) fn released(&self, link: &Arc<Link>, error: Option<String>) -> bool {
        let mut peers = self.0.lock();
        let Some(peer) = peers.get_mut(&link.device()) else { return false };
        if !peer.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return false;
        }
        peer.link = None;
        peer.last_error = error.or(peer.last_error.take());
        true
    }
}

/// What the tie-break looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tie {
    /// Who dialled.
    pub(crate) dialer: DeviceId,
    /// Which run of the peer's program is at the other end.
    pub(crate) instance: [u8; 16],
    /// When it was made.
    pub(crate) made: Instant,
}

/// Of two connections between one pair of devices both ends keep the same one: the one that the device with the smaller id
/// dialled if both were dialled at once, else the newer one (the older is dead and one end has not noticed yet, above all
/// when the peer was started again).
fn keeps_old(old: &Tie, new: &Tie) -> bool {
    let apart: Duration = new.made.saturating_duration_since(old.made);
    old.instance == new.instance && old.dialer != new.dialer && apart < SIMULTANEOUS && old.dialer < new.dialer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tie(dialer: u8, instance: u8, made: Instant) -> Tie {
        Tie { dialer: DeviceId([dialer; 32]), instance: [instance; 16], made }
    }

    #[test]
    fn both_ends_keep_the_same_one_of_two_simultaneous_connections() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(3);
        for (first, second) in [(1, 2), (2, 1)] {
            // One end sees them in this order, the other in the other one.
            let one = if keeps_old(&tie(first, 7, now), &tie(second, 7, soon)) { first } else { second };
            let other = if keeps_old(&tie(second, 8, now), &tie(first, 8, soon)) { second } else { first };
            assert_eq!((one, other), (1, 1));
        }
    }

    #[test]
    fn a_peer_that_was_started_again_replaces_its_old_connection() {
        let now = Instant::now();
        assert!(!keeps_old(&tie(1, 7, now), &tie(2, 8, now + Duration::from_millis(3))));
        assert!(!keeps_old(&tie(1, 7, now), &tie(2, 7, now + SIMULTANEOUS)), "long after, the newer one counts");
        assert!(!keeps_old(&tie(1, 7, now), &tie(1, 7, now + Duration::from_millis(3))), "the same dialler again");
    }

    #[test]
    fn a_call_dials_anew_unless_an_attempt_is_young() {
        let (mut peer, start) = (Peer::default(), Instant::now());
        assert_eq!((peer.call(start), peer.fresh, peer.generation), (start, true, 1));
        peer.dialled = Some(start);
        assert_eq!(peer.answer(start), None);
        let soon = start + YOUNG / 2;
        assert_eq!((peer.call(soon), peer.generation), (start, 1), "it may well be answered");
        let later = start + YOUNG;
        assert_eq!((peer.call(later), peer.generation), (later, 2));
        peer.failed = Some(start);
        assert_eq!((peer.answer(start), peer.answer(later)), (Some(false), None), "it began before the call");
        assert_eq!((peer.call(soon), peer.generation), (soon, 3), "what failed is tried anew");
    }

    #[test]
    fn who_is_wanted_gets_one_keeper() {
        let peers = Peers::default();
        let (a, b) = (DeviceId([1; 32]), DeviceId([2; 32]));
        assert_eq!(peers.want(&[a].into()).0, [a]);
        assert_eq!(peers.want(&[a, b].into()).0, [b]);
        assert!(peers.want(&[b].into()).0.is_empty());
        assert!(peers.misses_anybody());
        assert_eq!(peers.get(&a, |peer| peer.wanted), Some(false));
        peers.want(&BTreeSet::new());
        assert!(!peers.misses_anybody());
    }

    #[test]
    fn strangers_on_the_network_are_remembered_only_so_many() {
        let peers = Peers::default();
        for i in 0..2 * MAX_UNWANTED as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&i.to_le_bytes());
            peers.learn(&DeviceId(id), [SocketAddr::from(([10, 0, 0, 1], 1))], [], true);
        }
        assert_eq!(peers.map(|_, _| ()).len(), MAX_UNWANTED);
    }
}
