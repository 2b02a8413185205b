//! The last synced tree: what the folder held, entry by entry, when it and the share were last brought together.
//!
//! It is what makes a difference a change: what the folder has otherwise than this was done by the user, what the view has
//! otherwise was done elsewhere. It always describes files as they are, or were, **on disk**; each file carries the version
//! of the share that its bytes are, so that an edit says what it was made upon.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node, Time, Xattrs};
use crdtfs_core::port::Tree;

use crate::disk::{Ident, Look, Stamp};
use crate::journal::{Journal, Left};

/// A name in a directory.
pub(crate) type Place = (InodeId, Name);

/// What stands, among what is written down before the tree is saved, for a place.
fn hash_of(place: &Place) -> Hash {
    Hash::of(&[&place.0.0[..], place.1.as_bytes()].concat())
}

/// What stands there for bytes that came from elsewhere.
fn hash_of_given(content: &Hash) -> Hash {
    Hash::of(&[&b"given"[..], &content.0].concat())
}

/// What the row of a file on disk begins with, in place of a hash.
const FILE: &[u8; 12] = b"lies in file";

/// What stands there for the file on disk that an inode is: the file itself, since it may have another name when it is looked for.
fn row_of(file: &Ident) -> Hash {
    let parts = [FILE, &file.ino.to_le_bytes()[..], &file.born.secs.to_le_bytes(), &file.born.nanos.to_le_bytes()];
    Hash(parts.concat().try_into().expect("12 + 8 + 8 + 4 bytes"))
}

/// The file of such a row.
fn file_of(row: &Hash) -> Option<Ident> {
    let (ino, born) = row.0.strip_prefix(FILE)?.split_first_chunk()?;
    let (secs, nanos) = born.split_first_chunk()?;
    let nanos = u32::from_le_bytes(nanos.try_into().ok()?);
    Some(Ident { ino: u64::from_le_bytes(*ino), born: Time { secs: i64::from_le_bytes(*secs), nanos } })
}

/// One file, directory or symlink as it was last synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its state on disk then.
    pub(crate) stamp: Stamp,
    /// What the store knows the file by: one key for one state of one file.
    pub(crate) key: InodeId,
    /// The bytes, of files.
    pub(crate) content: ContentRef,
    /// The versions that the bytes stand for.
    pub(crate) basis: Arc<[RecordId]>,
    /// The share's permission bits (`07777`; see `publish::mode_mask` for those that the folder shows and takes).
    pub(crate) mode: u32,
    /// The share's time of modification.
    pub(crate) mtime: Time,
    /// Extended attributes.
    pub(crate) xattrs: Arc<Xattrs>,
    /// The target, of symlinks.
    pub(crate) target: Arc<[u8]>,
}

impl Synced {
    /// A node of the view in a state on disk; what only files or symlinks have is for the caller to add.
    pub(crate) fn of(node: &Node, stamp: Stamp) -> Self {
        Self {
            kind: node.kind,
            stamp,
            key: node.inode,
            content: ContentRef::empty(),
            basis: node.basis.clone(),
            mode: node.mode,
            mtime: node.mtime,
            xattrs: Arc::default(),
            target: Arc::from([]),
        }
    }
}

/// What is about to be put into place on disk: found again after a crash, it is no change of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The node that the file is a state of.
    pub(crate) inode: InodeId,
    /// That state; its stamp is from before it was put into place.
    pub(crate) state: Synced,
}

/// The file on disk that an inode was, if the rows tell of one.
fn file_in(unsaved: &Left, inode: &InodeId) -> Option<Ident> {
    let rows = unsaved.range((*inode, Hash([0; 32]))..=(*inode, Hash([u8::MAX; 32])));
    let mut files = rows.filter_map(|((_, row), _)| file_of(row));
    files.next().filter(|_| files.next().is_none())
}

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct SyncedTree {
    nodes: HashMap<InodeId, Synced>,
    names: HashMap<InodeId, Vec<Place>>,
    children: HashMap<InodeId, BTreeMap<Name, InodeId>>,
    idents: HashMap<Ident, InodeId>,
    keys: HashMap<InodeId, InodeId>,
    intents: HashMap<Ident, Intent>,
    /// Keys of files that were forgotten because something else has their name.
    stale: Vec<InodeId>,
    /// Not yet on disk.
    pub(crate) changed: Changed,
    /// Where it is written down what is published, or put here, before this tree, with that in it, is saved.
    pub(crate) journal: Option<Journal>,
    /// What the last run published, or put here, and did not save.
    pub(crate) unsaved: Left,
    /// Files and directories of that, on disk.
    made: HashSet<Ident>,
}

/// What changed since the tree was last saved.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) nodes: BTreeSet<InodeId>,
    pub(crate) places: BTreeSet<Place>,
    pub(crate) intents: BTreeSet<Ident>,
}

impl Changed {
    /// Whether nothing did.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.places.is_empty() && self.intents.is_empty()
    }
}

impl SyncedTree {
    /// A node.
    pub(crate) fn node(&self, inode: InodeId) -> Option<&Synced> {
        self.nodes.get(&inode)
    }

    /// Whether this is a directory here; the root always is.
    pub(crate) fn is_dir(&self, inode: InodeId) -> bool {
        inode == InodeId::ROOT || self.nodes.get(&inode).is_some_and(|n| n.kind == Kind::Dir)
    }

    /// Number of nodes.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes, in no order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&InodeId, &Synced)> {
        self.nodes.iter()
    }

    /// A file is about to be created: with which bytes, where, and which one on disk it is, if it is one.
    pub(crate) fn about_to_create(&self, inode: InodeId, content: &Hash, place: &Place, file: Option<&Ident>) {
        let file = file.map(|file| (inode, row_of(file)));
        let rows: Vec<_> = [(inode, *content), (inode, hash_of(place))].into_iter().chain(file).collect();
        self.write_down(&rows);
    }

    /// A version of a file, made of what lies here, is about to be published.
    pub(crate) fn about_to_publish(&self, inode: InodeId, content: &Hash) {
        self.write_down(&[(inode, *content)]);
    }

    /// A file is about to have a name in the view, or has it here, that it had not before.
    pub(crate) fn is_placed(&self, inode: InodeId, place: &Place) {
        self.write_down(&[(inode, hash_of(place))]);
    }

    /// A version that came from elsewhere lies here: at which place, in which file on disk.
    pub(crate) fn is_given(&self, inode: InodeId, content: &Hash, place: &Place, file: &Ident) {
        self.write_down(&[(inode, hash_of_given(content)), (inode, hash_of(place)), (inode, row_of(file))]);
    }

    /// A directory that lies here is about to be created in the view, or found there.
    pub(crate) fn about_to_make(&self, inode: InodeId, dir: &Ident) {
        self.write_down(&[(inode, row_of(dir))]);
    }

    /// Whether the last run published this, or put this file here, and did not save that.
    pub(crate) fn was_made(&self, file: &Ident) -> bool {
        self.made.contains(file)
    }

    fn write_down(&self, rows: &[(InodeId, Hash)]) {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.note(rows)
        {
            // After a crash it may be taken for somebody else's: a conflict copy too many.
            tracing::debug!(?rows, %error, "what is not saved yet cannot be written down");
        }
    }

    /// Takes what the last run did without saving it for what it is: versions that were made of what lay here, or that were put
    /// here. Whether that still lies here is to be seen. `look`: the file that lies at a place now.
    pub(crate) fn take_unsaved(&mut self, tree: &dyn Tree, look: impl Fn(&[Name], &Name) -> Option<Ident>) {
        let unsaved = std::mem::take(&mut self.unsaved);
        self.made = unsaved.keys().filter_map(|(_, row)| file_of(row)).collect();
        if !unsaved.is_empty() {
            self.take_moved(tree, &unsaved, &look);
        }
        for (&(inode, hash), is_up) in &unsaved {
            let Some(shown) = tree.node(inode).filter(|node| node.kind == Kind::File) else { continue };
            let content = shown.content.hash;
            let is_given = hash == hash_of_given(&content);
            if !is_given && hash != content {
                continue;
            }
            // By a save it may have become one with the file that it was saved over.
            let inode = shown.inode;
            match self.nodes.get(&inode).cloned() {
                // If the machine went down, what was put here may not have stayed.
                Some(before) if is_given && self.lies_here(inode, &before.stamp.ident, &look) => {}
                Some(before) if before.content.hash != content => {
                    // A size that no file has: it is read.
                    let stamp = Stamp { size: u64::MAX, ..before.stamp };
                    self.set(inode, Synced { stamp, content: shown.content, basis: shown.basis, ..before });
                }
                Some(_) => {}
                None => {
                    // Where the machine went down since, one that is gone may be so by that: nobody is told of a removal.
                    let is_sure = |place: &Place| *is_up && unsaved.contains_key(&(inode, hash_of(place)));
                    let mut names = tree.names(inode);
                    names.retain(|place| {
                        self.is_dir(place.0) && (is_sure(place) || self.file_at(place, &look).is_some())
                    });
                    self.take_created(tree, inode, &shown, names, file_in(&unsaved, &inode));
                }
            }
        }
    }

    /// Whether a file lies under a name of a node, or may: numbers do not always last.
    fn lies_here(&self, inode: InodeId, file: &Ident, look: impl Fn(&[Name], &Name) -> Option<Ident>) -> bool {
        file.is_void() || self.names(inode).iter().any(|place| self.file_at(place, &look) == Some(*file))
    }

    /// The file that lies at a place now.
    fn file_at(&self, place: &Place, look: impl Fn(&[Name], &Name) -> Option<Ident>) -> Option<Ident> {
        look(&self.path(place.0)?, &place.1)
    }

    /// Files that the last run moved, and those that lie where the view shows them, whoever moved them, are there: what has
    /// come to their old places since is something else. Where the user has put the former after that is to be seen.
    fn take_moved(&mut self, tree: &dyn Tree, unsaved: &Left, look: impl Fn(&[Name], &Name) -> Option<Ident>) {
        let files = self.nodes.iter().filter(|(_, node)| node.kind == Kind::File);
        let moved = files.filter_map(|(inode, node)| {
            let ([from], [to]) = (self.names(*inode), &tree.names(*inode)[..]) else { return None };
            if from == to || !self.is_dir(to.0) {
                return None;
            }
            let is_here =
                unsaved.contains_key(&(*inode, hash_of(to))) || self.file_at(to, &look) == Some(node.stamp.ident);
            is_here.then(|| (*inode, from.clone(), to.clone()))
        });
        let moved: Vec<(InodeId, Place, Place)> = moved.collect();
        for (_, from, _) in &moved {
            self.unplace(from);
        }
        for (inode, _, to) in moved {
            self.place(inode, to);
        }
    }

    /// A file that was made or put here, under these names: what had them before was gone from them by then. `file`: which one on
    /// disk it was, if that is known: it is found by that wherever it is now.
    fn take_created(&mut self, tree: &dyn Tree, inode: InodeId, node: &Node, names: Vec<Place>, file: Option<Ident>) {
        let number = u64::from_le_bytes(inode.0[..8].try_into().expect("eight bytes"));
        let ident = file.filter(|file| self.by_ident(file).is_none()).unwrap_or(Ident::void(number));
        let none = Time::default();
        let stamp = Stamp { ident, size: u64::MAX, mtime: none, ctime: none, mode: node.mode, nlink: 1 };
        for place in names {
            if self.node(inode).is_none() {
                let (key, content, xattrs) = (InodeId(tree.fresh_id()), node.content, node.xattrs.clone());
                self.set(inode, Synced { key, content, xattrs, ..Synced::of(node, stamp) });
            }
            self.place(inode, place);
        }
    }

    /// What a name stands for.
    pub(crate) fn child(&self, place: &Place) -> Option<InodeId> {
        self.children.get(&place.0)?.get(&place.1).copied()
    }

    /// The entries of a directory in the order of their names.
    pub(crate) fn children(&self, dir: InodeId) -> impl Iterator<Item = (&Name, InodeId)> {
        self.children.get(&dir).into_iter().flatten().map(|(name, inode)| (name, *inode))
    }

    /// Number of entries of a directory.
    pub(crate) fn count(&self, dir: InodeId) -> usize {
        self.children.get(&dir).map_or(0, BTreeMap::len)
    }

    /// The names of a node.
    pub(crate) fn names(&self, inode: InodeId) -> &[Place] {
        self.names.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// The node that a file on disk is.
    pub(crate) fn by_ident(&self, ident: &Ident) -> Option<InodeId> {
        self.idents.get(ident).copied()
    }

    /// The node whose file the store knows by this key.
    pub(crate) fn by_key(&self, key: InodeId) -> Option<InodeId> {
        self.keys.get(&key).copied()
    }

    /// The components of the path to a directory; `None` if it is not here.
    pub(crate) fn path(&self, dir: InodeId) -> Option<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = dir;
        while at != InodeId::ROOT {
            let (parent, name) = self.names(at).first()?;
            path.push(name.clone());
            at = *parent;
        }
        path.reverse();
        Some(path)
    }

    /// Whether `inode` is `above` or lies below it.
    #[cfg(test)]
    pub(crate) fn is_below(&self, inode: InodeId, above: InodeId) -> bool {
        let mut at = inode;
        loop {
            if at == above {
                return true;
            }
            match self.names(at).first() {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    /// Sets a node's state. It has no name by that.
    pub(crate) fn set(&mut self, inode: InodeId, state: Synced) {
        if let Some(before) = self.nodes.get(&inode) {
            if self.idents.get(&before.stamp.ident) == Some(&inode) {
                self.idents.remove(&before.stamp.ident);
            }
            if self.keys.get(&before.key) == Some(&inode) {
                self.keys.remove(&before.key);
            }
        }
        self.idents.insert(state.stamp.ident, inode);
        self.keys.insert(state.key, inode);
        self.end_intent(&state.stamp.ident);
        self.nodes.insert(inode, state);
        self.changed.nodes.insert(inode);
    }

    /// A node has another number on disk.
    pub(crate) fn renumber(&mut self, inode: InodeId, ident: Ident) {
        if let Some(state) = self.node(inode).cloned() {
            self.set(inode, Synced { stamp: Stamp { ident, ..state.stamp }, ..state });
        }
    }

    /// Gives a node a name. What had the name loses it, and is forgotten if that was its last.
    pub(crate) fn place(&mut self, inode: InodeId, place: Place) {
        if self.child(&place) == Some(inode) {
            return;
        }
        if let Some(before) = self.unplace(&place) {
            let keys = self.forget_nameless(before);
            self.stale.extend(keys);
        }
        self.children.entry(place.0).or_default().insert(place.1.clone(), inode);
        self.names.entry(inode).or_default().push(place.clone());
        self.changed.places.insert(place);
    }

    /// Takes a name away; a node without names is forgotten by [`SyncedTree::forget_nameless`] only.
    pub(crate) fn unplace(&mut self, place: &Place) -> Option<InodeId> {
        let children = self.children.get_mut(&place.0)?;
        let inode = children.remove(&place.1)?;
        if children.is_empty() {
            self.children.remove(&place.0);
        }
        if let Some(names) = self.names.get_mut(&inode) {
            names.retain(|p| p != place);
        }
        self.changed.places.insert(place.clone());
        Some(inode)
    }

    /// Moves a name.
    pub(crate) fn rename(&mut self, from: &Place, to: Place) {
        if let Some(inode) = self.unplace(from) {
            self.place(inode, to);
        }
    }

    /// Forgets a node if it has no names, with all below it; returns the keys of the files that went.
    pub(crate) fn forget_nameless(&mut self, inode: InodeId) -> Vec<InodeId> {
        let mut keys = Vec::new();
        let mut todo = vec![inode];
        while let Some(inode) = todo.pop() {
            if inode == InodeId::ROOT || !self.names(inode).is_empty() {
                continue;
            }
            self.names.remove(&inode);
            let places: Vec<Place> = self.children(inode).map(|(name, _)| (inode, name.clone())).collect();
            for place in places {
                todo.extend(self.unplace(&place));
            }
            if let Some(node) = self.nodes.remove(&inode) {
                if self.idents.get(&node.stamp.ident) == Some(&inode) {
                    self.idents.remove(&node.stamp.ident);
                }
                if self.keys.get(&node.key) == Some(&inode) {
                    self.keys.remove(&node.key);
                }
                if node.kind == Kind::File {
                    keys.push(node.key);
                }
                self.changed.nodes.insert(inode);
            }
        }
        keys
    }

    /// Takes the keys of files that were forgotten because something else has their name.
    pub(crate) fn take_stale(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.stale)
    }

    /// A node goes by another identity from now on (it was united with it, or is that one found here).
    pub(crate) fn rekey(&mut self, from: InodeId, to: InodeId) {
        if from == to {
            return;
        }
        for place in self.names(from).to_vec() {
            self.unplace(&place);
            self.place(to, place);
        }
        let children: Vec<(Name, InodeId)> = self.children(from).map(|(n, i)| (n.clone(), i)).collect();
        for (name, inode) in children {
            self.unplace(&(from, name.clone()));
            self.place(inode, (to, name));
        }
        self.names.remove(&from);
        if let Some(state) = self.nodes.remove(&from) {
            self.changed.nodes.insert(from);
            self.set(to, state);
        }
    }

    /// What files have what number is not as it was: what is known of them is looked for by their names.
    pub(crate) fn forget_numbers(&mut self) {
        self.idents.clear();
        self.made.clear();
        for (n, node) in (0..).zip(self.nodes.values_mut()) {
            let void = Ident::void(n);
            node.stamp.ident = if node.stamp.ident.is_doubted() { void.doubted() } else { void };
        }
        self.end_all_intents();
    }

    /// Of the files whose numbers say nothing, those that look like another one, known or `found`, are doubted: one may have
    /// been put in the other's place. Files of the same bytes are not told apart, which harms nobody. A doubt is saved with
    /// what is published meanwhile: it must outlive the file that it comes from.
    pub(crate) fn doubt(&mut self, found: &HashSet<Look>) {
        if !self.nodes.values().any(|node| node.stamp.ident.is_void()) {
            return;
        }
        let mut alike: HashMap<Look, Option<Hash>> = found.iter().map(|look| (*look, None)).collect();
        for node in self.nodes.values().filter(|node| node.kind == Kind::File && node.stamp.size > 0) {
            let same = alike.entry(node.stamp.look()).or_insert(Some(node.content.hash));
            *same = same.filter(|hash| *hash == node.content.hash);
        }
        for (id, node) in &mut self.nodes {
            let ident = node.stamp.ident;
            let unsure = ident.is_void() && !ident.is_doubted() && node.kind == Kind::File;
            if unsure && alike.get(&node.stamp.look()) == Some(&None) {
                node.stamp.ident = ident.doubted();
                self.changed.nodes.insert(*id);
            }
        }
    }

    /// What was about to become of a file on disk.
    pub(crate) fn intent(&self, ident: &Ident) -> Option<&Intent> {
        self.intents.get(ident)
    }

    /// Says what is about to be put into place.
    pub(crate) fn intend(&mut self, intent: Intent) {
        let ident = intent.state.stamp.ident;
        self.intents.insert(ident, intent);
        self.changed.intents.insert(ident);
    }

    /// It did not happen, or is done.
    pub(crate) fn end_intent(&mut self, ident: &Ident) {
        if self.intents.remove(ident).is_some() {
            self.changed.intents.insert(*ident);
        }
    }

    /// Ends all intents that are left from before.
    pub(crate) fn end_all_intents(&mut self) {
        let all: Vec<Ident> = self.intents.keys().copied().collect();
        for ident in all {
            self.end_intent(&ident);
        }
    }

    /// Whether any intents are left.
    pub(crate) fn has_intents(&self) -> bool {
        !self.intents.is_empty()
    }
}
