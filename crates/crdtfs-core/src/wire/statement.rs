//! What a device says that it holds, in a form that others can pass on.
//!
//! Devices that are never connected with each other, or not at the same time, learn from those between them what the other
//! holds. A statement is signed by the device that it is about, so whoever passes it on can only repeat it; the device
//! numbers its statements, so that an older one never replaces a newer.
//!
//! An encoded statement is one byte for the format, a CBOR map, and the device's signature over the share's id and both.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::id::{DeviceId, Hash, ShareId};
use crate::key::{self, Key, SIGNATURE_LEN};

/// Version of the encoding that this program writes, and the only one that it reads.
const FORMAT: u8 = 1;

/// The longest encoded statement that is taken.
pub const STATEMENT_MAX: usize = 1024;

const DOMAIN: &str = "crdtfs 2026 statement v1";

/// Why bytes are no statement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StatementError {
    /// Of another format, written by another version of the program.
    #[error("a statement in format {0}")]
    Format(u8),
    /// Not a statement.
    #[error("not a statement: {0}")]
    Malformed(String),
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Said {
    /// Epoch of its document.
    #[n(0)]
    pub epoch: u32,
    /// The changes that it has, and by which the rest was counted ([`crate::vector::Vector::digest`]).
    #[n(1)]
    pub heads: Hash,
    /// Files that it wants and of which it lacks bytes.
    #[n(2)]
    pub missing_files: u64,
    /// Bytes that it wants and lacks.
    #[n(3)]
    pub missing_bytes: u64,
    /// It wants only part of the content (`--on-demand`).
    #[n(4)]
    pub partial: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Body {
    #[n(0)]
    device: DeviceId,
    #[n(1)]
    number: u64,
    #[n(2)]
    said: Said,
}

/// A signed statement. Whether the signature is right is to be asked ([`Statement::is_signed`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whom it is about, and who signed it.
    pub device: DeviceId,
    /// Of two statements of one device the one with the larger number counts.
    pub number: u64,
    /// What it says.
    pub said: Said,
    bytes: Vec<u8>,
}

impl Statement {
    /// Makes a statement about the key's device.
    pub fn sign(key: &Key, share: &ShareId, number: u64, said: Said) -> Self {
        let device = key.id();
        let mut bytes = vec![FORMAT];
        minicbor::encode(Body { device, number, said }, &mut bytes).expect("writing to memory cannot fail");
        let signature = key.sign(DOMAIN, &signed(share, &bytes));
        bytes.extend_from_slice(&signature);
        Self { device, number, said, bytes }
    }

    /// Reads a statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let malformed = |reason: &str| StatementError::Malformed(reason.to_owned());
        if bytes.len() > STATEMENT_MAX {
            return Err(malformed("too long"));
        }
        let (text, _) =
            bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or_else(|| malformed("shorter than a signature"))?;
        match text.first() {
            Some(&FORMAT) => {}
            Some(other) => return Err(StatementError::Format(*other)),
            None => return Err(malformed("empty")),
        }
        let mut decoder = minicbor::Decoder::new(&text[1..]);
        let Body { device, number, said } =
            decoder.decode().map_err(|error| StatementError::Malformed(error.to_string()))?;
        if decoder.position() != text.len() - 1 {
            return Err(malformed("bytes behind it"));
        }
        Ok(Self { device, number, said, bytes: bytes.to_vec() })
    }

    /// Whether its device signed it, for this share.
    pub fn is_signed(&self, share: &ShareId) -> bool {
        let parts = self.bytes.split_last_chunk::<SIGNATURE_LEN>();
        parts.is_some_and(|(text, signature)| key::verify(&self.device, DOMAIN, &signed(share, text), signature))
    }

    /// The encoded statement, as its device signed it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the signature is over.
fn signed(share: &ShareId, text: &[u8]) -> Vec<u8> {
    [&share.0[..], text].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHARE: ShareId = ShareId([5; 32]);

    fn said() -> Said {
        Said { epoch: 0, heads: Hash([6; 32]), missing_files: 2, missing_bytes: 4096, partial: false }
    }

    #[test]
    fn golden_statement() {
        let statement = Statement::sign(&Key::new(&[1; 32]), &SHARE, 1_700_000_000_000, said());
        insta::assert_snapshot!("statement", data_encoding::HEXLOWER.encode(statement.as_bytes()));
        assert_eq!(Statement::decode(statement.as_bytes()).unwrap(), statement);
        assert!(statement.is_signed(&SHARE));
    }

    #[test]
    fn nobody_else_can_make_or_change_one() {
        let statement = Statement::sign(&Key::new(&[1; 32]), &SHARE, 7, said());
        let bytes = statement.as_bytes();
        assert!(!statement.is_signed(&ShareId([4; 32])), "it is about one share");
        let fine = |bytes: &[u8]| Statement::decode(bytes).is_ok_and(|statement| statement.is_signed(&SHARE));
        assert!(fine(bytes));
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bad = bytes.to_vec();
                bad[at] ^= flip;
                assert!(!fine(&bad), "byte {at}");
            }
            assert!(!fine(&bytes[..at]), "cut at {at}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(!fine(&longer));
        assert!(matches!(Statement::decode(&[&[2], &bytes[1..]].concat()), Err(StatementError::Format(2))));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let key = Key::new(&[1; 32]);
        let mut text = vec![FORMAT];
        let mut encoder = minicbor::Encoder::new(&mut text);
        encoder.map(4).unwrap().u8(0).unwrap().encode(key.id()).unwrap().u8(1).unwrap().u64(9).unwrap();
        encoder.u8(2).unwrap().encode(said()).unwrap().u8(3).unwrap().str("new").unwrap();
        let signature = key.sign(DOMAIN, &signed(&SHARE, &text));
        let bytes = [&text[..], &signature].concat();
        let statement = Statement::decode(&bytes).unwrap();
        assert!(statement.is_signed(&SHARE));
        assert_eq!((statement.number, statement.said, statement.as_bytes()), (9, said(), &bytes[..]));
    }
}
