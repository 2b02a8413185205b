//! `cargo xtask test`: everything that a fresh machine needs, then every test.

use std::fs;

use anyhow::Result;

use crate::{build_program, cargo, machine, root, see};

/// What to leave out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing, only say what is missing
    #[arg(long)]
    no_install: bool,
    /// Passed on to the test runner: a name to filter by
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_install {
        machine::provide();
    }
    if let Some(why) = machine::no_fuse() {
        eprintln!("xtask: tests that mount are skipped: {why}");
    }
    if !machine::is_root() {
        eprintln!("xtask: tests in network namespaces are skipped: they need root");
    }
    let program = build_program()?;
    // The tests write into it what they skip.
    let skipped = program.with_file_name("skipped-tests.txt");
    if skipped.exists() {
        fs::remove_file(&skipped)?;
    }
    let ran = run_tests(args, &program);
    if let Ok(skipped) = fs::read_to_string(&skipped) {
        eprintln!("\nskipped here:\n{}", skipped.trim_end());
    }
    ran
}

/// With nextest where it is installed, which runs tests beside each other and ends hanging ones, else with cargo itself.
fn run_tests(args: &Args, program: &std::path::Path) -> Result<()> {
    let root = root()?;
    let cargo = || {
        let mut cargo = cargo();
        cargo.current_dir(&root).env("CRDTFS_BIN", program);
        cargo
    };
    let nextest = cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    if !nextest {
        return see(cargo().args(["test", "--release", "--workspace"]).args(&args.filter));
    }
    see(cargo().args(["nextest", "run", "--release", "--workspace"]).args(&args.filter))?;
    // nextest runs no examples in documentation.
    see(cargo().args(["test", "--release", "--workspace", "--doc"]).args(&args.filter))
}
