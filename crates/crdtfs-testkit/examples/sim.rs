//! Many worlds of the simulator, on all cores: `sim SEEDS FROM DEVICES OPERATIONS` (`cargo xtask sim` calls it). With one
//! number more, the place of a rule in `Mutation::ALL`, on one core with that rule switched off.
//!
//! Counts on stderr, if that is a terminal. Prints the count, the time and the failures; each failure as a test that can be
//! pasted. Exit code 1 if there was one.
#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::io::{IsTerminal as _, Write as _, stderr};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crdtfs_core::view::Mutation;
use crdtfs_testkit::{Failure, SimConfig, simulate, simulate_without};

/// Failures after which the rest is not run.
const ENOUGH: usize = 10;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (seeds, from, devices, operations) = match numbers[..] {
        [seeds, from, devices, operations] | [seeds, from, devices, operations, _] => {
            (seeds, from, devices, operations)
        }
        _ => {
            println!("usage: sim SEEDS FROM DEVICES OPERATIONS [RULE]");
            return ExitCode::from(2);
        }
    };
    let size = |number: u64| usize::try_from(number).expect("a small number");
    let config = SimConfig { devices: size(devices), operations: size(operations), thorough: false };
    let rule = numbers.get(4).and_then(|rule| Mutation::ALL.get(size(*rule)));
    if let Some(rule) = rule {
        return without(*rule, from..from + seeds, &config);
    }
    let begun = Instant::now();
    let (failures, ran) = run(from, seeds, &config);
    let seconds = begun.elapsed().as_secs_f64();
    for failure in &failures {
        println!("{failure}\n");
    }
    println!(
        "{ran} histories of up to {devices} devices and {operations} operations, seeds {from} to {}: {} failures, {seconds:.1} s",
        from + ran.saturating_sub(1),
        failures.len(),
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Switches a rule off: which seeds notice, and why.
fn without(rule: Mutation, seeds: Range<u64>, config: &SimConfig) -> ExitCode {
    let noticed = |seed: u64| Some((seed, simulate_without(rule, seed, config).err()?));
    let found: Vec<_> = seeds.clone().filter_map(noticed).collect();
    for (seed, why) in found.iter().take(5) {
        println!("{rule:?}, seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
    println!("without {rule:?}: {} of {} histories notice", found.len(), seeds.end - seeds.start);
    if found.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Tells how far the run is, until every worker has dropped its end.
fn count(ran: &AtomicU64, seeds: u64, workers: Receiver<()>) {
    if !stderr().is_terminal() {
        return;
    }
    while workers.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
        // A terminal that is gone is no reason to stop.
        _ = write!(stderr(), "\r{} of {seeds} histories\u{1b}[K", ran.load(Ordering::Relaxed));
    }
    _ = write!(stderr(), "\r\u{1b}[K");
}

/// Every core takes the next seed until none is left.
fn run(from: u64, seeds: u64, config: &SimConfig) -> (Vec<Failure>, u64) {
    let (next, ran) = (AtomicU64::new(from), AtomicU64::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let full =
        || failures.lock().map_or(true, |failures: std::sync::MutexGuard<'_, Vec<Failure>>| failures.len() >= ENOUGH);
    let (working, workers) = channel::<()>();
    std::thread::scope(|scope| {
        let counted = &ran;
        scope.spawn(move || count(counted, seeds, workers));
        for _ in 0..cores {
            let working = working.clone();
            let (next, ran, failures, full) = (&next, &ran, &failures, &full);
            scope.spawn(move || {
                let _working = working;
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || full() {
                        return;
                    }
                    let outcome = simulate(seed, config);
                    if let Ok(digest) = &outcome
                        && seed.is_multiple_of(100)
                    {
                        assert_eq!(simulate(seed, config).ok(), Some(*digest), "seed {seed} has two digests");
                    }
                    ran.fetch_add(1, Ordering::Relaxed);
                    if let (Err(failure), Ok(mut failures)) = (outcome, failures.lock()) {
                        failures.push(failure);
                    }
                }
            });
        }
        drop(working);
    });
    (failures.into_inner().unwrap_or_default(), ran.into_inner())
}
