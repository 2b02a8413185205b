//! The snapshot of a share's document, from which a start goes on that has nothing better; and with it the saved replica.
//!
//! It is made every so often on a thread of its own: of a large document that takes seconds, and commits go on meanwhile. It
//! counts only if nothing was dropped since it was begun: it may have what no longer counts, and the next one would be made
//! of it. The share's end ([`Share::end_snapshots`]) is also that of the thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crdtfs_store::Staged;

use crate::load;
use crate::share::{Ordered, Share, ShareError};

/// A new snapshot is made, and the replica saved, after this many envelopes and as many more as are an eighth of the log.
const SNAPSHOT_AFTER: u64 = 2_000;

/// Who makes a share's snapshots.
#[derive(Default)]
pub(crate) struct Snapshots {
    thread: Option<JoinHandle<()>>,
    /// None is begun any more.
    ended: bool,
}

impl Share {
    /// Begins a snapshot if it is time for one and none is being made, of whatever share.
    pub(super) fn snapshot_if_due(self: &Arc<Self>) {
        let due = self.order.lock().since_snapshot >= SNAPSHOT_AFTER + self.log().len() / 8;
        if !due || self.snapshot_turn.is_locked() {
            return;
        }
        let mut snapshots = self.snapshots.lock();
        if snapshots.ended || snapshots.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let share = self.clone();
        match std::thread::Builder::new().name("crdtfs-snapshot".into()).spawn(move || share.make_snapshot()) {
            Ok(thread) => snapshots.thread = Some(thread),
            Err(error) => tracing::warn!(share = %self.id(), %error, "no new snapshot"),
        }
    }

    fn make_snapshot(&self) {
        // Where another share was quicker the next chores try again.
        let Some(_turn) = self.snapshot_turn.try_lock() else { return };
        if let Err(error) = self.make_snapshot_now() {
            tracing::warn!(share = %self.id(), %error, "no new snapshot");
        }
    }

    fn make_snapshot_now(&self) -> Result<(), ShareError> {
        let began = self.begin_snapshot();
        let Some(staged) = self.stage_snapshot(began)? else { return Ok(()) };
        if self.place_snapshot(staged, began)? { self.save() } else { Ok(()) }
    }

    /// By what is returned the end knows whether the snapshot may count.
    fn begin_snapshot(&self) -> u64 {
        let mut order = self.order.lock();
        order.since_snapshot = 0;
        self.voids.load(Ordering::Relaxed)
    }

    /// Writes a snapshot that does not count yet, if one that was begun then may do so.
    fn stage_snapshot(&self, began: u64) -> Result<Option<Staged>, ShareError> {
        load::make_snapshot(&self.id(), self.log(), &|| self.voids.load(Ordering::Relaxed) == began)
    }

    /// Lets a snapshot count, unless something was dropped since it was begun.
    fn place_snapshot(&self, staged: Staged, began: u64) -> Result<bool, ShareError> {
        // Nothing is dropped meanwhile.
        let _order = self.order.lock();
        if self.voids.load(Ordering::Relaxed) != began {
            tracing::debug!(share = %self.id(), "a snapshot is of no use: some of it was dropped, or the share closed");
            return Ok(false);
        }
        staged.place()?;
        Ok(true)
    }

    /// What was dropped from the log is in no snapshot any more, nor in one that is being made.
    pub(super) fn void_snapshots(&self, order: &mut Ordered) {
        self.voids.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = load::void_snapshots(self.log()) {
            tracing::error!(share = %self.id(), %error, "a snapshot with dropped changes stays");
        }
        (order.since_snapshot, order.since_saved) = (self.log().len(), self.log().len());
    }

    /// Begins no snapshot any more, and gives up one that is being made; returns when there is no thread any more.
    pub(crate) fn end_snapshots(&self) {
        let thread = {
            let mut snapshots = self.snapshots.lock();
            snapshots.ended = true;
            snapshots.thread.take()
        };
        let order = self.order.lock();
        self.voids.fetch_add(1, Ordering::Relaxed);
        drop(order);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(share = %self.id(), "the thread that makes snapshots panicked");
        }
    }
}

#[cfg(test)]
mod tests;
