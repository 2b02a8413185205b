//! Measures the view: `cargo run --release -p crdtfs-core --example view -- 1000000`.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time, Xattrs};
use crdtfs_core::op::{NewNode, Op, RenameMode};
use crdtfs_core::record::Record;
use crdtfs_core::view::{Author, View};

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

fn create(dir: InodeId, n: usize, kind: Kind) -> Op {
    let node = NewNode {
        kind,
        mode: 0o644,
        owner: None,
        mtime: Time { secs: n.try_into().unwrap(), nanos: 0 },
        xattrs: Xattrs::new(),
        content: ContentRef { hash: Hash::of(&n.to_le_bytes()), size: 4096, manifest: None },
        target: Vec::new(),
        rdev: 0,
    };
    let name = Name::try_from(format!("file-{n:07}.dat").as_str()).unwrap();
    Op::Create { dir, name, inode: InodeId(id(0, n)), place: PlaceId(id(1, n)), node }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let entries: usize = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap());
    let author = Author { device: "bench", now_ms: 0 };
    let mut records = Vec::new();
    let mut view = View::new();
    let start = Instant::now();
    let mut dir = InodeId::ROOT;
    for n in 0..entries {
        let kind = if n % 100 == 0 { Kind::Dir } else { Kind::File };
        let parent = if kind == Kind::Dir { InodeId::ROOT } else { dir };
        let outcome = view.apply(&create(parent, n, kind), &author).unwrap();
        if kind == Kind::Dir {
            dir = InodeId(id(0, n));
        }
        records.extend(outcome.records);
    }
    println!("create: {:?} each", start.elapsed() / entries as u32);
    drop(view);
    let decoded: Vec<(RecordId, Record)> =
        records.iter().map(|(id, bytes)| (*id, Record::decode(bytes).unwrap())).collect();
    let before = resident();
    let start = Instant::now();
    let mut view = View::new();
    view.load(&decoded);
    println!("load: {:?} for {entries} entries", start.elapsed());
    println!("memory: {} bytes an entry", (resident() - before) / entries as u64);
    let start = Instant::now();
    let saved = view.save().unwrap();
    println!("saved: {:?}, {} bytes an entry", start.elapsed(), saved.len() / entries);
    let start = Instant::now();
    drop(view);
    println!("dropped: {:?}", start.elapsed());
    let start = Instant::now();
    let mut view = View::restore(&saved).unwrap();
    println!("restored: {:?}", start.elapsed());
    drop(saved);
    let node = |n: usize| view.node(InodeId(id(0, n)));
    let start = Instant::now();
    let found = (0..10_000).filter(|n| node(n * 7919 % entries).is_some()).count();
    println!("node: {:?} ({found} found)", start.elapsed() / 10_000);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut remote = View::from_records(&decoded);
    for n in 0..300 {
        let from_dir = InodeId(id(0, n * 100 % entries));
        let file = n * 100 % entries + 1;
        let name = Name::try_from(format!("file-{file:07}.dat").as_str()).unwrap();
        let to = Name::try_from(format!("renamed-{n}").as_str()).unwrap();
        let op = Op::Rename { from_dir, from: name, to_dir: InodeId::ROOT, to, mode: RenameMode::NoReplace };
        let edit = Op::Edit {
            inode: InodeId(id(0, file)),
            via: None,
            basis: None,
            content: ContentRef::single(&n.to_le_bytes()),
            mtime: Time::default(),
        };
        for op in [op, edit] {
            let start = Instant::now();
            let outcome = view.apply(&op, &author).unwrap();
            times[0].push(start.elapsed());
            let new: Vec<_> = outcome.records.iter().map(|(id, bytes)| (*id, Record::decode(bytes).unwrap())).collect();
            let start = Instant::now();
            remote.insert(&new);
            times[1].push(start.elapsed());
        }
        let start = Instant::now();
        let listed = view.entries(from_dir, None, 100).len();
        times[2].push(start.elapsed());
        assert!(listed > 0);
    }
    let [local, received, listed] = times.map(median);
    println!("one local operation: {local:?}, one remote change: {received:?}, 100 entries listed: {listed:?}");
}
