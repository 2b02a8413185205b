//! The index: which chunk lies where, in memory, compact. `index_file` keeps it in redb.
//!
//! Keys are the first 16 bytes of a hash: every read verifies the whole hash, so a collision could only hide a chunk.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, ShareId};
use minicbor::{Decode, Encode};

/// A chunk is remembered in so many containers at most.
const MAX_PLACES: usize = 64;

/// The first half of a hash.
pub(crate) type Key = [u8; 16];

/// The key of a hash.
pub(crate) fn key(hash: &Hash) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&hash.0[..16]);
    key
}

/// Hashes are random already.
#[derive(Default)]
pub(crate) struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let n = bytes.len().min(8);
        word[..n].copy_from_slice(&bytes[..n]);
        self.0 ^= u64::from_le_bytes(word);
    }

    // An array hashes its length first; it says nothing.
    fn write_usize(&mut self, _: usize) {}
}

pub(crate) type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<Taken>>;

/// Where a chunk lies: container, offset (43 bits), length (21 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) container: u32,
    /// Two halves, so that a map entry takes 28 bytes and not 32.
    packed: [u32; 2],
}

impl Place {
    pub(crate) fn new(container: u32, offset: u64, len: u32) -> Self {
        debug_assert!(offset < 1 << 43 && len < 1 << 21);
        Self::from_packed(container, offset << 21 | u64::from(len))
    }

    pub(crate) fn from_packed(container: u32, packed: u64) -> Self {
        Self { container, packed: [(packed >> 32) as u32, packed as u32] }
    }

    pub(crate) fn packed(self) -> u64 {
        u64::from(self.packed[0]) << 32 | u64::from(self.packed[1])
    }

    pub(crate) fn offset(self) -> u64 {
        self.packed() >> 21
    }

    pub(crate) fn len(self) -> u32 {
        (self.packed() & ((1 << 21) - 1)) as u32
    }
}

/// What the packs say about other containers. The encoding is one of the store's formats.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Note {
    /// The bytes of a content are listed by its manifest.
    #[n(0)]
    Content {
        #[n(0)]
        content: ContentRef,
    },
    /// An object holds a content.
    #[n(1)]
    Object {
        #[n(0)]
        id: u32,
        #[n(1)]
        content: ContentRef,
    },
    /// A file of a watched folder holds a content. A later one of the same file takes its place.
    #[n(2)]
    Folder {
        #[n(0)]
        id: u32,
        #[n(1)]
        share: ShareId,
        #[n(2)]
        key: InodeId,
        #[n(3)]
        content: ContentRef,
    },
    /// A container is no more.
    #[n(3)]
    Gone {
        #[n(0)]
        id: u32,
    },
}

impl Note {
    pub(crate) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        minicbor::decode(bytes).ok()
    }
}

/// Something that holds chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    /// A pack segment; places in it are of entry headers.
    Pack,
    /// A file of the store with the bytes of one content.
    Object(Box<ContentRef>),
    /// A file of a watched folder.
    Folder {
        /// Index into the list of shares.
        share: u16,
        key: InodeId,
        /// A read found other bytes: nothing is read from it until it is indexed again.
        stale: bool,
    },
    /// A file that is being filled. Not in redb: its chunks are found again by looking into it.
    Filling,
}

/// A change that redb does not have yet.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Chunk(Key, Place),
    DropChunk(Key, u32),
    Container(u32, Vec<u8>),
    DropContainer(u32),
    Content(Key, Hash, u64),
}

/// The index in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    chunks: KeyMap<Place>,
    /// Further places of chunks that lie in several containers.
    more: KeyMap<Vec<Place>>,
    pub(crate) containers: HashMap<u32, Container>,
    folder: HashMap<(u16, InodeId), u32>,
    shares: Vec<ShareId>,
    /// Manifest and size of contents that have one.
    contents: KeyMap<(Hash, u64)>,
    /// Contents that were found to be all here.
    complete: HashSet<Key, BuildHasherDefault<Taken>>,
    pub(crate) pending: Vec<Change>,
    /// Containers that went away since places were swept.
    pub(crate) dead: usize,
    /// Counts the times that something was lost, so that nobody notes as complete what was looked at before.
    losses: u64,
}

impl Index {
    /// Adds a place of a chunk.
    pub(crate) fn add(&mut self, key: Key, place: Place) {
        if self.add_place(key, place) && !matches!(self.containers.get(&place.container), Some(Container::Filling)) {
            self.pending.push(Change::Chunk(key, place));
        }
    }

    fn add_place(&mut self, key: Key, place: Place) -> bool {
        use std::collections::hash_map::Entry;
        match self.chunks.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
            }
            Entry::Occupied(mut first) if !self.containers.contains_key(&first.get().container) => {
                first.insert(place);
            }
            Entry::Occupied(first) if first.get().container == place.container => return false,
            Entry::Occupied(_) => {
                let more = self.more.entry(key).or_default();
                more.retain(|other| self.containers.contains_key(&other.container));
                if more.len() >= MAX_PLACES || more.iter().any(|other| other.container == place.container) {
                    return false;
                }
                more.push(place);
            }
        }
        true
    }

    /// How often something was lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// Notes that a content is all here, if nothing was lost since `losses` was read.
    pub(crate) fn note_complete(&mut self, content: Key, losses: u64) {
        if self.losses == losses {
            self.complete.insert(content);
        }
    }

    /// Whether the content was found to be all here.
    pub(crate) fn is_complete(&self, content: &Key) -> bool {
        self.complete.contains(content)
    }

    /// The file of a folder changed: nothing is read from it until it is indexed again.
    pub(crate) fn mark_stale(&mut self, id: u32) {
        if let Some(Container::Folder { stale, .. }) = self.containers.get_mut(&id) {
            *stale = true;
            self.lost();
        }
    }

    fn lost(&mut self) {
        self.complete.clear();
        self.losses += 1;
    }

    /// Has places that are in memory written to redb: of a container that was being filled and is whole.
    pub(crate) fn persist(&mut self, places: impl Iterator<Item = (Key, Place)>) {
        self.pending.extend(places.map(|(key, place)| Change::Chunk(key, place)));
    }

    /// Begins a container that is in memory only.
    pub(crate) fn begin_filling(&mut self, id: u32) {
        self.containers.insert(id, Container::Filling);
    }

    /// A container that was being filled is a whole object; redb hears of it when it is durable.
    pub(crate) fn filled(&mut self, id: u32, content: &ContentRef) {
        self.containers.insert(id, Container::Object(Box::new(*content)));
    }

    fn usable(&self, place: &Place) -> bool {
        !matches!(self.containers.get(&place.container), None | Some(Container::Folder { stale: true, .. }))
    }

    /// Whether the chunk lies anywhere.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.places(key).next().is_some()
    }

    /// Whether the chunk lies where only the store writes.
    pub(crate) fn owns(&self, key: &Key) -> bool {
        self.places(key)
            .any(|place| matches!(self.containers.get(&place.container), Some(Container::Pack | Container::Object(_))))
    }

    /// Where a chunk lies.
    pub(crate) fn places(&self, key: &Key) -> impl Iterator<Item = Place> {
        let more = self.more.get(key).map_or(&[][..], Vec::as_slice);
        self.chunks.get(key).into_iter().chain(more).filter(|place| self.usable(place)).copied()
    }

    /// Takes away the place of a chunk in a container.
    pub(crate) fn drop_place(&mut self, key: &Key, container: u32) {
        let mut more = self.more.remove(key).unwrap_or_default();
        more.retain(|place| place.container != container);
        if self.chunks.get(key).is_some_and(|place| place.container == container) {
            match more.pop() {
                Some(other) => {
                    self.chunks.insert(*key, other);
                }
                None => {
                    self.chunks.remove(key);
                }
            }
        }
        if !more.is_empty() {
            self.more.insert(*key, more);
        }
        self.lost();
        self.pending.push(Change::DropChunk(*key, container));
    }

    /// All chunks with a place in a container.
    pub(crate) fn chunks_in(&self, container: u32) -> Vec<(Key, Place)> {
        let in_it = |(key, place): (&Key, &Place)| (place.container == container).then_some((*key, *place));
        let first = self.chunks.iter().filter_map(in_it);
        let more = self.more.iter().flat_map(|(key, places)| places.iter().map(move |place| (key, place)));
        first.chain(more.filter_map(in_it)).collect()
    }

    /// All places of all chunks.
    pub(crate) fn all_places(&self) -> impl Iterator<Item = (&Key, &Place)> {
        let more = self.more.iter().flat_map(|(key, places)| places.iter().map(move |place| (key, place)));
        self.chunks.iter().chain(more)
    }

    /// Has the next commit write the whole index into an empty file: chunks and contents; `notes` are of its containers.
    pub(crate) fn pend_all(&mut self, notes: Vec<(u32, Vec<u8>)>) {
        let in_memory =
            |place: &Place| matches!(self.containers.get(&place.container), None | Some(Container::Filling));
        let mut all: Vec<Change> = notes.into_iter().map(|(id, note)| Change::Container(id, note)).collect();
        all.extend(self.contents.iter().map(|(key, (manifest, size))| Change::Content(*key, *manifest, *size)));
        let places = self.all_places().filter(|(_, place)| !in_memory(place));
        all.extend(places.map(|(key, place)| Change::Chunk(*key, *place)));
        self.pending = all;
    }

    /// All chunks, each once.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.chunks.keys().copied().collect()
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// The short number of a share.
    pub(crate) fn share(&mut self, share: &ShareId) -> u16 {
        let found = self.shares.iter().position(|known| known == share);
        found.unwrap_or_else(|| {
            self.shares.push(*share);
            self.shares.len() - 1
        }) as u16
    }

    /// The share of a short number.
    pub(crate) fn share_id(&self, share: u16) -> ShareId {
        self.shares[usize::from(share)]
    }

    /// Notes an object or a folder file. Returns the container that it takes the place of.
    pub(crate) fn add_container(&mut self, note: &Note) -> Option<u32> {
        let (id, container) = match note {
            Note::Object { id, content } => {
                self.add_content(content);
                (*id, Container::Object(Box::new(*content)))
            }
            Note::Folder { id, share, key, content } => {
                self.add_content(content);
                (*id, Container::Folder { share: self.share(share), key: *key, stale: false })
            }
            Note::Content { .. } | Note::Gone { .. } => return None,
        };
        let mut replaced = None;
        if let Container::Folder { share, key, .. } = &container {
            match self.folder.get(&(*share, *key)).copied() {
                // Read again in another order: the later one stands.
                Some(other) if other > id => return None,
                Some(other) if other != id => replaced = Some(other),
                _ => {}
            }
            self.folder.insert((*share, *key), id);
        }
        if let Some(other) = replaced {
            self.drop_container(other);
        }
        self.containers.insert(id, container);
        self.pending.push(Change::Container(id, note.encode()));
        replaced
    }

    /// Forgets a container; the places in it are swept later.
    pub(crate) fn drop_container(&mut self, id: u32) -> bool {
        let Some(container) = self.containers.remove(&id) else { return false };
        if let Container::Folder { share, key, .. } = container
            && self.folder.get(&(share, key)) == Some(&id)
        {
            self.folder.remove(&(share, key));
        }
        self.dead += 1;
        self.lost();
        if container != Container::Filling {
            self.pending.push(Change::DropContainer(id));
        }
        true
    }

    /// The container of a folder's file.
    pub(crate) fn folder_file(&self, share: u16, key: &InodeId) -> Option<u32> {
        self.folder.get(&(share, *key)).copied()
    }

    /// Notes the manifest of a content; true if it is new.
    pub(crate) fn add_content(&mut self, content: &ContentRef) -> bool {
        let Some(manifest) = content.manifest else { return false };
        let key = key(&content.hash);
        if self.contents.insert(key, (manifest, content.size)) == Some((manifest, content.size)) {
            return false;
        }
        self.pending.push(Change::Content(key, manifest, content.size));
        true
    }

    /// The manifest of a content, if it is known.
    pub(crate) fn manifest_of(&self, hash: &Hash) -> Option<(Hash, u64)> {
        self.contents.get(&key(hash)).copied()
    }

    /// Takes away all places in containers that are no more.
    pub(crate) fn sweep(&mut self) {
        let Self { chunks, more, containers, pending, .. } = self;
        let mut drop = |key: &Key, place: &Place| {
            let alive = containers.contains_key(&place.container);
            if !alive {
                pending.push(Change::DropChunk(*key, place.container));
            }
            alive
        };
        more.retain(|key, places| {
            places.retain(|place| drop(key, place));
            !places.is_empty()
        });
        let mut gone = Vec::new();
        for (key, place) in chunks.iter() {
            if !drop(key, place) {
                gone.push(*key);
            }
        }
        for key in gone {
            match more.get_mut(&key).and_then(Vec::pop) {
                Some(other) => {
                    chunks.insert(key, other);
                }
                None => {
                    chunks.remove(&key);
                }
            }
        }
        more.retain(|_, places| !places.is_empty());
        self.dead = 0;
    }
}

/// Filling it from the index file.
impl Index {
    /// Adds a row of the chunks as it was read.
    pub(crate) fn load_place(&mut self, key: Key, place: Place) {
        use std::collections::hash_map::Entry;
        match self.chunks.entry(key) {
            Entry::Vacant(vacant) => _ = vacant.insert(place),
            Entry::Occupied(_) => self.more.entry(key).or_default().push(place),
        }
    }

    /// Adds a row of the contents as it was read.
    pub(crate) fn load_content(&mut self, key: Key, manifest: Hash, size: u64) {
        self.contents.insert(key, (manifest, size));
    }

    /// Makes room for chunks that are about to be read.
    pub(crate) fn reserve(&mut self, chunks: usize) {
        self.chunks.reserve(chunks);
    }
}
