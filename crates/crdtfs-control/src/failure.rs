//! Why a request was not done.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What sort of failure; commands choose their exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The request makes no sense as it was put (exit 2).
    Usage,
    /// Time ran out, or devices are not in sync yet (exit 3).
    Timeout,
    /// No such share, directory, path or device (exit 1).
    NotFound,
    /// Something is in use or in the way: a mount that is busy, a directory that is not empty (exit 1).
    Busy,
    /// The system lacks something, which the message names (exit 1).
    Missing,
    /// The ticket: mistyped, spent, expired, of another version, or of a share that this device has (exit 1).
    Ticket,
    /// This device's role in the share does not allow it (exit 1).
    Denied,
    /// The two sides speak different versions of the protocol (exit 1).
    Version,
    /// Anything else, also every kind that this version does not know (exit 1).
    #[serde(other)]
    Failed,
}

/// A request that was not done: what happened, to what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// What sort.
    pub kind: FailureKind,
    /// What happened to which path or device, a sentence without its full stop.
    pub message: String,
    /// What to do, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// A failure of no particular kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, message)
    }

    /// Says what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_a_later_version_reads_as_failed() {
        let failure: Failure =
            serde_json::from_str(r#"{"kind":"on_fire","message":"the disk burns"}"#).expect("parses");
        assert_eq!(failure, Failure::failed("the disk burns"));
    }
}
