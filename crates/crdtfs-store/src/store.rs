//! The chunk store.

use std::path::Path;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;

use crate::error::StoreError;

/// How a store is to be run.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of memory for chunks that were verified lately.
    pub cache_bytes: usize,
    /// Bytes after which a new pack segment is begun.
    pub segment_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, segment_bytes: 128 << 20 }
    }
}

/// One chunk of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Its blake3.
    pub hash: Hash,
    /// Where it begins in the content.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// The chunks of a content, as far as they are known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkList {
    /// All of them, in order.
    Whole(Vec<ChunkSpan>),
    /// These nodes of the manifest have to be fetched first (then ask again).
    Needs(Vec<Hash>),
}

/// What of a content is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Chunks with their lengths, each once.
    pub chunks: Vec<(Hash, u32)>,
    /// Bytes of the content that are not here; while manifest nodes are missing, an upper bound.
    pub bytes: u64,
    /// Nodes of the manifest; while there are some, `chunks` is not complete.
    pub manifest_nodes: Vec<Hash>,
}

/// Disk use in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pack segments.
    pub packs: u64,
    /// Whole and partial objects.
    pub objects: u64,
    /// Write files.
    pub write_files: u64,
    /// The index.
    pub index: u64,
    /// Chunks known.
    pub chunks: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the store, or the folder file's inode.
    pub place: String,
    /// What is wrong with it.
    pub message: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks verified.
    pub chunks: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What was put right (with `repair`).
    pub repaired: Vec<String>,
    /// Contents that are named but not all here (not an error: they are fetched), with the bytes that lack.
    pub incomplete: Vec<(ContentRef, u64)>,
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Chunks dropped.
    pub chunks: u64,
    /// Bytes given back to the filesystem.
    pub freed: u64,
}

/// The chunks of a state directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    _inner: Arc<()>,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there, and recovers from a crash. Locks nothing.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let _ = (dir, options);
        unimplemented!()
    }
    /// Whether the chunk is here.
    pub fn has_chunk(&self, hash: &Hash) -> bool {
        let _ = hash;
        unimplemented!()
    }
    /// The chunk, verified; `None` if it is not here (any more).
    pub fn read_chunk(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = hash;
        unimplemented!()
    }
    /// Keeps a chunk (at most 1 MiB).
    pub fn put_chunk(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        let _ = bytes;
        unimplemented!()
    }
    /// Keeps bytes as a content.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentRef, StoreError> {
        let _ = bytes;
        unimplemented!()
    }
    /// The chunks of a content.
    pub fn chunk_list(&self, content: &ContentRef) -> Result<ChunkList, StoreError> {
        let _ = content;
        unimplemented!()
    }
    /// What of a content is not here. Cheap if it is all here.
    pub fn missing(&self, content: &ContentRef) -> Result<Missing, StoreError> {
        let _ = content;
        unimplemented!()
    }
    /// Whether all of a content is here.
    pub fn is_local(&self, content: &ContentRef) -> bool {
        let _ = content;
        unimplemented!()
    }
    /// Returns when all that was put and sealed before the call is durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Verifies every stored byte and reference.
    pub fn check(&self, repair: bool, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<Report, StoreError> {
        let _ = (repair, live);
        unimplemented!()
    }
    /// Drops what no content in `live` needs.
    pub fn gc(&self, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<GcReport, StoreError> {
        let _ = live;
        unimplemented!()
    }
    /// Rewrites at most one pack segment that is mostly garbage; true if it did (call again).
    pub fn compact(&self) -> Result<bool, StoreError> {
        unimplemented!()
    }
    /// Disk use.
    pub fn usage(&self) -> Usage {
        unimplemented!()
    }
}
