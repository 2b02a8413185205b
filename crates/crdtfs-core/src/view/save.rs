//! Saves by rename: what this device knows of its own recent operations, and how they become edits.
//!
//! An editor that writes a temporary file and renames it over the old one, or moves the old one aside, writes a new one
//! and removes the backup, means an edit. It becomes one, of the old inode, if all of this holds: both files have one
//! name; the new one was created on this device, in the directory of the old one, less than ten minutes ago; and no
//! other device's record on it is known here. What takes the place of one that was moved aside was moreover created
//! after that, or before under a name for that and renamed once: files that change their names among them are none. So
//! does a file that takes the name of one that was removed here some seconds before, created under it or, under the same
//! conditions, renamed to it. The facts are local and forgotten with the view; they only choose which records are written,
//! never what records mean.

use std::collections::{BTreeMap, VecDeque};

use super::View;
use super::arena::{Claimant, NodeEval, NodeIx, PlaceIx, RecIx};
use super::plan::Planner;
use super::record_of::NewPosition;
use crate::id::{InodeId, RecordId};
use crate::name::Name;
use crate::node::Kind;
use crate::op::Op;
use crate::record::{Content, Place, PlaceState, Record};
use crate::temporary::{looks_like_backup, looks_temporary};

/// How long a file counts as a save under way, in milliseconds.
const SAVE_WINDOW_MS: u64 = 10 * 60 * 1000;

/// How long after a removal a file of the same name counts as what was removed, saved, in milliseconds.
const ANEW_WINDOW_MS: u64 = 5 * 1000;

/// The most facts kept; beyond it the oldest are forgotten.
const MAX_FACTS: usize = 65_536;

/// What was done here lately.
#[derive(Default)]
pub(super) struct LocalFacts {
    created: BTreeMap<InodeId, Created>,
    moved: BTreeMap<InodeId, Stood>,
    removed: BTreeMap<(InodeId, Name), Removed>,
    removals: VecDeque<(u64, (InodeId, Name))>,
    /// When each fact was noted, the oldest first.
    order: VecDeque<(u64, InodeId)>,
    /// How many were noted ever.
    noted: u64,
}

/// A file created here.
struct Created {
    then_ms: u64,
    dir: InodeId,
    name: Name,
    /// Records on it that were made here.
    records: usize,
    /// Renames of it since.
    renames: u32,
    /// Which of all facts it is.
    number: u64,
}

/// A file renamed or removed here: where it stood, with the stamps that it had there.
#[derive(Clone)]
pub(super) struct Stood {
    then_ms: u64,
    place: PlaceIx,
    dir: InodeId,
    name: Name,
    parent: (InodeId, Option<RecordId>),
    name_stamp: Option<RecordId>,
    /// Which of all facts it is.
    number: u64,
}

/// A file removed here.
struct Removed {
    stood: Stood,
    /// Records on it, its removal included.
    records: usize,
}

impl Created {
    /// Whether it was written to take the place of what was moved aside: anew since then, or before under a name that says so.
    fn is_in_place_of(&self, aside: &Stood) -> bool {
        let meant = || self.name != aside.name && looks_like_backup(self.name.as_bytes(), aside.name.as_bytes());
        self.number > aside.number || (self.renames == 1 && meant())
    }
}

impl LocalFacts {
    fn number(&mut self) -> u64 {
        self.noted += 1;
        self.noted
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((then, key)) = self.removals.front() {
            if now_ms.saturating_sub(*then) < ANEW_WINDOW_MS && self.removals.len() < MAX_FACTS {
                break;
            }
            if self.removed.get(key).is_some_and(|fact| fact.stood.then_ms == *then) {
                self.removed.remove(key);
            }
            self.removals.pop_front();
        }
        while let Some(&(then, inode)) = self.order.front() {
            if now_ms.saturating_sub(then) < SAVE_WINDOW_MS && self.order.len() < MAX_FACTS {
                break;
            }
            self.order.pop_front();
            if self.created.get(&inode).is_some_and(|fact| fact.then_ms == then) {
                self.created.remove(&inode);
            }
            if self.moved.get(&inode).is_some_and(|fact| fact.then_ms == then) {
                self.moved.remove(&inode);
            }
        }
    }
}

impl View {
    /// Somebody here still has a removed node open: what takes its name is another file, and no save of this one.
    pub fn keep_apart(&mut self, inode: InodeId) {
        let Some(node) = self.node_index.get(&inode).map(|ix| self.nodes[ix.at()].class) else { return };
        let mut removed = std::mem::take(&mut self.local.removed);
        removed.retain(|_, fact| self.node_of(self.places[fact.stood.place.at()].class) != Some(node));
        self.local.removed = removed;
    }

    /// How many records there are on an inode's contents and names.
    fn records_on(&self, class: NodeIx) -> usize {
        let on = |node: NodeIx| {
            let state = &self.nodes[node.at()];
            state.recs.len() + state.places.iter().map(|place| self.places[place.at()].recs.len()).sum::<usize>()
        };
        self.node_members(class).into_iter().map(on).sum()
    }

    /// Remembers what a later operation has to know of this one.
    pub(super) fn note_local(&mut self, op: &Op, now_ms: u64, records: &[(RecordId, Record)]) {
        self.local.expire(now_ms);
        if let Op::Create { dir, name, inode, node, .. } = op
            && node.kind == Kind::File
        {
            let number = self.local.number();
            let (dir, name) = (*dir, name.clone());
            let created = Created { then_ms: now_ms, dir, name, records: 0, renames: 0, number };
            self.local.created.insert(*inode, created);
            self.local.order.push_back((now_ms, *inode));
        }
        if self.local.created.is_empty() {
            return;
        }
        for (_, record) in records {
            let inode = match record {
                Record::Place(record) => record.inode,
                Record::Content(record) => record.inode,
                Record::Birth(_) | Record::Pin(_) => continue,
            };
            if let Some(created) = self.local.created.get_mut(&inode) {
                created.records += 1;
            }
        }
    }
}

impl Planner<'_> {
    /// Where a file is shown that is about to be renamed or removed; `None` for anything else.
    ///
    /// The stamps are those that its name and directory have by its records, also where it is shown elsewhere than those say (a
    /// conflict copy, what is pinned or suffixed): a rename elsewhere is to win. A conflict copy that became a file has them of
    /// its birth.
    pub(super) fn stands(&self, place: PlaceIx, dir: NodeIx, name: &Name) -> Option<Stood> {
        let view = &*self.view;
        let node = view.node_of(place)?;
        let eval = view.places[place.at()].eval.as_ref()?;
        if view.nodes[node.at()].kind != Some(Kind::File) {
            return None;
        }
        let record = view.place_record(place, &self.device, PlaceState::Live, NewPosition::default());
        let birth = view.rec(eval.top).id;
        let parent = if eval.pinned { view.nodes[view.as_dir(eval.parent).at()].id } else { record.parent };
        Some(Stood {
            then_ms: self.now_ms,
            place,
            dir: view.nodes[dir.at()].id,
            name: name.clone(),
            parent: (parent, record.parent_stamp.or(Some(birth))),
            name_stamp: record.name_stamp.or(Some(birth)),
            number: view.local.noted,
        })
    }

    /// Remembers where a file stands that is about to be renamed.
    pub(super) fn note_aside(&mut self, place: PlaceIx, dir: NodeIx, name: &Name) {
        let (Some(fact), Some(node)) = (self.stands(place, dir, name), self.view.node_of(place)) else { return };
        let view = &mut *self.view;
        let inode = view.nodes[node.at()].id;
        if let Some(created) = view.local.created.get_mut(&inode) {
            created.renames += 1;
        }
        let number = view.local.number();
        view.local.moved.insert(inode, Stood { number, ..fact });
        view.local.order.push_back((self.now_ms, inode));
    }

    /// Remembers where a file stood that was removed just now, if that was its only name ever.
    pub(super) fn note_removed(&mut self, stood: Option<Stood>) {
        let view = &mut *self.view;
        let Some((stood, node)) = stood.and_then(|stood| Some((stood.clone(), view.node_of(stood.place)?))) else {
            return;
        };
        if view.place_classes(node).len() != 1 {
            return;
        }
        let key = (stood.dir, stood.name.clone());
        let records = view.records_on(node);
        view.local.removals.push_back((stood.then_ms, key.clone()));
        view.local.removed.insert(key, Removed { stood, records });
    }

    /// If a file takes the name of one that was removed some seconds ago, makes that an edit of the old one, which takes
    /// its old place again. Never under a name for temporary files: each of those is another one, and the old one may be what
    /// somebody else is about to save by.
    pub(super) fn save_anew(&mut self, source: InodeId, dir: NodeIx, name: &Name) -> bool {
        if looks_temporary(name.as_bytes(), false) {
            return false;
        }
        self.view.update();
        let view = &*self.view;
        let key = (view.nodes[dir.at()].id, name.clone());
        let Some(fact) = view.local.removed.get(&key) else { return false };
        let place = view.places[fact.stood.place.at()].class;
        let Some(old) = view.node_of(place) else { return false };
        // Nobody else has said anything of it since.
        let untouched = view.records_on(old) == fact.records && view.nodes[old.at()].eval == NodeEval::Nothing;
        let in_time = self.now_ms.saturating_sub(fact.stood.then_ms) < ANEW_WINDOW_MS;
        if !in_time || !untouched || !self.would_stand_in(&fact.stood, dir) {
            return false;
        }
        let stood = fact.stood.clone();
        let Ok(new) = self.own(source) else { return false };
        self.promote_copies_of(new);
        self.view.update();
        let [new_place] = self.view.shown_places(new)[..] else { return false };
        self.replace_content(old, place, new, new_place);
        self.take_place_again(stood);
        self.view.local.removed.remove(&key);
        true
    }

    /// Whether a file that takes its old place again is shown in this directory: of several that were shown as one it stood in
    /// one, and that may have been moved since.
    fn would_stand_in(&self, stood: &Stood, dir: NodeIx) -> bool {
        let parent = self.view.node_index.get(&stood.parent.0);
        parent.is_some_and(|parent| self.view.home(self.view.as_dir(*parent)) == self.view.home(dir))
    }

    /// A file has its old name and parent, with the stamps that they had: what others said of them meanwhile counts.
    fn take_place_again(&mut self, stood: Stood) {
        let root = self.view.places[stood.place.at()].class;
        let back = self.view.place_record(root, &self.device, PlaceState::Live, NewPosition::default());
        let (parent, parent_stamp) = stood.parent;
        let back = Place { name: stood.name, name_stamp: stood.name_stamp, parent, parent_stamp, ..back };
        self.emit(&Record::Place(back));
    }

    /// If a rename over a file is how an editor saves it, makes it an edit of the old inode.
    pub(super) fn save_by_rename(
        &mut self,
        source: InodeId,
        target: InodeId,
        from_dir: NodeIx,
        (to_dir, to): (NodeIx, &Name),
    ) -> bool {
        if from_dir != to_dir || !self.is_save_under_way(source, to_dir) || !self.is_file_of_one_name(target) {
            return false;
        }
        let (Ok(new), Ok(old)) = (self.own(source), self.own(target)) else { return false };
        self.leave_copies_of(old);
        self.promote_copies_of(new);
        self.view.update();
        let places = (self.view.shown_places(new), self.view.shown_places(old));
        let ([new_place], [old_place]) = (&places.0[..], &places.1[..]) else { return false };
        if self.view.suffix_names.contains_key(&Claimant::Place(*old_place)) {
            let dir = self.view.nodes[self.view.home(to_dir).at()].id;
            self.pin(*old_place, dir, to);
        }
        self.replace_content(old, *old_place, new, *new_place);
        self.revive_dir(self.view.home(to_dir));
        true
    }

    /// If an unlink removes the backup of a file that was moved aside and written again, makes that an edit of the old
    /// inode, which takes its old place again.
    pub(super) fn end_of_rewrite(&mut self, backup: InodeId, backup_dir: NodeIx, name: &Name) -> bool {
        if !self.is_file_of_one_name(backup) {
            return false;
        }
        let view = &*self.view;
        let Some(fact) = view.local.moved.get(&backup) else { return false };
        let in_time = self.now_ms.saturating_sub(fact.then_ms) < SAVE_WINDOW_MS;
        if !in_time || !looks_like_backup(name.as_bytes(), fact.name.as_bytes()) {
            return false;
        }
        let Some(dir) = view.node_index.get(&fact.dir).map(|dir| view.home(*dir)) else { return false };
        let Some((source, _)) = view.lookup(dir, fact.name.as_bytes()) else { return false };
        if source == backup || !self.is_save_under_way(source, dir) || !self.would_stand_in(fact, dir) {
            return false;
        }
        if !view.local.created.get(&source).is_some_and(|created| created.is_in_place_of(fact)) {
            return false;
        }
        // Another of its names is no backup.
        let names = view.shown_places(view.node_index[&backup]);
        if names != [view.places[fact.place.at()].class] {
            return false;
        }
        let stood = fact.clone();
        let (Ok(new), Ok(old)) = (self.own(source), self.own(backup)) else { return false };
        self.leave_copies_of(old);
        self.promote_copies_of(new);
        self.view.update();
        let places = (self.view.shown_places(new), self.view.shown_places(old));
        let ([new_place], [old_place]) = (&places.0[..], &places.1[..]) else { return false };
        self.named.insert((stood.dir, stood.name.clone()));
        self.replace_content(old, *old_place, new, *new_place);
        self.take_place_again(stood);
        self.view.local.moved.remove(&backup);
        self.revive_dir(self.view.home(dir));
        self.revive_dir(self.view.home(backup_dir));
        true
    }

    /// Whether a file that is renamed to a free name is the end of a save that removed the old one first.
    pub(super) fn save_by_removal(&mut self, source: InodeId, from_dir: NodeIx, to_dir: NodeIx, to: &Name) -> bool {
        from_dir == to_dir && self.is_save_under_way(source, to_dir) && self.save_anew(source, to_dir, to)
    }

    /// Whether a file was created here, in this directory, lately, has one name and one text that is no merge, and nobody else
    /// has said anything of it.
    fn is_save_under_way(&self, inode: InodeId, dir: NodeIx) -> bool {
        let view = &*self.view;
        let Some(fact) = view.local.created.get(&inode) else { return false };
        let Some(node) = view.node_index.get(&inode).copied() else { return false };
        let state = &view.nodes[node.at()];
        self.now_ms.saturating_sub(fact.then_ms) < SAVE_WINDOW_MS
            && view.node_index.get(&fact.dir).is_some_and(|created| view.home(*created) == dir)
            && state.class == node
            && state.places.len() == 1
            && view.records_on(node) == fact.records
            && view.content_heads(node).len() == 1
            && self.is_file_of_one_name(inode)
    }

    fn is_file_of_one_name(&self, inode: InodeId) -> bool {
        let node = self.view.node(inode);
        node.is_some_and(|node| node.kind == Kind::File && node.nlink == 1 && node.inode == inode)
    }

    /// Gives the old inode the content and attributes of the new one, which becomes one with it.
    fn replace_content(&mut self, old: NodeIx, old_place: PlaceIx, new: NodeIx, new_place: PlaceIx) {
        let view = &*self.view;
        let old_heads = if view.is_pending(old) { self.settled_heads(old) } else { view.content_heads(old) };
        let new_heads = view.content_heads(new);
        let settled: Vec<RecIx> = old_heads.iter().chain(&new_heads).copied().collect();
        let mut edit: Content = view.content_record(old, old_place, &self.device, &settled);
        edit.saw = view.left_beside(old, &settled);
        let saved = view.content_record(new, new_place, &self.device, &[]);
        (edit.bytes, edit.bytes_stamp) = (saved.bytes, None);
        (edit.mtime, edit.mtime_stamp) = (saved.mtime, None);
        if edit.mode != saved.mode {
            (edit.mode, edit.mode_stamp) = (saved.mode, None);
        }
        if edit.owner != saved.owner {
            (edit.owner, edit.owner_stamp) = (saved.owner, None);
        }
        if edit.xattrs != saved.xattrs {
            (edit.xattrs, edit.xattrs_stamp) = (saved.xattrs, None);
        }
        let into = view.places[old_place.at()].id;
        let stamps = view.ids(&new_heads.iter().map(|head| view.version_of(*head)).collect::<Vec<_>>());
        if let Some(bytes) = &edit.bytes {
            self.pin_equals(old, bytes);
        }
        let edit = self.emit(&Record::Content(edit));
        let mut seen: Vec<_> = stamps.into_iter().map(|stamp| (edit, stamp)).collect();
        seen.sort_unstable();
        let state = PlaceState::Merged { into, seen };
        let merged = self.view.place_record(new_place, &self.device, state, NewPosition::default());
        self.emit(&Record::Place(merged));
        self.view.update();
    }
}
