//! The change graph without the changes' content: who made which change, on what, with which records.
//!
//! Every device's changes form a chain for each of its incarnations (an *actor*): each names the one before it among those
//! that it depends on. Two different changes of one actor and number (a cloned or restored device) are a *fork*: the one
//! with the smaller hash stays, and the other is dropped with all that depends on it, on every device alike, whatever came
//! first. What was dropped is published again by those who may write.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::decode::{Decoder, Error};
use minicbor::{Decode, Encode};

use crate::document::{Body, GENESIS_OPS};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, Incarnation, RecordId};
use crate::vector::{Tip, Vector};

/// A change by its place: number of the chain, and number in the chain less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
struct At {
    #[n(0)]
    chain: u32,
    #[n(1)]
    index: u32,
}

#[derive(Clone, Debug, Encode, Decode)]
struct Link {
    #[n(0)]
    hash: ChangeHash,
    #[n(1)]
    max_op: u64,
    #[n(2)]
    time_ms: i64,
    #[n(3)]
    membership: u32,
    /// What it depends on, the genesis left out.
    #[n(4)]
    deps: Box<[At]>,
    #[n(5)]
    records: Box<[RecordId]>,
}

#[derive(Clone, Debug, Encode, Decode)]
struct Chain {
    #[n(0)]
    actor: ActorId,
    #[n(1)]
    device: DeviceId,
    #[n(2)]
    incarnation: Incarnation,
    #[n(3)]
    links: Vec<Link>,
}

/// One change as the graph knows it.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRef<'a> {
    /// The author.
    pub actor: ActorId,
    /// The author's device.
    pub device: DeviceId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Number and hash.
    pub tip: Tip,
    /// The author's clock.
    pub time_ms: i64,
    /// The membership heads that it was made under.
    pub membership: &'a [Hash],
    /// Its records.
    pub records: &'a [RecordId],
}

/// How a change stands to the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be added.
    Next,
    /// It is here.
    Known,
    /// It depends on this one, which is not here.
    Misses(ChangeHash),
    /// It depends on a change that was dropped, or is itself the larger of two: it never counts.
    Lost,
    /// Another change has its number and is larger: that one has to be dropped first.
    Wins(ChangeHash),
    /// No honest device makes it: why.
    Bad(&'static str),
}

/// The change graph of a share.
#[derive(Clone, Debug)]
pub struct Chains {
    genesis: ChangeHash,
    chains: Vec<Chain>,
    by_actor: BTreeMap<ActorId, u32>,
    by_hash: BTreeMap<ChangeHash, At>,
    heads: BTreeSet<ChangeHash>,
    vector: Vector,
    /// Sets of membership heads, most changes sharing a few.
    memberships: Vec<Box<[Hash]>>,
    by_membership: BTreeMap<Box<[Hash]>, u32>,
    /// Changes that lost against another of their actor and number, and those that depend on them.
    lost: BTreeSet<ChangeHash>,
    changes: usize,
}

impl Chains {
    /// The graph of a document that has only its first change.
    pub fn new(genesis: ChangeHash) -> Self {
        Self {
            genesis,
            chains: Vec::new(),
            by_actor: BTreeMap::new(),
            by_hash: BTreeMap::new(),
            heads: BTreeSet::from([genesis]),
            vector: Vector::new(),
            memberships: Vec::new(),
            by_membership: BTreeMap::new(),
            lost: BTreeSet::new(),
            changes: 0,
        }
    }

    /// Writes the graph down for [`Chains::restore`], which this very program reads back.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        minicbor::encode((&self.chains, &self.memberships, &self.lost), out).expect("writing to memory cannot fail");
    }

    /// Reads back what [`Chains::save`] wrote.
    pub(crate) fn restore(genesis: ChangeHash, d: &mut Decoder<'_>) -> Result<Self, Error> {
        let (chains, memberships, lost): (Vec<Chain>, Vec<Box<[Hash]>>, BTreeSet<ChangeHash>) = d.decode()?;
        let mut graph = Self { chains, memberships, lost, ..Self::new(genesis) };
        graph.by_actor = graph.chains.iter().zip(0..).map(|(chain, number)| (chain.actor, number)).collect();
        graph.by_membership =
            graph.memberships.iter().zip(0..).map(|(heads, number)| (heads.clone(), number)).collect();
        let links = graph.chains.iter().zip(0..).flat_map(|(chain, number)| {
            chain.links.iter().zip(0..).map(move |(link, index)| (link.hash, At { chain: number, index }))
        });
        graph.by_hash = links.collect();
        graph.changes = graph.by_hash.len();
        for chain in &graph.chains {
            if let Some(last) = chain.links.last() {
                graph.vector.set(chain.actor, Tip { seq: chain.links.len() as u64, hash: last.hash });
            }
        }
        graph.find_heads();
        Ok(graph)
    }

    /// What is here.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// Changes that no other depends on, in order.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.heads.iter().copied().collect()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Hash of an actor's change of that number.
    pub fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        let chain = &self.chains[*self.by_actor.get(actor)? as usize];
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        chain.links.get(index).map(|link| link.hash)
    }

    /// Whether a change is here.
    pub fn knows(&self, hash: &ChangeHash) -> bool {
        *hash == self.genesis || self.by_hash.contains_key(hash)
    }

    /// All changes, chain by chain.
    pub fn iter(&self) -> impl Iterator<Item = ChangeRef<'_>> {
        self.chains.iter().flat_map(move |chain| {
            (1..).zip(&chain.links).map(move |(seq, link)| ChangeRef {
                actor: chain.actor,
                device: chain.device,
                incarnation: chain.incarnation,
                tip: Tip { seq, hash: link.hash },
                time_ms: link.time_ms,
                membership: &self.memberships[link.membership as usize],
                records: &link.records,
            })
        })
    }

    /// What a new change of an actor has to have: (number, first operation, dependencies in order).
    pub fn next(&self, actor: &ActorId) -> (u64, u64, Vec<ChangeHash>) {
        let mut deps = self.heads.clone();
        let tip = self.vector.get(actor);
        deps.extend(tip.map(|tip| tip.hash));
        let start_op = 1 + deps.iter().map(|dep| self.max_op(dep)).max().unwrap_or(GENESIS_OPS);
        (tip.map_or(0, |tip| tip.seq) + 1, start_op, deps.into_iter().collect())
    }

    fn link(&self, at: At) -> &Link {
        &self.chains[at.chain as usize].links[at.index as usize]
    }

    fn max_op(&self, hash: &ChangeHash) -> u64 {
        self.by_hash.get(hash).map_or(GENESIS_OPS, |at| self.link(*at).max_op)
    }

    /// How a change with this hash stands to what is here.
    pub fn standing(&self, hash: &ChangeHash, body: &Body) -> Standing {
        if self.knows(hash) {
            return Standing::Known;
        }
        if self.lost.contains(hash) || body.deps.iter().any(|dep| self.lost.contains(dep)) {
            return Standing::Lost;
        }
        let other = self.change(&body.actor, body.seq);
        if other.is_some_and(|other| other < *hash) {
            return Standing::Lost;
        }
        if let Some(missing) = body.deps.iter().find(|dep| !self.knows(dep)) {
            return Standing::Misses(*missing);
        }
        if body.seq > 1 {
            match self.change(&body.actor, body.seq - 1) {
                Some(previous) if body.deps.contains(&previous) => {}
                // All that it depends on is here, and the one before it is not.
                _ => return Standing::Bad("it does not follow its author's last change"),
            }
        }
        let max = body.deps.iter().map(|dep| self.max_op(dep)).max().unwrap_or(GENESIS_OPS);
        if body.start_op != max + 1 {
            return Standing::Bad("its operations are numbered wrongly");
        }
        if let Some(other) = other {
            let ends = self.ends_without(&other);
            let is_lost = |at: &At| ends.get(&at.chain).is_some_and(|end| at.index >= *end);
            if body.deps.iter().filter_map(|dep| self.by_hash.get(dep)).any(is_lost) {
                return Standing::Bad("it depends on another change of its own number");
            }
            return Standing::Wins(other);
        }
        Standing::Next
    }

    /// Adds a change that is [`Standing::Next`].
    pub fn add(
        &mut self,
        hash: ChangeHash,
        body: &Body,
        device: DeviceId,
        incarnation: Incarnation,
        membership: &[Hash],
    ) {
        let membership = self.intern(membership);
        let number = match self.by_actor.get(&body.actor) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.chains.len())
                    .expect("actors are fewer than changes, which automerge counts in 32 bits");
                self.chains.push(Chain { actor: body.actor, device, incarnation, links: Vec::new() });
                self.by_actor.insert(body.actor, number);
                number
            }
        };
        let deps = body.deps.iter().filter_map(|dep| self.by_hash.get(dep)).copied().collect();
        for dep in &body.deps {
            self.heads.remove(dep);
        }
        self.heads.insert(hash);
        let links = &mut self.chains[number as usize].links;
        let index = u32::try_from(links.len()).expect("numbers are checked to fit 32 bits");
        links.push(Link {
            hash,
            max_op: body.start_op + body.records.len() as u64 - 1,
            time_ms: body.time_ms,
            membership,
            deps,
            records: body.records.iter().map(|record| record.id).collect(),
        });
        self.by_hash.insert(hash, At { chain: number, index });
        self.vector.set(body.actor, Tip { seq: body.seq, hash });
        self.changes += 1;
    }

    fn intern(&mut self, membership: &[Hash]) -> u32 {
        if let Some(number) = self.by_membership.get(membership) {
            return *number;
        }
        let number = u32::try_from(self.memberships.len()).expect("fewer than changes");
        self.memberships.push(membership.into());
        self.by_membership.insert(membership.into(), number);
        number
    }

    /// Notes that a change never counts, without its being here.
    pub fn lose(&mut self, hash: ChangeHash) {
        self.lost.insert(hash);
    }

    /// Where chains end if a change goes, and with it all later ones of its chain and all that depend on any of them.
    fn ends_without(&self, hash: &ChangeHash) -> BTreeMap<u32, u32> {
        // A change depends on the one before it in its chain, so a chain loses its end.
        let mut ends: BTreeMap<u32, u32> = self.by_hash.get(hash).map(|at| (at.chain, at.index)).into_iter().collect();
        loop {
            let before = ends.clone();
            for (number, chain) in (0..).zip(&self.chains) {
                let is_lost = |at: &At| ends.get(&at.chain).is_some_and(|end| at.index >= *end);
                let end = chain.links.iter().position(|link| link.deps.iter().any(is_lost));
                if let Some(end) = end.and_then(|end| u32::try_from(end).ok()) {
                    let entry = ends.entry(number).or_insert(end);
                    *entry = (*entry).min(end);
                }
            }
            if ends == before {
                return ends;
            }
        }
    }

    /// Drops a change, all later ones of its chain and all that depend on any of them. Gives them chain by chain, each
    /// chain's in order.
    pub fn drop_from(&mut self, hash: &ChangeHash) -> Vec<(ActorId, Tip)> {
        let ends = self.ends_without(hash);
        let mut dropped = Vec::new();
        for (number, end) in ends {
            let chain = &mut self.chains[number as usize];
            let gone = chain.links.split_off(end as usize);
            for (seq, link) in (u64::from(end) + 1..).zip(&gone) {
                self.by_hash.remove(&link.hash);
                self.lost.insert(link.hash);
                dropped.push((chain.actor, Tip { seq, hash: link.hash }));
            }
            match chain.links.last() {
                Some(last) => self.vector.set(chain.actor, Tip { seq: u64::from(end), hash: last.hash }),
                None => self.vector.remove(&chain.actor),
            }
        }
        self.changes -= dropped.len();
        self.find_heads();
        dropped
    }

    fn find_heads(&mut self) {
        let mut inner: BTreeSet<At> = BTreeSet::new();
        for link in self.chains.iter().flat_map(|chain| &chain.links) {
            inner.extend(link.deps.iter());
        }
        self.heads = self.by_hash.iter().filter(|(_, at)| !inner.contains(at)).map(|(hash, _)| *hash).collect();
        if self.heads.is_empty() {
            self.heads.insert(self.genesis);
        }
    }

    /// Which of these records a change that `counts` brought.
    pub fn carried(&self, records: &BTreeSet<RecordId>, counts: &dyn Fn(&ChangeRef<'_>) -> bool) -> BTreeSet<RecordId> {
        self.iter()
            .filter(|change| change.records.iter().any(|id| records.contains(id)) && counts(change))
            .flat_map(|change| change.records.iter().filter(|id| records.contains(id)).copied())
            .collect()
    }
}
