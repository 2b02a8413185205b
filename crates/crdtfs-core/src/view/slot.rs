//! Slots: who has a name that several entries want; twins and unions, which have it together.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use super::arena::{Claimant, ManySlot, NodeIx, PlaceIx, RecIx, Slot, Want};
use super::graph::Equals;
use crate::id::RecordId;
use crate::name::Name;
use crate::node::Kind;

impl Slot {
    /// The claims, of a slot that is resolved again afterwards.
    pub(super) fn claims_mut(&mut self) -> &mut Vec<PlaceIx> {
        if let Self::One(place) = self {
            *self = Self::Many(Box::new(ManySlot { claims: vec![*place], groups: vec![vec![*place]] }));
        }
        match self {
            Self::Many(many) => &mut many.claims,
            Self::One(_) => unreachable!("just made one of several claims"),
        }
    }

    /// The place that has the name.
    pub(super) fn holder(&self) -> Option<PlaceIx> {
        match self {
            Self::One(place) => Some(*place),
            Self::Many(many) => many.groups.first().map(|group| group[0]),
        }
    }
}

impl View {
    /// The groups of claims, one entry each, of the name that a standing place claims, if several want it.
    pub(super) fn groups_at(&self, place: PlaceIx) -> Option<&[Vec<PlaceIx>]> {
        let state = &self.places[place.at()];
        let dir = self.nodes[state.claim?.dir.at()].dir.as_ref()?;
        match dir.slots.get(&state.eval.as_ref()?.name)? {
            Slot::Many(many) => Some(&many.groups),
            Slot::One(_) => None,
        }
    }

    /// Whether several claim a name.
    pub(super) fn is_contested(&self, dir: NodeIx, name: &Name) -> bool {
        let slot = self.nodes[dir.at()].dir.as_ref().and_then(|data| data.slots.get(name));
        matches!(slot, Some(Slot::Many(_)))
    }

    /// Decides again who has a name.
    pub(super) fn update_slot(&mut self, dir: NodeIx, name: &Name) {
        let slot = self.nodes[dir.at()].dir.as_ref().and_then(|data| data.slots.get(name));
        let Some(Slot::Many(many)) = slot else { return };
        let (claims, old) = (many.claims.clone(), many.groups.clone());
        let new = self.group_claims(&claims);
        if old == new && claims.len() > 1 {
            self.show_groups(dir, name, &new);
            return;
        }
        self.touch_entry(dir, name);
        let mut nodes: BTreeSet<NodeIx> = BTreeSet::new();
        for &place in old.iter().flatten().chain(&claims) {
            nodes.extend(self.node_of(place));
        }
        for node in nodes {
            self.touch_node(node);
            self.touch_node(self.nodes[node.at()].alias);
        }
        self.touch_node(dir);
        let mut bonded = BTreeSet::new();
        self.bond(&old, false, &mut bonded);
        for group in old.iter().skip(1) {
            self.drop_want(dir, Claimant::Place(group[0]), Some(name));
        }
        let data = self.nodes[dir.at()].dir.as_mut().expect("the slot's directory");
        match claims[..] {
            [] => {
                data.slots.remove(name);
            }
            [place] => {
                data.slots.insert(name.clone(), Slot::One(place));
            }
            _ => {
                if let Some(Slot::Many(many)) = data.slots.get_mut(name) {
                    many.groups = new.clone();
                }
            }
        }
        self.bond(&new, true, &mut bonded);
        self.show_groups(dir, name, &new);
        self.update_aliases(&bonded);
    }

    /// Sets which claims are hidden behind another, and who wants a suffix.
    fn show_groups(&mut self, dir: NodeIx, name: &Name, groups: &[Vec<PlaceIx>]) {
        for (i, group) in groups.iter().enumerate() {
            for (j, &place) in group.iter().enumerate() {
                let hidden = j > 0;
                let claim = self.places[place.at()].claim.as_mut().expect("a slot has standing claims");
                if claim.hidden != hidden {
                    claim.hidden = hidden;
                    let is_dir = claim.is_dir;
                    let data = self.nodes[dir.at()].dir.as_mut().expect("the slot's directory");
                    match (is_dir, hidden) {
                        (true, true) => data.subdirs -= 1,
                        (true, false) => data.subdirs += 1,
                        _ => {}
                    }
                }
            }
            if i > 0 {
                let version = self.version_of_group(group);
                let want = Want { base: name.clone(), device: self.device_of(version), id: self.rec(version).id.0 };
                self.set_want(dir, Claimant::Place(group[0]), want);
            }
        }
    }

    /// The version that a group of standing places shows, which gives it its suffix: the record that set the bytes, or made
    /// what has none; of several the one that ranks highest. That they are one, or become one for good, changes nothing.
    fn version_of_group(&self, group: &[PlaceIx]) -> RecIx {
        let nodes: BTreeSet<_> = group.iter().filter_map(|place| self.node_of(*place)).collect();
        let versions: Vec<_> = nodes.iter().flat_map(|node| self.shown_versions(*node)).collect();
        let top = || self.places[group[0].at()].eval.as_ref().expect("a standing claim").top;
        self.rank(&versions, &Equals::new()).first().copied().unwrap_or_else(top)
    }

    /// The version that a suffixed entry shows.
    pub(super) fn version_at(&self, place: PlaceIx) -> Option<RecIx> {
        let group = self.groups_at(place)?.iter().find(|group| group.contains(&place))?;
        Some(self.version_of_group(group))
    }

    /// The device name that a record carries, as an index.
    pub(super) fn device_of(&self, rec: RecIx) -> u32 {
        use super::arena::Body;
        match &self.rec(rec).body {
            Body::Place(rec) => rec.device,
            Body::Content(rec) => rec.device,
            Body::Birth { version, .. } => self.content_rec(*version).map_or(0, |rec| rec.device),
            Body::Pin(_) | Body::Void => 0,
        }
    }

    /// Claims of one name as groups that are one entry each, in the order in which they get the name.
    fn group_claims(&self, claims: &[PlaceIx]) -> Vec<Vec<PlaceIx>> {
        let mut groups: Vec<Vec<PlaceIx>> = Vec::new();
        let mut sorted = claims.to_vec();
        sorted.sort_unstable_by_key(|place| {
            let node = self.node_of(*place).map(|node| self.nodes[node.at()].id);
            (node, self.places[place.at()].id)
        });
        for place in sorted {
            match groups.iter_mut().find(|group| group.iter().any(|other| self.are_one(*other, place))) {
                Some(group) => group.push(place),
                None => groups.push(vec![place]),
            }
        }
        groups.sort_by_cached_key(|group| {
            let best = group.iter().map(|place| self.name_rank(*place)).max();
            std::cmp::Reverse(best)
        });
        groups
    }

    /// Who keeps a contested name: directory, then live before revived, then rank. The greatest does.
    fn name_rank(&self, place: PlaceIx) -> (bool, bool, RecordId) {
        let is_dir = self.node_of(place).is_some_and(|node| self.nodes[node.at()].kind == Some(Kind::Dir));
        let eval = self.places[place.at()].eval.as_ref().expect("a standing claim");
        (is_dir, eval.live, self.rec(eval.top).id)
    }

    /// Whether two claims of one name are shown as one entry: places of one inode, twins, or directories created under
    /// the name and never moved.
    fn are_one(&self, a: PlaceIx, b: PlaceIx) -> bool {
        let (Some(node_a), Some(node_b)) = (self.node_of(a), self.node_of(b)) else { return false };
        if node_a == node_b {
            return true;
        }
        let (Some(eval_a), Some(eval_b)) = (&self.places[a.at()].eval, &self.places[b.at()].eval) else { return false };
        if eval_a.pinned || eval_b.pinned || self.nodes[node_a.at()].kind != self.nodes[node_b.at()].kind {
            return false;
        }
        if self.nodes[node_a.at()].kind == Some(Kind::Dir) {
            let moved = self.displaced.contains_key(&node_a) || self.displaced.contains_key(&node_b);
            return eval_a.created && eval_b.created && !moved;
        }
        self.twin_key(node_a).is_some_and(|key| self.twin_key(node_b) == Some(key))
    }

    /// Makes (or takes back) the bonds of the inodes that groups show as one.
    fn bond(&mut self, groups: &[Vec<PlaceIx>], make: bool, touched: &mut BTreeSet<NodeIx>) {
        for group in groups {
            let Some(first) = self.node_of(group[0]) else { continue };
            for &other in &group[1..] {
                let Some(other) = self.node_of(other).filter(|other| *other != first) else { continue };
                for (a, b) in [(first, other), (other, first)] {
                    touched.insert(a);
                    let count = self.bonds.entry(a).or_default().entry(b).or_default();
                    *count = if make { *count + 1 } else { count.saturating_sub(1) };
                    if *count == 0 {
                        let neighbours = self.bonds.get_mut(&a).expect("just used");
                        neighbours.remove(&b);
                        if neighbours.is_empty() {
                            self.bonds.remove(&a);
                        }
                    }
                }
            }
        }
    }

    /// All nodes that are shown as one inode with this one.
    pub(super) fn bonded(&self, node: NodeIx) -> BTreeSet<NodeIx> {
        let mut found = BTreeSet::from([node]);
        let mut stack = vec![node];
        while let Some(at) = stack.pop() {
            for &next in self.bonds.get(&at).map(BTreeMap::keys).into_iter().flatten() {
                if found.insert(next) {
                    stack.push(next);
                }
            }
        }
        found
    }

    /// Chooses again who stands for each of these nodes, and moves what stands in directories.
    fn update_aliases(&mut self, nodes: &BTreeSet<NodeIx>) {
        let mut done = BTreeSet::new();
        for &node in nodes {
            if done.contains(&node) {
                continue;
            }
            let group = self.bonded(node);
            let alias = *group.iter().min_by_key(|node| self.nodes[node.at()].id).expect("the node itself");
            for &member in &group {
                done.insert(member);
                let old = self.nodes[member.at()].alias;
                if old != alias {
                    self.touch_names(member);
                    self.former_homes.entry(member).or_default().insert(old);
                    self.nodes[member.at()].alias = alias;
                    let children = self.children_of(member);
                    self.dirty.claims.extend(children);
                }
            }
        }
    }
}
