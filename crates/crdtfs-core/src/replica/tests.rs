#![allow(clippy::unwrap_used)]
mod hostile;
mod members;
mod prototypes;

use std::collections::BTreeMap;

use super::*;
use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId};
use crate::name::Name;
use crate::node::{Kind, Time, Xattrs};
use crate::op::NewNode;
use crate::snapshot;
use crate::sync::{Fault, Numbered, Session, SyncHost};
use crate::wire::{self, Holding};

/// A device: a replica with the log and membership records that it keeps.
struct Device {
    replica: Replica,
    genesis: Vec<u8>,
    members: Vec<Vec<u8>>,
    log: Vec<Accepted>,
    by_seq: BTreeMap<(ActorId, u64), Vec<u8>>,
    faults: Vec<Fault>,
    ids: u32,
    seed: u8,
}

const NOW: i64 = 1_800_000_000_000;

fn key(seed: u8) -> Key {
    Key::new(&[seed; 32])
}

fn incarnation(seed: u8) -> Incarnation {
    Incarnation([seed; 16])
}

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

impl Device {
    fn creator(seed: u8) -> Self {
        let created = Replica::create(key(seed), incarnation(seed), [9; 32], &format!("device {seed}"), NOW).unwrap();
        Self::of(created.replica, created.genesis, created.membership, seed)
    }

    fn of(replica: Replica, genesis: Vec<u8>, members: Vec<Vec<u8>>, seed: u8) -> Self {
        Self { replica, genesis, members, log: Vec::new(), by_seq: BTreeMap::new(), faults: Vec::new(), ids: 0, seed }
    }

    /// Joins by an invitation of this device.
    fn invite(&mut self, seed: u8, role: Role) -> Self {
        let ticket = key(200 + seed % 50);
        let device = key(seed).id();
        let (issued, _) = self.replica.with_membership(|members, key| {
            let (invitation, record) = members.invite(key, ticket.id(), role, 1, NOW + 1000, NOW).unwrap();
            let tag = wire::ShareTag([0; 32]);
            let share = members.share();
            let join = crate::membership::join(&ticket, &share, invitation, &device, &format!("device {seed}"), tag);
            let admission = members.admit(key, &join, device, NOW).unwrap().unwrap();
            [record, admission]
        });
        self.members.extend(issued);
        let none = BTreeMap::new();
        let loaded = Replica::load(
            key(seed),
            incarnation(seed),
            &self.genesis,
            &self.members,
            Base::Nothing,
            std::iter::empty(),
            &none,
        );
        Self::of(loaded.unwrap().replica, self.genesis.clone(), self.members.clone(), seed)
    }

    fn fresh(&mut self) -> [u8; 16] {
        self.ids += 1;
        let mut id = [self.seed; 16];
        id[..4].copy_from_slice(&self.ids.to_be_bytes());
        id
    }

    fn create(&mut self, text: &str) -> InodeId {
        let (inode, place) = (InodeId(self.fresh()), PlaceId(self.fresh()));
        let node = NewNode {
            mtime: Time { secs: 1, nanos: 2 },
            content: ContentRef::single(text.as_bytes()),
            ..NewNode::new(Kind::File, 0o644)
        };
        self.replica
            .apply(&Op::Create { dir: InodeId::ROOT, name: name(text), inode, place, node, beside: None }, NOW)
            .unwrap();
        inode
    }

    fn edit(&mut self, inode: InodeId, text: &str) {
        let content = ContentRef::single(text.as_bytes());
        let mtime = Time { secs: 5, nanos: 0 };
        self.replica.apply(&Op::Edit { inode, via: None, basis: None, content, mtime }, NOW).unwrap();
    }

    fn commit(&mut self) -> usize {
        let mut count = 0;
        loop {
            match self.replica.commit(NOW) {
                Ok(None) => return count,
                Ok(Some(Committed { actor, tip, envelope, .. })) => {
                    self.append(Accepted { actor, tip, envelope });
                    count += 1;
                }
                Err(CommitError::NeedsIncarnation) => {
                    let n = self.fresh();
                    self.replica.renew(Incarnation(n));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn append(&mut self, accepted: Accepted) {
        let known = self.by_seq.insert((accepted.actor, accepted.tip.seq), accepted.envelope.clone());
        assert_eq!(known, None, "one envelope for each number in the log");
        self.log.push(accepted);
    }

    fn keep(&mut self, received: Received) -> Result<(), Fault> {
        for (actor, tip) in received.dropped {
            self.by_seq.remove(&(actor, tip.seq)).unwrap();
            self.log.retain(|logged| (logged.actor, logged.tip) != (actor, tip));
        }
        received.accepted.into_iter().for_each(|accepted| self.append(accepted));
        self.members.extend(received.membership);
        match received.blame {
            None => Ok(()),
            Some(refused) => {
                let fault = Fault::from(refused);
                self.faults.push(fault.clone());
                Err(fault)
            }
        }
    }

    /// Starts again from what it keeps.
    fn restart(&mut self, snapshot: Option<&[u8]>) -> Vec<(ActorId, Tip)> {
        let covered = snapshot
            .map(|bytes| snapshot::Snapshot::decode(&self.replica.share(), bytes).unwrap().vector().clone())
            .unwrap_or_default();
        let after = self.log.iter().filter(|logged| logged.tip.seq > covered.seq(&logged.actor));
        let envelopes = after.map(|logged| logged.envelope.clone()).collect::<Vec<_>>();
        let loaded = Replica::load(
            key(self.seed),
            self.replica.incarnation,
            &self.genesis,
            &self.members,
            snapshot.map_or(Base::Nothing, Base::Snapshot),
            envelopes.into_iter(),
            &self.by_seq,
        )
        .unwrap();
        assert_eq!(loaded.unfit, 0);
        self.restart_as_saved();
        self.replica = loaded.replica;
        loaded.dropped
    }

    /// What is saved is all that there is: the same replica comes back, and saves the same.
    fn restart_as_saved(&mut self) {
        let Some(bytes) = self.replica.save() else { return };
        let before = (self.tree(), self.replica.heads(), self.replica.vector().clone());
        let saved = Saved::read(&self.replica.share(), &bytes).unwrap().expect("this very program wrote it");
        assert_eq!(saved.vector(), self.replica.vector());
        let loaded = Replica::load(
            key(self.seed),
            self.replica.incarnation,
            &self.genesis,
            &self.members,
            Base::Saved(Box::new(saved)),
            std::iter::empty(),
            &self.by_seq,
        );
        self.replica = loaded.unwrap().replica;
        assert_eq!((self.tree(), self.replica.heads(), self.replica.vector().clone()), before);
        assert!(self.replica.save() == Some(bytes), "it saves something else");
    }

    fn snapshot(&self, previous: Option<&[u8]>) -> Vec<u8> {
        let envelopes = self.log.iter().map(|logged| logged.envelope.clone());
        snapshot::extend(&self.replica.share(), previous, envelopes).unwrap()
    }

    /// What it shows: name to content hash, in order.
    fn tree(&self) -> Vec<(String, Hash)> {
        let view = self.replica.view();
        let entries = view.entries(InodeId::ROOT, None, usize::MAX).into_iter();
        entries.map(|entry| (entry.name.to_string(), view.node(entry.inode).unwrap().content.hash)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.tree().into_iter().map(|(name, _)| name).collect()
    }
}

impl SyncHost for Device {
    fn epoch(&self) -> u32 {
        self.replica.epoch()
    }
    fn vector(&self) -> Vector {
        self.replica.vector().clone()
    }
    fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        self.replica.chains().change(actor, seq)
    }
    fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered> {
        let start = self.replica.start_after(known);
        let missing = self.log.iter().filter(|e| e.tip.seq > start.get(&e.actor).copied().unwrap_or(0));
        let mut bytes = 0;
        let fits = missing.take_while(|e| {
            let first = bytes == 0;
            bytes += e.envelope.len();
            first || bytes <= max_bytes
        });
        fits.map(|e| Numbered { actor: e.actor, tip: e.tip, bytes: e.envelope.clone() }).collect()
    }
    fn receive(&mut self, _: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault> {
        let received = self.replica.receive(envelopes, &self.by_seq);
        self.keep(received)
    }
    fn membership_heads(&self) -> Vec<Hash> {
        self.replica.membership().heads()
    }
    fn membership_after(&self, known: &[Hash]) -> Vec<Vec<u8>> {
        self.replica.membership().records_after(known)
    }
    fn receive_membership(&mut self, _: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault> {
        let received = self.replica.receive_membership(&records, &self.by_seq);
        self.keep(received)
    }
    fn holding(&self) -> Holding {
        Holding { vector: self.vector(), ..Holding::default() }
    }
}

/// Runs a session between two devices until both are silent; what either has to commit meanwhile is committed. Gives the
/// number of messages and bytes.
fn meet(a: &mut Device, b: &mut Device) -> (usize, usize) {
    let mut ends = [Session::new(b.replica.device(), 0), Session::new(a.replica.device(), 0)];
    let hosts = [a, b];
    let (mut messages, mut bytes, mut quiet) = (0, 0, 0);
    while quiet < 2 {
        quiet += 1;
        for from in [0, 1] {
            if hosts[from].commit() > 0 {
                ends[from].changed();
            }
            while let Some(message) = ends[from].poll(&mut *hosts[from]) {
                let frame = wire::encode(&message);
                (messages, bytes, quiet) = (messages + 1, bytes + frame.len(), 0);
                ends[1 - from].handle(wire::decode(&frame).unwrap(), &mut *hosts[1 - from]).unwrap();
                assert!(messages < 10_000, "the two never fall silent");
            }
        }
    }
    assert_eq!(hosts[0].replica.vector(), hosts[1].replica.vector());
    assert!(ends[0].level(hosts[0].replica.vector()));
    (messages, bytes)
}

fn assert_same(devices: &[&Device]) {
    for pair in devices.windows(2) {
        assert_eq!(pair[0].tree(), pair[1].tree());
        assert_eq!(pair[0].replica.vector(), pair[1].replica.vector());
        assert_eq!(pair[0].replica.heads(), pair[1].replica.heads());
        assert_eq!(pair[0].replica.membership().heads(), pair[1].replica.membership().heads());
    }
}

#[test]
fn two_devices_edit_and_converge() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let file = a.create("a");
    b.create("b");
    assert_eq!(a.replica.queued(), 2);
    meet(&mut a, &mut b);
    assert_same(&[&a, &b]);
    assert_eq!(a.names(), ["a", "b"]);
    b.edit(file, "a, by b");
    meet(&mut a, &mut b);
    assert_same(&[&a, &b]);
    assert_eq!(a.tree()[0].1, Hash::of(b"a, by b"));
    assert_eq!(a.replica.waiting() + b.replica.waiting(), 0);
}

#[test]
fn a_delta_says_what_came() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let file = a.create("a");
    a.commit();
    let received = b.replica.receive(vec![a.log[0].envelope.clone()], &b.by_seq);
    assert_eq!(received.delta.entries.len(), 1);
    assert_eq!(received.delta.entries[0].after, Some(file));
    assert_eq!(received.accepted.len(), 1);
    let again = b.replica.receive(vec![a.log[0].envelope.clone()], &b.by_seq);
    assert_eq!(again, Received::default());
}

#[test]
fn envelopes_in_any_order_wait_for_what_they_need() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let file = a.create("a");
    a.commit();
    for n in 0..5 {
        a.edit(file, &format!("version {n}"));
        a.commit();
    }
    for accepted in a.log.iter().rev() {
        let received = b.replica.receive(vec![accepted.envelope.clone()], &b.by_seq);
        assert_eq!(received.blame, None);
        b.keep(received).unwrap();
    }
    assert_eq!(b.log.len(), 6);
    assert_same(&[&a, &b]);
    assert_eq!(b.replica.waiting(), 0);
}

#[test]
fn a_change_under_unknown_membership_waits_and_nobody_is_blamed() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let mut c = a.invite(3, Role::Write);
    c.create("c");
    c.commit();
    let received = b.replica.receive(vec![c.log[0].envelope.clone()], &b.by_seq);
    assert_eq!((received.blame.clone(), received.accepted.len()), (None, 0));
    assert_eq!(b.replica.waiting(), 1);
    let records = a.members.clone();
    let received = b.replica.receive_membership(&records, &b.by_seq);
    assert_eq!(received.accepted.len(), 1);
    b.keep(received).unwrap();
    assert_eq!(b.names(), ["c"]);
}

#[test]
fn a_restart_from_the_log_or_a_snapshot_is_the_same_device() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let file = a.create("a");
    meet(&mut a, &mut b);
    let first = a.snapshot(None);
    b.edit(file, "two");
    b.create("b");
    meet(&mut a, &mut b);
    let (tree, vector, heads) = (a.tree(), a.replica.vector().clone(), a.replica.heads());
    let second = a.snapshot(Some(&first));
    assert_eq!(second, a.snapshot(None), "extended and made at once are equal");
    for snapshot in [None, Some(first.as_slice()), Some(second.as_slice())] {
        assert!(a.restart(snapshot).is_empty());
        assert_eq!(
            (a.tree(), a.replica.vector().clone(), a.replica.heads()),
            (tree.clone(), vector.clone(), heads.clone())
        );
        assert!(!a.replica.needs_incarnation());
    }
    a.create("after");
    meet(&mut a, &mut b);
    assert_same(&[&a, &b]);
}

#[test]
fn a_change_holds_a_thousand_records_and_a_batch_of_them_is_quick_to_take() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    for n in 0..2500 {
        a.create(&format!("file {n}"));
    }
    assert_eq!(a.commit(), 5);
    let sizes: Vec<_> = a.log.iter().map(|e| e.envelope.len()).collect();
    assert!(sizes.iter().all(|len| *len < 200_000), "{sizes:?}");
    meet(&mut a, &mut b);
    assert_same(&[&a, &b]);
    assert_eq!(b.names().len(), 2500);
}

#[test]
fn ten_changes_after_a_week_cost_little() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    for n in 0..3000 {
        a.create(&format!("file {n}"));
    }
    meet(&mut a, &mut b);
    for n in 0..10 {
        a.create(&format!("new {n}"));
        a.commit();
    }
    let (messages, bytes) = meet(&mut a, &mut b);
    assert!(bytes < 10_000 && messages < 20, "{messages} messages, {bytes} bytes");
    assert_same(&[&a, &b]);
}
