//! What changed between two states of the view: what a change can alter is noted before it, and compared after it.

use std::collections::BTreeMap;

use super::View;
use super::arena::{Claimant, NodeIx};
use crate::id::InodeId;
use crate::name::Name;
use crate::node::{Delta, EntryChange, Node, NodeChange};

/// What a name means: the inode shown, and who claims the name.
pub(super) type Meaning = Option<(InodeId, Claimant)>;

/// States before the change.
#[derive(Default)]
pub(super) struct Changes {
    /// Nobody asks: the first load.
    pub(super) off: bool,
    pub(super) entries: BTreeMap<(InodeId, Name), Meaning>,
    pub(super) nodes: BTreeMap<InodeId, Option<Node>>,
}

impl View {
    /// Notes what a name means now, once in a batch.
    pub(super) fn touch_entry(&mut self, dir: NodeIx, name: &Name) {
        if self.changes.off {
            return;
        }
        let key = (self.nodes[dir.at()].id, name.clone());
        if !self.changes.entries.contains_key(&key) {
            let before = self.lookup(dir, name.as_bytes());
            self.changes.entries.insert(key, before);
        }
    }

    /// Notes what a node is now, once in a batch.
    pub(super) fn touch_node(&mut self, node: NodeIx) {
        self.touch_id(self.nodes[node.at()].id);
    }

    pub(super) fn touch_id(&mut self, id: InodeId) {
        if !self.changes.off && !self.changes.nodes.contains_key(&id) {
            let before = self.node_itself(id);
            self.changes.nodes.insert(id, before);
        }
    }

    /// Notes all names of a node, and the node.
    pub(super) fn touch_names(&mut self, node: NodeIx) {
        if self.changes.off {
            return;
        }
        for member in self.bonded(node) {
            self.touch_node(member);
            for place in self.place_classes(member) {
                let state = &self.places[place.at()];
                if let (Some(claim), Some(eval)) = (&state.claim, &state.eval) {
                    let (dir, name) = (claim.dir, eval.name.clone());
                    self.touch_entry(dir, &name);
                    self.touch_claimant(Claimant::Place(place));
                }
            }
        }
    }

    /// Notes the suffixed name of a claimant, and the node that it is.
    pub(super) fn touch_claimant(&mut self, claimant: Claimant) {
        if self.changes.off {
            return;
        }
        if let Some((dir, name)) = self.suffix_names.get(&claimant).cloned() {
            self.touch_entry(dir, &name);
        }
        match claimant {
            Claimant::Copy(id) => self.touch_id(id),
            Claimant::Place(place) => {
                if let Some(node) = self.node_of(place) {
                    self.touch_node(node);
                    self.touch_node(self.nodes[node.at()].alias);
                }
            }
        }
    }

    /// Notes the whole tree.
    pub(super) fn touch_everything(&mut self) {
        for at in 0..self.nodes.len() {
            let node = NodeIx(u32::try_from(at).expect("an index"));
            self.touch_node(node);
            let Some(dir) = &self.nodes[at].dir else { continue };
            let suffixed = dir.suffixed.iter().flat_map(|suffixed| suffixed.shown.keys());
            for name in dir.slots.keys().chain(suffixed).cloned().collect::<Vec<_>>() {
                self.touch_entry(node, &name);
            }
        }
        for id in self.copies.keys().copied().collect::<Vec<_>>() {
            self.touch_id(id);
        }
    }

    /// Counts the totals of a view that was loaded without noting changes.
    pub(super) fn count_totals(&mut self) {
        let ids = self.nodes.iter().map(|node| node.id).chain(self.copies.keys().copied());
        let nodes: Vec<_> = ids.filter_map(|id| self.node_itself(id)).map(|node| node.content.size).collect();
        self.nodes_total = nodes.len() as u64;
        self.bytes_total = nodes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    }

    /// Names whose meaning differs from what was noted.
    pub(super) fn changed_entries(&self) -> Vec<(InodeId, Name, Meaning, Meaning)> {
        let changed = self.changes.entries.iter().filter_map(|((dir, name), before)| {
            let after = self.node_index.get(dir).and_then(|dir| self.lookup(*dir, name.as_bytes()));
            (after != *before).then(|| (*dir, name.clone(), *before, after))
        });
        changed.collect()
    }

    /// Ends a batch: what differs from the states noted.
    pub(super) fn take_delta(&mut self) -> Delta {
        let mut delta = Delta::default();
        for (dir, name, before, after) in self.changed_entries() {
            let (before, after) = (before.map(|(id, _)| id), after.map(|(id, _)| id));
            if before != after {
                delta.entries.push(EntryChange { dir, name, before, after });
            }
        }
        self.changes.entries.clear();
        for (inode, before) in std::mem::take(&mut self.changes.nodes) {
            let after = self.node_itself(inode);
            if before == after {
                continue;
            }
            let size = |node: &Option<Node>| node.as_ref().map_or(0, |node| node.content.size);
            self.bytes_total = self.bytes_total.saturating_sub(size(&before)).saturating_add(size(&after));
            self.nodes_total = self.nodes_total + u64::from(after.is_some()) - u64::from(before.is_some());
            delta.nodes.push(match (&before, &after) {
                (_, None) => NodeChange { inode, attrs: true, content: true, gone: true },
                (None, Some(_)) => NodeChange { inode, attrs: true, content: true, gone: false },
                (Some(old), Some(new)) => NodeChange {
                    inode,
                    attrs: Node { content: old.content, ..new.clone() } != *old || old.content.size != new.content.size,
                    content: old.content.hash != new.content.hash,
                    gone: false,
                },
            });
        }
        delta
    }
}
