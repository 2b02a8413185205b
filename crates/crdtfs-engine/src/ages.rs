//! How long changes have been on this device: the log knows their order, and now and then it is noted how many there were.
//!
//! Neither the author's clock nor the time of arrival is in the log; the first says nothing about how long this device has
//! known a change, the second would be noise in a format that is to be the same everywhere.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Notes that are kept at most; of two that lie close together one goes.
const MARKS_MAX: usize = 256;

/// At this time, so many envelopes were in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    time_ms: i64,
    envelopes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ages {
    marks: VecDeque<Mark>,
}

impl Ages {
    /// Notes how many envelopes there are now; true if that is worth keeping. A note is never older than it says: what is
    /// counted by it has been here at least since then.
    pub(crate) fn note(&mut self, now_ms: i64, envelopes: u64) -> bool {
        if self.marks.back().is_some_and(|last| last.envelopes == envelopes && last.time_ms <= now_ms) {
            return false;
        }
        // A clock that was set back: what was noted for later has to be noted again.
        while self.marks.back().is_some_and(|last| last.time_ms > now_ms) {
            self.marks.pop_back();
        }
        self.marks.push_back(Mark { time_ms: now_ms, envelopes });
        if self.marks.len() > MARKS_MAX {
            let span = |at: &usize| self.marks[at + 1].time_ms.saturating_sub(self.marks[at - 1].time_ms);
            // Without it, what it counted seems younger: only ever kept longer.
            let dense = (1..self.marks.len() - 1).min_by_key(span).expect("there are many");
            self.marks.remove(dense);
        }
        true
    }

    /// The log has only so many: a part of its end was lost.
    pub(crate) fn cut_to(&mut self, envelopes: u64) {
        self.marks.iter_mut().for_each(|mark| mark.envelopes = mark.envelopes.min(envelopes));
    }

    /// How many envelopes, the first ones of the log, have been here for as long as that.
    pub(crate) fn older_than(&self, now_ms: i64, age_ms: i64) -> u64 {
        let then = now_ms.saturating_sub(age_ms);
        self.marks.iter().rev().find(|mark| mark.time_ms <= then).map_or(0, |mark| mark.envelopes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn what_was_there_then_is_as_old_as_that() {
        let mut ages = Ages::default();
        assert_eq!(ages.older_than(0, 0), 0);
        assert!(ages.note(0, 10));
        assert!(!ages.note(DAY, 10), "nothing came since");
        assert!(ages.note(2 * DAY, 15));
        assert_eq!([0, DAY, 2 * DAY].map(|age| ages.older_than(2 * DAY, age)), [15, 10, 10]);
        assert_eq!(ages.older_than(2 * DAY, 3 * DAY), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_older() {
        let mut ages = Ages::default();
        ages.note(5 * DAY, 10);
        assert!(ages.note(DAY, 10), "noted for a day that has not come yet");
        ages.note(2 * DAY, 20);
        assert_eq!([0, DAY, 2 * DAY].map(|age| ages.older_than(2 * DAY, age)), [20, 10, 0]);
    }

    #[test]
    fn a_log_that_lost_its_end_has_no_more_than_it_has() {
        let mut ages = Ages::default();
        ages.note(0, 10);
        ages.note(DAY, 20);
        ages.cut_to(12);
        assert_eq!([DAY, 0].map(|age| ages.older_than(DAY, age)), [10, 12]);
    }

    proptest! {
        /// However many notes were thinned out: nothing is ever taken for older than it is.
        #[test]
        fn thinned_out_nothing_seems_older(steps in proptest::collection::vec((0..40 * DAY, 0..5_u64), 1..700), age in 0..90 * DAY) {
            let mut ages = Ages::default();
            let (mut now, mut count, mut arrived) = (0, 0, Vec::new());
            for (passed, more) in steps {
                now += passed / 100;
                count += more;
                arrived.extend((0..more).map(|_| now));
                ages.note(now, count);
            }
            let old = ages.older_than(now, age);
            prop_assert!(arrived[..old as usize].iter().all(|at| now - at >= age));
            prop_assert!(ages.marks.len() <= MARKS_MAX);
        }
    }
}
