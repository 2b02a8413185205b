//! What the records of one place (or of a class of merged places) say: life, parent and name.

use super::View;
use super::arena::{Body, PlaceEval, PlaceIx, RecIx, State};
use super::graph::Equals;
use crate::name::Name;
use crate::node::Kind;

use super::arena::NodeIx;

/// The heads of a place class.
#[derive(Default)]
pub(super) struct PlaceHeads {
    /// Live records and births.
    pub(super) live: Vec<RecIx>,
    /// Deletions.
    pub(super) deleted: Vec<RecIx>,
}

impl PlaceHeads {
    /// Those that the place's fields come from.
    pub(super) fn shown(&self) -> &[RecIx] {
        if self.live.is_empty() { &self.deleted } else { &self.live }
    }
}

impl View {
    /// Evaluates a place class again.
    pub(super) fn update_place(&mut self, root: PlaceIx) {
        if self.places[root.at()].class != root {
            return;
        }
        let eval = self.eval_place(root);
        // Where a displaced directory goes instead depends on all of its records.
        if let Some(node) = self.node_of(root).filter(|node| self.displaced.contains_key(node)) {
            self.dirty.edges.insert(node);
        }
        // So does which of a file's names comes first.
        if let Some(node) = self.node_of(root).filter(|node| self.copies_of.contains_key(node)) {
            self.dirty.copies.insert(node);
        }
        if eval == self.places[root.at()].eval {
            return;
        }
        let Some(node) = self.node_of(root) else {
            self.places[root.at()].eval = eval;
            return;
        };
        self.unregister(root);
        self.places[root.at()].eval = eval;
        self.dirty.claims.insert(root);
        self.dirty.nodes.insert(node);
        if self.nodes[node.at()].kind == Some(Kind::Dir) {
            self.dirty.edges.insert(node);
            let places = self.place_classes(node);
            self.dirty.claims.extend(places);
        }
    }

    /// The records of a place class that count: of the inode that the place names, not masked; where it stands by those that
    /// are, if something was built on them and nothing else says it.
    pub(super) fn place_records(&self, root: PlaceIx) -> Vec<RecIx> {
        let mut recs = Vec::new();
        for member in self.place_members(root) {
            let place = &self.places[member.at()];
            recs.extend(place.recs.iter().copied().filter(|ix| {
                let Some(node) = place.node else { return false };
                self.counts_as_name(*ix, node)
                    && match &self.rec(*ix).body {
                        Body::Place(rec) => rec.node == node,
                        Body::Birth { node: born, .. } => *born == node,
                        Body::Pin(_) => true,
                        Body::Content(_) | Body::Void => false,
                    }
            }));
        }
        recs
    }

    /// Whether a record is of a place in the class.
    fn is_of_place_class(&self, ix: RecIx, root: PlaceIx) -> bool {
        match &self.rec(ix).body {
            Body::Place(rec) => {
                let place = &self.places[rec.place.at()];
                place.class == root && place.node == Some(rec.node)
            }
            _ => false,
        }
    }

    pub(super) fn place_heads(&self, root: PlaceIx, recs: &[RecIx]) -> PlaceHeads {
        let mut heads = PlaceHeads::default();
        for &ix in recs {
            let list = match &self.rec(ix).body {
                Body::Birth { .. } => &mut heads.live,
                Body::Place(rec) => match rec.state {
                    State::Live => &mut heads.live,
                    State::Deleted(_) => &mut heads.deleted,
                    State::Merged { .. } => continue,
                },
                _ => continue,
            };
            if recs.len() == 1 || !self.is_replaced(ix, &|by| self.is_of_place_class(by, root)) {
                list.push(ix);
            }
        }
        if heads.live.is_empty() && heads.deleted.is_empty() {
            // Only merges into nowhere: the last statement of a user stands.
            let said = recs
                .iter()
                .copied()
                .filter(|ix| matches!(self.place_rec(*ix), Some(rec) if !matches!(rec.state, State::Merged { .. })));
            let last = said.max_by_key(|ix| (self.rec(*ix).depth, self.rec(*ix).id));
            heads.live.extend(last);
        }
        heads
    }

    fn eval_place(&self, root: PlaceIx) -> Option<PlaceEval> {
        let recs = self.place_records(root);
        let heads = self.place_heads(root, &recs);
        if heads.shown().is_empty() {
            return None;
        }
        let ranked = self.rank(heads.shown(), &Equals::new());
        let with_fields: Vec<_> = ranked.iter().copied().filter(|ix| self.place_rec(*ix).is_some()).collect();
        let live = heads.live.iter().any(|ix| !self.masked.contains(ix));
        let mut eval = if with_fields.is_empty() {
            let (parent, name) = self.birth_position(ranked[0]);
            PlaceEval { live, parent, name, top: ranked[0], pinned: false, created: false, moved: false }
        } else {
            let stamps =
                |field: usize| with_fields.iter().map(|ix| (self.place_stamp(*ix, field), *ix)).collect::<Vec<_>>();
            let (parents, names) = (stamps(0), stamps(1));
            let (parent, name) = (self.winning_stamp(&parents), self.winning_stamp(&names));
            let moved = !self.is_root(self.place_stamp(parent, 0));
            let created = !moved && self.is_root(self.place_stamp(name, 1));
            PlaceEval {
                live,
                parent: self.place_rec(parent).map_or(NodeIx::ROOT, |rec| rec.parent),
                name: self.place_rec(name).map(|rec| rec.name.clone()).expect("a record with fields"),
                top: ranked[0],
                pinned: false,
                created,
                moved,
            }
        };
        if let Some((parent, name)) = self.valid_pin(&recs, &heads) {
            (eval.parent, eval.name) = (parent, name);
            (eval.pinned, eval.created, eval.moved) = (true, false, true);
        }
        Some(eval)
    }

    /// The record that set the parent (0) or the name (1) of a place record.
    pub(super) fn place_stamp(&self, ix: RecIx, field: usize) -> RecIx {
        self.place_rec(ix).and_then(|rec| rec.stamps.as_ref()?[field]).unwrap_or(ix)
    }

    /// Where the pin that counts shows the place: one that covers all of the user's heads, and that no other such saw.
    fn valid_pin(&self, recs: &[RecIx], heads: &PlaceHeads) -> Option<(NodeIx, Name)> {
        let said: Vec<_> =
            heads.live.iter().chain(&heads.deleted).filter(|ix| self.place_rec(**ix).is_some()).collect();
        let pins: Vec<_> = recs
            .iter()
            .copied()
            .filter(|ix| match &self.rec(*ix).body {
                Body::Pin(pin) => said.iter().all(|head| pin.covers.contains(head)),
                _ => false,
            })
            .collect();
        let unseen = |ix: &RecIx| {
            !pins.iter().any(|other| matches!(&self.rec(*other).body, Body::Pin(pin) if pin.saw.contains(ix)))
        };
        let best = pins.iter().copied().filter(unseen).max_by_key(|ix| self.rec(*ix).id)?;
        match &self.rec(best).body {
            Body::Pin(pin) => Some((pin.parent, pin.name.clone())),
            _ => None,
        }
    }

    /// Where a birth stands that no pin speaks of (its author's pin is masked, or was never made).
    fn birth_position(&self, birth: RecIx) -> (NodeIx, Name) {
        let Body::Birth { version, .. } = self.rec(birth).body else {
            return (NodeIx::ROOT, Name::try_from("recovered").expect("a legal name"));
        };
        let device = self.content_rec(version).map_or(0, |rec| rec.device);
        let base = Name::try_from("recovered").expect("a legal name");
        (
            NodeIx::ROOT,
            super::suffix::suffixed(&base, &self.devices[device as usize], &self.rec(version).id.to_string()[..8]),
        )
    }
}
