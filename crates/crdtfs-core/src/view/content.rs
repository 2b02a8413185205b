//! What the contents of one inode (or of a class of merged inodes) mean: the heads, the bytes that they make together,
//! the conflict copies that they leave, and whether an inode lives that has no place any more.

use std::collections::BTreeSet;

use super::View;
use super::arena::{Body, CopyEval, Field, ManyEval, NodeEval, NodeIx, PlaceIx, RecIx, State};
use super::graph::Equals;
use super::mutation::Mutation;
use crate::content::ContentRef;
use crate::id::InodeId;
use crate::merge::{Merge, MergeCache};
use crate::node::Kind;
use crate::record::birth_id;

/// How deep merges of merge bases nest.
pub(super) const MAX_BASE_DEPTH: usize = 8;

/// One state of the bytes among the heads.
struct Version {
    /// Records that set these bytes.
    stamps: Vec<RecIx>,
    content: ContentRef,
    /// Heads that carry them, the highest ranked first.
    heads: Vec<RecIx>,
}

impl View {
    /// Evaluates the contents of an inode class again.
    pub(super) fn update_node(&mut self, node: NodeIx) {
        if self.nodes[node.at()].class != node || node == NodeIx::ROOT {
            return;
        }
        let mut merges = std::mem::take(&mut self.merges);
        let eval = self.eval_node(node, &mut merges);
        self.merges = merges;
        let pending = match &eval {
            NodeEval::Many(many) => many.pending.clone(),
            _ => Vec::new(),
        };
        self.set_wanted(node, &pending);
        if eval == self.nodes[node.at()].eval {
            return;
        }
        if self.is_pending(node) == pending.is_empty() {
            // Copies are as pending as what they are copies of.
            self.touch_copies(node);
        }
        self.touch_node(node);
        let alias = self.nodes[node.at()].alias;
        self.touch_node(alias);
        self.nodes[node.at()].eval = eval;
        for place in self.place_classes(node) {
            self.dirty.claims.insert(place);
            let state = &self.places[place.at()];
            if let (Some(claim), Some(eval)) = (&state.claim, &state.eval) {
                let (dir, name) = (claim.dir, eval.name.clone());
                if self.is_contested(dir, &name) {
                    self.dirty.slots.insert((dir, name));
                }
            }
        }
        self.dirty.copies.insert(node);
    }

    /// Notes which bytes a node's merge waits for.
    pub(super) fn set_wanted(&mut self, node: NodeIx, contents: &[ContentRef]) {
        for hash in self.wanting.remove(&node).unwrap_or_default() {
            if let Some(nodes) = self.wanted.get_mut(&hash) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.wanted.remove(&hash);
                    self.wanted_refs.remove(&hash);
                }
            }
        }
        for content in contents {
            self.wanted.entry(content.hash).or_default().insert(node);
            self.wanted_refs.insert(content.hash, *content);
        }
        if !contents.is_empty() {
            self.wanting.insert(node, contents.iter().map(|content| content.hash).collect());
        }
    }

    /// Heads of an inode class: content records, and the version it was born from, that none of its own replaces.
    pub(super) fn content_heads(&self, class: NodeIx) -> Vec<RecIx> {
        let members = self.node_members(class);
        let in_class = |by: RecIx| match &self.rec(by).body {
            Body::Content(rec) => self.nodes[rec.node.at()].class == class,
            _ => false,
        };
        let mut heads = Vec::new();
        for member in &members {
            let state = &self.nodes[member.at()];
            let promoted = |ix: &RecIx| members.iter().any(|member| self.is_promoted(*member, *ix));
            let born = state.extra.as_ref().and_then(|extra| extra.root).filter(|_| self.has_birth(*member));
            let own = state.recs.iter().copied().filter(|ix| !promoted(ix));
            heads.extend(own.chain(born).filter(|ix| !self.masked.contains(ix) && !self.is_replaced(*ix, &in_class)));
        }
        heads.sort_unstable();
        heads.dedup();
        heads
    }

    /// Whether a version was promoted away from an inode.
    fn is_promoted(&self, node: NodeIx, version: RecIx) -> bool {
        let Some(extra) = &self.nodes[node.at()].extra else { return false };
        extra.promoted.contains(&version) && {
            let born = birth_id(&self.nodes[node.at()].id, &self.rec(version).id);
            self.node_index.get(&InodeId(born)).is_some_and(|born| self.has_birth(*born))
        }
    }

    /// Whether somebody made a file of a version, had he a right to or not.
    fn was_promoted(&self, class: NodeIx, version: RecIx) -> bool {
        let extra = |member: &NodeIx| self.nodes[member.at()].extra.as_ref();
        self.node_members(class).iter().filter_map(extra).any(|extra| extra.promoted.contains(&version))
    }

    /// Whether what a node shows waits for bytes.
    pub(super) fn is_pending(&self, node: NodeIx) -> bool {
        matches!(&self.nodes[self.nodes[node.at()].class.at()].eval, NodeEval::Many(many) if !many.pending.is_empty())
    }

    /// All versions that were promoted away from an inode class.
    pub(super) fn promoted_from(&self, class: NodeIx) -> Vec<RecIx> {
        let members = self.node_members(class).into_iter();
        let of = |member: NodeIx| {
            let extra = self.nodes[member.at()].extra.as_ref();
            extra.into_iter().flat_map(|extra| &extra.promoted).copied().filter(move |ix| self.is_promoted(member, *ix))
        };
        members.flat_map(of).collect()
    }

    fn eval_node(&self, class: NodeIx, merges: &mut MergeCache) -> NodeEval {
        let heads = self.content_heads(class);
        let Some(&first) = heads.first() else { return NodeEval::Nothing };
        let kind = self.nodes[class.at()].kind;
        let places = self.place_classes(class);
        if kind == Some(Kind::Dir) || places.iter().any(|place| self.is_live(*place)) {
            if heads.len() == 1 {
                return NodeEval::One(first);
            }
            return self.eval_many(class, &heads, None, merges);
        }
        self.eval_unnamed(class, &heads, &places, merges)
    }

    /// An inode without a living name: it still shows what was not seen by the deletion of every one of its names.
    ///
    /// A deletion takes what its author saw from the name that it removes, and from those that its author knew to be
    /// removed already; what another name was to show further on is not its to take. With a version it takes those that it was
    /// made of: who changes the permissions of one of these at the same time brings nothing back.
    fn eval_unnamed(&self, class: NodeIx, heads: &[RecIx], places: &[PlaceIx], merges: &mut MergeCache) -> NodeEval {
        if self.lacks(Mutation::DeleteSeen) {
            return NodeEval::Nothing;
        }
        let removed: Vec<_> = places
            .iter()
            .copied()
            .filter(|place| self.places[place.at()].eval.is_some())
            .map(|place| (place, self.seen_by_deletion(place)))
            .collect();
        let equals = self.equals(class);
        let takes = |seen: &BTreeSet<RecIx>, version: RecIx| {
            seen.contains(&version) || self.is_one_made_of(seen, version, &equals)
        };
        let at = |version: RecIx, via: Option<PlaceIx>| {
            let mut left = removed.iter().filter(|(_, seen)| !takes(seen, version)).map(|(place, _)| *place);
            let first = left.clone().next();
            left.find(|place| Some(*place) == via).or(first)
        };
        // What became a file of its own lives there or nowhere.
        let promoted = self.promoted_from(class);
        let left_it = |version: RecIx| self.is_one_made_of(&promoted, version, &equals);
        let is_unseen = |version: RecIx| at(version, None).is_some() && !left_it(version);
        let unseen: Vec<_> = heads.iter().copied().filter(|head| is_unseen(self.version_of(*head))).collect();
        let Some(top) = self.rank(&unseen, &equals).first().copied() else { return NodeEval::Nothing };
        // What was set on a version that one of these was made of was set on that one, too.
        let versions: Vec<_> = unseen.iter().map(|head| self.version_of(*head)).collect();
        let below = |head: &RecIx| self.is_one_made_of(&versions, self.version_of(*head), &equals);
        let shown: Vec<_> = heads.iter().copied().filter(below).collect();
        let via = self.content_rec(top).map(|rec| self.places[rec.via.at()].class);
        match at(self.version_of(top), via) {
            Some(place) => self.eval_many(class, &shown, Some(place), merges),
            None => NodeEval::Nothing,
        }
    }

    /// The bytes-stamps that were merged into a name when it was removed.
    pub(super) fn seen_by_deletion(&self, place: PlaceIx) -> BTreeSet<RecIx> {
        let mut seen = BTreeSet::new();
        for ix in self.place_records(place) {
            if let Some(State::Deleted(stamps)) = self.place_rec(ix).map(|rec| &rec.state) {
                seen.extend(stamps.iter().copied());
            }
        }
        seen
    }

    /// Versions of equal bytes that count as one, from the `merged` records of the class.
    pub(super) fn equals(&self, class: NodeIx) -> Equals {
        let mut equals = Equals::new();
        if self.nodes[class.at()].extra.as_ref().is_none_or(|extra| extra.members.is_empty()) {
            return equals;
        }
        for place in self.place_classes(class) {
            for ix in self.place_records(place) {
                if let Some(State::Merged { pairs, .. }) = self.place_rec(ix).map(|rec| &rec.state) {
                    for &(a, b) in pairs {
                        equate(&mut equals, a, b);
                    }
                }
            }
        }
        equals
    }

    fn eval_many(&self, class: NodeIx, heads: &[RecIx], revived: Option<PlaceIx>, merges: &mut MergeCache) -> NodeEval {
        let equals = self.equals(class);
        let ranked = self.rank_beside_promoted(class, heads, &equals);
        let versions = match self.nodes[class.at()].kind {
            Some(Kind::File) => self.versions(class, &ranked),
            _ => Vec::new(),
        };
        let mut many = ManyEval {
            fields: [ranked[0]; 5],
            bytes: None,
            heads: ranked.clone(),
            copies: Vec::new(),
            pending: Vec::new(),
            revived,
        };
        if let Some(first) = versions.first() {
            many.bytes = Some(first.content);
            let (bytes, left, pending) = self.fold(class, &versions, merges);
            if pending.is_empty() {
                many.bytes = Some(bytes);
                many.copies = left.into_iter().map(|i| self.copy_of(class, &versions[i])).collect();
            } else {
                many.copies = versions[1..].iter().map(|version| self.copy_of(class, version)).collect();
                many.pending = pending;
            }
            // What was set on a version goes where that goes: with a conflict copy, or with what became a file of its own.
            let copied: BTreeSet<_> = many.copies.iter().map(|copy| copy.version).collect();
            let shown: Vec<_> = versions
                .iter()
                .filter(|version| !copied.contains(&version.stamps[0]))
                .flat_map(|version| version.stamps.iter().copied())
                .collect();
            many.heads.retain(|head| self.is_one_made_of(&shown, self.version_of(*head), &equals));
        }
        // The bytes are those of the head that ranks highest, as are those that no merge has made.
        many.fields[Field::Bytes as usize] = many.heads[0];
        for field in [Field::Mode, Field::Owner, Field::Mtime, Field::Xattrs] {
            let stamps: Vec<_> = many.heads.iter().map(|head| (self.stamp(*head, field), *head)).collect();
            many.fields[field as usize] = self.winning_stamp(&stamps);
        }
        NodeEval::Many(Box::new(many))
    }

    /// Heads in order of rank, which stays when one of them becomes a file of its own: what that outranks does not rise.
    fn rank_beside_promoted(&self, class: NodeIx, heads: &[RecIx], equals: &Equals) -> Vec<RecIx> {
        let promoted = self.promoted_from(class);
        if promoted.is_empty() {
            return self.rank(heads, equals);
        }
        let all: Vec<_> = heads.iter().copied().chain(promoted).collect();
        let mut ranked = self.rank(&all, equals);
        ranked.retain(|head| heads.contains(head));
        ranked
    }

    /// The states of the bytes among heads in order of rank: ancestors of others and what was promoted away drop out,
    /// equal bytes are one.
    fn versions(&self, class: NodeIx, ranked: &[RecIx]) -> Vec<Version> {
        let equals = self.equals(class);
        let stamps: Vec<_> = ranked.iter().map(|head| self.version_of(*head)).collect();
        let promoted = self.promoted_from(class);
        let same = |a: RecIx, b: RecIx| a == b || equals.get(&a).is_some_and(|set| set.contains(&b));
        let counts = |stamp: RecIx| {
            !self.is_one_made_of(&promoted, stamp, &equals)
                && !stamps.iter().any(|other| !same(*other, stamp) && self.is_made_of(*other, stamp, &equals))
        };
        let mut versions: Vec<Version> = Vec::new();
        let mut dropped = Vec::new();
        for (&head, &stamp) in ranked.iter().zip(&stamps) {
            let Some(content) = self.content_rec(stamp).and_then(|rec| rec.bytes.as_deref().copied()) else { continue };
            if !counts(stamp) {
                dropped.push((head, stamp, content));
            } else if let Some(known) = versions.iter_mut().find(|version| version.content.hash == content.hash) {
                known.heads.push(head);
                if !known.stamps.contains(&stamp) {
                    known.stamps.push(stamp);
                }
            } else {
                versions.push(Version { stamps: vec![stamp], content, heads: vec![head] });
            }
        }
        if versions.is_empty()
            && let Some(&(head, stamp, content)) = dropped.first()
        {
            versions.push(Version { stamps: vec![stamp], content, heads: vec![head] });
        }
        versions
    }

    /// Merges versions into the first, in order: the bytes, the indices of those that cannot be merged, and what is
    /// wanted to decide.
    fn fold(
        &self,
        class: NodeIx,
        versions: &[Version],
        merges: &mut MergeCache,
    ) -> (ContentRef, Vec<usize>, Vec<ContentRef>) {
        let equals = self.equals(class);
        let mut stamps = versions[0].stamps.clone();
        let mut bytes = versions[0].content;
        let (mut left, mut wanted) = (Vec::new(), Vec::new());
        for (i, version) in versions.iter().enumerate().skip(1) {
            // It was a file of its own to the author of one that it would be merged with.
            let parted = |other: &RecIx| {
                self.was_promoted(class, *other) && stamps.iter().any(|stamp| self.outranks(*stamp, *other, &equals))
            };
            let settled = version.stamps.iter().any(parted);
            let merge = if settled {
                Merge::Refused
            } else {
                self.merge(merges, (&stamps, bytes), (&version.stamps, version.content), &equals, 0)
            };
            match merge {
                Merge::Clean(merged) => {
                    bytes = merged;
                    stamps.extend(&version.stamps);
                }
                Merge::Refused => left.push(i),
                Merge::Wants(more) => wanted.extend(more),
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        (bytes, left, wanted)
    }

    /// The merge of two sets of versions on their common base, itself a merge where there are several.
    fn merge(
        &self,
        merges: &mut MergeCache,
        ours: (&[RecIx], ContentRef),
        theirs: (&[RecIx], ContentRef),
        equals: &Equals,
        depth: usize,
    ) -> Merge {
        if !MergeCache::can_be_text(&ours.1) || !MergeCache::can_be_text(&theirs.1) {
            return Merge::Refused;
        }
        let mut bases = self.merge_bases(ours.0, theirs.0, equals);
        if self.lacks(Mutation::Recursion) {
            bases.truncate(1);
        }
        let content = |ix: RecIx| self.content_rec(ix).and_then(|rec| rec.bytes.as_deref().copied());
        let Some(mut base) = bases.first().and_then(|ix| content(*ix)) else { return Merge::Refused };
        if bases.len() > 1 && depth >= MAX_BASE_DEPTH {
            return Merge::Refused;
        }
        for i in 1..bases.len() {
            let Some(next) = content(bases[i]) else { return Merge::Refused };
            match self.merge(merges, (&bases[..i], base), (&bases[i..=i], next), equals, depth + 1) {
                Merge::Clean(merged) => base = merged,
                other => return other,
            }
        }
        merges.merge(&base, &ours.1, &theirs.1)
    }

    fn copy_of(&self, class: NodeIx, version: &Version) -> CopyEval {
        let stamp = version.stamps[0];
        // A version that an inode was born from is filed under its origin; the copy is of the inode itself.
        let born = self.node_members(class).into_iter().filter(|member| {
            self.nodes[member.at()].extra.as_ref().is_some_and(|extra| extra.root == Some(stamp))
                && self.has_birth(*member)
        });
        let born = born.min_by_key(|member| self.nodes[member.at()].id);
        // So is one that a record only claims to have the bytes of.
        let node_of = |ix: RecIx| self.content_rec(ix).map(|rec| rec.node);
        let own = node_of(stamp).filter(|node| self.nodes[node.at()].class == class);
        let origin = born.or(own).or_else(|| node_of(version.heads[0])).unwrap_or(class);
        let id = InodeId(birth_id(&self.nodes[origin.at()].id, &self.rec(stamp).id));
        CopyEval { id, origin, version: stamp, heads: version.heads.clone(), content: version.content }
    }

    /// A content record as one that the inode class can settle: itself if it is of the class, or the version that a member
    /// was born from.
    pub(super) fn as_own(&self, class: NodeIx, ix: RecIx) -> Option<RecIx> {
        let rec = self.content_rec(ix)?;
        if self.nodes[rec.node.at()].class == class || self.is_birth_root(class, ix) {
            return Some(ix);
        }
        Some(self.version_of(ix)).filter(|version| self.is_birth_root(class, *version))
    }

    /// Whether a member of the class was born from a version.
    pub(super) fn is_birth_root(&self, class: NodeIx, version: RecIx) -> bool {
        let root = |member: &NodeIx| self.nodes[member.at()].extra.as_ref().and_then(|extra| extra.root);
        self.node_members(class).iter().any(|member| root(member) == Some(version))
    }

    /// Contents of the shown bytes of a node, by which twins are found.
    pub(super) fn twin_key(&self, node: NodeIx) -> Option<Vec<u8>> {
        let top = self.top_content(node)?;
        match self.nodes[node.at()].kind {
            Some(Kind::File) => match &self.nodes[node.at()].eval {
                NodeEval::Many(many) if !many.pending.is_empty() => None,
                eval => Some(self.bytes_of(eval)?.hash.0.to_vec()),
            },
            Some(Kind::Symlink) => {
                let target = self.content_rec(top)?.rare.as_ref().map(|rare| rare.target.to_vec());
                Some(target.unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Heads that the shown bytes of a node stand for.
    pub(super) fn shown_heads(&self, node: NodeIx) -> Vec<RecIx> {
        match &self.nodes[node.at()].eval {
            NodeEval::Nothing => Vec::new(),
            NodeEval::One(rec) => vec![*rec],
            NodeEval::Many(many) => many.heads.clone(),
        }
    }

    /// The versions that the shown bytes of a node are made of; of what has no bytes, those that its heads carry.
    pub(super) fn shown_versions(&self, node: NodeIx) -> Vec<RecIx> {
        let heads = self.shown_heads(node);
        let versions = if heads.len() > 1 { self.versions(node, &heads) } else { Vec::new() };
        if versions.is_empty() {
            return heads.into_iter().map(|head| self.version_of(head)).collect();
        }
        versions.into_iter().flat_map(|version| version.stamps).collect()
    }

    /// The head of a shown node that ranks highest.
    pub(super) fn top_content(&self, node: NodeIx) -> Option<RecIx> {
        match &self.nodes[node.at()].eval {
            NodeEval::Nothing => None,
            NodeEval::One(rec) => Some(*rec),
            NodeEval::Many(many) => many.heads.first().copied(),
        }
    }

    /// The bytes that an evaluation shows.
    pub(super) fn bytes_of(&self, eval: &NodeEval) -> Option<ContentRef> {
        match eval {
            NodeEval::Nothing => None,
            NodeEval::One(rec) => self.content_rec(self.version_of(*rec))?.bytes.as_deref().copied(),
            NodeEval::Many(many) => many.bytes,
        }
    }
}

/// Makes two versions, and all that count as one with either, one node.
fn equate(equals: &mut Equals, a: RecIx, b: RecIx) {
    let mut all = BTreeSet::from([a, b]);
    for version in [a, b] {
        all.extend(equals.get(&version).into_iter().flatten().copied());
    }
    for version in &all {
        equals.insert(*version, all.clone());
    }
}
