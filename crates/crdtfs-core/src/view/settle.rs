//! What an operation writes down besides itself, so that nothing moves that nobody moved: promotions of conflict copies,
//! merges of what is shown as one, and pins.

use std::collections::BTreeSet;

use super::View;
use super::arena::{Claimant, CopyEval, NodeIx, PlaceIx};
use super::mutation::Mutation;
use super::plan::Planner;
use super::record_of::NewPosition;
use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::Kind;
use crate::record::{Birth, Pin, Place, PlaceState, Record, birth_id};

/// How often pins are looked for again: each round pins what the one before disturbed.
const MAX_ROUNDS: usize = 32;

impl View {
    /// Brings the evaluation of places up to date, without moving anything.
    pub(super) fn update_places(&mut self) {
        if !self.dirty.all {
            while let Some(place) = self.dirty.places.pop_first() {
                self.update_place(place);
            }
        }
    }
}

impl Planner<'_> {
    /// Brings the view up to date and pins every entry that left its place without being named, until none does, or nothing
    /// helps.
    pub(super) fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            self.view.update();
            let disturbed = self.disturbed();
            let written = self.records.len();
            self.revive_gone(&disturbed);
            if self.records.len() > written {
                // What stood in them may be where it was again.
                continue;
            }
            for (dir, name, claimant) in disturbed {
                match claimant {
                    Claimant::Copy(id) => self.promote_at(id, dir, &name),
                    Claimant::Place(place) => {
                        // Pinned, it is one with no other by its name alone any more.
                        if let Some(node) = self.view.node_of(place) {
                            self.merge_united(node);
                        }
                        if !self.is_pinned_at(place, dir, &name) {
                            self.pin(place, dir, &name);
                        }
                    }
                }
            }
            if self.records.len() == written {
                return;
            }
        }
        self.view.update();
    }

    /// Makes directories live that were only shown because of what stood in them, and are gone: no pin gives life, and what they
    /// were shown as one with would be another directory.
    fn revive_gone(&mut self, disturbed: &[(InodeId, Name, Claimant)]) {
        for (.., claimant) in disturbed {
            let Claimant::Place(place) = claimant else { continue };
            let view = &*self.view;
            let Some(node) = view.node_of(*place).filter(|node| view.nodes[node.at()].kind == Some(Kind::Dir)) else {
                continue;
            };
            if view.primary(node).is_some_and(|place| view.places[place.at()].claim.is_none()) {
                self.revive_dir(node);
                self.view.update();
            }
        }
    }

    /// Whether the pin that counts has a place there already: the same again would change nothing.
    fn is_pinned_at(&self, place: PlaceIx, dir: InodeId, name: &Name) -> bool {
        let view = &*self.view;
        let eval = view.places[view.places[place.at()].class.at()].eval.as_ref();
        eval.filter(|eval| eval.pinned && eval.name == *name).is_some_and(|eval| {
            view.node_index.get(&dir).is_some_and(|dir| view.home(*dir) == view.home(view.as_dir(eval.parent)))
        })
    }

    /// Entries that the operation did not name and that are not where they were.
    fn disturbed(&self) -> Vec<(InodeId, Name, Claimant)> {
        let view = &*self.view;
        let left = view.changed_entries().into_iter().filter_map(|(dir, name, before, after)| {
            let (inode, claimant) = before?;
            if self.named.contains(&(dir, name.clone())) {
                return None;
            }
            let stays = match after {
                Some((now, _)) => now == inode || view.node(inode).is_some_and(|node| node.inode == now),
                None => false,
            };
            // What its directory was shown as may have changed with a merge; then the entry is found there.
            let moved_along = || {
                let home = view.node_index.get(&dir).map(|dir| view.home(*dir));
                home.and_then(|home| view.lookup(home, name.as_bytes())).is_some_and(|(now, _)| now == inode)
            };
            (!stays && !moved_along()).then_some((dir, name, claimant))
        });
        left.collect()
    }

    /// Pins a place where it was shown.
    pub(super) fn pin(&mut self, place: PlaceIx, dir: InodeId, name: &Name) {
        let root = self.view.places[place.at()].class;
        let Some(eval) = self.view.places[root.at()].eval.as_ref().filter(|_| !self.view.lacks(Mutation::Pins)) else {
            return;
        };
        let dir = self.part_of(dir, eval.parent);
        let record = self.view.pin_record(root, dir, name.clone());
        self.emit(&Record::Pin(record));
    }

    /// Of several directories that are shown as `dir`, the one that an entry stands in: a union may be taken apart again.
    fn part_of(&self, dir: InodeId, parent: NodeIx) -> InodeId {
        let own = self.view.as_dir(parent);
        let same = self.view.node_index.get(&dir).is_some_and(|dir| self.view.home(*dir) == self.view.home(own));
        if same { self.view.nodes[own.at()].id } else { dir }
    }

    /// Pins the names of a node that it only has because another has its own.
    pub(super) fn pin_suffixed(&mut self, node: NodeIx) {
        for place in self.view.place_classes(node) {
            if let Some((dir, name)) = self.view.suffix_names.get(&Claimant::Place(place)).cloned() {
                let dir = self.view.nodes[dir.at()].id;
                self.pin(place, dir, &name);
            }
        }
    }

    /// Pins the entries that have a suffixed name beside a file, and the bytes that it is about to get: they would be one with it,
    /// and were others to who wrote it.
    pub(super) fn pin_equals(&mut self, node: NodeIx, bytes: &ContentRef) {
        let view = &*self.view;
        let mut equal = Vec::new();
        for place in view.place_classes(node) {
            let Some(groups) = view.groups_at(place) else { continue };
            let others =
                groups.iter().filter(|group| !group.contains(&place)).filter_map(|group| view.node_of(group[0]));
            equal.extend(others.filter(|other| view.twin_key(*other).is_some_and(|key| key == bytes.hash.0)));
        }
        for other in equal {
            self.merge_united(other);
            self.pin_suffixed(self.view.home(other));
        }
    }

    /// Makes a conflict copy an inode of its own, under the name that it has; anything else stays as it is.
    pub(super) fn promote(&mut self, id: InodeId) {
        if let Some((dir, name)) = self.view.suffix_names.get(&Claimant::Copy(id)).cloned() {
            let dir = self.view.nodes[dir.at()].id;
            self.promote_at(id, dir, &name);
        }
    }

    /// Makes all conflict copies of a node inodes of their own.
    pub(super) fn promote_copies_of(&mut self, node: NodeIx) {
        let class = self.view.nodes[node.at()].class;
        for id in self.view.copies_of.get(&class).cloned().unwrap_or_default() {
            self.promote(id);
        }
    }

    /// Makes all conflict copies of a node that is about to be edited inodes of their own. While it waits for bytes nobody knows
    /// whether they are any: what it may yet be merged with stays a version of it.
    pub(super) fn leave_copies_of(&mut self, node: NodeIx) {
        if !self.view.is_pending(node) {
            self.promote_copies_of(node);
        }
    }

    fn promote_at(&mut self, id: InodeId, dir: InodeId, name: &Name) {
        let Some(state) = self.view.copies.get(&id).cloned() else { return };
        if self.view.lacks(Mutation::Promotion) {
            return;
        }
        let copy = state.copy;
        let origin = self.view.nodes[copy.origin.at()].id;
        let version = self.view.rec(copy.version).id;
        let dir = self.part_of(dir, state.parent);
        self.emit(&Record::Birth(Birth { origin, version }));
        let pin = Pin { place: PlaceId(id.0), covers: Vec::new(), parent: dir, name: name.clone(), saw: Vec::new() };
        self.emit(&Record::Pin(pin));
        self.promote_equals(&copy, dir, name);
        // What was set on the version besides its bytes goes with it.
        if copy.heads[0] != copy.version {
            let node = self.view.node_index[&id];
            let place = self.view.place_index[&PlaceId(id.0)];
            let mut record = self.view.content_record(node, place, &self.device, &[copy.version]);
            self.view.copy_fields(&mut record, [copy.heads[0]; 5]);
            self.emit(&Record::Content(record));
        }
    }

    /// Versions of the same bytes are one copy: each is born, and becomes one with the first.
    fn promote_equals(&mut self, copy: &CopyEval, dir: InodeId, name: &Name) {
        let first = self.view.rec(copy.version).id;
        let versions: BTreeSet<_> = copy.heads.iter().map(|head| self.view.version_of(*head)).collect();
        for version in versions.into_iter().filter(|version| *version != copy.version) {
            let Some(node) = self.view.content_rec(version).map(|rec| rec.node) else { continue };
            let birth = Birth { origin: self.view.nodes[node.at()].id, version: self.view.rec(version).id };
            let born = birth_id(&birth.origin, &birth.version);
            let mut pair = [(first, birth.version)];
            pair.sort_unstable();
            let id = self.emit(&Record::Birth(birth));
            self.emit(&Record::Place(Place {
                place: PlaceId(born),
                inode: InodeId(born),
                kind: Kind::File,
                parent: dir,
                parent_stamp: None,
                name: name.clone(),
                name_stamp: None,
                device: self.device.clone(),
                state: PlaceState::Merged { into: PlaceId(copy.id.0), seen: pair.to_vec() },
                replaces: vec![id],
                saw: Vec::new(),
            }));
        }
    }

    /// Writes down that all that is shown as one inode with this one is one, for good.
    pub(super) fn merge_united(&mut self, node: NodeIx) {
        if self.view.lacks(Mutation::TwinAdoption) {
            return;
        }
        for _ in 0..MAX_ROUNDS {
            let Some((from, into)) = self.united_pair(node) else { return };
            // One of them may have come back after a deletion, which took other versions of it for good.
            self.live_again(from);
            self.live_again(into);
            self.view.update();
            let view = &*self.view;
            let (from_id, into_id) = (view.places[from.at()].id, view.places[into.at()].id);
            let state = PlaceState::Merged { into: into_id, seen: self.equal_versions(from, into) };
            let record = view.place_record(from, &self.device, state, NewPosition::default());
            debug_assert!(record.place == from_id);
            self.emit(&Record::Place(record));
            self.view.update();
        }
    }

    /// A place that is hidden behind another of the node or of what is shown as one with it, and that other.
    fn united_pair(&self, node: NodeIx) -> Option<(PlaceIx, PlaceIx)> {
        let view = &*self.view;
        for member in view.bonded(view.home(node)) {
            for place in view.place_classes(member) {
                let Some(groups) = view.groups_at(place) else { continue };
                if let Some(group) = groups.iter().find(|group| group.len() > 1 && group.contains(&place)) {
                    return Some((group[1], group[0]));
                }
            }
        }
        None
    }

    /// The pairs of versions by which two places show the same bytes.
    fn equal_versions(&self, a: PlaceIx, b: PlaceIx) -> Vec<(RecordId, RecordId)> {
        let versions = |place: PlaceIx| -> Option<Vec<RecordId>> {
            let node = self.view.node_of(place)?;
            let shown = self.view.bytes_of(&self.view.nodes[node.at()].eval)?;
            let versions: Vec<_> =
                self.view.shown_heads(node).into_iter().map(|head| self.view.version_of(head)).collect();
            let same = versions.into_iter().filter(|version| {
                let bytes = self.view.content_rec(*version).and_then(|rec| rec.bytes.as_deref());
                bytes.is_some_and(|bytes| bytes.hash == shown.hash)
            });
            Some(self.view.ids(&same.collect::<Vec<_>>()))
        };
        if self.view.node_of(a) == self.view.node_of(b) {
            return Vec::new();
        }
        let (Some(a), Some(b)) = (versions(a), versions(b)) else { return Vec::new() };
        let mut pairs: Vec<_> = a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).collect();
        pairs.sort_unstable();
        pairs
    }

    /// Before a directory goes into `dir`: pins every directory above that a broken cycle displaced, where it is shown,
    /// so that the new edge does not decide the cycle another way.
    pub(super) fn pin_displaced(&mut self, dir: NodeIx) {
        if self.view.displaced.is_empty() {
            return;
        }
        let mut seen = BTreeSet::new();
        let mut at = dir;
        while at != NodeIx::ROOT && seen.insert(at) {
            if self.view.displaced.contains_key(&at)
                && let Some(place) = self.view.primary(at)
                && let Some((home, name)) = self.view.shown_name(place)
            {
                let home = self.view.nodes[home.at()].id;
                self.pin(place, home, &name);
            }
            at = self.view.raw_parent(at);
        }
        self.view.update();
    }
}
