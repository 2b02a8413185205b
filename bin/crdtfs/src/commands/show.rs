//! What `mount` and `watch` have in common.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::reply::{How, Progress, Shown, Unit};
use crdtfs_control::request::{Mode, Show, ShowOptions};
use crdtfs_control::{DirText, Item};

use super::App;
use crate::failure::{DONE, usage};
use crate::output::{plain, say};
use crate::progress::Bar;
use crate::{background, foreground, paths};

/// Which share, where, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The invitation to a share; without it: the share that DIR showed before, else a new one
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    /// The directory to show it at; made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Send nothing of what is done here to others: a mount refuses changes, a watched folder reports them
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Stay, say `ready` on stderr when the tree can be used, and end it all on SIGINT or SIGTERM
    #[arg(long)]
    pub(crate) foreground: bool,
}

/// Shows a share.
pub(crate) fn run(app: &mut App, args: Args, mode: Mode, options: ShowOptions) -> Result<u8> {
    refuse_misplaced_ticket(mode, &args)?;
    let request = Show {
        mode,
        ticket: args.ticket,
        dir: DirText::from(&paths::resolve(&args.dir)?),
        options: ShowOptions { read_only: args.read_only, ..options },
        attach: args.foreground,
    };
    if args.foreground {
        return foreground::show(&app.settings, request);
    }
    let mut bar = Bar::new(app.out.bars(), "starting the engine");
    let (mut engine, new) = background::connect_or_start(&app.settings, Some(&request))?;
    bar.update(&Progress { what: working(mode).to_owned(), done: 0, total: None, unit: Unit::Items });
    let mut shown = engine.client.call_with(request, |item| {
        if let Item::Progress(progress) = item {
            bar.update(&progress);
        }
        Ok(())
    })?;
    bar.clear();
    if new && shown.how == How::Already {
        // A new engine shows again what the one before showed, before it is asked to.
        shown.how = How::Resumed;
    }
    match app.settings.json {
        true => app.out.json(&shown)?,
        false => say(&announcement(&shown)),
    }
    Ok(DONE)
}

/// What takes its time when a share is shown.
fn working(mode: Mode) -> &'static str {
    match mode {
        Mode::Mount => "mounting",
        Mode::Watch => "looking at what lies in the directory",
    }
}

/// The command that shows a share in this way.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Mount => "mount",
        Mode::Watch => "watch",
    }
}

/// `crdtfs mount TICKET` without a directory would make a new share in a directory of that name.
fn refuse_misplaced_ticket(mode: Mode, args: &Args) -> Result<()> {
    let dir = args.dir.as_os_str().as_encoded_bytes();
    if args.ticket.is_none()
        && dir.len() > 60
        && dir.starts_with(b"crdtfs")
        && !dir.contains(&b'/')
        && !args.dir.exists()
    {
        return Err(usage("this looks like a ticket, and the directory is missing")
            .with_hint(format!("put the directory after the ticket: crdtfs {} TICKET DIR", word(mode)))
            .into());
    }
    Ok(())
}

fn announcement(shown: &Shown) -> String {
    let dir = plain(shown.dir.as_str());
    let verb = match shown.mode {
        Mode::Mount => "mounted at",
        Mode::Watch => "kept in sync with",
    };
    let with = match &shown.options {
        none if *none == ShowOptions::default() => String::new(),
        options => format!(", with {options}"),
    };
    match shown.how {
        How::Created => format!("a new share, {verb} {dir}\ninvite another device: crdtfs invite {dir}"),
        How::Joined => format!("joined the share, {verb} {dir}; its content is on the way: crdtfs status {dir}"),
        How::Resumed => format!("the share is {verb} {dir} again{with}"),
        How::Already => format!("the share is {verb} {dir} already{with}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_in_place_of_the_directory_is_noticed() {
        let args = |dir: &str, ticket: Option<&str>| Args {
            ticket: ticket.map(str::to_owned),
            dir: dir.into(),
            read_only: false,
            foreground: false,
        };
        let ticket = format!("crdtfs{}", "a".repeat(80));
        assert!(refuse_misplaced_ticket(Mode::Mount, &args(&ticket, None)).is_err());
        assert!(refuse_misplaced_ticket(Mode::Mount, &args("crdtfs-files", None)).is_ok());
        assert!(refuse_misplaced_ticket(Mode::Mount, &args("/tmp/d", Some(&ticket))).is_ok());
    }
}
