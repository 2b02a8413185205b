//! Directories that were moved into each other: one edge of every cycle gives way.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use super::arena::{NodeIx, PlaceIx, RecIx, State};
use crate::id::RecordId;
use crate::node::Kind;

impl View {
    /// The place class that stands for a directory in the tree.
    pub(super) fn primary(&self, dir: NodeIx) -> Option<PlaceIx> {
        let places = self.place_classes(dir);
        match places[..] {
            [] => None,
            [place] => Some(place),
            _ => places
                .into_iter()
                .find(|place| self.is_live(*place))
                .or_else(|| self.place_classes(dir).into_iter().find(|place| self.places[place.at()].eval.is_some())),
        }
    }

    pub(super) fn is_live(&self, place: PlaceIx) -> bool {
        self.places[place.at()].eval.as_ref().is_some_and(|eval| eval.live)
    }

    /// The class root of a directory that records name as a parent; the root for anything that is no directory.
    pub(super) fn as_dir(&self, node: NodeIx) -> NodeIx {
        let class = self.nodes[node.at()].class;
        if self.nodes[class.at()].kind == Some(Kind::Dir) { class } else { NodeIx::ROOT }
    }

    /// The parent of a directory by its records.
    pub(super) fn raw_parent(&self, dir: NodeIx) -> NodeIx {
        let eval = self.primary(dir).and_then(|place| self.places[place.at()].eval.as_ref());
        eval.map_or(NodeIx::ROOT, |eval| self.as_dir(eval.parent))
    }

    /// Finds the cycles again that directories with changed edges are in.
    pub(super) fn update_cycles(&mut self) {
        let old = std::mem::take(&mut self.displaced);
        let mut starts: BTreeSet<_> = std::mem::take(&mut self.dirty.edges)
            .into_iter()
            .chain(old.keys().copied())
            .map(|node| self.nodes[node.at()].class)
            .filter(|node| self.nodes[node.at()].kind == Some(Kind::Dir))
            .collect();
        let mut tried: BTreeMap<NodeIx, BTreeSet<NodeIx>> = BTreeMap::new();
        let mut new: BTreeMap<NodeIx, NodeIx> = BTreeMap::new();
        loop {
            let cycles = self.cycles_above(&starts, &new);
            if cycles.is_empty() {
                break;
            }
            starts.clear();
            for cycle in cycles {
                let loser = cycle.iter().copied().min_by_key(|dir| self.edge_rank(*dir)).expect("a cycle has edges");
                let parent = new.get(&loser).copied().unwrap_or_else(|| self.raw_parent(loser));
                let tried = tried.entry(loser).or_default();
                tried.insert(parent);
                let parent = self.earlier_parent(loser, &cycle, tried);
                new.insert(loser, parent);
                starts.insert(loser);
            }
        }
        for dir in old.keys().chain(new.keys()).copied().collect::<BTreeSet<_>>() {
            if old.get(&dir) == new.get(&dir) {
                continue;
            }
            let Some(place) = self.primary(dir) else { continue };
            self.dirty.claims.insert(place);
            if let (Some(claim), Some(eval)) = (&self.places[place.at()].claim, &self.places[place.at()].eval) {
                self.dirty.slots.insert((claim.dir, eval.name.clone()));
            }
        }
        self.displaced = new;
    }

    /// The cycles that can be reached upward from these directories.
    fn cycles_above(&self, starts: &BTreeSet<NodeIx>, moved: &BTreeMap<NodeIx, NodeIx>) -> Vec<Vec<NodeIx>> {
        let mut done: BTreeSet<NodeIx> = BTreeSet::from([NodeIx::ROOT]);
        let mut cycles = Vec::new();
        for &start in starts {
            let mut path = Vec::new();
            let mut on_path = BTreeSet::new();
            let mut at = start;
            while !done.contains(&at) && on_path.insert(at) {
                path.push(at);
                at = moved.get(&at).copied().unwrap_or_else(|| self.raw_parent(at));
            }
            if !done.contains(&at) {
                let first = path.iter().position(|dir| *dir == at).unwrap_or(0);
                cycles.push(path[first..].to_vec());
            }
            done.extend(path);
        }
        cycles
    }

    /// The order in which edges give way: the smallest first. Those that nobody moved come last: it takes a move to make a
    /// cycle, and who moved nothing is not the one to be displaced.
    fn edge_rank(&self, dir: NodeIx) -> (bool, u32, RecordId) {
        let eval = self.primary(dir).and_then(|place| self.places[place.at()].eval.as_ref());
        eval.map_or((false, 0, RecordId([0; 16])), |eval| {
            let top = self.rec(eval.top);
            (!eval.moved, top.depth, top.id)
        })
    }

    /// The latest parent that a directory had before, outside the cycle; else the root.
    fn earlier_parent(&self, dir: NodeIx, cycle: &[NodeIx], tried: &BTreeSet<NodeIx>) -> NodeIx {
        let Some(place) = self.primary(dir) else { return NodeIx::ROOT };
        let candidates = self.place_records(place).into_iter().filter_map(|ix: RecIx| {
            let rec = self.place_rec(ix)?;
            let parent = self.as_dir(rec.parent);
            let fits =
                !matches!(rec.state, State::Merged { .. }) && !cycle.contains(&parent) && !tried.contains(&parent);
            fits.then(|| (self.rec(ix).depth, self.rec(ix).id, parent))
        });
        candidates.max_by_key(|(depth, id, _)| (*depth, *id)).map_or(NodeIx::ROOT, |(_, _, parent)| parent)
    }
}
