//! `crdtfs ls`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::reply::{Entry, EntryKind, Local};
use crdtfs_control::request::Ls;
use crdtfs_control::{Item, PathText};

use super::App;
use crate::failure::DONE;
use crate::output::{Cell, Output, Tone, plain};
use crate::progress::Bar;
use crate::{paths, quantity};

/// List a share's tree with what of it is on this device.
///
/// Each line: permissions, size, time, what is here (`whole`, `partly`, `absent`), path in the share; conflict copies and
/// entries whose merge waits for bytes are marked. With --json one entry a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs ls ~/Shared
  crdtfs ls --recursive ~/Shared/photos --json")]
pub(crate) struct Args {
    /// A directory or file of a share
    #[arg(value_name = "DIR[/PATH]")]
    path: PathBuf,
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Rows that are lined up together; a longer list is printed in such pieces, as it comes.
const BATCH: usize = 1_000;

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let path = PathText::from(&paths::resolve_entry(&args.path)?);
    let App { settings, out } = app;
    let mut client = crdtfs_control::Client::connect(&settings.state_dir)?;
    let mut rows = Vec::new();
    let mut bar = Bar::new(out.bars(), "reading the tree");
    client.call_with(Ls { path, recursive: args.recursive }, |item| {
        let Item::Entry(entry) = item else { return Ok(()) };
        bar.clear();
        if settings.json {
            return out.json_line(&entry);
        }
        rows.push(row(&entry));
        if rows.len() == BATCH { print(out, &mut rows) } else { Ok(()) }
    })?;
    print(out, &mut rows)?;
    Ok(DONE)
}

fn print(out: &mut Output, rows: &mut Vec<Vec<Cell>>) -> std::io::Result<()> {
    out.table(0, rows)?;
    rows.clear();
    Ok(())
}

fn row(entry: &Entry) -> Vec<Cell> {
    let local = match entry.local {
        Local::Whole => Cell::new("whole"),
        Local::Partly => Cell::toned(Tone::Waiting, "partly"),
        Local::Absent => Cell::toned(Tone::Waiting, "absent"),
    };
    let mut path = plain(entry.path.as_str());
    if entry.kind == EntryKind::Dir {
        path.push('/');
    }
    let path = match (entry.conflict, entry.pending) {
        (_, true) => Cell::toned(Tone::Waiting, format!("{path}  (pending)")),
        (true, _) => Cell::toned(Tone::Bad, format!("{path}  (conflict copy)")),
        _ => Cell::new(path),
    };
    let size = if entry.kind == EntryKind::File { quantity::size(entry.size) } else { "-".to_owned() };
    vec![
        Cell::new(permissions(entry.kind, entry.mode)),
        Cell::right(size),
        Cell::new(quantity::local_time(entry.mtime_ms)),
        local,
        path,
    ]
}

/// As `ls -l` shows them.
fn permissions(kind: EntryKind, mode: u32) -> String {
    let mut text = String::from(match kind {
        EntryKind::File => "-",
        EntryKind::Dir => "d",
        EntryKind::Symlink => "l",
        EntryKind::Fifo => "p",
        EntryKind::Socket => "s",
        EntryKind::Device => "c",
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_shown_as_ls_does() {
        assert_eq!(permissions(EntryKind::File, 0o644), "-rw-r--r--");
        assert_eq!(permissions(EntryKind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(permissions(EntryKind::File, 0o4640), "-rwSr-----");
    }
}
