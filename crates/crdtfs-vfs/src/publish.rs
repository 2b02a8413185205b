//! Publishing: what was written becomes a content of the store and an edit in the tree, in the background.
//!
//! A version is published when its last writer closes it, when it was left alone for two seconds, and every few seconds
//! while it is written. A crash loses what was written since, but for what `fsync` made durable: a small file is published
//! by it; of a large one, or one that is synced again and again, the write file is synced with a [`Note`] from which
//! [`Vfs::new`] finishes the work.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Delta, Kind, Node, Shown, Time};
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::record::birth_id;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, warn};

use crate::attr::now;
use crate::error::{Error, Result};
use crate::inodes::Inode;
use crate::names::is_missing;
use crate::note::Note;
use crate::version::{Body, Data, Version, with_room};
use crate::vfs::Vfs;

/// Unpublished bytes in memory beyond which writers publish themselves.
pub(crate) const MEMORY_LIMIT: isize = 128 << 20;

/// A file left alone for this long is published though it is open.
const IDLE: Duration = Duration::from_secs(2);
/// A file written all the time is published this often.
const BUSY: Duration = Duration::from_secs(5);
/// Unless it is larger than this: then only when it is left alone.
const BUSY_MAX: u64 = 64 << 20;
/// A failed publication is tried again after this.
const RETRY: Duration = Duration::from_secs(3);

type Key = (Instant, u64);
type Job = (Arc<Inode>, Arc<Version>);

#[derive(Default)]
struct Waiting {
    due: BTreeMap<Key, Job>,
    working: Vec<Job>,
    sequence: u64,
    stop: bool,
}

/// Versions to be published, by when.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl Queue {
    fn add(&self, inode: &Arc<Inode>, version: &Arc<Version>, body: &mut Body, at: Instant) {
        let mut waiting = self.waiting.lock();
        if let Some(key) = body.queued {
            if key.0 <= at && waiting.due.contains_key(&key) {
                return;
            }
            waiting.due.remove(&key);
        }
        waiting.sequence += 1;
        let key = (at, waiting.sequence);
        let first = waiting.due.first_key_value().is_none_or(|(first, _)| key < *first);
        waiting.due.insert(key, (inode.clone(), version.clone()));
        body.queued = Some(key);
        drop(waiting);
        if first {
            self.wake.notify_one();
        }
    }

    pub(crate) fn remove(&self, body: &mut Body) {
        if let Some(key) = body.queued.take() {
            self.waiting.lock().due.remove(&key);
        }
    }

    pub(crate) fn stop(&self) {
        self.waiting.lock().stop = true;
        self.wake.notify_all();
    }

    /// The next version that is due; waits for it. `None`: no more.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.stop {
                return None;
            }
            match waiting.due.first_key_value().map(|(key, _)| key.0) {
                None => self.wake.wait(&mut waiting),
                Some(at) if at > Instant::now() => {
                    self.wake.wait_until(&mut waiting, at);
                }
                Some(_) => {
                    let (_, job) = waiting.due.pop_first()?;
                    waiting.working.push(job.clone());
                    if !waiting.due.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(job);
                }
            }
        }
    }

    fn oldest(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        let (_, job) = waiting.due.pop_first()?;
        waiting.working.push(job.clone());
        Some(job)
    }

    fn done(&self, job: &Job) {
        let mut waiting = self.waiting.lock();
        if let Some(at) = waiting.working.iter().position(|(_, version)| Arc::ptr_eq(version, &job.1)) {
            waiting.working.swap_remove(at);
        }
    }

    fn all(&self) -> Vec<Job> {
        let waiting = self.waiting.lock();
        waiting.working.iter().chain(waiting.due.values()).cloned().collect()
    }
}

/// One state of a version, about to be published.
struct Snapshot {
    content: ContentRef,
    generation: u64,
    mtime: Time,
    basis: Basis,
    beside: Option<InodeId>,
    via: Option<(InodeId, Name)>,
}

/// What the next edit from the same handles settles, and where it goes.
struct Next {
    basis: Basis,
    beside: Option<InodeId>,
}

impl Vfs {
    /// Publishes what is due until the filesystem stops.
    pub(crate) fn publish_until_stopped(&self) {
        // Requests come first. Where that may not be asked for, it is done at the same priority.
        let _ = rustix::process::setpriority_process(None, 5);
        while let Some(job) = self.queue.next() {
            self.publish_job(&job);
        }
    }

    /// Publishes one version in place of the background, which has too much to do.
    pub(crate) fn publish_oldest(&self) {
        if let Some(job) = self.queue.oldest() {
            self.publish_job(&job);
        }
    }

    fn publish_job(&self, job: &Job) {
        let (inode, version) = job;
        let wait = {
            let mut body = version.body.lock();
            body.queued = None;
            due(&body).filter(|at| *at > Instant::now())
        };
        match wait {
            Some(at) if self.memory.load(Ordering::Relaxed) <= MEMORY_LIMIT => {
                self.schedule(inode, version, &mut version.body.lock(), at);
            }
            _ => {
                if let Err(error) = self.publish(inode, version) {
                    self.report(inode.id, version, &error);
                    self.schedule(inode, version, &mut version.body.lock(), Instant::now() + RETRY);
                }
            }
        }
        self.queue.done(job);
    }

    pub(crate) fn schedule(&self, inode: &Arc<Inode>, version: &Arc<Version>, body: &mut Body, at: Instant) {
        if body.dirty() && !body.dead {
            self.queue.add(inode, version, body, at);
        }
    }

    pub(crate) fn schedule_idle(&self, inode: &Arc<Inode>, version: &Arc<Version>) {
        let mut body = version.body.lock();
        let at = body.changed.0 + IDLE;
        self.schedule(inode, version, &mut body, at);
    }

    fn report(&self, inode: InodeId, version: &Version, error: &Error) {
        // Held throughout: who removes the file takes the problem away after this.
        let mut problems = self.problems.lock();
        let (via, synced) = {
            let body = version.body.lock();
            // It was removed while its bytes were being sealed: there is nothing to be published any more.
            if body.dead {
                return;
            }
            (body.via.clone(), body.noted)
        };
        let path = self.path(inode, via.as_ref());
        warn!(path, %error, "cannot publish; trying again");
        let safe = if synced { "others do not see it" } else { "others do not see it, and a crash loses it" };
        let message = format!("what was written is not published yet ({safe}): {error}; trying again");
        problems.insert(inode, (path, message));
    }

    /// Publishes what a version holds, if it is not published.
    pub(crate) fn publish(&self, inode: &Arc<Inode>, version: &Arc<Version>) -> Result<()> {
        let _one = version.publishing.lock();
        let inode = &self.home(inode);
        let began = Instant::now();
        // Until the tree has what was sealed, nothing else says that it is needed.
        let _held = self.content.hold();
        if let Some(snapshot) = self.snapshot(version)? {
            let next = {
                let _applying = inode.applying.lock();
                if version.body.lock().dead {
                    return Ok(());
                }
                self.publish_attrs(inode)?;
                self.publish_content(inode, &snapshot)?
            };
            self.published(inode, version, &snapshot, next, began)?;
        }
        // What was set since, while the bytes still counted as unpublished.
        self.publish_attrs(inode)?;
        self.inodes.sweep(inode);
        Ok(())
    }

    /// Seals what a version holds; `None` if there is nothing to publish.
    fn snapshot(&self, version: &Version) -> Result<Option<Snapshot>> {
        loop {
            let file = {
                let body = version.body.lock();
                match &body.data {
                    _ if body.dead || !body.dirty() => return Ok(None),
                    Data::File(file) => Some(file.clone()),
                    Data::Clean | Data::Memory(_) => None,
                }
            };
            // While a write file is sealed nobody writes it.
            let _alone = file.is_some().then(|| version.writing.write());
            let (bytes, mut snapshot) = {
                let body = version.body.lock();
                let bytes = match (&body.data, &file) {
                    (Data::Memory(bytes), None) => bytes.clone(),
                    (Data::File(now), Some(file)) if Arc::ptr_eq(now, file) => Vec::new(),
                    (Data::Clean, _) => return Ok(None),
                    // It went from memory to a write file, or the other way, just now.
                    _ => continue,
                };
                let snapshot = Snapshot {
                    content: body.content,
                    generation: body.generation,
                    mtime: body.mtime,
                    basis: body.basis.clone(),
                    beside: body.beside,
                    via: body.via.clone(),
                };
                (bytes, snapshot)
            };
            snapshot.content = match &file {
                Some(file) => with_room(&*self.content, || self.content.seal(&**file))?,
                None => with_room(&*self.content, || self.content.put(&bytes))?,
            };
            return Ok(Some(snapshot));
        }
    }

    fn publish_attrs(&self, inode: &Inode) -> Result<()> {
        let mut state = inode.state.lock();
        let Some(pending) = state.pending.clone() else { return Ok(()) };
        // With the state locked: nobody sees the node without them, and none that is set now is forgotten.
        let delta = match self.apply(pending.clone().into_op(inode.id)) {
            Ok(applied) => applied.delta,
            // Removed elsewhere: the bytes bring it back, with the attributes that it had.
            Err(error) if is_missing(error) => {
                if let Some(last) = &mut state.last {
                    pending.put_into(last);
                }
                Delta::default()
            }
            Err(error) => return Err(error.into()),
        };
        state.pending = None;
        drop(state);
        self.side_effects(&delta, &[], &[inode.id]);
        Ok(())
    }

    /// The conflict copy that what was published before is shown as, if it is one: a handle that stays open writes on there, so
    /// that no version of its own is left beside its successor.
    fn copy_of_own(&self, inode: InodeId, snapshot: &Snapshot) -> Option<InodeId> {
        let [version] = &snapshot.basis[..] else { return None };
        let copy = snapshot.beside.unwrap_or_else(|| InodeId(birth_id(&inode, version)));
        self.tree.node(copy).map(|node| node.inode)
    }

    /// Puts a sealed content into the tree.
    fn publish_content(&self, inode: &Inode, snapshot: &Snapshot) -> Result<Next> {
        let beside = self.copy_of_own(inode.id, snapshot);
        let id = beside.unwrap_or(inode.id);
        let before = self.tree.node(id);
        let unchanged = before.as_ref().filter(|node| node.content == snapshot.content && node.basis == snapshot.basis);
        let op = match unchanged {
            Some(_) => Op::SetAttr { inode: id, mode: None, owner: None, mtime: Some(snapshot.mtime), xattrs: None },
            None => Op::Edit {
                inode: id,
                via: snapshot
                    .via
                    .clone()
                    .filter(|(dir, name)| self.tree.child(*dir, name).is_some_and(|node| node.inode == id)),
                basis: Some(snapshot.basis.clone()),
                content: snapshot.content,
                mtime: snapshot.mtime,
            },
        };
        let delta = match self.apply(op) {
            Ok(applied) => applied.delta,
            Err(error) if is_missing(error) => {
                return self.rescue(inode, snapshot).map(|basis| Next { basis, beside: None });
            }
            Err(error) => return Err(error.into()),
        };
        self.side_effects(&delta, &[], &[inode.id]);
        let after = self.tree.node(id);
        if beside.is_some() || after.as_ref().is_none_or(|node| node.content != snapshot.content) {
            // Merged with, or beside, what came meanwhile: caches have our bytes under a name that shows others.
            self.invalidate_inode(inode.id, true);
        }
        Ok(Next { basis: self.own_basis(before.as_ref(), after.as_ref(), snapshot, &delta), beside })
    }

    /// The versions that the next edit from the same handles settles: the one just published and none that came from
    /// elsewhere meanwhile.
    fn own_basis(&self, before: Option<&Node>, after: Option<&Node>, snapshot: &Snapshot, delta: &Delta) -> Basis {
        if let Some(after) = after {
            if after.content == snapshot.content {
                return after.basis.clone();
            }
            let known = before.map(|node| node.basis.clone()).unwrap_or_default();
            let new: Vec<_> = after.basis.iter().filter(|record| !known.contains(record)).copied().collect();
            if new.len() == 1 {
                return new.into();
            }
        }
        let copies = delta.entries.iter().filter_map(|change| self.tree.node(change.after?));
        let own = copies.into_iter().find(|node| node.shown == Shown::ConflictCopy && node.content == snapshot.content);
        own.map_or_else(|| snapshot.basis.clone(), |node| node.basis)
    }

    /// The file was removed elsewhere, for good: what was written here comes back as a new file.
    fn rescue(&self, inode: &Inode, snapshot: &Snapshot) -> Result<Basis> {
        let last = inode.state.lock().last.as_deref().cloned();
        let (mode, owner, xattrs) =
            last.map_or((0o644, None, Default::default()), |node| (node.mode, node.owner, (*node.xattrs).clone()));
        let (dir, name) = snapshot.via.clone().unwrap_or_else(|| (InodeId::ROOT, recovered_name(inode.id)));
        let dir = self.tree.node(dir).filter(|node| node.kind == Kind::Dir).map_or(InodeId::ROOT, |node| node.inode);
        let node = NewNode {
            kind: Kind::File,
            mode,
            owner,
            mtime: snapshot.mtime,
            xattrs,
            content: snapshot.content,
            target: Vec::new(),
            rdev: 0,
        };
        let free = self.tree.child(dir, &name).is_none();
        let name = if free { name } else { recovered_name(inode.id) };
        let op = Op::Create { dir, name: name.clone(), inode: self.fresh_inode(), place: self.fresh_place(), node };
        let applied = self.apply(op)?;
        self.side_effects(&applied.delta, &[], &[]);
        debug!(%name, "a file removed elsewhere came back with what was written here");
        // The handles that are still open have published all they had; what they write further has no name.
        let current = inode.state.lock().current.clone();
        if let Some(version) = current {
            version.body.lock().dead = true;
        }
        Ok(snapshot.basis.clone())
    }

    /// Notes that a state is published.
    fn published(
        &self,
        inode: &Arc<Inode>,
        version: &Arc<Version>,
        snapshot: &Snapshot,
        next: Next,
        began: Instant,
    ) -> Result<()> {
        self.problems.lock().remove(&inode.id);
        let (mut discarded, mut noted) = (None, None);
        let was_noted;
        {
            let mut state = inode.state.lock();
            let mut body = version.body.lock();
            (body.basis, body.beside) = (next.basis, next.beside);
            body.sealed = snapshot.generation;
            body.published = Some((Instant::now(), began.elapsed()));
            body.changed.1 = Instant::now();
            body.content = snapshot.content;
            was_noted = body.noted;
            if body.pinned() {
                let at = if body.writers == 0 { Instant::now() } else { body.changed.0 + IDLE };
                self.schedule(inode, version, &mut body, at);
                noted = match &body.data {
                    Data::File(file) if body.noted => Some((file.clone(), self.note(inode.id, &body))),
                    _ => None,
                };
            } else {
                discarded = body.clean();
                self.memory.fetch_add(body.account(), Ordering::Relaxed);
                self.queue.remove(&mut body);
                let current = state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, version));
                if body.handles == 0 && current {
                    drop(body);
                    state.cached = state.cached_current.then_some(snapshot.content);
                    state.current = None;
                }
            }
        }
        self.inodes.sweep(inode);
        if let Some((file, note)) = noted {
            // Else what is synced now would be taken for an edit of what was before, and stand beside its own past.
            file.sync(&note)?;
        }
        if let Some(file) = discarded {
            if was_noted {
                // The note promises the bytes until the edit does.
                self.tree.sync()?;
            }
            self.content.discard(file);
        }
        Ok(())
    }

    fn note(&self, inode: InodeId, body: &Body) -> Vec<u8> {
        let note = Note {
            inode: body.beside.unwrap_or(inode),
            dir: body.via.as_ref().map(|(dir, _)| *dir),
            name: body.via.as_ref().map(|(_, name)| name.clone()),
            basis: body.basis.to_vec(),
            mtime: body.mtime,
        };
        note.encode()
    }

    /// Makes what was written through a handle durable, with its name and attributes.
    pub fn fsync(&self, handle: u64) -> Result<()> {
        let handle = self.handle(handle)?;
        let (inode, version) = (&self.home(&handle.inode), &handle.version);
        let (dead, dirty, in_memory, recently) = {
            let body = version.body.lock();
            let recently = body.published.is_some_and(|(at, _)| at.elapsed() < IDLE);
            (body.dead, body.dirty(), matches!(body.data, Data::Memory(_)), recently)
        };
        if dead {
            return Ok(());
        }
        if dirty && in_memory && !recently {
            self.publish(inode, version)?;
        } else if dirty {
            let growth = version.spill(&*self.content)?;
            self.memory.fetch_add(growth, Ordering::Relaxed);
            {
                let _applying = inode.applying.lock();
                self.publish_attrs(inode)?;
            }
            let synced = {
                let mut body = version.body.lock();
                match &body.data {
                    Data::File(file) => {
                        let synced = (file.clone(), self.note(inode.id, &body));
                        body.noted = true;
                        Some(synced)
                    }
                    // Published just now.
                    Data::Clean | Data::Memory(_) => None,
                }
            };
            match synced {
                Some((file, note)) => file.sync(&note)?,
                None => self.publish(inode, version)?,
            }
        }
        Ok(self.tree.sync()?)
    }

    /// Makes every name and attribute durable.
    pub fn fsync_dir(&self) -> Result<()> {
        Ok(self.tree.sync()?)
    }

    /// Publishes everything that was written before the call, also through handles that are open; gives up at `deadline`.
    /// True if it is so.
    pub fn settle(&self, deadline: Instant) -> bool {
        let mut settled = true;
        for job in self.queue.all() {
            if Instant::now() >= deadline {
                return false;
            }
            let (inode, version) = &job;
            if let Err(error) = self.publish(inode, version) {
                self.report(inode.id, version, &error);
                self.schedule(inode, version, &mut version.body.lock(), Instant::now() + RETRY);
                settled = false;
            }
        }
        settled
    }

    /// Publishes what an earlier life synced but did not come to publish.
    ///
    /// What cannot be published now (a full disk) is shown all the same, as what was written in this life is, and tried again.
    pub(crate) fn recover(&self) -> io::Result<()> {
        for (note, file) in self.content.recover()? {
            let note = Note::decode(&note);
            let inode = self.inodes.intern(note.as_ref().map_or_else(|| self.fresh_inode(), |note| note.inode), 0);
            let shown = self.tree.node(inode.id).map(|node| node.content);
            if shown.is_some() && self.content.seal(&*file).ok() == shown {
                // Published already, but for the last word of it.
                self.tree.sync()?;
                self.content.discard(file);
                continue;
            }
            let mtime = note.as_ref().map_or_else(now, |note| note.mtime);
            let via = note.as_ref().and_then(|note| Some((note.dir?, note.name.clone()?)));
            let basis = note.map(|note| note.basis.into()).unwrap_or_default();
            let version = Arc::new(Version::recovered(file, basis, mtime, via));
            inode.state.lock().current = Some(version.clone());
            match self.publish(&inode, &version) {
                Ok(()) => debug!(inode = %inode.id, "published what was synced before the last end"),
                Err(error) => {
                    self.report(inode.id, &version, &error);
                    self.schedule(&inode, &version, &mut version.body.lock(), Instant::now() + RETRY);
                }
            }
        }
        Ok(())
    }

    /// What was synced and could not be published goes on being kept, for the next start: the store takes a write file that
    /// is dropped after it was sealed for done with.
    pub(crate) fn keep_unpublished(&self) {
        for (_, version) in self.queue.all() {
            let body = version.body.lock();
            if let Data::File(file) = &body.data
                && body.noted
                && body.dirty()
                && !body.dead
            {
                std::mem::forget(file.clone());
            }
        }
    }
}

/// When a version that is due may be published; `None`: now.
fn due(body: &Body) -> Option<Instant> {
    if body.writers == 0 || !body.dirty() {
        return None;
    }
    let idle = body.changed.0 + IDLE;
    let at = if body.size() <= BUSY_MAX { idle.min(body.changed.1 + BUSY) } else { idle };
    // A tenth of the time at most goes into publishing one file.
    let rested = body.published.map(|(at, took)| at + took * 10);
    Some(rested.map_or(at, |rested| at.max(rested)))
}

fn recovered_name(inode: InodeId) -> Name {
    let text = format!("recovered {}", &inode.to_string()[..12]);
    Name::try_from(text.as_str()).expect("hexadecimal digits and a word are a name")
}
