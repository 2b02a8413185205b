//! What a call can answer instead of a result.

use std::io;

use crdtfs_core::name::NameError;
use crdtfs_core::op::OpError;
use thiserror::Error;

/// Why a call failed. An adapter maps each to the one errno that its documentation names.
#[derive(Debug, Error)]
pub enum Error {
    /// No such entry or node (`ENOENT`).
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken (`EEXIST`).
    #[error("the name is taken")]
    Exists,
    /// A directory was needed (`ENOTDIR`).
    #[error("not a directory")]
    NotDir,
    /// A directory cannot be used here (`EISDIR`).
    #[error("is a directory")]
    IsDir,
    /// The directory has entries (`ENOTEMPTY`).
    #[error("the directory is not empty")]
    NotEmpty,
    /// An argument makes no sense here (`EINVAL`).
    #[error("cannot be done to this entry")]
    Invalid,
    /// Nobody may do this, or not this caller (`EPERM`).
    #[error("not permitted")]
    NotPermitted,
    /// The share or the mount is read-only (`EROFS`).
    #[error("read-only")]
    ReadOnly,
    /// An extended attribute or its list is over the limit (`E2BIG`).
    #[error("over a limit of the share")]
    TooLarge,
    /// A name has more than 255 bytes (`ENAMETOOLONG`).
    #[error("the name is too long")]
    NameTooLong,
    /// The handle is not open, or not for this (`EBADF`).
    #[error("not an open handle for this")]
    BadHandle,
    /// No such extended attribute (`ENODATA`).
    #[error("no such attribute")]
    NoAttribute,
    /// Nothing at or after this offset (`ENXIO`).
    #[error("past the end")]
    PastEnd,
    /// The file would be larger than files can be (`EFBIG`).
    #[error("the file would be too large")]
    FileTooLarge,
    /// Not offered (`EOPNOTSUPP`).
    #[error("not supported")]
    Unsupported,
    /// The disk of the state directory is full (`ENOSPC`).
    #[error("no space left in the state directory's filesystem")]
    NoSpace,
    /// Reading or writing content failed; the errno within, else `EIO`.
    #[error("content: {0}")]
    Io(#[from] io::Error),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl From<OpError> for Error {
    fn from(error: OpError) -> Self {
        match error {
            OpError::NotFound => Self::NotFound,
            OpError::Exists => Self::Exists,
            OpError::NotDir => Self::NotDir,
            OpError::IsDir => Self::IsDir,
            OpError::NotEmpty => Self::NotEmpty,
            OpError::Invalid => Self::Invalid,
            OpError::NotPermitted => Self::NotPermitted,
            OpError::ReadOnly => Self::ReadOnly,
            OpError::TooLarge => Self::TooLarge,
            OpError::NoSpace => Self::NoSpace,
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        match error {
            NameError::TooLong => Self::NameTooLong,
            NameError::Empty => Self::NotFound,
            NameError::Separator | NameError::Dots => Self::Invalid,
        }
    }
}
