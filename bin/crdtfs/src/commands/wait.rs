//! `crdtfs wait`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use crdtfs_control::reply::Lacking;
use crdtfs_control::request::{Wait, WaitFor};
use crdtfs_control::{DirText, Item};

use super::App;
use crate::failure::{DONE, NOT_YET};
use crate::output::{name_among, plain, say, short};
use crate::progress::Bar;
use crate::{paths, quantity};

/// Wait until other devices have what this one has, and the other way round.
///
/// Done once the members waited for have the same changes and all the content that they want, and so has this device; with all
/// that was done on connected ones before. Exit 3 if that is not so in time, saying who is missing what.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crdtfs wait ~/Shared --devices connected       before the laptop is closed
  crdtfs wait --devices 2 --timeout 10m          two copies elsewhere, of every share")]
pub(crate) struct Args {
    /// The directory that shows the share, or any path in it; without it: all shares
    dir: Option<PathBuf>,
    /// Which other members: so many, `all`, or `connected` (at least one, and all that are, not those only being dialled)
    #[arg(long, value_name = "N|all|connected", default_value = "all", value_parser = parse_devices)]
    devices: WaitFor,
    /// How long at most
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = quantity::parse_duration)]
    timeout: Duration,
}

fn parse_devices(text: &str) -> Result<WaitFor, String> {
    match text {
        "all" => Ok(WaitFor::All),
        "connected" => Ok(WaitFor::Connected),
        number => match number.parse() {
            Ok(count) => Ok(WaitFor::Count(count)),
            Err(_) => Err("a number of devices, `all` or `connected`".to_owned()),
        },
    }
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let dir = args.dir.as_deref().map(paths::resolve).transpose()?;
    let request = Wait {
        dir: dir.as_ref().map(DirText::from),
        devices: args.devices,
        timeout_ms: quantity::millis(args.timeout),
    };
    let mut bar = Bar::new(app.out.bars(), "waiting");
    let waited = app.client()?.call_with(request, |item| {
        match item {
            Item::Progress(progress) => bar.update(&progress),
            Item::Note(note) => say(&plain(&note.message)),
            _ => {}
        }
        Ok(())
    })?;
    bar.clear();
    if app.settings.json {
        app.out.json(&waited)?;
    }
    if waited.done {
        return Ok(DONE);
    }
    say(&format!("crdtfs: not in sync after {}", quantity::duration(args.timeout)));
    report(&waited.devices, args.devices).iter().for_each(|line| say(line));
    Ok(NOT_YET)
}

/// Lines that say of each share who lacks what.
fn report(devices: &[Lacking], wanted: WaitFor) -> Vec<String> {
    let mut lines = Vec::new();
    for of_share in devices.chunk_by(|one, other| one.share == other.share) {
        let share = of_share.first().map(|device| match &device.dir {
            Some(dir) => plain(dir.as_str()),
            None => format!("share {}", short(&device.share)),
        });
        let others = of_share.iter().filter(|device| !device.me).count();
        let mut said: Vec<String> = of_share.iter().filter_map(|device| sentence(device, of_share)).collect();
        said.extend(match wanted {
            WaitFor::Count(count) if others < count as usize => {
                Some(format!("it has {}, and {count} are waited for", quantity::counted(others as u64, "other member")))
            }
            WaitFor::Connected if !of_share.iter().any(|device| !device.me && device.connected) => {
                Some("no other device is connected".to_owned())
            }
            _ => None,
        });
        if !said.is_empty() {
            lines.extend(share.map(|share| format!("  {share}:")));
            lines.extend(said.iter().map(|said| format!("    {said}")));
        }
    }
    lines
}

/// What one of a share's devices lacks, if it lacks something.
fn sentence(device: &Lacking, of_share: &[Lacking]) -> Option<String> {
    let mut parts = Vec::new();
    if !device.me && !device.connected {
        parts.push("is not connected".to_owned());
    }
    if !device.same_heads {
        let whose = if device.me { "lacks changes that others have" } else { "has not said that it has all changes" };
        parts.push(whose.to_owned());
    }
    let waits = device.missing.files > 0;
    // Who has something to wait for answers after that.
    let busy = waits && device.unanswered_ms.is_some();
    if waits {
        parts.push(lacks(device, busy));
    }
    if let Some(ms) = device.unanswered_ms {
        let since = Duration::from_secs(ms / 1000);
        let how = if since.is_zero() { "yet".to_owned() } else { format!("for {}", quantity::duration(since)) };
        parts.push(format!("{}has not answered {how}", if busy { "and " } else { "" }));
    }
    let names = of_share.iter().map(|device| device.name.as_str());
    let name = if device.me { "this device".to_owned() } else { name_among(&device.name, &device.device, names) };
    (!parts.is_empty()).then(|| format!("{name} {}", parts.join(", ")))
}

/// Which contents a device lacks, or what else it is about; `busy` with it, instead of answering.
fn lacks(device: &Lacking, busy: bool) -> String {
    let missing = &device.missing;
    let said = match busy && missing.bytes > 0 {
        true => {
            let files = quantity::counted(missing.files, "file");
            format!("waits itself for the contents of {files}, {}", quantity::size(missing.bytes))
        }
        false => quantity::lacks(missing),
    };
    let more = if missing.files > 1 { ", …" } else { "" };
    let which = device.paths.first().map(|path| format!("{}{more}", plain(path.as_str())));
    let why = (missing.bytes == 0)
        .then(|| "a merge waits for bytes, a program has a file open, or its directory cannot be used".to_owned());
    let details: Vec<_> = which.into_iter().chain(why).collect();
    if details.is_empty() { said } else { format!("{said} ({})", details.join(": ")) }
}

#[cfg(test)]
mod tests {
    use crdtfs_control::PathText;
    use crdtfs_control::status::Missing;

    use super::*;

    #[test]
    fn devices_are_numbers_or_words() {
        assert_eq!(parse_devices("all"), Ok(WaitFor::All));
        assert_eq!(parse_devices("connected"), Ok(WaitFor::Connected));
        assert_eq!(parse_devices("2"), Ok(WaitFor::Count(2)));
        assert!(parse_devices("-1").is_err());
    }

    #[test]
    fn who_lacks_what_is_said() {
        let mut device = Lacking {
            share: String::new(),
            dir: None,
            device: "ab".repeat(32),
            name: "desk".to_owned(),
            me: false,
            connected: true,
            same_heads: true,
            unanswered_ms: None,
            missing: Missing::default(),
            paths: Vec::new(),
        };
        let said = |device: &Lacking| sentence(device, std::slice::from_ref(device));
        assert_eq!(said(&device), None);
        device.unanswered_ms = Some(12_345);
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk has not answered for 12 s");
        device.missing = Missing { files: 1, bytes: 72 };
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk waits itself for the contents of 1 file, 72 B, and has not answered for 12 s");
        // What is not known in size.
        device.missing = Missing { files: 1, bytes: 0 };
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk is not done with what came (a merge waits for bytes, a program has a file open, or its directory cannot be used), and has not answered for 12 s");
        device.unanswered_ms = None;
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk is not done with what came (a merge waits for bytes, a program has a file open, or its directory cannot be used)");
        device.paths = vec![PathText::from("a/b")];
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk is not done with what came (a/b: a merge waits for bytes, a program has a file open, or its directory cannot be used)");
        device.connected = false;
        device.missing = Missing { files: 2, bytes: 2048 };
        insta::assert_snapshot!(said(&device).expect("lacks"), @"desk is not connected, lacks 2 files, 2.0 KiB (a/b, …)");
        // Two that are called the same.
        let me = Lacking { me: true, device: "cafe".repeat(16), ..device.clone() };
        let said = sentence(&device, &[me.clone(), device.clone()]).expect("lacks");
        assert!(said.starts_with("desk (abababab"), "{said}");
        assert!(sentence(&me, &[me.clone(), device]).is_some_and(|said| said.starts_with("this device")));
    }
}
