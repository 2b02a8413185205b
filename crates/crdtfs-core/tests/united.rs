//! Directories shown as one, of which one is shown only for what stands in it: an operation on that takes the directory
//! away from under its own feet.

#![allow(clippy::unwrap_used, missing_docs)]

mod device;

use crdtfs_core::id::InodeId;
use crdtfs_core::op::{Op, RenameMode};

use device::{Device, name};

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
        let dir = device.view.child(InodeId::ROOT, b"in").unwrap();
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
            let from_dir = device.view.child(InodeId::ROOT, b"in").unwrap();
            let to_dir = InodeId::ROOT;
            device.apply(&Op::Rename { from_dir, from: name("side"), to_dir, to: name("out"), mode }).unwrap();
            device.check();
            let left: Vec<_> = device.tree().into_iter().map(|(path, _)| path).collect();
            assert_eq!(left, ["/in", "/out"], "ids {ids}");
        }
    }
}
