//! The worker's mailbox: a queue that wakes a `poll`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crdtfs_core::node::Delta;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::crew::Report;

/// What the worker is told.
#[derive(Debug)]
pub(crate) enum Mail {
    /// The view changed.
    View(Arc<Delta>),
    /// The crew did something.
    Report(Report),
    /// Look whether the root is in its place.
    Look,
    /// Answer once all that was done before is in the tree and all that is in the view is in the folder.
    Settle(Sender<()>),
    /// End.
    Stop,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// `None` once nobody reads it any more.
    queue: Mutex<Option<VecDeque<Mail>>>,
    wake: OwnedFd,
}

impl Mailbox {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::new(Some(VecDeque::new())), wake })
    }

    /// What to poll for input.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Adds to the queue; gives it back if nobody reads it any more.
    pub(crate) fn send(&self, mail: Mail) -> Result<(), Mail> {
        let mut queue = self.queue.lock();
        let Some(queue) = queue.as_mut() else { return Err(mail) };
        queue.push_back(mail);
        // It fails only when it is as full as it can be, and then it wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> VecDeque<Mail> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.queue.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Reads no more; returns what was left. Who waits for an answer in it learns that there is none.
    pub(crate) fn close(&self) -> VecDeque<Mail> {
        self.queue.lock().take().unwrap_or_default()
    }
}
