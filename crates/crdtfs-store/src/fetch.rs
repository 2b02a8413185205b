//! Bringing contents here: manifests first, then chunks, into files or packs. What is here already is not fetched.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crdtfs_core::content::{ChunkRef, ContentRef};
use crdtfs_core::id::{Hash, InodeId, ShareId};
use parking_lot::Mutex;

use crate::base;
use crate::chunker::{Input, chunk_bytes, chunk_known, fill};
use crate::error::StoreError;
use crate::fill::{Filling, reopen};
use crate::index::{Note, Place, key};
use crate::known::{Known, Like};
use crate::layer::seek_file;
use crate::object::OBJECT_FROM;
use crate::pack::Codec;
use crate::source::{ChunkSink, ChunkSource, Urgency, Want};
use crate::space::Taken;
use crate::store::{ChunkSpan, Inner};
use crate::text::{TEXT_MAX, is_text};
use crate::zeros::{self, is_zeros};

/// Chunks that are asked for in one call.
const WINDOW: usize = 8192;
/// From so many chunks on they are copied by two threads.
const COPY_PIPELINE_FROM: usize = 8;
/// Chunks that were read and not written yet.
const COPY_AHEAD: usize = 8;

/// Where a content is wanted.
pub(crate) enum Into<'a> {
    /// In the packs, or in an object if it is large and most of it lacks.
    Store,
    /// In a folder's file.
    Folder(ShareId, InodeId, &'a File),
}

/// One content on its way.
struct Job<'a> {
    content: ContentRef,
    into: &'a Into<'a>,
    spans: Vec<ChunkSpan>,
    /// Another version of the same file, the most of which is here.
    earlier: Option<ContentRef>,
    filling: Option<Arc<Filling>>,
    /// A folder's file of one chunk needs no filling: it is written at once.
    written: AtomicBool,
    /// Room for what it lacks, where the disk has a reserve.
    taken: Option<Taken>,
    failed: Mutex<Option<io::Error>>,
}

impl Job<'_> {
    fn fail(&self, error: &io::Error) {
        self.failed.lock().get_or_insert_with(|| copy_error(error));
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }
}

/// An error for each of several who waited for one thing.
pub(crate) fn copy_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Fetches contents; an outcome for each. Blocks.
pub(crate) fn fetch(
    inner: &Inner,
    source: &dyn ChunkSource,
    wanted: &[(ContentRef, Into<'_>)],
    urgency: Urgency,
) -> Vec<io::Result<()>> {
    let mut jobs: Vec<Job<'_>> = wanted
        .iter()
        .map(|(content, into)| Job {
            content: inner.resolve(content),
            into,
            spans: Vec::new(),
            earlier: None,
            filling: None,
            written: AtomicBool::new(false),
            taken: None,
            failed: Mutex::new(None),
        })
        .collect();
    fetch_manifests(inner, source, &mut jobs, urgency);
    for job in &mut jobs {
        if job.has_failed() {
            continue;
        }
        if let Err(error) = job.begin(inner).and_then(|()| job.prepare(inner, source)) {
            job.fail(&error);
        }
    }
    fetch_chunks(inner, source, &jobs, urgency);
    // What the index had and the disk turned out not to have is fetched after all. Each job is looked at, not just the first.
    if jobs.iter().filter(|job| job.lost_chunks(inner)).count() > 0 {
        fetch_chunks(inner, source, &jobs, urgency);
    }
    jobs.into_iter().map(|job| job.end(inner)).collect()
}

/// Fetches the nodes of all manifests, level by level, together.
fn fetch_manifests(inner: &Inner, source: &dyn ChunkSource, jobs: &mut [Job<'_>], urgency: Urgency) {
    // The first nodes are what all else waits for: they are small, and asked for a little sooner.
    let sooner = urgency.min(Urgency::Apply);
    loop {
        let mut wants: Vec<Want> = Vec::new();
        let mut askers: HashMap<Hash, Vec<usize>> = HashMap::new();
        for (at, job) in jobs.iter_mut().enumerate() {
            if job.has_failed() || !job.spans.is_empty() {
                continue;
            }
            match inner.spans(&job.content, 0..job.content.size) {
                Ok((spans, needs)) if needs.is_empty() => job.spans = spans,
                Ok((_, needs)) if job.content.manifest.is_none() => {
                    debug_assert!(!needs.is_empty());
                    let error = io::Error::new(io::ErrorKind::NotFound, "nobody has named this content's manifest");
                    job.fail(&error);
                }
                Ok((_, needs)) => {
                    job.find_earlier(inner, source);
                    for need in needs {
                        let asked = askers.entry(need.hash).or_default();
                        if asked.is_empty() {
                            let base = job.earlier.and_then(|earlier| inner.node_like(&job.content, &need, &earlier));
                            let chunk = ChunkRef::within(&job.content, need.offset, need.hash);
                            wants.push(Want { chunk, len: 0, base });
                        }
                        asked.push(at);
                    }
                }
                Err(error) => job.fail(&error.into()),
            }
        }
        if wants.is_empty() {
            return;
        }
        let sink = PackSink { inner, source, wants: &wants };
        let fetched = source.fetch(&wants, sooner, &sink);
        let mut lacking: Vec<&Want> = Vec::new();
        {
            let index = inner.index.read();
            lacking.extend(wants.iter().filter(|want| !index.has(&key(&want.chunk.hash))));
        }
        let error = match fetched {
            Err(error) => error,
            Ok(()) => io::Error::new(io::ErrorKind::HostUnreachable, "nobody reachable has this content's manifest"),
        };
        for want in lacking {
            for job in &askers[&want.chunk.hash] {
                jobs[*job].fail(&error);
            }
        }
    }
}

/// Takes nodes of manifests.
struct PackSink<'a> {
    inner: &'a Inner,
    source: &'a dyn ChunkSource,
    wants: &'a [Want],
}

impl ChunkSink for PackSink<'_> {
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let hash = verify(&self.wants[index], bytes)?;
        write_one(self.source, bytes, || Ok(self.inner.put(&hash, bytes, Codec::Raw)?))
    }
}

/// Writes a chunk that comes alone.
pub(crate) fn write_one(
    source: &dyn ChunkSource,
    bytes: &[u8],
    act: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match source.space() {
        Some(space) => space.take(bytes.len() as u64)?.write(bytes.len() as u64, act),
        None => act(),
    }
}

/// The hash of what arrived, if it is what was wanted.
pub(crate) fn verify(want: &Want, bytes: &[u8]) -> io::Result<Hash> {
    let hash = want.chunk.hash;
    if Hash::of(bytes) == hash && (want.len == 0 || want.len as usize == bytes.len()) {
        return Ok(hash);
    }
    let reason = format!("what arrived for chunk {hash} is not it");
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

impl Job<'_> {
    /// Finds another version to compare with, where this one is not here.
    fn find_earlier(&mut self, inner: &Inner, source: &dyn ChunkSource) {
        if self.earlier.is_none() {
            self.earlier = inner.earlier_of(&self.content, source);
        }
    }

    /// Makes the place for the chunks.
    fn begin(&mut self, inner: &Inner) -> io::Result<()> {
        match self.into {
            Into::Folder(_, _, file) if self.spans.is_empty() => {
                file.set_len(0)?;
                self.written.store(true, Ordering::Release);
            }
            Into::Folder(..) if self.spans.len() == 1 => {}
            Into::Folder(_, _, file) => {
                let spans = self.spans.clone();
                self.filling = Some(Arc::new(Filling::begin(inner, &self.content, spans, file)?));
            }
            Into::Store if inner.wants_object(&self.content, &self.spans) => {
                self.filling = Some(inner.fill_object(&self.content, &self.spans)?);
            }
            Into::Store => {}
        }
        Ok(())
    }

    /// Sees to what it lacks: sets room aside for that, and finds what it is like.
    fn prepare(&mut self, inner: &Inner, source: &dyn ChunkSource) -> io::Result<()> {
        let lacking = self.lacking(inner);
        self.take_room(&lacking, source)?;
        if self.spans.len() > 1 && !lacking.is_empty() {
            self.find_earlier(inner, source);
        }
        Ok(())
    }

    /// Sets room aside for what it lacks, if it is on the disk that has a reserve.
    fn take_room(&mut self, lacking: &[usize], source: &dyn ChunkSource) -> io::Result<()> {
        let Some(space) = source.space() else { return Ok(()) };
        if matches!(self.into, Into::Folder(_, _, file) if !space.holds(file)) {
            return Ok(());
        }
        let bytes = lacking.iter().map(|at| zeros::room(&self.spans[*at])).sum();
        self.taken = if bytes > 0 { Some(space.take(bytes)?) } else { None };
        Ok(())
    }

    /// The chunks that it lacks.
    fn lacking(&self, inner: &Inner) -> Vec<usize> {
        match &self.filling {
            _ if self.has_failed() => Vec::new(),
            Some(filling) => filling.lacking(),
            None if matches!(self.into, Into::Folder(..)) => {
                if self.written.load(Ordering::Acquire) {
                    Vec::new()
                } else {
                    vec![0]
                }
            }
            None => {
                let index = inner.index.read();
                let lacks = |(_, span): &(usize, &ChunkSpan)| !index.has(&key(&span.hash));
                self.spans.iter().enumerate().filter(lacks).map(|(at, _)| at).collect()
            }
        }
    }

    /// Whether it has a chunk.
    fn has(&self, inner: &Inner, at: usize) -> bool {
        match (&self.filling, self.into) {
            (Some(filling), _) => filling.has(at),
            (None, Into::Folder(..)) => self.written.load(Ordering::Acquire),
            (None, Into::Store) => inner.index.read().has(&key(&self.spans[at].hash)),
        }
    }

    /// Whether looking at the chunks in the packs showed that some are not there.
    fn lost_chunks(&self, inner: &Inner) -> bool {
        let in_packs = matches!(self.into, Into::Store) && self.filling.is_none();
        in_packs
            && !self.has_failed()
            && self.lacking(inner).is_empty()
            && inner.verify_whole(&self.content, &self.spans).is_err()
            && !self.lacking(inner).is_empty()
    }

    /// Takes a verified chunk.
    fn accept(&self, inner: &Inner, at: usize, bytes: &[u8]) -> io::Result<()> {
        match (&self.taken, zeros::room(&self.spans[at])) {
            (Some(taken), room) if room > 0 => taken.write(room, || self.write(inner, at, bytes)),
            _ => self.write(inner, at, bytes),
        }
    }

    fn write(&self, inner: &Inner, at: usize, bytes: &[u8]) -> io::Result<()> {
        match (&self.filling, self.into) {
            (Some(filling), _) => filling.write(inner, at, bytes),
            (None, Into::Folder(_, _, file)) => {
                file.write_all_at(bytes, 0)?;
                file.set_len(bytes.len() as u64)?;
                if is_text(bytes) {
                    inner.put(&self.spans[at].hash, bytes, Codec::Zstd)?;
                }
                self.written.store(true, Ordering::Release);
                Ok(())
            }
            (None, Into::Store) => {
                let codec = if self.content.size <= TEXT_MAX && is_text(bytes) { Codec::Zstd } else { Codec::Raw };
                Ok(inner.put(&self.spans[at].hash, bytes, codec)?)
            }
        }
    }

    /// What became of it.
    fn end(self, inner: &Inner) -> io::Result<()> {
        let failed = self.failed.lock().take();
        let lacking = failed.is_none() && !self.lacking(inner).is_empty();
        let result = match failed {
            Some(error) => Err(error),
            None if lacking => Err(io::Error::new(io::ErrorKind::HostUnreachable, "nobody reachable has all of it")),
            None => self.complete(inner),
        };
        if let (Some(filling), Into::Folder(..)) = (&self.filling, self.into) {
            filling.end(inner);
        }
        result
    }

    fn complete(&self, inner: &Inner) -> io::Result<()> {
        match (&self.filling, self.into) {
            (Some(filling), Into::Folder(share, key, _)) => inner.folder_file_is_whole(*share, *key, filling),
            (Some(filling), Into::Store) => inner.finish_object(filling),
            (None, Into::Folder(share, key, file)) => inner.small_file_is_whole(*share, *key, &self.content, file),
            (None, Into::Store) => inner.verify_whole(&self.content, &self.spans),
        }
    }
}

/// Where each chunk goes: (job, index into its spans).
type Takers = Vec<(usize, usize)>;

fn fetch_chunks(inner: &Inner, source: &dyn ChunkSource, jobs: &[Job<'_>], urgency: Urgency) {
    let mut local: Vec<(Want, Takers)> = Vec::new();
    let mut away: Vec<(Want, Takers)> = Vec::new();
    let mut seen: HashMap<Hash, (bool, usize)> = HashMap::new();
    for (number, job) in jobs.iter().enumerate() {
        let lacking = job.lacking(inner);
        let bases = job.earlier.map_or_else(Default::default, |earlier| inner.bases(&job.spans, &lacking, &earlier));
        for at in lacking {
            let span = &job.spans[at];
            if let Some((is_local, slot)) = seen.get(&span.hash) {
                let list = if *is_local { &mut local } else { &mut away };
                list[*slot].1.push((number, at));
                continue;
            }
            let is_local = inner.index.read().has(&key(&span.hash)) || is_zeros(span);
            let list = if is_local { &mut local } else { &mut away };
            seen.insert(span.hash, (is_local, list.len()));
            let chunk = ChunkRef::within(&job.content, span.offset, span.hash);
            let base = bases.get(&at).copied();
            list.push((Want { chunk, len: span.len, base }, vec![(number, at)]));
        }
    }
    let mut late = Vec::new();
    std::thread::scope(|scope| {
        let copying = (!local.is_empty() && !away.is_empty()).then(|| {
            let local = std::mem::take(&mut local);
            scope.spawn(move || copy_local(inner, jobs, local))
        });
        fetch_away(inner, source, jobs, &away, urgency);
        late = match copying {
            Some(copying) => copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => copy_local(inner, jobs, std::mem::take(&mut local)),
        };
    });
    // Chunks that were not where the index had them (a folder's file changed).
    fetch_away(inner, source, jobs, &late, urgency);
}

/// Copies what is here; returns what turned out not to be. Reading and verifying is one thread's work, writing and hashing
/// the whole another's.
fn copy_local(inner: &Inner, jobs: &[Job<'_>], local: Vec<(Want, Takers)>) -> Vec<(Want, Takers)> {
    if local.len() < COPY_PIPELINE_FROM {
        return read_local(inner, jobs, local, &mut |takers, bytes| give(inner, jobs, &takers, &bytes));
    }
    std::thread::scope(|scope| {
        let (to_write, read) = mpsc::sync_channel::<(Takers, Vec<u8>)>(COPY_AHEAD);
        scope.spawn(move || read.iter().for_each(|(takers, bytes)| give(inner, jobs, &takers, &bytes)));
        // The writer ends only when this side does: it takes all.
        read_local(inner, jobs, local, &mut |takers, bytes| _ = to_write.send((takers, bytes)))
    })
}

/// Reads what is here, verified; returns what turned out not to be.
fn read_local(
    inner: &Inner,
    jobs: &[Job<'_>],
    local: Vec<(Want, Takers)>,
    each: &mut dyn FnMut(Takers, Vec<u8>),
) -> Vec<(Want, Takers)> {
    let mut late = Vec::new();
    for (want, takers) in local {
        if takers.iter().all(|(job, _)| jobs[*job].has_failed()) {
            continue;
        }
        let hash = want.chunk.hash;
        let zeros = hash == zeros::hash();
        let bytes = if zeros { Ok(Some(zeros::ZEROS.to_vec())) } else { inner.read_chunk(&hash) };
        match bytes {
            Ok(Some(bytes)) => each(takers, bytes),
            Ok(None) => late.push((want, takers)),
            Err(error) => {
                let error: io::Error = error.into();
                takers.iter().for_each(|(job, _)| jobs[*job].fail(&error));
            }
        }
    }
    late
}

/// An error of one taker's file (a full disk) is that taker's only.
fn give(inner: &Inner, jobs: &[Job<'_>], takers: &Takers, bytes: &[u8]) {
    for (job, at) in takers {
        let job = &jobs[*job];
        if !job.has_failed()
            && let Err(error) = job.accept(inner, *at, bytes)
        {
            job.fail(&error);
        }
    }
}

fn fetch_away(inner: &Inner, source: &dyn ChunkSource, jobs: &[Job<'_>], away: &[(Want, Takers)], urgency: Urgency) {
    for window in away.chunks(WINDOW) {
        let window: Vec<&(Want, Takers)> =
            window.iter().filter(|(_, takers)| takers.iter().any(|(job, _)| !jobs[*job].has_failed())).collect();
        if window.is_empty() {
            continue;
        }
        let wants: Vec<Want> = window.iter().map(|(want, _)| *want).collect();
        let sink = JobSink { inner, source, jobs, window: &window };
        if let Err(error) = source.fetch(&wants, urgency, &sink) {
            for (_, takers) in &window {
                for (job, at) in takers {
                    let job = &jobs[*job];
                    if !job.has(inner, *at) {
                        job.fail(&error);
                    }
                }
            }
        }
    }
}

struct JobSink<'a, 'j> {
    inner: &'a Inner,
    source: &'a dyn ChunkSource,
    jobs: &'a [Job<'j>],
    window: &'a [&'a (Want, Takers)],
}

impl ChunkSink for JobSink<'_, '_> {
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let (want, takers) = self.window[index];
        // Whatever disk a file is on: the log and the index are to know of it.
        if self.source.space().is_some_and(|space| space.is_low()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        verify(want, bytes)?;
        give(self.inner, self.jobs, takers, bytes);
        // With nobody left who can take anything (the disk is full) the source need not go on.
        let all_failed = self.jobs.iter().all(Job::has_failed);
        match self.jobs.first().filter(|_| all_failed) {
            Some(job) => Err(job.failed.lock().as_ref().map_or_else(|| io::ErrorKind::Other.into(), copy_error)),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// A filled file of a folder is whole: it is its key's container from now on.
    fn folder_file_is_whole(&self, share: ShareId, key: InodeId, filling: &Filling) -> io::Result<()> {
        if !filling.finish()? {
            return Err(io::Error::other("the file is not whole"));
        }
        let content = filling.content;
        if content.size <= TEXT_MAX {
            self.keep_text_of(&filling.file(), &filling.spans, content.size)?;
        }
        let note = Note::Folder { id: filling.id, share, key, content };
        self.note(&note, |index| index.persist(filling.places()))?;
        // Until the folder has moved it to its place, chunks are read through this; open for reading only, else nobody could
        // run it, and it would look as if some program was writing to it.
        self.file_cache.lock().put(filling.id, Arc::new(reopen(&filling.file())?), true);
        self.expect_file(filling.id, &filling.file())
    }

    /// A folder's file of at most one chunk is written.
    fn small_file_is_whole(&self, share: ShareId, inode: InodeId, content: &ContentRef, file: &File) -> io::Result<()> {
        let (spans, _) = self.spans(content, 0..content.size)?;
        // A chunk of more than 64 KiB has a manifest, and with it a hash of the whole that may be a lie.
        if spans.iter().any(|span| span.hash != content.hash) {
            let mut bytes = vec![0; content.size as usize];
            reopen(file)?.read_exact_at(&mut bytes, 0)?;
            if Hash::of(&bytes) != content.hash {
                return Err(not_the_content(content));
            }
        }
        let id = self.fresh_id();
        self.note(&Note::Folder { id, share, key: inode, content: *content }, |index| {
            for span in &spans {
                index.add(key(&span.hash), Place::new(id, span.offset, span.len));
            }
        })?;
        self.expect_file(id, file)
    }

    /// Remembers which file a container is to be, until its folder has moved it to its place.
    fn expect_file(&self, id: u32, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        let mut arriving = self.arriving.lock();
        // Far longer than a folder takes to apply a batch; looked through when it has grown by half.
        if arriving.len() == arriving.capacity() {
            arriving.retain(|_, (_, _, since)| since.elapsed() < Duration::from_secs(600));
        }
        arriving.insert(id, (meta.dev(), meta.ino(), Instant::now()));
        Ok(())
    }

    /// Whether the chunks in the packs are the content; remembers its manifest then.
    fn verify_whole(&self, content: &ContentRef, spans: &[ChunkSpan]) -> io::Result<()> {
        let known = self.index.read().manifest_of(&content.hash);
        if content.manifest.is_none() || known.map(|known| known.0) == content.manifest {
            return Ok(());
        }
        let whole = std::thread::scope(|scope| {
            let (to_hash, read) = mpsc::sync_channel::<Vec<u8>>(COPY_AHEAD);
            let hasher = scope.spawn(move || {
                let mut whole = blake3::Hasher::new();
                read.iter().for_each(|bytes| _ = whole.update(&bytes));
                whole.finalize()
            });
            let read = spans.iter().try_for_each(|span| {
                let bytes = self.read_chunk(&span.hash)?.ok_or(io::ErrorKind::NotFound)?;
                to_hash.send(bytes).map_err(|_| io::Error::other("the hashing thread has ended"))
            });
            drop(to_hash);
            let whole = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.map(|()| whole)
        })?;
        if *whole.as_bytes() != content.hash.0 {
            return Err(not_the_content(content));
        }
        Ok(self.remember_content(content)?)
    }

    /// Keeps the chunks of a small text compressed in the packs, as a base for merges.
    fn keep_text_of(&self, file: &File, spans: &[ChunkSpan], size: u64) -> io::Result<()> {
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0)?;
        if is_text(&bytes) {
            for span in spans {
                let at = span.offset as usize;
                self.put(&span.hash, &bytes[at..at + span.len as usize], Codec::Zstd)?;
            }
        }
        Ok(())
    }

    /// Hashes and chunks a folder's file in place. Where most of it is known to be that of another content (its earlier
    /// version), most of it need not be chunked, and what still stands in it of that stays readable.
    pub(crate) fn index_file(
        &self,
        share: ShareId,
        inode: InodeId,
        file: &File,
        like: Option<&ContentRef>,
    ) -> io::Result<ContentRef> {
        let size = file.metadata()?.len();
        let like = like.filter(|like| like.size > TEXT_MAX && size > TEXT_MAX);
        let before = like.map_or_else(Vec::new, |like| self.known_chunks(like));
        let chunked = if size <= TEXT_MAX {
            let mut bytes = vec![0; size as usize + 1];
            let n = fill(&mut |buf, offset| file.read_at(buf, offset), &mut bytes, 0)?;
            bytes.truncate(n);
            // Kept at once: any merge may need it as a base, if only to find that it is no text, and its user may write
            // over it before anybody else has it.
            let codec = if is_text(&bytes) { Codec::Zstd } else { Codec::Raw };
            chunk_bytes(&bytes, &mut |_, hash, chunk| Ok(self.put(hash, chunk, codec)?))?
        } else {
            let known = if before.is_empty() { Known::Nothing } else { Known::Like(Like::new(&before)) };
            // Where a filesystem cannot tell, all is data.
            let next_data = |offset| Ok(seek_file(file, offset, true).unwrap_or(Some(offset)).unwrap_or(size));
            let input = Input {
                size,
                read: &mut |buf, offset| file.read_at(buf, offset),
                next_data: &next_data,
                go_on: &|| true,
            };
            chunk_known(input, &mut |_, _, _| Ok(()), known)?.expect("nobody gives it up")
        };
        let content = self.put_manifest(&chunked)?;
        let remains = base::remains(&before, &chunked.chunks, chunked.size, file)?;
        let id = self.fresh_id();
        self.note(&Note::Folder { id, share, key: inode, content }, |index| {
            for (hash, offset, len) in &remains {
                index.add(key(hash), Place::new(id, *offset, *len));
            }
            let mut offset = 0;
            for (hash, len) in &chunked.chunks {
                index.add(key(hash), Place::new(id, offset, *len));
                offset += u64::from(*len);
            }
        })?;
        Ok(content)
    }

    /// Keeps a content without the folder's file that holds it and is about to go.
    pub(crate) fn keep_file(
        &self,
        share: ShareId,
        content: &ContentRef,
        file: &File,
        instead: Option<InodeId>,
    ) -> io::Result<()> {
        let content = self.resolve(content);
        let (spans, needs) = self.spans(&content, 0..content.size)?;
        if !needs.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the list of its chunks is not here"));
        }
        let lacking: Vec<ChunkSpan> = {
            let mut index = self.index.write();
            let share = index.share(&share);
            let instead = instead.and_then(|key| index.folder_file(share, &key));
            let stays = |span: &ChunkSpan| {
                let key = key(&span.hash);
                index.owns(&key) || index.places(&key).any(|place| Some(place.container) == instead)
            };
            spans.iter().filter(|span| !stays(span)).copied().collect()
        };
        let most = lacking.iter().map(|span| u64::from(span.len)).sum::<u64>() * 2 > content.size;
        let link = most && content.size >= OBJECT_FROM && file.metadata()?.nlink() == 1;
        // Each is read and compared, also where no byte is copied: what becomes an object has to be the content.
        let mut bytes = Vec::new();
        for span in if link { &spans } else { &lacking } {
            bytes.resize(span.len as usize, 0);
            file.read_exact_at(&mut bytes, span.offset)?;
            if Hash::of(&bytes) != span.hash {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file holds something else by now"));
            }
            if !link {
                self.put(&span.hash, &bytes, Codec::Raw)?;
            }
        }
        if !link {
            return Ok(());
        }
        // The store's from now on, whatever its owner let others do with it.
        let own = file.set_permissions(Permissions::from_mode(0o600));
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let whole = Arc::new(file.try_clone()?);
        let linked = own.is_ok().then(|| self.adopt_object(&path, whole, &content, &spans));
        match linked {
            // Another filesystem, one without links, or somebody else's file: then a copy.
            None | Some(Err(StoreError::Io { .. })) => {
                for span in &lacking {
                    bytes.resize(span.len as usize, 0);
                    file.read_exact_at(&mut bytes, span.offset)?;
                    self.put(&span.hash, &bytes, Codec::Raw)?;
                }
                Ok(())
            }
            Some(other) => Ok(other?),
        }
    }

    /// The folder's file no longer holds what was indexed.
    pub(crate) fn forget_file(&self, share: ShareId, inode: InodeId) -> Result<(), StoreError> {
        let id = {
            let mut index = self.index.write();
            let share = index.share(&share);
            index.folder_file(share, &inode)
        };
        let Some(id) = id else { return Ok(()) };
        self.file_cache.lock().remove(id);
        self.note(&Note::Gone { id }, |_| ())
    }
}

/// The manifest of a content is of other bytes.
pub(crate) fn not_the_content(content: &ContentRef) -> io::Error {
    let reason = "its chunks are those that its manifest lists, but they are not the content".into();
    StoreError::Malformed { content: content.hash.to_string(), reason }.into()
}
