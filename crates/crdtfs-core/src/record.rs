//! Records: the immutable statements that a share's document is a set of.
//!
//! A record's encoding is one byte for the format's version, one for its kind, then a CBOR map with integer keys in
//! ascending order, definite lengths and shortest heads (RFC 8949, 4.2.1), absent fields left out. The [`RecordId`] is
//! taken of these bytes, and they are kept and passed on as they came, so that fields of a later format survive.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::{Kind, Owner, Time, Xattrs};

/// Version of the encoding that this program writes.
pub const VERSION: u8 = 1;

/// The longest encoded record.
pub const MAX_LEN: usize = 256 * 1024;

/// The longest device name that a record carries, in bytes.
pub const DEVICE_NAME_MAX: usize = 32;

/// The longest target of a symlink, in bytes (Linux `PATH_MAX`).
pub const TARGET_MAX: usize = 4096;

/// A device's name as records and the names of conflict copies carry it: at most [`DEVICE_NAME_MAX`] bytes, no control
/// characters, separators or parentheses; `device` if nothing is left.
pub fn clean_device_name(name: &str) -> String {
    let mut clean = String::new();
    for c in name.trim().chars() {
        let c = if c.is_control() || matches!(c, '/' | '\\' | '(' | ')' | ':') { '-' } else { c };
        if clean.len() + c.len_utf8() > DEVICE_NAME_MAX {
            break;
        }
        clean.push(c);
    }
    let clean = clean.trim_end();
    if clean.is_empty() { "device".into() } else { clean.into() }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of a place: one name of an inode.
    Place(Place),
    /// Of an inode: its bytes and attributes.
    Content(Content),
    /// A conflict copy became an inode of its own.
    Birth(Birth),
    /// Where an entry that nobody moved is shown.
    Pin(Pin),
}

/// A statement about a place. A field whose stamp is `None` was set by this record itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Place {
    /// The place.
    #[n(0)]
    pub place: PlaceId,
    /// The inode that it names.
    #[n(1)]
    pub inode: InodeId,
    /// The inode's kind.
    #[n(2)]
    pub kind: Kind,
    /// The directory.
    #[n(3)]
    pub parent: InodeId,
    /// Who set the directory.
    #[n(4)]
    pub parent_stamp: Option<RecordId>,
    /// The name.
    #[n(5)]
    pub name: Name,
    /// Who set the name.
    #[n(6)]
    pub name_stamp: Option<RecordId>,
    /// The author's device name, cleaned.
    #[n(7)]
    pub device: String,
    /// Life.
    #[n(8)]
    pub state: PlaceState,
    /// Records that this one settles, in order.
    #[cbor(n(9), default, skip_if = "Vec::is_empty")]
    pub replaces: Vec<RecordId>,
    /// Other heads that the author saw and left, in order. Of one name more of a file: the last that one of its other
    /// names said.
    #[cbor(n(10), default, skip_if = "Vec::is_empty")]
    pub saw: Vec<RecordId>,
}

/// Whether a place lives.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PlaceState {
    /// It does.
    #[n(0)]
    Live,
    /// Removed.
    #[n(1)]
    Deleted {
        /// The bytes-stamps that were merged into the name when it was removed, in order: only others revive it.
        #[n(0)]
        seen: Vec<RecordId>,
    },
    /// It and `into` were one entry, for good.
    #[n(2)]
    Merged {
        /// The place that stands for both.
        #[n(0)]
        into: PlaceId,
        /// Pairs of bytes-stamps of equal bytes, which count as one node of the version graph.
        #[n(1)]
        seen: Vec<(RecordId, RecordId)>,
    },
}

/// A statement about an inode. A field whose stamp is `None` was set by this record itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Content {
    /// The inode.
    #[n(0)]
    pub inode: InodeId,
    /// The place written through.
    #[n(1)]
    pub via: PlaceId,
    /// The author's device name, cleaned.
    #[n(2)]
    pub device: String,
    /// Bytes of a file.
    #[n(3)]
    pub bytes: Option<ContentRef>,
    /// Who set the bytes.
    #[n(4)]
    pub bytes_stamp: Option<RecordId>,
    /// Permission bits (`07777`).
    #[n(5)]
    pub mode: u32,
    /// Who set the mode.
    #[n(6)]
    pub mode_stamp: Option<RecordId>,
    /// Owner, if kept.
    #[n(7)]
    pub owner: Option<Owner>,
    /// Who set the owner.
    #[n(8)]
    pub owner_stamp: Option<RecordId>,
    /// Modification time.
    #[n(9)]
    pub mtime: Time,
    /// Who set the modification time.
    #[n(10)]
    pub mtime_stamp: Option<RecordId>,
    /// Extended attributes.
    #[cbor(n(11), with = "xattrs_codec", has_nil)]
    pub xattrs: Xattrs,
    /// Who set the extended attributes.
    #[n(12)]
    pub xattrs_stamp: Option<RecordId>,
    /// Target of a symlink.
    #[cbor(n(13), with = "minicbor::bytes")]
    pub target: Option<Vec<u8>>,
    /// Device number of a device node.
    #[n(14)]
    pub rdev: Option<u64>,
    /// Records that this one settles, in order.
    #[cbor(n(15), default, skip_if = "Vec::is_empty")]
    pub replaces: Vec<RecordId>,
    /// Other heads that the author saw and left, in order.
    #[cbor(n(16), default, skip_if = "Vec::is_empty")]
    pub saw: Vec<RecordId>,
}

/// A conflict copy's promotion. Its inode and its place have one id, [`birth_id`] of the two fields.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Birth {
    /// The inode whose version it was.
    #[n(0)]
    pub origin: InodeId,
    /// The version: leaves the heads of `origin` and is the root of the new inode's content.
    #[n(1)]
    pub version: RecordId,
}

/// Where an entry is shown that an operation on another entry would have disturbed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pin {
    /// The place.
    #[n(0)]
    pub place: PlaceId,
    /// The user heads that it covers, in order: it holds while the place has no other.
    #[n(1)]
    pub covers: Vec<RecordId>,
    /// The directory where the entry is shown.
    #[n(2)]
    pub parent: InodeId,
    /// The name by which it is shown.
    #[n(3)]
    pub name: Name,
    /// Other pins of the place that the author saw, in order.
    #[cbor(n(4), default, skip_if = "Vec::is_empty")]
    pub saw: Vec<RecordId>,
}

/// The id of the inode, and of its place, that a birth makes: a function of what it promotes, so that two devices that
/// promote one version make one inode.
pub fn birth_id(origin: &InodeId, version: &RecordId) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("crdtfs 2026 birth v1");
    hasher.update(&origin.0).update(&version.0);
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Why bytes are no record that this program understands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Of a later format: kept and passed on, shown as "needs a newer crdtfs".
    #[error("a record of format {0}: needs a newer crdtfs")]
    Newer(u8),
    /// Not a record.
    #[error("not a record: {0}")]
    Malformed(String),
    /// Longer than [`MAX_LEN`].
    #[error("a record of {0} bytes, over the limit of {MAX_LEN}")]
    TooLong(usize),
}

impl Record {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        fn body<T: Encode<()>>(kind: u8, record: &T) -> Vec<u8> {
            let mut out = vec![VERSION, kind];
            minicbor::encode(record, &mut out).expect("writing to memory cannot fail");
            out
        }
        match self {
            Self::Place(record) => body(0, record),
            Self::Content(record) => body(1, record),
            Self::Birth(record) => body(2, record),
            Self::Pin(record) => body(3, record),
        }
    }

    /// Reads an encoded record. Unknown fields are passed over; the caller keeps the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        fn body<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, RecordError> {
            let mut decoder = minicbor::Decoder::new(bytes);
            let record = decoder.decode().map_err(|e| RecordError::Malformed(e.to_string()))?;
            if decoder.position() != bytes.len() {
                return Err(RecordError::Malformed("bytes behind the record".into()));
            }
            Ok(record)
        }
        let record = Self::decode_body(bytes, body::<Place>, body::<Content>, body::<Birth>, body::<Pin>)?;
        record.validate()?;
        if record.encode() != bytes && !canonical::with_unknown_fields(&bytes[2..], record.last_key()) {
            return Err(RecordError::Malformed("not the canonical encoding".into()));
        }
        Ok(record)
    }

    /// Tells the kinds apart.
    fn decode_body<'b>(
        bytes: &'b [u8],
        place: impl Fn(&'b [u8]) -> Result<Place, RecordError>,
        content: impl Fn(&'b [u8]) -> Result<Content, RecordError>,
        birth: impl Fn(&'b [u8]) -> Result<Birth, RecordError>,
        pin: impl Fn(&'b [u8]) -> Result<Pin, RecordError>,
    ) -> Result<Self, RecordError> {
        if bytes.len() > MAX_LEN {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let [version, kind, rest @ ..] = bytes else {
            return Err(RecordError::Malformed("too short".into()));
        };
        match (*version, *kind) {
            (VERSION, 0) => place(rest).map(Self::Place),
            (VERSION, 1) => content(rest).map(Self::Content),
            (VERSION, 2) => birth(rest).map(Self::Birth),
            (VERSION, 3) => pin(rest).map(Self::Pin),
            (0, _) => Err(RecordError::Malformed("format 0".into())),
            (newer, _) => Err(RecordError::Newer(newer)),
        }
    }

    /// The highest field key that this program knows for the kind.
    fn last_key(&self) -> u64 {
        match self {
            Self::Place(_) => 10,
            Self::Content(_) => 16,
            Self::Birth(_) => 1,
            Self::Pin(_) => 4,
        }
    }

    /// Limits that the types alone do not keep.
    fn validate(&self) -> Result<(), RecordError> {
        fn ensure(holds: bool, what: &str) -> Result<(), RecordError> {
            if holds { Ok(()) } else { Err(RecordError::Malformed(what.into())) }
        }
        fn ordered<T: Ord>(list: &[T]) -> Result<(), RecordError> {
            ensure(list.windows(2).all(|pair| pair[0] < pair[1]), "a list out of order")
        }
        match self {
            Self::Place(record) => {
                ensure(record.device.len() <= DEVICE_NAME_MAX, "a device name over the limit")?;
                match &record.state {
                    PlaceState::Live => {}
                    PlaceState::Deleted { seen } => ordered(seen)?,
                    PlaceState::Merged { seen, .. } => ordered(seen)?,
                }
                ordered(&record.replaces)?;
                ordered(&record.saw)
            }
            Self::Content(record) => {
                ensure(record.device.len() <= DEVICE_NAME_MAX, "a device name over the limit")?;
                ensure(record.mode <= 0o7777, "mode bits beyond 07777")?;
                ensure(record.mtime.nanos < 1_000_000_000, "a second's fraction over one second")?;
                ensure(
                    record.target.as_ref().is_none_or(|target| target.len() <= TARGET_MAX),
                    "a target over the limit",
                )?;
                ordered(&record.replaces)?;
                ordered(&record.saw)
            }
            Self::Birth(_) => Ok(()),
            Self::Pin(record) => {
                ordered(&record.covers)?;
                ordered(&record.saw)
            }
        }
    }

    /// The id that the record is filed under: of its place, or of its inode.
    pub fn subject(&self) -> [u8; 16] {
        match self {
            Self::Place(record) => record.place.0,
            Self::Content(record) => record.inode.0,
            Self::Birth(record) => birth_id(&record.origin, &record.version),
            Self::Pin(record) => record.place.0,
        }
    }

    /// Which of the document's two families of maps holds it.
    pub fn family(&self) -> Family {
        match self {
            Self::Content(_) => Family::Content,
            _ => Family::Place,
        }
    }
}

/// The families of maps at the document's top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Places, births and pins.
    Place,
    /// Contents.
    Content,
}

/// The rule for encodings that hold fields of a later format.
mod canonical {
    use minicbor::Decoder;
    use minicbor::data::Type;

    /// Whether `bytes` are one map in canonical form that has a key above `last_known`. Then decoding and encoding
    /// cannot give the same bytes, and this is all that can be asked.
    pub(super) fn with_unknown_fields(bytes: &[u8], last_known: u64) -> bool {
        fn read(bytes: &[u8], last_known: u64) -> Result<bool, minicbor::decode::Error> {
            let mut decoder = Decoder::new(bytes);
            let fields = decoder.map()?.unwrap_or(0);
            let mut last = None;
            for _ in 0..fields {
                let key = decoder.u64()?;
                if last.is_some_and(|last| last >= key) {
                    return Ok(false);
                }
                last = Some(key);
                decoder.skip()?;
            }
            Ok(last > Some(last_known) && shortest(bytes)?)
        }
        read(bytes, last_known).unwrap_or(false)
    }

    /// Whether every item has a definite length and the shortest head.
    fn shortest(bytes: &[u8]) -> Result<bool, minicbor::decode::Error> {
        let mut decoder = Decoder::new(bytes);
        while decoder.position() < bytes.len() {
            let start = decoder.position();
            let value = match decoder.datatype()? {
                Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64()?,
                Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                    let value = i128::from(decoder.int()?);
                    u64::try_from(if value < 0 { -1 - value } else { value }).unwrap_or(u64::MAX)
                }
                Type::Bytes => {
                    let len = decoder.bytes()?.len();
                    if decoder.position() - start - len != head_len(len as u64) {
                        return Ok(false);
                    }
                    continue;
                }
                Type::String => {
                    let len = decoder.str()?.len();
                    if decoder.position() - start - len != head_len(len as u64) {
                        return Ok(false);
                    }
                    continue;
                }
                Type::Array => decoder.array()?.unwrap_or(u64::MAX),
                Type::Map => decoder.map()?.unwrap_or(u64::MAX),
                Type::Bool => {
                    decoder.bool()?;
                    continue;
                }
                Type::Null => {
                    decoder.null()?;
                    continue;
                }
                _ => return Ok(false),
            };
            if decoder.position() - start != head_len(value) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Length of the shortest head for a value.
    fn head_len(value: u64) -> usize {
        match value {
            0..24 => 1,
            24..=0xff => 2,
            0x100..=0xffff => 3,
            0x1_0000..=0xffff_ffff => 5,
            _ => 9,
        }
    }
}

/// Extended attributes as a CBOR map of byte strings in the order of their names.
mod xattrs_codec {
    use minicbor::{Decoder, Encoder};

    use crate::node::Xattrs;

    pub(super) fn encode<C, W: minicbor::encode::Write>(
        xattrs: &Xattrs,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.map(xattrs.len() as u64)?;
        for (name, value) in xattrs {
            e.bytes(name)?.bytes(value)?;
        }
        Ok(())
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Xattrs, minicbor::decode::Error> {
        let len = d.map()?.ok_or_else(|| minicbor::decode::Error::message("indefinite map"))?;
        let mut xattrs = Xattrs::new();
        for _ in 0..len {
            xattrs.insert(d.bytes()?.to_vec(), d.bytes()?.to_vec());
        }
        Ok(xattrs)
    }

    pub(super) fn is_nil(xattrs: &Xattrs) -> bool {
        xattrs.is_empty()
    }

    pub(super) fn nil() -> Option<Xattrs> {
        Some(Xattrs::new())
    }
}

#[cfg(test)]
mod tests;
