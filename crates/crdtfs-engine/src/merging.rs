//! Waiting for merges. While the bytes of one version are on their way a file shows another one alone. Who reads that and saves
//! what they made of it a moment later, when the merge is shown, would take away what they never had before their eyes.

use std::time::{Duration, Instant};

use crdtfs_core::id::{Hash, InodeId};
use crdtfs_core::node::Shown;
use parking_lot::{Condvar, Mutex};

use crate::share::Share;

/// Wakes those who wait for merges.
#[derive(Default)]
pub(crate) struct Merging {
    turn: Mutex<u64>,
    next: Condvar,
}

impl Merging {
    /// A merge may be done by now, or known to have to wait.
    pub(crate) fn changed(&self) {
        *self.turn.lock() += 1;
        self.next.notify_all();
    }
}

impl Share {
    /// See [`crdtfs_core::port::Tree::await_merge`].
    pub(crate) fn wait_for_merge(&self, inode: InodeId, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            // Before the look: what changes after it is not missed.
            let seen = *self.merging.turn.lock();
            if !self.is_about_to_merge(inode) {
                return;
            }
            let mut turn = self.merging.turn.lock();
            while *turn == seen {
                if self.merging.next.wait_until(&mut turn, deadline).timed_out() {
                    return;
                }
            }
        }
    }

    /// Whether a file waits for bytes for its merge, none of which were asked for in vain.
    fn is_about_to_merge(&self, inode: InodeId) -> bool {
        let in_vain: Vec<Hash> = self.in_vain.lock().keys().copied().collect();
        self.read(|replica| {
            let view = replica.view();
            let Some(node) = view.node(inode).filter(|node| node.shown == Shown::Pending) else { return false };
            let waits = |hash: &Hash| view.waiting_for(hash).any(|file| file == node.inode);
            view.wanted().iter().any(|content| waits(&content.hash)) && !in_vain.iter().any(waits)
        })
    }
}
