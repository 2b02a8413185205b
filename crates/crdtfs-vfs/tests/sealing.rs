//! While a large file is being sealed, which can take minutes, all else goes on: other files are published, the file itself is
//! written, removed, and the filesystem ends, without losing anything.
#![allow(clippy::unwrap_used)]

mod ports;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crdtfs_core::node::{Kind, Owner};
use crdtfs_vfs::{Make, OpenMode, ROOT, SetAttr, Vfs};
use ports::{FakeShare, LARGE, vfs};

const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

struct Mounted {
    vfs: Arc<Vfs>,
    share: Arc<FakeShare>,
    state: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.vfs.stop();
    }
}

impl Mounted {
    fn new() -> Self {
        let (state, share) = (tempfile::tempdir().unwrap(), FakeShare::new());
        Self { vfs: vfs(&share, &state), share, state }
    }

    /// Another filesystem over the same share, after this one ended.
    fn again(&mut self) {
        self.vfs.stop();
        self.vfs = vfs(&self.share, &self.state);
    }

    fn create(&self, name: &str, bytes: &[u8], size: usize) -> (u64, u64) {
        let make = Make { kind: Kind::File, mode: 0o644, owner: Owner { uid: 0, gid: 0 }, rdev: 0, target: Vec::new() };
        let (attr, opened) = self.vfs.create(ROOT, name.as_bytes(), make, WRITE, true, false).unwrap();
        self.vfs.write(opened.handle, bytes, 0, false).unwrap();
        let size = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        self.vfs.setattr(attr.ino, size, false).unwrap();
        (attr.ino, opened.handle)
    }

    /// A file of which the sealing has begun and does not end.
    fn create_slow(&self, name: &str) -> (u64, u64) {
        self.share.contents.slow.store(true, Ordering::SeqCst);
        let (ino, handle) = self.create(name, b"begin", LARGE + 1);
        self.vfs.release(self.vfs.open(ino, WRITE, false).unwrap().handle);
        assert!(!self.vfs.settle(Instant::now()), "it is asked for, and not waited for");
        until(|| self.share.contents.sealing.load(Ordering::SeqCst) == 1);
        (ino, handle)
    }

    fn is_whole(&self, name: &str, begin: &[u8]) {
        let bytes = self.share.bytes(name).unwrap();
        assert_eq!((bytes.len(), &bytes[..begin.len()]), (LARGE + 1, begin));
    }

    fn settle(&self) {
        assert!(self.vfs.settle(Instant::now() + Duration::from_secs(60)));
    }
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

#[test]
fn the_end_does_not_wait_for_it_and_the_next_life_publishes_it() {
    for open in [false, true] {
        let mut mount = Mounted::new();
        let (_, handle) = mount.create_slow("f");
        if !open {
            mount.vfs.release(handle);
        }
        mount.again();
        assert_eq!(mount.share.contents.given_up.load(Ordering::SeqCst), 1);
        let ino = mount.vfs.lookup(ROOT, b"f").unwrap();
        assert_eq!(ino.size, LARGE as u64 + 1, "it is shown as it was");
        mount.again();
        mount.share.contents.slow.store(false, Ordering::SeqCst);
        mount.settle();
        mount.is_whole("f", b"begin");
        assert_eq!(mount.share.contents.open_write_files(), 0);
        mount.again();
        assert_eq!(mount.share.contents.open_write_files(), 0, "it is given back no more");
    }
}

#[test]
fn what_could_not_be_published_is_published_by_the_next_life() {
    let mut mount = Mounted::new();
    mount.share.contents.full.store(true, Ordering::SeqCst);
    let (ino, handle) = mount.create("f", b"small", 5);
    mount.vfs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }, false).unwrap();
    mount.vfs.release(handle);
    assert!(!mount.vfs.settle(Instant::now() + Duration::from_secs(60)));
    mount.again();
    assert_eq!(mount.vfs.lookup(ROOT, b"f").unwrap().size, 5);
    mount.share.contents.full.store(false, Ordering::SeqCst);
    mount.again();
    mount.settle();
    assert_eq!(mount.share.bytes("f").unwrap(), b"small");
    assert_eq!(mount.vfs.lookup(ROOT, b"f").unwrap().mode & 0o777, 0o600);
}

#[test]
fn small_files_are_published_meanwhile() {
    let mount = Mounted::new();
    let (_, slow) = mount.create_slow("slow");
    let (_, quick) = mount.create("quick", b"quick", 5);
    mount.vfs.release(quick);
    std::thread::scope(|scope| {
        let settled = scope.spawn(|| mount.vfs.settle(Instant::now() + Duration::from_secs(60)));
        until(|| mount.share.bytes("quick").is_some_and(|bytes| bytes == b"quick"));
        assert_eq!(mount.share.bytes("slow").unwrap(), b"", "not yet");
        mount.share.contents.slow.store(false, Ordering::SeqCst);
        assert!(settled.join().unwrap());
    });
    mount.is_whole("slow", b"begin");
    mount.vfs.release(slow);
}

#[test]
fn it_can_be_written_meanwhile_and_what_was_written_is_published_too() {
    let mount = Mounted::new();
    let (_, handle) = mount.create_slow("f");
    mount.vfs.write(handle, b"again", 0, false).unwrap();
    std::thread::scope(|scope| {
        let settled = scope.spawn(|| mount.vfs.settle(Instant::now() + Duration::from_secs(60)));
        mount.share.contents.slow.store(false, Ordering::SeqCst);
        assert!(settled.join().unwrap());
    });
    mount.is_whole("f", b"again");
    mount.vfs.release(handle);
}

#[test]
fn the_removal_of_the_file_ends_it() {
    for open in [false, true] {
        let mount = Mounted::new();
        let (_, handle) = mount.create_slow("f");
        if !open {
            mount.vfs.release(handle);
        }
        mount.vfs.unlink(ROOT, b"f").unwrap();
        until(|| mount.share.contents.given_up.load(Ordering::SeqCst) == 1);
        mount.settle();
        assert_eq!(mount.vfs.problems(), []);
        if open {
            mount.vfs.release(handle);
        }
        assert_eq!(mount.share.contents.open_write_files(), 0);
    }
}
