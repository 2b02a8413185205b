//! Drives the core's sync session of one share over one stream.
//!
//! The stream task owns the session and the host's view of the share; both go to a thread that may block for each step and come
//! back. A message is made only when the stream has taken the one before it, so that a slow link holds nothing but its
//! own window. Nothing runs while neither side has news.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use crdtfs_core::id::ShareId;
use crdtfs_core::sync::{Fault, PeerState, Session, SyncHost};
use crdtfs_core::wire::{self, MESSAGE_MAX, Message, Open, Opened};
use iroh::endpoint::{SendStream, VarInt, WriteError};
use tracing::Instrument;

use crate::config::HANDSHAKE_TIMEOUT;
use crate::endpoint::Code;
use crate::error::LinkError;
use crate::fetch::Fetcher;
use crate::frame::{FrameError, Reader, frame, write_frame};
use crate::host::blocking;
use crate::link::{Link, SlotHandle};
use crate::node::Inner;

/// Sync messages go before chunks.
const PRIORITY: i32 = 10;
/// Messages are gathered up to this many bytes for one write.
const GATHER: usize = 256 << 10;
/// Waits before a session that ended on a living connection is opened again: doubling between these.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_LAST: Duration = Duration::from_secs(30);

/// How a session ended while its connection lived.
enum End {
    /// Its slot was taken, or nobody wants it any more.
    Cancelled,
    /// The peer does not know the share, or has ended it: it will open one when it does.
    Unknown,
    /// Try again after a while.
    Again(LinkError),
    /// The peer broke the protocol.
    Fault(String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        if error.is_fault() { Self::Fault(error.to_string()) } else { Self::Again(error) }
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        LinkError::from(error).into()
    }
}

/// Opens the session of a share if there is none, and keeps it open while the connection lives.
pub(crate) fn open(inner: &Arc<Inner>, link: &Arc<Link>, share: ShareId) {
    let Some(slot) = link.reserve(share) else { return };
    let (inner, link) = (inner.clone(), link.clone());
    let span = tracing::info_span!("sync", %share, peer = %link.device());
    inner.tasks.clone().spawn(async move { keep(inner, link, slot).await }.instrument(span));
}

/// Runs the session that we open in this slot, again after it broke.
async fn keep(inner: Arc<Inner>, link: Arc<Link>, mut slot: SlotHandle) {
    let mut wait = REOPEN_FIRST;
    loop {
        let begun = tokio::time::Instant::now();
        let end = tokio::select! {
            end = run_ours(&inner, &link, &slot) => end,
            () = slot.cancel.cancelled() => End::Cancelled,
        };
        if begun.elapsed() > REOPEN_LAST {
            wait = REOPEN_FIRST;
        }
        if !ended(&inner, &link, &slot, end, &mut wait).await {
            return;
        }
        match link.reserve(slot.share) {
            Some(next) => slot = next,
            None => return,
        }
    }
}

/// Accepts the session that the peer opens on this stream, after its tag was found to be of this share.
pub(crate) async fn accept(inner: Arc<Inner>, link: Arc<Link>, share: ShareId, send: SendStream, reader: Reader) {
    let span = tracing::info_span!("sync", %share, peer = %link.device());
    accept_in_span(inner, link, share, send, reader).instrument(span).await;
}

async fn accept_in_span(inner: Arc<Inner>, link: Arc<Link>, share: ShareId, send: SendStream, reader: Reader) {
    let Some(slot) = link.accept(share) else {
        refuse(send, reader, Code::Duplicate);
        return;
    };
    let opened = Opened::Here { share: link.own_tag(&share) };
    let run = async {
        let mut send = send;
        if let Err(error) = write_frame(&mut send, &wire::encode(&opened)).await {
            return End::from(error);
        }
        drive(&inner, &link, &slot, send, reader).await
    };
    let end = tokio::select! {
        end = run => end,
        () = slot.cancel.cancelled() => End::Cancelled,
    };
    let mut wait = REOPEN_FIRST;
    if ended(&inner, &link, &slot, end, &mut wait).await {
        open(&inner, &link, share);
    }
}

/// Ends a stream that is not wanted.
pub(crate) fn refuse(mut send: SendStream, mut reader: Reader, code: Code) {
    // Both fail only if the stream has ended already.
    let _ = send.reset(code.into());
    reader.stop(code as u32);
}

/// Cleans up after a session and waits as long as it says; true if it is to be opened again.
async fn ended(inner: &Arc<Inner>, link: &Arc<Link>, slot: &SlotHandle, end: End, wait: &mut Duration) -> bool {
    let peer_tried = link.vacate(slot);
    let Some(peer_tried) = peer_tried.filter(|_| link.is_alive() && !link.cancel.is_cancelled()) else { return false };
    match end {
        End::Cancelled => false,
        End::Unknown => peer_tried,
        End::Again(error) => {
            tracing::debug!(%error, "a sync session ended");
            inner.peers.with(&link.device(), |peer| peer.last_error = Some(error.to_string()));
            let this_wait = *wait;
            *wait = (*wait * 2).min(REOPEN_LAST);
            tokio::select! {
                () = tokio::time::sleep(this_wait) => true,
                () = link.cancel.cancelled() => false,
            }
        }
        End::Fault(reason) => {
            inner.offended(link, &reason);
            false
        }
    }
}

/// Opens a stream, proves to know the share, and syncs.
async fn run_ours(inner: &Arc<Inner>, link: &Arc<Link>, slot: &SlotHandle) -> End {
    let opening = async {
        let (mut send, recv) = link.conn().open_bi().await.map_err(|error| LinkError::closed(&error))?;
        let mut reader = Reader::new(recv);
        let open = Open::Sync { share: link.own_tag(&slot.share) };
        write_frame(&mut send, &wire::encode(&open)).await?;
        let answer = match reader.next(<Opened as wire::Wire>::MAX).await {
            Ok(Some(_)) | Ok(None) | Err(_) if slot.cancel.is_cancelled() => return Ok(None),
            Err(FrameError::Read(error)) if is_duplicate(&error) => return Ok(None),
            Ok(Some(frame)) => wire::decode(&frame).map_err(|error| LinkError::Fault(error.to_string()))?,
            Ok(None) => return Err(FrameError::Truncated.into()),
            Err(error) => return Err(error.into()),
        };
        Ok::<_, LinkError>(Some((send, reader, answer)))
    };
    let opened = match tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs())),
    };
    match opened {
        // The peer's own stream counts; it is there already, or on its way.
        Ok(None) => End::Unknown,
        Ok(Some((_, _, Opened::Unknown))) => End::Unknown,
        Ok(Some((_, _, Opened::Here { share }))) if share != link.peer_tag(&slot.share) => {
            End::Fault("its proof for the share is wrong".into())
        }
        Ok(Some((send, reader, Opened::Here { .. }))) => drive(inner, link, slot, send, reader).await,
        Err(error) => error.into(),
    }
}

fn is_duplicate(error: &iroh::endpoint::ReadError) -> bool {
    matches!(error, iroh::endpoint::ReadError::Reset(code) if *code == VarInt::from(Code::Duplicate))
}

/// What goes to a blocking thread for a step and comes back.
struct Parts {
    session: Session,
    view: Box<dyn SyncHost + Send>,
    said: PeerState,
}

/// One step: takes frames, then makes messages if there is room for them.
struct Step {
    frames: Vec<Bytes>,
    changed: bool,
    room: bool,
}

/// What a step gave.
struct Stepped {
    out: Bytes,
    /// There may be more to send.
    more: bool,
    /// The peer's state, if it changed.
    state: Option<PeerState>,
    fault: Option<Fault>,
}

/// Syncs until the stream, the connection or the slot ends.
async fn drive(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    slot: &SlotHandle,
    mut send: SendStream,
    mut reader: Reader,
) -> End {
    // Fails only if the stream has ended.
    let _ = send.set_priority(PRIORITY);
    let (host, device, share) = (inner.host.clone(), link.device(), slot.share);
    let Some(Some(view)) = blocking(&inner.tasks, move || host.sync(&share)).await else { return End::Cancelled };
    let session = Session::new(device, link.features);
    let said = session.peer().clone();
    let mut parts = Some(Parts { session, view, said });
    // What it said in an earlier session need not be so any more.
    tell_host(inner, link, slot, PeerState::default()).await;
    link.opened(slot);
    let _source = Fetcher::source(inner, device, slot);
    let mut out = Bytes::new();
    let mut step = Step { frames: Vec::new(), changed: false, room: true };
    loop {
        let due = !step.frames.is_empty() || step.changed || (step.room && out.is_empty());
        if due {
            step.room = out.is_empty();
            let Some(taken) = parts.take() else { return End::Cancelled };
            let Some((back, stepped)) = blocking(&inner.tasks, move || taken.step(step)).await else {
                return End::Again(LinkError::Closed("the share failed on this device".into()));
            };
            parts = Some(back);
            if let Some(state) = stepped.state {
                tell_host(inner, link, slot, state).await;
                inner.fetcher.news(inner, device);
            }
            if let Some(fault) = stepped.fault {
                if matches!(fault, Fault::Local(_)) {
                    // Both fail only if the stream has ended already.
                    let _ = send.reset(Code::Busy.into());
                    reader.stop(Code::Busy as u32);
                }
                return fault_end(fault);
            }
            if out.is_empty() {
                out = stepped.out;
            }
            step = Step { frames: Vec::new(), changed: false, room: stepped.more };
        }
        if step.room && out.is_empty() {
            continue;
        }
        tokio::select! {
            written = send.write(&out), if !out.is_empty() => match written {
                Ok(count) => {
                    out.advance(count);
                }
                Err(error) => return write_end(error),
            },
            received = receive(&mut reader) => match received {
                Ok(Some(frames)) => {
                    step.frames = frames;
                    step.room = true;
                }
                Ok(None) => return End::Unknown,
                Err(error) => return read_end(error),
            },
            () = slot.changed.notified() => {
                step.changed = true;
                step.room = true;
            }
        }
    }
}

/// How a session ends whose peer takes nothing more.
fn write_end(error: WriteError) -> End {
    match error {
        WriteError::Stopped(code) if code == VarInt::from(Code::Duplicate) => End::Unknown,
        WriteError::Stopped(code) if code == VarInt::from(Code::Busy) => busy(),
        error => FrameError::from(error).into(),
    }
}

/// How a session ends whose peer sends nothing more.
fn read_end(error: FrameError) -> End {
    match error {
        FrameError::Read(error) if is_duplicate(&error) => End::Unknown,
        FrameError::Read(iroh::endpoint::ReadError::Reset(code)) if code == VarInt::from(Code::Busy) => busy(),
        error => error.into(),
    }
}

/// Tells the host what the peer says that it has, as long as it is this session that speaks for it.
async fn tell_host(inner: &Arc<Inner>, link: &Arc<Link>, slot: &SlotHandle, state: PeerState) {
    let (host, peers, link, slot) = (inner.host.clone(), inner.clone(), link.clone(), slot.clone());
    let tell = move || {
        let current = peers.peers.link(&link.device()).is_some_and(|current| Arc::ptr_eq(&current, &link));
        if current && link.holds(&slot) {
            host.peer_state(&slot.share, &link.device(), &state);
        }
    };
    blocking(&inner.tasks, tell).await;
}

/// The next frame, with those that have come after it; `None` at the end.
async fn receive(reader: &mut Reader) -> Result<Option<Vec<Bytes>>, FrameError> {
    let Some(first) = reader.next(MESSAGE_MAX).await? else { return Ok(None) };
    let mut bytes = first.len();
    let mut frames = vec![first];
    while bytes < GATHER {
        let Some(frame) = reader.ready(MESSAGE_MAX)? else { break };
        bytes += frame.len();
        frames.push(frame);
    }
    Ok(Some(frames))
}

fn busy() -> End {
    End::Again(LinkError::Unable("that device cannot take changes now: its disk may be full"))
}

fn fault_end(fault: Fault) -> End {
    match fault {
        Fault::Local(why) => End::Again(LinkError::Local(why)),
        Fault::Epoch { .. } => End::Again(LinkError::Closed(fault.to_string())),
        Fault::Protocol(_) | Fault::Membership(_) | Fault::Envelope(_) => End::Fault(fault.to_string()),
    }
}

impl Parts {
    fn step(mut self, step: Step) -> (Self, Stepped) {
        let fault = step.frames.iter().find_map(|frame| self.take(frame).err());
        if step.changed {
            self.session.changed();
        }
        let mut out = BytesMut::new();
        // Where nothing may be made now, nobody knows whether there is more.
        let mut more = fault.is_none();
        while more && step.room && out.len() < GATHER {
            match self.session.poll(self.view.as_mut()) {
                Some(message) => out.extend_from_slice(&frame(&wire::encode(&message))),
                None => more = false,
            }
        }
        let state = (*self.session.peer() != self.said).then(|| self.session.peer().clone());
        if let Some(state) = &state {
            self.said = state.clone();
        }
        (self, Stepped { out: out.freeze(), more, state, fault })
    }

    fn take(&mut self, frame: &Bytes) -> Result<(), Fault> {
        let message: Message = wire::decode(frame).map_err(|error| Fault::Protocol(error.to_string()))?;
        self.session.handle(message, self.view.as_mut())
    }
}
