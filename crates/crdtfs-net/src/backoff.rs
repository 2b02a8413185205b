//! When to try again: exponential with jitter, as a function of the attempts alone.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const NEAR: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_secs(30);
/// Attempts at the interval [`NEAR`] before a device on the local network counts as gone: about ten minutes.
const NEAR_ATTEMPTS: u32 = 300;

/// Counts failures and says how long to wait.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: from 200 ms doubling to 30 s; to 2 s for a device on the local network, where a
    /// packet is cheap and a device that comes back should be met within 2 s, until it has been gone for ten minutes.
    /// `jitter` is uniform in 0..1 and takes up to a quarter away.
    pub(crate) fn failed(&mut self, near: bool, jitter: f64) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        let cap = if near && self.failures < NEAR_ATTEMPTS { NEAR } else { FAR };
        self.failures = self.failures.saturating_add(1);
        doubled.min(cap).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0)
    }

    /// Starts again from the shortest wait.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How long a device that broke the protocol is not talked to, by the number of times it did: 2 s doubling to 5 min.
pub(crate) fn penalty(offences: u32) -> Duration {
    Duration::from_secs(2).saturating_mul(1 << offences.saturating_sub(1).min(10)).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_cap_and_start_again() {
        let mut backoff = Backoff::default();
        let far: Vec<u64> = (0..10).map(|_| backoff.failed(false, 0.0).as_millis() as u64).collect();
        assert_eq!(far, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.failed(false, 1.0), Duration::from_millis(150));
    }

    #[test]
    fn a_near_device_is_tried_every_two_seconds_for_ten_minutes_and_rarely_afterwards() {
        let mut backoff = Backoff::default();
        let mut gone = Duration::ZERO;
        let mut attempts = 0;
        loop {
            let wait = backoff.failed(true, 0.0);
            if wait > NEAR {
                assert_eq!(wait, FAR);
                break;
            }
            gone += wait;
            attempts += 1;
            assert!(attempts < 10_000);
        }
        assert!(gone > Duration::from_secs(590) && gone < Duration::from_secs(610), "{gone:?}");
    }

    #[test]
    fn penalties_grow_and_end() {
        assert_eq!(penalty(1), Duration::from_secs(2));
        assert_eq!(penalty(3), Duration::from_secs(8));
        assert_eq!(penalty(u32::MAX), Duration::from_secs(300));
    }
}
