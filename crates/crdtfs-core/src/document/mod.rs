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

use crate::id::{ActorId, ChangeHash, RecordId, ShareId};
use crate::record::{Family, Record, RecordError};

/// The most records in one change.
pub const RECORDS_MAX: usize = 1000;

/// The most bytes of records in one change that this program makes; one larger record goes alone.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Maps of each family.
const BUCKETS: u64 = 256;

/// The last operation number of the first change.
const GENESIS_OPS: u64 = 2 * BUCKETS;

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

/// The records of a share.
#[derive(Clone)]
pub struct Document {
    automerge: Automerge,
    genesis_actor: AmActor,
    genesis: ChangeHash,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("heads", &self.heads()).finish_non_exhaustive()
    }
}

impl Document {
    /// The document of a share before anything happened.
    pub fn new(share: &ShareId) -> Self {
        let change = genesis_change(share);
        let (genesis_actor, genesis) = (change.actor_id().clone(), own_hash(change.hash()));
        let mut automerge = Automerge::new();
        automerge.apply_changes([change]).expect("the first change depends on nothing");
        Self { automerge, genesis_actor, genesis }
    }

    /// Reads what [`Document::save`] wrote on this device; hashes of all heads are checked.
    pub fn load(share: &ShareId, bytes: &[u8]) -> Result<Self, DocumentError> {
        let first = genesis_change(share);
        let automerge = Automerge::load(bytes).map_err(|e| DocumentError::Load(e.to_string()))?;
        if automerge.get_change_meta_by_hash(&first.hash()).is_none() {
            return Err(DocumentError::OtherShare);
        }
        Ok(Self { automerge, genesis_actor: first.actor_id().clone(), genesis: own_hash(first.hash()) })
    }

    /// The whole document, compressed.
    pub fn save(&self) -> Vec<u8> {
        self.automerge.save()
    }

    /// Heads of the change graph, in order.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.automerge.get_heads().into_iter().map(own_hash).collect()
    }

    /// The first change, which every share's document begins with.
    pub fn genesis(&self) -> ChangeHash {
        self.genesis
    }

    /// Number of the first change's last operation.
    pub const fn genesis_max_op() -> u64 {
        GENESIS_OPS
    }

    /// Makes the change that a body says. A pure function of the share and the body. Fails if its operations' numbers are
    /// over the limit.
    pub fn make(&self, body: &Body) -> Result<Made, DocumentError> {
        let start_op = NonZeroU64::new(body.start_op)
            .filter(|start| start.get() <= OP_MAX - body.records.len() as u64)
            .ok_or(DocumentError::Full)?;
        let operations = body.records.iter().map(|record| {
            put(OpId(record.bucket() + 1, self.genesis_actor.clone()), record.key(), record.bytes.clone())
        });
        let expanded = ExpandedChange {
            operations: operations.collect(),
            actor_id: AmActor::from(body.actor.0),
            hash: None,
            seq: body.seq,
            start_op,
            time: body.time_ms,
            message: None,
            deps: body.deps.iter().map(|dep| AmHash(dep.0)).collect(),
            extra_bytes: Vec::new(),
            author: None,
        };
        let change = Change::from(expanded);
        let hash = own_hash(change.hash());
        Ok(Made { change, hash })
    }

    /// Adds a change, all of whose dependencies are here, and which is its actor's next.
    pub fn apply(&mut self, made: Made) -> Result<(), DocumentError> {
        self.apply_all(vec![made])
    }

    /// Adds changes, each of whose dependencies are here or before it.
    pub fn apply_all(&mut self, made: Vec<Made>) -> Result<(), DocumentError> {
        let changes: Vec<Change> = made.into_iter().map(|made| made.change).collect();
        self.automerge.apply_changes(changes).map_err(|e| DocumentError::Refused(e.to_string()))
    }

    /// What one change of this document says.
    pub fn body(&self, hash: &ChangeHash) -> Option<Body> {
        self.automerge.get_change_by_hash(&AmHash(hash.0)).and_then(|change| body_of(&change))
    }

    /// What all changes after the first say, in causal order.
    pub fn bodies(&self) -> impl Iterator<Item = Body> + use<> {
        self.automerge.get_changes(&[]).into_iter().filter_map(|change| body_of(&change))
    }

    /// The bytes of one record.
    pub fn record(&self, family: Family, subject: &[u8; 16], id: &RecordId) -> Option<Vec<u8>> {
        let filed = Filed { family, subject: *subject, id: *id, bytes: Vec::new() };
        let bucket = self.automerge.import_obj(&format!("{}@{}", filed.bucket() + 1, self.genesis_actor.to_hex_string())).ok()?;
        let (value, _) = self.automerge.get(&bucket, filed.key()).ok()??;
        value.to_bytes().map(<[u8]>::to_vec)
    }

    /// The actor and operation number of each change that brought one record (several if it was published again).
    pub fn carriers(&self, family: Family, subject: &[u8; 16], id: &RecordId) -> Vec<(ActorId, u64)> {
        let filed = Filed { family, subject: *subject, id: *id, bytes: Vec::new() };
        let name = format!("{}@{}", filed.bucket() + 1, self.genesis_actor.to_hex_string());
        let Ok(bucket) = self.automerge.import_obj(&name) else { return Vec::new() };
        let values = self.automerge.get_all(&bucket, filed.key()).unwrap_or_default();
        let carrier = |id: automerge::ObjId| match id {
            automerge::ObjId::Id(counter, actor, _) => Some((ActorId::from_slice(actor.to_bytes())?, counter)),
            automerge::ObjId::Root => None,
        };
        values.into_iter().filter_map(|(_, id)| carrier(id)).collect()
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
        records,
    })
}

#[cfg(test)]
mod tests;
