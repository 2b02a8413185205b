//! Bytes and seeds that can be had again.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `len` bytes that do not compress, the same for the same seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// The seed of this run: `CRDTFS_SEED`, else a fresh one; printed, so that a failure can be run again.
///
/// # Panics
/// If `CRDTFS_SEED` is no number.
pub fn seed() -> u64 {
    let seed = match std::env::var("CRDTFS_SEED") {
        Ok(text) => text.parse().expect("CRDTFS_SEED is a number"),
        Err(_) => rand::rng().next_u64(),
    };
    eprintln!("seed: CRDTFS_SEED={seed}");
    seed
}
