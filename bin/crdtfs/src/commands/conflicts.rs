//! `crdtfs conflicts`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use crdtfs_control::reply::{Conflict, Side};
use crdtfs_control::request::{Conflicts, Keep};
use crdtfs_control::{DirText, Item, PathText};
use serde::Serialize;

use super::App;
use crate::failure::DONE;
use crate::output::{plain, say, short};
use crate::progress::Bar;
use crate::{paths, quantity};

/// List what stands beside other files because two devices disagreed, or settle it.
///
/// Of each: the conflict copy, the file that it belongs to, and of both who made them when. Both can be used like any
/// other file; to settle a conflict, delete the copy, or say which of the two to keep. With --json one conflict a line:
/// `path`, `device`, `time`, `blake3`, the same in `of` for the file that has the name, and more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs conflicts ~/Shared
  crdtfs conflicts --keep ~/Shared/report.txt
  crdtfs conflicts --keep ~/Shared/'report (conflict laptop 1a2b3c4d).txt'")]
pub(crate) struct Args {
    /// A directory of a share: only what is below it [default: all shares]
    dir: Option<PathBuf>,
    /// Keep this version under the name, a conflict copy or the file that has one; the others go, into the history
    #[arg(long, value_name = "PATH", conflicts_with = "dir")]
    keep: Option<PathBuf>,
}

/// A conflict for scripts: the protocol's, with its times as text.
#[derive(Serialize)]
struct Line<'a> {
    share: &'a str,
    #[serde(flatten)]
    dir: &'a DirText,
    #[serde(flatten)]
    copy: Timed<'a>,
    of: Timed<'a>,
    pending: bool,
}

#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    side: &'a Side,
}

impl<'a> From<&'a Side> for Timed<'a> {
    fn from(side: &'a Side) -> Self {
        Self { time: quantity::utc_time(side.time_ms), side }
    }
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    match &args.keep {
        Some(path) => keep(app, path),
        None => list(app, args.dir.as_deref()),
    }
}

fn list(app: &mut App, dir: Option<&Path>) -> Result<u8> {
    let dir = dir.map(paths::resolve_entry).transpose()?.as_ref().map(DirText::from);
    let App { settings, out } = app;
    let mut client = crdtfs_control::Client::connect(&settings.state_dir)?;
    let mut bar = Bar::new(out.bars(), "looking for conflicts");
    client.call_with(Conflicts { dir }, |item| {
        let Item::Conflict(conflict) = item else { return Ok(()) };
        bar.clear();
        if settings.json {
            return out.json_line(&line(&conflict));
        }
        out.line(&sentence(&conflict))?;
        out.line(&told("  ", &conflict.copy))?;
        out.line(&format!("{}, has the name {}", told("  ", &conflict.of), plain(conflict.of.path.as_str())))
    })?;
    Ok(DONE)
}

fn keep(app: &mut App, path: &Path) -> Result<u8> {
    let path = PathText::from(&paths::resolve_entry(path)?);
    let kept = app.client()?.call(Keep { path })?;
    if app.settings.json {
        app.out.json(&kept)?;
        return Ok(DONE);
    }
    let path = plain(kept.path.as_str());
    say(&format!("kept as {path}; `crdtfs log` lists what it had beside or before that"));
    Ok(DONE)
}

fn line(conflict: &Conflict) -> Line<'_> {
    Line {
        share: &conflict.share,
        dir: &conflict.dir,
        copy: (&conflict.copy).into(),
        of: (&conflict.of).into(),
        pending: conflict.pending,
    }
}

/// The path as it can be given to a command.
fn sentence(conflict: &Conflict) -> String {
    let path = conflict.dir.to_path().join(conflict.copy.path.to_path());
    let pending = if conflict.pending { "  (not decided: it waits for bytes)" } else { "" };
    format!("{}{pending}", plain(&path.to_string_lossy()))
}

fn told(indent: &str, side: &Side) -> String {
    let size = side.size.map(|size| format!("  {}", quantity::size(size))).unwrap_or_default();
    let version = short(&side.version);
    format!("{indent}{}  {}{size}  {version}", quantity::local_time(side.time_ms), plain(&side.device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdtfs_control::reply::EntryKind;

    #[test]
    fn scripts_get_both_sides() {
        let side = |path: &str, device: &str| Side {
            path: path.into(),
            kind: EntryKind::File,
            device: device.to_owned(),
            device_id: "dd".to_owned(),
            time_ms: 1_500,
            version: "ee".to_owned(),
            blake3: Some("bb".to_owned()),
            size: Some(3),
        };
        let conflict = Conflict {
            share: "aa".to_owned(),
            dir: "/d".into(),
            copy: side("a (conflict lap ee)", "lap"),
            of: side("a", "desk"),
            pending: false,
        };
        insta::assert_snapshot!(
            serde_json::to_string(&line(&conflict)).expect("serializes"),
            @r#"{"share":"aa","dir":"/d","time":"1970-01-01T00:00:01.500Z","path":"a (conflict lap ee)","kind":"file","device":"lap","device_id":"dd","time_ms":1500,"version":"ee","blake3":"bb","size":3,"of":{"time":"1970-01-01T00:00:01.500Z","path":"a","kind":"file","device":"desk","device_id":"dd","time_ms":1500,"version":"ee","blake3":"bb","size":3},"pending":false}"#
        );
        assert_eq!(sentence(&conflict), "/d/a (conflict lap ee)");
    }
}
