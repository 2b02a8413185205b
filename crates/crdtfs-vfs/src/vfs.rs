//! The filesystem object: what it holds, and how it starts and ends.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicIsize, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Kind, Node};
use crdtfs_core::op::{Applied, Op, OpError};
use crdtfs_core::port::{Adapter, Content, Tree};
use parking_lot::{Mutex, RwLock};

use crate::attr::{Attr, LocalTimes, Owners};
use crate::coherence::{Heard, Invalidate};
use crate::error::{Error, Result};
use crate::file::Handle;
use crate::inodes::{Inode, Inodes, State};
use crate::queue::Queue;

/// How a share is shown.
#[derive(Clone, Debug)]
pub struct VfsOptions {
    /// Owners shown.
    pub owner: Owners,
    /// Refuse every change.
    pub read_only: bool,
    /// A directory on the filesystem that holds the content, for `statfs`.
    pub state: PathBuf,
}

/// Threads that publish what was written.
const PUBLISHERS: usize = 2;

/// A share as a POSIX filesystem, over the ports of the engine.
///
/// Inodes and handles are numbers; calls may come from any number of threads. Calls block for microseconds, but for
/// those that [`Vfs::may_block`] names and `fsync`, which wait for a fetch or for the disk.
pub struct Vfs {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) content: Arc<dyn Content>,
    pub(crate) adapter: Adapter,
    pub(crate) options: VfsOptions,
    pub(crate) inodes: Inodes,
    pub(crate) times: LocalTimes,
    pub(crate) handles: RwLock<HashMap<u64, Arc<Handle>>>,
    pub(crate) next_handle: AtomicU64,
    pub(crate) queue: Queue,
    /// Unpublished bytes in memory.
    pub(crate) memory: AtomicIsize,
    /// Bytes that may go into memory before the free space is looked at again.
    pub(crate) allowance: AtomicI64,
    pub(crate) problems: Mutex<BTreeMap<InodeId, (String, String)>>,
    pub(crate) sink: OnceLock<Arc<dyn Invalidate>>,
    pub(crate) stopping: AtomicBool,
    /// Nothing is taken any more: nobody would publish it.
    closed: AtomicBool,
    deltas: Mutex<Option<Receiver<Arc<Delta>>>>,
    pub(crate) heard: Heard,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs")
            .field("options", &self.options)
            .field("inodes", &self.inodes.len())
            .finish_non_exhaustive()
    }
}

impl Vfs {
    /// A filesystem over a share. What an earlier life synced but could not publish is published first.
    ///
    /// Errors: the content's, while it gives back what was synced.
    pub fn new(
        tree: Arc<dyn Tree>,
        content: Arc<dyn Content>,
        adapter: Adapter,
        options: VfsOptions,
    ) -> io::Result<Arc<Self>> {
        let deltas = tree.subscribe(adapter);
        let vfs = Arc::new(Self {
            tree,
            content,
            adapter,
            options,
            inodes: Inodes::new(),
            times: LocalTimes::default(),
            handles: RwLock::default(),
            next_handle: AtomicU64::new(1),
            queue: Queue::default(),
            memory: AtomicIsize::new(0),
            allowance: AtomicI64::new(0),
            problems: Mutex::default(),
            sink: OnceLock::new(),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            deltas: Mutex::new(Some(deltas)),
            heard: Heard::default(),
            threads: Mutex::default(),
        });
        // No record has the root's times, and it is new here.
        vfs.times.entries_changed(InodeId::ROOT);
        vfs.recover()?;
        let mut threads = vfs.threads.lock();
        for number in 0..PUBLISHERS {
            let (worker, span) = (vfs.clone(), tracing::Span::current());
            threads.push(
                std::thread::Builder::new()
                    .name(format!("publish-{number}"))
                    .spawn(move || span.in_scope(|| worker.publish_until_stopped()))?,
            );
        }
        drop(threads);
        Ok(vfs)
    }

    /// Begins to tell `sink` what changed from elsewhere. Called once.
    pub fn start(self: &Arc<Self>, sink: Arc<dyn Invalidate>) -> io::Result<()> {
        if self.sink.set(sink).is_err() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the filesystem was already started"));
        }
        let Some(deltas) = self.deltas.lock().take() else { return Ok(()) };
        let (listener, span) = (Arc::downgrade(self), tracing::Span::current());
        let listen = move || span.in_scope(|| Self::listen(&listener, &deltas));
        std::thread::Builder::new().name("deltas".into()).spawn(listen)?;
        Ok(())
    }

    /// Refuses every change from now on, with `ENOTCONN`. Who still has something open when the mount is gone is told so; what was
    /// taken before [`Vfs::settle`] publishes.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check_taken(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Io(rustix::io::Errno::NOTCONN.into()));
        }
        Ok(())
    }

    /// Ends the threads. What is not published by then (call [`Vfs::settle`] before) is left for the next filesystem over this
    /// content, also of a later life. False if that cannot be.
    pub fn stop(&self) -> bool {
        if self.stopping.swap(true, Ordering::SeqCst) {
            return true;
        }
        self.queue.stop();
        self.end_listening();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic was printed by the thread itself and there is nobody left to tell.
            let _ = thread.join();
        }
        self.keep_unpublished()
    }

    /// Whether a change can be made at all.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_taken()?;
        if self.options.read_only || !self.tree.writable() { Err(Error::ReadOnly) } else { Ok(()) }
    }

    pub(crate) fn inode(&self, ino: u64) -> Result<Arc<Inode>> {
        Ok(self.home(&self.inodes.get(ino).ok_or(Error::NotFound)?))
    }

    /// The inode that has the state of `inode`: itself, unless it was saved over another.
    pub(crate) fn home(&self, inode: &Arc<Inode>) -> Arc<Inode> {
        let mut home = inode.clone();
        loop {
            let merged = home.state.lock().merged;
            match merged {
                Some(id) => home = self.inodes.intern(id, 0),
                None => return home,
            }
        }
    }

    /// The node of an inode with what is not published yet; what was last seen of it if its last name is gone and
    /// somebody has it open.
    pub(crate) fn node(&self, inode: &Inode) -> Result<Node> {
        self.node_in(inode, &inode.state.lock())
    }

    /// [`Vfs::node`] that belongs to a locked state. A publication changes the tree first and then, with the lock, the
    /// state: a node read without the lock can be of before, and the state of after.
    pub(crate) fn node_in(&self, inode: &Inode, state: &State) -> Result<Node> {
        match self.tree.node(inode.id) {
            Some(mut node) => {
                if let Some(pending) = &state.pending {
                    (**pending).clone().put_into(&mut node);
                }
                Ok(node)
            }
            None => {
                let mut node = state.last.as_deref().cloned().ok_or(Error::NotFound)?;
                node.nlink = 0;
                Ok(node)
            }
        }
    }

    /// What `stat` tells of an inode.
    pub(crate) fn attr(&self, inode: &Inode) -> Result<Attr> {
        let state = inode.state.lock();
        let node = self.node_in(inode, &state)?;
        Ok(self.attr_in(inode, &state, &node))
    }

    /// What `stat` tells of an inode that was found as `node` just now.
    pub(crate) fn attr_found(&self, inode: &Inode, node: &Node) -> Attr {
        let mut state = inode.state.lock();
        let again = match node.kind {
            // It may have been published since it was found.
            Kind::File => self.node_in(inode, &state).ok(),
            _ => None,
        };
        if again.as_ref().is_some_and(|again| again.inode == inode.id && again.nlink > 0) {
            // What came from elsewhere can make it a file of its own again.
            state.merged = None;
        }
        self.attr_in(inode, &state, again.as_ref().unwrap_or(node))
    }

    fn attr_in(&self, inode: &Inode, state: &State, node: &Node) -> Attr {
        let mut attr = self.times.attr(inode.ino, inode.id, node, self.options.owner);
        if node.kind != Kind::File {
            return attr;
        }
        let allocated = || self.content.allocated(&node.content).unwrap_or(node.content.size);
        let Some(version) = &state.current else { return Attr { allocated: allocated(), ..attr } };
        let body = version.body.lock();
        if body.pinned() || body.dead {
            attr.size = body.size();
            attr.allocated = attr.size;
        } else {
            attr.allocated = allocated();
        }
        if body.dirty() {
            let own_ctime = attr.ctime > attr.mtime;
            if attr.atime == attr.mtime {
                attr.atime = body.mtime;
            }
            attr.mtime = body.mtime;
            attr.ctime = if own_ctime { attr.ctime.max(body.mtime) } else { body.mtime };
        }
        attr
    }

    /// The directory with a number.
    pub(crate) fn dir(&self, ino: u64) -> Result<InodeId> {
        // The kernel has checked that it is a directory; the tree checks again.
        Ok(self.inode(ino)?.id)
    }

    pub(crate) fn apply(&self, op: Op) -> std::result::Result<Applied, OpError> {
        self.tree.apply(self.adapter, op)
    }

    pub(crate) fn fresh_inode(&self) -> InodeId {
        InodeId(self.tree.fresh_id())
    }

    pub(crate) fn fresh_place(&self) -> PlaceId {
        PlaceId(self.tree.fresh_id())
    }

    /// A path to the inode for people, relative to the root.
    pub(crate) fn path(&self, inode: InodeId, hint: Option<&(InodeId, Name)>) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut at = inode;
        // Bounded: a path that long is of no use to anybody.
        while at != InodeId::ROOT && parts.len() < 100 {
            let first = self.tree.names(at).into_iter().next();
            let Some((dir, name)) = first.or_else(|| hint.filter(|_| parts.is_empty()).cloned()) else { break };
            parts.push(name.to_string());
            at = dir;
        }
        parts.reverse();
        parts.join("/")
    }

    /// What the user should know: paths and what is wrong with them.
    pub fn problems(&self) -> Vec<(String, String)> {
        self.problems.lock().values().cloned().collect()
    }
}
