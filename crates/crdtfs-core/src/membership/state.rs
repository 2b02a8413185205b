//! What a set of membership records means: a pure function of the set.
//!
//! Records are judged by their ancestors when they come in ([`super::Membership::insert`]); here remains what only
//! concurrency brings about: revocations of issuers, too many admissions, different roles. Everything is decided by the
//! records' order (number of ancestors in the longest line, then id), by seniority (order of first admission), and never
//! by clocks.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Invite, MemberRecord, Revoke, Statement};
use crate::id::{ActorId, DeviceId, Hash};
use crate::share::Role;

/// A device that belongs to the share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it may do.
    pub role: Role,
    /// Its name, cleaned.
    pub name: String,
    /// The record that admitted it.
    pub since: Hash,
}

/// A ticket's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Who issued it: the only one who admits by it.
    pub issuer: DeviceId,
    /// What it says.
    pub invite: Invite,
    /// The devices that it admitted, in rank order, at most as many as it allows.
    pub admitted: Vec<DeviceId>,
    /// Taken back.
    pub cancelled: bool,
}

/// Where a device's say ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The last change of each of its actors that counts; of others none does.
    pub changes: BTreeMap<ActorId, u64>,
    /// The revocations behind it. A change or record that has seen the device admitted again after all of them is not cut.
    pub revocations: BTreeSet<Hash>,
    /// Its membership records that count.
    pub(super) records: BTreeSet<Hash>,
}

/// Members, former members and invitations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Those who belong to the share.
    pub members: BTreeMap<DeviceId, Member>,
    /// Those who were revoked, or fell by excess of an invitation's uses. A device that was admitted again is in both.
    pub cuts: BTreeMap<DeviceId, Cut>,
    /// Tickets, by the ids of their records.
    pub invitations: BTreeMap<Hash, Invitation>,
    /// Number of records of kinds that this program does not know.
    pub unknown: usize,
}

impl State {
    /// A device's role, if it is a member.
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        self.members.get(device).map(|member| member.role)
    }

    /// Number of admins.
    pub fn admins(&self) -> usize {
        self.members.values().filter(|member| member.role == Role::Admin).count()
    }
}

/// One record with its place in the order, as evaluation needs it.
pub(super) struct Ranked<'a> {
    pub(super) depth: u32,
    pub(super) record: &'a MemberRecord,
}

/// Evaluates records given in order of (depth, id). `ancestors` gives all records at or below some heads.
pub(super) fn evaluate(records: &[Ranked<'_>], ancestors: &dyn Fn(&[Hash]) -> BTreeSet<Hash>) -> State {
    let mut state = State::default();
    let revokes = effective_revokes(records, ancestors, &mut state.cuts);
    for Ranked { record, .. } in records {
        if is_void(record, &state.cuts) {
            continue;
        }
        apply(record, &mut state, &revokes, ancestors);
    }
    state
}

/// Decides which revocations hold: a senior issuer's first. One whose issuer was cut off before it made it does not hold,
/// nor one that would leave no admin.
fn effective_revokes<'a>(
    records: &[Ranked<'a>],
    ancestors: &dyn Fn(&[Hash]) -> BTreeSet<Hash>,
    cuts: &mut BTreeMap<DeviceId, Cut>,
) -> BTreeMap<DeviceId, Vec<&'a MemberRecord>> {
    let mut seniority: BTreeMap<DeviceId, usize> = BTreeMap::new();
    let mut admins: BTreeSet<DeviceId> = BTreeSet::new();
    let mut roles: BTreeMap<Hash, Role> = BTreeMap::new();
    for (rank, Ranked { record, .. }) in records.iter().enumerate() {
        let (device, role) = match &record.statement {
            Statement::Create(_) => (record.issuer, Role::Admin),
            Statement::Admit(admit) => (admit.device, roles.get(&admit.invitation).copied().unwrap_or(Role::Read)),
            Statement::Invite(invite) => {
                roles.insert(record.id, invite.role);
                continue;
            }
            _ => continue,
        };
        seniority.entry(device).or_insert(rank);
        if role == Role::Admin {
            admins.insert(device);
        }
    }
    let mut revokes: Vec<(usize, u32, &MemberRecord, &Revoke)> = records
        .iter()
        .filter_map(|Ranked { depth, record }| match &record.statement {
            Statement::Revoke(revoke) => {
                Some((seniority.get(&record.issuer).copied().unwrap_or(usize::MAX), *depth, *record, revoke))
            }
            _ => None,
        })
        .collect();
    revokes.sort_by_key(|(senior, depth, record, _)| (*senior, *depth, record.id));
    let mut held: BTreeMap<DeviceId, Vec<&MemberRecord>> = BTreeMap::new();
    for (_, _, record, revoke) in revokes {
        let last_admin = admins.len() == 1 && admins.contains(&revoke.device);
        if last_admin || is_void(record, cuts) {
            continue;
        }
        admins.remove(&revoke.device);
        let changes: BTreeMap<_, _> = revoke.changes.iter().copied().collect();
        let allowed = ancestors(&revoke.membership);
        // The revoked device's own departure counts, whatever it lists.
        let cut = cuts.entry(revoke.device).or_insert_with(|| Cut {
            changes: changes.clone(),
            revocations: BTreeSet::new(),
            records: allowed.clone(),
        });
        if !cut.revocations.is_empty() {
            cut.changes.retain(|actor, _| changes.contains_key(actor));
            for (actor, seq) in &mut cut.changes {
                *seq = (*seq).min(changes[actor]);
            }
            cut.records.retain(|id| allowed.contains(id));
        }
        cut.revocations.insert(record.id);
        held.entry(revoke.device).or_default().push(record);
    }
    held
}

/// Whether a record's issuer was cut off before it.
fn is_void(record: &MemberRecord, cuts: &BTreeMap<DeviceId, Cut>) -> bool {
    match cuts.get(&record.issuer) {
        None => false,
        Some(cut) => {
            let departure = matches!(&record.statement, Statement::Revoke(revoke) if revoke.device == record.issuer);
            !departure && !cut.records.contains(&record.id)
        }
    }
}

fn apply(
    record: &MemberRecord,
    state: &mut State,
    revokes: &BTreeMap<DeviceId, Vec<&MemberRecord>>,
    ancestors: &dyn Fn(&[Hash]) -> BTreeSet<Hash>,
) {
    match &record.statement {
        Statement::Create(create) => {
            if !revokes.contains_key(&record.issuer) {
                let member = Member { role: Role::Admin, name: create.name.clone(), since: record.id };
                state.members.insert(record.issuer, member);
            }
        }
        Statement::Invite(invite) => {
            let invitation =
                Invitation { issuer: record.issuer, invite: invite.clone(), admitted: Vec::new(), cancelled: false };
            state.invitations.insert(record.id, invitation);
        }
        Statement::Cancel(cancel) => {
            if let Some(invitation) = state.invitations.get_mut(&cancel.invitation) {
                invitation.cancelled = true;
            }
        }
        Statement::Admit(admit) => {
            let Some(invitation) = state.invitations.get_mut(&admit.invitation) else { return };
            if !invitation.admitted.contains(&admit.device) {
                if invitation.admitted.len() >= invitation.invite.uses as usize {
                    // Too many, through a partition: those of lower rank fall, unless another ticket holds them.
                    if !state.members.contains_key(&admit.device) {
                        state.cuts.entry(admit.device).or_default();
                    }
                    return;
                }
                invitation.admitted.push(admit.device);
            }
            let role = invitation.invite.role;
            if let Some(revoked_by) = revokes.get(&admit.device) {
                let seen = ancestors(&[record.id]);
                if !revoked_by.iter().all(|revoke| seen.contains(&revoke.id)) {
                    return;
                }
            } else {
                state.cuts.remove(&admit.device);
            }
            let member = Member { role, name: admit.name.clone(), since: record.id };
            state.members.insert(admit.device, member);
        }
        Statement::Rename(rename) => {
            if let Some(member) = state.members.get_mut(&record.issuer) {
                member.name.clone_from(&rename.name);
            }
        }
        Statement::Revoke(_) => {}
        Statement::Unknown { .. } => state.unknown += 1,
    }
}
