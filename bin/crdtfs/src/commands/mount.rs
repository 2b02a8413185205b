//! `crdtfs mount`.

use std::fs;

use anyhow::{Context, Result};
use crdtfs_control::Failure;
use crdtfs_control::request::{Mode, Owner, ShowOptions};

use super::{App, show};
use crate::failure::usage;
use crate::quantity;

/// Show a share as a filesystem.
///
/// The whole tree is there at once; content is fetched in the background, and first what is being read. Without TICKET it
/// shows the share that DIR showed before, or makes a new one. DIR is made if it is not there; it must be empty. Files are
/// shown as belonging to who mounts. Needs FUSE (package fuse3); where there is none, use `watch`.
///
/// The share is shown, with the options given here, also after a restart of the engine, until `crdtfs unmount DIR`. Of what an
/// engine shows already other options are refused; without any it stays as it is.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Examples:
  crdtfs mount ~/Shared                        a new share, or the known one
  crdtfs mount crdtfs1afk4… ~/Shared           join by a ticket
  crdtfs mount --foreground ~/Shared           until Ctrl-C
  crdtfs mount ~/Shared --on-demand --cache 10GiB   fetch what is read, keep at most so much"
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) show: show::Args,
    /// Let other users of this machine in (needs user_allow_other in /etc/fuse.conf, unless root mounts)
    #[arg(long)]
    allow_other: bool,
    /// Whose the files are shown to be: a user, or `keep` for the recorded owners
    #[arg(long, value_name = "USER|keep")]
    owner: Option<String>,
    /// Fetch contents when they are read, not all in the background
    #[arg(long)]
    on_demand: bool,
    /// Of what was fetched keep at most so much; what was not used for longest goes first, if another device has it
    #[arg(long, value_name = "SIZE", requires = "on_demand", value_parser = quantity::parse_size)]
    cache: Option<u64>,
}

pub(crate) fn run(app: &mut App, args: Args) -> Result<u8> {
    let owner = match args.owner {
        Some(owner) => parse_owner(&owner)?,
        None => Owner::Mounter,
    };
    show::run(
        app,
        args.show,
        Mode::Mount,
        ShowOptions {
            read_only: false,
            allow_other: args.allow_other,
            owner,
            on_demand: args.on_demand,
            cache: args.cache,
        },
    )
}

/// `keep`, a name in /etc/passwd, `UID` or `UID:GID`.
fn parse_owner(owner: &str) -> Result<Owner> {
    if owner == "keep" {
        return Ok(Owner::Keep);
    }
    let (uid, gid) = owner.split_once(':').unwrap_or((owner, owner));
    if let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) {
        return Ok(Owner::Fixed { uid, gid });
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    Ok(find_user(&passwd, owner)?)
}

/// The user of this name, by passwd(5).
fn find_user(passwd: &str, name: &str) -> Result<Owner, Failure> {
    let entry =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name));
    let number = |at: usize| entry.as_ref()?.get(at)?.parse().ok();
    match (number(2), number(3)) {
        (Some(uid), Some(gid)) => Ok(Owner::Fixed { uid, gid }),
        _ => Err(usage(format!("no user `{name}` in /etc/passwd")).with_hint("give the numbers: --owner UID:GID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001::/home/ann:/bin/sh\nbad:x:y:z\n";
        assert_eq!(find_user(passwd, "ann"), Ok(Owner::Fixed { uid: 1000, gid: 1001 }));
        assert!(find_user(passwd, "an").is_err());
        assert!(find_user(passwd, "bad").is_err());
        assert_eq!(parse_owner("keep").expect("reads"), Owner::Keep);
        assert_eq!(parse_owner("7").expect("reads"), Owner::Fixed { uid: 7, gid: 7 });
        assert_eq!(parse_owner("7:8").expect("reads"), Owner::Fixed { uid: 7, gid: 8 });
    }
}
