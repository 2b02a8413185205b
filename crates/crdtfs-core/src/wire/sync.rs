//! Messages of a share's sync stream.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::Wire;
use crate::id::Hash;
use crate::vector::Vector;

/// One message of a sync stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// What the sender has: in full first, then what became different.
    #[n(0)]
    Have(#[n(0)] Have),
    /// Encoded membership records, in causal order.
    #[n(1)]
    Membership {
        /// The records.
        #[n(0)]
        records: Vec<ByteVec>,
    },
    /// Encoded envelopes, in causal order.
    #[n(2)]
    Envelopes {
        /// The envelopes.
        #[n(0)]
        envelopes: Vec<ByteVec>,
    },
    /// What content the sender holds.
    #[n(3)]
    Holding(#[n(0)] Holding),
    /// Encoded [`super::Statement`]s of members, the sender's own among them; only with [`super::FEATURE_STATEMENTS`].
    #[n(4)]
    Statements {
        /// The statements.
        #[n(0)]
        statements: Vec<ByteVec>,
    },
    /// Asks to be told what was done at the receiver until now, also what is not published or committed there yet. Numbers
    /// rise, from 1 at least. Only with [`super::FEATURE_PROBES`].
    #[n(5)]
    Probe {
        /// Names the probe in its answer.
        #[n(0)]
        number: u64,
    },
    /// Answers a probe, and those before it that are not answered yet: all that was done at the sender before the probe came
    /// was said on this stream before.
    #[n(6)]
    Probed {
        /// The probe's number.
        #[n(0)]
        number: u64,
    },
}

impl Wire for Message {
    const NAME: &'static str = "sync message";
}

/// What a device has of a share's changes and membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Have {
    /// Epoch of its document.
    #[n(0)]
    pub epoch: u32,
    /// Ends of the chains that it has; only those that moved since its last `Have` on this stream
    /// (one that is no more: number 0).
    #[n(1)]
    pub vector: Vector,
    /// Heads of its membership records; absent if they are as it last said.
    #[n(2)]
    pub membership: Option<Vec<Hash>>,
}

/// What content a device holds, of what it wants to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Holding {
    /// The changes that this was counted by.
    #[n(0)]
    pub vector: Vector,
    /// Files that it wants and of which it lacks bytes.
    #[n(1)]
    pub missing_files: u64,
    /// Bytes that it wants and lacks.
    #[n(2)]
    pub missing_bytes: u64,
    /// It wants only part of the content (`--on-demand`).
    #[n(3)]
    pub partial: bool,
}
