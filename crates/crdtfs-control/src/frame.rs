//! The lines on the socket.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::reply::{Item, Reply};
use crate::request::Request;

/// The longest line of a client, in bytes.
pub(crate) const MAX_REQUEST: u64 = 1 << 20;

/// The longest line of an engine, in bytes.
pub(crate) const MAX_REPLY: u64 = 64 << 20;

/// A client's line.
#[derive(Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Protocol of the sender.
    pub(crate) version: u32,
    /// What it asks.
    #[serde(flatten)]
    pub(crate) request: Request,
}

/// As much of a client's line as every version has.
#[derive(Deserialize)]
pub(crate) struct AskedVersion {
    /// Protocol of the sender.
    pub(crate) version: u32,
}

/// An engine's line.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// Something before the end.
    Item(Item),
    /// The end.
    Reply(Reply),
    /// The end.
    Failure {
        /// Why it was not done.
        failure: Failure,
    },
}

/// A value as one line with its newline.
pub(crate) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("maps with string keys and finite numbers only");
    line.push(b'\n');
    line
}
