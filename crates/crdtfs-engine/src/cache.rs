//! What an on-demand mount keeps of what it fetched: at most as much as the user said.
//!
//! What was not used for longest goes first. Nothing goes that no connected member holds: a member holds a content if it
//! said that it has all changes that are here and all contents of them. Open files keep theirs.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;

use crate::core::Core;
use crate::share::Share;

/// Without a limit.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// Which contents were used when.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    tick: u64,
    last: HashMap<Hash, u64>,
    /// The tick at the last look at what is too much.
    looked: u64,
}

impl Uses {
    fn note(&mut self, content: &ContentRef) {
        self.tick += 1;
        self.last.insert(content.hash, self.tick);
    }
}

impl Share {
    /// A content is opened, to be read or written.
    pub(crate) fn note_use(&self, content: &ContentRef) {
        if self.cache_limit.load(Ordering::Relaxed) != UNLIMITED {
            self.uses.lock().note(content);
        }
    }

    /// Whether more may be here than is to be kept: something was used since this was asked, or [`Share::look_again`] called.
    pub(crate) fn may_exceed(&self) -> bool {
        let mut uses = self.uses.lock();
        let used = uses.looked != uses.tick;
        uses.looked = uses.tick;
        used && self.cache_limit.load(Ordering::Relaxed) != UNLIMITED
    }

    fn look_again(&self) {
        self.uses.lock().tick += 1;
    }

    /// The contents that are to go; `held`: whether a connected member holds everything that is in the view.
    fn surplus(&self, held: impl FnOnce() -> bool) -> Vec<ContentRef> {
        let limit = self.cache_limit.load(Ordering::Relaxed);
        let mut here: Vec<(u64, u64, ContentRef)> = {
            let contents = self.read(|replica| replica.view().shown_contents());
            let uses = self.uses.lock();
            let last = |content: &ContentRef| uses.last.get(&content.hash).copied().unwrap_or(0);
            let bytes = |content: &ContentRef| self.store().holds(content).unwrap_or(content.size);
            contents.into_iter().map(|content| (last(&content), bytes(&content), content)).collect()
        };
        let mut total: u64 = here.iter().map(|(_, bytes, _)| bytes).sum();
        if total <= limit {
            return Vec::new();
        }
        // After the look at the contents: whoever has all changes now has those that they are of.
        self.commit_all();
        if !held() {
            self.look_again();
            return Vec::new();
        }
        here.sort_unstable();
        let mut surplus = Vec::new();
        for (_, bytes, content) in here.into_iter().filter(|(_, bytes, _)| *bytes > 0) {
            if total <= limit {
                break;
            }
            total -= bytes;
            surplus.push(content);
        }
        surplus
    }
}

impl Core {
    /// The contents that on-demand mounts keep no longer.
    pub(crate) fn surplus(&self) -> Vec<ContentRef> {
        let mut surplus = Vec::new();
        for share in self.shares() {
            surplus.extend(share.surplus(|| {
                let connected = self.connected(&share.id());
                connected.iter().any(|device| share.is_held_by(device))
            }));
        }
        surplus
    }

    /// A collection leaves what came since the one before: what had to stay is looked at once more.
    pub(crate) fn look_at_caches_again(&self) {
        self.shares().iter().for_each(|share| share.look_again());
    }
}
