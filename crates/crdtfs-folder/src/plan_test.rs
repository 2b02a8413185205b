//! Property tests of the planner: random trees, random identities, every step checked as it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time};
use proptest::prelude::*;

use crate::disk::{Ident, Stamp};
use crate::plan::{Changes, Step, steps};
use crate::synced::{Place, Synced, SyncedTree};

fn id(n: u8) -> InodeId {
    if n == 0 { InodeId::ROOT } else { InodeId([n; 16]) }
}

fn name(n: u8) -> Name {
    Name::new(&[b'a' + n]).expect("legal")
}

pub(crate) fn state(n: u8, kind: Kind) -> Synced {
    Synced {
        kind,
        stamp: Stamp {
            ident: Ident { ino: n.into(), born: Time::default() },
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            mode: 0o644,
            nlink: 1,
        },
        key: id(n),
        content: ContentRef::empty(),
        basis: Vec::new().into(),
        mode: 0o644,
        mtime: Time::default(),
        xattrs: Arc::default(),
        target: Vec::new().into(),
    }
}

/// Directories 1 to 5, files 6 to 12, three names: crowded enough for every knot.
const DIRS: std::ops::RangeInclusive<u8> = 1..=5;

/// A tree from a list of wishes, of which those that fit come true.
fn tree(wishes: &[(u8, u8, u8)]) -> BTreeMap<Place, u8> {
    let mut places: BTreeMap<Place, u8> = BTreeMap::new();
    let mut placed = BTreeSet::from([0]);
    for &(node, dir, n) in wishes {
        let free = !places.contains_key(&(id(dir), name(n)));
        let fits = placed.contains(&dir) && (!DIRS.contains(&node) || !placed.contains(&node));
        if free && fits && (dir == 0 || DIRS.contains(&dir)) {
            places.insert((id(dir), name(n)), node);
            placed.insert(node);
        }
    }
    places
}

fn synced(places: &BTreeMap<Place, u8>) -> SyncedTree {
    let mut tree = SyncedTree::default();
    for node in places.values() {
        tree.set(id(*node), state(*node, if DIRS.contains(node) { Kind::Dir } else { Kind::File }));
    }
    for (place, node) in places {
        tree.place(id(*node), place.clone());
    }
    tree
}

/// The differences, new directories before what lies in them.
fn changes(before: &SyncedTree, after: &BTreeMap<Place, u8>, from: &BTreeMap<Place, u8>) -> Changes {
    let mut changes = Changes::default();
    for (place, node) in from {
        if after.get(place) != Some(node) {
            changes.removed.push((place.clone(), id(*node)));
        }
    }
    let mut todo = vec![InodeId::ROOT];
    while let Some(dir) = todo.pop() {
        for (place, node) in after.iter().filter(|(p, _)| p.0 == dir) {
            if from.get(place) != Some(node) {
                changes.added.push((place.clone(), id(*node)));
                if DIRS.contains(node) && before.node(id(*node)).is_none() {
                    changes.new_dirs.insert(id(*node));
                }
            }
            if DIRS.contains(node) {
                todo.push(id(*node));
            }
        }
    }
    changes
}

/// Does a step as a filesystem would, or says why it could not.
fn perform(tree: &mut SyncedTree, step: &Step, dirs: &BTreeSet<InodeId>) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{step:?}: {why}"));
    let free = |tree: &SyncedTree, at: &Place, over: Option<InodeId>| {
        tree.is_dir(at.0) && tree.child(at) == over && over.is_none_or(|o| !tree.is_dir(o))
    };
    let drop_at = |tree: &mut SyncedTree, at: &Place| {
        if let Some(gone) = tree.unplace(at) {
            tree.forget_nameless(gone);
        }
    };
    match step {
        Step::Create { at, id: new, over } => {
            if tree.node(*new).is_some() || !free(tree, at, *over) {
                return fail("cannot be created");
            }
            drop_at(tree, at);
            let kind = if dirs.contains(new) { Kind::Dir } else { Kind::File };
            tree.set(*new, state(new.0[0], kind));
            tree.place(*new, at.clone());
        }
        Step::Link { id: node, at } => {
            if tree.node(*node).is_none() || tree.is_dir(*node) || !free(tree, at, None) {
                return fail("cannot be linked");
            }
            tree.place(*node, at.clone());
        }
        Step::Move { id: node, from, to, over } => {
            if tree.child(from) != Some(*node) || !free(tree, to, *over) || tree.is_below(to.0, *node) {
                return fail("cannot be moved");
            }
            drop_at(tree, to);
            tree.rename(from, to.clone());
        }
        Step::Swap { a, b } => {
            let (Some(x), Some(y)) = (tree.child(a), tree.child(b)) else { return fail("nothing to swap") };
            if tree.is_below(a.0, y) || tree.is_below(b.0, x) {
                return fail("would go below itself");
            }
            tree.unplace(a);
            tree.unplace(b);
            tree.place(x, b.clone());
            tree.place(y, a.clone());
        }
        Step::Remove { id: node, at } => {
            if tree.child(at) != Some(*node) || (tree.is_dir(*node) && tree.count(*node) > 0) {
                return fail("cannot be removed");
            }
            drop_at(tree, at);
        }
    }
    Ok(())
}

fn wishes() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((1u8..=12, 0u8..=5, 0u8..3), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_way_between_two_trees_can_be_walked(from in wishes(), to in wishes()) {
        let (from, to) = (tree(&from), tree(&to));
        let mut walked = synced(&from);
        let changes = changes(&walked, &to, &from);
        let steps = steps(&walked, &changes);
        for step in &steps {
            perform(&mut walked, step, &changes.new_dirs).map_err(TestCaseError::fail)?;
        }
        for place in from.keys().chain(to.keys()) {
            prop_assert_eq!(walked.child(place), to.get(place).map(|n| id(*n)), "{:?} after {:?}", place, &steps);
        }
        prop_assert_eq!(walked.len(), to.values().collect::<BTreeSet<_>>().len());
    }
}

#[test]
fn a_directory_with_all_below_it_moves_in_one_step() {
    let mut from: BTreeMap<Place, u8> = BTreeMap::from([((id(0), name(0)), 1)]);
    from.extend((6..=12).map(|n| ((id(1), name(n)), n)));
    let before = synced(&from);
    let mut to = from.clone();
    to.remove(&(id(0), name(0)));
    to.insert((id(0), name(1)), 1);
    let steps = steps(&before, &changes(&before, &to, &from));
    assert_eq!(steps, [Step::Move { id: id(1), from: (id(0), name(0)), to: (id(0), name(1)), over: None }]);
}

#[test]
fn two_names_that_changed_places_are_one_swap() {
    let from = BTreeMap::from([((id(0), name(0)), 6), ((id(0), name(1)), 7)]);
    let to = BTreeMap::from([((id(0), name(0)), 7), ((id(0), name(1)), 6)]);
    let before = synced(&from);
    let steps = steps(&before, &changes(&before, &to, &from));
    let [Step::Swap { a, b }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(BTreeSet::from([a, b]), BTreeSet::from([&(id(0), name(0)), &(id(0), name(1))]));
}
