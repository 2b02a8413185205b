//! The view: the tree that a set of records means, kept incrementally.
//!
//! The rules are those of `docs/SEMANTICS.md`. A [`View`] is a pure function of the records, the masked records and the
//! bytes that it was given: no clock, no randomness, no order of arrival goes into what it shows.
//!
//! Records are evaluated in layers, each a function of the one below, and only what a new record touches is evaluated
//! again: places (`place`: heads and fields of one name), contents (`content`: heads, merges and conflict copies of
//! one inode), cycles (`cycle`), claims (`claim`: which place stands in which directory), slots (`slot`: who has a
//! name, twins and unions) and suffixes (`suffix`). Operations are planned by `plan`, which also writes down where
//! neighbours stand that an operation would disturb (`settle`).

mod arena;
mod claim;
mod class;
mod content;
mod cycle;
mod delta;
mod graph;
mod ingest;
mod keep;
mod mask;
mod mutation;
mod place;
mod plan;
mod query;
mod record_of;
mod save;
mod saved;
mod settle;
mod slot;
mod suffix;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::content::ContentRef;
use crate::id::{Hash, InodeId, PlaceId, RecordId};
use crate::merge::MergeCache;
use crate::name::Name;
use crate::node::{Delta, Kind};
use crate::op::{Op, OpError};
use crate::record::Record;

use arena::{Claimant, CopyState, NodeIx, NodeState, PlaceIx, PlaceState, Rec, RecIx};
#[doc(hidden)]
pub use mutation::Mutation;
pub use query::{Conflict, Problem, ProblemKind};
pub use saved::BUILD;
pub use suffix::Suffixed;

/// Who makes an operation, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The device's name, as [`crate::record::clean_device_name`] gives it.
    pub device: &'a str,
    /// The device's time in milliseconds since the Unix epoch. It decides only what counts as a save by rename; it goes
    /// into no record.
    pub now_ms: u64,
}

/// What an operation added.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The records, encoded, in causal order.
    pub records: Vec<(RecordId, Vec<u8>)>,
    /// What changed in the view.
    pub delta: Delta,
}

/// The tree that a set of records means.
#[derive(Default)]
pub struct View {
    recs: Vec<Rec>,
    index: BTreeMap<RecordId, RecIx>,
    /// One record of each content, by the first bytes of the content's hash.
    by_content: BTreeSet<(u32, RecIx)>,
    places: Vec<PlaceState>,
    place_index: BTreeMap<PlaceId, PlaceIx>,
    nodes: Vec<NodeState>,
    node_index: BTreeMap<InodeId, NodeIx>,
    devices: Vec<Arc<str>>,
    device_index: BTreeMap<Arc<str>, u32>,
    masked: BTreeSet<RecIx>,
    masked_ids: BTreeSet<RecordId>,
    /// Inodes with masked names that something was built on which is not masked.
    built_on: BTreeSet<NodeIx>,
    /// Records that wait for one that they refer to.
    parked: BTreeMap<RecordId, Record>,
    waiting: BTreeMap<RecordId, Vec<RecordId>>,
    problems: BTreeMap<RecordId, ProblemKind>,
    /// Places that nothing was known of when another was merged into them.
    early_merges: BTreeSet<PlaceIx>,
    /// Inodes that something stands in and of which nothing was known.
    early_parents: BTreeSet<NodeIx>,
    /// Directories whose edge closed a cycle, with the parent that they got instead.
    displaced: BTreeMap<NodeIx, NodeIx>,
    /// Nodes shown as one entry: neighbours, with the number of slots that unite them.
    bonds: BTreeMap<NodeIx, BTreeMap<NodeIx, u32>>,
    copies: BTreeMap<InodeId, CopyState>,
    /// Directories that showed what stands in a node before it got another alias.
    former_homes: BTreeMap<NodeIx, BTreeSet<NodeIx>>,
    copies_of: BTreeMap<NodeIx, Vec<InodeId>>,
    suffix_names: BTreeMap<Claimant, (NodeIx, Name)>,
    /// Nodes with a merge that waits for bytes, by the hash of all bytes that go into it.
    wanted: BTreeMap<Hash, BTreeSet<NodeIx>>,
    wanted_refs: BTreeMap<Hash, ContentRef>,
    wanting: BTreeMap<NodeIx, Vec<Hash>>,
    merges: MergeCache,
    dirty: Dirty,
    changes: delta::Changes,
    bytes_total: u64,
    nodes_total: u64,
    local: save::LocalFacts,
    /// Records that are in the view and were not given out yet.
    begun: Vec<(RecordId, Vec<u8>)>,
    mutation: Option<Mutation>,
}

/// What has to be evaluated again.
#[derive(Default)]
struct Dirty {
    places: BTreeSet<PlaceIx>,
    nodes: BTreeSet<NodeIx>,
    edges: BTreeSet<NodeIx>,
    claims: BTreeSet<PlaceIx>,
    slots: BTreeSet<(NodeIx, Name)>,
    copies: BTreeSet<NodeIx>,
    suffixes: BTreeSet<NodeIx>,
    /// Everything: a rule that others rest on changed (masks, the kind of an inode).
    all: bool,
}

impl Dirty {
    fn is_empty(&self) -> bool {
        let Self { places, nodes, edges, claims, slots, copies, suffixes, all } = self;
        let of_indices = places.is_empty() && nodes.is_empty() && edges.is_empty() && claims.is_empty();
        of_indices && slots.is_empty() && copies.is_empty() && suffixes.is_empty() && !all
    }
}

impl View {
    /// The view of no records: an empty root directory.
    pub fn new() -> Self {
        let mut view = Self::default();
        view.node_ix(InodeId::ROOT);
        view.nodes[0].kind = Some(Kind::Dir);
        view.nodes[0].dir = Some(Box::default());
        view.nodes_total = 1;
        view
    }

    /// The view of these records, given in any order.
    pub fn from_records(records: &[(RecordId, Record)]) -> Self {
        let mut view = Self::new();
        view.load(records);
        view
    }

    /// Adds records to a view of none, faster than [`View::insert`] as nobody asks what changed.
    pub fn load(&mut self, records: &[(RecordId, Record)]) {
        self.changes.off = self.recs.is_empty();
        self.insert(records);
        if std::mem::take(&mut self.changes.off) {
            self.count_totals();
        }
    }

    /// Adds records. Those known already change nothing; one that refers to a record that is not here waits for it.
    pub fn insert(&mut self, records: &[(RecordId, Record)]) -> Delta {
        for (id, record) in records {
            self.ingest(*id, record);
        }
        self.update();
        self.take_delta()
    }

    /// Plans an operation as records, adds them and returns them. On an error nothing is done; but what had been written
    /// down before, of entries that are one or become files of their own, stands: [`View::take_begun`] has it.
    pub fn apply(&mut self, op: &Op, author: &Author<'_>) -> Result<Outcome, OpError> {
        self.plan(op, author)
    }

    /// What operations that failed have left in the view. Who does not ask gets it with the next operation.
    pub fn take_begun(&mut self) -> Outcome {
        Outcome { records: std::mem::take(&mut self.begun), delta: self.take_delta() }
    }

    /// The contents whose bytes a merge needs that is not decided yet.
    pub fn wanted(&self) -> Vec<ContentRef> {
        self.wanted_refs.values().filter(|content| !self.merges.is_given(&content.hash)).copied().collect()
    }

    /// The files whose merges wait for a content.
    pub fn waiting_for(&self, hash: &Hash) -> impl Iterator<Item = InodeId> {
        self.wanted.get(hash).into_iter().flatten().map(|node| self.nodes[node.at()].id)
    }

    /// Gives the bytes of a wanted content, which the caller has verified. Others are passed over.
    pub fn supply(&mut self, hash: Hash, bytes: Arc<[u8]>) -> Delta {
        if let Some(nodes) = self.wanted.get(&hash) {
            self.dirty.nodes.extend(nodes);
            self.merges.supply(hash, bytes);
            self.update();
            self.merges.release(|hash| self.wanted.contains_key(hash));
        }
        self.take_delta()
    }

    /// The bytes of a merge that the view computed.
    pub fn merged(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        self.merges.result(hash)
    }

    /// Brings every layer up to date.
    fn update(&mut self) {
        if std::mem::take(&mut self.dirty.all) {
            self.touch_everything();
            self.find_built_on();
            self.rebuild_classes();
            self.dirty.places = self.roots_of_places();
            self.dirty.nodes = self.roots_of_nodes();
        }
        loop {
            if let Some(place) = self.dirty.places.pop_first() {
                self.update_place(place);
            } else if let Some(node) = self.dirty.nodes.pop_first() {
                self.update_node(node);
            } else if !self.dirty.edges.is_empty() {
                self.update_cycles();
            } else if let Some(place) = self.dirty.claims.pop_first() {
                self.update_claim(place);
            } else if let Some((dir, name)) = self.dirty.slots.pop_first() {
                self.update_slot(dir, &name);
            } else if let Some(node) = self.dirty.copies.pop_first() {
                self.update_copies(node);
            } else if let Some(dir) = self.dirty.suffixes.pop_first() {
                self.update_suffixes(dir);
            } else {
                break;
            }
        }
        self.former_homes.clear();
    }
}
