//! The crew: threads that read and fetch what takes long, so that small changes never wait behind large ones.
//!
//! Two fetch batches of small files, one fetches large files, one reads large files. They own nothing but their queue; a
//! crash or a stop loses at most temporary files, which the next start removes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Node;
use crdtfs_core::port::{FileOpener, FolderContent};
use parking_lot::{Mutex, RwLock};

use crate::apply::Staged;
use crate::disk::{self, Ident, Root, Stamp};
use crate::local::Indexed;
use crate::mailbox::{Mail, Mailbox};
use crate::publish::mode_mask;
use crate::state::Whose;
use crate::synced::{Place, SyncedTree};

/// Files of more bytes are read and fetched by threads of their own.
pub(crate) const LARGE: u64 = 4 << 20;
/// Up to this many files of a batch are made durable one by one, more by one `syncfs`.
const FSYNC_MAX: usize = 4;

/// Where the store finds the file of a key: files on their way first, then the synced tree. The store has it also when the
/// folder is no longer kept in sync; then nothing in the folder stays open, and it is opened for each file, if it is there.
#[derive(Debug)]
pub(crate) struct Keys {
    root: Weak<Root>,
    path: PathBuf,
    whose: Whose,
    synced: Arc<RwLock<SyncedTree>>,
    loose: RwLock<HashMap<InodeId, (Vec<Name>, Name)>>,
}

impl Keys {
    /// No files on their way yet.
    pub(crate) fn new(root: &Arc<Root>, whose: Whose, synced: Arc<RwLock<SyncedTree>>) -> Self {
        Self { root: Arc::downgrade(root), path: root.path().to_owned(), whose, synced, loose: RwLock::default() }
    }

    /// A file that no synced node has yet.
    pub(crate) fn hold(&self, key: InodeId, dir: Vec<Name>, name: Name) {
        self.loose.write().insert(key, (dir, name));
    }

    /// It has one now, or is no more.
    pub(crate) fn release(&self, key: InodeId) {
        self.loose.write().remove(&key);
    }

    /// Files that the synced tree has by now need no entry of their own.
    pub(crate) fn release_placed(&self) {
        let mut loose = self.loose.write();
        if !loose.is_empty() {
            let synced = self.synced.read();
            loose.retain(|key, _| synced.by_key(*key).is_none());
        }
    }

    fn root(&self) -> io::Result<Arc<Root>> {
        if let Some(root) = self.root.upgrade() {
            return Ok(root);
        }
        let root = Root::open(&self.path)?;
        let same = Whose::of(self.whose.share, &root)? == self.whose;
        if same { Ok(Arc::new(root)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn open_at(&self, dir: &[Name], name: &Name) -> io::Result<File> {
        let file = self.root()?.dir(dir)?.open(name)?;
        if disk::is_regular(&file)? { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl FileOpener for Keys {
    fn open(&self, key: InodeId) -> io::Result<File> {
        let loose = self.loose.read().get(&key).cloned();
        if let Some((dir, name)) = loose
            && let Ok(file) = self.open_at(&dir, &name)
        {
            return Ok(file);
        }
        let (path, name) = {
            let synced = self.synced.read();
            let inode = synced.by_key(key).ok_or(io::ErrorKind::NotFound)?;
            let (dir, name) = synced.names(inode).first().cloned().ok_or(io::ErrorKind::NotFound)?;
            (synced.path(dir).ok_or(io::ErrorKind::NotFound)?, name)
        };
        self.open_at(&path, &name)
    }
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct IndexJob {
    /// Where it was found.
    pub(crate) place: Place,
    /// The path to its directory.
    pub(crate) dir: Vec<Name>,
    /// The state in which it was found.
    pub(crate) stamp: Stamp,
    /// What the store is to know it by.
    pub(crate) key: InodeId,
    /// What was last known to be there.
    pub(crate) like: Option<ContentRef>,
    /// Also if some program has it open for writing: it has been quiet for long.
    pub(crate) force: bool,
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotRead {
    /// It is another one, or changed meanwhile.
    Changed,
    /// Some program has it open for writing.
    Busy,
    /// It cannot be read: why.
    Problem(String),
    /// There is no room to keep what it holds: what to tell of it.
    NoRoom(String),
}

/// A content to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct FetchJob {
    /// The node that it is for.
    pub(crate) inode: InodeId,
    /// The temporary name, in the root: beside its entry it would show up to whoever walks the tree meanwhile.
    pub(crate) name: Name,
    /// What the store is to know it by.
    pub(crate) key: InodeId,
    /// The node.
    pub(crate) node: Node,
}

/// What came of a fetch.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The node.
    pub(crate) inode: InodeId,
    /// The content.
    pub(crate) content: ContentRef,
    /// Where it lies, or why not.
    pub(crate) result: io::Result<Staged>,
}

/// What the crew works with.
pub(crate) struct Bench {
    /// The folder.
    pub(crate) root: Arc<Root>,
    /// The store.
    pub(crate) content: Arc<dyn FolderContent>,
    /// Where files are.
    pub(crate) keys: Arc<Keys>,
}

impl Bench {
    /// Reads a file: what it holds, if it holds that from before the reading until after it.
    pub(crate) fn index(&self, job: &IndexJob) -> Result<Indexed, NotRead> {
        let name = &job.place.1;
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NotRead::Changed,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => NotRead::Changed,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NotRead::NoRoom(format!(
                "changed here; not in the share yet ({error}). Free some space, then it goes on"
            )),
            _ => {
                NotRead::Problem(format!("cannot be read ({error}); it is skipped. Make it readable to have it synced"))
            }
        };
        let file = self.root.dir(&job.dir).and_then(|dir| dir.open(name)).map_err(io)?;
        if self.root.stamp_of(&file).map_err(io)? != job.stamp || !disk::is_regular(&file).map_err(io)? {
            return Err(NotRead::Changed);
        }
        if !job.force && disk::has_writer(&file) {
            return Err(NotRead::Busy);
        }
        self.keys.hold(job.key, job.dir.clone(), name.clone());
        let hold = self.content.hold();
        let read = self.content.index_file(job.key, &file, job.like.as_ref()).map_err(io);
        let xattrs = disk::xattrs(&file).map_err(io);
        let same = self.root.stamp_of(&file).map_err(io).is_ok_and(|s| s == job.stamp);
        match (read, xattrs) {
            (Ok(content), Ok(xattrs)) if same && content.size == job.stamp.size => {
                Ok(Indexed { key: job.key, content, xattrs: xattrs.map(Arc::new), stamp: job.stamp, hold })
            }
            (read, xattrs) => {
                self.forget(job.key);
                if !same {
                    return Err(NotRead::Changed);
                }
                Err(read.err().or(xattrs.err()).unwrap_or(NotRead::Changed))
            }
        }
    }

    /// The file of a key is no more what it was.
    pub(crate) fn forget(&self, key: InodeId) {
        self.keys.release(key);
        if let Err(error) = self.content.forget_file(key) {
            tracing::warn!(%key, %error, "the store cannot forget a file");
        }
    }

    /// Fetches contents into temporary files, with their attributes, durable.
    pub(crate) fn fetch(&self, jobs: &[FetchJob]) -> Vec<Fetched> {
        let mut results: Vec<io::Result<Staged>> = Vec::with_capacity(jobs.len());
        let files: Vec<io::Result<File>> = jobs.iter().map(|job| self.open_temporary(job)).collect();
        let wanted: Vec<(InodeId, ContentRef, &File)> = jobs
            .iter()
            .zip(&files)
            .filter_map(|(job, file)| Some((job.key, job.node.content, file.as_ref().ok()?)))
            .collect();
        let fetched = match &wanted[..] {
            [(key, content, file)] => vec![self.content.fetch_into(*key, content, file)],
            many => self.content.fetch_many(many),
        };
        let mut fetched = fetched.into_iter();
        for (job, file) in jobs.iter().zip(files) {
            let result = file.and_then(|file| {
                fetched.next().unwrap_or_else(|| Err(io::Error::other("the store gave no answer")))?;
                self.complete(job, &file)?;
                if jobs.len() <= FSYNC_MAX {
                    file.sync_all()?;
                }
                self.staged(job, &file)
            });
            results.push(result);
        }
        if jobs.len() > FSYNC_MAX
            && let Err(error) = self.root.sync()
        {
            let again = |_| Err(io::Error::new(error.kind(), error.to_string()));
            results = results.into_iter().map(|r| r.and_then(again)).collect();
        }
        let done = jobs.iter().zip(results).map(|(job, result)| {
            if result.is_err() {
                self.discard(&job.name, job.key);
            }
            Fetched { inode: job.inode, content: job.node.content, result }
        });
        done.collect()
    }

    fn open_temporary(&self, job: &FetchJob) -> io::Result<File> {
        let file = self.root.dir(&[])?.create(&job.name)?;
        self.keys.hold(job.key, Vec::new(), job.name.clone());
        Ok(file)
    }

    fn complete(&self, job: &FetchJob, file: &File) -> io::Result<()> {
        if !job.node.xattrs.is_empty() && !disk::set_xattrs(file, &job.node.xattrs)? {
            tracing::debug!(inode = %job.inode, "the filesystem cannot keep its extended attributes");
        }
        disk::set_attrs(file, job.node.mode & mode_mask(job.node.kind), job.node.mtime)
    }

    fn staged(&self, job: &FetchJob, file: &File) -> io::Result<Staged> {
        let stamp = self.root.stamp_of(file)?;
        if stamp.size != job.node.content.size {
            return Err(io::Error::other("the store gave other bytes than were asked for"));
        }
        Ok(Staged {
            name: job.name.clone(),
            key: job.key,
            content: job.node.content,
            stamp,
            mode: job.node.mode,
            mtime: job.node.mtime,
            xattrs: job.node.xattrs.clone(),
        })
    }

    /// Removes a staged file.
    pub(crate) fn discard_staged(&self, staged: &Staged) {
        self.discard(&staged.name, staged.key);
    }

    /// Removes a temporary file.
    pub(crate) fn discard(&self, name: &Name, key: InodeId) {
        let removed = self.root.dir(&[]).and_then(|dir| dir.unlink(name));
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%name, %error, "cannot remove a temporary file");
        }
        self.forget(key);
    }
}

enum Work {
    Index(Box<IndexJob>),
    Fetch(Vec<FetchJob>),
}

/// The threads.
pub(crate) struct Crew {
    small: Sender<Work>,
    large: Sender<Work>,
    reading: Sender<Work>,
}

/// What the crew reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// A file was read, or not.
    Read(Box<(IndexJob, Result<Indexed, NotRead>)>),
    /// Contents were fetched, or not.
    Fetched(Vec<Fetched>),
}

impl Crew {
    /// Starts the threads. They end once the crew is dropped and what they do is done.
    pub(crate) fn start(bench: &Arc<Bench>, mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let queue = |name: &str, threads: usize| -> io::Result<Sender<Work>> {
            let (sender, receiver) = channel();
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..threads {
                // Whoever waits for work holds nothing of the folder open.
                let (bench, mailbox, receiver) = (Arc::downgrade(bench), mailbox.clone(), receiver.clone());
                let span = tracing::Span::current();
                std::thread::Builder::new()
                    .name(format!("folder-{name}"))
                    .spawn(move || span.in_scope(|| work(&bench, &mailbox, &receiver)))?;
            }
            Ok(sender)
        };
        Ok(Self { small: queue("fetch", 2)?, large: queue("fetch-large", 1)?, reading: queue("read", 1)? })
    }

    /// Reads a file.
    pub(crate) fn read(&self, job: IndexJob) {
        // The threads end after the crew is dropped, not before.
        let _ = self.reading.send(Work::Index(Box::new(job)));
    }

    /// Fetches a batch of small files, or one large one.
    pub(crate) fn fetch(&self, jobs: Vec<FetchJob>) {
        let large = jobs.iter().any(|j| j.node.content.size > LARGE);
        let queue = if large { &self.large } else { &self.small };
        let _ = queue.send(Work::Fetch(jobs));
    }
}

fn work(bench: &Weak<Bench>, mailbox: &Mailbox, receiver: &Mutex<Receiver<Work>>) {
    loop {
        let next = receiver.lock().recv();
        let Some(bench) = bench.upgrade() else { return };
        let report = match next {
            Ok(Work::Index(job)) => {
                // What fails so must not leave the worker waiting for an answer.
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| bench.index(&job)));
                let result = result.unwrap_or_else(|_| Err(NotRead::Problem(FAILED.into())));
                Report::Read(Box::new((*job, result)))
            }
            Ok(Work::Fetch(jobs)) => {
                let fetched = std::panic::catch_unwind(AssertUnwindSafe(|| bench.fetch(&jobs)));
                Report::Fetched(fetched.unwrap_or_else(|_| failed(&jobs)))
            }
            Err(_) => return,
        };
        if let Err(Mail::Report(Report::Fetched(unread))) = mailbox.send(Mail::Report(report)) {
            // The worker is gone: nobody will put these into place.
            for staged in unread.into_iter().filter_map(|f| f.result.ok()) {
                bench.discard_staged(&staged);
            }
        }
    }
}

/// What is said of a job that panicked.
const FAILED: &str = "failed inside crdtfs; please report it with the log";

fn failed(jobs: &[FetchJob]) -> Vec<Fetched> {
    let failed = jobs.iter().map(|job| Fetched {
        inode: job.inode,
        content: job.node.content,
        result: Err(io::Error::other(FAILED)),
    });
    failed.collect()
}

/// Which files were read in which state.
pub(crate) type IndexedFiles = HashMap<Ident, Indexed>;
