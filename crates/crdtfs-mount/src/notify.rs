//! Tells the kernel what it has to forget, on threads that serve no requests.
//!
//! The kernel takes the lock of a directory to drop a name, and waits for pages that are being read to drop them; both may
//! be held by a request that a session thread has yet to answer. Names and attributes have one thread, pages another, so
//! that a read that waits for a fetch does not keep names from being seen.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crdtfs_vfs::{Invalidate, Invalidation};
use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use tracing::debug;

/// The sink of a mount's filesystem.
pub(crate) struct Forgetting {
    names: Mutex<Option<Sender<Vec<Invalidation>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Forgetting {
    pub(crate) fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (names, from_names) = channel();
        let (pages, from_pages) = channel();
        let for_pages = notifier.clone();
        let threads = vec![
            std::thread::Builder::new().name("forget-names".into()).spawn(move || {
                forget_names(&notifier, &from_names, &pages);
            })?,
            std::thread::Builder::new().name("forget-pages".into()).spawn(move || {
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
            let _ = names.send(what);
        }
    }
}

fn forget_names(notifier: &Notifier, batches: &Receiver<Vec<Invalidation>>, pages: &Sender<u64>) {
    for what in batches {
        for invalidation in what {
            let result = match &invalidation {
                Invalidation::Name { dir, name } => {
                    notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name.as_bytes()))
                }
                // A negative offset: the attributes only.
                Invalidation::Inode { ino, data } => {
                    if *data {
                        let _ = pages.send(*ino);
                    }
                    notifier.inval_inode(INodeNo(*ino), -1, 0)
                }
            };
            if let Err(error) = result {
                debug!(?invalidation, %error, "the kernel did not take it");
            }
        }
    }
}

fn forget_pages(notifier: &Notifier, inodes: &Receiver<u64>) {
    for ino in inodes {
        if let Err(error) = notifier.inval_inode(INodeNo(ino), 0, 0) {
            debug!(ino, %error, "the kernel did not drop its pages");
        }
    }
}
