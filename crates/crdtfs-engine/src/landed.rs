//! Chunks that came for one fetch and wait to be kept. The store does not have them yet, and nobody asks for them any more:
//! another fetch of the same gets them from here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use crdtfs_core::id::Hash;
use parking_lot::Mutex;

/// The chunks of one share that have just landed, and for how many fetches.
#[derive(Default)]
pub(crate) struct Landed(Mutex<HashMap<Hash, (Bytes, usize)>>);

/// A chunk that came for one fetch: it has landed for others, too, until this is dropped, since it is kept or cannot be.
pub(crate) struct Arrived {
    landed: Arc<Landed>,
    hash: Hash,
    bytes: Bytes,
}

impl Landed {
    /// A chunk came.
    pub(crate) fn enter(self: &Arc<Self>, hash: Hash, bytes: Bytes) -> Arrived {
        self.0.lock().entry(hash).or_insert_with(|| (bytes.clone(), 0)).1 += 1;
        Arrived { landed: self.clone(), hash, bytes }
    }

    /// A chunk that has landed.
    pub(crate) fn get(&self, hash: &Hash) -> Option<Bytes> {
        self.0.lock().get(hash).map(|(bytes, _)| bytes.clone())
    }
}

impl Arrived {
    /// The chunk's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.landed.0.lock().entry(self.hash) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_landed_until_the_last_fetch_that_it_came_for_is_done_with_it() {
        let (landed, bytes) = (Arc::new(Landed::default()), Bytes::from_static(b"chunk"));
        let hash = Hash::of(&bytes);
        let one = landed.enter(hash, bytes.clone());
        let other = landed.enter(hash, bytes.clone());
        assert_eq!(one.bytes(), b"chunk");
        drop(one);
        assert_eq!(landed.get(&hash), Some(bytes));
        drop(other);
        assert_eq!(landed.get(&hash), None);
    }
}
