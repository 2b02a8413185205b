//! A replica: all that one device knows of a share's tree and members, and the rules by which it takes more.
//!
//! Owns the change graph, the view, the membership and what waits for something missing. A local operation changes the
//! view at once and waits in a queue until [`Replica::commit`] puts it into a signed change. A change from elsewhere is
//! checked in this order: size, inflated size, signature, records, hash; then whether the membership heads that it names
//! are here (else it waits), whether its author might write under them, whether what it depends on is here (else it
//! waits), and whether its number and its operations' numbers are the next. What fails changes nothing.
//!
//! The replica holds no envelopes: what it accepts or commits is given to the caller, who keeps it in a log, and lends the
//! log back as [`Envelopes`]. A crash loses what was not in the log.

mod load;
mod receive;
mod saved;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

pub use self::load::{Base, LoadError, Loaded};
pub use self::receive::{Accepted, Received, Refused};
pub use self::saved::Saved;
use crate::chains::Chains;
use crate::document::{DocumentError, Filed, RECORD_BYTES_MAX, RECORDS_MAX, Schema};
use crate::envelope::{self, Draft};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, Incarnation, InodeId, RecordId, ShareId};
use crate::key::Key;
use crate::membership::{Membership, MembershipError};
use crate::node::Delta;
use crate::op::{Applied, Op, OpError};
use crate::record::{Record, clean_device_name};
use crate::share::{Genesis, Parameters, Role};
use crate::vector::{Tip, Vector};
use crate::view::{Author, View};

/// Epoch of every document so far.
pub const EPOCH: u32 = 0;

/// Reads back what the caller keeps: every envelope that the replica accepted or committed and did not drop.
pub trait Envelopes {
    /// An actor's envelope of that number.
    fn envelope(&self, actor: &ActorId, seq: u64) -> Option<Vec<u8>>;
}

impl Envelopes for BTreeMap<(ActorId, u64), Vec<u8>> {
    fn envelope(&self, actor: &ActorId, seq: u64) -> Option<Vec<u8>> {
        self.get(&(*actor, seq)).cloned()
    }
}

/// A change of this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// This device's actor.
    pub actor: ActorId,
    /// Number and hash.
    pub tip: Tip,
    /// The encoded envelope.
    pub envelope: Vec<u8>,
    /// Number of its records.
    pub records: usize,
}

/// Why queued operations cannot be put into a change now. They stay queued.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// Another copy of this device's state made changes: a fresh incarnation is needed ([`Replica::renew`]).
    #[error("another copy of this device's state has made changes: a fresh incarnation is needed")]
    NeedsIncarnation,
    /// This device may not write any more.
    #[error("this device may not write to the share any more")]
    ReadOnly,
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// One device's state of a share.
#[derive(Debug)]
pub struct Replica {
    key: Key,
    device: DeviceId,
    share: ShareId,
    genesis: Genesis,
    schema: Schema,
    incarnation: Incarnation,
    actor: ActorId,
    /// Somebody else made changes as this actor.
    stale: bool,
    chains: Chains,
    view: View,
    membership: Membership,
    waiting: receive::Waiting,
    /// Records of operations that are in no change yet, an operation each.
    queue: VecDeque<Vec<Filed>>,
    queued: usize,
    /// Records in the view that do not count: of revoked devices, or of no change.
    masked: BTreeSet<RecordId>,
    /// Those of them that were in a dropped change and are in no other.
    orphans: BTreeSet<RecordId>,
    /// Records of a later format.
    newer: usize,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// A share that was just made.
#[derive(Debug)]
pub struct Created {
    /// Its first replica.
    pub replica: Replica,
    /// Its encoded genesis, to be kept.
    pub genesis: Vec<u8>,
    /// Its membership records, to be kept.
    pub membership: Vec<Vec<u8>>,
}

impl Replica {
    /// Makes a share. `incarnation` and `nonce` are fresh and random.
    pub fn create(
        key: Key,
        incarnation: Incarnation,
        nonce: [u8; 32],
        name: &str,
        now_ms: i64,
    ) -> Result<Created, MembershipError> {
        let genesis = Genesis { creator: key.id(), nonce, parameters: Parameters::default() };
        let (membership, record) = Membership::create(&genesis, &key, name, now_ms)?;
        let bytes = genesis.encode();
        let replica = Self::empty(key, incarnation, genesis, membership);
        Ok(Created { replica, genesis: bytes, membership: vec![record] })
    }

    fn empty(key: Key, incarnation: Incarnation, genesis: Genesis, membership: Membership) -> Self {
        let (share, device) = (genesis.share(), key.id());
        let schema = Schema::new(&share);
        Self {
            device,
            share,
            incarnation,
            actor: ActorId::derive(&share, &device, &incarnation),
            stale: false,
            chains: Chains::new(schema.genesis()),
            view: View::new(),
            membership,
            waiting: receive::Waiting::default(),
            queue: VecDeque::new(),
            queued: 0,
            masked: BTreeSet::new(),
            orphans: BTreeSet::new(),
            newer: 0,
            key,
            genesis,
            schema,
        }
    }

    /// The share.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// What the share began with.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The tree.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The members.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// This device's actor; another one after [`Replica::renew`].
    pub fn actor(&self) -> ActorId {
        self.actor
    }

    /// Epoch of the document.
    pub fn epoch(&self) -> u32 {
        EPOCH
    }

    /// The changes that are here.
    pub fn vector(&self) -> &Vector {
        self.chains.vector()
    }

    /// Heads of the change graph.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.chains.heads()
    }

    /// The change graph.
    pub fn chains(&self) -> &Chains {
        &self.chains
    }

    /// Number of envelopes that wait for something.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of records of a later format, which need a newer crdtfs to be shown.
    pub fn newer(&self) -> usize {
        self.newer
    }

    /// Number of records that are in no change yet.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The records that are in no change yet.
    pub fn queued_records(&self) -> Vec<Record> {
        let decode = |filed: &Filed| Record::decode(&filed.bytes).expect("what is queued was decoded before");
        self.queue.iter().flatten().map(decode).collect()
    }

    /// This device's role, if it is a member.
    pub fn role(&self) -> Option<Role> {
        self.membership.state().role(&self.device)
    }

    /// Whether this device may change the tree.
    pub fn writable(&self) -> bool {
        self.role().is_some_and(Role::may_write)
    }

    /// This device's name in the share.
    pub fn name(&self) -> String {
        let member = self.membership.state().members.get(&self.device);
        member.map_or_else(|| clean_device_name(""), |member| member.name.clone())
    }

    /// Does an operation: changes the view and queues its records. On an error it is not done, but what it had written down
    /// before, of entries that are one, stands, and is told by [`Replica::take_begun`].
    pub fn apply(&mut self, op: &Op, now_ms: i64) -> Result<Applied, OpError> {
        if !self.writable() {
            return Err(OpError::ReadOnly);
        }
        let name = self.name();
        let author = Author { device: &name, now_ms: u64::try_from(now_ms).unwrap_or(0) };
        let outcome = self.view.apply(op, &author)?;
        self.enqueue_last(filed(outcome.records));
        Ok(Applied { delta: outcome.delta })
    }

    /// Somebody here still has a removed node open: what takes its name is another file.
    pub fn keep_apart(&mut self, inode: InodeId) {
        self.view.keep_apart(inode);
    }

    /// What operations that failed have changed all the same: their records are queued, for what is in the view has to be in
    /// the log.
    pub fn take_begun(&mut self) -> Delta {
        let outcome = self.view.take_begun();
        self.enqueue_last(filed(outcome.records));
        outcome.delta
    }

    fn enqueue_last(&mut self, records: Vec<Filed>) {
        if !records.is_empty() {
            // What counted only for who may not write any more counts again: this device says it, too.
            for record in &records {
                self.masked.remove(&record.id);
            }
            self.queued += records.len();
            self.queue.push_back(records);
        }
    }

    /// Records published again come before operations that may build on them.
    fn enqueue_first(&mut self, records: Vec<Filed>) {
        if !records.is_empty() {
            self.queued += records.len();
            self.queue.push_front(records);
        }
    }

    /// Puts queued operations into one change, each whole unless it alone is over a change's limit. Call until it gives
    /// none.
    pub fn commit(&mut self, now_ms: i64) -> Result<Option<Committed>, CommitError> {
        self.commit_but(0, now_ms)
    }

    /// As [`Replica::commit`], without the operations that brought the last `held` records of the queue.
    pub fn commit_but(&mut self, held: usize, now_ms: i64) -> Result<Option<Committed>, CommitError> {
        if self.queued <= held {
            return Ok(None);
        }
        if self.stale {
            return Err(CommitError::NeedsIncarnation);
        }
        if !self.writable() {
            return Err(CommitError::ReadOnly);
        }
        let taken = self.take_queued(self.queued - held);
        let (seq, start_op, deps) = self.chains.next(&self.actor);
        let membership = self.membership.heads();
        let draft = Draft {
            epoch: EPOCH,
            incarnation: self.incarnation,
            membership: membership.clone(),
            seq,
            start_op,
            deps,
            time_ms: now_ms,
            records: taken.clone(),
        };
        match envelope::seal(&self.key, &self.share, &self.schema, draft) {
            Err(error) => {
                self.enqueue_first(taken);
                Err(error.into())
            }
            Ok((bytes, hash, body)) => {
                self.chains.add(hash, &body, self.device, self.incarnation, &membership);
                let tip = Tip { seq, hash };
                Ok(Some(Committed { actor: self.actor, tip, envelope: bytes, records: body.records.len() }))
            }
        }
    }

    /// Takes operations off the queue, as many as one change holds, up to those that bring the record of number `most`.
    fn take_queued(&mut self, most: usize) -> Vec<Filed> {
        let mut taken: Vec<Filed> = Vec::new();
        let mut bytes = 0;
        while taken.len() < most
            && let Some(mut op) = self.queue.pop_front()
        {
            let size = |records: &[Filed]| records.iter().map(|record| record.bytes.len()).sum::<usize>();
            let fits = taken.len() + op.len() <= RECORDS_MAX && bytes + size(&op) <= RECORD_BYTES_MAX;
            if !fits {
                if taken.is_empty() {
                    let mut room = RECORD_BYTES_MAX;
                    let whole = op.iter().take(RECORDS_MAX).take_while(|record| {
                        let fits = record.bytes.len() <= room;
                        room = room.saturating_sub(record.bytes.len());
                        fits
                    });
                    let count = whole.count().max(1);
                    let rest = op.split_off(count);
                    taken = op;
                    op = rest;
                }
                if !op.is_empty() {
                    self.queue.push_front(op);
                }
                break;
            }
            bytes += size(&op);
            taken.append(&mut op);
        }
        // The same record may be queued twice (published again, and again): once in a change is enough.
        self.queued -= taken.len();
        let mut seen = BTreeSet::new();
        taken.retain(|record| seen.insert(record.id));
        taken
    }

    /// Goes on as a fresh incarnation, random and never used before.
    pub fn renew(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.actor = ActorId::derive(&self.share, &self.device, &incarnation);
        self.stale = false;
    }

    /// Whether a fresh incarnation is needed before the next commit.
    pub fn needs_incarnation(&self) -> bool {
        self.stale
    }

    /// Gives the view the verified bytes of a content that it wanted ([`View::wanted`]).
    pub fn supply(&mut self, hash: Hash, bytes: std::sync::Arc<[u8]>) -> Delta {
        self.view.supply(hash, bytes)
    }

    /// Where each chain has to be sent from to someone who has `known`: the number of the last change that need not be
    /// sent. A chain that ends in another change there than here is sent from its beginning.
    pub fn start_after(&self, known: &Vector) -> BTreeMap<ActorId, u64> {
        let same = |actor: &ActorId, tip: &Tip| self.chains.change(actor, tip.seq).is_none_or(|own| own == tip.hash);
        known.iter().filter(|(actor, tip)| same(actor, tip)).map(|(actor, tip)| (*actor, tip.seq)).collect()
    }

    /// Issues membership records: lends key and records to `issue`, and takes in what changed. See
    /// [`Membership::invite`], [`Membership::admit`] and the others.
    pub fn with_membership<T>(&mut self, issue: impl FnOnce(&mut Membership, &Key) -> T) -> (T, Delta) {
        let before = self.membership.heads();
        let value = issue(&mut self.membership, &self.key);
        let delta = if self.membership.heads() == before { Delta::default() } else { self.mask() };
        (value, delta)
    }
}

/// Records of the view, as changes hold them.
fn filed(records: Vec<(RecordId, Vec<u8>)>) -> Vec<Filed> {
    records.into_iter().map(|(_, bytes)| Filed::new(bytes).expect("the view makes records that decode").0).collect()
}

#[cfg(test)]
mod tests;
