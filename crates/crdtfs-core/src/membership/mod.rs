//! Who belongs to a share, and what each may do: a graph of signed records, checked from the share's creator on.
//!
//! A record names the heads that its issuer knew, and is judged by them alone, so that all devices judge it alike whatever
//! the order of arrival: what its issuer had no right to is refused and never stored. What the stored set means is
//! [`State`], a pure function of the set; the part of the set below some heads has a state of its own
//! ([`Membership::state_at`]), and a change is judged by the heads that it was made under.

pub mod record;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::record::{Admit, Cancel, Create, HEADS_MAX, Invite, Rename, Revoke, claim_holds, sign};
pub use self::record::{MemberRecord, MembershipError, Statement, claim, claim_message};
pub use self::state::{Cut, Invitation, Member, State};
use self::state::{Ranked, evaluate};
use crate::id::{ActorId, DeviceId, Hash, ShareId};
use crate::key::{Key, SIGNATURE_LEN};
use crate::record::clean_device_name;
use crate::share::{Genesis, Role};
use crate::wire::{Join, Refusal};

/// The most records of one share.
pub const RECORDS_MAX: usize = 50_000;

/// The most devices that one invitation admits.
pub const USES_MAX: u32 = 10_000;

/// States of earlier heads that are kept at hand.
const STATES_KEPT: usize = 64;

#[derive(Clone, Debug)]
struct Stored {
    record: MemberRecord,
    bytes: Vec<u8>,
    depth: u32,
}

/// The membership records of a share, and what they mean.
#[derive(Clone, Debug)]
pub struct Membership {
    share: ShareId,
    creator: DeviceId,
    records: BTreeMap<Hash, Stored>,
    /// Ids in the order in which they came, which is causal.
    order: Vec<Hash>,
    heads: BTreeSet<Hash>,
    state: Arc<State>,
    states: BTreeMap<Vec<Hash>, Arc<State>>,
}

impl Membership {
    /// Of no records yet.
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            share: genesis.share(),
            creator: genesis.creator,
            records: BTreeMap::new(),
            order: Vec::new(),
            heads: BTreeSet::new(),
            state: Arc::default(),
            states: BTreeMap::new(),
        }
    }

    /// A new share's: with its creator. Also gives the record.
    pub fn create(genesis: &Genesis, key: &Key, name: &str, now_ms: i64) -> Result<(Self, Vec<u8>), MembershipError> {
        let mut membership = Self::new(genesis);
        let statement = Statement::Create(Create { name: clean_device_name(name) });
        let bytes = membership.issue(key, now_ms, &statement)?;
        Ok((membership, bytes))
    }

    /// The share.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// What all records mean.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Heads of the records, in order.
    pub fn heads(&self) -> Vec<Hash> {
        self.heads.iter().copied().collect()
    }

    /// Whether a record is here.
    pub fn knows(&self, id: &Hash) -> bool {
        self.records.contains_key(id)
    }

    /// All encoded records, in causal order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().filter_map(|id| self.records.get(id)).map(|stored| stored.bytes.as_slice())
    }

    /// One decoded record.
    pub fn record(&self, id: &Hash) -> Option<&MemberRecord> {
        self.records.get(id).map(|stored| &stored.record)
    }

    /// Encoded records that are neither among `known` nor ancestors of them, in causal order.
    pub fn records_after(&self, known: &[Hash]) -> Vec<Vec<u8>> {
        let below = self.ancestors(known);
        let missing = self.order.iter().filter(|id| !below.contains(id));
        missing.filter_map(|id| self.records.get(id)).map(|stored| stored.bytes.clone()).collect()
    }

    /// The state that the records at and below these heads have; `None` if one is not here.
    pub fn state_at(&mut self, heads: &[Hash]) -> Option<Arc<State>> {
        if let Some(state) = self.states.get(heads) {
            return Some(state.clone());
        }
        if !heads.iter().all(|head| self.knows(head)) {
            return None;
        }
        let state = Arc::new(self.evaluate(Some(heads)));
        if self.states.len() >= STATES_KEPT {
            self.states.clear();
        }
        self.states.insert(heads.to_vec(), state.clone());
        Some(state)
    }

    /// The first of these records that is not here.
    pub fn missing(&self, heads: &[Hash]) -> Option<Hash> {
        heads.iter().find(|head| !self.knows(head)).copied()
    }

    /// Takes an encoded record, whose predecessors must be here. True if it is new.
    pub fn insert(&mut self, bytes: &[u8]) -> Result<bool, MembershipError> {
        let id = Hash::of(bytes);
        if self.knows(&id) {
            return Ok(false);
        }
        if self.records.len() >= RECORDS_MAX {
            return Err(MembershipError::TooMany(RECORDS_MAX));
        }
        let record = MemberRecord::decode(&self.share, bytes)?;
        if let Some(missing) = self.missing(&record.previous) {
            return Err(MembershipError::Early(missing));
        }
        self.check(&record)?;
        let depth = record.previous.iter().filter_map(|id| self.records.get(id)).map(|p| p.depth + 1).max();
        for previous in &record.previous {
            self.heads.remove(previous);
        }
        self.heads.insert(id);
        self.order.push(id);
        self.records.insert(id, Stored { record, bytes: bytes.to_vec(), depth: depth.unwrap_or(0) });
        let heads = self.heads();
        self.state = Arc::new(self.evaluate(None));
        self.states.insert(heads, self.state.clone());
        Ok(true)
    }

    /// Whether a change counts: not of a device that was revoked before it. `heads` are those that it was made under.
    pub fn counts(&self, device: &DeviceId, actor: &ActorId, seq: u64, heads: &[Hash]) -> bool {
        let Some(cut) = self.state.cuts.get(device) else { return true };
        if cut.changes.get(actor).is_some_and(|last| seq <= *last) {
            return true;
        }
        // Made after the device was admitted again.
        let again = self.state.members.get(device).is_some_and(|member| self.ancestors(heads).contains(&member.since));
        again && !cut.revocations.is_empty()
    }

    /// Signs and takes a statement of this device.
    fn issue(&mut self, key: &Key, now_ms: i64, statement: &Statement) -> Result<Vec<u8>, MembershipError> {
        let mut previous = self.heads();
        previous.truncate(HEADS_MAX);
        let bytes = sign(key, &self.share, previous, now_ms, statement);
        self.insert(&bytes)?;
        Ok(bytes)
    }

    /// Issues an invitation. `ticket` is the public half of the ticket's key. Gives the record and its id, which the ticket
    /// names.
    pub fn invite(
        &mut self,
        key: &Key,
        ticket: DeviceId,
        role: Role,
        uses: u32,
        expires_ms: i64,
        now_ms: i64,
    ) -> Result<(Hash, Vec<u8>), MembershipError> {
        let invite = Invite { ticket, role, expires_ms, uses };
        let bytes = self.issue(key, now_ms, &Statement::Invite(invite))?;
        Ok((Hash::of(&bytes), bytes))
    }

    /// Takes an invitation back.
    pub fn cancel(&mut self, key: &Key, invitation: Hash, now_ms: i64) -> Result<Vec<u8>, MembershipError> {
        self.issue(key, now_ms, &Statement::Cancel(Cancel { invitation }))
    }

    /// Gives this device a new name. `None` if it has that name.
    pub fn rename(&mut self, key: &Key, name: &str, now_ms: i64) -> Result<Option<Vec<u8>>, MembershipError> {
        let name = clean_device_name(name);
        if self.state.members.get(&key.id()).is_some_and(|member| member.name == name) {
            return Ok(None);
        }
        self.issue(key, now_ms, &Statement::Rename(Rename { name })).map(Some)
    }

    /// Revokes a device: what counts of its changes is up to `changes`, and of its membership records what is known now.
    pub fn revoke(
        &mut self,
        key: &Key,
        device: DeviceId,
        changes: Vec<(ActorId, u64)>,
        now_ms: i64,
    ) -> Result<Vec<u8>, MembershipError> {
        let revoke = Revoke { device, changes, membership: self.heads() };
        self.issue(key, now_ms, &Statement::Revoke(revoke))
    }

    /// Answers a device that wants to join with a ticket of this device. The record of its admission; `None` if it is a
    /// member already.
    pub fn admit(&mut self, key: &Key, join: &Join, device: DeviceId, now_ms: i64) -> Result<Option<Vec<u8>>, Refusal> {
        let state = self.state.clone();
        let invitation = state.invitations.get(&join.invitation).filter(|i| i.issuer == key.id());
        let Some(Invitation { invite, admitted, cancelled, .. }) = invitation else { return Err(Refusal::Unknown) };
        if !claim_holds(&invite.ticket, &self.share, &join.invitation, &device, &join.claim) {
            return Err(Refusal::Unknown);
        }
        if state.members.contains_key(&device) {
            return Ok(None);
        }
        if state.cuts.get(&device).is_some_and(|cut| {
            let seen = self.ancestors(&[join.invitation]);
            !cut.revocations.iter().all(|revocation| seen.contains(revocation))
        }) {
            return Err(Refusal::Revoked);
        }
        if *cancelled {
            return Err(Refusal::Cancelled);
        }
        if admitted.len() >= invite.uses as usize {
            return Err(Refusal::Spent);
        }
        if now_ms >= invite.expires_ms {
            return Err(Refusal::Expired);
        }
        let name = clean_device_name(&join.name);
        let admit = Admit { device, name, invitation: join.invitation, claim: join.claim };
        self.issue(key, now_ms, &Statement::Admit(admit)).map(Some).map_err(|_| Refusal::Unable)
    }

    /// All records at and below these heads.
    fn ancestors(&self, heads: &[Hash]) -> BTreeSet<Hash> {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<Hash> = heads.to_vec();
        while let Some(id) = stack.pop() {
            if let Some(stored) = self.records.get(&id)
                && seen.insert(id)
            {
                stack.extend(&stored.record.previous);
            }
        }
        seen
    }

    fn evaluate(&self, heads: Option<&[Hash]>) -> State {
        let below = heads.map(|heads| self.ancestors(heads));
        let mut ranked: Vec<Ranked<'_>> = self
            .records
            .iter()
            .filter(|(id, _)| below.as_ref().is_none_or(|below| below.contains(*id)))
            .map(|(_, stored)| Ranked { depth: stored.depth, record: &stored.record })
            .collect();
        ranked.sort_by_key(|ranked| (ranked.depth, ranked.record.id));
        evaluate(&ranked, &|heads| self.ancestors(heads))
    }

    /// Whether the issuer was entitled to the record, going by what it names as its past.
    fn check(&mut self, record: &MemberRecord) -> Result<(), MembershipError> {
        let forbidden = |reason| MembershipError::Forbidden { issuer: record.issuer, reason };
        if let Statement::Create(create) = &record.statement {
            let first = record.previous.is_empty() && self.records.is_empty();
            if !first || record.issuer != self.creator {
                return Err(forbidden("only the creator begins a share, once"));
            }
            return check_name(&create.name);
        }
        if record.previous.is_empty() {
            return Err(forbidden("it does not descend from the share's creation"));
        }
        let past = self.state_at(&record.previous).ok_or_else(|| forbidden("its past is not known"))?;
        let role = past.role(&record.issuer).ok_or_else(|| forbidden("not a member"))?;
        let admin = || if role == Role::Admin { Ok(()) } else { Err(forbidden("not an admin")) };
        match &record.statement {
            Statement::Create(_) | Statement::Unknown { .. } => Ok(()),
            Statement::Rename(rename) => check_name(&rename.name),
            Statement::Invite(invite) => {
                admin()?;
                if invite.uses == 0 || invite.uses > USES_MAX {
                    return Err(forbidden("an invitation admits 1 to 10,000 devices"));
                }
                Ok(())
            }
            Statement::Cancel(cancel) => {
                admin()?;
                past.invitations.get(&cancel.invitation).map(|_| ()).ok_or_else(|| forbidden("no such invitation"))
            }
            Statement::Revoke(revoke) => {
                if revoke.device != record.issuer {
                    admin()?;
                }
                if !past.members.contains_key(&revoke.device) {
                    return Err(forbidden("revokes who is not a member"));
                }
                let ordered = revoke.changes.is_sorted_by(|a, b| a.0 < b.0);
                if ordered && revoke.membership.len() <= HEADS_MAX { Ok(()) } else { Err(forbidden("not in order")) }
            }
            Statement::Admit(admit) => {
                admin()?;
                check_name(&admit.name)?;
                let invitation = past.invitations.get(&admit.invitation).filter(|i| i.issuer == record.issuer);
                let invitation = invitation.ok_or_else(|| forbidden("admits by an invitation that is not its own"))?;
                let ticket = &invitation.invite.ticket;
                if !claim_holds(ticket, &self.share, &admit.invitation, &admit.device, &admit.claim) {
                    return Err(forbidden("admits a device that did not have the ticket"));
                }
                let used = invitation.admitted.len() >= invitation.invite.uses as usize;
                if invitation.cancelled || (used && !invitation.admitted.contains(&admit.device)) {
                    return Err(forbidden("admits by an invitation that is cancelled or used up"));
                }
                Ok(())
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), MembershipError> {
    if clean_device_name(name) == name {
        return Ok(());
    }
    Err(MembershipError::Malformed("a device name that is not clean".into()))
}

/// Makes the join message of a ticket's holder.
pub fn join(
    ticket: &Key,
    share: &ShareId,
    invitation: Hash,
    device: &DeviceId,
    name: &str,
    tag: crate::wire::ShareTag,
) -> Join {
    let claim: [u8; SIGNATURE_LEN] = claim(ticket, share, &invitation, device);
    Join { share: tag, invitation, claim, name: clean_device_name(name) }
}

#[cfg(test)]
mod tests;
