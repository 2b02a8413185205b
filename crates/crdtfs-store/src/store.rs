//! The chunk store: what the rest of the crate builds on, and its public face.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crdtfs_core::content::{ChunkRef, ContentRef, SINGLE_CHUNK_MAX};
use crdtfs_core::id::{Hash, ShareId};
use crdtfs_core::port::FileOpener;
use parking_lot::{Mutex, RwLock};

use crate::cache::{ChunkCache, FileCache};
use crate::chunker::{self, Chunked};
use crate::error::StoreError;
use crate::fill::Fillings;
use crate::index::{Container, Index, Note, Place, key};
use crate::index_file::{IndexFile, UpTo};
use crate::keeper::{Keeper, Wake};
use crate::manifest;
use crate::pack::{self, Codec, Kind, Packs};
use crate::storage::Storage;

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
    /// These nodes of the manifest have to be fetched first (then ask again). None: no record names the manifest, and this
    /// device has not made the content (a merged text).
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
    /// Number of chunks known.
    pub chunks: u64,
}

/// The chunks of a state directory. Cheap to clone; the last clone that goes ends the store's thread and commits.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    _keeper: Arc<Keeper>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// Lock order: `index_file`, `object_sync`, `gate`, then one of the others at a time; `index` may be held while `pending`
/// objects are.
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) packs: Packs,
    pub(crate) index: RwLock<Index>,
    /// Read-held from an append to a pack until the index has it, so that a commit's position and changes agree.
    pub(crate) gate: RwLock<()>,
    pub(crate) index_file: Mutex<IndexFile>,
    pub(crate) ids: Arc<AtomicU32>,
    /// Objects whose bytes are not durable yet, so that no pack names them.
    pub(crate) unsynced: Mutex<Vec<UnsyncedObject>>,
    pub(crate) object_sync: Mutex<()>,
    pub(crate) fillings: Fillings,
    pub(crate) chunk_cache: Mutex<ChunkCache>,
    pub(crate) file_cache: Mutex<FileCache>,
    pub(crate) openers: RwLock<HashMap<ShareId, Arc<dyn FileOpener>>>,
    pub(crate) wake: Wake,
    pub(crate) marks: Mutex<crate::gc::Marks>,
    /// When there was last no room for what was to be written.
    pub(crate) full: Mutex<Option<Instant>>,
    /// Files that were filled lately and that their folder may not have moved to their places yet.
    pub(crate) arriving: Mutex<Arriving>,
}

/// By container: device and inode of the file that was filled, and when.
pub(crate) type Arriving = HashMap<u32, (u64, u64, Instant)>;

/// An object that was made and not yet synced.
#[derive(Debug)]
pub(crate) struct UnsyncedObject {
    pub(crate) id: u32,
    pub(crate) content: ContentRef,
    pub(crate) file: Arc<File>,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there, and recovers from a crash: the end of the packs that the
    /// index has not seen is read, a torn end is cut off, and a missing or damaged index is made again. Locks nothing.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let storage = Arc::new(crate::storage::DiskStorage::new(dir.to_path_buf()));
        Self::open_on(storage, dir, options)
    }

    pub(crate) fn open_on(storage: Arc<dyn Storage>, dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let inner = Arc::new(crate::recover::open(storage, dir, &options)?);
        let keeper = Arc::new(Keeper::start(inner.clone())?);
        Ok(Self { inner, _keeper: keeper })
    }

    /// Whether the chunk is here. No disk is touched; a folder's file that changed meanwhile is noticed when it is read.
    pub fn has_chunk(&self, hash: &Hash) -> bool {
        self.inner.index.read().has(&key(hash))
    }

    /// The chunk, verified by blake3; `None` if it is not here (any more).
    pub fn read_chunk(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read_chunk(hash)
    }

    /// A chunk or a node of a manifest for somebody who is entitled to the content that it is part of, verified by blake3;
    /// `None` if it is not here, or not part of that content as far as the content's manifest is here.
    pub fn read_part(&self, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read_part(chunk)
    }

    /// Keeps a chunk (at most 1 MiB). After an error (a full disk) it is not here, and all that was still is.
    pub fn put_chunk(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        let hash = Hash::of(bytes);
        self.inner.put(&hash, bytes, Codec::Raw)?;
        Ok(hash)
    }

    /// Keeps bytes as a content: its chunks and its manifest.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentRef, StoreError> {
        let inner = &self.inner;
        let mut put = |_, hash: &Hash, chunk: &[u8]| Ok(inner.put(hash, chunk, Codec::Raw)?);
        let chunked = chunker::chunk_bytes(bytes, &mut put).map_err(StoreError::io("write to", &inner.dir))?;
        inner.put_manifest(&chunked)
    }

    /// The chunks of a content.
    pub fn chunk_list(&self, content: &ContentRef) -> Result<ChunkList, StoreError> {
        self.inner.chunk_list(content)
    }

    /// What of a content is not here. Cheap if it is all here.
    pub fn missing(&self, content: &ContentRef) -> Result<Missing, StoreError> {
        self.inner.missing(content)
    }

    /// Bytes of the disk that fetching the rest of a content takes.
    pub fn room_for(&self, content: &ContentRef) -> Result<u64, StoreError> {
        self.inner.room_for(content)
    }

    /// Bytes of a content that are here, or of the disk that what is here of it takes.
    pub fn holds(&self, content: &ContentRef) -> Result<u64, StoreError> {
        self.inner.holds(content)
    }

    /// Gives back the room of what interrupted fetches left, but for contents that are open or that somebody fetches right now. Bytes
    /// of the disk.
    pub fn give_up_parts(&self) -> u64 {
        let open = self.inner.open_parts();
        self.inner.drop_parts(&|_, path| !open.contains(path))
    }

    /// As [`Store::give_up_parts`], of contents of which the rest takes more than `room`.
    pub fn give_up_parts_beyond(&self, room: u64) -> u64 {
        let open = self.inner.open_parts();
        // What it is asked of is known: what is here of it is no more counted as lacking.
        let beyond = |content: &ContentRef| self.inner.room_for_unknown(content).map_or(true, |lacks| lacks > room);
        self.inner.drop_parts(&|content, path| !open.contains(path) && content.is_none_or(beyond))
    }

    /// Whether all of a content is here.
    pub fn is_local(&self, content: &ContentRef) -> bool {
        self.inner.is_local(content)
    }

    /// Hands all that was put and sealed before the call to the operating system: from then on it survives the end of this
    /// process, though not yet that of the machine. To be called before a change that speaks of it is written anywhere.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.packs.flush().map_err(StoreError::io("write", &self.inner.dir))
    }

    /// Returns when all that was put and sealed before the call is durable. The index follows within about a second; a
    /// crash before that costs the next start a look at the end of the packs.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    /// When there was last no room for what was to be written; `None` if there always was.
    pub fn last_full(&self) -> Option<Instant> {
        *self.inner.full.lock()
    }

    /// Bytes that chunks take on disk: without the holes in packs where room was given back.
    pub fn chunk_bytes(&self) -> u64 {
        tree_bytes(&self.inner.dir.join("packs")) + tree_bytes(&self.inner.objects_dir())
    }

    /// Disk use.
    pub fn usage(&self) -> Usage {
        let inner = &self.inner;
        let packs = inner.packs.segments().unwrap_or_default().iter().map(|(_, len)| len).sum();
        let (objects, write_files) = (tree_bytes(&inner.objects_dir()), tree_bytes(&inner.dir.join("write")));
        let index = inner.storage.open("index.redb", false).and_then(|file| file.len()).unwrap_or(0);
        let chunks = inner.index.read().len();
        Usage { packs, objects, write_files, index, chunks }
    }
}

/// What the files below a directory take on disk.
fn tree_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512 / meta.nlink().max(1),
        Err(_) => 0,
    };
    entries.flatten().map(one).sum()
}

impl Inner {
    /// Keeps a chunk in the packs, unless the store has it in a file of its own.
    pub(crate) fn put(&self, hash: &Hash, bytes: &[u8], codec: Codec) -> Result<(), StoreError> {
        if self.touch(&key(hash)) {
            return Ok(());
        }
        let len = bytes.len() as u32;
        if bytes.len() > chunker::MAX_CHUNK {
            let reason = format!("a chunk of {len} bytes, over the limit of 1 MiB");
            return Err(StoreError::Malformed { content: hash.to_string(), reason });
        }
        let compressed = match codec {
            Codec::Raw => None,
            Codec::Zstd => pack::compress(bytes),
        };
        let (codec, payload) = compressed.as_deref().map_or((Codec::Raw, bytes), |small| (Codec::Zstd, small));
        {
            let _gate = self.gate.read();
            let (segment, offset) =
                self.packs.append(Kind::Chunk, codec, hash, len, payload).map_err(self.writing())?;
            let mut index = self.index.write();
            index.containers.entry(segment).or_insert(Container::Pack);
            index.add(key(hash), Place::new(segment, offset, len));
        }
        self.wake.poke();
        Ok(())
    }

    /// Writes a note to the packs and what it says to the index; `and` adds what belongs to it.
    pub(crate) fn note(&self, note: &Note, and: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let bytes = note.encode();
        {
            let _gate = self.gate.read();
            let (segment, _) = self
                .packs
                .append(Kind::Note, Codec::Raw, &Hash::of(&bytes), bytes.len() as u32, &bytes)
                .map_err(self.writing())?;
            let mut index = self.index.write();
            index.containers.entry(segment).or_insert(Container::Pack);
            match note {
                Note::Content { content } => _ = index.add_content(content),
                Note::Gone { id } => _ = index.drop_container(*id),
                Note::Object { .. } | Note::Folder { .. } => _ = index.add_container(note),
            }
            and(&mut index);
        }
        self.wake.poke();
        Ok(())
    }

    /// Keeps the manifest of a content whose chunks were just hashed, and names the content.
    pub(crate) fn put_manifest(&self, chunked: &Chunked) -> Result<ContentRef, StoreError> {
        let mut content = ContentRef { hash: chunked.hash, size: chunked.size, manifest: None };
        if chunked.has_manifest() {
            let put = |hash, node: Vec<u8>| self.put(&hash, &node, Codec::Raw);
            content.manifest = Some(manifest::build(&chunked.chunks, put)?);
            self.remember_content(&content)?;
        }
        Ok(content)
    }

    /// Remembers which manifest a content has, so that it is found by the content's hash alone.
    pub(crate) fn remember_content(&self, content: &ContentRef) -> Result<(), StoreError> {
        let known = self.index.read().manifest_of(&content.hash);
        match content.manifest {
            Some(manifest) if known != Some((manifest, content.size)) => {
                self.note(&Note::Content { content: *content }, |_| ())
            }
            _ => Ok(()),
        }
    }

    /// The content with its manifest filled in where this device knows it.
    pub(crate) fn resolve(&self, content: &ContentRef) -> ContentRef {
        let mut content = *content;
        if content.size <= SINGLE_CHUNK_MAX {
            content.manifest = None;
        } else if content.manifest.is_none()
            && let Some((manifest, size)) = self.index.read().manifest_of(&content.hash)
            && size == content.size
        {
            content.manifest = Some(manifest);
        }
        content
    }

    /// A fresh container.
    pub(crate) fn fresh_id(&self) -> u32 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.sync_objects()?;
        self.packs.sync().map_err(|source| {
            if source.kind() == io::ErrorKind::Other {
                StoreError::Failed { path: self.dir.clone() }
            } else {
                StoreError::io("sync", &self.dir)(source)
            }
        })
    }

    /// Makes what is pending in the index durable, after the packs that it speaks of. One at a time: when it returns, the
    /// index file has all changes that were made before the call, also those that another call was about to write; a pack
    /// that only older rows name can be removed then.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut file = self.index_file.lock();
        self.sync_objects()?;
        if self.index.read().dead > 1024 {
            self.index.write().sweep();
        }
        let (changes, upto) = {
            let _gate = self.gate.write();
            let changes = std::mem::take(&mut self.index.write().pending);
            (changes, UpTo { position: self.packs.position(), next: self.ids.load(Ordering::Relaxed) })
        };
        let result = self.sync().and_then(|()| {
            if changes.is_empty() {
                return Ok(());
            }
            file.commit(&changes, &upto).map_err(|error| self.index_error(error))
        });
        if result.is_err() {
            let mut index = self.index.write();
            let later = std::mem::replace(&mut index.pending, changes);
            index.pending.extend(later);
        }
        result
    }

    pub(crate) fn index_error(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(source) => StoreError::io("write the index in", &self.dir)(source),
            other => StoreError::Index { path: self.dir.join("index.redb"), reason: other.to_string() },
        }
    }

    /// For `map_err` of what writes to the packs.
    pub(crate) fn writing(&self) -> impl FnOnce(io::Error) -> StoreError + '_ {
        |error| StoreError::io("write to the packs in", &self.dir)(self.not_full(error))
    }

    /// Notes that there was no room, if that is what an error says.
    pub(crate) fn not_full(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::StorageFull {
            *self.full.lock() = Some(Instant::now());
        }
        error
    }
}
