//! Tickets: a connection of its own kind, on which a stranger may say one thing and gets one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_core::share::Genesis;
use crdtfs_core::wire::{self, Handshake, Join, JoinAnswer, Open, Refusal};
use iroh::endpoint::{Connection, SendStream};

use crate::backoff::Backoff;
use crate::config::{ALPN_JOIN, HANDSHAKE_TIMEOUT};
use crate::dial::connect;
use crate::endpoint::{Code, device_id};
use crate::error::{JoinError, LinkError};
use crate::frame::{FrameError, Reader, write_frame};
use crate::host::blocking;
use crate::introduce;
use crate::link::{close_for, hello, read_message};
use crate::lookout::NEWCOMER;
use crate::node::Inner;

/// Streams that one connection of this protocol may open.
const MAX_QUESTIONS: usize = 64;

/// What is needed to join a share, from its ticket.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The device that gave the ticket out.
    pub inviter: DeviceId,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Its relays.
    pub relays: Vec<String>,
    /// The share.
    pub share: ShareId,
    /// The invitation's record.
    pub invitation: Hash,
    /// Signature by the ticket's key: [`Join::claim`].
    pub claim: [u8; 64],
    /// This device's name.
    pub name: String,
    /// How long to try to reach the inviter.
    pub patience: Duration,
}

/// What a new member gets.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The share's encoded genesis, of which the share's id was checked.
    pub genesis: Vec<u8>,
    /// Encoded membership records in causal order, unchecked.
    pub membership: Vec<Vec<u8>>,
}

/// Asks the inviter, again until it is reached or patience ends. Its answer is final.
pub(crate) async fn ask(inner: &Arc<Inner>, request: JoinRequest) -> Result<Welcome, JoinError> {
    let device = request.inviter;
    inner.peers.learn(&device, request.addresses.iter().copied(), request.relays.iter().cloned(), true);
    inner.lookout.look(request.patience.min(NEWCOMER));
    let deadline = tokio::time::Instant::now() + request.patience;
    let mut backoff = Backoff::default();
    let mut last = "it did not answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, attempt(inner, &request)).await {
            Err(_) => return Err(JoinError::Unreachable { device, reason: last }),
            Ok(Ok(answer)) => return welcome(&request, answer),
            Ok(Err(LinkError::Fault(reason))) => return Err(JoinError::Malformed { device, reason }),
            Ok(Err(LinkError::Version(reason))) => return Err(JoinError::Version(reason)),
            Ok(Err(error)) => last = error.to_string(),
        }
        let wait = backoff.failed(true, rand::random());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tokio::time::sleep_until(deadline) => return Err(JoinError::Unreachable { device, reason: last }),
            () = inner.cancel.cancelled() => return Err(JoinError::Closed),
        }
    }
}

async fn attempt(inner: &Arc<Inner>, request: &JoinRequest) -> Result<JoinAnswer, LinkError> {
    let conn = connect(inner, &request.inviter, ALPN_JOIN).await?;
    let exchange = async {
        let nonce = rand::random();
        let handshake = hello(&conn, inner.device, nonce).await?.handshake;
        let (mut send, recv) = conn.open_bi().await.map_err(|error| LinkError::closed(&error))?;
        let join = Join {
            share: handshake.tag(&request.share, &inner.device),
            invitation: request.invitation,
            claim: request.claim,
            name: request.name.clone(),
        };
        write_frame(&mut send, &wire::encode(&Open::Join(join))).await?;
        // Fails only if the peer has stopped the stream, which shows when reading.
        let _ = send.finish();
        read_message::<JoinAnswer>(&mut Reader::new(recv)).await
    };
    let answer = tokio::time::timeout(HANDSHAKE_TIMEOUT, exchange).await;
    let answer = answer.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT.as_secs())));
    match answer {
        Ok(answer) => {
            conn.close(Code::Bye.into(), Code::Bye.reason());
            Ok(answer)
        }
        Err(error) => Err(close_for(&conn, error)),
    }
}

fn welcome(request: &JoinRequest, answer: JoinAnswer) -> Result<Welcome, JoinError> {
    match answer {
        JoinAnswer::Refused { reason } => Err(JoinError::Refused(reason)),
        JoinAnswer::Welcome { genesis, membership } => {
            let share = Genesis::decode(&genesis).map(|genesis| genesis.share());
            if share != Ok(request.share) {
                return Err(JoinError::WrongShare);
            }
            Ok(Welcome { genesis, membership: membership.into_iter().map(Vec::from).collect() })
        }
    }
}

/// Answers a device that holds a ticket, or says it does. It gets one question and a few seconds.
pub(crate) async fn answer(inner: &Arc<Inner>, conn: Connection) -> Result<(), LinkError> {
    let Ok(_permit) = inner.joiners.clone().try_acquire_owned() else {
        conn.close(Code::Busy.into(), Code::Busy.reason());
        return Err(LinkError::Closed("too many devices ask to join at once".into()));
    };
    let answered = tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, exchange(inner, &conn)).await;
    match answered.unwrap_or(Err(LinkError::Timeout(2 * HANDSHAKE_TIMEOUT.as_secs()))) {
        Ok(()) => Ok(()),
        Err(error) => Err(close_for(&conn, error)),
    }
}

async fn exchange(inner: &Arc<Inner>, conn: &Connection) -> Result<(), LinkError> {
    let handshake = hello(conn, inner.device, rand::random()).await?.handshake;
    // A member that introduces itself asks once a share; whoever joins asks once.
    for _ in 0..MAX_QUESTIONS {
        let Ok((send, recv)) = conn.accept_bi().await else { return Ok(()) };
        let mut reader = Reader::new(recv);
        match read_message::<Open>(&mut reader).await? {
            Open::Join(join) => {
                admit(inner, conn, handshake, join, send).await?;
                break;
            }
            Open::Sync { share } => introduce::answer(inner, conn, handshake, share, send, reader).await?,
            Open::Chunks { .. } => return Err(LinkError::Fault("asked for something else than to join".into())),
        }
    }
    // The other side closes when it has read the answer; closing here could take the answer away from it.
    conn.closed().await;
    Ok(())
}

/// Has the host check a ticket, and answers.
async fn admit(
    inner: &Arc<Inner>,
    conn: &Connection,
    handshake: Handshake,
    join: Join,
    mut send: SendStream,
) -> Result<(), LinkError> {
    let device = device_id(conn.remote_id());
    let host = inner.host.clone();
    let admitted = blocking(&inner.tasks, move || {
        let share = host.shares().into_iter().find(|share| handshake.tag(share, &device) == join.share);
        match share {
            Some(share) => (Some(share), host.admit(&share, &join, &device)),
            None => (None, JoinAnswer::Refused { reason: Refusal::Unknown }),
        }
    });
    let (share, answer) = admitted.await.ok_or_else(|| LinkError::Closed("the share failed on this device".into()))?;
    match &answer {
        JoinAnswer::Welcome { .. } => tracing::info!(peer = %device, "admitted by a ticket"),
        JoinAnswer::Refused { reason } => tracing::info!(peer = %device, %reason, "a ticket was refused"),
    }
    write_frame(&mut send, &wire::encode(&answer)).await?;
    send.finish().map_err(|_| FrameError::Truncated)?;
    if let Some(share) = share.filter(|_| matches!(answer, JoinAnswer::Welcome { .. })) {
        inner.peers.learn(&device, crate::link::addresses(conn), [], true);
        inner.share_changed(share);
    }
    Ok(())
}
