//! One simulated device: a view with path-based operations, as a user at a shell does them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Delta, Kind, Node, NodeChange, Time, Xattrs};
use crdtfs_core::op::{NewNode, Op, OpError, RenameMode};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, Mutation, Outcome, View};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::journal::{Before, Done};

/// A device of the simulator.
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub view: View,
    /// All records that it has, in causal order, each decoded.
    pub log: Vec<(RecordId, Record)>,
    /// Its clock, in milliseconds.
    pub now_ms: u64,
    /// What the view said that changed, in order, each with what the nodes named were right after.
    pub(crate) deltas: Vec<(Delta, Vec<Option<Node>>)>,
    /// What was done, if somebody wants to know.
    pub(crate) journal: Option<Vec<Done>>,
    mutation: Option<Mutation>,
    known: BTreeSet<RecordId>,
    contents: BTreeMap<Hash, Arc<[u8]>>,
    rng: ChaCha12Rng,
}

impl Device {
    /// A device without records.
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.into(),
            view: View::new(),
            log: Vec::new(),
            now_ms: 1_000_000,
            deltas: Vec::new(),
            journal: None,
            mutation: None,
            known: BTreeSet::new(),
            contents: BTreeMap::new(),
            rng: ChaCha12Rng::seed_from_u64(
                seed ^ Hash::of(name.as_bytes()).0.iter().fold(0, |a, b| a * 31 + u64::from(*b)),
            ),
        }
    }

    /// A device without records whose view lacks a rule, to show that the checks notice.
    pub fn without(name: &str, seed: u64, rule: Option<Mutation>) -> Self {
        let mut device = Self::new(name, seed);
        device.mutation = rule;
        device.view.mutate(rule);
        device
    }

    /// 16 bytes that nobody else has.
    pub fn fresh(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        id
    }

    /// The same device after a crash, or put back from a backup: what it still has are these records, and all bytes.
    pub(crate) fn restarted(self, log: &[(RecordId, Record)]) -> Self {
        let mut device = Self {
            view: View::new(),
            log: Vec::new(),
            deltas: Vec::new(),
            journal: self.journal.map(|_| Vec::new()),
            known: BTreeSet::new(),
            ..self
        };
        device.view.mutate(device.mutation);
        device.receive(log);
        device
    }

    /// The same device after its program ended and began again: with the view that it saved.
    pub(crate) fn reopen(&mut self) {
        let saved = self.view.save().expect("nothing is under way between operations");
        self.view = View::restore(&saved).expect("a view reads back what it saved");
        self.view.mutate(self.mutation);
        self.supply();
    }

    /// Takes over what another device has; how many records were new.
    pub fn sync_from(&mut self, other: &Self) -> usize {
        self.sync_bytes(other);
        let new: Vec<_> = other.log.iter().filter(|(id, _)| !self.known.contains(id)).cloned().collect();
        self.receive(&new);
        new.len()
    }

    /// Takes over the bytes that another device has.
    pub fn sync_bytes(&mut self, other: &Self) {
        for (hash, bytes) in &other.contents {
            self.contents.entry(*hash).or_insert_with(|| bytes.clone());
        }
        self.supply();
    }

    /// Takes records over, without the bytes that they name.
    pub fn receive(&mut self, records: &[(RecordId, Record)]) {
        let delta = self.view.insert(records);
        self.note_delta(delta);
        for (id, record) in records {
            if self.known.insert(*id) {
                self.log.push((*id, record.clone()));
            }
        }
        self.supply();
    }

    /// Gives the view what its merges want.
    fn supply(&mut self) {
        loop {
            let wanted = self.view.wanted();
            for content in &wanted {
                if let Some(bytes) = self.bytes(content) {
                    let delta = self.view.supply(content.hash, bytes);
                    self.note_delta(delta);
                }
            }
            if self.view.wanted() == wanted {
                return;
            }
        }
    }

    /// Takes down what an operation wrote.
    fn note_outcome(&mut self, outcome: Outcome) {
        for (id, bytes) in &outcome.records {
            self.known.insert(*id);
            let record = Record::decode(bytes).expect("a view makes records that can be read");
            self.log.push((*id, record));
        }
        self.note_delta(outcome.delta);
        self.supply();
    }

    /// Does an operation.
    pub fn apply(&mut self, op: &Op) -> Result<usize, OpError> {
        self.now_ms += 10;
        let journal = self.journal.take();
        let before = journal.as_ref().map(|_| Before::of(self, op));
        let outcome = self.view.apply(op, &Author { device: &self.name, now_ms: self.now_ms });
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // What it settled before stands.
                let begun = self.view.take_begun();
                self.note_outcome(begun);
                self.journal = journal;
                return Err(error);
            }
        };
        let count = outcome.records.len();
        let first = self.log.len();
        self.note_outcome(outcome);
        self.journal = journal.zip(before).map(|(mut journal, before)| {
            journal.push(before.done(self, op, first));
            journal
        });
        Ok(count)
    }

    fn note_delta(&mut self, delta: Delta) {
        let shown = |change: &NodeChange| self.view.node(change.inode).filter(|node| node.inode == change.inode);
        let nodes = delta.nodes.iter().map(shown).collect();
        self.deltas.push((delta, nodes));
    }

    /// Every entry: (directory, name), inode and kind.
    pub(crate) fn entries(&self) -> Vec<(InodeId, Name, InodeId, Kind)> {
        let mut found = Vec::new();
        let mut stack = vec![InodeId::ROOT];
        while let Some(dir) = stack.pop() {
            for entry in self.view.entries(dir, None, usize::MAX) {
                if entry.kind == Kind::Dir {
                    stack.push(entry.inode);
                }
                found.push((dir, entry.name, entry.inode, entry.kind));
            }
        }
        found
    }

    /// The bytes with this hash, if they are here.
    pub(crate) fn bytes_of(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        self.contents.get(hash).cloned().or_else(|| self.view.merged(hash))
    }

    /// The bytes of a content, if they are here.
    pub fn bytes(&self, content: &ContentRef) -> Option<Arc<[u8]>> {
        if content.size == 0 {
            return Some(Arc::default());
        }
        self.view.merged(&content.hash).or_else(|| self.contents.get(&content.hash).cloned())
    }

    /// Keeps bytes.
    pub fn keep(&mut self, bytes: &[u8]) -> ContentRef {
        let content = ContentRef { hash: Hash::of(bytes), size: bytes.len() as u64, manifest: None };
        self.contents.insert(content.hash, bytes.into());
        content
    }

    /// The node at a path; `""` is the root.
    pub fn find(&self, path: &str) -> Option<Node> {
        let mut at = InodeId::ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = self.view.child(at, part.as_bytes())?;
        }
        self.view.node(at)
    }

    /// The directory and the name of a path.
    fn split(&self, path: &str) -> Result<(InodeId, Name), OpError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.find(dir).ok_or(OpError::NotFound)?;
        Ok((dir.inode, Name::try_from(name).map_err(|_| OpError::Invalid)?))
    }

    fn time(&self) -> Time {
        Time { secs: (self.now_ms / 1000).cast_signed(), nanos: 0 }
    }

    fn create(&mut self, path: &str, kind: Kind, content: ContentRef, target: &[u8]) -> Result<usize, OpError> {
        self.create_beside(path, kind, content, target, None)
    }

    fn create_beside(
        &mut self,
        path: &str,
        kind: Kind,
        content: ContentRef,
        target: &[u8],
        beside: Option<InodeId>,
    ) -> Result<usize, OpError> {
        let (dir, name) = self.split(path)?;
        let (inode, place) = (InodeId(self.fresh()), PlaceId(self.fresh()));
        let node = NewNode {
            kind,
            mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
            owner: None,
            mtime: self.time(),
            xattrs: Xattrs::new(),
            content,
            target: target.to_vec(),
            rdev: 0,
        };
        self.apply(&Op::Create { dir, name, inode, place, node, beside })
    }

    /// Writes a file: an edit if it is there, else a creation.
    pub fn write(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> Result<usize, OpError> {
        let content = self.keep(bytes.as_ref());
        match self.find(path) {
            None => self.create(path, Kind::File, content, b""),
            Some(node) => {
                let via = self.split(path)?;
                let mtime = self.time();
                self.apply(&Op::Edit { inode: node.inode, via: Some(via), basis: None, content, mtime })
            }
        }
    }

    /// Writes a file that is not there yet.
    pub fn write_new(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> Result<usize, OpError> {
        let content = self.keep(bytes.as_ref());
        self.create(path, Kind::File, content, b"")
    }

    /// Writes a file that is not there for its author, who has not seen what has the name.
    pub fn write_unseen(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> Result<usize, OpError> {
        let beside = self.find(path).map(|there| there.inode);
        let content = self.keep(bytes.as_ref());
        self.create_beside(path, Kind::File, content, b"", beside)
    }

    /// Moves an entry to a name that is free for its author, who has not seen what has it.
    pub fn mv_unseen(&mut self, from: &str, to: &str) -> Result<usize, OpError> {
        let there = self.find(to).ok_or(OpError::NotFound)?.inode;
        self.rename(from, to, RenameMode::Beside(there))
    }

    /// Writes a file by its inode, as at the close of a handle.
    pub fn close_write(&mut self, inode: InodeId, bytes: &[u8], basis: Basis) -> Result<usize, OpError> {
        let content = self.keep(bytes);
        let mtime = self.time();
        self.apply(&Op::Edit { inode, via: None, basis: Some(basis), content, mtime })
    }

    /// Writes a file whose author had opened it earlier.
    pub fn write_with_basis(&mut self, path: &str, bytes: &[u8], basis: Basis) -> Result<usize, OpError> {
        let content = self.keep(bytes);
        let node = self.find(path).ok_or(OpError::NotFound)?;
        let mtime = self.time();
        self.apply(&Op::Edit { inode: node.inode, via: None, basis: Some(basis), content, mtime })
    }

    /// Makes a directory.
    pub fn mkdir(&mut self, path: &str) -> Result<usize, OpError> {
        self.create(path, Kind::Dir, ContentRef::empty(), b"")
    }

    /// Makes a symlink.
    pub fn symlink(&mut self, target: &str, path: &str) -> Result<usize, OpError> {
        self.create(path, Kind::Symlink, ContentRef::empty(), target.as_bytes())
    }

    /// `mv -T`: renames over what is there.
    pub fn mv(&mut self, from: &str, to: &str) -> Result<usize, OpError> {
        self.rename(from, to, RenameMode::Replace)
    }

    /// Renames in one of the ways that there are.
    pub fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Result<usize, OpError> {
        let ((from_dir, from), (to_dir, to)) = (self.split(from)?, self.split(to)?);
        self.apply(&Op::Rename { from_dir, from, to_dir, to, mode })
    }

    /// One more name.
    pub fn link(&mut self, old: &str, new: &str) -> Result<usize, OpError> {
        let inode = self.find(old).ok_or(OpError::NotFound)?.inode;
        let (dir, name) = self.split(new)?;
        let place = PlaceId(self.fresh());
        self.apply(&Op::Link { inode, dir, name, place })
    }

    /// Removes one name of a file.
    pub fn unlink(&mut self, path: &str) -> Result<usize, OpError> {
        let (dir, name) = self.split(path)?;
        self.apply(&Op::Unlink { dir, name })
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, path: &str) -> Result<usize, OpError> {
        let (dir, name) = self.split(path)?;
        self.apply(&Op::Rmdir { dir, name })
    }

    /// `rm -r`.
    pub fn rm_r(&mut self, path: &str) -> Result<usize, OpError> {
        let node = self.find(path).ok_or(OpError::NotFound)?;
        if node.kind != Kind::Dir {
            return self.unlink(path);
        }
        let mut count = 0;
        for entry in self.view.entries(node.inode, None, usize::MAX) {
            count += self.rm_r(&format!("{path}/{}", entry.name))?;
        }
        Ok(count + self.rmdir(path)?)
    }

    /// Sets permission bits.
    pub fn chmod(&mut self, path: &str, mode: u32) -> Result<usize, OpError> {
        let inode = self.find(path).ok_or(OpError::NotFound)?.inode;
        self.apply(&Op::SetAttr { inode, mode: Some(mode), owner: None, mtime: None, xattrs: None })
    }

    /// The text at a path.
    pub fn read(&self, path: &str) -> Option<String> {
        let node = self.find(path)?;
        Some(String::from_utf8_lossy(&self.bytes(&node.content)?).into_owned())
    }

    /// Names in a directory.
    pub fn ls(&self, path: &str) -> Vec<String> {
        let Some(dir) = self.find(path) else { return Vec::new() };
        self.view.entries(dir.inode, None, usize::MAX).into_iter().map(|entry| entry.name.to_string()).collect()
    }

    /// Every path with its node, depth first, in order.
    pub fn walk(&self) -> Vec<(String, Node)> {
        let mut found = Vec::new();
        let mut stack = vec![(String::new(), InodeId::ROOT)];
        while let Some((path, dir)) = stack.pop() {
            for entry in self.view.entries(dir, None, usize::MAX) {
                let path = if path.is_empty() { entry.name.to_string() } else { format!("{path}/{}", entry.name) };
                let Some(node) = self.view.node(entry.inode) else { continue };
                if entry.kind == Kind::Dir {
                    stack.push((path.clone(), entry.inode));
                }
                found.push((path, node));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The tree as text, one line an entry: what two devices must agree on to the byte.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        for (path, node) in self.walk() {
            let bytes = self.bytes(&node.content).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            writeln!(
                out,
                "{path} {:?} {} {:o} {} nlink {} {:?} {:?} {:?}",
                node.kind,
                node.inode,
                node.mode,
                node.mtime.secs,
                node.nlink,
                node.shown,
                node.basis,
                bytes.unwrap_or_else(|| node.content.hash.to_string()),
            )
            .expect("a string takes all");
        }
        out
    }
}
