//! How a share is shown: the seam between the engine and the adapters (a mount, a watched folder).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::id::ShareId;
use crdtfs_core::port::{Adapter, FolderContent, Tree};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The ways to show a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A FUSE filesystem.
    Mount,
    /// A plain folder kept in sync.
    Watch,
}

/// Who owns what a mount shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerPolicy {
    /// The user that mounts.
    #[default]
    Mounter,
    /// This user and group, numerically.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The owners that the records have.
    Keep,
}

/// How the user asked to have a share shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentOptions {
    /// Local changes are refused (mount) or reported and not taken (folder).
    pub read_only: bool,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Owners shown.
    #[serde(default)]
    pub owner: OwnerPolicy,
    /// Contents are fetched when they are read, not all in the background (mount).
    #[serde(default)]
    pub on_demand: bool,
    /// Bytes of fetched contents that an on-demand mount keeps; all without it.
    #[serde(default)]
    pub cache: Option<u64>,
}

/// All that an adapter gets of a share.
#[derive(Clone)]
pub struct SharePorts {
    /// The share.
    pub share: ShareId,
    /// Who the adapter is to the tree.
    pub adapter: Adapter,
    /// The tree.
    pub tree: Arc<dyn Tree>,
    /// The bytes.
    pub content: Arc<dyn FolderContent>,
    /// This device's name, as conflict copies show it.
    pub device_name: String,
    /// A directory of the adapter's own in the state directory, kept over restarts, made before the call.
    pub state: PathBuf,
    /// Whether the user asks for it, or did when the engine began; else only what was shown there before is shown again.
    pub asked: bool,
    /// To be called after every change of [`Presented::behind`] (from any thread, no lock held; cheap): what this device
    /// tells others of itself depends on it.
    pub progressed: Arc<dyn Fn() + Send + Sync>,
}

/// Something a user should know about a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path, relative to the shown directory, lossily as text.
    pub path: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// Why a share cannot be shown at a directory.
#[derive(Debug, Error)]
pub enum PresentError {
    /// The directory does not fit: the whole sentence, with what to do.
    #[error("{0}")]
    Directory(String),
    /// The system lacks something: the whole sentence, with what to install.
    #[error("{0}")]
    Missing(String),
    /// A system call failed.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried ("cannot create").
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// How it failed.
        source: std::io::Error,
    },
}

/// Shows shares in one way.
pub trait Presenter: Send + Sync + 'static {
    /// Which way.
    fn mode(&self) -> Mode;

    /// Whether `dir` can be used: exists or can be made, is a directory, is writable, is not already a mount, and so on.
    /// Creates it if it is not there. Called before a ticket is spent. `known` says that it already showed this share: then
    /// what is not there may be left to [`Presenter::present`], which knows whether something belongs there.
    fn prepare(&self, dir: &Path, options: &PresentOptions, known: bool) -> Result<(), PresentError>;

    /// Lets go, by force, of what an engine that was killed left at `dir` and what keeps its process from ending. Most
    /// adapters leave nothing of that kind.
    fn abandon(&self, _dir: &Path) {}

    /// Shows the share; returns once it can be used. The adapter runs threads of its own until it is stopped.
    fn present(
        &self,
        ports: SharePorts,
        dir: &Path,
        options: &PresentOptions,
    ) -> Result<Box<dyn Presented>, PresentError>;
}

/// A share that is being shown.
pub trait Presented: Send + Sync {
    /// What the user should know now.
    fn problems(&self) -> Vec<Problem>;

    /// Whether something in the view is not shown yet (a folder that still has changes to apply). A mount never is.
    fn behind(&self) -> bool {
        false
    }

    /// Blocks until what the user did before the call is in the tree's records (write files sealed, the folder scanned),
    /// and what is in the view is shown; gives up at `deadline`. True if it is so.
    fn settle(&self, deadline: std::time::Instant) -> bool;

    /// Blocks until whoever looks into the directory sees what the view shows, whatever a cache had of it; gives up at
    /// `deadline`. True if it is so. Only what is not [`Presented::behind`] is asked; a plain folder has no cache.
    fn is_seen(&self, _deadline: std::time::Instant) -> bool {
        true
    }

    /// Flushes as [`Presented::settle`], for some seconds, then shows the share no more; what is not published by then is kept,
    /// and published when it is shown again. Idempotent. An error says what is still there ("device busy") and leaves it shown.
    fn stop(&self) -> Result<(), PresentError>;

    /// As [`Presented::stop`], for the engine's end, after [`Presented::settle`], so that what did not settle is waited for no
    /// more but kept for the next start: what is busy is let go of all the same, once everything that was written is safe. A
    /// sentence for the user if it came to that.
    fn leave(&self) -> Result<Option<String>, PresentError> {
        self.stop().map(|()| None)
    }

    /// Looks whether what it shows is still there, which [`Presented::ended`] tells from then on, if its threads end soon.
    /// Takes as long as the filesystem.
    fn look(&self) {}

    /// Whether it has ended without being asked (unmounted by hand, the folder is gone), as far as it knows, with all its
    /// threads, so that [`Presented::stop`] waits for nothing; the reason. Asked every few seconds, from where nothing may wait: an
    /// adapter that is not told of everything looks for itself then.
    fn ended(&self) -> Option<String>;

    /// Why who looks into the directory does not see this, though it has not ended (somebody uses what was unmounted by hand);
    /// what to do. Takes as long as the filesystem.
    fn misplaced(&self) -> Option<String> {
        None
    }

    /// Whether what had ended without being asked is there again, the very same, so that it is to be shown again. Takes as long
    /// as the filesystem.
    fn is_back(&self) -> bool {
        false
    }
}
