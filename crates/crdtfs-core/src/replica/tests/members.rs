//! Roles, as every device enforces them.

use super::*;

#[test]
fn a_reader_receives_everything_and_its_changes_are_refused_by_all() {
    let mut a = Device::creator(1);
    let mut reader = a.invite(2, Role::Read);
    let mut writer = a.invite(3, Role::Write);
    a.create("a");
    meet(&mut a, &mut reader);
    meet(&mut a, &mut writer);
    assert_eq!(reader.names(), ["a"]);
    let op = Op::Unlink { dir: InodeId::ROOT, name: name("a") };
    assert_eq!(reader.replica.apply(&op, NOW), Err(OpError::ReadOnly));
    // A program that does it all the same: a change signed by the reader.
    let forged = forge(&reader, |_| {});
    for device in [&mut a, &mut writer] {
        let before = (device.tree(), device.replica.vector().clone());
        let received = device.replica.receive(vec![forged.clone()], &device.by_seq);
        assert_eq!(received.blame, Some(Refused::NotAWriter { device: reader.replica.device() }));
        assert_eq!((device.tree(), device.replica.vector().clone()), before);
    }
    // Passed on by an honest writer it is as wrong, and what came before it in the batch stays.
    writer.create("honest");
    writer.commit();
    let honest = writer.log.last().unwrap().envelope.clone();
    let received = a.replica.receive(vec![honest, forged], &a.by_seq);
    assert_eq!(received.accepted.len(), 1);
    assert!(a.keep(received).is_err());
    assert_eq!(a.names(), ["a", "honest"]);
}

/// A change that a device's program would not make, signed with its key. `alter` gets what is sealed.
pub(super) fn forge(device: &Device, alter: impl FnOnce(&mut Draft)) -> Vec<u8> {
    let record = crate::record::Record::Pin(crate::record::Pin {
        place: PlaceId([7; 16]),
        covers: Vec::new(),
        parent: InodeId::ROOT,
        name: name("forged"),
        saw: Vec::new(),
    });
    let replica = &device.replica;
    let (seq, start_op, deps) = replica.chains.next(&replica.actor);
    let mut draft = Draft {
        epoch: EPOCH,
        incarnation: replica.incarnation,
        membership: replica.membership.heads(),
        seq,
        start_op,
        deps,
        time_ms: NOW,
        records: vec![Filed::new(record.encode()).unwrap().0],
    };
    alter(&mut draft);
    envelope::seal(&replica.key, &replica.share, &replica.schema, draft).unwrap().0
}

#[test]
fn a_stranger_is_refused() {
    let mut a = Device::creator(1);
    let writer = a.invite(2, Role::Write);
    let mut stranger = Device::of(
        Replica::load(
            key(77),
            incarnation(1),
            &a.genesis,
            &a.members,
            Base::Nothing,
            std::iter::empty(),
            &BTreeMap::new(),
        )
        .unwrap()
        .replica,
        a.genesis.clone(),
        a.members.clone(),
        77,
    );
    assert_eq!(stranger.replica.role(), None);
    let forged = forge(&stranger, |_| {});
    let received = a.replica.receive(vec![forged], &a.by_seq);
    assert!(matches!(received.blame, Some(Refused::NotAWriter { .. })));
    stranger.replica.key = key(2);
    let other = forge(&stranger, |draft| draft.incarnation = Incarnation([3; 16]));
    let received = a.replica.receive(vec![other], &a.by_seq);
    assert_eq!(received.blame, None, "with the writer's key it is the writer");
    assert_eq!(writer.replica.device(), key(2).id());
}

#[test]
fn a_device_that_was_a_writer_when_it_wrote_counts_whatever_came_since() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    let mut c = a.invite(3, Role::Write);
    b.create("by b");
    meet(&mut b, &mut c);
    meet(&mut a, &mut c);
    assert_eq!(a.names(), ["by b"]);
    assert_same(&[&a, &c]);
}

#[test]
fn a_new_name_goes_into_later_records() {
    let mut a = Device::creator(1);
    let mut b = a.invite(2, Role::Write);
    assert_eq!(b.replica.name(), "device 2");
    let (record, _) = b.replica.with_membership(|members, key| members.rename(key, "kitchen", NOW).unwrap());
    b.members.extend(record);
    b.create("b");
    meet(&mut a, &mut b);
    assert_eq!(b.replica.name(), "kitchen");
    let member = &a.replica.membership().state().members[&b.replica.device()];
    assert_eq!(member.name, "kitchen");
}
