//! `--foreground`: shows a share for as long as this process lives.
//!
//! Where no engine runs on the state directory, this process is the engine. Either way the showing is asked for over the
//! control socket, by a thread of its own that stays attached; the main task waits for whatever comes first: a signal, the
//! end of the showing, the end of the engine.

use std::time::Duration;

use anyhow::{Context, Result};
use crdtfs_control::request::{Hide, Show, Status};
use crdtfs_control::status::ShowState;
use crdtfs_control::{Client, Item};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::background::{self, Running};
use crate::failure::DONE;
use crate::host::Host;
use crate::output::{Output, plain, say};
use crate::progress::Bar;
use crate::settings::Settings;

/// After a signal everything is flushed and unmounted within this. The contract says 10 s; closing the sockets comes after.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(8);

/// SIGINT, SIGTERM and SIGHUP (the terminal was closed), from now on ours.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where it is ignored, as `nohup` has it.
    hangup: Option<Signal>,
}

impl Signals {
    /// To be called within a tokio runtime.
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    /// Until one arrives.
    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = received(self.hangup.as_mut()) => {}
        }
    }
}

/// Until a signal arrives that may not be ours to take.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether this process was started with SIGHUP ignored (proc_pid_status(5)).
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// A runtime for signals and waiting; the engine has its own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")
}

/// Shows a share until it ends; the exit code.
pub(crate) fn show(settings: &Settings, request: Show) -> Result<u8> {
    let runtime = runtime()?;
    let shown = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let host = tokio::select! {
            host = find_or_host(settings, &request) => host?,
            () = signals.any() => return Ok(DONE),
        };
        match host {
            Some(host) => show_hosted(settings, request, host, &mut signals).await,
            None => show_attached(settings, request, &mut signals).await,
        }
    });
    runtime.shutdown_background();
    shown
}

/// An engine in this process for a request, unless one runs already.
async fn find_or_host(settings: &Settings, request: &Show) -> Result<Option<Host>> {
    let wait = settings.clone();
    let turn = tokio::task::spawn_blocking(move || background::take_turn(&wait)).await??;
    if background::running(settings)?.is_some() {
        return Ok(None);
    }
    let host = Host::start(settings, Some(request.clone())).await?;
    drop(turn);
    Ok(Some(host))
}

async fn show_hosted(settings: &Settings, request: Show, mut host: Host, signals: &mut Signals) -> Result<u8> {
    let mut showing = attach(settings, request);
    let mut ended = tokio::select! {
        ended = &mut showing => Some(ended.context("the showing was lost")?),
        () = signals.any() => None,
        () = host.stopped() => None,
    };
    // Others may have handed their shares to this engine: they are not dropped because ours has ended.
    if matches!(ended, Some(Ok(()))) && shows_more(settings).await {
        say("this share is shown no more; others still are, until this process is ended");
        tokio::select! {
            () = signals.any() => {}
            () = host.stopped() => {}
        }
        ended = None;
    }
    let left = host.shutdown(LEAVE_WITHIN).await;
    ended.unwrap_or(Ok(()))?;
    left.map(|()| DONE)
}

async fn show_attached(settings: &Settings, request: Show, signals: &mut Signals) -> Result<u8> {
    let dir = request.dir.clone();
    let mut showing = attach(settings, request);
    tokio::select! {
        ended = &mut showing => ended.context("the showing was lost")??,
        () = signals.any() => {
            let state_dir = settings.state_dir.clone();
            let hide = in_thread(move || Ok(Client::connect(&state_dir)?.call(Hide { dir })?));
            timeout(LEAVE_WITHIN, hide).await.context("the engine has not unmounted it in time")???;
        }
    }
    Ok(DONE)
}

/// Asks for the showing and stays until it ends; says `ready` once the tree can be used.
fn attach(settings: &Settings, request: Show) -> oneshot::Receiver<Result<()>> {
    let settings = settings.clone();
    let named = request.options.clone();
    in_thread(move || {
        let mut client = Running::of(Client::connect(&settings.state_dir)?)?.on_the_network(&settings)?.client;
        let mut out = Output::new();
        let mut bar = Bar::new(out.bars(), "getting ready");
        client.call_with(request, |item| {
            match item {
                Item::Progress(progress) => bar.update(&progress),
                Item::Ready(shown) => {
                    bar.clear();
                    if settings.json {
                        out.json_line(&shown)?;
                        out.flush()?;
                    }
                    if shown.options != named {
                        let (with, dir) = (&shown.options, plain(shown.dir.as_str()));
                        say(&format!("shown with `{with}`, as before; to end that, run `crdtfs unmount {dir}` once"));
                    }
                    say("ready");
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(())
    })
}

/// Whether the engine shows anything still.
async fn shows_more(settings: &Settings) -> bool {
    let state_dir = settings.state_dir.clone();
    let asked = in_thread(move || Ok(Client::connect(&state_dir)?.call(Status::default())?));
    let Ok(Ok(status)) = asked.await else { return false };
    let mut dirs = status.shares.iter().flat_map(|share| &share.dirs);
    dirs.any(|dir| matches!(dir.state, ShowState::Starting | ShowState::Ready))
}

/// Runs a blocking call in a thread that the end of the process does not wait for.
fn in_thread<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> oneshot::Receiver<Result<T>> {
    let (send, receive) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any more: then the result is of no use.
        drop(send.send(call()));
    });
    receive
}
