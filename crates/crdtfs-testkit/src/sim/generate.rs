//! Worlds out of seeds.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::Action::{self, *};
use super::{SimConfig, Step};

/// How often users do what.
const OPERATIONS: [(Action, u32); 31] = [
    (Create, 14),
    (CreateSame, 5),
    (CreateLong, 1),
    (Mkdir, 9),
    (Extract, 2),
    (Append, 8),
    (Rewrite, 10),
    (Binary, 8),
    (Truncate, 1),
    (Open, 4),
    (Close, 5),
    (RenameInPlace, 9),
    (Move, 12),
    (MoveOver, 4),
    (Exchange, 2),
    (Swap, 2),
    (Unlink, 8),
    (RemoveTree, 5),
    (Link, 5),
    (Chmod, 5),
    (Symlink, 2),
    (SaveByRename, 4),
    (SaveAside, 3),
    (SaveBackup, 2),
    (SaveAnew, 2),
    (SaveByRemoval, 2),
    (LinkInto, 1),
    (Lock, 1),
    (Burst, 1),
    (Tend, 6),
    (Wait, 2),
];

/// How often devices meet, in ways that differ from world to world.
struct Weather {
    /// Chance of a meeting after an operation, in percent.
    meet: u32,
    /// Chance that messages arrive after an operation, in percent.
    arrive: u32,
    /// Chance of a break of the network, of a crash and the like, in percent.
    trouble: u32,
}

/// The steps of a seed's world.
pub fn generate(seed: u64, config: &SimConfig) -> Vec<Step> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let devices = rng.random_range(2..=config.devices.max(2));
    let online = rng.random_range(0..3) == 0;
    let weather = Weather {
        meet: rng.random_range(5..45),
        arrive: if online { rng.random_range(30..85) } else { 0 },
        trouble: if rng.random_range(0..3) == 0 { rng.random_range(3..25) } else { 0 },
    };
    // Some join when others have worked for a while.
    let late = rng.random_range(0..3) == 0;
    let joins: Vec<usize> = (0..devices)
        .map(|device| if late && device > 1 { rng.random_range(0..=config.operations) } else { 0 })
        .collect();
    let mut steps = Vec::new();
    // Most that is hard happens where two work on one thing.
    let encounters = rng.random_range(0..4) == 0;
    let mut done = 0;
    while done < config.operations {
        let here: Vec<usize> = (0..devices).filter(|device| joins[*device] <= done).collect();
        for &device in here.iter().filter(|device| joins[**device] == done && done > 0) {
            steps.push(Step { device, action: Sync, picks: [rng.random(), 1, 0] });
        }
        let any = |rng: &mut ChaCha12Rng| here[rng.random_range(0..here.len())];
        if encounters && here.len() > 1 && done + 3 <= config.operations && rng.random_range(0..8) == 0 {
            done += encounter(&mut rng, devices, &here, &mut steps);
            continue;
        }
        while rng.random_range(0..100) < weather.meet {
            steps.push(Step { device: any(&mut rng), action: Sync, picks: rng.random() });
        }
        if rng.random_range(0..100) < weather.trouble {
            let action = [Partition, Mend, Drop, Persist, Reopen, Crash, Restore, Clone][rng.random_range(0..8)];
            steps.push(Step { device: any(&mut rng), action, picks: rng.random() });
        }
        if rng.random_range(0..100) < 5 {
            steps.push(Step { device: any(&mut rng), action: Fetch, picks: rng.random() });
        }
        steps.push(Step { device: any(&mut rng), action: operation(&mut rng), picks: rng.random() });
        done += 1;
        while rng.random_range(0..100) < weather.arrive {
            steps.push(Step { device: any(&mut rng), action: Deliver, picks: rng.random() });
        }
    }
    steps
}

/// Two devices that know the same each do something to one file and meet, and one of them works on what came of it: how many
/// operations that are.
fn encounter(rng: &mut ChaCha12Rng, devices: usize, here: &[usize], steps: &mut Vec<Step>) -> usize {
    let one = here[rng.random_range(0..here.len())];
    let others: Vec<usize> = here.iter().copied().filter(|device| *device != one).collect();
    let other = others[rng.random_range(0..others.len())];
    // The same choices lead both to the same file.
    let picks: [u32; 3] = [rng.random(), rng.random(), rng.random::<u32>() & !1];
    let both = |steps: &mut Vec<Step>, actions: [Action; 2], picks: [u32; 3]| {
        let acts = [one, other].into_iter().zip(actions);
        steps.extend(acts.map(|(device, action)| Step { device, action, picks }));
    };
    meet(devices, one, other, steps);
    let then = |action: Action, picks: [u32; 3]| vec![Step { device: one, action, picks }];
    let last = match rng.random_range(0..5) {
        0 => {
            both(steps, [Binary, Binary], picks);
            let choices = [rng.random(), rng.random::<u32>() & !1, rng.random_range(0..8)];
            vec![Step { device: other, action: Tend, picks: choices }]
        }
        1 => {
            // A new file in the root.
            both(steps, [CreateSame, CreateSame], [picks[0], 0, picks[2]]);
            let action = [Unlink, Append, RenameInPlace, Chmod, Move][rng.random_range(0..5)];
            vec![Step { device: other, action, picks }]
        }
        2 => {
            both(steps, [Chmod, [Binary, Unlink, RenameInPlace, SaveAside][rng.random_range(0..4)]], picks);
            then(operation(rng), rng.random())
        }
        3 => {
            // Both go on from a text that is not the first.
            steps.push(Step { device: other, action: Append, picks });
            meet(devices, one, other, steps);
            both(steps, [Append, [Append, Rewrite][rng.random_range(0..2)]], picks);
            then(Append, picks)
        }
        _ if picks[0].is_multiple_of(3) => {
            // One has the file open when another's text and permissions come, sets other ones, and closes it.
            let at = |line: u32| [picks[0], line, picks[2]];
            both(steps, [Rewrite, Append], at(0));
            both(steps, [Open, Chmod], at(1));
            [then(Chmod, at(2)), then(Close, at(2))].concat()
        }
        _ => {
            let actions = [operation(rng), operation(rng)];
            both(steps, actions, picks);
            then(operation(rng), picks)
        }
    };
    meet(devices, one, other, steps);
    let done = 2 + last.len();
    steps.extend(last);
    done
}

/// Two devices take over all that the other has.
fn meet(devices: usize, one: usize, other: usize, steps: &mut Vec<Step>) {
    for (to, from) in [(one, other), (other, one)] {
        let away = (from + devices - to - 1) % devices;
        // Far enough up for the bytes to come, too.
        let pick = away + 256 * (devices - 1);
        steps.push(Step { device: to, action: Sync, picks: [u32::try_from(pick).unwrap_or(0), 1, 0] });
    }
}

fn operation(rng: &mut ChaCha12Rng) -> Action {
    let total: u32 = OPERATIONS.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.random_range(0..total);
    for (action, weight) in OPERATIONS {
        if at < weight {
            return action;
        }
        at -= weight;
    }
    Create
}
