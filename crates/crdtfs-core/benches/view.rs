//! Measures the view at several sizes: `cargo bench -p crdtfs-core --bench view -- 10000 100000 1000000`.
//!
//! Times are medians of single operations, in a tree of directories with 99 files each. What a "change" is: the records of
//! one operation of another device.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::op::{NewNode, Op, RenameMode};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, View};

const AUTHOR: Author<'_> = Author { device: "bench", now_ms: 0 };

/// Entries of a directory, itself included.
const GROUP: usize = 100;

type Records = Vec<(RecordId, Record)>;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 100_000, 1_000_000] } else { sizes };
    for entries in sizes {
        println!("{entries} entries");
        let records = grown(entries);
        let view = loaded(entries, &records);
        let view = reopened(entries, view);
        read(entries, &view);
        let remote = View::from_records(&records);
        let (view, remote) = changed(entries, view, remote);
        merged(entries, view, remote);
    }
}

fn id(kind: u8, n: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&Hash::of(&[&[kind], &n.to_le_bytes()[..]].concat()).0[..16]);
    id
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn name_of(n: usize) -> Name {
    Name::try_from(format!("file-{n:07}.dat").as_str()).unwrap()
}

/// The directory of an entry: the root, of directories.
fn dir_of(n: usize) -> InodeId {
    if n.is_multiple_of(GROUP) { InodeId::ROOT } else { InodeId(id(0, n / GROUP * GROUP)) }
}

fn create(n: usize) -> Op {
    let node = NewNode {
        mtime: Time { secs: n.try_into().unwrap(), nanos: 0 },
        content: ContentRef { hash: Hash::of(&n.to_le_bytes()), size: 4096, manifest: None },
        ..NewNode::new(if n.is_multiple_of(GROUP) { Kind::Dir } else { Kind::File }, 0o644)
    };
    Op::Create {
        dir: dir_of(n),
        name: name_of(n),
        inode: InodeId(id(0, n)),
        place: PlaceId(id(1, n)),
        node,
        beside: None,
    }
}

/// A file, spread over the tree.
fn nth_file(entries: usize, n: usize) -> usize {
    let n = n * 7919 % entries;
    if n.is_multiple_of(GROUP) { n + 1 } else { n }
}

fn edit(file: usize, text: &str) -> Op {
    let content = ContentRef::single(text.as_bytes());
    Op::Edit { inode: InodeId(id(0, file)), via: None, basis: None, content, mtime: Time::default() }
}

fn apply(view: &mut View, op: &Op) -> Records {
    let outcome = view.apply(op, &AUTHOR).unwrap();
    outcome.records.iter().map(|(id, bytes)| (*id, Record::decode(bytes).unwrap())).collect()
}

fn grown(entries: usize) -> Records {
    let mut view = View::new();
    let start = Instant::now();
    let records: Vec<_> = (0..entries).flat_map(|n| view.apply(&create(n), &AUTHOR).unwrap().records).collect();
    println!("  created: {:?} each", start.elapsed() / entries as u32);
    drop(view);
    records.iter().map(|(id, bytes)| (*id, Record::decode(bytes).unwrap())).collect()
}

fn loaded(entries: usize, records: &Records) -> View {
    let before = resident();
    let start = Instant::now();
    let mut view = View::new();
    view.load(records);
    println!("  from scratch: {:?}", start.elapsed());
    println!("  memory: {} bytes an entry", resident().saturating_sub(before) / entries as u64);
    view
}

fn reopened(entries: usize, view: View) -> View {
    let start = Instant::now();
    let saved = view.save().unwrap();
    println!("  saved: {:?}, {} bytes an entry", start.elapsed(), saved.len() / entries);
    drop(view);
    let start = Instant::now();
    let view = View::restore(&saved).unwrap();
    println!("  loaded as saved: {:?}", start.elapsed());
    view
}

fn read(entries: usize, view: &View) {
    let start = Instant::now();
    let found = (0..10_000).filter(|n| view.node(InodeId(id(0, nth_file(entries, *n)))).is_some()).count();
    assert_eq!(found, 10_000);
    println!("  attributes: {:?}", start.elapsed() / 10_000);
    let looked: Vec<_> = (0..10_000).map(|n| nth_file(entries, n)).map(|n| (dir_of(n), name_of(n))).collect();
    let start = Instant::now();
    assert!(looked.iter().all(|(dir, name)| view.child(*dir, name.as_bytes()).is_some()));
    println!("  lookup: {:?}", start.elapsed() / 10_000);
    let start = Instant::now();
    for n in 0..1000 {
        assert_eq!(view.entries(dir_of(nth_file(entries, n)), None, GROUP).len(), GROUP - 1);
    }
    println!("  readdir of {} entries: {:?}", GROUP - 1, start.elapsed() / 1000);
}

fn changed(entries: usize, mut view: View, mut remote: View) -> (View, View) {
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..300 {
        let file = nth_file(entries, n);
        let to = Name::try_from(format!("renamed-{n}").as_str()).unwrap();
        let (from_dir, from) = (dir_of(file), name_of(file));
        let rename = Op::Rename { from_dir, from, to_dir: InodeId::ROOT, to, mode: RenameMode::NoReplace };
        for op in [rename, edit(file, &n.to_string())] {
            let start = Instant::now();
            let records = view.apply(&op, &AUTHOR).unwrap().records;
            times[0].push(start.elapsed());
            let records: Records = records.iter().map(|(id, bytes)| (*id, Record::decode(bytes).unwrap())).collect();
            let start = Instant::now();
            remote.insert(&records);
            times[1].push(start.elapsed());
        }
    }
    let [local, received] = times.map(median);
    println!("  one local operation: {local:?}; one remote change: {received:?}");
    (view, remote)
}

/// Each of two devices makes 1,000 changes, half of them of the files that the other changes, too; one takes in the other's.
fn merged(entries: usize, mut view: View, mut remote: View) {
    let theirs: Vec<_> = (0..1000)
        .map(|n| {
            let ours = nth_file(entries, 300 + n);
            apply(&mut view, &edit(ours, &format!("ours {n}")));
            let theirs = nth_file(entries, 300 + n + 500);
            apply(&mut remote, &edit(theirs, &format!("theirs {n}")))
        })
        .collect();
    let start = Instant::now();
    for change in &theirs {
        view.insert(change);
    }
    println!("  1,000 changes merged into 1,000 concurrent ones: {:?}", start.elapsed());
}
