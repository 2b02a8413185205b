//! Observing: what the folder holds now, at the names that may have changed and at all that these lead to.
//!
//! A full scan and the look at one name are the same thing: names to look at, and directories to list. What is found
//! decides what else must be looked at: a file that is known by another name (is it still there?), a directory that is
//! known from elsewhere (it was moved), a new one (list it). The result says for each name that was looked at what is there;
//! a name that could not be looked at is left out and means "as it was".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use parking_lot::Mutex;

use crate::disk::{Dir, Ident, Meta, Root, Stamp};
use crate::ignores::{self, Ignores, is_aside, is_parked, is_temporary};
use crate::renumbered::Overview;
use crate::synced::{Place, SyncedTree};
use crate::watch::{Event, Watcher};

/// How often what happened while we looked is looked at in the same look.
const ROUNDS: usize = 4;

/// What may have changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    /// Names to look at.
    pub(crate) names: BTreeSet<Place>,
    /// Directories to list.
    pub(crate) dirs: BTreeSet<InodeId>,
    /// Everything.
    pub(crate) all: bool,
}

impl Dirty {
    /// Whether nothing may have.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty() && self.dirs.is_empty()
    }
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The node that it is, or a fresh identity for it.
    pub(crate) id: InodeId,
    /// Whether the last synced tree has it.
    pub(crate) known: bool,
    /// File, directory or symlink.
    pub(crate) kind: Kind,
    /// Its state.
    pub(crate) stamp: Stamp,
    /// The target, of symlinks.
    pub(crate) target: Vec<u8>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// The names that were looked at; `None`: nothing (that we sync) is there.
    pub(crate) places: BTreeMap<Place, Option<Found>>,
    /// New directories, each after the one that it lies in.
    pub(crate) new_dirs: Vec<InodeId>,
    /// Directories of the last synced tree that are at another place now.
    pub(crate) moved: HashMap<InodeId, Place>,
    /// What could not be looked at or is not synced: path and why.
    pub(crate) problems: Vec<(Vec<Name>, String)>,
    /// Paths that were looked at and are fine.
    pub(crate) fine: Vec<Vec<Name>>,
    /// Names that were written to meanwhile.
    pub(crate) written: Vec<Place>,
    /// Entries of the last synced tree that have another number now, and that.
    pub(crate) renumbered: Vec<(InodeId, Ident)>,
    /// Names of files with several that are known to be those that were written through.
    pub(crate) through: HashSet<Place>,
    /// Names that led to an entry whose name is spelled otherwise, and that name.
    pub(crate) respelled: Vec<(Place, Place)>,
    /// Ignore rules changed: everything is to be looked at again.
    pub(crate) rules_changed: bool,
    /// Events were lost meanwhile: everything is to be looked at again.
    pub(crate) lost: bool,
    /// The root is gone: nothing that was seen counts.
    pub(crate) root_gone: bool,
}

impl Observation {
    /// Where a directory is now.
    pub(crate) fn dir_place(&self, synced: &SyncedTree, dir: InodeId) -> Option<Place> {
        self.moved.get(&dir).or_else(|| synced.names(dir).first()).cloned()
    }

    /// The path to a directory now.
    pub(crate) fn path(&self, synced: &SyncedTree, dir: InodeId) -> Option<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = dir;
        while at != InodeId::ROOT {
            let (parent, name) = self.dir_place(synced, at)?;
            path.push(name);
            at = parent;
            if path.len() > 100_000 {
                return None;
            }
        }
        path.reverse();
        Some(path)
    }
}

/// What observing works with.
pub(crate) struct Observer<'a> {
    /// The folder.
    pub(crate) root: &'a Root,
    /// The watcher, which follows all directories that are found.
    pub(crate) watcher: &'a mut Watcher,
    /// The rules.
    pub(crate) ignores: &'a mut Ignores,
    /// The last synced tree.
    pub(crate) synced: &'a SyncedTree,
    /// Makes identities.
    pub(crate) fresh: &'a (dyn Fn() -> InodeId + Sync),
    /// Removes temporary files that it comes across (at the start only: later they may be in use).
    pub(crate) clean: bool,
    /// How many threads to use.
    pub(crate) threads: usize,
}

/// What is to be done in one directory.
#[derive(Debug, Default)]
struct Job {
    list: bool,
    names: BTreeSet<Name>,
}

/// A job that can be done: its directory's path is known.
struct Ready {
    dir: InodeId,
    path: Vec<Name>,
    ident: Option<Ident>,
    watch: bool,
    job: Job,
}

struct Seen {
    name: Name,
    meta: io::Result<Option<Meta>>,
    target: Vec<u8>,
}

#[derive(Default)]
struct Outcome {
    respelled: Vec<(Name, Name)>,
    seen: Vec<Seen>,
    watch: Option<io::Result<i32>>,
}

/// Not this directory any more.
fn moved_away() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Observer<'_> {
    /// Looks at everything that may have changed.
    pub(crate) fn observe(mut self, dirty: &Dirty) -> Observation {
        let mut look = Look::default();
        let mut obs = Observation::default();
        if dirty.all {
            look.jobs.entry(InodeId::ROOT).or_default().list = true;
        }
        for (dir, name) in &dirty.names {
            look.jobs.entry(*dir).or_default().names.insert(name.clone());
        }
        for dir in &dirty.dirs {
            look.jobs.entry(*dir).or_default().list = true;
        }
        let mut settled = 0;
        for _ in 0..ROUNDS {
            self.exhaust(&mut look, &mut obs, dirty.all);
            settled = obs.new_dirs.len();
            if !self.take_late(&mut look, &mut obs) {
                break;
            }
        }
        if !look.jobs.is_empty() {
            // What happens now is for the next look.
            self.exhaust(&mut look, &mut obs, dirty.all);
        }
        let new = obs.new_dirs[..settled].to_vec();
        self.recognise(&mut obs, &Overview { new: &new, passed: &look.passed, all: dirty.all });
        obs
    }

    /// What happened while we looked belongs to it: a directory moved between two looks is not gone.
    fn take_late(&mut self, look: &mut Look, obs: &mut Observation) -> bool {
        let Ok(events) = self.watcher.drain() else {
            obs.lost = true;
            return false;
        };
        for event in events {
            match event {
                Event::Name { dir, name, writing } if !is_temporary(&name) && !is_parked(&name) => {
                    if writing {
                        obs.written.push((dir, name.clone()));
                    }
                    look.jobs.entry(dir).or_default().names.insert(name);
                }
                Event::Name { .. } => {}
                Event::Lost => obs.lost = true,
                Event::RootGone => obs.root_gone = true,
            }
        }
        !look.jobs.is_empty()
    }

    fn exhaust(&mut self, look: &mut Look, obs: &mut Observation, all: bool) {
        loop {
            let ready = self.ready(look, obs);
            if ready.is_empty() {
                if look.unstick(self.synced, obs) || self.check_links(look, obs) {
                    continue;
                }
                return;
            }
            let outcomes = self.run(&ready);
            for (ready, outcome) in ready.into_iter().zip(outcomes) {
                match outcome {
                    Ok(outcome) => self.merge(ready, outcome, look, obs, all),
                    Err(error) => self.fail(ready, &error, look, obs),
                }
            }
        }
    }

    /// A file with several names may have been changed by one that is gone or that changed: all of them are looked at.
    /// Whether there is anything new to do.
    fn check_links(&self, look: &mut Look, obs: &Observation) -> bool {
        let mut todo: Vec<InodeId> = Vec::new();
        for (place, found) in &obs.places {
            let Some(before) = self.synced.child(place) else { continue };
            let here = found.as_ref().is_some_and(|f| f.id == before);
            let unmoved = !obs.moved.contains_key(&before);
            if !self.synced.is_dir(before) || (!here && unmoved && look.walked.insert(before)) {
                todo.push(before);
            }
        }
        while let Some(id) = todo.pop() {
            if self.synced.is_dir(id) {
                let below = self.synced.children(id).map(|(_, id)| id);
                todo.extend(below.filter(|id| !obs.moved.contains_key(id)));
            } else if self.synced.names(id).len() > 1 {
                look.check(self.synced.names(id), obs);
            }
        }
        !look.jobs.is_empty()
    }

    /// The jobs whose directories we know the way to; the others wait.
    fn ready(&self, look: &mut Look, obs: &Observation) -> Vec<Ready> {
        let mut ready = Vec::new();
        for (dir, job) in std::mem::take(&mut look.jobs) {
            let known = self.synced.node(dir).map(|n| n.stamp.ident).filter(|ident| !ident.is_void());
            let ident = look.idents.get(&dir).copied().or(known);
            match obs.path(self.synced, dir) {
                Some(path) if ident.is_some() || dir == InodeId::ROOT => {
                    let watch = !self.watcher.has(dir);
                    ready.push(Ready { dir, path, ident, watch, job });
                }
                _ => look.stick(dir, job),
            }
        }
        ready
    }

    fn run(&self, ready: &[Ready]) -> Vec<io::Result<Outcome>> {
        let threads = self.threads.min(ready.len() / 4).max(1);
        if threads == 1 {
            return ready.iter().map(|r| self.look_at(r)).collect();
        }
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<io::Result<Outcome>>> = ready.iter().map(|_| Mutex::new(Err(moved_away()))).collect();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = ready.get(at) else { break };
                        *results[at].lock() = self.look_at(job);
                    }
                });
            }
        });
        results.into_iter().map(Mutex::into_inner).collect()
    }

    /// The watch comes before the list: what is made in between is in one of the two.
    fn look_at(&self, ready: &Ready) -> io::Result<Outcome> {
        let dir = self.root.dir(&ready.path)?;
        if ready.ident.is_some_and(|i| !matches!(dir.meta(), Ok(m) if m.stamp.ident == i)) {
            return Err(moved_away());
        }
        let watch = ready.watch.then(|| self.watcher.add(&dir));
        let mut names = ready.job.names.clone();
        let (mut gone, mut respelled) = (Vec::new(), Vec::new());
        let folds = self.root.abilities().names.folds();
        if ready.job.list || folds {
            let there: HashSet<Name> = dir.names()?.into_iter().collect();
            if folds {
                (gone, respelled) = self.respell(&mut names, &there);
            }
            if ready.job.list {
                names.extend(there);
            }
        }
        let seen = gone.into_iter().map(|name| Seen { name, meta: Ok(None), target: Vec::new() });
        let seen = seen.chain(names.into_iter().filter_map(|name| self.see(&dir, name))).collect();
        Ok(Outcome { seen, watch, respelled })
    }

    /// Where one entry is found by several names, only the one that the directory lists is its name: takes the others out;
    /// returns them, and those that lead to an entry with its name, which is looked at instead.
    fn respell(&self, names: &mut BTreeSet<Name>, there: &HashSet<Name>) -> (Vec<Name>, Vec<(Name, Name)>) {
        let platform = self.root.abilities().names;
        let ours = |name: &Name| is_temporary(name) || is_parked(name);
        let gone: Vec<Name> = names.iter().filter(|name| !there.contains(*name) && !ours(name)).cloned().collect();
        if gone.is_empty() {
            return (gone, Vec::new());
        }
        let by_key: HashMap<Vec<u8>, &Name> = there.iter().map(|name| (platform.key(name), name)).collect();
        let mut respelled = Vec::new();
        for asked in &gone {
            names.remove(asked);
            if let Some(real) = by_key.get(&platform.key(asked)) {
                names.insert((*real).clone());
                respelled.push((asked.clone(), (*real).clone()));
            }
        }
        (gone, respelled)
    }

    fn see(&self, dir: &Dir, name: Name) -> Option<Seen> {
        if is_temporary(&name) || is_parked(&name) {
            if self.clean && is_temporary(&name) && !is_aside(&name) && dir.unlink(&name).is_err() {
                tracing::warn!(%name, "cannot remove a temporary file of an earlier run");
            }
            return None;
        }
        if self.root.abilities().is_removed(&name) {
            return None;
        }
        let mut target = Vec::new();
        let mut meta = dir.stat(&name);
        if let Ok(Some(Meta { kind: Kind::Symlink, .. })) = meta {
            match dir.read_link(&name) {
                Ok(bytes) => target = bytes,
                Err(error) => meta = Err(error),
            }
        }
        Some(Seen { name, meta, target })
    }

    /// A directory could not be looked into: it is elsewhere or gone (then it waits until it is found), or there is a
    /// problem, and it counts as unchanged.
    fn fail(&self, ready: Ready, error: &io::Error, look: &mut Look, obs: &mut Observation) {
        use rustix::io::Errno;
        let gone =
            [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()));
        if gone || error.kind() == io::ErrorKind::NotFound {
            // It, or a directory above it, may have been found elsewhere in the same round.
            let elsewhere = obs.path(self.synced, ready.dir).is_some_and(|path| path != ready.path);
            if elsewhere { look.again(ready.dir, ready.job) } else { look.stick(ready.dir, ready.job) }
        } else {
            let why = format!("cannot be read ({error}); what lies in it counts as unchanged. Make it readable");
            obs.problems.push((ready.path, why));
        }
    }

    fn merge(&mut self, ready: Ready, outcome: Outcome, look: &mut Look, obs: &mut Observation, all: bool) {
        match outcome.watch {
            Some(Ok(wd)) => self.watcher.register(ready.dir, wd),
            Some(Err(error)) => obs.problems.push((ready.path.clone(), unwatched(&error))),
            None => {}
        }
        let place = |name| (ready.dir, name);
        obs.respelled.extend(outcome.respelled.into_iter().map(|(asked, real)| (place(asked), place(real))));
        if outcome.seen.iter().any(|s| s.name.as_bytes() == ignores::FILE.as_bytes())
            && let Ok(dir) = self.root.dir(&ready.path)
        {
            let changed = self.ignores.load(&ready.path, &dir);
            obs.rules_changed |= changed && !ready.job.list;
        }
        if ready.job.list {
            let there: HashSet<&Name> = outcome.seen.iter().map(|s| &s.name).collect();
            for (name, inode) in self.synced.children(ready.dir) {
                let is_dir = self.synced.is_dir(inode);
                let ours = is_parked(name);
                if !ours && !there.contains(name) && !self.ignores.ignored(&ready.path, name, is_dir) {
                    obs.places.insert((ready.dir, name.clone()), None);
                }
            }
            if !ready.path.is_empty() {
                obs.fine.push(ready.path.clone());
            }
        }
        let names: Option<Vec<Name>> = (ready.job.list && !self.synced.is_dir(ready.dir))
            .then(|| outcome.seen.iter().map(|seen| seen.name.clone()).collect());
        for seen in outcome.seen {
            self.merge_one(&ready, seen, look, obs, all);
        }
        if let Some(mut names) = names {
            names.retain(|name| !obs.places.contains_key(&(ready.dir, name.clone())));
            look.passed.insert(ready.dir, names.into_iter().collect());
        }
    }

    fn merge_one(&self, ready: &Ready, seen: Seen, look: &mut Look, obs: &mut Observation, all: bool) {
        let place = (ready.dir, seen.name.clone());
        let path = || [&ready.path[..], std::slice::from_ref(&seen.name)].concat();
        let meta = match seen.meta {
            Ok(Some(meta)) => meta,
            Ok(None) => {
                let was_dir = self.synced.child(&place).is_some_and(|i| self.synced.is_dir(i));
                if !self.ignores.ignored(&ready.path, &seen.name, was_dir) {
                    obs.fine.push(path());
                    obs.places.insert(place, None);
                }
                return;
            }
            Err(error) => {
                obs.problems.push((path(), format!("cannot be looked at ({error}); counts as unchanged")));
                return;
            }
        };
        if self.ignores.ignored(&ready.path, &seen.name, meta.kind == Kind::Dir) {
            return;
        }
        if meta.foreign {
            obs.problems.push((path(), "another filesystem is mounted here; it is not synced".into()));
            return;
        }
        if !matches!(meta.kind, Kind::File | Kind::Dir | Kind::Symlink) {
            obs.problems.push((path(), format!("a {} cannot be synced and is left alone", kind_word(meta.kind))));
            obs.places.insert(place, None);
            return;
        }
        let found = self.identify(&place, &meta, seen.target, look, obs, all);
        obs.places.insert(place, Some(found));
    }

    fn identify(
        &self,
        place: &Place,
        meta: &Meta,
        target: Vec<u8>,
        look: &mut Look,
        obs: &mut Observation,
        all: bool,
    ) -> Found {
        let stamp = meta.stamp;
        let is_dir = meta.kind == Kind::Dir;
        let (id, known) = match self.known(place, meta) {
            Some(id) => (id, true),
            None => match look.new.get(&stamp.ident) {
                Some(id) => (*id, false),
                None => {
                    let id = (self.fresh)();
                    look.new.insert(stamp.ident, id);
                    if is_dir {
                        obs.new_dirs.push(id);
                    }
                    (id, false)
                }
            },
        };
        if is_dir {
            let at = obs.dir_place(self.synced, id);
            if at.as_ref() != Some(place) {
                look.idents.insert(id, stamp.ident);
                obs.moved.insert(id, place.clone());
                look.retry();
                if known {
                    look.check(self.synced.names(id), obs);
                } else {
                    look.jobs.entry(id).or_default().list = true;
                }
            }
            if look.stuck.contains_key(&id) {
                look.retry();
            }
            if known && (all || !self.watcher.has(id)) {
                look.list_once(id);
            }
        } else if known && !self.synced.names(id).contains(place) {
            look.check(self.synced.names(id), obs);
        }
        Found { id, known, kind: meta.kind, stamp, target }
    }

    /// The node that is found here, if the last synced tree has it. Where the filesystem keeps no time of birth, a file at
    /// another place must also have the length and time that it had: its number may have been used again.
    fn known(&self, place: &Place, meta: &Meta) -> Option<InodeId> {
        self.by_number(place, meta).or_else(|| self.by_name(place, meta.kind, &meta.stamp))
    }

    /// A file of which only an earlier run knew the number: what has its name and looks like it, or will be read anyway.
    pub(crate) fn by_name(&self, place: &Place, kind: Kind, stamp: &Stamp) -> Option<InodeId> {
        let id = self.synced.child(place).filter(|_| kind == Kind::File)?;
        let node = self.synced.node(id).filter(|node| node.stamp.ident.is_void() && node.kind == kind)?;
        (node.stamp.ident.is_doubted() || node.stamp.looks_like(stamp)).then_some(id)
    }

    fn by_number(&self, place: &Place, meta: &Meta) -> Option<InodeId> {
        let id = self.synced.by_ident(&meta.stamp.ident)?;
        let node = self.synced.node(id)?;
        let here = self.synced.child(place) == Some(id);
        let sure = here || meta.stamp.ident.born != Default::default() || node.stamp.same_bytes(&meta.stamp);
        (node.kind == meta.kind && sure).then_some(id)
    }
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Fifo => "named pipe",
        Kind::Socket => "socket",
        Kind::CharDevice | Kind::BlockDevice => "device",
        Kind::File => "file",
        Kind::Dir => "directory",
        Kind::Symlink => "symlink",
    }
}

fn unwatched(error: &io::Error) -> String {
    if error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) {
        "changes in it are seen at the next full scan only: the limit of watches is reached. Raise it with \
         sysctl fs.inotify.max_user_watches=1048576"
            .into()
    } else {
        format!("changes in it are seen at the next full scan only: it cannot be watched ({error})")
    }
}

/// The state of one observation.
#[derive(Default)]
struct Look {
    jobs: BTreeMap<InodeId, Job>,
    /// Jobs in directories that we do not find where they were.
    stuck: BTreeMap<InodeId, Job>,
    /// Fresh identities, by file.
    new: HashMap<Ident, InodeId>,
    /// Directories that are gone, and were searched for names of files that have others.
    walked: HashSet<InodeId>,
    /// Names that something that was found led to.
    asked: HashSet<Place>,
    /// Directories found, by identity.
    idents: HashMap<InodeId, Ident>,
    /// Of new directories that were listed: names there of which nothing is said.
    passed: HashMap<InodeId, BTreeSet<Name>>,
}

impl Look {
    fn stick(&mut self, dir: InodeId, job: Job) {
        let stuck = self.stuck.entry(dir).or_default();
        stuck.list |= job.list;
        stuck.names.extend(job.names);
    }

    /// A directory was found: those that were not may be below it.
    fn retry(&mut self) {
        for (dir, job) in std::mem::take(&mut self.stuck) {
            self.again(dir, job);
        }
    }

    fn again(&mut self, dir: InodeId, job: Job) {
        let again = self.jobs.entry(dir).or_default();
        again.list |= job.list;
        again.names.extend(job.names);
    }

    /// Looks at names that were not looked at.
    fn check(&mut self, places: &[Place], obs: &Observation) {
        for place in places.iter().filter(|p| !obs.places.contains_key(*p)) {
            if self.asked.insert(place.clone()) {
                self.jobs.entry(place.0).or_default().names.insert(place.1.clone());
            }
        }
    }

    fn list_once(&mut self, dir: InodeId) {
        self.jobs.entry(dir).or_default().list = true;
    }

    /// Where directories were not found, their own names are looked at. Whether there is anything new to do.
    fn unstick(&mut self, synced: &SyncedTree, obs: &Observation) -> bool {
        let dirs: Vec<InodeId> = self.stuck.keys().copied().collect();
        for dir in dirs {
            let Some(place) = synced.names(dir).first() else { continue };
            let asked = self.stuck.get(&place.0).is_some_and(|j| j.names.contains(&place.1));
            if !asked && !obs.places.contains_key(place) {
                self.jobs.entry(place.0).or_default().names.insert(place.1.clone());
            }
        }
        !self.jobs.is_empty()
    }
}
