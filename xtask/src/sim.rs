//! `cargo xtask sim`: the merge, simulated.

use anyhow::Result;

use crate::{cargo, root, see};

/// How many worlds, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many histories
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first one's seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most devices in a history
    #[arg(long, default_value_t = 3)]
    devices: u64,
    /// Operations in a history
    #[arg(long, default_value_t = 20)]
    operations: u64,
}

/// Runs the test kit's own program: it needs the core, which the other chores do without.
pub(crate) fn run(args: &Args) -> Result<()> {
    let numbers = [args.seeds, args.from, args.devices, args.operations].map(|number| number.to_string());
    let run = ["run", "--release", "--quiet", "--package", "crdtfs-testkit", "--example", "sim", "--"];
    see(cargo().current_dir(root()?).args(run).args(numbers))
}
