//! `crdtfs completions`: for packagers and shells.

use std::io::{self, Write};

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::DONE;

/// Print the completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs completions bash > /etc/bash_completion.d/crdtfs")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "crdtfs", &mut script);
    io::stdout().write_all(&script)?;
    Ok(DONE)
}
