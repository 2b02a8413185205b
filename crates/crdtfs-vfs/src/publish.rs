//! Publishing: what was written becomes a content of the store and an edit in the tree, in the background.
//!
//! A version is published when its last writer closes it, when it was left alone for two seconds, and every few seconds
//! while it is written. A crash loses what was written since, but for what `fsync` made durable: a small file is published
//! by it; of a large one, or one that is synced again and again, the write file is synced with a [`Note`] from which
//! [`Vfs::new`] finishes the work.

use std::cell::Cell;
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
use tracing::{debug, error, info, warn};

use crate::attr::now;
use crate::error::{Error, Result};
use crate::inodes::Inode;
use crate::names::is_missing;
use crate::note::Note;
use crate::queue::Job;
use crate::version::{Body, Data, Version, with_room};
use crate::vfs::Vfs;

/// Unpublished bytes in memory beyond which writers publish themselves.
pub(crate) const MEMORY_LIMIT: isize = 128 << 20;

/// A file left alone for this long is published though it is open.
const IDLE: Duration = Duration::from_secs(2);
/// A file written all the time is published this often.
const BUSY: Duration = Duration::from_secs(5);
/// Unless it is larger than this: then only when it is left alone, and by nobody who does something else, too.
const BUSY_MAX: u64 = 64 << 20;
/// A failed publication is tried again after this.
const RETRY: Duration = Duration::from_secs(3);
/// A start waits for so long for what the earlier life left; the rest is published in the background.
const RECOVER: Duration = Duration::from_secs(1);
/// The end waits for so long for a publication that does not give up at once (it waits for bytes from elsewhere).
const GIVE_UP: Duration = Duration::from_secs(1);

/// Whether a version was published, or is published as it is.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What it held when that began is; or it is dead, and nothing of it has to be.
    Done,
    /// Its bytes were not sealed in time, or the filesystem stops.
    GivenUp,
}

/// One state of a version, about to be published.
struct Snapshot {
    content: ContentRef,
    generation: u64,
    recovered: bool,
    mtime: Time,
    basis: Basis,
    beside: Option<InodeId>,
    via: Option<(InodeId, Name)>,
}

/// What came of sealing a version.
enum Sealed {
    /// There is nothing to publish.
    Nothing,
    /// It was not wanted any more.
    GivenUp,
    State(Snapshot),
}

/// A state of a version that somebody waits for.
struct Awaited {
    job: Job,
    generation: u64,
    /// How often the version could not be published before.
    failures: u32,
}

impl Awaited {
    fn of(job: Job) -> Self {
        let (generation, failures) = {
            let body = job.1.body.lock();
            (body.generation, body.failures)
        };
        Self { job, generation, failures }
    }

    /// Whether it is published, or need not be; `None` if that is still to come.
    fn outcome(&self) -> Option<bool> {
        let body = self.job.1.body.lock();
        let published = body.dead || !body.dirty() || body.sealed >= self.generation;
        (published || body.failures != self.failures).then_some(published)
    }
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

    /// Publishes one version in place of the background, which has too much to do; a large one is left to it, though.
    pub(crate) fn publish_oldest(&self) {
        let Some(job) = self.queue.oldest() else { return };
        if is_large(&job.1) {
            self.ask(&job);
            self.queue.done(&job);
        } else {
            self.publish_job(&job);
        }
    }

    /// Has the background publish a version next, though it may be written on.
    fn ask(&self, job: &Job) {
        let (inode, version) = job;
        let mut body = version.body.lock();
        if body.dirty() && !std::mem::replace(&mut body.awaited, true) {
            self.schedule(inode, version, &mut body, Instant::now());
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
            _ => _ = self.publish_or_retry(inode, version, None),
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

    /// Publishes what a version holds, if it is not published. Waits as long as that takes.
    ///
    /// Errors: `Interrupted` if the filesystem stops meanwhile.
    pub(crate) fn publish(&self, inode: &Arc<Inode>, version: &Arc<Version>) -> Result<()> {
        match self.publish_until(inode, version, None)? {
            Outcome::Done => Ok(()),
            Outcome::GivenUp => Err(Error::Io(io::ErrorKind::Interrupted.into())),
        }
    }

    /// Publishes what a version holds; if that fails or is given up, it is tried again by the background.
    fn publish_or_retry(&self, inode: &Arc<Inode>, version: &Arc<Version>, deadline: Option<Instant>) -> bool {
        let again = match self.publish_until(inode, version, deadline) {
            Ok(Outcome::Done) => return true,
            Ok(Outcome::GivenUp) => Instant::now(),
            Err(error) => {
                self.report(inode.id, version, &error);
                version.body.lock().failures += 1;
                Instant::now() + RETRY
            }
        };
        let mut body = version.body.lock();
        body.awaited = false;
        self.schedule(inode, version, &mut body, again);
        false
    }

    fn publish_until(&self, inode: &Arc<Inode>, version: &Arc<Version>, deadline: Option<Instant>) -> Result<Outcome> {
        let one = match deadline {
            Some(deadline) => version.publishing.try_lock_until(deadline),
            None => Some(version.publishing.lock()),
        };
        let Some(_one) = one else { return Ok(Outcome::GivenUp) };
        let inode = &self.home(inode);
        let began = Instant::now();
        // Until the tree has what was sealed, nothing else says that it is needed.
        let _held = self.content.hold();
        // Never waits: whoever has the body locked may be about to say that it is dead.
        let is_dead = || version.body.try_lock().is_some_and(|body| body.dead);
        let in_time = || deadline.is_none_or(|deadline| Instant::now() < deadline);
        let go_on = || !self.stopping.load(Ordering::Relaxed) && in_time() && !is_dead();
        match self.snapshot(version, &go_on)? {
            Sealed::Nothing => {}
            Sealed::GivenUp if version.body.lock().dead => return Ok(Outcome::Done),
            Sealed::GivenUp => return Ok(Outcome::GivenUp),
            Sealed::State(snapshot) => {
                let next = {
                    let _applying = inode.applying.lock();
                    if version.body.lock().dead {
                        return Ok(Outcome::Done);
                    }
                    self.publish_attrs(inode, true)?;
                    self.publish_content(inode, &snapshot)?
                };
                self.published(inode, version, &snapshot, next, began)?;
            }
        }
        // What was set since, while the bytes still counted as unpublished, or could not be set before they brought it back.
        self.publish_attrs(inode, false)?;
        self.inodes.sweep(inode);
        Ok(Outcome::Done)
    }

    /// Seals what a version holds, for as long as `go_on` says so.
    fn snapshot(&self, version: &Version, go_on: &dyn Fn() -> bool) -> Result<Sealed> {
        loop {
            let file = {
                let body = version.body.lock();
                match &body.data {
                    _ if body.dead || !body.dirty() => return Ok(Sealed::Nothing),
                    Data::File(file) => Some(file.clone()),
                    Data::Clean | Data::Memory(_) => None,
                }
            };
            // Nobody writes a write file until it is fixed what is sealed of it.
            let alone = Cell::new(file.is_some().then(|| version.writing.write()));
            let (bytes, mut snapshot) = {
                let body = version.body.lock();
                let bytes = match (&body.data, &file) {
                    (Data::Memory(bytes), None) => bytes.clone(),
                    (Data::File(now), Some(file)) if Arc::ptr_eq(now, file) => Vec::new(),
                    (Data::Clean, _) => return Ok(Sealed::Nothing),
                    // It went from memory to a write file, or the other way, just now.
                    _ => continue,
                };
                let snapshot = Snapshot {
                    content: body.content,
                    generation: body.generation,
                    recovered: body.recovered,
                    mtime: body.mtime,
                    basis: body.basis.clone(),
                    beside: body.beside,
                    via: body.via.clone(),
                };
                (bytes, snapshot)
            };
            let fixed = || {
                alone.take();
                go_on()
            };
            let sealed = match &file {
                Some(file) => with_room(&*self.content, || self.content.seal(&**file, &fixed))?,
                None => Some(with_room(&*self.content, || self.content.put(&bytes))?),
            };
            let Some(content) = sealed else { return Ok(Sealed::GivenUp) };
            snapshot.content = content;
            return Ok(Sealed::State(snapshot));
        }
    }

    /// Puts what was set into the tree; `bytes_follow` may bring a file back that was removed elsewhere.
    fn publish_attrs(&self, inode: &Inode, bytes_follow: bool) -> Result<()> {
        let mut state = inode.state.lock();
        let Some(pending) = state.pending.clone() else { return Ok(()) };
        // With the state locked: nobody sees the node without them, and none that is set now is forgotten.
        let delta = match self.apply(pending.clone().into_op(inode.id)) {
            Ok(applied) => applied.delta,
            Err(error) if is_missing(error) && bytes_follow => return Ok(()),
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
        if let Some(before) = before.as_ref().filter(|node| snapshot.recovered && node.content == snapshot.content) {
            // The earlier life published it, but for the last word of it.
            return Ok(Next { basis: before.basis.clone(), beside });
        }
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
                return self.rescue(inode, snapshot);
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

    /// The tree does not know the file (it was put back from an older copy): what was written here becomes a new one, which is
    /// written on by who has it open.
    fn rescue(&self, inode: &Inode, snapshot: &Snapshot) -> Result<Next> {
        let last = {
            let mut state = inode.state.lock();
            let pending = state.pending.take();
            let mut last = state.last.as_deref().cloned();
            if let (Some(pending), Some(last)) = (pending, &mut last) {
                pending.put_into(last);
            }
            last
        };
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
        let new = self.fresh_inode();
        let op = Op::Create { dir, name: name.clone(), inode: new, place: self.fresh_place(), node, beside: None };
        let applied = self.apply(op)?;
        self.side_effects(&applied.delta, &[], &[]);
        debug!(%name, "a file that the tree does not know came back with what was written here");
        let basis = self.tree.node(new).map_or_else(|| snapshot.basis.clone(), |node| node.basis);
        Ok(Next { basis, beside: Some(new) })
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
            (body.recovered, body.awaited) = (false, false);
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
        self.queue.tell();
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
        self.check_taken()?;
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
                self.publish_attrs(inode, true)?;
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
        let (large, small): (Vec<Job>, Vec<Job>) = self.queue.all().into_iter().partition(|job| is_large(&job.1));
        // What takes long is the background's, so that nothing of it is for nothing if it is not done by then.
        let large: Vec<Awaited> = large.into_iter().map(Awaited::of).collect();
        large.iter().for_each(|state| self.ask(&state.job));
        let settled = self.settle_here(&small, deadline);
        self.await_published(large, deadline) && settled
    }

    fn settle_here(&self, jobs: &[Job], deadline: Instant) -> bool {
        let mut settled = true;
        for (inode, version) in jobs {
            if Instant::now() >= deadline {
                return false;
            }
            settled &= self.publish_or_retry(inode, version, Some(deadline));
        }
        settled
    }

    /// Has the background publish these states, and waits until it has, or failed to. True if all are published.
    fn await_published(&self, mut states: Vec<Awaited>, deadline: Instant) -> bool {
        let mut settled = true;
        loop {
            let seen = self.queue.ended();
            states.retain(|state| match state.outcome() {
                None => {
                    self.ask(&state.job);
                    true
                }
                Some(published) => {
                    settled &= published;
                    false
                }
            });
            if states.is_empty() {
                return settled;
            }
            if !self.queue.await_end(seen, deadline) {
                return false;
            }
        }
    }

    /// Publishes what an earlier life left, or synced but did not come to publish.
    ///
    /// What takes long, or cannot be published now (a full disk), is shown all the same, as what was written in this life is,
    /// and published in the background.
    pub(crate) fn recover(&self) -> io::Result<()> {
        for (note, file) in self.content.recover()? {
            let note = Note::decode(&note);
            let inode = self.inodes.intern(note.as_ref().map_or_else(|| self.fresh_inode(), |note| note.inode), 0);
            let mtime = note.as_ref().map_or_else(now, |note| note.mtime);
            let via = note.as_ref().and_then(|note| Some((note.dir?, note.name.clone()?)));
            let basis = note.map(|note| note.basis.into()).unwrap_or_default();
            let version = Arc::new(Version::recovered(file, basis, mtime, via));
            inode.state.lock().current = Some(version.clone());
            debug!(inode = %inode.id, "goes on with what was written before the last end");
            self.schedule(&inode, &version, &mut version.body.lock(), Instant::now());
        }
        let small: Vec<Job> = self.queue.all().into_iter().filter(|job| !is_large(&job.1)).collect();
        self.settle_here(&small, Instant::now() + RECOVER);
        Ok(())
    }

    /// What is not published is left for the next life, with all that is needed to publish it then. False if not all can be.
    pub(crate) fn keep_unpublished(&self) -> bool {
        let mut kept = true;
        for (inode, version) in self.queue.all() {
            // Who is at it gives up.
            let _one = version.publishing.try_lock_for(GIVE_UP);
            let inode = self.home(&inode);
            let path = self.path(inode.id, version.body.lock().via.as_ref());
            match self.keep(&inode, &version) {
                Ok(true) => info!(path, "is not published yet: that goes on when the share is shown again"),
                Ok(false) => {}
                Err(error) => {
                    error!(path, %error, "cannot keep what was written and is not published");
                    kept = false;
                }
            }
        }
        kept
    }

    /// False if there was nothing to be kept.
    fn keep(&self, inode: &Inode, version: &Version) -> Result<bool> {
        {
            let mut body = version.body.lock();
            if body.dead || !body.dirty() {
                return Ok(false);
            }
            body.spill(&*self.content)?;
        }
        let _applying = inode.applying.lock();
        if let Err(error) = self.publish_attrs(inode, true) {
            warn!(inode = %inode.id, %error, "cannot publish what was set on a file; its bytes are kept");
        }
        let (file, note) = {
            let body = version.body.lock();
            match &body.data {
                Data::File(file) if body.dirty() && !body.dead => (file.clone(), self.note(inode.id, &body)),
                _ => return Ok(false),
            }
        };
        self.content.leave(file, &note)?;
        Ok(true)
    }
}

/// Whether publishing a version may take long.
fn is_large(version: &Version) -> bool {
    version.body.lock().size() > BUSY_MAX
}

/// When a version that is due may be published; `None`: now.
fn due(body: &Body) -> Option<Instant> {
    if body.writers == 0 || !body.dirty() || body.awaited {
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
