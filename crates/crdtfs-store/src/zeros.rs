//! Zeros, as sparse files are full of. Chunks that are all zeros end at the greatest length, so those of a hole are all the
//! same one: they are known without being read, sent or written.

use std::sync::OnceLock;

use crdtfs_core::id::Hash;

use crate::chunker::MAX_CHUNK;
use crate::store::ChunkSpan;

/// The bytes of the chunk of zeros. Takes no room: nobody writes there.
pub(crate) static ZEROS: [u8; MAX_CHUNK] = [0; MAX_CHUNK];

/// The hash of the chunk of zeros.
pub(crate) fn hash() -> Hash {
    static HASH: OnceLock<Hash> = OnceLock::new();
    *HASH.get_or_init(|| Hash::of(&ZEROS))
}

/// Whether it is the chunk of zeros.
pub(crate) fn is_zeros(span: &ChunkSpan) -> bool {
    span.len as usize == MAX_CHUNK && span.hash == hash()
}

/// Bytes of the disk that a chunk takes: one of zeros stays a hole.
pub(crate) fn room(span: &ChunkSpan) -> u64 {
    if is_zeros(span) { 0 } else { u64::from(span.len) }
}
