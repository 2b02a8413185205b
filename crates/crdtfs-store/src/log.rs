//! The envelope log of one share, and its snapshots.
//!
//! One append-only file. Each record says how far the log was durable when it was written; so recovery can tell an
//! append that a crash cut off (removed: nothing that was synced) from a place that went bad later (reported: what was
//! there has to come from other devices; what follows stays).
//!
//! What a crash may lose: what was appended since the last [`Log::sync`]. Format: `docs/FORMAT.md`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::id::ActorId;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::storage::{DiskStorage, Storage, StorageFile, read_full};

const FILE: &str = "envelopes";
const FILE_MAGIC: &[u8; 12] = b"crdtfs log\0\x01";
const FILE_HEADER: u64 = 28;
const MAGIC: &[u8; 4] = b"CLE1";
/// magic 4, length 4, actor 32, seq 8, durable 8, blake3 of the bytes 16, check 8.
const HEADER: usize = 80;
const CHECKED: usize = 72;
/// The longest envelope that the log takes; the protocol's limit is well below.
const MAX_ENVELOPE: usize = 64 << 20;
/// Appends are gathered up to this many bytes before they are written.
const BUFFER: usize = 256 << 10;
const SNAPSHOT_MAGIC: &[u8; 12] = b"crdtfs snap\x01";
/// magic 12, length 8, blake3 32.
const SNAPSHOT_HEADER: usize = 52;
/// The actor of a record with number 0 that holds nothing: a damaged place that was given up.
const VOID: ActorId = ActorId([0; 32]);
/// The offset of an envelope that was given up.
const GONE: u64 = u64::MAX;

/// One share's envelopes in the order in which they were accepted, which is causal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    storage: Arc<dyn Storage>,
    file: Arc<dyn StorageFile>,
    nonce: [u8; 16],
    state: Mutex<State>,
    /// Held while an fsync runs, so that those who wait for it share the next one.
    syncing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Offset in the file at which `buffer` belongs.
    start: u64,
    buffer: Vec<u8>,
    durable: u64,
    /// Up to where the last record says that all before it is durable, and itself.
    attested: u64,
    actors: Vec<(ActorId, Vec<(u64, u32)>)>,
    actor_index: HashMap<ActorId, u32>,
    entries: Vec<Slot>,
    /// An fsync failed: what the file holds past `durable` is not known any more.
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: u64,
    len: u32,
    actor: u32,
    seq: u64,
}

/// One envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The author.
    pub actor: ActorId,
    /// Its place in the author's chain.
    pub seq: u64,
    /// The envelope.
    pub bytes: Vec<u8>,
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Envelopes that are there.
    pub entries: u64,
    /// Bytes of an unfinished append at the end, cut off; nothing that was synced.
    pub torn: u64,
    /// Places, as (offset, length), where durable bytes went bad; what was there has to come from other devices.
    pub damaged: Vec<(u64, u64)>,
}

impl Log {
    /// Opens the log in a directory of its own, or makes it.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        Self::open_on(Arc::new(DiskStorage::new(dir.to_path_buf())), dir)
    }

    pub(crate) fn open_on(storage: Arc<dyn Storage>, dir: &Path) -> Result<(Self, Recovered), StoreError> {
        let path = dir.join(FILE);
        let file = storage.open(FILE, true).map_err(StoreError::io("open", &path))?;
        let nonce = read_or_write_header(storage.as_ref(), file.as_ref()).map_err(StoreError::io("open", &path))?;
        let mut scan = Scan::default();
        let len = file.len().map_err(StoreError::io("read", &path))?;
        scan.run(file.as_ref(), &nonce, len).map_err(StoreError::io("read", &path))?;
        let (end, recovered) = scan.verdict(len);
        if end < len {
            file.set_len(end).map_err(StoreError::io("cut the torn end of", &path))?;
        }
        // What a process that was killed left with the system counts as durable from here on.
        file.sync().map_err(StoreError::io("sync", &path))?;
        for (offset, length) in &recovered.damaged {
            tracing::error!(path = %path.display(), offset, length, "a part of the envelope log went bad");
        }
        let mut state = State {
            start: end,
            buffer: Vec::new(),
            durable: end,
            attested: scan.attested(end),
            actors: Vec::new(),
            actor_index: HashMap::new(),
            entries: Vec::new(),
            failed: false,
        };
        for found in scan.found.into_iter().filter(|found| found.offset < end && !found.is_void()) {
            state.note(&found.actor, found.seq, found.offset + HEADER as u64, found.len);
        }
        let inner =
            Inner { dir: dir.to_path_buf(), storage, file, nonce, state: Mutex::new(state), syncing: Mutex::new(()) };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// Appends an envelope; durable after [`Log::sync`]. After an error (a full disk) it is not in the log, and all
    /// that was there before still is.
    pub fn append(&self, actor: &ActorId, seq: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let mut state = inner.state.lock();
        if state.failed {
            return Err(StoreError::Failed { path: inner.path() });
        }
        if bytes.len() > MAX_ENVELOPE {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "an envelope over the limit of 64 MiB");
            return Err(StoreError::io("append to", &inner.path())(error));
        }
        if !state.buffer.is_empty() && state.buffer.len() + HEADER + bytes.len() > BUFFER {
            inner.flush(&mut state)?;
        }
        let offset = state.start + state.buffer.len() as u64;
        let durable = state.durable;
        let header = header(&inner.nonce, offset, actor, seq, durable, bytes);
        state.buffer.extend_from_slice(&header);
        state.buffer.extend_from_slice(bytes);
        state.note(actor, seq, offset + HEADER as u64, bytes.len() as u32);
        Ok(())
    }

    /// Hands what was appended to the operating system: from then on it survives the end of this process, though not yet
    /// that of the machine.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush(&mut self.inner.state.lock())
    }

    /// Takes envelopes out of the index that no longer count (two changes of one actor and seq: the other one stands). Their
    /// bytes stay, and whoever opens the log again finds out again.
    pub fn forget(&self, dropped: &[(ActorId, u64)]) {
        let mut state = self.inner.state.lock();
        for (actor, seq) in dropped {
            let Some(index) = state.actor_index.get(actor).copied() else { continue };
            state.actors[index as usize].1.retain(|(other, _)| other != seq);
        }
    }

    /// Returns when all that was appended before the call is durable. Concurrent calls share one fsync.
    pub fn sync(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let target = {
            let state = inner.state.lock();
            state.start + state.buffer.len() as u64
        };
        let _turn = inner.syncing.lock();
        let end = {
            let mut state = inner.state.lock();
            if state.failed {
                return Err(StoreError::Failed { path: inner.path() });
            }
            if state.durable >= target {
                return Ok(());
            }
            inner.flush(&mut state)?;
            state.start
        };
        let synced = inner.file.sync();
        let mut state = inner.state.lock();
        match synced {
            Ok(()) => {
                state.durable = state.durable.max(end);
                Ok(())
            }
            Err(source) => {
                // The kernel forgets dirty pages that it could not write: a second fsync would claim success. A full
                // disk is the exception on the filesystems that allocate late, and there it is told again.
                state.failed = source.kind() != std::io::ErrorKind::StorageFull;
                Err(StoreError::io("sync", &inner.path())(source))
            }
        }
    }

    /// As [`Log::sync`], and writes down that all is durable: what goes bad later is known to have been there, and is never
    /// taken for an append that a crash cut off. To be called when the log is left.
    pub fn attest(&self) -> Result<(), StoreError> {
        self.sync()?;
        let inner = &*self.inner;
        let mut state = inner.state.lock();
        if state.durable > state.attested && state.buffer.is_empty() {
            let header = header(&inner.nonce, state.start, &VOID, 0, state.durable, b"");
            inner.file.write_all_at(&header, state.start).map_err(StoreError::io("append to", &inner.path()))?;
            state.start += HEADER as u64;
            state.attested = state.start;
        }
        drop(state);
        self.sync()
    }

    /// Calls `each` with every envelope from the `from`-th on (0: all), in append order, until it returns false.
    pub fn for_each(&self, from: u64, each: &mut dyn FnMut(LogEntry) -> bool) -> Result<(), StoreError> {
        let mut at = from as usize;
        loop {
            let batch: Vec<(ActorId, Slot)> = {
                let state = self.inner.state.lock();
                let slots = state.entries.get(at..).unwrap_or_default();
                slots.iter().take(256).map(|slot| (state.actors[slot.actor as usize].0, *slot)).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            at += batch.len();
            for (actor, slot) in batch.into_iter().filter(|(_, slot)| slot.offset != GONE) {
                let bytes = self.inner.read(slot)?;
                if !each(LogEntry { actor, seq: slot.seq, bytes }) {
                    return Ok(());
                }
            }
        }
    }

    /// Number of envelopes.
    pub fn len(&self) -> u64 {
        self.inner.state.lock().entries.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last seq of each actor.
    pub fn vector(&self) -> BTreeMap<ActorId, u64> {
        let state = self.inner.state.lock();
        state.actors.iter().filter_map(|(actor, chain)| Some((*actor, chain.last()?.0))).collect()
    }

    /// One envelope.
    pub fn get(&self, actor: &ActorId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let slot = {
            let state = self.inner.state.lock();
            let Some(index) = state.actor_index.get(actor) else { return Ok(None) };
            let chain = &state.actors[*index as usize].1;
            let Ok(at) = chain.binary_search_by_key(&seq, |(seq, _)| *seq) else { return Ok(None) };
            state.entries[chain[at].1 as usize]
        };
        self.inner.read(slot).map(Some)
    }

    /// Envelopes with a seq above what `known` says of their actor, in append order, until their bytes reach
    /// `max_bytes` (at least one if there is one).
    pub fn read_after(&self, known: &BTreeMap<ActorId, u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError> {
        let wanted = self.inner.state.lock().after(known, max_bytes);
        let read =
            |(actor, slot): (ActorId, Slot)| Ok(LogEntry { actor, seq: slot.seq, bytes: self.inner.read(slot)? });
        wanted.into_iter().map(read).collect()
    }

    /// Writes a snapshot (a cache: the document, the view) in place of the last one of this name, atomically, durably.
    /// `name` is a plain file name. One at a time of each name.
    pub fn write_snapshot(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.stage_snapshot(name, bytes)?.place()?;
        self.inner.sync_names()
    }

    /// Writes a snapshot that does not count yet: that takes long where there is much of it, and what it was made of may
    /// change meanwhile.
    pub fn stage_snapshot(&self, name: &str, bytes: &[u8]) -> Result<Staged, StoreError> {
        let staged = Staged { log: self.clone(), name: name.to_owned() };
        let write = || {
            let out = self.inner.storage.open(&staged.temporary(), true)?;
            out.set_len(0)?;
            let head = snapshot_header(bytes);
            out.write_all_at(&head, 0)?;
            out.write_all_at(bytes, head.len() as u64)?;
            out.sync()
        };
        write().map_err(StoreError::io("write", &self.inner.snapshot_path(name)))?;
        Ok(staged)
    }

    /// Removes snapshots, durably: what they were made of no longer counts.
    pub fn remove_snapshots(&self, names: &[&str]) -> Result<(), StoreError> {
        for name in names {
            match self.inner.storage.remove(&format!("{name}.snap")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &self.inner.snapshot_path(name))(error));
                }
                _ => {}
            }
        }
        self.inner.sync_names()
    }

    /// The last snapshot of a name; one that is damaged is passed over with a warning in the log.
    pub fn read_snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.inner.snapshot_path(name);
        match self.inner.snapshot(name) {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(reason))) => {
                tracing::warn!(path = %path.display(), reason, "passing over a damaged snapshot");
                Ok(None)
            }
            Ok(None) => Ok(None),
            Err(source) => Err(StoreError::io("read", &path)(source)),
        }
    }
}

/// A snapshot that is written down and does not count yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged {
    log: Log,
    name: String,
}

impl Staged {
    /// Lets it count in place of the last one of its name. A crash may bring that one back.
    pub fn place(self) -> Result<(), StoreError> {
        let inner = &*self.log.inner;
        let placed = inner.storage.rename(&self.temporary(), &format!("{}.snap", self.name));
        placed.map_err(StoreError::io("write", &inner.snapshot_path(&self.name)))
    }

    fn temporary(&self) -> String {
        format!("{}.snap.tmp", self.name)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // There is none if it was placed; if one stays, the next takes its place.
        let _ = self.log.inner.storage.remove(&self.temporary());
    }
}

impl Inner {
    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    fn snapshot_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.snap"))
    }

    /// Makes durable which snapshots there are.
    fn sync_names(&self) -> Result<(), StoreError> {
        self.storage.sync_dir("").map_err(StoreError::io("sync", &self.dir))
    }

    fn flush(&self, state: &mut State) -> Result<(), StoreError> {
        if !state.buffer.is_empty() {
            self.file.write_all_at(&state.buffer, state.start).map_err(StoreError::io("append to", &self.path()))?;
            state.start += state.buffer.len() as u64;
            state.buffer.clear();
        }
        Ok(())
    }

    fn read(&self, slot: Slot) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; slot.len as usize];
        {
            let state = self.state.lock();
            if slot.offset >= state.start {
                let at = (slot.offset - state.start) as usize;
                bytes.copy_from_slice(&state.buffer[at..at + slot.len as usize]);
                return Ok(bytes);
            }
        }
        let read = read_full(self.file.as_ref(), &mut bytes, slot.offset)
            .and_then(|n| if n < bytes.len() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
        read.map_err(StoreError::io("read", &self.path()))?;
        Ok(bytes)
    }

    /// `Some(Err)`: there is one, and why it is no good.
    fn snapshot(&self, name: &str) -> std::io::Result<Option<Result<Vec<u8>, &'static str>>> {
        let file = match self.storage.open(&format!("{name}.snap"), false) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = vec![0; file.len()? as usize];
        let n = read_full(file.as_ref(), &mut bytes, 0)?;
        bytes.truncate(n);
        if bytes.len() < SNAPSHOT_HEADER || bytes[..12] != *SNAPSHOT_MAGIC {
            return Ok(Some(Err("not a snapshot of this version")));
        }
        if bytes[12..20] != (bytes.len() as u64 - SNAPSHOT_HEADER as u64).to_le_bytes() {
            return Ok(Some(Err("its length is not what it says")));
        }
        if bytes[20..SNAPSHOT_HEADER] != *blake3::hash(&bytes[SNAPSHOT_HEADER..]).as_bytes() {
            return Ok(Some(Err("its checksum does not match")));
        }
        bytes.drain(..SNAPSHOT_HEADER);
        Ok(Some(Ok(bytes)))
    }
}

impl State {
    fn note(&mut self, actor: &ActorId, seq: u64, offset: u64, len: u32) {
        let index = *self.actor_index.entry(*actor).or_insert_with(|| {
            self.actors.push((*actor, Vec::new()));
            self.actors.len() as u32 - 1
        });
        let entry = self.entries.len() as u32;
        self.entries.push(Slot { offset, len, actor: index, seq });
        let chain = &mut self.actors[index as usize].1;
        match chain.binary_search_by_key(&seq, |(seq, _)| *seq) {
            // Two changes of one actor and seq: the one that was accepted last stands.
            Ok(at) => chain[at].1 = entry,
            Err(at) => chain.insert(at, (seq, entry)),
        }
    }

    /// Merges the actors' tails by append order, so that only what is returned (and one look at each actor) is paid for.
    fn after(&self, known: &BTreeMap<ActorId, u64>, max_bytes: usize) -> Vec<(ActorId, Slot)> {
        let mut heads = BinaryHeap::new();
        for (index, (actor, chain)) in self.actors.iter().enumerate() {
            let have = known.get(actor).copied();
            let next = chain.partition_point(|(seq, _)| have.is_some_and(|have| *seq <= have));
            if let Some((_, entry)) = chain.get(next) {
                heads.push(Reverse((*entry, index, next)));
            }
        }
        let (mut out, mut bytes) = (Vec::new(), 0);
        while let Some(Reverse((entry, index, at))) = heads.pop() {
            let slot = self.entries[entry as usize];
            if !out.is_empty() && bytes + slot.len as usize > max_bytes {
                break;
            }
            bytes += slot.len as usize;
            let (actor, chain) = &self.actors[index];
            out.push((*actor, slot));
            if let Some((_, entry)) = chain.get(at + 1) {
                heads.push(Reverse((*entry, index, at + 1)));
            }
        }
        out
    }
}

pub(crate) fn header(
    nonce: &[u8; 16],
    offset: u64,
    actor: &ActorId,
    seq: u64,
    durable: u64,
    bytes: &[u8],
) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[..4].copy_from_slice(MAGIC);
    head[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    head[8..40].copy_from_slice(&actor.0);
    head[40..48].copy_from_slice(&seq.to_le_bytes());
    head[48..56].copy_from_slice(&durable.to_le_bytes());
    head[56..72].copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    let check = check(nonce, offset, &head);
    head[72..].copy_from_slice(&check);
    head
}

/// Binds a header to its file and its place, so that a log that lies in an envelope is not taken for one.
fn check(nonce: &[u8; 16], offset: u64, head: &[u8; HEADER]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(nonce).update(&offset.to_le_bytes()).update(&head[..CHECKED]);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// What the file begins with.
pub(crate) fn file_header(nonce: &[u8; 16]) -> [u8; FILE_HEADER as usize] {
    let mut head = [0; FILE_HEADER as usize];
    head[..12].copy_from_slice(FILE_MAGIC);
    head[12..].copy_from_slice(nonce);
    head
}

/// What stands before a snapshot's bytes.
pub(crate) fn snapshot_header(bytes: &[u8]) -> [u8; SNAPSHOT_HEADER] {
    let mut head = [0; SNAPSHOT_HEADER];
    head[..12].copy_from_slice(SNAPSHOT_MAGIC);
    head[12..20].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    head[20..].copy_from_slice(blake3::hash(bytes).as_bytes());
    head
}

fn read_or_write_header(storage: &dyn Storage, file: &dyn StorageFile) -> std::io::Result<[u8; 16]> {
    let mut head = [0; FILE_HEADER as usize];
    let n = read_full(file, &mut head, 0)?;
    let mut nonce = [0; 16];
    if n == head.len() && head[..12] == *FILE_MAGIC {
        nonce.copy_from_slice(&head[12..]);
        return Ok(nonce);
    }
    // The header is synced before anything is appended: a file without one has never held an envelope that was synced.
    if file.len()? > FILE_HEADER {
        let reason = "the envelope log has no header of this version; it is of a newer crdtfs, or damaged";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    }
    nonce = crate::storage::fresh_nonce();
    head = file_header(&nonce);
    file.set_len(0)?;
    file.write_all_at(&head, 0)?;
    file.sync()?;
    storage.sync_dir("")?;
    Ok(nonce)
}

#[derive(Debug)]
struct Found {
    offset: u64,
    len: u32,
    actor: ActorId,
    seq: u64,
    durable: u64,
}

impl Found {
    /// Whether it holds nothing: chains begin with 1.
    fn is_void(&self) -> bool {
        (self.actor, self.seq) == (VOID, 0)
    }
}

/// All good records of a file, and the gaps between them.
#[derive(Debug, Default)]
struct Scan {
    found: Vec<Found>,
    gaps: Vec<(u64, u64)>,
}

impl Scan {
    /// The end, if the last record says that all before it is durable; else less.
    fn attested(&self, end: u64) -> u64 {
        let last = self.found.last();
        let whole = last.is_some_and(|last| last.durable == last.offset && last.offset + HEADER as u64 == end);
        if whole || end == FILE_HEADER { end } else { 0 }
    }

    fn run(&mut self, file: &dyn StorageFile, nonce: &[u8; 16], end: u64) -> std::io::Result<()> {
        let mut at = FILE_HEADER;
        let mut gap = None;
        while at < end {
            match good_header(file, nonce, at, end)? {
                Some(found) => {
                    let next = at + HEADER as u64 + u64::from(found.len);
                    let mut bytes = vec![0; found.len as usize];
                    let mut head = [0; HEADER];
                    read_full(file, &mut head, at)?;
                    read_full(file, &mut bytes, at + HEADER as u64)?;
                    if let Some(from) = gap.take() {
                        self.gaps.push((from, at));
                    }
                    if blake3::hash(&bytes).as_bytes()[..16] == head[56..72] {
                        self.found.push(found);
                    } else {
                        self.gaps.push((at, next));
                    }
                    at = next;
                }
                None => {
                    gap.get_or_insert(at);
                    at = next_magic(file, at + 1, end)?.unwrap_or(end);
                }
            }
        }
        if let Some(from) = gap {
            self.gaps.push((from, end));
        }
        Ok(())
    }

    /// Where the log ends: at the first gap that no later record says to have been durable. Gaps before are damage.
    fn verdict(&self, len: u64) -> (u64, Recovered) {
        let durable = self.found.iter().map(|found| found.durable).max().unwrap_or(0);
        let torn = self.gaps.iter().find(|(from, _)| *from >= durable).map_or(len.max(FILE_HEADER), |gap| gap.0);
        let damaged = self.gaps.iter().filter(|gap| gap.0 < torn).map(|(from, to)| (*from, to - from)).collect();
        let entries = self.found.iter().filter(|found| found.offset < torn && !found.is_void()).count() as u64;
        (torn, Recovered { entries, torn: len.saturating_sub(torn), damaged })
    }
}

fn good_header(file: &dyn StorageFile, nonce: &[u8; 16], at: u64, end: u64) -> std::io::Result<Option<Found>> {
    let mut head = [0; HEADER];
    if read_full(file, &mut head, at)? < HEADER || head[..4] != *MAGIC || head[72..] != check(nonce, at, &head) {
        return Ok(None);
    }
    let word = |range: std::ops::Range<usize>| {
        let mut word = [0; 8];
        word.copy_from_slice(&head[range]);
        u64::from_le_bytes(word)
    };
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let actor = ActorId::from_slice(&head[8..40]).expect("32 bytes");
    let fits = len as usize <= MAX_ENVELOPE && at + HEADER as u64 + u64::from(len) <= end;
    Ok(fits.then(|| Found { offset: at, len, actor, seq: word(40..48), durable: word(48..56) }))
}

fn next_magic(file: &dyn StorageFile, from: u64, end: u64) -> std::io::Result<Option<u64>> {
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

mod check;

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
