//! Taking: the folder's changes into the share.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::port::{Hold, Tree};
use parking_lot::Mutex;

use super::problems::Of;
use super::{BUSY_AGAIN, BUSY_QUIET, Worker, Writing, join};
use crate::aside::{Aside, origin};
use crate::crew::{IndexJob, LARGE, NotRead};
use crate::disk::{Dir, Meta, Stamp};
use crate::ignores::{is_aside, is_parked};
use crate::local::{self, Indexed, must_read};
use crate::observe::{Observation, Observer};
use crate::plan::parked_of;
use crate::publish::{Publisher, Refused};
use crate::synced::{Place, SyncedTree};

/// At most this many files, of this many bytes together, are read before what was found is published.
const BATCH_FILES: usize = 4096;
const BATCH_BYTES: u64 = 64 << 20;
/// A file that changed while it was read is looked at again after this.
const CHANGED_AGAIN: Duration = Duration::from_millis(100);

impl Worker {
    /// Observes what may have changed, and publishes it.
    pub(super) fn take(&mut self) {
        if !self.check_root() {
            return;
        }
        if self.first_scan {
            self.recover_aside();
            self.recover_parked();
        }
        let mut view = std::mem::take(&mut self.view);
        self.unite(&mut view);
        self.view = view;
        let dirty = std::mem::take(&mut self.local);
        let heard = self.first_event.is_some();
        (self.first_event, self.last_event) = (None, None);
        let obs = self.observe(&dirty);
        if obs.root_gone && !self.check_root() {
            return;
        }
        self.renumber(&obs);
        self.local.all |= obs.lost || obs.rules_changed;
        self.view.all |= obs.rules_changed;
        self.written.extend(obs.written.iter().cloned());
        for (asked, real) in &obs.respelled {
            if self.written.remove(asked) {
                self.written.insert(real.clone());
            }
        }
        let mut obs = obs;
        {
            let synced = self.synced.read();
            let several = |place: &&Place| synced.child(place).is_some_and(|id| synced.names(id).len() > 1);
            obs.through = self.written.iter().filter(several).cloned().collect();
        }
        if self.first_scan {
            let new = obs.places.values().flatten().filter(|found| !found.known && found.kind == Kind::File);
            let looks = new.map(|found| found.stamp.look()).collect();
            self.synced.write().doubt(&looks);
        }
        self.take_up_intents(&mut obs);
        self.hold_back(&mut obs);
        self.report(&obs);
        self.read_files(&obs);
        let plan = local::plan(&self.synced.read(), &obs, &self.indexed, &self.written);
        // Gone as a whole in the time it took to look: not deleted.
        if !plan.is_empty() && !self.check_root() {
            return;
        }
        self.publish(&plan, &obs);
        // A directory may be kept for what is not in it any more.
        self.progress |= heard;
        self.first_scan = false;
        self.settle_indexed(&obs);
    }

    fn observe(&mut self, dirty: &crate::observe::Dirty) -> Observation {
        let tree = self.ports.tree.clone();
        let synced = self.synced.read();
        let observer = Observer {
            root: &self.root,
            watcher: &mut self.watcher,
            ignores: &mut self.ignores,
            synced: &synced,
            fresh: &|| InodeId(tree.fresh_id()),
            clean: self.first_scan,
            threads: self.threads,
        };
        observer.observe(dirty)
    }

    /// Numbers are this folder's alone: nothing is published for them.
    fn renumber(&mut self, obs: &Observation) {
        let mut synced = self.synced.write();
        for (id, ident) in &obs.renumbered {
            synced.renumber(*id, *ident);
        }
        drop(synced);
        if !obs.renumbered.is_empty() {
            self.save_soon();
        }
    }

    fn publish(&mut self, plan: &local::LocalPlan, obs: &Observation) {
        if plan.is_empty() {
            self.note_refused(obs, Vec::new());
            return;
        }
        let read_only = self.read_only || !self.ports.tree.writable();
        let mut publisher =
            Publisher::new(&*self.ports.tree, self.ports.adapter, &self.ports.device_name, &self.synced, read_only);
        publisher.publish(plan);
        let (view, rekeyed, stale, refused) = (publisher.view, publisher.rekeyed, publisher.stale, publisher.refused);
        self.ops_open |= publisher.done > 0;
        self.view.merge(view);
        for (from, to) in rekeyed {
            self.goes_by(from, to);
        }
        self.note_refused(obs, refused);
        self.forget_keys(stale);
        self.save_soon();
    }

    /// Entries that were on their way when the last run ended lie under a name of ours in the root: they go on from there.
    fn recover_parked(&mut self) {
        let Ok(root) = self.root.dir(&[]) else { return };
        for name in root.names().unwrap_or_default().into_iter().filter(is_parked) {
            let Ok(Some(Meta { stamp, .. })) = root.stat(&name) else { continue };
            let mut synced = self.synced.write();
            let known = self.left_by_last_run(&synced, &stamp, parked_of(&name)).and_then(|id| {
                let from = synced.names(id).iter().find(|p| !is_parked(&p.1));
                Some((id, from.cloned()?))
            });
            if let Some((_, from)) = known {
                synced.rename(&from, (InodeId::ROOT, name));
                continue;
            }
            let rest = &name.as_bytes()[crate::disk::PARKED.len()..];
            let plain = Name::new(&[b"crdtfs-recovered-", rest].concat());
            if let Ok(plain) = plain
                && let Err(error) = root.rename(&name, &root, &plain)
            {
                tracing::warn!(%name, %error, "an entry of an earlier run cannot be given a plain name");
            }
        }
    }

    /// What the last run took aside and had not looked at, or put back, when it ended. What is as we know it was to be
    /// removed; anything else somebody wrote.
    fn recover_aside(&mut self) {
        let Ok(root) = self.root.dir(&[]) else { return };
        for name in root.names().unwrap_or_default().into_iter().filter(is_aside) {
            let Ok(Some(Meta { kind, stamp, .. })) = root.stat(&name) else { continue };
            let left = self.left_by_last_run(&self.synced.read(), &stamp, origin(&name));
            let here = left.and_then(|id| self.really(id, &root, &name, kind));
            let (known, place) = {
                let synced = self.synced.read();
                let place = here.and_then(|id| synced.names(id).first().cloned());
                let here = here.and_then(|id| synced.node(id)).cloned();
                (here.or_else(|| synced.intent(&stamp.ident).map(|intent| intent.state.clone())), place)
            };
            // Another file than the name says was on its way to that one's place.
            let exchanges = self.root.abilities().exchanges && here == left;
            let same = |known: &Stamp| known.same_bytes(&stamp) || known.ident.is_void();
            let ours = known.filter(|known| known.kind == kind && same(&known.stamp));
            let aside = Aside { root: &root, name: &name };
            let done = match ours {
                // Replaced step by step, it may be all there is: what is to become of it is found out anew.
                Some(_) if !exchanges && place.is_some_and(|at| self.put_where_it_was(&root, &name, &at)) => Ok(()),
                Some(known) if here == left => aside.give_up(&known, &*self.ports.content, None),
                _ => {
                    let synced = self.synced.read();
                    aside.rescue(&self.root, &synced, &self.ports.device_name)
                }
            };
            if let Err(error) = done {
                let path = self.root.path().join(std::ffi::OsStr::from_bytes(name.as_bytes()));
                tracing::warn!(path = %path.display(), %error, "what an earlier run took aside stays there");
            }
        }
    }

    /// The node that a file under a name of ours is, if that was found by the name: only its bytes tell, of that node or of
    /// another one.
    fn really(&self, id: InodeId, root: &Dir, name: &Name, kind: Kind) -> Option<InodeId> {
        if kind != Kind::File || self.synced.read().node(id).is_some_and(|node| !node.stamp.ident.is_void()) {
            return Some(id);
        }
        let key = InodeId(self.ports.tree.fresh_id());
        let content = root.open(name).and_then(|file| self.ports.content.index_file(key, &file, None));
        self.bench.forget(key);
        let hash = content.ok()?.hash;
        let synced = self.synced.read();
        let holds = |id: &InodeId| synced.node(*id).is_some_and(|n| n.kind == Kind::File && n.content.hash == hash);
        Some(id).filter(holds).or_else(|| synced.nodes().map(|(id, _)| *id).find(holds))
    }

    /// The node that a file under a name of ours is: by its number or, where that says nothing, by that name.
    fn left_by_last_run(&self, synced: &SyncedTree, stamp: &Stamp, named: Option<InodeId>) -> Option<InodeId> {
        let void = |id: &InodeId| synced.node(*id).is_some_and(|node| node.stamp.ident.is_void());
        synced.by_ident(&stamp.ident).or(named.filter(void))
    }

    /// Whether what lies aside is back at its place, which was free.
    fn put_where_it_was(&self, root: &Dir, name: &Name, place: &Place) -> bool {
        let path = self.synced.read().path(place.0);
        let dir = path.and_then(|path| self.root.dir(&path).ok());
        dir.is_some_and(|dir| root.rename(name, &dir, &place.1).is_ok())
    }

    /// Files that the last run put into place and did not write down: they are what was announced, or an edit of it, wherever
    /// the user has moved them since.
    fn take_up_intents(&mut self, obs: &mut Observation) {
        let mut synced = self.synced.write();
        if !synced.has_intents() {
            return;
        }
        let known: HashSet<InodeId> = obs.places.values().flatten().filter(|f| f.known).map(|f| f.id).collect();
        for (place, found) in &mut obs.places {
            let Some(found) = found else { continue };
            let Some(intent) = synced.intent(&found.stamp.ident).cloned() else { continue };
            let moved = synced.child(place) != Some(intent.inode);
            if found.kind != Kind::File || found.known || (moved && known.contains(&intent.inode)) {
                continue;
            }
            if synced.names(intent.inode).is_empty() {
                let Some(at) = put_at(&*self.ports.tree, &synced, intent.inode, place) else { continue };
                // What had the name gave it up, or is somewhere else.
                if synced.child(&at).is_some_and(|other| known.contains(&other)) {
                    continue;
                }
                synced.place(intent.inode, at);
            }
            // With no length that a file has: so that it is read, and compared with what was announced.
            let mut state = intent.state.clone();
            state.stamp.size = u64::MAX;
            synced.set(intent.inode, state);
            (found.id, found.known) = (intent.inode, true);
        }
        if self.first_scan {
            synced.end_all_intents();
        }
    }

    fn report(&self, obs: &Observation) {
        let problems = &self.shown.problems;
        if !problems.is_empty() {
            for path in &obs.fine {
                problems.end(&join(path), Of::Looking);
            }
            let synced = self.synced.read();
            for (place, found) in &obs.places {
                if found.is_some()
                    && let Some(mut path) = obs.path(&synced, place.0)
                {
                    path.push(place.1.clone());
                    problems.end(&join(&path), Of::Looking);
                }
            }
        }
        for (path, why) in &obs.problems {
            problems.say(&join(path), Of::Looking, why.clone());
        }
    }

    /// Reads the files that must be: small ones now, large ones by the crew; what does not fit is looked at again.
    fn read_files(&mut self, obs: &Observation) {
        let (mut now, mut bytes) = (Vec::new(), 0);
        let mut rest = Vec::new();
        {
            let synced = self.synced.read();
            for (place, found) in obs.places.iter().filter_map(|(p, f)| Some((p, f.as_ref()?))) {
                let read = self.indexed.get(&found.stamp.ident).is_some_and(|i| i.stamp == found.stamp);
                let again = self.written.contains(place);
                if (read && !again) || !must_read(&synced, place, found, &self.written) {
                    continue;
                }
                let Some(dir) = obs.path(&synced, place.0) else { continue };
                let job = IndexJob {
                    place: place.clone(),
                    dir,
                    stamp: found.stamp,
                    key: InodeId(self.ports.tree.fresh_id()),
                    like: synced.node(found.id).or_else(|| synced.node(synced.child(place)?)).map(|node| node.content),
                    force: self.quiet_for_long(place, &found.stamp),
                };
                if found.stamp.size > LARGE {
                    rest.push((job, true));
                } else if now.len() >= BATCH_FILES || bytes >= BATCH_BYTES {
                    rest.push((job, false));
                } else {
                    bytes += found.stamp.size;
                    now.push(job);
                }
            }
        }
        for (job, large) in rest {
            if !large {
                self.local.names.insert(job.place);
            } else if !self.reading.contains_key(&job.place) {
                self.written.remove(&job.place);
                self.reading.insert(job.place.clone(), job.stamp);
                self.crew.read(job);
            }
        }
        for job in &now {
            self.written.remove(&job.place);
        }
        for (job, result) in self.read_now(now) {
            self.note_read(&job, result);
        }
    }

    fn quiet_for_long(&self, place: &Place, stamp: &Stamp) -> bool {
        let quiet = |w: &Writing| w.stamp.as_ref() == Some(stamp) && w.since.elapsed() >= BUSY_QUIET;
        self.writing.get(place).is_some_and(quiet)
    }

    fn read_now(&self, jobs: Vec<IndexJob>) -> Vec<(IndexJob, Result<Indexed, NotRead>)> {
        let threads = self.threads.min(jobs.len().div_ceil(8)).max(1);
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Result<Indexed, NotRead>>>> = jobs.iter().map(|_| Mutex::default()).collect();
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(at) else { break };
                *results[at].lock() = Some(self.bench.index(job));
            }
        };
        if threads == 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(work);
                }
            });
        }
        let results = results.into_iter().map(|r| r.into_inner().unwrap_or(Err(NotRead::Changed)));
        jobs.into_iter().zip(results).collect()
    }

    /// Keeps what was read, or sees to it that the file is looked at again.
    pub(super) fn note_read(&mut self, job: &IndexJob, result: Result<Indexed, NotRead>) {
        let now = Instant::now();
        match result {
            Ok(indexed) => {
                self.writing.remove(&job.place);
                if let Some(old) = self.indexed.insert(indexed.stamp.ident, indexed)
                    && self.synced.read().by_key(old.key).is_none()
                {
                    self.bench.forget(old.key);
                }
            }
            Err(NotRead::Changed) => {
                self.later.insert(job.place.clone(), now + CHANGED_AGAIN);
            }
            Err(NotRead::Busy) => {
                let writing =
                    self.writing.entry(job.place.clone()).or_insert_with(|| Writing { stamp: None, since: now });
                if writing.stamp.as_ref() != Some(&job.stamp) {
                    *writing = Writing { stamp: Some(job.stamp), since: now };
                }
                self.later.insert(job.place.clone(), now + BUSY_AGAIN);
            }
            Err(NotRead::Problem(why)) => {
                let path = [&job.dir[..], std::slice::from_ref(&job.place.1)].concat();
                self.shown.problems.say(&join(&path), Of::Looking, why);
            }
            Err(NotRead::NoRoom(why)) => {
                self.no_room.push(Refused { at: job.place.clone(), why, again: true });
            }
        }
    }

    /// What was read and published belongs to the synced tree now; what turned out to be known already is forgotten.
    fn settle_indexed(&mut self, obs: &Observation) {
        let synced = self.synced.read();
        let (mut released, mut forgotten) = (Vec::new(), Vec::new());
        let never = self.read_only || !self.ports.tree.writable();
        self.indexed.retain(|ident, indexed| {
            if synced.by_key(indexed.key).is_some() {
                released.push(indexed.key);
                return false;
            }
            let known = synced.by_ident(ident).and_then(|id| synced.node(id));
            let same = known.is_some_and(|n| n.stamp == indexed.stamp && n.content.hash == indexed.content.hash);
            if same {
                forgotten.push(indexed.key);
            }
            if never {
                // Nothing is going to name it.
                indexed.hold = Hold::default();
            }
            !same
        });
        drop(synced);
        for key in released {
            self.bench.keys.release(key);
        }
        self.forget_keys(forgotten);
        let (later, reading, again) = (&self.later, &self.reading, &self.local.names);
        self.written.retain(|place| {
            let open = later.contains_key(place) || reading.contains_key(place) || again.contains(place);
            open || !obs.places.contains_key(place)
        });
    }
}

/// Where a file that was found at a place was put before: where the view shows it.
fn put_at(tree: &dyn Tree, synced: &SyncedTree, inode: InodeId, found: &Place) -> Option<Place> {
    let mut shown = tree.names(inode);
    shown.retain(|(dir, _)| synced.is_dir(*dir));
    if shown.contains(found) { Some(found.clone()) } else { shown.into_iter().next() }
}
