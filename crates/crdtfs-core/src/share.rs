//! What a share begins with, and who a device may be in it.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::id::{DeviceId, ShareId};

/// Version of the genesis encoding that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// The longest encoded genesis.
pub const MAX_LEN: usize = 4096;

/// What a device may do in a share; each role may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Role {
    /// Receive everything, change nothing.
    #[n(0)]
    Read,
    /// Change the tree.
    #[n(1)]
    Write,
    /// Invite and revoke devices.
    #[n(2)]
    Admin,
}

impl Role {
    /// Whether a device of this role may change the tree.
    pub fn may_write(self) -> bool {
        self >= Self::Write
    }
}

/// What the merge depends on: equal on all devices for as long as the share lives (or until an epoch changes it).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Parameters {
    /// The longest text, in bytes, that is merged line by line.
    #[n(0)]
    pub text_limit: u64,
    /// Which line merge: 1 is diff3 over histogram diffs, with its step limit.
    #[n(1)]
    pub text_merge: u32,
    /// Which chunker: 1 is FastCDC v2020 with 64 KiB, 256 KiB and 1 MiB.
    #[n(2)]
    pub chunker: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { text_limit: 1024 * 1024, text_merge: 1, chunker: 1 }
    }
}

/// The first statement of a share. Its bytes are kept as they came: the share's id is taken of them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Genesis {
    /// The device that made the share: its first member, an admin.
    #[n(0)]
    pub creator: DeviceId,
    /// Random, so that one device can make many shares.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
    /// Parameters of the merge.
    #[n(2)]
    pub parameters: Parameters,
}

/// Why bytes are no genesis.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// Of another format.
    #[error("the share was made by format {0} of crdtfs: needs another version")]
    Version(u8),
    /// Not a genesis.
    #[error("not the beginning of a share: {0}")]
    Malformed(String),
}

impl Genesis {
    /// The encoding: a byte for the version, then CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        minicbor::encode(self, &mut out).expect("writing to memory cannot fail");
        out
    }

    /// Reads an encoded genesis; only the canonical encoding is taken, since the share's id is taken of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        match bytes {
            [VERSION, rest @ ..] if bytes.len() <= MAX_LEN => {
                let genesis: Self = minicbor::decode(rest).map_err(|e| GenesisError::Malformed(e.to_string()))?;
                if genesis.encode() != bytes {
                    return Err(GenesisError::Malformed("not in its canonical form".into()));
                }
                Ok(genesis)
            }
            [VERSION, ..] => Err(GenesisError::Malformed("too long".into())),
            [other, ..] => Err(GenesisError::Version(*other)),
            [] => Err(GenesisError::Malformed("empty".into())),
        }
    }

    /// The share that begins here.
    pub fn share(&self) -> ShareId {
        ShareId(blake3::derive_key("crdtfs 2026 share v1", &self.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Genesis {
        Genesis { creator: DeviceId([1; 32]), nonce: [2; 32], parameters: Parameters::default() }
    }

    #[test]
    fn golden() {
        let hex = data_encoding::HEXLOWER.encode(&genesis().encode());
        insta::assert_snapshot!("genesis", format!("{hex}\n{}", genesis().share()));
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let bytes = genesis().encode();
        assert_eq!(Genesis::decode(&bytes), Ok(genesis()));
        for cut in 0..bytes.len() {
            assert!(Genesis::decode(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            if let Ok(other) = Genesis::decode(&bad) {
                assert_ne!(other.share(), genesis().share(), "byte {at}");
            }
        }
        let mut newer = bytes;
        newer[0] = 2;
        assert_eq!(Genesis::decode(&newer), Err(GenesisError::Version(2)));
    }
}
