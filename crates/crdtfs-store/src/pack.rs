//! Pack segments: append-only files of checksummed entries, the truth about what the store holds.
//!
//! An entry is a chunk (raw or zstd) or a note about other containers. Its header is bound to its file and offset, so
//! that a pack that lies inside a chunk is never taken for one. Appends gather in memory and are written in large pieces;
//! what a crash may lose is what was appended since the last [`Packs::sync`]. Format: `docs/FORMAT.md`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crdtfs_core::id::Hash;
use parking_lot::{Mutex, RwLock};

use crate::storage::{Storage, StorageFile, fresh_nonce, read_full};

const DIR: &str = "packs";
const FILE_MAGIC: &[u8; 16] = b"crdtfs pack\0\x01\0\0\0";
/// Length of a segment's header: magic 16, nonce 16.
pub(crate) const SEGMENT_HEADER: u64 = 32;
const MAGIC: &[u8; 4] = b"CPE1";
/// magic 4, kind 1, codec 1, zero 2, stored length 4, raw length 4, hash 32, check 8.
pub(crate) const ENTRY_HEADER: usize = 56;
const CHECKED: usize = 48;
/// Appends are gathered up to this many bytes before they are written.
const BUFFER: usize = 1 << 20;
/// zstd's level: what is compressed are texts, as bases of merges.
const LEVEL: i32 = 3;
/// No entry is longer.
const MAX_PAYLOAD: usize = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chunk,
    Note,
    /// A place that holds nothing: a crash or a rotten disk left it, and it was looked at.
    Void,
}

/// How its payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    Zstd,
}

/// Where an entry's header is.
pub(crate) type Position = (u32, u64);

/// The header of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) stored: u32,
    pub(crate) raw: u32,
    /// blake3 of the payload as it was before it was compressed.
    pub(crate) hash: Hash,
}

/// All segments.
#[derive(Debug)]
pub(crate) struct Packs {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    ids: Arc<AtomicU32>,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    active: Mutex<Active>,
    /// Held while an fsync runs; holds the position up to which all is durable.
    synced: Mutex<Position>,
}

#[derive(Debug)]
struct Segment {
    id: u32,
    nonce: [u8; 16],
    file: Arc<dyn StorageFile>,
}

#[derive(Debug, Default)]
struct Active {
    segment: Option<Arc<Segment>>,
    /// Offset at which `buffer` belongs.
    start: u64,
    buffer: Vec<u8>,
    /// Segments that were finished since the last sync.
    finished: Vec<Arc<Segment>>,
    /// A segment was made since the last sync of the directory.
    new_name: bool,
    failed: bool,
}

/// What a scan of a segment found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// Places that hold no good entry, as (from, to), in order.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// The end of the file.
    pub(crate) end: u64,
}

/// Gets each entry: its offset, header and payload (decompressed), or `None` if the payload is bad.
pub(crate) type OnEntry<'a> = &'a mut dyn FnMut(u64, &Header, Option<&[u8]>);

impl Packs {
    /// Opens the segments that are there. `ids` gives new segments their names, above all that exist.
    pub(crate) fn open(storage: Arc<dyn Storage>, segment_bytes: u64, ids: Arc<AtomicU32>) -> io::Result<Self> {
        storage.create_dir(DIR)?;
        let mut segments = BTreeMap::new();
        for name in storage.list(DIR)? {
            let Some(id) = name.strip_suffix(".pack").and_then(|hex| u32::from_str_radix(hex, 16).ok()) else {
                continue;
            };
            ids.fetch_max(id + 1, Ordering::Relaxed);
            let file = storage.open(&segment_name(id), false)?;
            let mut head = [0; SEGMENT_HEADER as usize];
            let n = read_full(file.as_ref(), &mut head, 0)?;
            if n == head.len() && head[..16] == *FILE_MAGIC {
                let mut nonce = [0; 16];
                nonce.copy_from_slice(&head[16..]);
                segments.insert(id, Arc::new(Segment { id, nonce, file }));
            } else if file.len()? <= SEGMENT_HEADER {
                // A crash between the making of the segment and its first sync: nothing in it was durable.
                storage.remove(&segment_name(id))?;
            } else {
                tracing::error!(segment = name, "a pack segment has no header; its chunks have to be fetched again");
            }
        }
        let segments = RwLock::new(segments);
        Ok(Self { storage, segment_bytes, ids, segments, active: Mutex::default(), synced: Mutex::new((0, 0)) })
    }

    /// The segments with their lengths on disk.
    pub(crate) fn segments(&self) -> io::Result<Vec<(u32, u64)>> {
        self.segments.read().values().map(|segment| Ok((segment.id, segment.file.len()?))).collect()
    }

    /// Goes on in the last segment, which is good up to `end`; what lies behind is cut off. What the segments from `since`
    /// on hold is made durable: a process that was killed left it with the system, and what follows counts on it.
    pub(crate) fn resume(&self, since: u32, id: u32, end: u64) -> io::Result<()> {
        let segment = self.segment(id)?;
        if segment.file.len()? > end {
            segment.file.set_len(end)?;
        }
        let unsynced: Vec<Arc<Segment>> = self.segments.read().range(since..=id).map(|(_, one)| one.clone()).collect();
        unsynced.iter().try_for_each(|segment| segment.file.sync())?;
        self.storage.sync_dir(DIR)?;
        let mut active = self.active.lock();
        active.start = end;
        active.segment = Some(segment);
        *self.synced.lock() = (id, end);
        Ok(())
    }

    /// Appends an entry and says where it is. After an error (a full disk) it is not there, and nothing else is lost.
    pub(crate) fn append(
        &self,
        kind: Kind,
        codec: Codec,
        hash: &Hash,
        raw: u32,
        payload: &[u8],
    ) -> io::Result<Position> {
        debug_assert!(payload.len() <= MAX_PAYLOAD && raw as usize <= MAX_PAYLOAD);
        let need = ENTRY_HEADER + payload.len();
        let mut active = self.active.lock();
        if active.failed {
            return Err(io::Error::other("an fsync failed before"));
        }
        if active.segment.is_some() && active.end() + need as u64 > self.segment_bytes && active.end() > SEGMENT_HEADER
        {
            active.flush()?;
            self.begin(&mut active)?;
        } else if !active.buffer.is_empty() && active.buffer.len() + need > BUFFER {
            active.flush()?;
        }
        if active.segment.is_none() {
            self.begin(&mut active)?;
        }
        let segment = active.segment.clone().expect("made above");
        let offset = active.end();
        let header = Header { kind, codec, stored: payload.len() as u32, raw, hash: *hash };
        let header = header.encode(&segment.nonce, offset);
        active.buffer.extend_from_slice(&header);
        active.buffer.extend_from_slice(payload);
        Ok((segment.id, offset))
    }

    /// Begins a segment. Where that fails all is as it was: the one before still is what a sync makes durable.
    fn begin(&self, active: &mut Active) -> io::Result<()> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let name = segment_name(id);
        let segment = Arc::new(Segment { id, nonce: fresh_nonce(), file: self.storage.open(&name, true)? });
        if let Err(error) = segment.file.write_all_at(&segment_header(&segment.nonce), 0) {
            let _ = self.storage.remove(&name);
            return Err(error);
        }
        active.new_name = true;
        active.start = SEGMENT_HEADER;
        let finished = active.segment.replace(segment.clone());
        active.finished.extend(finished);
        self.segments.write().insert(id, segment);
        Ok(())
    }

    /// Begins another segment, if this one is still being written.
    pub(crate) fn finish(&self, id: u32) -> io::Result<()> {
        let mut active = self.active.lock();
        if active.segment.as_ref().is_some_and(|segment| segment.id == id) {
            active.flush()?;
            self.begin(&mut active)?;
        }
        Ok(())
    }

    /// Bytes of garbage from which on a segment is finished before its time.
    pub(crate) fn worth(&self) -> u64 {
        self.segment_bytes / 128
    }

    /// Where the next entry will be: all before is in the segments or in memory.
    pub(crate) fn position(&self) -> Position {
        let active = self.active.lock();
        active.segment.as_ref().map_or((0, 0), |segment| (segment.id, active.end()))
    }

    /// Hands what was appended to the operating system: from then on it survives the end of this process.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.active.lock().flush()
    }

    /// Returns when all that was appended before the call is durable. Concurrent calls share one fsync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let target = self.position();
        let mut synced = self.synced.lock();
        if *synced >= target && target.0 != 0 {
            return Ok(());
        }
        let (finished, current, new_name, end) = {
            let mut active = self.active.lock();
            if active.failed {
                return Err(io::Error::other("an fsync failed before"));
            }
            let Some(segment) = active.segment.clone() else { return Ok(()) };
            active.flush()?;
            let end = (segment.id, active.start);
            (std::mem::take(&mut active.finished), segment, std::mem::take(&mut active.new_name), end)
        };
        let result = finished.iter().chain([&current]).try_for_each(|segment| segment.file.sync());
        let result = result.and_then(|()| if new_name { self.storage.sync_dir(DIR) } else { Ok(()) });
        if let Err(error) = result {
            let mut active = self.active.lock();
            active.finished.extend(finished);
            active.new_name |= new_name;
            // The kernel forgets dirty pages that it could not write, and a second fsync would claim success.
            active.failed = error.kind() != io::ErrorKind::StorageFull;
            return Err(error);
        }
        *synced = end;
        Ok(())
    }

    fn segment(&self, id: u32) -> io::Result<Arc<Segment>> {
        self.segments.read().get(&id).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads `len` raw bytes of the entry at a position, decompressed; not verified.
    pub(crate) fn read(&self, (id, offset): Position, len: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; ENTRY_HEADER + len as usize];
        let n = self.read_raw(id, offset, &mut bytes)?;
        bytes.truncate(n);
        let header = Header::decode(&bytes, None).ok_or(io::ErrorKind::InvalidData)?;
        let end = ENTRY_HEADER + header.stored as usize;
        if header.raw != len || bytes.len() < end {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match header.codec {
            Codec::Raw => {
                bytes.truncate(end);
                bytes.drain(..ENTRY_HEADER);
                Ok(bytes)
            }
            Codec::Zstd => zstd::bulk::decompress(&bytes[ENTRY_HEADER..end], len as usize),
        }
    }

    fn read_raw(&self, id: u32, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = {
            let active = self.active.lock();
            match &active.segment {
                Some(segment) if segment.id == id => {
                    if offset >= active.start {
                        let rest = active.buffer.get((offset - active.start) as usize..).unwrap_or_default();
                        let n = rest.len().min(buf.len());
                        buf[..n].copy_from_slice(&rest[..n]);
                        return Ok(n);
                    }
                    segment.file.clone()
                }
                _ => {
                    drop(active);
                    self.segment(id)?.file.clone()
                }
            }
        };
        read_full(file.as_ref(), buf, offset)
    }

    /// Up to where a segment is on disk. Behind that, the one that is being appended to may have a part of what is being
    /// written, or of what did not fit.
    fn written(&self, segment: &Segment) -> io::Result<u64> {
        let active = self.active.lock();
        match &active.segment {
            Some(current) if current.id == segment.id => Ok(active.start),
            _ => segment.file.len(),
        }
    }

    /// Calls `each` for all entries of a segment that is on disk, from an offset on; passes over what is damaged.
    pub(crate) fn scan(&self, id: u32, from: u64, each: OnEntry<'_>) -> io::Result<Gaps> {
        let segment = self.segment(id)?;
        let end = self.written(&segment)?;
        let mut found = Gaps { gaps: Vec::new(), end };
        let mut at = from.max(SEGMENT_HEADER);
        let mut gap = None;
        let mut bytes = Vec::new();
        while at < end {
            bytes.resize(ENTRY_HEADER, 0);
            let n = read_full(segment.file.as_ref(), &mut bytes, at)?;
            let header = Header::decode(&bytes[..n], Some((&segment.nonce, at)));
            let next = |header: &Header| at + (ENTRY_HEADER + header.stored as usize) as u64;
            match header.filter(|header| next(header) <= end) {
                Some(header) => {
                    if let Some(from) = gap.take() {
                        found.gaps.push((from, at));
                    }
                    if header.kind == Kind::Void {
                        at = next(&header);
                        continue;
                    }
                    bytes.resize(header.stored as usize, 0);
                    read_full(segment.file.as_ref(), &mut bytes, at + ENTRY_HEADER as u64)?;
                    let raw = header.payload(&bytes);
                    if raw.is_none() {
                        found.gaps.push((at, next(&header)));
                    }
                    each(at, &header, raw.as_deref());
                    at = next(&header);
                }
                None => {
                    gap.get_or_insert(at);
                    at = next_magic(segment.file.as_ref(), at + 1, end)?.unwrap_or(end);
                }
            }
        }
        if let Some(from) = gap {
            found.gaps.push((from, end));
        }
        Ok(found)
    }

    /// Marks a place that a scan found damaged as one that holds nothing.
    pub(crate) fn void(&self, id: u32, from: u64, to: u64) -> io::Result<()> {
        let segment = self.segment(id)?;
        segment.void(from, to)?;
        segment.file.sync()
    }

    /// Gives the room of entries back that nobody needs; how many bytes. Entries after each other go together. Of those
    /// that are smaller than a block of the filesystem nothing can be given back: they stay as they are.
    pub(crate) fn punch(&self, entries: &[Position]) -> io::Result<u64> {
        let mut of: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (id, offset) in entries {
            of.entry(*id).or_default().push(*offset);
        }
        let mut freed = 0;
        for (id, mut offsets) in of {
            if self.active() == Some(id) {
                self.flush()?;
            }
            let Ok(segment) = self.segment(id) else { continue };
            offsets.sort_unstable();
            let holes: Vec<(u64, u64)> =
                segment.ranges(&offsets)?.into_iter().filter(|range| !hole(*range).is_empty()).collect();
            for (from, to) in &holes {
                segment.void(*from, *to)?;
            }
            // What is marked is durable before the bytes go: else they would be taken for damaged.
            segment.file.sync()?;
            for hole in holes.into_iter().map(hole) {
                segment.file.punch(hole.start, hole.end - hole.start)?;
                freed += hole.end - hole.start;
            }
        }
        Ok(freed)
    }

    /// Cuts a finished segment to what is good of it.
    pub(crate) fn cut(&self, id: u32, end: u64) -> io::Result<()> {
        let segment = self.segment(id)?;
        segment.file.set_len(end)?;
        segment.file.sync()
    }

    /// The segment that is being written, if there is one.
    pub(crate) fn active(&self) -> Option<u32> {
        self.active.lock().segment.as_ref().map(|segment| segment.id)
    }

    /// Removes a segment from which all that is wanted was moved and synced.
    pub(crate) fn remove(&self, id: u32) -> io::Result<()> {
        self.segments.write().remove(&id);
        self.storage.remove(&segment_name(id))
    }
}

impl Segment {
    /// Writes that nothing is in this range. Not synced.
    fn void(&self, from: u64, to: u64) -> io::Result<()> {
        let header = Header {
            kind: Kind::Void,
            codec: Codec::Raw,
            stored: u32::try_from(to - from - ENTRY_HEADER as u64).map_err(|_| io::ErrorKind::InvalidInput)?,
            raw: 0,
            hash: Hash([0; 32]),
        };
        self.file.write_all_at(&header.encode(&self.nonce, from), from)
    }

    /// The ranges of entries at these offsets, which are in order; what follows each other is one. Passes over what is no
    /// entry (any more).
    fn ranges(&self, offsets: &[u64]) -> io::Result<Vec<(u64, u64)>> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut head = [0; ENTRY_HEADER];
        for offset in offsets {
            let n = read_full(self.file.as_ref(), &mut head, *offset)?;
            let Some(header) = Header::decode(&head[..n], Some((&self.nonce, *offset))) else { continue };
            if header.kind != Kind::Chunk {
                continue;
            }
            let end = offset + (ENTRY_HEADER as u64) + u64::from(header.stored);
            match ranges.last_mut() {
                Some(last) if last.1 == *offset => last.1 = end,
                _ => ranges.push((*offset, end)),
            }
        }
        Ok(ranges)
    }
}

/// The whole blocks of a range behind its header.
fn hole((from, to): (u64, u64)) -> std::ops::Range<u64> {
    const BLOCK: u64 = 4096;
    (from + ENTRY_HEADER as u64).next_multiple_of(BLOCK)..to / BLOCK * BLOCK
}

impl Active {
    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(segment) = &self.segment
            && !self.buffer.is_empty()
        {
            segment.file.write_all_at(&self.buffer, self.start)?;
            self.start += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl Header {
    pub(crate) fn encode(&self, nonce: &[u8; 16], offset: u64) -> [u8; ENTRY_HEADER] {
        let mut out = [0; ENTRY_HEADER];
        out[..4].copy_from_slice(MAGIC);
        out[4] = self.kind as u8;
        out[5] = u8::from(self.codec == Codec::Zstd);
        out[8..12].copy_from_slice(&self.stored.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw.to_le_bytes());
        out[16..48].copy_from_slice(&self.hash.0);
        let check = check(nonce, offset, &out);
        out[CHECKED..].copy_from_slice(&check);
        out
    }

    /// Reads a header; with `bound`, verifies that it was written to that file and offset.
    fn decode(bytes: &[u8], bound: Option<(&[u8; 16], u64)>) -> Option<Self> {
        let head: &[u8; ENTRY_HEADER] = bytes.get(..ENTRY_HEADER)?.try_into().ok()?;
        if head[..4] != *MAGIC || bound.is_some_and(|(nonce, offset)| head[CHECKED..] != check(nonce, offset, head)) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = Self {
            kind: match head[4] {
                0 => Kind::Chunk,
                1 => Kind::Note,
                _ => Kind::Void,
            },
            codec: if head[5] == 0 { Codec::Raw } else { Codec::Zstd },
            stored: word(8),
            raw: word(12),
            hash: Hash::from_slice(&head[16..48])?,
        };
        let limit = if header.kind == Kind::Void { u32::MAX as usize } else { MAX_PAYLOAD };
        (header.stored as usize <= limit && header.raw as usize <= MAX_PAYLOAD).then_some(header)
    }

    /// The payload as it was before it was compressed, if it is good.
    fn payload<'a>(&self, stored: &'a [u8]) -> Option<std::borrow::Cow<'a, [u8]>> {
        let raw: std::borrow::Cow<'a, [u8]> = match self.codec {
            Codec::Raw => stored.into(),
            Codec::Zstd => zstd::bulk::decompress(stored, self.raw as usize).ok()?.into(),
        };
        (raw.len() == self.raw as usize && Hash::of(&raw) == self.hash).then_some(raw)
    }
}

fn check(nonce: &[u8; 16], offset: u64, head: &[u8; ENTRY_HEADER]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(nonce).update(&offset.to_le_bytes()).update(&head[..CHECKED]);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// Compresses a chunk, if that makes it smaller.
pub(crate) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        // A context takes longer to make than a small text to compress.
        static CONTEXT: RefCell<Option<zstd::bulk::Compressor<'static>>> =
            RefCell::new(zstd::bulk::Compressor::new(LEVEL).ok());
    }
    let small = CONTEXT.with_borrow_mut(|context| context.as_mut()?.compress(bytes).ok())?;
    (small.len() < bytes.len()).then_some(small)
}

/// What a segment begins with.
pub(crate) fn segment_header(nonce: &[u8; 16]) -> [u8; SEGMENT_HEADER as usize] {
    let mut head = [0; SEGMENT_HEADER as usize];
    head[..16].copy_from_slice(FILE_MAGIC);
    head[16..].copy_from_slice(nonce);
    head
}

fn segment_name(id: u32) -> String {
    format!("{DIR}/{id:08x}.pack")
}

fn next_magic(file: &dyn StorageFile, from: u64, end: u64) -> io::Result<Option<u64>> {
    let mut window = vec![0; 64 << 10];
    let mut at = from;
    while at < end {
        let n = read_full(file, &mut window, at)?;
        if let Some(found) = window[..n].windows(4).position(|bytes| bytes == MAGIC) {
            return Ok(Some(at + found as u64));
        }
        if n < window.len() {
            return Ok(None);
        }
        at += n as u64 - 3;
    }
    Ok(None)
}
