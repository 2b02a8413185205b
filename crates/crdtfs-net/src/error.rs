//! What can go wrong, as the engine and the user see it.

use std::net::SocketAddr;

use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::wire::Refusal;
use iroh::endpoint::ConnectionError;
use thiserror::Error;

use crate::endpoint::Code;

/// Why a node could not start.
#[derive(Debug, Error)]
pub enum NetError {
    /// No socket.
    #[error("cannot open a network socket on {at}: {reason}", at = bind.map_or("any address".to_owned(), |a| a.to_string()))]
    Bind {
        /// The address asked for.
        bind: Option<SocketAddr>,
        /// How it failed.
        reason: String,
    },
    /// A relay URL that cannot be read.
    #[error("`{url}` is no relay URL: {reason}; give one like https://relay.example.org")]
    Relay {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a fetch ended before all chunks were here.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nobody reachable has them.
    #[error(
        "{missing} of {wanted} chunks of share {share} are with nobody that is reachable now ({sources} connected)"
    )]
    Unavailable {
        /// The share.
        share: ShareId,
        /// Chunks that did not come.
        missing: usize,
        /// Chunks wanted.
        wanted: usize,
        /// Members connected at the end.
        sources: usize,
    },
    /// What took the chunks failed.
    #[error("cannot keep a fetched chunk: {0}")]
    Sink(#[from] std::io::Error),
    /// The node was shut down.
    #[error("the network was shut down")]
    Closed,
}

/// Why a ticket did not lead into its share.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The inviting device was not reached in time.
    #[error(
        "cannot reach the inviting device {device}: {reason}. Is crdtfs running there, and is this device on its network?"
    )]
    Unreachable {
        /// The inviter.
        device: DeviceId,
        /// What happened last.
        reason: String,
    },
    /// It said no; each reason has its own text.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its answer is about another share.
    #[error("the inviting device answered for another share: ask for a new ticket")]
    WrongShare,
    /// The two programs do not fit.
    #[error("cannot join: {0}")]
    Version(String),
    /// The inviting device answered with something that is no answer.
    #[error("the inviting device {device} gave an answer that makes no sense: {reason}")]
    Malformed {
        /// The inviter.
        device: DeviceId,
        /// What is wrong with it.
        reason: String,
    },
    /// The node was shut down.
    #[error("the network was shut down")]
    Closed,
}

/// Why a connection or one of its streams ended, as `crdtfs peers` shows it.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("cannot reach it: {0}")]
    Dial(String),
    #[error("no answer within {0} s")]
    Timeout(u64),
    #[error("{0}")]
    Version(String),
    #[error("device {0} is no member of any share here")]
    Stranger(DeviceId),
    #[error("it does not know this device as a member yet")]
    Refused,
    #[error("another connection to it is used")]
    Duplicate,
    #[error("it broke the protocol: {0}")]
    Fault(String),
    #[error("the connection ended: {0}")]
    Closed(String),
    #[error("{0}")]
    Unable(&'static str),
    #[error("this device cannot take changes now: {0}")]
    Local(String),
}

impl LinkError {
    /// What the end of a connection says.
    pub(crate) fn closed(error: &ConnectionError) -> Self {
        match error {
            error if Code::Stranger.is_in(error) => Self::Refused,
            error if Code::Duplicate.is_in(error) => Self::Duplicate,
            ConnectionError::ApplicationClosed(close) => {
                Self::Closed(format!("closed by it: {}", String::from_utf8_lossy(&close.reason)))
            }
            other => Self::Closed(other.to_string()),
        }
    }

    /// Whether the peer is to be left alone for a while.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(self, Self::Fault(_))
    }
}

impl From<crate::frame::FrameError> for LinkError {
    fn from(error: crate::frame::FrameError) -> Self {
        if error.is_fault() { Self::Fault(error.to_string()) } else { Self::Closed(error.to_string()) }
    }
}

/// What an error comes down to. Those of the transport name every layer that they went through, which tells users nothing.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
