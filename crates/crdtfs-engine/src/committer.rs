//! The thread that turns operations into changes: group commit, so that a burst of operations makes few changes, and each
//! is sent within [`GATHER_MAX`]. It also does the engine's rare chores.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_core::id::ShareId;
use parking_lot::{Condvar, Mutex};

use crate::core::Core;

/// A commit waits this long for the next operation …
const GATHER: Duration = Duration::from_millis(4);

/// … but not longer than this in all.
const GATHER_MAX: Duration = Duration::from_millis(40);

/// See the module.
#[derive(Default)]
pub(crate) struct Committer {
    state: Mutex<State>,
    came: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    dirty: BTreeSet<ShareId>,
    /// Shares that have something to do at a time.
    later: BTreeMap<ShareId, Instant>,
    /// Counts calls of [`Committer::wake`], to see whether a burst goes on.
    wakes: u64,
    stop: bool,
}

impl State {
    /// What had time until now has none left.
    fn take_due(&mut self, now: Instant) {
        let due: Vec<ShareId> = self.later.iter().filter(|(_, when)| **when <= now).map(|(share, _)| *share).collect();
        for share in due {
            self.later.remove(&share);
            self.dirty.insert(share);
        }
    }
}

impl Committer {
    /// Starts the thread. It ends with [`Committer::stop`], or when the engine is gone.
    pub(crate) fn start(self: &Arc<Self>, core: Weak<Core>, chores_every: Duration) -> io::Result<()> {
        let committer = self.clone();
        let run = move || committer.run(&core, chores_every);
        *self.thread.lock() = Some(std::thread::Builder::new().name("crdtfs-commit".into()).spawn(run)?);
        Ok(())
    }

    /// A share has operations to commit.
    pub(crate) fn wake(&self, share: ShareId) {
        let mut state = self.state.lock();
        state.wakes += 1;
        if state.dirty.insert(share) {
            self.came.notify_one();
        }
    }

    /// A share has something to do then, at the latest.
    pub(crate) fn wake_at(&self, share: ShareId, when: Instant) {
        let mut state = self.state.lock();
        let known = state.later.entry(share).or_insert(when);
        *known = when.min(*known);
        // The thread sleeps until a time that may now be too late.
        self.came.notify_one();
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.came.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the committer's thread panicked");
        }
    }

    fn run(&self, core: &Weak<Core>, chores_every: Duration) {
        let mut chores = Instant::now() + chores_every;
        loop {
            let dirty = self.gather(chores);
            let Some(core) = core.upgrade() else { return };
            for share in dirty.iter().filter_map(|id| core.share(id)) {
                share.take_turn();
            }
            if Instant::now() >= chores {
                core.chores();
                chores = Instant::now() + chores_every;
            }
            if self.state.lock().stop {
                return;
            }
        }
    }

    /// Waits for operations and until their burst is over or long enough; returns without any when the chores are due.
    fn gather(&self, chores: Instant) -> BTreeSet<ShareId> {
        let mut state = self.state.lock();
        loop {
            state.take_due(Instant::now());
            if !state.dirty.is_empty() || state.stop || Instant::now() >= chores {
                break;
            }
            let next = state.later.values().min().map_or(chores, |when| chores.min(*when));
            self.came.wait_until(&mut state, next);
        }
        if !state.dirty.is_empty() {
            let end = Instant::now() + GATHER_MAX;
            loop {
                let before = state.wakes;
                // Nothing signals this wait while a burst goes on: it is a look at the count every few milliseconds.
                self.came.wait_until(&mut state, (Instant::now() + GATHER).min(end));
                if state.stop || state.wakes == before || Instant::now() >= end {
                    break;
                }
            }
        }
        std::mem::take(&mut state.dirty)
    }
}
