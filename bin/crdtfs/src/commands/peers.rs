//! `crdtfs peers`.

use std::time::Duration;

use anyhow::Result;
use crdtfs_control::reply::Peer;
use crdtfs_control::request::Peers;
use crdtfs_control::status::Route;

use super::App;
use crate::failure::DONE;
use crate::output::{Cell, Tone, plain, short};
use crate::quantity;

/// List the other devices: how they are reached, rates, since when, the last error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs peers --json")]
pub(crate) struct Args {}

pub(crate) fn run(app: &mut App, _: &Args) -> Result<u8> {
    let peers = app.client()?.call(Peers::default())?;
    if app.settings.json {
        app.out.json(&peers)?;
        return Ok(DONE);
    }
    if peers.peers.is_empty() {
        crate::output::say("no other device is known yet: invite one with `crdtfs invite DIR`");
    }
    for peer in &peers.peers {
        app.out.table(0, &[row(peer)])?;
        if !peer.addresses.is_empty() {
            app.out.line(&format!("  at {}", plain(&peer.addresses.join(", "))))?;
        }
        if let Some(error) = peer.last_error.as_deref().filter(|_| !peer.connected) {
            app.out.line(&format!("  {}", plain(error)))?;
        }
    }
    Ok(DONE)
}

fn row(peer: &Peer) -> Vec<Cell> {
    let mut cells = vec![
        Cell::toned(Tone::Heading, plain(&peer.name)),
        Cell::toned(Tone::Faint, short(&peer.device)),
        connection(peer.connected, peer.route, peer.rtt_us),
    ];
    if peer.connected {
        let total = |bytes, rate| format!("{} at {}/s", quantity::size(bytes), quantity::size(rate));
        cells.push(Cell::new(format!("received {}", total(peer.bytes_in, peer.rate_in))));
        cells.push(Cell::new(format!("sent {}", total(peer.bytes_out, peer.rate_out))));
    }
    if let Some(since) = peer.since_ms {
        let what = if peer.connected { "connected" } else { "last seen" };
        cells.push(Cell::new(format!("{what} {}", quantity::ago(since))));
    }
    cells
}

/// How a device is reached.
pub(crate) fn connection(connected: bool, route: Option<Route>, rtt_us: Option<u64>) -> Cell {
    if !connected {
        return Cell::toned(Tone::Waiting, "not connected");
    }
    let route = match route {
        Some(Route::Direct) => "direct",
        Some(Route::Relayed) => "relayed",
        Some(Route::Mixed) => "direct and relayed",
        None => "connected",
    };
    match rtt_us {
        Some(rtt) => {
            Cell::toned(Tone::Good, format!("{route}, {:.1} ms", Duration::from_micros(rtt).as_secs_f64() * 1e3))
        }
        None => Cell::toned(Tone::Good, route),
    }
}
