//! Joining a share with a ticket.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use thiserror::Error;

use super::{MESSAGE_MAX, ShareTag, Wire};
use crate::id::Hash;

/// What a joiner says to the inviter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Join {
    /// Proves that the joiner knows the share, without naming it.
    #[n(0)]
    pub share: ShareTag,
    /// The invitation: the id of its membership record.
    #[n(1)]
    pub invitation: Hash,
    /// Signature by the ticket's key over (share, invitation, joiner's device), see [`crate::membership::claim_message`]. It goes
    /// into the admission, so that every member can check it; bound to the device that the connection authenticated.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub claim: [u8; 64],
    /// The joiner's name.
    #[n(3)]
    pub name: String,
}

/// The inviter's answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum JoinAnswer {
    /// Admitted.
    #[n(0)]
    Welcome {
        /// The share's encoded [`crate::share::Genesis`]; its id must be the ticket's.
        #[cbor(n(0), with = "minicbor::bytes")]
        genesis: Vec<u8>,
        /// Encoded membership records in causal order, the joiner's admission among them.
        #[n(1)]
        membership: Vec<ByteVec>,
    },
    /// Not admitted.
    #[n(1)]
    Refused {
        /// Why.
        #[n(0)]
        reason: Refusal,
    },
}

impl Wire for JoinAnswer {
    const NAME: &'static str = "answer to a join";
    const MAX: usize = MESSAGE_MAX;
}

/// Why a ticket does not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Error)]
pub enum Refusal {
    /// All its uses are taken.
    #[n(0)]
    #[error("this ticket has been used up: ask for a new one")]
    Spent,
    /// Its time has passed, by the inviter's clock.
    #[n(1)]
    #[error("this ticket has expired: ask for a new one")]
    Expired,
    /// The inviter knows no such share or invitation, or the proof is wrong.
    #[n(2)]
    #[error("the inviting device does not know this ticket: ask for a new one")]
    Unknown,
    /// The inviter took it back.
    #[n(3)]
    #[error("this ticket has been cancelled: ask for a new one")]
    Cancelled,
    /// The inviter speaks another version.
    #[n(4)]
    #[error("the inviting device runs another version of crdtfs: update the older one")]
    WrongVersion,
    /// The device was revoked from the share.
    #[n(5)]
    #[error("this device was removed from the share: an admin has to invite it anew")]
    Revoked,
    /// The inviter may not, or cannot, admit anybody right now.
    #[n(6)]
    #[error("the inviting device cannot admit devices now: try again, or ask another admin")]
    Unable,
}
