//! Room on the state directory's disk, looked at before something is taken that would have to be written down.
//!
//! What frees room is always allowed; everything else is refused early, so that the log and the index keep the reserve
//! that they need to write down what was already accepted. What is fetched sets its room aside before it is begun
//! ([`Space::take`]): files that are being filled have holes at first, and what will fill these counts as taken.
//!
//! Somebody else may fill the disk all the same, and then not even the changes could be written down by which room is made. For
//! that there is a *spare*: a file of ours that takes up some room and is given up then.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crdtfs_core::port::RESERVE;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use crate::error::StoreError;

/// The name of the file that is given up on a full disk.
const SPARE: &str = "spare";

/// Its size in bytes: more than [`Space::is_out`] asks for.
const SPARE_SIZE: u64 = RESERVE / 2;

/// How long a look is good for, where a little more or less makes no difference.
const FRESH: Duration = Duration::from_millis(100);

/// Bytes that the packs gather in memory before they are written: they are not on the disk yet, and will be.
const GATHERED: u64 = 1 << 20;

/// The disk below the state directory.
pub struct Space {
    disk: Box<dyn Fn() -> Option<Disk> + Send + Sync>,
    /// The filesystem's number, by which files on it are known.
    device: Option<u64>,
    looked: Mutex<Option<(Instant, u64)>>,
    spare: PathBuf,
    /// The filesystem cannot keep room in a file.
    no_spare: AtomicBool,
    /// Bytes that were set aside and are not written yet.
    begun: Mutex<u64>,
}

/// What a filesystem tells of itself, in bytes.
struct Disk {
    free: u64,
    taken: u64,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("begun", &*self.begun.lock()).finish_non_exhaustive()
    }
}

impl Space {
    /// The disk that `dir` is on, in which the spare lies.
    pub fn new(dir: PathBuf) -> Self {
        let device = std::fs::metadata(&dir).ok().map(|meta| meta.dev());
        let spare = dir.join(SPARE);
        let look = move || {
            let stat = rustix::fs::statvfs(&dir).ok()?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let taken = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            Some(Disk { free, taken })
        };
        Self { device, ..Self::on(Box::new(look), spare) }
    }

    /// A disk that has as many bytes free as `free` says.
    #[cfg(test)]
    pub(crate) fn told(free: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::on(Box::new(move || Some(Disk { free: free(), taken: 0 })), PathBuf::new())
    }

    fn on(disk: Box<dyn Fn() -> Option<Disk> + Send + Sync>, spare: PathBuf) -> Self {
        let (looked, begun) = (Mutex::default(), Mutex::default());
        Self { disk, device: None, looked, spare, no_spare: AtomicBool::new(false), begun }
    }

    /// Bytes that may still be used, at most 100 ms old. A filesystem that cannot tell has enough.
    pub fn free(&self) -> u64 {
        let mut looked = self.looked.lock();
        if let Some((when, free)) = *looked
            && when.elapsed() < FRESH
        {
            return free;
        }
        let free = (self.disk)().map_or(u64::MAX, |disk| disk.free);
        *looked = Some((Instant::now(), free));
        free
    }

    /// Bytes that all files of the filesystem take together, those of the store among them. One that cannot tell may be
    /// full of them.
    pub fn taken(&self) -> u64 {
        (self.disk)().map_or(u64::MAX, |disk| disk.taken)
    }

    /// As [`Space::free`], of now.
    pub fn free_now(&self) -> u64 {
        *self.looked.lock() = None;
        self.free()
    }

    /// Bytes that may be fetched, as of now: what is free but for the reserve, and for what is begun.
    pub fn room(&self) -> u64 {
        self.room_beside(*self.begun.lock())
    }

    fn room_beside(&self, begun: u64) -> u64 {
        self.free_now().saturating_sub(RESERVE + GATHERED).saturating_sub(begun)
    }

    /// Sets room aside for `bytes` that are about to be fetched; `StorageFull` if there is none.
    pub fn take(self: &Arc<Self>, bytes: u64) -> io::Result<Taken> {
        let mut begun = self.begun.lock();
        if bytes > self.room_beside(*begun) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *begun += bytes;
        drop(begun);
        Ok(Taken { space: self.clone(), left: Mutex::new(bytes) })
    }

    /// Whether a file takes its room here.
    pub(crate) fn holds(&self, file: &File) -> bool {
        self.device.is_none_or(|device| file.metadata().map_or(true, |meta| meta.dev() == device))
    }

    /// Whether not even changes of others can be written down. They come out of the reserve: among them may be the very
    /// deletions that make room.
    pub fn is_out(&self) -> bool {
        self.free() < RESERVE / 4
    }

    /// Sees to it that there is a spare, once there is room for it. To be called every few seconds.
    pub fn keep_spare(&self) {
        // A crash may leave less of it than was made.
        let whole = || self.spare.metadata().is_ok_and(|meta| takes_room(&meta));
        if self.no_spare.load(Ordering::Relaxed) || whole() || self.room() < SPARE_SIZE {
            return;
        }
        if let Err(error) = make_spare(&self.spare) {
            tracing::debug!(%error, path = %self.spare.display(), "no room can be kept for a full disk");
            // Half of one is none. If it cannot be removed it is a small one.
            let _ = std::fs::remove_file(&self.spare);
            self.no_spare.store(error.kind() == io::ErrorKind::Unsupported, Ordering::Relaxed);
        }
    }

    /// Gives the spare up: changes cannot be written down. True if there was one.
    pub fn use_spare(&self) -> bool {
        let used = std::fs::remove_file(&self.spare).is_ok();
        if used {
            *self.looked.lock() = None;
            tracing::info!("the disk is full; changes are written down where room was kept for that");
        }
        used
    }

    /// Writes down what makes room, if need be where some was kept for that.
    pub fn with_spare<T>(&self, mut write: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match write() {
            Err(error) if is_full(error.kind()) && self.use_spare() => write(),
            written => written,
        }
    }

    /// Whether only what frees room may be taken.
    pub fn is_low(&self) -> bool {
        self.free() < RESERVE
    }
}

/// Whether there is no room on the disk, or no more for this user.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn takes_room(spare: &Metadata) -> bool {
    spare.blocks() * 512 >= SPARE_SIZE
}

/// Makes the spare, or fills what is there of it; `Unsupported` where a file takes no room before it is written.
fn make_spare(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, SPARE_SIZE)?;
    // Some filesystems take note of the length alone.
    if takes_room(&file.metadata()?) { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Room that was set aside; what of it was not written by then is given back at the end.
#[derive(Debug)]
pub struct Taken {
    space: Arc<Space>,
    left: Mutex<u64>,
}

impl Taken {
    /// Writes `bytes` by `act`: out of what was set aside, and not if somebody else has used up the disk meanwhile.
    pub fn write<T>(&self, bytes: u64, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.space.free_now() < RESERVE.saturating_add(bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let done = act();
        // Only now: until it is written the disk does not know of it.
        let mut left = self.left.lock();
        let written = bytes.min(*left);
        *left -= written;
        *self.space.begun.lock() -= written;
        done
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.space.begun.lock() -= *self.left.get_mut();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicU64;

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

    #[test]
    fn a_spare_is_kept_while_there_is_room_and_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let spare = dir.path().join(SPARE);
        let free = Arc::new(AtomicU64::new(RESERVE + GATHERED + SPARE_SIZE - 1));
        let disk = free.clone();
        let path = spare.clone();
        // The bytes that nobody else takes.
        let told = move || disk.load(Ordering::Relaxed) - path.metadata().map_or(0, |meta| meta.blocks() * 512);
        let space = Space { spare: spare.clone(), ..Space::told(told) };
        space.keep_spare();
        assert!(!spare.exists(), "what is fetched would have no room");
        free.fetch_add(1, Ordering::Relaxed);
        space.keep_spare();
        assert_eq!(space.room(), 0);
        space.keep_spare();
        assert_eq!(spare.metadata().unwrap().len(), SPARE_SIZE);
        // Somebody else fills the disk.
        free.store(SPARE_SIZE, Ordering::Relaxed);
        assert_eq!(space.free_now(), 0);
        assert!(space.is_out());
        let full = || StoreError::io("append to", &spare)(io::ErrorKind::StorageFull.into());
        let write = || if spare.exists() { Err(full()) } else { Ok(()) };
        space.with_spare(write).unwrap();
        assert!(!space.is_out());
        space.keep_spare();
        assert!(!space.use_spare(), "there is no room for another one");
        space.with_spare(|| Err::<(), _>(full())).unwrap_err();
    }

    /// A file in a directory of its own, on a disk that has room for it.
    fn roomy(dir: &Path) -> Space {
        Space { spare: dir.join(SPARE), ..Space::told(|| RESERVE + GATHERED + SPARE_SIZE) }
    }

    #[test]
    fn what_a_crash_left_of_a_spare_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let space = roomy(dir.path());
        let taken = || space.spare.metadata().unwrap().blocks() * 512;
        // Made and not filled; as long as it should be, and a hole; half of it.
        let file = File::create_new(&space.spare).unwrap();
        for (len, filled) in [(0, 0), (SPARE_SIZE, 0), (SPARE_SIZE, SPARE_SIZE / 2)] {
            file.set_len(0).unwrap();
            file.set_len(len).unwrap();
            if filled > 0 {
                fallocate(&file, FallocateFlags::empty(), 0, filled).unwrap();
            }
            assert!(taken() < SPARE_SIZE);
            space.keep_spare();
            assert!(taken() >= SPARE_SIZE, "of {len} bytes {filled} were there");
        }
    }

    #[test]
    fn who_may_have_no_more_uses_the_spare_too() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let dir = tempfile::tempdir().unwrap();
            let space = roomy(dir.path());
            space.keep_spare();
            let full = || Err(StoreError::io("append to", &space.spare)(kind.into()));
            space.with_spare(|| if space.spare.exists() { full() } else { Ok(()) }).unwrap();
        }
    }

    #[test]
    fn what_is_begun_and_not_written_is_taken() {
        const MIB: u64 = 1 << 20;
        let free = Arc::new(AtomicU64::new(RESERVE + GATHERED + 8 * MIB));
        let disk = free.clone();
        let space = Arc::new(Space::told(move || disk.load(Ordering::Relaxed)));
        let one = space.take(6 * MIB).unwrap();
        assert_eq!(space.take(6 * MIB).unwrap_err().kind(), io::ErrorKind::StorageFull, "there is room for one");
        let write = |taken: &Taken, bytes| {
            taken.write(bytes, || {
                free.fetch_sub(bytes, Ordering::Relaxed);
                Ok(())
            })
        };
        write(&one, 4 * MIB).unwrap();
        assert_eq!(space.room(), 2 * MIB, "what is written is counted once");
        let two = space.take(2 * MIB).unwrap();
        assert_eq!(space.room(), 0);
        // Somebody else writes: who began may not go on, and leaves the reserve alone.
        free.store(RESERVE + MIB - 1, Ordering::Relaxed);
        assert_eq!(write(&two, MIB).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(two);
        drop(one);
        free.store(RESERVE + GATHERED + MIB, Ordering::Relaxed);
        assert_eq!(space.room(), MIB, "who ends gives back what was not written");
    }
}
