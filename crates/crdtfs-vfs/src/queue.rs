//! Versions that are to be published, by when; each is published by one thread at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::inodes::Inode;
use crate::version::{Body, Version};

type Key = (Instant, u64);
/// A version and whose it is.
pub(crate) type Job = (Arc<Inode>, Arc<Version>);

#[derive(Default)]
struct Waiting {
    due: BTreeMap<Key, Job>,
    working: Vec<Job>,
    sequence: u64,
    /// Counts the ends of publications and what came to wait for none any more.
    ended: u64,
    stop: bool,
}

impl Waiting {
    /// Takes the first one that nobody publishes; only what is due at `by`, if that is given.
    fn take(&mut self, by: Option<Instant>) -> Option<Job> {
        let mut due = self.due.iter().take_while(|(key, _)| by.is_none_or(|by| key.0 <= by));
        let key = due.find(|(_, job)| self.is_free(job)).map(|(key, _)| *key)?;
        let job = self.due.remove(&key)?;
        self.working.push(job.clone());
        Some(job)
    }

    fn is_free(&self, (_, version): &Job) -> bool {
        !self.working.iter().any(|(_, other)| Arc::ptr_eq(other, version))
    }
}

/// Versions to be published, by when.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    ended: Condvar,
}

impl Queue {
    pub(crate) fn add(&self, inode: &Arc<Inode>, version: &Arc<Version>, body: &mut Body, at: Instant) {
        let mut waiting = self.waiting.lock();
        if let Some(key) = body.queued {
            if key.0 <= at && waiting.due.contains_key(&key) {
                return;
            }
            waiting.due.remove(&key);
        }
        waiting.sequence += 1;
        let key = (at, waiting.sequence);
        waiting.due.insert(key, (inode.clone(), version.clone()));
        body.queued = Some(key);
        drop(waiting);
        self.wake.notify_one();
    }

    pub(crate) fn remove(&self, body: &mut Body) {
        if let Some(key) = body.queued.take() {
            self.waiting.lock().due.remove(&key);
        }
        self.tell();
    }

    /// Tells who waits for a publication that it may be over.
    pub(crate) fn tell(&self) {
        self.waiting.lock().ended += 1;
        self.ended.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.waiting.lock().stop = true;
        self.wake.notify_all();
        self.ended.notify_all();
    }

    pub(crate) fn ended(&self) -> u64 {
        self.waiting.lock().ended
    }

    /// Waits until more publications have ended than `seen`; false if that does not come any more, or not until `deadline`.
    pub(crate) fn await_end(&self, seen: u64, deadline: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.ended == seen && !waiting.stop {
            if self.ended.wait_until(&mut waiting, deadline).timed_out() {
                return waiting.ended != seen;
            }
        }
        !waiting.stop
    }

    /// The next version that is due; waits for it. `None`: no more.
    pub(crate) fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.stop {
                return None;
            }
            let now = Instant::now();
            if let Some(job) = waiting.take(Some(now)) {
                if !waiting.due.is_empty() {
                    self.wake.notify_one();
                }
                return Some(job);
            }
            match waiting.due.range((now, u64::MAX)..).next().map(|(key, _)| key.0) {
                None => self.wake.wait(&mut waiting),
                Some(at) => _ = self.wake.wait_until(&mut waiting, at),
            }
        }
    }

    /// The first that is due or will be, if there is one that nobody publishes.
    pub(crate) fn oldest(&self) -> Option<Job> {
        self.waiting.lock().take(None)
    }

    pub(crate) fn done(&self, job: &Job) {
        let mut waiting = self.waiting.lock();
        if let Some(at) = waiting.working.iter().position(|(_, version)| Arc::ptr_eq(version, &job.1)) {
            waiting.working.swap_remove(at);
        }
        // It may be due again.
        self.wake.notify_one();
        drop(waiting);
        self.tell();
    }

    /// All, each once.
    pub(crate) fn all(&self) -> Vec<Job> {
        let waiting = self.waiting.lock();
        let free = waiting.due.values().filter(|job| waiting.is_free(job));
        waiting.working.iter().chain(free).cloned().collect()
    }
}
