//! Requests of the kernel: calls of the filesystem in, replies out. Decides nothing but on which thread a call is made.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crdtfs_core::node::Kind;
use crdtfs_core::op::RenameMode;
use crdtfs_vfs::{Attr, Error, Make, SetAttr, Vfs, XattrMode};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::convert::{
    BLOCK, GENERATION, TTL, file_attr, file_type, make, name_ttl, nothing, open_flags, open_mode, privileged, set_time,
};
use crate::errno::errno;
use crate::mountpoint::MAX_IO;
use crate::notify::Syncing;
use crate::pool::Pool;

/// The filesystem as fuser wants it.
pub(crate) struct Requests {
    pub(crate) vfs: Arc<Vfs>,
    /// For calls that wait for other devices.
    pub(crate) fetching: Arc<Pool>,
    /// For calls that wait for the disk.
    pub(crate) syncing: Arc<Pool>,
    /// Directories that are being synced.
    pub(crate) syncing_dirs: Arc<Syncing>,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn reply_entry(reply: ReplyEntry, result: Result<Attr, Error>) {
    match result {
        Ok(attr) => reply.entry(&name_ttl(&attr), &file_attr(&attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<Attr, Error>) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Error>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers a read; how many bytes it got.
fn read(vfs: &Vfs, handle: u64, offset: u64, size: u32, reply: ReplyData) -> usize {
    BUFFER.with_borrow_mut(|buffer| {
        let size = size as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        match vfs.read(handle, &mut buffer[..size], offset) {
            Ok(read) => {
                reply.data(&buffer[..read]);
                read
            }
            Err(error) => {
                reply.error(errno(&error));
                0
            }
        }
    })
}

fn write(vfs: &Vfs, handle: u64, offset: u64, data: &[u8], flags: WriteFlags, reply: ReplyWrite) {
    match vfs.write(handle, data, offset, flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)) {
        Ok(()) => reply.written(data.len() as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers with bytes whose length the caller may first ask for with a size of 0.
fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Error>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Requests {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_ASYNC_DIO,
            // Else each write asks for `security.capability` first.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            // What an older kernel does not have costs speed, not meaning.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(MAX_IO);
        let _ = config.set_max_readahead(MAX_IO);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(parent.0, name.as_bytes()) {
            Err(Error::NotFound) => reply.entry(&TTL, &nothing(), GENERATION),
            result => reply_entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(ino.0, lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let result = match handle {
            Some(handle) => self.vfs.getattr_handle(handle.0).or_else(|_| self.vfs.getattr(ino.0)),
            None => self.vfs.getattr(ino.0),
        };
        reply_attr(reply, result);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            handle: handle.map(|handle| handle.0),
        };
        let privileged = privileged(request);
        let waits = size.is_some_and(|size| size > 0) && self.vfs.may_block_truncate(ino.0);
        if waits {
            let vfs = self.vfs.clone();
            self.fetching.run(move || reply_attr(reply, vfs.setattr(ino.0, set, privileged)));
        } else {
            reply_attr(reply, self.vfs.setattr(ino.0, set, privileged));
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            _ => return reply.error(Errno::EINVAL),
        };
        let make = Make { rdev: rdev.into(), ..make(request, kind, mode) };
        reply_entry(reply, self.vfs.make(parent.0, name.as_bytes(), make));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        reply_entry(reply, self.vfs.make(parent.0, name.as_bytes(), make(request, Kind::Dir, mode)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        let make = Make { target, ..make(request, Kind::Symlink, 0o777) };
        reply_entry(reply, self.vfs.make(parent.0, name.as_bytes(), make));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.vfs.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.vfs.rmdir(parent.0, name.as_bytes()));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            bits if bits == RenameFlags::RENAME_NOREPLACE.bits() => RenameMode::NoReplace,
            bits if bits == RenameFlags::RENAME_EXCHANGE.bits() => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        if mode == RenameMode::Replace && self.vfs.may_block_rename(parent.0, name.as_bytes()) {
            let (vfs, name, to_name) = (self.vfs.clone(), name.to_owned(), to_name.to_owned());
            self.syncing.run(move || {
                reply_empty(reply, vfs.rename(parent.0, name.as_bytes(), to_parent.0, to_name.as_bytes(), mode));
            });
        } else {
            reply_empty(reply, self.vfs.rename(parent.0, name.as_bytes(), to_parent.0, to_name.as_bytes(), mode));
        }
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.vfs.link(ino.0, parent.0, name.as_bytes()));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, mode, privileged) = (self.vfs.clone(), open_mode(flags.0), privileged(request));
        let open = move || match vfs.open(ino.0, mode, privileged) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(opened)),
            Err(error) => reply.error(errno(&error)),
        };
        if self.vfs.may_block_open(ino.0, mode) { self.fetching.run(open) } else { open() }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.vfs.create(
            parent.0,
            name.as_bytes(),
            make(request, Kind::File, mode),
            open_mode(flags),
            flags & libc::O_EXCL != 0,
            privileged(request),
        );
        match made {
            Ok((attr, opened)) => {
                reply.created(&TTL, &file_attr(&attr), GENERATION, FileHandle(opened.handle), open_flags(opened));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.vfs.may_block(handle.0) {
            let vfs = self.vfs.clone();
            self.fetching.run(move || {
                let read = read(&vfs, handle.0, offset, size, reply);
                vfs.passed(handle.0, offset, read);
            });
        } else {
            read(&self.vfs, handle.0, offset, size, reply);
        }
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.vfs.may_block(handle.0) {
            let (vfs, data) = (self.vfs.clone(), data.to_vec());
            self.fetching.run(move || write(&vfs, handle.0, offset, &data, write_flags, reply));
        } else {
            write(&self.vfs, handle.0, offset, data, write_flags, reply);
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.vfs.release(handle.0);
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.syncing.run(move || reply_empty(reply, vfs.fsync(handle.0)));
    }

    /// Positions in listings need no handle, so the kernel may open directories without asking.
    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.vfs.list(ino.0, offset, false, |entry| {
            !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = self.vfs.list(ino.0, offset, true, |entry| {
            let ttl = entry.attr.as_ref().map_or(TTL, name_ttl);
            let attr = entry.attr.as_ref().map_or_else(nothing, file_attr);
            !reply.add(INodeNo(entry.ino), entry.next, OsStr::from_bytes(entry.name), &ttl, &attr, GENERATION)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        let under_way = self.syncing_dirs.begin(ino.0);
        self.syncing.run(move || {
            reply_empty(reply, vfs.fsync_dir());
            drop(under_way);
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.vfs.statfs() {
            Ok(space) => {
                let blocks = |bytes: u64| bytes / u64::from(BLOCK);
                // Nodes are bounded by space alone: about a block for each.
                let free = blocks(space.available);
                reply.statfs(
                    blocks(space.total),
                    blocks(space.free),
                    free,
                    space.nodes.saturating_add(free),
                    free,
                    BLOCK,
                    255,
                    BLOCK,
                );
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        reply_empty(reply, self.vfs.setxattr(ino.0, name.as_bytes(), value, mode));
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.vfs.getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.vfs.listxattr(ino.0));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.vfs.removexattr(ino.0, name.as_bytes()));
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Not asked with `default_permissions`.
        reply.ok();
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (vfs, privileged) = (self.vfs.clone(), privileged(request));
        let allocate = move || vfs.allocate(handle.0, mode as u32, offset, length, privileged);
        if self.vfs.may_block(handle.0) {
            self.fetching.run(move || reply_empty(reply, allocate()));
        } else {
            reply_empty(reply, allocate());
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.vfs.seek(handle.0, offset, data) {
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from_ino: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_ino: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (vfs, privileged) = (self.vfs.clone(), privileged(request));
        let copy = move || match vfs.copy((from.0, from_offset), (to.0, to_offset), len, privileged) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(errno(&error)),
        };
        if self.vfs.may_block(from.0) || self.vfs.may_block(to.0) {
            self.fetching.run(copy)
        } else {
            self.syncing.run(copy)
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // Files are always ready; the kernel knows that by itself and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _request: &Request, _ino: INodeNo, _blocksize: u32, _block: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
