//! One version of a file's bytes as the handles that opened it see it: the content of the tree, and over it what was
//! written here and is not published yet.
//!
//! Small files are written in memory, larger ones through a write file of the store. What is in memory is lost in a
//! crash unless it was synced; what a write file holds is too, unless it was synced (the store gives it back then).

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Time};
use crdtfs_core::port::{Content, Reader, WriteFile};
use parking_lot::{Mutex, RwLock};

use crate::attr::now;

/// Files up to this many bytes are written in memory.
pub(crate) const MEMORY_MAX: u64 = 128 * 1024;

/// The largest file offset (`loff_t`).
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64;

/// Where the bytes are.
pub(crate) enum Data {
    /// In [`Body::content`].
    Clean,
    /// Here.
    Memory(Vec<u8>),
    /// In a write file.
    File(Arc<dyn WriteFile>),
}

/// What changes about a version.
pub(crate) struct Body {
    /// The content opened, then the one last sealed.
    pub(crate) content: ContentRef,
    /// The versions that an edit settles.
    pub(crate) basis: Basis,
    /// The conflict copy that what was published became while it was being written: what is written further goes there.
    pub(crate) beside: Option<InodeId>,
    /// The bytes.
    pub(crate) data: Data,
    reader: Option<Arc<dyn Reader>>,
    /// Modification time of the bytes; counts while there is something unpublished.
    pub(crate) mtime: Time,
    /// Counts changes; what is published has the number in `sealed`.
    pub(crate) generation: u64,
    /// Generation of the last publication.
    pub(crate) sealed: u64,
    /// Open handles.
    pub(crate) handles: u32,
    /// Those among them that may write.
    pub(crate) writers: u32,
    /// The last name went here: nothing of it is to be published.
    pub(crate) dead: bool,
    /// The name it is written through.
    pub(crate) via: Option<(InodeId, Name)>,
    /// When it last changed, and when it first changed since it was last published.
    pub(crate) changed: (Instant, Instant),
    /// When it was last published, and how long that took.
    pub(crate) published: Option<(Instant, std::time::Duration)>,
    /// Key in the queue of what is to be published.
    pub(crate) queued: Option<(Instant, u64)>,
    /// Whether the write file was synced with a note, which has to be kept up to date.
    pub(crate) noted: bool,
    /// Whether it comes from an earlier life, which may have published it already.
    pub(crate) recovered: bool,
    /// Whether somebody waits for its publication, so that it is due though it is written on.
    pub(crate) awaited: bool,
    /// How often it could not be published.
    pub(crate) failures: u32,
    accounted: isize,
}

impl Body {
    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.data {
            Data::Clean => self.content.size,
            Data::Memory(bytes) => bytes.len() as u64,
            Data::File(file) => file.size(),
        }
    }

    /// Whether there is something to publish.
    pub(crate) fn dirty(&self) -> bool {
        self.generation != self.sealed
    }

    /// Whether opens join this version even if the tree shows another one by now.
    pub(crate) fn pinned(&self) -> bool {
        self.writers > 0 || self.dirty()
    }

    /// Growth, since the last call, of what is held in memory, in bytes.
    pub(crate) fn account(&mut self) -> isize {
        let held = match &self.data {
            Data::Memory(bytes) => bytes.len() as isize,
            Data::Clean | Data::File(_) => 0,
        };
        held - std::mem::replace(&mut self.accounted, held)
    }

    /// Goes back to reading the content; the write file, if there was one, is for the caller to discard.
    pub(crate) fn clean(&mut self) -> Option<Arc<dyn WriteFile>> {
        self.noted = false;
        self.reader = None;
        match std::mem::replace(&mut self.data, Data::Clean) {
            Data::File(file) => Some(file),
            Data::Clean | Data::Memory(_) => None,
        }
    }

    /// Reads the content, as long as nothing is written over it.
    fn reader(&mut self, content: &dyn Content) -> io::Result<Arc<dyn Reader>> {
        match &self.reader {
            Some(reader) => Ok(reader.clone()),
            None => Ok(self.reader.insert(content.open(&self.content)?).clone()),
        }
    }

    fn change(&mut self) -> Changed {
        Changed { first: self.changed_now(true), memory: self.account() }
    }

    fn changed_now(&mut self, mtime: bool) -> bool {
        let first = !self.dirty();
        self.generation += 1;
        if mtime {
            self.mtime = now();
        }
        let at = Instant::now();
        self.changed = (at, if first { at } else { self.changed.1 });
        first
    }
}

/// What a change of the bytes did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changed {
    /// There was nothing to publish before.
    pub(crate) first: bool,
    /// Growth of what is held in memory, in bytes.
    pub(crate) memory: isize,
}

/// One version.
pub(crate) struct Version {
    pub(crate) body: Mutex<Body>,
    /// Held shared while a write file is written, alone until it is fixed what is sealed, so that it is one state.
    pub(crate) writing: RwLock<()>,
    /// Held while the version is published: one publication at a time.
    pub(crate) publishing: Mutex<()>,
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Version").finish_non_exhaustive()
    }
}

impl Version {
    pub(crate) fn new(content: ContentRef, basis: Basis, mtime: Time) -> Self {
        let at = Instant::now();
        Self {
            body: Mutex::new(Body {
                content,
                basis,
                beside: None,
                data: Data::Clean,
                reader: None,
                mtime,
                generation: 0,
                sealed: 0,
                handles: 0,
                writers: 0,
                dead: false,
                via: None,
                changed: (at, at),
                published: None,
                queued: None,
                noted: false,
                recovered: false,
                awaited: false,
                failures: 0,
                accounted: 0,
            }),
            writing: RwLock::new(()),
            publishing: Mutex::new(()),
        }
    }

    /// What an earlier life wrote and synced and did not publish.
    pub(crate) fn recovered(file: Arc<dyn WriteFile>, basis: Basis, mtime: Time, via: Option<(InodeId, Name)>) -> Self {
        let version = Self::new(ContentRef::empty(), basis, mtime);
        {
            let mut body = version.body.lock();
            body.data = Data::File(file);
            body.generation = 1;
            (body.noted, body.recovered) = (true, true);
            body.via = via;
        }
        version
    }

    /// Size, and the modification time if it is the version's own.
    pub(crate) fn shown(&self) -> (u64, Option<Time>) {
        let body = self.body.lock();
        (body.size(), body.dirty().then_some(body.mtime))
    }

    /// Whether a read or a first write has to wait for bytes from elsewhere.
    pub(crate) fn must_fetch(&self, content: &dyn Content) -> bool {
        let body = self.body.lock();
        match &body.data {
            Data::Clean => body.content.size > 0 && !content.is_local(&body.content),
            Data::Memory(_) | Data::File(_) => false,
        }
    }

    /// Fills `buf` from `offset`; short only at the end.
    pub(crate) fn read(&self, content: &dyn Content, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        enum Source {
            Reader(Arc<dyn Reader>),
            File(Arc<dyn WriteFile>),
        }
        let source = {
            let mut body = self.body.lock();
            match &body.data {
                Data::Memory(bytes) => return Ok(copy_out(bytes, buf, offset)),
                Data::File(file) => Source::File(file.clone()),
                Data::Clean if body.content.size <= offset => return Ok(0),
                Data::Clean => Source::Reader(body.reader(content)?),
            }
        };
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let read = match &source {
                Source::Reader(reader) => reader.read_at(&mut buf[done..], at)?,
                Source::File(file) => file.read_at(&mut buf[done..], at)?,
            };
            if read == 0 {
                break;
            }
            done += read;
        }
        Ok(done)
    }

    /// Writes all of `bytes` at `offset`, or at the end.
    pub(crate) fn write(&self, content: &dyn Content, bytes: &[u8], offset: Option<u64>) -> io::Result<Changed> {
        let _shared = self.writing.read();
        loop {
            self.make_writable(content)?;
            let mut body = self.body.lock();
            let at = offset.unwrap_or_else(|| body.size());
            let end = at + bytes.len() as u64;
            if end > MEMORY_MAX {
                body.spill(content)?;
            }
            match &mut body.data {
                Data::Clean => {}
                Data::Memory(held) => {
                    let (at, end) = (at as usize, end as usize);
                    if held.len() < end {
                        held.resize(at, 0);
                        held.extend_from_slice(bytes);
                    } else {
                        held[at..end].copy_from_slice(bytes);
                    }
                    return Ok(body.change());
                }
                Data::File(file) => {
                    let file = file.clone();
                    if offset.is_none() {
                        // Appends go one after the other, so that none overwrites another.
                        write_all(content, &*file, bytes, at)?;
                    } else {
                        drop(body);
                        write_all(content, &*file, bytes, at)?;
                        body = self.body.lock();
                    }
                    return Ok(body.change());
                }
            }
        }
    }

    /// Cuts or extends to `size`.
    pub(crate) fn set_len(&self, content: &dyn Content, size: u64) -> io::Result<Changed> {
        let _shared = self.writing.read();
        loop {
            if size > 0 {
                self.make_writable(content)?;
            }
            let mut body = self.body.lock();
            if size == 0 && matches!(body.data, Data::Clean) {
                body.data = Data::Memory(Vec::new());
            }
            if size > MEMORY_MAX {
                body.spill(content)?;
            }
            match &mut body.data {
                Data::Clean => continue,
                Data::Memory(bytes) => bytes.resize(size as usize, 0),
                Data::File(file) => file.set_len(size)?,
            }
            return Ok(body.change());
        }
    }

    /// As `fallocate` with Linux's flags.
    pub(crate) fn allocate(&self, content: &dyn Content, mode: u32, offset: u64, len: u64) -> io::Result<Changed> {
        let _shared = self.writing.read();
        loop {
            self.make_writable(content)?;
            let mut body = self.body.lock();
            if offset + len > MEMORY_MAX && mode & FALLOC_KEEP_SIZE == 0 {
                body.spill(content)?;
            }
            match &mut body.data {
                Data::Clean => continue,
                Data::Memory(bytes) => allocate_in_memory(bytes, mode, offset, len)?,
                Data::File(file) => with_room(content, || file.allocate(mode, offset, len))?,
            }
            return Ok(body.change());
        }
    }

    /// Sets the modification time, to be published with the bytes; false if there is nothing to publish.
    pub(crate) fn set_mtime(&self, mtime: Time) -> bool {
        let mut body = self.body.lock();
        if !body.dirty() {
            return false;
        }
        body.mtime = mtime;
        body.changed_now(false);
        true
    }

    /// The next data or hole at or after `offset`.
    pub(crate) fn seek(&self, content: &dyn Content, offset: u64, data: bool) -> io::Result<Option<u64>> {
        let mut body = self.body.lock();
        let size = body.size();
        match &body.data {
            _ if offset >= size => Ok(None),
            Data::Memory(_) => Ok(Some(if data { offset } else { size })),
            Data::File(file) => {
                let file = file.clone();
                drop(body);
                file.seek(offset, data)
            }
            Data::Clean => {
                let reader = body.reader(content)?;
                drop(body);
                reader.seek(offset, data)
            }
        }
    }

    /// Makes the bytes writable: a copy in memory, or a write file over the content.
    pub(crate) fn make_writable(&self, content: &dyn Content) -> io::Result<()> {
        let base = {
            let body = self.body.lock();
            if !matches!(body.data, Data::Clean) {
                return Ok(());
            }
            body.content
        };
        // Without the lock: this may wait for a fetch, and `stat` must not.
        let data = if base.size > MEMORY_MAX {
            Data::File(with_room(content, || content.write_file(Some(&base)))?)
        } else {
            let mut bytes = vec![0; base.size as usize];
            let read = self.read(content, &mut bytes, 0)?;
            if read != bytes.len() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a content is shorter than its record says"));
            }
            Data::Memory(bytes)
        };
        let mut body = self.body.lock();
        if matches!(body.data, Data::Clean) && body.content == base {
            body.data = data;
        } else if let Data::File(file) = data {
            drop(body);
            content.discard(file);
        }
        Ok(())
    }

    /// Puts what is in memory into a write file, so that it can be synced without being published.
    pub(crate) fn spill(&self, content: &dyn Content) -> io::Result<isize> {
        let mut body = self.body.lock();
        body.spill(content)?;
        Ok(body.account())
    }
}

impl Body {
    pub(crate) fn spill(&mut self, content: &dyn Content) -> io::Result<()> {
        if let Data::Memory(bytes) = &self.data {
            let file = with_room(content, || content.write_file(None))?;
            write_all(content, &*file, bytes, 0)?;
            self.data = Data::File(file);
        }
        Ok(())
    }
}

const FALLOC_KEEP_SIZE: u32 = 0x01;
const FALLOC_PUNCH_HOLE: u32 = 0x02;
const FALLOC_ZERO_RANGE: u32 = 0x10;

fn allocate_in_memory(bytes: &mut Vec<u8>, mode: u32, offset: u64, len: u64) -> io::Result<()> {
    if mode & !(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let end = offset + len;
    if mode & FALLOC_KEEP_SIZE == 0 && end > bytes.len() as u64 {
        bytes.resize(end as usize, 0);
    }
    if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) != 0 {
        let size = bytes.len() as u64;
        bytes[offset.min(size) as usize..end.min(size) as usize].fill(0);
    }
    Ok(())
}

fn copy_out(bytes: &[u8], buf: &mut [u8], offset: u64) -> usize {
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)) else { return 0 };
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}

/// Does what may not fit, and again as long as room can be made for it.
pub(crate) fn with_room<T>(content: &dyn Content, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && content.make_room() => {}
            outcome => return outcome,
        }
    }
}

fn write_all(content: &dyn Content, file: &dyn WriteFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match with_room(content, || file.write_at(&bytes[done..], offset + done as u64))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done += written,
        }
    }
    Ok(())
}
