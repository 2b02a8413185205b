//! The store's own thread: commits the index a second after something was put, and closes folder files that were read.
//! Idle costs nothing: it sleeps until it is poked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;
use crate::store::Inner;

/// How long after the first change the index is committed.
const DELAY: Duration = Duration::from_secs(1);

/// Wakes the thread.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    dirty: AtomicBool,
    stop: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// Something was put.
    pub(crate) fn poke(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            // Under the lock, so that it cannot fall between the thread's look and its sleep.
            drop(self.stop.lock());
            self.changed.notify_all();
        }
    }

    /// Sleeps until something was put, and then for [`DELAY`]; true if the thread is to end.
    fn wait(&self) -> bool {
        let mut stop = self.stop.lock();
        while !*stop && !self.dirty.load(Ordering::Acquire) {
            self.changed.wait(&mut stop);
        }
        let until = std::time::Instant::now() + DELAY;
        while !*stop && !self.changed.wait_until(&mut stop, until).timed_out() {}
        self.dirty.store(false, Ordering::Release);
        *stop
    }
}

/// Owns the thread; ends and joins it when dropped.
pub(crate) struct Keeper {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(inner: Arc<Inner>) -> Result<Self, StoreError> {
        let of_thread = inner.clone();
        let run = move || {
            while !of_thread.wake.wait() {
                tick(&of_thread);
            }
        };
        let thread = std::thread::Builder::new().name("store-keeper".into()).spawn(run);
        let thread = thread.map_err(StoreError::io("start a thread for", &inner.dir))?;
        Ok(Self { inner, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.inner.wake.stop.lock() = true;
        self.inner.wake.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        tick(&self.inner);
    }
}

fn tick(inner: &Inner) {
    inner.close_folder_files();
    if let Err(error) = inner.checkpoint() {
        tracing::warn!(%error, "cannot bring the index up to date; it is tried again with the next change");
    }
}
