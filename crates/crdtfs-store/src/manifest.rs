//! Manifests: the chunk list of a content as a tree of nodes, each a chunk itself.
//!
//! A node is a header (magic `CMF1`, level, chunker, number of entries, bytes below it) and its entries: in a leaf the
//! hash and length of each chunk, above it the hash of each node below and the number of bytes it stands for. Nodes end
//! where the hashes say so (like the chunks themselves), so that an insertion changes one node a level and not all that
//! follow. The tree is a function of the bytes alone. Format: `docs/FORMAT.md`.

use crdtfs_core::id::Hash;

use crate::chunker::{MAX_CHUNK, MIN_CHUNK};

const MAGIC: &[u8; 4] = b"CMF1";
/// FastCDC v2020, normalization level 1, 64 KiB / 256 KiB / 1 MiB.
const CHUNKER: u8 = 1;
const HEADER: usize = 16;
/// A node has at least so many entries, but for the last of a level.
const MIN_ENTRIES: usize = 64;
/// A node has at most so many entries, so that it is below 64 KiB.
const MAX_ENTRIES: usize = 1024;
/// No content is so large that its manifest is deeper.
const MAX_LEVEL: u8 = 6;
/// The largest content: 16 TiB, what ext4 holds in a file.
pub(crate) const MAX_CONTENT: u64 = 1 << 44;
/// No node is longer than 64 KiB.
const _: () = assert!(HEADER + MAX_ENTRIES * 40 <= 64 << 10);

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: Hash,
    /// Bytes of the content.
    pub(crate) size: u64,
}

/// A node as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// 0: the entries are chunks.
    pub(crate) level: u8,
    pub(crate) entries: Vec<Entry>,
}

/// No list of so many bytes is longer, all its nodes taken together.
pub(crate) fn longest(size: u64) -> u64 {
    // An entry for each of the shortest chunks, a node for so many of those, and the nodes above.
    let (chunks, node) = (size / MIN_CHUNK as u64 + 1, (HEADER + MAX_ENTRIES * 40) as u64);
    size.min(2 * (chunks * 36).max(node))
}

/// Builds the manifest of a chunk list; hands each node, children first, to `emit`. Returns the root.
pub(crate) fn build<E>(
    chunks: &[(Hash, u32)],
    mut emit: impl FnMut(Hash, Vec<u8>) -> Result<(), E>,
) -> Result<Hash, E> {
    let mut entries: Vec<Entry> =
        chunks.iter().map(|(hash, len)| Entry { hash: *hash, size: u64::from(*len) }).collect();
    for level in 0.. {
        let mut above = Vec::new();
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let (node, after) = rest.split_at(node_len(rest));
            let bytes = encode(level, node);
            let hash = Hash::of(&bytes);
            above.push(Entry { hash, size: node.iter().map(|entry| entry.size).sum() });
            emit(hash, bytes)?;
            rest = after;
        }
        if let [root] = above[..] {
            return Ok(root.hash);
        }
        entries = above;
    }
    unreachable!("each level has at most a 64th of the nodes below it, rounded up")
}

/// Where the next node ends: after an entry whose hash has eight zero bits, but for the limits.
fn node_len(entries: &[Entry]) -> usize {
    let boundary = |(_, entry): &(usize, &Entry)| entry.hash.0[31] == 0;
    let found = entries.iter().enumerate().take(MAX_ENTRIES).skip(MIN_ENTRIES - 1).find(boundary);
    found.map_or(entries.len().min(MAX_ENTRIES), |(at, _)| at + 1)
}

fn encode(level: u8, entries: &[Entry]) -> Vec<u8> {
    let width = if level == 0 { 36 } else { 40 };
    let mut out = Vec::with_capacity(HEADER + entries.len() * width);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[level, CHUNKER]);
    out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    out.extend_from_slice(&entries.iter().map(|entry| entry.size).sum::<u64>().to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.hash.0);
        out.extend_from_slice(&entry.size.to_le_bytes()[..width - 32]);
    }
    out
}

/// Reads a node of which `size` bytes are expected, at `level` if that is known (not for a root).
///
/// All that can be said of a node alone is checked: sizes add up, chunks but the last of the content are not below the
/// chunker's minimum (so a short manifest cannot stand for an endless list), levels go down.
pub(crate) fn parse(bytes: &[u8], size: u64, level: Option<u8>, last: bool) -> Result<Node, &'static str> {
    if bytes.len() < HEADER || bytes[..4] != *MAGIC {
        return Err("not a node of a manifest of this version");
    }
    let (own, chunker) = (bytes[4], bytes[5]);
    let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let width = if own == 0 { 36 } else { 40 };
    if chunker != CHUNKER {
        return Err("made by a chunker that this version does not know; it needs a newer crdtfs");
    }
    if own > MAX_LEVEL || level.is_some_and(|level| level != own) {
        return Err("a node of a wrong level");
    }
    if count == 0 || count > MAX_ENTRIES || bytes.len() != HEADER + count * width {
        return Err("a node of a wrong length");
    }
    let mut entries = Vec::with_capacity(count);
    let mut total = 0_u64;
    for (at, entry) in bytes[HEADER..].chunks_exact(width).enumerate() {
        let mut word = [0; 8];
        word[..width - 32].copy_from_slice(&entry[32..]);
        let entry = Entry { hash: Hash::from_slice(&entry[..32]).expect("32 bytes"), size: u64::from_le_bytes(word) };
        let at_end = last && at + 1 == count;
        let least = if at_end { 1 } else { MIN_CHUNK as u64 };
        if entry.size < least || (own == 0 && entry.size > MAX_CHUNK as u64) || entry.size > MAX_CONTENT {
            return Err("an entry of an impossible size");
        }
        total += entry.size;
        entries.push(entry);
    }
    if total != size || bytes[8..16] != size.to_le_bytes() {
        return Err("sizes do not add up");
    }
    Ok(Node { level: own, entries })
}

/// Reads a node: its hash, the bytes it stands for, its level if that is known, and whether it is at the content's end.
pub(crate) type ReadNode<'a, E> = &'a mut dyn FnMut(&Hash, u64, Option<u8>, bool) -> Result<Option<Node>, E>;

/// A node that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) hash: Hash,
    /// Where the bytes that it stands for begin.
    pub(crate) offset: u64,
    /// How many they are.
    pub(crate) size: u64,
}

/// Walks the part of a manifest that covers `range`; `node` reads one, or says that it is not here. Calls `span` for each
/// chunk (offset, hash, length) in order; returns the nodes that are not here.
pub(crate) fn walk<E>(
    root: Hash,
    size: u64,
    range: std::ops::Range<u64>,
    node: ReadNode<'_, E>,
    span: &mut dyn FnMut(u64, Hash, u32) -> Result<(), E>,
) -> Result<Vec<Need>, E> {
    let mut needs = Vec::new();
    // (offset, entry, level): a stack, so that chunks come in order.
    let mut stack = vec![(0, Entry { hash: root, size }, None)];
    while let Some((offset, entry, level)) = stack.pop() {
        if offset >= range.end || offset + entry.size <= range.start {
            continue;
        }
        let last = offset + entry.size == size;
        let Some(found) = node(&entry.hash, entry.size, level, last)? else {
            needs.push(Need { hash: entry.hash, offset, size: entry.size });
            continue;
        };
        let mut at = offset;
        let base = stack.len();
        for below in &found.entries {
            if found.level > 0 {
                stack.push((at, *below, Some(found.level - 1)));
            } else if at < range.end && at + below.size > range.start {
                span(at, below.hash, below.size as u32)?;
            }
            at += below.size;
        }
        stack[base..].reverse();
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn chunks(n: u64) -> Vec<(Hash, u32)> {
        (0..n).map(|i| (Hash::of(&i.to_le_bytes()), 65_536 + (i % 7) as u32 * 1000)).collect()
    }

    fn made(chunks: &[(Hash, u32)]) -> (Hash, HashMap<Hash, Vec<u8>>) {
        let mut nodes = HashMap::new();
        let root = build(chunks, |hash, bytes| {
            assert!(bytes.len() <= 64 << 10);
            nodes.insert(hash, bytes);
            Ok::<_, Infallible>(())
        });
        (root.unwrap(), nodes)
    }

    fn listed(root: Hash, size: u64, range: std::ops::Range<u64>, nodes: &HashMap<Hash, Vec<u8>>) -> Vec<(Hash, u32)> {
        let mut out = Vec::new();
        let mut node = |hash: &Hash, size, level, last| parse(&nodes[hash], size, level, last).map(Some);
        let needs = walk(root, size, range, &mut node, &mut |_, hash, len| {
            out.push((hash, len));
            Ok(())
        });
        assert_eq!(needs.unwrap(), []);
        out
    }

    /// The format is to last: these values may not change.
    #[test]
    fn golden() {
        let (root, nodes) = made(&chunks(3));
        assert_eq!(nodes[&root].len(), 16 + 3 * 36);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&nodes[&root][..52]),
            include_str!("../golden/manifest-leaf-head.hex").trim()
        );
        assert_eq!(root.to_string(), include_str!("../golden/manifest-3.hash").trim());
        let (root, nodes) = made(&chunks(10_000));
        assert_eq!(root.to_string(), include_str!("../golden/manifest-10000.hash").trim());
        assert_eq!(nodes[&root][4], 1, "two levels");
    }

    #[test]
    fn an_insertion_changes_few_nodes() {
        let old = chunks(20_000);
        let mut new = old.clone();
        new.insert(5, (Hash::of(b"inserted"), 70_000));
        let (_, before) = made(&old);
        let (_, after) = made(&new);
        let changed = after.keys().filter(|hash| !before.contains_key(*hash)).count();
        assert!(changed <= 4, "{changed} of {} nodes are new", after.len());
    }

    #[test]
    fn no_list_is_longer_than_is_said() {
        for n in [1, 2, 63, 64, 1024, 5000, 100_000] {
            let list: Vec<_> = (0..n).map(|i: u64| (Hash::of(&i.to_le_bytes()), MIN_CHUNK as u32)).collect();
            let size = n * MIN_CHUNK as u64;
            let len: usize = made(&list).1.values().map(Vec::len).sum();
            assert!(len as u64 <= longest(size) && longest(size) <= size, "{n} chunks: {len} bytes");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let inner = |size: u64| encode(1, &[Entry { hash: Hash([1; 32]), size }, Entry { hash: Hash([1; 32]), size }]);
        assert!(parse(&inner(1 << 50), 1 << 51, None, true).is_err(), "larger than any content");
        let tiny: Vec<Entry> = (0..1000).map(|_| Entry { hash: Hash([1; 32]), size: 1 }).collect();
        assert!(parse(&encode(0, &tiny), 1000, None, true).is_err(), "chunks below the minimum");
        assert!(parse(&encode(9, &tiny), 1000, None, true).is_err(), "too deep");
        let two = encode(1, &[Entry { hash: Hash([1; 32]), size: 70_000 }; 2]);
        assert!(parse(&two, 140_000, Some(0), true).is_err(), "a level twice");
        assert!(parse(&two, 140_001, None, true).is_err(), "a size that does not add up");
        assert!(parse(&two, 140_000, None, true).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(n in 1_u64..5000, from in 0.0_f64..1.0, len in 0.0_f64..1.0) {
            let list = chunks(n);
            let size: u64 = list.iter().map(|(_, len)| u64::from(*len)).sum();
            let (root, nodes) = made(&list);
            prop_assert_eq!(&listed(root, size, 0..size, &nodes), &list);
            let start = (from * size as f64) as u64;
            let end = start + (len * (size - start) as f64) as u64;
            let mut at = 0;
            let mut want = Vec::new();
            for (hash, len) in &list {
                if at < end && at + u64::from(*len) > start {
                    want.push((*hash, *len));
                }
                at += u64::from(*len);
            }
            prop_assert_eq!(listed(root, size, start..end, &nodes), want);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in any::<u64>()) {
            let mut framed = encode(0, &[Entry { hash: Hash([1; 32]), size: 70_000 }]);
            framed.extend_from_slice(&bytes);
            let _ = parse(&bytes, size, None, true);
            let _ = parse(&framed, size, Some(0), false);
        }
    }
}
