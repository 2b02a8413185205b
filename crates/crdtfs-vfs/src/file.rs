//! Open files: handles, reading and writing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crdtfs_core::node::{Kind, Node, Shown};
use crdtfs_core::port::RESERVE;
use parking_lot::Mutex;

use crate::attr::Attr;
use crate::coherence::Invalidation;
use crate::error::{Error, Result};
use crate::inodes::{Inode, State};
use crate::publish::MEMORY_LIMIT;
use crate::version::{Changed, OFFSET_MAX, Version, with_room};
use crate::vfs::Vfs;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// It may be read.
    pub read: bool,
    /// It may be written.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// It is emptied first.
    pub truncate: bool,
}

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub handle: u64,
    /// Pages that a cache has of this inode are still right.
    pub keep_cache: bool,
    /// Pages of this inode must not be cached through this handle: other handles see another version.
    pub bypass_cache: bool,
}

/// One open file.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) version: Arc<Version>,
    mode: OpenMode,
    forward: Mutex<Forward>,
}

/// What a reader that goes forward has read and a cache still has.
#[derive(Debug, Default)]
struct Forward {
    from: u64,
    to: u64,
}

/// What a cache keeps behind such a reader, in bytes: more than it reads ahead.
const KEPT_BEHIND: u64 = 8 << 20;
/// Dropped at once.
const DROP_STEP: u64 = 4 << 20;

impl Forward {
    /// Notes a read; what may go now, as offset and length.
    fn read(&mut self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset + len;
        if offset > self.to + KEPT_BEHIND || end + KEPT_BEHIND < self.from {
            // It went on somewhere else.
            (self.from, self.to) = (offset, end);
        }
        self.to = self.to.max(end);
        let behind = self.to.saturating_sub(KEPT_BEHIND).checked_sub(self.from).filter(|len| *len >= DROP_STEP)?;
        let from = std::mem::replace(&mut self.from, self.to - KEPT_BEHIND);
        Some((from, behind))
    }
}

/// How long a reader waits for a merge: longer than it takes to ask a second member for what a first one does not send.
const MERGE_PATIENCE: Duration = Duration::from_secs(1);

/// Copied at a time between files.
const COPY_STEP: usize = 1 << 20;
/// Copied at most in one call.
const COPY_MAX: u64 = 64 << 20;

impl Vfs {
    /// Opens a file. `privileged` callers keep suid and sgid bits on truncation.
    pub fn open(&self, ino: u64, mode: OpenMode, privileged: bool) -> Result<Opened> {
        let inode = self.inode(ino)?;
        let node = self.node(&inode)?;
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(Error::IsDir),
            _ => return Err(Error::Invalid),
        }
        if mode.write || mode.truncate {
            self.check_writable()?;
        }
        if self.waits_for_merge(&inode, &node, mode) {
            let until = Instant::now() + MERGE_PATIENCE;
            self.tree.await_merge(inode.id, MERGE_PATIENCE);
            // A cache that still has the old length would cut the new bytes off.
            self.is_seen(until);
        }
        let opened = self.open_node(&inode, mode)?;
        if mode.truncate {
            let handle = self.handle(opened.handle)?;
            if let Err(error) = self.truncate(&handle.inode, &handle.version, 0, privileged) {
                self.release(opened.handle);
                return Err(error);
            }
        }
        Ok(opened)
    }

    /// Whether [`Vfs::open`] may wait for bytes from another device.
    pub fn may_block_open(&self, ino: u64, mode: OpenMode) -> bool {
        let Ok(inode) = self.inode(ino) else { return false };
        self.node(&inode).is_ok_and(|node| self.waits_for_merge(&inode, &node, mode))
    }

    /// Whether a file is opened to be read while one of its versions is shown alone, since bytes that it is to be merged with are
    /// on their way. What somebody has open for writing is read as they write it.
    fn waits_for_merge(&self, inode: &Inode, node: &Node, mode: OpenMode) -> bool {
        let pinned = || inode.state.lock().current.as_ref().is_some_and(|version| version.body.lock().pinned());
        node.shown == Shown::Pending && mode.read && !mode.truncate && !pinned()
    }

    /// Opens the version that is shown, or joins the one that is being written.
    pub(crate) fn open_node(&self, inode: &Arc<Inode>, mode: OpenMode) -> Result<Opened> {
        let mut state = inode.state.lock();
        let node = self.node_in(inode, &state)?;
        let via = mode.write.then(|| self.via(&state, &node)).flatten();
        let version = self.current(&mut state, &node);
        {
            let mut body = version.body.lock();
            body.handles += 1;
            if mode.write {
                body.writers += 1;
                if via.is_some() {
                    body.via = via;
                }
            }
        }
        state.open += 1;
        if state.last.is_none() {
            state.last = Some(Box::new(node));
        }
        let bypass_cache = state.stale + state.foreign > 0;
        let keep_cache = state.cached_current && !bypass_cache;
        state.cached_current = !bypass_cache;
        drop(state);
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles
            .write()
            .insert(handle, Arc::new(Handle { inode: inode.clone(), version, mode, forward: Mutex::default() }));
        Ok(Opened { handle, keep_cache, bypass_cache })
    }

    /// The name that a file is written through.
    fn via(&self, state: &State, node: &Node) -> Option<(crdtfs_core::id::InodeId, crdtfs_core::name::Name)> {
        if node.nlink > 1
            && let Some(via) = state.via.as_deref()
        {
            return Some(via.clone());
        }
        self.tree.names(node.inode).into_iter().next()
    }

    /// The version that opens of now see.
    fn current(&self, state: &mut State, node: &Node) -> Arc<Version> {
        if let Some(version) = &state.current {
            let mut body = version.body.lock();
            // A file that was removed and is there again (edited elsewhere, or made anew under its name) is not what those
            // have who still have the removed one open.
            let back = body.dead && self.tree.node(node.inode).is_some();
            if !back && (body.pinned() || body.dead) {
                drop(body);
                return version.clone();
            }
            if !back && body.content == node.content {
                // The same bytes, perhaps settled by somebody else meanwhile.
                body.basis = node.basis.clone();
                drop(body);
                return version.clone();
            }
            state.stale += body.handles;
            state.cached = None;
            state.cached_current = false;
        } else {
            state.cached_current = state.cached == Some(node.content);
        }
        let version = Arc::new(Version::new(node.content, node.basis.clone(), node.mtime));
        state.current = Some(version.clone());
        version
    }

    pub(crate) fn handle(&self, handle: u64) -> Result<Arc<Handle>> {
        self.handles.read().get(&handle).cloned().ok_or(Error::BadHandle)
    }

    fn writable_handle(&self, handle: u64) -> Result<Arc<Handle>> {
        self.check_taken()?;
        self.handle(handle).and_then(|handle| if handle.mode.write { Ok(handle) } else { Err(Error::BadHandle) })
    }

    /// Whether a read or a first write through this handle has to wait for bytes from another device.
    pub fn may_block(&self, handle: u64) -> bool {
        self.handle(handle).is_ok_and(|handle| handle.version.must_fetch(&*self.content))
    }

    /// Whether cutting or extending this inode has to wait for bytes from another device.
    pub fn may_block_truncate(&self, ino: u64) -> bool {
        let Ok(inode) = self.inode(ino) else { return false };
        let Ok(node) = self.node(&inode) else { return false };
        let current = inode.state.lock().current.clone();
        match current {
            Some(version) => version.must_fetch(&*self.content),
            None => node.content.size > 0 && !self.content.is_local(&node.content),
        }
    }

    /// Fills `buf` from `offset`; short only at the end.
    pub fn read(&self, handle: u64, buf: &mut [u8], offset: u64) -> Result<usize> {
        let handle = self.handle(handle)?;
        if !handle.mode.read {
            return Err(Error::BadHandle);
        }
        Ok(handle.version.read(&*self.content, buf, offset)?)
    }

    /// So many bytes were read through a handle while they came from another device. What a reader that goes forward has left
    /// behind does not stay in a cache: the store has the bytes by then, and twice in memory they would take the room of others.
    pub fn passed(&self, handle: u64, offset: u64, len: usize) {
        let (Some(sink), Ok(handle)) = (self.sink.get(), self.handle(handle)) else { return };
        let behind = handle.forward.lock().read(offset, len as u64);
        if let Some((from, len)) = behind {
            sink.invalidate(vec![Invalidation::Pages { ino: handle.inode.ino, from, len }]);
        }
    }

    /// Writes all of `bytes` at `offset` (at the end, if opened so). `drop_privileges` clears suid and sgid.
    pub fn write(&self, handle: u64, bytes: &[u8], offset: u64, drop_privileges: bool) -> Result<()> {
        let handle = self.writable_handle(handle)?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > OFFSET_MAX) {
            return Err(Error::FileTooLarge);
        }
        self.reserve(bytes.len() as u64)?;
        if drop_privileges {
            self.clear_privileges(&self.home(&handle.inode))?;
        }
        let at = (!handle.mode.append).then_some(offset);
        let changed = handle.version.write(&*self.content, bytes, at)?;
        self.note_change(&handle.inode, &handle.version, changed);
        Ok(())
    }

    /// Cuts or extends a version.
    pub(crate) fn truncate(
        &self,
        inode: &Arc<Inode>,
        version: &Arc<Version>,
        size: u64,
        privileged: bool,
    ) -> Result<()> {
        if size > OFFSET_MAX {
            return Err(Error::FileTooLarge);
        }
        if !privileged {
            self.clear_privileges(inode)?;
        }
        let changed = version.set_len(&*self.content, size)?;
        self.note_change(inode, version, changed);
        Ok(())
    }

    /// Cuts or extends a file that need not be open.
    pub(crate) fn truncate_inode(&self, inode: &Arc<Inode>, size: u64, privileged: bool) -> Result<()> {
        let opened = self.open_node(inode, OpenMode { write: true, ..OpenMode::default() })?;
        let handle = self.handle(opened.handle)?;
        let result = self.truncate(inode, &handle.version, size, privileged);
        self.release(opened.handle);
        result
    }

    fn note_change(&self, inode: &Arc<Inode>, version: &Arc<Version>, changed: Changed) {
        if changed.memory != 0 {
            self.memory.fetch_add(changed.memory, Ordering::Relaxed);
        }
        if changed.first {
            self.schedule_idle(inode, version);
        }
        let home = self.home(inode);
        if home.id != inode.id {
            self.invalidate_inode(home.id, true);
        }
        if self.memory.load(Ordering::Relaxed) > MEMORY_LIMIT {
            self.publish_oldest();
        }
    }

    /// Space for bytes that go into memory first: they are refused while there would be no room for them on disk.
    fn reserve(&self, bytes: u64) -> Result<()> {
        let bytes = bytes as i64;
        if self.allowance.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
            return Ok(());
        }
        const STEP: i64 = 4 << 20;
        let room = || {
            let Ok(stat) = rustix::fs::statvfs(&self.options.state) else { return Ok(None) };
            let available = i64::try_from(stat.f_bavail.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
            let left = available - self.memory.load(Ordering::Relaxed) as i64 - RESERVE as i64;
            if left >= bytes { Ok(Some(left)) } else { Err(io::ErrorKind::StorageFull.into()) }
        };
        let left = match with_room(&*self.content, room) {
            Ok(Some(left)) => left,
            Ok(None) => return Ok(()),
            Err(_) => {
                self.allowance.store(0, Ordering::Relaxed);
                return Err(Error::NoSpace);
            }
        };
        self.allowance.store((left / 2).min(STEP) - bytes.min(STEP), Ordering::Relaxed);
        Ok(())
    }

    /// Preallocates, punches or zeroes, `mode` being Linux's flags.
    pub fn allocate(&self, handle: u64, mode: u32, offset: u64, len: u64, privileged: bool) -> Result<()> {
        let handle = self.writable_handle(handle)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        if offset.checked_add(len).is_none_or(|end| end > OFFSET_MAX) {
            return Err(Error::FileTooLarge);
        }
        if !privileged {
            self.clear_privileges(&self.home(&handle.inode))?;
        }
        match handle.version.allocate(&*self.content, mode, offset, len) {
            Ok(changed) => {
                self.note_change(&handle.inode, &handle.version, changed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(Error::Unsupported),
            Err(error) => Err(error.into()),
        }
    }

    /// The next data or hole at or after `offset`.
    pub fn seek(&self, handle: u64, offset: u64, data: bool) -> Result<u64> {
        self.handle(handle)?.version.seek(&*self.content, offset, data)?.ok_or(Error::PastEnd)
    }

    /// Copies within or between open files; the number of bytes copied, fewer than asked for where the source ends or
    /// the call would take long.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), len: u64, privileged: bool) -> Result<u64> {
        let source = self.handle(from.0)?;
        let target = self.writable_handle(to.0)?;
        if !source.mode.read || target.mode.append {
            return Err(Error::BadHandle);
        }
        let len = len.min(COPY_MAX);
        let overlap = from.1 < to.1.saturating_add(len) && to.1 < from.1.saturating_add(len);
        if Arc::ptr_eq(&source.version, &target.version) && overlap {
            return Err(Error::Invalid);
        }
        let mut buf = vec![0; COPY_STEP.min(len as usize)];
        let mut done = 0;
        while done < len {
            let step = buf.len().min((len - done) as usize);
            let read = match source.version.read(&*self.content, &mut buf[..step], from.1 + done) {
                Ok(read) => read,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            };
            if read == 0 {
                break;
            }
            match self.write(to.0, &buf[..read], to.1 + done, !privileged) {
                Ok(()) => done += read as u64,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Closes a handle. What was written is published soon, if this was the last writer.
    pub fn release(&self, handle: u64) {
        let Some(handle) = self.handles.write().remove(&handle) else { return };
        let Handle { inode: opened, version, mode, .. } = &*handle;
        let mut discarded = None;
        let mut inode = self.home(opened);
        {
            let mut state = inode.state.lock();
            while state.merged.is_some() {
                drop(state);
                inode = self.home(opened);
                state = inode.state.lock();
            }
            state.open = state.open.saturating_sub(1);
            if inode.id != opened.id {
                state.foreign = state.foreign.saturating_sub(1);
            }
            let is_current = state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, version));
            let mut body = version.body.lock();
            body.handles -= 1;
            if mode.write {
                body.writers -= 1;
            }
            if body.writers == 0 && body.dirty() && !body.dead {
                self.schedule(&inode, version, &mut body, Instant::now());
            }
            let idle = body.handles == 0 && !body.pinned();
            let (dead, content) = (body.dead, body.content);
            if idle || (body.handles == 0 && dead) {
                discarded = body.clean();
                self.memory.fetch_add(body.account(), Ordering::Relaxed);
            }
            drop(body);
            if !is_current {
                state.stale = state.stale.saturating_sub(1);
                state.cached = None;
                state.cached_current = false;
            } else if idle || (dead && state.open == 0) {
                state.cached = state.cached_current.then_some(content);
                state.current = None;
            }
            if state.open == 0 {
                state.last = None;
            }
        }
        if let Some(file) = discarded {
            self.content.discard(file);
        }
        self.inodes.sweep(&inode);
        self.inodes.sweep(opened);
        if self.memory.load(Ordering::Relaxed) > MEMORY_LIMIT {
            self.publish_oldest();
        }
    }

    /// What `stat` tells of an open file.
    pub fn getattr_handle(&self, handle: u64) -> Result<Attr> {
        let handle = self.handle(handle)?;
        let mut attr = self.attr(&self.home(&handle.inode))?;
        let (size, mtime) = handle.version.shown();
        if attr.size != size {
            (attr.size, attr.allocated) = (size, size);
        }
        attr.mtime = mtime.unwrap_or(attr.mtime);
        Ok(attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_lies_well_behind_a_reader_goes_once() {
        let mut forward = Forward::default();
        // Requests of one reader overtake each other.
        let order = (0..64).step_by(2).flat_map(|n| [n + 1, n]);
        let dropped: Vec<_> = order.filter_map(|n| forward.read(n * MIB, MIB)).collect();
        assert_eq!(dropped.first(), Some(&(0, 4 * MIB)));
        assert!(dropped.windows(2).all(|two| two[0].0 + two[0].1 == two[1].0), "{dropped:?}");
        assert_eq!(dropped.iter().map(|(_, len)| len).sum::<u64>(), 56 * MIB);
    }

    #[test]
    fn who_jumps_about_keeps_what_was_read() {
        let mut forward = Forward::default();
        for n in 0..100_u64 {
            assert_eq!(forward.read(n * 7919 % 100 * 64 * MIB, MIB), None);
        }
        let whole = (0..32).filter_map(|n| forward.read((1000 + n) * MIB, MIB)).next();
        assert_eq!(whole, Some((1000 * MIB, 4 * MIB)), "where it went on");
    }
}
