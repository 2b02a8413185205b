//! How long a device looks around on the local network, instead of only answering who does.
//!
//! Whoever appears asks who is there, and all answer: one side that looks is enough. So a device looks when it has just come to a
//! network, or misses somebody, and is quiet when everybody is connected: packets to all wake all.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A device that has just come to a network, or waits to join, looks around for this long.
pub(crate) const NEWCOMER: Duration = Duration::from_secs(10);

/// Somebody who is missed is looked for for this long, as long as it is dialled often ([`crate::backoff`]).
pub(crate) const MISSED: Duration = Duration::from_secs(600);

/// Until when to look around.
pub(crate) struct Lookout(watch::Sender<Instant>);

impl Default for Lookout {
    fn default() -> Self {
        Self(watch::Sender::new(Instant::now()))
    }
}

impl Lookout {
    /// There is a reason to look around for this long.
    pub(crate) fn look(&self, time: Duration) {
        let until = Instant::now() + time;
        self.0.send_if_modified(|known| {
            let longer = until > *known;
            *known = until.max(*known);
            longer
        });
    }

    /// Nobody is missed any more.
    pub(crate) fn rest(&self) {
        let now = Instant::now();
        self.0.send_if_modified(|until| {
            let looked = now < *until;
            *until = now.min(*until);
            looked
        });
    }

    /// Follows until when to look.
    pub(crate) fn watch(&self) -> watch::Receiver<Instant> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_reason_counts_until_nobody_is_missed() {
        let lookout = Lookout::default();
        let mut until = lookout.watch();
        let left = |until: &mut watch::Receiver<Instant>| until.borrow_and_update().duration_since(Instant::now());
        assert_eq!(left(&mut until), Duration::ZERO);
        lookout.look(MISSED);
        lookout.look(NEWCOMER);
        assert_eq!(left(&mut until), MISSED);
        lookout.rest();
        assert!(until.has_changed().unwrap());
        assert_eq!(left(&mut until), Duration::ZERO);
        lookout.rest();
        assert!(!until.has_changed().unwrap(), "it rests already");
    }
}
