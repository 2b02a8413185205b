//! Verifying the log, and giving up places in it that are damaged.

use crdtfs_core::id::ActorId;

use super::{FILE, GONE, HEADER, Inner, Log, MAX_ENVELOPE, Scan, VOID, header};
use crate::check::Problem;
use crate::error::StoreError;
use crate::storage::read_full;

impl Log {
    /// Verifies the sums of every stored byte; `tell` hears of how many there are so far.
    ///
    /// With `repair` what is damaged counts as not there: the log goes on around it, and envelopes that come again from other
    /// devices are appended as new ones are. Damaged snapshots are removed: they are caches.
    pub fn check(&self, repair: bool, tell: &mut dyn FnMut(u64)) -> Result<Vec<Problem>, StoreError> {
        self.sync()?;
        let inner = &*self.inner;
        let mut scan = Scan::default();
        let end = inner.state.lock().start;
        let scanned = scan.run(inner.file.as_ref(), &inner.nonce, end);
        scanned.map_err(StoreError::io("read", &inner.path()))?;
        tell(end);
        let mut problems = Vec::new();
        for (from, to) in scan.gaps {
            let mut mended = None;
            if repair {
                inner.give_up(from, to).map_err(StoreError::io("mend", &inner.path()))?;
                mended = Some("given up: the changes that were there come again from other devices".into());
            }
            let message = format!("{} bytes at {from} are damaged", to - from);
            problems.push(Problem { place: format!("log/{FILE}"), message, mended });
        }
        for file in inner.storage.list("").map_err(StoreError::io("list", &inner.dir))? {
            let Some(name) = file.strip_suffix(".snap") else { continue };
            let Ok(Some(Err(reason))) = inner.snapshot(name) else { continue };
            let mut mended = None;
            if repair {
                inner.storage.remove(&file).map_err(StoreError::io("remove", &inner.dir.join(&file)))?;
                mended = Some("removed: it is a cache, and will be made again".into());
            }
            problems.push(Problem { place: format!("log/{file}"), message: reason.into(), mended });
        }
        Ok(problems)
    }

    /// The numbers up to `upto` that are not here of an actor's chain, as (first, last), in order. Chains begin with 1.
    pub fn lacks(&self, actor: &ActorId, upto: u64) -> Vec<(u64, u64)> {
        let state = self.inner.state.lock();
        let chain = state.actor_index.get(actor).map_or(&[][..], |index| &state.actors[*index as usize].1);
        let (mut lacks, mut next) = (Vec::new(), 1);
        for seq in chain.iter().map(|(seq, _)| *seq).take_while(|seq| *seq <= upto).chain([upto + 1]) {
            if seq > next {
                lacks.push((next, seq - 1));
            }
            next = seq + 1;
        }
        lacks
    }
}

impl Inner {
    /// Has a range in which no record is good count as one that holds nothing, durably.
    fn give_up(&self, from: u64, to: u64) -> std::io::Result<()> {
        let durable = self.state.lock().durable;
        let mut at = from;
        while at < to {
            let rest = (to - at) as usize - HEADER;
            // Half of it, where there is more: what is left has room for another header.
            let len = if rest > MAX_ENVELOPE { MAX_ENVELOPE / 2 } else { rest };
            let mut bytes = vec![0; len];
            read_full(self.file.as_ref(), &mut bytes, at + HEADER as u64)?;
            self.file.write_all_at(&header(&self.nonce, at, &VOID, 0, durable, &bytes), at)?;
            at += (HEADER + len) as u64;
        }
        self.file.sync()?;
        let mut state = self.state.lock();
        let state = &mut *state;
        for slot in state.entries.iter_mut().filter(|slot| slot.offset >= from && slot.offset < to) {
            slot.offset = GONE;
        }
        let entries = &state.entries;
        for (_, chain) in &mut state.actors {
            chain.retain(|(_, entry)| entries[*entry as usize].offset != GONE);
        }
        Ok(())
    }
}
