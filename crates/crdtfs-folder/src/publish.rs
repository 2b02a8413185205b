//! Publishing: what the user did becomes operations of the share.
//!
//! The view may have moved on since the folder was last synced, and nobody here has seen that yet. So each step is done in
//! a way that leaves alone what the user had not before their eyes: an edit names the version that it was made upon; a
//! delete of a file that was edited elsewhere does nothing (the file comes back with the edit); a name that is taken by
//! something unseen is not taken from it; a file whose entry was removed elsewhere and that was edited here is made anew.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crdtfs_core::id::{InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Delta, Kind, Node, Xattrs};
use crdtfs_core::op::{NewNode, Op, OpError, RenameMode};
use crdtfs_core::port::{Adapter, Tree};
use parking_lot::RwLock;

use crate::conflict;
use crate::disk::Ident;
use crate::local::{LocalPlan, Touched, state_of};
use crate::plan::Step;
use crate::remote::ViewDirty;
use crate::synced::{Place, Synced, SyncedTree};

/// How many names made from one are looked at.
const BESIDE: usize = 64;

/// The permission bits that a folder shows and takes. Of directories also what newly made entries inherit and who may
/// remove them. Never setuid or setgid of a file: what a member elsewhere wrote must not run here with the rights of this
/// device's user (a mount shows the bits, but is mounted so that they have no effect).
pub(crate) fn mode_mask(kind: Kind) -> u32 {
    if kind == Kind::Dir { 0o3777 } else { 0o777 }
}

/// A change that the share did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Where it is in the folder.
    pub(crate) at: Place,
    /// Why, for people.
    pub(crate) why: String,
    /// It may be taken later, as it is.
    pub(crate) again: bool,
}

/// What publishing works with, and what comes out of it.
pub(crate) struct Publisher<'a> {
    /// The share's tree.
    pub(crate) tree: &'a dyn Tree,
    /// Who we are to it.
    pub(crate) adapter: Adapter,
    /// This device's name, for the names of conflict copies.
    pub(crate) device: &'a str,
    /// The last synced tree; never locked during a call of the tree.
    pub(crate) synced: &'a RwLock<SyncedTree>,
    /// Nothing is taken, what is equal is adopted.
    pub(crate) read_only: bool,
    /// What to compare with the view afterwards.
    pub(crate) view: ViewDirty,
    /// Directories that go by another identity now, for the watcher.
    pub(crate) rekeyed: Vec<(InodeId, InodeId)>,
    /// Keys whose files are no more what they were.
    pub(crate) stale: Vec<InodeId>,
    /// Changes that were not taken.
    pub(crate) refused: Vec<Refused>,
    /// Operations done.
    pub(crate) done: usize,
    /// Identities of this plan that turned out to be others.
    alias: HashMap<InodeId, InodeId>,
}

impl<'a> Publisher<'a> {
    /// A publisher.
    pub(crate) fn new(
        tree: &'a dyn Tree,
        adapter: Adapter,
        device: &'a str,
        synced: &'a RwLock<SyncedTree>,
        read_only: bool,
    ) -> Self {
        Self {
            tree,
            adapter,
            device,
            synced,
            read_only,
            view: ViewDirty::default(),
            rekeyed: Vec::new(),
            stale: Vec::new(),
            refused: Vec::new(),
            done: 0,
            alias: HashMap::new(),
        }
    }

    /// Does the whole plan.
    pub(crate) fn publish(&mut self, plan: &LocalPlan) {
        for step in &plan.steps {
            match step {
                Step::Create { at, id, over } => {
                    if let Some(over) = over {
                        self.remove(at, *over);
                    }
                    self.create(at, *id, plan);
                }
                Step::Link { id, at } => self.link(*id, at, plan),
                Step::Move { id, from, to, over } => self.rename(*id, from, to, *over),
                Step::Swap { a, b } => self.swap(a, b),
                Step::Remove { id, at } => self.remove(at, *id),
            }
        }
        let shown = self.shown_already(plan);
        for touched in plan.touched.iter().filter(|touched| !shown.contains(&touched.at)) {
            self.touch(touched);
        }
    }

    /// Files of which the last run did not write down that they were put there: only their bytes tell that they are what the
    /// view has at their names, and no edits of what was there before. They become that.
    fn shown_already(&mut self, plan: &LocalPlan) -> HashSet<Place> {
        let mut shown = Vec::new();
        for touched in &plan.touched {
            let (id, at) = (self.id(touched.id), self.at(&touched.at));
            let before = self.state(id).filter(|before| before.stamp.ident.is_void());
            let (Some(before), Some(bytes)) = (before, &touched.bytes) else { continue };
            let there = self.tree.child(at.0, &at.1).filter(|there| there.inode != id && there.kind == Kind::File);
            let Some(there) = there.filter(|there| there.content.hash == bytes.content.hash) else { continue };
            if before.content.hash != bytes.content.hash {
                let state = Synced { basis: there.basis, ..state_of(&touched.found, Some(bytes), id) };
                shown.push((touched.at.clone(), at, there.inode, state));
            }
        }
        for (_, at, ..) in &shown {
            let mut synced = self.synced.write();
            if let Some(before) = synced.unplace(at) {
                let stale = synced.forget_nameless(before);
                self.stale.extend(stale);
            }
        }
        let mut places = HashSet::new();
        for (found_at, at, id, state) in shown {
            self.keep(id, &at, state);
            places.insert(found_at);
        }
        places
    }

    fn id(&self, mut id: InodeId) -> InodeId {
        while let Some(to) = self.alias.get(&id) {
            id = *to;
        }
        id
    }

    fn at(&self, place: &Place) -> Place {
        (self.id(place.0), place.1.clone())
    }

    fn state(&self, id: InodeId) -> Option<Synced> {
        self.synced.read().node(id).cloned()
    }

    fn apply(&mut self, op: Op) -> Result<Delta, OpError> {
        if self.read_only {
            return Err(OpError::ReadOnly);
        }
        let applied = self.tree.apply(self.adapter, op)?;
        self.done += 1;
        self.view.note(&applied.delta);
        Ok(applied.delta)
    }

    fn refuse(&mut self, at: &Place, error: OpError) {
        let again = error == OpError::NoSpace;
        let why = match error {
            OpError::NoSpace => {
                format!("changed here; not in the share yet ({error}). Free some space, then it goes on")
            }
            OpError::ReadOnly => "changed here; not taken, this folder only receives".to_owned(),
            other => format!("changed here; the share refuses it ({other}), other devices do not get it"),
        };
        self.refused.push(Refused { at: at.clone(), why, again });
    }

    fn rekey(&mut self, from: InodeId, to: InodeId) {
        if from != to {
            self.synced.write().rekey(from, to);
            self.alias.insert(from, to);
            self.rekeyed.push((from, to));
            self.view.dir(to);
        }
    }

    /// The directory, made again in the view (under a new identity) if it was removed elsewhere.
    fn ensure_dir(&mut self, dir: InodeId) -> Result<InodeId, OpError> {
        let dir = self.id(dir);
        if dir == InodeId::ROOT || self.tree.node(dir).is_some_and(|n| n.kind == Kind::Dir) {
            return Ok(dir);
        }
        let (at, mode, mtime) = {
            let synced = self.synced.read();
            let place = synced.names(dir).first().cloned().ok_or(OpError::NotFound)?;
            let node = synced.node(dir).ok_or(OpError::NotFound)?;
            (place, node.mode, node.mtime)
        };
        let parent = self.ensure_dir(at.0)?;
        if let Some(there) = self.tree.child(parent, &at.1)
            && there.kind == Kind::Dir
            && self.state(there.inode).is_none()
        {
            self.rekey(dir, there.inode);
            return Ok(there.inode);
        }
        let id = InodeId(self.tree.fresh_id());
        let node = NewNode { mode, mtime, ..empty(Kind::Dir) };
        self.create_op(parent, &at.1, id, node, None)?;
        self.rekey(dir, id);
        Ok(id)
    }

    /// Creates a node under a name, beside what has that and was not in the folder yet, or under one made from it if that is taken.
    /// `file`: which one on disk it is.
    fn create_op(
        &mut self,
        dir: InodeId,
        name: &Name,
        inode: InodeId,
        node: NewNode,
        file: Option<&Ident>,
    ) -> Result<Name, OpError> {
        let mut at = name.clone();
        for attempt in 0.. {
            let place = PlaceId(self.tree.fresh_id());
            if node.kind == Kind::File {
                self.synced.read().about_to_create(inode, &node.content.hash, &(dir, at.clone()), file);
            }
            let there = self.tree.child(dir, &at).filter(|there| self.state(there.inode).is_none());
            let beside = there.map(|there| there.inode);
            let op = Op::Create { dir, name: at.clone(), inode, place, node: node.clone(), beside };
            match self.apply(op) {
                Ok(_) => break,
                Err(OpError::Exists) if attempt < conflict::TRIES => at = self.conflict_name(name, inode, attempt),
                Err(error) => return Err(error),
            }
        }
        self.view.places.insert((dir, name.clone()));
        Ok(at)
    }

    fn conflict_name(&self, name: &Name, inode: InodeId, attempt: u32) -> Name {
        conflict::name(name, self.device, &inode.to_string(), attempt)
    }

    fn create(&mut self, at: &Place, id: InodeId, plan: &LocalPlan) {
        let Some((found, bytes)) = plan.new.get(&id) else { return };
        let mut state = state_of(found, bytes.as_ref(), id);
        if let Err(error) = self.create_at(at, id, &mut state) {
            self.refuse(at, error);
        }
    }

    fn create_at(&mut self, at: &Place, id: InodeId, state: &mut Synced) -> Result<(), OpError> {
        let at = self.at(at);
        let dir = if self.read_only { at.0 } else { self.ensure_dir(at.0)? };
        if state.kind == Kind::Dir {
            self.synced.read().about_to_make(id, &state.stamp.ident);
        }
        let there = self.tree.child(dir, &at.1);
        if let Some(there) = &there {
            if self.adoptable(there, state) {
                state.basis = there.basis.clone();
                self.keep(there.inode, &(dir, at.1.clone()), state.clone());
                self.alias.insert(id, there.inode);
                self.rekeyed.push((id, there.inode));
                return Ok(());
            }
            if state.kind == Kind::Dir && there.kind != Kind::Dir && self.state(there.inode).is_some() {
                // The directory keeps the name.
                self.evict(dir, &at.1, there.inode)?;
            }
        }
        let node = NewNode {
            mode: state.mode,
            mtime: state.mtime,
            xattrs: (*state.xattrs).clone(),
            content: state.content,
            target: state.target.to_vec(),
            ..empty(state.kind)
        };
        self.create_op(dir, &at.1, id, node, Some(&state.stamp.ident))?;
        if let Some(node) = self.tree.node(id) {
            state.basis = node.basis;
        }
        self.keep(id, &(dir, at.1.clone()), state.clone());
        Ok(())
    }

    /// Whether an entry of the view that is not in the folder yet is what was found here. Its attributes then follow.
    fn adoptable(&self, there: &Node, found: &Synced) -> bool {
        let same = match found.kind {
            Kind::Dir => there.kind == Kind::Dir,
            Kind::File => there.kind == Kind::File && there.content.hash == found.content.hash,
            _ => there.kind == found.kind && there.target == found.target,
        };
        same && self.state(there.inode).is_none()
    }

    fn evict(&mut self, dir: InodeId, name: &Name, inode: InodeId) -> Result<(), OpError> {
        for attempt in 0..conflict::TRIES {
            let to = self.conflict_name(name, inode, attempt);
            let rename = Op::Rename { from_dir: dir, from: name.clone(), to_dir: dir, to, mode: RenameMode::NoReplace };
            match self.apply(rename) {
                Err(OpError::Exists) => {}
                other => return other.map(drop),
            }
        }
        Err(OpError::Exists)
    }

    /// Writes down what is on disk at a place.
    fn keep(&mut self, id: InodeId, at: &Place, state: Synced) {
        let mut synced = self.synced.write();
        if let Some(before) = synced.node(id)
            && before.key != state.key
            && before.kind == Kind::File
        {
            self.stale.push(before.key);
        }
        let is_dir = state.kind == Kind::Dir;
        synced.set(id, state);
        synced.place(id, at.clone());
        drop(synced);
        self.view.places.insert(at.clone());
        self.view.nodes.insert(id);
        if is_dir {
            self.view.dir(id);
        }
    }

    fn link(&mut self, id: InodeId, at: &Place, plan: &LocalPlan) {
        let (id, at) = (self.id(id), self.at(at));
        let result = self.link_op(id, &at);
        match result {
            Ok(()) => {
                let mut synced = self.synced.write();
                if synced.node(id).is_some() {
                    synced.place(id, at.clone());
                }
                drop(synced);
                self.view.places.insert(at);
                self.view.nodes.insert(id);
            }
            // The file was removed elsewhere, or its creation was refused: a file of its own.
            Err(OpError::NotFound) => {
                let found = plan.new.get(&id).map(|(f, b)| state_of(f, b.as_ref(), id));
                if let Some(mut state) = self.state(id).or(found) {
                    let fresh = InodeId(self.tree.fresh_id());
                    if let Err(error) = self.create_at(&at, fresh, &mut state) {
                        self.refuse(&at, error);
                    }
                }
            }
            Err(error) => self.refuse(&at, error),
        }
    }

    fn link_op(&mut self, id: InodeId, at: &Place) -> Result<(), OpError> {
        let dir = self.ensure_dir(at.0)?;
        self.tree.node(id).ok_or(OpError::NotFound)?;
        let mut name = at.1.clone();
        for attempt in 0..conflict::TRIES {
            if self.tree.child(dir, &name).is_some_and(|n| n.inode == id) {
                return Ok(());
            }
            let place = PlaceId(self.tree.fresh_id());
            match self.apply(Op::Link { inode: id, dir, name: name.clone(), place }) {
                Err(OpError::Exists) => name = self.conflict_name(&at.1, id, attempt),
                other => return other.map(drop),
            }
        }
        Err(OpError::Exists)
    }

    /// Whether the view has, at a place, what the user saw there.
    fn unseen(&self, id: InodeId) -> bool {
        let (Some(node), Some(state)) = (self.tree.node(id), self.state(id)) else { return false };
        node.kind == Kind::File && node.content.hash != state.content.hash
    }

    /// Where the view shows what the user saw at a place, if that is not the place itself because somebody else's file, or
    /// version, has the name by now: beside it, under a name made from it. Elsewhere it is because somebody moved it.
    fn shown_aside(&self, at: &Place, id: InodeId) -> Option<Place> {
        let state = self.state(id).filter(|state| state.kind == Kind::File)?;
        let seen = |inode: InodeId| {
            let node = self.tree.node(inode).filter(|node| node.inode == inode && node.kind == Kind::File);
            node.is_some_and(|node| node.content.hash == state.content.hash && node.basis == state.basis)
        };
        // Copies of a version stand beside where its file is now.
        let names = self.tree.names(id);
        for (dir, name) in std::iter::once(at).chain(names.first()) {
            let Some(prefix) = conflict::prefix(name) else { continue };
            let beside = self.tree.entries(*dir, Some(&prefix), BESIDE);
            let beside = beside.into_iter().take_while(|entry| entry.name.as_bytes().starts_with(prefix.as_bytes()));
            for entry in beside {
                if seen(entry.inode) {
                    return Some((*dir, entry.name));
                }
            }
        }
        None
    }

    fn remove(&mut self, at: &Place, id: InodeId) {
        let (id, at) = (self.id(id), self.at(at));
        self.view.places.insert(at.clone());
        self.view.nodes.insert(id);
        let there = self.tree.child(at.0, &at.1).filter(|n| n.inode == id);
        let op = match there {
            Some(node) if node.kind == Kind::Dir => Some(Op::Rmdir { dir: at.0, name: at.1.clone() }),
            Some(_) if !self.unseen(id) => Some(Op::Unlink { dir: at.0, name: at.1.clone() }),
            _ => self.shown_aside(&at, id).map(|(dir, name)| Op::Unlink { dir, name }),
        };
        match op.map(|op| self.apply(op)) {
            None | Some(Ok(_) | Err(OpError::NotEmpty | OpError::NotFound)) => {}
            Some(Err(error)) => {
                self.refuse(&at, error);
                if self.read_only || error == OpError::NoSpace {
                    return;
                }
            }
        }
        let mut synced = self.synced.write();
        synced.unplace(&at);
        let stale = synced.forget_nameless(id);
        self.stale.extend(stale);
    }

    fn rename(&mut self, id: InodeId, from: &Place, to: &Place, over: Option<InodeId>) {
        let (id, from, to) = (self.id(id), self.at(from), self.at(to));
        let over = over.map(|o| self.id(o));
        self.view.places.extend([from.clone(), to.clone()]);
        self.view.nodes.insert(id);
        if self.read_only {
            if self.tree.child(to.0, &to.1).is_none_or(|n| n.inode != id) {
                self.refuse(&to, OpError::ReadOnly);
                return;
            }
        } else if let Err(error) = self.rename_op(id, &from, &to, over) {
            if error == OpError::NoSpace {
                self.refuse(&to, error);
                return;
            }
            tracing::info!(%error, name = %to.1, "a local rename cannot be taken; the share's place stays");
        }
        let to = self.at(&to);
        let mut synced = self.synced.write();
        if let Some(gone) = synced.unplace(&to) {
            let stale = synced.forget_nameless(gone);
            self.stale.extend(stale);
        }
        let id = self.alias.get(&id).copied().unwrap_or(id);
        let from = synced.names(id).iter().find(|p| **p == from).cloned();
        if let Some(from) = from {
            synced.rename(&from, to);
        }
    }

    fn rename_op(&mut self, id: InodeId, from: &Place, to: &Place, over: Option<InodeId>) -> Result<(), OpError> {
        let to_dir = self.ensure_dir(to.0)?;
        let replaced = over.filter(|over| {
            let there = self.tree.child(to_dir, &to.1);
            there.is_none_or(|there| there.inode != *over) || self.unseen(*over)
        });
        if let Some((dir, name)) = replaced.and_then(|over| self.shown_aside(&(to_dir, to.1.clone()), over)) {
            match self.apply(Op::Unlink { dir, name }) {
                Ok(_) | Err(OpError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(node) = self.tree.node(id) else { return self.revive(id, &(to_dir, to.1.clone())) };
        let names = self.tree.names(id);
        let (source, mut target) = if names.contains(from) {
            (from.clone(), (to_dir, to.1.clone()))
        } else if let [only] = &names[..] {
            // Moved elsewhere meanwhile: the part of the name that the user left alone is theirs.
            let dir = if from.0 == to.0 { only.0 } else { to_dir };
            let name = if from.1 == to.1 { only.1.clone() } else { to.1.clone() };
            (only.clone(), (dir, name))
        } else {
            return Ok(());
        };
        for attempt in 0..conflict::TRIES {
            let there = self.tree.child(target.0, &target.1);
            let mode = match &there {
                Some(n) if n.inode == id => return Ok(()),
                Some(n) if Some(n.inode) == over && node.kind != Kind::Dir && !self.unseen(n.inode) => {
                    RenameMode::Replace
                }
                Some(n) if self.state(n.inode).is_none() => RenameMode::Beside(n.inode),
                _ => RenameMode::NoReplace,
            };
            self.about_to_rename(id, &target);
            let op =
                Op::Rename { from_dir: source.0, from: source.1.clone(), to_dir: target.0, to: target.1.clone(), mode };
            match self.apply(op) {
                Err(OpError::Exists) => target.1 = self.conflict_name(&to.1, id, attempt),
                other => return other.map(drop),
            }
        }
        Err(OpError::Exists)
    }

    fn about_to_rename(&self, id: InodeId, to: &Place) {
        let synced = self.synced.read();
        synced.is_placed(id, to);
        if let Some(state) = synced.node(id).filter(|state| state.kind == Kind::File) {
            // It may be the end of a save: what was there before then goes on with these bytes.
            synced.about_to_publish(id, &state.content.hash);
        }
    }

    /// Removed elsewhere, renamed here: it survives under the new name, as a new entry.
    fn revive(&mut self, id: InodeId, to: &Place) -> Result<(), OpError> {
        let state = self.state(id).ok_or(OpError::NotFound)?;
        let fresh = InodeId(self.tree.fresh_id());
        let node = NewNode {
            mode: state.mode,
            mtime: state.mtime,
            xattrs: (*state.xattrs).clone(),
            content: state.content,
            target: state.target.to_vec(),
            ..empty(state.kind)
        };
        self.create_op(to.0, &to.1, fresh, node, None)?;
        self.rekey(id, fresh);
        if let Some(node) = self.tree.node(fresh) {
            self.set_basis(fresh, node.basis);
        }
        self.view.nodes.insert(fresh);
        Ok(())
    }

    fn set_basis(&mut self, id: InodeId, basis: Basis) {
        let mut synced = self.synced.write();
        if let Some(mut state) = synced.node(id).cloned() {
            state.basis = basis;
            synced.set(id, state);
        }
    }

    fn swap(&mut self, a: &Place, b: &Place) {
        let (a, b) = (self.at(a), self.at(b));
        self.view.places.extend([a.clone(), b.clone()]);
        let (x, y) = {
            let synced = self.synced.read();
            (synced.child(&a), synced.child(&b))
        };
        let there = |place: &Place| self.tree.child(place.0, &place.1).map(|n| n.inode);
        let (in_a, in_b) = (there(&a), there(&b));
        if (in_a, in_b) == (x, y) && !self.read_only {
            for (id, place) in [(x, &b), (y, &a)] {
                if let Some(id) = id {
                    self.synced.read().is_placed(id, place);
                }
            }
            let op = Op::Rename {
                from_dir: a.0,
                from: a.1.clone(),
                to_dir: b.0,
                to: b.1.clone(),
                mode: RenameMode::Exchange,
            };
            if let Err(error) = self.apply(op) {
                if error == OpError::NoSpace {
                    self.refuse(&a, error);
                    self.refuse(&b, error);
                    return;
                }
                tracing::info!(%error, name = %a.1, "a local swap cannot be taken; the share's places stay");
            }
        } else if (in_a, in_b) != (y, x) && self.read_only {
            self.refuse(&a, OpError::ReadOnly);
            return;
        }
        let mut synced = self.synced.write();
        if let (Some(x), Some(y)) = (synced.unplace(&a), synced.unplace(&b)) {
            synced.place(x, b);
            synced.place(y, a);
        }
    }

    /// A file or directory has another state.
    fn touch(&mut self, touched: &Touched) {
        let (id, at) = (self.id(touched.id), self.at(&touched.at));
        let Some(before) = self.state(id) else { return };
        self.view.nodes.insert(id);
        let mut now = before.clone();
        now.stamp = touched.found.stamp;
        if let Some(bytes) = &touched.bytes {
            (now.key, now.content) = (bytes.key, bytes.content);
            if let Some(user) = &bytes.xattrs {
                now.xattrs = with_user(&before.xattrs, user);
            }
        }
        let mask = mode_mask(before.kind);
        if (before.stamp.mode ^ now.stamp.mode) & mask != 0 {
            now.mode = (before.mode & !mask) | (now.stamp.mode & mask);
        }
        if before.kind == Kind::File && before.stamp.mtime != now.stamp.mtime {
            now.mtime = now.stamp.mtime;
        }
        match self.touch_op(id, &at, &before, &mut now) {
            Ok(()) => {
                let id = self.id(id);
                if before.key != now.key && before.kind == Kind::File {
                    self.stale.push(before.key);
                }
                self.synced.write().set(id, now);
            }
            Err(error) => {
                if error != OpError::NoSpace {
                    self.stale.extend(touched.bytes.as_ref().map(|b| b.key));
                }
                self.refuse(&at, error);
            }
        }
    }

    fn touch_op(&mut self, id: InodeId, at: &Place, before: &Synced, now: &mut Synced) -> Result<(), OpError> {
        let edited = before.kind == Kind::File && before.content.hash != now.content.hash;
        let Some(node) = self.tree.node(id) else {
            return if edited { self.edit_removed(id, at, before, now) } else { Ok(()) };
        };
        if edited {
            if node.content.hash == now.content.hash {
                now.basis = node.basis.clone();
            } else {
                now.basis = self.edit(id, at, before, now, &node.basis)?;
            }
        }
        let node = self.tree.node(id).unwrap_or(node);
        let mode = (before.mode != now.mode && node.mode != now.mode).then_some(now.mode);
        let mtime = (!edited && before.mtime != now.mtime && node.mtime != now.mtime).then_some(now.mtime);
        let xattrs = (before.xattrs != now.xattrs && node.xattrs != now.xattrs).then(|| (*now.xattrs).clone());
        if mode.is_some() || mtime.is_some() || xattrs.is_some() {
            self.apply(Op::SetAttr { inode: id, mode, owner: None, mtime, xattrs })?;
        }
        Ok(())
    }

    /// Publishes new bytes; returns the versions that they stand for, which are not those of what is shown now if
    /// something unseen was merged with them or won over them.
    fn edit(
        &mut self,
        id: InodeId,
        at: &Place,
        before: &Synced,
        now: &Synced,
        shown: &Basis,
    ) -> Result<Basis, OpError> {
        let via = self.tree.child(at.0, &at.1).filter(|n| n.inode == id).map(|_| at.clone());
        let basis = Some(before.basis.clone());
        self.synced.read().about_to_publish(id, &now.content.hash);
        let delta = self.apply(Op::Edit { inode: id, via, basis, content: now.content, mtime: now.mtime })?;
        let old: BTreeSet<RecordId> = shown.iter().chain(before.basis.iter()).copied().collect();
        if let Some(node) = self.tree.node(id) {
            if node.content.hash == now.content.hash {
                return Ok(node.basis);
            }
            let own: Vec<RecordId> = node.basis.iter().filter(|r| !old.contains(r)).copied().collect();
            if !own.is_empty() {
                return Ok(own.into());
            }
        }
        let copies = delta.nodes.iter().filter_map(|n| self.tree.node(n.inode));
        let ours = copies.into_iter().find(|n| n.content.hash == now.content.hash);
        Ok(ours.map_or_else(|| before.basis.clone(), |n| n.basis))
    }

    /// Removed elsewhere, edited here: the edited file survives.
    fn edit_removed(&mut self, id: InodeId, at: &Place, before: &Synced, now: &mut Synced) -> Result<(), OpError> {
        match self.edit(id, at, before, now, &Arc::from([])) {
            Ok(basis) if self.tree.node(id).is_some() => {
                now.basis = basis;
                return Ok(());
            }
            Ok(_) | Err(OpError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let dir = self.ensure_dir(at.0)?;
        let fresh = InodeId(self.tree.fresh_id());
        let node = NewNode {
            mode: now.mode,
            mtime: now.mtime,
            xattrs: (*now.xattrs).clone(),
            content: now.content,
            ..empty(Kind::File)
        };
        self.create_op(dir, &at.1, fresh, node, None)?;
        self.rekey(id, fresh);
        if let Some(node) = self.tree.node(fresh) {
            now.basis = node.basis;
        }
        self.view.nodes.insert(fresh);
        Ok(())
    }
}

/// The attributes with those of the user replaced: others (`security.*`, from mounts) are not the folder's to change.
fn with_user(before: &Arc<Xattrs>, user: &Arc<Xattrs>) -> Arc<Xattrs> {
    let others = before.iter().filter(|(name, _)| !name.starts_with(b"user."));
    let all: Xattrs = others.chain(user.iter()).map(|(n, v)| (n.clone(), v.clone())).collect();
    if all == **before { before.clone() } else { Arc::new(all) }
}

pub(crate) fn empty(kind: Kind) -> NewNode {
    NewNode {
        kind,
        mode: 0,
        owner: None,
        mtime: Default::default(),
        xattrs: Default::default(),
        content: crdtfs_core::content::ContentRef::empty(),
        target: Vec::new(),
        rdev: 0,
    }
}
