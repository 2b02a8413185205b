//! Taking changes and membership records from other devices.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::{EPOCH, Envelopes, Replica};
use crate::chains::{ChangeRef, Standing};
use crate::document::Filed;
use crate::envelope::{Envelope, EnvelopeError, Trust};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, RecordId};
use crate::membership::MembershipError;
use crate::node::{Delta, EntryChange, NodeChange};
use crate::record::Record;
use crate::share::Role;
use crate::sync::Fault;
use crate::vector::Tip;

/// The most envelopes that wait for something missing.
pub(super) const WAITING_MAX: usize = 4096;

/// The most bytes of them.
pub(super) const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a change or membership record was not taken. Nothing changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It is no change of this share.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its author might not write.
    #[error("a change by {device}, which may not write to the share")]
    NotAWriter {
        /// The author.
        device: DeviceId,
    },
    /// It does not follow from what it names.
    #[error("a change by {device} that no program makes: {reason}")]
    Graph {
        /// The author.
        device: DeviceId,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too much waits already. Not the sender's fault.
    #[error("too many changes wait for others that have not come")]
    Full,
    /// A membership record.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Local(refused.to_string()),
            Refused::Membership(MembershipError::TooMany(_)) => Self::Local(refused.to_string()),
            Refused::Membership(_) => Self::Membership(refused.to_string()),
            _ => Self::Envelope(refused.to_string()),
        }
    }
}

/// A change that was taken: to be appended to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The author.
    pub actor: ActorId,
    /// Number and hash.
    pub tip: Tip,
    /// The encoded envelope.
    pub envelope: Vec<u8>,
}

/// What taking changes or membership records did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What changed in the view.
    pub delta: Delta,
    /// Changes that the log no longer counts, chain by chain: the author has other ones of these numbers. To be taken out
    /// of the log's index before `accepted` go in.
    pub dropped: Vec<(ActorId, Tip)>,
    /// Changes to be appended to the log, in this order.
    pub accepted: Vec<Accepted>,
    /// Membership records to be kept, in this order.
    pub membership: Vec<Vec<u8>>,
    /// Records were queued to be published again: [`Replica::commit`] has something to do.
    pub republish: bool,
    /// What was refused, of those given and of those that had waited. The first is why the rest of a batch was left.
    pub refused: Vec<Refused>,
    /// The first refusal is of something in the batch itself, whose sender is to blame for it.
    pub blame: Option<Refused>,
}

/// An envelope with its encoded form.
type Waiter = (Envelope, Vec<u8>);

/// Envelopes that wait, by what they wait for: a change's hash or a membership record's id.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_missing: BTreeMap<[u8; 32], BTreeMap<ChangeHash, Waiter>>,
    hashes: BTreeSet<ChangeHash>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    fn push(&mut self, missing: [u8; 32], envelope: Envelope, bytes: Vec<u8>) -> Result<(), Refused> {
        if self.hashes.contains(&envelope.hash) {
            return Ok(());
        }
        if self.hashes.len() >= WAITING_MAX || self.bytes + bytes.len() > WAITING_BYTES_MAX {
            return Err(Refused::Full);
        }
        self.hashes.insert(envelope.hash);
        self.bytes += bytes.len();
        self.by_missing.entry(missing).or_default().insert(envelope.hash, (envelope, bytes));
        Ok(())
    }

    fn take(&mut self, missing: &[u8; 32]) -> Vec<Waiter> {
        let taken: Vec<_> = self.by_missing.remove(missing).unwrap_or_default().into_values().collect();
        for (envelope, bytes) in &taken {
            self.hashes.remove(&envelope.hash);
            self.bytes -= bytes.len();
        }
        taken
    }
}

/// What one call gathers.
#[derive(Default)]
pub(super) struct Gather {
    pub(super) received: Received,
    pub(super) records: Vec<(RecordId, Record)>,
    /// Something came that others may have waited for.
    came: Vec<[u8; 32]>,
    /// Masks have to be computed anew.
    remask: bool,
    /// A change of this device's actor lost, or was dropped.
    pub(super) forked: bool,
}

impl Replica {
    /// Takes envelopes in the order in which they came; stops at the first that must not be accepted, what came before it
    /// stays. What lacks something waits, and is given back as accepted when it came.
    pub fn receive(&mut self, envelopes: Vec<Vec<u8>>, log: &dyn Envelopes) -> Received {
        let mut gather = Gather::default();
        for bytes in envelopes {
            let taken = Envelope::decode(&self.share, &self.schema, &bytes, Trust::Nothing)
                .map_err(Refused::from)
                .and_then(|envelope| self.take(envelope, bytes, log, &mut gather));
            if let Err(refused) = taken {
                gather.received.blame = Some(refused.clone());
                gather.received.refused.push(refused);
                break;
            }
            self.take_waiting(log, &mut gather);
        }
        self.finish(gather)
    }

    /// Takes membership records in causal order; known ones do nothing. Stops at the first that must not be accepted.
    pub fn receive_membership(&mut self, records: &[Vec<u8>], log: &dyn Envelopes) -> Received {
        let mut gather = Gather::default();
        for bytes in records {
            match self.membership.insert(bytes) {
                Ok(false) => {}
                Ok(true) => {
                    gather.remask = true;
                    gather.came.push(Hash::of(bytes).0);
                    gather.received.membership.push(bytes.clone());
                }
                Err(error) => {
                    let refused = Refused::from(error);
                    gather.received.blame = Some(refused.clone());
                    gather.received.refused.push(refused);
                    break;
                }
            }
        }
        self.take_waiting(log, &mut gather);
        self.finish(gather)
    }

    /// Takes what waited for things that came, until nothing more follows.
    pub(super) fn take_waiting(&mut self, log: &dyn Envelopes, gather: &mut Gather) {
        while let Some(came) = gather.came.pop() {
            for (envelope, bytes) in self.waiting.take(&came) {
                if let Err(refused) = self.take(envelope, bytes, log, gather) {
                    gather.received.refused.push(refused);
                }
            }
        }
    }

    /// Takes one decoded envelope.
    pub(super) fn take(
        &mut self,
        envelope: Envelope,
        bytes: Vec<u8>,
        log: &dyn Envelopes,
        gather: &mut Gather,
    ) -> Result<(), Refused> {
        if envelope.epoch != EPOCH {
            return Err(EnvelopeError::OtherEpoch(envelope.epoch).into());
        }
        if let Some(missing) = self.membership.missing(&envelope.membership) {
            return self.waiting.push(missing.0, envelope, bytes);
        }
        let device = envelope.device;
        let role = self.membership.state_at(&envelope.membership).and_then(|state| state.role(&device));
        if !role.is_some_and(Role::may_write) {
            return Err(Refused::NotAWriter { device });
        }
        match self.chains.standing(&envelope.hash, &envelope.body) {
            Standing::Known => Ok(()),
            Standing::Bad(reason) => Err(Refused::Graph { device, reason }),
            Standing::Misses(missing) => self.waiting.push(missing.0, envelope, bytes),
            Standing::Lost => {
                self.lose(envelope, gather);
                Ok(())
            }
            Standing::Wins(other) => {
                let dropped = self.drop_change(&other, log, gather);
                self.accept(envelope, bytes, gather);
                // After the winner, whose records need not be published again.
                self.publish_again(dropped, gather);
                Ok(())
            }
            Standing::Next => {
                self.accept(envelope, bytes, gather);
                Ok(())
            }
        }
    }

    fn accept(&mut self, envelope: Envelope, bytes: Vec<u8>, gather: &mut Gather) {
        let Envelope { device, incarnation, membership, hash, body, records, .. } = envelope;
        self.chains.add(hash, &body, device, incarnation, &membership);
        let tip = Tip { seq: body.seq, hash };
        gather.came.push(hash.0);
        gather.received.accepted.push(Accepted { actor: body.actor, tip, envelope: bytes });
        self.stale |= body.actor == self.actor;
        self.newer += body.records.len() - records.len();
        let touches_masked = body.records.iter().any(|record| self.masked.contains(&record.id));
        gather.remask |= touches_masked || !self.membership.counts(&device, &body.actor, body.seq, &membership);
        gather.records.extend(records);
    }

    /// A change that never counts, against one that is here.
    fn lose(&mut self, envelope: Envelope, gather: &mut Gather) {
        self.chains.lose(envelope.hash);
        gather.came.push(envelope.hash.0);
        gather.forked |= envelope.body.actor == self.actor;
        let Envelope { device, membership, body, .. } = envelope;
        if self.membership.counts(&device, &body.actor, body.seq, &membership) {
            self.publish_again(body.records, gather);
        }
    }

    /// Drops a change that is here, with all that depends on it; gives the records that they brought.
    fn drop_change(&mut self, hash: &ChangeHash, log: &dyn Envelopes, gather: &mut Gather) -> Vec<Filed> {
        let dropped = self.chains.drop_from(hash);
        let mut records = Vec::new();
        for (actor, tip) in &dropped {
            gather.forked |= *actor == self.actor;
            // Accepted by this very call: not in the log yet.
            let fresh = gather.received.accepted.iter().find(|a| a.actor == *actor && a.tip == *tip);
            let bytes = fresh.map(|a| a.envelope.clone()).or_else(|| log.envelope(actor, tip.seq));
            let envelope = bytes
                .and_then(|bytes| Envelope::decode(&self.share, &self.schema, &bytes, Trust::Stored).ok())
                .filter(|envelope| envelope.hash == tip.hash);
            if let Some(Envelope { device, membership, body, .. }) = envelope
                && self.membership.counts(&device, actor, tip.seq, &membership)
            {
                records.extend(body.records);
            }
        }
        gather.received.accepted.retain(|a| !dropped.contains(&(a.actor, a.tip)));
        gather.received.dropped.extend(dropped);
        gather.remask = true;
        records
    }

    /// Records of changes that do not count any more: published again by a device that may write, unless a change that
    /// counts has them too. Elsewhere they wait, unseen, for such a device.
    fn publish_again(&mut self, records: Vec<Filed>, gather: &mut Gather) {
        let ids: BTreeSet<RecordId> = records.iter().map(|record| record.id).collect();
        let mut have = self.chains.carried(&ids, &|change| self.counts(change));
        if !self.writable() {
            self.orphans.extend(ids.difference(&have));
            gather.remask = true;
            return;
        }
        have.extend(self.queue.iter().flatten().map(|record| record.id).filter(|id| ids.contains(id)));
        let again: Vec<Filed> = records.into_iter().filter(|record| have.insert(record.id)).collect();
        for record in &again {
            if let Ok(decoded) = Record::decode(&record.bytes) {
                gather.records.push((record.id, decoded));
            }
        }
        gather.received.republish |= !again.is_empty();
        self.enqueue_first(again);
    }

    fn counts(&self, change: &ChangeRef<'_>) -> bool {
        self.membership.counts(&change.device, &change.actor, change.tip.seq, change.membership)
    }

    /// Puts what was gathered into the view.
    pub(super) fn finish(&mut self, mut gather: Gather) -> Received {
        self.stale |= gather.forked;
        let delta = if gather.records.is_empty() { Delta::default() } else { self.view.insert(&gather.records) };
        gather.received.delta = if gather.remask { then(delta, self.mask()) } else { delta };
        gather.received
    }

    /// Computes which records do not count, and tells the view.
    pub(super) fn mask(&mut self) -> Delta {
        let mut masked = BTreeSet::new();
        if !self.membership.state().cuts.is_empty() {
            let uncounted = self.chains.iter().filter(|change| !self.counts(change));
            masked.extend(uncounted.flat_map(|change| change.records.iter().copied()));
        }
        masked.extend(&self.orphans);
        if !masked.is_empty() {
            for id in self.chains.carried(&masked, &|change| self.counts(change)) {
                masked.remove(&id);
                self.orphans.remove(&id);
            }
            for record in self.queue.iter().flatten() {
                masked.remove(&record.id);
            }
        }
        if masked == self.masked {
            return Delta::default();
        }
        self.masked = masked.clone();
        self.view.set_masked(masked)
    }
}

/// One delta that says what two, one after the other, do.
fn then(first: Delta, second: Delta) -> Delta {
    if first.is_empty() {
        return second;
    }
    if second.is_empty() {
        return first;
    }
    let mut entries: BTreeMap<_, EntryChange> =
        first.entries.into_iter().map(|change| ((change.dir, change.name.clone()), change)).collect();
    for change in second.entries {
        match entries.get_mut(&(change.dir, change.name.clone())) {
            Some(earlier) => earlier.after = change.after,
            None => {
                entries.insert((change.dir, change.name.clone()), change);
            }
        }
    }
    let mut nodes: BTreeMap<_, NodeChange> = first.nodes.into_iter().map(|change| (change.inode, change)).collect();
    for change in second.nodes {
        let entry = nodes.entry(change.inode).or_insert(change);
        *entry = NodeChange { attrs: entry.attrs || change.attrs, content: entry.content || change.content, ..change };
    }
    Delta {
        entries: entries.into_values().filter(|change| change.before != change.after).collect(),
        nodes: nodes.into_values().collect(),
    }
}
