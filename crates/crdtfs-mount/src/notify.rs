//! Tells the kernel what it has to forget, on threads that serve no requests.
//!
//! The kernel takes the lock of a directory to drop a name, and waits for pages that are being read to drop them; both may
//! be held by a request that a session thread has yet to answer. Names and attributes have one thread, pages another, so
//! that a read that waits for a fetch does not keep names from being seen.
//!
//! What waits for a lock in the kernel cannot be killed, and holds the mount's device: if the process is killed meanwhile,
//! the request that has the lock is never answered, and mount and process stand still until the mount is aborted (by
//! [`crate::MountPresenter`]'s `abandon`, when the next engine starts). So that this is rare, a name waits here until no
//! `fsync` of its directory, which takes as long as the disk, is under way, nor one that follows at once on the change that
//! the name is forgotten for (programs save by rename and then sync the directory).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_vfs::{Invalidate, Invalidation};
use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};
use tracing::debug;

/// How long a name waits at least: until requests that were made together with the one it comes from have been read.
const AFTER: Duration = Duration::from_millis(2);

/// How long a name waits at most.
const PATIENCE: Duration = Duration::from_millis(200);

/// Directories whose locks the kernel holds for as long as the disk takes.
#[derive(Default)]
pub(crate) struct Syncing {
    dirs: Mutex<HashMap<u64, usize>>,
    done: Condvar,
}

impl Syncing {
    /// A directory is being synced until the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>, dir: u64) -> SyncingDir {
        *self.dirs.lock().entry(dir).or_default() += 1;
        SyncingDir { all: self.clone(), dir }
    }

    /// Waits until a directory is not being synced, but not for ever.
    fn wait(&self, dir: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut dirs = self.dirs.lock();
        while dirs.contains_key(&dir) && !self.done.wait_until(&mut dirs, deadline).timed_out() {}
    }
}

/// See [`Syncing::begin`].
pub(crate) struct SyncingDir {
    all: Arc<Syncing>,
    dir: u64,
}

impl Drop for SyncingDir {
    fn drop(&mut self) {
        let mut dirs = self.all.dirs.lock();
        if let Some(count) = dirs.get_mut(&self.dir) {
            *count -= 1;
            if *count == 0 {
                dirs.remove(&self.dir);
                self.all.done.notify_all();
            }
        }
    }
}

/// What the threads do, in order.
enum Task<T> {
    Forget(T),
    /// Says that all before it is done.
    Say(Sender<()>),
}

/// What is to be forgotten, and since when.
type Batch = Task<(Instant, Vec<Invalidation>)>;

/// The sink of a mount's filesystem.
pub(crate) struct Forgetting {
    names: Mutex<Option<Sender<Batch>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Forgetting {
    pub(crate) fn start(notifier: Notifier, syncing: Arc<Syncing>) -> std::io::Result<Self> {
        let (names, from_names) = channel();
        let (pages, from_pages) = channel();
        let for_pages = notifier.clone();
        let (span, for_names) = (tracing::Span::current(), tracing::Span::current());
        let threads = vec![
            std::thread::Builder::new().name("forget-names".into()).spawn(move || {
                let _span = for_names.entered();
                forget_names(&notifier, &syncing, &from_names, &pages);
            })?,
            std::thread::Builder::new().name("forget-pages".into()).spawn(move || {
                let _span = span.entered();
                forget_pages(&for_pages, &from_pages);
            })?,
        ];
        Ok(Self { names: Mutex::new(Some(names)), threads: Mutex::new(threads) })
    }

    /// Ends the threads. Only after the mount is gone: until then they may wait for a request.
    pub(crate) fn stop(&self) {
        self.names.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Invalidate for Forgetting {
    fn invalidate(&self, what: Vec<Invalidation>) {
        if let Some(names) = &*self.names.lock() {
            // Fails only when the thread has ended, with the mount.
            let _ = names.send(Task::Forget((Instant::now(), what)));
        }
    }

    fn forgotten(&self, deadline: Instant) -> bool {
        let (say, said) = channel();
        let sent = self.names.lock().as_ref().is_some_and(|names| names.send(Task::Say(say)).is_ok());
        // Where the threads have ended there is no mount, and nothing to forget.
        !sent
            || !matches!(
                said.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                Err(RecvTimeoutError::Timeout)
            )
    }
}

/// Pages of an inode: offset and length in bytes, all of them if the length is 0.
type Pages = Task<(u64, u64, u64)>;

fn forget_names(notifier: &Notifier, syncing: &Syncing, batches: &Receiver<Batch>, pages: &Sender<Pages>) {
    for batch in batches {
        let (since, what) = match batch {
            Task::Forget(batch) => batch,
            Task::Say(done) => {
                // The thread for pages ends after this one.
                let _ = pages.send(Task::Say(done));
                continue;
            }
        };
        std::thread::sleep(AFTER.saturating_sub(since.elapsed()));
        for invalidation in what {
            let result = match &invalidation {
                Invalidation::Name { dir, name } => {
                    syncing.wait(*dir);
                    notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name.as_bytes()))
                }
                // A negative offset: the attributes only.
                Invalidation::Inode { ino, data } => {
                    if *data {
                        let _ = pages.send(Task::Forget((*ino, 0, 0)));
                    }
                    notifier.inval_inode(INodeNo(*ino), -1, 0)
                }
                Invalidation::Pages { ino, from, len } => {
                    let _ = pages.send(Task::Forget((*ino, *from, *len)));
                    continue;
                }
            };
            if let Err(error) = result {
                debug!(?invalidation, %error, "the kernel did not take it");
            }
        }
    }
}

fn forget_pages(notifier: &Notifier, pages: &Receiver<Pages>) {
    for task in pages {
        let (ino, from, len) = match task {
            Task::Forget(pages) => pages,
            Task::Say(done) => {
                // Who asked may have given up.
                let _ = done.send(());
                continue;
            }
        };
        if let Err(error) = notifier.inval_inode(INodeNo(ino), from.cast_signed(), len.cast_signed()) {
            debug!(ino, %error, "the kernel did not drop its pages");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_waits_for_its_directory_only_and_not_for_ever() {
        let syncing = Arc::new(Syncing::default());
        let (one, again) = (syncing.begin(7), syncing.begin(7));
        syncing.wait(8);
        assert_eq!(syncing.dirs.lock().len(), 1);
        syncing.wait(7);
        drop(one);
        assert!(syncing.dirs.lock().contains_key(&7), "another is under way");
        let waiter = syncing.clone();
        let waiting = std::thread::spawn(move || waiter.wait(7));
        drop(again);
        waiting.join().expect("no panic");
        assert!(syncing.dirs.lock().is_empty());
    }
}
