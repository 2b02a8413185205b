//! A device of these tests: it shows what is in the records that it gave out or was given.

use crdtfs_core::id::{InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::op::{NewNode, Op, OpError};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, View};

/// A device: what it shows, and all records that it gave out or was given.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) view: View,
    pub(crate) log: Vec<(RecordId, Record)>,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self { view: View::new(), log: Vec::new() }
    }

    fn keep(&mut self, records: Vec<(RecordId, Vec<u8>)>) {
        self.log.extend(records.into_iter().map(|(id, bytes)| (id, Record::decode(&bytes).unwrap())));
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        let outcome = self.view.apply(op, &Author { device: "one", now_ms: 0 });
        let begun = self.view.take_begun().records;
        self.keep(begun);
        outcome.map(|outcome| self.keep(outcome.records))
    }

    pub(crate) fn make_dir(&mut self, dir: InodeId, text: &str, inode: InodeId) {
        let node = NewNode::new(Kind::Dir, 0o755);
        self.apply(&Op::Create { dir, name: name(text), inode, place: PlaceId(inode.0), node, beside: None }).unwrap();
    }

    pub(crate) fn meet(&mut self, other: &Self) {
        self.view.insert(&other.log);
        self.log.extend(other.log.iter().cloned());
    }

    /// What is shown: paths and inodes, in order.
    pub(crate) fn tree(&self) -> Vec<(String, InodeId)> {
        tree(&self.view)
    }

    /// What is shown is what the records mean that were given out.
    pub(crate) fn check(&self) {
        assert_eq!(self.tree(), tree(&View::from_records(&self.log)));
    }
}

fn tree(view: &View) -> Vec<(String, InodeId)> {
    let mut found = Vec::new();
    let mut dirs = vec![(String::new(), InodeId::ROOT)];
    while let Some((path, dir)) = dirs.pop() {
        for entry in view.entries(dir, None, usize::MAX) {
            let path = format!("{path}/{}", entry.name);
            found.push((path.clone(), entry.inode));
            if entry.kind == Kind::Dir {
                dirs.push((path, entry.inode));
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}
