//! The project's chores: `cargo xtask test`, `demo`, `tidy`, `sim`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "chores talk to whoever runs them")]

mod demo;
mod device;
mod machine;
mod process;
mod sim;
mod test;
mod tidy;
mod tree;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Chores {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what the tests need where that is allowed, build the program, run every test
    Test(test::Args),
    /// Three devices on this machine: a real source tree, edits while apart, healing
    Demo,
    /// Run random histories of several devices and check the laws of the merge
    Sim(sim::Args),
    /// Check the project's own rules: layering, names, sizes, paths
    Tidy,
}

fn main() -> ExitCode {
    let done = match Chores::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Demo => demo::run(),
        Chore::Sim(args) => sim::run(&args),
        Chore::Tidy => tidy::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in the workspace")?.to_owned())
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command that talks to the terminal itself.
fn see(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", words(command));
    let status = command.status().with_context(|| format!("cannot start {}", words(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", words(command));
    }
    Ok(())
}

/// A command as one would type it.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Builds the program under test; where it lies. `CRDTFS_BIN` names one that is built already.
fn build_program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("CRDTFS_BIN") {
        return Ok(program.into());
    }
    let root = root()?;
    // All binaries of the workspace, not this package alone: with the features that the tests are built with, so that
    // nothing is compiled twice.
    see(cargo().current_dir(&root).args(["build", "--release", "--workspace", "--bins"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    Ok(target.join("release/crdtfs"))
}
