//! Membership records: signed, linked by hash, kept as they came.
//!
//! An encoded record is one byte for the format, a CBOR map, and the issuer's signature over both. What it says is opaque
//! at this level (a kind's number and a body), so that a kind of a later format is stored, passed on and built upon.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::id::{ActorId, DeviceId, Hash, ShareId};
use crate::key::{self, Key, SIGNATURE_LEN};
use crate::share::Role;

/// Version of the encoding that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// The longest encoded record.
pub const MAX_LEN: usize = 64 * 1024;

/// The most heads that a record, or an envelope, may name.
pub const HEADS_MAX: usize = 64;

const DOMAIN: &str = "crdtfs 2026 membership record v1";
const CLAIM_DOMAIN: &str = "crdtfs 2026 ticket claim v1";

/// What a joiner signs with the ticket's key ([`crate::wire::Join::claim`]).
pub fn claim_message(share: &ShareId, invitation: &Hash, device: &DeviceId) -> Vec<u8> {
    [share.0, invitation.0, device.0].concat()
}

/// Makes a joiner's claim.
pub fn claim(ticket: &Key, share: &ShareId, invitation: &Hash, device: &DeviceId) -> [u8; SIGNATURE_LEN] {
    ticket.sign(CLAIM_DOMAIN, &claim_message(share, invitation, device))
}

/// Whether a claim is by the key of an invitation.
pub fn claim_holds(
    ticket: &DeviceId,
    share: &ShareId,
    invitation: &Hash,
    device: &DeviceId,
    claim: &[u8; SIGNATURE_LEN],
) -> bool {
    key::verify(ticket, CLAIM_DOMAIN, &claim_message(share, invitation, device), claim)
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The share begins; its creator is an admin.
    Create(Create),
    /// Whoever holds the ticket may be admitted.
    Invite(Invite),
    /// A device is a member.
    Admit(Admit),
    /// A device is a member no longer.
    Revoke(Revoke),
    /// The issuer has a new name.
    Rename(Rename),
    /// An invitation holds no longer.
    Cancel(Cancel),
    /// Of a later format: kept, passed on, not understood.
    Unknown {
        /// Number of the kind.
        kind: u16,
        /// What it says.
        body: Vec<u8>,
    },
}

/// See [`Statement::Create`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Create {
    /// The creator's name.
    #[n(0)]
    pub name: String,
}

/// See [`Statement::Invite`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Invite {
    /// Public half of the ticket's key.
    #[n(0)]
    pub ticket: DeviceId,
    /// The role of those that it admits.
    #[n(1)]
    pub role: Role,
    /// End of its time by the issuer's clock, milliseconds since 1970.
    #[n(2)]
    pub expires_ms: i64,
    /// How many devices it admits.
    #[n(3)]
    pub uses: u32,
}

/// See [`Statement::Admit`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Admit {
    /// The device.
    #[n(0)]
    pub device: DeviceId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// The invitation: the id of its record, by the same issuer.
    #[n(2)]
    pub invitation: Hash,
    /// The ticket key's signature over (share, invitation, device).
    #[cbor(n(3), with = "minicbor::bytes")]
    pub claim: [u8; SIGNATURE_LEN],
}

/// See [`Statement::Revoke`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Revoke {
    /// The device.
    #[n(0)]
    pub device: DeviceId,
    /// The last change of each of its actors that still counts, in the actors' order; of others none does.
    #[n(1)]
    pub changes: Vec<(ActorId, u64)>,
    /// Its membership records that still count are these and their ancestors.
    #[n(2)]
    pub membership: Vec<Hash>,
}

/// See [`Statement::Rename`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rename {
    /// The new name.
    #[n(0)]
    pub name: String,
}

/// See [`Statement::Cancel`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Cancel {
    /// The invitation: the id of its record.
    #[n(0)]
    pub invitation: Hash,
}

/// Why bytes are no membership record, or none that fits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// Of another format.
    #[error("a membership record of format {0}: needs another version of crdtfs")]
    Version(u8),
    /// Not a record.
    #[error("not a membership record: {0}")]
    Malformed(String),
    /// Of another share.
    #[error("a membership record of another share")]
    OtherShare,
    /// The signature is not the issuer's.
    #[error("the signature of a membership record by {0} is wrong")]
    Signature(DeviceId),
    /// It refers to records that are not here; they have to come first.
    #[error("a membership record came before {0}, which it refers to")]
    Early(Hash),
    /// The issuer was not entitled to it.
    #[error("a membership record that its issuer {issuer} had no right to: {reason}")]
    Forbidden {
        /// Who signed it.
        issuer: DeviceId,
        /// Why not.
        reason: &'static str,
    },
    /// There are too many.
    #[error("the share has reached its limit of {0} membership records")]
    TooMany(usize),
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// blake3 of the encoded record.
    pub id: Hash,
    /// Who signed it.
    pub issuer: DeviceId,
    /// The heads that the issuer knew, in order; empty for the first record only.
    pub previous: Vec<Hash>,
    /// The issuer's clock, milliseconds since 1970. Decides nothing.
    pub time_ms: i64,
    /// What it says.
    pub statement: Statement,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Signed {
    #[n(0)]
    share: ShareId,
    #[n(1)]
    issuer: DeviceId,
    #[n(2)]
    previous: Vec<Hash>,
    #[n(3)]
    time_ms: i64,
    #[n(4)]
    kind: u16,
    #[cbor(n(5), with = "minicbor::bytes")]
    body: Vec<u8>,
}

impl Statement {
    fn to_parts(&self) -> (u16, Vec<u8>) {
        fn body<T: Encode<()>>(statement: &T) -> Vec<u8> {
            minicbor::to_vec(statement).expect("writing to memory cannot fail")
        }
        match self {
            Self::Create(s) => (0, body(s)),
            Self::Invite(s) => (1, body(s)),
            Self::Admit(s) => (2, body(s)),
            Self::Revoke(s) => (3, body(s)),
            Self::Rename(s) => (4, body(s)),
            Self::Cancel(s) => (5, body(s)),
            Self::Unknown { kind, body } => (*kind, body.clone()),
        }
    }

    fn from_parts(kind: u16, body: Vec<u8>) -> Result<Self, minicbor::decode::Error> {
        Ok(match kind {
            0 => Self::Create(minicbor::decode(&body)?),
            1 => Self::Invite(minicbor::decode(&body)?),
            2 => Self::Admit(minicbor::decode(&body)?),
            3 => Self::Revoke(minicbor::decode(&body)?),
            4 => Self::Rename(minicbor::decode(&body)?),
            5 => Self::Cancel(minicbor::decode(&body)?),
            kind => Self::Unknown { kind, body },
        })
    }
}

/// Signs a statement made when `previous` were the heads.
pub fn sign(key: &Key, share: &ShareId, previous: Vec<Hash>, time_ms: i64, statement: &Statement) -> Vec<u8> {
    let (kind, body) = statement.to_parts();
    let signed = Signed { share: *share, issuer: key.id(), previous, time_ms, kind, body };
    let mut out = vec![VERSION];
    minicbor::encode(&signed, &mut out).expect("writing to memory cannot fail");
    let signature = key.sign(DOMAIN, &out);
    out.extend(signature);
    out
}

impl MemberRecord {
    /// Reads a record and checks its signature; whether it may say what it says is another question.
    pub fn decode(share: &ShareId, bytes: &[u8]) -> Result<Self, MembershipError> {
        let malformed = |reason: String| MembershipError::Malformed(reason);
        if bytes.len() > MAX_LEN {
            return Err(malformed(format!("{} bytes, over the limit of {MAX_LEN}", bytes.len())));
        }
        let (text, signature) =
            bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or_else(|| malformed("too short".into()))?;
        let body = match text {
            [VERSION, body @ ..] => body,
            [other, ..] => return Err(MembershipError::Version(*other)),
            [] => return Err(malformed("too short".into())),
        };
        let mut decoder = minicbor::Decoder::new(body);
        let signed: Signed = decoder.decode().map_err(|e| malformed(e.to_string()))?;
        if decoder.position() != body.len() {
            return Err(malformed("bytes behind it".into()));
        }
        if signed.share != *share {
            return Err(MembershipError::OtherShare);
        }
        if signed.previous.len() > HEADS_MAX || !signed.previous.is_sorted_by(|a, b| a < b) {
            return Err(malformed("its predecessors are not in order, or too many".into()));
        }
        if !key::verify(&signed.issuer, DOMAIN, text, signature) {
            return Err(MembershipError::Signature(signed.issuer));
        }
        let statement = Statement::from_parts(signed.kind, signed.body).map_err(|e| malformed(e.to_string()))?;
        Ok(Self {
            id: Hash::of(bytes),
            issuer: signed.issuer,
            previous: signed.previous,
            time_ms: signed.time_ms,
            statement,
        })
    }
}
