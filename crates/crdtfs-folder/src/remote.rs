//! What others did: the difference between the last synced tree and the view, as a function of the two.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Kind, Node, Shown};
use crdtfs_core::port::Tree;

use crate::filesystem::Abilities;
use crate::ignores::{Ignores, is_parked, is_temporary};
use crate::plan::{Changes, Step, steps};
use crate::publish::mode_mask;
use crate::synced::{Place, Synced, SyncedTree};

/// How many entries of a directory are asked for at once.
const PAGE: usize = 4096;

/// What of the view may differ from the last synced tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct ViewDirty {
    /// Names.
    pub(crate) places: BTreeSet<Place>,
    /// Nodes.
    pub(crate) nodes: BTreeSet<InodeId>,
    /// Directories, with all their names.
    pub(crate) dirs: BTreeSet<InodeId>,
    /// Everything.
    pub(crate) all: bool,
}

impl ViewDirty {
    /// Whether nothing may.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.places.is_empty() && self.nodes.is_empty() && self.dirs.is_empty()
    }

    /// All that a change of the view touched.
    pub(crate) fn note(&mut self, delta: &Delta) {
        self.places.extend(delta.entries.iter().map(|e| (e.dir, e.name.clone())));
        self.nodes.extend(delta.nodes.iter().map(|n| n.inode));
    }

    /// All names of a directory.
    pub(crate) fn dir(&mut self, dir: InodeId) {
        self.dirs.insert(dir);
    }

    /// This and that.
    pub(crate) fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.places.extend(other.places);
        self.nodes.extend(other.nodes);
        self.dirs.extend(other.dirs);
    }
}

/// Something in which the folder and the view can differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    /// What a name stands for.
    Place(Place),
    /// What a file holds.
    Node(InodeId),
}

impl ViewDirty {
    /// One thing.
    pub(crate) fn item(&mut self, item: Item) {
        match item {
            Item::Place(place) => _ = self.places.insert(place),
            Item::Node(id) => _ = self.nodes.insert(id),
        }
    }
}

/// A content that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// The node that it is for.
    pub(crate) inode: InodeId,
    /// The node as the view has it.
    pub(crate) node: Node,
}

/// What is to be done in the folder.
#[derive(Debug, Default)]
pub(crate) struct RemotePlan {
    /// Names that come, go and move.
    pub(crate) steps: Vec<Step>,
    /// Files whose new bytes are ready.
    pub(crate) replace: Vec<InodeId>,
    /// Nodes whose attributes changed.
    pub(crate) attrs: Vec<InodeId>,
    /// Files whose bytes are the same and stand for other versions.
    pub(crate) rebase: Vec<InodeId>,
    /// Contents to fetch.
    pub(crate) wants: Vec<Want>,
    /// What was looked at and found otherwise (true), or no more so, of what is on the list (false).
    pub(crate) looked: HashMap<Item, bool>,
    /// Entries that this folder cannot show, and why.
    pub(crate) unshown: Vec<(Place, &'static str)>,
}

/// What a plan is made from.
pub(crate) struct Inputs<'a> {
    /// The last synced tree; it is what the folder holds.
    pub(crate) synced: &'a SyncedTree,
    /// The view.
    pub(crate) tree: &'a dyn Tree,
    /// What may differ.
    pub(crate) dirty: &'a ViewDirty,
    /// Contents that are here, ready to be put into place, by node.
    pub(crate) staged: &'a HashMap<InodeId, ContentRef>,
    /// What is not to be in the folder.
    pub(crate) ignores: &'a Ignores,
    /// What the folder's filesystem can do.
    pub(crate) abilities: Abilities,
    /// Whether something was found to differ before; `None`: nothing was.
    pub(crate) listed: Option<&'a dyn Fn(&Item) -> bool>,
}

/// A node, if the view shows it under its own identity, and not as part of another.
fn shown(tree: &dyn Tree, inode: InodeId) -> Option<Node> {
    tree.node(inode).filter(|node| node.inode == inode)
}

/// What a name in a directory stands for in the view. A directory that is part of another there (made on two devices under
/// one name) has no names of its own: all that lies in it lies in the other.
pub(crate) fn child(tree: &dyn Tree, place: &Place) -> Option<Node> {
    let is_dir = place.0 == InodeId::ROOT || shown(tree, place.0).is_some();
    is_dir.then(|| tree.child(place.0, &place.1)).flatten()
}

/// Nodes that the view shows under other identities than the folder: the union of two directories that were made under
/// one name, or of two files with equal bytes. To be done before [`plan`], which expects none.
pub(crate) fn rekeys(inputs: &Inputs<'_>) -> Vec<(InodeId, InodeId)> {
    let (synced, tree, dirty) = (inputs.synced, inputs.tree, inputs.dirty);
    let mut rekeys = Vec::new();
    let mut done = HashSet::new();
    let mut united = |old: InodeId, new: InodeId| {
        let fits = old != new && synced.node(old).is_some() && synced.node(new).is_none();
        if fits && done.insert(old) && done.insert(new) {
            rekeys.push((old, new));
        }
    };
    let places = dirty.places.iter().filter_map(|place| synced.child(place));
    let below = dirty.dirs.iter().flat_map(|dir| synced.children(*dir).map(|(_, id)| id));
    let all = synced.nodes().filter(|_| dirty.all).map(|(id, _)| *id);
    for old in places.chain(below).chain(dirty.nodes.iter().copied()).chain(all) {
        if let Some(node) = tree.node(old) {
            united(old, node.inode);
        }
    }
    for place in &dirty.places {
        let (Some(old), Some(node)) = (synced.child(place), child(tree, place)) else { continue };
        let Some(state) = synced.node(old).filter(|_| tree.node(old).is_none()) else { continue };
        let same = match state.kind {
            Kind::Dir => node.kind == Kind::Dir,
            Kind::File => node.kind == Kind::File && node.content.hash == state.content.hash,
            _ => node.kind == state.kind && node.target == state.target,
        };
        if same {
            united(old, node.inode);
        }
    }
    rekeys
}

/// The reason that needs no word.
const IGNORED: &str = "";

/// Whether the folder shows an entry of the view under this name at all; else why not.
fn unshown(inputs: &Inputs<'_>, place: &Place, node: &Node, dir: Option<&[Name]>) -> Option<&'static str> {
    if !matches!(node.kind, Kind::File | Kind::Dir | Kind::Symlink) {
        return Some("a device, pipe or socket; a folder does not show it, a mount does");
    }
    if is_temporary(&place.1) || is_parked(&place.1) {
        return Some("its name is one that crdtfs uses for temporary files; rename it on the device that has it");
    }
    if inputs.abilities.is_removed(&place.1) {
        return Some(
            "its name is one that this folder's filesystem gives to removed files; rename it on another device",
        );
    }
    if node.kind == Kind::Symlink && !inputs.abilities.symlinks {
        return Some(
            "a symbolic link, which this folder's filesystem cannot hold; skipped here, other devices keep it",
        );
    }
    if node.kind == Kind::File && !inputs.abilities.links && !is_the_name_here(inputs, place, node.inode) {
        return Some(
            "one more name of a file that is here under another, and this folder's filesystem has no hard links; \
             skipped here, other devices keep it",
        );
    }
    let ignored = dir.is_some_and(|dir| inputs.ignores.ignored(dir, &place.1, node.kind == Kind::Dir));
    ignored.then_some(IGNORED)
}

/// Whether a name of a file is the one that it has where files have one name only: the one that it has, else its first.
fn is_the_name_here(inputs: &Inputs<'_>, place: &Place, id: InodeId) -> bool {
    let names = inputs.tree.names(id);
    let here = inputs.synced.names(id).iter().find(|name| names.contains(name));
    here.or(names.first()).is_none_or(|the| the == place)
}

/// Why an entry of the view is not shown, if there is one and that is so.
pub(crate) fn why_unshown(inputs: &Inputs<'_>, place: &Place) -> Option<&'static str> {
    let node = child(inputs.tree, place)?;
    unshown(inputs, place, &node, None)
}

/// The path to a directory in the view.
fn path_in_view(tree: &dyn Tree, dir: InodeId) -> Option<Vec<Name>> {
    let mut path = Vec::new();
    let mut at = dir;
    while at != InodeId::ROOT {
        let (parent, name) = tree.names(at).into_iter().next()?;
        path.push(name);
        at = parent;
    }
    path.reverse();
    Some(path)
}

/// Why the folder does not show a name of the view, if it does not.
fn hides(inputs: &Inputs<'_>, place: &Place, node: &Node) -> Option<&'static str> {
    let dir = if inputs.ignores.is_empty() { None } else { path_in_view(inputs.tree, place.0) };
    unshown(inputs, place, node, dir.as_deref())
}

/// Whether the folder shows a name of the view.
fn shows(inputs: &Inputs<'_>, place: &Place, node: &Node) -> bool {
    hides(inputs, place, node).is_none()
}

/// Whether a node that is here is shown by the view, but nowhere that this folder shows.
fn is_shown_nowhere_here(inputs: &Inputs<'_>, id: InodeId) -> bool {
    shown(inputs.tree, id).is_some_and(|node| !inputs.tree.names(id).iter().any(|name| shows(inputs, name, &node)))
}

/// Whether the folder has something otherwise than the view, so that there is something to be done.
pub(crate) fn differs(inputs: &Inputs<'_>, item: &Item) -> bool {
    let (synced, tree) = (inputs.synced, inputs.tree);
    match item {
        Item::Place(place) => {
            if !synced.is_dir(place.0) {
                // The directory itself is what is to come or to go.
                return false;
            }
            let (here, there) = (synced.child(place), child(tree, place));
            let goes = |id| !(synced.is_dir(id) && is_shown_nowhere_here(inputs, id));
            match there {
                Some(node) if here == Some(node.inode) => false,
                Some(node) => match hides(inputs, place, &node) {
                    None => true,
                    Some(IGNORED) => false,
                    Some(_) => here.is_some_and(goes),
                },
                None => here.is_some_and(goes),
            }
        }
        Item::Node(id) => match (synced.node(*id), shown(tree, *id)) {
            (Some(state), Some(node)) => {
                let files = state.kind == Kind::File && node.kind == Kind::File;
                let other = node.content.hash != state.content.hash || node.shown == Shown::Pending;
                files && other && !synced.names(*id).is_empty()
            }
            _ => false,
        },
    }
}

/// What is to be done.
pub(crate) fn plan(inputs: &Inputs<'_>) -> RemotePlan {
    let mut diff = Diff {
        inputs,
        plan: RemotePlan::default(),
        todo: VecDeque::new(),
        asked: HashSet::new(),
        changes: Changes::default(),
        coming: HashSet::new(),
        nodes: inputs.dirty.nodes.clone(),
        paths: HashMap::new(),
        waiting: HashSet::new(),
    };
    if inputs.dirty.all {
        diff.walk();
    }
    for place in &inputs.dirty.places {
        diff.ask(place.clone());
    }
    for dir in &inputs.dirty.dirs {
        diff.ask_all(*dir);
    }
    // What is shown but not here may have waited for a merge.
    for id in inputs.dirty.nodes.iter().filter(|id| inputs.synced.node(**id).is_none()) {
        for place in inputs.tree.names(*id) {
            diff.ask(place);
        }
    }
    diff.close();
    diff.look_at_nodes();
    diff.finish()
}

/// All entries that the view has in a directory.
fn entries(tree: &dyn Tree, dir: InodeId) -> Vec<(Name, InodeId)> {
    let mut all: Vec<(Name, InodeId)> = Vec::new();
    loop {
        let after = all.last().map(|(name, _)| name.clone());
        let page = tree.entries(dir, after.as_ref(), PAGE);
        let last = page.len() < PAGE;
        all.extend(page.into_iter().map(|e| (e.name, e.inode)));
        if last {
            return all;
        }
    }
}

struct Diff<'a> {
    inputs: &'a Inputs<'a>,
    plan: RemotePlan,
    todo: VecDeque<Place>,
    asked: HashSet<Place>,
    changes: Changes,
    coming: HashSet<InodeId>,
    nodes: BTreeSet<InodeId>,
    paths: HashMap<InodeId, Option<Vec<Name>>>,
    /// Names whose files have not come yet.
    waiting: HashSet<Place>,
}

impl Diff<'_> {
    fn ask(&mut self, place: Place) {
        if self.asked.insert(place.clone()) {
            self.todo.push_back(place);
        }
    }

    fn ask_all(&mut self, dir: InodeId) {
        let here: Vec<Name> = self.inputs.synced.children(dir).map(|(name, _)| name.clone()).collect();
        for name in here {
            self.ask((dir, name));
        }
        for (name, _) in entries(self.inputs.tree, dir) {
            self.ask((dir, name));
        }
    }

    /// Compares everything.
    fn walk(&mut self) {
        let synced = self.inputs.synced;
        self.ask_all(InodeId::ROOT);
        for (id, node) in synced.nodes() {
            self.nodes.insert(*id);
            if node.kind == Kind::Dir {
                self.ask_all(*id);
            }
        }
    }

    /// Whether the folder has, or is about to have, a directory.
    fn has_dir(&self, dir: InodeId) -> bool {
        dir == InodeId::ROOT || self.inputs.synced.is_dir(dir) || self.coming.contains(&dir)
    }

    fn path(&mut self, dir: InodeId) -> Option<Vec<Name>> {
        if dir == InodeId::ROOT {
            return Some(Vec::new());
        }
        if let Some(path) = self.paths.get(&dir) {
            return path.clone();
        }
        let (parent, name) = self.inputs.tree.names(dir).into_iter().next()?;
        let path = self.path(parent).map(|mut path| {
            path.push(name);
            path
        });
        self.paths.insert(dir, path.clone());
        path
    }

    /// Why the folder does not show an entry of the view, if it does not.
    fn hides(&mut self, place: &Place, node: &Node) -> Option<&'static str> {
        let dir = if self.inputs.ignores.is_empty() { None } else { self.path(place.0) };
        unshown(self.inputs, place, node, dir.as_deref())
    }

    /// Follows each difference to all that belongs to it.
    fn close(&mut self) {
        while let Some(place) = self.todo.pop_front() {
            if !self.has_dir(place.0) {
                // Asked for again when the directory comes, which has to be on its way, then.
                self.asked.remove(&place);
                self.ask_way(&place);
                continue;
            }
            self.looked(|| Item::Place(place.clone()));
            let here = self.inputs.synced.child(&place);
            let node = child(self.inputs.tree, &place);
            if here.is_some() && here == node.as_ref().map(|n| n.inode) {
                continue;
            }
            let hidden = node.as_ref().and_then(|node| self.hides(&place, node));
            let node = match hidden {
                None => node,
                // An entry that is ignored here stays as it is here.
                Some(IGNORED) => continue,
                Some(why) => {
                    self.plan.unshown.push((place.clone(), why));
                    None
                }
            };
            if here.is_none() && node.is_none() {
                continue;
            }
            self.plan.looked.insert(Item::Place(place.clone()), true);
            if let Some(here) = here {
                self.going(&place, here);
            }
            if let Some(node) = node {
                self.coming(&place, node);
            }
        }
    }

    fn going(&mut self, place: &Place, here: InodeId) {
        if shown(self.inputs.tree, here).is_some() {
            for name in self.inputs.tree.names(here) {
                self.ask_way(&name);
                self.ask(name);
            }
        } else if self.inputs.synced.is_dir(here) {
            let below: Vec<Name> = self.inputs.synced.children(here).map(|(name, _)| name.clone()).collect();
            for name in below {
                self.ask((here, name));
            }
        }
        self.changes.removed.push((place.clone(), here));
    }

    /// Something is looked at, and may be found to be no more of a difference.
    fn looked(&mut self, item: impl FnOnce() -> Item) {
        if let Some(listed) = self.inputs.listed {
            let item = item();
            if listed(&item) {
                self.plan.looked.insert(item, false);
            }
        }
    }

    /// Asks for the directories above a name that are not here.
    fn ask_way(&mut self, name: &Place) {
        let mut at = name.0;
        while !self.has_dir(at) {
            let Some(place) = self.inputs.tree.names(at).into_iter().next() else { return };
            at = place.0;
            self.ask(place);
        }
    }

    fn coming(&mut self, place: &Place, node: Node) {
        let synced = self.inputs.synced;
        let id = node.inode;
        for name in synced.names(id).to_vec() {
            self.ask(name);
        }
        if synced.node(id).is_some() {
            self.nodes.insert(id);
        } else if node.kind == Kind::File && self.staged(&node) != Some(true) {
            self.want(place, node);
            return;
        } else if self.coming.insert(id) && node.kind == Kind::Dir {
            self.changes.new_dirs.insert(id);
            for (name, _) in entries(self.inputs.tree, id) {
                self.ask((id, name));
            }
        }
        self.changes.added.push((place.clone(), id));
    }

    /// Whether the bytes of a node are ready; `None` if other bytes are.
    fn staged(&self, node: &Node) -> Option<bool> {
        match self.inputs.staged.get(&node.inode) {
            Some(content) if content.hash == node.content.hash => Some(true),
            Some(_) => None,
            None => Some(false),
        }
    }

    fn want(&mut self, place: &Place, node: Node) {
        self.waiting.insert(place.clone());
        if node.shown != Shown::Pending && self.coming.insert(node.inode) {
            self.plan.wants.push(Want { inode: node.inode, node });
        }
    }

    fn look_at_nodes(&mut self) {
        for id in std::mem::take(&mut self.nodes) {
            self.looked(|| Item::Node(id));
            let (Some(state), Some(node)) = (self.inputs.synced.node(id), shown(self.inputs.tree, id)) else {
                continue;
            };
            if node.kind != state.kind {
                continue;
            }
            if node.shown == Shown::Pending {
                self.plan.looked.insert(Item::Node(id), true);
            }
            if node.kind == Kind::File && node.content.hash != state.content.hash {
                self.plan.looked.insert(Item::Node(id), true);
                if node.shown == Shown::Pending {
                    continue;
                }
                if self.staged(&node) == Some(true) {
                    self.plan.replace.push(id);
                } else if !self.inputs.synced.names(id).is_empty() {
                    self.plan.wants.push(Want { inode: id, node });
                }
                continue;
            }
            if node.basis != state.basis {
                self.plan.rebase.push(id);
            }
            if attrs_differ(state, &node) {
                self.plan.attrs.push(id);
            }
        }
    }

    /// A name that something waits for stays taken by what has it, so that the one takes the other's place in one step; and
    /// what is to be elsewhere, where it cannot be yet, stays where it is.
    fn finish(mut self) -> RemotePlan {
        let added: HashSet<InodeId> = self.changes.added.iter().map(|(_, id)| *id).collect();
        let (inputs, synced, tree) = (self.inputs, self.inputs.synced, self.inputs.tree);
        self.changes.removed.retain(|(place, id)| {
            let homeless = shown(tree, *id).is_some() && !tree.names(*id).iter().any(|n| synced.child(n) == Some(*id));
            // A file that the folder is not to show any more goes; a directory stays with what is in it.
            let homeless = homeless && (synced.is_dir(*id) || !is_shown_nowhere_here(inputs, *id));
            added.contains(id) || !(homeless || self.waiting.contains(place))
        });
        if !self.changes.is_empty() {
            self.plan.steps = steps(synced, &self.changes);
        }
        self.plan
    }
}

/// Whether attributes that a folder shows are others in the view.
pub(crate) fn attrs_differ(state: &Synced, node: &Node) -> bool {
    let mode = (state.mode ^ node.mode) & mode_mask(node.kind) != 0;
    match node.kind {
        Kind::File => mode || state.mtime != node.mtime || *state.xattrs != *node.xattrs,
        Kind::Dir => mode,
        _ => false,
    }
}
