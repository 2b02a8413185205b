//! Random calls, each compared with a filesystem of plain maps: results, errors, names, bytes, link counts; over the real
//! view of a share in memory, with publishing in between and handles that stay open over everything.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::node::{Kind, Owner};
use crdtfs_core::op::RenameMode;
use crdtfs_core::port::Adapter;
use crdtfs_testkit::MemoryShare;
use crdtfs_vfs::{Error, Make, OpenMode, Owners, ROOT, Result, SetAttr, Vfs, VfsOptions};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Sizes around the one at which a file leaves memory.
const SIZES: [u64; 5] = [0, 10, 5_000, 131_072, 140_000];

/// A directory: the root, or one or two names below it.
type Dir = Vec<u8>;

#[derive(Clone, Debug)]
enum Call {
    Mkdir(Dir, u8),
    Create(Dir, u8),
    Write(Dir, u8, u8, u8),
    Truncate(Dir, u8, u8),
    Chmod(Dir, u8, u16),
    Unlink(Dir, u8),
    Rmdir(Dir, u8),
    Rename(Dir, u8, Dir, u8, u8),
    Link(Dir, u8, Dir, u8),
    Open(Dir, u8),
    WriteHandle(u8, u8, u8),
    Close(u8),
    Settle,
}

fn dir() -> impl Strategy<Value = Dir> {
    prop::collection::vec(0..4_u8, 0..3)
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (dir(), 0..4_u8).prop_map(|(dir, name)| Call::Mkdir(dir, name)),
        4 => (dir(), 0..4_u8).prop_map(|(dir, name)| Call::Create(dir, name)),
        4 => (dir(), 0..4_u8, 0..5_u8, any::<u8>()).prop_map(|(dir, name, at, byte)| Call::Write(dir, name, at, byte)),
        2 => (dir(), 0..4_u8, 0..5_u8).prop_map(|(dir, name, size)| Call::Truncate(dir, name, size)),
        1 => (dir(), 0..4_u8, 0..0o1000_u16).prop_map(|(dir, name, mode)| Call::Chmod(dir, name, mode)),
        3 => (dir(), 0..4_u8).prop_map(|(dir, name)| Call::Unlink(dir, name)),
        2 => (dir(), 0..4_u8).prop_map(|(dir, name)| Call::Rmdir(dir, name)),
        5 => (dir(), 0..4_u8, dir(), 0..4_u8, 0..4_u8)
            .prop_map(|(from, name, to, new, mode)| Call::Rename(from, name, to, new, mode)),
        2 => (dir(), 0..4_u8, dir(), 0..4_u8).prop_map(|(from, name, to, new)| Call::Link(from, name, to, new)),
        3 => (dir(), 0..4_u8).prop_map(|(dir, name)| Call::Open(dir, name)),
        4 => (any::<u8>(), 0..5_u8, any::<u8>()).prop_map(|(handle, at, byte)| Call::WriteHandle(handle, at, byte)),
        2 => any::<u8>().prop_map(Call::Close),
        2 => Just(Call::Settle),
    ]
}

/// One node of the model.
#[derive(Clone, Debug)]
enum Modelled {
    File { bytes: Vec<u8>, mode: u32 },
    Dir(BTreeMap<u8, usize>),
}

/// The filesystem of plain maps.
struct Model {
    nodes: HashMap<usize, Modelled>,
    next: usize,
}

impl Model {
    fn new() -> Self {
        Self { nodes: HashMap::from([(0, Modelled::Dir(BTreeMap::new()))]), next: 1 }
    }

    fn names(&self, dir: usize) -> Result<&BTreeMap<u8, usize>> {
        match &self.nodes[&dir] {
            Modelled::Dir(names) => Ok(names),
            Modelled::File { .. } => Err(Error::NotDir),
        }
    }

    fn names_mut(&mut self, dir: usize) -> &mut BTreeMap<u8, usize> {
        match self.nodes.get_mut(&dir).unwrap() {
            Modelled::Dir(names) => names,
            Modelled::File { .. } => unreachable!("resolved before"),
        }
    }

    fn dir(&self, path: &Dir) -> Result<usize> {
        path.iter().try_fold(0, |at, name| {
            let next = *self.names(at)?.get(name).ok_or(Error::NotFound)?;
            self.names(next).map(|_| next)
        })
    }

    fn find(&self, dir: usize, name: u8) -> Result<usize> {
        self.names(dir)?.get(&name).copied().ok_or(Error::NotFound)
    }

    fn make(&mut self, dir: usize, name: u8, node: Modelled) -> Result<usize> {
        if self.names(dir)?.contains_key(&name) {
            return Err(Error::Exists);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.names_mut(dir).insert(name, id);
        Ok(id)
    }

    fn is_dir(&self, id: usize) -> bool {
        matches!(self.nodes[&id], Modelled::Dir(_))
    }

    fn below(&self, id: usize, ancestor: usize) -> bool {
        id == ancestor
            || matches!(&self.nodes[&ancestor], Modelled::Dir(names) if names.values().any(|at| self.below(id, *at)))
    }

    fn rename(&mut self, from: (usize, u8), to: (usize, u8), mode: RenameMode) -> Result<()> {
        let source = self.find(from.0, from.1)?;
        let target = self.find(to.0, to.1).ok();
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(Error::Exists);
        }
        if mode == RenameMode::Exchange {
            let target = target.ok_or(Error::NotFound)?;
            if self.below(to.0, source) || self.below(from.0, target) {
                return Err(Error::Invalid);
            }
            self.names_mut(from.0).insert(from.1, target);
            self.names_mut(to.0).insert(to.1, source);
            return Ok(());
        }
        if target == Some(source) {
            return Ok(());
        }
        if self.below(to.0, source) {
            return Err(Error::Invalid);
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Error::NotDir),
                (false, true) => return Err(Error::IsDir),
                (true, true) if !self.names(target)?.is_empty() => return Err(Error::NotEmpty),
                _ => {}
            }
        }
        self.names_mut(from.0).remove(&from.1);
        self.names_mut(to.0).insert(to.1, source);
        Ok(())
    }

    fn links(&self, id: usize) -> u32 {
        let all = self.nodes.values().filter_map(|node| match node {
            Modelled::Dir(names) => Some(names),
            Modelled::File { .. } => None,
        });
        // Only what is reachable counts; removed directories are empty.
        all.flat_map(BTreeMap::values).filter(|at| **at == id).count() as u32
    }
}

/// Both filesystems, and the handles that are open in both.
struct World {
    vfs: Arc<Vfs>,
    model: Model,
    handles: Vec<(u64, usize)>,
    _state: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.vfs.stop();
    }
}

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

fn make(kind: Kind) -> Make {
    Make { kind, mode: 0o644, owner: Owner { uid: 0, gid: 0 }, rdev: 0, target: Vec::new() }
}

fn name(name: u8) -> &'static [u8] {
    NAMES[usize::from(name)].as_bytes()
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl World {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let share = MemoryShare::new("model", 1);
        let options = VfsOptions {
            owner: Owners::Fixed(Owner { uid: 0, gid: 0 }),
            read_only: false,
            state: state.path().to_path_buf(),
        };
        let vfs = Vfs::new(share.clone(), share, Adapter(1), options).unwrap();
        Self { vfs, model: Model::new(), handles: Vec::new(), _state: state }
    }

    /// The inode at a path; looked up as the kernel does.
    fn dir(&self, path: &Dir) -> Result<u64> {
        path.iter().try_fold(ROOT, |at, part| {
            let attr = self.vfs.lookup(at, name(*part))?;
            if attr.kind == Kind::Dir { Ok(attr.ino) } else { Err(Error::NotDir) }
        })
    }

    fn file(&self, path: &Dir, part: u8) -> Result<u64> {
        let attr = self.vfs.lookup(self.dir(path)?, name(part))?;
        if attr.kind == Kind::File { Ok(attr.ino) } else { Err(Error::IsDir) }
    }

    fn modelled_file(&mut self, path: &Dir, part: u8) -> Result<usize> {
        let id = self.model.find(self.model.dir(path)?, part)?;
        if self.model.is_dir(id) { Err(Error::IsDir) } else { Ok(id) }
    }

    fn change_model(&mut self, id: usize, change: impl FnOnce(&mut Vec<u8>, &mut u32)) {
        match self.model.nodes.get_mut(&id).unwrap() {
            Modelled::File { bytes, mode } => change(bytes, mode),
            Modelled::Dir(_) => unreachable!("only files are written"),
        }
    }

    fn write(&mut self, handle: u64, id: usize, at: u8, byte: u8) -> Result<()> {
        let (at, data) = (SIZES[usize::from(at)], [byte; 300]);
        self.vfs.write(handle, &data, at, false)?;
        self.change_model(id, |bytes, _| put(bytes, at as usize, &data));
        Ok(())
    }

    /// Does a call in both; the results of both.
    fn call(&mut self, call: &Call) -> (Result<()>, Result<()>) {
        match call {
            Call::Mkdir(path, part) => (
                self.dir(path).and_then(|dir| self.vfs.make(dir, name(*part), make(Kind::Dir)).map(drop)),
                self.model
                    .dir(path)
                    .and_then(|dir| self.model.make(dir, *part, Modelled::Dir(BTreeMap::new())).map(drop)),
            ),
            Call::Create(path, part) => {
                let file = Modelled::File { bytes: Vec::new(), mode: 0o644 };
                let made = self.dir(path).and_then(|dir| {
                    let made = self.vfs.create(dir, name(*part), make(Kind::File), READ_WRITE, true, false)?;
                    self.vfs.release(made.1.handle);
                    Ok(())
                });
                (made, self.model.dir(path).and_then(|dir| self.model.make(dir, *part, file).map(drop)))
            }
            Call::Write(path, part, at, byte) => match (self.file(path, *part), self.modelled_file(path, *part)) {
                (Ok(ino), Ok(id)) => {
                    let opened = self.vfs.open(ino, READ_WRITE, false).unwrap();
                    let written = self.write(opened.handle, id, *at, *byte);
                    self.vfs.release(opened.handle);
                    (written, Ok(()))
                }
                (done, modelled) => (done.map(drop), modelled.map(drop)),
            },
            Call::Truncate(path, part, size) => match (self.file(path, *part), self.modelled_file(path, *part)) {
                (Ok(ino), Ok(id)) => {
                    let size = SIZES[usize::from(*size)];
                    let set = SetAttr { size: Some(size), ..SetAttr::default() };
                    self.change_model(id, |bytes, _| bytes.resize(size as usize, 0));
                    (self.vfs.setattr(ino, set, false).map(drop), Ok(()))
                }
                (done, modelled) => (done.map(drop), modelled.map(drop)),
            },
            Call::Chmod(path, part, mode) => match (self.file(path, *part), self.modelled_file(path, *part)) {
                (Ok(ino), Ok(id)) => {
                    let set = SetAttr { mode: Some((*mode).into()), ..SetAttr::default() };
                    self.change_model(id, |_, modelled| *modelled = (*mode).into());
                    (self.vfs.setattr(ino, set, false).map(drop), Ok(()))
                }
                (done, modelled) => (done.map(drop), modelled.map(drop)),
            },
            Call::Unlink(path, part) => {
                let done = self.dir(path).and_then(|dir| self.vfs.unlink(dir, name(*part)));
                let modelled = self.modelled_file(path, *part).and_then(|_| self.model.dir(path)).map(|dir| {
                    self.model.names_mut(dir).remove(part);
                });
                (done, modelled)
            }
            Call::Rmdir(path, part) => {
                let done = self.dir(path).and_then(|dir| self.vfs.rmdir(dir, name(*part)));
                let modelled = self.model.dir(path).and_then(|dir| {
                    let id = self.model.find(dir, *part)?;
                    if !self.model.names(id)?.is_empty() {
                        return Err(Error::NotEmpty);
                    }
                    self.model.names_mut(dir).remove(part);
                    Ok(())
                });
                (done, modelled)
            }
            Call::Rename(from, part, to, new, mode) => {
                let mode = match mode {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let done = self.dir(from).and_then(|dir| Ok((dir, self.dir(to)?)));
                let done = done.and_then(|(dir, to)| self.vfs.rename(dir, name(*part), to, name(*new), mode));
                let modelled = self.model.dir(from).and_then(|dir| Ok((dir, self.model.dir(to)?)));
                (done, modelled.and_then(|(dir, to)| self.model.rename((dir, *part), (to, *new), mode)))
            }
            Call::Link(from, part, to, new) => {
                let done = self.file(from, *part).and_then(|ino| Ok((ino, self.dir(to)?)));
                let done = done.and_then(|(ino, dir)| self.vfs.link(ino, dir, name(*new)).map(drop));
                let modelled = self.modelled_file(from, *part).and_then(|id| Ok((id, self.model.dir(to)?)));
                let modelled = modelled.and_then(|(id, dir)| match self.model.find(dir, *new) {
                    Ok(_) => Err(Error::Exists),
                    Err(_) => {
                        self.model.names_mut(dir).insert(*new, id);
                        Ok(())
                    }
                });
                (done, modelled)
            }
            Call::Open(path, part) => match (self.file(path, *part), self.modelled_file(path, *part)) {
                (Ok(ino), Ok(id)) => {
                    let opened = self.vfs.open(ino, READ_WRITE, false).map(|opened| {
                        self.handles.push((opened.handle, id));
                    });
                    (opened, Ok(()))
                }
                (done, modelled) => (done.map(drop), modelled.map(drop)),
            },
            Call::WriteHandle(number, at, byte) => {
                if self.handles.is_empty() {
                    return (Ok(()), Ok(()));
                }
                let (handle, id) = self.handles[usize::from(*number) % self.handles.len()];
                (self.write(handle, id, *at, *byte), Ok(()))
            }
            Call::Close(number) => {
                if !self.handles.is_empty() {
                    let at = usize::from(*number) % self.handles.len();
                    self.vfs.release(self.handles.swap_remove(at).0);
                }
                (Ok(()), Ok(()))
            }
            Call::Settle => {
                assert!(self.vfs.settle(Instant::now() + Duration::from_secs(60)));
                (Ok(()), Ok(()))
            }
        }
    }

    fn read(&self, handle: u64) -> Vec<u8> {
        let mut bytes = vec![0; 200_000];
        let read = self.vfs.read(handle, &mut bytes, 0).unwrap();
        bytes.truncate(read);
        bytes
    }

    /// Compares everything below a directory.
    fn compare(&self, ino: u64, id: usize) -> std::result::Result<(), TestCaseError> {
        let names = self.model.names(id).unwrap();
        let mut shown = Vec::new();
        self.vfs
            .list(ino, 2, false, |entry| {
                shown.push(String::from_utf8_lossy(entry.name).into_owned());
                true
            })
            .unwrap();
        let expected: Vec<_> = names.keys().map(|part| NAMES[usize::from(*part)].to_owned()).collect();
        prop_assert_eq!(shown, expected);
        for (part, id) in names {
            let attr = self.vfs.lookup(ino, name(*part)).unwrap();
            match &self.model.nodes[id] {
                Modelled::Dir(names) => {
                    let dirs = names.values().filter(|id| self.model.is_dir(**id)).count() as u32;
                    prop_assert_eq!((attr.kind, attr.nlink), (Kind::Dir, 2 + dirs));
                    self.compare(attr.ino, *id)?;
                }
                Modelled::File { bytes, mode } => {
                    let seen = (attr.kind, attr.nlink, attr.size, attr.mode);
                    prop_assert_eq!(seen, (Kind::File, self.model.links(*id), bytes.len() as u64, *mode));
                    let opened = self.vfs.open(attr.ino, READ_WRITE, false).unwrap();
                    let read = self.read(opened.handle);
                    self.vfs.release(opened.handle);
                    prop_assert!(read == *bytes, "{} has other bytes", NAMES[usize::from(*part)]);
                }
            }
        }
        Ok(())
    }

    fn compare_all(&self) -> std::result::Result<(), TestCaseError> {
        self.compare(ROOT, 0)?;
        for (handle, id) in &self.handles {
            if let Modelled::File { bytes, .. } = &self.model.nodes[id] {
                prop_assert!(self.read(*handle) == *bytes, "an open handle has other bytes");
            }
        }
        Ok(())
    }
}

/// Does the calls in both, and compares all after each.
fn check(calls: &[Call]) -> std::result::Result<(), TestCaseError> {
    let mut world = World::new();
    for call in calls {
        let (done, modelled) = world.call(call);
        match (&done, &modelled) {
            (Ok(()), Ok(())) => {}
            (Err(done), Err(modelled)) => {
                prop_assert_eq!(discriminant(done), discriminant(modelled), "{:?}: {}, not {}", call, done, modelled);
            }
            _ => prop_assert!(false, "{call:?}: {done:?}, not {modelled:?}"),
        }
        world.compare_all()?;
    }
    prop_assert!(world.vfs.settle(Instant::now() + Duration::from_secs(60)));
    world.compare_all()?;
    for (handle, _) in std::mem::take(&mut world.handles) {
        world.vfs.release(handle);
    }
    prop_assert!(world.vfs.settle(Instant::now() + Duration::from_secs(60)));
    world.compare_all()
}

const HERE: Dir = Dir::new();
const A: u8 = 0;
const B: u8 = 1;
const REPLACE: u8 = 2;

#[test]
fn an_empty_file_saved_over_one_that_is_not_published_yet() {
    let calls = [
        Call::Create(HERE, B),
        Call::Create(HERE, A),
        Call::Write(HERE, B, 0, 7),
        Call::Rename(HERE, A, HERE, B, REPLACE),
    ];
    // The write may be published before the rename.
    for _ in 0..50 {
        check(&calls).unwrap();
    }
}

#[test]
fn a_file_saved_over_another_while_it_is_open() {
    let written = [Call::WriteHandle(0, 0, 7), Call::WriteHandle(0, 2, 8), Call::Settle, Call::WriteHandle(0, 1, 9)];
    let both = [Call::Open(HERE, B), Call::WriteHandle(1, 4, 5), Call::WriteHandle(0, 0, 6), Call::Unlink(HERE, B)];
    let renamed = [
        Call::Create(HERE, A),
        Call::Create(HERE, B),
        Call::Open(HERE, A),
        Call::WriteHandle(0, 1, 1),
        Call::Rename(HERE, A, HERE, B, REPLACE),
    ];
    check(&[&renamed[..], &written, &both].concat()).unwrap();
    // Moved aside, written anew, and the backup removed.
    let rewritten = [
        Call::Create(HERE, B),
        Call::Write(HERE, B, 1, 1),
        Call::Rename(HERE, B, HERE, A, REPLACE),
        Call::Create(HERE, B),
        Call::Open(HERE, B),
        Call::WriteHandle(0, 0, 2),
        Call::Unlink(HERE, A),
    ];
    check(&[&rewritten[..], &written, &both].concat()).unwrap();
}

#[test]
fn a_file_removed_while_it_is_open_and_made_anew() {
    for settle in [Call::Settle, Call::Open(HERE, B)] {
        let calls = [
            Call::Create(HERE, B),
            Call::Write(HERE, B, 1, 1),
            Call::Settle,
            Call::Open(HERE, B),
            Call::Unlink(HERE, B),
            Call::WriteHandle(0, 1, 9),
            Call::Create(HERE, B),
            settle,
            Call::Write(HERE, B, 2, 3),
            Call::WriteHandle(0, 0, 8),
            Call::Settle,
            Call::Close(0),
            Call::Write(HERE, B, 0, 4),
        ];
        check(&calls).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_call_does_what_plain_maps_do(calls in prop::collection::vec(call(), 1..60)) {
        check(&calls)?;
    }
}
