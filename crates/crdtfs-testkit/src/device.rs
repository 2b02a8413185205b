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
use crdtfs_core::view::{Author, View};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

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
    /// Entries that an operation moved which it did not name.
    pub(crate) moves: Vec<String>,
    /// Texts of files that lost one of several names: their versions count as seen by that deletion.
    pub(crate) unlinked: Vec<String>,
    /// The last record of each operation: what one operation wrote arrives as a whole.
    ends: BTreeSet<RecordId>,
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
            moves: Vec::new(),
            unlinked: Vec::new(),
            ends: BTreeSet::new(),
            known: BTreeSet::new(),
            contents: BTreeMap::new(),
            rng: ChaCha12Rng::seed_from_u64(
                seed ^ Hash::of(name.as_bytes()).0.iter().fold(0, |a, b| a * 31 + u64::from(*b)),
            ),
        }
    }

    /// 16 bytes that nobody else has.
    pub fn fresh(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        id
    }

    /// Takes over what another device has; how many records were new.
    pub fn sync_from(&mut self, other: &Self) -> usize {
        self.sync_part(other, usize::MAX)
    }

    /// Takes over the bytes that another device has, and the first `part` of the records that are new (all, if there are
    /// fewer); how many were.
    pub fn sync_part(&mut self, other: &Self, part: usize) -> usize {
        self.sync_bytes(other);
        let mut new: Vec<_> = other.log.iter().filter(|(id, _)| !self.known.contains(id)).cloned().collect();
        if part != usize::MAX {
            new.truncate(part % (new.len() + 1));
            while new.last().is_some_and(|(id, _)| !other.ends.contains(id)) {
                new.pop();
            }
        }
        self.receive(&new);
        new.len()
    }

    /// Takes over the bytes that another device has.
    pub fn sync_bytes(&mut self, other: &Self) {
        self.ends.extend(&other.ends);
        self.contents.extend(other.contents.iter().map(|(hash, bytes)| (*hash, bytes.clone())));
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

    /// Does an operation.
    pub fn apply(&mut self, op: &Op) -> Result<usize, OpError> {
        self.now_ms += 10;
        let before = self.entries();
        self.note_unlinked(op);
        let outcome = self.view.apply(op, &Author { device: &self.name, now_ms: self.now_ms })?;
        let count = outcome.records.len();
        for (id, bytes) in &outcome.records {
            self.known.insert(*id);
            let record = Record::decode(bytes).expect("a view makes records that can be read");
            self.log.push((*id, record));
        }
        self.ends.extend(outcome.records.last().map(|(id, _)| *id));
        self.note_delta(outcome.delta);
        self.note_moves(op, &before);
        self.supply();
        Ok(count)
    }

    fn note_delta(&mut self, delta: Delta) {
        let shown = |change: &NodeChange| self.view.node(change.inode).filter(|node| node.inode == change.inode);
        let nodes = delta.nodes.iter().map(shown).collect();
        self.deltas.push((delta, nodes));
    }

    /// Notes the text of a file that an operation takes one of several names from.
    fn note_unlinked(&mut self, op: &Op) {
        let (dir, name) = match op {
            Op::Unlink { dir, name } => (dir, name),
            Op::Rename { to_dir, to, mode: RenameMode::Replace, .. } => (to_dir, to),
            _ => return,
        };
        let node = self.view.child(*dir, name.as_bytes()).and_then(|inode| self.view.node(inode));
        if let Some(node) = node.filter(|node| node.kind == Kind::File && node.nlink > 1)
            && let Some(bytes) = self.bytes(&node.content)
        {
            self.unlinked.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }

    /// Every entry: (directory, name) and inode.
    fn entries(&self) -> Vec<(InodeId, Name, InodeId)> {
        let mut found = Vec::new();
        let mut stack = vec![InodeId::ROOT];
        while let Some(dir) = stack.pop() {
            for entry in self.view.entries(dir, None, usize::MAX) {
                if entry.kind == Kind::Dir {
                    stack.push(entry.inode);
                }
                found.push((dir, entry.name, entry.inode));
            }
        }
        found
    }

    /// Notes entries that are not where they were although the operation did not name them.
    fn note_moves(&mut self, op: &Op, before: &[(InodeId, Name, InodeId)]) {
        let mut named: Vec<(InodeId, &Name)> = Vec::new();
        match op {
            Op::Create { dir, name, .. } | Op::Link { dir, name, .. } => named.push((*dir, name)),
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => named.push((*dir, name)),
            Op::Rename { from_dir, from, to_dir, to, .. } => named.extend([(*from_dir, from), (*to_dir, to)]),
            Op::Edit { .. } | Op::SetAttr { .. } => {}
        }
        let shown = |view: &View, id: InodeId| view.node(id).map_or(id, |node| node.inode);
        let mut moves = Vec::new();
        for (dir, name, inode) in before {
            let now = self.view.child(*dir, name.as_bytes());
            let same = now.is_some_and(|now| now == shown(&self.view, *inode));
            if !same && !named.contains(&(*dir, name)) {
                moves.push(format!("{op:?} moved {name:?} ({inode})"));
            }
        }
        // An edit of what was read earlier is a concurrent one: it may leave a conflict copy.
        let may_appear = matches!(op, Op::Edit { basis: Some(_), .. });
        let old: BTreeSet<_> = before.iter().map(|(dir, name, _)| (shown(&self.view, *dir), name.clone())).collect();
        for (dir, name, inode) in self.entries() {
            if !may_appear
                && !old.contains(&(dir, name.clone()))
                && !named.iter().any(|(at, it)| shown(&self.view, *at) == dir && **it == name)
            {
                moves.push(format!("{op:?} made {name:?} ({inode}) appear"));
            }
        }
        self.moves.extend(moves);
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
        self.apply(&Op::Create { dir, name, inode, place, node })
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
