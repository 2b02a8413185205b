//! `crdtfs stop`.

use std::time::Duration;

use anyhow::Result;
use crdtfs_control::request::Stop;
use crdtfs_control::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::App;
use crate::background::{self, Running};
use crate::failure::DONE;
use crate::output::say;
use crate::progress::Bar;

/// Stop the engine.
///
/// Everything is flushed and unmounted; returns once its process has gone. What was shown is shown again by `start`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs stop")]
pub(crate) struct Args {}

/// After its reply the engine has only its sockets to close.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn run(app: &mut App, _: &Args) -> Result<u8> {
    let Some(Running { mut client, pong }) = background::running(&app.settings)? else {
        say("no engine runs");
        return Ok(DONE);
    };
    let mut bar = Bar::new(app.out.bars(), "stopping: everything is flushed and unmounted");
    let pid = pong.pid;
    // Opened before the engine leaves, so that it is that process and no later one.
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let stopped = client.call(Stop::default())?;
    if let Some(Ok(process)) = process {
        let timeout = Timespec { tv_sec: LEAVE_WITHIN.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout))? == 0 {
            let message = format!("the engine has stopped its work, but its process {pid} is still there");
            return Err(Failure::new(FailureKind::Timeout, message).into());
        }
    } else {
        client.wait_closed(LEAVE_WITHIN);
    }
    bar.clear();
    match app.settings.json {
        true => app.out.json(&stopped)?,
        false => say("stopped"),
    }
    Ok(DONE)
}
