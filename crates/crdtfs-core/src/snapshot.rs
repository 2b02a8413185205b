//! Snapshots: the document and its change graph as one block of bytes, so that a start need not read the whole log.
//!
//! A snapshot is a cache of a part of the log: made from the one before and the envelopes after it, by whoever has time,
//! without the replica ([`extend`]). One byte for the format, a CBOR map with tables and automerge's saved document, and a
//! checksum. One that does not read is ignored, and the whole log read instead.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::chains::{Chains, Standing};
use crate::document::{Body, Document, DocumentError, Made, Schema};
use crate::envelope::{Envelope, EnvelopeError, Trust};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, Incarnation, ShareId};
use crate::vector::Vector;

/// Version of the format that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// Why a snapshot cannot be used or made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Of another format.
    #[error("a snapshot of format {0}")]
    Version(u8),
    /// Damaged.
    #[error("a damaged snapshot: {0}")]
    Malformed(String),
    /// Of another share.
    #[error("a snapshot of another share")]
    OtherShare,
    /// Its document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// An envelope that was to go in.
    #[error("an envelope of the log does not read: {0}")]
    Envelope(#[from] EnvelopeError),
}

/// The device behind an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// The device.
    #[n(0)]
    pub device: DeviceId,
    /// Which life of it.
    #[n(1)]
    pub incarnation: Incarnation,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Content {
    #[n(0)]
    share: ShareId,
    #[n(1)]
    vector: Vector,
    #[n(2)]
    actors: BTreeMap<ActorId, Actor>,
    #[n(3)]
    memberships: Vec<Vec<Hash>>,
    #[n(4)]
    document: ByteVec,
}

#[derive(Clone, Encode, Decode)]
struct Actor {
    #[n(0)]
    origin: Origin,
    /// For each change of the chain which of `memberships` it was made under: (index, how many in a row).
    #[n(1)]
    memberships: Vec<(u32, u32)>,
}

/// A decoded snapshot.
pub struct Snapshot {
    share: ShareId,
    content: Content,
}

/// One change of a snapshot.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its hash.
    pub hash: ChangeHash,
    /// Who made it.
    pub author: Origin,
    /// The membership heads that it was made under.
    pub membership: Vec<Hash>,
    /// What it says.
    pub body: Body,
}

impl Snapshot {
    /// Reads a snapshot's tables; its document is read by [`Snapshot::changes`].
    pub fn decode(share: &ShareId, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let malformed = |reason: &str| SnapshotError::Malformed(reason.into());
        let (text, sum) = bytes.split_last_chunk::<32>().ok_or_else(|| malformed("too short"))?;
        let map = match text {
            [VERSION, map @ ..] => map,
            [other, ..] => return Err(SnapshotError::Version(*other)),
            [] => return Err(malformed("too short")),
        };
        if *blake3::hash(text).as_bytes() != *sum {
            return Err(malformed("its checksum is wrong"));
        }
        let content: Content = minicbor::decode(map).map_err(|e| SnapshotError::Malformed(e.to_string()))?;
        if content.share != *share {
            return Err(SnapshotError::OtherShare);
        }
        Ok(Self { share: *share, content })
    }

    /// The changes that it has.
    pub fn vector(&self) -> &Vector {
        &self.content.vector
    }

    /// Its changes, in causal order.
    pub fn changes(&self) -> Result<impl Iterator<Item = Result<Change, SnapshotError>>, SnapshotError> {
        let document = Document::load(&self.share, &self.content.document)?;
        let bodies = document.bodies();
        drop(document);
        Ok(self.resolve(bodies))
    }

    fn resolve(
        &self,
        bodies: impl Iterator<Item = (ChangeHash, Body)>,
    ) -> impl Iterator<Item = Result<Change, SnapshotError>> {
        let mut at: BTreeMap<ActorId, (usize, u32)> = BTreeMap::new();
        bodies.map(move |(hash, body)| {
            let malformed = || SnapshotError::Malformed("its tables do not fit its document".into());
            let actor = self.content.actors.get(&body.actor).ok_or_else(malformed)?;
            let (run, used) = at.entry(body.actor).or_default();
            if actor.memberships.get(*run).is_some_and(|(_, len)| used == len) {
                (*run, *used) = (*run + 1, 0);
            }
            *used += 1;
            let (index, _) = actor.memberships.get(*run).ok_or_else(malformed)?;
            let membership = self.content.memberships.get(*index as usize).ok_or_else(malformed)?.clone();
            Ok(Change { hash, author: actor.origin, membership, body })
        })
    }
}

/// Makes a snapshot of the one before (if there is one) and the envelopes of the log that are not in it, in the log's
/// order; others do no harm. Needs memory for the whole document while it runs, several times over.
///
/// The document is made anew of all its changes at once, as one run of operations. Putting them in where they belong in one
/// that was loaded would cost the whole document for each place, in time and in memory: a column of it is one piece of memory
/// then, and automerge 0.12 splits that at every place and lets the left part keep what the whole had.
pub fn extend(
    share: &ShareId,
    previous: Option<&[u8]>,
    envelopes: impl Iterator<Item = Vec<u8>>,
) -> Result<Vec<u8>, SnapshotError> {
    let schema = Schema::new(share);
    let mut chains = Chains::new(schema.genesis());
    let mut changes: Vec<(ChangeHash, Made)> = Vec::new();
    if let Some(bytes) = previous {
        let snapshot = Snapshot::decode(share, bytes)?;
        let document = Document::load(share, &snapshot.content.document)?;
        for change in snapshot.resolve(document.bodies()) {
            let Change { hash, author, membership, body } = change?;
            changes.push((hash, schema.make(&body)?));
            chains.add(hash, &body, author.device, author.incarnation, &membership);
        }
    }
    for bytes in envelopes {
        let Envelope { device, incarnation, membership, hash, body, .. } =
            Envelope::decode(share, &schema, &bytes, Trust::Stored)?;
        match chains.standing(&hash, &body) {
            Standing::Next => {}
            Standing::Wins(other) => {
                let dropped: BTreeSet<_> = chains.drop_from(&other).into_iter().map(|(_, tip)| tip.hash).collect();
                changes.retain(|(hash, _)| !dropped.contains(hash));
            }
            _ => continue,
        }
        changes.push((hash, schema.make(&body)?));
        chains.add(hash, &body, device, incarnation, &membership);
    }
    let mut document = Document::new(share);
    document.apply(changes.into_iter().map(|(_, made)| made).collect())?;
    Ok(encode(share, &chains, &document))
}

fn encode(share: &ShareId, chains: &Chains, document: &Document) -> Vec<u8> {
    let mut actors: BTreeMap<ActorId, Actor> = BTreeMap::new();
    let mut memberships: Vec<Vec<Hash>> = Vec::new();
    let mut numbers: BTreeMap<Vec<Hash>, u32> = BTreeMap::new();
    for change in chains.iter() {
        let next = u32::try_from(memberships.len()).expect("fewer than changes");
        let number = *numbers.entry(change.membership.to_vec()).or_insert_with(|| {
            memberships.push(change.membership.to_vec());
            next
        });
        let origin = Origin { device: change.device, incarnation: change.incarnation };
        let actor = actors.entry(change.actor).or_insert_with(|| Actor { origin, memberships: Vec::new() });
        match actor.memberships.last_mut() {
            Some((index, len)) if *index == number => *len += 1,
            _ => actor.memberships.push((number, 1)),
        }
    }
    let content = Content {
        share: *share,
        vector: chains.vector().clone(),
        actors,
        memberships,
        document: document.save().into(),
    };
    let mut out = vec![VERSION];
    minicbor::encode(&content, &mut out).expect("writing to memory cannot fail");
    let sum = *blake3::hash(&out).as_bytes();
    out.extend(sum);
    out
}

#[cfg(test)]
mod tests;
