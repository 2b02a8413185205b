//! The seam to the engine: a watched folder as a way to show a share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::node::Kind;
use crdtfs_engine::present::{Mode, PresentError, PresentOptions, Presented, Presenter, Problem, SharePorts};
use parking_lot::{Mutex, RwLock};

use crate::aliased::Aliased;
use crate::disk::{Ident, Left, Root};
use crate::filesystem;
use crate::ignores::is_temporary;
use crate::mailbox::{Mail, Mailbox};
use crate::state::{StateDb, StateError, Whose};
use crate::synced::SyncedTree;
use crate::worker::{Of, Parts, Shown, Worker, vanished, writable};

/// The file of the last synced tree in the adapter's directory.
const STATE_FILE: &str = "folder.redb";
/// How long a stop waits for what is still to be written or fetched.
const STOP_SETTLE: Duration = Duration::from_secs(5);

/// Shows shares as plain folders that are kept in sync.
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderPresenter;

fn sentence(text: String) -> PresentError {
    PresentError::Directory(text)
}

impl Presenter for FolderPresenter {
    fn mode(&self) -> Mode {
        Mode::Watch
    }

    fn prepare(&self, dir: &Path, _: &PresentOptions, known: bool) -> Result<(), PresentError> {
        let shown = dir.display();
        if let Some(why) = filesystem::unfit(dir) {
            return Err(sentence(format!("{shown} {why}; name a directory of your own to watch")));
        }
        match std::fs::metadata(dir) {
            Ok(meta) if !meta.is_dir() => {
                return Err(sentence(format!("{shown} is a file, not a directory; name a directory to watch")));
            }
            Ok(_) => {}
            // Whether it may be made anew what was synced says: [`FolderPresenter::present`].
            Err(error) if error.kind() == io::ErrorKind::NotFound && known => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(dir).map_err(|e| {
                    sentence(format!(
                        "{shown} does not exist and cannot be made ({e}); make it, or name another directory"
                    ))
                })?;
            }
            Err(error) => {
                return Err(sentence(format!(
                    "{shown} cannot be looked at ({error}); name a directory that you may use"
                )));
            }
        }
        writable(dir).map_err(|e| {
            sentence(format!(
                "{shown} cannot be written to ({e}), so nothing can be synced into it; change its permissions or name another directory"
            ))
        })
    }

    fn present(
        &self,
        ports: SharePorts,
        dir: &Path,
        options: &PresentOptions,
    ) -> Result<Box<dyn Presented>, PresentError> {
        let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        apart(&path, &ports.state)?;
        let mut root = open_root(&path, &ports.state)?;
        lock(&root)?;
        let (mut db, mut synced, whose) =
            StateDb::open(&ports.state.join(STATE_FILE)).map_err(|error| state_error(&path, &error))?;
        let io = |what: &'static str| {
            let path = path.clone();
            move |source| PresentError::Io { what, path, source }
        };
        let now = Whose::of(ports.share, &root).map_err(io("cannot look at"))?;
        let left = db.left().map_err(|error| state_error(&path, &error))?;
        if !goes_on(&root, &synced, whose, &now, left)? {
            if !ports.asked {
                let shown = path.display();
                return Err(sentence(format!(
                    "{shown} is not the directory that was synced there, so nothing counts as deleted. Put that back, and it goes \
                     on; to have this one join the share, run `crdtfs watch {shown}`"
                )));
            }
            join_anew(&path, &mut synced, &ports);
            // What is tried below changes the root: if this ends there, the next start must not take it for emptied.
            db.save(&mut synced, None).map_err(|error| state_error(&path, &error))?;
        }
        root.probe().map_err(io("cannot try what can be done in"))?;
        let ports = SharePorts { tree: Aliased::over(ports.tree, root.abilities().names), ..ports };
        // Where numbers do not last they say nothing of what lies where.
        let numbers = root.abilities().numbers;
        synced.take_unsaved(&*ports.tree, |dir, name| {
            let file = root.dir(dir).and_then(|dir| dir.open(name)).ok()?;
            let stamp = root.stamp_of(&file).ok()?;
            Some(if numbers { stamp.ident } else { Ident::void(0) })
        });
        if whose != Some(now) {
            db.set_whose(&now).map_err(|error| state_error(&path, &error))?;
        }
        if !root.abilities().numbers {
            synced.forget_numbers();
        }
        start(ports, root, now, db, synced, options.read_only).map_err(io("cannot watch"))
    }
}

/// The folder and the state directory must not lie in each other.
fn apart(dir: &Path, state: &Path) -> Result<(), PresentError> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (dir, state) = (real(dir), real(state));
    if state.starts_with(&dir) || dir.starts_with(&state) {
        return Err(sentence(format!(
            "{} and crdtfs's own state in {} lie in each other; name another directory, or move the state with --state-dir",
            dir.display(),
            state.display()
        )));
    }
    Ok(())
}

/// Opens the folder; one that is not there is made, if nothing was synced in it. Else it was moved, or its disk is not there: what
/// is made in its place would be in the way of what is put back.
fn open_root(path: &Path, state: &Path) -> Result<Root, PresentError> {
    let io = |what| move |source| PresentError::Io { what, path: path.to_owned(), source };
    match Root::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (_, synced, _) = StateDb::open(&state.join(STATE_FILE)).map_err(|error| state_error(path, &error))?;
            if !synced.is_empty() {
                let shown = path.display();
                return Err(sentence(format!(
                    "{shown} is missing, and nothing counts as deleted: put it back, or mount what belongs there. To have a new \
                     one filled from the share, make it and put any file into it; to give it up, run `crdtfs unmount {shown}`"
                )));
            }
            std::fs::create_dir_all(path).map_err(io("cannot make the folder"))?;
            Root::open(path).map_err(io("cannot open the folder"))
        }
        opened => opened.map_err(io("cannot open the folder")),
    }
}

fn lock(root: &Root) -> Result<(), PresentError> {
    let shown = root.path().display();
    match root.lock() {
        Ok(true) => Ok(()),
        Ok(false) => Err(sentence(format!(
            "{shown} is already kept in sync by a crdtfs that is running; stop that one first (crdtfs unmount {shown})"
        ))),
        Err(error) => {
            tracing::warn!(%error, "the folder cannot be locked; a second crdtfs on it would not be noticed");
            Ok(())
        }
    }
}

fn state_error(dir: &Path, error: &StateError) -> PresentError {
    sentence(format!("{} cannot be watched: {error}", dir.display()))
}

/// Whether what was synced last speaks of this folder. Another directory than last time, or an empty one that may be so because a
/// disk is not there, says nothing about what was deleted.
pub(crate) fn goes_on(
    root: &Root,
    synced: &SyncedTree,
    whose: Option<Whose>,
    now: &Whose,
    left: Option<Left>,
) -> Result<bool, PresentError> {
    if synced.is_empty() {
        return Ok(true);
    }
    let names = root.dir(&[]).and_then(|d| d.names()).map_err(|source| PresentError::Io {
        what: "cannot read",
        path: root.path().to_owned(),
        source,
    })?;
    let empty = names.iter().all(is_temporary);
    let same = whose.is_some_and(|whose| whose.is(now));
    let same_share = whose.is_some_and(|w| w.share == now.share);
    if !same && same_share && empty {
        let shown = root.path().display();
        return Err(sentence(format!(
            "{shown} is empty and not the directory that was synced before; if something belongs mounted there, mount it. \
             To have this one filled from the share, put any file into it and watch it again"
        )));
    }
    let borne_out = || now.is_sure() || bears_out(root, synced);
    Ok(same && if empty { filesystem::was_emptied(root, left) } else { borne_out() })
}

/// Whether most of what was synced last lies there, of some files: what has no identity of its own is known by that.
fn bears_out(root: &Root, synced: &SyncedTree) -> bool {
    const SAMPLE: usize = 64;
    let files = synced.nodes().filter(|(_, node)| node.kind == Kind::File).filter_map(|(id, node)| {
        let (dir, name) = synced.names(*id).first()?;
        Some((synced.path(*dir)?, name, node.stamp.size))
    });
    let (mut there, mut all) = (0, 0);
    for (dir, name, size) in files.take(SAMPLE) {
        let found = root.dir(&dir).and_then(|dir| dir.stat(name)).ok().flatten();
        there += usize::from(found.is_some_and(|meta| meta.kind == Kind::File && meta.stamp.size == size));
        all += 1;
    }
    // Without any file to know it by it joins anew, which takes nothing away.
    all > 0 && there * 2 >= all
}

/// Forgets what was synced: what lies in the folder joins the share as if it came from elsewhere, which deletes nothing anywhere.
fn join_anew(path: &Path, synced: &mut SyncedTree, ports: &SharePorts) {
    tracing::warn!(root = %path.display(), "the folder was replaced or emptied; it joins the share anew");
    let top: Vec<_> = synced.children(InodeId::ROOT).map(|(name, _)| (InodeId::ROOT, name.clone())).collect();
    for place in top {
        if let Some(id) = synced.unplace(&place) {
            for key in synced.forget_nameless(id) {
                // The file is not there, or is looked at anew.
                let _ = ports.content.forget_file(key);
            }
        }
    }
    synced.end_all_intents();
}

fn start(
    ports: SharePorts,
    root: Root,
    whose: Whose,
    db: StateDb,
    synced: SyncedTree,
    read_only: bool,
) -> io::Result<Box<dyn Presented>> {
    let mailbox = Arc::new(Mailbox::new()?);
    let shown = Arc::new(Shown::new(ports.progressed.clone()));
    if let Some(lacks) = root.abilities().lacks() {
        shown.problems.say(b"", Of::Lacks, lacks);
    }
    let changes = ports.tree.subscribe(ports.adapter);
    let (forward, heard) = (mailbox.clone(), shown.clone());
    // It ends with the tree, or at the first change after the worker: a channel cannot be waited for together with files.
    let span = tracing::Span::current();
    let of_worker = span.clone();
    std::thread::Builder::new().name("folder-view".into()).spawn(move || {
        let _span = span.entered();
        while let Ok(delta) = changes.recv() {
            heard.hear();
            if forward.send(Mail::View(delta)).is_err() {
                return;
            }
        }
    })?;
    let (path, root) = (root.path().to_owned(), Arc::new(root));
    let held = Arc::downgrade(&root);
    let worker = Worker::new(Parts {
        ports,
        read_only,
        root,
        whose,
        synced: Arc::new(RwLock::new(synced)),
        db,
        mailbox: mailbox.clone(),
        shown: shown.clone(),
    })?;
    let (running, gone) = channel();
    let run = move || {
        let _running = running;
        of_worker.in_scope(|| worker.run());
    };
    let thread = Mutex::new(Some(std::thread::Builder::new().name("folder".into()).spawn(run)?));
    Ok(Box::new(Folder { mailbox, shown, thread, gone: Mutex::new(gone), path, root: held, whose }))
}

/// A folder that is kept in sync.
struct Folder {
    mailbox: Arc<Mailbox>,
    shown: Arc<Shown>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Nothing is sent: the thread drops the other end when it is done.
    gone: Mutex<Receiver<()>>,
    path: PathBuf,
    /// For as long as it is kept in sync.
    root: Weak<Root>,
    whose: Whose,
}

impl Folder {
    /// Whether its thread is done, in time: it may be in the middle of much work, or wait for a filesystem.
    fn is_gone(&self, patience: Duration) -> bool {
        let gone = self.gone.try_lock_for(patience);
        gone.is_some_and(|gone| gone.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected))
    }
}

impl Presented for Folder {
    fn problems(&self) -> Vec<Problem> {
        let ended = self.shown.ended.lock().clone().map(|message| Problem { path: String::new(), message });
        ended.into_iter().chain(self.shown.problems.all()).collect()
    }

    fn behind(&self) -> bool {
        self.shown.behind()
    }

    fn settle(&self, deadline: Instant) -> bool {
        let (answer, answered) = channel();
        if self.mailbox.send(Mail::Settle(answer)).is_err() {
            return false;
        }
        match answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }

    fn stop(&self) -> Result<(), PresentError> {
        let mut thread = self.thread.lock();
        let Some(handle) = thread.take() else { return Ok(()) };
        if !self.settle(Instant::now() + STOP_SETTLE) {
            tracing::info!(folder = %self.path.display(), "stopped before all was synced; the next start goes on");
        }
        // It may have ended by itself.
        let _ = self.mailbox.send(Mail::Stop);
        if handle.join().is_err() {
            tracing::error!(folder = %self.path.display(), "the folder's thread failed");
        }
        Ok(())
    }

    fn look(&self) {
        if self.root.upgrade().is_some_and(|root| !root.in_place()) {
            self.shown.end(vanished(&self.path));
            let _ = self.mailbox.send(Mail::Stop);
            self.is_gone(STOP_SETTLE);
        }
    }

    fn ended(&self) -> Option<String> {
        let ended = self.shown.ended.lock().clone();
        if ended.is_none() {
            // On the worker's thread: the filesystem may not answer.
            let _ = self.mailbox.send(Mail::Look);
        }
        ended.filter(|_| self.is_gone(Duration::ZERO))
    }

    fn is_back(&self) -> bool {
        Root::open(&self.path)
            .and_then(|root| Whose::of(self.whose.share, &root))
            .is_ok_and(|there| self.whose.is(&there))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.mailbox.send(Mail::Stop);
        if let Some(handle) = self.thread.lock().take() {
            let _ = handle.join();
        }
    }
}
