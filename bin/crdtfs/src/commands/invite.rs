//! `crdtfs invite`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use crdtfs_control::DirText;
use crdtfs_control::request::{Invite, Role};

use super::App;
use crate::failure::{DONE, usage};
use crate::output::say;
use crate::{paths, quantity};

/// Print a ticket that lets another device into the share.
///
/// Whoever has the ticket can use it until it is spent or expires: hand it over as you would a password.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs invite ~/Shared
  crdtfs invite ~/Shared --role read --uses 5 --expires 7d
  ssh desk crdtfs watch $(crdtfs invite ~/Shared) Shared     another device, at once")]
pub(crate) struct Args {
    /// The directory that shows the share, or any path in it
    dir: PathBuf,
    /// What the new member may do
    #[arg(long, value_enum, default_value_t = RoleArg::Write)]
    role: RoleArg,
    /// How long the ticket holds
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = quantity::parse_duration)]
    expires: Duration,
    /// How many devices may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// See everything, change nothing
    Read,
    /// Read and change
    Write,
    /// Write, and invite others
    Admin,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    if args.expires.is_zero() {
        return Err(usage("the ticket would be expired at once: --expires takes a duration like 24h").into());
    }
    let request = Invite {
        dir: DirText::from(&paths::resolve(&args.dir)?),
        role: match args.role {
            RoleArg::Read => Role::Read,
            RoleArg::Write => Role::Write,
            RoleArg::Admin => Role::Admin,
        },
        expires_ms: quantity::millis(args.expires),
        uses: args.uses,
    };
    let invited = app.client()?.call(request)?;
    if app.settings.json {
        app.out.json(&invited)?;
        return Ok(DONE);
    }
    app.out.line(&invited.ticket)?;
    app.out.flush()?;
    if app.out.bars() {
        let devices = quantity::counted(invited.uses.into(), "device");
        let expires = quantity::local_time(invited.expires_ms);
        say(&format!("for {devices}, until {expires}; there: crdtfs mount TICKET DIR, or crdtfs watch TICKET DIR"));
    }
    Ok(DONE)
}
