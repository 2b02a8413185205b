//! Who may connect: members of the shares here that have not just broken the protocol.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, ShareId};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::backoff::penalty;
use crate::endpoint::Gate;
use crate::host::{Host, blocking};

/// Offences are forgotten after this long without another one.
const FORGIVE: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy)]
struct Offences {
    count: u32,
    last: Instant,
}

/// Asks the host who is a member, and remembers who broke the protocol.
pub(crate) struct Roster {
    host: Arc<dyn Host>,
    tasks: TaskTracker,
    offences: Mutex<HashMap<DeviceId, Offences>>,
}

impl Roster {
    pub(crate) fn new(host: Arc<dyn Host>, tasks: TaskTracker) -> Self {
        Self { host, tasks, offences: Mutex::new(HashMap::new()) }
    }

    /// The shares that a device is a member of.
    pub(crate) async fn common(&self, device: DeviceId) -> Vec<ShareId> {
        let host = self.host.clone();
        let common = blocking(&self.tasks, move || {
            let mut shares = host.shares();
            shares.retain(|share| host.is_member(share, &device));
            shares
        });
        common.await.unwrap_or_default()
    }

    /// Notes that a member broke the protocol. (Strangers are never noted, so the map is bounded by the members.)
    pub(crate) fn offended(&self, device: DeviceId, now: Instant) {
        let mut offences = self.offences.lock();
        let entry = offences.entry(device).or_insert(Offences { count: 0, last: now });
        if now.saturating_duration_since(entry.last) > FORGIVE {
            entry.count = 0;
        }
        *entry = Offences { count: entry.count.saturating_add(1), last: now };
    }

    /// How much longer a device is shut out.
    pub(crate) fn shut_out(&self, device: &DeviceId, now: Instant) -> Option<Duration> {
        let offences = self.offences.lock();
        let entry = offences.get(device)?;
        (entry.last + penalty(entry.count)).checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

impl Gate for Roster {
    async fn admits(&self, device: DeviceId) -> bool {
        self.shut_out(&device, Instant::now()).is_none() && !self.common(device).await.is_empty()
    }
}
