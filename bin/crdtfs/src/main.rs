//! The command `crdtfs`: one folder on every device, no server.
//!
//! Commands ask the engine of a state directory over its control socket (crate `crdtfs-control`); `mount` and `watch` start
//! one where none runs. This binary owns the terminal: data on stdout, talk on stderr, the exit code. Each command is a
//! file in `commands/`, whose help text is its documentation.

mod background;
mod cli;
mod commands;
mod failure;
mod foreground;
mod host;
mod logging;
mod output;
mod paths;
mod progress;
mod quantity;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::parse();
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(failure::report(&error)),
    }
}
