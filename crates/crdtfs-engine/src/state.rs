//! The state directory: what one installation keeps between runs, and who may use it.
//!
//! ```text
//! <state-dir>/             0700
//!   lock                   held (flock) by the one engine that runs it
//!   device.key             0600: the device's ed25519 secret key, 32 bytes
//!   control.sock           0600: see crdtfs-control
//!   config.toml            the user's
//!   store/                 chunks (crdtfs-store)
//!   shares/<share id>/     see [`crate::registry`]
//!   log/                   what a background engine says
//! ```
//! A crash loses nothing here: files are replaced whole ([`write_atomically`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;
use rustix::fs::FlockOperation;
use thiserror::Error;

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another engine runs it.
    #[error("the state directory {path} is in use by another crdtfs engine{by}: stop it with `crdtfs --state-dir {path} stop`, or use another --state-dir", path = .0.display(), by = pid_note(*.1))]
    InUse(PathBuf, Option<u32>),
    /// Others could read the key.
    #[error("{path} can be read by other users (mode {mode:o}): it holds this device's key; run `chmod {wanted:o} {path}`", path = .path.display())]
    TooOpen {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        wanted: u32,
    },
    /// The key file is not one.
    #[error("{path} is not a device key (32 bytes expected, {len} found): restore it from a backup, or move the state directory away to start as a new device", path = .path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

fn pid_note(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Names the operation and the path of a failed system call.
pub(crate) fn io_at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |source| StateError::Io { what, path: path.to_owned(), source }
}

/// A state directory that this process holds the lock of.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Keeps the lock as long as it lives.
    _lock: File,
    key: [u8; 32],
}

impl StateDir {
    /// Creates the directory if need be, takes its lock, and reads or makes the device's key.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_at("create", path))?;
        }
        let path = &path.canonicalize().map_err(io_at("open", path))?;
        if !path.join("device.key").exists() {
            // A directory that the user made for us holds no secret yet.
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_at("protect", path))?;
        }
        refuse_open_to_others(path, 0o700)?;
        let lock = take_lock(path)?;
        for dir in ["shares", "log"] {
            fs::create_dir_all(path.join(dir)).map_err(io_at("create", &path.join(dir)))?;
        }
        let key = device_key(&path.join("device.key"))?;
        Ok(Self { path: path.clone(), _lock: lock, key })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device's ed25519 secret key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The directory of the shares.
    pub fn shares(&self) -> PathBuf {
        self.path.join("shares")
    }
}

/// Refuses a file or directory that users other than the owner may use.
fn refuse_open_to_others(path: &Path, wanted: u32) -> Result<(), StateError> {
    let mode = fs::metadata(path).map_err(io_at("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::TooOpen { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn take_lock(state: &Path) -> Result<File, StateError> {
    let path = state.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_at("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            return Err(StateError::InUse(state.to_owned(), pid));
        }
        Err(e) => return Err(io_at("lock", &path)(e.into())),
    }
    file.set_len(0).map_err(io_at("write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(io_at("write", &path))?;
    Ok(file)
}

fn device_key(path: &Path) -> Result<[u8; 32], StateError> {
    match fs::read(path) {
        Ok(bytes) => {
            refuse_open_to_others(path, 0o600)?;
            let len = bytes.len();
            bytes.try_into().map_err(|_| StateError::BadKey { path: path.to_owned(), len })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            rand::rng().fill_bytes(&mut key);
            write_atomically(path, &key)?;
            Ok(key)
        }
        Err(e) => Err(io_at("read", path)(e)),
    }
}

/// Replaces a file by these bytes, readable by its owner only: all of them or, after a crash, the old file.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(io_at("write", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_engine_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::open(&path).unwrap();
        let refused = StateDir::open(&path).unwrap_err();
        assert!(matches!(&refused, StateError::InUse(_, Some(pid)) if *pid == std::process::id()), "{refused}");
        let key = *first.key();
        drop(first);
        assert_eq!(StateDir::open(&path).unwrap().key(), &key);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(StateDir::open(&path).unwrap());
        fs::set_permissions(path.join("device.key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::TooOpen { mode: 0o644, .. })));
        fs::set_permissions(path.join("device.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::TooOpen { mode: 0o755, .. })));
    }

    #[test]
    fn a_truncated_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(StateDir::open(&path).unwrap());
        fs::write(path.join("device.key"), b"short").unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::BadKey { len: 5, .. })));
    }
}
