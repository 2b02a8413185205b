//! Opening a store: the index as far as it goes, then what the packs say beyond it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::cache::{ChunkCache, FileCache};
use crate::error::StoreError;
use crate::fill::Fillings;
use crate::index::{Container, Index, Note, Place, key};
use crate::index_file::{IndexFile, Loaded};
use crate::keeper::Wake;
use crate::pack::{Kind, Packs, Position};
use crate::storage::Storage;
use crate::store::{Inner, StoreOptions};

pub(crate) fn open(storage: Arc<dyn Storage>, dir: &Path, options: &StoreOptions) -> Result<Inner, StoreError> {
    let objects = dir.join("objects");
    fs::create_dir_all(&objects).map_err(StoreError::io("create", &objects))?;
    let ids = Arc::new(AtomicU32::new(1));
    let packs = Packs::open(storage.clone(), options.segment_bytes, ids.clone());
    let packs = packs.map_err(StoreError::io("open the packs in", dir))?;
    let opened = IndexFile::open(storage.clone());
    let index_error =
        |error: redb::Error| StoreError::Index { path: dir.join("index.redb"), reason: error.to_string() };
    let (mut index_file, loaded) = opened.map_err(index_error)?;
    let segments = packs.segments().map_err(StoreError::io("read the packs in", dir))?;
    let reaches = |position: &Position| {
        *position == (0, 0) || segments.iter().any(|(id, len)| *id == position.0 && *len >= position.1)
    };
    let (index, from) = match loaded {
        Some(Loaded { index, position, next }) if reaches(&position) => {
            ids.fetch_max(next, Ordering::Relaxed);
            (index, position)
        }
        Some(_) => {
            tracing::warn!("the packs are older than the index, which is made again");
            index_file.reset().map_err(index_error)?;
            (Index::default(), (0, 0))
        }
        None => (Index::default(), (0, 0)),
    };
    let inner = Inner {
        dir: dir.to_path_buf(),
        storage,
        packs,
        index: RwLock::new(index),
        gate: RwLock::new(()),
        index_file: Mutex::new(index_file),
        ids,
        unsynced: Mutex::default(),
        object_sync: Mutex::default(),
        fillings: Fillings::default(),
        chunk_cache: Mutex::new(ChunkCache::new(options.cache_bytes)),
        file_cache: Mutex::new(FileCache::default()),
        openers: RwLock::default(),
        wake: Wake::default(),
        marks: Mutex::default(),
        full: Mutex::default(),
        arriving: Mutex::default(),
    };
    inner.read_packs(&segments, from)?;
    inner.look_at_objects()?;
    inner.mark_start();
    Ok(inner)
}

impl Inner {
    /// Adds to the index what the packs hold from a position on; goes on in the last segment.
    fn read_packs(&self, segments: &[(u32, u64)], from: Position) -> Result<(), StoreError> {
        let mut notes = Vec::new();
        let mut end_of_last = 0;
        {
            let mut index = self.index.write();
            for (id, _) in segments {
                index.containers.insert(*id, Container::Pack);
            }
            for (id, len) in segments.iter().filter(|(id, _)| *id >= from.0) {
                let start = if *id == from.0 { from.1 } else { 0 };
                let scanned =
                    self.packs.scan(*id, start, &mut |offset, header, payload| match (header.kind, payload) {
                        (_, None) => {}
                        (Kind::Chunk, Some(_)) => index.add(key(&header.hash), Place::new(*id, offset, header.raw)),
                        (Kind::Note, Some(bytes)) => notes.extend(Note::decode(bytes)),
                        (Kind::Void, Some(_)) => {}
                    });
                let scanned = scanned.map_err(StoreError::io("read the packs in", &self.dir))?;
                // A gap at the end is an append that a crash cut off; one before is of writes that reached the disk in
                // another order (or, hardly, of a disk that rots: then what was there is missing and fetched again).
                end_of_last = *len;
                for (from, to) in &scanned.gaps {
                    tracing::warn!(segment = id, from, to, "passing over a part of a pack that holds nothing good");
                    if *to == scanned.end {
                        end_of_last = *from;
                        self.packs.cut(*id, *from)
                    } else {
                        self.packs.void(*id, *from, *to)
                    }
                    .map_err(StoreError::io("mend the packs in", &self.dir))?;
                }
            }
        }
        if let Some((id, _)) = segments.last() {
            self.packs.resume(from.0, *id, end_of_last).map_err(StoreError::io("write to the packs in", &self.dir))?;
        }
        self.read_notes(&notes);
        Ok(())
    }

    fn read_notes(&self, notes: &[Note]) {
        let named = notes.iter().filter_map(|note| match note {
            Note::Object { id, .. } | Note::Folder { id, .. } | Note::Gone { id } => Some(*id),
            Note::Content { .. } => None,
        });
        // No id is given twice: what is said of a container would be taken for said of another.
        self.ids.fetch_max(named.max().map_or(0, |id| id + 1), Ordering::Relaxed);
        let gone: HashSet<u32> =
            notes.iter().filter_map(|note| if let Note::Gone { id } = note { Some(*id) } else { None }).collect();
        for note in notes {
            match note {
                Note::Content { content } => _ = self.index.write().add_content(content),
                Note::Gone { id } => _ = self.index.write().drop_container(*id),
                Note::Object { .. } | Note::Folder { .. } => {}
            }
        }
        for note in notes {
            let (Note::Object { id, content } | Note::Folder { id, content, .. }) = note else { continue };
            if gone.contains(id) {
                continue;
            }
            self.index.write().add_container(note);
            let spans = match self.spans(content, 0..content.size) {
                Ok((spans, needs)) if needs.is_empty() => spans,
                _ => {
                    tracing::warn!(content = %content.hash, "the manifest of a container is not here; it is not used");
                    self.index.write().drop_container(*id);
                    continue;
                }
            };
            let mut index = self.index.write();
            if index.containers.contains_key(id) {
                for span in spans {
                    index.add(key(&span.hash), Place::new(*id, span.offset, span.len));
                }
            }
        }
    }

    /// Objects that no pack names are partial ones; containers whose object is gone are dropped.
    fn look_at_objects(&self) -> Result<(), StoreError> {
        let dir = self.objects_dir();
        let mut there = HashSet::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?.flatten() {
            there.insert(entry.path());
        }
        let mut named = HashSet::new();
        let mut gone = Vec::new();
        for (id, container) in &self.index.read().containers {
            if let Container::Object(content) = container {
                let path = self.object_path(content);
                let whole = fs::metadata(&path).is_ok_and(|meta| meta.len() == content.size);
                if whole { _ = named.insert(path) } else { gone.push(*id) }
            }
        }
        for id in gone {
            tracing::error!(container = id, "an object is gone or cut short; its chunks are fetched again");
            self.index.write().drop_container(id);
        }
        for path in there {
            if path.extension().is_none_or(|extension| extension != "part") && !named.contains(&path) {
                let mut part = path.clone().into_os_string();
                part.push(".part");
                fs::rename(&path, &part).map_err(StoreError::io("rename", &path))?;
            }
        }
        Ok(())
    }
}
