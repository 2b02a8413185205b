//! The engine in the background: found, or started.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use crdtfs_control::reply::Pong;
use crdtfs_control::request::{Ping, Show};
use crdtfs_control::{Client, ClientError, Failure, FailureKind};
use rustix::fs::FlockOperation;

use crate::cli::LogFormat;
use crate::settings::Settings;

/// What a started engine says on its stdout once its socket answers.
pub(crate) const READY: &str = "ready";

/// Where it logs, in the state directory.
pub(crate) const LOG: &str = "log/engine.log";

/// A log larger than this is put aside, as `engine.log.1`, at the next start.
const LOG_MAX: u64 = 16 << 20;

/// An engine that answered, and what it said of itself.
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) pong: Pong,
}

/// The engine that runs on the network that the user chose, or a new one; true if it is new. What the engine before showed
/// can be used then, or `status` says why not. A new one is started for the request that comes `first`.
pub(crate) fn connect_or_start(settings: &Settings, first: Option<&Show>) -> Result<(Running, bool)> {
    if let Some(running) = running(settings)? {
        return Ok((running.on_the_network(settings)?, false));
    }
    let turn = take_turn(settings)?;
    // Somebody may have started one while we waited for our turn.
    if let Some(running) = running(settings)? {
        return Ok((running.on_the_network(settings)?, false));
    }
    start(settings, first, &turn)?;
    let mut client = Client::connect(&settings.state_dir)?;
    let pong = client.call(Ping { shown: true })?;
    Ok((Running { client, pong }, true))
}

/// The engine that runs, if one does.
pub(crate) fn running(settings: &Settings) -> Result<Option<Running>> {
    loop {
        let client = match Client::connect(&settings.state_dir) {
            Ok(client) => client,
            Err(ClientError::NotRunning { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The socket of an engine that was killed takes connections until the system has taken the process away, and ends
        // them then.
        match Running::of(client) {
            Ok(running) => return Ok(Some(running)),
            Err(ClientError::Lost) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Running {
    /// Asks an engine who it is.
    pub(crate) fn of(mut client: Client) -> Result<Self, ClientError> {
        let pong = client.call(Ping::default())?;
        Ok(Self { client, pong })
    }

    /// Refuses to use an engine that talks to another network than the user chose.
    pub(crate) fn on_the_network(self, settings: &Settings) -> Result<Self> {
        let network = &self.pong.network;
        if settings.network_chosen && *network != settings.network.word() {
            let message = format!("the engine of {} runs with --network {network}", settings.state_dir.display());
            return Err(Failure::new(FailureKind::Failed, message)
                .with_hint(format!("`crdtfs stop` first, then again with --network {}", settings.network.word()))
                .into());
        }
        Ok(self)
    }
}

/// The state directory, made if need be, for its owner only.
fn make_state_dir(settings: &Settings) -> Result<()> {
    let log_dir = settings.state_dir.join("log");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&log_dir)
        .with_context(|| format!("cannot create {}", log_dir.display()))
}

/// One start at a time on a state directory: the others wait here, and then find the engine running. Over when the value
/// is dropped.
pub(crate) fn take_turn(settings: &Settings) -> Result<File> {
    make_state_dir(settings)?;
    let path = settings.state_dir.join("start.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Runs this program once more as the engine, and returns when its socket answers. The turn is the engine's, too, as its stdin, until
/// then: should this process be killed meanwhile, whoever comes next waits for that engine and does not start another one.
fn start(settings: &Settings, first: Option<&Show>, turn: &File) -> Result<()> {
    let log_path = settings.state_dir.join(LOG);
    let mut log = open_log(&log_path).with_context(|| format!("cannot open {}", log_path.display()))?;
    let log_start = log.seek(SeekFrom::End(0)).with_context(|| format!("cannot read {}", log_path.display()))?;
    let mut engine = Command::new("/proc/self/exe")
        .arg0("crdtfs")
        .args(engine_args(settings))
        .arg("--state-dir")
        .arg(&settings.state_dir)
        .arg("engine")
        .args(first.filter(|first| first.ticket.is_none()).map(first_for_engine))
        .stdin(turn.try_clone().context("cannot hand on the turn to start")?)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the engine")?;
    let said = engine.stdout.take().expect("it is a pipe");
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).context("cannot hear the engine that was started")?;
    if line.trim_end() == READY {
        return Ok(());
    }
    let ended = engine.wait().context("cannot wait for the engine that was started")?;
    let mut last_words = String::new();
    let mut log = File::open(&log_path).with_context(|| format!("cannot read {}", log_path.display()))?;
    log.seek(SeekFrom::Start(log_start)).and_then(|_| log.read_to_string(&mut last_words))?;
    match last_words.lines().rev().find_map(|line| line.strip_prefix("crdtfs: ")) {
        Some(reason) => bail!("the engine did not start: {reason}"),
        None => bail!("the engine did not start ({ended}): see {}", log_path.display()),
    }
}

/// A request as a flag: without a ticket, which is a secret that other users could read there, nothing in it is one.
fn first_for_engine(first: &Show) -> String {
    format!("--first={}", serde_json::to_string(first).expect("a request is JSON"))
}

/// The settings as flags. The file is not left to the engine: it may have changed since.
fn engine_args(settings: &Settings) -> Vec<String> {
    let mut args = vec![format!("--network={}", settings.network.word()), format!("--name={}", settings.name)];
    args.extend(settings.relays.iter().map(|relay| format!("--relay={relay}")));
    args.extend(std::iter::repeat_n("-v".to_owned(), settings.verbose.into()));
    if settings.log_format == LogFormat::Json {
        args.push("--log-format=json".to_owned());
    }
    args
}
