//! `crdtfs man`: for packagers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::DONE;

/// Write the manual pages into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs man /usr/local/share/man/man1")]
pub(crate) struct Args {
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("cannot write the manual pages to {}", args.dir.display()))?;
    Ok(DONE)
}
