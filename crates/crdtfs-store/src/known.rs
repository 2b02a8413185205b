//! What is known of bytes before they are chunked, so that an edited large file is not chunked from scratch.
//!
//! Where a chunk ends is a function of the at most [`MAX_CHUNK`] bytes from its start (the *window*), so a cut of another
//! content may be taken over exactly where the windows are the same.

use std::ops::Range;

use crdtfs_core::id::Hash;

use crate::chunker::{Cutter, MAX_CHUNK};
use crate::index::{KeyMap, key};
use crate::store::ChunkSpan;
use crate::zeros::is_zeros;

/// What is known of the bytes that are to be chunked.
pub(crate) enum Known<'a> {
    /// Nothing: each chunk is looked for.
    Nothing,
    /// Which of them are those of a content at the same place.
    Unchanged(Unchanged<'a>),
    /// They are like those of another content, here and there, and moved.
    Like(Like<'a>),
}

/// Bytes of which some are still those of a base.
pub(crate) struct Unchanged<'a> {
    /// The chunks of the base.
    pub(crate) base: &'a [ChunkSpan],
    /// Of the bytes that are to be chunked.
    pub(crate) size: u64,
    /// Whether all bytes of a range are the base's.
    pub(crate) same: &'a dyn Fn(Range<u64>) -> bool,
}

/// Bytes that are those of another content for long stretches, at any place. Each chunk that follows one of the other
/// content's is compared with the one that follows there, by its hash: that is cheaper than looking for its end.
pub(crate) struct Like<'a> {
    other: &'a [ChunkSpan],
    /// Where each is in the list.
    places: KeyMap<u32>,
    /// The one that is likely next.
    next: Option<usize>,
    /// The bytes that come next were compared with that one already, and are the same.
    matched: bool,
}

impl Known<'_> {
    /// How many bytes `chunk` has to see, unless they end sooner.
    pub(crate) fn lookahead(&self) -> usize {
        match self {
            Known::Like(_) => 2 * MAX_CHUNK,
            _ => MAX_CHUNK,
        }
    }

    /// How many of the chunks from `offset` on are known to be chunks of zeros, at most so many.
    pub(crate) fn zeros(&self, offset: u64, most: usize) -> usize {
        let Known::Unchanged(unchanged) = self else { return 0 };
        let is_next = |at: &usize| unchanged.at(offset + (at * MAX_CHUNK) as u64).is_some_and(is_zeros);
        (0..most).take_while(is_next).count()
    }

    /// Chunks were passed over, of which this was the last.
    pub(crate) fn passed(&mut self, last: &Hash) {
        if let Known::Like(like) = self {
            like.matched = false;
            like.next = like.places.get(&key(last)).map(|at| *at as usize + 1);
        }
    }

    /// The length of the chunk that begins at `offset`, and its hash if that is known by now. `rest` begins there.
    pub(crate) fn chunk(&mut self, cutter: &Cutter, offset: u64, rest: &[u8], end: bool) -> (usize, Option<Hash>) {
        match self {
            Known::Nothing => (cutter.next(rest), None),
            Known::Unchanged(unchanged) => match unchanged.at(offset).filter(|span| span.len as usize <= rest.len()) {
                Some(span) => (span.len as usize, Some(span.hash)),
                None => (cutter.next(rest), None),
            },
            Known::Like(like) => {
                let (len, hash) = like.chunk(cutter, rest, end);
                (len, Some(hash))
            }
        }
    }
}

impl Unchanged<'_> {
    fn at(&self, offset: u64) -> Option<&ChunkSpan> {
        let span = &self.base[self.base.binary_search_by_key(&offset, |span| span.offset).ok()?];
        let base_size = self.base.last().map_or(0, |last| last.offset + u64::from(last.len));
        let window = offset..offset + MAX_CHUNK as u64;
        // A window that is cut short by the end is the same only where the ends are.
        let whole = window.end <= self.size.min(base_size);
        let window = if whole { window } else { offset..self.size };
        ((whole || self.size == base_size) && (self.same)(window)).then_some(span)
    }
}

impl<'a> Like<'a> {
    /// Bytes that are like those of the content with these chunks.
    pub(crate) fn new(other: &'a [ChunkSpan]) -> Self {
        let places = other.iter().zip(0..).map(|(span, at)| (key(&span.hash), at)).collect();
        Self { other, places, next: Some(0), matched: false }
    }

    fn chunk(&mut self, cutter: &Cutter, rest: &[u8], end: bool) -> (usize, Hash) {
        let matched = std::mem::take(&mut self.matched);
        if let Some(at) = self.next
            && (matched || self.matches(at, rest))
        {
            let span = self.other[at];
            let len = span.len as usize;
            let certain = if at + 1 == self.other.len() {
                // It ends where the content ends.
                end && rest.len() == len
            } else if len == MAX_CHUNK {
                // Its bytes are the window.
                true
            } else {
                // The chunker stopped on seeing the byte behind the chunk: that has to be the same, too.
                self.matched = self.matches(at + 1, &rest[len..]);
                self.matched
            };
            if certain {
                self.next = Some(at + 1);
                return (len, span.hash);
            }
        }
        let len = cutter.next(rest);
        let hash = Hash::of(&rest[..len]);
        self.next = self.places.get(&key(&hash)).map(|at| *at as usize + 1);
        (len, hash)
    }

    fn matches(&self, at: usize, rest: &[u8]) -> bool {
        let Some(span) = self.other.get(at) else { return false };
        rest.get(..span.len as usize).is_some_and(|bytes| Hash::of(bytes) == span.hash)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::chunker::{Chunked, Input, chunk_bytes, chunk_known, spans};
    use crate::layer::Extents;
    use crate::store_tests::noise;

    fn known(bytes: &[u8], known: Known<'_>) -> Chunked {
        let mut read = |buf: &mut [u8], offset: u64| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        // Zeros are holes, for as many as there are.
        let data = |offset: u64| offset + bytes[offset as usize..].iter().take_while(|byte| **byte == 0).count() as u64;
        let input =
            Input { size: bytes.len() as u64, read: &mut read, next_data: &|offset| Ok(data(offset)), go_on: &|| true };
        let mut each = |_, hash: &Hash, chunk: &[u8]| {
            assert_eq!(*hash, Hash::of(chunk));
            Ok(())
        };
        chunk_known(input, &mut each, known).unwrap().unwrap()
    }

    fn scratch(bytes: &[u8]) -> Chunked {
        chunk_bytes(bytes, &mut |_, _, _| Ok(())).unwrap()
    }

    /// Bytes as a file has them: noise, and stretches of zeros, which are cut at the greatest length.
    fn base(len: usize, zeros: Range<usize>, seed: u64) -> Vec<u8> {
        let mut bytes = noise(len, seed);
        let zeros = zeros.start.min(len)..zeros.end.min(len);
        bytes[zeros].fill(0);
        bytes
    }

    const MIB: usize = 1 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn unchanged_parts_are_cut_as_from_scratch(
            len in 2 * MIB..10 * MIB,
            zeros in (0..8 * MIB, 0..4 * MIB),
            seed in any::<u64>(),
            steps in proptest::collection::vec((0..11 * MIB, 1..70_000_usize, any::<bool>()), 0..5),
        ) {
            let old = base(len, zeros.0..zeros.0 + zeros.1, seed);
            let list = spans(&scratch(&old));
            let (mut bytes, mut shown, mut extents) = (old.clone(), len as u64, Extents::default());
            for (at, n, cut) in steps {
                if cut {
                    bytes.resize(at, 0);
                    shown = shown.min(at as u64);
                    extents.truncate(at as u64);
                } else {
                    bytes.resize(bytes.len().max(at + n), 0);
                    bytes[at..at + n].copy_from_slice(&noise(n, at as u64));
                    extents.insert(at as u64, (at + n) as u64);
                }
            }
            let same = |range: Range<u64>| {
                range.end <= shown && extents.at_or_after(range.start).is_none_or(|(start, _)| start >= range.end)
            };
            let unchanged = Unchanged { base: &list, size: bytes.len() as u64, same: &same };
            prop_assert_eq!(known(&bytes, Known::Unchanged(unchanged)), scratch(&bytes));
        }

        #[test]
        fn like_parts_are_cut_as_from_scratch(
            len in 2 * MIB..10 * MIB,
            zeros in (0..8 * MIB, 0..4 * MIB),
            seed in any::<u64>(),
            steps in proptest::collection::vec((0..10 * MIB, 0..300_000_usize, 0..300_000_usize), 0..4),
        ) {
            let old = base(len, zeros.0..zeros.0 + zeros.1, seed);
            let list = spans(&scratch(&old));
            let mut bytes = old.clone();
            for (at, gone, new) in steps {
                let at = at.min(bytes.len());
                let gone = at..(at + gone).min(bytes.len());
                bytes.splice(gone, noise(new, at as u64));
            }
            prop_assert_eq!(known(&bytes, Known::Like(Like::new(&list))), scratch(&bytes));
        }

        /// The byte behind a chunk decides where it ends: edits right there, and ends right there.
        #[test]
        fn edits_at_the_cuts(seed in any::<u64>(), which in any::<proptest::sample::Index>(), by in -2_i64..3, cut: bool) {
            let old = base(5 * MIB, 3 * MIB..5 * MIB - 1, seed);
            let list = spans(&scratch(&old));
            let span = which.get(&list);
            let at = (span.offset as i64 + i64::from(span.len) + by).clamp(2 * MIB as i64, old.len() as i64) as usize;
            let (mut bytes, mut extents) = (old.clone(), Extents::default());
            let shown = if cut { at } else { old.len() } as u64;
            if cut {
                bytes.truncate(at);
            } else {
                bytes.resize(bytes.len().max(at + 1), 0);
                bytes[at] = !bytes[at];
                extents.insert(at as u64, at as u64 + 1);
            }
            let same = |range: Range<u64>| {
                range.end <= shown && extents.at_or_after(range.start).is_none_or(|(start, _)| start >= range.end)
            };
            let unchanged = Unchanged { base: &list, size: bytes.len() as u64, same: &same };
            prop_assert_eq!(known(&bytes, Known::Unchanged(unchanged)), scratch(&bytes));
            prop_assert_eq!(known(&bytes, Known::Like(Like::new(&list))), scratch(&bytes));
        }
    }
}
