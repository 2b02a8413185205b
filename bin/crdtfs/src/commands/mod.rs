//! The commands, one file each; a file's help text is the command's documentation.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod conflicts;
pub(crate) mod engine;
pub(crate) mod invite;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod members;
pub(crate) mod mount;
pub(crate) mod peers;
pub(crate) mod restore;
mod show;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod unmount;
pub(crate) mod wait;
pub(crate) mod watch;

use anyhow::Result;
use crdtfs_control::{Client, ClientError};

use crate::cli::{Cli, Command};
use crate::failure::DONE;
use crate::logging::{self, Voice};
use crate::output::Output;
use crate::settings::Settings;

/// What a command works with.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) out: Output,
}

impl App {
    /// The engine that runs.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.settings.state_dir)
    }
}

/// Runs a command; the exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    // These two need no state directory.
    match cli.command {
        Command::Completions(args) => return completions::run(&args),
        Command::Man(args) => return man::run(&args),
        _ => {}
    }
    let mut app = App { settings: Settings::new(cli.global)?, out: Output::new() };
    let voice = if matches!(cli.command, Command::Engine(_)) { Voice::Engine } else { Voice::Command };
    logging::start(&app.settings, voice);
    let code = dispatch(&mut app, cli.command)?;
    app.out.flush()?;
    Ok(code)
}

fn dispatch(app: &mut App, command: Command) -> Result<u8> {
    match command {
        Command::Mount(args) => mount::run(app, args),
        Command::Watch(args) => watch::run(app, args),
        Command::Unmount(args) => unmount::run(app, &args),
        Command::Invite(args) => invite::run(app, &args),
        Command::Status(args) => status::run(app, &args),
        Command::Wait(args) => wait::run(app, &args),
        Command::Peers(args) => peers::run(app, &args),
        Command::Members(args) => members::run(app, &args),
        Command::Ls(args) => ls::run(app, &args),
        Command::Log(args) => log::run(app, &args),
        Command::Conflicts(args) => conflicts::run(app, &args),
        Command::Restore(args) => restore::run(app, &args),
        Command::Check(args) => check::run(app, &args),
        Command::Start(args) => start::run(app, &args),
        Command::Stop(args) => stop::run(app, &args),
        Command::Engine(args) => engine::run(app, &args),
        Command::Completions(_) | Command::Man(_) => Ok(DONE),
    }
}
