//! Classes: places, and with them inodes, that `merged` records made one for good.

use std::collections::BTreeSet;

use super::View;
use super::arena::{NodeEval, NodeIx, PlaceIx, RecIx, State};

impl View {
    /// Makes one of the two places that a `merged` record names. Without effect if the record is masked, or if the places
    /// are of different kinds.
    pub(super) fn unite_classes(&mut self, rec: RecIx) {
        let Some(body) = self.place_rec(rec) else { return };
        let State::Merged { into, .. } = body.state else { return };
        let place = body.place;
        if self.masked.contains(&rec) {
            return;
        }
        let (Some(a), Some(b)) = (self.places[place.at()].node, self.places[into.at()].node) else {
            self.early_merges.insert(into);
            let class = self.node_of(place);
            self.dirty.all |= class.is_some_and(|class| self.node_members(class).len() > 1);
            return;
        };
        if self.nodes[a.at()].kind != self.nodes[b.at()].kind {
            // Without effect, but it has a say in who represents a class that there is already.
            self.dirty.all |= self.node_members(self.nodes[a.at()].class).len() > 1;
            return;
        }
        self.withdraw(a);
        self.withdraw(b);
        self.join_places(place, into);
        self.join_nodes(a, b);
        let class = self.nodes[a.at()].class;
        self.dirty.nodes.insert(class);
        for member in self.node_members(class) {
            let places: Vec<_> = self.nodes[member.at()].places.clone();
            self.dirty.places.extend(places.into_iter().map(|place| self.places[place.at()].class));
        }
        self.dirty.edges.insert(class);
        let roots: Vec<_> = self.place_classes(class);
        self.dirty.claims.extend(roots);
    }

    /// Makes everything of an inode, and what stands in it, leave the tree, to be placed again.
    fn withdraw(&mut self, node: NodeIx) {
        let class = self.nodes[node.at()].class;
        let places: Vec<_> = self.place_classes(class);
        for child in self.children_of(class) {
            self.unregister(child);
            self.dirty.claims.insert(child);
        }
        for place in places {
            if let Some((dir, name)) = self.unregister(place) {
                self.update_slot(dir, &name);
                self.dirty.slots.remove(&(dir, name));
            }
        }
        self.touch_node(class);
        // While it can be seen what they are.
        self.touch_copies(class);
        for member in self.node_members(class) {
            self.dirty.edges.insert(member);
        }
        self.nodes[class.at()].eval = NodeEval::Nothing;
        self.set_wanted(class, &[]);
        self.update_copies(class);
    }

    fn join_places(&mut self, a: PlaceIx, b: PlaceIx) {
        let (a, b) = (self.places[a.at()].class, self.places[b.at()].class);
        let mut members: Vec<_> = self.place_members(a);
        if a != b {
            members.extend(self.place_members(b));
        }
        let root = members
            .iter()
            .copied()
            .min_by_key(|place| (self.is_merged(*place), self.places[place.at()].id))
            .expect("a class has members");
        for old in [a, b] {
            self.places[old.at()].members = None;
            self.places[old.at()].eval = None;
        }
        for &member in &members {
            self.places[member.at()].class = root;
        }
        self.places[root.at()].members = (members.len() > 1).then(|| members.into());
    }

    fn join_nodes(&mut self, a: NodeIx, b: NodeIx) {
        let (a, b) = (self.nodes[a.at()].class, self.nodes[b.at()].class);
        let mut members = self.node_members(a);
        if a != b {
            members.extend(self.node_members(b));
        }
        let merged = |node: &NodeIx| self.nodes[node.at()].places.iter().any(|place| self.is_merged(*place));
        let root = members
            .iter()
            .copied()
            .min_by_key(|node| (merged(node), self.nodes[node.at()].id))
            .expect("a class has members");
        for old in [a, b] {
            if let Some(extra) = &mut self.nodes[old.at()].extra {
                extra.members.clear();
            }
        }
        for &member in &members {
            self.nodes[member.at()].class = root;
            self.nodes[member.at()].alias = root;
        }
        if members.len() > 1 {
            self.nodes[root.at()].extra.get_or_insert_default().members = members;
        }
    }

    /// Whether a place has a `merged` record.
    pub(super) fn is_merged(&self, place: PlaceIx) -> bool {
        self.places[place.at()].recs.iter().any(|ix| {
            !self.masked.contains(ix)
                && matches!(self.place_rec(*ix), Some(rec) if matches!(rec.state, State::Merged { .. }))
        })
    }

    /// Takes all classes apart and joins them again by the records that count now.
    pub(super) fn rebuild_classes(&mut self) {
        for at in 0..self.places.len() {
            self.unregister(PlaceIx(u32::try_from(at).expect("an index")));
        }
        let holders: BTreeSet<_> = self.copies_of.keys().chain(self.wanting.keys()).copied().collect();
        for node in &mut self.nodes {
            node.eval = NodeEval::Nothing;
        }
        for node in holders {
            self.set_wanted(node, &[]);
            self.update_copies(node);
        }
        let slots: Vec<_> = std::mem::take(&mut self.dirty.slots).into_iter().collect();
        for (dir, name) in slots {
            self.update_slot(dir, &name);
        }
        self.displaced.clear();
        self.bonds.clear();
        self.early_merges.clear();
        for (ix, place) in self.places.iter_mut().enumerate() {
            place.class = PlaceIx(u32::try_from(ix).expect("an index"));
            place.members = None;
            place.eval = None;
        }
        for (ix, node) in self.nodes.iter_mut().enumerate() {
            node.class = NodeIx(u32::try_from(ix).expect("an index"));
            node.alias = node.class;
            if let Some(extra) = &mut node.extra {
                extra.members.clear();
            }
        }
        let merged: Vec<_> = (0..self.recs.len())
            .map(|ix| RecIx(u32::try_from(ix).expect("an index")))
            .filter(|ix| matches!(self.place_rec(*ix), Some(rec) if matches!(rec.state, State::Merged { .. })))
            .collect();
        for rec in merged {
            self.unite_classes(rec);
        }
        self.dirty.edges = self.roots_of_nodes();
    }

    /// Roots of the classes of an inode class's places, in order of their ids.
    pub(super) fn place_classes(&self, class: NodeIx) -> Vec<PlaceIx> {
        let node = &self.nodes[class.at()];
        if node.extra.as_ref().is_none_or(|extra| extra.members.is_empty()) && node.places.len() < 2 {
            return node.places.iter().map(|place| self.places[place.at()].class).collect();
        }
        let mut roots: Vec<_> = self
            .node_members(class)
            .iter()
            .flat_map(|member| &self.nodes[member.at()].places)
            .map(|place| self.places[place.at()].class)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        roots.sort_unstable_by_key(|place| self.places[place.at()].id);
        roots
    }

    /// The class root of the inode of a place class.
    pub(super) fn node_of(&self, place: PlaceIx) -> Option<NodeIx> {
        self.places[place.at()].node.map(|node| self.nodes[node.at()].class)
    }
}
