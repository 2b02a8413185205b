//! The one place where errors become errnos.

use std::io;

use crdtfs_vfs::Error;
use fuser::Errno;

/// The errno that a caller sees for an error.
pub(crate) fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDir => Errno::ENOTDIR,
        Error::IsDir => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::Invalid => Errno::EINVAL,
        Error::NotPermitted => Errno::EPERM,
        Error::ReadOnly => Errno::EROFS,
        Error::TooLarge => Errno::E2BIG,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::BadHandle => Errno::EBADF,
        Error::NoAttribute => Errno::from_i32(libc::ENODATA),
        Error::PastEnd => Errno::ENXIO,
        Error::FileTooLarge => Errno::EFBIG,
        Error::Unsupported => Errno::from_i32(libc::EOPNOTSUPP),
        Error::NoSpace => Errno::ENOSPC,
        Error::Io(error) => io_errno(error),
    }
}

/// Only errnos that say something of the caller's own file pass; that a file of the state directory is missing, say, is
/// the caller's `EIO`.
fn io_errno(error: &io::Error) -> Errno {
    const PASSED: [i32; 7] =
        [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::ENOMEM, libc::EOPNOTSUPP, libc::EINVAL, libc::EINTR];
    if let Some(raw) = error.raw_os_error() {
        return if PASSED.contains(&raw) { Errno::from_i32(raw) } else { Errno::EIO };
    }
    match error.kind() {
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        io::ErrorKind::QuotaExceeded => Errno::from_i32(libc::EDQUOT),
        io::ErrorKind::FileTooLarge => Errno::EFBIG,
        io::ErrorKind::OutOfMemory => Errno::ENOMEM,
        io::ErrorKind::Unsupported => Errno::from_i32(libc::EOPNOTSUPP),
        io::ErrorKind::InvalidInput => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_inside_the_store_is_eio() {
        let raw = |errno| i32::from(super::errno(&Error::Io(io::Error::from_raw_os_error(errno))));
        assert_eq!(raw(libc::ENOSPC), libc::ENOSPC);
        assert_eq!(raw(libc::ENOENT), libc::EIO);
        assert_eq!(raw(libc::ENOTCONN), libc::EIO);
        let kind = |kind: io::ErrorKind| i32::from(super::errno(&Error::Io(kind.into())));
        assert_eq!(kind(io::ErrorKind::HostUnreachable), libc::EIO);
        assert_eq!(kind(io::ErrorKind::StorageFull), libc::ENOSPC);
    }
}
