//! Messages of a chunk stream. Requests go one way, answers the other, in any order.

use std::collections::BTreeMap;

use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};

use super::{CHUNK_MAX, FRAME_MAX, Wire, WireError};
use crate::content::{ChunkRef, ContentRef, Part};
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
        chunks: Vec<Asked>,
        /// The contents that they are parts of, each once.
        #[n(2)]
        contents: Vec<ContentRef>,
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
    pub const CHUNKS_MAX: usize = 16 * 1024;

    /// Asks for chunks, each with a base that the asker has and that is probably like it, if there is one.
    pub fn want(request: u64, wanted: impl IntoIterator<Item = (ChunkRef, Option<ChunkRef>)>) -> Self {
        let mut contents = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut place = |chunk: &ChunkRef| {
            let part = chunk.part.as_ref()?;
            let number = *numbers.entry(part.content).or_insert_with(|| {
                contents.push(part.content);
                contents.len() as u32 - 1
            });
            Some(AskedPart { content: number, offset: part.offset })
        };
        let chunks = wanted
            .into_iter()
            .map(|(chunk, base)| Asked {
                hash: chunk.hash,
                part: place(&chunk),
                base: base.map(|base| AskedBase { hash: base.hash, part: place(&base) }),
            })
            .collect();
        Self::Want { request, chunks, contents }
    }
}

/// A chunk that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Asked {
    /// Its blake3.
    #[n(0)]
    pub hash: Hash,
    /// Where it is; absent if it is a whole content of one chunk.
    #[n(1)]
    pub part: Option<AskedPart>,
    /// A chunk that the asker has: the answer may be a delta against it.
    #[n(2)]
    pub base: Option<AskedBase>,
}

/// A chunk that the asker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AskedBase {
    /// Its blake3.
    #[n(0)]
    pub hash: Hash,
    /// Where it is; absent if it is a whole content of one chunk.
    #[n(1)]
    pub part: Option<AskedPart>,
}

/// A place in one of a request's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AskedPart {
    /// Index of the content in the request.
    #[n(0)]
    pub content: u32,
    /// Offset in it.
    #[n(1)]
    pub offset: u64,
}

impl Asked {
    /// The chunk and its base, with the request's contents. An error if one is named that the request does not have.
    pub fn resolve(&self, contents: &[ContentRef]) -> Result<(ChunkRef, Option<ChunkRef>), WireError> {
        let chunk = |hash, part: Option<AskedPart>| {
            let found = part.map(|part| {
                let content = contents.get(part.content as usize).copied();
                content.map(|content| Part { content, offset: part.offset }).ok_or(WireError::Malformed {
                    name: ChunkRequest::NAME,
                    reason: format!("content {} of {}", part.content, contents.len()),
                })
            });
            Ok(ChunkRef { hash, part: found.transpose()? })
        };
        let base = self.base.map(|base| chunk(base.hash, base.part));
        Ok((chunk(self.hash, self.part)?, base.transpose()?))
    }
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
        /// Which of its chunks.
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
        /// Which of its chunks.
        #[n(1)]
        index: u32,
    },
    /// The chunk as what differs from the base that was named with it: a zstd frame (RFC 8878) with the base as its prefix.
    #[n(2)]
    Delta {
        /// Number of the request.
        #[n(0)]
        request: u64,
        /// Which of its chunks.
        #[n(1)]
        index: u32,
        /// The frame.
        #[b(2)]
        bytes: &'b ByteSlice,
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
        if let Self::Chunk { bytes, .. } | Self::Delta { bytes, .. } = &answer
            && bytes.len() > CHUNK_MAX
        {
            return Err(WireError::TooLong { name: "chunk", len: bytes.len(), max: CHUNK_MAX });
        }
        Ok(answer)
    }
}
