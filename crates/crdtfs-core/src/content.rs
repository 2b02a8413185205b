//! What a record says of a file's bytes.

use minicbor::{Decode, Encode};

use crate::id::Hash;

/// Contents up to this many bytes are one chunk and need no manifest: the chunk's hash is the content's.
pub const SINGLE_CHUNK_MAX: u64 = 64 * 1024;

/// Names one state of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct ContentRef {
    /// blake3 of the whole bytes (what `b3sum` prints).
    #[n(0)]
    pub hash: Hash,
    /// Length in bytes.
    #[n(1)]
    pub size: u64,
    /// Root of the manifest, the tree of the chunk list; `None` up to [`SINGLE_CHUNK_MAX`] bytes, and for contents that no
    /// record names (merged texts), whose manifest the store finds by `hash`.
    #[n(2)]
    pub manifest: Option<Hash>,
}

impl ContentRef {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self { hash: Hash::of(b""), size: 0, manifest: None }
    }

    /// These bytes as a content of one chunk.
    pub fn single(bytes: &[u8]) -> Self {
        Self { hash: Hash::of(bytes), size: bytes.len() as u64, manifest: None }
    }
}

/// A chunk, or a node of a manifest, named by what it is part of: that is what entitles a member of a share to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkRef {
    /// Its blake3.
    pub hash: Hash,
    /// What it is part of; `None`: it is a whole content of at most [`SINGLE_CHUNK_MAX`] bytes.
    pub part: Option<Part>,
}

/// A place in a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// The content.
    pub content: ContentRef,
    /// Where the chunk, or the first byte that the node stands for, lies in it.
    pub offset: u64,
}

impl ChunkRef {
    /// A content of one chunk.
    pub fn whole(hash: Hash) -> Self {
        Self { hash, part: None }
    }

    /// The chunk or node with this hash at `offset` of `content`.
    pub fn within(content: &ContentRef, offset: u64, hash: Hash) -> Self {
        let part = (content.size > SINGLE_CHUNK_MAX).then_some(Part { content: *content, offset });
        Self { hash, part }
    }

    /// The content that it is part of. Of one that is a whole content, the size is not said.
    pub fn content(&self) -> ContentRef {
        self.part.map_or(ContentRef { hash: self.hash, size: 0, manifest: None }, |part| part.content)
    }
}
