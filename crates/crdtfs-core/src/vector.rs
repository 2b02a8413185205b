//! What a device has: for each author of changes, how far its chain reaches.

use std::collections::BTreeMap;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::id::{ActorId, ChangeHash, Hash};

/// The end of an actor's chain of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Tip {
    /// Number of the last change; the first is 1.
    #[n(0)]
    pub seq: u64,
    /// Its hash: two chains of one actor that differ (a cloned device) are told apart by it.
    #[n(1)]
    pub hash: ChangeHash,
}

/// {actor → last change}. Whoever has a change has all before it in its actor's chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(BTreeMap<ActorId, Tip>);

impl Vector {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of an actor's chain.
    pub fn get(&self, actor: &ActorId) -> Option<Tip> {
        self.0.get(actor).copied()
    }

    /// Number of an actor's last change, 0 for none.
    pub fn seq(&self, actor: &ActorId) -> u64 {
        self.0.get(actor).map_or(0, |tip| tip.seq)
    }

    /// Sets an actor's end, whatever it was.
    pub fn set(&mut self, actor: ActorId, tip: Tip) {
        self.0.insert(actor, tip);
    }

    /// Takes an actor out.
    pub fn remove(&mut self, actor: &ActorId) {
        self.0.remove(actor);
    }

    /// Actors and their ends, in the actors' order.
    pub fn iter(&self) -> impl Iterator<Item = (&ActorId, &Tip)> {
        self.0.iter()
    }

    /// Number of actors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no actor.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this reaches at least as far as `other` in every chain. Where both end at one number, the ends must be one.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(actor, theirs)| self.0.get(actor).is_some_and(|own| own.seq > theirs.seq || own == theirs))
    }

    /// Number of changes that `other` has and this lacks, going by their numbers.
    pub fn behind(&self, other: &Self) -> u64 {
        other.0.iter().map(|(actor, tip)| tip.seq.saturating_sub(self.seq(actor))).sum()
    }

    /// Entries that differ from `since`'s, as a vector.
    pub fn since(&self, since: &Self) -> Self {
        Self(self.0.iter().filter(|(actor, tip)| since.0.get(*actor) != Some(tip)).map(|(a, t)| (*a, *t)).collect())
    }

    /// All of it as one hash: blake3 over actor, number (little endian) and hash of each entry, in the actors' order.
    pub fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for (actor, tip) in &self.0 {
            hasher.update(&actor.0).update(&tip.seq.to_le_bytes()).update(&tip.hash.0);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// Sets all of `other`'s entries.
    pub fn update(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(actor, tip)| (*actor, *tip)));
    }
}

impl FromIterator<(ActorId, Tip)> for Vector {
    fn from_iter<I: IntoIterator<Item = (ActorId, Tip)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<C> Encode<C> for Vector {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (actor, tip) in &self.0 {
            e.encode_with(actor, ctx)?.encode_with(tip, ctx)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Vector {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        let len = d.map()?.ok_or_else(|| minicbor::decode::Error::message("vector of indefinite length").at(at))?;
        let mut entries = BTreeMap::new();
        for _ in 0..len {
            entries.insert(d.decode_with(ctx)?, d.decode_with(ctx)?);
        }
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(seq: u64, hash: u8) -> Tip {
        Tip { seq, hash: ChangeHash([hash; 32]) }
    }

    #[test]
    fn covering_needs_every_chain_and_equal_ends() {
        let (a, b) = (ActorId([1; 32]), ActorId([2; 32]));
        let both: Vector = [(a, tip(3, 1)), (b, tip(1, 9))].into_iter().collect();
        let less: Vector = [(a, tip(2, 7))].into_iter().collect();
        let fork: Vector = [(a, tip(3, 2))].into_iter().collect();
        assert!(both.covers(&less) && both.covers(&both) && both.covers(&Vector::new()));
        assert!(!less.covers(&both) && !both.covers(&fork));
        assert_eq!(less.behind(&both), 2);
        assert_eq!(both.since(&less), both);
        assert!(both.digest() == both.clone().digest() && both.digest() != less.digest());
        assert!(both.digest() != fork.digest());
        let mut grown = less.clone();
        grown.update(&both.since(&less));
        assert_eq!(grown, both);
        let bytes = minicbor::to_vec(&both).expect("memory");
        assert_eq!(minicbor::decode::<Vector>(&bytes).expect("own encoding"), both);
    }
}
