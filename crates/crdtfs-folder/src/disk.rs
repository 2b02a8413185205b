//! The folder's files, beneath one root: the only module that calls the system.
//!
//! Every directory is opened from the root's descriptor by `openat2` with `BENEATH`, `NO_SYMLINKS`, `NO_MAGICLINKS` and
//! `NO_XDEV`, or, where the system lacks it, one component at a time without following links and with a check of the
//! device; everything else is one component relative to such a directory. So no name, ours or a peer's, leads outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time, Xattrs};
use minicbor::{Decode, Encode};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

#[cfg(test)]
use crate::crash;
use crate::filesystem::Abilities;

/// Names that begin so are ours and hold nothing that is not elsewhere: not looked at, removed at the next start.
pub(crate) const TEMPORARY: &[u8] = b".crdtfs-tmp-";

/// Names that begin so, in the root, hold what was taken from its place, to be looked at and then removed, or put back.
pub(crate) const ASIDE: &[u8] = b".crdtfs-aside-";

/// Names that begin so are ours and hold an entry that is on its way from one place to another.
pub(crate) const PARKED: &[u8] = b".crdtfs-move-";

/// What tells one file on disk from every other that was or will be: a number may be reused, with its time of birth not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Ident {
    /// Inode number.
    #[n(0)]
    pub(crate) ino: u64,
    /// Time of birth; zero where the filesystem keeps none.
    #[n(1)]
    pub(crate) born: Time,
}

impl Ident {
    /// A number that no file has: what is known of the file says nothing of its number any more. `n` tells it from others.
    pub(crate) fn void(n: u64) -> Self {
        Self { ino: n, born: VOID }
    }

    /// Whether it is no file's.
    pub(crate) fn is_void(&self) -> bool {
        self.born.secs == VOID.secs
    }

    /// The same, and what has the file's name may be another one that looks like it.
    pub(crate) fn doubted(self) -> Self {
        Self { born: DOUBTED, ..self }
    }

    /// Whether only its bytes tell what has its name.
    pub(crate) fn is_doubted(&self) -> bool {
        self.born == DOUBTED
    }
}

/// A time at which nothing is born.
const VOID: Time = Time { secs: i64::MIN, nanos: 0 };
/// Another one.
const DOUBTED: Time = Time { nanos: 1, ..VOID };

/// Seconds that the coarsest filesystem takes for one when it keeps a time of modification (FAT).
const GRANULE: i64 = 2;

/// All that tells one file from others where numbers do not last and times are coarse: its length, and when it was modified
/// as the coarsest filesystem keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Look {
    size: u64,
    modified: i64,
}

/// The state of one file on disk, as far as `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Stamp {
    /// Which file.
    #[n(0)]
    pub(crate) ident: Ident,
    /// Length in bytes.
    #[n(1)]
    pub(crate) size: u64,
    /// Last modification.
    #[n(2)]
    pub(crate) mtime: Time,
    /// Last change of anything.
    #[n(3)]
    pub(crate) ctime: Time,
    /// Permission bits (`07777`).
    #[n(4)]
    pub(crate) mode: u32,
    /// Number of links.
    #[n(5)]
    pub(crate) nlink: u32,
}

impl Stamp {
    /// Whether the bytes can be taken for the same: the file, its length and its time of modification are.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        self.ident == other.ident && self.looks_like(other)
    }

    /// The same, of files that cannot be told by their numbers.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        self.size == other.size && self.mtime == other.mtime
    }

    /// What it looks like.
    pub(crate) fn look(&self) -> Look {
        Look { size: self.size, modified: self.mtime.secs.div_euclid(GRANULE) }
    }
}

/// What `stat` says of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its state.
    pub(crate) stamp: Stamp,
    /// On another filesystem than the root: something is mounted there.
    pub(crate) foreign: bool,
}

/// How the root was left: with it, and nothing less, one that is empty now tells that it was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Left {
    /// The filesystem's own number (statfs(2), `f_fsid`); 0: it says none.
    #[n(0)]
    pub(crate) filesystem: u64,
    /// When names were last made or removed in it, or anything of it changed. Nobody but the kernel sets it.
    #[n(1)]
    pub(crate) changed: Time,
}

/// The root directory, open.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    dev: (u32, u32),
    path: PathBuf,
    abilities: Abilities,
    #[cfg(test)]
    fuse: crash::Fuse,
}

/// A directory beneath the root, open as a place to resolve names in.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    dev: (u32, u32),
    abilities: Abilities,
    #[cfg(test)]
    fuse: crash::Fuse,
}

const STAT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The same, and through which mount.
const STAT_MOUNT: StatxFlags = STAT.union(StatxFlags::MNT_ID);
/// The type of a btrfs (statfs(2), `f_type`).
const BTRFS: rustix::fs::FsWord = 0x9123_683e;
/// Longest relative path given to one system call; deeper directories are reached in several.
const PATH_STEP: usize = 3000;

fn os(name: &Name) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

fn meta(stat: &Statx, dev: (u32, u32), abilities: Abilities) -> Meta {
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    };
    let time = |t: rustix::fs::StatxTimestamp| Time { secs: t.tv_sec, nanos: t.tv_nsec };
    let born = if stat.stx_mask & StatxFlags::BTIME.bits() == 0 { Time::default() } else { time(stat.stx_btime) };
    let mode = match kind {
        // What is made here gets what it would elsewhere; what came from elsewhere keeps what it has.
        Kind::Dir if !abilities.modes => 0o755,
        _ if !abilities.modes => 0o644,
        _ => u32::from(stat.stx_mode) & 0o7777,
    };
    let stamp = Stamp {
        ident: Ident { ino: stat.stx_ino, born },
        size: stat.stx_size,
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        mode,
        nlink: stat.stx_nlink,
    };
    Meta { kind, stamp, foreign: (stat.stx_dev_major, stat.stx_dev_minor) != dev }
}

fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Statx> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, STAT)?)
}

impl Root {
    /// Opens the directory at `path` (a link in the path is followed: the user named it).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = stat_fd(fd.as_fd())?;
        Ok(Self {
            fd,
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            path: path.to_owned(),
            abilities: Abilities::default(),
            #[cfg(test)]
            fuse: crash::fuse_of(path),
        })
    }

    /// Finds out what the filesystem can do, and keeps to that from then on.
    ///
    /// # Errors
    /// If nothing can be made here.
    pub(crate) fn probe(&mut self) -> io::Result<()> {
        self.abilities = Abilities::probe(self)?;
        Ok(())
    }

    /// What the filesystem can do.
    pub(crate) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// The state of an open file beneath the root.
    pub(crate) fn stamp_of(&self, file: &File) -> io::Result<Stamp> {
        Ok(meta(&stat_fd(file.as_fd())?, self.dev, self.abilities).stamp)
    }

    /// Where it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The root's own state.
    pub(crate) fn meta(&self) -> io::Result<Meta> {
        Ok(meta(&stat_fd(self.fd.as_fd())?, self.dev, self.abilities))
    }

    /// How it is left if nothing more is done to it.
    pub(crate) fn left(&self) -> io::Result<Left> {
        let filesystem = rustix::fs::fstatvfs(&self.fd)?.f_fsid;
        Ok(Left { filesystem, changed: self.meta()?.stamp.ctime })
    }

    /// What tells this directory from every other: which it is and, where several have one [`Ident`], on which filesystem
    /// (statfs(2), `f_fsid`). The root of a btrfs snapshot has the ident of what it is a snapshot of, and where no time of
    /// birth is kept the roots of any two filesystems may have the same.
    pub(crate) fn ident(&self) -> io::Result<(Ident, Option<u64>)> {
        let ident = self.meta()?.stamp.ident;
        let alike = ident.born == Time::default() || rustix::fs::fstatfs(&self.fd)?.f_type == BTRFS;
        let filesystem = if alike { Some(rustix::fs::fstatvfs(&self.fd)?.f_fsid) } else { None };
        Ok((ident, filesystem))
    }

    /// Whether the path still leads to this directory, through the mount by which it was opened. Both are looked at now: a
    /// btrfs subvolume that is deleted loses its device number, which the next one gets.
    pub(crate) fn in_place(&self) -> bool {
        let here = rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, STAT_MOUNT);
        let there = rustix::fs::statx(rustix::fs::CWD, &self.path, AtFlags::empty(), STAT_MOUNT);
        let (Ok(here), Ok(there)) = (here, there) else { return false };
        let [held, found] = [&here, &there].map(|stat| meta(stat, self.dev, self.abilities));
        let linked = !held.foreign && held.stamp.nlink > 0;
        linked && !found.foreign && found.stamp.ident == held.stamp.ident && there.stx_mnt_id == here.stx_mnt_id
    }

    /// Takes the lock that keeps a second engine off the folder, for as long as this root is open.
    pub(crate) fn lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets go of the lock, though the root stays open (the store may still read from the folder).
    pub(crate) fn unlock(&self) {
        // It cannot fail for a descriptor that is open.
        let _ = rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::Unlock);
    }

    /// Opens a directory by its path's components.
    pub(crate) fn dir(&self, path: &[Name]) -> io::Result<Dir> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let mut step = Vec::new();
            let mut taken = 0;
            for name in rest {
                if taken > 0 && step.len() + name.as_bytes().len() > PATH_STEP {
                    break;
                }
                if taken > 0 {
                    step.push(b'/');
                }
                step.extend_from_slice(name.as_bytes());
                taken += 1;
            }
            let from = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let next = self.descend(from, if step.is_empty() { b"." } else { &step })?;
            rest = &rest[taken..];
            at = Some(next);
            if rest.is_empty() {
                break;
            }
        }
        let fd = at.expect("the loop ran once");
        Ok(Dir {
            fd,
            dev: self.dev,
            abilities: self.abilities,
            #[cfg(test)]
            fuse: self.fuse.clone(),
        })
    }

    fn descend(&self, from: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(from, OsStr::from_bytes(path), DIR, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(Errno::NOSYS | Errno::PERM) => return self.descend_stepwise(from, path),
                other => return Ok(other?),
            }
        }
    }

    /// As strict without `openat2`: one component at a time, no link, no other device.
    fn descend_stepwise(&self, from: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(from, ".", DIR, Mode::empty())?;
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".") {
            if name == b".." {
                return Err(Errno::XDEV.into());
            }
            at = rustix::fs::openat(&at, OsStr::from_bytes(name), DIR, Mode::empty())?;
            let stat = stat_fd(at.as_fd())?;
            if (stat.stx_dev_major, stat.stx_dev_minor) != self.dev {
                return Err(Errno::XDEV.into());
            }
        }
        Ok(at)
    }

    /// Makes all that was written beneath the root durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }
}

impl Dir {
    /// The directory's own state.
    pub(crate) fn meta(&self) -> io::Result<Meta> {
        Ok(meta(&stat_fd(self.fd.as_fd())?, self.dev, self.abilities))
    }

    /// A path that leads to exactly this directory while it is open, for calls that only take paths.
    pub(crate) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// The state of one name, not followed; `None` if there is none.
    pub(crate) fn stat(&self, name: &Name) -> io::Result<Option<Meta>> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        if !self.abilities.numbers {
            // What is known of it may be old: another spelling of its name is another file to such a filesystem's cache.
            flags |= AtFlags::STATX_FORCE_SYNC;
        }
        match rustix::fs::statx(&self.fd, os(name), flags, STAT) {
            Ok(stat) => Ok(Some(meta(&stat, self.dev, self.abilities))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All names but `.` and `..`, in no order.
    pub(crate) fn names(&self) -> io::Result<Vec<Name>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        let mut reader = RawDir::new(fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = reader.next() {
            if let Ok(name) = Name::new(entry?.file_name().to_bytes()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Opens a regular file for reading.
    pub(crate) fn open(&self, name: &Name) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, os(name), flags, Mode::empty())?.into())
    }

    /// Makes a new file, open for reading and writing, for its owner only.
    pub(crate) fn create(&self, name: &Name) -> io::Result<File> {
        self.crash_point();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, os(name), flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Makes a directory.
    pub(crate) fn mkdir(&self, name: &Name) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::mkdirat(&self.fd, os(name), Mode::from_raw_mode(0o700))?)
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(&self, name: &Name, target: &[u8]) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), &self.fd, os(name))?)
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self, name: &Name) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, os(name), Vec::new())?.into_bytes())
    }

    /// Gives a file one more name, if that is free.
    pub(crate) fn link(&self, name: &Name, to: &Dir, to_name: &Name) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::linkat(&self.fd, os(name), &to.fd, os(to_name), AtFlags::empty())?)
    }

    /// Moves an entry to a name that is free (`EEXIST` if it is not). Where the filesystem cannot see to that, what is put
    /// there in the instant between our look and the move is replaced.
    pub(crate) fn rename(&self, name: &Name, to: &Dir, to_name: &Name) -> io::Result<()> {
        self.crash_point();
        if self.is_respelled(name, to, to_name)? || (!self.abilities.exchanges && to.stat(to_name)?.is_none()) {
            return Ok(rustix::fs::renameat(&self.fd, os(name), &to.fd, os(to_name))?);
        }
        if !self.abilities.exchanges {
            return Err(Errno::EXIST.into());
        }
        Ok(rustix::fs::renameat_with(&self.fd, os(name), &to.fd, os(to_name), RenameFlags::NOREPLACE)?)
    }

    /// Whether two names of this directory are two spellings of one entry's name.
    fn is_respelled(&self, name: &Name, to: &Dir, to_name: &Name) -> io::Result<bool> {
        let names = self.abilities.names;
        if name == to_name || !names.folds() || names.key(name) != names.key(to_name) {
            return Ok(false);
        }
        if self.meta()?.stamp.ident != to.meta()?.stamp.ident {
            return Ok(false);
        }
        let there = self.names()?;
        Ok(there.contains(name) && !there.contains(to_name))
    }

    /// Swaps two entries (`EINVAL` where the filesystem cannot).
    pub(crate) fn exchange(&self, name: &Name, to: &Dir, to_name: &Name) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::renameat_with(&self.fd, os(name), &to.fd, os(to_name), RenameFlags::EXCHANGE)?)
    }

    /// Removes a name that is no directory.
    pub(crate) fn unlink(&self, name: &Name) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::unlinkat(&self.fd, os(name), AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&self, name: &Name) -> io::Result<()> {
        self.crash_point();
        Ok(rustix::fs::unlinkat(&self.fd, os(name), AtFlags::REMOVEDIR)?)
    }

    /// Sets the permission bits of a directory or file that is no link.
    pub(crate) fn chmod(&self, name: &Name, mode: u32) -> io::Result<()> {
        self.crash_point();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, os(name), flags, Mode::empty())?;
        if meta(&stat_fd(fd.as_fd())?, self.dev, self.abilities).kind == Kind::Symlink {
            return Err(Errno::LOOP.into());
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
    }

    /// Sets the time of modification, without following a link.
    pub(crate) fn set_mtime(&self, name: &Name, mtime: Time) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, os(name), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

impl Dir {
    /// Where a test may have the process end.
    fn crash_point(&self) {
        #[cfg(test)]
        crash::point(&self.fuse);
    }
}

fn times(mtime: Time) -> rustix::fs::Timestamps {
    rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

/// Whether an open file is a regular one.
pub(crate) fn is_regular(file: &File) -> io::Result<bool> {
    Ok(meta(&stat_fd(file.as_fd())?, (0, 0), Abilities::default()).kind == Kind::File)
}

/// Sets permission bits and time of modification of an open file.
pub(crate) fn set_attrs(file: &File, mode: u32, mtime: Time) -> io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    Ok(rustix::fs::futimens(file, &times(mtime))?)
}

/// The `user.*` attributes of an open file; `None` where the filesystem cannot keep any.
pub(crate) fn xattrs(file: &File) -> io::Result<Option<Xattrs>> {
    let mut found = Xattrs::new();
    let mut list = vec![0; 4096];
    let len = loop {
        match rustix::fs::flistxattr(file, &mut list[..]) {
            Ok(len) => break len,
            Err(Errno::RANGE) => list.resize(list.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    for name in list[..len].split(|&b| b == 0).filter(|n| n.starts_with(b"user.")) {
        let mut value = vec![0; 64 * 1024];
        match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                found.insert(name.to_vec(), value);
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(found))
}

/// Makes the `user.*` attributes of an open file exactly these. True if all are there; false where the filesystem
/// cannot keep them.
pub(crate) fn set_xattrs(file: &File, wanted: &Xattrs) -> io::Result<bool> {
    let user = |name: &[u8]| name.starts_with(b"user.");
    let Some(have) = xattrs(file)? else { return Ok(!wanted.keys().any(|n| user(n))) };
    for name in have.keys().filter(|n| !wanted.contains_key(*n)) {
        rustix::fs::fremovexattr(file, OsStr::from_bytes(name))?;
    }
    for (name, value) in wanted.iter().filter(|(n, v)| user(n) && have.get(*n) != Some(*v)) {
        match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, rustix::fs::XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTSUP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether some process has the file, opened here for reading only, open for writing (mapped included). A read lease is
/// granted only if none has (fcntl(2), `F_SETLEASE`); where leases do not work the answer is no.
pub(crate) fn has_writer(file: &File) -> bool {
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // SAFETY: fcntl on a descriptor that `file` keeps open, with integer arguments; no memory is passed. The signal of a
    // lease that somebody breaks in the instant it is held is set to SIGURG, which is ignored by default.
    #[allow(unsafe_code)]
    unsafe {
        if libc::fcntl(fd, F_SETSIG, libc::SIGURG) != 0 {
            return false;
        }
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}
