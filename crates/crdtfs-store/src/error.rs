//! What can go wrong with bytes on disk.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A system call failed. A full disk is [`io::ErrorKind::StorageFull`]: nothing that was there is lost, and the call
    /// can be made again when there is room.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// The index could not be read or written. It is a cache: remove the file, and it is rebuilt at the next start.
    #[error("cannot use the index {path}: {reason}; it is rebuilt if it is removed", path = path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// Bytes that came from elsewhere are not what they claim to be.
    #[error("content {content} is malformed: {reason}")]
    Malformed {
        /// The content or manifest node.
        content: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk lost what it had taken (an fsync failed): what was put since the last successful sync may be gone.
    #[error("the disk failed to keep what was written to {path}; check the disk and start again", path = path.display())]
    Failed {
        /// The store's directory.
        path: PathBuf,
    },
}

impl StoreError {
    /// For `map_err`: names what was tried on what.
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_path_buf(), source }
    }

    /// The kind of the system's error, where there is one.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::Malformed { .. } => io::ErrorKind::InvalidData,
            Self::Index { .. } | Self::Failed { .. } => io::ErrorKind::Other,
        }
    }
}

impl From<StoreError> for io::Error {
    /// Keeps the errno of errors that have one, since a mount passes it on.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { source, .. } if source.raw_os_error().is_some() => source,
            other => Self::new(other.kind(), other),
        }
    }
}
