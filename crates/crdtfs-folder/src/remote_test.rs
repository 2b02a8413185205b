//! Ways from the folder to the view that need a view as it comes about only by chance.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Entry, Kind, Node};
use crdtfs_core::op::{Applied, NewNode, Op, OpError};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_testkit::MemoryShare;

use crate::filesystem::Abilities;
use crate::ignores::Ignores;
use crate::plan::Step;
use crate::plan_test::state;
use crate::remote::{self, Inputs, Item, ViewDirty};
use crate::synced::{Place, SyncedTree};

/// A share in which one directory is part of another.
struct United {
    share: Arc<MemoryShare>,
    part: InodeId,
    whole: InodeId,
}

impl United {
    fn of(&self, id: InodeId) -> InodeId {
        if id == self.part { self.whole } else { id }
    }
}

impl Tree for United {
    fn keep_apart(&self, inode: InodeId) {
        self.share.keep_apart(inode);
    }

    fn node(&self, inode: InodeId) -> Option<Node> {
        self.share.node(self.of(inode))
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        self.share.child(self.of(dir), name)
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        self.share.entries(self.of(dir), after, limit)
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        self.share.names(self.of(inode))
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        self.share.apply(by, op)
    }

    fn fresh_id(&self) -> [u8; 16] {
        self.share.fresh_id()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn subscribe(&self, _: Adapter) -> Receiver<Arc<Delta>> {
        channel().1
    }

    fn totals(&self) -> (u64, u64) {
        self.share.totals()
    }

    fn writable(&self) -> bool {
        true
    }
}

fn name(n: &str) -> Name {
    Name::try_from(n).unwrap()
}

/// Two directories are here, and in the view the one is part of the other: all that lies in the one goes into the other, the
/// one goes, and the other takes its place.
#[test]
fn a_directory_that_became_part_of_one_that_is_here_too_empties_into_it() {
    let share = MemoryShare::new("one", 1);
    let id = |n: u8| InodeId([n; 16]);
    let (whole, part, file) = (id(1), id(2), id(3));
    let make = |dir, n: &str, inode, kind| {
        let node = NewNode { mode: 0o755, kind, ..crate::publish::empty(kind) };
        share.apply_remote(Op::Create {
            dir,
            name: name(n),
            inode,
            place: crdtfs_core::id::PlaceId(inode.0),
            node,
            beside: None,
        })
    };
    make(InodeId::ROOT, "dir", whole, Kind::Dir).unwrap();
    make(whole, "file", file, Kind::File).unwrap();
    let mut synced = SyncedTree::default();
    for (at, (inode, kind)) in [(whole, Kind::Dir), (part, Kind::Dir), (file, Kind::File)].into_iter().enumerate() {
        synced.set(inode, state(at as u8 + 1, kind));
    }
    let place = |dir: InodeId, n: &str| -> Place { (dir, name(n)) };
    synced.place(whole, place(InodeId::ROOT, "parked"));
    synced.place(part, place(InodeId::ROOT, "dir"));
    synced.place(file, place(part, "file"));
    let tree = United { share, part, whole };
    let dirty = ViewDirty { all: true, ..ViewDirty::default() };
    let (staged, ignores) = (HashMap::new(), Ignores::default());
    let inputs = Inputs {
        synced: &synced,
        tree: &tree,
        dirty: &dirty,
        staged: &staged,
        ignores: &ignores,
        abilities: Abilities::default(),
        listed: None,
    };
    let plan = remote::plan(&inputs);
    let all = [
        Step::Move { id: file, from: place(part, "file"), to: place(whole, "file"), over: None },
        Step::Remove { id: part, at: place(InodeId::ROOT, "dir") },
        Step::Move { id: whole, from: place(InodeId::ROOT, "parked"), to: place(InodeId::ROOT, "dir"), over: None },
    ];
    assert_eq!(plan.steps, all);
    let different = |place: Place| remote::differs(&inputs, &Item::Place(place));
    assert!(
        different(place(part, "file")) && different(place(whole, "file")) && different(place(InodeId::ROOT, "dir"))
    );
}
