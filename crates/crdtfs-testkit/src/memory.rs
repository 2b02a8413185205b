//! A share in memory: the real view behind the ports, without a document, a network or a disk.
//!
//! Two of them are two devices; [`MemoryShare::exchange`] is their network. All ids come from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Entry, Node};
use crdtfs_core::op::{Applied, Op, OpError};
use crdtfs_core::port::{Adapter, Content, FileOpener, FolderContent, Reader, RecoveredFile, Tree, WriteFile};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, View};
use parking_lot::Mutex;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// One device's share in memory: implements [`Tree`], [`Content`] and [`FolderContent`].
pub struct MemoryShare {
    device: String,
    state: Mutex<State>,
    contents: Mutex<BTreeMap<Hash, Arc<[u8]>>>,
    opener: Mutex<Option<Arc<dyn FileOpener>>>,
    /// Write files that were left for the next to publish, with their notes.
    left: Mutex<Vec<RecoveredFile>>,
    given_up: Mutex<Vec<ContentRef>>,
    likes: Mutex<Vec<Option<ContentRef>>>,
}

struct State {
    view: View,
    log: Vec<(RecordId, Vec<u8>)>,
    known: BTreeSet<RecordId>,
    rng: ChaCha12Rng,
    now_ms: u64,
    writable: bool,
    subscribers: Vec<(Adapter, Sender<Arc<Delta>>)>,
}

impl MemoryShare {
    /// An empty share on a device of this name. Different seeds give different ids.
    pub fn new(device: &str, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            device: device.into(),
            state: Mutex::new(State {
                view: View::new(),
                log: Vec::new(),
                known: BTreeSet::new(),
                rng: ChaCha12Rng::seed_from_u64(seed),
                now_ms: 1_700_000_000_000,
                writable: true,
                subscribers: Vec::new(),
            }),
            contents: Mutex::default(),
            opener: Mutex::default(),
            left: Mutex::default(),
            given_up: Mutex::default(),
            likes: Mutex::default(),
        })
    }

    /// Both devices get all that the other has, contents included.
    pub fn exchange(a: &Self, b: &Self) {
        for (to, from) in [(a, b), (b, a)] {
            to.pull_contents(from);
            to.pull_records(from);
        }
        // Each has merged texts of its own by now; the bytes are the same, but the first may lack the second's.
        a.pull_contents(b);
        b.pull_contents(a);
    }

    /// Takes over the records of another device, without the bytes that they name.
    pub fn pull_records(&self, from: &Self) {
        let log = from.state.lock().log.clone();
        let mut state = self.state.lock();
        let mut records = Vec::new();
        for (id, bytes) in log {
            if state.known.insert(id) {
                records.push((id, Record::decode(&bytes).expect("a record that a view made")));
                state.log.push((id, bytes));
            }
        }
        let delta = state.view.insert(&records);
        state.publish(None, delta);
        self.merge_pending(&mut state);
    }

    /// Takes over the contents of another device.
    pub fn pull_contents(&self, from: &Self) {
        let theirs = from.contents.lock().clone();
        self.contents.lock().extend(theirs);
        self.merge_pending(&mut self.state.lock());
    }

    /// Does an operation as another device would, on what this one has: the adapters hear of it.
    pub fn apply_remote(&self, op: Op) -> Result<(), OpError> {
        self.apply(Adapter(u32::MAX), op).map(|_| ())
    }

    /// Does something with the view.
    pub fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.state.lock().view)
    }

    /// All records that this device has.
    pub fn records(&self) -> Vec<(RecordId, Vec<u8>)> {
        self.state.lock().log.clone()
    }

    /// Moves this device's clock on.
    pub fn advance(&self, ms: u64) {
        self.state.lock().now_ms += ms;
    }

    /// Sets whether operations are taken.
    pub fn set_writable(&self, writable: bool) {
        self.state.lock().writable = writable;
    }

    /// The bytes of a content, if this device has them.
    pub fn bytes(&self, content: &ContentRef) -> Option<Arc<[u8]>> {
        if content.size == 0 {
            return Some(Arc::default());
        }
        self.contents.lock().get(&content.hash).cloned()
    }

    /// Opens the file that an adapter says holds a node's content.
    pub fn open_file(&self, key: InodeId) -> io::Result<File> {
        let opener = self.opener.lock().clone().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        opener.open(key)
    }

    /// For each file that was indexed: the content that it was said to be like.
    pub fn likes(&self) -> Vec<Option<ContentRef>> {
        self.likes.lock().clone()
    }

    /// The contents whose files a folder was about to lose to somebody else's change, in order.
    pub fn given_up(&self) -> Vec<ContentRef> {
        self.given_up.lock().clone()
    }

    /// Gives the view the bytes that its merges wait for, as far as they are here.
    fn merge_pending(&self, state: &mut State) {
        loop {
            let wanted = state.view.wanted();
            let here: Vec<_> = wanted.iter().filter_map(|content| Some((content.hash, self.bytes(content)?))).collect();
            for (hash, bytes) in &here {
                let delta = state.view.supply(*hash, bytes.clone());
                state.publish(None, delta);
            }
            if here.is_empty() || state.view.wanted() == wanted {
                break;
            }
        }
        let shown = state.view.shown_contents();
        let mut contents = self.contents.lock();
        for content in shown {
            if let Some(bytes) = state.view.merged(&content.hash) {
                contents.insert(content.hash, bytes);
            }
        }
    }

    fn keep(&self, bytes: &[u8]) -> ContentRef {
        let content = ContentRef { hash: Hash::of(bytes), size: bytes.len() as u64, manifest: None };
        self.contents.lock().insert(content.hash, bytes.into());
        content
    }
}

impl State {
    fn publish(&mut self, by: Option<Adapter>, delta: Delta) {
        if delta.is_empty() {
            return;
        }
        let delta = Arc::new(delta);
        self.subscribers.retain(|(adapter, sender)| Some(*adapter) == by || sender.send(delta.clone()).is_ok());
    }
}

impl Tree for MemoryShare {
    fn keep_apart(&self, inode: InodeId) {
        self.state.lock().view.keep_apart(inode);
    }

    fn node(&self, inode: InodeId) -> Option<Node> {
        self.state.lock().view.node(inode)
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        let state = self.state.lock();
        state.view.node(state.view.child(dir, name.as_bytes())?)
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        self.state.lock().view.entries(dir, after, limit)
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        self.state.lock().view.names(inode)
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        let mut state = self.state.lock();
        if !state.writable {
            return Err(OpError::ReadOnly);
        }
        state.now_ms += 1;
        let author = Author { device: &self.device, now_ms: state.now_ms };
        let outcome = state.view.apply(&op, &author)?;
        state.known.extend(outcome.records.iter().map(|(id, _)| *id));
        state.log.extend(outcome.records);
        state.publish(Some(by), outcome.delta.clone());
        if !state.view.wanted().is_empty() {
            self.merge_pending(&mut state);
        }
        Ok(Applied { delta: outcome.delta })
    }

    fn fresh_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.state.lock().rng.fill_bytes(&mut id);
        id
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>> {
        let (sender, receiver) = channel();
        self.state.lock().subscribers.push((by, sender));
        receiver
    }

    fn totals(&self) -> (u64, u64) {
        self.state.lock().view.totals()
    }

    fn writable(&self) -> bool {
        self.state.lock().writable
    }
}

struct MemoryReader {
    size: u64,
    bytes: Option<Arc<[u8]>>,
}

impl Reader for MemoryReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::HostUnreachable))?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }
}

/// A write file over an unnamed temporary file, so that holes and offsets are those of a real one.
struct TempWriteFile(Arc<File>);

impl WriteFile for TempWriteFile {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&*self.0, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(&*self.0, buf, offset)
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&*self.0, flags, offset, len)?)
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        let from = if data { rustix::fs::SeekFrom::Data(offset) } else { rustix::fs::SeekFrom::Hole(offset) };
        match rustix::fs::seek(&*self.0, from) {
            Ok(found) => Ok(Some(found)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self, _note: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn backing(&self) -> Option<Arc<File>> {
        Some(self.0.clone())
    }
}

impl Content for MemoryShare {
    fn open(&self, content: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        Ok(Arc::new(MemoryReader { size: content.size, bytes: self.bytes(content) }))
    }

    fn is_local(&self, content: &ContentRef) -> bool {
        self.bytes(content).is_some()
    }

    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        let file = tempfile::tempfile()?;
        if let Some(base) = base {
            let bytes = self.bytes(base).ok_or_else(|| io::Error::from(io::ErrorKind::HostUnreachable))?;
            file.write_all_at(&bytes, 0)?;
        }
        Ok(Arc::new(TempWriteFile(Arc::new(file))))
    }

    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        let mut bytes = Vec::new();
        let mut buf = vec![0; 64 * 1024];
        loop {
            match file.read_at(&mut buf, bytes.len() as u64)? {
                0 => return Ok(go_on().then(|| self.keep(&bytes))),
                len => bytes.extend_from_slice(&buf[..len]),
            }
        }
    }

    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef> {
        Ok(self.keep(bytes))
    }

    fn discard(&self, file: Arc<dyn WriteFile>) {
        drop(file);
    }

    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()> {
        self.left.lock().push((note.to_owned(), file));
        Ok(())
    }

    fn recover(&self) -> io::Result<Vec<RecoveredFile>> {
        Ok(std::mem::take(&mut *self.left.lock()))
    }
}

impl FolderContent for MemoryShare {
    fn index_file(&self, _key: InodeId, file: &File, like: Option<&ContentRef>) -> io::Result<ContentRef> {
        self.likes.lock().push(like.copied());
        let mut bytes = Vec::new();
        let mut buf = vec![0; 64 * 1024];
        loop {
            match FileExt::read_at(file, &mut buf, bytes.len() as u64)? {
                0 => return Ok(self.keep(&bytes)),
                len => bytes.extend_from_slice(&buf[..len]),
            }
        }
    }

    fn keep_file(&self, content: &ContentRef, file: &File, _instead: Option<InodeId>) -> io::Result<()> {
        let mut bytes = vec![0; content.size as usize];
        FileExt::read_exact_at(file, &mut bytes, 0)?;
        if Hash::of(&bytes) != content.hash {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.given_up.lock().push(*content);
        Ok(())
    }

    fn forget_file(&self, _key: InodeId) -> io::Result<()> {
        Ok(())
    }

    fn fetch_into(&self, _key: InodeId, content: &ContentRef, file: &File) -> io::Result<()> {
        let bytes = self.bytes(content).ok_or_else(|| io::Error::from(io::ErrorKind::HostUnreachable))?;
        file.write_all_at(&bytes, 0)
    }

    fn fetch_many(&self, wanted: &[(InodeId, ContentRef, &File)]) -> Vec<io::Result<()>> {
        wanted.iter().map(|(key, content, file)| self.fetch_into(*key, content, file)).collect()
    }

    fn set_opener(&self, opener: Arc<dyn FileOpener>) {
        *self.opener.lock() = Some(opener);
    }
}
