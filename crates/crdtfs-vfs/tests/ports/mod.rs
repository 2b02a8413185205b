//! Ports over plain maps: one tree that every operation changes at once, contents that can be away or fail, and write
//! files that survive a "crash" as far as they were synced. What merging means is not tested with it.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Delta, Entry, EntryChange, Kind, Node, NodeChange, Owner, Shown};
use crdtfs_core::op::{Applied, Op, OpError, RenameMode};
use crdtfs_core::port::{Adapter, Content, Reader, Tree, WriteFile};
use crdtfs_vfs::{Owners, Vfs, VfsOptions};

#[derive(Default)]
struct Maps {
    nodes: HashMap<InodeId, Node>,
    dirs: HashMap<InodeId, BTreeMap<Name, InodeId>>,
    subscribers: Vec<(Adapter, Sender<Arc<Delta>>, u64)>,
}

/// One share, in memory.
#[derive(Default)]
pub(crate) struct FakeShare {
    maps: Mutex<Maps>,
    ids: AtomicU64,
    pub(crate) read_only: AtomicBool,
    pub(crate) edits: AtomicUsize,
    pub(crate) operations: AtomicUsize,
    pub(crate) syncs: AtomicUsize,
    pub(crate) contents: Arc<FakeContent>,
    /// Makes every look at a node let others go first, so that what is seen is old when it is used.
    pub(crate) dawdle: AtomicBool,
    held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    merges: Mutex<HashMap<InodeId, ContentRef>>,
}

impl FakeShare {
    pub(crate) fn new() -> Arc<Self> {
        let share = Self::default();
        let root = Node {
            inode: InodeId::ROOT,
            kind: Kind::Dir,
            mode: 0o755,
            owner: None,
            mtime: Default::default(),
            xattrs: Default::default(),
            content: ContentRef::empty(),
            target: Arc::new([]),
            rdev: 0,
            nlink: 2,
            basis: Arc::new([]),
            shown: Shown::Plain,
        };
        let mut maps = share.maps.lock().unwrap();
        maps.nodes.insert(InodeId::ROOT, root);
        maps.dirs.insert(InodeId::ROOT, BTreeMap::new());
        drop(maps);
        Arc::new(share)
    }

    /// Does an operation as another device would.
    pub(crate) fn remote(&self, op: Op) -> Result<Applied, OpError> {
        self.apply(Adapter(u32::MAX), op)
    }

    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let mut at = InodeId::ROOT;
        for part in path.split('/') {
            at = self.child(at, &Name::try_from(part).unwrap())?.inode;
        }
        let content = self.node(at)?.content;
        self.contents.bytes(&content.hash)
    }

    /// Holds the next edit, before it is done: the first end tells when it is there, the second lets it go on.
    pub(crate) fn hold_edit(&self) -> (Receiver<()>, Sender<()>) {
        let ((there, is_there), (go_on, goes_on)) = (channel(), channel());
        *self.held.lock().unwrap() = Some((there, goes_on));
        (is_there, go_on)
    }

    /// Shows a file as one whose merge waits for bytes, which come as soon as somebody waits for them, too.
    pub(crate) fn show_until_merged(&self, inode: InodeId, merged: ContentRef) {
        self.maps.lock().unwrap().nodes.get_mut(&inode).unwrap().shown = Shown::Pending;
        self.merges.lock().unwrap().insert(inode, merged);
    }

    fn told(&self, by: Adapter, mut maps: MutexGuard<'_, Maps>, delta: Delta) -> Result<Applied, OpError> {
        let shared = Arc::new(delta.clone());
        for (_, sender, sent) in maps.subscribers.iter_mut().filter(|(who, _, _)| *who != by) {
            // Who went away hears no more.
            *sent += u64::from(sender.send(shared.clone()).is_ok());
        }
        Ok(Applied { delta })
    }

    fn let_others_go_first(&self) {
        if self.dawdle.load(Ordering::SeqCst) {
            for _ in 0..20 {
                std::thread::yield_now();
            }
        }
    }

    fn record(&self) -> RecordId {
        RecordId(self.fresh_id())
    }
}

fn links(maps: &Maps, inode: InodeId) -> u32 {
    maps.dirs.values().flat_map(BTreeMap::values).filter(|named| **named == inode).count() as u32
}

impl Maps {
    fn take(&mut self, dir: InodeId, name: &Name, delta: &mut Delta) {
        let inode = self.dirs.get_mut(&dir).unwrap().remove(name).unwrap();
        let left = links(self, inode);
        let is_dir = self.nodes[&inode].kind == Kind::Dir;
        let gone = left == 0;
        if gone {
            self.nodes.remove(&inode);
            self.dirs.remove(&inode);
        } else if !is_dir {
            self.nodes.get_mut(&inode).unwrap().nlink = left;
        }
        delta.entries.push(EntryChange { dir, name: name.clone(), before: Some(inode), after: None });
        delta.nodes.push(NodeChange { inode, attrs: true, content: false, gone });
    }

    fn put(&mut self, dir: InodeId, name: &Name, inode: InodeId, delta: &mut Delta) {
        self.dirs.get_mut(&dir).unwrap().insert(name.clone(), inode);
        let node = self.nodes.get(&inode).unwrap();
        if node.kind != Kind::Dir {
            let links = links(self, inode);
            self.nodes.get_mut(&inode).unwrap().nlink = links;
        }
        delta.entries.push(EntryChange { dir, name: name.clone(), before: None, after: Some(inode) });
        delta.nodes.push(NodeChange { inode, attrs: true, content: false, gone: false });
    }

    fn inside(&self, mut dir: InodeId, ancestor: InodeId) -> bool {
        while dir != ancestor {
            let Some((parent, _)) = self.dirs.iter().find(|(_, names)| names.values().any(|named| *named == dir))
            else {
                return false;
            };
            dir = *parent;
        }
        true
    }

    fn rename(&mut self, from: (InodeId, &Name), to: (InodeId, &Name), mode: RenameMode) -> Result<Delta, OpError> {
        let mut delta = Delta::default();
        let source = *self.dirs.get(&from.0).ok_or(OpError::NotFound)?.get(from.1).ok_or(OpError::NotFound)?;
        let target = self.dirs.get(&to.0).ok_or(OpError::NotFound)?.get(to.1).copied();
        if self.nodes[&source].kind == Kind::Dir && self.inside(to.0, source) {
            return Err(OpError::Invalid);
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(OpError::Exists),
            (RenameMode::Exchange, None) => return Err(OpError::NotFound),
            (RenameMode::Exchange, Some(target)) => {
                self.dirs.get_mut(&from.0).unwrap().insert(from.1.clone(), target);
                self.dirs.get_mut(&to.0).unwrap().insert(to.1.clone(), source);
                return Ok(delta);
            }
            (_, Some(target)) if target == source => return Ok(delta),
            (_, Some(target)) => match (self.nodes[&source].kind == Kind::Dir, self.nodes[&target].kind == Kind::Dir) {
                (true, false) => return Err(OpError::NotDir),
                (false, true) => return Err(OpError::IsDir),
                (true, true) if !self.dirs[&target].is_empty() => return Err(OpError::NotEmpty),
                _ => self.take(to.0, to.1, &mut delta),
            },
            (_, None) => {}
        }
        self.dirs.get_mut(&from.0).unwrap().remove(from.1);
        delta.entries.push(EntryChange { dir: from.0, name: from.1.clone(), before: Some(source), after: None });
        self.put(to.0, to.1, source, &mut delta);
        Ok(delta)
    }
}

impl Tree for FakeShare {
    fn await_merge(&self, inode: InodeId, _: Duration) {
        let Some(merged) = self.merges.lock().unwrap().remove(&inode) else { return };
        self.maps.lock().unwrap().nodes.get_mut(&inode).unwrap().shown = Shown::Plain;
        self.remote(Op::Edit { inode, via: None, basis: None, content: merged, mtime: Default::default() }).unwrap();
    }

    // It has no notion of saves.
    fn keep_apart(&self, _: InodeId) {}

    fn node(&self, inode: InodeId) -> Option<Node> {
        let node = self.maps.lock().unwrap().nodes.get(&inode).cloned();
        self.let_others_go_first();
        node
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        let node = {
            let maps = self.maps.lock().unwrap();
            let inode = maps.dirs.get(&dir)?.get(name)?;
            maps.nodes.get(inode).cloned()
        };
        self.let_others_go_first();
        node
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        let maps = self.maps.lock().unwrap();
        let Some(names) = maps.dirs.get(&dir) else { return Vec::new() };
        let names = names.iter().filter(|(name, _)| after.is_none_or(|after| *name > after));
        let entry = |(name, inode): (&Name, &InodeId)| Entry {
            name: name.clone(),
            inode: *inode,
            kind: maps.nodes[inode].kind,
        };
        names.take(limit).map(entry).collect()
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        let maps = self.maps.lock().unwrap();
        let mut found: Vec<_> = maps
            .dirs
            .iter()
            .flat_map(|(dir, names)| names.iter().map(move |(name, named)| (*dir, name.clone(), *named)))
            .filter(|(_, _, named)| *named == inode)
            .map(|(dir, name, _)| (dir, name))
            .collect();
        found.sort();
        found
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        if self.read_only.load(Ordering::SeqCst) {
            return Err(OpError::ReadOnly);
        }
        self.operations.fetch_add(1, Ordering::SeqCst);
        if matches!(op, Op::Edit { .. })
            && let Some((there, goes_on)) = self.held.lock().unwrap().take()
        {
            there.send(()).unwrap();
            goes_on.recv().unwrap();
        }
        let mut maps = self.maps.lock().unwrap();
        let mut delta = Delta::default();
        match op {
            Op::Create { dir, name, inode, node, .. } => {
                if maps.dirs.get(&dir).ok_or(OpError::NotFound)?.contains_key(&name) {
                    return Err(OpError::Exists);
                }
                let made = Node {
                    inode,
                    kind: node.kind,
                    mode: node.mode,
                    owner: node.owner,
                    mtime: node.mtime,
                    xattrs: Arc::new(node.xattrs),
                    content: node.content,
                    target: node.target.into(),
                    rdev: node.rdev,
                    nlink: if node.kind == Kind::Dir { 2 } else { 1 },
                    basis: Arc::new([self.record()]),
                    shown: Shown::Plain,
                };
                maps.nodes.insert(inode, made);
                if node.kind == Kind::Dir {
                    maps.dirs.insert(inode, BTreeMap::new());
                }
                maps.put(dir, &name, inode, &mut delta);
            }
            Op::Edit { inode, basis, content, mtime, .. } => {
                self.edits.fetch_add(1, Ordering::SeqCst);
                let record = self.record();
                let node = maps.nodes.get_mut(&inode).ok_or(OpError::NotFound)?;
                let settles = basis.as_ref().is_none_or(|basis| *basis == node.basis);
                let own_copy = maps.nodes.values_mut().find(|node| Some(&node.basis) == basis.as_ref());
                if let (false, Some(copy)) = (settles, own_copy) {
                    (copy.content, copy.mtime, copy.basis) = (content, mtime, Arc::new([record]));
                    delta.nodes.push(NodeChange { inode: copy.inode, attrs: true, content: true, gone: false });
                    return self.told(by, maps, delta);
                }
                let node = maps.nodes.get_mut(&inode).ok_or(OpError::NotFound)?;
                if settles {
                    (node.content, node.mtime, node.basis) = (content, mtime, Arc::new([record]));
                    delta.nodes.push(NodeChange { inode, attrs: true, content: true, gone: false });
                } else {
                    // The copy of a concurrent edit stands beside it.
                    let copy = Node {
                        inode: InodeId(self.fresh_id()),
                        content,
                        mtime,
                        basis: Arc::new([record]) as Basis,
                        shown: Shown::ConflictCopy,
                        nlink: 1,
                        ..node.clone()
                    };
                    let id = copy.inode;
                    maps.nodes.insert(id, copy);
                    let place = maps.dirs.iter().find_map(|(dir, names)| {
                        names.iter().find(|(_, named)| **named == inode).map(|(name, _)| (*dir, name.clone()))
                    });
                    let (dir, name) = place.ok_or(OpError::NotFound)?;
                    let name = Name::try_from(format!("{name} (conflict)").as_str()).unwrap();
                    maps.put(dir, &name, id, &mut delta);
                }
            }
            Op::SetAttr { inode, mode, owner, mtime, xattrs } => {
                let node = maps.nodes.get_mut(&inode).ok_or(OpError::NotFound)?;
                node.mode = mode.unwrap_or(node.mode);
                node.owner = owner.or(node.owner);
                node.mtime = mtime.unwrap_or(node.mtime);
                if let Some(xattrs) = xattrs {
                    node.xattrs = Arc::new(xattrs);
                }
                delta.nodes.push(NodeChange { inode, attrs: true, content: false, gone: false });
            }
            Op::Rename { from_dir, from, to_dir, to, mode } => {
                delta = maps.rename((from_dir, &from), (to_dir, &to), mode)?;
            }
            Op::Link { inode, dir, name, .. } => {
                if maps.nodes.get(&inode).ok_or(OpError::NotFound)?.kind == Kind::Dir {
                    return Err(OpError::NotPermitted);
                }
                if maps.dirs.get(&dir).ok_or(OpError::NotFound)?.contains_key(&name) {
                    return Err(OpError::Exists);
                }
                maps.put(dir, &name, inode, &mut delta);
            }
            Op::Unlink { dir, name } => {
                let inode = *maps.dirs.get(&dir).ok_or(OpError::NotFound)?.get(&name).ok_or(OpError::NotFound)?;
                if maps.nodes[&inode].kind == Kind::Dir {
                    return Err(OpError::IsDir);
                }
                maps.take(dir, &name, &mut delta);
            }
            Op::Rmdir { dir, name } => {
                let inode = *maps.dirs.get(&dir).ok_or(OpError::NotFound)?.get(&name).ok_or(OpError::NotFound)?;
                match maps.dirs.get(&inode) {
                    None => return Err(OpError::NotDir),
                    Some(names) if !names.is_empty() => return Err(OpError::NotEmpty),
                    Some(_) => maps.take(dir, &name, &mut delta),
                }
            }
        }
        self.told(by, maps, delta)
    }

    fn fresh_id(&self) -> [u8; 16] {
        let id = self.ids.fetch_add(1, Ordering::SeqCst) + 1;
        let mut bytes = [0xa5; 16];
        bytes.copy_from_slice(&Hash::of(&id.to_le_bytes()).0[..16]);
        bytes
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>> {
        let (sender, receiver) = channel();
        self.maps.lock().unwrap().subscribers.push((by, sender, 0));
        receiver
    }

    fn sent(&self, by: Adapter) -> u64 {
        let maps = self.maps.lock().unwrap();
        maps.subscribers.iter().find(|(who, _, _)| *who == by).map_or(0, |(_, _, sent)| *sent)
    }

    fn totals(&self) -> (u64, u64) {
        let maps = self.maps.lock().unwrap();
        (maps.nodes.values().map(|node| node.content.size).sum(), maps.nodes.len() as u64)
    }

    fn writable(&self) -> bool {
        !self.read_only.load(Ordering::SeqCst)
    }
}

type Synced = Mutex<Option<(Vec<u8>, Vec<u8>)>>;

/// Files larger than this are published by the background alone.
pub(crate) const LARGE: usize = 64 << 20;

/// Contents in memory.
#[derive(Default)]
pub(crate) struct FakeContent {
    kept: Mutex<HashMap<Hash, Vec<u8>>>,
    away: Mutex<HashSet<Hash>>,
    arrived: Condvar,
    pub(crate) full: AtomicBool,
    /// Large files are being sealed for as long as it is set; how many are, and how many were given up.
    pub(crate) slow: AtomicBool,
    pub(crate) sealing: AtomicUsize,
    pub(crate) given_up: AtomicUsize,
    files: Mutex<Vec<Arc<FakeFile>>>,
    left: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl FakeContent {
    pub(crate) fn bytes(&self, hash: &Hash) -> Option<Vec<u8>> {
        if *hash == ContentRef::empty().hash {
            return Some(Vec::new());
        }
        self.kept.lock().unwrap().get(hash).cloned()
    }

    /// Keeps a content that is on another device until [`FakeContent::arrive`].
    pub(crate) fn put_away(&self, bytes: &[u8]) -> ContentRef {
        let content = self.put(bytes).unwrap();
        self.away.lock().unwrap().insert(content.hash);
        content
    }

    pub(crate) fn arrive(&self, content: &ContentRef) {
        self.away.lock().unwrap().remove(&content.hash);
        self.arrived.notify_all();
    }

    /// What a crash leaves: the synced state of every write file.
    pub(crate) fn crash(&self) {
        let mut left = self.left.lock().unwrap();
        for file in std::mem::take(&mut *self.files.lock().unwrap()) {
            left.extend(file.synced.lock().unwrap().take());
        }
    }

    pub(crate) fn open_write_files(&self) -> usize {
        self.files.lock().unwrap().len()
    }
}

pub(crate) struct FakeFile {
    bytes: Mutex<Vec<u8>>,
    synced: Synced,
}

impl WriteFile for FakeFile {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let from = (offset as usize).min(bytes.len());
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(size as usize, 0);
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let end = (offset + len) as usize;
        if mode & 1 == 0 && bytes.len() < end {
            bytes.resize(end, 0);
        }
        if mode & 0x12 != 0 {
            let size = bytes.len();
            bytes[(offset as usize).min(size)..end.min(size)].fill(0);
        }
        Ok(())
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        let size = self.size();
        Ok((offset < size).then_some(if data { offset } else { size }))
    }

    fn sync(&self, note: &[u8]) -> io::Result<()> {
        *self.synced.lock().unwrap() = Some((note.to_vec(), self.bytes.lock().unwrap().clone()));
        Ok(())
    }

    fn backing(&self) -> Option<Arc<File>> {
        None
    }
}

struct FakeReader {
    contents: Arc<FakeContent>,
    content: ContentRef,
}

impl Reader for FakeReader {
    fn size(&self) -> u64 {
        self.content.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut away = self.contents.away.lock().unwrap();
        while away.contains(&self.content.hash) {
            away = self.contents.arrived.wait(away).unwrap();
        }
        drop(away);
        let kept = self.contents.kept.lock().unwrap();
        let bytes = kept.get(&self.content.hash).ok_or(io::ErrorKind::NotFound)?;
        let from = (offset as usize).min(bytes.len());
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }
}

/// The content port of a [`FakeContent`].
pub(crate) struct FakePort(pub(crate) Arc<FakeContent>);

impl Content for FakeContent {
    fn open(&self, _content: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_local(&self, content: &ContentRef) -> bool {
        !self.away.lock().unwrap().contains(&content.hash)
    }

    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        let bytes = base.and_then(|base| self.bytes(&base.hash)).unwrap_or_default();
        let file = Arc::new(FakeFile { bytes: Mutex::new(bytes), synced: Mutex::default() });
        self.files.lock().unwrap().push(file.clone());
        Ok(file)
    }

    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        let mut bytes = vec![0; file.size() as usize];
        let read = file.read_at(&mut bytes, 0)?;
        assert_eq!(read, bytes.len(), "nobody cuts a file before it is fixed what is sealed");
        if bytes.len() > LARGE {
            self.sealing.fetch_add(1, Ordering::SeqCst);
            let wanted = loop {
                match (go_on(), self.slow.load(Ordering::SeqCst)) {
                    (false, _) => break false,
                    (true, false) => break true,
                    (true, true) => std::thread::yield_now(),
                }
            };
            self.sealing.fetch_sub(1, Ordering::SeqCst);
            if !wanted {
                self.given_up.fetch_add(1, Ordering::SeqCst);
                return Ok(None);
            }
        }
        self.put(&bytes).map(Some)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = ContentRef::single(bytes);
        self.kept.lock().unwrap().insert(content.hash, bytes.to_vec());
        Ok(content)
    }

    fn discard(&self, file: Arc<dyn WriteFile>) {
        let gone = Arc::as_ptr(&file).cast::<u8>();
        self.files.lock().unwrap().retain(|kept| Arc::as_ptr(kept).cast::<u8>() != gone);
    }

    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()> {
        let is_here = self.open_write_files();
        let mut bytes = vec![0; file.size() as usize];
        file.read_at(&mut bytes, 0)?;
        self.discard(file);
        // Who died in a crash leaves nothing.
        if self.open_write_files() < is_here {
            self.left.lock().unwrap().push((note.to_vec(), bytes));
        }
        Ok(())
    }

    fn recover(&self) -> io::Result<Vec<(Vec<u8>, Arc<dyn WriteFile>)>> {
        let left = std::mem::take(&mut *self.left.lock().unwrap());
        let back = |(note, bytes): (Vec<u8>, Vec<u8>)| {
            let synced = Mutex::new(Some((note.clone(), bytes.clone())));
            let file = Arc::new(FakeFile { bytes: Mutex::new(bytes), synced });
            self.files.lock().unwrap().push(file.clone());
            (note, file as Arc<dyn WriteFile>)
        };
        Ok(left.into_iter().map(back).collect())
    }
}

impl Content for FakePort {
    fn open(&self, content: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        Ok(Arc::new(FakeReader { contents: self.0.clone(), content: *content }))
    }

    fn is_local(&self, content: &ContentRef) -> bool {
        self.0.is_local(content)
    }

    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        self.0.write_file(base)
    }

    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        self.0.seal(file, go_on)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef> {
        self.0.put(bytes)
    }

    fn discard(&self, file: Arc<dyn WriteFile>) {
        self.0.discard(file);
    }

    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()> {
        self.0.leave(file, note)
    }

    fn recover(&self) -> io::Result<Vec<(Vec<u8>, Arc<dyn WriteFile>)>> {
        self.0.recover()
    }
}

/// A filesystem over a share, as another one over it that had this state left it.
pub(crate) fn vfs(share: &Arc<FakeShare>, state: &tempfile::TempDir) -> Arc<Vfs> {
    let owner = Owners::Fixed(Owner { uid: 0, gid: 0 });
    let options = VfsOptions { owner, read_only: false, state: state.path().to_path_buf() };
    Vfs::new(share.clone(), Arc::new(FakePort(share.contents.clone())), Adapter(1), options).unwrap()
}
