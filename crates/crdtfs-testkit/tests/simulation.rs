//! Some thousand worlds; more by `cargo xtask sim`.

#![allow(clippy::unwrap_used)]

use crdtfs_testkit::{SimConfig, simulate};

#[test]
fn histories_keep_the_laws() {
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    let from: u64 = std::env::var("SIM_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let failures: Vec<_> =
        (from..from + seeds).filter_map(|seed| simulate(seed, &SimConfig::default()).err()).take(3).collect();
    let text: String = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{text}");
}

#[test]
fn every_step_can_be_had_from_scratch() {
    let config = SimConfig { devices: 3, operations: 16, thorough: true };
    for seed in 1_000_000..1_000_200 {
        if let Err(failure) = simulate(seed, &config) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_has_one_digest() {
    for seed in 0..50 {
        let config = SimConfig::default();
        assert_eq!(simulate(seed, &config).unwrap(), simulate(seed, &config).unwrap());
    }
}
