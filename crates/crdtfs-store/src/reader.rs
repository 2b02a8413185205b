//! Reading a content at any place; what lacks is fetched while the reader waits, once for all who wait.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crdtfs_core::content::{ChunkRef, ContentRef};
use crdtfs_core::id::Hash;
use crdtfs_core::port::Reader;
use parking_lot::{Condvar, Mutex};

use crate::fetch::{verify, write_one};
use crate::index::{Key, key};
use crate::layer::seek_file;
use crate::manifest::Need;
use crate::object::OBJECT_FROM;
use crate::pack::Codec;
use crate::source::{ChunkSink, ChunkSource, Urgency, Want};
use crate::space::is_full;
use crate::store::{ChunkSpan, Inner, Store};

/// Chunk lists are looked up for a stretch of this many bytes at a time.
const STRETCH: u64 = 64 << 20;
/// A reader that goes forward has so many chunks fetched ahead of it.
const AHEAD: usize = 16;

/// Chunks that are being fetched for readers of one share.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    chunks: Mutex<HashSet<Key>>,
    landed: Condvar,
}

/// What a share's readers have in common.
pub(crate) struct Window {
    pub(crate) store: Store,
    pub(crate) source: Arc<dyn ChunkSource>,
    pub(crate) in_flight: InFlight,
}

/// A part of a content and its chunks.
type Stretch = (Range<u64>, Arc<[ChunkSpan]>);

/// A content, open for reading.
pub(crate) struct ContentReader {
    window: Arc<Window>,
    content: ContentRef,
    urgency: Urgency,
    stretch: Mutex<Option<Stretch>>,
    /// The object that holds the content, with the offsets of the chunks that were verified in it since this was opened.
    object: Mutex<Option<(Arc<File>, HashSet<u64>)>>,
    last_end: AtomicU64,
    ahead: Arc<AtomicBool>,
}

impl ContentReader {
    pub(crate) fn new(window: Arc<Window>, content: &ContentRef, urgency: Urgency) -> Self {
        let inner = &window.store.inner;
        let content = inner.resolve(content);
        inner.pin(&content);
        let object = (content.size >= OBJECT_FROM).then(|| inner.object_of(&content)).flatten();
        let object = Mutex::new(object.map(|(_, file)| (file, HashSet::new())));
        Self {
            window,
            content,
            urgency,
            stretch: Mutex::new(None),
            object,
            last_end: AtomicU64::new(u64::MAX),
            ahead: Arc::default(),
        }
    }

    pub(crate) fn content(&self) -> &ContentRef {
        &self.content
    }

    fn inner(&self) -> &Inner {
        &self.window.store.inner
    }

    /// The chunks around a place, from the offset's stretch; fetches the manifest as far as it is needed.
    fn spans_at(&self, offset: u64) -> io::Result<Arc<[ChunkSpan]>> {
        let mut stretch = self.stretch.lock();
        if let Some((range, spans)) = &*stretch
            && range.contains(&offset)
        {
            return Ok(spans.clone());
        }
        let start = offset / STRETCH * STRETCH;
        let range = start..(start + STRETCH).min(self.content.size);
        loop {
            let (spans, needs) = self.inner().spans(&self.content, range.clone())?;
            if needs.is_empty() {
                let spans: Arc<[ChunkSpan]> = spans.into();
                *stretch = Some((range, spans.clone()));
                return Ok(spans);
            }
            if self.content.manifest.is_none() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "nobody has named this content's manifest"));
            }
            let earlier = self.inner().earlier_of(&self.content, &*self.window.source);
            let want = |need: &Need| {
                let base = earlier.and_then(|earlier| self.inner().node_like(&self.content, need, &earlier));
                Want { chunk: ChunkRef::within(&self.content, need.offset, need.hash), len: 0, base }
            };
            let wants: Vec<Want> = needs.iter().map(want).collect();
            self.window.fetch(&wants, self.urgency, &|index, bytes| {
                Ok(self.inner().put(&wants[index].chunk.hash, bytes, Codec::Raw)?)
            })?;
        }
    }

    /// The part of a chunk from `skip` on, into `buf`.
    fn read_span(&self, spans: &[ChunkSpan], at: usize, skip: usize, buf: &mut [u8]) -> io::Result<()> {
        let span = spans[at];
        if self.read_object(&span, skip, buf)? {
            return Ok(());
        }
        let mut tries = 0;
        let bytes = loop {
            // What is read as a whole goes by the cache: it is not read again in pieces.
            if skip == 0
                && buf.len() == span.len as usize
                && let Some(bytes) = self.inner().read_chunk(&span.hash)?
            {
                buf.copy_from_slice(&bytes);
                return Ok(());
            }
            if let Some(bytes) = self.inner().read_cached(&span.hash)? {
                break bytes;
            }
            tries += 1;
            if tries > 8 {
                return Err(io::Error::other(format!("chunk {} does not stay where it is put", span.hash)));
            }
            match self.fetch_spans(&[span], self.urgency) {
                Err(error) if is_full(error.kind()) => {
                    break self.window.fetch_unkept(&self.content, &span, self.urgency)?;
                }
                fetched => fetched?,
            }
        };
        buf.copy_from_slice(&bytes[skip..skip + buf.len()]);
        Ok(())
    }

    /// Reads from the object if there is one: a chunk is verified there once a reader, then read as it is, since only the
    /// store writes that file.
    fn read_object(&self, span: &ChunkSpan, skip: usize, buf: &mut [u8]) -> io::Result<bool> {
        let file = match &*self.object.lock() {
            Some((file, verified)) if verified.contains(&span.offset) => {
                file.read_exact_at(buf, span.offset + skip as u64)?;
                return Ok(true);
            }
            Some((file, _)) => file.clone(),
            None => return Ok(false),
        };
        let good = |bytes: &mut [u8]| file.read_exact_at(bytes, span.offset).is_ok() && Hash::of(bytes) == span.hash;
        if buf.len() == span.len as usize {
            if !good(buf) {
                return Ok(false);
            }
        } else {
            let mut bytes = vec![0; span.len as usize];
            if !good(&mut bytes) {
                return Ok(false);
            }
            buf.copy_from_slice(&bytes[skip..skip + buf.len()]);
        }
        if let Some((_, verified)) = &mut *self.object.lock() {
            verified.insert(span.offset);
        }
        Ok(true)
    }

    fn fetch_spans(&self, spans: &[ChunkSpan], urgency: Urgency) -> io::Result<()> {
        self.window.fetch_spans(&self.content, spans, urgency)
    }

    /// A reader that goes forward and had to wait gets the next chunks fetched behind its back.
    fn read_ahead(&self, spans: &[ChunkSpan], from: usize) {
        let next: Vec<ChunkSpan> = {
            let index = self.inner().index.read();
            let lacks = |span: &&ChunkSpan| !index.has(&key(&span.hash));
            spans[from..].iter().take(AHEAD).filter(lacks).copied().collect()
        };
        if next.is_empty() || self.ahead.swap(true, Ordering::AcqRel) {
            return;
        }
        let (window, content, running) = (self.window.clone(), self.content, self.ahead.clone());
        let run = move || {
            if let Err(error) = window.fetch_spans(&content, &next, Urgency::Read) {
                tracing::debug!(%error, "reading ahead failed");
            }
            running.store(false, Ordering::Release);
        };
        // Without a thread the reader waits for each chunk: slower, not wrong.
        if std::thread::Builder::new().name("store-read-ahead".into()).spawn(run).is_err() {
            self.ahead.store(false, Ordering::Release);
        }
    }
}

impl Drop for ContentReader {
    fn drop(&mut self) {
        self.inner().unpin(&self.content);
    }
}

impl Reader for ContentReader {
    fn size(&self) -> u64 {
        self.content.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.content.size.min(offset.saturating_add(buf.len() as u64));
        let sequential = self.last_end.swap(end, Ordering::Relaxed) == offset || offset == 0;
        let mut done = 0;
        while offset + (done as u64) < end {
            let place = offset + done as u64;
            let spans = self.spans_at(place)?;
            let at = spans.partition_point(|span| span.offset + u64::from(span.len) <= place);
            let Some(span) = spans.get(at).copied() else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the manifest has a gap"));
            };
            if sequential && !self.inner().index.read().has(&key(&span.hash)) {
                self.read_ahead(&spans, at + 1);
            }
            let skip = (place - span.offset) as usize;
            let n = (span.len as usize - skip).min((end - place) as usize);
            self.read_span(&spans, at, skip, &mut buf[done..done + n])?;
            done += n;
        }
        Ok(done)
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        match self.backing() {
            _ if offset >= self.content.size => Ok(None),
            Some(object) => seek_file(&object, offset, data),
            None => Ok(Some(if data { offset } else { self.content.size })),
        }
    }

    fn backing(&self) -> Option<Arc<File>> {
        if self.content.size < OBJECT_FROM {
            return None;
        }
        self.inner().object_of(&self.content).map(|(_, file)| file)
    }
}

/// Gets what arrives: index into the wants, verified bytes.
type OnChunk<'a> = &'a (dyn Fn(usize, &[u8]) -> io::Result<()> + Sync);

impl Window {
    /// Brings chunks of a content here, into its object if it is large, else into the packs. An object is not begun that does not
    /// fit (`StorageFull`): it would take the room of what does.
    fn fetch_spans(&self, content: &ContentRef, spans: &[ChunkSpan], urgency: Urgency) -> io::Result<()> {
        let inner = &self.store.inner;
        let want = |span: &ChunkSpan| {
            let chunk = ChunkRef::within(content, span.offset, span.hash);
            Want { chunk, len: span.len, base: None }
        };
        let wants: Vec<Want> = spans.iter().map(want).collect();
        if content.size < OBJECT_FROM || inner.object_of(content).is_some() {
            return self
                .fetch(&wants, urgency, &|index, bytes| Ok(inner.put(&wants[index].chunk.hash, bytes, Codec::Raw)?));
        }
        // The object needs the whole list; where it is not here yet, the packs take what a reader waits for.
        let (all, needs) = inner.spans(content, 0..content.size)?;
        if !needs.is_empty() {
            return self
                .fetch(&wants, urgency, &|index, bytes| Ok(inner.put(&wants[index].chunk.hash, bytes, Codec::Raw)?));
        }
        if !inner.wants_object(content, &all) {
            return self
                .fetch(&wants, urgency, &|index, bytes| Ok(inner.put(&wants[index].chunk.hash, bytes, Codec::Raw)?));
        }
        if !inner.fillings.is_known(content) && !self.has_room_for(content) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let filling = inner.fill_object(content, &all)?;
        self.fetch(&wants, urgency, &|index, bytes| {
            let at = all.partition_point(|span| span.offset < spans[index].offset);
            filling.write(inner, at, bytes)
        })?;
        inner.finish_object(&filling)
    }

    /// Whether what lacks of a content fits on the disk.
    pub(crate) fn has_room_for(&self, content: &ContentRef) -> bool {
        let Some(space) = self.source.space() else { return true };
        let room = space.room();
        content.size <= room || self.store.inner.room_for(content).is_ok_and(|lacks| lacks <= room)
    }

    /// A chunk for a reader alone: there is no room to keep it.
    fn fetch_unkept(&self, content: &ContentRef, span: &ChunkSpan, urgency: Urgency) -> io::Result<Arc<[u8]>> {
        let want = Want { chunk: ChunkRef::within(content, span.offset, span.hash), len: span.len, base: None };
        let sink = UnkeptSink { want: &want, bytes: Mutex::default() };
        self.source.fetch(&[want], urgency, &sink)?;
        let bytes = sink.bytes.into_inner();
        let bytes =
            bytes.ok_or_else(|| io::Error::new(io::ErrorKind::HostUnreachable, "nobody reachable has these bytes"))?;
        self.store.inner.chunk_cache.lock().put(key(&span.hash), bytes.clone());
        Ok(bytes)
    }

    /// Fetches chunks, but for those that are on their way for somebody else: waits for these.
    fn fetch(&self, wants: &[Want], urgency: Urgency, each: OnChunk<'_>) -> io::Result<()> {
        let inner = &self.store.inner;
        let mut mine = Vec::new();
        {
            let mut chunks = self.in_flight.chunks.lock();
            let index = inner.index.read();
            for (at, want) in wants.iter().enumerate() {
                let key = key(&want.chunk.hash);
                if !index.has(&key) && chunks.insert(key) {
                    mine.push(at);
                }
            }
        }
        let own: Vec<Want> = mine.iter().map(|at| wants[*at]).collect();
        let sink = ReadSink { window: self, own: &own, mine: &mine, each };
        let fetched = if own.is_empty() { Ok(()) } else { self.source.fetch(&own, urgency, &sink) };
        for want in &own {
            self.in_flight.land(&key(&want.chunk.hash));
        }
        fetched?;
        let lacks = |want: &Want| !inner.index.read().has(&key(&want.chunk.hash));
        if own.iter().any(lacks) {
            return Err(io::Error::new(io::ErrorKind::HostUnreachable, "nobody reachable has these bytes"));
        }
        for want in wants {
            self.in_flight.wait(&key(&want.chunk.hash));
        }
        Ok(())
    }
}

impl InFlight {
    fn land(&self, key: &Key) {
        if self.chunks.lock().remove(key) {
            self.landed.notify_all();
        }
    }

    fn wait(&self, key: &Key) {
        let mut chunks = self.chunks.lock();
        while chunks.contains(key) {
            self.landed.wait(&mut chunks);
        }
    }
}

struct ReadSink<'a> {
    window: &'a Window,
    own: &'a [Want],
    mine: &'a [usize],
    each: OnChunk<'a>,
}

impl ChunkSink for ReadSink<'_> {
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let want = &self.own[index];
        verify(want, bytes)?;
        write_one(&*self.window.source, bytes, || (self.each)(self.mine[index], bytes))?;
        // Whoever waits for this one need not wait for the rest.
        self.window.in_flight.land(&key(&want.chunk.hash));
        Ok(())
    }
}

struct UnkeptSink<'a> {
    want: &'a Want,
    bytes: Mutex<Option<Arc<[u8]>>>,
}

impl ChunkSink for UnkeptSink<'_> {
    fn accept(&self, _: usize, bytes: &[u8]) -> io::Result<()> {
        verify(self.want, bytes)?;
        *self.bytes.lock() = Some(bytes.into());
        Ok(())
    }
}
