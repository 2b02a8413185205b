//! Threads for calls that wait: for a fetch from another device, for the disk. The threads that serve requests never do,
//! so that one slow file does not stop the mount.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// An idle thread ends after this.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
    stopped: bool,
}

/// Threads that come when there is work and go when there is none. What waits is bounded by the kernel: it sends only so
/// many requests before it gets answers.
pub(crate) struct Pool {
    name: &'static str,
    limit: usize,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// What its threads log is about what it was made for.
    span: tracing::Span,
}

impl Pool {
    pub(crate) fn new(name: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self { name, limit, jobs: Mutex::default(), wake: Condvar::new(), span: tracing::Span::current() })
    }

    /// Runs a job on a thread of the pool, or here if there can be none.
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut jobs = self.jobs.lock();
        if jobs.stopped {
            drop(jobs);
            return job();
        }
        jobs.waiting.push_back(Box::new(job));
        if jobs.idle >= jobs.waiting.len() {
            self.wake.notify_one();
            return;
        }
        if jobs.threads >= self.limit {
            return;
        }
        jobs.threads += 1;
        drop(jobs);
        let pool = self.clone();
        let span = self.span.clone();
        let spawned = std::thread::Builder::new().name(self.name.into()).spawn(move || span.in_scope(|| pool.work()));
        if spawned.is_err() {
            // No thread to be had: the job is done here, late but done.
            let job = {
                let mut jobs = self.jobs.lock();
                jobs.threads -= 1;
                jobs.waiting.pop_front()
            };
            if let Some(job) = job {
                job();
            }
        }
    }

    fn work(&self) {
        let mut jobs = self.jobs.lock();
        loop {
            while let Some(job) = jobs.waiting.pop_front() {
                drop(jobs);
                job();
                jobs = self.jobs.lock();
            }
            if jobs.stopped {
                break;
            }
            jobs.idle += 1;
            let timed_out = self.wake.wait_for(&mut jobs, IDLE).timed_out();
            jobs.idle -= 1;
            if timed_out && jobs.waiting.is_empty() {
                break;
            }
        }
        jobs.threads -= 1;
        self.wake.notify_all();
    }

    /// Ends the threads when their jobs are done, and waits for that, but not longer than `patience`.
    pub(crate) fn stop(&self, patience: Duration) {
        let mut jobs = self.jobs.lock();
        jobs.stopped = true;
        self.wake.notify_all();
        while jobs.threads > 0 {
            if self.wake.wait_for(&mut jobs, patience).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn jobs_that_wait_for_each_other_all_run() {
        let pool = Pool::new("test", 4);
        let barrier = Arc::new(Barrier::new(4));
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..8 {
            let (barrier, done) = (barrier.clone(), done.clone());
            pool.run(move || {
                barrier.wait();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        pool.stop(Duration::from_secs(60));
        assert_eq!(done.load(Ordering::SeqCst), 8);
    }
}
