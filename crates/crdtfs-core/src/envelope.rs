//! Envelopes: a change as it travels and as the log keeps it, signed by its author's device.
//!
//! An encoded envelope is one byte for the format, a CBOR map, and the device's signature over both. It has no automerge
//! bytes: the change is made from it (see [`crate::document`]) and must have the hash that it names. The change's hash
//! covers all that the envelope says, so two different envelopes are two different changes.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Decoder, Encode, Encoder};
use thiserror::Error;

use crate::document::{Body, DocumentError, Filed, RECORDS_MAX, Schema};
use crate::id::{ActorId, ChangeHash, DeviceId, Hash, Incarnation, InodeId, RecordId, ShareId};
use crate::key::{self, Key, SIGNATURE_LEN};
use crate::membership::record::HEADS_MAX;
use crate::record::{self, Family, Record, RecordError, clean_device_name};
use crate::wire::MESSAGE_MAX;

/// Version of the encoding that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// The longest encoded envelope: with its head it fits into a message.
pub const MAX_LEN: usize = MESSAGE_MAX - 64;

/// The most bytes that an envelope's records inflate to.
pub const INFLATED_MAX: usize = 1024 * 1024;

/// The most changes that one change depends on.
pub const DEPS_MAX: usize = 1024;

/// Records of fewer bytes are not compressed.
const COMPRESS_MIN: usize = 512;

const DOMAIN: &str = "crdtfs 2026 envelope v1";

/// Why bytes are no envelope of the share. Whoever sent it made it up or passed on what it should have refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Over a limit.
    #[error("a change of {len} bytes, over the limit of {max}")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// Of another format.
    #[error("a change in format {0}: needs another version of crdtfs")]
    Version(u8),
    /// Not an envelope.
    #[error("not a change: {0}")]
    Malformed(String),
    /// Of another share.
    #[error("a change of another share")]
    OtherShare,
    /// Of another epoch.
    #[error("a change of epoch {0}")]
    OtherEpoch(u32),
    /// The signature is not the device's.
    #[error("the signature of a change by {0} is wrong")]
    Signature(DeviceId),
    /// What it says does not have the hash that it names.
    #[error("a change by {0} whose content is not what its hash says")]
    Hash(DeviceId),
    /// A record that no program of this format makes.
    #[error("a change by {device} with a bad record: {reason}")]
    Record {
        /// Its author.
        device: DeviceId,
        /// What is wrong.
        reason: String,
    },
}

/// A decoded envelope.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Epoch of the document.
    pub epoch: u32,
    /// The author's device.
    pub device: DeviceId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The membership heads that the author knew, in order.
    pub membership: Vec<Hash>,
    /// The change's hash.
    pub hash: ChangeHash,
    /// What the change says; its actor follows from share, device and incarnation.
    pub body: Body,
    /// The records that this program understands, in the body's order.
    pub records: Vec<(RecordId, Record)>,
}

/// How far an envelope's bytes are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// From another device: everything is checked.
    Nothing,
    /// From this device's own log, where it was checked before: the signature is not checked again.
    Stored,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Signed {
    #[n(0)]
    share: ShareId,
    #[n(1)]
    epoch: u32,
    #[n(2)]
    device: DeviceId,
    #[n(3)]
    incarnation: Incarnation,
    #[n(4)]
    seq: u64,
    #[n(5)]
    hash: ChangeHash,
    #[n(6)]
    membership: Vec<Hash>,
    #[n(7)]
    time_ms: i64,
    #[n(8)]
    start_op: u64,
    #[n(9)]
    deps: Vec<ChangeHash>,
    /// Length of the records' encoding when it is compressed (zstd, RFC 8878).
    #[n(10)]
    inflated: Option<u32>,
    #[n(11)]
    records: ByteVec,
}

/// One record in an envelope: its bytes, where it is filed following from them; or, in a format of records that some
/// programs of this envelope format do not know, with where it is filed.
struct Entry(Filed);

impl<C> Encode<C> for Entry {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        if self.0.bytes.first() == Some(&record::VERSION) {
            return e.bytes(&self.0.bytes)?.ok();
        }
        let family = match self.0.family {
            Family::Place => 0,
            Family::Content => 1,
        };
        e.array(3)?.u8(family)?.bytes(&self.0.subject)?.bytes(&self.0.bytes)?.ok()
    }
}

/// What binds an envelope's further fields to its change.
fn context(epoch: u32, device: &DeviceId, incarnation: &Incarnation, membership: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("crdtfs 2026 change context v1");
    hasher.update(&[VERSION]).update(&epoch.to_be_bytes()).update(&device.0).update(&incarnation.0);
    for head in membership {
        hasher.update(&head.0);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// What the author of a change decides.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Epoch of the document.
    pub epoch: u32,
    /// Which life of the author's device.
    pub incarnation: Incarnation,
    /// The membership heads that it knows, in order.
    pub membership: Vec<Hash>,
    /// Number in the author's chain.
    pub seq: u64,
    /// Number of the first operation.
    pub start_op: u64,
    /// What the change depends on, in order.
    pub deps: Vec<ChangeHash>,
    /// The author's clock.
    pub time_ms: i64,
    /// The records.
    pub records: Vec<Filed>,
}

/// Makes a change and its envelope: (encoded envelope, hash, body).
pub fn seal(
    key: &Key,
    share: &ShareId,
    schema: &Schema,
    draft: Draft,
) -> Result<(Vec<u8>, ChangeHash, Body), DocumentError> {
    let device = key.id();
    let body = Body {
        actor: ActorId::derive(share, &device, &draft.incarnation),
        seq: draft.seq,
        start_op: draft.start_op,
        deps: draft.deps,
        time_ms: draft.time_ms,
        context: context(draft.epoch, &device, &draft.incarnation, &draft.membership),
        records: draft.records,
    };
    let hash = schema.make(&body)?.hash();
    let (inflated, records) = pack(&body.records);
    let signed = Signed {
        share: *share,
        epoch: draft.epoch,
        device,
        incarnation: draft.incarnation,
        seq: body.seq,
        hash,
        membership: draft.membership,
        time_ms: body.time_ms,
        start_op: body.start_op,
        deps: body.deps.clone(),
        inflated,
        records: records.into(),
    };
    let mut out = vec![VERSION];
    minicbor::encode(&signed, &mut out).expect("writing to memory cannot fail");
    let signature = key.sign(DOMAIN, &out);
    out.extend(signature);
    Ok((out, hash, body))
}

/// Encodes records, compressed where that helps.
fn pack(records: &[Filed]) -> (Option<u32>, Vec<u8>) {
    let mut e = Encoder::new(Vec::new());
    e.array(records.len() as u64).expect("writing to memory cannot fail");
    for record in records {
        e.encode(Entry(record.clone())).expect("writing to memory cannot fail");
    }
    let plain = e.into_writer();
    if plain.len() >= COMPRESS_MIN
        && let Ok(packed) = zstd::bulk::compress(&plain, 3)
        && packed.len() + 8 < plain.len()
    {
        return (u32::try_from(plain.len()).ok(), packed);
    }
    (None, plain)
}

impl Envelope {
    /// Reads an envelope and checks all that can be checked without the share's other changes: sizes, signature, records,
    /// and that the change has the hash that is signed.
    pub fn decode(share: &ShareId, schema: &Schema, bytes: &[u8], trust: Trust) -> Result<Self, EnvelopeError> {
        let malformed = |reason: String| EnvelopeError::Malformed(reason);
        if bytes.len() > MAX_LEN {
            return Err(EnvelopeError::TooLong { len: bytes.len(), max: MAX_LEN });
        }
        let (text, signature) =
            bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or_else(|| malformed("too short".into()))?;
        let map = match text {
            [VERSION, map @ ..] => map,
            [other, ..] => return Err(EnvelopeError::Version(*other)),
            [] => return Err(malformed("too short".into())),
        };
        let signed = decode_signed(share, map)?;
        if trust == Trust::Nothing && !key::verify(&signed.device, DOMAIN, text, signature) {
            return Err(EnvelopeError::Signature(signed.device));
        }
        let plain = match signed.inflated {
            None => Vec::from(signed.records),
            Some(len) => {
                let plain = zstd::bulk::decompress(&signed.records, len as usize)
                    .map_err(|e| malformed(format!("its records do not inflate: {e}")))?;
                if plain.len() != len as usize {
                    return Err(malformed("its records inflate to another length".into()));
                }
                plain
            }
        };
        let device = signed.device;
        let (filed, records) = unpack(&plain, &device)?;
        let body = Body {
            actor: ActorId::derive(share, &device, &signed.incarnation),
            seq: signed.seq,
            start_op: signed.start_op,
            deps: signed.deps,
            time_ms: signed.time_ms,
            context: context(signed.epoch, &device, &signed.incarnation, &signed.membership),
            records: filed,
        };
        let made = schema.make(&body).map_err(|e| malformed(e.to_string()))?;
        if made.hash() != signed.hash {
            return Err(EnvelopeError::Hash(device));
        }
        Ok(Self {
            epoch: signed.epoch,
            device,
            incarnation: signed.incarnation,
            membership: signed.membership,
            hash: signed.hash,
            body,
            records,
        })
    }
}

fn decode_signed(share: &ShareId, map: &[u8]) -> Result<Signed, EnvelopeError> {
    let malformed = |reason: &str| Err(EnvelopeError::Malformed(reason.into()));
    let mut decoder = Decoder::new(map);
    let signed: Signed = decoder.decode().map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
    if decoder.position() != map.len() {
        return malformed("bytes behind it");
    }
    if signed.share != *share {
        return Err(EnvelopeError::OtherShare);
    }
    let inflated = signed.inflated.map_or(signed.records.len(), |len| len as usize);
    if inflated > INFLATED_MAX {
        return Err(EnvelopeError::TooLong { len: inflated, max: INFLATED_MAX });
    }
    if signed.membership.len() > HEADS_MAX || !signed.membership.is_sorted_by(|a, b| a < b) {
        return malformed("its membership heads are not in order, or too many");
    }
    if signed.deps.is_empty() || signed.deps.len() > DEPS_MAX || !signed.deps.is_sorted_by(|a, b| a < b) {
        return malformed("its dependencies are not in order, none, or too many");
    }
    if signed.seq == 0 || signed.seq > u64::from(u32::MAX) {
        return malformed("its number is out of range");
    }
    Ok(signed)
}

type Unpacked = (Vec<Filed>, Vec<(RecordId, Record)>);

/// Decodes an envelope's records and checks each.
fn unpack(plain: &[u8], device: &DeviceId) -> Result<Unpacked, EnvelopeError> {
    let bad = |reason: String| EnvelopeError::Record { device: *device, reason };
    let malformed = |e: minicbor::decode::Error| EnvelopeError::Malformed(e.to_string());
    let mut d = Decoder::new(plain);
    let len = d.array().map_err(malformed)?.ok_or_else(|| bad("of indefinite number".into()))?;
    if len == 0 || len > RECORDS_MAX as u64 {
        return Err(bad(format!("{len} records, where 1 to {RECORDS_MAX} may be")));
    }
    let (mut filed, mut records) = (Vec::with_capacity(len as usize), Vec::with_capacity(len as usize));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..len {
        let entry = match d.datatype().map_err(malformed)? {
            minicbor::data::Type::Array => foreign(&mut d, device)?,
            _ => {
                let bytes = d.bytes().map_err(malformed)?.to_vec();
                let (entry, record) = Filed::new(bytes).map_err(|e| bad(e.to_string()))?;
                check_record(&record).map_err(|reason| bad(reason.into()))?;
                records.push((entry.id, record));
                entry
            }
        };
        if !seen.insert(entry.id) {
            return Err(bad("the same record twice".into()));
        }
        filed.push(entry);
    }
    if d.position() != plain.len() {
        return Err(bad("bytes behind the records".into()));
    }
    Ok((filed, records))
}

/// A record of a format that this program does not read: kept as it is.
fn foreign(d: &mut Decoder<'_>, device: &DeviceId) -> Result<Filed, EnvelopeError> {
    let malformed = |e: minicbor::decode::Error| EnvelopeError::Malformed(e.to_string());
    let bad = |reason: &str| EnvelopeError::Record { device: *device, reason: reason.into() };
    if d.array().map_err(malformed)? != Some(3) {
        return Err(bad("not filed"));
    }
    let family = match d.u8().map_err(malformed)? {
        0 => Family::Place,
        1 => Family::Content,
        _ => return Err(bad("of an unknown family")),
    };
    let subject = d.bytes().map_err(malformed)?.try_into().map_err(|_| bad("filed under no id"))?;
    let bytes = d.bytes().map_err(malformed)?.to_vec();
    if bytes.first() == Some(&record::VERSION) || !matches!(Record::decode(&bytes), Err(RecordError::Newer(_))) {
        return Err(bad("filed by hand, though its format is known"));
    }
    Ok(Filed { family, subject, id: RecordId::of(&bytes), bytes })
}

/// What no operation makes and the view need not think of.
fn check_record(record: &Record) -> Result<(), &'static str> {
    let (device, root) = match record {
        Record::Place(place) => (Some(&place.device), place.inode == InodeId::ROOT),
        Record::Content(content) => (Some(&content.device), content.inode == InodeId::ROOT),
        Record::Birth(birth) => (None, birth.origin == InodeId::ROOT),
        Record::Pin(_) => (None, false),
    };
    if root {
        return Err("it speaks of the root");
    }
    if device.is_some_and(|name| clean_device_name(name) != *name) {
        return Err("its device name is not clean");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
