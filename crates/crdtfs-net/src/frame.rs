//! Length-prefixed frames on QUIC streams, and readers that can be cancelled at any await.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use iroh::endpoint::{ReadError, RecvStream, SendStream, WriteError};
use thiserror::Error;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("the stream broke: {0}")]
    Read(#[from] ReadError),
    #[error("the stream broke: {0}")]
    Write(#[from] WriteError),
    #[error("the stream ended in the middle of a message")]
    Truncated,
    #[error("a message of {len} bytes, more than the {limit} that are allowed here")]
    TooLong { len: usize, limit: usize },
}

impl FrameError {
    /// Whether the peer broke the protocol, as opposed to a connection that went away.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(self, Self::TooLong { .. })
    }
}

/// A message with its length (little endian, 4 bytes) before it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + message.len());
    out.put_u32_le(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// Writes one message.
pub(crate) async fn write_frame(send: &mut SendStream, message: &[u8]) -> Result<(), FrameError> {
    Ok(send.write_chunk(frame(message)).await?)
}

/// Pieces taken from a stream at once.
const PIECES: usize = 32;

/// Reads bytes and frames; what a cancelled call had read is kept for the next one.
pub(crate) struct Reader {
    recv: RecvStream,
    pieces: Vec<Bytes>,
    /// The pieces before this one are used up.
    at: usize,
    buffered: usize,
    /// A frame being put together: its length, once known, and what is there of it.
    frame: Option<BytesMut>,
    missing: usize,
}

impl Reader {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, pieces: Vec::new(), at: 0, buffered: 0, frame: None, missing: 0 }
    }

    /// Tells the peer to send no more.
    pub(crate) fn stop(&mut self, code: u32) {
        // It fails only when the stream has ended already.
        let _ = self.recv.stop(code.into());
    }

    /// Waits for more bytes; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> Result<bool, ReadError> {
        let mut pieces = [const { Bytes::new() }; PIECES];
        let Some(count) = self.recv.read_many_chunks(&mut pieces).await? else { return Ok(false) };
        self.pieces.drain(..self.at);
        self.at = 0;
        self.buffered += pieces[..count].iter().map(Bytes::len).sum::<usize>();
        self.pieces.extend(pieces.into_iter().take(count));
        Ok(true)
    }

    /// Moves up to `max` received bytes to `out`; how many.
    fn take(&mut self, out: &mut BytesMut, max: usize) -> usize {
        let mut moved = 0;
        while moved < max && self.at < self.pieces.len() {
            let piece = &mut self.pieces[self.at];
            let count = piece.len().min(max - moved);
            out.put_slice(&piece[..count]);
            piece.advance(count);
            moved += count;
            if piece.is_empty() {
                self.at += 1;
            }
        }
        self.buffered -= moved;
        moved
    }

    /// A whole frame out of what was received, without waiting; `None` if it is not all there.
    pub(crate) fn ready(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        if self.frame.is_none() {
            if self.buffered < 4 {
                return Ok(None);
            }
            let mut head = BytesMut::with_capacity(4);
            self.take(&mut head, 4);
            let len = head.get_u32_le() as usize;
            if len > limit {
                return Err(FrameError::TooLong { len, limit });
            }
            self.frame = Some(BytesMut::with_capacity(len));
            self.missing = len;
        }
        let Some(mut frame) = self.frame.take() else { return Ok(None) };
        self.missing -= self.take(&mut frame, self.missing);
        if self.missing == 0 {
            return Ok(Some(frame.freeze()));
        }
        self.frame = Some(frame);
        Ok(None)
    }

    /// The next frame of at most `limit` bytes; `None` at the end of the stream. Can be cancelled without loss.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.ready(limit)? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                let clean = self.frame.is_none() && self.buffered == 0;
                return if clean { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }
}
