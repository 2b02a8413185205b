//! What goes into a share's log and comes out of it: commits, changes of others, durability.

pub(crate) mod snapshots;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::{ActorId, DeviceId, Incarnation};
use crdtfs_core::node::Delta;
use crdtfs_core::replica::{CommitError, Received, Replica};
use crdtfs_core::sync::{Fault, Numbered};
use crdtfs_core::vector::Vector;
use crdtfs_store::StoreError;
use parking_lot::RwLockWriteGuard;

use crate::incarnation::IncarnationFile;
use crate::load::{self, LogEnvelopes};
use crate::share::{Ordered, Share, ShareError};

/// What was not asked to be durable is so after this long at most.
const DURABLE_AFTER: Duration = Duration::from_secs(5);

/// Which of the queued operations are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    /// Those that are not held back.
    Due,
}

/// What became of what was queued.
#[derive(Clone, Copy, Debug)]
struct Committed {
    /// The log has more than before.
    more: bool,
    /// Nothing is left that was to be committed.
    whole: bool,
}

/// What became of what another device sent.
struct Taken {
    /// What is here is not what it was: every session has to say so, not only the one that it came by.
    news: bool,
    blame: Result<(), Fault>,
}

impl Share {
    /// Puts all operations into changes, those into the log, and tells others. False if some could not be.
    pub(crate) fn commit_all(&self) -> bool {
        self.commit(Which::All)
    }

    fn commit(&self, which: Which) -> bool {
        let mut order = self.order.lock();
        let committed = self.commit_ordered(&mut order, which);
        drop(order);
        if committed.more {
            self.events.changed(self);
        }
        committed.whole
    }

    /// What the share asked to be called for ([`crate::share::Events::uncommitted`], [`crate::share::Events::later`]).
    pub(crate) fn take_turn(&self) {
        self.commit(Which::Due);
        self.pass_on_statements();
    }

    /// Commits what is queued.
    fn commit_ordered(&self, order: &mut Ordered, which: Which) -> Committed {
        if which == Which::All {
            self.held_back.lock().clear();
        }
        let mut done = Committed { more: self.retry_unlogged(order), whole: false };
        while order.unlogged.is_empty() {
            // The lock is given back after each change: a mount's operations go on meanwhile.
            let committed = {
                let mut replica = self.replica.write();
                // With the replica locked: what is held back is done and noted under the same lock.
                let held = self.held_back.lock().records(Instant::now());
                replica.commit_but(held, self.history_options.clock.now_ms())
            };
            match committed {
                Ok(Some(change)) => {
                    let tip = change.tip;
                    let bytes = change.envelope;
                    done.more |= self.log_one(order, Numbered { actor: change.actor, tip, bytes });
                }
                Ok(None) => {
                    done.whole = true;
                    break;
                }
                Err(CommitError::NeedsIncarnation) => {
                    if let Err(error) = self.renew(order) {
                        self.note_trouble(Some(error.to_string()));
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(share = %self.id(), %error, "operations cannot be committed");
                    self.note_trouble(Some(format!("changes made here are not sent: {error}")));
                    break;
                }
            }
        }
        self.flush_log(order);
        done
    }

    /// Hands the log's buffer to the system; on a full disk it stays where it is and is tried again.
    fn flush_log(&self, order: &mut Ordered) {
        match self.space.with_spare(|| self.log().flush()) {
            Ok(()) => {
                if std::mem::take(&mut order.unflushed) && order.unlogged.is_empty() {
                    self.note_trouble(None);
                }
            }
            Err(error) => {
                tracing::warn!(share = %self.id(), %error, "the log cannot be written");
                self.note_trouble(Some(waits_in_memory(&error)));
                (order.unflushed, order.unsynced) = (true, true);
            }
        }
    }

    /// Starts a new chain: somebody else writes this device's.
    fn renew(&self, order: &mut Ordered) -> Result<(), ShareError> {
        let file = self.dir().path().join("incarnation.json");
        let incarnation: Incarnation = IncarnationFile::new(&file).renew()?;
        tracing::warn!(share = %self.id(), "another copy of this device's state has made changes; going on as a new one");
        self.replica.write().renew(incarnation);
        order.incarnation = Some(incarnation);
        Ok(())
    }

    /// Appends one envelope, or keeps it until there is room. True if it is in the log.
    fn log_one(&self, order: &mut Ordered, envelope: Numbered) -> bool {
        if !order.unlogged.is_empty() {
            order.unlogged.push_back(envelope);
            return false;
        }
        // Bytes before the change that speaks of them, also for a process that is killed between the two.
        let append = || self.log().append(&envelope.actor, envelope.tip.seq, &envelope.bytes);
        match self.space.with_spare(|| self.store().flush().and_then(|()| append())) {
            Ok(()) => {
                order.logged.set(envelope.actor, envelope.tip);
                order.unsynced = true;
                order.since_snapshot += 1;
                order.since_saved += 1;
                true
            }
            Err(error) => {
                tracing::warn!(share = %self.id(), %error, "a change waits until the log can be written");
                self.note_trouble(Some(waits_in_memory(&error)));
                order.unlogged.push_back(envelope);
                false
            }
        }
    }

    /// Appends what had to wait; true if there was something and the log took some of it.
    fn retry_unlogged(&self, order: &mut Ordered) -> bool {
        let mut waiting = std::mem::take(&mut order.unlogged);
        let had = !waiting.is_empty();
        let mut more = false;
        while let Some(envelope) = waiting.pop_front() {
            if !self.log_one(order, envelope) {
                order.unlogged.append(&mut waiting);
                return more;
            }
            more = true;
        }
        if had {
            self.note_trouble(None);
        }
        more
    }

    /// Takes changes of others.
    pub(crate) fn receive(&self, from: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault> {
        if self.space.is_out() && !self.space.use_spare() {
            return Err(Fault::Local("its disk is full".into()));
        }
        let mut order = self.order.lock();
        let mut replica = self.replica.write();
        let kept = LogEnvelopes { log: self.log(), unlogged: &order.unlogged };
        let received = replica.receive(envelopes, &kept);
        let taken = self.take_received(&mut order, replica, received, from);
        drop(order);
        if taken.news {
            self.events.changed(self);
        }
        taken.blame
    }

    /// Takes membership records of others.
    pub(crate) fn receive_membership(&self, from: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault> {
        let mut order = self.order.lock();
        let mut replica = self.replica.write();
        let kept = LogEnvelopes { log: self.log(), unlogged: &order.unlogged };
        let received = replica.receive_membership(&records, &kept);
        let changed = !received.membership.is_empty();
        let taken = self.take_received(&mut order, replica, received, from);
        drop(order);
        let kept = if changed { self.keep_membership() } else { Ok(()) };
        if changed || taken.news {
            self.events.changed(self);
        }
        kept.map_err(|error| Fault::Local(error.to_string()))?;
        taken.blame
    }

    /// Announces and logs what was taken.
    fn take_received(
        &self,
        order: &mut Ordered,
        replica: RwLockWriteGuard<'_, Replica>,
        received: Received,
        from: &DeviceId,
    ) -> Taken {
        self.announce(&replica, None, &received.delta);
        drop(replica);
        if !received.dropped.is_empty() {
            self.drop_logged(order, &received);
        }
        let mut news = !received.dropped.is_empty();
        for accepted in received.accepted {
            news |=
                self.log_one(order, Numbered { actor: accepted.actor, tip: accepted.tip, bytes: accepted.envelope });
        }
        self.flush_log(order);
        if received.republish {
            self.events.uncommitted(self);
        }
        for refused in &received.refused {
            tracing::warn!(share = %self.id(), peer = %from, %refused, "refused");
        }
        Taken { news, blame: received.blame.map_or(Ok(()), |refused| Err(refused.into())) }
    }

    /// Two changes had one actor and number, and those in the log lost.
    fn drop_logged(&self, order: &mut Ordered, received: &Received) {
        let dropped: Vec<(ActorId, u64)> = received.dropped.iter().map(|(actor, tip)| (*actor, tip.seq)).collect();
        self.log().forget(&dropped);
        order.unlogged.retain(|envelope| !dropped.contains(&(envelope.actor, envelope.tip.seq)));
        for actor in dropped.iter().map(|(actor, _)| actor) {
            order.logged.remove(actor);
            if let Some(tip) = self.read(|replica| replica.vector().get(actor)) {
                order.logged.set(*actor, tip);
            }
        }
        self.void_snapshots(order);
    }

    /// Envelopes of the log that are not in `known`.
    pub(crate) fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered> {
        let start = self.read(|replica| replica.start_after(known));
        let entries = match self.log().read_after(&start, max_bytes) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(share = %self.id(), %error, "the log cannot be read");
                return Vec::new();
            }
        };
        self.read(|replica| {
            let numbered = entries.into_iter().filter_map(|entry| {
                let hash = replica.chains().change(&entry.actor, entry.seq)?;
                let tip = crdtfs_core::vector::Tip { seq: entry.seq, hash };
                Some(Numbered { actor: entry.actor, tip, bytes: entry.bytes })
            });
            numbered.collect()
        })
    }

    /// Returns when every operation so far, with the bytes that it speaks of, is durable.
    pub(crate) fn make_durable(&self) -> Result<(), ShareError> {
        self.commit_durably(Which::All)
    }

    fn commit_durably(&self, which: Which) -> Result<(), ShareError> {
        // Bytes first, then the changes that speak of them.
        self.store().sync()?;
        let mut order = self.order.lock();
        let more = self.commit_ordered(&mut order, which).more;
        let waits = !order.unlogged.is_empty();
        order.unsynced = false;
        order.synced = Some(Instant::now());
        drop(order);
        let synced = self.log().sync();
        if more {
            self.events.changed(self);
        }
        if let Err(error) = synced {
            self.order.lock().unsynced = true;
            return Err(error.into());
        }
        if waits {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let path = self.dir().path().to_owned();
            return Err(crate::state::StateError::Io { what: "write the log in", path, source: full }.into());
        }
        Ok(())
    }

    /// What is to be done now and then: durability, retries, snapshots.
    pub(crate) fn chores(self: &Arc<Self>) {
        let (due, retry) = {
            let order = self.order.lock();
            let old = order.synced.is_none_or(|synced| synced.elapsed() >= DURABLE_AFTER);
            (order.unsynced && old, !order.unlogged.is_empty())
        };
        if retry {
            self.commit(Which::Due);
        }
        if due && let Err(error) = self.commit_durably(Which::Due) {
            tracing::warn!(share = %self.id(), %error, "not durable yet");
        }
        self.keep_statements();
        self.snapshot_if_due();
    }

    /// Saves the replica for the next start, if nothing is under way.
    fn save(&self) -> Result<(), ShareError> {
        self.make_durable()?;
        // Nothing is committed meanwhile, so the log has all that is saved.
        let mut order = self.order.lock();
        if order.unlogged.is_empty() && !order.unsynced && self.read(|replica| load::save(replica, self.log()))? {
            order.since_saved = 0;
        }
        Ok(())
    }

    /// Makes everything durable and says so: the next start goes on with the same chain.
    pub(crate) fn close(&self) -> Result<(), ShareError> {
        self.end_snapshots();
        self.make_durable()?;
        self.keep_statements();
        let (incarnation, saved) = {
            let order = self.order.lock();
            (order.incarnation, order.since_saved == 0)
        };
        // All is durable by now: without this the next start takes longer.
        if !saved && let Err(error) = self.save() {
            tracing::warn!(share = %self.id(), %error, "the next start reads the log");
        }
        if let Err(error) = self.log().attest() {
            tracing::warn!(share = %self.id(), %error, "the log does not say that it was left in order");
        }
        if let Some(incarnation) = incarnation {
            IncarnationFile::new(&self.dir().path().join("incarnation.json")).close(&incarnation)?;
        }
        Ok(())
    }

    /// Tells everyone of a change of the view that no operation made.
    pub(crate) fn announce_all(&self, replica: &Replica, delta: &Delta) {
        self.announce(replica, None, delta);
    }
}

/// What is said of a log that cannot be written.
fn waits_in_memory(error: &StoreError) -> String {
    format!("{error}: changes made here wait in memory. Free some space, then they go on")
}

#[cfg(test)]
mod tests;
