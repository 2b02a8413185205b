//! `crdtfs members`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::DirText;
use crdtfs_control::reply::Member;
use crdtfs_control::request::{Members, Role};

use super::App;
use crate::failure::DONE;
use crate::output::{Cell, Tone, plain, short};
use crate::paths;

/// List who may do what in a share.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs members ~/Shared")]
pub(crate) struct Args {
    /// The directory that shows the share, or any path in it
    dir: PathBuf,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let dir = DirText::from(&paths::resolve(&args.dir)?);
    let members = app.client()?.call(Members { dir })?;
    if app.settings.json {
        app.out.json(&members)?;
        return Ok(DONE);
    }
    let rows: Vec<_> = members.members.iter().map(row).collect();
    app.out.table(0, &rows)?;
    Ok(DONE)
}

fn row(member: &Member) -> Vec<Cell> {
    let note = match (member.me, &member.invited_by) {
        _ if member.revoked => "revoked".to_owned(),
        (true, _) => "this device".to_owned(),
        (false, Some(inviter)) => format!("invited by {}", plain(inviter)),
        (false, None) => "made the share".to_owned(),
    };
    vec![
        Cell::toned(Tone::Heading, plain(&member.name)),
        Cell::toned(Tone::Faint, short(&member.device)),
        Cell::new(role(member.role)),
        Cell::new(note),
    ]
}

/// A role's name.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Write => "write",
        Role::Admin => "admin",
    }
}
