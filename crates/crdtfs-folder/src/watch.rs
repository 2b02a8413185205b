//! Seeing: inotify, one watch a directory, bound to the directory itself and not to its path.
//!
//! A directory that is renamed keeps its watch, so renaming a tree costs nothing here and leaves no gap. (The crate
//! `notify` keys watches by path, drops and remakes them below a renamed directory, and wakes for every `open`.) The kernel
//! queues an event before the system call that caused it returns; reading until the queue is empty is therefore a fence.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::disk::Dir;

/// What happened in a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A name was made, removed, moved in or out, written to, or had attributes changed.
    Name {
        /// The directory.
        dir: InodeId,
        /// The name.
        name: Name,
        /// Written to, and maybe not at its end.
        writing: bool,
    },
    /// Events were lost: everything may have changed.
    Lost,
    /// The root was moved, removed or unmounted.
    RootGone,
}

/// Watches directories.
#[derive(Debug)]
pub(crate) struct Watcher {
    fd: OwnedFd,
    dirs: HashMap<i32, InodeId>,
    watches: HashMap<InodeId, i32>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Watcher {
    /// A watcher of nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { fd, dirs: HashMap::new(), watches: HashMap::new(), buffer: vec![MaybeUninit::uninit(); 64 * 1024] })
    }

    /// What to poll for input.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Watches a directory; the result goes to [`Watcher::register`] before the next [`Watcher::drain`]. May be called from
    /// several threads. `ENOSPC`: the user's limit of watches is reached.
    pub(crate) fn add(&self, dir: &Dir) -> io::Result<i32> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        Ok(inotify::add_watch(&self.fd, dir.proc_path(), flags)?)
    }

    /// Says which directory a watch is of.
    pub(crate) fn register(&mut self, id: InodeId, wd: i32) {
        if let Some(before) = self.dirs.insert(wd, id)
            && before != id
        {
            self.watches.remove(&before);
        }
        if let Some(before) = self.watches.insert(id, wd)
            && before != wd
        {
            self.dirs.remove(&before);
        }
    }

    /// Whether a directory is watched.
    pub(crate) fn has(&self, id: InodeId) -> bool {
        self.watches.contains_key(&id)
    }

    /// Watches a directory no more.
    pub(crate) fn remove(&mut self, id: InodeId) {
        if let Some(wd) = self.watches.remove(&id) {
            self.dirs.remove(&wd);
            // It may be gone with its directory already.
            let _ = inotify::remove_watch(&self.fd, wd);
        }
    }

    /// A directory goes by another identity from now on.
    pub(crate) fn rekey(&mut self, from: InodeId, to: InodeId) {
        if let Some(wd) = self.watches.remove(&from) {
            self.dirs.insert(wd, to);
            self.watches.insert(to, wd);
        }
    }

    /// Everything that happened up to now.
    pub(crate) fn drain(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut ended = Vec::new();
        let mut reader = inotify::Reader::new(&self.fd, &mut self.buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                events.push(Event::Lost);
                continue;
            }
            let Some(&dir) = self.dirs.get(&event.wd()) else { continue };
            if what.contains(ReadFlags::IGNORED) {
                ended.push(event.wd());
            }
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            if dir == InodeId::ROOT && what.intersects(gone) {
                events.push(Event::RootGone);
            }
            if let Some(Ok(name)) = event.file_name().map(|n| Name::new(n.to_bytes())) {
                let writing = what.contains(ReadFlags::MODIFY);
                let again = matches!(events.last(), Some(Event::Name { dir: d, name: n, writing: w })
                    if *d == dir && *n == name && *w == writing);
                if !again {
                    events.push(Event::Name { dir, name, writing });
                }
            }
        }
        for wd in ended {
            if let Some(dir) = self.dirs.remove(&wd) {
                self.watches.remove(&dir);
            }
        }
        Ok(events)
    }
}
