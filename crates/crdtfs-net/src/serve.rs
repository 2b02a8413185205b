//! Streams that a peer opens: finding out what they are for, and serving chunks.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_core::wire::{self, CHUNK_MAX, ChunkAnswer, ChunkRequest, Open, Opened, ShareTag, Wire};
use iroh::endpoint::{RecvStream, SendStream};

use crate::config::{HANDSHAKE_TIMEOUT, MAX_REQUEST};
use crate::error::LinkError;
use crate::fetch::Urgency;
use crate::frame::{Reader, write_frame};
use crate::host::blocking;
use crate::link::{Link, read_message};
use crate::node::Inner;
use crate::session;

/// Chunks up to this size are copied behind their headers: one write for many.
const SMALL: usize = 16 << 10;
/// Chunks are read in groups of about this many bytes, one group ahead of what is being sent.
const GROUP_BYTES: usize = 1 << 20;
/// A group also ends after this many chunks.
const GROUP_CHUNKS: usize = 256;

/// Accepts the streams of a connection until it ends.
pub(crate) async fn streams(inner: Arc<Inner>, link: Arc<Link>) {
    loop {
        let Ok(permit) = link.streams.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = link.conn().accept_bi() => accepted,
            () = link.cancel.cancelled() => return,
        };
        let Ok((send, recv)) = accepted else { return };
        let (inner, link) = (inner.clone(), link.clone());
        inner.tasks.clone().spawn(async move {
            let cancel = link.cancel.clone();
            let served = async {
                match stream(&inner, &link, send, recv).await {
                    // A session lives as long as its connection, and there is one a share: it needs no permit.
                    Ok(Some((share, send, reader))) => {
                        drop(permit);
                        session::accept(inner.clone(), link.clone(), share, send, reader).await;
                    }
                    Ok(None) => {}
                    Err(error) if error.is_fault() => inner.offended(&link, &error.to_string()),
                    Err(error) => tracing::debug!(device = %link.device(), %error, "a stream ended"),
                }
            };
            tokio::select! {
                () = served => {}
                () = cancel.cancelled() => {}
            }
        });
    }
}

/// Reads what a stream is for and serves it, or gives back what is needed for a sync session.
async fn stream(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<Option<(ShareId, SendStream, Reader)>, LinkError> {
    let mut reader = Reader::new(recv);
    let opening = tokio::time::timeout(HANDSHAKE_TIMEOUT, read_message::<Open>(&mut reader));
    let open = opening.await.map_err(|_| LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs()))??;
    match open {
        Open::Sync { share: tag } => match find_share(inner, link, &tag).await {
            Some(share) => Ok(Some((share, send, reader))),
            None => unknown(&mut send).await.map(|()| None),
        },
        Open::Chunks { share: tag } => match find_share(inner, link, &tag).await {
            Some(share) => {
                write_frame(&mut send, &wire::encode(&Opened::Here { share: link.own_tag(&share) })).await?;
                chunks(inner, link, share, send, reader).await.map(|()| None)
            }
            None => unknown(&mut send).await.map(|()| None),
        },
        Open::Join(_) => Err(LinkError::Fault("a member asked to join".into())),
    }
}

/// Says that there is no such share, or none for this device.
async fn unknown(send: &mut SendStream) -> Result<(), LinkError> {
    write_frame(send, &wire::encode(&Opened::Unknown)).await?;
    // Fails only if the peer has stopped the stream.
    let _ = send.finish();
    Ok(())
}

/// The share that the peer means, if it is here and the peer is a member of it.
async fn find_share(inner: &Arc<Inner>, link: &Arc<Link>, tag: &ShareTag) -> Option<ShareId> {
    let device = link.device();
    if let Some(share) = link.known_tag(tag) {
        let host = inner.host.clone();
        return blocking(&inner.tasks, move || host.is_member(&share, &device)).await?.then_some(share);
    }
    let common = inner.roster.common(device).await;
    link.learn_tags(&common);
    common.into_iter().find(|share| link.peer_tag(share) == *tag)
}

/// Answers chunk requests until the peer ends the stream.
async fn chunks(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    share: ShareId,
    mut send: SendStream,
    mut reader: Reader,
) -> Result<(), LinkError> {
    while let Some(frame) = reader.next(ChunkRequest::MAX).await? {
        let request = wire::decode(&frame).map_err(|error| LinkError::Fault(error.to_string()))?;
        match request {
            ChunkRequest::Want { hashes, .. } if hashes.len() > ChunkRequest::HASHES_MAX => {
                return Err(LinkError::Fault(format!("asked for {} chunks at once", hashes.len())));
            }
            ChunkRequest::Want { request, hashes } => {
                // Fails only if the stream has ended.
                let _ = send.set_priority(priority(request));
                answer(inner, link.device(), share, request, hashes, &mut send).await?;
            }
            // What is on its way comes before it is read: the asker stops the stream instead.
            ChunkRequest::Cancel { .. } => {}
        }
    }
    // Fails only if the peer has stopped the stream.
    let _ = send.finish();
    Ok(())
}

/// The number under which a request of this urgency goes. Its two lowest bits tell the peer what to send first.
pub(crate) fn request_number(counter: u64, urgency: Urgency) -> u64 {
    let rank = match urgency {
        Urgency::Waiting => 2,
        Urgency::Soon => 1,
        Urgency::Background => 0,
    };
    counter << 2 | rank
}

/// Below the sync sessions, above one another by urgency.
fn priority(request: u64) -> i32 {
    (request & 3) as i32
}

/// Chunks that were read, with their index; those that are not here have none.
type Group = Vec<(u32, Option<Bytes>)>;

/// Answers one request: reads a group of chunks while the group before it is being sent.
async fn answer(
    inner: &Arc<Inner>,
    device: DeviceId,
    share: ShareId,
    request: u64,
    hashes: Vec<Hash>,
    send: &mut SendStream,
) -> Result<(), LinkError> {
    let hashes: Arc<[Hash]> = hashes.into();
    let mut next = read(inner, device, share, &hashes, 0).await;
    while let Some(group) = next {
        let from = group.last().map_or(0, |(index, _)| *index as usize + 1);
        let mut pieces = encode(request, group);
        let (sent, read) = tokio::join!(send.write_all_chunks(&mut pieces), read(inner, device, share, &hashes, from));
        sent.map_err(crate::frame::FrameError::from)?;
        next = read;
    }
    Ok(())
}

/// Reads chunks from `from` on. `None` when there are no more, or the device is no member any more.
async fn read(
    inner: &Arc<Inner>,
    device: DeviceId,
    share: ShareId,
    hashes: &Arc<[Hash]>,
    from: usize,
) -> Option<Group> {
    if from >= hashes.len() {
        return None;
    }
    let permit = inner.readers.clone().acquire_owned().await.ok()?;
    let (host, hashes) = (inner.host.clone(), hashes.clone());
    let group = blocking(&inner.tasks, move || {
        let _permit = permit;
        if !host.is_member(&share, &device) {
            return None;
        }
        let (mut group, mut bytes) = (Group::new(), 0);
        for (index, hash) in hashes.iter().enumerate().skip(from).take(GROUP_CHUNKS.min(MAX_REQUEST)) {
            let chunk = host.read_chunk(&share, hash).filter(|chunk| chunk.len() <= CHUNK_MAX);
            bytes += chunk.as_ref().map_or(0, Bytes::len);
            group.push((index as u32, chunk));
            if bytes >= GROUP_BYTES {
                break;
            }
        }
        Some(group)
    });
    group.await.flatten()
}

/// The frames of a group, small ones in one piece, large chunks as they are.
fn encode(request: u64, group: Group) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut small = BytesMut::new();
    for (index, chunk) in group {
        let Some(chunk) = chunk else {
            let absent = ChunkAnswer::Absent { request, index }.encode();
            small.put_u32_le(absent.len() as u32);
            small.put_slice(&absent);
            continue;
        };
        let header = ChunkAnswer::header(request, index, chunk.len());
        small.put_u32_le((header.len() + chunk.len()) as u32);
        small.put_slice(&header);
        if chunk.len() <= SMALL {
            small.put_slice(&chunk);
        } else {
            pieces.push(small.split().freeze());
            pieces.push(chunk);
        }
    }
    if !small.is_empty() {
        pieces.push(small.freeze());
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_of_a_group_are_the_answers_in_order() {
        let large = Bytes::from(vec![7; SMALL + 1]);
        let group = vec![(4, Some(Bytes::from_static(b"small"))), (5, None), (6, Some(large.clone())), (7, None)];
        let pieces = encode(9, group);
        let mut all: &[u8] = &pieces.concat();
        let mut answers = Vec::new();
        while !all.is_empty() {
            let len = u32::from_le_bytes(all[..4].try_into().unwrap()) as usize;
            answers.push(ChunkAnswer::decode(&all[4..4 + len]).unwrap());
            all = &all[4 + len..];
        }
        assert_eq!(
            answers,
            [
                ChunkAnswer::Chunk { request: 9, index: 4, bytes: b"small"[..].into() },
                ChunkAnswer::Absent { request: 9, index: 5 },
                ChunkAnswer::Chunk { request: 9, index: 6, bytes: large[..].into() },
                ChunkAnswer::Absent { request: 9, index: 7 },
            ]
        );
    }

    #[test]
    fn a_request_number_tells_its_urgency() {
        assert_eq!(priority(request_number(77, Urgency::Waiting)), 2);
        assert_eq!(priority(request_number(77, Urgency::Background)), 0);
        assert_ne!(request_number(1, Urgency::Soon), request_number(2, Urgency::Soon));
    }
}
