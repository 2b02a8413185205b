//! Tickets: what an invited device needs, in one line of text.
//!
//! `crdtfs1` and lower-case base32 without padding (RFC 4648) of a version byte, CBOR, and four bytes of checksum. The `1`
//! is part of the prefix for good; formats are told apart by the version byte, so that a ticket of another version is known
//! for what it is. Who has a ticket can join, so it is a secret until it is used up.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::id::{DeviceId, Hash, ShareId};
use crate::key::Key;
use crate::share::Role;

/// Shorter than any ticket, of whatever version: the secret alone has 52 characters.
const MIN_LEN: usize = 60;

/// What every ticket begins with: the last digit is the version of the text, which the bytes say again.
pub const PREFIX: &str = "crdtfs1";

/// Version of the format that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// The longest ticket, in bytes of text.
pub const MAX_LEN: usize = 8192;

/// An invitation with all that is needed to use it.
#[derive(Clone)]
pub struct Ticket {
    /// The share.
    pub share: ShareId,
    /// The device that issued it, and admits.
    pub inviter: DeviceId,
    /// Where the inviter may be reached directly.
    pub addrs: Vec<SocketAddr>,
    /// Relays by which it may be reached.
    pub relays: Vec<String>,
    /// Signs the claim to join.
    pub key: Key,
    /// Id of the invitation's membership record.
    pub invitation: Hash,
    /// The role that it gives, for messages only.
    pub role: Role,
    /// End of its time, milliseconds since 1970, for messages only: the inviter's clock decides.
    pub expires_ms: i64,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("share", &self.share).field("inviter", &self.inviter).finish_non_exhaustive()
    }
}

/// Why a text is no ticket to be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Does not look like one.
    #[error("this is not a ticket: a ticket begins with \"{PREFIX}\"")]
    NotATicket,
    /// Looks like one, but a character is missing or wrong.
    #[error("the ticket is mistyped or incomplete: copy the whole line again")]
    Mistyped,
    /// Of another format.
    #[error("the ticket was made by another version of crdtfs (its format is {0}): update the older one")]
    Version(u8),
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    share: ShareId,
    #[n(1)]
    inviter: DeviceId,
    #[n(2)]
    addrs: Vec<SocketAddr>,
    #[n(3)]
    relays: Vec<String>,
    #[cbor(n(4), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(5)]
    invitation: Hash,
    #[n(6)]
    role: Role,
    #[n(7)]
    expires_ms: i64,
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let whole = blake3::derive_key("crdtfs 2026 ticket checksum v1", bytes);
    [whole[0], whole[1], whole[2], whole[3]]
}

/// The line of text. It is the secret itself: print it only where the user asked for the ticket.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire {
            share: self.share,
            inviter: self.inviter,
            addrs: self.addrs.clone(),
            relays: self.relays.clone(),
            secret: self.key.secret(),
            invitation: self.invitation,
            role: self.role,
            expires_ms: self.expires_ms,
        };
        let mut bytes = vec![VERSION];
        minicbor::encode(&wire, &mut bytes).expect("writing to memory cannot fail");
        let sum = checksum(&bytes);
        bytes.extend(sum);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim().to_ascii_lowercase();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let version =
                text.strip_prefix(PREFIX.trim_end_matches(char::is_numeric)).and_then(|rest| rest.bytes().next());
            return Err(match version {
                Some(digit @ b'0'..=b'9') if text.len() > MIN_LEN => TicketError::Version(digit - b'0'),
                _ => TicketError::NotATicket,
            });
        };
        if text.len() > MAX_LEN {
            return Err(TicketError::Mistyped);
        }
        let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| TicketError::Mistyped)?;
        let (text, sum) = bytes.split_last_chunk::<4>().ok_or(TicketError::Mistyped)?;
        if checksum(text) != *sum {
            return Err(TicketError::Mistyped);
        }
        let wire: Wire = match text {
            [VERSION, body @ ..] => minicbor::decode(body).map_err(|_| TicketError::Mistyped)?,
            [other, ..] => return Err(TicketError::Version(*other)),
            [] => return Err(TicketError::Mistyped),
        };
        Ok(Self {
            share: wire.share,
            inviter: wire.inviter,
            addrs: wire.addrs,
            relays: wire.relays,
            key: Key::new(&wire.secret),
            invitation: wire.invitation,
            role: wire.role,
            expires_ms: wire.expires_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            share: ShareId([1; 32]),
            inviter: DeviceId([2; 32]),
            addrs: vec!["192.0.2.7:4433".parse().unwrap(), "[2001:db8::1]:4433".parse().unwrap()],
            relays: vec!["https://relay.example/".into()],
            key: Key::new(&[3; 32]),
            invitation: Hash([4; 32]),
            role: Role::Write,
            expires_ms: 1_900_000_000_000,
        }
    }

    fn with_version(version: u8) -> String {
        let line = ticket().to_string();
        let mut bytes = BASE32_NOPAD.decode(line[PREFIX.len()..].to_ascii_uppercase().as_bytes()).unwrap();
        bytes.truncate(bytes.len() - 4);
        bytes[0] = version;
        let sum = checksum(&bytes);
        bytes.extend(sum);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }

    #[test]
    fn golden_and_back() {
        let line = ticket().to_string();
        insta::assert_snapshot!("ticket", line);
        let read: Ticket = format!(" {line}\n").parse().unwrap();
        assert_eq!(read.to_string(), line);
        assert_eq!(read.addrs, ticket().addrs);
        assert!(line.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert!(!format!("{read:?}").contains("0303"));
    }

    #[test]
    fn what_is_no_ticket_is_told_apart() {
        let line = ticket().to_string();
        let parse = |text: &str| text.parse::<Ticket>().unwrap_err();
        assert_eq!(parse("hello"), TicketError::NotATicket);
        assert_eq!(parse("/home/me/dir"), TicketError::NotATicket);
        assert_eq!(parse("crdtfs2"), TicketError::NotATicket);
        assert_eq!(parse(&ticket().to_string().replacen(PREFIX, "crdtfs2", 1)), TicketError::Version(2));
        assert_eq!(parse(PREFIX), TicketError::Mistyped);
        assert_eq!(parse(&with_version(2)), TicketError::Version(2));
        assert_eq!(parse(&with_version(0)), TicketError::Version(0));
        for cut in PREFIX.len()..line.len() {
            assert_eq!(parse(&line[..cut]), TicketError::Mistyped, "cut at {cut}");
        }
        for at in PREFIX.len()..line.len() {
            let mut bad = line.clone().into_bytes();
            bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(parse(std::str::from_utf8(&bad).unwrap()), TicketError::Mistyped, "byte {at}");
        }
        assert_eq!(parse(&format!("{line}{}", "a".repeat(MAX_LEN))), TicketError::Mistyped);
    }
}
