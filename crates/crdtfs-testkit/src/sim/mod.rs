//! The simulator: one seed is one world of a few devices that work apart, meet now and then, and in the end agree.
//!
//! A world is a list of [`Step`]s made from the seed before anything runs, so that a failing one can be shrunk by leaving
//! steps out. What a device writes leaves it as changes that follow one another; the network between them loses,
//! repeats and reorders messages, is cut in two and mended; devices crash, come back from a backup, are cloned, join
//! late. `docs/SIMULATION.md` says what is checked, and what has been run.

mod act;
mod check;
mod generate;
mod gone;
mod world;

use std::fmt;

use crdtfs_core::id::Hash;
use crdtfs_core::view::Mutation;

pub use generate::generate;

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Most devices; at least two take part.
    pub devices: usize,
    /// Operations in all.
    pub operations: usize,
    /// Whether views are compared with views from scratch after every step rather than when devices meet.
    pub thorough: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { devices: 6, operations: 20, thorough: false }
    }
}

/// What all devices showed in the end, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub Hash);

/// One thing that happens. The numbers choose among what is there when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The device that acts.
    pub device: usize,
    /// What it does.
    pub action: Action,
    /// Choices.
    pub picks: [u32; 3],
}

/// What a device does, or what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A new file with a text of its own.
    Create,
    /// A new file with a text that others have, too.
    CreateSame,
    /// A new file under a name of 255 bytes.
    CreateLong,
    /// A new directory.
    Mkdir,
    /// A directory with files and a directory, as from an archive.
    Extract,
    /// A line more at a text's end.
    Append,
    /// Another line in a text.
    Rewrite,
    /// Other bytes altogether, which are no text.
    Binary,
    /// A text cut to nothing and written again.
    Truncate,
    /// Opens a file, to write it later.
    Open,
    /// Writes the file opened earlier, whatever came meanwhile.
    Close,
    /// Another name in the same directory.
    RenameInPlace,
    /// Another directory.
    Move,
    /// Over another entry.
    MoveOver,
    /// Two entries for one another, at once.
    Exchange,
    /// Two entries for one another, by three renames.
    Swap,
    /// Removes a name of a file.
    Unlink,
    /// `rm -r`.
    RemoveTree,
    /// A hard link.
    Link,
    /// Other permissions.
    Chmod,
    /// A symlink.
    Symlink,
    /// Saves as most editors and `rsync` do: a temporary file renamed over.
    SaveByRename,
    /// Saves as `vim` does: moved aside, written again, the backup removed.
    SaveAside,
    /// Saves as `emacs` does: moved aside over the last backup, written again.
    SaveBackup,
    /// Saves as `git checkout` does: removed, created again, written.
    SaveAnew,
    /// A temporary file, the old one removed, the temporary one renamed to its name.
    SaveByRemoval,
    /// A file made under a temporary name, linked to its own, the temporary one removed, as `git` writes objects.
    LinkInto,
    /// A lock file that is there for a moment.
    Lock,
    /// A burst as of `git commit`: some objects, and an index renamed over the old one.
    Burst,
    /// Something is done to a conflict copy, or to the entry that has its name.
    Tend,
    /// An hour passes on this device.
    Wait,
    /// Takes over all, or the first part, of what another device has.
    Sync,
    /// Some messages on their way to this device arrive, in any order, perhaps twice.
    Deliver,
    /// A message on its way is lost.
    Drop,
    /// The devices fall into two groups that do not hear of each other.
    Partition,
    /// All hear of each other again.
    Mend,
    /// Bytes arrive for which records came before.
    Fetch,
    /// What a device has is on its disk.
    Persist,
    /// A device's program ends and begins again, with the view that it saved.
    Reopen,
    /// A device loses what is not on its disk, and starts again.
    Crash,
    /// A device is put back to an earlier state, and starts again.
    Restore,
    /// A device becomes a copy of another one's state.
    Clone,
}

/// A world that broke a law.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Which law, and how.
    pub message: String,
    /// What happened, shrunk as far as it still fails.
    pub steps: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.message)?;
        writeln!(f, "#[test]\nfn seed_{}() {{", self.seed)?;
        writeln!(f, "    use crdtfs_testkit::{{Action::*, Step, replay}};\n    let steps = [")?;
        for Step { device, action, picks } in &self.steps {
            writeln!(f, "        Step {{ device: {device}, action: {action:?}, picks: {picks:?} }},")?;
        }
        writeln!(f, "    ];\n    replay({}, &steps, true).unwrap();\n}}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs the world of a seed. A failure is shrunk.
pub fn simulate(seed: u64, config: &SimConfig) -> Result<Digest, Failure> {
    simulate_shrunk(None, seed, config)
}

/// Runs the world of a seed with a view that may lack a rule. A failure is shrunk.
pub fn simulate_shrunk(rule: Option<Mutation>, seed: u64, config: &SimConfig) -> Result<Digest, Failure> {
    let steps = generate(seed, config);
    replay_without(rule, seed, &steps, config.thorough).map_err(|message| shrink(rule, seed, steps, message))
}

/// Runs the world of a seed with a view that lacks a rule; what was noticed, not shrunk.
pub fn simulate_without(rule: Mutation, seed: u64, config: &SimConfig) -> Result<Digest, String> {
    replay_without(Some(rule), seed, &generate(seed, config), config.thorough)
}

/// Runs steps; what law was broken, if one was.
pub fn replay(seed: u64, steps: &[Step], thorough: bool) -> Result<Digest, String> {
    replay_without(None, seed, steps, thorough)
}

/// Runs steps with a view that may lack a rule.
pub fn replay_without(rule: Option<Mutation>, seed: u64, steps: &[Step], thorough: bool) -> Result<Digest, String> {
    let run = || {
        let mut world = world::World::new(seed, steps, thorough, rule);
        for (at, step) in steps.iter().enumerate() {
            world.step(step).map_err(|why| format!("step {at} ({step:?}): {why}"))?;
        }
        world.heal()
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => Err(format!("panic: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

/// Leaves steps out for as long as the world still fails, then makes what is left simpler.
fn shrink(rule: Option<Mutation>, seed: u64, mut steps: Vec<Step>, mut message: String) -> Failure {
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let before = steps.len();
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match replay_without(rule, seed, &fewer, true) {
                Err(why) => (steps, message) = (fewer, why),
                Ok(_) => at += chunk,
            }
        }
        // Each step left out may have freed others.
        if chunk > 1 || steps.len() == before {
            chunk /= 2;
        }
    }
    for at in 0..steps.len() {
        for pick in 0..3 {
            for simpler in [0, 1, steps[at].picks[pick] % 16] {
                let mut other = steps.clone();
                other[at].picks[pick] = simpler;
                if steps[at].picks[pick] <= simpler {
                    break;
                }
                if let Err(why) = replay_without(rule, seed, &other, true) {
                    (steps, message) = (other, why);
                    break;
                }
            }
        }
    }
    Failure { seed, message, steps }
}
