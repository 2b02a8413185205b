//! Messages of a chunk stream. Requests go one way, answers the other, in any order.

use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};

use super::{CHUNK_MAX, FRAME_MAX, Wire, WireError};
use crate::id::Hash;

/// From the side that wants chunks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ChunkRequest {
    /// Send these. Each is answered once, under this number and its index.
    #[n(0)]
    Want {
        /// The asker's number for the request, unique on the stream.
        #[n(0)]
        request: u64,
        /// The chunks.
        #[n(1)]
        hashes: Vec<Hash>,
    },
    /// What has not been sent of that request is not wanted any more; it need not be answered.
    #[n(1)]
    Cancel {
        /// Which one.
        #[n(0)]
        request: u64,
    },
}

impl ChunkRequest {
    /// The most chunks that one request may ask for.
    pub const HASHES_MAX: usize = 16 * 1024;
}

impl Wire for ChunkRequest {
    const NAME: &'static str = "chunk request";
}

/// From the side that has chunks. Borrows the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ChunkAnswer<'b> {
    /// The bytes of a chunk; the receiver hashes them.
    #[n(0)]
    Chunk {
        /// Number of the request.
        #[n(0)]
        request: u64,
        /// Which of its hashes.
        #[n(1)]
        index: u32,
        /// The bytes.
        #[b(2)]
        bytes: &'b ByteSlice,
    },
    /// Not here.
    #[n(1)]
    Absent {
        /// Number of the request.
        #[n(0)]
        request: u64,
        /// Which of its hashes.
        #[n(1)]
        index: u32,
    },
}

impl<'b> ChunkAnswer<'b> {
    /// What precedes the bytes of a chunk in an encoded [`ChunkAnswer::Chunk`]: a sender writes this and then the bytes, and
    /// copies nothing.
    pub fn header(request: u64, index: u32, len: usize) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::with_capacity(32));
        e.array(2)
            .and_then(|e| e.u32(0))
            .and_then(|e| e.array(3))
            .and_then(|e| e.u64(request))
            .and_then(|e| e.u32(index))
            .and_then(|e| e.bytes_len(len as u64))
            .expect("writing to memory cannot fail");
        e.into_writer()
    }

    /// Encodes the whole answer.
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads an answer, whose bytes stay where they are.
    pub fn decode(frame: &'b [u8]) -> Result<Self, WireError> {
        const NAME: &str = "chunk answer";
        if frame.len() > FRAME_MAX {
            return Err(WireError::TooLong { name: NAME, len: frame.len(), max: FRAME_MAX });
        }
        let mut decoder = minicbor::Decoder::new(frame);
        let answer = decoder.decode().map_err(|e| WireError::Malformed { name: NAME, reason: e.to_string() })?;
        if decoder.position() != frame.len() {
            return Err(WireError::Malformed { name: NAME, reason: "bytes behind the answer".into() });
        }
        if let Self::Chunk { bytes, .. } = &answer
            && bytes.len() > CHUNK_MAX
        {
            return Err(WireError::TooLong { name: "chunk", len: bytes.len(), max: CHUNK_MAX });
        }
        Ok(answer)
    }
}
