//! One request for chunks, from its stream's opening to its last answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crdtfs_core::id::Hash;
use crdtfs_core::wire::{self, ChunkAnswer, ChunkRequest, FRAME_MAX, Open, Opened, Wire};
use tokio::task::JoinHandle;

use super::request::{Assignment, Landing, Want};
use crate::config::HANDSHAKE_TIMEOUT;
use crate::endpoint::Code;
use crate::error::LinkError;
use crate::frame::{FrameError, Reader, frame};
use crate::link::Link;
use crate::node::Inner;
use crate::serve::request_number;

/// Answers are verified in groups of about this many bytes or answers, one group while the next one is received.
const GROUP_BYTES: usize = 512 << 10;
const GROUP_ANSWERS: usize = 128;
/// The plan hears of progress this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What a group of answers was.
enum Verdict {
    Good,
    Lie,
    Fault(String),
}

/// Asks, receives, verifies and hands over.
pub(super) async fn carry(inner: &Arc<Inner>, link: &Arc<Link>, assignment: Assignment) -> Result<Landing, LinkError> {
    let (mut send, recv) = link.conn().open_bi().await.map_err(|error| LinkError::closed(&error))?;
    let mut reader = Reader::new(recv);
    let open = frame(&wire::encode(&Open::Chunks { share: link.own_tag(&assignment.share) }));
    let number = request_number(assignment.flight.number(), assignment.urgency);
    let wanted = assignment.wants.iter().map(|want| (want.chunk, want.base));
    let request = frame(&wire::encode(&ChunkRequest::want(number, wanted)));
    send.write_all_chunks(&mut [open, request]).await.map_err(FrameError::from)?;
    // Fails only if the peer has stopped the stream, which shows when reading.
    let _ = send.finish();

    let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, reader.next(Opened::MAX));
    let opened = opened.await.map_err(|_| LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs()))??;
    let opened = opened.ok_or(FrameError::Truncated)?;
    match wire::decode(&opened).map_err(|error| LinkError::Fault(error.to_string()))? {
        Opened::Here { share } if share == link.peer_tag(&assignment.share) => {}
        Opened::Here { .. } => return Err(LinkError::Fault("its proof for the share is wrong".into())),
        Opened::Unknown => return Ok(Landing::Broken),
    }
    let landing = receive(inner, Arc::new(assignment), number, &mut reader).await?;
    if landing != Landing::Complete {
        reader.stop(Code::Unwanted as u32);
    }
    Ok(landing)
}

/// Receives all answers, verifying each group while the next one comes.
async fn receive(
    inner: &Arc<Inner>,
    assignment: Arc<Assignment>,
    number: u64,
    reader: &mut Reader,
) -> Result<Landing, LinkError> {
    let mut left = assignment.wants.len();
    let mut verifying: Option<JoinHandle<Verdict>> = None;
    let mut told = Instant::now();
    while left > 0 {
        let mut group = Vec::new();
        let mut bytes = 0;
        while group.len() < left.min(GROUP_ANSWERS) && bytes < GROUP_BYTES {
            if let Some(frame) = reader.ready(FRAME_MAX)? {
                bytes += frame.len();
                group.push(frame);
                continue;
            }
            // What is here goes on at once if nobody is busy with what came before.
            if !group.is_empty() && verifying.as_ref().is_none_or(JoinHandle::is_finished) {
                break;
            }
            if !reader.fill().await.map_err(FrameError::from)? {
                return Err(FrameError::Truncated.into());
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                inner.fetcher.progress(assignment.flight);
            }
        }
        left -= group.len();
        if let Some(landing) = verdict(verifying.take()).await? {
            return Ok(landing);
        }
        let (busy, assignment) = (inner.clone(), assignment.clone());
        verifying = Some(inner.tasks.spawn_blocking(move || verify(&busy, &assignment, number, &group)));
    }
    Ok(verdict(verifying.take()).await?.unwrap_or(Landing::Complete))
}

/// Waits for a group to be verified; how the flight ends if it was not good.
async fn verdict(verifying: Option<JoinHandle<Verdict>>) -> Result<Option<Landing>, LinkError> {
    let Some(verifying) = verifying else { return Ok(None) };
    match verifying.await {
        Ok(Verdict::Good) => Ok(None),
        Ok(Verdict::Lie) => Ok(Some(Landing::Lied)),
        Ok(Verdict::Fault(reason)) => Err(LinkError::Fault(reason)),
        Err(_) => Ok(Some(Landing::Broken)),
    }
}

/// Checks answers against what was asked for and hands the chunks over.
fn verify(inner: &Arc<Inner>, assignment: &Assignment, number: u64, group: &[Bytes]) -> Verdict {
    for frame in group {
        let answer = match ChunkAnswer::decode(frame) {
            Ok(answer) => answer,
            Err(error) => return Verdict::Fault(error.to_string()),
        };
        let (request, index) = match &answer {
            ChunkAnswer::Chunk { request, index, .. }
            | ChunkAnswer::Delta { request, index, .. }
            | ChunkAnswer::Absent { request, index } => (*request, *index),
        };
        let position = index as usize;
        let Some(want) = assignment.wants.get(position) else {
            return Verdict::Fault(format!("answered number {index} of {} chunks", assignment.wants.len()));
        };
        if request != number {
            return Verdict::Fault("answered a request that was not made".into());
        }
        match answer {
            ChunkAnswer::Absent { .. } => inner.fetcher.absent(assignment.flight, position),
            ChunkAnswer::Chunk { bytes, .. } => {
                if !is_it(want, bytes) {
                    return Verdict::Lie;
                }
                inner.fetcher.arrived(assignment.flight, position, &frame.slice_ref(bytes));
            }
            ChunkAnswer::Delta { bytes, .. } => {
                let Some(base) = &want.base else {
                    return Verdict::Fault(format!("answered number {index} as a delta, which was not asked for"));
                };
                let Some(base) = inner.host.read_chunk(&assignment.share, base) else {
                    inner.fetcher.baseless(assignment.flight, position);
                    continue;
                };
                match wire::undo(&base, bytes) {
                    Some(bytes) if is_it(want, &bytes) => {
                        inner.fetcher.arrived(assignment.flight, position, &bytes.into());
                    }
                    _ => return Verdict::Lie,
                }
            }
        }
    }
    Verdict::Good
}

/// Whether these are the bytes that are wanted.
fn is_it(want: &Want, bytes: &[u8]) -> bool {
    want.plausible(bytes.len()) && Hash::of(bytes) == want.chunk.hash
}
