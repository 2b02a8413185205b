//! What a failing seed prints: a world with few steps that fails as the whole did, as a test that can be pasted.

#![allow(clippy::unwrap_used)]

use crdtfs_core::view::Mutation;
use crdtfs_testkit::{Failure, SimConfig, Step, generate, replay, replay_without, simulate_shrunk};

/// A rule and a seed that notices when it is switched off.
const RULE: Mutation = Mutation::Pins;
const SEED: u64 = 8;
const CONFIG: SimConfig = SimConfig { devices: 3, operations: 20, thorough: false };

/// The text that was printed for [`SEED`], as it was: it has to be a test.
mod pasted {
    include!("pasted/seed_8.rs");
}

fn failure() -> Failure {
    simulate_shrunk(Some(RULE), SEED, &CONFIG).unwrap_err()
}

#[test]
fn what_is_printed_can_be_pasted() {
    let printed = failure().to_string();
    let test = printed.find("#[test]").unwrap();
    assert!(printed[..test].starts_with(&format!("seed {SEED}: step ")), "{printed}");
    assert!(printed[..test].contains("law 4"), "{printed}");
    assert_eq!(&printed[test..], include_str!("pasted/seed_8.rs"));
}

#[test]
fn no_step_of_what_is_printed_can_be_left_out() {
    let Failure { message, steps, .. } = failure();
    assert!(steps.len() < generate(SEED, &CONFIG).len() / 2);
    assert_eq!(replay_without(Some(RULE), SEED, &steps, true), Err(message));
    assert!(replay(SEED, &steps, true).is_ok(), "it is the rule that is missing");
    for at in 0..steps.len() {
        let without: Vec<Step> = [&steps[..at], &steps[at + 1..]].concat();
        assert!(replay_without(Some(RULE), SEED, &without, true).is_ok(), "without step {at}");
    }
}
