//! What making a snapshot of an older one takes. A test of its own, for it looks at the memory of the whole process.

#![allow(clippy::unwrap_used, missing_docs)]

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, Incarnation, InodeId, PlaceId};
use crdtfs_core::key::Key;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::op::{NewNode, Op};
use crdtfs_core::replica::Replica;
use crdtfs_core::snapshot::{self, Snapshot};

/// Files in the older snapshot, and as many again that come into it.
const FILES: usize = 20_000;

/// Bytes of memory that the process had at most so far.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Creates files, and gives the envelopes that tell of them.
fn create(replica: &mut Replica, from: usize) -> Vec<Vec<u8>> {
    let mut envelopes = Vec::new();
    for n in from..from + FILES {
        let id = |tag: u8| Hash::of(&[&n.to_be_bytes()[..], &[tag]].concat()).0.first_chunk::<16>().copied().unwrap();
        let name = Name::try_from(format!("file {n}").as_str()).unwrap();
        let node = NewNode { content: ContentRef::single(&n.to_be_bytes()), ..NewNode::new(Kind::File, 0o644) };
        let op =
            Op::Create { dir: InodeId::ROOT, name, inode: InodeId(id(0)), place: PlaceId(id(1)), node, beside: None };
        replica.apply(&op, 0).unwrap();
        if n % 3 == 0 {
            envelopes.extend(std::iter::from_fn(|| replica.commit(0).unwrap()).map(|committed| committed.envelope));
        }
    }
    envelopes.extend(std::iter::from_fn(|| replica.commit(0).unwrap()).map(|committed| committed.envelope));
    envelopes
}

/// What comes in lies everywhere in the document: putting each where it belongs must not cost the whole document.
#[test]
fn an_older_snapshot_is_gone_on_from_in_little_memory() {
    let mut replica = Replica::create(Key::new(&[1; 32]), Incarnation([1; 16]), [2; 32], "one", 0).unwrap().replica;
    let share = replica.share();
    let first = snapshot::extend(&share, None, create(&mut replica, 0).into_iter()).unwrap();
    let more = create(&mut replica, FILES);
    let before = peak();
    let second = snapshot::extend(&share, Some(&first), more.into_iter()).unwrap();
    let took = peak() - before;
    assert!(took < 512 << 20, "{} MiB for a snapshot of {} bytes", took >> 20, second.len());
    let snapshot = Snapshot::decode(&share, &second).unwrap();
    let records: usize = snapshot.changes().unwrap().map(|change| change.unwrap().body.records.len()).sum();
    assert_eq!(records, 4 * FILES);
}
