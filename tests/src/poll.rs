//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Asks again and again until the condition holds; returns what it gave.
///
/// # Panics
/// After `limit`, with what the condition last said was missing.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let missing = match condition() {
            Ok(value) => return value,
            Err(missing) => missing,
        };
        let passed = start.elapsed();
        assert!(passed < limit, "{what}: not within {limit:?}; last: {missing}");
        std::thread::sleep(pause.min(limit - passed));
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}
