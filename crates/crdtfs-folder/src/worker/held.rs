//! Names that look temporary are held back for a moment: a save by temporary file and rename travels as one edit, and a lock
//! or a backup that is gone at once is never seen elsewhere. What is still there, unchanged, after that is published as
//! any other.
//!
//! Holding back means not having looked: the name stays as it was and is looked at again. What was moved to such a name is
//! then still under its old one.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crdtfs_core::node::Kind;
use crdtfs_core::temporary::looks_temporary;

use super::Worker;
use crate::disk::Stamp;
use crate::observe::{Found, Observation};
use crate::synced::Place;

/// For so long, unchanged.
const HOLD: Duration = Duration::from_secs(2);

/// What is held back: in which state, since when.
pub(super) type Held = HashMap<Place, (Stamp, Instant)>;

impl Worker {
    /// Takes what is to be held back out of what was seen.
    pub(super) fn hold_back(&mut self, obs: &mut Observation) {
        let now = Instant::now();
        let mut held = Vec::new();
        {
            let synced = self.synced.read();
            for (place, found) in &obs.places {
                let Some(found) = found.as_ref().filter(|found| found.kind != Kind::Dir) else {
                    self.held.remove(place);
                    continue;
                };
                let new = synced.child(place).is_none();
                let in_git =
                    || obs.path(&synced, place.0).is_some_and(|path| path.iter().any(|n| n.as_bytes() == b".git"));
                let looks = new && {
                    let name = place.1.as_bytes();
                    looks_temporary(name, false) || (looks_temporary(name, true) && in_git())
                };
                match looks.then(|| self.held_since(place, found, now)).flatten() {
                    Some(since) => held.push((place.clone(), found.clone(), since)),
                    None => _ = self.held.remove(place),
                }
            }
            for (place, found, _) in &held {
                obs.places.remove(place);
                for before in synced.names(found.id).iter().filter(|_| found.known) {
                    if obs.places.get(before).is_some_and(Option::is_none) {
                        obs.places.remove(before);
                        self.later.insert(before.clone(), now + HOLD);
                    }
                }
            }
        }
        for (place, found, since) in held {
            self.later.insert(place.clone(), since + HOLD);
            self.held.insert(place, (found.stamp, since));
        }
    }

    /// Since when a name is as it is, if that is not for long.
    fn held_since(&self, place: &Place, found: &Found, now: Instant) -> Option<Instant> {
        if self.first_scan && is_old(&found.stamp) {
            return None;
        }
        match self.held.get(place) {
            Some((stamp, since)) if *stamp == found.stamp => (*since + HOLD > now).then_some(*since),
            _ => Some(now),
        }
    }
}

/// Whether it was there, as it is, before anybody looked.
fn is_old(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = u64::try_from(stamp.ctime.secs).unwrap_or(0);
    now.saturating_sub(Duration::from_secs(changed)) > HOLD + Duration::from_secs(1)
}
