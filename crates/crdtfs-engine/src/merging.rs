//! Waiting for merges. While the bytes of one version are on their way a file shows another one alone. Who reads that and saves
//! what they made of it a moment later, when the merge is shown, would take away what they never had before their eyes.
//!
//! Patience is with the bytes, not with each file: what was waited for once, while a reader waited for whatever merge, is not
//! waited for a second time. A thousand files that lack bytes that do not come cost one wait in all. There is new patience when
//! others that were asked for along with them came, or a member connected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId};
use crdtfs_core::node::Shown;
use parking_lot::{Condvar, Mutex};

use crate::share::Share;

/// Wakes those who wait for merges.
#[derive(Default)]
pub(crate) struct Merging {
    waits: Mutex<Waits>,
    next: Condvar,
}

#[derive(Default)]
struct Waits {
    /// Counts what may end a wait.
    turn: u64,
    /// Until when bytes are waited for; some of them may be wanted no more.
    until: BTreeMap<Hash, Instant>,
}

/// What a file waits for.
struct Lacking {
    /// The bytes that its merge needs.
    own: Vec<Hash>,
    /// The bytes that all merges of the share need.
    all: Vec<ContentRef>,
}

impl Waits {
    /// Until when a file waits for its bytes. Whoever asks waits for all others as well: some may wait for these next.
    fn until(&mut self, lacking: &Lacking, now: Instant, patience: Duration) -> Instant {
        for content in &lacking.all {
            self.until.entry(content.hash).or_insert(now + patience);
        }
        lacking.own.iter().filter_map(|hash| self.until.get(hash)).min().copied().unwrap_or(now)
    }
}

impl Merging {
    /// A merge may be done by now, or known to have to wait.
    pub(crate) fn changed(&self) {
        self.waits.lock().turn += 1;
        self.next.notify_all();
    }

    /// Some bytes that merges need came, but those did not that were asked for with them.
    pub(crate) fn got_further(&self, but: &BTreeSet<Hash>) {
        self.waits.lock().until.retain(|hash, _| but.contains(hash));
    }

    /// Somebody came who may have what is waited for.
    pub(crate) fn somebody_came(&self) {
        self.waits.lock().until.clear();
    }
}

impl Share {
    /// See [`crdtfs_core::port::Tree::await_merge`].
    pub(crate) fn wait_for_merge(&self, inode: InodeId, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            // Before the look: what changes after it is not missed.
            let seen = self.merging.waits.lock().turn;
            let Some(lacking) = self.lacks_for_merge(inode) else { return };
            let mut waits = self.merging.waits.lock();
            let until = waits.until(&lacking, Instant::now(), patience).min(deadline);
            while waits.turn == seen && !self.merging.next.wait_until(&mut waits, until).timed_out() {}
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// The bytes that a file waits for to be merged, unless some of them were asked for in vain.
    fn lacks_for_merge(&self, inode: InodeId) -> Option<Lacking> {
        let in_vain: Vec<Hash> = self.in_vain.lock().keys().copied().collect();
        self.read(|replica| {
            let view = replica.view();
            let node = view.node(inode).filter(|node| node.shown == Shown::Pending)?;
            let waits = |hash: &Hash| view.waiting_for(hash).any(|file| file == node.inode);
            let all = view.wanted();
            let own: Vec<Hash> = all.iter().map(|content| content.hash).filter(waits).collect();
            (!own.is_empty() && !in_vain.iter().any(waits)).then_some(Lacking { own, all })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lacking(own: &[u8], all: &[u8]) -> Lacking {
        let content = |byte: &u8| ContentRef { hash: Hash([*byte; 32]), size: 1, manifest: None };
        Lacking { own: own.iter().map(|byte| Hash([*byte; 32])).collect(), all: all.iter().map(content).collect() }
    }

    #[test]
    fn patience_is_with_the_bytes() {
        let merging = Merging::default();
        let start = Instant::now();
        let until = |own: &[u8], all: &[u8], now| merging.waits.lock().until(&lacking(own, all), now, SECOND);
        let but = |hash: u8| BTreeSet::from([Hash([hash; 32])]);
        assert_eq!(until(&[1], &[1, 2], start), start + SECOND);
        let later = start + 9 * SECOND;
        assert_eq!(until(&[2], &[1, 2], later), start + SECOND, "another file's reader waited for them");
        assert_eq!(until(&[1], &[1, 2, 3], later - SECOND / 2), start + SECOND);
        assert_eq!(until(&[3], &[1, 2, 3], later), later + SECOND / 2, "these came while somebody waited");
        assert_eq!(until(&[4], &[1, 2, 3, 4], later), later + SECOND, "these are new");
        assert_eq!(until(&[1, 3], &[1, 2, 3], later), start + SECOND, "without the one the other is of no use");
        merging.got_further(&but(1));
        assert_eq!(until(&[1], &[1, 2], later), start + SECOND, "they were asked for with those that came");
        assert_eq!(until(&[2], &[1, 2], later), later + SECOND, "they are next");
        merging.somebody_came();
        assert_eq!(until(&[1], &[1, 2], later), later + SECOND);
    }
}
