//! Records that membership masks, and what was built on them.
//!
//! A masked record says nothing and replaces nothing. What somebody built on it who may write stays all the same: an edit of a
//! file that a revoked device made, an entry in its directory, work on a conflict copy that it made a file of. An inode of which
//! no name counts stands where its masked names say, as if they had been removed: they give it a position, and no life.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use super::arena::{Body, NodeIx, RecIx, State};
use crate::id::RecordId;
use crate::node::Delta;

impl View {
    /// Sets the records that membership masks: they say nothing and replace nothing, but what others built on them
    /// stays. Replaces the set given before.
    pub fn set_masked(&mut self, masked: BTreeSet<RecordId>) -> Delta {
        if masked == self.masked_ids {
            return Delta::default();
        }
        self.masked = masked.iter().filter_map(|id| self.index.get(id)).copied().collect();
        self.masked_ids = masked;
        self.dirty.all = true;
        self.update();
        self.take_delta()
    }

    /// Lets a record count again, since somebody says the same who may; whether it was masked.
    pub(super) fn unmask(&mut self, id: &RecordId) -> bool {
        if !self.masked_ids.remove(id) {
            return false;
        }
        if let Some(ix) = self.index.get(id) {
            self.masked.remove(ix);
            self.dirty.all = true;
        }
        true
    }

    /// Finds the inodes with masked names that something was built on.
    pub(super) fn find_built_on(&mut self) {
        self.built_on.clear();
        // Each with the directories that it stands in by these names.
        let mut names: BTreeMap<NodeIx, Vec<NodeIx>> = BTreeMap::new();
        for &ix in &self.masked {
            match &self.rec(ix).body {
                Body::Place(rec) => names.entry(rec.node).or_default().push(rec.parent),
                Body::Birth { node, .. } => drop(names.entry(*node).or_default()),
                _ => {}
            }
        }
        if names.is_empty() {
            return;
        }
        let mut stack = Vec::new();
        for at in 0..self.recs.len() {
            let ix = RecIx(u32::try_from(at).expect("an index"));
            if !self.masked.contains(&ix) {
                stack.extend(self.built_by(ix).into_iter().flatten().filter(|node| names.contains_key(node)));
            }
        }
        while let Some(node) = stack.pop() {
            let Some(parents) = names.get(&node) else { continue };
            if self.built_on.insert(node) && self.names_of(node).all(|name| self.masked.contains(&name)) {
                stack.extend(parents);
            }
        }
    }

    /// The inodes that a record builds on.
    fn built_by(&self, ix: RecIx) -> [Option<NodeIx>; 2] {
        match &self.rec(ix).body {
            Body::Place(rec) => [Some(rec.node), Some(rec.parent)],
            Body::Content(rec) => [Some(rec.node), None],
            Body::Pin(rec) => [None, Some(rec.parent)],
            Body::Birth { .. } | Body::Void => [None; 2],
        }
    }

    /// Notes that a new record may have been built on masked ones, or may be one that something was built on. Only what decides
    /// anew where something stands costs a look at everything.
    pub(super) fn note_built_on(&mut self, ix: RecIx) {
        if self.masked_ids.is_empty() {
            return;
        }
        let of = match &self.rec(ix).body {
            Body::Place(rec) => Some((rec.node, false)),
            Body::Birth { node, .. } => Some((*node, true)),
            _ => None,
        };
        self.dirty.all |= if self.masked.contains(&ix) {
            of.is_some_and(|(node, is_birth)| {
                (is_birth || self.names_of(node).all(|name| self.masked.contains(&name)))
                    && (self.built_on.contains(&node) || self.has_honest_record(node))
            })
        } else {
            self.built_by(ix).into_iter().flatten().any(|node| {
                let is_new = !self.built_on.contains(&node);
                let is_name = of.is_some_and(|(of, _)| of == node);
                let mut others = self.names_of(node).filter(|name| *name != ix).peekable();
                let masked_birth = is_new && self.births_of(node).any(|birth| self.masked.contains(&birth));
                let masked_only = others.peek().is_some() && others.all(|name| self.masked.contains(&name));
                masked_birth || (masked_only && (is_new || is_name))
            })
        };
    }

    /// The records that give an inode a name, masked or not.
    fn names_of(&self, node: NodeIx) -> impl Iterator<Item = RecIx> {
        let recs = self.nodes[node.at()].places.iter().flat_map(|place| &self.places[place.at()].recs);
        recs.copied().filter(move |ix| match &self.rec(*ix).body {
            Body::Place(rec) => rec.node == node,
            Body::Birth { node: born, .. } => *born == node,
            _ => false,
        })
    }

    fn births_of(&self, node: NodeIx) -> impl Iterator<Item = RecIx> {
        self.names_of(node).filter(|ix| matches!(self.rec(*ix).body, Body::Birth { .. }))
    }

    fn has_honest_record(&self, node: NodeIx) -> bool {
        let contents = self.nodes[node.at()].recs.iter().copied();
        contents.chain(self.names_of(node)).any(|ix| !self.masked.contains(&ix))
    }

    /// Whether a record of an inode's name counts, if only for where it stands.
    pub(super) fn counts_as_name(&self, ix: RecIx, node: NodeIx) -> bool {
        if !self.masked.contains(&ix) {
            return true;
        }
        let says_where = match &self.rec(ix).body {
            Body::Place(rec) => matches!(rec.state, State::Live),
            _ => true,
        };
        says_where && self.built_on.contains(&node) && self.names_of(node).all(|name| self.masked.contains(&name))
    }

    /// Whether a birth record of the inode counts: one that is not masked, or that something was built on.
    pub(super) fn has_birth(&self, node: NodeIx) -> bool {
        let built_on = self.built_on.contains(&node);
        self.births_of(node).any(|ix| built_on || !self.masked.contains(&ix))
    }
}
