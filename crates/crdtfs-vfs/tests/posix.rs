//! The filesystem object through its calls, without a mount.
#![allow(clippy::unwrap_used)]

mod ports;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Owner, Time};
use crdtfs_core::op::{NewNode, Op, RenameMode};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_vfs::{
    Attr, Error, Invalidate, Invalidation, Make, OpenMode, Opened, Owners, ROOT, SetAttr, SetTime, Vfs, VfsOptions,
    XattrMode,
};
use ports::{FakePort, FakeShare};

const ME: Owner = Owner { uid: 1000, gid: 1000 };
const READ: OpenMode = OpenMode { read: true, write: false, append: false, truncate: false };
const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };
const TRUNCATE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: true };
const APPEND: OpenMode = OpenMode { read: true, write: true, append: true, truncate: false };

/// Large enough for a write file.
const LARGE: usize = 300 * 1024;

struct Mounted {
    vfs: Arc<Vfs>,
    share: Arc<FakeShare>,
    told: mpsc::Receiver<Vec<Invalidation>>,
    _state: tempfile::TempDir,
}

struct Sink(mpsc::Sender<Vec<Invalidation>>);

impl Invalidate for Sink {
    fn invalidate(&self, what: Vec<Invalidation>) {
        let _ = self.0.send(what);
    }

    fn forgotten(&self, _: Instant) -> bool {
        true
    }
}

fn mount(share: &Arc<FakeShare>, owner: Owners) -> Mounted {
    let state = tempfile::tempdir().unwrap();
    let options = VfsOptions { owner, read_only: false, state: state.path().to_path_buf() };
    let content = Arc::new(FakePort(share.contents.clone()));
    let vfs = Vfs::new(share.clone(), content, Adapter(1), options).unwrap();
    let (sender, told) = mpsc::channel();
    vfs.start(Arc::new(Sink(sender))).unwrap();
    Mounted { vfs, share: share.clone(), told, _state: state }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.vfs.stop();
    }
}

impl Mounted {
    fn new() -> Self {
        mount(&FakeShare::new(), Owners::Fixed(ME))
    }

    fn create(&self, name: &str) -> (Attr, Opened) {
        self.vfs.create(ROOT, name.as_bytes(), file(0o644), WRITE, true, false).unwrap()
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> u64 {
        let (attr, opened) = self.create(name);
        self.vfs.write(opened.handle, bytes, 0, false).unwrap();
        self.vfs.release(opened.handle);
        attr.ino
    }

    fn read_all(&self, handle: u64) -> Vec<u8> {
        let mut buf = vec![0; 4 << 20];
        let read = self.vfs.read(handle, &mut buf, 0).unwrap();
        buf.truncate(read);
        buf
    }

    fn read_file(&self, name: &str) -> Vec<u8> {
        let attr = self.vfs.lookup(ROOT, name.as_bytes()).unwrap();
        let opened = self.vfs.open(attr.ino, READ, false).unwrap();
        let bytes = self.read_all(opened.handle);
        self.vfs.release(opened.handle);
        self.vfs.forget(attr.ino, 1);
        bytes
    }

    fn settle(&self) {
        assert!(self.vfs.settle(Instant::now() + Duration::from_secs(60)));
    }

    fn inode(&self, name: &str) -> InodeId {
        self.share.child(InodeId::ROOT, &Name::try_from(name).unwrap()).unwrap().inode
    }

    fn remote_edit(&self, name: &str, bytes: &[u8]) {
        use crdtfs_core::port::Content;
        let content = self.share.contents.put(bytes).unwrap();
        let op =
            Op::Edit { inode: self.inode(name), via: None, basis: None, content, mtime: Time { secs: 9, nanos: 0 } };
        self.share.remote(op).unwrap();
    }

    fn names(&self, dir: u64) -> Vec<String> {
        let mut names = Vec::new();
        self.vfs
            .list(dir, 0, false, |entry| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                true
            })
            .unwrap();
        names
    }
}

fn file(mode: u32) -> Make {
    Make { kind: Kind::File, mode, owner: ME, rdev: 0, target: Vec::new() }
}

fn dir(mode: u32) -> Make {
    Make { kind: Kind::Dir, ..file(mode) }
}

fn remote_create(share: &FakeShare, name: &str, content: ContentRef) -> InodeId {
    let inode = InodeId(share.fresh_id());
    let node = NewNode { content, ..NewNode::new(Kind::File, 0o644) };
    let (name, place) = (Name::try_from(name).unwrap(), PlaceId(share.fresh_id()));
    share.remote(Op::Create { dir: InodeId::ROOT, name, inode, place, node, beside: None }).unwrap();
    inode
}

#[test]
fn what_is_written_is_read_at_once_and_published_at_close() {
    for size in [0, 1, 4096, LARGE] {
        let mount = Mounted::new();
        let bytes: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let (attr, opened) = mount.create("f");
        for (at, part) in bytes.chunks(100_000).enumerate() {
            mount.vfs.write(opened.handle, part, at as u64 * 100_000, false).unwrap();
        }
        assert_eq!(mount.read_all(opened.handle), bytes);
        assert_eq!(mount.vfs.getattr(attr.ino).unwrap().size, size as u64);
        mount.vfs.release(opened.handle);
        assert_eq!(mount.read_file("f"), bytes);
        mount.settle();
        assert_eq!(mount.share.bytes("f").unwrap(), bytes);
        assert_eq!(mount.read_file("f"), bytes);
        assert_eq!(mount.share.contents.open_write_files(), 0, "write files are given back");
        assert_eq!(mount.share.edits.load(Ordering::SeqCst), usize::from(size > 0), "one edit a file");
    }
}

#[test]
fn writers_and_readers_of_one_inode_see_each_other() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"hello");
    mount.settle();
    let reader = mount.vfs.open(ino, READ, false).unwrap();
    let a = mount.vfs.open(ino, WRITE, false).unwrap();
    let b = mount.vfs.open(ino, APPEND, false).unwrap();
    mount.vfs.write(a.handle, b"J", 0, false).unwrap();
    mount.vfs.write(b.handle, b"!", 0, false).unwrap();
    assert_eq!(mount.read_all(reader.handle), b"Jello!");
    mount.vfs.release(a.handle);
    mount.vfs.release(b.handle);
    mount.settle();
    assert_eq!(mount.read_all(reader.handle), b"Jello!", "also when it is published");
    assert!(mount.vfs.open(ino, READ, false).unwrap().keep_cache, "the pages are still right");
    assert!(matches!(mount.vfs.write(reader.handle, b"x", 0, false), Err(Error::BadHandle)));
}

#[test]
fn an_unchanged_file_is_not_published_again() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"hello");
    mount.settle();
    let edits = mount.share.edits.load(Ordering::SeqCst);
    let opened = mount.vfs.open(ino, WRITE, false).unwrap();
    mount.vfs.release(opened.handle);
    mount.settle();
    let again = mount.vfs.open(ino, TRUNCATE, false).unwrap();
    mount.vfs.write(again.handle, b"hello", 0, false).unwrap();
    mount.vfs.release(again.handle);
    mount.settle();
    assert_eq!(mount.share.edits.load(Ordering::SeqCst), edits);
    assert_eq!(mount.read_file("f"), b"hello");
}

#[test]
fn a_remote_version_leaves_open_handles_alone() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"old");
    mount.settle();
    let before = mount.vfs.open(ino, READ, false).unwrap();
    mount.remote_edit("f", b"newer");
    let after = mount.vfs.open(ino, READ, false).unwrap();
    assert_eq!(mount.read_all(before.handle), b"old");
    assert_eq!(mount.read_all(after.handle), b"newer");
    assert!(after.bypass_cache && !after.keep_cache, "pages may be of the old version");
    mount.vfs.release(before.handle);
    mount.vfs.release(after.handle);
    let last = mount.vfs.open(ino, READ, false).unwrap();
    assert!(!last.keep_cache && !last.bypass_cache, "pages that the old handle left are dropped");
    assert_eq!(mount.vfs.getattr(ino).unwrap().size, 5);
}

#[test]
fn a_file_written_while_a_remote_version_comes_is_a_concurrent_edit() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"base");
    mount.settle();
    let writer = mount.vfs.open(ino, WRITE, false).unwrap();
    mount.vfs.write(writer.handle, b"mine", 0, false).unwrap();
    mount.remote_edit("f", b"theirs");
    assert_eq!(mount.read_all(writer.handle), b"mine");
    assert_eq!(mount.read_file("f"), b"mine", "an open joins the version that is being written");
    // Published while it is open, and again at the end: its own past is no conflict.
    mount.settle();
    mount.vfs.write(writer.handle, b"MINE", 0, false).unwrap();
    mount.vfs.release(writer.handle);
    while mount.told.try_recv().is_ok() {}
    mount.settle();
    assert_eq!(mount.share.bytes("f").unwrap(), b"theirs");
    assert_eq!(mount.share.bytes("f (conflict)").unwrap(), b"MINE");
    assert_eq!(mount.names(ROOT).len(), 4);
    assert_eq!(mount.read_file("f"), b"theirs");
}

#[test]
fn the_caches_are_told_what_changed_elsewhere_and_nothing_else() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"1");
    mount.settle();
    assert!(mount.told.try_recv().is_err(), "own operations are no news");
    mount.remote_edit("f", b"2");
    let wait = Duration::from_secs(60);
    assert_eq!(mount.told.recv_timeout(wait).unwrap(), [Invalidation::Inode { ino, data: true }]);
    remote_create(&mount.share, "new", ContentRef::empty());
    assert_eq!(
        mount.told.recv_timeout(wait).unwrap(),
        [
            Invalidation::Inode { ino: ROOT, data: true },
            Invalidation::Name { dir: ROOT, name: Name::try_from("new").unwrap() },
        ]
    );
    // What the kernel never saw needs no forgetting.
    let unseen = InodeId(mount.share.fresh_id());
    assert!(mount.share.node(unseen).is_none());
    mount.remote_edit("new", b"3");
    mount.remote_edit("f", b"4");
    assert_eq!(mount.told.recv_timeout(wait).unwrap(), [Invalidation::Inode { ino, data: true }]);
    // Who has to be sure waits until they were told.
    mount.remote_edit("f", b"5");
    assert!(mount.vfs.is_seen(Instant::now() + wait));
    assert_eq!(mount.told.try_recv().unwrap(), [Invalidation::Inode { ino, data: true }]);
}

#[test]
fn an_unlinked_file_lives_as_long_as_its_handles_and_is_not_published() {
    for size in [10, LARGE] {
        let mount = Mounted::new();
        let (attr, opened) = mount.create("f");
        let bytes = vec![7; size];
        mount.vfs.write(opened.handle, &bytes, 0, false).unwrap();
        mount.vfs.unlink(ROOT, b"f").unwrap();
        assert!(matches!(mount.vfs.lookup(ROOT, b"f"), Err(Error::NotFound)));
        let seen = mount.vfs.getattr(attr.ino).unwrap();
        assert_eq!((seen.nlink, seen.size), (0, size as u64));
        mount.vfs.write(opened.handle, b"x", size as u64, false).unwrap();
        assert_eq!(mount.read_all(opened.handle).len(), size + 1);
        mount.vfs.setattr(attr.ino, SetAttr { mode: Some(0o600), ..Default::default() }, false).unwrap();
        assert_eq!(mount.vfs.getattr(attr.ino).unwrap().mode, 0o600);
        mount.vfs.fsync(opened.handle).unwrap();
        mount.vfs.release(opened.handle);
        mount.settle();
        assert_eq!(mount.share.edits.load(Ordering::SeqCst), 0);
        assert_eq!(mount.share.contents.open_write_files(), 0);
        mount.vfs.forget(attr.ino, 1);
        assert_eq!(mount.vfs.known_inodes(), 1, "only the root is left");
    }
}

#[test]
fn an_unlinked_file_with_another_name_is_published() {
    let mount = Mounted::new();
    let (attr, opened) = mount.create("a");
    mount.vfs.link(attr.ino, ROOT, b"b").unwrap();
    mount.vfs.write(opened.handle, b"x", 0, false).unwrap();
    mount.vfs.unlink(ROOT, b"a").unwrap();
    mount.vfs.release(opened.handle);
    mount.settle();
    assert_eq!(mount.share.bytes("b").unwrap(), b"x");
    assert_eq!(mount.vfs.getattr(attr.ino).unwrap().nlink, 1);
}

#[test]
fn a_file_removed_elsewhere_while_it_is_written_comes_back() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"1");
    mount.settle();
    let opened = mount.vfs.open(ino, WRITE, false).unwrap();
    mount.vfs.write(opened.handle, b"2", 0, false).unwrap();
    mount.share.remote(Op::Unlink { dir: InodeId::ROOT, name: Name::try_from("f").unwrap() }).unwrap();
    assert_eq!(mount.read_all(opened.handle), b"2");
    mount.vfs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }, false).unwrap();
    mount.settle();
    assert_eq!(mount.share.bytes("f").unwrap(), b"2");
    assert_eq!(mount.vfs.lookup(ROOT, b"f").unwrap().mode & 0o777, 0o600);
    // Who has it open goes on writing what has the name.
    mount.vfs.write(opened.handle, b"3", 1, false).unwrap();
    mount.vfs.fsync(opened.handle).unwrap();
    mount.settle();
    assert_eq!(mount.share.bytes("f").unwrap(), b"23");
    mount.vfs.write(opened.handle, b"4", 2, false).unwrap();
    mount.vfs.release(opened.handle);
    mount.settle();
    assert_eq!(mount.share.bytes("f").unwrap(), b"234");
    assert_eq!(mount.names(ROOT), [".", "..", "f"]);
}

#[test]
fn renames_follow_the_open_file() {
    let mount = Mounted::new();
    let (attr, opened) = mount.create("tmp");
    mount.vfs.write(opened.handle, b"new", 0, false).unwrap();
    let old = mount.write_file("f", b"old");
    let reader = mount.vfs.open(old, READ, false).unwrap();
    mount.settle();
    mount.vfs.write(opened.handle, b"NEW", 0, false).unwrap();
    mount.vfs.rename(ROOT, b"tmp", ROOT, b"f", RenameMode::Replace).unwrap();
    assert_eq!(mount.share.bytes("f").unwrap(), b"NEW", "a rename over a file shows the old or the new, whole");
    assert_eq!(mount.read_all(reader.handle), b"old");
    assert_eq!(mount.vfs.getattr(old).unwrap().nlink, 0);
    assert_eq!(mount.vfs.lookup(ROOT, b"f").unwrap().ino, attr.ino);
    mount.vfs.release(opened.handle);
    mount.settle();
    assert_eq!(mount.read_file("f"), b"NEW");
}

#[test]
fn renames_in_all_forms() {
    let mount = Mounted::new();
    let (a, b) = (mount.write_file("a", b"a"), mount.write_file("b", b"b"));
    mount.settle();
    let rename = |from: &[u8], to: &[u8], mode| mount.vfs.rename(ROOT, from, ROOT, to, mode);
    assert!(matches!(rename(b"a", b"b", RenameMode::NoReplace), Err(Error::Exists)));
    rename(b"a", b"b", RenameMode::Exchange).unwrap();
    assert_eq!(mount.vfs.lookup(ROOT, b"a").unwrap().ino, b);
    assert_eq!(mount.vfs.lookup(ROOT, b"b").unwrap().ino, a);
    assert!(matches!(rename(b"a", b"c", RenameMode::Exchange), Err(Error::NotFound)));
    rename(b"a", b"c", RenameMode::NoReplace).unwrap();
    let d = mount.vfs.make(ROOT, b"d", dir(0o755)).unwrap();
    let e = mount.vfs.make(d.ino, b"e", dir(0o755)).unwrap();
    assert!(matches!(mount.vfs.rename(ROOT, b"d", e.ino, b"x", RenameMode::Replace), Err(Error::Invalid)));
    assert!(matches!(rename(b"c", b"d", RenameMode::Replace), Err(Error::IsDir)));
    assert!(matches!(rename(b"d", b"c", RenameMode::Replace), Err(Error::NotDir)));
    mount.vfs.rename(ROOT, b"c", e.ino, b"c", RenameMode::Replace).unwrap();
    assert_eq!(mount.names(e.ino), [".", "..", "c"]);
    assert!(matches!(mount.vfs.rmdir(d.ino, b"e"), Err(Error::NotEmpty)));
    assert!(matches!(mount.vfs.unlink(ROOT, b"d"), Err(Error::IsDir)));
    assert!(matches!(mount.vfs.rmdir(e.ino, b"c"), Err(Error::NotDir)));
}

#[test]
fn a_listing_goes_on_though_entries_come_and_go() {
    let mount = Mounted::new();
    for number in 0..1000 {
        mount.vfs.make(ROOT, format!("n{number:04}").as_bytes(), file(0o644)).unwrap();
    }
    let (mut seen, mut position, mut step) = (Vec::new(), 0, 0);
    loop {
        let mut batch = Vec::new();
        mount
            .vfs
            .list(ROOT, position, step % 2 == 1, |entry| {
                if batch.len() == 37 {
                    return false;
                }
                batch.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
                true
            })
            .unwrap();
        let Some((last, next)) = batch.last().cloned() else { break };
        seen.extend(batch.into_iter().map(|(name, _)| name));
        position = next;
        // The entry to go on after goes, and another comes that sorts before it.
        if last.starts_with('n') {
            mount.vfs.unlink(ROOT, last.as_bytes()).unwrap();
            mount.vfs.make(ROOT, format!("a{step}").as_bytes(), file(0o644)).unwrap();
        }
        step += 1;
    }
    let unique: HashSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "none twice");
    assert_eq!(seen.iter().filter(|name| name.starts_with('n')).count(), 1000, "none missed");
    assert!(matches!(mount.vfs.list(ROOT, u64::MAX, false, |_| true), Err(Error::Invalid)));
}

#[test]
fn lookups_are_counted_by_listings_with_attributes() {
    let mount = Mounted::new();
    mount.share.remote(Op::Rmdir { dir: InodeId::ROOT, name: Name::try_from("x").unwrap() }).unwrap_err();
    remote_create(&mount.share, "f", ContentRef::empty());
    let mut inos = Vec::new();
    mount
        .vfs
        .list(ROOT, 0, true, |entry| {
            inos.push((entry.ino, entry.attr.as_ref().map(|attr| attr.ino)));
            true
        })
        .unwrap();
    assert_eq!(inos.len(), 3);
    assert!(inos.iter().all(|(ino, attr)| Some(*ino) == *attr), "one number for one inode");
    assert_eq!(mount.vfs.known_inodes(), 2);
    mount.vfs.forget(inos[2].0, 1);
    assert_eq!(mount.vfs.known_inodes(), 1);
}

#[test]
fn attributes_are_set_and_stay() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"x");
    let old = Time { secs: -100, nanos: 5 };
    let set = SetAttr { mtime: Some(SetTime::At(old)), atime: Some(SetTime::At(old)), ..Default::default() };
    let attr = mount.vfs.setattr(ino, set, false).unwrap();
    assert_eq!((attr.mtime, attr.atime), (old, old));
    assert!(attr.ctime > old);
    mount.settle();
    let attr = mount.vfs.getattr(ino).unwrap();
    assert_eq!((attr.mtime, attr.atime), (old, old), "the time set is published with the bytes");
    let operations = mount.share.operations.load(Ordering::SeqCst);
    assert_eq!(operations, 2, "a creation and an edit");

    let opened = mount.vfs.open(ino, WRITE, false).unwrap();
    mount.vfs.write(opened.handle, b"y", 0, false).unwrap();
    mount.vfs.setattr(ino, SetAttr { mode: Some(0o4711), ..Default::default() }, false).unwrap();
    assert_eq!(mount.vfs.getattr(ino).unwrap().mode, 0o4711);
    mount.vfs.write(opened.handle, b"z", 0, true).unwrap();
    assert_eq!(mount.vfs.getattr(ino).unwrap().mode, 0o711, "a write clears suid");
    mount.vfs.release(opened.handle);
    mount.settle();
    assert_eq!(mount.share.node(mount.inode("f")).unwrap().mode, 0o711);
    assert!(matches!(
        mount.vfs.setattr(ino, SetAttr { uid: Some(0), ..Default::default() }, true),
        Err(Error::NotPermitted)
    ));
}

#[test]
fn owners_are_kept_where_asked() {
    let mount = mount(&FakeShare::new(), Owners::Keep(Owner { uid: 0, gid: 0 }));
    let made = mount.vfs.make(ROOT, b"d", dir(0o2755)).unwrap();
    assert_eq!(made.owner, ME);
    let attr = mount.vfs.setattr(made.ino, SetAttr { gid: Some(5), ..Default::default() }, true).unwrap();
    assert_eq!(attr.owner, Owner { uid: 1000, gid: 5 });
    assert_eq!(attr.mode, 0o2755, "directories keep sgid");
    let below = mount.vfs.make(made.ino, b"e", dir(0o700)).unwrap();
    assert_eq!((below.owner.gid, below.mode), (5, 0o2700), "what is made in an sgid directory has its group");
    let (f, opened) = mount.vfs.create(made.ino, b"f", file(0o6755), WRITE, true, true).unwrap();
    mount.vfs.release(opened.handle);
    let attr = mount.vfs.setattr(f.ino, SetAttr { uid: Some(7), ..Default::default() }, true).unwrap();
    assert_eq!(attr.mode, 0o755, "a change of owner clears suid and sgid");
}

#[test]
fn directory_times_are_local() {
    let mount = Mounted::new();
    let made = mount.vfs.make(ROOT, b"d", dir(0o755)).unwrap();
    let old = Time { secs: 5, nanos: 6 };
    mount.vfs.setattr(made.ino, SetAttr { mtime: Some(SetTime::At(old)), ..Default::default() }, false).unwrap();
    assert_eq!(mount.vfs.getattr(made.ino).unwrap().mtime, old);
    mount.vfs.make(made.ino, b"x", file(0o644)).unwrap();
    assert!(mount.vfs.getattr(made.ino).unwrap().mtime > old);
}

#[test]
fn truncation_extension_and_holes() {
    for size in [1000, LARGE] {
        let mount = Mounted::new();
        let ino = mount.write_file("f", &vec![1; size]);
        mount.settle();
        let set = |size| SetAttr { size: Some(size), ..Default::default() };
        assert_eq!(mount.vfs.setattr(ino, set(10), false).unwrap().size, 10);
        assert_eq!(mount.read_file("f"), [1; 10]);
        assert_eq!(mount.vfs.setattr(ino, set(20), false).unwrap().size, 20);
        mount.settle();
        assert_eq!(mount.share.bytes("f").unwrap(), [[1; 10], [0; 10]].concat());
        let opened = mount.vfs.open(ino, WRITE, false).unwrap();
        mount.vfs.write(opened.handle, b"x", LARGE as u64 * 2, false).unwrap();
        assert_eq!(mount.read_all(opened.handle).len(), LARGE * 2 + 1, "a sparse file");
        mount.vfs.allocate(opened.handle, 3, 0, 5, false).unwrap();
        assert_eq!(mount.read_all(opened.handle)[..10], [[0; 5], [1; 5]].concat());
        assert_eq!(mount.vfs.seek(opened.handle, 0, true).unwrap(), 0);
        assert!(matches!(mount.vfs.seek(opened.handle, u64::MAX / 2, true), Err(Error::PastEnd)));
        assert!(matches!(mount.vfs.write(opened.handle, b"x", u64::MAX - 1, false), Err(Error::FileTooLarge)));
        mount.vfs.release(opened.handle);
    }
}

#[test]
fn copies_within_and_between_files() {
    let mount = Mounted::new();
    let ino = mount.write_file("a", &vec![3; LARGE]);
    let from = mount.vfs.open(ino, READ, false).unwrap();
    let (_, to) = mount.create("b");
    let copied = mount.vfs.copy((from.handle, 1), (to.handle, 0), u64::MAX / 4, false).unwrap();
    assert_eq!(copied, LARGE as u64 - 1);
    assert_eq!(mount.read_all(to.handle), vec![3; LARGE - 1]);
    assert!(matches!(mount.vfs.copy((to.handle, 0), (to.handle, 5), 10, false), Err(Error::Invalid)));
    assert_eq!(mount.vfs.copy((to.handle, 0), (to.handle, 10), 10, false).unwrap(), 10);
}

#[test]
fn extended_attributes() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"x");
    mount.settle();
    assert!(matches!(mount.vfs.getxattr(ino, b"security.capability"), Err(Error::NoAttribute)));
    assert!(matches!(mount.vfs.getxattr(ino, b"system.posix_acl_access"), Err(Error::Unsupported)));
    assert!(matches!(mount.vfs.setxattr(ino, b"user.a", b"1", XattrMode::Replace), Err(Error::NoAttribute)));
    mount.vfs.setxattr(ino, b"user.a", b"1", XattrMode::Create).unwrap();
    mount.vfs.setxattr(ino, b"user.b", b"2", XattrMode::Any).unwrap();
    assert!(matches!(mount.vfs.setxattr(ino, b"user.a", b"1", XattrMode::Create), Err(Error::Exists)));
    assert_eq!(mount.vfs.listxattr(ino).unwrap(), b"user.a\0user.b\0");
    assert_eq!(mount.vfs.getxattr(ino, b"user.b").unwrap(), b"2");
    mount.vfs.removexattr(ino, b"user.a").unwrap();
    assert!(matches!(mount.vfs.removexattr(ino, b"user.a"), Err(Error::NoAttribute)));
    assert!(matches!(mount.vfs.setxattr(ino, b"user.c", &vec![0; 200_000], XattrMode::Any), Err(Error::NoSpace)));
    assert_eq!(mount.share.node(mount.inode("f")).unwrap().xattrs.len(), 1);
}

#[test]
fn what_was_synced_survives_a_crash() {
    let share = FakeShare::new();
    let synced = vec![5; LARGE];
    {
        let mount = mount(&share, Owners::Fixed(ME));
        let (_, opened) = mount.create("small");
        mount.vfs.write(opened.handle, b"small", 0, false).unwrap();
        mount.vfs.fsync(opened.handle).unwrap();
        assert_eq!(share.bytes("small").unwrap(), b"small", "a small file is published by fsync");
        // Synced again and again, it is not published each time.
        mount.vfs.write(opened.handle, b"SMALL", 0, false).unwrap();
        mount.vfs.fsync(opened.handle).unwrap();
        assert_eq!(share.bytes("small").unwrap(), b"small");
        let (_, large) = mount.create("large");
        mount.vfs.write(large.handle, &synced, 0, false).unwrap();
        mount.vfs.fsync(large.handle).unwrap();
        mount.vfs.write(large.handle, b"lost", 0, false).unwrap();
        assert!(share.syncs.load(Ordering::SeqCst) >= 3);
        share.contents.crash();
        mount.vfs.stop();
    }
    let mount = mount(&share, Owners::Fixed(ME));
    assert_eq!(mount.read_file("large"), synced);
    assert_eq!(mount.read_file("small"), b"SMALL");
    assert_eq!(mount.names(ROOT), [".", "..", "large", "small"], "no copy of its own past");
}

#[test]
fn what_was_synced_is_shown_after_a_crash_also_on_a_full_disk() {
    let share = FakeShare::new();
    let synced = vec![5; LARGE];
    {
        let mount = mount(&share, Owners::Fixed(ME));
        let (_, large) = mount.create("large");
        mount.vfs.write(large.handle, &synced, 0, false).unwrap();
        mount.vfs.fsync(large.handle).unwrap();
        share.contents.crash();
        mount.vfs.stop();
    }
    share.contents.full.store(true, Ordering::SeqCst);
    let mount = mount(&share, Owners::Fixed(ME));
    assert_eq!(mount.read_file("large"), synced);
    assert_eq!(mount.vfs.problems().len(), 1, "it is not published, and the user is told");
    assert_eq!(share.bytes("large").unwrap(), b"");
    share.contents.full.store(false, Ordering::SeqCst);
    mount.settle();
    assert_eq!(share.bytes("large").unwrap(), synced);
    assert_eq!(mount.read_file("large"), synced);
    assert_eq!(mount.vfs.problems(), []);
}

#[test]
fn what_is_removed_before_it_could_be_published_is_no_problem_any_more() {
    let mount = Mounted::new();
    mount.share.contents.full.store(true, Ordering::SeqCst);
    let (_, opened) = mount.create("f");
    mount.vfs.write(opened.handle, b"bytes", 0, false).unwrap();
    mount.vfs.fsync(opened.handle).unwrap_err();
    mount.vfs.release(opened.handle);
    while mount.vfs.problems().is_empty() {
        std::thread::yield_now();
    }
    mount.vfs.unlink(ROOT, b"f").unwrap();
    assert_eq!(mount.vfs.problems(), []);
}

#[test]
fn a_synced_file_that_goes_on_being_written_has_an_up_to_date_note() {
    let share = FakeShare::new();
    {
        let mount = mount(&share, Owners::Fixed(ME));
        let (_, opened) = mount.create("f");
        mount.vfs.write(opened.handle, &vec![1; LARGE], 0, false).unwrap();
        mount.vfs.fsync(opened.handle).unwrap();
        mount.settle();
        mount.vfs.write(opened.handle, &vec![2; LARGE], 0, false).unwrap();
        share.contents.crash();
        mount.vfs.stop();
    }
    let mount = mount(&share, Owners::Fixed(ME));
    assert_eq!(mount.names(ROOT), [".", "..", "f"]);
    assert_eq!(mount.read_file("f"), vec![1; LARGE]);
}

#[test]
fn a_file_that_is_elsewhere_blocks_only_its_readers() {
    let mount = Mounted::new();
    let content = mount.share.contents.put_away(b"from afar");
    remote_create(&mount.share, "far", content);
    let attr = mount.vfs.lookup(ROOT, b"far").unwrap();
    assert_eq!(attr.size, 9);
    let opened = mount.vfs.open(attr.ino, WRITE, false).unwrap();
    assert!(mount.vfs.may_block(opened.handle) && mount.vfs.may_block_truncate(attr.ino));
    let reading = std::thread::spawn({
        let vfs = mount.vfs.clone();
        move || {
            let mut buf = [0; 20];
            let read = vfs.read(opened.handle, &mut buf, 0).unwrap();
            buf[..read].to_vec()
        }
    });
    assert_eq!(mount.vfs.getattr(attr.ino).unwrap().size, 9, "stat does not wait");
    mount.share.contents.arrive(&content);
    assert_eq!(reading.join().unwrap(), b"from afar");
    assert!(!mount.vfs.may_block(opened.handle));
    mount.vfs.write(opened.handle, b"FROM", 0, false).unwrap();
    mount.vfs.release(opened.handle);
    mount.settle();
    assert_eq!(mount.share.bytes("far").unwrap(), b"FROM afar");
}

#[test]
fn a_full_store_is_a_problem_until_there_is_room() {
    let mount = Mounted::new();
    mount.share.contents.full.store(true, Ordering::SeqCst);
    mount.write_file("f", b"kept");
    assert!(!mount.vfs.settle(Instant::now() + Duration::from_secs(60)));
    let problems = mount.vfs.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].0, "f");
    assert_eq!(mount.read_file("f"), b"kept", "what was written is there all the same");
    mount.share.contents.full.store(false, Ordering::SeqCst);
    mount.settle();
    assert!(mount.vfs.problems().is_empty());
    assert_eq!(mount.share.bytes("f").unwrap(), b"kept");
}

#[test]
fn a_share_that_may_only_be_read_is_read_only() {
    let mount = Mounted::new();
    let ino = mount.write_file("f", b"x");
    mount.settle();
    mount.share.read_only.store(true, Ordering::SeqCst);
    assert!(matches!(mount.vfs.open(ino, WRITE, false), Err(Error::ReadOnly)));
    assert!(matches!(mount.vfs.make(ROOT, b"d", dir(0o755)), Err(Error::ReadOnly)));
    assert!(matches!(mount.vfs.unlink(ROOT, b"f"), Err(Error::ReadOnly)));
    assert!(matches!(mount.vfs.setattr(ino, SetAttr::default(), false), Err(Error::ReadOnly)));
    assert_eq!(mount.read_file("f"), b"x");
}

#[test]
fn bad_names_have_their_own_errors() {
    let mount = Mounted::new();
    assert!(matches!(mount.vfs.lookup(ROOT, &[b'x'; 256]), Err(Error::NameTooLong)));
    assert!(matches!(mount.vfs.make(ROOT, b"..", dir(0o755)), Err(Error::Invalid)));
    assert!(matches!(mount.vfs.create(ROOT, b"a/b", file(0o644), WRITE, true, false), Err(Error::Invalid)));
    mount.write_file("f", b"x");
    assert!(matches!(mount.vfs.create(ROOT, b"f", file(0o644), WRITE, true, false), Err(Error::Exists)));
    let (_, opened) = mount.vfs.create(ROOT, b"f", file(0o644), TRUNCATE, false, false).unwrap();
    assert_eq!(mount.read_all(opened.handle), b"");
}
