//! Ancestry in the record graph: what replaced what, who saw what, and where two versions parted.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::View;
use super::arena::{Body, ContentRec, Field, PlaceRec, Rec, RecIx};
use super::mutation::Mutation;

/// Versions that count as one node of the version graph: each mapped to all of its node.
pub(super) type Equals = BTreeMap<RecIx, BTreeSet<RecIx>>;

/// What counts as one with a version, itself included, if anything does.
fn same_as(version: RecIx, equals: &Equals) -> impl Iterator<Item = &RecIx> {
    equals.get(&version).into_iter().flatten()
}

impl View {
    pub(super) fn rec(&self, ix: RecIx) -> &Rec {
        &self.recs[ix.at()]
    }

    pub(super) fn place_rec(&self, ix: RecIx) -> Option<&PlaceRec> {
        match &self.rec(ix).body {
            Body::Place(rec) => Some(rec),
            _ => None,
        }
    }

    pub(super) fn content_rec(&self, ix: RecIx) -> Option<&ContentRec> {
        match &self.rec(ix).body {
            Body::Content(rec) => Some(rec),
            _ => None,
        }
    }

    pub(super) fn replaces(&self, ix: RecIx) -> &[RecIx] {
        self.rec(ix).links.as_ref().map_or(&[], |links| &links.replaces)
    }

    pub(super) fn saw(&self, ix: RecIx) -> &[RecIx] {
        self.rec(ix).links.as_ref().map_or(&[], |links| &links.saw)
    }

    /// The records whose fields a record carries on.
    fn stamps(&self, ix: RecIx) -> impl Iterator<Item = RecIx> {
        let stamps = match &self.rec(ix).body {
            Body::Content(rec) => rec.stamps.as_ref().map(|stamps| &stamps[..]),
            Body::Place(rec) => rec.stamps.as_ref().map(|stamps| &stamps[..]),
            _ => None,
        };
        stamps.into_iter().flatten().flatten().copied()
    }

    pub(super) fn replaced_by(&self, ix: RecIx) -> &[RecIx] {
        self.rec(ix).links.as_ref().map_or(&[], |links| &links.replaced_by)
    }

    /// Whether a record is a creation: it settles nothing.
    pub(super) fn is_root(&self, ix: RecIx) -> bool {
        self.replaces(ix).is_empty()
    }

    /// Whether a record of the class (as `in_class` says) replaces this one; a masked record replaces nothing itself, but
    /// what was built on it does.
    pub(super) fn is_replaced(&self, ix: RecIx, in_class: &impl Fn(RecIx) -> bool) -> bool {
        let mut stack = self.replaced_by(ix).to_vec();
        let mut seen = BTreeSet::new();
        while let Some(by) = stack.pop() {
            if !in_class(by) || !seen.insert(by) {
                continue;
            }
            if !self.masked.contains(&by) {
                return true;
            }
            stack.extend(self.replaced_by(by));
        }
        false
    }

    /// Whether `old` is an ancestor of `new`, or `new` itself, by `replaces`, `saw` and what fields were taken over from (a
    /// conflict copy that became a file does not replace who set its permissions): what it set was before the eyes of who set
    /// something else.
    fn descends(&self, new: RecIx, old: RecIx) -> bool {
        let before = |at: RecIx| self.replaces(at).iter().chain(self.saw(at)).copied().chain(self.stamps(at));
        self.leads_to(new, old, self.rec(old).depth, before)
    }

    /// Whether the version `new` was made of `old`, or is it: an ancestor by `replaces` alone. Who saw another version and
    /// left it has made nothing of it.
    pub(super) fn is_made_of(&self, new: RecIx, old: RecIx, equals: &Equals) -> bool {
        self.leads_to(new, old, self.least_depth(old, equals), |at| {
            self.replaces(at).iter().chain(same_as(at, equals)).copied()
        })
    }

    /// Whether one of some versions was made of `old`, or is it.
    pub(super) fn is_one_made_of<'a>(
        &self,
        versions: impl IntoIterator<Item = &'a RecIx>,
        old: RecIx,
        equals: &Equals,
    ) -> bool {
        versions.into_iter().any(|new| self.is_made_of(*new, old, equals))
    }

    /// The least depth of what may lead to a version: what counts as one may be of any.
    fn least_depth(&self, old: RecIx, equals: &Equals) -> u32 {
        if equals.is_empty() { self.rec(old).depth } else { 0 }
    }

    /// Whether the version that one head carries outranks that of another: its author had it before its eyes, or what it was
    /// made of had. What a change of permissions saw does not count here: that made no version.
    pub(super) fn outranks(&self, new: RecIx, old: RecIx, equals: &Equals) -> bool {
        let (new, old) = (self.version_of(new), self.version_of(old));
        let before = |at: RecIx| {
            let seen = self.replaces(at).iter().chain(self.saw(at)).map(|ix| self.version_of(*ix));
            seen.chain(same_as(at, equals).copied())
        };
        new != old
            && same_as(new, equals).all(|other| *other != old)
            && self.leads_to(new, old, self.least_depth(old, equals), before)
    }

    /// Whether one leads to the other by steps that `before` gives, over records that are no less deep than `least`.
    fn leads_to<I>(&self, new: RecIx, old: RecIx, least: u32, before: impl Fn(RecIx) -> I) -> bool
    where
        I: Iterator<Item = RecIx>,
    {
        if new == old {
            return true;
        }
        let mut seen = BTreeSet::from([new]);
        let mut stack = vec![new];
        while let Some(at) = stack.pop() {
            for next in before(at) {
                if next == old {
                    return true;
                }
                if self.rec(next).depth >= least && seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }

    /// Heads in order of rank, the winner first: a version outranks what its author saw, else the greater RecordId of the
    /// version does. The head's own id decides only between heads of one version: who changes the permissions of a text that is
    /// merged of several changes nothing of the order in which they are merged.
    pub(super) fn rank(&self, heads: &[RecIx], equals: &Equals) -> Vec<RecIx> {
        let mut left = heads.to_vec();
        left.sort_unstable_by_key(|ix| std::cmp::Reverse((self.rec(self.version_of(*ix)).id, self.rec(*ix).id)));
        left.dedup();
        let is_first = |ix: RecIx| self.replaces(ix).is_empty() && self.saw(ix).is_empty();
        if left.len() < 2 || equals.is_empty() && left.iter().all(|ix| is_first(self.version_of(*ix))) {
            return left;
        }
        let mut ranked = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let best = (0..left.len())
                .find(|&i| left.iter().all(|&other| !self.outranks(other, left[i], equals)))
                .unwrap_or(0);
            ranked.push(left.remove(best));
        }
        ranked
    }

    /// Of (stamp, head that carries it), heads in order of rank, the head whose value of the field counts: of stamps that no
    /// other one descends from, the greatest RecordId. Which head carries a stamp does not matter, so that who says something
    /// else changes nothing of it.
    pub(super) fn winning_stamp(&self, stamps: &[(RecIx, RecIx)]) -> RecIx {
        let first = stamps[0];
        if stamps.iter().all(|(stamp, _)| *stamp == first.0) {
            return first.1;
        }
        let late: Vec<_> = stamps.iter().copied().filter(|(stamp, _)| !self.is_root(*stamp)).collect();
        let left = if late.is_empty() { stamps } else { &late };
        let is_last = |stamp: RecIx| left.iter().all(|(other, _)| *other == stamp || !self.descends(*other, stamp));
        let last = left.iter().rev().filter(|(stamp, _)| is_last(*stamp)).max_by_key(|(stamp, _)| self.rec(*stamp).id);
        last.unwrap_or(&left[0]).1
    }

    /// The record that set a field of a content.
    pub(super) fn stamp(&self, ix: RecIx, field: Field) -> RecIx {
        self.content_rec(ix).and_then(|rec| rec.stamps.as_ref()?[field as usize]).unwrap_or(ix)
    }

    /// The node of the version graph that a content record belongs to: the record that set its bytes.
    pub(super) fn version_of(&self, ix: RecIx) -> RecIx {
        self.stamp(ix, Field::Bytes)
    }

    /// The lowest common ancestors of two sets of versions by `replaces`, as versions, in order of their RecordIds.
    pub(super) fn merge_bases(&self, ours: &[RecIx], theirs: &[RecIx], equals: &Equals) -> Vec<RecIx> {
        const OURS: u8 = 1;
        const THEIRS: u8 = 2;
        const STALE: u8 = 4;
        let least =
            |ix: RecIx| same_as(ix, equals).chain([&ix]).copied().min_by_key(|ix| self.rec(*ix).id).unwrap_or(ix);
        let depth = |ix: RecIx| same_as(ix, equals).chain([&ix]).map(|ix| self.rec(*ix).depth).max().unwrap_or(0);
        let mut flags: BTreeMap<RecIx, u8> = BTreeMap::new();
        let mut queue = BinaryHeap::new();
        for (set, flag) in [(ours, OURS), (theirs, THEIRS)] {
            for &ix in set {
                let ix = least(self.version_of(ix));
                *flags.entry(ix).or_default() |= flag;
                queue.push((depth(ix), ix));
            }
        }
        let mut found = BTreeSet::new();
        let oldest = self.lacks(Mutation::BaseRule);
        while oldest || queue.iter().any(|(_, ix)| flags[ix] & STALE == 0) {
            let Some((_, ix)) = queue.pop() else { break };
            let mut flag = flags[&ix];
            if flag & (OURS | THEIRS) == OURS | THEIRS {
                if flag & STALE == 0 || oldest {
                    found.insert(ix);
                }
                flag |= STALE;
            }
            let same: Vec<_> = same_as(ix, equals).copied().chain([ix]).collect();
            for member in same {
                for &parent in self.replaces(member) {
                    let parent = least(self.version_of(parent));
                    let known = flags.entry(parent).or_default();
                    if parent != ix && *known | flag != *known {
                        *known |= flag;
                        queue.push((depth(parent), parent));
                    }
                }
            }
        }
        if oldest {
            return found.into_iter().min_by_key(|ix| (depth(*ix), self.rec(*ix).id)).into_iter().collect();
        }
        let mut bases: Vec<_> = found.iter().copied().filter(|ix| flags[ix] & STALE == 0).collect();
        bases.sort_unstable_by_key(|ix| self.rec(*ix).id);
        bases
    }
}
