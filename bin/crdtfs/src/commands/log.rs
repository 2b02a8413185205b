//! `crdtfs log`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::reply::{Action, Event};
use crdtfs_control::request::Log;
use crdtfs_control::{Item, PathText};
use serde::Serialize;

use super::App;
use crate::failure::DONE;
use crate::output::{plain, short};
use crate::progress::Bar;
use crate::{paths, quantity};

/// List who did what when, oldest first.
///
/// Each line: time, version (for `crdtfs restore --version`), device, what, path, size and blake3. Of a directory:
/// everything below it, too; of what was moved, and is there or was removed there: also under its earlier names; of a
/// file: also the versions that stand or stood beside it as its conflict copies. With --json one event a line: `time`,
/// `device`, `event` (create, update, move or delete), `path`, `blake3`, `version` and more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs log ~/Shared/report.txt
  crdtfs log ~/Shared --json | jq 'select(.event == \"delete\")'")]
pub(crate) struct Args {
    /// A path in a share, also of what is there no more
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// An event for scripts: the protocol's, with its time as text.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let path = PathText::from(&paths::resolve_entry(&args.path)?);
    let App { settings, out } = app;
    let mut client = crdtfs_control::Client::connect(&settings.state_dir)?;
    let mut bar = Bar::new(out.bars(), "reading the history");
    client.call_with(Log { path }, |item| {
        let Item::Event(event) = item else { return Ok(()) };
        bar.clear();
        if settings.json {
            return out.json_line(&Line { time: quantity::utc_time(event.time_ms), event: &event });
        }
        out.line(&sentence(&event))
    })?;
    Ok(DONE)
}

fn sentence(event: &Event) -> String {
    let verb = match event.event {
        Action::Create => "create",
        Action::Update => "update",
        Action::Move => "move  ",
        Action::Delete => "delete",
    };
    let time = quantity::local_time(event.time_ms);
    let path = plain(event.path.as_str());
    let path = match &event.from {
        Some(from) => format!("{} -> {path}", plain(from.as_str())),
        None => path,
    };
    let size = event.size.map(|size| format!("  {}", quantity::size(size))).unwrap_or_default();
    let hash = event.blake3.as_deref().map(|hash| format!("  {}", short(hash))).unwrap_or_default();
    format!("{time}  {}  {:<12}  {verb}  {path}{size}{hash}", short(&event.version), plain(&event.device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_get_the_five_fields_of_the_contract() {
        let event = Event {
            time_ms: 1_500,
            device: "desk".to_owned(),
            device_id: "aa".to_owned(),
            event: Action::Move,
            path: PathText::from("b"),
            from: Some("a".into()),
            blake3: Some("cc".to_owned()),
            size: Some(3),
            version: "dd".to_owned(),
        };
        let line = Line { time: quantity::utc_time(event.time_ms), event: &event };
        insta::assert_snapshot!(
            serde_json::to_string(&line).expect("serializes"),
            @r#"{"time":"1970-01-01T00:00:01.500Z","time_ms":1500,"device":"desk","device_id":"aa","event":"move","path":"b","from":"a","blake3":"cc","size":3,"version":"dd"}"#
        );
    }
}
