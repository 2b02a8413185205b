//! How a connection and its streams begin.

use minicbor::{Decode, Encode};
use thiserror::Error;

use super::{Join, OLDEST, VERSION, Wire};
use crate::id::{DeviceId, ShareId};

/// Feature bit: [`super::Message::Statements`] is understood.
pub const FEATURE_STATEMENTS: u64 = 1;

/// Feature bit: [`super::Message::Probe`] is answered.
pub const FEATURE_PROBES: u64 = 2;

/// The first message of each side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The newest protocol version that the sender speaks.
    #[n(0)]
    pub version: u16,
    /// The oldest that it still understands.
    #[n(1)]
    pub oldest: u16,
    /// Features beyond the version, a bit each; both sides must have one for it to be used.
    #[n(2)]
    pub features: u64,
    /// Fresh and random: goes into the proofs of this connection.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
}

impl Hello {
    /// This program's hello.
    pub fn new(nonce: [u8; 32]) -> Self {
        Self { version: VERSION, oldest: OLDEST, features: FEATURE_STATEMENTS | FEATURE_PROBES, nonce }
    }
}

impl Wire for Hello {
    const NAME: &'static str = "hello";
    const MAX: usize = 4096;
}

/// The two sides have no protocol version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the other device speaks protocol {oldest} to {version}, this one {OLDEST} to {VERSION}: update the older one")]
pub struct Unfit {
    /// The oldest version that the other understands.
    pub oldest: u16,
    /// The newest that it speaks.
    pub version: u16,
}

/// What two hellos agree on: (version, features).
pub fn agree(own: &Hello, theirs: &Hello) -> Result<(u16, u64), Unfit> {
    let version = own.version.min(theirs.version);
    if version < own.oldest || version < theirs.oldest {
        return Err(Unfit { oldest: theirs.oldest, version: theirs.version });
    }
    Ok((version, own.features & theirs.features))
}

/// What both ends of one connection know, and nobody else.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// The device that dialled.
    pub dialer: DeviceId,
    /// The device that answered.
    pub listener: DeviceId,
    /// Nonce of the dialer's hello.
    pub dialer_nonce: [u8; 32],
    /// Nonce of the listener's hello.
    pub listener_nonce: [u8; 32],
    /// Exported keying material of the TLS connection (RFC 8446, 7.5; label `crdtfs share`, no context).
    pub exporter: [u8; 32],
}

impl Handshake {
    /// Proves that `prover` knows the share, to whoever knows it too, on this connection only: blake3 keyed by the share's
    /// id over both devices, both nonces, the exported key and the prover. Tells others nothing.
    pub fn tag(&self, share: &ShareId, prover: &DeviceId) -> ShareTag {
        let key = blake3::derive_key("crdtfs 2026 share tag v1", &share.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&self.dialer.0).update(&self.listener.0);
        hasher.update(&self.dialer_nonce).update(&self.listener_nonce);
        hasher.update(&self.exporter).update(&prover.0);
        ShareTag(*hasher.finalize().as_bytes())
    }
}

/// A share on one connection, as one of its ends proves to know it ([`Handshake::tag`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ShareTag(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// The first message of a stream, from who opened it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Open {
    /// A share's changes: answered by [`Opened`], then [`super::Message`]s both ways.
    #[n(0)]
    Sync {
        /// The opener's proof.
        #[n(0)]
        share: ShareTag,
    },
    /// Chunks of a share: answered by [`Opened`], then [`super::ChunkRequest`]s one way and [`super::ChunkAnswer`]s back.
    #[n(1)]
    Chunks {
        /// The opener's proof.
        #[n(0)]
        share: ShareTag,
    },
    /// A ticket: answered by [`super::JoinAnswer`].
    #[n(2)]
    Join(#[n(0)] Join),
}

impl Wire for Open {
    const NAME: &'static str = "stream opening";
    const MAX: usize = 64 * 1024;
}

/// Answers an [`Open::Sync`] or [`Open::Chunks`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Opened {
    /// The share is here, and the other device is its member.
    #[n(0)]
    Here {
        /// The answerer's proof.
        #[n(0)]
        share: ShareTag,
    },
    /// No such share here, or none for the other device: the two are not told apart.
    #[n(1)]
    Unknown,
}

impl Wire for Opened {
    const NAME: &'static str = "stream answer";
    const MAX: usize = 4096;
}
