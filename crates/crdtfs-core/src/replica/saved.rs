//! A replica as bytes, so that a start need not read and evaluate the whole log again.
//!
//! A cache beside the log, which stays the truth. It belongs to one build of this program ([`crate::view::BUILD`]); another
//! one passes it over and reads the log. Who keeps it sees to its being whole (a checksum) and to the log having all its
//! changes ([`Saved::vector`]).

use std::collections::BTreeSet;

use minicbor::Encoder;
use minicbor::decode::{Decoder, Error};

use super::Replica;
use crate::chains::Chains;
use crate::document::Schema;
use crate::id::{RecordId, ShareId};
use crate::vector::Vector;
use crate::view::{BUILD, View};

/// What [`Replica::save`] kept of a replica.
pub struct Saved {
    pub(super) chains: Chains,
    pub(super) view: View,
    pub(super) masked: BTreeSet<RecordId>,
    pub(super) orphans: BTreeSet<RecordId>,
    pub(super) newer: usize,
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("changes", &self.chains.len()).finish_non_exhaustive()
    }
}

impl Saved {
    /// Reads back what [`Replica::save`] wrote; `None` if another program or another share's replica did.
    ///
    /// Errors: the bytes are damaged.
    pub fn read(share: &ShareId, bytes: &[u8]) -> Result<Option<Self>, Error> {
        let mut d = Decoder::new(bytes);
        if d.str()? != BUILD || d.decode::<ShareId>()? != *share {
            return Ok(None);
        }
        let (masked, orphans, newer): (_, _, u64) = d.decode()?;
        let view = d.bytes()?;
        // The two have nothing in common, and both take their time.
        let (chains, view) = std::thread::scope(|scope| {
            let chains = scope.spawn(|| Chains::restore(Schema::new(share).genesis(), &mut d));
            let view = View::restore(view);
            (chains.join().expect("decoding does not panic"), view)
        });
        let newer = usize::try_from(newer).map_err(Error::message)?;
        Ok(Some(Self { chains: chains?, view: view?, masked, orphans, newer }))
    }

    /// The changes that it has.
    pub fn vector(&self) -> &Vector {
        self.chains.vector()
    }
}

impl Replica {
    /// The replica as bytes for [`Saved::read`]. `None` while operations wait to be committed: they are in no log.
    pub fn save(&self) -> Option<Vec<u8>> {
        if !self.queue.is_empty() {
            return None;
        }
        let view = self.view.save()?;
        let rest = (&self.masked, &self.orphans, self.newer as u64);
        let mut e = Encoder::new(Vec::with_capacity(view.len() + 64));
        let written = e.str(BUILD).and_then(|e| e.encode(self.share)).and_then(|e| e.encode(rest));
        written.and_then(|e| e.bytes(&view)).expect("writing to memory cannot fail");
        let mut out = e.into_writer();
        self.chains.save(&mut out);
        Some(out)
    }
}
