//! `crdtfs restore`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::reply::{Lost, Restored};
use crdtfs_control::request::Restore;
use crdtfs_control::{Item, PathText, ToText};
use serde::Serialize;

use super::App;
use crate::failure::{DONE, FAILED};
use crate::output::{plain, say};
use crate::progress::Bar;
use crate::{paths, quantity};

/// Bring back a file or directory as it was.
///
/// Without --version or --at: what was removed comes back as it last was, a file as it was before its present version, and
/// in a directory that is empty what was last removed from it. A conflict copy is known by the name that it had.
/// It is an operation like any other: the present state stays in the history, and what was not there then stays where it
/// is. Versions are told by `crdtfs log`. Exit code 1 if bytes are missing; everything else is restored all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs restore ~/Shared/report.txt
  crdtfs restore ~/Shared/photos --at '2026-03-01 18:30' --to ~/Shared/photos-in-march
  crdtfs restore ~/Shared/report.txt --version 1a2b3c4d --to ~/Shared/report-old.txt")]
pub(crate) struct Args {
    /// A path in a share, also of what is there no more
    path: PathBuf,
    /// As it was right after this version (of a deletion: right before); the first digits of its id suffice
    #[arg(long, value_name = "ID", conflicts_with = "at", value_parser = version)]
    version: Option<String>,
    /// As it was at this time: `2026-03-01 18:30` (here), `2026-03-01T17:30:00Z`, or `2h` ago
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_time, allow_hyphen_values = true)]
    at: Option<i64>,
    /// Put it there instead, in the same share, where nothing is
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
}

fn version(text: &str) -> Result<String, String> {
    match text.len() {
        1..=32 if text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(text.to_owned()),
        _ => Err("a version's id is at most 32 hexadecimal digits; `crdtfs log` tells them".to_owned()),
    }
}

/// What was restored, for scripts.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    restored: &'a Restored,
    missing: &'a [Lost],
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let request = Restore {
        path: PathText::from(&paths::resolve_entry(&args.path)?),
        version_id: args.version.clone(),
        at_ms: args.at,
        to: args.to.as_deref().map(paths::resolve_entry).transpose()?.as_ref().map(ToText::from),
    };
    let mut lost: Vec<Lost> = Vec::new();
    let mut bar = Bar::new(app.out.bars(), "restoring");
    let restored = app.client()?.call_with(request, |item| {
        match item {
            Item::Lost(one) => lost.push(one),
            Item::Progress(progress) => bar.update(&progress),
            _ => {}
        }
        Ok(())
    });
    drop(bar);
    let restored = restored?;
    if app.settings.json {
        app.out.json(&Report { restored: &restored, missing: &lost })?;
    } else {
        say(&sentence(&restored));
        lost.iter().for_each(|lost| say(&left_out(lost)));
    }
    Ok(if lost.is_empty() { DONE } else { FAILED })
}

fn sentence(restored: &Restored) -> String {
    let path = plain(restored.path.as_str());
    let path = if path.is_empty() { "the share" } else { &path };
    if restored.changed == 0 {
        return format!("{path}: as it was, nothing to restore");
    }
    let entries = if restored.changed == 1 { "1 entry".into() } else { quantity::count(restored.changed) + " entries" };
    format!("restored {path}: {entries}, {}", quantity::size(restored.bytes))
}

fn left_out(lost: &Lost) -> String {
    let (path, size) = (plain(lost.path.as_str()), quantity::size(lost.size));
    let devices: Vec<_> = lost.devices.iter().map(|device| plain(device)).collect();
    match devices.is_empty() {
        true => format!("not restored: {path} ({size}): no device of the share has its bytes"),
        false => {
            format!("not restored: {path} ({size}): not connected, and may have its bytes: {}", devices.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_happened() {
        let restored = Restored { path: "d".into(), entries: 1234, changed: 1200, bytes: 2048, lost: 1 };
        assert_eq!(sentence(&restored), "restored d: 1,200 entries, 2.0 KiB");
        assert_eq!(sentence(&Restored { changed: 1, ..restored.clone() }), "restored d: 1 entry, 2.0 KiB");
        assert_eq!(sentence(&Restored { changed: 0, ..restored }), "d: as it was, nothing to restore");
        let lost = Lost {
            path: "d/f".into(),
            blake3: "bb".to_owned(),
            size: 3,
            devices: vec!["desk".to_owned(), "lap".to_owned()],
            reason: String::new(),
        };
        assert_eq!(left_out(&lost), "not restored: d/f (3 B): not connected, and may have its bytes: desk, lap");
        let nobody = Lost { devices: Vec::new(), ..lost };
        assert_eq!(left_out(&nobody), "not restored: d/f (3 B): no device of the share has its bytes");
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert!(version("0aF9").is_ok() && version("").is_err() && version("xyz").is_err());
        assert!(version(&"a".repeat(33)).is_err());
    }
}
