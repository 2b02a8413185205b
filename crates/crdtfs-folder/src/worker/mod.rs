//! The worker: one thread that owns the folder's state and brings folder and share together.
//!
//! It sleeps in `poll` on the watcher and the mailbox, without a period: idleness costs nothing. What it does on waking is
//! always the same: note what may have changed; when the folder has been quiet for a moment, observe and publish (`take`);
//! when the view differs, apply (`give`); a moment after that, save. A crash at any point loses nothing: the operations are
//! durable before the synced tree says so, and intents before what they announce.

mod give;
mod held;
mod problems;
mod refused;
mod take;
mod todo;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_engine::present::SharePorts;
use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags};

use crate::apply::Staged;
use crate::crew::{Bench, Crew, IndexJob, IndexedFiles, Keys, NotRead, Report};
use crate::disk::{Root, Stamp};
use crate::ignores::{Ignores, is_parked, is_temporary};
use crate::mailbox::{Mail, Mailbox};
use crate::observe::Dirty;
use crate::publish::Refused;
use crate::remote::{Item, ViewDirty};
use crate::state::{StateDb, Whose};
use crate::synced::{Place, SyncedTree};
use crate::watch::{Event, Watcher};
pub(crate) use problems::Of;
use problems::Problems;

/// A change is taken when nothing happened in the folder for this long: what belongs together is seen together.
const QUIET: Duration = Duration::from_millis(50);
/// But at the latest after this.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// A file that a program has open is looked at again after this, unless its closing is seen first.
const BUSY_AGAIN: Duration = Duration::from_millis(500);
/// A file that is open for writing and did not change for this long is taken as it is.
const BUSY_QUIET: Duration = Duration::from_secs(2);
/// The state is saved this long after a change.
const SAVE_AFTER: Duration = Duration::from_millis(200);
/// Everything is looked at this often, for changes that no event tells (written mappings, network filesystems).
const RESCAN_EVERY: Duration = Duration::from_secs(3600);

/// What a handle shares with the worker.
pub(crate) struct Shown {
    /// Things a user should know.
    pub(crate) problems: Problems,
    /// Why the folder is not kept in sync any more.
    pub(crate) ended: Mutex<Option<String>>,
    /// Changes of the view that the worker has not heard of yet.
    unheard: AtomicUsize,
    /// The worker has something of the view to apply.
    applying: AtomicBool,
    /// What was told last.
    told: Mutex<bool>,
    progressed: Arc<dyn Fn() + Send + Sync>,
}

impl Shown {
    /// Of a folder that was not compared with the view yet.
    pub(crate) fn new(progressed: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            problems: Problems::default(),
            ended: Mutex::default(),
            unheard: AtomicUsize::new(0),
            applying: AtomicBool::new(true),
            told: Mutex::new(true),
            progressed,
        }
    }

    /// Whether something in the view is not in the folder.
    pub(crate) fn behind(&self) -> bool {
        self.unheard.load(Ordering::SeqCst) > 0 || self.applying.load(Ordering::SeqCst) || self.ended.lock().is_some()
    }

    /// The folder is not kept in sync any more: why.
    pub(crate) fn end(&self, why: String) {
        tracing::warn!("{why}");
        self.ended.lock().get_or_insert(why);
        self.tell();
    }

    /// A change of the view is on its way to the worker.
    pub(crate) fn hear(&self) {
        self.unheard.fetch_add(1, Ordering::SeqCst);
        self.tell();
    }

    fn tell(&self) {
        // Looked at with the lock held: what is told last is how it is.
        let news = {
            let mut told = self.told.lock();
            let behind = self.behind();
            std::mem::replace(&mut *told, behind) != behind
        };
        if news {
            (self.progressed)();
        }
    }
}

/// A file that is being written to.
#[derive(Debug)]
struct Writing {
    stamp: Option<Stamp>,
    since: Instant,
}

/// Lets go of the folder's lock however the worker ends.
struct Locked(Arc<Root>);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// All that the worker owns.
pub(crate) struct Worker {
    ports: SharePorts,
    read_only: bool,
    root: Arc<Root>,
    _locked: Locked,
    synced: Arc<RwLock<SyncedTree>>,
    db: StateDb,
    bench: Arc<Bench>,
    crew: Crew,
    mailbox: Arc<Mailbox>,
    watcher: Watcher,
    ignores: Ignores,
    shown: Arc<Shown>,
    threads: usize,
    serial: u64,

    /// What of the folder may have changed, since when and until when.
    local: Dirty,
    first_event: Option<Instant>,
    last_event: Option<Instant>,
    /// Names that were written to, and have to be read whatever their times say.
    written: HashSet<Place>,
    /// Files that were read and are not in the synced tree yet.
    indexed: IndexedFiles,
    /// Files that the crew is reading.
    reading: HashMap<Place, Stamp>,
    /// Files to look at later.
    later: BTreeMap<Place, Instant>,
    writing: HashMap<Place, Writing>,
    /// What is held back for its name.
    held: held::Held,
    /// What the share did not take.
    refused: HashMap<Place, refused::Refusal>,
    /// What was read since, and there was no room to keep.
    no_room: Vec<Refused>,
    first_scan: bool,
    rescan_at: Instant,

    /// What of the view may differ, and is looked at in this turn.
    view: ViewDirty,
    /// What differs.
    todo: todo::Todo,
    /// Entries that cannot be shown here, with the path under which the user was told.
    unshown: HashMap<Place, Vec<u8>>,
    /// Contents that are ready, and those that are being fetched. Neither is something that is still to be done: what they
    /// are for is on the list.
    staged: HashMap<InodeId, Staged>,
    wanted: HashMap<InodeId, ContentRef>,

    /// Operations were done that may not be durable.
    ops_open: bool,
    save_at: Option<Instant>,
    save_failed: bool,
    /// Something happened that what waits may have waited for.
    progress: bool,
    settling: Vec<Settling>,
    stopped: bool,
}

struct Settling {
    answer: Sender<()>,
    /// Everything was looked at on its behalf.
    looked: bool,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) ports: SharePorts,
    pub(crate) read_only: bool,
    pub(crate) root: Arc<Root>,
    pub(crate) whose: Whose,
    pub(crate) synced: Arc<RwLock<SyncedTree>>,
    pub(crate) db: StateDb,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) shown: Arc<Shown>,
}

impl Worker {
    /// A worker that has everything before it.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { ports, read_only, root, whose, synced, db, mailbox, shown } = parts;
        let keys = Arc::new(Keys::new(&root, whose, synced.clone()));
        ports.content.set_opener(keys.clone());
        let bench = Arc::new(Bench { root: root.clone(), content: ports.content.clone(), keys });
        let crew = Crew::start(&bench, &mailbox)?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        Ok(Self {
            read_only,
            _locked: Locked(root.clone()),
            root,
            synced,
            db,
            bench,
            crew,
            mailbox,
            watcher: Watcher::new()?,
            ignores: Ignores::default(),
            shown,
            threads,
            serial: 0,
            local: Dirty { all: true, ..Dirty::default() },
            first_event: None,
            last_event: None,
            written: HashSet::new(),
            indexed: HashMap::new(),
            reading: HashMap::new(),
            later: BTreeMap::new(),
            writing: HashMap::new(),
            held: HashMap::new(),
            refused: HashMap::new(),
            no_room: Vec::new(),
            first_scan: true,
            rescan_at: Instant::now() + RESCAN_EVERY,
            view: ViewDirty { all: true, ..ViewDirty::default() },
            todo: todo::Todo::default(),
            unshown: HashMap::new(),
            staged: HashMap::new(),
            wanted: HashMap::new(),
            ops_open: false,
            save_at: None,
            save_failed: false,
            progress: false,
            settling: Vec::new(),
            stopped: false,
            ports,
        })
    }

    /// Works until it is told to stop or the folder is gone.
    pub(crate) fn run(mut self) {
        while !self.stopped {
            if let Err(error) = self.turn() {
                self.end(format!("{}: {error}; the folder is no longer kept in sync", self.root.path().display()));
            }
        }
        for mail in self.mailbox.close() {
            if let Mail::Report(Report::Fetched(fetched)) = mail {
                self.was_fetched(fetched);
            }
        }
        self.save();
        for staged in std::mem::take(&mut self.staged).into_values() {
            self.discard(&staged);
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.wait()?;
        for mail in self.mailbox.take() {
            self.read_mail(mail);
        }
        self.drain()?;
        if self.stopped {
            return Ok(());
        }
        self.wake_timers();
        if self.local_due() {
            self.take();
        }
        if !self.stopped && !self.view.is_empty() && !self.first_scan {
            self.give();
        }
        if self.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save();
        }
        if std::mem::take(&mut self.progress) {
            self.wake_others();
        }
        let stale = self.synced.write().take_stale();
        self.forget_keys(stale);
        if self.view.is_empty() && !self.staged.is_empty() {
            self.drop_unwanted();
        }
        self.answer();
        // A crash before the state is saved would make a removal that follows it look like a file that never came.
        // And what was seen but not taken yet is about to become operations.
        let local = !self.local.is_empty() || !self.reading.is_empty() || self.is_owing();
        let behind = self.first_scan || local || !self.shows_all() || self.save_at.is_some();
        self.shown.applying.store(behind, Ordering::SeqCst);
        if behind {
            self.trace_behind(local);
        }
        self.shown.tell();
        Ok(())
    }

    /// What a folder that stays behind waits for, for its log.
    fn trace_behind(&self, local: bool) {
        tracing::trace!(
            local,
            first_scan = self.first_scan,
            view = ?self.view,
            todo = ?self.todo,
            wanted = ?self.wanted,
            saving = self.save_at.is_some(),
            "behind"
        );
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> io::Result<()> {
        let now = Instant::now();
        let due = self.next_due(now).map(|due| due.saturating_duration_since(now));
        let timeout = due.map(|d| rustix::event::Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: d.subsec_nanos().into(),
        });
        let mut fds = [
            PollFd::from_borrowed_fd(self.watcher.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.mailbox.fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        if (!self.view.is_empty() && !self.first_scan) || self.settling.iter().any(|s| !s.looked) {
            return Some(now);
        }
        let local = (!self.local.is_empty()).then(|| self.local_at().unwrap_or(now));
        let later = self.later.values().min().copied();
        [local, later, self.todo.next_due(), self.save_at, Some(self.rescan_at)].into_iter().flatten().min()
    }

    fn read_mail(&mut self, mail: Mail) {
        match mail {
            Mail::View(delta) => {
                self.view.note(&delta);
                self.shown.applying.store(true, Ordering::SeqCst);
                self.shown.unheard.fetch_sub(1, Ordering::SeqCst);
            }
            Mail::Report(Report::Read(read)) => self.was_read(read.0, read.1),
            Mail::Report(Report::Fetched(fetched)) => self.was_fetched(fetched),
            Mail::Look => _ = self.check_root(),
            Mail::Settle(answer) => self.settling.push(Settling { answer, looked: false }),
            Mail::Stop => self.stopped = true,
        }
    }

    /// Notes what happened in the folder.
    fn drain(&mut self) -> io::Result<()> {
        for event in self.watcher.drain()? {
            match event {
                Event::Name { dir, name, writing } => self.note(dir, name, writing),
                Event::Lost => {
                    tracing::info!("events of the folder were lost; everything is looked at");
                    self.local.all = true;
                    self.heard();
                }
                Event::RootGone => {
                    self.check_root();
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, dir: InodeId, name: Name, writing: bool) {
        if is_temporary(&name) || is_parked(&name) {
            return;
        }
        let place = (dir, name);
        if writing {
            self.written.insert(place.clone());
            if self.later.contains_key(&place) {
                // Known to be open: its closing is waited for.
                return;
            }
        }
        if !writing {
            self.touched(&place);
        }
        self.later.remove(&place);
        self.local.names.insert(place);
        self.heard();
    }

    /// What is to be done to a file may have waited for what just happened to it: that it was closed.
    fn touched(&mut self, place: &Place) {
        if self.todo.is_empty() {
            return;
        }
        let (now, synced) = (Instant::now(), self.synced.read());
        self.todo.may_be_closed(&Item::Place(place.clone()), now);
        if let Some(id) = synced.child(place) {
            self.todo.may_be_closed(&Item::Node(id), now);
            for name in synced.names(id) {
                self.todo.may_be_closed(&Item::Place(name.clone()), now);
            }
        }
    }

    fn heard(&mut self) {
        let now = Instant::now();
        self.first_event.get_or_insert(now);
        self.last_event = Some(now);
    }

    fn local_at(&self) -> Option<Instant> {
        let (first, last) = (self.first_event?, self.last_event?);
        Some((last + QUIET).min(first + QUIET_MAX))
    }

    fn local_due(&self) -> bool {
        let settling = self.settling.iter().any(|s| !s.looked);
        let due = self.local_at().is_none_or(|at| at <= Instant::now());
        settling || self.first_scan || (!self.local.is_empty() && due)
    }

    fn wake_timers(&mut self) {
        let now = Instant::now();
        if self.rescan_at <= now {
            self.rescan_at = now + RESCAN_EVERY;
            self.local.all = true;
        }
        let due: Vec<Place> = self.later.iter().filter(|(_, at)| **at <= now).map(|(p, _)| p.clone()).collect();
        for place in due {
            self.later.remove(&place);
            self.local.names.insert(place);
        }
        for item in self.todo.take_due(now) {
            self.view.item(item);
        }
        if self.settling.iter().any(|s| !s.looked) {
            // Who asks wants to know for sure: everything is looked at, also what no event tells (written mappings, a
            // file written by a name that is gone since), and the view is compared whole.
            let later = std::mem::take(&mut self.later);
            self.local.names.extend(later.into_keys());
            self.local.all = true;
            self.view.all = true;
        }
    }

    /// The root is moved, removed, or something is mounted over it: what is not seen any more was not deleted.
    fn check_root(&mut self) -> bool {
        let in_place = self.root.in_place();
        if !in_place {
            self.end(vanished(self.root.path()));
        }
        in_place
    }

    fn end(&mut self, why: String) {
        self.shown.end(why);
        self.stopped = true;
    }

    fn save_soon(&mut self) {
        self.save_at.get_or_insert(Instant::now() + SAVE_AFTER);
    }

    /// Makes durable what was done; operations before the tree that says so.
    fn save(&mut self) -> bool {
        self.save_at = None;
        let result = self.try_save();
        match &result {
            Err(why) => {
                tracing::warn!(%why, "the folder's state cannot be saved");
                self.save_at = Some(Instant::now() + SAVE_AFTER * 4);
                self.shown.problems.say(b"", Of::Folder, format!("the state cannot be saved ({why}); free some space"));
            }
            Ok(()) if self.save_failed => {
                self.shown.problems.end(b"", Of::Folder);
                self.progress = true;
            }
            Ok(()) => {}
        }
        self.save_failed = result.is_err();
        result.is_ok()
    }

    fn try_save(&mut self) -> Result<(), String> {
        // What the state says of files is also what the store knows of them: if that were lost and this kept, nobody would
        // look at the files again, and their bytes could not be given to others.
        if self.ops_open || !self.synced.read().changed.is_empty() {
            self.ports.tree.sync().map_err(|e| e.to_string())?;
            self.ops_open = false;
        }
        let left = self.root.left().ok();
        self.db.save(&mut self.synced.write(), left).map_err(|e| e.to_string())
    }

    /// Whether the folder has all of the view that the worker has heard of.
    fn shows_all(&self) -> bool {
        self.view.is_empty() && self.todo.is_done()
    }

    /// Answers those who wait for everything to be done.
    fn answer(&mut self) {
        if self.settling.is_empty() || self.first_scan {
            return;
        }
        for settling in &mut self.settling {
            settling.looked = true;
        }
        let local = self.local.is_empty() && self.reading.is_empty() && self.later.is_empty();
        if local && self.shows_all() && self.save() {
            for settling in std::mem::take(&mut self.settling) {
                // Who gave up waiting needs no answer.
                let _ = settling.answer.send(());
            }
        }
    }

    /// A node has another identity from now on.
    fn goes_by(&mut self, from: InodeId, to: InodeId) {
        self.watcher.rekey(from, to);
        let names: Vec<Place> = self.local.names.iter().filter(|p| p.0 == from).cloned().collect();
        for place in names {
            self.local.names.remove(&place);
            self.local.names.insert((to, place.1));
        }
        if self.local.dirs.remove(&from) {
            self.local.dirs.insert(to);
        }
        let later: Vec<Place> = self.later.keys().filter(|p| p.0 == from).cloned().collect();
        for place in later {
            if let Some(due) = self.later.remove(&place) {
                self.later.insert((to, place.1), due);
            }
        }
        let written: Vec<Place> = self.written.iter().filter(|p| p.0 == from).cloned().collect();
        for place in written {
            self.written.remove(&place);
            self.written.insert((to, place.1));
        }
    }

    /// A place's path, as text for people.
    fn path_of(&self, place: &Place) -> Vec<u8> {
        let mut path = self.synced.read().path(place.0).unwrap_or_default();
        path.push(place.1.clone());
        join(&path)
    }

    fn discard(&self, staged: &Staged) {
        self.bench.discard_staged(staged);
    }

    fn forget_keys(&self, keys: Vec<InodeId>) {
        for key in keys {
            self.bench.forget(key);
        }
    }
}

/// What is said of a folder whose root is not in its place.
pub(crate) fn vanished(path: &Path) -> String {
    let shown = path.display();
    format!(
        "{shown} is gone, was moved, or something else is mounted there; nothing counts as deleted. Put it back, and it \
         goes on; to have what is there now join the share, run `crdtfs watch {shown}`"
    )
}

/// A path's components with slashes between.
fn join(path: &[Name]) -> Vec<u8> {
    path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
}

/// Whether a path is a directory that can be written to by this process.
pub(crate) fn writable(path: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    Ok(rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
}

impl Worker {
    /// The crew read a file.
    fn was_read(&mut self, job: IndexJob, result: Result<crate::local::Indexed, NotRead>) {
        self.reading.remove(&job.place);
        let read = result.is_ok();
        self.note_read(&job, result);
        self.note_no_room();
        if !read {
            // Looked at again in its time, or when it changes.
            return;
        }
        self.local.names.insert(job.place);
        // It has waited long enough.
        self.first_event = None;
        self.last_event = None;
    }
}
