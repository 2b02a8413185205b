//! Small caches: chunks that were verified lately, files that are open.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use crate::index::{Key, KeyMap};

/// Verified chunks, least recently used go first.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    limit: usize,
    bytes: usize,
    tick: u64,
    chunks: KeyMap<(Arc<[u8]>, u64)>,
    order: BTreeMap<u64, Key>,
}

impl ChunkCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, tick: 0, chunks: KeyMap::default(), order: BTreeMap::new() }
    }

    pub(crate) fn get(&mut self, key: &Key) -> Option<Arc<[u8]>> {
        let (bytes, tick) = self.chunks.get_mut(key)?;
        self.tick += 1;
        self.order.remove(tick);
        *tick = self.tick;
        self.order.insert(self.tick, *key);
        Some(bytes.clone())
    }

    pub(crate) fn put(&mut self, key: Key, bytes: Arc<[u8]>) {
        if bytes.len() > self.limit / 4 || self.chunks.contains_key(&key) {
            return;
        }
        self.tick += 1;
        self.bytes += bytes.len();
        self.chunks.insert(key, (bytes, self.tick));
        self.order.insert(self.tick, key);
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.bytes -= self.chunks.remove(&oldest).map_or(0, |(bytes, _)| bytes.len());
        }
    }
}

/// Open files of containers.
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    files: HashMap<u32, (Arc<File>, u64, bool)>,
    tick: u64,
}

/// Files that are kept open.
const FILES: usize = 64;

impl FileCache {
    pub(crate) fn get(&mut self, container: u32) -> Option<Arc<File>> {
        self.tick += 1;
        let (file, tick, _) = self.files.get_mut(&container)?;
        *tick = self.tick;
        Some(file.clone())
    }

    /// `folder`: a file that is not the store's, not to be held open for long.
    pub(crate) fn put(&mut self, container: u32, file: Arc<File>, folder: bool) {
        self.tick += 1;
        self.files.insert(container, (file, self.tick, folder));
        if self.files.len() > FILES
            && let Some(oldest) = self.files.iter().min_by_key(|(_, (_, tick, _))| *tick).map(|(id, _)| *id)
        {
            self.files.remove(&oldest);
        }
    }

    pub(crate) fn remove(&mut self, container: u32) {
        self.files.remove(&container);
    }

    pub(crate) fn close_folder_files(&mut self) {
        self.files.retain(|_, (_, _, folder)| !*folder);
    }
}
