//! When to drop what no version needs any more, and how.
//!
//! Now and then what nothing needs is dropped, and packs are rewritten where that pays. On a full disk the user removes
//! files to get room: then what the tree no longer needs goes at once, though the history still lists it. A disk is full if
//! little is left, if something did not fit lately, or if what no tree needs takes more room than is left.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_store::StoreError;

use crate::core::Core;
use crate::retention::Keep;

/// How often what no version needs is dropped.
const EVERY: Duration = Duration::from_secs(3600);

/// A collection leaves what came since the one before: what was removed goes with the second one.
const ROUNDS: u8 = 2;

/// Why a collection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is time.
    Due,
    /// The disk is full, and something was removed.
    Full,
    /// On-demand mounts may have more than they are to keep.
    Caches,
}

/// The collections of an engine.
pub(crate) struct Collecting {
    /// The thread of the last one.
    pub(crate) thread: Option<JoinHandle<()>>,
    began: Instant,
    /// What was removed from the views before the last one on a full disk.
    removals: u64,
    rounds: u8,
}

impl Collecting {
    pub(crate) fn new() -> Self {
        // What was removed before the engine ended last may still be there.
        Self { thread: None, began: Instant::now(), removals: u64::MAX, rounds: 0 }
    }

    /// Whether a collection on a full disk may free something: something was removed since, or it is not done yet.
    pub(crate) fn may_free(&self, removals: u64) -> bool {
        self.rounds > 0 || self.removals != removals
    }

    /// Whether a collection is to begin now, and why; `removals` counts what was removed from the views so far. To be asked
    /// every few seconds.
    pub(crate) fn due(&mut self, full: bool, removals: u64) -> Option<Why> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return None;
        }
        if full && self.removals != removals {
            (self.removals, self.rounds) = (removals, ROUNDS);
        }
        let why = if full && self.rounds > 0 {
            self.rounds -= 1;
            Why::Full
        } else if self.began.elapsed() >= EVERY {
            Why::Due
        } else {
            return None;
        };
        self.began = Instant::now();
        Some(why)
    }
}

impl Collecting {
    /// As [`Collecting::due`], for the caches of on-demand mounts.
    pub(crate) fn for_caches(&self, wanted: bool) -> Option<Why> {
        let busy = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        (wanted && !busy).then_some(Why::Caches)
    }
}

impl Core {
    /// Drops what is not to be kept any more, and gives its room back.
    pub(crate) fn collect_for(&self, why: Why) -> Result<bool, StoreError> {
        let freed = match why {
            Why::Due => return self.collect().map(|()| false),
            Why::Full => self.reclaim()?,
            Why::Caches => self.shrink_caches()?,
        };
        if freed {
            // Some of it may have become wanted meanwhile.
            self.shares().iter().for_each(|share| share.take_stock());
            self.progressed_now();
        }
        Ok(freed)
    }

    /// Something did not fit: what the tree does not need goes at once, though the history still lists it. True if there is
    /// more room than before, whoever made it.
    pub(crate) fn make_room(&self) -> bool {
        let (before, made) = (self.space().free_now(), self.room_made.load(Ordering::Acquire));
        // One at a time: who comes meanwhile finds the room that this one makes.
        let mut futile = self.futile.lock();
        if self.room_made.load(Ordering::Acquire) != made {
            return true;
        }
        // What is fetched again goes before what is nowhere else.
        if self.store().give_up_parts() > 0 {
            self.room_made.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        let removals = self.removals();
        if *futile == Some(removals) {
            return false;
        }
        let mut freed = false;
        for _ in 0..ROUNDS {
            match self.collect_for(Why::Full) {
                Ok(some) => freed |= some,
                Err(error) => {
                    tracing::warn!(%error, "no room could be made");
                    break;
                }
            }
        }
        // The collector that runs now and then may have been quicker.
        freed |= self.space().free_now() > before;
        self.room_made.fetch_add(freed.into(), Ordering::AcqRel);
        *futile = (!freed).then_some(removals);
        freed
    }

    /// Drops what on-demand mounts keep no longer; true if that gave room back.
    fn shrink_caches(&self) -> Result<bool, StoreError> {
        let surplus: BTreeSet<ContentRef> = self.surplus().into_iter().collect();
        if surplus.is_empty() {
            return Ok(false);
        }
        self.look_at_caches_again();
        let keep = |content: &ContentRef| !surplus.contains(content);
        let report = self.store().reclaim(&mut || self.kept(Keep::Retained).into_iter().filter(keep).collect())?;
        tracing::info!(chunks = report.chunks, objects = report.objects, "cached contents went");
        Ok(report.chunks > 0 || report.objects > 0 || report.freed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_full_disk_what_was_removed_goes_in_two_rounds() {
        let mut collecting = Collecting::new();
        assert!(collecting.may_free(0), "what was removed before the start");
        assert_eq!(collecting.due(true, 0), Some(Why::Full));
        assert_eq!(collecting.due(true, 0), Some(Why::Full));
        assert_eq!(collecting.due(true, 0), None);
        assert_eq!(collecting.due(false, 5), None);
        assert_eq!(collecting.due(true, 5), Some(Why::Full));
        assert_eq!(collecting.due(true, 5), Some(Why::Full));
        assert_eq!(collecting.due(true, 5), None, "nothing was removed since");
        assert_eq!(collecting.due(true, 6), Some(Why::Full));
        assert_eq!(collecting.due(false, 6), None, "there is room");
    }
}
