//! Merges of contents, remembered by what went in: the bytes of a result exist on every device that shows it, though
//! nobody wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minicbor::bytes::ByteVec;

use crate::content::ContentRef;
use crate::id::Hash;
use crate::text;

/// What became of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// One content.
    Clean(ContentRef),
    /// No text, or the same lines: both are kept.
    Refused,
    /// It cannot be decided without the bytes of these, all of which are to be kept until it is.
    Wants(Vec<ContentRef>),
}

/// Merges done, and the bytes that they need or made.
#[derive(Default)]
pub struct MergeCache {
    done: BTreeMap<[Hash; 3], Option<ContentRef>>,
    results: BTreeMap<Hash, Arc<[u8]>>,
    given: BTreeMap<Hash, Arc<[u8]>>,
}

impl MergeCache {
    /// Whether a content is short enough for a text.
    pub fn can_be_text(content: &ContentRef) -> bool {
        content.size <= text::MAX_TEXT as u64
    }

    /// Merges two contents that were made from a third. Which of the two is given first does not matter.
    pub fn merge(&mut self, base: &ContentRef, ours: &ContentRef, theirs: &ContentRef) -> Merge {
        let (ours, theirs) = if ours.hash <= theirs.hash { (ours, theirs) } else { (theirs, ours) };
        let sides = [base, ours, theirs];
        if !sides.into_iter().all(Self::can_be_text) {
            return Merge::Refused;
        }
        let key = sides.map(|side| side.hash);
        if let Some(done) = self.done.get(&key) {
            return done.map_or(Merge::Refused, Merge::Clean);
        }
        // One that is no text decides it alone: the others may be out of everybody's reach for ever.
        if sides.into_iter().filter_map(|side| self.bytes(side)).any(|bytes| !text::is_text(&bytes)) {
            self.done.insert(key, None);
            return Merge::Refused;
        }
        if sides.into_iter().any(|side| self.bytes(side).is_none()) {
            let needed: BTreeSet<_> = sides.into_iter().filter(|side| !self.is_own(side)).copied().collect();
            return Merge::Wants(needed.into_iter().collect());
        }
        let [base, ours, theirs] = sides.map(|side| self.bytes(side).expect("none is missing"));
        let merged = text::merge(&base, &ours, &theirs).map(|bytes| {
            let content = ContentRef { hash: Hash::of(&bytes), size: bytes.len() as u64, manifest: None };
            self.results.insert(content.hash, bytes.into());
            content
        });
        self.done.insert(key, merged);
        merged.map_or(Merge::Refused, Merge::Clean)
    }

    /// Whether the bytes of a content are known without anybody giving them.
    fn is_own(&self, content: &ContentRef) -> bool {
        content.size == 0 || self.results.contains_key(&content.hash)
    }

    /// Whether the bytes of a content were given and are kept.
    pub fn is_given(&self, hash: &Hash) -> bool {
        self.given.contains_key(hash)
    }

    fn bytes(&self, content: &ContentRef) -> Option<Arc<[u8]>> {
        if content.size == 0 {
            return Some(Arc::default());
        }
        self.given.get(&content.hash).or_else(|| self.results.get(&content.hash)).cloned()
    }

    /// Writes down what was decided, and the bytes that were made. Given bytes are given again.
    pub fn save(&self, out: &mut Vec<u8>) {
        let results = self.results.values().map(|bytes| ByteVec::from(bytes.to_vec())).collect::<Vec<_>>();
        minicbor::encode((&self.done, results), out).expect("writing to memory cannot fail");
    }

    /// Reads back what [`MergeCache::save`] wrote.
    pub fn restore(d: &mut minicbor::Decoder<'_>) -> Result<Self, minicbor::decode::Error> {
        let (done, results): (_, Vec<ByteVec>) = d.decode()?;
        let results = results.into_iter().map(|bytes| (Hash::of(&bytes), Arc::from(bytes.as_slice()))).collect();
        Ok(Self { done, results, given: BTreeMap::new() })
    }

    /// Gives the verified bytes of a content.
    pub fn supply(&mut self, hash: Hash, bytes: Arc<[u8]>) {
        self.given.insert(hash, bytes);
    }

    /// Lets go of given bytes that nothing waits for.
    pub fn release(&mut self, wanted: impl Fn(&Hash) -> bool) {
        self.given.retain(|hash, _| wanted(hash));
    }

    /// The bytes of a result.
    pub fn result(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        self.results.get(hash).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_not_merged_even_if_its_base_is_lost() {
        let content = |bytes: &[u8]| ContentRef { hash: Hash::of(bytes), size: bytes.len() as u64, manifest: None };
        let [base, ours, theirs] = [b"one".as_slice(), b"two\0", b"three"].map(content);
        let mut cache = MergeCache::default();
        assert!(matches!(cache.merge(&base, &ours, &theirs), Merge::Wants(wanted) if wanted.len() == 3));
        cache.supply(theirs.hash, b"three".as_slice().into());
        assert!(matches!(cache.merge(&base, &ours, &theirs), Merge::Wants(_)));
        cache.supply(ours.hash, b"two\0".as_slice().into());
        assert_eq!(cache.merge(&base, &ours, &theirs), Merge::Refused);
        cache.release(|_| false);
        assert_eq!(cache.merge(&base, &theirs, &ours), Merge::Refused, "remembered");
    }
}
