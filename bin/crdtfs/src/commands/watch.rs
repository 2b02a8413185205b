//! `crdtfs watch`.

use anyhow::Result;
use crdtfs_control::request::{Mode, ShowOptions};

use super::{App, show};

/// Keep a plain folder in sync.
///
/// What lies in DIR joins the share; what others write appears in it. Needs no FUSE and no rights. Without TICKET it
/// resumes the share that DIR showed before, or makes a new one. What `.crdtfsignore` matches (gitignore syntax) stays
/// out.
///
/// The folder is kept in sync, with the options given here, also after a restart of the engine, until `crdtfs unmount DIR`; the
/// files stay. What is removed from it while no engine runs is removed from the share when one does.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Examples:
  crdtfs watch ~/Documents                     share a folder that has files
  crdtfs watch crdtfs1afk4… ~/Documents        join by a ticket; files here and there are united"
)]
pub(crate) struct Args {
    #[command(flatten)]
    show: show::Args,
}

pub(crate) fn run(app: &mut App, args: Args) -> Result<u8> {
    show::run(app, args.show, Mode::Watch, ShowOptions::default())
}
