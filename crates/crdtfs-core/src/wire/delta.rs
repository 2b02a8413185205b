//! A chunk as what differs from another one: a zstd frame with the other as its prefix.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use super::CHUNK_MAX;

/// Fast, and good enough to find what two versions of a file have in common.
const LEVEL: i32 = 3;
/// Base and chunk together fit into the window.
const WINDOW_LOG: u32 = 21;
const _: () = assert!(2 * CHUNK_MAX <= 1 << WINDOW_LOG);

/// What makes `chunk` of `base`, if that is at least an eighth smaller than the chunk.
pub fn delta(base: &[u8], chunk: &[u8]) -> Option<Vec<u8>> {
    if base.len() > CHUNK_MAX || chunk.len() > CHUNK_MAX {
        return None;
    }
    let mut out = Vec::with_capacity(compress_bound(chunk.len()));
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(LEVEL)).ok()?;
    context.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
    context.ref_prefix(base).ok()?;
    context.compress2(&mut out, chunk).ok()?;
    (out.len() < chunk.len() - chunk.len() / 8).then_some(out)
}

/// The chunk of at most [`CHUNK_MAX`] bytes that a [`delta`] makes of `base`; `None` if it makes none.
pub fn undo(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    ROOM.with_borrow_mut(|room| {
        room.clear();
        room.reserve(CHUNK_MAX);
        let mut context = DCtx::try_create()?;
        context.ref_prefix(base).ok()?;
        context.decompress(room, delta).ok()?;
        Some(room.clone())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_appended_inserted_or_overwritten_is_all_that_is_sent() {
        let base = noise(300_000, 1);
        let appended = [&base[..], &noise(100_000, 2)].concat();
        let inserted = [b"X", &base[..]].concat();
        let mut overwritten = base.clone();
        overwritten[150_000..154_096].copy_from_slice(&noise(4096, 3));
        let same = base.clone();
        for (chunk, most) in [(&appended, 101_000), (&inserted, 100), (&overwritten, 4_500), (&same, 100)] {
            let delta = delta(&base, chunk).unwrap_or_else(|| panic!("no delta of at most {most} bytes"));
            assert!(delta.len() < most, "{} bytes, at most {most}", delta.len());
            assert_eq!(&undo(&base, &delta).unwrap(), chunk);
        }
    }

    #[test]
    fn the_largest_chunks_have_their_whole_base_in_sight() {
        let base = noise(CHUNK_MAX, 1);
        let mut chunk = base[1..].to_vec();
        chunk.push(7);
        let delta = delta(&base, &chunk).unwrap();
        assert!(delta.len() < 2000, "{}", delta.len());
        assert_eq!(undo(&base, &delta).unwrap(), chunk);
    }

    #[test]
    fn what_has_nothing_in_common_has_no_delta() {
        assert_eq!(delta(&noise(200_000, 1), &noise(200_000, 2)), None);
        assert_eq!(delta(b"", b""), None);
    }

    /// A base that begins like a dictionary of zstd's own is bytes all the same.
    #[test]
    fn a_base_is_never_a_dictionary() {
        let mut base = noise(100_000, 1);
        base[..4].copy_from_slice(&0xEC30_A437_u32.to_le_bytes());
        let chunk = [&base[..], b"more"].concat();
        assert_eq!(undo(&base, &delta(&base, &chunk).unwrap()).unwrap(), chunk);
    }

    #[test]
    fn a_bomb_makes_nothing() {
        let bomb = zstd::bulk::compress(&vec![0; CHUNK_MAX + 1], 3).unwrap();
        assert_eq!(undo(b"", &bomb), None);
        assert_eq!(undo(b"", &zstd::bulk::compress(&vec![0; CHUNK_MAX], 3).unwrap()).unwrap().len(), CHUNK_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(base in proptest::collection::vec(any::<u8>(), 0..300), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = undo(&base, &bytes);
            if let Some(delta) = delta(&base, &bytes) {
                prop_assert_eq!(undo(&base, &delta), Some(bytes));
            }
        }
    }
}
