#![allow(clippy::unwrap_used)]
use super::record::{Admit, Invite, Rename, Revoke, claim_holds};
use super::*;
use crate::share::Parameters;
use crate::wire::ShareTag;

const NOW: i64 = 1_000_000;

fn key(seed: u8) -> Key {
    Key::new(&[seed; 32])
}

fn genesis() -> Genesis {
    Genesis { creator: key(1).id(), nonce: [7; 32], parameters: Parameters::default() }
}

fn begin() -> Membership {
    Membership::create(&genesis(), &key(1), "one", NOW).unwrap().0
}

fn ticket(seed: u8) -> Key {
    key(100 + seed)
}

fn join_of(members: &Membership, ticket: &Key, invitation: Hash, device: u8) -> Join {
    let name = format!("device {device}");
    join(ticket, &members.share(), invitation, &key(device).id(), &name, ShareTag([0; 32]))
}

/// Invites with `uses` and gives the invitation.
fn invite(members: &mut Membership, by: u8, role: Role, uses: u32, seed: u8) -> Hash {
    members.invite(&key(by), ticket(seed).id(), role, uses, NOW + 10, NOW).unwrap().0
}

fn admit(members: &mut Membership, by: u8, invitation: Hash, seed: u8, device: u8) -> Result<bool, Refusal> {
    let join = join_of(members, &ticket(seed), invitation, device);
    members.admit(&key(by), &join, key(device).id(), NOW).map(|record| record.is_some())
}

fn add(members: &mut Membership, by: u8, role: Role, device: u8) {
    let invitation = invite(members, by, role, 1, device);
    assert_eq!(admit(members, by, invitation, device, device), Ok(true));
}

/// Gives each what the other has.
fn exchange(a: &mut Membership, b: &mut Membership) {
    let (from_a, from_b) = (a.clone(), b.clone());
    for (from, to) in [(from_a, &mut *b), (from_b, &mut *a)] {
        for record in from.records_after(&to.heads()) {
            to.insert(&record).unwrap();
        }
    }
    assert_eq!(a.heads(), b.heads());
    assert_eq!(a.state(), b.state());
}

fn role(members: &Membership, device: u8) -> Option<Role> {
    members.state().role(&key(device).id())
}

#[test]
fn golden_records() {
    let share = genesis().share();
    let statements = [
        Statement::Create(super::record::Create { name: "one".into() }),
        Statement::Invite(Invite { ticket: key(9).id(), role: Role::Write, expires_ms: 5, uses: 2 }),
        Statement::Admit(Admit {
            device: key(2).id(),
            name: "two".into(),
            invitation: Hash([3; 32]),
            claim: claim(&key(9), &share, &Hash([3; 32]), &key(2).id()),
        }),
        Statement::Revoke(Revoke {
            device: key(2).id(),
            changes: vec![(ActorId([4; 32]), 7)],
            membership: vec![Hash([5; 32])],
        }),
        Statement::Rename(Rename { name: "zwei".into() }),
        Statement::Cancel(Cancel { invitation: Hash([3; 32]) }),
        Statement::Unknown { kind: 99, body: vec![1, 2, 3] },
    ];
    let mut lines = Vec::new();
    for statement in statements {
        let bytes = sign(&key(1), &share, vec![Hash([6; 32])], 42, &statement);
        let read = MemberRecord::decode(&share, &bytes).unwrap();
        assert_eq!((&read.statement, read.issuer, read.time_ms), (&statement, key(1).id(), 42));
        lines.push(data_encoding::HEXLOWER.encode(&bytes));
    }
    insta::assert_snapshot!("membership", lines.join("\n"));
}

#[test]
fn a_ticket_admits_whom_it_says_and_how_often() {
    let mut members = begin();
    let invitation = invite(&mut members, 1, Role::Write, 2, 0);
    assert_eq!(admit(&mut members, 1, invitation, 0, 2), Ok(true));
    assert_eq!(admit(&mut members, 1, invitation, 0, 2), Ok(false), "a second time it is a member already");
    assert_eq!(admit(&mut members, 1, invitation, 0, 3), Ok(true));
    assert_eq!(admit(&mut members, 1, invitation, 0, 4), Err(Refusal::Spent));
    assert_eq!((role(&members, 2), role(&members, 3), role(&members, 4)), (Some(Role::Write), Some(Role::Write), None));
    let state = members.state();
    assert_eq!(state.invitations[&invitation].admitted, [key(2).id(), key(3).id()]);
    assert_eq!(state.members[&key(2).id()].name, "device 2");
}

#[test]
fn a_ticket_that_does_not_hold_is_refused_with_its_reason() {
    let mut members = begin();
    let invitation = invite(&mut members, 1, Role::Read, 5, 0);
    let refusal =
        |members: &mut Membership, join: &Join, at| members.admit(&key(1), join, key(2).id(), at).unwrap_err();
    let good = join_of(&members, &ticket(0), invitation, 2);
    assert_eq!(refusal(&mut members, &good, NOW + 10), Refusal::Expired);
    let other_key = join_of(&members, &ticket(1), invitation, 2);
    assert_eq!(refusal(&mut members, &other_key, NOW), Refusal::Unknown);
    let other_device = join_of(&members, &ticket(0), invitation, 3);
    assert_eq!(refusal(&mut members, &other_device, NOW), Refusal::Unknown, "a claim seen by somebody else");
    let other_invitation = join_of(&members, &ticket(0), Hash([1; 32]), 2);
    assert_eq!(refusal(&mut members, &other_invitation, NOW), Refusal::Unknown);
    members.cancel(&key(1), invitation, NOW).unwrap();
    assert_eq!(refusal(&mut members, &good, NOW), Refusal::Cancelled);
    assert_eq!(role(&members, 2), None);
}

#[test]
fn only_admins_invite_and_only_the_issuer_admits() {
    let mut members = begin();
    add(&mut members, 1, Role::Admin, 2);
    add(&mut members, 1, Role::Write, 3);
    for device in [3, 4] {
        let refused = members.invite(&key(device), ticket(9).id(), Role::Read, 1, NOW + 1, NOW);
        assert!(matches!(refused, Err(MembershipError::Forbidden { .. })), "{device}");
    }
    let invitation = invite(&mut members, 2, Role::Read, 1, 5);
    assert_eq!(admit(&mut members, 1, invitation, 5, 5), Err(Refusal::Unknown));
    assert_eq!(admit(&mut members, 2, invitation, 5, 5), Ok(true));
    let zero = members.invite(&key(1), ticket(9).id(), Role::Read, 0, NOW + 1, NOW);
    assert!(matches!(zero, Err(MembershipError::Forbidden { .. })));
}

#[test]
fn forged_records_are_refused_and_change_nothing() {
    let mut members = begin();
    add(&mut members, 1, Role::Write, 2);
    let invitation = invite(&mut members, 1, Role::Admin, 1, 9);
    let (share, heads) = (members.share(), members.heads());
    let before = members.state().clone();
    let claim = claim(&ticket(9), &share, &invitation, &key(5).id());
    assert!(claim_holds(&ticket(9).id(), &share, &invitation, &key(5).id(), &claim));
    let admit =
        |device: u8, claim| Statement::Admit(Admit { device: key(device).id(), name: "x".into(), invitation, claim });
    let revoke =
        |device: u8| Statement::Revoke(Revoke { device: key(device).id(), changes: vec![], membership: vec![] });
    let cases = [
        (2, heads.clone(), admit(5, claim)),
        (1, heads.clone(), admit(6, claim)),
        (1, vec![], Statement::Rename(Rename { name: "x".into() })),
        (1, heads.clone(), Statement::Rename(Rename { name: "a/b".into() })),
        (9, heads.clone(), Statement::Rename(Rename { name: "x".into() })),
        (9, heads.clone(), Statement::Unknown { kind: 77, body: vec![] }),
        (2, heads.clone(), revoke(1)),
        (1, heads.clone(), revoke(8)),
        (1, heads.clone(), Statement::Create(Create { name: "again".into() })),
        (2, vec![], Statement::Create(Create { name: "mine".into() })),
        (2, heads.clone(), Statement::Cancel(Cancel { invitation })),
    ];
    for (n, (by, previous, statement)) in cases.into_iter().enumerate() {
        let record = sign(&key(by), &share, previous, NOW, &statement);
        let refused = members.insert(&record).unwrap_err();
        assert!(!matches!(refused, MembershipError::Early(_)), "case {n}: {refused}");
        assert_eq!((members.heads(), members.state()), (heads.clone(), &before), "case {n}");
    }
    let early = sign(&key(1), &share, vec![Hash([9; 32])], NOW, &Statement::Rename(Rename { name: "x".into() }));
    assert_eq!(members.insert(&early), Err(MembershipError::Early(Hash([9; 32]))));
}

#[test]
fn a_record_cut_or_flipped_anywhere_is_refused() {
    let mut members = begin();
    let (_, good) = members.clone().invite(&key(1), ticket(0).id(), Role::Read, 1, NOW, NOW).unwrap();
    let before = members.heads();
    for cut in 0..good.len() {
        assert!(members.insert(&good[..cut]).is_err());
    }
    for at in 0..good.len() {
        for flip in [1, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            assert!(members.insert(&bad).is_err(), "byte {at}");
        }
    }
    assert!(members.insert(&[good.clone(), vec![0]].concat()).is_err());
    assert!(members.insert(&vec![1; record::MAX_LEN + 1]).is_err());
    assert_eq!(members.heads(), before);
    assert_eq!(members.insert(&good), Ok(true));
    assert_eq!(members.insert(&good), Ok(false));
}

#[test]
fn a_kind_of_a_later_format_is_kept_and_built_upon() {
    let mut members = begin();
    let (share, heads) = (members.share(), members.heads());
    let later = sign(&key(1), &share, heads, NOW, &Statement::Unknown { kind: 500, body: vec![0xff] });
    assert_eq!(members.insert(&later), Ok(true));
    add(&mut members, 1, Role::Write, 2);
    assert_eq!((members.state().unknown, role(&members, 2)), (1, Some(Role::Write)));
    let mut copy = Membership::new(&genesis());
    for record in members.records() {
        copy.insert(record).unwrap();
    }
    assert_eq!((copy.heads(), copy.state()), (members.heads(), members.state()));
}

#[test]
fn excess_admissions_through_a_partition_fall_by_rank_alike_everywhere() {
    let mut a = begin();
    let invitation = invite(&mut a, 1, Role::Write, 1, 0);
    // The issuer's state was copied: each copy counts for itself.
    let mut b = a.clone();
    assert_eq!(admit(&mut a, 1, invitation, 0, 2), Ok(true));
    assert_eq!(admit(&mut b, 1, invitation, 0, 3), Ok(true));
    exchange(&mut a, &mut b);
    let admitted: Vec<u8> = [2, 3].into_iter().filter(|device| role(&a, *device).is_some()).collect();
    assert_eq!(admitted.len(), 1);
    let fallen = if admitted == [2] { 3 } else { 2 };
    assert!(!a.counts(&key(fallen).id(), &ActorId([0; 32]), 1, &a.heads()));
    assert!(a.counts(&key(admitted[0]).id(), &ActorId([0; 32]), 1, &a.heads()));
}

#[test]
fn a_revoked_device_is_out_and_what_it_does_unheard_is_void() {
    let mut a = begin();
    add(&mut a, 1, Role::Admin, 2);
    let mut b = a.clone();
    a.revoke(&key(1), key(2).id(), vec![(ActorId([8; 32]), 4)], NOW).unwrap();
    // It has not heard, or pretends so.
    add(&mut b, 2, Role::Admin, 5);
    exchange(&mut a, &mut b);
    assert_eq!((role(&a, 1), role(&a, 2), role(&a, 5)), (Some(Role::Admin), None, None));
    let (two, heads) = (key(2).id(), a.heads());
    assert!(a.counts(&two, &ActorId([8; 32]), 4, &heads));
    assert!(!a.counts(&two, &ActorId([8; 32]), 5, &heads));
    assert!(!a.counts(&two, &ActorId([9; 32]), 1, &heads));
    // A new ticket brings it back, an old one does not.
    let invitation = invite(&mut a, 1, Role::Read, 1, 6);
    assert_eq!(admit(&mut a, 1, invitation, 6, 2), Ok(true));
    assert_eq!(role(&a, 2), Some(Role::Read));
    assert!(a.counts(&two, &ActorId([9; 32]), 1, &a.heads()), "what it does from now on counts");
    assert!(!a.counts(&two, &ActorId([9; 32]), 1, &heads), "what it did meanwhile does not");
}

#[test]
fn an_old_ticket_does_not_bring_a_revoked_device_back() {
    let mut a = begin();
    let invitation = invite(&mut a, 1, Role::Write, 5, 0);
    assert_eq!(admit(&mut a, 1, invitation, 0, 2), Ok(true));
    a.revoke(&key(1), key(2).id(), vec![], NOW).unwrap();
    assert_eq!(admit(&mut a, 1, invitation, 0, 2), Err(Refusal::Revoked));
    assert_eq!(admit(&mut a, 1, invitation, 0, 3), Ok(true));
}

#[test]
fn mutual_revocations_seniority_wins_and_the_last_admin_stays() {
    let mut a = begin();
    add(&mut a, 1, Role::Admin, 2);
    add(&mut a, 2, Role::Admin, 3);
    let (mut b, mut c) = (a.clone(), a.clone());
    b.revoke(&key(2), key(3).id(), vec![], NOW).unwrap();
    c.revoke(&key(3), key(2).id(), vec![], NOW).unwrap();
    exchange(&mut b, &mut c);
    assert_eq!((role(&b, 2), role(&b, 3)), (Some(Role::Admin), None));
    let mut alone = begin();
    alone.revoke(&key(1), key(1).id(), vec![], NOW).unwrap();
    assert_eq!(role(&alone, 1), Some(Role::Admin), "the last admin cannot go");
    // Two admins leave at once: one of them stays.
    let mut left = begin();
    add(&mut left, 1, Role::Admin, 2);
    let mut right = left.clone();
    left.revoke(&key(1), key(1).id(), vec![], NOW).unwrap();
    right.revoke(&key(2), key(2).id(), vec![], NOW).unwrap();
    exchange(&mut left, &mut right);
    assert_eq!(left.state().admins(), 1);
}

#[test]
fn roles_are_judged_by_the_heads_that_a_change_names() {
    let mut a = begin();
    let before = a.heads();
    add(&mut a, 1, Role::Write, 2);
    let between = a.heads();
    a.revoke(&key(1), key(2).id(), vec![], NOW).unwrap();
    let after = a.heads();
    let two = key(2).id();
    let mut role_at = |heads: &[Hash]| a.state_at(heads).unwrap().role(&two);
    assert_eq!((role_at(&before), role_at(&between), role_at(&after)), (None, Some(Role::Write), None));
    assert_eq!(role_at(&[]), None);
    assert_eq!(a.state_at(&[Hash([1; 32])]), None);
}

#[test]
fn any_order_of_arrival_means_the_same() {
    let mut parts: Vec<Membership> = Vec::new();
    let mut base = begin();
    for device in 2..5 {
        add(&mut base, 1, Role::Admin, device);
    }
    for device in 1..5_u8 {
        let mut part = base.clone();
        add(&mut part, device, Role::Write, 10 + device);
        let victim = key(device % 4 + 1).id();
        part.revoke(&key(device), victim, vec![(ActorId([device; 32]), u64::from(device))], NOW).unwrap();
        parts.push(part);
    }
    let mut states = Vec::new();
    for start in 0..parts.len() {
        let mut all = base.clone();
        for n in 0..parts.len() {
            for record in parts[(start + n * 3) % parts.len()].records_after(&all.heads()) {
                all.insert(&record).unwrap();
            }
        }
        assert!(all.state().admins() >= 1);
        states.push(all.state().clone());
    }
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
}
