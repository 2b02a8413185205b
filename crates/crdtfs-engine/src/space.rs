//! Room on the state directory's disk, looked at before something is taken that would have to be written down.
//!
//! What frees room is always allowed; everything else is refused early, so that the log and the index keep the reserve
//! that they need to write down what was already accepted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crdtfs_core::port::RESERVE;
use parking_lot::Mutex;

/// How long a look is good for.
const FRESH: Duration = Duration::from_millis(100);

/// The disk below the state directory.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    looked: Mutex<Option<(Instant, u64)>>,
}

impl Space {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, looked: Mutex::new(None) }
    }

    /// Bytes that may still be used, at most [`FRESH`] old. A filesystem that cannot tell has enough.
    pub(crate) fn free(&self) -> u64 {
        let mut looked = self.looked.lock();
        if let Some((when, free)) = *looked
            && when.elapsed() < FRESH
        {
            return free;
        }
        let free = rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        *looked = Some((Instant::now(), free));
        free
    }

    /// Bytes that all files of the filesystem take together, those of the store among them. One that cannot tell may be full of them.
    pub(crate) fn taken(&self) -> u64 {
        let taken =
            |stat: rustix::fs::StatVfs| (stat.f_blocks.saturating_sub(stat.f_bfree)).saturating_mul(stat.f_frsize);
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, taken)
    }

    /// As [`Space::free`], of now.
    pub(crate) fn free_now(&self) -> u64 {
        *self.looked.lock() = None;
        self.free()
    }

    /// Bytes that what is fetched may take: what is free but for the reserve.
    pub(crate) fn room(&self) -> u64 {
        self.free().saturating_sub(RESERVE)
    }

    /// Whether not even changes of others can be written down. They come out of the reserve: among them may be the very
    /// deletions that make room.
    pub(crate) fn is_out(&self) -> bool {
        self.free() < RESERVE / 4
    }

    /// Whether only what frees room may be taken.
    pub(crate) fn is_low(&self) -> bool {
        self.free() < RESERVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_filesystem_tells_its_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let space = Space::new(dir.path().to_owned());
        let free = space.free();
        assert!(free > 0 && free < u64::MAX);
        assert_eq!(space.is_low(), free < RESERVE);
        assert!(space.room() < free);
        assert!(space.taken() > 0 && space.taken() < u64::MAX);
        let unknown = Space::new("/nonexistent/dir".into());
        assert_eq!((unknown.free(), unknown.taken()), (u64::MAX, u64::MAX), "unknown is enough");
    }
}
