//! Which contents what is shown is made of: their bytes may never be collected.

use std::collections::BTreeSet;

use super::View;
use super::arena::{Body, NodeEval, NodeIx, RecIx};
use super::content::MAX_BASE_DEPTH;
use crate::content::ContentRef;
use crate::id::RecordId;
use crate::merge::MergeCache;

impl View {
    /// The contents that the view needs, each once: of everything shown, of every version that is not settled yet (conflict
    /// copies, merges that are done or pending), and of the versions that those are merged on. Looks at every inode.
    pub fn needed_contents(&self) -> Vec<ContentRef> {
        let mut needed = BTreeSet::new();
        for (at, state) in self.nodes.iter().enumerate() {
            let node = NodeIx(u32::try_from(at).expect("an index"));
            match &state.eval {
                _ if state.class != node => {}
                NodeEval::Nothing => {}
                NodeEval::One(rec) => needed.extend(self.bytes_set_by(*rec)),
                NodeEval::Many(many) => {
                    needed.extend(many.bytes);
                    needed.extend(many.pending.iter().copied());
                    self.add_merged(node, &mut needed);
                }
            }
        }
        needed.into_iter().collect()
    }

    /// The bytes that a record stands for, if it is here and is one of a file's content.
    pub fn content_of(&self, record: &RecordId) -> Option<ContentRef> {
        self.bytes_set_by(*self.index.get(record)?)
    }

    fn bytes_set_by(&self, rec: RecIx) -> Option<ContentRef> {
        match &self.rec(rec).body {
            Body::Content(_) => self.content_rec(self.version_of(rec))?.bytes.as_deref().copied(),
            _ => None,
        }
    }

    /// Adds the heads of an inode of several, and what they may be merged on. Which bases a merge of many needs depends on
    /// what could be merged before; each of them is a base of two of the versions, or of two such bases.
    fn add_merged(&self, class: NodeIx, needed: &mut BTreeSet<ContentRef>) {
        let equals = self.equals(class);
        let heads = self.content_heads(class);
        needed.extend(heads.iter().filter_map(|head| self.bytes_set_by(*head)));
        let mut level: BTreeSet<RecIx> = heads.iter().map(|head| self.version_of(*head)).collect();
        for _ in 0..=MAX_BASE_DEPTH {
            level.retain(|version| self.bytes_set_by(*version).is_some_and(|bytes| MergeCache::can_be_text(&bytes)));
            let versions: Vec<_> = level.iter().copied().collect();
            let mut bases = BTreeSet::new();
            for (at, one) in versions.iter().enumerate() {
                for other in &versions[at + 1..] {
                    bases.extend(self.merge_bases(&[*one], &[*other], &equals));
                }
            }
            needed.extend(bases.iter().filter_map(|base| self.bytes_set_by(*base)));
            if bases.len() < 2 {
                break;
            }
            level = bases;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::{InodeId, PlaceId};
    use crate::name::Name;
    use crate::node::{Kind, Time};
    use crate::op::{NewNode, Op};
    use crate::record::Record;
    use crate::view::Author;

    const FILE: InodeId = InodeId([1; 16]);

    /// Two devices that hear of each other when told to.
    struct Pair {
        views: [View; 2],
        records: Vec<(RecordId, Record)>,
    }

    impl Pair {
        fn new() -> Self {
            Self { views: [View::new(), View::new()], records: Vec::new() }
        }

        fn act(&mut self, who: usize, op: &Op) {
            let author = Author { device: ["a", "b"][who], now_ms: 0 };
            let made = self.views[who].apply(op, &author).unwrap().records;
            self.records.extend(made.into_iter().map(|(id, bytes)| (id, Record::decode(&bytes).unwrap())));
        }

        fn create(&mut self, who: usize, text: &str) {
            let node = NewNode { content: of(text), ..NewNode::new(Kind::File, 0o644) };
            let op = Op::Create {
                dir: InodeId::ROOT,
                name: name(),
                inode: FILE,
                place: PlaceId(FILE.0),
                node,
                beside: None,
            };
            self.act(who, &op);
        }

        fn edit(&mut self, who: usize, text: &str) {
            let op = Op::Edit { inode: FILE, via: None, basis: None, content: of(text), mtime: Time::default() };
            self.act(who, &op);
        }

        /// Both get all records and all bytes.
        fn meet(&mut self, texts: &[&str]) {
            for view in &mut self.views {
                view.insert(&self.records);
                for text in texts {
                    view.supply(of(text).hash, text.as_bytes().into());
                }
            }
        }

        fn needed(&self, who: usize) -> BTreeSet<ContentRef> {
            self.views[who].needed_contents().into_iter().collect()
        }
    }

    fn of(text: &str) -> ContentRef {
        ContentRef::single(text.as_bytes())
    }

    fn name() -> Name {
        Name::try_from("f").unwrap()
    }

    fn set(texts: &[&str]) -> BTreeSet<ContentRef> {
        texts.iter().map(|text| of(text)).collect()
    }

    #[test]
    fn old_versions_are_not_needed() {
        let mut pair = Pair::new();
        pair.create(0, "one");
        assert_eq!(pair.needed(0), set(&["one"]));
        pair.edit(0, "two");
        assert_eq!(pair.needed(0), set(&["two"]));
        let two = pair.records.last().unwrap().0;
        assert_eq!(pair.views[0].content_of(&two), Some(of("two")));
        pair.act(0, &Op::Unlink { dir: InodeId::ROOT, name: name() });
        assert_eq!(pair.needed(0), set(&[]), "what was removed is history");
        assert_eq!(pair.views[0].content_of(&two), Some(of("two")));
    }

    #[test]
    fn what_is_merged_needs_both_sides_and_the_base() {
        let (base, left, right) = ("1\n2\n3\n4\n5\n", "one\n2\n3\n4\n5\n", "1\n2\n3\n4\nfive\n");
        let mut pair = Pair::new();
        pair.create(0, "older");
        pair.edit(0, base);
        pair.meet(&[]);
        pair.edit(0, left);
        pair.edit(1, right);
        pair.meet(&[]);
        assert_eq!(pair.needed(0), set(&[base, left, right]), "a merge that waits for bytes");
        pair.meet(&[base, left, right]);
        assert_eq!(pair.needed(0), set(&[base, left, right, "one\n2\n3\n4\nfive\n"]), "a merge that is done");
        assert_eq!(pair.needed(0), pair.needed(1));
        pair.edit(1, "settled");
        assert_eq!(pair.needed(1), set(&["settled"]));
    }

    #[test]
    fn a_conflict_copy_and_what_shows_that_it_is_one_are_needed() {
        let mut pair = Pair::new();
        pair.create(0, "base");
        pair.meet(&[]);
        pair.edit(0, "left");
        pair.edit(1, "right");
        pair.meet(&["base", "left", "right"]);
        assert_eq!(pair.views[0].conflicts().len(), 1);
        assert_eq!(pair.needed(0), set(&["base", "left", "right"]));
        // Promoted by an edit of the holder, it is a file like any other, and the base is history.
        pair.edit(0, "left again");
        assert!(pair.views[0].conflicts().is_empty());
        let needed = pair.needed(0);
        assert!(needed.contains(&of("left again")) && !needed.contains(&of("base")) && needed.len() == 2, "{needed:?}");
    }
}
