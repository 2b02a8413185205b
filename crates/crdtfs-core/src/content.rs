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
