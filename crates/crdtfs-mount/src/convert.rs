//! The kernel's words, as fuser has them, and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crdtfs_core::node::{Kind, Owner, Time};
use crdtfs_vfs::{Attr, Make, OpenMode, Opened, SetTime};
use fuser::{FileAttr, FileType, FopenFlags, Generation, INodeNo, OpenAccMode, OpenFlags, Request, TimeOrNow};

/// How long the kernel may remember what it was told: it is told when that changes.
pub(crate) const TTL: Duration = Duration::from_secs(3600);

/// For how long it may remember a name. Of a file with several names the one it is opened by has to be known (a version that
/// is written through it comes back there, should all of them have been removed elsewhere), so that each use asks for it.
pub(crate) fn name_ttl(attr: &Attr) -> Duration {
    if attr.nlink > 1 && attr.kind == Kind::File { Duration::ZERO } else { TTL }
}

/// Inodes are never given to another file while the kernel knows them.
pub(crate) const GENERATION: Generation = Generation(0);

pub(crate) const BLOCK: u32 = 4096;

pub(crate) fn to_system(time: Time) -> SystemTime {
    let whole = if time.secs >= 0 {
        UNIX_EPOCH.checked_add(Duration::from_secs(time.secs.unsigned_abs()))
    } else {
        UNIX_EPOCH.checked_sub(Duration::from_secs(time.secs.unsigned_abs()))
    };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// fuser 0.18 counts the nanoseconds of times before 1970 backwards from the second, where the kernel counts forwards.
pub(crate) fn from_system(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Time { secs: (before.as_secs() as i64).wrapping_neg(), nanos: before.subsec_nanos() }
        }
    }
}

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.owner.uid,
        gid: attr.owner.gid,
        rdev: attr.rdev as u32,
        blksize: BLOCK,
        flags: 0,
    }
}

/// What the kernel takes for "there is no such name, and you may remember that".
pub(crate) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Nothing is kept back that an error at `close` could tell of, so it needs no message.
pub(crate) fn open_flags(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::FOPEN_NOFLUSH;
    if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if opened.bypass_cache {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    flags
}

pub(crate) fn open_mode(flags: i32) -> OpenMode {
    let access = OpenFlags(flags).acc_mode();
    OpenMode {
        read: access != OpenAccMode::O_WRONLY,
        write: access != OpenAccMode::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

/// Whether suid and sgid stay where the kernel does not say so (CAP_FSETID, which the request does not carry).
pub(crate) fn privileged(request: &Request) -> bool {
    request.uid() == 0
}

pub(crate) fn make(request: &Request, kind: Kind, mode: u32) -> Make {
    Make { kind, mode, owner: Owner { uid: request.uid(), gid: request.gid() }, rdev: 0, target: Vec::new() }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_system(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_come_and_go() {
        for time in [
            Time { secs: 0, nanos: 0 },
            Time { secs: 1, nanos: 999_999_999 },
            Time { secs: -2, nanos: 800_000_000 },
            Time { secs: -1, nanos: 0 },
        ] {
            // What fuser 0.18 makes of the kernel's seconds and nanoseconds.
            let fuser = if time.secs >= 0 {
                UNIX_EPOCH + Duration::new(time.secs as u64, time.nanos)
            } else {
                UNIX_EPOCH - Duration::new(time.secs.unsigned_abs(), time.nanos)
            };
            assert_eq!(from_system(fuser), time);
            let ours = to_system(time);
            let nanos = match ours.duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            };
            assert_eq!(nanos, i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos));
        }
        let extreme = to_system(Time { secs: i64::MIN, nanos: 0 });
        assert!(extreme <= UNIX_EPOCH, "no panic at the ends of time");
    }
}
