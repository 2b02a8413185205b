//! Processes that end with the value that stands for them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A running program whose stderr goes to a log file and is listened to.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    /// Starts it; its stderr is also written to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let mut log = File::options().create(true).append(true).open(log).context("cannot open a log")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stderr = BufReader::new(child.stderr.take().context("no stderr")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(|line| line.ok()) {
                // The log is for reading after a failure; the test goes on without it.
                drop(writeln!(log, "{line}"));
                drop(send.send(line));
            }
        });
        Ok(Self { child, lines, said: Vec::new() })
    }

    /// Until it has said a line like this on stderr.
    pub(crate) fn wait_for_line(&mut self, wanted: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.trim_end() == wanted;
                    self.said.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no `{wanted}` in {patience:?}; it said: {:#?}", self.said),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended without `{wanted}`; it said: {:#?}", self.said),
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Until it ends, at most so long; its status, and what it said on stderr.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<(ExitStatus, Vec<String>)> {
        ensure!(self.ends_within(patience)?, "it has not ended in {patience:?}; it said: {:#?}", self.said);
        let status = self.child.wait()?;
        self.said.extend(self.lines.iter());
        Ok((status, std::mem::take(&mut self.said)))
    }

    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it has ended, or does so within the time.
    fn ends_within(&mut self, patience: Duration) -> Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(true);
        }
        // Not reaped yet, so the id is still its.
        let fd = pidfd_open(self.pid()?, PidfdFlags::empty())?;
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
        Ok(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? > 0)
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command to its end; its output, or an error with all that it said if it failed.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    bail!("{command:?}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}
