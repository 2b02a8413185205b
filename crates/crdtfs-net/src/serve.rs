//! Streams that a peer opens: finding out what they are for, and serving chunks.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::wire::{self, CHUNK_MAX, ChunkAnswer, ChunkRequest, Open, Opened, ShareTag, Wire};
use iroh::endpoint::{RecvStream, SendStream};

use crate::config::{HANDSHAKE_TIMEOUT, MAX_REQUEST};
use crate::error::LinkError;
use crate::fetch::Urgency;
use crate::frame::{Reader, write_frame};
use crate::host::{Host, blocking};
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
                    Err(error) => tracing::debug!(peer = %link.device(), %error, "a stream ended"),
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
            ChunkRequest::Want { chunks, .. } if chunks.len() > ChunkRequest::CHUNKS_MAX => {
                return Err(LinkError::Fault(format!("asked for {} chunks at once", chunks.len())));
            }
            ChunkRequest::Want { request, chunks, contents } => {
                let asked = chunks.iter().map(|asked| asked.resolve(&contents)).collect::<Result<Vec<_>, _>>();
                let asked = asked.map_err(|error| LinkError::Fault(error.to_string()))?;
                // Fails only if the stream has ended.
                let _ = send.set_priority(priority(request));
                answer(inner, (link.device(), share), request, asked, &mut send).await?;
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

/// A chunk that is asked for, and one that the peer has and that is probably like it.
type Wanted = (ChunkRef, Option<ChunkRef>);

/// What a request is answered with for one chunk.
#[derive(Debug)]
enum Found {
    Chunk(Bytes),
    Delta(Vec<u8>),
    Nothing,
}

/// Chunks that were read, with their index.
type Group = Vec<(u32, Found)>;

/// Says how many bases are worth a try: a request whose first ones were not gets few more, as where all of a file is new.
struct Hope(u32);

impl Hope {
    const FIRST: u32 = 4;
    const MOST: u32 = 16;

    fn note(&mut self, helped: bool) {
        self.0 = if helped { (self.0 + Self::FIRST).min(Self::MOST) } else { self.0 - 1 };
    }
}

/// Answers one request: reads a group of chunks while the group before it is being sent.
async fn answer(
    inner: &Arc<Inner>,
    peer: (DeviceId, ShareId),
    request: u64,
    asked: Vec<Wanted>,
    send: &mut SendStream,
) -> Result<(), LinkError> {
    let asked: Arc<[Wanted]> = asked.into();
    let mut next = read(inner, peer, &asked, 0, Hope(Hope::FIRST)).await;
    while let Some((group, hope)) = next {
        let from = group.last().map_or(0, |(index, _)| *index as usize + 1);
        let mut pieces = encode(request, group);
        let (sent, read) = tokio::join!(send.write_all_chunks(&mut pieces), read(inner, peer, &asked, from, hope));
        sent.map_err(crate::frame::FrameError::from)?;
        next = read;
    }
    Ok(())
}

/// Reads chunks from `from` on. `None` when there are no more, or the device is no member any more.
async fn read(
    inner: &Arc<Inner>,
    (device, share): (DeviceId, ShareId),
    asked: &Arc<[Wanted]>,
    from: usize,
    mut hope: Hope,
) -> Option<(Group, Hope)> {
    if from >= asked.len() {
        return None;
    }
    let permit = inner.readers.clone().acquire_owned().await.ok()?;
    let (host, asked) = (inner.host.clone(), asked.clone());
    let group = blocking(&inner.tasks, move || {
        let _permit = permit;
        if !host.is_member(&share, &device) {
            return None;
        }
        let (mut group, mut bytes) = (Group::new(), 0);
        for (index, wanted) in asked.iter().enumerate().skip(from).take(GROUP_CHUNKS.min(MAX_REQUEST)) {
            let found = find(&*host, &share, wanted, &mut hope);
            bytes += match &found {
                Found::Chunk(bytes) => bytes.len(),
                Found::Delta(bytes) => bytes.len(),
                Found::Nothing => 0,
            };
            group.push((index as u32, found));
            if bytes >= GROUP_BYTES {
                break;
            }
        }
        Some((group, hope))
    });
    group.await.flatten()
}

/// Reads a chunk; what differs from the base if that is shorter.
fn find(host: &dyn Host, share: &ShareId, (chunk, base): &Wanted, hope: &mut Hope) -> Found {
    let Some(bytes) = host.read_chunk(share, chunk).filter(|bytes| bytes.len() <= CHUNK_MAX) else {
        return Found::Nothing;
    };
    let base = base.as_ref().filter(|_| hope.0 > 0).and_then(|base| host.read_chunk(share, base));
    let Some(base) = base else { return Found::Chunk(bytes) };
    let delta = wire::delta(&base, &bytes);
    hope.note(delta.is_some());
    delta.map_or(Found::Chunk(bytes), Found::Delta)
}

/// The frames of a group, small ones in one piece, large chunks as they are.
fn encode(request: u64, group: Group) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut small = BytesMut::new();
    let put = |small: &mut BytesMut, answer: &ChunkAnswer<'_>| {
        let answer = answer.encode();
        small.put_u32_le(answer.len() as u32);
        small.put_slice(&answer);
    };
    for (index, found) in group {
        let chunk = match found {
            Found::Chunk(chunk) => chunk,
            Found::Delta(bytes) => {
                put(&mut small, &ChunkAnswer::Delta { request, index, bytes: bytes.as_slice().into() });
                continue;
            }
            Found::Nothing => {
                put(&mut small, &ChunkAnswer::Absent { request, index });
                continue;
            }
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
        let group = vec![
            (4, Found::Chunk(Bytes::from_static(b"small"))),
            (5, Found::Nothing),
            (6, Found::Chunk(large.clone())),
            (7, Found::Delta(vec![8])),
        ];
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
                ChunkAnswer::Delta { request: 9, index: 7, bytes: [8][..].into() },
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
