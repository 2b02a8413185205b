//! Directories shown as one, of which one is shown only for what stands in it: an operation on that takes the directory
//! away from under its own feet.

#![allow(clippy::unwrap_used, missing_docs)]

use crdtfs_core::id::{InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::op::{NewNode, Op, OpError, RenameMode};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, View};

/// A device: what it shows, and all records that it gave out or was given.
#[derive(Default)]
struct Device {
    view: View,
    log: Vec<(RecordId, Record)>,
}

impl Device {
    fn new() -> Self {
        Self { view: View::new(), log: Vec::new() }
    }

    fn keep(&mut self, records: Vec<(RecordId, Vec<u8>)>) {
        self.log.extend(records.into_iter().map(|(id, bytes)| (id, Record::decode(&bytes).unwrap())));
    }

    fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        let outcome = self.view.apply(op, &Author { device: "one", now_ms: 0 });
        let begun = self.view.take_begun().records;
        self.keep(begun);
        outcome.map(|outcome| self.keep(outcome.records))
    }

    fn make_dir(&mut self, dir: InodeId, text: &str, inode: InodeId) {
        let node = NewNode::new(Kind::Dir, 0o755);
        self.apply(&Op::Create { dir, name: name(text), inode, place: PlaceId(inode.0), node }).unwrap();
    }

    fn meet(&mut self, other: &Self) {
        self.view.insert(&other.log);
        self.log.extend(other.log.iter().cloned());
    }

    fn child(&self, dir: InodeId, text: &str) -> Option<InodeId> {
        self.view.child(dir, name(text).as_bytes())
    }

    /// What is shown: paths and inodes, in order.
    fn tree(&self) -> Vec<(String, InodeId)> {
        tree(&self.view)
    }

    /// What is shown is what the records mean that were given out.
    fn check(&self) {
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

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

/// Two directories `in`, each with a `side`, all shown as two; one `in` was removed by who had not seen its `side`.
/// The bits of `ids` say which of the inodes come first.
fn united(ids: u8) -> Device {
    let id = |bit: u8, number: u8| InodeId([if ids & bit == 0 { 1 } else { 2 }; 16].map(|byte| byte * 16 + number));
    let (mut one, mut two, mut three) = (Device::new(), Device::new(), Device::new());
    one.make_dir(InodeId::ROOT, "in", id(1, 1));
    two.meet(&one);
    two.apply(&Op::Rmdir { dir: InodeId::ROOT, name: name("in") }).unwrap();
    one.make_dir(id(1, 1), "side", id(2, 2));
    three.make_dir(InodeId::ROOT, "in", id(4, 3));
    three.make_dir(id(4, 3), "side", id(8, 4));
    one.meet(&two);
    one.meet(&three);
    assert_eq!(one.tree().len(), 2);
    one
}

#[test]
fn what_is_shown_as_one_is_removed_with_what_it_stood_in() {
    for ids in 0..16 {
        let mut device = united(ids);
        let dir = device.child(InodeId::ROOT, "in").unwrap();
        device.apply(&Op::Rmdir { dir, name: name("side") }).unwrap();
        device.check();
        let left: Vec<_> = device.tree().into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, ["/in"], "ids {ids}");
    }
}

#[test]
fn what_is_shown_as_one_is_moved_out_of_what_it_stood_in() {
    for ids in 0..16 {
        for mode in [RenameMode::Replace, RenameMode::NoReplace] {
            let mut device = united(ids);
            let from_dir = device.child(InodeId::ROOT, "in").unwrap();
            let to_dir = InodeId::ROOT;
            device.apply(&Op::Rename { from_dir, from: name("side"), to_dir, to: name("out"), mode }).unwrap();
            device.check();
            let left: Vec<_> = device.tree().into_iter().map(|(path, _)| path).collect();
            assert_eq!(left, ["/in", "/out"], "ids {ids}");
        }
    }
}
