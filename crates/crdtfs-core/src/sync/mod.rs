//! The sync of one share over one connection, as a state machine without a clock or a socket.
//!
//! Each side says what it has ([`Have`]); each then sends what the other lacks, membership first, changes in causal order,
//! then what it holds and what others said that they hold, and afterwards whatever is new. What the other is known to have, or
//! was sent on this stream, is not sent again. A batch is made only when it is asked for ([`Session::poll`]), that is when the
//! transport can take it, and asks the host for nothing unless something changed: an idle session costs nothing. A connection
//! that breaks ends the session; the next one begins by saying what each has.
//!
//! What a side says is as old as the way that it came, and knows nothing of what its users did a moment ago. Who has to be
//! sure sends a probe: the other answers it when everything that was done there before it came has been said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use minicbor::bytes::ByteVec;
use thiserror::Error;

use crate::id::{ActorId, ChangeHash, DeviceId, Hash};
use crate::vector::{Tip, Vector};
use crate::wire::{FEATURE_PROBES, FEATURE_STATEMENTS, Have, Holding, MESSAGE_MAX, Message, Statement};

/// The most bytes of envelopes or membership records in one message; a single larger one goes alone.
pub const BATCH_BYTES: usize = MESSAGE_MAX / 4;

/// The most actors that a peer may speak of.
pub const ACTORS_MAX: usize = 8192;

/// Something that the other side must not do: the connection ends, and its sender is told in `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A message out of order or over a limit.
    #[error("broke the sync protocol: {0}")]
    Protocol(String),
    /// A membership record that is no such thing.
    #[error("sent a bad membership record: {0}")]
    Membership(String),
    /// A change that must not be accepted.
    #[error("sent a bad change: {0}")]
    Envelope(String),
    /// Its document is of another epoch.
    #[error("is in epoch {theirs} of the share, this device in {own}")]
    Epoch {
        /// Ours.
        own: u32,
        /// Theirs.
        theirs: u32,
    },
    /// Nothing that the sender did: this device cannot take more right now, or failed. The connection starts again.
    #[error("this device could not take it: {0}")]
    Local(String),
}

/// An envelope and its place in its actor's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The author.
    pub actor: ActorId,
    /// Number in the author's chain, and the change's hash.
    pub tip: Tip,
    /// The encoded envelope.
    pub bytes: Vec<u8>,
}

/// What a session asks of its share.
pub trait SyncHost {
    /// Epoch of the document.
    fn epoch(&self) -> u32;

    /// What is here.
    fn vector(&self) -> Vector;

    /// The hash of an actor's change of that number, if it is here.
    fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash>;

    /// Envelopes that are here and not in `known`, in causal order, from the first on, as many as `max_bytes` hold but at
    /// least one. An actor that `known` does not have begins at 1, and so does one whose change of that number is another
    /// one here ([`crate::replica::Replica::start_after`]).
    fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered>;

    /// Takes envelopes in the order in which they came from `from`. What they depend on may be missing: then they wait
    /// here. On a fault those before the bad one stay.
    fn receive(&mut self, from: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault>;

    /// Heads of the membership records.
    fn membership_heads(&self) -> Vec<Hash>;

    /// Membership records that are no ancestors of `known` (heads that the peer has; unknown ones count for nothing), in
    /// causal order.
    fn membership_after(&self, known: &[Hash]) -> Vec<Vec<u8>>;

    /// Takes membership records, known ones too.
    fn receive_membership(&mut self, from: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault>;

    /// What content is here.
    fn holding(&self) -> Holding;

    /// Statements of members, this device's own among them, that are newer than those with the numbers in `known`; about
    /// `max_bytes` of them at most. None by default.
    fn statements_after(&self, _known: &BTreeMap<DeviceId, u64>, _max_bytes: usize) -> Vec<Statement> {
        Vec::new()
    }

    /// Takes encoded statements that the peer passes on; gives those of members, known and older ones too. By default it
    /// takes none.
    fn receive_statements(&mut self, _from: &DeviceId, _statements: Vec<Vec<u8>>) -> Result<Vec<Statement>, Fault> {
        Ok(Vec::new())
    }

    /// The newest probe that the members are to answer, while somebody here waits for it. Its numbers rise. None by default.
    fn probe(&self) -> Option<u64> {
        None
    }

    /// Begins to make known all that was done here until now (written and not published, done and not committed), without
    /// waiting for it. Gives a number for [`SyncHost::settling`]; calls that the same work serves give the same one. When
    /// it has ended, [`Session::changed`] is to be called. By default nothing is to be made known.
    fn settle(&mut self) -> u64 {
        0
    }

    /// How far that is.
    fn settling(&self, _number: u64) -> Settling {
        Settling::Done
    }
}

/// How far it is with what [`SyncHost::settle`] began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It has not ended.
    Busy,
    /// All that was done here before the call is what the host now gives.
    Done,
    /// It could not be done, or not in time: whoever probes may do so again.
    Failed,
}

/// What is known of the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// The changes that it said it has; `None` until it spoke.
    pub vector: Option<Vector>,
    /// The membership heads that it said it has.
    pub membership: Vec<Hash>,
    /// What content it said it holds; `None` until it said so.
    pub holding: Option<Holding>,
    /// The newest probe that it answered in this session, 0 before the first; `None` if it does not know probes.
    pub probed: Option<u64>,
}

/// One share on one connection.
#[derive(Debug)]
pub struct Session {
    peer_id: DeviceId,
    peer: PeerState,
    /// What the peer has, or will have when it has read what was sent.
    given: Vector,
    /// Chains of which the two sides have different changes under one number.
    contested: BTreeSet<ActorId>,
    contest: Vector,
    /// Membership heads that the peer said it has, or that it was sent everything below of.
    given_membership: Vec<Hash>,
    /// What we last said.
    said: Option<Have>,
    said_holding: Option<Holding>,
    /// Whether the other side takes statements.
    statements: bool,
    /// The newest statement of each member that the other has, or will have when it has read what was sent.
    given_statements: BTreeMap<DeviceId, u64>,
    /// The last probe that was sent.
    probe: u64,
    /// The last probe that came.
    asked: u64,
    /// What has to be done here before probes are answered: its number at the host, and the newest probe that it answers.
    settling: Vec<(u64, u64)>,
    /// To be answered once there is nothing else to say.
    answer: Option<u64>,
    /// What may have to be said or sent since the last look.
    look: Look,
    membership_queue: VecDeque<Vec<u8>>,
}

/// Which of the host's parts are worth a look.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    have: bool,
    membership: bool,
    envelopes: bool,
    holding: bool,
    statements: bool,
    settling: bool,
    probe: bool,
}

impl Session {
    /// A session with the device at the other end; `features` are those that both sides have ([`crate::wire::agree`]).
    pub fn new(peer: DeviceId, features: u64) -> Self {
        let probed = (features & FEATURE_PROBES != 0).then_some(0);
        Self {
            peer_id: peer,
            peer: PeerState { probed, ..PeerState::default() },
            given: Vector::new(),
            contested: BTreeSet::new(),
            contest: Vector::new(),
            given_membership: Vec::new(),
            said: None,
            said_holding: None,
            statements: features & FEATURE_STATEMENTS != 0,
            given_statements: BTreeMap::new(),
            probe: 0,
            asked: 0,
            settling: Vec::new(),
            answer: None,
            look: Look { have: true, ..Look::default() },
            membership_queue: VecDeque::new(),
        }
    }

    /// The share changed here: changes, membership or content. [`Session::poll`] finds out what.
    pub fn changed(&mut self) {
        let speaking = self.peer.vector.is_some();
        self.look = Look {
            have: true,
            membership: speaking,
            envelopes: speaking,
            holding: speaking,
            statements: speaking && self.statements,
            settling: !self.settling.is_empty(),
            probe: speaking && self.peer.probed.is_some(),
        };
    }

    /// What is known of the other side.
    pub fn peer(&self) -> &PeerState {
        &self.peer
    }

    /// Whether the other side said that it has all that we have, and we have all that it said it has.
    pub fn level(&self, own: &Vector) -> bool {
        self.peer.vector.as_ref() == Some(own)
    }

    /// Takes a message. After a fault the session is over; what came before stays.
    pub fn handle(&mut self, message: Message, host: &mut dyn SyncHost) -> Result<(), Fault> {
        if self.peer.vector.is_none() && !matches!(message, Message::Have(_)) {
            return Err(Fault::Protocol("did not begin with what it has".into()));
        }
        match message {
            Message::Have(have) => self.handle_have(have, host),
            Message::Membership { records } => {
                let records = records.into_iter().map(Vec::from).collect();
                host.receive_membership(&self.peer_id, records)?;
                self.changed();
                Ok(())
            }
            Message::Envelopes { envelopes } => {
                let envelopes = envelopes.into_iter().map(Vec::from).collect();
                let outcome = host.receive(&self.peer_id, envelopes);
                self.changed();
                outcome
            }
            Message::Holding(holding) => {
                check_actors(&holding.vector)?;
                self.peer.holding = Some(holding);
                Ok(())
            }
            Message::Statements { statements } if self.statements => {
                let statements = statements.into_iter().map(Vec::from).collect();
                let taken = host.receive_statements(&self.peer_id, statements)?;
                self.give(&taken);
                Ok(())
            }
            Message::Statements { .. } => Err(Fault::Protocol("sent statements unasked".into())),
            Message::Probe { number } => self.handle_probe(number, host),
            Message::Probed { number } => match self.peer.probed {
                Some(before) if before < number && number <= self.probe => {
                    self.peer.probed = Some(number);
                    Ok(())
                }
                _ => Err(Fault::Protocol("answered a probe that it was not sent".into())),
            },
        }
    }

    /// Many probes cost no more than few: those that the same work at the host serves are answered together.
    fn handle_probe(&mut self, number: u64, host: &mut dyn SyncHost) -> Result<(), Fault> {
        if self.peer.probed.is_none() || number <= self.asked {
            return Err(Fault::Protocol("sent a probe unasked or out of order".into()));
        }
        self.asked = number;
        let work = host.settle();
        self.settling.retain(|(other, _)| *other != work);
        self.settling.push((work, number));
        // It may be done already.
        self.changed();
        Ok(())
    }

    /// Finds out which probes can be answered. Only before everything else is looked at: what the answer stands for is said
    /// before it.
    fn look_at_settling(&mut self, host: &dyn SyncHost) {
        let mut done = None;
        self.settling.retain(|(work, number)| match host.settling(*work) {
            Settling::Busy => true,
            Settling::Failed => false,
            Settling::Done => {
                done = done.max(Some(*number));
                false
            }
        });
        self.answer = self.answer.max(done);
    }

    fn handle_have(&mut self, have: Have, host: &mut dyn SyncHost) -> Result<(), Fault> {
        let own = host.epoch();
        if have.epoch != own {
            return Err(Fault::Epoch { own, theirs: have.epoch });
        }
        let first = self.peer.vector.is_none();
        let theirs = self.peer.vector.get_or_insert_default();
        theirs.update(&have.vector);
        for (actor, _) in have.vector.iter().filter(|(_, tip)| tip.seq == 0) {
            theirs.remove(actor);
        }
        check_actors(theirs)?;
        for (actor, tip) in have.vector.iter().filter(|(_, tip)| tip.seq > 0) {
            self.note(*actor, *tip, host);
        }
        if let Some(heads) = have.membership {
            self.peer.membership = heads;
            self.look.membership = true;
        }
        if first {
            self.changed();
        }
        Ok(())
    }

    /// Takes the other's word for the end of one chain. Where its change of that number is not ours, the two chains part
    /// somewhere below: it gets the whole chain, what both have is passed over there, and the same is asked of it.
    fn note(&mut self, actor: ActorId, tip: Tip, host: &dyn SyncHost) {
        let own = host.change(&actor, tip.seq);
        match own {
            Some(own) if own != tip.hash => self.contest(actor, Tip { seq: tip.seq, hash: own }),
            // It may be ahead on a chain that is not ours: only what we have counts then.
            None if self.contested.contains(&actor) => {}
            _ if self.given.seq(&actor) < tip.seq => self.given.set(actor, tip),
            _ => {}
        }
    }

    /// One chain is not the same on both sides; once a session is enough to find out where.
    fn contest(&mut self, actor: ActorId, own: Tip) {
        if self.contested.insert(actor) {
            self.given.remove(&actor);
            self.contest.set(actor, own);
            self.look.envelopes = true;
            self.look.have = true;
        }
    }

    /// The next message, if there is one to send now. Call when the transport can take it, after each [`Session::handle`] and
    /// [`Session::changed`], until it gives none.
    pub fn poll(&mut self, host: &mut dyn SyncHost) -> Option<Message> {
        if std::mem::take(&mut self.look.settling) {
            self.look_at_settling(host);
        }
        if std::mem::take(&mut self.look.have)
            && let Some(have) = self.next_have(host)
        {
            return Some(Message::Have(have));
        }
        self.peer.vector.as_ref()?;
        if let Some(message) = self.next_membership(host) {
            return Some(message);
        }
        if let Some(message) = self.next_envelopes(host) {
            return Some(message);
        }
        if std::mem::take(&mut self.look.holding) {
            let holding = host.holding();
            if self.said_holding.as_ref() != Some(&holding) {
                self.said_holding = Some(holding.clone());
                return Some(Message::Holding(holding));
            }
        }
        if let Some(message) = self.next_statements(host) {
            return Some(message);
        }
        if let Some(number) = self.answer.take() {
            return Some(Message::Probed { number });
        }
        self.next_probe(host)
    }

    /// A probe goes after everything that is here: its answer then speaks of that, too.
    fn next_probe(&mut self, host: &dyn SyncHost) -> Option<Message> {
        if !std::mem::take(&mut self.look.probe) {
            return None;
        }
        let number = host.probe().filter(|number| *number > self.probe)?;
        self.probe = number;
        Some(Message::Probe { number })
    }

    fn next_statements(&mut self, host: &dyn SyncHost) -> Option<Message> {
        if !self.look.statements {
            return None;
        }
        let batch = host.statements_after(&self.given_statements, BATCH_BYTES);
        // An empty answer: nothing is left until something changes.
        self.look.statements = !batch.is_empty();
        self.give(&batch);
        let statements: Vec<_> = batch.iter().map(|statement| statement.as_bytes().to_vec().into()).collect();
        (!statements.is_empty()).then_some(Message::Statements { statements })
    }

    /// Notes that the other side has these, or newer ones.
    fn give(&mut self, statements: &[Statement]) {
        for statement in statements {
            let given = self.given_statements.entry(statement.device).or_default();
            *given = statement.number.max(*given);
        }
    }

    fn next_have(&mut self, host: &dyn SyncHost) -> Option<Have> {
        let mut now = Have { epoch: host.epoch(), vector: host.vector(), membership: Some(host.membership_heads()) };
        let contest = std::mem::take(&mut self.contest);
        let mut news = match &self.said {
            None => now.clone(),
            Some(said) if *said == now && contest.is_empty() => return None,
            Some(said) => Have {
                vector: now.vector.since(&said.vector),
                membership: now.membership.clone().filter(|heads| said.membership.as_ref() != Some(heads)),
                ..now
            },
        };
        if let Some(said) = &self.said {
            // A chain that was dropped as a whole is said to end at 0.
            for (actor, _) in said.vector.iter().filter(|(actor, _)| now.vector.get(actor).is_none()) {
                news.vector.set(*actor, Tip { seq: 0, hash: ChangeHash([0; 32]) });
            }
        }
        // A contested chain is said at the other's number, so that it sees where its own differs, and then as it is.
        news.vector.update(&contest);
        self.look.have |= !contest.is_empty();
        now.vector.update(&contest);
        self.said = Some(now);
        Some(news)
    }

    fn next_membership(&mut self, host: &dyn SyncHost) -> Option<Message> {
        if std::mem::take(&mut self.look.membership) {
            let own = host.membership_heads();
            if own != self.peer.membership && own != self.given_membership {
                let mut known = self.peer.membership.clone();
                known.extend(&self.given_membership);
                self.membership_queue.extend(host.membership_after(&known));
                self.given_membership = own;
            }
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        while let Some(record) = self.membership_queue.front() {
            bytes += record.len() + 9;
            if !records.is_empty() && bytes > BATCH_BYTES {
                break;
            }
            records.extend(self.membership_queue.pop_front().map(ByteVec::from));
        }
        (!records.is_empty()).then_some(Message::Membership { records })
    }

    fn next_envelopes(&mut self, host: &dyn SyncHost) -> Option<Message> {
        if !self.look.envelopes {
            return None;
        }
        let batch = host.envelopes_after(&self.given, BATCH_BYTES);
        // An empty answer: nothing is left until something changes.
        self.look.envelopes = !batch.is_empty();
        for envelope in &batch {
            self.given.set(envelope.actor, envelope.tip);
        }
        let envelopes: Vec<_> = batch.into_iter().map(|envelope| ByteVec::from(envelope.bytes)).collect();
        (!envelopes.is_empty()).then_some(Message::Envelopes { envelopes })
    }
}

fn check_actors(vector: &Vector) -> Result<(), Fault> {
    if vector.len() > ACTORS_MAX {
        return Err(Fault::Protocol(format!("speaks of {} authors, over the limit of {ACTORS_MAX}", vector.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
