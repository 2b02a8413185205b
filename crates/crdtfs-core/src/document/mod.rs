//! The document: the share's records as an automerge document.
//!
//! It is a grow-only set. 512 maps at the top, made by a first change that is derived from the share's id alone, hold one
//! record under each key; nothing is overwritten, deleted or nested. Automerge orders, compresses and carries the records;
//! what they mean is decided by the view, never by automerge.
//!
//! A change is a pure function of its [`Body`], and that is what travels and is signed, with the change's hash: a receiver
//! makes the change from it and compares hashes. So automerge never parses bytes from another device (its parser inflates
//! without a limit and trusts indices), and keys, which follow from the records, are not sent.

use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId as AmActor, Automerge, Change, ChangeHash as AmHash, ExpandedChange, ObjType, ReadDoc};
use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;

use crate::id::{ActorId, ChangeHash, Hash, RecordId, ShareId};
use crate::record::{Family, Record, RecordError};

/// The most records in one change.
pub const RECORDS_MAX: usize = 1000;

/// The most bytes of records in one change that this program makes; one larger record goes alone.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Maps of each family.
const BUCKETS: u64 = 256;

/// Number of the first change's last operation.
pub const GENESIS_OPS: u64 = 2 * BUCKETS;

/// No operation may be numbered higher: automerge counts in 32 bits.
const OP_MAX: u64 = u32::MAX as u64 - 1;

/// A record with where it is filed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filed {
    /// Which family of maps.
    pub family: Family,
    /// The first half of its key: the place or inode that it speaks of.
    pub subject: [u8; 16],
    /// The second half.
    pub id: RecordId,
    /// The encoded record.
    pub bytes: Vec<u8>,
}

impl Filed {
    /// Files an encoded record that this program understands.
    pub fn new(bytes: Vec<u8>) -> Result<(Self, Record), RecordError> {
        let record = Record::decode(&bytes)?;
        let id = RecordId::of(&bytes);
        Ok((Self { family: record.family(), subject: record.subject(), id, bytes }, record))
    }

    /// The key in its map: base64url of subject and id.
    fn key(&self) -> String {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.subject);
        key[16..].copy_from_slice(&self.id.0);
        BASE64URL_NOPAD.encode(&key)
    }

    /// Number of its map, which is that of the operation that made it, less one.
    fn bucket(&self) -> u64 {
        let family = match self.family {
            Family::Place => 0,
            Family::Content => BUCKETS,
        };
        family + u64::from(self.subject[0])
    }
}

/// All that a change says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The author.
    pub actor: ActorId,
    /// Number of the change in its author's chain, from 1.
    pub seq: u64,
    /// Number of its first operation: 1 more than the highest of the changes that it depends on.
    pub start_op: u64,
    /// The changes that it depends on, in order.
    pub deps: Vec<ChangeHash>,
    /// The author's clock at the commit, milliseconds since 1970.
    pub time_ms: i64,
    /// Digest of what the envelope says beside this: it is part of the change, so that one change has one envelope.
    pub context: Hash,
    /// The records, one operation each.
    pub records: Vec<Filed>,
}

/// Why bytes are no document of the share, or a change does not fit it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Not what [`Document::save`] wrote.
    #[error("cannot read the saved document: {0}")]
    Load(String),
    /// Of another share.
    #[error("the saved document is of another share")]
    OtherShare,
    /// Automerge refused a change.
    #[error("the document refused a change: {0}")]
    Refused(String),
    /// The document is full.
    #[error("the document has reached its {OP_MAX} operations")]
    Full,
}

/// A change made from a body.
#[derive(Clone, Debug)]
pub struct Made {
    change: Change,
    hash: ChangeHash,
}

impl Made {
    /// The change's hash.
    pub fn hash(&self) -> ChangeHash {
        self.hash
    }
}

/// What follows from a share's id: how its document begins, and so how a change of it is made.
#[derive(Clone, Debug)]
pub struct Schema {
    actor: AmActor,
    genesis: ChangeHash,
}

impl Schema {
    /// The schema of a share.
    pub fn new(share: &ShareId) -> Self {
        let change = genesis_change(share);
        Self { actor: change.actor_id().clone(), genesis: own_hash(change.hash()) }
    }

    /// The first change, on which all others depend.
    pub fn genesis(&self) -> ChangeHash {
        self.genesis
    }

    /// Makes the change that a body says: a pure function of the share and the body. Fails if its operations' numbers are
    /// over the limit.
    pub fn make(&self, body: &Body) -> Result<Made, DocumentError> {
        let start_op = NonZeroU64::new(body.start_op)
            .filter(|start| start.get() <= OP_MAX - body.records.len() as u64)
            .ok_or(DocumentError::Full)?;
        let operations = body
            .records
            .iter()
            .map(|record| put(OpId(record.bucket() + 1, self.actor.clone()), record.key(), record.bytes.clone()));
        // A first byte of 0: automerge reads a 1 there as the mark of an author of its own.
        let mut extra_bytes = vec![0];
        extra_bytes.extend(body.context.0);
        let change = Change::from(ExpandedChange {
            operations: operations.collect(),
            actor_id: AmActor::from(body.actor.0),
            hash: None,
            seq: body.seq,
            start_op,
            time: body.time_ms,
            message: None,
            deps: body.deps.iter().map(|dep| AmHash(dep.0)).collect(),
            extra_bytes,
            author: None,
        });
        let hash = own_hash(change.hash());
        Ok(Made { change, hash })
    }
}

/// The records of a share, in memory. Large: what a share needs all the time is kept by [`crate::chains::Chains`] and the
/// view, and the document is only read and written as a whole.
pub struct Document {
    automerge: Automerge,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("heads", &self.heads()).finish_non_exhaustive()
    }
}

impl Document {
    /// The document of a share before anything happened.
    pub fn new(share: &ShareId) -> Self {
        let mut automerge = Automerge::new();
        automerge.apply_changes([genesis_change(share)]).expect("the first change depends on nothing");
        Self { automerge }
    }

    /// Reads what [`Document::save`] wrote on this device; the hashes of its heads are checked.
    pub fn load(share: &ShareId, bytes: &[u8]) -> Result<Self, DocumentError> {
        let automerge = Automerge::load(bytes).map_err(|e| DocumentError::Load(e.to_string()))?;
        if automerge.get_change_meta_by_hash(&genesis_change(share).hash()).is_none() {
            return Err(DocumentError::OtherShare);
        }
        Ok(Self { automerge })
    }

    /// The whole document, compressed.
    pub fn save(&self) -> Vec<u8> {
        self.automerge.save()
    }

    /// Heads of the change graph, in order.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.automerge.get_heads().into_iter().map(own_hash).collect()
    }

    /// Adds changes, each of whose dependencies are here or among them, and each its actor's next. The cost is that of a
    /// pass over the document and them, if it has none yet; to one that was loaded, that of the document for each of their records.
    pub fn apply(&mut self, made: Vec<Made>) -> Result<(), DocumentError> {
        let changes: Vec<Change> = made.into_iter().map(|made| made.change).collect();
        self.automerge.apply_changes(changes).map_err(|e| DocumentError::Refused(e.to_string()))
    }

    /// What all changes after the first say, in causal order.
    pub fn bodies(&self) -> impl Iterator<Item = (ChangeHash, Body)> + use<> {
        let changes = self.automerge.get_changes(&[]).into_iter();
        changes.filter_map(|change| Some((own_hash(change.hash()), body_of(&change)?)))
    }

    /// Number of records (one that was published again counts once).
    pub fn len(&self) -> usize {
        let maps = self.automerge.keys(automerge::ROOT);
        maps.filter_map(|map| self.automerge.get(automerge::ROOT, map).ok().flatten())
            .map(|(_, id)| self.automerge.length(&id))
            .sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn own_hash(hash: AmHash) -> ChangeHash {
    ChangeHash(hash.0)
}

fn put(map: OpId, key: String, bytes: Vec<u8>) -> Op {
    Op {
        action: OpType::Put(automerge::ScalarValue::Bytes(bytes)),
        obj: ObjectId::Id(map),
        key: Key::Map(key.into()),
        pred: SortedVec::new(),
        insert: false,
    }
}

/// The change that makes the maps, the same on every device of the share.
fn genesis_change(share: &ShareId) -> Change {
    let make = |name: &str, bucket: u64| Op {
        action: OpType::Make(ObjType::Map),
        obj: ObjectId::Root,
        key: Key::Map(format!("{name}/{bucket:02x}").into()),
        pred: SortedVec::new(),
        insert: false,
    };
    let places = (0..BUCKETS).map(|bucket| make("place", bucket));
    let contents = (0..BUCKETS).map(|bucket| make("content", bucket));
    Change::from(ExpandedChange {
        operations: places.chain(contents).collect(),
        actor_id: AmActor::from(blake3::derive_key("crdtfs 2026 genesis actor v1", &share.0)),
        hash: None,
        seq: 1,
        start_op: NonZeroU64::MIN,
        time: 0,
        message: None,
        deps: Vec::new(),
        extra_bytes: Vec::new(),
        author: None,
    })
}

/// What a change of ours says; `None` for the first.
fn body_of(change: &Change) -> Option<Body> {
    let expanded = change.decode();
    let records = expanded.operations.into_iter().map(|op| {
        let (OpType::Put(automerge::ScalarValue::Bytes(bytes)), ObjectId::Id(map), Key::Map(key)) =
            (op.action, op.obj, op.key)
        else {
            return None;
        };
        let key = BASE64URL_NOPAD.decode(key.as_bytes()).ok()?;
        let family = if map.counter() <= BUCKETS { Family::Place } else { Family::Content };
        let (subject, id) = key.split_at_checked(16)?;
        Some(Filed { family, subject: subject.try_into().ok()?, id: RecordId::from_slice(id)?, bytes })
    });
    let records = records.collect::<Option<Vec<_>>>()?;
    let mut deps: Vec<_> = expanded.deps.into_iter().map(own_hash).collect();
    deps.sort_unstable();
    Some(Body {
        actor: ActorId::from_slice(expanded.actor_id.to_bytes())?,
        seq: expanded.seq,
        start_op: expanded.start_op.get(),
        deps,
        time_ms: expanded.time,
        context: expanded.extra_bytes.strip_prefix(&[0]).and_then(Hash::from_slice)?,
        records,
    })
}

#[cfg(test)]
mod tests;
