//! Of a file with several names a conflict copy stands beside the one that it was written through, or, if that is gone, beside one that
//! no later name takes it away from.

#![allow(clippy::unwrap_used, missing_docs)]

mod device;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::op::{NewNode, Op, RenameMode};

use device::{Device, name};

const FILE: InodeId = InodeId([7; 16]);
const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// Ids of places in their order.
const FIRST: PlaceId = PlaceId([1; 16]);
const SECOND: PlaceId = PlaceId([2; 16]);
const LAST: PlaceId = PlaceId([9; 16]);

fn create(device: &mut Device, (dir, text): (InodeId, &str), place: PlaceId, bytes: &str) {
    let node = NewNode { content: ContentRef::single(bytes.as_bytes()), ..NewNode::new(Kind::File, 0o644) };
    device.apply(&Op::Create { dir, name: name(text), inode: FILE, place, node, beside: None }).unwrap();
}

/// Writes the file through one of its names; the record's place among those that the device knows.
fn edit(device: &mut Device, (dir, text): (InodeId, &str), bytes: &str) -> usize {
    let content = ContentRef::single(bytes.as_bytes());
    let via = Some((dir, name(text)));
    device.apply(&Op::Edit { inode: FILE, via, basis: None, content, mtime: Time::default() }).unwrap();
    device.log.len() - 1
}

fn link(device: &mut Device, (dir, text): (InodeId, &str), place: PlaceId) {
    device.apply(&Op::Link { inode: FILE, dir, name: name(text), place }).unwrap();
}

fn supply(device: &mut Device, texts: &[&str]) {
    for text in texts {
        device.view.supply(ContentRef::single(text.as_bytes()).hash, text.as_bytes().into());
    }
}

fn paths(device: &Device) -> Vec<String> {
    device.tree().into_iter().map(|(path, _)| path).collect()
}

/// What one device has when another has written a file through `x`, a third has written it through `y`, and a fourth, who saw
/// neither, has removed `x`: it shows the file at `y`, and beside that what was written through `x`. A fifth knows only the names.
struct Gone {
    one: Device,
    five: Device,
    texts: [String; 3],
}

impl Gone {
    /// The first of the worlds that `texts` makes of numbers in which it is so; the other's version may rank higher.
    fn new(texts: impl Fn(u32) -> [String; 3]) -> Self {
        (0..64).map(|number| Self::with(texts(number))).find(|(_, is_so)| *is_so).unwrap().0
    }

    fn with(texts: [String; 3]) -> (Self, bool) {
        let root = InodeId::ROOT;
        let mut one = Device::new();
        create(&mut one, (root, "x"), FIRST, &texts[0]);
        link(&mut one, (root, "y"), LAST);
        let [mut two, mut three, mut five] = [Device::new(), Device::new(), Device::new()];
        for device in [&mut two, &mut three, &mut five] {
            device.meet(&one);
        }
        let at = edit(&mut one, (root, "x"), &texts[1]);
        let through_x = one.log[at].0;
        edit(&mut two, (root, "y"), &texts[2]);
        three.apply(&Op::Unlink { dir: root, name: name("x") }).unwrap();
        one.meet(&two);
        one.meet(&three);
        let is_so = one.view.conflicts().iter().any(|conflict| conflict.version == through_x);
        (Self { one, five, texts }, is_so)
    }

    fn supply(&mut self) {
        let texts = self.texts.each_ref().map(String::as_str);
        supply(&mut self.one, &texts);
    }

    /// One that cannot be merged.
    fn binary() -> Self {
        let mut gone = Self::new(|number| ["base", "one", "two"].map(|text| format!("\0{text} {number}")));
        gone.supply();
        assert_eq!((paths(&gone.one).len(), gone.one.view.conflicts().len()), (2, 1));
        gone
    }

    /// One that can be merged as soon as its bytes are here.
    fn text() -> Self {
        let changed = |line: &str, number| LINES.replace(line, &format!("{line} {number}"));
        Self::new(|number| [LINES.into(), changed("2", number), changed("8", number)])
    }
}

#[test]
fn a_name_more_moves_no_copy_whose_own_is_gone_and_settles_nothing() {
    let mut gone = Gone::binary();
    let before = gone.one.view.conflicts();
    let records = gone.one.log.len();
    link(&mut gone.one, (InodeId::ROOT, "z"), SECOND);
    assert_eq!(gone.one.view.conflicts(), before);
    assert_eq!(gone.one.log.len(), records + 1);
    assert!(paths(&gone.one).contains(&"/z".into()));
}

#[test]
fn a_name_that_somebody_else_gave_moves_no_copy_whose_own_is_gone() {
    let mut gone = Gone::binary();
    let before = gone.one.view.conflicts();
    link(&mut gone.five, (InodeId::ROOT, "z"), SECOND);
    gone.one.meet(&gone.five);
    assert_eq!(gone.one.view.conflicts(), before);
    assert!(paths(&gone.one).contains(&"/z".into()));
}

#[test]
fn a_name_more_for_a_text_that_waits_for_bytes_settles_nothing_also_if_the_one_written_through_is_gone() {
    let mut gone = Gone::text();
    let before = paths(&gone.one);
    link(&mut gone.one, (InodeId::ROOT, "z"), SECOND);
    assert!(before.iter().all(|path| paths(&gone.one).contains(path)), "{:?}", paths(&gone.one));
    gone.supply();
    assert_eq!(paths(&gone.one), ["/y", "/z"]);
}

/// The same of a file that only its edits have kept: its names were removed by who had seen none of them.
#[test]
fn a_name_more_for_a_text_that_came_back_and_waits_for_bytes_settles_nothing() {
    let mut gone = Gone::text();
    let mut four = Device::new();
    four.meet(&gone.five);
    for text in ["x", "y"] {
        four.apply(&Op::Unlink { dir: InodeId::ROOT, name: name(text) }).unwrap();
    }
    gone.one.meet(&four);
    let before = paths(&gone.one);
    assert_eq!(before.len(), 2);
    link(&mut gone.one, (InodeId::ROOT, "z"), SECOND);
    assert!(before.iter().all(|path| paths(&gone.one).contains(path)), "{:?}", paths(&gone.one));
    gone.one.check();
    gone.supply();
    assert_eq!(paths(&gone.one), ["/y", "/z"]);
}

/// A file has a name in each of two directories that are shown as one. Its copy is made a file, and then they part: it goes with the
/// name that it stood beside.
#[test]
fn a_copy_that_becomes_a_file_stays_in_the_part_of_a_union_that_it_stood_in() {
    let root = InodeId::ROOT;
    let rename = |device: &mut Device, from: &str, to_dir: InodeId, to: &str| {
        let (from, to) = (name(from), name(to));
        device.apply(&Op::Rename { from_dir: root, from, to_dir, to, mode: RenameMode::NoReplace }).unwrap();
    };
    for (ids, number) in (0..4).flat_map(|ids| (0..8).map(move |number| (ids, number))) {
        let dirs = [ids & 1, 1 - (ids & 1)].map(|n| InodeId([n + 3; 16]));
        let places = if ids & 2 == 0 { [FIRST, LAST] } else { [LAST, FIRST] };
        let [mut one, mut two, mut three] = [Device::new(), Device::new(), Device::new()];
        create(&mut one, (root, "x"), places[0], "\0base");
        two.meet(&one);
        one.make_dir(root, "d", dirs[0]);
        rename(&mut one, "x", dirs[0], "x");
        two.make_dir(root, "d", dirs[1]);
        link(&mut two, (dirs[1], "y"), places[1]);
        three.meet(&two);
        one.meet(&two);
        two.meet(&one);
        let texts = ["\0base", &format!("\0one {number}"), &format!("\0two {number}")];
        edit(&mut one, (dirs[0], "x"), texts[1]);
        edit(&mut two, (dirs[0], "y"), texts[2]);
        one.meet(&two);
        supply(&mut one, &texts);
        let copy = one.view.conflicts().remove(0).name.to_string();
        // What is done to the file makes one of its copy; who knows only one of the directories takes that elsewhere.
        edit(&mut one, (dirs[0], "x"), "\0settled");
        rename(&mut three, "d", root, "e");
        one.meet(&three);
        one.check();
        let dir_of = |entry: &str| {
            let found = paths(&one).into_iter().find(|path| path.ends_with(&format!("/{entry}")));
            found.unwrap().strip_suffix(entry).unwrap().to_owned()
        };
        assert_eq!([dir_of("x"), dir_of("y")], ["/d/", "/e/"]);
        assert_eq!(dir_of(&copy), dir_of(&copy[..1]), "ids {ids}: {:?}", paths(&one));
    }
}
