//! Bringing a replica back from what its device keeps.

use thiserror::Error;

use super::receive::Gather;
use super::{Envelopes, Replica, Saved};
use crate::envelope::{Envelope, EnvelopeError, Trust};
use crate::id::{ActorId, Incarnation};
use crate::key::Key;
use crate::membership::{Membership, MembershipError};
use crate::record::Record;
use crate::share::{Genesis, GenesisError};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::vector::Tip;

/// Records go into the view in portions of so many, to bound what is in memory twice.
const PORTION: usize = 50_000;

/// Why a replica cannot be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The genesis.
    #[error("cannot read the share's beginning: {0}")]
    Genesis(#[from] GenesisError),
    /// A membership record.
    #[error("cannot read the share's members: {0}")]
    Membership(#[from] MembershipError),
    /// The snapshot: load without it, from the whole log.
    #[error("cannot read the share's snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// An envelope of the log.
    #[error("cannot read the share's log: {0}")]
    Envelope(#[from] EnvelopeError),
}

/// What a replica is brought back from, but for the envelopes that came later.
#[derive(Debug)]
pub enum Base<'a> {
    /// Nothing: all envelopes are needed.
    Nothing,
    /// A snapshot ([`crate::snapshot`]).
    Snapshot(&'a [u8]),
    /// The replica as it was.
    Saved(Box<Saved>),
}

/// A replica brought back.
#[derive(Debug)]
pub struct Loaded {
    /// The replica.
    pub replica: Replica,
    /// Changes in the log that do not count: their authors have others of these numbers. To be taken out of its index.
    pub dropped: Vec<(ActorId, Tip)>,
    /// Envelopes of the log that do not fit: what they depend on is not there, or the log was written by somebody else.
    pub unfit: usize,
}

impl Replica {
    /// Brings a replica back: from its genesis, its membership records in the order in which they were given out, a base
    /// and the envelopes of the log that are not in it, in the log's order (others do no harm). Signatures are not checked
    /// again.
    pub fn load(
        key: Key,
        incarnation: Incarnation,
        genesis: &[u8],
        membership: &[Vec<u8>],
        base: Base<'_>,
        envelopes: impl Iterator<Item = Vec<u8>>,
        log: &dyn Envelopes,
    ) -> Result<Loaded, LoadError> {
        let genesis = Genesis::decode(genesis)?;
        let mut members = Membership::new(&genesis);
        for record in membership {
            members.insert(record)?;
        }
        let mut replica = Self::empty(key, incarnation, genesis, members);
        match base {
            Base::Nothing => {}
            Base::Snapshot(bytes) => replica.load_snapshot(bytes)?,
            Base::Saved(saved) => {
                let Saved { chains, view, masked, orphans, newer } = *saved;
                replica = Self { chains, view, masked, orphans, newer, ..replica };
            }
        }
        let mut gather = Gather::default();
        let mut refused = 0;
        for bytes in envelopes {
            let envelope = Envelope::decode(&replica.share, &replica.schema, &bytes, Trust::Stored)?;
            refused += usize::from(replica.take(envelope, bytes, log, &mut gather).is_err());
            replica.take_waiting(log, &mut gather);
            // The log has them.
            gather.received.accepted.clear();
            if gather.records.len() >= PORTION {
                replica.view.load(&std::mem::take(&mut gather.records));
            }
        }
        replica.view.load(&std::mem::take(&mut gather.records));
        replica.mask();
        // Its own changes in its own log are no sign of another copy, unless one lost.
        replica.stale = gather.forked;
        let unfit = refused + replica.waiting();
        Ok(Loaded { replica, dropped: gather.received.dropped, unfit })
    }

    fn load_snapshot(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let snapshot = Snapshot::decode(&self.share, bytes)?;
        let mut records = Vec::with_capacity(PORTION);
        for change in snapshot.changes()? {
            let change = change?;
            let author = change.author;
            self.chains.add(change.hash, &change.body, author.device, author.incarnation, &change.membership);
            for filed in change.body.records {
                match Record::decode(&filed.bytes) {
                    Ok(record) => records.push((filed.id, record)),
                    Err(_) => self.newer += 1,
                }
            }
            if records.len() >= PORTION {
                self.view.load(&std::mem::take(&mut records));
            }
        }
        self.view.load(&records);
        Ok(())
    }
}
