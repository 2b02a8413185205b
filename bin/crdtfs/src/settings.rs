//! What the flags, the environment and `config.toml` say together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use crdtfs_engine::DEFAULT_RETENTION;
use serde::Deserialize;

use crate::cli::{Global, LogFormat, Network};
use crate::failure::usage;
use crate::quantity::parse_duration;

/// The configuration file in the state directory.
pub(crate) const CONFIG: &str = "config.toml";

/// What holds for this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Absolute.
    pub(crate) state_dir: PathBuf,
    pub(crate) network: Network,
    /// Whether the network was chosen by the user: then an engine that runs with another one must not be used unasked.
    pub(crate) network_chosen: bool,
    pub(crate) relays: Vec<String>,
    pub(crate) name: String,
    pub(crate) json: bool,
    pub(crate) verbose: u8,
    pub(crate) log_format: LogFormat,
    /// How long the bytes of old versions are kept.
    pub(crate) retention: Duration,
    /// Whether a watched folder keeps a copy of what lies in it, for the history.
    pub(crate) keep_local_history: bool,
}

/// The keys of `config.toml`: the global flags by their names, and what has no flag.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigFile {
    network: Option<Network>,
    relay: Vec<String>,
    name: Option<String>,
    verbose: u8,
    log_format: Option<LogFormat>,
    retention: Option<String>,
    keep_local_history: bool,
}

impl Settings {
    /// Flag before environment (clap has done that) before file before default.
    pub(crate) fn new(global: Global) -> Result<Self> {
        let state_dir = match global.state_dir {
            Some(dir) if dir.as_os_str().is_empty() => return Err(usage("the state directory has no name").into()),
            Some(dir) => dir,
            None => default_state_dir()?,
        };
        let state_dir = std::path::absolute(&state_dir)
            .with_context(|| format!("cannot tell where the state directory {} is", state_dir.display()))?;
        let file = read_config(&state_dir.join(CONFIG))?;
        let network = global.network.or(file.network);
        let relays = if global.relay.is_empty() { file.relay } else { global.relay };
        if network == Some(Network::Local) && !relays.is_empty() {
            return Err(usage("a relay is not used with --network local: leave one of them out").into());
        }
        let name = match global.name.or(file.name) {
            Some(name) => checked_name(name)?,
            None => host_name(),
        };
        let retention = file.retention.as_deref().map(parse_duration).transpose();
        let retention =
            retention.map_err(|why| usage(format!("{}: retention: {why}", state_dir.join(CONFIG).display())))?;
        Ok(Self {
            retention: retention.unwrap_or(DEFAULT_RETENTION),
            keep_local_history: file.keep_local_history,
            state_dir,
            network: network.unwrap_or(Network::Internet),
            network_chosen: network.is_some(),
            relays,
            name,
            json: global.json,
            verbose: global.verbose.max(file.verbose),
            log_format: global.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

fn default_state_dir() -> Result<PathBuf> {
    // The XDG specification says to ignore a relative one.
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let data = data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    match data {
        Some(data) => Ok(data.join("crdtfs")),
        None => Err(usage("there is no home directory to keep state in")
            .with_hint("say where with --state-dir DIR or CRDTFS_STATE_DIR")
            .into()),
    }
}

fn read_config(path: &Path) -> Result<ConfigFile> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // No directory either, before the first run; what is wrong with it otherwise, the engine says better.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(ConfigFile::default());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    toml::from_str(&text).map_err(|error| usage(format!("{}: {}", path.display(), error.to_string().trim_end())).into())
}

/// The longest device name, in bytes: conflict copies carry it.
const NAME_MAX: usize = 32;

fn checked_name(name: String) -> Result<String> {
    let trimmed = name.trim();
    if trimmed.is_empty() || trimmed.len() > NAME_MAX || trimmed.contains(|c: char| c.is_control() || c == '/') {
        let message = format!("`{}` is no device name", trimmed.escape_debug());
        return Err(usage(message).with_hint(format!("1 to {NAME_MAX} bytes, without `/`")).into());
    }
    Ok(trimmed.to_owned())
}

/// The host's name, cut and cleaned to what [`checked_name`] accepts.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control() && *c != '/').collect();
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 { "device".to_owned() } else { name[..end].to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::failure;

    fn settings(dir: &Path, config: &str, flags: &[&str]) -> Result<Settings> {
        fs::write(dir.join(CONFIG), config).expect("writes");
        let dir = dir.to_str().expect("UTF-8");
        let args = ["crdtfs", "--state-dir", dir].into_iter().chain(flags.iter().copied()).chain(["peers"]);
        Settings::new(Cli::try_parse_from(args).expect("parses").global)
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let dir = tempfile::tempdir().expect("makes");
        let config = "network = 'local'\nname = 'desk'\nlog-format = 'json'\n";
        let of_file = settings(dir.path(), config, &[]).expect("holds");
        assert_eq!((of_file.network, of_file.network_chosen), (Network::Local, true));
        assert_eq!((of_file.name.as_str(), of_file.log_format), ("desk", LogFormat::Json));
        let flags = ["--network", "internet", "--name", "lap", "--relay", "https://a", "--relay", "https://b"];
        let of_flags = settings(dir.path(), config, &flags).expect("holds");
        assert_eq!((of_flags.network, of_flags.name.as_str()), (Network::Internet, "lap"));
        assert_eq!(of_flags.relays, ["https://a", "https://b"]);
        let of_nothing = settings(dir.path(), "", &[]).expect("holds");
        assert_eq!((of_nothing.network, of_nothing.network_chosen), (Network::Internet, false));
        assert_eq!((of_nothing.retention, of_nothing.keep_local_history), (DEFAULT_RETENTION, false));
        let of_history = settings(dir.path(), "retention = '2w'\nkeep-local-history = true\n", &[]).expect("holds");
        assert_eq!((of_history.retention.as_secs(), of_history.keep_local_history), (14 * 86_400, true));
    }

    #[test]
    fn mistakes_are_usage_errors_that_name_the_file() {
        let dir = tempfile::tempdir().expect("makes");
        for (config, flags) in [
            ("netwrok = 'local'", &[][..]),
            ("network = 'mars'", &[]),
            ("retention = 'long'", &[]),
            ("retention = 30", &[]),
            ("name = 'a/b'", &[]),
            ("network = 'local'", &["--relay", "https://a"]),
        ] {
            let error = settings(dir.path(), config, flags).expect_err("refused");
            assert_eq!(failure::report(&error), failure::USAGE, "{config}");
        }
        let error = settings(dir.path(), "netwrok = 'local'", &[]).expect_err("refused");
        assert!(error.to_string().contains(CONFIG), "{error}");
    }
}
