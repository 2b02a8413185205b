//! Making records from what the view means now.

use super::View;
use super::arena::{Field, NodeEval, NodeIx, PlaceIx, RecIx};
use super::graph::Equals;
use super::mutation::Mutation;
use crate::id::{InodeId, RecordId};
use crate::name::Name;
use crate::node::Kind;
use crate::record::{Content, Pin, Place, PlaceState};

/// What a place record says anew of a field; `None` keeps value and stamp.
#[derive(Default)]
pub(super) struct NewPosition {
    pub(super) parent: Option<InodeId>,
    pub(super) name: Option<Name>,
}

impl View {
    /// Ids of records, in order.
    pub(super) fn ids(&self, list: &[RecIx]) -> Vec<RecordId> {
        let mut ids: Vec<_> = list.iter().map(|ix| self.rec(*ix).id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// A record that settles all heads of a place class.
    pub(super) fn place_record(&self, root: PlaceIx, device: &str, state: PlaceState, new: NewPosition) -> Place {
        let recs = self.place_records(root);
        let heads = self.place_heads(root, &recs);
        let ranked = self.rank(heads.shown(), &Equals::new());
        let with_fields: Vec<_> = ranked.into_iter().filter(|ix| self.place_rec(*ix).is_some()).collect();
        let field = |which: usize| {
            let stamps: Vec<_> = with_fields.iter().map(|ix| (self.place_stamp(*ix, which), *ix)).collect();
            (!stamps.is_empty()).then(|| self.winning_stamp(&stamps))
        };
        let eval = self.places[root.at()].eval.as_ref().expect("an operation is on an evaluated place");
        let kept = |rec: RecIx, which: usize| {
            (!self.lacks(Mutation::FieldStamps)).then(|| self.rec(self.place_stamp(rec, which)).id)
        };
        let (parent, parent_stamp) = match (new.parent, field(0)) {
            (None, Some(rec)) => {
                let parent = self.place_rec(rec).expect("has fields").parent;
                (self.nodes[parent.at()].id, kept(rec, 0))
            }
            (parent, _) => (parent.unwrap_or(self.nodes[eval.parent.at()].id), None),
        };
        let (name, name_stamp) = match (new.name, field(1)) {
            (None, Some(rec)) => (self.place_rec(rec).expect("has fields").name.clone(), kept(rec, 1)),
            (name, _) => (name.unwrap_or_else(|| eval.name.clone()), None),
        };
        let settled: Vec<_> = heads.live.iter().chain(&heads.deleted).copied().collect();
        let node = self.places[root.at()].node.expect("an evaluated place has an inode");
        Place {
            place: self.places[root.at()].id,
            inode: self.nodes[node.at()].id,
            kind: self.nodes[node.at()].kind.unwrap_or(Kind::File),
            parent,
            parent_stamp,
            name,
            name_stamp,
            device: device.into(),
            state,
            replaces: self.ids(&settled),
            saw: Vec::new(),
        }
    }

    /// What another name of a node is to say that its author saw: of what the names that it has say, the record that has most
    /// before it. So the other one comes after all of them.
    pub(super) fn last_name(&self, node: NodeIx) -> Vec<RecordId> {
        if self.lacks(Mutation::Saw) {
            return Vec::new();
        }
        let places = self.place_classes(node).into_iter();
        let said = places.filter_map(|place| self.places[place.at()].eval.as_ref()).map(|eval| self.rec(eval.top));
        let last = said.max_by_key(|rec| (rec.depth, rec.id));
        last.map(|rec| rec.id).into_iter().collect()
    }

    /// A pin that shows a place class at a position, covering what is known.
    pub(super) fn pin_record(&self, root: PlaceIx, parent: InodeId, name: Name) -> Pin {
        let recs = self.place_records(root);
        let heads = self.place_heads(root, &recs);
        let said: Vec<_> =
            heads.live.iter().chain(&heads.deleted).copied().filter(|ix| self.place_rec(*ix).is_some()).collect();
        let pins: Vec<_> =
            recs.iter().copied().filter(|ix| matches!(self.rec(*ix).body, super::arena::Body::Pin(_))).collect();
        Pin { place: self.places[root.at()].id, covers: self.ids(&said), parent, name, saw: self.ids(&pins) }
    }

    /// A content record with the fields that a node shows now, each with the stamp of who set it; it settles `replaces`.
    pub(super) fn content_record(&self, node: NodeIx, via: PlaceIx, device: &str, replaces: &[RecIx]) -> Content {
        let class = self.nodes[node.at()].class;
        let fields = match &self.nodes[class.at()].eval {
            NodeEval::Nothing => None,
            NodeEval::One(rec) => Some([*rec; 5]),
            NodeEval::Many(many) => Some(many.fields),
        };
        let inode = self.nodes[node.at()].id;
        let via = self.places[via.at()].id;
        let mut record = Content {
            inode,
            via,
            device: device.into(),
            bytes: None,
            bytes_stamp: None,
            mode: 0o755,
            mode_stamp: None,
            owner: None,
            owner_stamp: None,
            mtime: crate::node::Time::default(),
            mtime_stamp: None,
            xattrs: crate::node::Xattrs::new(),
            xattrs_stamp: None,
            target: None,
            rdev: None,
            replaces: self.ids(replaces),
            saw: Vec::new(),
        };
        if let Some(fields) = fields {
            self.copy_fields(&mut record, fields);
        }
        record
    }

    /// What an edit of a node that settles `replaces` is to say that its author saw beside it: what became a file of its own
    /// (should whoever made a file of it turn out to have had no right to, the edit outranks it all the same), and what the node
    /// waits to be merged with (what is shown under the name goes on to be).
    pub(super) fn left_beside(&self, node: NodeIx, replaces: &[RecIx]) -> Vec<RecordId> {
        if self.lacks(Mutation::Saw) {
            return Vec::new();
        }
        let class = self.nodes[node.at()].class;
        let (mut left, equals) = (self.promoted_from(class), self.equals(class));
        if self.is_pending(class) {
            // Also what is shown, if the author's is one of the others: a folder stays as it is until the bytes come.
            left.extend(self.content_heads(class).into_iter().map(|head| self.version_of(head)));
        }
        left.retain(|version| {
            !replaces.iter().any(|old| self.version_of(*old) == *version || self.outranks(*old, *version, &equals))
        });
        self.ids(&left)
    }

    /// Copies fields with their stamps from the records that supply them.
    pub(super) fn copy_fields(&self, record: &mut Content, fields: [RecIx; 5]) {
        let at = |field: Field| fields[field as usize];
        let stamp =
            |field: Field| (!self.lacks(Mutation::FieldStamps)).then(|| self.rec(self.stamp(at(field), field)).id);
        let rec = |field: Field| self.content_rec(at(field)).expect("fields come from content records");
        let version = self.version_of(at(Field::Bytes));
        record.bytes = self.content_rec(version).and_then(|rec| rec.bytes.as_deref().copied());
        record.bytes_stamp = stamp(Field::Bytes);
        (record.mode, record.mode_stamp) = (rec(Field::Mode).mode, stamp(Field::Mode));
        (record.mtime, record.mtime_stamp) = (rec(Field::Mtime).mtime, stamp(Field::Mtime));
        record.owner = rec(Field::Owner).rare.as_ref().and_then(|rare| rare.owner);
        record.owner_stamp = stamp(Field::Owner);
        record.xattrs = rec(Field::Xattrs).rare.as_ref().map(|rare| (*rare.xattrs).clone()).unwrap_or_default();
        record.xattrs_stamp = stamp(Field::Xattrs);
        if let Some(rare) = &rec(Field::Bytes).rare {
            record.target = (!rare.target.is_empty()).then(|| rare.target.to_vec());
            record.rdev = (rare.rdev != 0).then_some(rare.rdev);
        }
    }
}
