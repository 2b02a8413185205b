//! One share of this device: its replica, its log, its contents, and who listens to it.
//!
//! Lock order: `order` (what goes into the log, in which order), `replica`, then the small ones. No lock is held while an
//! adapter, the network or a fetch is called.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use crdtfs_control::status::Problem;
use crdtfs_control::text::size;
use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{DeviceId, Hash, Incarnation, InodeId, ShareId};
use crdtfs_core::key::Key;
use crdtfs_core::node::{Delta, Kind};
use crdtfs_core::port::Adapter;
use crdtfs_core::replica::Replica;
use crdtfs_core::share::Role;
use crdtfs_core::sync::{Numbered, PeerState};
use crdtfs_core::vector::Vector;
use crdtfs_core::wire::Holding;
use crdtfs_store::{ChunkSource, Log, ShareContent, Space, Store, StoreError};
use parking_lot::{Condvar, Mutex, RwLock};
use thiserror::Error;

use crate::ages::Ages;
use crate::cache::{UNLIMITED, Uses};
use crate::fetcher::Task;
use crate::held_back::HeldBack;
use crate::incarnation::IncarnationFile;
use crate::load::{self, Opened};
use crate::merging::Merging;
use crate::probes::Probes;
use crate::registry::ShareDir;
use crate::retention::HistoryOptions;
use crate::share_content::in_vain::InVain;
use crate::share_log::snapshots::Snapshots;
use crate::state::StateError;
use crate::statements::Statements;
use crate::wants::Wants;

/// Why a share cannot be used.
#[derive(Debug, Error)]
pub enum ShareError {
    /// Its directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its log or contents.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the log or the membership file says makes no sense.
    #[error("share {share}: {reason}; run `crdtfs check`")]
    Damaged {
        /// Which share.
        share: ShareId,
        /// What is wrong.
        reason: String,
    },
}

impl ShareError {
    /// The kind of the system's error behind it, where there is one.
    pub fn io_kind(&self) -> std::io::ErrorKind {
        match self {
            Self::State(StateError::Io { source, .. }) => source.kind(),
            Self::Store(error) => error.kind(),
            _ => std::io::ErrorKind::Other,
        }
    }
}

/// What the engine does when something happens in a share.
pub(crate) trait Events: Send + Sync {
    /// Operations wait to be committed.
    fn uncommitted(&self, share: &Share);
    /// Changes, membership or holdings are new here: to be told to others.
    fn changed(&self, share: &Share);
    /// Something that waits or status may look at.
    fn progressed(&self);
    /// The share has something to do then: [`Share::take_turn`].
    fn later(&self, share: &Share, when: Instant);
    /// Makes known all that was done here: settles what shows the share, and commits. False if that could not be done by then.
    fn settle(&self, share: &Share, deadline: Instant) -> bool;
    /// Something did not fit: drops what can be done without. True if that gave room.
    fn make_room(&self) -> bool;
}

/// What a share is opened with.
pub(crate) struct Parts {
    pub(crate) key: Key,
    pub(crate) name: String,
    pub(crate) store: Store,
    pub(crate) source: Arc<dyn ChunkSource>,
    pub(crate) space: Arc<Space>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) history: HistoryOptions,
    /// Held by whoever makes a snapshot, of whatever share: it needs memory for the whole document, several times over.
    pub(crate) snapshot_turn: Arc<Mutex<()>>,
}

/// One share.
pub(crate) struct Share {
    id: ShareId,
    device: DeviceId,
    dir: ShareDir,
    pub(crate) order: Mutex<Ordered>,
    pub(crate) replica: RwLock<Replica>,
    log: Log,
    store: Store,
    content: ShareContent,
    pub(crate) space: Arc<Space>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) subscribers: Mutex<Vec<Subscriber>>,
    next_adapter: AtomicU32,
    work: Mutex<Work>,
    work_came: Condvar,
    pub(crate) peers: Mutex<Peers>,
    /// What a read or a merge asked for in vain.
    pub(crate) in_vain: Mutex<InVain>,
    pub(crate) snapshot_turn: Arc<Mutex<()>>,
    pub(crate) snapshots: Mutex<Snapshots>,
    /// Counts what makes a snapshot worthless that is being made. Changes with `order` held.
    pub(crate) voids: AtomicU64,
    pub(crate) merging: Merging,
    /// Whether a showing has yet to show what is in the view.
    behind: AtomicBool,
    /// Whether the others were told less than is here, as the system did not take what the store had in memory.
    unflushed: AtomicBool,
    /// Whether the fetcher fetches all content (a mount that is not on demand; a folder fetches for itself).
    keeps_all: AtomicBool,
    /// Whether only what is read is wanted here.
    partial: AtomicBool,
    /// Counts what was removed or replaced in the view, which may free room.
    removals: AtomicU64,
    /// Bytes of fetched contents that are kept where only what is read is wanted.
    pub(crate) cache_limit: AtomicU64,
    pub(crate) uses: Mutex<Uses>,
    /// What went wrong with the log, for `status`.
    trouble: Mutex<Option<String>>,
    pub(crate) history_options: HistoryOptions,
    /// How old the changes are that are here.
    pub(crate) ages: Mutex<Ages>,
    /// What is not committed yet, as far as it may wait.
    pub(crate) held_back: Mutex<HeldBack>,
    /// What members last said that they hold.
    pub(crate) statements: Mutex<Statements>,
    /// Held while this device says what it holds.
    pub(crate) saying: Mutex<()>,
    pub(crate) probes: Probes,
    pub(crate) key: Key,
}

/// Who is told of changes of the view.
pub(crate) struct Subscriber {
    pub(crate) adapter: Adapter,
    pub(crate) sender: Sender<Arc<Delta>>,
    /// How many it was sent.
    pub(crate) sent: u64,
}

/// What goes into the log, in order.
#[derive(Default)]
pub(crate) struct Ordered {
    /// Accepted, but not in the log yet: the disk was full.
    pub(crate) unlogged: VecDeque<Numbered>,
    /// What is in the log and so what others are told.
    pub(crate) logged: Vector,
    /// Appended since the last sync.
    pub(crate) unsynced: bool,
    /// The log's buffer could not be written, which the user was told.
    pub(crate) unflushed: bool,
    /// When the log was last made durable.
    pub(crate) synced: Option<Instant>,
    /// Envelopes that the snapshot does not have.
    pub(crate) since_snapshot: u64,
    /// Envelopes that the saved replica does not have.
    pub(crate) since_saved: u64,
    pub(crate) incarnation: Option<Incarnation>,
}

/// What the share's fetcher has to do.
#[derive(Default)]
struct Work {
    wants: Wants,
    /// Merges may need bytes.
    merges: bool,
    stop: bool,
}

/// What is known of the other members.
#[derive(Default)]
pub(crate) struct Peers {
    pub(crate) states: BTreeMap<DeviceId, PeerState>,
    pub(crate) addresses: BTreeMap<String, Vec<String>>,
    pub(crate) seen: BTreeMap<DeviceId, i64>,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Share {
    /// Brings a share back from its directory.
    pub(crate) fn open(id: ShareId, dir: ShareDir, parts: Parts) -> Result<Arc<Self>, ShareError> {
        let (log, recovered) = Log::open(&dir.path().join("log"))?;
        if recovered.torn > 0 {
            tracing::info!(share = %id, bytes = recovered.torn, "an unfinished append at the log's end was cut off");
        }
        let file = dir.path().join("incarnation.json");
        let (incarnation, _) = IncarnationFile::new(&file).take_up()?;
        let device = parts.key.id();
        let Opened { replica, unfit, since_saved, since_snapshot } =
            load::replica(&id, &dir, &log, parts.key.clone(), incarnation)?;
        let content = ShareContent::new(parts.store.clone(), id, parts.source)?;
        let trouble = (unfit > 0).then(|| {
            format!("{unfit} changes of this device's log do not fit together; they come again from other devices")
        });
        let mut ages = dir.ages().unwrap_or_else(|error| {
            tracing::warn!(share = %id, %error, "how old the changes are is not known: they count as new");
            Ages::default()
        });
        ages.cut_to(log.len());
        let peers = Peers { addresses: dir.peers().unwrap_or_default(), ..Peers::default() };
        let share = Arc::new(Self {
            order: Mutex::new(Ordered {
                logged: replica.vector().clone(),
                since_snapshot,
                since_saved,
                incarnation: Some(incarnation),
                ..Ordered::default()
            }),
            id,
            device,
            dir,
            replica: RwLock::new(replica),
            log,
            store: parts.store,
            content,
            space: parts.space,
            events: parts.events,
            subscribers: Mutex::default(),
            next_adapter: AtomicU32::new(1),
            work: Mutex::default(),
            work_came: Condvar::new(),
            peers: Mutex::new(peers),
            in_vain: Mutex::default(),
            snapshot_turn: parts.snapshot_turn,
            snapshots: Mutex::default(),
            voids: AtomicU64::new(0),
            merging: Merging::default(),
            behind: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            keeps_all: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            removals: AtomicU64::new(0),
            cache_limit: AtomicU64::new(UNLIMITED),
            uses: Mutex::default(),
            trouble: Mutex::new(trouble),
            history_options: parts.history,
            ages: Mutex::new(ages),
            held_back: Mutex::default(),
            statements: Mutex::default(),
            saying: Mutex::default(),
            probes: Probes::default(),
            key: parts.key,
        });
        share.note_ages();
        share.remember_statements();
        share.take_stock();
        share.take_name(&parts.name);
        Ok(share)
    }

    pub(crate) fn id(&self) -> ShareId {
        self.id
    }

    pub(crate) fn device(&self) -> DeviceId {
        self.device
    }

    pub(crate) fn dir(&self) -> &ShareDir {
        &self.dir
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn content(&self) -> &ShareContent {
        &self.content
    }

    /// Looks at the replica.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Replica) -> T) -> T {
        look(&self.replica.read())
    }

    /// An adapter's number.
    pub(crate) fn new_adapter(&self) -> Adapter {
        Adapter(self.next_adapter.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn role(&self) -> Role {
        self.read(|replica| replica.role()).unwrap_or(Role::Read)
    }

    /// What is in the log, and so what others are told.
    pub(crate) fn vector(&self) -> Vector {
        self.order.lock().logged.clone()
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.read(|replica| replica.heads()).iter().map(ToString::to_string).collect()
    }

    /// The vector as one hash.
    pub(crate) fn digest(&self) -> String {
        self.vector().digest().to_string()
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        let dir = self.dir.path().join("log");
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Looks at all contents of the view: which are here?
    pub(crate) fn take_stock(&self) {
        let replica = self.replica.read();
        let mut work = self.work.lock();
        let view = replica.view();
        let mut dirs = vec![InodeId::ROOT];
        while let Some(dir) = dirs.pop() {
            for entry in view.entries(dir, None, usize::MAX) {
                match entry.kind {
                    Kind::Dir => dirs.push(entry.inode),
                    Kind::File => {
                        let Some(node) = view.node(entry.inode) else { continue };
                        work.wants.note(entry.inode, Some(&node.content), self.is_here(&replica, &node.content));
                    }
                    _ => {}
                }
            }
        }
        work.merges = !view.wanted().is_empty();
        drop(work);
        self.work_came.notify_all();
    }

    /// Tells everyone but `by` what changed in the view, and finds out what is to be fetched for it. Called with the
    /// replica locked, so that all learn of changes in their order.
    pub(crate) fn announce(&self, replica: &Replica, by: Option<Adapter>, delta: &Delta) {
        if !delta.is_empty() {
            let shared = Arc::new(delta.clone());
            self.subscribers.lock().retain_mut(|subscriber| {
                if Some(subscriber.adapter) == by {
                    return true;
                }
                subscriber.sent += 1;
                subscriber.sender.send(shared.clone()).is_ok()
            });
        }
        self.merging.changed();
        let mut work = self.work.lock();
        for change in delta.nodes.iter().filter(|change| change.content || change.gone) {
            self.removals.fetch_add(1, Ordering::Relaxed);
            // What is part of another node by now (saved by rename, twins) is wanted, if at all, as that one.
            let node = replica.view().node(change.inode);
            let node = node.filter(|node| node.kind == Kind::File && node.inode == change.inode);
            let local = node.as_ref().is_none_or(|node| self.is_here(replica, &node.content));
            work.wants.note(change.inode, node.as_ref().map(|node| &node.content), local);
        }
        // A folder's own edit, too, is merged with what nobody here had seen when it was made.
        work.merges = !replica.view().wanted().is_empty();
        if by.is_none() || work.merges {
            self.work_came.notify_all();
        }
    }

    /// Whether a content's bytes are here, or need not be fetched since the view computed them.
    fn is_here(&self, replica: &Replica, content: &ContentRef) -> bool {
        content.size == 0 || self.store.is_local(content) || replica.view().merged(&content.hash).is_some()
    }

    /// Whether all bytes of a content are here.
    pub(crate) fn has_whole(&self, content: &ContentRef) -> bool {
        self.read(|replica| self.is_here(replica, content))
    }

    /// The fetcher's next task; waits for one.
    pub(crate) fn next_task(&self, files: usize, bytes: u64) -> Task {
        let mut work = self.work.lock();
        loop {
            if work.stop {
                return Task::Stop;
            }
            if std::mem::take(&mut work.merges) {
                return Task::Merges;
            }
            if self.keeps_all.load(Ordering::Relaxed) {
                let batch = work.wants.batch(files, bytes);
                if !batch.is_empty() {
                    return Task::Batch(batch);
                }
            }
            self.work_came.wait(&mut work);
        }
    }

    /// Ends the fetcher.
    pub(crate) fn stop_fetching(&self) {
        self.work.lock().stop = true;
        self.work_came.notify_all();
    }

    /// A content is here now.
    pub(crate) fn arrived(&self, content: &ContentRef) {
        self.work.lock().wants.arrived(&content.hash);
    }

    /// Looks again whether what is missing is here: a folder that begins to be shown brings what lies in it.
    pub(crate) fn take_stock_again(&self) {
        let missing: Vec<ContentRef> = self.work.lock().wants.iter().map(|(_, content)| *content).collect();
        if missing.is_empty() {
            return;
        }
        let here: Vec<ContentRef> = missing.into_iter().filter(|content| self.has_whole(content)).collect();
        let mut work = self.work.lock();
        here.iter().for_each(|content| work.wants.arrived(&content.hash));
        drop(work);
        if !here.is_empty() {
            self.events.changed(self);
        }
    }

    /// The files that show a content and lack bytes of it.
    pub(crate) fn lacked_by(&self, hash: &Hash) -> Vec<InodeId> {
        self.work.lock().wants.of(hash).collect()
    }

    /// A content could not be fetched: nobody has it now, or it does not fit.
    pub(crate) fn put_aside(&self, inode: InodeId, content: &ContentRef, why: std::io::ErrorKind) {
        let mut work = self.work.lock();
        match why {
            std::io::ErrorKind::StorageFull => work.wants.put_unfit(inode, &content.hash),
            _ => work.wants.put_aside(inode, &content.hash),
        }
    }

    /// Of what is to be fetched, what there is room for; the rest waits until there is.
    pub(crate) fn with_room(&self, batch: &[(InodeId, ContentRef)]) -> Vec<(InodeId, ContentRef)> {
        let mut room = self.space.room();
        let (fit, unfit): (Vec<_>, Vec<_>) = batch.iter().partition(|(_, content)| {
            let lacks = self.lacks(content);
            let fits = lacks <= room;
            room -= if fits { lacks } else { 0 };
            fits
        });
        if !unfit.is_empty() {
            let mut work = self.work.lock();
            unfit.iter().for_each(|(inode, content)| work.wants.put_unfit(*inode, &content.hash));
            drop(work);
            self.events.progressed();
        }
        fit
    }

    /// Bytes of a content that are not here.
    pub(crate) fn lacks(&self, content: &ContentRef) -> u64 {
        self.store.room_for(content).unwrap_or(content.size)
    }

    /// Goes on with what there was no room for, if there is by now.
    pub(crate) fn retry_what_fits(&self) {
        let room = self.space.room();
        // Only so many: the next look follows soon, and those are fetched before it.
        let unfit: Vec<_> = self.work.lock().wants.unfit().take(1000).collect();
        let fitting = |room: u64| -> Vec<_> {
            unfit.iter().copied().filter(|(_, content)| self.lacks(content) <= room).collect()
        };
        let mut fits = fitting(room);
        // What is here of a file of which the rest does not fit is in the way of those that would.
        if fits.is_empty() && unfit.len() > 1 && self.store.give_up_parts_beyond(room) > 0 {
            fits = fitting(self.space.room());
        }
        if !fits.is_empty() {
            let mut work = self.work.lock();
            fits.iter().for_each(|(inode, _)| work.wants.fits(*inode));
            drop(work);
            self.work_came.notify_all();
        }
    }

    /// Whether there is no room for something that is to be fetched.
    pub(crate) fn lacks_room(&self) -> bool {
        self.work.lock().wants.unfit().next().is_some()
    }

    /// Counts what was removed or replaced in the view.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Relaxed)
    }

    /// What was tried in vain is worth another try: somebody came, or got more.
    pub(crate) fn retry_fetches(&self) {
        let merges = !self.read(|replica| replica.view().wanted().is_empty());
        let mut work = self.work.lock();
        work.wants.retry();
        work.merges |= merges;
        drop(work);
        self.work_came.notify_all();
    }

    /// What others are told about the content here changed.
    pub(crate) fn told_progress(&self) {
        self.events.changed(self);
    }

    /// Whether the fetcher is to fetch all content, and whether only what is read is wanted.
    pub(crate) fn set_keeping(&self, all: bool, partial: bool, cache: Option<u64>) {
        self.cache_limit.store(cache.filter(|_| partial).unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.keeps_all.store(all, Ordering::Relaxed);
        self.partial.store(partial, Ordering::Relaxed);
        self.work_came.notify_all();
    }

    /// Whether a showing has yet to show what is in the view.
    pub(crate) fn set_behind(&self, behind: bool) {
        if self.behind.swap(behind, Ordering::Relaxed) != behind {
            self.events.changed(self);
        }
    }

    /// What content is here, of what is wanted. A showing that is behind counts as a missing file, and so does a merge that
    /// waits for bytes: what it will show is not known yet. What is said to be here outlives this process: fetched bytes
    /// that the system cannot be given now count as a missing file, too.
    pub(crate) fn holding(&self) -> Holding {
        let vector = self.vector();
        let merging = !self.read(|replica| replica.view().wanted().is_empty());
        let (files, bytes) = self.work.lock().wants.totals();
        let partial = self.partial.load(Ordering::Relaxed);
        let (files, bytes) = if partial { (0, 0) } else { (files, bytes) };
        let behind = self.behind.load(Ordering::Relaxed) || merging;
        // After the look at what is here, all of which is flushed so. While something is missing nobody takes it for held.
        let behind = behind || (files == 0 && !self.flush_content());
        Holding { vector, missing_files: if behind { files.max(1) } else { files }, missing_bytes: bytes, partial }
    }

    /// Hands the contents that came to the system, so that they survive the end of this process; false if it does not take
    /// them.
    fn flush_content(&self) -> bool {
        let Err(error) = self.store.flush() else { return true };
        if !self.unflushed.swap(true, Ordering::Relaxed) {
            tracing::warn!(share = %self.id, %error, "contents that came cannot be written");
        }
        false
    }

    /// Tells everyone what is here once the system takes what it did not take before.
    pub(crate) fn retry_flush(&self) {
        if self.unflushed.swap(false, Ordering::Relaxed) && self.flush_content() {
            self.events.changed(self);
        }
    }

    /// Some of the contents that are not here.
    pub(crate) fn missing_contents(&self, limit: usize) -> Vec<(InodeId, ContentRef)> {
        let work = self.work.lock();
        work.wants.iter().take(limit).map(|(inode, content)| (*inode, *content)).collect()
    }

    /// Gives the view the bytes of a version that a merge needs, and keeps what is merged.
    pub(crate) fn supply(&self, content: &ContentRef, bytes: Vec<u8>) {
        let mut replica = self.replica.write();
        let delta = replica.supply(content.hash, bytes.into());
        self.announce(&replica, None, &delta);
        let changed = delta.nodes.iter().filter(|change| change.content);
        let merged: Vec<_> = changed
            .filter_map(|change| replica.view().node(change.inode))
            .filter_map(|node| replica.view().merged(&node.content.hash))
            .collect();
        drop(replica);
        for bytes in merged {
            if let Err(error) = self.store.put_bytes(&bytes) {
                // The view has them: they can be read, but not served to a folder's chunks before the next start.
                tracing::warn!(share = %self.id, %error, "a merged text could not be kept");
            }
        }
        self.events.changed(self);
    }

    pub(crate) fn note_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// What the user should know of the share itself.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<String> = self.trouble.lock().iter().cloned().collect();
        problems.extend(self.no_room());
        let (newer, waiting) = self.read(|replica| (replica.newer(), replica.waiting()));
        if newer > 0 {
            problems.push(format!("{newer} records were written by a newer crdtfs: update this one to see them"));
        }
        problems.extend(self.newer_membership());
        if waiting > 0 {
            problems.push(format!("{waiting} changes wait for others that have not come yet"));
        }
        problems.into_iter().map(|message| Problem { path: None, message }).collect()
    }

    /// What is not fetched for want of room, said to the user.
    fn no_room(&self) -> Option<String> {
        let unfit: Vec<_> = self.work.lock().wants.unfit().collect();
        let (inode, smallest) = unfit.first()?;
        let path = self.path_of(*inode).unwrap_or_default();
        let bytes: u64 = unfit.iter().map(|(_, content)| content.size).sum();
        Some(format!(
            "fetching is paused: the disk of the state directory has no room for {}, {} (the smallest, {}, has {}, and {} may \
             be used); it goes on by itself when there is room",
            if unfit.len() == 1 { "1 file".to_owned() } else { format!("{} files", unfit.len()) },
            size(bytes),
            String::from_utf8_lossy(&path),
            size(smallest.size),
            size(self.space.room()),
        ))
    }
}
