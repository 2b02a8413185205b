//! Reading the view.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use super::View;
use super::arena::{Body, Claimant, ContentRec, CopyState, Field, ManyEval, NodeEval, NodeIx, PlaceIx, RecIx, Slot};
use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::{Basis, Entry, Kind, Node, Shown, Time};

/// One entry that stands beside the one whose name it was to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The directory of both.
    pub dir: InodeId,
    /// The name under which it is shown.
    pub name: Name,
    /// What is shown under it.
    pub inode: InodeId,
    /// The node that has the name, or whose other version this is.
    pub holder: Option<InodeId>,
    /// The version that is shown under it: the record that set the bytes, or made what has none. The name has its first digits.
    pub version: RecordId,
    /// Name of the device that made that version.
    pub device: String,
    /// Whether it waits for bytes to be merged.
    pub pending: bool,
}

/// A record that does not mean what its author meant, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The record.
    pub record: RecordId,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
pub enum ProblemKind {
    /// It refers to a record that is not here; it waits for it.
    #[n(0)]
    MissingRecord,
    /// It speaks of the root, of which no record may.
    #[n(1)]
    OfTheRoot,
    /// It refers to a record of a kind that it cannot refer to.
    #[n(2)]
    BadReference,
    /// Its parent is no inode that is known: it stands in the root.
    #[n(3)]
    MissingParent,
    /// Its parent is no directory: it stands in the root.
    #[n(4)]
    BelowAFile,
    /// The inode has another kind.
    #[n(5)]
    KindsDiffer,
    /// The place names another inode: the record is passed over.
    #[n(6)]
    PlaceOfAnother,
    /// Content of an inode that has no place: not shown.
    #[n(7)]
    NoPlace,
    /// A place of an inode that has no content: not shown.
    #[n(8)]
    NoContent,
    /// It replaces a record of something else, without effect.
    #[n(9)]
    ForeignReplaces,
    /// A directory in itself: it stands where it was before, or in the root.
    #[n(10)]
    InItself,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ProblemKind::MissingRecord => "waits for a record that is not here, or that needs a newer crdtfs",
            ProblemKind::OfTheRoot => "speaks of the root, of which no record may",
            ProblemKind::BadReference => "refers to a record of a kind that it cannot refer to",
            ProblemKind::MissingParent => "is of an entry in a directory that is not known: it stands in the root",
            ProblemKind::BelowAFile => "is of an entry below what is no directory: it stands in the root",
            ProblemKind::KindsDiffer => "says another kind of an inode than the record that counts",
            ProblemKind::PlaceOfAnother => "gives a name of another inode away, without effect",
            ProblemKind::NoPlace => "is of an inode without a name: it is not shown",
            ProblemKind::NoContent => "is of an inode without content: it is not shown",
            ProblemKind::ForeignReplaces => "replaces a record of something else, without effect",
            ProblemKind::InItself => "puts a directory into itself: it stands where it was before, or in the root",
        };
        write!(f, "the record {} {what}", self.record)
    }
}

impl View {
    /// A node, if it is shown. The id of an inode that is shown as another (a union, a twin) gives that one.
    pub fn node(&self, inode: InodeId) -> Option<Node> {
        if let Some(copy) = self.copies.get(&inode) {
            return self.copy_node(copy);
        }
        let node = self.home(*self.node_index.get(&inode)?);
        let names = self.shown_places(node);
        if names.is_empty() && node != NodeIx::ROOT {
            return None;
        }
        let state = &self.nodes[node.at()];
        let kind = state.kind?;
        let mut shown = Node {
            inode: state.id,
            kind,
            mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
            owner: None,
            mtime: Time::default(),
            xattrs: Arc::default(),
            content: ContentRef::empty(),
            target: Arc::default(),
            rdev: 0,
            nlink: u32::try_from(names.len()).unwrap_or(u32::MAX),
            basis: Basis::default(),
            shown: Shown::Plain,
        };
        match &state.eval {
            NodeEval::Nothing => {}
            NodeEval::One(rec) => self.fill(&mut shown, [*rec; 5], &[*rec]),
            NodeEval::Many(many) => {
                self.fill(&mut shown, many.fields, &many.heads);
                if !many.pending.is_empty() {
                    shown.shown = Shown::Pending;
                }
            }
        }
        match kind {
            Kind::Dir => shown.nlink = 2 + state.dir.as_ref().map_or(0, |dir| dir.subdirs),
            Kind::File => shown.content = self.bytes_of(&state.eval).unwrap_or_else(ContentRef::empty),
            _ => {}
        }
        Some(shown)
    }

    fn fill(&self, shown: &mut Node, fields: [RecIx; 5], heads: &[RecIx]) {
        let rec = |field: Field| -> Option<&ContentRec> { self.content_rec(fields[field as usize]) };
        if let Some(rec) = rec(Field::Mode) {
            shown.mode = rec.mode;
        }
        if let Some(rec) = rec(Field::Mtime) {
            shown.mtime = rec.mtime;
        }
        shown.owner = rec(Field::Owner).and_then(|rec| rec.rare.as_ref()?.owner);
        if let Some(rare) = rec(Field::Xattrs).and_then(|rec| rec.rare.as_ref()) {
            shown.xattrs = rare.xattrs.clone();
        }
        if let Some(rare) = rec(Field::Bytes).and_then(|rec| rec.rare.as_ref()) {
            shown.target = rare.target.clone();
            shown.rdev = rare.rdev;
        }
        shown.basis = heads.iter().map(|ix| self.rec(*ix).id).collect();
    }

    fn copy_node(&self, state: &CopyState) -> Option<Node> {
        self.suffix_names.get(&Claimant::Copy(state.copy.id))?;
        let pending = self.is_pending(state.holder);
        let mut shown = Node {
            inode: state.copy.id,
            kind: Kind::File,
            mode: 0o644,
            owner: None,
            mtime: Time::default(),
            xattrs: Arc::default(),
            content: state.copy.content,
            target: Arc::default(),
            rdev: 0,
            nlink: 1,
            basis: Basis::default(),
            shown: if pending { Shown::Pending } else { Shown::ConflictCopy },
        };
        self.fill(&mut shown, [state.copy.heads[0]; 5], &state.copy.heads);
        Some(shown)
    }

    /// A node that is shown under this very id.
    pub(super) fn node_itself(&self, id: InodeId) -> Option<Node> {
        self.node(id).filter(|node| node.inode == id)
    }

    /// Places by which a node (that stands for itself) is shown.
    pub(super) fn shown_places(&self, node: NodeIx) -> Vec<PlaceIx> {
        let mut places = Vec::new();
        let mut add = |member: NodeIx| {
            let classes = self.place_classes(member);
            places.extend(
                classes
                    .into_iter()
                    .filter(|place| matches!(self.places[place.at()].claim, Some(claim) if !claim.hidden)),
            );
        };
        if self.bonds.contains_key(&node) {
            self.bonded(node).into_iter().for_each(&mut add);
        } else {
            add(node);
        }
        places
    }

    /// The name and directory under which a standing place is shown.
    pub(super) fn shown_name(&self, place: PlaceIx) -> Option<(NodeIx, Name)> {
        if let Some((dir, name)) = self.suffix_names.get(&Claimant::Place(place)) {
            return Some((*dir, name.clone()));
        }
        let state = &self.places[place.at()];
        Some((state.claim?.dir, state.eval.as_ref()?.name.clone()))
    }

    /// What a name in a directory (that stands for itself) means.
    pub(super) fn lookup(&self, dir: NodeIx, name: &[u8]) -> Option<(InodeId, Claimant)> {
        let data = self.nodes[dir.at()].dir.as_ref()?;
        let claimant = match data.slots.get(name).and_then(Slot::holder) {
            Some(place) => Claimant::Place(place),
            None => *data.suffixed.as_ref()?.shown.get(name)?,
        };
        self.shown_as(claimant).map(|inode| (inode, claimant))
    }

    /// The inode that a claimant is shown as.
    pub(super) fn shown_as(&self, claimant: Claimant) -> Option<InodeId> {
        match claimant {
            Claimant::Copy(id) => Some(id),
            Claimant::Place(place) => {
                let node = self.node_of(place)?;
                Some(self.nodes[self.nodes[node.at()].alias.at()].id)
            }
        }
    }

    /// The node that a name in a directory stands for.
    pub fn child(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        let dir = self.home(*self.node_index.get(&dir)?);
        self.lookup(dir, name).map(|(inode, _)| inode)
    }

    /// At most `limit` entries of a directory in the order of their names, from the first after `after`.
    pub fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        let Some(dir) = self.node_index.get(&dir).map(|dir| self.home(*dir)) else { return Vec::new() };
        let Some(data) = &self.nodes[dir.at()].dir else { return Vec::new() };
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut plain = data
            .slots
            .range::<Name, _>(from)
            .filter_map(|(name, slot)| Some((name, Claimant::Place(slot.holder()?))))
            .peekable();
        let empty = BTreeMap::new();
        let suffixed = data.suffixed.as_ref().map_or(&empty, |suffixed| &suffixed.shown);
        let mut suffixed = suffixed.range::<Name, _>(from).map(|(name, claimant)| (name, *claimant)).peekable();
        let mut entries = Vec::new();
        while entries.len() < limit {
            let next = match (plain.peek(), suffixed.peek()) {
                (Some((a, _)), Some((b, _))) if b < a => suffixed.next(),
                (None, _) => suffixed.next(),
                _ => plain.next(),
            };
            let Some((name, claimant)) = next else { break };
            let (Some(inode), Some(kind)) = (self.shown_as(claimant), self.kind_of(claimant)) else { continue };
            entries.push(Entry { name: name.clone(), inode, kind });
        }
        entries
    }

    fn kind_of(&self, claimant: Claimant) -> Option<Kind> {
        match claimant {
            Claimant::Copy(_) => Some(Kind::File),
            Claimant::Place(place) => self.nodes[self.node_of(place)?.at()].kind,
        }
    }

    /// The shown names of a node: (directory, name), in order. Of the root none.
    pub fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        let mut names: Vec<(InodeId, Name)> = match self.copies.contains_key(&inode) {
            true => self
                .suffix_names
                .get(&Claimant::Copy(inode))
                .map(|(dir, name)| (self.nodes[dir.at()].id, name.clone()))
                .into_iter()
                .collect(),
            false => {
                let Some(node) = self.node_index.get(&inode).map(|node| self.home(*node)) else { return Vec::new() };
                let shown = self.shown_places(node).into_iter().filter_map(|place| self.shown_name(place));
                shown.map(|(dir, name)| (self.nodes[dir.at()].id, name)).collect()
            }
        };
        names.sort_unstable();
        names
    }

    /// The identities of the shown names of a node, in order.
    pub fn places(&self, inode: InodeId) -> Vec<PlaceId> {
        let Some(node) = self.node_index.get(&inode).map(|node| self.home(*node)) else { return Vec::new() };
        let mut places: Vec<_> = self.shown_places(node).into_iter().map(|place| self.places[place.at()].id).collect();
        places.sort_unstable();
        places
    }

    /// Bytes of all shown files, and the number of shown nodes with the root.
    pub fn totals(&self) -> (u64, u64) {
        (self.bytes_total, self.nodes_total)
    }

    /// The contents of all shown files, conflict copies included, each once.
    pub fn shown_contents(&self) -> Vec<ContentRef> {
        let ids = self.nodes.iter().filter(|node| node.kind == Some(Kind::File)).map(|node| node.id);
        let nodes = ids.chain(self.copies.keys().copied()).filter_map(|id| self.node_itself(id));
        let mut contents: Vec<_> = nodes.map(|node| node.content).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// The contents that any record names, each once.
    pub fn all_contents(&self) -> Vec<ContentRef> {
        let named = self.recs.iter().filter_map(|rec| match &rec.body {
            Body::Content(rec) => rec.bytes.as_deref().copied(),
            _ => None,
        });
        let mut contents: Vec<_> = named.collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// Whether a record names this content, or the view made it of others. Of contents of one chunk only the hash counts.
    pub fn names_content(&self, content: &ContentRef) -> bool {
        self.naming(content).is_some() || self.merged(&content.hash).is_some()
    }

    /// Other contents of the file that a content is of, the one that came here last first, each once; at most `most`.
    pub fn other_versions(&self, content: &ContentRef, most: usize) -> Vec<ContentRef> {
        let Some(of) = self.naming(content).and_then(|ix| self.content_rec(ix)) else { return Vec::new() };
        let mut found: Vec<ContentRef> = Vec::new();
        for ix in self.nodes[of.node.at()].recs.iter().rev() {
            let Some(other) = self.content_rec(*ix).and_then(|rec| rec.bytes.as_deref()) else { continue };
            if other.hash != content.hash && !found.contains(other) {
                found.push(*other);
                if found.len() == most {
                    break;
                }
            }
        }
        found
    }

    /// Entries that could not have the name they were given, and other versions of files.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let found = self.suffix_names.iter().filter_map(|(claimant, (dir, name))| {
            let (holder, version, device, pending) = match claimant {
                Claimant::Copy(id) => {
                    let state = self.copies.get(id)?;
                    let many: Option<&ManyEval> = match &self.nodes[state.holder.at()].eval {
                        NodeEval::Many(many) => Some(many),
                        _ => None,
                    };
                    let holder = self.nodes[self.home(state.holder).at()].id;
                    let pending = many.is_some_and(|many| !many.pending.is_empty());
                    (Some(holder), state.copy.version, self.device_of(state.copy.version), pending)
                }
                Claimant::Place(place) => {
                    let eval = self.places[place.at()].eval.as_ref()?;
                    let holder = self.lookup(*dir, eval.name.as_bytes()).map(|(inode, _)| inode);
                    let version = self.version_at(*place)?;
                    (holder, version, self.device_of(version), false)
                }
            };
            Some(Conflict {
                dir: self.nodes[dir.at()].id,
                name: name.clone(),
                inode: self.shown_as(*claimant)?,
                holder,
                version: self.rec(version).id,
                device: self.devices.get(device as usize).map_or_else(String::new, |name| name.to_string()),
                pending,
            })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by(|a, b| (a.dir, &a.name).cmp(&(b.dir, &b.name)));
        found
    }

    /// Records that do not mean what their author meant, in order of their ids. Looks at every record but those that do not
    /// count.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = self.problems.clone();
        found.retain(|id, _| !self.masked_ids.contains(id));
        for (at, rec) in self.recs.iter().enumerate() {
            let ix = RecIx(u32::try_from(at).expect("an index"));
            if self.masked.contains(&ix) {
                continue;
            }
            let problem = match &rec.body {
                Body::Place(_) => self.place_problem(ix),
                Body::Content(rec) if self.nodes[rec.node.at()].places.is_empty() => Some(ProblemKind::NoPlace),
                Body::Content(_) => self.foreign_replaces(ix),
                _ => None,
            };
            if let Some(problem) = problem {
                found.entry(rec.id).or_insert(problem);
            }
        }
        found.into_iter().map(|(record, kind)| Problem { record, kind }).collect()
    }

    fn place_problem(&self, ix: RecIx) -> Option<ProblemKind> {
        let rec = self.place_rec(ix)?;
        let parent = &self.nodes[rec.parent.at()];
        if self.places[rec.place.at()].node != Some(rec.node) {
            Some(ProblemKind::PlaceOfAnother)
        } else if self.nodes[rec.node.at()].kind != Some(rec.kind) {
            Some(ProblemKind::KindsDiffer)
        } else if rec.parent == rec.node {
            Some(ProblemKind::InItself)
        } else if parent.kind.is_none() {
            Some(ProblemKind::MissingParent)
        } else if parent.kind != Some(Kind::Dir) {
            Some(ProblemKind::BelowAFile)
        } else if self.nodes[rec.node.at()].recs.is_empty()
            && self.content_heads(self.nodes[rec.node.at()].class).is_empty()
        {
            Some(ProblemKind::NoContent)
        } else {
            self.foreign_replaces(ix)
        }
    }

    /// Whether a record names a replaced record of another place or inode.
    fn foreign_replaces(&self, ix: RecIx) -> Option<ProblemKind> {
        let subject = |ix: RecIx| match &self.rec(ix).body {
            Body::Place(rec) => Some((true, self.places[rec.place.at()].class.0)),
            Body::Birth { place, .. } => Some((true, self.places[place.at()].class.0)),
            Body::Content(rec) => Some((false, self.nodes[rec.node.at()].class.0)),
            Body::Pin(_) | Body::Void => None,
        };
        let own = subject(ix);
        let is_root = |old: RecIx| match &self.rec(ix).body {
            Body::Content(rec) => self.is_birth_root(self.nodes[rec.node.at()].class, old),
            _ => false,
        };
        let foreign = |old: &&RecIx| subject(**old) != own && !is_root(**old);
        self.replaces(ix).iter().find(foreign).map(|_| ProblemKind::ForeignReplaces)
    }
}
