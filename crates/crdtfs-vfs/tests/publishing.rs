//! Calls while what was written is being published: whatever the publisher does between two looks at the tree, callers see
//! what was written and set, and none of it is lost.
#![allow(clippy::unwrap_used)]

mod ports;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node, Owner};
use crdtfs_core::port::Tree;
use crdtfs_vfs::{Make, OpenMode, ROOT, SetAttr, Vfs, XattrMode};
use ports::{FakeShare, vfs};

const READ: OpenMode = OpenMode { read: true, write: false, append: false, truncate: false };
const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };
const TRUNCATE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: true };

/// Enough to meet every moment of a publication.
const ROUNDS: u32 = 400;

struct Mounted {
    vfs: Arc<Vfs>,
    share: Arc<FakeShare>,
    _state: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.vfs.stop();
    }
}

impl Mounted {
    fn new() -> Self {
        let (state, share) = (tempfile::tempdir().unwrap(), FakeShare::new());
        Self { vfs: vfs(&share, &state), share, _state: state }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> u64 {
        let make = Make { kind: Kind::File, mode: 0o644, owner: Owner { uid: 0, gid: 0 }, rdev: 0, target: Vec::new() };
        let (attr, opened) = self.vfs.create(ROOT, name.as_bytes(), make, WRITE, true, false).unwrap();
        self.vfs.write(opened.handle, bytes, 0, false).unwrap();
        self.vfs.release(opened.handle);
        attr.ino
    }

    fn read(&self, ino: u64) -> Vec<u8> {
        let opened = self.vfs.open(ino, READ, false).unwrap();
        let mut bytes = vec![0; 100];
        let read = self.vfs.read(opened.handle, &mut bytes, 0).unwrap();
        bytes.truncate(read);
        self.vfs.release(opened.handle);
        bytes
    }

    fn settle(&self) {
        assert!(self.vfs.settle(Instant::now() + Duration::from_secs(60)));
    }

    fn shared(&self, name: &str) -> Node {
        self.share.child(InodeId::ROOT, &Name::try_from(name).unwrap()).unwrap()
    }
}

#[test]
fn what_was_written_is_read_after_close() {
    let mount = Mounted::new();
    let ino = mount.create("f", b"first");
    mount.share.dawdle.store(true, Ordering::SeqCst);
    for round in 0..ROUNDS {
        let bytes = "x".repeat(round as usize % 50 + 1).into_bytes();
        let opened = mount.vfs.open(ino, TRUNCATE, false).unwrap();
        mount.vfs.write(opened.handle, &bytes, 0, false).unwrap();
        mount.vfs.release(opened.handle);
        for look in 0..5 {
            let size = bytes.len() as u64;
            assert_eq!(mount.vfs.getattr(ino).unwrap().size, size, "getattr {look} of round {round}");
            assert_eq!(mount.vfs.lookup(ROOT, b"f").unwrap().size, size, "lookup {look} of round {round}");
            assert_eq!(mount.read(ino), bytes, "read {look} of round {round}");
        }
    }
    mount.settle();
    let names = mount.share.entries(InodeId::ROOT, None, 10).len();
    assert_eq!(names, 1, "nothing was an edit of what was before, to stand beside it");
}

/// Else a program reads one side of a merge, the merge is shown, and what the program saves takes away the other side.
#[test]
fn who_reads_a_file_waits_for_its_merge_and_who_only_writes_does_not() {
    const APPEND: OpenMode = OpenMode { read: false, write: true, append: true, truncate: false };
    let mount = Mounted::new();
    let ino = mount.create("f", b"one side\n");
    mount.settle();
    let merged = mount.share.contents.put_away(b"both\nsides\n");
    mount.share.contents.arrive(&merged);
    assert!(!mount.vfs.may_block_open(ino, READ));
    mount.share.show_until_merged(mount.shared("f").inode, merged);
    for mode in [APPEND, TRUNCATE] {
        assert!(!mount.vfs.may_block_open(ino, mode), "{mode:?}");
    }
    mount.vfs.release(mount.vfs.open(ino, APPEND, false).unwrap().handle);
    assert_ne!(mount.shared("f").content, merged);
    assert!(mount.vfs.may_block_open(ino, READ) && mount.vfs.may_block_open(ino, WRITE));
    assert_eq!(mount.read(ino), b"both\nsides\n");
    assert!(!mount.vfs.may_block_open(ino, READ));
}

#[test]
fn attributes_that_are_set_one_after_the_other_are_all_kept() {
    let mount = Mounted::new();
    mount.share.dawdle.store(true, Ordering::SeqCst);
    for round in 0..ROUNDS {
        let name = format!("f{round}");
        let ino = mount.create(&name, name.as_bytes());
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        for number in 0..6 {
            let xattr = format!("user.{number}");
            mount.vfs.setxattr(ino, xattr.as_bytes(), b"value", XattrMode::Create).unwrap();
            if number == 3 {
                mount.vfs.setattr(ino, mode, false).unwrap();
            }
            let shown = mount.vfs.listxattr(ino).unwrap();
            assert_eq!(shown.len(), (number + 1) * b"user.0\0".len(), "after {number} of round {round}");
        }
        assert_eq!(mount.vfs.getattr(ino).unwrap().mode, 0o600);
        mount.settle();
        let node = mount.shared(&name);
        assert_eq!((node.xattrs.len(), node.mode), (6, 0o600), "round {round}");
    }
}

#[test]
fn attributes_set_while_the_bytes_are_being_published_are_published() {
    let mount = Mounted::new();
    let (there, go_on) = mount.share.hold_edit();
    let ino = mount.create("f", b"bytes");
    there.recv().unwrap();
    mount.vfs.setxattr(ino, b"user.colour", b"red", XattrMode::Any).unwrap();
    mount.vfs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }, false).unwrap();
    mount.vfs.setxattr(ino, b"user.binary", &[0, 255], XattrMode::Any).unwrap();
    go_on.send(()).unwrap();
    mount.settle();
    let node = mount.shared("f");
    assert_eq!((node.mode, node.xattrs.len()), (0o600, 2));
    assert_eq!(mount.share.bytes("f").unwrap(), b"bytes");
    mount.vfs.forget(ino, 1);
    assert_eq!(mount.vfs.known_inodes(), 1, "nothing of it is kept");
}

#[test]
fn a_file_that_loses_one_of_its_names_is_published() {
    let mount = Mounted::new();
    mount.share.dawdle.store(true, Ordering::SeqCst);
    for round in 0..ROUNDS {
        let (name, other) = (format!("f{round}"), format!("g{round}"));
        let ino = mount.create(&name, b"old");
        mount.vfs.link(ino, ROOT, other.as_bytes()).unwrap();
        let opened = mount.vfs.open(ino, WRITE, false).unwrap();
        mount.vfs.write(opened.handle, b"new", 0, false).unwrap();
        let again = mount.vfs.open(ino, WRITE, false).unwrap();
        mount.vfs.unlink(ROOT, other.as_bytes()).unwrap();
        mount.vfs.write(again.handle, b"er", 3, false).unwrap();
        mount.vfs.release(opened.handle);
        mount.vfs.release(again.handle);
        assert_eq!(mount.read(ino), b"newer", "round {round}");
        mount.settle();
        assert_eq!(mount.share.bytes(&name).unwrap(), b"newer", "round {round}");
    }
}
