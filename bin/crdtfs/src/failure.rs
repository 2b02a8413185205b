//! From errors to what the user reads and to the exit code.

use std::io::{self, Write};

use anyhow::Error;
use crdtfs_control::{ClientError, Failure, FailureKind};

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Timed out, or not in sync yet.
pub(crate) const NOT_YET: u8 = 3;

/// A mistake in how the command was put.
pub(crate) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// Says on stderr what went wrong and what to do; the exit code.
pub(crate) fn report(error: &Error) -> u8 {
    if is_broken_pipe(error) {
        // Who reads our output has enough of it: `crdtfs ls | head`.
        return DONE;
    }
    let mut message = format!("crdtfs: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors quote their source already.
        if !message.contains(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    if let Some(hint) = hint(error) {
        message.push_str("\n  hint: ");
        message.push_str(&hint);
    }
    // Without a stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "{message}"));
    code(error)
}

/// The engine's refusal in this error, if it is one.
fn refusal(error: &Error) -> Option<&Failure> {
    error.chain().find_map(|cause| {
        cause.downcast_ref::<Failure>().or_else(|| match cause.downcast_ref::<ClientError>() {
            Some(ClientError::Failed(failure)) => Some(failure),
            _ => None,
        })
    })
}

fn code(error: &Error) -> u8 {
    match refusal(error).map(|failure| failure.kind) {
        Some(FailureKind::Usage) => USAGE,
        Some(FailureKind::Timeout) => NOT_YET,
        _ => FAILED,
    }
}

fn hint(error: &Error) -> Option<String> {
    if let Some(failure) = refusal(error) {
        return failure.hint.clone();
    }
    let client = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>())?;
    match client {
        ClientError::NotRunning { .. } => {
            Some("`crdtfs mount DIR`, `crdtfs watch DIR` or `crdtfs start` starts one".to_owned())
        }
        ClientError::Lost | ClientError::Silent => Some("see log/engine.log in the state directory".to_owned()),
        _ => None,
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().any(|cause| {
        let io = match cause.downcast_ref::<ClientError>() {
            Some(ClientError::Receiver(error)) => Some(error),
            Some(_) => None,
            None => cause.downcast_ref::<io::Error>(),
        };
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_kind() {
        let of = |kind| code(&Error::from(ClientError::from(Failure::new(kind, "x"))));
        assert_eq!(of(FailureKind::Usage), 2);
        assert_eq!(of(FailureKind::Timeout), 3);
        assert_eq!(of(FailureKind::Ticket), 1);
        assert_eq!(code(&Error::from(usage("x")).context("while reading")), 2);
        assert_eq!(code(&anyhow::anyhow!("anything else")), 1);
    }

    #[test]
    fn a_broken_pipe_is_no_error() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(report(&Error::from(broken())), 0);
        assert_eq!(report(&Error::from(ClientError::Receiver(broken()))), 0);
        // The engine's end of the socket is another pipe.
        assert_eq!(code(&Error::from(ClientError::Lost)), 1);
    }
}
