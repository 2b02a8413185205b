//! Probes: a `wait` here asks the connected members what was done there until now, and they ask this device.
//!
//! What a member last said is as old as the way that it came, and says nothing of what its users did a moment ago: what is
//! written in a mount is published a little later, what changes in a folder is found by looking, operations are gathered
//! before they are committed. So who waits sends a probe to each ([`Share::probe_members`]), and whoever gets one settles its
//! showings, commits, and says what it has before it answers ([`Share::begin_settling`]).
//!
//! Settling for others goes on in a thread of the share's own, which is there only while it has to be: one run at a time,
//! and all who ask while it goes on share the next one. However often others ask, such runs take a tenth of the time in the
//! long run, and more only where one alone takes longer than a second ([`Pace`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_core::id::DeviceId;
use crdtfs_core::sync::{PeerState, Settling};
use parking_lot::{Condvar, Mutex};

use crate::share::Share;

/// So much time a member that is not connected has to come when it is called. A device that is there is connected after a few
/// round trips.
const CALL: Duration = Duration::from_secs(2);

/// One run's time. Who still waits then probes again.
const RUN: Duration = Duration::from_secs(30);

/// Runs may take so much time before they have to rest.
const BURST: Duration = Duration::from_secs(60);

/// What runs took is forgotten at this part of the time that passes.
const PART: u32 = 10;

/// The longest rest: a wait is not to end in vain for what others asked.
const REST_MAX: Duration = Duration::from_secs(10);

/// The probes of one share, sent and received.
#[derive(Default)]
pub(crate) struct Probes {
    asking: Mutex<Asking>,
    settles: Mutex<Settles>,
    /// The thread is to stop, or to go on earlier.
    woken: Condvar,
}

/// What is asked of others.
#[derive(Debug, Default)]
struct Asking {
    /// The newest probe.
    number: u64,
    /// How many wait for answers.
    waits: usize,
}

/// What others ask for. A run serves those who asked before it began.
#[derive(Default)]
struct Settles {
    asked: u64,
    begun: u64,
    ended: u64,
    done: u64,
    running: bool,
    stopped: bool,
    pace: Pace,
    thread: Option<JoinHandle<()>>,
}

impl Settles {
    /// Asks for a run that begins after now.
    fn ask(&mut self) -> u64 {
        self.asked = self.begun + 1;
        self.asked
    }

    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    fn end(&mut self, number: u64, settled: bool) {
        self.ended = number;
        if settled {
            self.done = number;
        }
    }

    fn state(&self, number: u64) -> Settling {
        match number {
            number if number <= self.done => Settling::Done,
            number if number <= self.ended => Settling::Failed,
            _ => Settling::Busy,
        }
    }
}

/// How much of the time goes into what others ask for.
#[derive(Debug, Default)]
struct Pace {
    spent: Duration,
    at: Option<Instant>,
}

impl Pace {
    /// What was spent, less what has been forgotten since.
    fn left(&self, now: Instant) -> Duration {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.spent.saturating_sub(since / PART)
    }

    /// A run that took so long ended now.
    fn spend(&mut self, took: Duration, now: Instant) {
        self.spent = (self.left(now) + took).min(BURST + REST_MAX / PART);
        self.at = Some(now);
    }

    /// How long the next one has to wait.
    fn rest(&self, now: Instant) -> Duration {
        self.left(now).saturating_sub(BURST) * PART
    }
}

/// Waits for answers to a probe; the members are asked as long as it lives.
pub(crate) struct Probing {
    share: Arc<Share>,
    number: u64,
    since: Instant,
    /// Members that are not connected may still come until then.
    calls_end: Instant,
    /// Members that were called, and could not be reached.
    away: Mutex<BTreeSet<DeviceId>>,
}

impl Probing {
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Since when a connected member has not answered; `None` if it has, or does not know probes.
    pub(crate) fn unanswered(&self, state: &PeerState) -> Option<Instant> {
        state.probed.filter(|probed| *probed < self.number).map(|_| self.since)
    }

    /// Since when a member that is not connected may still come: it is called, and there is time for it. Who was away for a
    /// while and comes back just now is not to be judged by what it said before.
    pub(crate) fn called(&self, device: &DeviceId) -> Option<Instant> {
        let may_come = Instant::now() < self.calls_end && !self.away.lock().contains(device);
        may_come.then_some(self.since)
    }

    /// When members that are not connected are judged by what they last said.
    pub(crate) fn calls_end(&self) -> Instant {
        self.calls_end
    }

    /// A member could not be reached.
    pub(crate) fn is_away(&self, device: DeviceId) {
        self.away.lock().insert(device);
    }

    /// Asks once more: who could not do what was asked has another try.
    pub(crate) fn again(&self) {
        self.share.probes.asking.lock().number += 1;
        self.share.events.changed(&self.share);
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.share.probes.asking.lock().waits -= 1;
    }
}

impl Share {
    /// Asks all connected members, and those that become connected, what was done there until now. Whoever asks waits until
    /// `deadline`.
    pub(crate) fn probe_members(self: &Arc<Self>, deadline: Instant) -> Probing {
        let number = {
            let mut asking = self.probes.asking.lock();
            asking.waits += 1;
            asking.number += 1;
            asking.number
        };
        self.events.changed(self);
        let since = Instant::now();
        let calls_end = deadline.min(since + CALL);
        Probing { share: self.clone(), number, since, calls_end, away: Mutex::default() }
    }

    /// The newest probe, while somebody waits for answers.
    pub(crate) fn probe(&self) -> Option<u64> {
        let asking = self.probes.asking.lock();
        (asking.waits > 0).then_some(asking.number)
    }

    /// Begins to make known all that was done here until now; the number of the run.
    pub(crate) fn begin_settling(self: &Arc<Self>) -> u64 {
        let mut settles = self.probes.settles.lock();
        let number = settles.ask();
        if settles.running || settles.stopped {
            return number;
        }
        let share = self.clone();
        match std::thread::Builder::new().name("crdtfs-settle".into()).spawn(move || share.settle_for_others()) {
            Ok(thread) => {
                settles.running = true;
                // The one before has nothing left to do.
                settles.thread = Some(thread);
            }
            Err(error) => {
                tracing::warn!(share = %self.id(), %error, "cannot start a thread to answer a probe");
                let begun = settles.begin();
                settles.end(begun, false);
            }
        }
        number
    }

    /// How far a run is.
    pub(crate) fn settling(&self, number: u64) -> Settling {
        self.probes.settles.lock().state(number)
    }

    /// Ends the thread that settles for others, and waits for it.
    pub(crate) fn stop_settling(&self) {
        let thread = {
            let mut settles = self.probes.settles.lock();
            settles.stopped = true;
            self.probes.woken.notify_all();
            settles.thread.take()
        };
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(share = %self.id(), "the thread that answers probes panicked");
        }
    }

    fn settle_for_others(&self) {
        let _span = tracing::info_span!("settle", share = %self.id()).entered();
        while let Some(number) = self.next_run() {
            let start = Instant::now();
            let settled = self.events.settle(self, start + RUN);
            tracing::debug!(number, settled, took = ?start.elapsed(), "settled for others");
            {
                let mut settles = self.probes.settles.lock();
                settles.end(number, settled);
                let now = Instant::now();
                settles.pace.spend(now - start, now);
            }
            self.events.changed(self);
        }
    }

    /// Begins the next run, when it is time; `None` if nobody has asked for one.
    fn next_run(&self) -> Option<u64> {
        let mut settles = self.probes.settles.lock();
        loop {
            if settles.stopped || settles.asked <= settles.begun {
                settles.running = false;
                return None;
            }
            let rest = settles.pace.rest(Instant::now());
            if rest.is_zero() {
                return Some(settles.begin());
            }
            self.probes.woken.wait_for(&mut settles, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_a_run_goes_on_shares_the_next_one() {
        let mut settles = Settles::default();
        let first = settles.ask();
        assert_eq!(settles.ask(), first, "it has not begun");
        let run = settles.begin();
        assert_eq!((run, settles.state(first)), (first, Settling::Busy));
        let next = settles.ask();
        assert!(next > first, "what was done since it began may not be in it");
        assert_eq!(settles.ask(), next);
        settles.end(run, true);
        assert_eq!((settles.state(first), settles.state(next)), (Settling::Done, Settling::Busy));
        let run = settles.begin();
        settles.end(run, false);
        assert_eq!((settles.state(first), settles.state(next)), (Settling::Done, Settling::Failed));
        let last = settles.ask();
        let run = settles.begin();
        settles.end(run, true);
        assert_eq!((settles.state(next), settles.state(last)), (Settling::Done, Settling::Done));
    }

    #[test]
    fn in_the_long_run_a_tenth_of_the_time_is_for_others() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (mut now, mut took) = (start, Duration::ZERO);
        let run = Duration::from_millis(500);
        while took < BURST {
            assert_eq!(pace.rest(now), Duration::ZERO, "after {took:?}");
            (now, took) = (now + run, took + run);
            pace.spend(run, now);
        }
        let (burst, mut resting) = (now, Duration::ZERO);
        let mut busy = Duration::ZERO;
        for _ in 0..1000 {
            let rest = pace.rest(now);
            assert!(rest <= REST_MAX);
            (now, resting, busy) = (now + rest + run, resting + rest, busy + run);
            pace.spend(run, now);
        }
        let part = busy.as_secs_f64() / (now - burst).as_secs_f64();
        assert!(part < 0.13, "{part}, resting {resting:?}");
        // A long one is followed by a rest that a wait outlives.
        pace.spend(Duration::from_secs(3600), now);
        assert_eq!(pace.rest(now), REST_MAX);
        assert_eq!(pace.rest(now + REST_MAX), Duration::ZERO);
    }
}
