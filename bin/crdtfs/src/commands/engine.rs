//! `crdtfs engine`: what the background process runs; not for users.

use anyhow::{Context, Result};
use crdtfs_control::request::Show;
use rustix::fs::FlockOperation;

use super::App;
use crate::background::READY;
use crate::failure::DONE;
use crate::foreground::{self, LEAVE_WITHIN, Signals};
use crate::host::Host;

/// Run the engine of the state directory, detached from the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The request that it is started for, as on the control socket
    #[arg(long, value_name = "JSON", value_parser = parse_first)]
    first: Option<Show>,
}

fn parse_first(json: &str) -> Result<Show, serde_json::Error> {
    serde_json::from_str(json)
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    // Ctrl-C in the terminal that started it is not meant for it. It fails only for a leader of a process group, which a
    // started child is not; run by hand from a shell it is one, and stays where it is.
    let _ = rustix::process::setsid();
    // It was started by way of /proc, and lists of processes would call it by what it is called there.
    rustix::thread::set_name(c"crdtfs").context("cannot name the process")?;
    rustix::process::chdir("/").context("cannot leave the current directory")?;
    let runtime = foreground::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut host = Host::start(&app.settings, args.first.clone()).await?;
        // Who started it may have left meanwhile: what is shown is shown all the same.
        drop(app.out.line(READY).and_then(|()| app.out.flush()));
        // Its stdin is the turn to start one, which is over; or it was run by hand.
        let _ = rustix::fs::flock(std::io::stdin(), FlockOperation::Unlock);
        tokio::select! {
            () = signals.any() => {}
            () = host.stopped() => {}
        }
        host.shutdown(LEAVE_WITHIN).await
    });
    runtime.shutdown_background();
    ended.map(|()| DONE)
}
