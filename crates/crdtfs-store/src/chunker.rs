//! Cutting bytes into content-defined chunks and hashing them, reading once.
//!
//! FastCDC (Xia et al., 2020), as the crate `fastcdc` has it, pinned: its cut points are part of our formats.

use std::io;
use std::sync::mpsc;

use crdtfs_core::content::SINGLE_CHUNK_MAX;
use crdtfs_core::id::Hash;
use fastcdc::v2020::{Normalization, cut, select_masks};

use crate::known::Known;
use crate::store::ChunkSpan;
use crate::zeros;

/// The shortest chunk, but for the last of a content, in bytes.
pub(crate) const MIN_CHUNK: usize = 64 << 10;
const AVERAGE_CHUNK: usize = 256 << 10;
/// The longest chunk in bytes.
pub(crate) const MAX_CHUNK: usize = 1 << 20;
/// Contents from here on are cut by one thread and hashed by another.
const PIPELINE_FROM: u64 = 2 << 20;
const BLOCK: usize = 4 << 20;
const BLOCKS: usize = 3;
/// Chunks of a hole that are handed over at once: so many that it costs nothing, and so few that it can be given up.
const ZEROS_BATCH: usize = 16;

/// The chunks of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    /// blake3 of all bytes.
    pub(crate) hash: Hash,
    pub(crate) size: u64,
    /// In order. For contents of one chunk without a manifest just that one; none for no bytes.
    pub(crate) chunks: Vec<(Hash, u32)>,
}

impl Chunked {
    /// Whether the content has a manifest.
    pub(crate) fn has_manifest(&self) -> bool {
        self.size > SINGLE_CHUNK_MAX
    }
}

/// Gets each chunk as it is hashed: (offset, hash, bytes).
pub(crate) type OnChunk<'a> = &'a mut (dyn FnMut(u64, &Hash, &[u8]) -> io::Result<()> + Send);

/// Where the first chunk of `bytes` ends. `bytes` goes to the end of the content or is at least [`MAX_CHUNK`] long.
pub(crate) struct Cutter {
    strict: u64,
    relaxed: u64,
}

impl Cutter {
    fn new() -> Self {
        let (strict, relaxed) = select_masks(AVERAGE_CHUNK, Normalization::Level1);
        Self { strict, relaxed }
    }

    pub(crate) fn next(&self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(MAX_CHUNK)];
        let (s, l) = (self.strict, self.relaxed);
        cut(bytes, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK, s, l, s << 1, l << 1).1
    }
}

/// Chunks bytes in memory.
pub(crate) fn chunk_bytes(bytes: &[u8], each: OnChunk<'_>) -> io::Result<Chunked> {
    let mut chunked = Chunked { hash: Hash::of(bytes), size: bytes.len() as u64, chunks: Vec::new() };
    if bytes.is_empty() {
        return Ok(chunked);
    }
    if !chunked.has_manifest() {
        each(0, &chunked.hash, bytes)?;
        chunked.chunks.push((chunked.hash, bytes.len() as u32));
        return Ok(chunked);
    }
    let cutter = Cutter::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = cutter.next(&bytes[at..]);
        let chunk = &bytes[at..at + len];
        let hash = Hash::of(chunk);
        each(at as u64, &hash, chunk)?;
        chunked.chunks.push((hash, len as u32));
        at += len;
    }
    Ok(chunked)
}

/// The chunks with their offsets.
pub(crate) fn spans(chunked: &Chunked) -> Vec<ChunkSpan> {
    let mut offset = 0;
    let span = |(hash, len): &(Hash, u32)| {
        let span = ChunkSpan { hash: *hash, offset, len: *len };
        offset += u64::from(*len);
        span
    };
    chunked.chunks.iter().map(span).collect()
}

/// Bytes that are chunked as they are read.
pub(crate) struct Input<'a> {
    /// How much to expect.
    pub(crate) size: u64,
    /// As `pread`.
    pub(crate) read: &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
    /// The first place from an offset on that is not in a hole; the end if there is none.
    pub(crate) next_data: &'a dyn Fn(u64) -> io::Result<u64>,
    /// Whether it is still wanted.
    pub(crate) go_on: &'a dyn Fn() -> bool,
}

/// Chunks what is read, to its end. Large contents are read and cut here and hashed on a second thread, which also calls
/// `each`. What is known of the bytes changes nothing about the outcome. `None` if it was not wanted any more.
pub(crate) fn chunk_known(input: Input<'_>, each: OnChunk<'_>, mut known: Known<'_>) -> io::Result<Option<Chunked>> {
    let Input { size, read, .. } = input;
    if size < PIPELINE_FROM {
        let mut bytes = vec![0; size as usize + 1];
        let n = fill(read, &mut bytes, 0)?;
        if n <= size as usize {
            bytes.truncate(n);
            return chunk_bytes(&bytes, each).map(Some);
        }
        // It grew: begin anew.
    }
    std::thread::scope(|scope| {
        let (to_hash, blocks) = mpsc::sync_channel::<Block>(BLOCKS);
        let (give_back, free) = mpsc::channel();
        let hasher = scope.spawn(move || hash_blocks(blocks, give_back, each));
        let cut = cut_blocks(Input { read, ..input }, &mut known, &to_hash, &free);
        drop(to_hash);
        let hashed = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // An error of the hashing side also ends the cutting side: it is the one to tell.
        let chunked = hashed?;
        Ok(cut?.then_some(chunked))
    })
}

enum Block {
    Bytes {
        bytes: Vec<u8>,
        /// Lengths of the chunks that `bytes` begins with, and hashes that are known.
        cuts: Vec<(u32, Option<Hash>)>,
    },
    /// So many chunks of zeros.
    Zeros(usize),
}

/// False if it was not wanted any more.
fn cut_blocks(
    input: Input<'_>,
    known: &mut Known<'_>,
    to_hash: &mpsc::SyncSender<Block>,
    free: &mpsc::Receiver<Vec<u8>>,
) -> io::Result<bool> {
    let cutter = Cutter::new();
    let mut offset = 0;
    let mut carry: Vec<u8> = Vec::with_capacity(MAX_CHUNK);
    while (input.go_on)() {
        let zeros = zero_chunks(&input, known, offset - carry.len() as u64)?;
        if zeros > 0 {
            offset += (zeros * MAX_CHUNK) as u64 - carry.len() as u64;
            carry.clear();
            known.passed(&zeros::hash());
            if to_hash.send(Block::Zeros(zeros)).is_err() {
                return Ok(true);
            }
            continue;
        }
        let mut bytes = free.try_recv().unwrap_or_default();
        bytes.resize(BLOCK + MAX_CHUNK, 0);
        bytes[..carry.len()].copy_from_slice(&carry);
        let room = &mut bytes[carry.len()..];
        let n = fill(input.read, room, offset)?;
        let end = n < room.len();
        offset += n as u64;
        bytes.truncate(carry.len() + n);
        let start = offset - bytes.len() as u64;
        let mut cuts = Vec::new();
        let mut at = 0;
        while at < bytes.len() && (end || bytes.len() - at >= known.lookahead()) {
            let (len, hash) = known.chunk(&cutter, start + at as u64, &bytes[at..], end);
            cuts.push((len as u32, hash));
            at += len;
        }
        carry.clear();
        carry.extend_from_slice(&bytes[at..]);
        if !cuts.is_empty() && to_hash.send(Block::Bytes { bytes, cuts }).is_err() {
            return Ok(true);
        }
        if end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many of the chunks from `start` on are known to be chunks of zeros, up to a batch: those in a hole. Where a chunk ends
/// is a function of the [`MAX_CHUNK`] bytes from its start: of zeros alone, wherever they are, that is all of them.
fn zero_chunks(input: &Input<'_>, known: &Known<'_>, start: u64) -> io::Result<usize> {
    // Behind the end there is no hole.
    let until = if start < input.size { (input.next_data)(start)?.min(input.size) } else { start };
    let in_hole = until.saturating_sub(start) / MAX_CHUNK as u64;
    Ok(if in_hole > 0 { in_hole.min(ZEROS_BATCH as u64) as usize } else { known.zeros(start, ZEROS_BATCH) })
}

fn hash_blocks(
    blocks: mpsc::Receiver<Block>,
    give_back: mpsc::Sender<Vec<u8>>,
    each: OnChunk<'_>,
) -> io::Result<Chunked> {
    let mut whole = blake3::Hasher::new();
    let mut chunked = Chunked { hash: Hash([0; 32]), size: 0, chunks: Vec::new() };
    for block in blocks {
        match block {
            Block::Bytes { bytes, cuts } => {
                let mut at = 0;
                for (len, hash) in cuts {
                    let chunk = &bytes[at..at + len as usize];
                    let hash = hash.unwrap_or_else(|| Hash::of(chunk));
                    each(chunked.size + at as u64, &hash, chunk)?;
                    chunked.chunks.push((hash, len));
                    at += len as usize;
                }
                whole.update(&bytes[..at]);
                chunked.size += at as u64;
                let _ = give_back.send(bytes);
            }
            Block::Zeros(count) => {
                let hash = zeros::hash();
                for _ in 0..count {
                    each(chunked.size, &hash, &zeros::ZEROS)?;
                    chunked.chunks.push((hash, MAX_CHUNK as u32));
                    whole.update(&zeros::ZEROS);
                    chunked.size += MAX_CHUNK as u64;
                }
            }
        }
    }
    chunked.hash = Hash(*whole.finalize().as_bytes());
    // A content that shrank below one chunk while it was read.
    if !chunked.has_manifest() && chunked.chunks.len() == 1 {
        chunked.chunks[0].0 = chunked.hash;
    }
    Ok(chunked)
}

/// Reads until `buf` is full or the end.
pub(crate) fn fill(
    read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// Bytes without a pattern, the same on every run.
    pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        reader.fill(&mut bytes);
        bytes
    }

    fn through_reader(bytes: &[u8], hint: u64) -> Chunked {
        let mut seen = Vec::new();
        let mut read = |buf: &mut [u8], offset: u64| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len()).min(100_000);
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        let chunked = chunk_reader(hint, &mut read, &mut |offset, hash, chunk| {
            assert_eq!(*hash, Hash::of(chunk));
            assert_eq!(offset as usize, seen.len());
            seen.extend_from_slice(chunk);
            Ok(())
        });
        assert_eq!(seen, bytes);
        chunked.unwrap()
    }

    /// Without holes.
    fn chunk_reader(
        size: u64,
        read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
        each: OnChunk<'_>,
    ) -> io::Result<Chunked> {
        let input = Input { size, read, next_data: &|offset| Ok(offset), go_on: &|| true };
        chunk_known(input, each, Known::Nothing).map(Option::unwrap)
    }

    #[test]
    fn both_ways_cut_alike_and_the_limits_hold() {
        for len in [0, 1, 65_536, 65_537, 1 << 20, (5 << 20) + 17, 20 << 20] {
            let bytes = noise(len, 1);
            let memory = chunk_bytes(&bytes, &mut |_, _, _| Ok(())).unwrap();
            assert_eq!(memory.hash, Hash::of(&bytes));
            assert_eq!(through_reader(&bytes, len as u64), memory);
            assert_eq!(through_reader(&bytes, 3 << 20), memory, "a wrong hint changes nothing");
            assert_eq!(through_reader(&bytes, 0), memory);
            let (last, rest) = memory.chunks.split_last().map_or((&(Hash([0; 32]), 1), &[][..]), |x| x);
            assert!(rest.iter().all(|(_, len)| (MIN_CHUNK..=MAX_CHUNK).contains(&(*len as usize))));
            assert!(last.1 as usize <= MAX_CHUNK && last.1 > 0);
        }
    }

    /// The cut points are part of the formats: these may not change.
    #[test]
    fn golden() {
        let bytes = noise(8 << 20, 7);
        let chunked = chunk_bytes(&bytes, &mut |_, _, _| Ok(())).unwrap();
        let cuts: Vec<String> = chunked.chunks.iter().map(|(_, len)| len.to_string()).collect();
        assert_eq!(cuts.join(" "), include_str!("../golden/chunks-8mib.txt").trim());
    }

    #[test]
    fn zeros_are_cut_at_the_greatest_length() {
        assert_eq!(Cutter::new().next(&zeros::ZEROS), MAX_CHUNK);
    }

    /// Bytes with holes, and where the first data from an offset on is.
    fn with_holes(len: usize, holes: &[(usize, usize)]) -> (Vec<u8>, impl Fn(u64) -> io::Result<u64>) {
        let mut bytes: Vec<u8> = noise(len, 5);
        let holes: Vec<_> =
            holes.iter().map(|(at, len)| (*at.min(&bytes.len()), (at + len).min(bytes.len()))).collect();
        holes.iter().for_each(|(at, end)| bytes[*at..*end].fill(0));
        let next_data = move |offset: u64| {
            let mut place = offset;
            // Some lie in or behind others.
            while let Some((_, end)) = holes.iter().find(|(at, end)| (*at as u64..*end as u64).contains(&place)) {
                place = *end as u64;
            }
            Ok(place)
        };
        (bytes, next_data)
    }

    fn through_holes(bytes: &[u8], next_data: &dyn Fn(u64) -> io::Result<u64>) -> (Chunked, usize) {
        let mut was_read = 0;
        let mut read = |buf: &mut [u8], offset: u64| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            was_read += n;
            Ok(n)
        };
        let input = Input { size: bytes.len() as u64, read: &mut read, next_data, go_on: &|| true };
        let mut seen = 0;
        let mut each = |offset: u64, hash: &Hash, chunk: &[u8]| {
            assert_eq!(offset, seen);
            assert_eq!((*hash, chunk), (Hash::of(chunk), &bytes[seen as usize..][..chunk.len()]));
            seen += chunk.len() as u64;
            Ok(())
        };
        let chunked = chunk_known(input, &mut each, Known::Nothing).unwrap().unwrap();
        (chunked, was_read)
    }

    #[test]
    fn holes_are_cut_as_the_zeros_that_they_are() {
        const MIB: usize = 1 << 20;
        let len = 24 * MIB + 4321;
        let cuts = chunk_bytes(&noise(len, 5), &mut |_, _, _| Ok(())).unwrap();
        let mut borders = spans(&cuts).into_iter().map(|span| span.offset as usize).filter(|at| *at > 3 * MIB);
        let border = borders.next().unwrap();
        let mut holes: Vec<Vec<(usize, usize)>> = vec![
            vec![(0, len)],
            vec![(0, 9 * MIB + 1)],
            vec![(len - 12 * MIB - 7, len)],
            vec![(0, 3 * MIB), (4 * MIB, 3 * MIB - 1), (len - MIB, MIB)],
            vec![(5, MIB - 1), (2 * MIB + 77, MIB + 1), (9 * MIB, 2 * MIB), (12 * MIB - 1, 8 * MIB + 2)],
        ];
        for at in [border - 1, border, border + 1] {
            for len in [MIB - 1, MIB, MIB + 1, 11 * MIB, 11 * MIB + 1] {
                holes.push(vec![(at, len)]);
            }
        }
        for holes in holes {
            let (bytes, next_data) = with_holes(len, &holes);
            let whole = chunk_bytes(&bytes, &mut |_, _, _| Ok(())).unwrap();
            let (chunked, _) = through_holes(&bytes, &next_data);
            assert_eq!(chunked, whole, "{holes:?}");
        }
        let (bytes, next_data) = with_holes(256 * MIB, &[(7, 200 * MIB), (200 * MIB + 7, 55 * MIB)]);
        let (_, was_read) = through_holes(&bytes, &next_data);
        assert!(was_read < 20 * MIB, "{was_read} bytes were read of 1 MiB that is there");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn holes_anywhere_change_nothing(
            len in 2_usize << 20..20 << 20,
            holes in proptest::collection::vec((0_usize..20 << 20, 0_usize..8 << 20), 0..5),
        ) {
            let (bytes, next_data) = with_holes(len, &holes);
            let whole = chunk_bytes(&bytes, &mut |_, _, _| Ok(())).unwrap();
            prop_assert_eq!(through_holes(&bytes, &next_data).0, whole);
        }
    }

    /// Content ids are the same on all devices and for good, whoever skips holes.
    #[test]
    fn golden_with_holes() {
        let (bytes, next_data) = with_holes(40 << 20, &[(0, 5_000_001), (9_999_999, 20 << 20), (39 << 20, 1 << 20)]);
        let (chunked, _) = through_holes(&bytes, &next_data);
        let manifest = crate::manifest::build(&chunked.chunks, |_, _| Ok::<_, io::Error>(())).unwrap();
        let said = format!("{} {manifest} {}", chunked.hash, chunked.chunks.len());
        assert_eq!(said, include_str!("../golden/holes.txt").trim());
        assert_eq!(through_reader(&bytes, bytes.len() as u64), chunked, "as written out");
    }

    #[test]
    fn what_is_not_wanted_is_given_up() {
        for hole in [false, true] {
            let asked = std::cell::Cell::new(0);
            let go_on = || asked.replace(asked.get() + 1) < 10;
            let input = Input {
                size: 1 << 44,
                read: &mut |buf, _| Ok(buf.len()),
                next_data: &|offset| Ok(if hole { 1 << 44 } else { offset }),
                go_on: &go_on,
            };
            assert_eq!(chunk_known(input, &mut |_, _, _| Ok(()), Known::Nothing).unwrap(), None);
        }
    }

    #[test]
    fn an_error_of_either_side_ends_it() {
        let bytes = noise(10 << 20, 3);
        let mut read = |buf: &mut [u8], offset: u64| {
            if offset > 6 << 20 {
                return Err(io::Error::other("unreadable"));
            }
            let rest = &bytes[offset as usize..];
            let n = rest.len().min(buf.len()).min(1 << 20);
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        let error = chunk_reader(10 << 20, &mut read, &mut |_, _, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "unreadable");
        let mut read = |buf: &mut [u8], _| {
            buf.fill(1);
            Ok(buf.len())
        };
        let error =
            chunk_reader(u64::MAX, &mut read, &mut |_, _, _| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "an endless reader is left as soon as the sink fails");
    }
}
