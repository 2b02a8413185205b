//! The two hard cases: a cloned device, and masking past a cut.

use super::*;

/// A copy of a device with all that it keeps, as a cloned disk or a restored backup is.
fn clone(device: &mut Device, fresh_ids: u8) -> Device {
    let none = BTreeMap::new();
    let envelopes: Vec<_> = device.log.iter().map(|logged| logged.envelope.clone()).collect();
    let incarnation = device.replica.incarnation;
    let loaded = Replica::load(
        key(device.seed),
        incarnation,
        &device.genesis,
        &device.members,
        Base::Nothing,
        envelopes.into_iter(),
        &none,
    );
    let mut copy = Device::of(loaded.unwrap().replica, device.genesis.clone(), device.members.clone(), device.seed);
    copy.log = device.log.clone();
    copy.by_seq = device.by_seq.clone();
    copy.ids = u32::from(fresh_ids) << 24;
    copy
}

/// Everybody meets everybody, in an order that a number gives, until nothing changes.
fn meet_all(devices: &mut [Device], order: usize) {
    let pairs: Vec<(usize, usize)> =
        (0..devices.len()).flat_map(|i| (i + 1..devices.len()).map(move |j| (i, j))).collect();
    for round in 0..4 {
        for n in 0..pairs.len() {
            let (i, j) = pairs[(n * (order + 1) + order + round) % pairs.len()];
            let (left, right) = devices.split_at_mut(j);
            meet(&mut left[i], &mut right[0]);
        }
        for (i, j) in &pairs {
            let (left, right) = devices.split_at_mut(*j);
            meet(&mut left[*i], &mut right[0]);
        }
    }
    let all: Vec<&Device> = devices.iter().collect();
    assert_same(&all);
}

#[test]
fn two_copies_of_one_device_both_keep_their_work() {
    let mut winners = std::collections::BTreeSet::new();
    for case in 0..12_u8 {
        let mut a = Device::creator(1);
        let mut b = a.invite(2, Role::Write);
        let mut c = a.invite(3, Role::Write);
        b.create("before");
        meet(&mut a, &mut b);
        meet(&mut a, &mut c);
        let mut copy = clone(&mut b, 1);
        b.create(&format!("original {case}"));
        let on_copy = copy.create(&format!("copy {case}"));
        b.commit();
        copy.commit();
        let (first, second) = (b.log.last().unwrap().tip, copy.log.last().unwrap().tip);
        assert_eq!(first.seq, second.seq);
        winners.insert(first.hash < second.hash);
        // Each half of the world sees one of the two, and builds on it.
        meet(&mut a, &mut b);
        meet(&mut c, &mut copy);
        c.edit(on_copy, "by c, on the copy's file");
        c.create("by c");
        c.commit();
        a.create("by a");
        let mut devices = [a, b, c, copy];
        meet_all(&mut devices, usize::from(case));
        let names = devices[0].names();
        let expect = ["before", "by a", "by c", &format!("copy {case}"), &format!("original {case}")];
        assert_eq!(names, expect, "case {case}");
        assert_eq!(devices[0].tree()[3].1, Hash::of(b"by c, on the copy's file"));
        // The device goes on, each copy as an actor of its own.
        devices[1].create("later, original");
        devices[3].create("later, copy");
        meet_all(&mut devices, usize::from(case));
        assert_eq!(devices[2].names().len(), 7);
        assert_ne!(devices[1].replica.actor(), devices[3].replica.actor());
    }
    assert_eq!(winners.len(), 2, "both outcomes were tried");
}

#[test]
fn a_fork_deep_below_the_ends_of_two_chains_is_found() {
    for (long, short) in [(5, 1), (1, 5), (4, 4)] {
        let mut a = Device::creator(1);
        let mut b = a.invite(2, Role::Write);
        meet(&mut a, &mut b);
        let mut copy = clone(&mut b, 1);
        for n in 0..long {
            b.create(&format!("original {n}"));
            b.commit();
        }
        for n in 0..short {
            copy.create(&format!("copy {n}"));
            copy.commit();
        }
        meet(&mut a, &mut b);
        meet(&mut a, &mut copy);
        let mut devices = [a, b, copy];
        meet_all(&mut devices, 1);
        assert_eq!(devices[0].names().len(), long + short);
    }
}

#[test]
fn a_restored_backup_gets_its_work_back_and_goes_on_afresh() {
    for case in 0..6 {
        let mut a = Device::creator(1);
        let mut b = a.invite(2, Role::Write);
        b.create("one");
        b.commit();
        let mut backup = clone(&mut b, 1);
        b.create("two");
        b.create("three");
        meet(&mut a, &mut b);
        drop(b);
        // Without new work: it learns that there is more of itself.
        if case % 2 == 0 {
            meet(&mut a, &mut backup);
            assert!(backup.replica.needs_incarnation());
        }
        backup.create(&format!("new {case}"));
        meet(&mut a, &mut backup);
        assert_same(&[&a, &backup]);
        assert_eq!(a.names(), [format!("new {case}").as_str(), "one", "three", "two"]);
        let own = backup.replica.actor();
        assert!(a.replica.vector().iter().filter(|(actor, _)| **actor == own).count() <= 1);
    }
}

#[test]
fn a_lost_change_that_only_readers_have_comes_back_through_a_writer() {
    let mut losers = 0;
    for case in 0..8 {
        let mut a = Device::creator(1);
        let mut b = a.invite(2, Role::Write);
        let mut reader = a.invite(3, Role::Read);
        meet(&mut a, &mut b);
        meet(&mut a, &mut reader);
        let mut copy = clone(&mut b, 1);
        b.create(&format!("original {case}"));
        copy.create(&format!("copy {case}"));
        meet(&mut a, &mut b);
        meet(&mut reader, &mut copy);
        let read = copy.log.last().unwrap().tip.hash;
        losers += usize::from(read > b.log.last().unwrap().tip.hash);
        drop((b, copy));
        meet(&mut a, &mut reader);
        meet(&mut a, &mut reader);
        assert_same(&[&a, &reader]);
        assert_eq!(a.names(), [format!("copy {case}"), format!("original {case}")]);
    }
    assert!(losers > 0 && losers < 8, "both outcomes were tried");
}

#[test]
fn a_crash_before_the_log_forgot_the_dropped_changes_nothing() {
    let mut tried = 0;
    for case in 0..8 {
        let mut a = Device::creator(1);
        let mut b = a.invite(2, Role::Write);
        meet(&mut a, &mut b);
        let mut copy = clone(&mut b, 1);
        b.create(&format!("original {case}"));
        copy.create(&format!("copy {case}"));
        b.commit();
        copy.commit();
        meet(&mut a, &mut b);
        if copy.log.last().unwrap().tip.hash > b.log.last().unwrap().tip.hash {
            continue;
        }
        tried += 1;
        // The log has both: the winner was appended, and the dropped was not taken out before the crash.
        let snapshot = a.snapshot(None);
        let winner = copy.log.last().unwrap().clone();
        let mut kept = a.by_seq.clone();
        kept.insert((winner.actor, winner.tip.seq), a.log.last().unwrap().envelope.clone());
        for snapshot in [None, Some(snapshot.as_slice())] {
            let envelopes: Vec<_> = a.log.iter().chain([&winner]).map(|logged| logged.envelope.clone()).collect();
            let base = snapshot.map_or(Base::Nothing, Base::Snapshot);
            let loaded =
                Replica::load(key(1), incarnation(1), &a.genesis, &a.members, base, envelopes.into_iter(), &kept)
                    .unwrap();
            assert_eq!(loaded.dropped.len(), 1);
            assert!(loaded.replica.queued() > 0, "the dropped records are to be published again");
            assert!(!loaded.replica.needs_incarnation(), "it is not this device that was cloned");
            let mut again = Device::of(loaded.replica, a.genesis.clone(), a.members.clone(), 1);
            assert_eq!(again.names(), [format!("copy {case}"), format!("original {case}")]);
            assert_eq!(again.commit(), 1);
        }
        let extended =
            snapshot::extend(&a.replica.share(), Some(&snapshot), std::iter::once(winner.envelope.clone())).unwrap();
        let vector = snapshot::Snapshot::decode(&a.replica.share(), &extended).unwrap().vector().clone();
        assert_eq!(vector.get(&winner.actor), Some(winner.tip));
    }
    assert!(tried > 0);
}

/// Revokes a device with what this one has of it.
fn revoke(admin: &mut Device, device: DeviceId) {
    let chains = admin.replica.chains();
    let mut cut: BTreeMap<ActorId, u64> = BTreeMap::new();
    for change in chains.iter().filter(|change| change.device == device) {
        cut.insert(change.actor, change.tip.seq);
    }
    let changes = cut.into_iter().collect();
    let (record, _) = admin.replica.with_membership(|members, key| members.revoke(key, device, changes, NOW).unwrap());
    admin.members.push(record);
}

#[test]
fn past_the_cut_records_are_masked_and_honest_work_on_them_stays() {
    for order in 0..4 {
        let mut admin = Device::creator(1);
        let mut thief = admin.invite(2, Role::Write);
        let mut honest = admin.invite(3, Role::Write);
        let mut late = admin.invite(4, Role::Read);
        let file = thief.create("early");
        let other = thief.create("other");
        meet(&mut admin, &mut thief);
        meet(&mut admin, &mut honest);
        meet(&mut admin, &mut late);
        revoke(&mut admin, thief.replica.device());
        // Nobody else has heard: the thief goes on, and an honest device builds on it.
        thief.edit(file, "by the thief");
        thief.edit(other, "by the thief, too");
        let stolen = thief.create("stolen");
        meet(&mut thief, &mut honest);
        honest.edit(file, "by the honest, on the thief's");
        honest.edit(stolen, "honest words in a stolen file");
        honest.create("honest");
        honest.commit();
        match order {
            0 => drop(meet(&mut honest, &mut admin)),
            1 => drop(meet(&mut honest, &mut late)),
            2 => drop(meet(&mut admin, &mut late)),
            _ => {}
        }
        meet(&mut honest, &mut admin);
        meet(&mut late, &mut admin);
        meet(&mut late, &mut honest);
        assert_same(&[&admin, &honest, &late]);
        let tree: BTreeMap<_, _> = admin.tree().into_iter().collect();
        assert_eq!(tree["early"], Hash::of(b"by the honest, on the thief's"), "order {order}");
        assert_eq!(tree["other"], Hash::of(b"other"), "order {order}");
        assert_eq!(tree["honest"], Hash::of(b"honest"), "order {order}");
        assert_eq!(tree["stolen"], Hash::of(b"honest words in a stolen file"), "order {order}");
        // The same after a restart, from the log and from a snapshot.
        let before = honest.tree();
        let snapshot = honest.snapshot(None);
        honest.restart(None);
        assert_eq!(honest.tree(), before);
        honest.restart(Some(&snapshot));
        assert_eq!(honest.tree(), before);
    }
}

/// What a revoked device had said does not count, and may be said again by one that may.
#[test]
fn what_is_masked_may_be_said_again() {
    for honest_first in [false, true] {
        let mut admin = Device::creator(1);
        let mut thief = admin.invite(2, Role::Write);
        let mut honest = admin.invite(3, Role::Write);
        let file = admin.create("f");
        meet(&mut admin, &mut thief);
        meet(&mut admin, &mut honest);
        admin.edit(file, "\0one");
        honest.edit(file, "\0two");
        // The thief learns of both before it is revoked, and renames the file: its conflict copy becomes a file of its own.
        meet(&mut honest, &mut thief);
        admin.commit();
        let envelopes = admin.log.iter().map(|logged| logged.envelope.clone()).collect();
        let received = thief.replica.receive(envelopes, &thief.by_seq);
        thief.keep(received).unwrap();
        revoke(&mut admin, thief.replica.device());
        let rename = |from: &str, to: &str| Op::Rename {
            from_dir: InodeId::ROOT,
            from: name(from),
            to_dir: InodeId::ROOT,
            to: name(to),
            mode: crate::op::RenameMode::NoReplace,
        };
        let copy = thief.names().into_iter().find(|name| name.contains("(conflict ")).unwrap();
        thief.replica.apply(&rename("f", "stolen"), NOW).unwrap();
        meet(&mut thief, &mut honest);
        if honest_first {
            meet(&mut honest, &mut admin);
        } else {
            meet(&mut admin, &mut honest);
        }
        assert_eq!(honest.names(), ["f", copy.as_str()]);
        honest.replica.apply(&rename("f", "g"), NOW).unwrap();
        assert_eq!(honest.names(), [copy.as_str(), "g"], "the copy stays where it is");
        meet(&mut honest, &mut admin);
        assert_same(&[&admin, &honest]);
        assert_eq!(admin.names(), [copy.as_str(), "g"]);
        honest.restart(None);
        assert_same(&[&admin, &honest]);
    }
}

#[test]
fn after_it_heard_nobody_takes_new_changes_of_the_revoked() {
    let mut admin = Device::creator(1);
    let mut thief = admin.invite(2, Role::Write);
    meet(&mut admin, &mut thief);
    revoke(&mut admin, thief.replica.device());
    thief.create("before it heard");
    thief.commit();
    let received = admin.replica.receive(vec![thief.log[0].envelope.clone()], &admin.by_seq);
    assert_eq!((received.blame.clone(), received.accepted.len()), (None, 1));
    admin.keep(received).unwrap();
    assert_eq!(admin.names(), Vec::<String>::new(), "kept as structure, not shown");
    // It hears, and its own program refuses to go on.
    let records = admin.members.clone();
    let received = thief.replica.receive_membership(&records, &thief.by_seq);
    thief.keep(received).unwrap();
    assert!(!thief.replica.writable());
    let op = Op::Unlink { dir: InodeId::ROOT, name: name("x") };
    assert_eq!(thief.replica.apply(&op, NOW), Err(OpError::ReadOnly));
}
