//! Taking records in: ids become indices, links are made, and what a record touches is marked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::View;
use super::arena::{
    Body, Claim, ContentRec, Links, NodeEval, NodeIx, NodeState, PinRec, PlaceIx, PlaceRec, PlaceState, Rare, Rec,
    RecIx, State,
};
use super::query::ProblemKind;
use crate::content::{ContentRef, SINGLE_CHUNK_MAX};
use crate::id::{InodeId, PlaceId, RecordId};
use crate::node::Kind;
use crate::record::{self, Birth, Content, Pin, Place, PlaceState as Life, Record, birth_id};

impl View {
    /// Takes one record in, and those that waited for it.
    pub(super) fn ingest(&mut self, id: RecordId, record: &Record) {
        if self.index.contains_key(&id) || self.parked.contains_key(&id) {
            return;
        }
        if let Some(missing) = first_missing(record, |id| self.index.contains_key(id)) {
            self.waiting.entry(missing).or_default().push(id);
            self.parked.insert(id, record.clone());
            self.problems.insert(id, ProblemKind::MissingRecord);
            return;
        }
        let mut ready = vec![(id, None)];
        while let Some((id, waited)) = ready.pop() {
            let record = waited.as_ref().unwrap_or(record);
            self.add(id, record);
            for waiter in self.waiting.remove(&id).unwrap_or_default() {
                let Some(parked) = self.parked.remove(&waiter) else { continue };
                match first_missing(&parked, |id| self.index.contains_key(id)) {
                    Some(missing) => {
                        self.waiting.entry(missing).or_default().push(waiter);
                        self.parked.insert(waiter, parked);
                    }
                    None => {
                        self.problems.remove(&waiter);
                        ready.push((waiter, Some(parked)));
                    }
                }
            }
        }
    }

    /// Adds a record all of whose references are here.
    fn add(&mut self, id: RecordId, record: &Record) {
        let ix = RecIx(u32::try_from(self.recs.len()).expect("fewer than 2^32 records"));
        let (replaces, saw) = match record {
            Record::Place(record) => (self.known(&record.replaces), self.known(&record.saw)),
            Record::Content(record) => (self.known(&record.replaces), self.known(&record.saw)),
            Record::Pin(record) => (Vec::new(), self.known(&record.saw)),
            Record::Birth(_) => (Vec::new(), Vec::new()),
        };
        let stamps = stamps(record).filter_map(|id| self.index.get(id));
        let before = replaces.iter().chain(&saw).chain(stamps);
        let depth = before.map(|ix| self.rec(*ix).depth + 1).max().unwrap_or(0);
        for &old in &replaces {
            self.recs[old.at()].links.get_or_insert_default().replaced_by.push(ix);
        }
        let links = (!replaces.is_empty() || !saw.is_empty())
            .then(|| Box::new(Links { replaces, saw, replaced_by: Vec::new() }));
        self.recs.push(Rec { id, depth, body: Body::Void, links });
        self.index.insert(id, ix);
        if self.masked_ids.contains(&id) {
            self.masked.insert(ix);
        }
        let body = match record {
            Record::Place(record) => self.add_place(ix, record),
            Record::Content(record) => self.add_content(ix, record),
            Record::Birth(record) => self.add_birth(ix, record),
            Record::Pin(record) => self.add_pin(ix, record),
        };
        match body {
            Ok(body) => {
                self.recs[ix.at()].body = body;
                self.note_content(ix);
                self.note_built_on(ix);
            }
            Err(problem) => {
                self.problems.insert(id, problem);
            }
        }
        if let Record::Place(Place { state: Life::Merged { .. }, .. }) = record {
            self.unite_classes(ix);
        }
    }

    fn add_place(&mut self, ix: RecIx, record: &Place) -> Result<Body, ProblemKind> {
        if record.inode == InodeId::ROOT {
            return Err(ProblemKind::OfTheRoot);
        }
        let place = self.place_ix(record.place);
        let node = self.node_ix(record.inode);
        let state = match &record.state {
            Life::Live => State::Live,
            Life::Deleted { seen } => State::Deleted(self.known(seen).into()),
            Life::Merged { into, seen } => State::Merged {
                into: self.place_ix(*into),
                pairs: seen.iter().filter_map(|(a, b)| Some((*self.index.get(a)?, *self.index.get(b)?))).collect(),
            },
        };
        let stamps = [record.parent_stamp, record.name_stamp].map(|id| id.and_then(|id| self.index.get(&id).copied()));
        let body = PlaceRec {
            place,
            node,
            parent: self.node_ix(record.parent),
            kind: record.kind,
            name: record.name.clone(),
            device: self.device(&record.device),
            stamps: stamps.iter().any(Option::is_some).then(|| Box::new(stamps)),
            state,
        };
        self.note_parent(body.parent);
        self.places[place.at()].recs.push(ix);
        // The record with the least id decides what a place names and of which kind it is, should records differ.
        self.recs[ix.at()].body = Body::Place(Box::new(body));
        self.bind_place(place, node);
        self.bind_kind(node, record.kind);
        self.mark_place(place);
        Ok(std::mem::replace(&mut self.recs[ix.at()].body, Body::Void))
    }

    /// Notes a parent of which nothing is known yet: what stands in it is placed again when it comes.
    fn note_parent(&mut self, parent: NodeIx) {
        if self.nodes[parent.at()].kind.is_none() {
            self.early_parents.insert(parent);
        }
    }

    /// Settles which inode a place names.
    fn bind_place(&mut self, place: PlaceIx, node: NodeIx) {
        match self.places[place.at()].node {
            Some(known) if known == node => {}
            None => {
                self.places[place.at()].node = Some(node);
                self.nodes[node.at()].places.push(place);
                // A merge that came before what it merges into can be done only now.
                self.dirty.all |= self.early_merges.contains(&place);
            }
            Some(known) => {
                let said = self.places[place.at()].recs.iter().filter_map(|ix| match &self.rec(*ix).body {
                    Body::Place(rec) => Some((!self.is_root(*ix), self.rec(*ix).id, rec.node)),
                    Body::Birth { node, .. } => Some((false, self.rec(*ix).id, *node)),
                    _ => None,
                });
                let chosen = said.min_by_key(|(late, id, _)| (*late, *id)).map_or(known, |(_, _, node)| node);
                if chosen != known {
                    self.nodes[known.at()].places.retain(|other| *other != place);
                    self.nodes[chosen.at()].places.push(place);
                    self.places[place.at()].node = Some(chosen);
                    self.dirty.all = true;
                }
            }
        }
    }

    /// Settles the kind of an inode.
    fn bind_kind(&mut self, node: NodeIx, kind: Kind) {
        match self.nodes[node.at()].kind {
            Some(known) if known == kind => {}
            None => {
                self.nodes[node.at()].kind = Some(kind);
                self.dirty.all |= self.early_parents.remove(&node);
                if !self.nodes[node.at()].recs.is_empty() || kind == Kind::Dir {
                    self.mark_node(node);
                }
            }
            Some(known) => {
                let said = self.recs.iter().enumerate().filter_map(|(at, rec)| {
                    let late = || !self.is_root(RecIx(u32::try_from(at).expect("an index")));
                    match &rec.body {
                        Body::Place(place) if place.node == node => Some((late(), rec.id, place.kind)),
                        Body::Birth { node: born, .. } if *born == node => Some((false, rec.id, Kind::File)),
                        _ => None,
                    }
                });
                let chosen = said.min_by_key(|(late, id, _)| (*late, *id)).map_or(known, |(_, _, kind)| kind);
                if chosen != known {
                    self.nodes[node.at()].kind = Some(chosen);
                    self.dirty.all = true;
                }
            }
        }
    }

    fn add_content(&mut self, ix: RecIx, record: &Content) -> Result<Body, ProblemKind> {
        if record.inode == InodeId::ROOT {
            return Err(ProblemKind::OfTheRoot);
        }
        let node = self.node_ix(record.inode);
        let stamps =
            [record.bytes_stamp, record.mode_stamp, record.owner_stamp, record.mtime_stamp, record.xattrs_stamp]
                .map(|id| id.and_then(|id| self.index.get(&id).copied()));
        let rare = record.owner.is_some()
            || !record.xattrs.is_empty()
            || record.target.is_some()
            || record.rdev.is_some_and(|rdev| rdev != 0);
        let body = ContentRec {
            node,
            via: self.place_ix(record.via),
            device: self.device(&record.device),
            mode: record.mode,
            mtime: record.mtime,
            bytes: record.bytes.map(Box::new),
            stamps: stamps.iter().any(Option::is_some).then(|| Box::new(stamps)),
            rare: rare.then(|| {
                Box::new(Rare {
                    owner: record.owner,
                    xattrs: Arc::new(record.xattrs.clone()),
                    target: record.target.as_deref().unwrap_or_default().into(),
                    rdev: record.rdev.unwrap_or(0),
                })
            }),
        };
        self.nodes[node.at()].recs.push(ix);
        self.mark_node(node);
        Ok(Body::Content(Box::new(body)))
    }

    /// Makes a content findable, unless another record names the same.
    fn note_content(&mut self, ix: RecIx) {
        if let Some(content) = self.content_rec(ix).and_then(|rec| rec.bytes.as_deref())
            && self.naming(content).is_none()
        {
            self.by_content.insert((content_key(content), ix));
        }
    }

    /// The record by which a content is found.
    pub(super) fn naming(&self, content: &ContentRef) -> Option<RecIx> {
        let key = content_key(content);
        let mut same = self.by_content.range((key, RecIx(0))..=(key, RecIx(u32::MAX)));
        let is_it = |ix: RecIx| {
            let named = self.content_rec(ix).and_then(|rec| rec.bytes.as_deref());
            named.is_some_and(|named| is_same(named, content))
        };
        same.find_map(|(_, ix)| is_it(*ix).then_some(*ix))
    }

    fn add_birth(&mut self, ix: RecIx, record: &Birth) -> Result<Body, ProblemKind> {
        let version = self.index[&record.version];
        if self.content_rec(version).is_none() {
            return Err(ProblemKind::BadReference);
        }
        let id = birth_id(&record.origin, &record.version);
        let (origin, node, place) =
            (self.node_ix(record.origin), self.node_ix(InodeId(id)), self.place_ix(PlaceId(id)));
        self.places[place.at()].recs.push(ix);
        self.recs[ix.at()].body = Body::Birth { version, node, place };
        self.bind_place(place, node);
        self.bind_kind(node, Kind::File);
        self.nodes[node.at()].extra.get_or_insert_default().root = Some(version);
        self.nodes[origin.at()].extra.get_or_insert_default().promoted.push(version);
        self.mark_place(place);
        self.mark_node(node);
        self.mark_node(origin);
        Ok(Body::Birth { version, node, place })
    }

    fn add_pin(&mut self, ix: RecIx, record: &Pin) -> Result<Body, ProblemKind> {
        let place = self.place_ix(record.place);
        let body = PinRec {
            covers: self.known(&record.covers),
            saw: self.known(&record.saw),
            parent: self.node_ix(record.parent),
            name: record.name.clone(),
        };
        self.note_parent(body.parent);
        self.places[place.at()].recs.push(ix);
        self.mark_place(place);
        Ok(Body::Pin(Box::new(body)))
    }

    /// Marks a place, and what depends on its life.
    fn mark_place(&mut self, place: PlaceIx) {
        self.dirty.places.insert(self.places[place.at()].class);
        if let Some(node) = self.places[place.at()].node {
            self.mark_node(node);
        }
    }

    pub(super) fn mark_node(&mut self, node: NodeIx) {
        self.dirty.nodes.insert(self.nodes[node.at()].class);
    }

    fn known(&self, ids: &[RecordId]) -> Vec<RecIx> {
        ids.iter().filter_map(|id| self.index.get(id)).copied().collect()
    }

    /// The index of an inode, known or not.
    pub(super) fn node_ix(&mut self, id: InodeId) -> NodeIx {
        if let Some(ix) = self.node_index.get(&id) {
            return *ix;
        }
        let ix = NodeIx(u32::try_from(self.nodes.len()).expect("fewer than 2^32 inodes"));
        self.nodes.push(NodeState {
            id,
            kind: None,
            recs: Vec::new(),
            places: Vec::new(),
            class: ix,
            alias: ix,
            below: 0,
            eval: NodeEval::Nothing,
            dir: None,
            extra: None,
        });
        self.node_index.insert(id, ix);
        ix
    }

    /// The index of a place, known or not.
    pub(super) fn place_ix(&mut self, id: PlaceId) -> PlaceIx {
        if let Some(ix) = self.place_index.get(&id) {
            return *ix;
        }
        let ix = PlaceIx(u32::try_from(self.places.len()).expect("fewer than 2^32 places"));
        let state =
            PlaceState { id, node: None, recs: Vec::new(), class: ix, members: None, eval: None, claim: None::<Claim> };
        self.places.push(state);
        self.place_index.insert(id, ix);
        ix
    }

    fn device(&mut self, name: &str) -> u32 {
        if let Some(ix) = self.device_index.get(name) {
            return *ix;
        }
        let ix = u32::try_from(self.devices.len()).expect("fewer than 2^32 device names");
        self.devices.push(record::clean_device_name(name).into());
        self.device_index.insert(Arc::from(name), ix);
        ix
    }

    /// All members of a place's class.
    pub(super) fn place_members(&self, root: PlaceIx) -> Vec<PlaceIx> {
        self.places[root.at()].members.as_ref().map_or_else(|| vec![root], |members| members.to_vec())
    }

    /// All members of an inode's class.
    pub(super) fn node_members(&self, root: NodeIx) -> Vec<NodeIx> {
        match &self.nodes[root.at()].extra {
            Some(extra) if !extra.members.is_empty() => extra.members.clone(),
            _ => vec![root],
        }
    }

    pub(super) fn roots_of_places(&self) -> BTreeSet<PlaceIx> {
        self.places.iter().map(|place| place.class).collect()
    }

    pub(super) fn roots_of_nodes(&self) -> BTreeSet<NodeIx> {
        self.nodes.iter().map(|node| node.class).collect()
    }
}

pub(super) fn content_key(content: &ContentRef) -> u32 {
    u32::from_be_bytes([content.hash.0[0], content.hash.0[1], content.hash.0[2], content.hash.0[3]])
}

/// Whether two names mean one content: of one chunk its hash says it all.
fn is_same(a: &ContentRef, b: &ContentRef) -> bool {
    let single = |content: &ContentRef| content.size <= SINGLE_CHUNK_MAX;
    a.hash == b.hash && ((single(a) && single(b)) || (a.size == b.size && a.manifest == b.manifest))
}

/// The first record that a record refers to and that is not known.
fn first_missing(record: &Record, known: impl Fn(&RecordId) -> bool) -> Option<RecordId> {
    let mut ids: Vec<&RecordId> = stamps(record).collect();
    match record {
        Record::Place(record) => {
            ids.extend(record.replaces.iter().chain(&record.saw));
            match &record.state {
                Life::Live => {}
                Life::Deleted { seen } => ids.extend(seen),
                Life::Merged { seen, .. } => ids.extend(seen.iter().flat_map(|(a, b)| [a, b])),
            }
        }
        Record::Content(record) => {
            ids.extend(record.replaces.iter().chain(&record.saw));
        }
        Record::Birth(record) => ids.push(&record.version),
        Record::Pin(record) => ids.extend(record.covers.iter().chain(&record.saw)),
    }
    ids.into_iter().find(|id| !known(id)).copied()
}

/// The records whose fields a record carries on.
fn stamps(record: &Record) -> impl Iterator<Item = &RecordId> {
    let stamps = match record {
        Record::Place(record) => [&record.parent_stamp, &record.name_stamp, &None, &None, &None],
        Record::Content(record) => {
            [&record.bytes_stamp, &record.mode_stamp, &record.owner_stamp, &record.mtime_stamp, &record.xattrs_stamp]
        }
        Record::Birth(_) | Record::Pin(_) => [&None; 5],
    };
    stamps.into_iter().flatten()
}
