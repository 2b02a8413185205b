//! The share's tree under the names that the folder's filesystem can hold (see `alias`).
//!
//! The rest of the folder sees this tree and knows nothing of aliases: what it reads has local names, what it does is done
//! to the names that those stand for. A name that stands for nothing is meant as it is written.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Entry, EntryChange, Node};
use crdtfs_core::op::{Applied, Op, OpError};
use crdtfs_core::port::{Adapter, Tree};
use parking_lot::Mutex;

use crate::alias::{Platform, looks_like_alias};

/// Directories whose names are remembered.
const DIRS_MAX: usize = 1024;

/// The names of a directory by their keys.
type Groups = HashMap<Vec<u8>, BTreeSet<Name>>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Aliased {
    tree: Arc<dyn Tree>,
    platform: Platform,
    /// May be behind the tree for a moment: what it says is looked up there.
    dirs: Arc<Mutex<HashMap<InodeId, Groups>>>,
}

impl Aliased {
    /// The tree itself where every name can be held.
    pub(crate) fn over(tree: Arc<dyn Tree>, platform: Platform) -> Arc<dyn Tree> {
        if platform.is_exact() {
            return tree;
        }
        Arc::new(Self { tree, platform, dirs: Arc::default() })
    }

    fn with_groups<T>(&self, dir: InodeId, look: impl FnOnce(&mut Groups) -> T) -> T {
        let mut dirs = self.dirs.lock();
        if dirs.len() >= DIRS_MAX && !dirs.contains_key(&dir) {
            dirs.clear();
        }
        let groups = dirs.entry(dir).or_insert_with(|| {
            let mut groups = Groups::new();
            for entry in self.tree.entries(dir, None, usize::MAX) {
                groups.entry(self.platform.key(&entry.name)).or_default().insert(entry.name);
            }
            groups
        });
        look(groups)
    }

    /// The names in a directory that the filesystem takes for this one; itself, if it is there.
    fn beside(&self, dir: InodeId, name: &Name) -> BTreeSet<Name> {
        let key = self.platform.key(name);
        let mut names = self.with_groups(dir, |groups| groups.get(&key).cloned().unwrap_or_default());
        names.insert(name.clone());
        names.retain(|name| self.tree.child(dir, name).is_some());
        names
    }

    /// What a name of the share is called here.
    fn local(&self, dir: InodeId, name: &Name) -> Name {
        self.platform.local(name, &self.beside(dir, name))
    }

    /// The share's name that a local one stands for.
    fn meant(&self, dir: InodeId, local: &Name) -> Option<Name> {
        if !looks_like_alias(local) {
            return (self.tree.child(dir, local).is_some() && self.local(dir, local) == *local).then(|| local.clone());
        }
        let candidates: Vec<Name> = self.with_groups(dir, |groups| {
            let all = groups.values().flatten();
            all.filter(|name| self.platform.alias(name) == *local).cloned().collect()
        });
        candidates.into_iter().find(|name| self.tree.child(dir, name).is_some() && self.local(dir, name) == *local)
    }

    /// The share's name for a local one, be it there or not.
    fn exact(&self, dir: InodeId, local: Name) -> Name {
        self.meant(dir, &local).unwrap_or(local)
    }

    /// The operation on the share's names.
    fn translated(&self, op: Op) -> Op {
        match op {
            Op::Create { dir, name, inode, place, node, beside } => {
                Op::Create { name: self.exact(dir, name), dir, inode, place, node, beside }
            }
            Op::Edit { inode, via, basis, content, mtime } => {
                let via = via.map(|(dir, name)| (dir, self.exact(dir, name)));
                Op::Edit { inode, via, basis, content, mtime }
            }
            Op::SetAttr { .. } => op,
            Op::Rename { from_dir, from, to_dir, to, mode } => {
                Op::Rename { from: self.exact(from_dir, from), to: self.exact(to_dir, to), from_dir, to_dir, mode }
            }
            Op::Link { inode, dir, name, place } => Op::Link { name: self.exact(dir, name), inode, dir, place },
            Op::Unlink { dir, name } => Op::Unlink { name: self.exact(dir, name), dir },
            Op::Rmdir { dir, name } => Op::Rmdir { name: self.exact(dir, name), dir },
        }
    }

    /// Every local name that may mean something else by a change, though not what it meant before.
    fn seen(&self, delta: &Delta) -> Delta {
        let mut touched: BTreeSet<(InodeId, Name)> = BTreeSet::new();
        for change in &delta.entries {
            let key = self.platform.key(&change.name);
            let there = self.tree.child(change.dir, &change.name).is_some();
            let mut names = self.with_groups(change.dir, |groups| {
                let group = groups.entry(key.clone()).or_default();
                if there {
                    group.insert(change.name.clone())
                } else {
                    group.remove(&change.name)
                };
                let names = group.clone();
                if names.is_empty() {
                    groups.remove(&key);
                }
                names
            });
            names.insert(change.name.clone());
            for name in names {
                touched.insert((change.dir, self.platform.alias(&name)));
                touched.insert((change.dir, name));
            }
        }
        let entries = touched.into_iter().map(|(dir, name)| {
            let after = self.child(dir, &name).map(|node| node.inode);
            EntryChange { dir, name, before: None, after }
        });
        Delta { entries: entries.collect(), nodes: delta.nodes.clone() }
    }
}

impl Tree for Aliased {
    fn keep_apart(&self, inode: InodeId) {
        self.tree.keep_apart(inode);
    }

    fn node(&self, inode: InodeId) -> Option<Node> {
        self.tree.node(inode)
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        self.tree.child(dir, &self.meant(dir, name)?)
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        let all = self.tree.entries(dir, None, usize::MAX);
        let mut groups = Groups::new();
        for entry in &all {
            groups.entry(self.platform.key(&entry.name)).or_default().insert(entry.name.clone());
        }
        let mut entries: Vec<Entry> = all
            .into_iter()
            .map(|entry| Entry {
                name: self.platform.local(&entry.name, &groups[&self.platform.key(&entry.name)]),
                ..entry
            })
            .filter(|entry| after.is_none_or(|after| entry.name > *after))
            .collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        entries.truncate(limit);
        entries
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        let mut names: Vec<_> =
            self.tree.names(inode).into_iter().map(|(dir, name)| (dir, self.local(dir, &name))).collect();
        names.sort_unstable();
        names
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        let applied = self.tree.apply(by, self.translated(op))?;
        Ok(Applied { delta: self.seen(&applied.delta) })
    }

    fn fresh_id(&self) -> [u8; 16] {
        self.tree.fresh_id()
    }

    fn sync(&self) -> io::Result<()> {
        self.tree.sync()
    }

    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>> {
        let (sender, receiver) = channel();
        let (changes, aliased) = (self.tree.subscribe(by), self.clone());
        // It ends with the tree's own channel, or at the first change after the receiver.
        let forward = move || {
            while let Ok(delta) = changes.recv() {
                if sender.send(Arc::new(aliased.seen(&delta))).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("folder-names".into()).spawn(forward) {
            // The channel closes, which ends the folder as the end of the tree does.
            tracing::error!(%error, "no thread for the names of a folder");
        }
        receiver
    }

    fn totals(&self) -> (u64, u64) {
        self.tree.totals()
    }

    fn writable(&self) -> bool {
        self.tree.writable()
    }
}
