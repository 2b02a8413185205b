//! The presenter: checks the directory, mounts, and takes the mount away again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_core::node::Owner;
use crdtfs_core::port::Content;
use crdtfs_engine::present::{
    Mode, OwnerPolicy, PresentError, PresentOptions, Presented, Presenter, Problem, SharePorts,
};
use crdtfs_vfs::{Owners, Vfs, VfsOptions};
use fuser::{Config, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::busy::{Used, users_of};
use crate::mountpoint::{self, FS_TYPE, Flags, mounted_at, shown};
use crate::notify::{Forgetting, Syncing};
use crate::pool::Pool;
use crate::request::Requests;

/// How long an unmount waits for what was written to be published. What is not by then is kept, and published when the share is
/// mounted again.
const FLUSH: Duration = Duration::from_secs(6);
/// The same for what was written last, and for the end of the engine, which has waited before.
const FLUSH_LAST: Duration = Duration::from_secs(1);
/// How long it waits for the last processes to let go (the kernel closes files late), and for the session to end.
const LET_GO: Duration = Duration::from_secs(1);
/// Between two tries to unmount what is busy.
const AGAIN: Duration = Duration::from_millis(20);

/// Shows shares as FUSE filesystems.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountPresenter {
    by_helper: bool,
}

impl MountPresenter {
    /// Mounts directly where the kernel allows it (root), else through `fusermount3`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Mounts through `fusermount3` only, as for an ordinary user.
    pub fn by_helper() -> Self {
        Self { by_helper: true }
    }
}

impl Presenter for MountPresenter {
    fn mode(&self) -> Mode {
        Mode::Mount
    }

    fn prepare(&self, dir: &Path, _options: &PresentOptions, known: bool) -> Result<(), PresentError> {
        if let Some(sentence) = mountpoint::missing() {
            return Err(PresentError::Missing(sentence));
        }
        let dir = &std::path::absolute(dir).map_err(io_error("cannot use", dir))?;
        match mountpoint::is_dead(dir) {
            // It is replaced when the new one is there: until then it keeps what goes on writing out of the directory below.
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if Errno::from_io_error(&error).is_some_and(is_disconnection) => {
                return Err(PresentError::Directory(format!(
                    "{} has a dead mount of another program: unmount it first",
                    shown(dir)
                )));
            }
            Err(error) => return Err(io_error("cannot read the mounts above", dir)(error)),
        }
        match std::fs::metadata(dir) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(PresentError::Directory(format!("{} is not a directory", shown(dir)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(dir).map_err(io_error("cannot create", dir))?;
            }
            Err(error) => return Err(io_error("cannot use", dir)(error)),
        }
        let dir = &dir.canonicalize().map_err(io_error("cannot use", dir))?;
        if let Some(mount) = mounted_at(dir).map_err(io_error("cannot read the mounts above", dir))? {
            let what = if mount.fs_type == FS_TYPE { "a share" } else { "another filesystem" };
            return Err(PresentError::Directory(format!(
                "{} already has {what} mounted: unmount it first, or choose another directory",
                shown(dir)
            )));
        }
        let lying = lying_in(dir).map_err(io_error("cannot list", dir))?;
        if let Some(lying) = lying {
            return Err(PresentError::Directory(not_empty(dir, &lying, known)));
        }
        if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
            return Err(PresentError::Directory(format!(
                "{} is not writable for you: choose a directory of your own",
                shown(dir)
            )));
        }
        Ok(())
    }

    fn abandon(&self, dir: &Path) {
        match mountpoint::abort(dir) {
            Ok(true) => info!(dir = %dir.display(), "aborted the mount of an engine that was killed"),
            Ok(false) => {}
            Err(error) => warn!(dir = %dir.display(), %error, "cannot abort the mount of an engine that was killed"),
        }
    }

    fn present(
        &self,
        ports: SharePorts,
        dir: &Path,
        options: &PresentOptions,
    ) -> Result<Box<dyn Presented>, PresentError> {
        let dir = mountpoint::real(dir);
        let content: Arc<dyn Content> = ports.content.clone();
        let vfs_options =
            VfsOptions { owner: owners(&options.owner), read_only: options.read_only, state: ports.state.clone() };
        let vfs = Vfs::new(ports.tree, content, ports.adapter, vfs_options)
            .map_err(io_error("cannot recover what was written to", &dir))?;
        match Mounted::start(vfs.clone(), dir.clone(), options, self.by_helper) {
            Ok(mounted) => Ok(Box::new(mounted)),
            Err(error) => {
                vfs.stop();
                Err(error)
            }
        }
    }
}

fn is_disconnection(error: Errno) -> bool {
    matches!(error, Errno::NOTCONN | Errno::CONNABORTED)
}

/// The first few names in a directory; `None` if there are none.
fn lying_in(dir: &Path) -> io::Result<Option<String>> {
    const NAMES: usize = 3;
    let mut entries = std::fs::read_dir(dir)?;
    let names: Vec<String> = entries
        .by_ref()
        .take(NAMES)
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    let more = if entries.next().is_some() { ", …" } else { "" };
    Ok((!names.is_empty()).then(|| format!("{}{more}", names.join(", "))))
}

/// The refusal to mount where something lies; `known` if the directory showed this share before.
fn not_empty(dir: &Path, lying: &str, known: bool) -> String {
    let dir = shown(dir);
    if known {
        return format!(
            "{dir} is not empty ({lying}): what lies there was written while the share was not mounted and is not in it; \
             move it elsewhere, mount again, and move it into {dir}"
        );
    }
    format!(
        "{dir} is not empty ({lying}): mount on an empty directory, or keep {dir} itself in sync with `crdtfs watch {dir}`"
    )
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> PresentError {
    let path = path.to_path_buf();
    move |source| PresentError::Io { what, path: path.clone(), source }
}

fn owners(policy: &OwnerPolicy) -> Owners {
    let mounter = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    match *policy {
        OwnerPolicy::Mounter => Owners::Fixed(mounter),
        OwnerPolicy::Fixed { uid, gid } => Owners::Fixed(Owner { uid, gid }),
        OwnerPolicy::Keep => Owners::Keep(mounter),
    }
}

/// Whether the session has ended, and how.
#[derive(Default)]
struct Ending {
    how: Mutex<Option<Result<(), String>>>,
    happened: Condvar,
}

impl Ending {
    fn set(&self, how: io::Result<()>) {
        *self.how.lock() = Some(how.map_err(|error| error.to_string()));
        self.happened.notify_all();
    }

    fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut how = self.how.lock();
        while how.is_none() {
            if self.happened.wait_until(&mut how, deadline).timed_out() {
                break;
            }
        }
        how.is_some()
    }
}

/// A mount.
struct Mounted {
    dir: PathBuf,
    /// The number of its device, as the mount table writes it, where that can be read.
    device: Option<String>,
    vfs: Arc<Vfs>,
    forgetting: Arc<Forgetting>,
    pools: [Arc<Pool>; 2],
    ending: Arc<Ending>,
    session: Mutex<Option<JoinHandle<()>>>,
    stopped: Mutex<bool>,
}

impl Mounted {
    fn start(vfs: Arc<Vfs>, dir: PathBuf, options: &PresentOptions, by_helper: bool) -> Result<Self, PresentError> {
        let flags = Flags { read_only: options.read_only, allow_other: options.allow_other };
        let device = if by_helper { mountpoint::mount_by_helper(&dir, flags) } else { mountpoint::mount(&dir, flags) }
            .map_err(|error| refused(&dir, error))?;
        match Self::serve(vfs, &dir, device) {
            Ok(mut mounted) => {
                mounted.device = mounted_at(&dir).ok().flatten().map(|mount| mount.device);
                mounted.device.iter().for_each(|device| mountpoint::raise_read_ahead(device));
                info!(dir = %dir.display(), "mounted");
                Ok(mounted)
            }
            Err(error) => {
                if let Err(error) = mountpoint::unmount(&dir, true) {
                    warn!(dir = %dir.display(), %error, "cannot take the mount away again");
                }
                Err(io_error("cannot serve the mount at", &dir)(error))
            }
        }
    }

    fn serve(vfs: Arc<Vfs>, dir: &Path, device: std::os::fd::OwnedFd) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let pools = [Pool::new("fetching", 64), Pool::new("syncing", 16)];
        let syncing_dirs = Arc::new(Syncing::default());
        let requests = Requests {
            vfs: vfs.clone(),
            fetching: pools[0].clone(),
            syncing: pools[1].clone(),
            syncing_dirs: syncing_dirs.clone(),
        };
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // The kernel itself decides who may enter (`allow_other`).
        let session = Session::from_fd(requests, device, SessionACL::All, config)?;
        let forgetting = Arc::new(Forgetting::start(session.notifier(), syncing_dirs)?);
        vfs.start(forgetting.clone())?;
        let ending = Arc::new(Ending::default());
        let of_session = ending.clone();
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new().name("session".into()).spawn(move || {
            let _span = span.entered();
            of_session.set(session.run());
        })?;
        Ok(Self {
            dir: dir.to_path_buf(),
            device: None,
            vfs,
            forgetting,
            pools,
            ending,
            session: Mutex::new(Some(thread)),
            stopped: Mutex::new(false),
        })
    }

    fn users(&self) -> String {
        users_of(Used { dir: &self.dir, device: self.device.as_deref() })
    }

    /// Where it is mounted: elsewhere, if a directory above was moved; `None` if it was taken away while in use (`umount
    /// --lazy`), and lives on for who uses it.
    fn place(&self) -> Option<PathBuf> {
        // Where the table cannot be read or has another number, it is believed to be where it was put.
        let places = self.device.as_deref().and_then(|device| mountpoint::places_of(device).ok());
        match places {
            None => Some(self.dir.clone()),
            Some(places) if places.contains(&self.dir) => Some(self.dir.clone()),
            Some(places) => places.into_iter().next(),
        }
    }

    /// Takes the mount away, unless that was done by hand.
    fn unmount(&self) -> io::Result<()> {
        let deadline = Instant::now() + LET_GO;
        loop {
            if self.ending.how.lock().is_some() {
                return Ok(());
            }
            let Some(place) = self.place() else { return Ok(()) };
            match mountpoint::unmount_all(&place) {
                Ok(()) => return Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => return Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) && Instant::now() < deadline => {
                    // The kernel has no event for the last user's leaving.
                    std::thread::sleep(AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Publishes for so long, then unmounts.
    fn hide(&self, flush: Duration) -> Result<(), PresentError> {
        let mut stopped = self.stopped.lock();
        if *stopped {
            return Ok(());
        }
        self.vfs.settle(Instant::now() + flush);
        if let Err(error) = self.unmount() {
            if Errno::from_io_error(&error) == Some(Errno::BUSY) {
                return Err(PresentError::Directory(format!(
                    "{} is busy: {}; end that and unmount again",
                    shown(&self.dir),
                    self.users()
                )));
            }
            return Err(io_error("cannot unmount", &self.dir)(error));
        }
        let kept = self.end(false);
        *stopped = true;
        info!(dir = %self.dir.display(), kept, "unmounted");
        Ok(())
    }

    /// Ends the threads, once nothing is mounted any more; `lazily` says that somebody may still have files open. False if not
    /// all that was written could be kept.
    fn end(&self, lazily: bool) -> bool {
        let ended = self.ending.wait(if lazily { Duration::ZERO } else { LET_GO });
        if ended {
            if let Some(session) = self.session.lock().take() {
                // A panic was printed by the thread itself.
                let _ = session.join();
            }
            for pool in &self.pools {
                pool.stop(LET_GO);
            }
        } else if !lazily {
            // Somebody uses what was taken away by hand, or another mount namespace has a copy; the session ends with that.
            warn!(dir = %self.dir.display(), "the mount lives on for who uses it, or in another mount namespace");
        }
        // Who still has something open (taken away by hand, `umount --lazy`) is told from now on that nobody keeps it.
        self.vfs.close();
        // Closed files are told of late: what was written last may have come after the first flush.
        self.vfs.settle(Instant::now() + FLUSH_LAST);
        let kept = self.vfs.stop();
        if ended {
            self.forgetting.stop();
        }
        kept
    }
}

/// Why the kernel or the helper did not mount, and what to do.
fn refused(dir: &Path, error: io::Error) -> PresentError {
    let said = error.to_string();
    if error.kind() == io::ErrorKind::NotFound {
        return PresentError::Missing(
            mountpoint::missing().unwrap_or_else(|| format!("cannot mount at {}: {said}", shown(dir))),
        );
    }
    if said.contains("user_allow_other") {
        return PresentError::Missing(format!(
            "cannot mount at {} for other users: add the line user_allow_other to /etc/fuse.conf, or leave out \
             --allow-other",
            shown(dir)
        ));
    }
    PresentError::Missing(format!(
        "cannot mount at {}: {said}; if this system does not allow FUSE mounts, keep a plain folder in sync with \
         `crdtfs watch`",
        shown(dir)
    ))
}

impl Presented for Mounted {
    fn problems(&self) -> Vec<Problem> {
        let misplaced = self.misplaced().map(|message| Problem { path: String::new(), message });
        let problems = self.vfs.problems().into_iter().map(|(path, message)| Problem { path, message });
        misplaced.into_iter().chain(problems).collect()
    }

    fn misplaced(&self) -> Option<String> {
        if self.ending.how.lock().is_some() || *self.stopped.lock() {
            return None;
        }
        let dir = shown(&self.dir);
        match self.place() {
            Some(place) if place == self.dir => None,
            Some(place) => Some(format!(
                "{dir} was moved and is mounted at {} now: move it back, or run `crdtfs unmount {dir}`",
                shown(&place)
            )),
            None => Some(format!(
                "{dir} was unmounted, but {}: end that, or run `crdtfs unmount {dir}`, which cuts it off; until it is mounted \
                 again, what is written to {dir} is not in the share",
                self.users()
            )),
        }
    }

    fn settle(&self, deadline: Instant) -> bool {
        self.vfs.settle(deadline)
    }

    fn is_seen(&self, deadline: Instant) -> bool {
        self.vfs.is_seen(deadline)
    }

    fn stop(&self) -> Result<(), PresentError> {
        self.hide(FLUSH)
    }

    fn leave(&self) -> Result<Option<String>, PresentError> {
        let Err(busy) = self.hide(FLUSH_LAST) else { return Ok(None) };
        let users = self.users();
        if self.place().is_some_and(|place| mountpoint::unmount(&place, true).is_err()) {
            return Err(busy);
        }
        let mut stopped = self.stopped.lock();
        // Nobody opens anything any more, but who has a file open may have written meanwhile.
        let safe = self.end(true);
        *stopped = true;
        if !safe {
            return Err(PresentError::Directory(format!(
                "not all that was written to {} could be kept, and {users}",
                shown(&self.dir)
            )));
        }
        Ok(Some(format!("{} was unmounted while in use, with all that was written: {users}", shown(&self.dir))))
    }

    fn ended(&self) -> Option<String> {
        let how = self.ending.how.lock();
        match how.as_ref()? {
            Ok(()) => Some(format!("{} was unmounted", shown(&self.dir))),
            Err(error) => Some(format!("the session of {} ended: {error}", shown(&self.dir))),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.stop().is_err() {
            if let Some(Err(error)) = self.place().map(|place| mountpoint::unmount(&place, true)) {
                warn!(dir = %self.dir.display(), %error, "cannot unmount");
            }
            self.end(true);
        }
    }
}
