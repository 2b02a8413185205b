//! The grammar of the command line.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands;

/// One folder on every device, no server.
///
/// The first device makes a share with `mount` (a filesystem) or `watch` (a plain folder), and invites others with a ticket
/// from `invite`; they join with `mount TICKET DIR` or `watch TICKET DIR`. From then on each has all of it, also while
/// apart.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out or not yet in sync.
#[derive(Debug, Parser)]
#[command(name = "crdtfs", version, disable_help_subcommand = true, after_help = EXAMPLE)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The grammar. What a command is used like is said in the same words everywhere: left to itself, clap tells somebody who
/// forgot an argument what else was given, from the environment too, as if that was needed.
pub(crate) fn command() -> clap::Command {
    let mut built = Cli::command();
    built.build();
    let usages: Vec<(String, String)> = built
        .get_subcommands_mut()
        .map(|command| (command.get_name().to_owned(), command.render_usage().to_string()))
        .collect();
    let usages = usages.into_iter().filter(|(name, _)| name != "help");
    usages.fold(Cli::command(), |all, (name, usage)| {
        all.mut_subcommand(name, |command| command.override_usage(usage.trim_start_matches("Usage: ").to_owned()))
    })
}

/// Reads the arguments of this process; ends it where they are wrong, or ask for help.
pub(crate) fn parse() -> Cli {
    Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

const EXAMPLE: &str = "Example:
  crdtfs mount ~/Shared              the first device
  crdtfs invite ~/Shared             prints a ticket
  crdtfs mount TICKET ~/Shared       another device";

/// What every command takes. A flag beats its environment variable, which beats `config.toml` in the state directory.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where this device keeps its key, its shares and its engine's socket [default: $XDG_DATA_HOME/crdtfs,
    /// which is ~/.local/share/crdtfs where that is not set]
    #[arg(long, global = true, value_name = "DIR", env = "CRDTFS_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// How far to look for other devices [default: internet]
    #[arg(long, global = true, value_enum, env = "CRDTFS_NETWORK", hide_env_values = true)]
    pub(crate) network: Option<Network>,
    /// Use this relay instead of the public ones; may be given several times
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CRDTFS_RELAY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) relay: Vec<String>,
    /// This device's name, as others see it [default: the host name]
    #[arg(long, global = true, env = "CRDTFS_NAME", hide_env_values = true)]
    pub(crate) name: Option<String>,
    /// Print JSON instead of text (field names: docs/CONTROL.md)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more on stderr: -v what happens, -vv details, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines look [default: text]
    #[arg(long, global = true, value_enum, env = "CRDTFS_LOG_FORMAT", hide_env_values = true)]
    pub(crate) log_format: Option<LogFormat>,
}

/// How far to look for other devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    /// This machine's own networks only: mDNS and the addresses in tickets
    Local,
    /// Also discovery, relays and hole punching over the internet
    Internet,
}

impl Network {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Internet => "internet",
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// The commands, in the order of a share's life.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Mount(commands::mount::Args),
    Watch(commands::watch::Args),
    #[command(visible_alias = "umount")]
    Unmount(commands::unmount::Args),
    Invite(commands::invite::Args),
    Status(commands::status::Args),
    Wait(commands::wait::Args),
    Peers(commands::peers::Args),
    Members(commands::members::Args),
    Ls(commands::ls::Args),
    Log(commands::log::Args),
    Conflicts(commands::conflicts::Args),
    Restore(commands::restore::Args),
    Check(commands::check::Args),
    Start(commands::start::Args),
    Stop(commands::stop::Args),
    #[command(hide = true)]
    Engine(commands::engine::Args),
    #[command(hide = true)]
    Completions(commands::completions::Args),
    #[command(hide = true)]
    Man(commands::man::Args),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
        command().debug_assert();
    }

    #[test]
    fn who_forgets_an_argument_is_not_told_of_options() {
        let error = command().try_get_matches_from(["crdtfs", "--network", "local", "mount"]).expect_err("no DIR");
        let said = error.to_string();
        assert!(said.contains("Usage: crdtfs mount [OPTIONS] [TICKET] <DIR>"), "{said}");
        assert!(!said.contains("--network"), "{said}");
    }

    #[test]
    fn every_shown_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
        }
    }

    #[test]
    fn the_ticket_comes_before_the_directory_and_may_be_left_out() {
        let dir_of = |args: &[&str]| match Cli::try_parse_from(args).expect("parses").command {
            Command::Mount(args) => (args.show.ticket, args.show.dir),
            other => panic!("{other:?}"),
        };
        assert_eq!(dir_of(&["crdtfs", "mount", "d"]), (None, "d".into()));
        assert_eq!(dir_of(&["crdtfs", "mount", "t", "d", "--read-only"]), (Some("t".to_owned()), "d".into()));
        assert_eq!(dir_of(&["crdtfs", "mount", "--foreground", "t", "d"]), (Some("t".to_owned()), "d".into()));
    }
}
