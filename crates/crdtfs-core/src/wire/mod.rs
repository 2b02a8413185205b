//! Messages between devices.
//!
//! A connection begins with one [`Hello`] each way. Then every stream begins with an [`Open`] that says what it is for; it
//! is answered by [`Opened`] (or, for a join, by a [`JoinAnswer`]) and carries [`Message`]s or chunk requests from then on.
//! Each message is CBOR (RFC 8949), framed by whoever owns the stream; unknown fields are passed over, so that fields can
//! be added, and a new kind of message needs a feature bit that both sides announced.
//!
//! Nothing in a message is trusted: decoding checks size and form, the receiver everything else.

mod chunk;
mod delta;
mod hello;
mod join;
mod statement;
mod sync;

use minicbor::{Decode, Encode};
use thiserror::Error;

pub use self::chunk::{Asked, AskedBase, AskedPart, ChunkAnswer, ChunkRequest};
pub use self::delta::{delta, undo};
pub use self::hello::{FEATURE_PROBES, FEATURE_STATEMENTS, Handshake, Hello, Open, Opened, ShareTag, Unfit, agree};
pub use self::join::{Join, JoinAnswer, Refusal};
pub use self::statement::{STATEMENT_MAX, Said, Statement, StatementError};
pub use self::sync::{Have, Holding, Message};

/// Version of the protocol that this program speaks.
pub const VERSION: u16 = 1;

/// The oldest version that it still understands.
pub const OLDEST: u16 = 1;

/// The protocol's name for TLS (ALPN).
pub const ALPN: &[u8] = b"crdtfs/1";

/// The largest message, in bytes, chunk answers excepted.
pub const MESSAGE_MAX: usize = 1024 * 1024;

/// The largest chunk, in bytes.
pub const CHUNK_MAX: usize = 1024 * 1024;

/// The largest frame of any stream: a chunk with its header.
pub const FRAME_MAX: usize = CHUNK_MAX + 64;

/// Something that is sent as one frame.
pub trait Wire: Encode<()> + for<'b> Decode<'b, ()> {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The most bytes that an encoded one has.
    const MAX: usize = MESSAGE_MAX;
}

/// Why bytes are not the message that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Over the message's limit.
    #[error("a {name} of {len} bytes, over the limit of {max}")]
    TooLong {
        /// Which message.
        name: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// Does not decode.
    #[error("a malformed {name}: {reason}")]
    Malformed {
        /// Which message was expected.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Encodes a message. Its maker keeps it within its limit.
pub fn encode<M: Wire>(message: &M) -> Vec<u8> {
    let bytes = minicbor::to_vec(message).expect("writing to memory cannot fail");
    debug_assert!(bytes.len() <= M::MAX, "{} of {} bytes", M::NAME, bytes.len());
    bytes
}

/// Decodes exactly one message.
pub fn decode<M: Wire>(bytes: &[u8]) -> Result<M, WireError> {
    if bytes.len() > M::MAX {
        return Err(WireError::TooLong { name: M::NAME, len: bytes.len(), max: M::MAX });
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let message = decoder.decode().map_err(|e| WireError::Malformed { name: M::NAME, reason: e.to_string() })?;
    if decoder.position() != bytes.len() {
        return Err(WireError::Malformed { name: M::NAME, reason: "bytes behind the message".into() });
    }
    Ok(message)
}

#[cfg(test)]
mod tests;
