//! Files that are being filled with a content, chunk by chunk, in any order, by several threads.
//!
//! A [`Filling`] is a container at once: what is verified and written can be read and served before the rest is there.
//! Nothing of it is in redb or in the packs until it is whole; after a crash the file is looked into again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;
use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_getfl};

use crate::chunker::MAX_CHUNK;
use crate::error::StoreError;
use crate::fetch::not_the_content;
use crate::index::{Key, Place, key};
use crate::layer::seek_file;
use crate::manifest;
use crate::object::OBJECT_FROM;
use crate::store::{ChunkSpan, Inner};
use crate::zeros::{self, ZEROS, is_zeros};

/// Bytes of the blocks in which a file's size on disk is told (stat(3type)).
const BLOCK: u64 = 512;

/// The files that are being filled now.
#[derive(Debug, Default)]
pub(crate) struct Fillings {
    files: Mutex<HashMap<u32, Arc<File>>>,
    /// Objects, by content: all who want one fill the same.
    objects: Mutex<HashMap<Key, Arc<Filling>>>,
}

/// What filesystems leave out of a file: blocks of so many bytes.
const SPARSE_BLOCK: usize = 4096;

impl Fillings {
    pub(crate) fn file(&self, id: u32) -> Option<Arc<File>> {
        self.files.lock().get(&id).cloned()
    }

    /// Whether an object is being filled with this content; does not wait for one that is being begun.
    pub(crate) fn is_known(&self, content: &ContentRef) -> bool {
        self.objects.try_lock().is_some_and(|objects| objects.contains_key(&key(&content.hash)))
    }
}

/// One file on its way to hold a content.
#[derive(Debug)]
pub(crate) struct Filling {
    pub(crate) id: u32,
    pub(crate) content: ContentRef,
    pub(crate) spans: Vec<ChunkSpan>,
    write: Arc<File>,
    read: Arc<File>,
    /// Held while a chunk is written: the kernel writes to one file for one thread at a time, and the others would spin.
    writing: Mutex<()>,
    state: Mutex<State>,
    /// Runs after the chunks, in order, so that the whole hash is known as soon as the last chunk is there.
    whole: Mutex<Whole>,
}

#[derive(Debug)]
struct State {
    done: Vec<bool>,
    left: usize,
    /// Whether it is the object or the folder's file by now.
    finished: bool,
}

#[derive(Debug)]
struct Whole {
    hasher: blake3::Hasher,
    next: usize,
}

impl Filling {
    /// Begins to fill `file`; good chunks that it has already are taken as they are.
    pub(crate) fn begin(inner: &Inner, content: &ContentRef, spans: Vec<ChunkSpan>, file: &File) -> io::Result<Self> {
        let write = Arc::new(file.try_clone()?);
        let read = if fcntl_getfl(file)?.contains(OFlags::RDWR) { write.clone() } else { Arc::new(reopen(file)?) };
        let len = file.metadata()?.len();
        if len != content.size {
            // Holes stay holes: what is not written reads as zeros and takes no room.
            file.set_len(content.size)?;
        }
        let id = inner.fresh_id();
        let state = State { done: vec![false; spans.len()], left: spans.len(), finished: false };
        let whole = Whole { hasher: blake3::Hasher::new(), next: 0 };
        let content = *content;
        let (writing, state, whole) = (Mutex::default(), Mutex::new(state), Mutex::new(whole));
        let filling = Self { id, content, spans, write, read, writing, state, whole };
        inner.index.write().begin_filling(id);
        inner.fillings.files.lock().insert(id, filling.read.clone());
        if len > 0 {
            filling.look(inner, len)?;
        }
        Ok(filling)
    }

    /// Finds the chunks that a file has from an interrupted fetch.
    fn look(&self, inner: &Inner, len: u64) -> io::Result<()> {
        let mut data = None;
        for (at, span) in self.spans.iter().enumerate() {
            if span.offset >= len {
                break;
            }
            // The next place that is no hole; a chunk of zeros is found when it is "fetched" from nowhere.
            if data.is_none_or(|data| data < span.offset) {
                data = self.data_from(span.offset);
            }
            let Some(data) = data else { break };
            if data >= span.offset + u64::from(span.len) {
                continue;
            }
            let mut bytes = vec![0; span.len as usize];
            if self.read.read_exact_at(&mut bytes, span.offset).is_ok() && Hash::of(&bytes) == span.hash {
                self.enter(inner, at);
                self.hash_with(at, &bytes)?;
            }
        }
        Ok(())
    }

    /// The chunks that lack, as indexes into `spans`.
    pub(crate) fn lacking(&self) -> Vec<usize> {
        let state = self.state.lock();
        state.done.iter().enumerate().filter(|(_, done)| !**done).map(|(at, _)| at).collect()
    }

    /// Whether a chunk is in the file.
    pub(crate) fn has(&self, at: usize) -> bool {
        self.state.lock().done[at]
    }

    /// Writes a verified chunk at its place.
    pub(crate) fn write(&self, inner: &Inner, at: usize, bytes: &[u8]) -> io::Result<()> {
        {
            let _turn = self.writing.lock();
            // What a fetch brought for somebody who waits comes to the one behind it, too.
            if self.has(at) {
                return Ok(());
            }
            let span = &self.spans[at];
            if is_zeros(span) {
                self.clear(span.offset, span.offset + u64::from(span.len))?;
            } else {
                for (offset, run, zeros) in runs(span.offset, bytes) {
                    if zeros {
                        self.clear(offset, offset + run.len() as u64)?;
                    } else {
                        self.write.write_all_at(run, offset)?;
                    }
                }
            }
            self.enter(inner, at);
        }
        self.hash_with(at, bytes)
    }

    /// The next place that is no hole; where the filesystem does not tell, any is none.
    fn data_from(&self, at: u64) -> Option<u64> {
        seek_file(&self.read, at, true).unwrap_or(Some(at))
    }

    /// Makes zeros of what lies between two offsets. The file has its length, so they are there already, unless a torn earlier try
    /// left something: where there is no hole (chunks begin anywhere in a block, and one with bytes makes all of its first and last
    /// block data) is looked before anything is written, or one such chunk would make data of all zeros behind it.
    fn clear(&self, from: u64, end: u64) -> io::Result<()> {
        let mut at = from;
        while at < end {
            let Some(data) = self.data_from(at).filter(|data| *data < end) else { break };
            let hole = seek_file(&self.read, data, false).ok().flatten().map_or(end, |hole| hole.min(end));
            let mut bytes = vec![0; (hole - data).min(MAX_CHUNK as u64) as usize];
            self.read.read_exact_at(&mut bytes, data)?;
            if !is_zero(&bytes) {
                self.write.write_all_at(&ZEROS[..bytes.len()], data)?;
            }
            at = data + bytes.len() as u64;
        }
        Ok(())
    }

    /// A chunk is in the file.
    fn enter(&self, inner: &Inner, at: usize) {
        let span = &self.spans[at];
        inner.index.write().add(key(&span.hash), Place::new(self.id, span.offset, span.len));
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.done[at], true) {
            state.left -= 1;
        }
    }

    /// Goes on with the hash of the whole, unless somebody else does.
    fn hash_with(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        if let Some(mut whole) = self.whole.try_lock() {
            if whole.next == at {
                whole.hasher.update(bytes);
                whole.next += 1;
            }
            self.hash_on(&mut whole)?;
        }
        Ok(())
    }

    /// Hashes the chunks that are there from where the hash of the whole stands.
    fn hash_on(&self, whole: &mut Whole) -> io::Result<()> {
        let mut bytes = Vec::new();
        while whole.next < self.spans.len() && self.has(whole.next) {
            let span = &self.spans[whole.next];
            if is_zeros(span) {
                // It is there, so it is that.
                whole.hasher.update(&ZEROS);
            } else {
                bytes.resize(span.len as usize, 0);
                self.read.read_exact_at(&mut bytes, span.offset)?;
                whole.hasher.update(&bytes);
            }
            whole.next += 1;
        }
        Ok(())
    }

    /// If all chunks are there: whether they are the content. True once; the caller makes it what it is to be.
    pub(crate) fn finish(&self) -> io::Result<bool> {
        {
            let mut state = self.state.lock();
            if state.left > 0 || state.finished {
                return Ok(false);
            }
            state.finished = true;
        }
        let mut whole = self.whole.lock();
        self.hash_on(&mut whole)?;
        if *whole.hasher.finalize().as_bytes() == self.content.hash.0 {
            return Ok(true);
        }
        Err(not_the_content(&self.content))
    }

    /// The file, open for reading.
    pub(crate) fn file(&self) -> Arc<File> {
        self.read.clone()
    }

    /// The chunks' places.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Key, Place)> {
        self.spans.iter().map(|span| (key(&span.hash), Place::new(self.id, span.offset, span.len)))
    }

    /// Ends it: the container stays only if it became something.
    pub(crate) fn end(&self, inner: &Inner) {
        inner.fillings.files.lock().remove(&self.id);
        let mut index = inner.index.write();
        if index.containers.get(&self.id) == Some(&crate::index::Container::Filling) {
            index.drop_container(self.id);
        }
    }
}

impl Inner {
    /// Whether what lacks of a large content goes into an object: if most of it lacks, or one was begun. What lacks of an
    /// edited file goes into the packs; nothing that is here is copied.
    pub(crate) fn wants_object(&self, content: &ContentRef, spans: &[ChunkSpan]) -> bool {
        if content.size < OBJECT_FROM {
            return false;
        }
        if self.fillings.objects.lock().contains_key(&key(&content.hash)) {
            return true;
        }
        let lacks: u64 = {
            let index = self.index.read();
            spans.iter().filter(|span| !index.has(&key(&span.hash))).map(|span| u64::from(span.len)).sum()
        };
        lacks > 0 && (lacks > content.size / 2 || self.part_path(content).exists())
    }

    /// Bytes of the disk that the rest of a content takes: zeros take none, and of what the list is not here yet the list has to
    /// come first. What an interrupted fetch left is known only when it goes on; its room is taken already.
    pub(crate) fn room_for(&self, content: &ContentRef) -> Result<u64, StoreError> {
        let lacks = self.room_for_unknown(content)?;
        if lacks == 0 || content.size < OBJECT_FROM || self.fillings.is_known(content) {
            return Ok(lacks);
        }
        Ok(lacks.saturating_sub(self.part_takes(content)))
    }

    /// As [`Inner::room_for`], for what is not known to be here.
    pub(crate) fn room_for_unknown(&self, content: &ContentRef) -> Result<u64, StoreError> {
        if self.index.read().is_complete(&key(&content.hash)) {
            return Ok(0);
        }
        let (spans, needs) = self.spans(content, 0..content.size)?;
        let lists: u64 = needs.iter().map(|need| manifest::longest(need.size)).sum();
        let index = self.index.read();
        let lacking = spans.iter().filter(|span| !index.has(&key(&span.hash)));
        Ok(lists + lacking.map(zeros::room).sum::<u64>())
    }

    /// The object of a content that is being filled, begun if need be.
    pub(crate) fn fill_object(&self, content: &ContentRef, spans: &[ChunkSpan]) -> io::Result<Arc<Filling>> {
        let mut objects = self.fillings.objects.lock();
        if let Some(filling) = objects.get(&key(&content.hash)) {
            return Ok(filling.clone());
        }
        let path = self.part_path(content);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let filling = Arc::new(Filling::begin(self, content, spans.to_vec(), &file)?);
        objects.insert(key(&content.hash), filling.clone());
        Ok(filling)
    }

    /// Makes a filled object the object, if it is whole.
    pub(crate) fn finish_object(&self, filling: &Filling) -> io::Result<()> {
        let whole = filling.finish();
        if matches!(whole, Ok(false)) {
            return Ok(());
        }
        let (part, path) = (self.part_path(&filling.content), self.object_path(&filling.content));
        let result = whole.and_then(|_| std::fs::rename(&part, &path));
        match &result {
            Ok(()) => self.object_is_whole(filling.id, &filling.content, filling.file()),
            Err(_) => _ = std::fs::remove_file(&part),
        }
        // Only now, so that nobody begins anew on a file that is being moved.
        self.fillings.objects.lock().remove(&key(&filling.content.hash));
        filling.end(self);
        result
    }

    /// The contents whose objects are being filled now.
    pub(crate) fn filling_objects(&self) -> Vec<ContentRef> {
        let objects = self.fillings.objects.lock();
        objects.values().filter(|filling| is_in_use(filling)).map(|filling| filling.content).collect()
    }

    /// Bytes of the disk that what an interrupted fetch left of a content takes.
    fn part_takes(&self, content: &ContentRef) -> u64 {
        std::fs::metadata(self.part_path(&self.resolve(content))).map_or(0, |part| part.blocks() * BLOCK)
    }

    /// Bytes of a content that are here, or of the disk that what is here of it takes.
    pub(crate) fn holds(&self, content: &ContentRef) -> Result<u64, StoreError> {
        let here = content.size.saturating_sub(self.missing(content)?.bytes);
        Ok(if content.size < OBJECT_FROM { here } else { here.max(self.part_takes(content)) })
    }

    /// Removes what interrupted fetches left of contents that `goes` names, but for those that somebody goes on with right now,
    /// and those of open files. The content is `None` of what nobody has asked for in this life. Bytes given back.
    pub(crate) fn drop_parts(&self, goes: &dyn Fn(Option<&ContentRef>, &Path) -> bool) -> u64 {
        let mut freed = 0;
        // Nobody begins to fill one meanwhile.
        let mut objects = self.fillings.objects.lock();
        let Ok(entries) = std::fs::read_dir(self.objects_dir()) else { return 0 };
        let known: HashMap<PathBuf, Key> =
            objects.iter().map(|(key, filling)| (self.part_path(&filling.content), *key)).collect();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "part") {
                continue;
            }
            let filling = known.get(&path).and_then(|key| objects.get(key));
            if filling.is_some_and(is_in_use) || !goes(filling.map(|filling| &filling.content), &path) {
                continue;
            }
            let takes = std::fs::metadata(&path).map_or(0, |part| part.blocks() * BLOCK);
            if std::fs::remove_file(&path).is_err() {
                continue;
            }
            freed += takes;
            if let Some(filling) = known.get(&path).and_then(|key| objects.remove(key)) {
                filling.end(self);
            }
        }
        freed
    }
}

/// Whether somebody besides the list of all fillings, which is locked, works on one.
fn is_in_use(filling: &Arc<Filling>) -> bool {
    Arc::strong_count(filling) > 1
}

/// The same file, open for reading.
pub(crate) fn reopen(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The parts of what lies from an offset on: blocks of zeros, and what lies between them, each with its offset and whether it is zeros.
/// A few bytes in the middle of a hole make a chunk of up to 1 MiB, of which all but their block stays a hole.
fn runs(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8], bool)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let mut kind = None;
        while at < bytes.len() {
            let to_block = SPARSE_BLOCK - ((offset + at as u64) % SPARSE_BLOCK as u64) as usize;
            let end = (at + to_block).min(bytes.len());
            let zeros = is_zero(&bytes[at..end]);
            if *kind.get_or_insert(zeros) != zeros {
                break;
            }
            at = end;
        }
        kind.map(|zeros| (offset + start as u64, &bytes[start..at], zeros))
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    // Compared as a whole, which is many times quicker than byte by byte.
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}
