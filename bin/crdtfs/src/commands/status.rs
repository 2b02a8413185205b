//! `crdtfs status`.

use std::io;
use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::DirText;
use crdtfs_control::request::{Mode, Status as Request};
use crdtfs_control::status::{Device, Problem, Share, ShowState, Showing, Status, Transfer};

use super::App;
use super::members::role;
use super::peers::connection;
use crate::failure::DONE;
use crate::output::{Cell, Output, Tone, name_among, plain, short};
use crate::{paths, quantity};

/// Show shares and devices: who has what, what is under way, problems.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  crdtfs status\n  crdtfs status ~/Shared --json | jq '.shares[].missing'")]
pub(crate) struct Args {
    /// The directory that shows the share, or any path in it; without it: all shares
    dir: Option<PathBuf>,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let dir = args.dir.as_deref().map(paths::resolve).transpose()?;
    let status = app.client()?.call(Request { dir: dir.as_ref().map(DirText::from) })?;
    match app.settings.json {
        true => app.out.json(&status)?,
        false => print(&mut app.out, &status)?,
    }
    Ok(DONE)
}

fn print(out: &mut Output, status: &Status) -> io::Result<()> {
    let engine = &status.engine;
    out.line(&format!(
        "{} ({})  network {}, {} in {} of state, {} free",
        out.tone(Tone::Heading, &plain(&engine.name)),
        short(&engine.device),
        plain(&engine.network),
        quantity::counted(status.shares.len() as u64, "share"),
        quantity::size(engine.disk.used),
        quantity::size(engine.disk.free),
    ))?;
    problems(out, &status.problems)?;
    for share in &status.shares {
        out.line("")?;
        print_share(out, share)?;
    }
    Ok(())
}

fn print_share(out: &mut Output, share: &Share) -> io::Result<()> {
    let title = format!("share {}", short(&share.share));
    out.line(&format!(
        "{}  {}, {} {}, {}",
        out.tone(Tone::Heading, &title),
        role(share.role),
        quantity::count(share.entries),
        if share.entries == 1 { "entry" } else { "entries" },
        quantity::size(share.bytes),
    ))?;
    out.table(2, &share.dirs.iter().map(showing).collect::<Vec<_>>())?;
    let rows: Vec<_> = share.devices.iter().map(|member| device(member, share)).collect();
    out.table(2, &rows)?;
    out.table(2, &share.transfers.iter().map(transfer).collect::<Vec<_>>())?;
    problems(out, &share.problems)
}

fn showing(showing: &Showing) -> Vec<Cell> {
    let mode = match showing.mode {
        Mode::Mount => "mount",
        Mode::Watch => "watch",
    };
    let read_only = if showing.read_only { ", read-only" } else { "" };
    let on_demand = if showing.on_demand { ", on demand" } else { "" };
    let (tone, state) = match showing.state {
        ShowState::Starting => (Tone::Waiting, "starting"),
        ShowState::Ready => (Tone::Good, "ready"),
        ShowState::Stopped => (Tone::Faint, "stopped"),
        ShowState::Failed => (Tone::Bad, "failed"),
    };
    vec![
        Cell::new(plain(showing.dir.as_str())),
        Cell::new(format!("{mode}{read_only}{on_demand}")),
        Cell::toned(tone, state),
    ]
}

fn device(device: &Device, share: &Share) -> Vec<Cell> {
    let reached = match device.me {
        true => Cell::new("this device"),
        false => connection(device.connected, device.route, None),
    };
    let shown =
        |on_demand: bool| share.dirs.iter().any(|dir| dir.state == ShowState::Ready && dir.on_demand == on_demand);
    let partial = shown(true) && !shown(false);
    let missing = if device.me { Some(share.missing) } else { device.missing };
    let sync = match (missing, device.in_sync) {
        (Some(missing), _) if missing.files > 0 => Cell::toned(Tone::Waiting, quantity::lacks(&missing)),
        _ if device.me && partial => Cell::toned(Tone::Good, "has what was read here"),
        _ if device.me => Cell::toned(Tone::Good, "has everything"),
        (_, Some(true)) => Cell::toned(Tone::Good, "in sync"),
        (_, Some(false)) => Cell::toned(Tone::Waiting, "behind"),
        (_, None) => Cell::new("unknown"),
    };
    let seen = match device.last_seen_ms {
        Some(seen) if !device.me && !device.connected => {
            Cell::toned(Tone::Faint, format!("seen {}", quantity::ago(seen)))
        }
        _ => Cell::new(""),
    };
    let why = Cell::toned(Tone::Faint, device.error.as_deref().map(plain).unwrap_or_default());
    let name = name_among(&device.name, &device.device, share.devices.iter().map(|device| device.name.as_str()));
    vec![Cell::new(name), Cell::new(role(device.role)), reached, sync, seen, why]
}

fn transfer(transfer: &Transfer) -> Vec<Cell> {
    vec![
        Cell::new(format!("fetching {}", plain(transfer.path.as_str()))),
        Cell::right(quantity::size(transfer.done)),
        Cell::new(format!("of {}", quantity::size(transfer.total))),
    ]
}

fn problems(out: &mut Output, problems: &[Problem]) -> io::Result<()> {
    for problem in problems {
        let path = problem.path.as_ref().map(|path| format!("{}: ", plain(path.as_str()))).unwrap_or_default();
        let mark = out.tone(Tone::Bad, "!");
        out.line(&format!("  {mark} {path}{}", plain(&problem.message)))?;
    }
    Ok(())
}
