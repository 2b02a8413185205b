//! Which chunks that are here are probably like those that lack: those at the same place of another version of the file.
//!
//! Between two chunks that both versions have, the first that lacks is like the first of the other version there, and
//! the last like the last: an edit changes what lies around it and leaves the rest of its chunk as it was.
//!
//! Both sides need the base. A file that its user writes over in place is all that its device had of the earlier version; what
//! still stands in it ([`remains`]) stays readable.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crdtfs_core::content::{ChunkRef, ContentRef, SINGLE_CHUNK_MAX};
use crdtfs_core::id::Hash;

use crate::index::{Key, key};
use crate::manifest::Need;
use crate::source::ChunkSource;
use crate::store::{ChunkSpan, Inner};

/// Other versions that are looked at.
const VERSIONS: usize = 4;
/// Chunks of an earlier version that are looked for in a file.
const REMAINS: usize = 16;

impl Inner {
    /// Another version of the file that a content is of, whose manifest and most of whose chunks are here.
    pub(crate) fn earlier_of(&self, content: &ContentRef, source: &dyn ChunkSource) -> Option<ContentRef> {
        if content.size <= SINGLE_CHUNK_MAX {
            return None;
        }
        source.other_versions(content).into_iter().take(VERSIONS).find(|other| {
            let spans = self.known_chunks(other);
            let index = self.index.read();
            let here = spans.iter().filter(|span| index.has(&key(&span.hash))).count();
            !spans.is_empty() && here * 2 > spans.len()
        })
    }

    /// A node of the other version's manifest that begins or ends where one that lacks does.
    pub(crate) fn node_like(&self, content: &ContentRef, need: &Need, earlier: &ContentRef) -> Option<ChunkRef> {
        let from_end = content.size - (need.offset + need.size);
        let front = self.node_at(earlier, need.offset, |offset, _| offset == need.offset);
        front.or_else(|| {
            let end = earlier.size.checked_sub(from_end).filter(|end| *end > 0)?;
            self.node_at(earlier, end - 1, |offset, size| offset + size == end)
        })
    }

    /// The lowest node over `place` that fits.
    fn node_at(&self, content: &ContentRef, place: u64, fits: impl Fn(u64, u64) -> bool) -> Option<ChunkRef> {
        let content = self.resolve(content);
        let root = content.manifest.filter(|_| place < content.size)?;
        let mut found = None;
        let mut at = 0;
        let mut entry = (root, content.size, None);
        loop {
            let last = at + entry.1 == content.size;
            let node = self.manifest_node(&entry.0, entry.1, entry.2, last).ok().flatten()?;
            if fits(at, entry.1) {
                found = Some(ChunkRef::within(&content, at, entry.0));
            }
            if node.level == 0 {
                return found;
            }
            let below = node.entries.iter().find(|below| {
                let over = place < at + below.size;
                at += if over { 0 } else { below.size };
                over
            })?;
            entry = (below.hash, below.size, Some(node.level - 1));
        }
    }

    /// For chunks of `spans` that lack (indexes, ascending) those of the other version that are probably like them.
    pub(crate) fn bases(
        &self,
        spans: &[ChunkSpan],
        lacking: &[usize],
        earlier: &ContentRef,
    ) -> HashMap<usize, ChunkRef> {
        let other = self.known_chunks(earlier);
        let index = self.index.read();
        // A folder's new file lacks all, and gets most of it from here.
        let lacking: Vec<usize> = lacking.iter().copied().filter(|at| !index.has(&key(&spans[*at].hash))).collect();
        let pairs = pair(spans, &lacking, &other).into_iter();
        let here = pairs.filter(|(_, like)| index.has(&key(&other[*like].hash)));
        here.map(|(at, like)| (at, ChunkRef::within(earlier, other[like].offset, other[like].hash))).collect()
    }
}

/// Chunks of an earlier version that a file of `size` bytes still holds, though its own (`now`) are others: at the same
/// distance from its beginning, or from its end. Each with its offset. Few are looked for: an edit of one place has few.
pub(crate) fn remains(
    before: &[ChunkSpan],
    now: &[(Hash, u32)],
    size: u64,
    file: &File,
) -> io::Result<Vec<(Hash, u64, u32)>> {
    let kept: HashSet<Key> = now.iter().map(|(hash, _)| key(hash)).collect();
    let before_size = before.last().map_or(0, |last| last.offset + u64::from(last.len));
    let mut found = Vec::new();
    for span in before.iter().filter(|span| !kept.contains(&key(&span.hash))).take(REMAINS) {
        let from_end = (span.offset + size).checked_sub(before_size);
        for offset in [Some(span.offset), from_end].into_iter().flatten() {
            let mut bytes = vec![0; span.len as usize];
            if offset + u64::from(span.len) > size {
                continue;
            }
            match file.read_exact_at(&mut bytes, offset) {
                Ok(()) if Hash::of(&bytes) == span.hash => {
                    found.push((span.hash, offset, span.len));
                    break;
                }
                // It became shorter: that is noticed elsewhere.
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Pairs chunks that lack with chunks of another version, by their distance from the nearest chunk that both have.
fn pair(spans: &[ChunkSpan], lacking: &[usize], other: &[ChunkSpan]) -> Vec<(usize, usize)> {
    let places: HashMap<Key, usize> = other.iter().enumerate().map(|(at, span)| (key(&span.hash), at)).collect();
    let place = |at: usize| places.get(&key(&spans[at].hash)).copied();
    let mut pairs = Vec::new();
    let mut rest = lacking;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(at, expected)| **at == *expected).count();
        rest = &rest[run..];
        let (start, end) = (first, first + run);
        // Where the other version goes on behind what precedes the run, and where it is when the run is over.
        let from = if start == 0 { Some(0) } else { place(start - 1).map(|at| at + 1) };
        let to = if end == spans.len() { Some(other.len()) } else { place(end) };
        match (from, to) {
            (Some(from), Some(to)) if from < to => {
                let half = run.div_ceil(2);
                pairs.extend((0..half.min(to - from)).map(|n| (start + n, from + n)));
                pairs.extend((1..=(run - half).min(to - from)).rev().map(|n| (end - n, to - n)));
            }
            (Some(from), None) => pairs.extend((0..run.min(other.len() - from)).map(|n| (start + n, from + n))),
            (None, Some(to)) => pairs.extend((1..=run.min(to)).rev().map(|n| (end - n, to - n))),
            _ => {}
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks named by letters.
    fn spans(names: &str) -> Vec<ChunkSpan> {
        let span = |(at, name): (usize, u8)| ChunkSpan { hash: Hash::of(&[name]), offset: at as u64 * 100, len: 100 };
        names.bytes().enumerate().map(span).collect()
    }

    /// Small letters are in both; what is paired, by names.
    fn paired(new: &str, old: &str) -> String {
        let lacking: Vec<usize> =
            new.bytes().enumerate().filter(|(_, c)| c.is_ascii_uppercase()).map(|(i, _)| i).collect();
        let pairs = pair(&spans(new), &lacking, &spans(old));
        let named = |(at, like): &(usize, usize)| format!("{}{}", &new[*at..=*at], &old[*like..=*like]);
        pairs.iter().map(named).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn chunks_are_paired_by_what_lies_beside_them() {
        assert_eq!(paired("abcXYZ", "abcd"), "Xd Zd", "appended");
        assert_eq!(paired("Xbcd", "abcd"), "Xa", "inserted at the front");
        assert_eq!(paired("abXYef", "abcdef"), "Xc Yd", "overwritten in the middle");
        assert_eq!(paired("abXYZef", "abcdef"), "Xc Yd Zd", "one more");
        assert_eq!(paired("abXef", "abcdef"), "Xc", "one less");
        assert_eq!(paired("XbcYeZ", "abcdef"), "Xa Yd Zf", "in several places");
        assert_eq!(paired("qXb", "ab"), "Xa", "behind what is new to both");
        assert_eq!(paired("abXYZ", "ab"), "", "nothing was there");
        assert_eq!(paired("XYZ", "abc"), "Xa Yb Zc", "all of it");
        assert_eq!(paired("baX", "abc"), "Xb", "in another order: a guess");
    }
}
