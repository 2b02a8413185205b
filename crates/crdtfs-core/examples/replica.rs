//! Times a replica: `cargo run --release -p crdtfs-core --example replica -- [FILES]`.
//!
//! One device creates so many files in directories of a hundred, commits; another takes the changes; a snapshot is made,
//! extended by an eighth of the changes, and loaded.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::Instant;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, Incarnation, InodeId, PlaceId};
use crdtfs_core::key::Key;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::replica::{Base, Replica, Saved};
use crdtfs_core::snapshot;

fn create(replica: &mut Replica, n: usize, dir: InodeId, kind: Kind) -> InodeId {
    let id = |tag: u8| {
        let mut id = [0; 16];
        id.copy_from_slice(&Hash::of(&[&n.to_be_bytes()[..], &[tag]].concat()).0[..16]);
        id
    };
    let content = if kind == Kind::File { ContentRef::single(&n.to_be_bytes()) } else { ContentRef::empty() };
    let node = NewNode {
        mtime: Time { secs: 1_700_000_000, nanos: u32::try_from(n * 7919 % 1_000_000_000).expect("fits") },
        content,
        ..NewNode::new(kind, 0o644)
    };
    let (inode, name) = (InodeId(id(0)), Name::try_from(format!("file {n}").as_str()).expect("a name"));
    replica.apply(&Op::Create { dir, name, inode, place: PlaceId(id(1)), node, beside: None }, 0).expect("free");
    inode
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn main() {
    let files = std::env::args().nth(1).map_or(100_000, |arg| arg.parse::<usize>().expect("a number"));
    let key = || Key::new(&[1; 32]);
    let mut made = Replica::create(key(), Incarnation([1; 16]), [2; 32], "bench", 0).expect("a share");
    let at = Instant::now();
    let mut dir = InodeId::ROOT;
    let mut log = Vec::new();
    for n in 0..files {
        if n % 100 == 0 {
            dir = create(&mut made.replica, n, InodeId::ROOT, Kind::Dir);
        } else {
            create(&mut made.replica, n, dir, Kind::File);
        }
    }
    println!("apply {:.3} s, {}", at.elapsed().as_secs_f64(), resident());
    let at = Instant::now();
    while let Some(committed) = made.replica.commit(0).expect("commits") {
        log.push(committed.envelope);
    }
    let bytes: usize = log.iter().map(Vec::len).sum();
    println!("commit {:.3} s, {} changes, {bytes} bytes, {}", at.elapsed().as_secs_f64(), log.len(), resident());
    let none = BTreeMap::new();
    let load = |base: Base<'_>, envelopes: Vec<Vec<u8>>| {
        let at = Instant::now();
        let envelopes = envelopes.into_iter();
        let loaded =
            Replica::load(key(), Incarnation([1; 16]), &made.genesis, &made.membership, base, envelopes, &none)
                .expect("loads");
        println!("load {:.3} s, {}", at.elapsed().as_secs_f64(), resident());
        loaded.replica
    };
    let mut other = load(Base::Nothing, Vec::new());
    let at = Instant::now();
    for batch in log.chunks(2) {
        let received = other.receive(batch.to_vec(), &none);
        assert_eq!(received.blame, None);
    }
    println!("receive {:.3} s, {}", at.elapsed().as_secs_f64(), resident());
    drop(other);
    let share = made.replica.share();
    let at = Instant::now();
    let (most, rest) = log.split_at(log.len() * 7 / 8);
    let first = snapshot::extend(&share, None, most.iter().cloned()).expect("made");
    println!("snapshot of seven eighths {:.3} s, {} bytes, {}", at.elapsed().as_secs_f64(), first.len(), resident());
    let at = Instant::now();
    let second = snapshot::extend(&share, Some(&first), rest.iter().cloned()).expect("made");
    println!("the rest into the snapshot {:.3} s, {} bytes, {}", at.elapsed().as_secs_f64(), second.len(), resident());
    print!("from the snapshot: ");
    drop(load(Base::Snapshot(&second), Vec::new()));
    print!("from the log: ");
    drop(load(Base::Nothing, log));
    let at = Instant::now();
    let saved = made.replica.save().expect("all is committed");
    println!("save {:.3} s, {} bytes, {}", at.elapsed().as_secs_f64(), saved.len(), resident());
    let at = Instant::now();
    let saved = Saved::read(&share, &saved).expect("reads").expect("is ours");
    print!("as it was saved, {:.3} s and: ", at.elapsed().as_secs_f64());
    drop(load(Base::Saved(Box::new(saved)), Vec::new()));
}
