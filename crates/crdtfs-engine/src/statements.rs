//! What members last said that they hold, signed by each, for those who are not connected with them.
//!
//! This device signs a statement whenever what it holds changed and somebody is there to be told; every device passes on the
//! newest of each member. So a chain of devices, or devices that are never on at the same time, know of each other
//! what `wait` and `status` are asked. A statement that all content is here goes out at once; what is under way, and
//! what others said, at most once a second.
//!
//! A crash loses the statements of the last seconds; they come again from those who have them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crdtfs_core::id::DeviceId;
use crdtfs_core::sync::Fault;
use crdtfs_core::wire::{Said, Statement, StatementError};

use crate::share::{Share, now_ms};

/// What is still changing is told this often at most.
const EVERY: Duration = Duration::from_secs(1);

/// The newest statement of each device.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    newest: BTreeMap<DeviceId, Statement>,
    /// Numbers that others know of this device's own statements, which this run did not make: an earlier run's, a copy's.
    outbid: u64,
    /// When this device last signed one.
    signed: Option<Instant>,
    /// What others said, as it is passed on, and when that was last brought up to date.
    passed_on: (BTreeMap<DeviceId, Statement>, Option<Instant>),
    /// Something is to be said, but not yet.
    waiting: bool,
    unsaved: bool,
}

/// What became of a statement that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    News,
    Known,
    Forged,
}

impl Statements {
    /// Those that were kept by an earlier run.
    fn kept(share: &Share, encoded: &[Vec<u8>]) -> Self {
        let read = encoded.iter().filter_map(|bytes| Statement::decode(bytes).ok());
        let newest = read.filter(|statement| statement.is_signed(&share.id())).map(|one| (one.device, one)).collect();
        Self { newest, ..Self::default() }
    }

    /// Says what this device holds, if that is not what it said last; false if it is to be said, but not yet.
    fn say(&mut self, own: &DeviceId, said: Said, now: Instant, sign: impl FnOnce(u64) -> Statement) -> bool {
        let last = self.newest.get(own);
        let same = last.is_some_and(|last| last.said == said);
        let number = last.map_or(0, |last| last.number);
        if same && number > self.outbid {
            return true;
        }
        // Two copies of one device that outbid each other do it slowly, too.
        let hurried = said.missing_files == 0 && !same;
        if !hurried && self.signed.is_some_and(|signed| now < signed + EVERY) {
            self.waiting = true;
            return false;
        }
        self.newest.insert(*own, sign(number.max(self.outbid).saturating_add(1)));
        self.signed = Some(now);
        self.unsaved = true;
        true
    }

    fn take(&mut self, own: &DeviceId, statement: &Statement, is_signed: impl FnOnce() -> bool) -> Taken {
        let known = self.newest.get(&statement.device);
        if known.is_some_and(|known| known.number >= statement.number) {
            return Taken::Known;
        }
        if !is_signed() {
            return Taken::Forged;
        }
        if statement.device == *own {
            let news = self.outbid < statement.number;
            self.outbid = statement.number.max(self.outbid);
            return if news { Taken::News } else { Taken::Known };
        }
        self.newest.insert(statement.device, statement.clone());
        self.unsaved = true;
        Taken::News
    }

    /// Brings up to date what is passed on of others; false if there is more, but not yet.
    fn pass_on(&mut self, now: Instant) -> bool {
        let (passed_on, when) = &mut self.passed_on;
        if *passed_on == self.newest {
            return true;
        }
        let due = when.is_none_or(|when| now >= when + EVERY);
        if due {
            *passed_on = self.newest.clone();
            *when = Some(now);
        }
        self.waiting |= !due;
        due
    }
}

impl Share {
    /// Brings back what members said in earlier runs.
    pub(crate) fn remember_statements(&self) {
        let kept = self.dir().statements().unwrap_or_else(|error| {
            tracing::warn!(share = %self.id(), %error, "what members said that they hold has to come again");
            Vec::new()
        });
        *self.statements.lock() = Statements::kept(self, &kept);
    }

    /// Keeps what members said for the next run.
    pub(crate) fn keep_statements(&self) {
        let mut statements = self.statements.lock();
        if !std::mem::take(&mut statements.unsaved) {
            return;
        }
        let encoded: Vec<Vec<u8>> = statements.newest.values().map(|one| one.as_bytes().to_vec()).collect();
        if let Err(error) = self.dir().write_statements(&encoded) {
            tracing::warn!(share = %self.id(), %error, "what members said that they hold cannot be kept");
            statements.unsaved = true;
        }
    }

    /// What a member last said, to whomever, of what it holds.
    pub(crate) fn statement(&self, device: &DeviceId) -> Option<Said> {
        self.statements.lock().newest.get(device).map(|statement| statement.said)
    }

    /// Statements of members with larger numbers than these, of about so many bytes.
    pub(crate) fn statements_after(&self, known: &BTreeMap<DeviceId, u64>, max_bytes: usize) -> Vec<Statement> {
        self.say();
        let members = self.member_devices();
        let mut statements = self.statements.lock();
        if !statements.pass_on(Instant::now()) {
            self.events.later(self, Instant::now() + EVERY);
        }
        let own = statements.newest.get(&self.device());
        let others = statements.passed_on.0.values().filter(|one| one.device != self.device());
        let mut bytes = 0;
        let new = own.into_iter().chain(others).filter(|one| members.contains(&one.device));
        let new = new.filter(|one| known.get(&one.device).is_none_or(|known| *known < one.number));
        let batch = new.take_while(|one| {
            let first = bytes == 0;
            bytes += one.as_bytes().len();
            first || bytes <= max_bytes
        });
        batch.cloned().collect()
    }

    /// Makes the sessions look whether something that had to wait is to be said now.
    pub(crate) fn pass_on_statements(&self) {
        if std::mem::take(&mut self.statements.lock().waiting) {
            self.events.changed(self);
        }
    }

    /// Says what this device holds now.
    fn say(&self) {
        // One at a time: what was counted earlier must not get the larger number.
        let _saying = self.saying.lock();
        let holding = self.holding();
        let said = Said {
            epoch: self.read(|replica| replica.epoch()),
            heads: holding.vector.digest(),
            missing_files: holding.missing_files,
            missing_bytes: holding.missing_bytes,
            partial: holding.partial,
        };
        let least = u64::try_from(now_ms()).unwrap_or_default();
        let sign = |number: u64| Statement::sign(&self.key, &self.id(), number.max(least), said);
        let now = Instant::now();
        if !self.statements.lock().say(&self.device(), said, now, sign) {
            self.events.later(self, now + EVERY);
        }
    }

    /// Takes statements that a peer passes on; gives those of members. What is of nobody here may be of somebody who is
    /// not known yet: it is passed over.
    pub(crate) fn receive_statements(&self, encoded: &[Vec<u8>]) -> Result<Vec<Statement>, Fault> {
        let members = self.member_devices();
        let (mut taken, mut news) = (Vec::new(), false);
        for bytes in encoded {
            let statement = match Statement::decode(bytes) {
                Ok(statement) => statement,
                // Of a later version of the program, which this one cannot verify.
                Err(StatementError::Format(_)) => continue,
                Err(error) => return Err(Fault::Protocol(error.to_string())),
            };
            if !members.contains(&statement.device) {
                continue;
            }
            match self.statements.lock().take(&self.device(), &statement, || statement.is_signed(&self.id())) {
                Taken::News => news = true,
                Taken::Known => {}
                Taken::Forged => {
                    let device = statement.device;
                    return Err(Fault::Protocol(format!("passed on a statement that {device} did not sign")));
                }
            }
            taken.push(statement);
        }
        if news {
            self.events.changed(self);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crdtfs_core::id::{Hash, ShareId};
    use crdtfs_core::key::Key;

    use super::*;

    const SHARE: ShareId = ShareId([9; 32]);

    fn said(heads: u8, missing: u64) -> Said {
        Said { epoch: 0, heads: Hash([heads; 32]), missing_files: missing, missing_bytes: missing, partial: false }
    }

    fn key(n: u8) -> Key {
        Key::new(&[n; 32])
    }

    fn statement(device: u8, number: u64, said: Said) -> Statement {
        Statement::sign(&key(device), &SHARE, number, said)
    }

    fn say(statements: &mut Statements, what: Said, now: Instant) -> (bool, u64, Said) {
        let own = key(1).id();
        let done = statements.say(&own, what, now, |number| statement(1, number, what));
        let last = &statements.newest[&own];
        (done, last.number, last.said)
    }

    #[test]
    fn what_is_complete_is_said_at_once_and_what_is_under_way_now_and_then() {
        let (mut statements, now) = (Statements::default(), Instant::now());
        assert_eq!(say(&mut statements, said(1, 9), now), (true, 1, said(1, 9)));
        assert_eq!(say(&mut statements, said(1, 8), now), (false, 1, said(1, 9)));
        assert_eq!(say(&mut statements, said(1, 0), now), (true, 2, said(1, 0)));
        assert_eq!(say(&mut statements, said(1, 0), now + EVERY), (true, 2, said(1, 0)), "it is what was said");
        assert_eq!(say(&mut statements, said(2, 1), now), (false, 2, said(1, 0)));
        assert_eq!(say(&mut statements, said(2, 1), now + EVERY), (true, 3, said(2, 1)));
    }

    #[test]
    fn the_newest_counts_and_nobody_else_can_make_one() {
        let (mut statements, own) = (Statements::default(), key(1).id());
        let mut take = |statement: &Statement| statements.take(&own, statement, || statement.is_signed(&SHARE));
        assert_eq!(take(&statement(2, 5, said(1, 0))), Taken::News);
        assert_eq!(take(&statement(2, 5, said(1, 0))), Taken::Known);
        assert_eq!(take(&statement(2, 4, said(3, 0))), Taken::Known);
        assert_eq!(take(&statement(2, 6, said(4, 0))), Taken::News);
        let elsewhere = Statement::sign(&key(2), &ShareId([8; 32]), 7, said(5, 0));
        assert_eq!(take(&elsewhere), Taken::Forged);
        assert_eq!(statements.newest[&key(2).id()].said, said(4, 0));
    }

    #[test]
    fn what_others_know_of_an_earlier_run_is_outbid() {
        let (mut statements, now, own) = (Statements::default(), Instant::now(), key(1).id());
        assert_eq!(say(&mut statements, said(1, 0), now).1, 1);
        let earlier = statement(1, 70, said(2, 0));
        assert_eq!(statements.take(&own, &earlier, || true), Taken::News);
        assert_eq!(statements.newest[&own].said, said(1, 0), "this run knows better what it holds");
        assert_eq!(statements.take(&own, &earlier, || true), Taken::Known);
        assert!(!say(&mut statements, said(1, 0), now).0, "not at once: a copy of this device would answer at once");
        assert_eq!(say(&mut statements, said(1, 0), now + EVERY), (true, 71, said(1, 0)));
    }

    #[test]
    fn what_others_said_is_passed_on_in_rounds() {
        let (mut statements, now, own) = (Statements::default(), Instant::now(), key(1).id());
        statements.take(&own, &statement(2, 1, said(1, 0)), || true);
        assert!(statements.pass_on(now));
        assert!(statements.pass_on(now), "there is nothing more");
        statements.take(&own, &statement(2, 2, said(2, 0)), || true);
        assert!(!statements.pass_on(now));
        assert_eq!(statements.passed_on.0[&key(2).id()].number, 1);
        assert!(statements.pass_on(now + EVERY));
        assert_eq!(statements.passed_on.0[&key(2).id()].number, 2);
    }
}
