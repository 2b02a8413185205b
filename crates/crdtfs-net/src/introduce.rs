//! Members that have not heard of one another: one was admitted while the other was away.
//!
//! A member that is refused as a stranger shows its membership records over the protocol for tickets: an opening for the share, as for
//! a sync stream, whose proof only somebody who knows the share can give, then one message of records. The records are signed, so
//! the other side believes them exactly as it would from a member, and if they admit the device, the next connection is not
//! refused.

use std::sync::Arc;

use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::wire::{self, Handshake, MESSAGE_MAX, Message, Open, Opened, ShareTag};
use iroh::endpoint::{Connection, SendStream};

use crate::config::{ALPN_JOIN, HANDSHAKE_TIMEOUT};
use crate::dial::connect;
use crate::endpoint::{Code, device_id};
use crate::error::LinkError;
use crate::frame::{FrameError, Reader, write_frame};
use crate::host::blocking;
use crate::link::{close_for, hello, read_message};
use crate::node::Inner;

/// Shows a device the membership records of the shares that it is a member of; true if it now knows this device.
pub(crate) async fn ask(inner: &Arc<Inner>, device: &DeviceId) -> bool {
    let common = inner.roster.common(*device).await;
    let exchange = async {
        let conn = connect(inner, device, ALPN_JOIN).await?;
        let handshake = hello(&conn, inner.device, rand::random()).await?.handshake;
        for share in common {
            if show(inner, &conn, &handshake, share).await? {
                conn.close(Code::Bye.into(), Code::Bye.reason());
                return Ok(true);
            }
        }
        conn.close(Code::Bye.into(), Code::Bye.reason());
        Ok::<_, LinkError>(false)
    };
    match tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, exchange).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            tracing::debug!(peer = %device, %error, "could not introduce this device");
            false
        }
        Err(_) => false,
    }
}

/// Shows the records of one share. Those that one message does not hold are left to the sync: the device's own admission and what it
/// rests on come first in causal order, and a membership is small.
async fn show(inner: &Arc<Inner>, conn: &Connection, handshake: &Handshake, share: ShareId) -> Result<bool, LinkError> {
    let host = inner.host.clone();
    let records = blocking(&inner.tasks, move || host.sync(&share).map(|view| view.membership_after(&[]))).await;
    let Some(records) = records.flatten() else { return Ok(false) };
    let mut bytes = 0;
    let fitting = records.into_iter().take_while(|record| {
        bytes += record.len() + 16;
        bytes <= MESSAGE_MAX - 64
    });
    let records = Message::Membership { records: fitting.map(Into::into).collect() };
    let (mut send, recv) = conn.open_bi().await.map_err(|error| LinkError::closed(&error))?;
    let open = Open::Sync { share: handshake.tag(&share, &inner.device) };
    write_frame(&mut send, &wire::encode(&open)).await?;
    write_frame(&mut send, &wire::encode(&records)).await?;
    // Fails only if the peer has stopped the stream, which shows when reading.
    let _ = send.finish();
    let answer: Opened = read_message(&mut Reader::new(recv)).await?;
    match answer {
        Opened::Unknown => Ok(false),
        Opened::Here { share: tag } if tag == handshake.tag(&share, &device_id(conn.remote_id())) => Ok(true),
        Opened::Here { .. } => Err(close_for(conn, LinkError::Fault("its proof for the share is wrong".into()))),
    }
}

/// Answers a device that introduces itself. Whoever does not know the share gets no further than his tag.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    conn: &Connection,
    handshake: Handshake,
    tag: ShareTag,
    mut send: SendStream,
    mut reader: Reader,
) -> Result<(), LinkError> {
    let device = device_id(conn.remote_id());
    let host = inner.host.clone();
    let find = move || host.shares().into_iter().find(|share| handshake.tag(share, &device) == tag);
    let share = blocking(&inner.tasks, find).await.flatten();
    let mut known = false;
    if let Some(share) = share {
        let frame = reader.next(MESSAGE_MAX).await?.ok_or(FrameError::Truncated)?;
        let message = wire::decode(&frame).map_err(|error| LinkError::Fault(error.to_string()))?;
        let Message::Membership { records } = message else {
            return Err(LinkError::Fault("introduced itself with something else than membership records".into()));
        };
        let host = inner.host.clone();
        let taken = blocking(&inner.tasks, move || {
            let records = records.into_iter().map(Vec::from).collect();
            host.sync(&share).map(|mut view| view.receive_membership(&device, records))?.ok()?;
            Some(host.is_member(&share, &device))
        });
        known = taken.await.flatten().unwrap_or(false);
        if known {
            tracing::info!(peer = %device, "a member introduced itself");
            inner.peers.learn(&device, crate::link::addresses(conn), [], true);
            inner.share_changed(share);
        }
    }
    let answer = match share.filter(|_| known) {
        Some(share) => Opened::Here { share: handshake.tag(&share, &inner.device) },
        None => Opened::Unknown,
    };
    write_frame(&mut send, &wire::encode(&answer)).await?;
    send.finish().map_err(|_| FrameError::Truncated)?;
    Ok(())
}
