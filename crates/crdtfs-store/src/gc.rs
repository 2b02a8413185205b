//! Collecting what nothing needs, and giving the room back.
//!
//! Who puts something and is about to make a change that names it takes a [`Lease`] first: what was put, or was put and
//! here already, while a lease lasts is not collected until it ends. Besides, what came after the collection before the last
//! is never collected, whether it is live or not. What was sealed is held by its write file as long as that is there.
//!
//! [`Store::reclaim`] is for a full disk: it needs no room itself. What it drops from packs is marked there as a place that
//! holds nothing, and the room is given back by a hole in the file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::hash::BuildHasherDefault;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crdtfs_core::content::{ContentRef, SINGLE_CHUNK_MAX};
use crdtfs_core::id::Hash;

use crate::error::StoreError;
use crate::index::{Container, Key, KeyMap, Note, Place, Taken, key};
use crate::manifest;
use crate::pack::{self, Codec, ENTRY_HEADER, Header, Kind, Position};
use crate::store::{Inner, Store};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Chunks dropped from packs.
    pub chunks: u64,
    /// Objects removed.
    pub objects: u64,
    /// Bytes of objects given back at once; the room of chunks comes back with [`Store::compact`].
    pub freed: u64,
}

/// Up to where the last collection looked, and which contents are open.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    position: Position,
    id: u32,
    pins: HashMap<Hash, (ContentRef, usize)>,
    /// What was put and was here already, and when that was last.
    touched: KeyMap<u64>,
    /// When each lease began that lasts, and up to where things had been put then.
    leases: BTreeMap<u64, (Position, u32)>,
    /// Counts leases and collections.
    now: u64,
    /// When the last collection began.
    collected: u64,
    /// The segment that was written at the last collection, and bytes of chunks that were dropped from it since it began.
    garbage: (u32, u64),
}

impl Marks {
    fn is_touched(&self, key: &Key) -> bool {
        self.touched.contains_key(key)
    }
}

/// Keeps what is put, by anybody, from being collected until it is dropped.
pub struct Lease {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.marks.lock().leases.remove(&self.number);
    }
}

/// Keeps a content from being collected.
pub(crate) struct Pin {
    inner: Arc<Inner>,
    content: ContentRef,
}

impl Pin {
    pub(crate) fn new(inner: &Arc<Inner>, content: &ContentRef) -> Self {
        inner.pin(content);
        Self { inner: inner.clone(), content: *content }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.inner.unpin(&self.content);
    }
}

type KeySet = HashSet<Key, BuildHasherDefault<Taken>>;

impl Store {
    /// Has what is put from now on stay until the lease is dropped, though nothing names it yet.
    pub fn lease(&self) -> Lease {
        let inner = &self.inner;
        let mut marks = inner.marks.lock();
        marks.now += 1;
        let (number, put) = (marks.now, (inner.packs.position(), inner.ids.load(Ordering::Relaxed)));
        marks.leases.insert(number, put);
        drop(marks);
        Lease { inner: inner.clone(), number }
    }

    /// Drops what no content in `live` needs, nor an open reader or write file. Things put since the last collection (the
    /// first: since the start), or during a lease that lasts, stay. `live` is asked once, after the line is drawn.
    pub fn gc(&self, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<GcReport, StoreError> {
        let (report, _) = self.inner.gc(live)?;
        match self.inner.checkpoint() {
            // The index is a cache, and what it still names is still there.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(report),
            committed => committed.map(|()| report),
        }
    }

    /// As [`Store::gc`], on a disk that is full: gives the room of what it drops back at once, and needs none.
    pub fn reclaim(&self, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<GcReport, StoreError> {
        let (mut report, dropped) = self.inner.gc(live)?;
        match self.inner.checkpoint() {
            // What goes from the packs now would still be named there, and be taken for stored after the next start.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let aside = self.inner.index_file.lock().put_aside();
                aside.map_err(StoreError::io("rename the index in", &self.inner.dir))?;
            }
            committed => committed?,
        }
        report.freed += self.inner.packs.punch(&dropped).map_err(self.inner.writing())?;
        // What did not fit before does now.
        self.inner.checkpoint()?;
        Ok(report)
    }

    /// Rewrites the pack segment with the most garbage, if more than half of it is; true if it did (call again). Takes at
    /// most one segment of disk on top.
    pub fn compact(&self) -> Result<bool, StoreError> {
        self.inner.compact()
    }
}

impl Inner {
    /// What is there at the start is old.
    pub(crate) fn mark_start(&self) {
        let mut marks = self.marks.lock();
        (marks.position, marks.id) = (self.packs.position(), self.ids.load(Ordering::Relaxed));
    }

    /// A content is open: it is not collected.
    pub(crate) fn pin(&self, content: &ContentRef) {
        self.marks.lock().pins.entry(content.hash).or_insert((*content, 0)).1 += 1;
    }

    /// Where what interrupted fetches left of contents that are open is.
    pub(crate) fn open_parts(&self) -> HashSet<PathBuf> {
        let pinned: Vec<_> = self.marks.lock().pins.values().map(|(content, _)| *content).collect();
        pinned.iter().map(|content| self.part_path(&self.resolve(content))).collect()
    }

    pub(crate) fn unpin(&self, content: &ContentRef) {
        let mut marks = self.marks.lock();
        if let Some((_, count)) = marks.pins.get_mut(&content.hash) {
            *count -= 1;
            if *count == 0 {
                marks.pins.remove(&content.hash);
            }
        }
    }

    /// What was put is here already: whether that is so, and then it stays for now.
    pub(crate) fn touch(&self, key: &Key) -> bool {
        if !self.index.read().owns(key) {
            return false;
        }
        // Looked at again: a collection holds the marks while it drops.
        let mut marks = self.marks.lock();
        let owned = self.index.read().owns(key);
        if owned {
            let now = marks.now;
            marks.touched.insert(*key, now);
        }
        owned
    }

    /// These stay for now, if they are here.
    pub(crate) fn marks_touched(&self, keys: &[Key]) {
        let mut marks = self.marks.lock();
        let now = marks.now;
        marks.touched.extend(keys.iter().map(|key| (*key, now)));
    }

    /// Collects; what was dropped from packs is given, too. The index file does not have it yet.
    fn gc(&self, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<(GcReport, Vec<Position>), StoreError> {
        let (old, old_id) = {
            let mut marks = self.marks.lock();
            let mut since = (marks.collected, marks.position, marks.id);
            if let Some((began, (position, id))) = marks.leases.first_key_value() {
                since = (since.0.min(*began), since.1.min(*position), since.2.min(*id));
            }
            marks.touched.retain(|_, when| *when >= since.0);
            marks.now += 1;
            marks.collected = marks.now;
            (marks.position, marks.id) = (self.packs.position(), self.ids.load(Ordering::Relaxed));
            (since.1, since.2)
        };
        let mut contents = live();
        contents.extend(self.marks.lock().pins.values().map(|(content, _)| *content));
        contents.extend(self.filling_objects());
        let mut keys = KeySet::default();
        for content in &contents {
            self.mark(content, &mut keys)?;
        }
        let mut report = GcReport::default();
        self.drop_objects(&contents, &keys, old_id, &mut report)?;
        self.mark_objects(&mut keys)?;
        let wanted: HashSet<_> = contents.iter().map(|content| self.part_path(&self.resolve(content))).collect();
        report.freed += self.drop_parts(&|_, path| !wanted.contains(path));
        let mut dropped = Vec::new();
        {
            let mut marks = self.marks.lock();
            let mut index = self.index.write();
            index.sweep();
            let mut garbage = (self.packs.active().unwrap_or_default(), 0);
            if garbage.0 == marks.garbage.0 {
                garbage = marks.garbage;
            }
            let dead = |key: &Key| !keys.contains(key) && !marks.is_touched(key);
            for key in index.keys().into_iter().filter(dead) {
                let in_old_pack = |place: &Place| {
                    index.containers.get(&place.container) == Some(&Container::Pack)
                        && (place.container, place.offset()) < old
                };
                let places: Vec<Place> = index.places(&key).filter(in_old_pack).collect();
                for place in places {
                    index.drop_place(&key, place.container);
                    report.chunks += 1;
                    dropped.push((place.container, place.offset()));
                    if place.container == garbage.0 {
                        garbage.1 += u64::from(place.len()) + ENTRY_HEADER as u64;
                    }
                }
            }
            marks.garbage = garbage;
        }
        Ok((report, dropped))
    }

    /// Adds the chunks and nodes of a content, as far as they are known.
    fn mark(&self, content: &ContentRef, keys: &mut KeySet) -> Result<(), StoreError> {
        let content = self.resolve(content);
        if content.size <= SINGLE_CHUNK_MAX {
            keys.insert(key(&content.hash));
            return Ok(());
        }
        let Some(root) = content.manifest else { return Ok(()) };
        let mut spans = KeySet::default();
        let mut node = |hash: &Hash, size, level, last| {
            keys.insert(key(hash));
            match self.manifest_node(hash, size, level, last) {
                // Somebody's lie has no chunks; an unreadable disk is another matter.
                Err(StoreError::Malformed { .. }) => Ok(None),
                other => other,
            }
        };
        manifest::walk(root, content.size, 0..content.size, &mut node, &mut |_, hash, _| {
            spans.insert(key(&hash));
            Ok::<_, StoreError>(())
        })?;
        keys.extend(spans);
        Ok(())
    }

    /// Adds what objects need that stay, live or not (they are young, or something else counts on them): their manifests lie
    /// in packs and may be older than they are.
    fn mark_objects(&self, keys: &mut KeySet) -> Result<(), StoreError> {
        let object = |container: &Container| match container {
            Container::Object(content) => Some(**content),
            _ => None,
        };
        let objects: Vec<ContentRef> = self.index.read().containers.values().filter_map(object).collect();
        objects.iter().try_for_each(|content| self.mark(content, keys))
    }

    /// Removes objects of contents that are not live, unless a live content counts on one of their chunks.
    fn drop_objects(
        &self,
        contents: &[ContentRef],
        keys: &KeySet,
        old_id: u32,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let live: HashSet<Hash> = contents.iter().map(|content| content.hash).collect();
        let candidates: Vec<(u32, ContentRef)> = {
            let index = self.index.read();
            let dead = |(id, container): (&u32, &Container)| match container {
                Container::Object(content) if *id < old_id && !live.contains(&content.hash) => Some((*id, **content)),
                _ => None,
            };
            index.containers.iter().filter_map(dead).collect()
        };
        for (id, content) in candidates {
            let (spans, _) = self.spans(&content, 0..content.size)?;
            let marks = self.marks.lock();
            let needed = marks.is_touched(&key(&content.hash)) || {
                let index = self.index.read();
                spans.iter().map(|span| key(&span.hash)).any(|key| {
                    let elsewhere = |place: &Place| {
                        place.container != id
                            && matches!(
                                index.containers.get(&place.container),
                                Some(Container::Pack | Container::Object(_))
                            )
                    };
                    (keys.contains(&key) || marks.is_touched(&key))
                        && !index.places(&key).any(|place| elsewhere(&place))
                })
            };
            if needed {
                continue;
            }
            self.note(&Note::Gone { id }, |_| ())?;
            self.file_cache.lock().remove(id);
            if fs::remove_file(self.object_path(&content)).is_ok() {
                report.objects += 1;
                report.freed += content.size;
            }
            // Until here: who puts the same again finds it, or makes it anew.
            drop(marks);
        }
        Ok(())
    }

    fn compact(&self) -> Result<bool, StoreError> {
        let segments = self.packs.segments().map_err(StoreError::io("read the packs in", &self.dir))?;
        let active = self.packs.active();
        let mut used: HashMap<u32, u64> = HashMap::new();
        {
            let index = self.index.read();
            for (_, place) in index.all_places() {
                *used.entry(place.container).or_default() += u64::from(place.len()) + ENTRY_HEADER as u64;
            }
        }
        let garbage = |(id, len): &(u32, u64)| len.saturating_sub(used.get(id).copied().unwrap_or(0));
        // The one that is being written, too, if that pays: else who has little would never get room back.
        let dropped = self.marks.lock().garbage;
        let pays = |(id, _): &(u32, u64)| Some(*id) != active || (*id == dropped.0 && dropped.1 >= self.packs.worth());
        let candidate = segments.iter().filter(|segment| pays(segment)).max_by_key(|segment| garbage(segment));
        let Some(segment) = candidate.filter(|segment| garbage(segment) * 2 > segment.1) else { return Ok(false) };
        if Some(segment.0) == active {
            self.packs.finish(segment.0).map_err(self.writing())?;
        }
        self.rewrite(segment.0)?;
        Ok(true)
    }

    /// Moves all that is wanted out of a segment, then removes it.
    fn rewrite(&self, segment: u32) -> Result<(), StoreError> {
        let places: KeyMap<Place> = self.index.read().chunks_in(segment).into_iter().collect();
        let mut failed = None;
        let mut moved = Vec::new();
        let scanned = self.packs.scan(segment, 0, &mut |offset, header, payload| {
            let (Some(payload), None) = (payload, &failed) else { return };
            match self.keep_entry(header, offset, payload, &places) {
                Ok(Some(entry)) => moved.push(entry),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        });
        scanned.map_err(StoreError::io("read the packs in", &self.dir))?;
        if let Some(error) = failed {
            return Err(error);
        }
        // The new places are durable before the old ones are given up.
        self.sync()?;
        {
            let mut index = self.index.write();
            for (key, place) in moved {
                index.drop_place(&key, segment);
                index.add(key, place);
            }
            index.drop_container(segment);
            index.sweep();
        }
        self.checkpoint()?;
        match self.packs.remove(segment) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove a pack in", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Appends an entry of an old segment to the new one, if it is wanted; for a chunk its new place.
    fn keep_entry(
        &self,
        header: &Header,
        offset: u64,
        payload: &[u8],
        places: &KeyMap<Place>,
    ) -> Result<Option<(Key, Place)>, StoreError> {
        if header.kind == Kind::Note {
            let wanted = match Note::decode(payload) {
                Some(Note::Object { id, .. } | Note::Folder { id, .. }) => {
                    self.index.read().containers.contains_key(&id)
                }
                other => other.is_some(),
            };
            if wanted {
                let hash = Hash::of(payload);
                let appended = self.packs.append(Kind::Note, Codec::Raw, &hash, payload.len() as u32, payload);
                appended.map_err(self.writing())?;
            }
            return Ok(None);
        }
        let key = key(&header.hash);
        if places.get(&key).is_none_or(|place| place.offset() != offset) {
            return Ok(None);
        }
        let small = match header.codec {
            Codec::Zstd => pack::compress(payload),
            Codec::Raw => None,
        };
        let (codec, stored) = small.as_deref().map_or((Codec::Raw, payload), |small| (Codec::Zstd, small));
        let appended = self.packs.append(Kind::Chunk, codec, &header.hash, header.raw, stored);
        let (segment, at) = appended.map_err(self.writing())?;
        self.index.write().containers.entry(segment).or_insert(Container::Pack);
        Ok(Some((key, Place::new(segment, at, header.raw))))
    }
}
