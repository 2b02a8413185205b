//! A device of the demo: a state directory, a directory that shows the share, the program in the foreground.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::process::{Process, run};

/// How a device shows the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Mount,
    Watch,
}

impl Mode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Watch => "watch",
        }
    }
}

/// A device. Dropped, its program is killed and its mount is taken away.
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) dir: PathBuf,
    program: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// What starting may take at most.
const START: Duration = Duration::from_secs(60);

/// What the program promises to leave within.
const LEAVE: Duration = Duration::from_secs(10);

impl Device {
    /// With its directories below `root`; nothing runs yet.
    pub(crate) fn new(root: &Path, name: &'static str, mode: Mode, program: &Path) -> Result<Self> {
        let dir = root.join(name).join("files");
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            name,
            mode,
            dir,
            program: program.to_owned(),
            state_dir: root.join(name).join("state"),
            log: root.join(format!("{name}.log")),
            process: None,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(&self.state_dir).args(["--network", "local", "--name", self.name]).args(args);
        command
    }

    /// Shows the share; returns when its tree can be used.
    pub(crate) fn start(&mut self, ticket: Option<&str>) -> Result<()> {
        let mut command = self.command(&[self.mode.word(), "--foreground"]);
        command.args(ticket).arg(&self.dir);
        let mut process = Process::start(command, &self.log)?;
        process.wait_for_line("ready", START).with_context(|| format!("{} does not start", self.name))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the program as a power cut does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().context("it runs")?.kill()
    }

    /// Ends the program as Ctrl-C does.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it runs")?;
        process.signal(Signal::TERM)?;
        let (status, said) = process.wait(LEAVE).with_context(|| format!("{} does not leave", self.name))?;
        ensure!(status.success(), "{} left with {status}: {said:#?}", self.name);
        Ok(())
    }

    /// A ticket for the share.
    pub(crate) fn invite(&self) -> Result<String> {
        let ticket = run(self.command(&["invite"]).arg(&self.dir))?.stdout;
        Ok(String::from_utf8(ticket)?.trim().to_owned())
    }

    /// Until all other members have what this device has, and the other way round.
    pub(crate) fn wait_in_sync(&self) -> Result<()> {
        run(self.command(&["wait", "--timeout", "2m"]).arg(&self.dir)).map(drop)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.process.take());
        if self.mode == Mode::Watch {
            return;
        }
        // The first fails without root, the second where it is not installed, both where nothing is mounted any more.
        for (program, flags) in [("umount", "-l"), ("fusermount3", "-uzq")] {
            let mut unmount = Command::new(program);
            unmount.arg(flags).arg(&self.dir).stdout(Stdio::null()).stderr(Stdio::null());
            if unmount.status().is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}
