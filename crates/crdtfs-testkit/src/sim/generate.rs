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
    for done in 0..config.operations {
        let here: Vec<usize> = (0..devices).filter(|device| joins[*device] <= done).collect();
        for &device in here.iter().filter(|device| joins[**device] == done && done > 0) {
            steps.push(Step { device, action: Sync, picks: [rng.random(), 1, 0] });
        }
        let any = |rng: &mut ChaCha12Rng| here[rng.random_range(0..here.len())];
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
        while rng.random_range(0..100) < weather.arrive {
            steps.push(Step { device: any(&mut rng), action: Deliver, picks: rng.random() });
        }
    }
    steps
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
