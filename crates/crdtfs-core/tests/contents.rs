//! Which contents a view names, and which are versions of one file.
#![allow(clippy::unwrap_used)]

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, PlaceId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::view::{Author, View};

fn create(number: u8, content: ContentRef) -> Op {
    let node = NewNode { content, ..NewNode::new(Kind::File, 0o644) };
    let id = [number; 16];
    let name = Name::try_from(format!("file{number}").as_str()).unwrap();
    Op::Create { dir: InodeId::ROOT, name, inode: InodeId(id), place: PlaceId(id), node, beside: None }
}

fn edit(number: u8, content: ContentRef) -> Op {
    Op::Edit { inode: InodeId([number; 16]), via: None, basis: None, content, mtime: Time::default() }
}

fn large(number: u8) -> ContentRef {
    ContentRef { hash: Hash([number; 32]), size: 1 << 20, manifest: Some(Hash([number + 100; 32])) }
}

#[test]
fn a_content_is_known_by_all_that_names_it_and_with_the_other_versions_of_its_file() {
    let mut view = View::new();
    let small = ContentRef::single(b"small");
    let author = Author { device: "a", now_ms: 0 };
    let ops = [create(1, large(1)), create(2, small), edit(1, large(2)), edit(1, large(3)), edit(2, large(9))];
    ops.iter().for_each(|op| _ = view.apply(op, &author).unwrap());

    for content in [large(1), large(2), large(3), large(9), small] {
        assert!(view.names_content(&content), "{content:?}");
    }
    assert!(!view.names_content(&large(4)), "nobody has named it");
    assert!(!view.names_content(&ContentRef { size: 7 << 20, ..large(1) }), "of another size");
    assert!(!view.names_content(&ContentRef { manifest: large(9).manifest, ..large(1) }), "with another manifest");
    assert!(!view.names_content(&ContentRef { size: 0, manifest: None, ..large(1) }), "as if it were of one chunk");
    assert!(view.names_content(&ContentRef { size: 0, ..small }), "of one chunk only the hash counts");

    assert_eq!(view.other_versions(&large(3), 9), [large(2), large(1)], "the latest first");
    assert_eq!(view.other_versions(&large(1), 1), [large(3)]);
    assert_eq!(view.other_versions(&large(9), 9), [small]);
    assert_eq!(view.other_versions(&large(4), 9), []);
}
