//! What the user did and the share did not take: told, and, where that may change by itself, tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;

use super::problems::Of;
use super::{Worker, join};
use crate::observe::Observation;
use crate::publish::Refused;
use crate::synced::Place;

/// First and longest pause before something is tried again for which there was no room.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(8);

/// One of them.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The path under which the user was told.
    path: Vec<u8>,
    /// How often it was tried, if it is tried again.
    tries: Option<u32>,
}

impl Worker {
    /// What is not in the share though it should be, and will be tried again.
    pub(super) fn is_owing(&self) -> bool {
        self.refused.values().any(|refusal| refusal.tries.is_some())
    }

    /// Notes what was refused of what was looked at, and that the rest was not.
    pub(super) fn note_refused(&mut self, obs: &Observation, mut refused: Vec<Refused>) {
        refused.append(&mut self.no_room);
        if refused.is_empty() && self.refused.is_empty() {
            return;
        }
        let mut before: HashMap<Place, Refusal> = HashMap::new();
        let (synced, problems) = (self.synced.read(), &self.shown.problems);
        let known = |dir: InodeId| synced.is_dir(dir) || obs.new_dirs.contains(&dir);
        self.refused.retain(|place, refusal| {
            // What lies in a directory that was refused itself is looked at again with that.
            let stays = !obs.places.contains_key(place) && known(place.0);
            if !stays {
                problems.end(&refusal.path, Of::Taking);
                before.insert(place.clone(), Refusal { path: Vec::new(), tries: refusal.tries });
            }
            stays
        });
        let told = refused.into_iter().filter(|refused| synced.is_dir(refused.at.0));
        let told: Vec<(Refused, Vec<u8>)> = told
            .map(|refused| {
                let mut path = synced.path(refused.at.0).unwrap_or_default();
                path.push(refused.at.1.clone());
                (refused, join(&path))
            })
            .collect();
        drop(synced);
        for (refused, path) in told {
            let tries = before.get(&refused.at).and_then(|before| before.tries).unwrap_or(0);
            self.refuse(refused, path, tries);
        }
    }

    /// There was no room to keep what a file holds, which was read by the crew.
    pub(super) fn note_no_room(&mut self) {
        for refused in std::mem::take(&mut self.no_room) {
            let tries = self.refused.get(&refused.at).and_then(|before| before.tries).unwrap_or(0);
            let path = self.path_of(&refused.at);
            self.refuse(refused, path, tries);
        }
    }

    fn refuse(&mut self, Refused { at, why, again }: Refused, path: Vec<u8>, tries: u32) {
        self.shown.problems.say(&path, Of::Taking, why);
        if again {
            let pause = (AGAIN * 2u32.saturating_pow(tries)).min(AGAIN_MAX);
            self.later.insert(at.clone(), Instant::now() + pause);
        }
        self.refused.insert(at, Refusal { path, tries: again.then_some(tries + 1) });
    }
}
