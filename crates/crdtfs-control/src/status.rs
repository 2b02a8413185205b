//! The state of an engine, its shares and their devices. Times are milliseconds since the Unix epoch.

use serde::{Deserialize, Serialize};

use crate::request::{Mode, Role};
use crate::text::{DirText, PathText};

/// Everything about shares and devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The engine and this device.
    pub engine: Engine,
    /// The shares asked for.
    pub shares: Vec<Share>,
    /// What concerns no share in particular.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// The engine and this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its process.
    pub pid: u32,
    /// Of the program, as `crdtfs --version` prints it.
    pub version: String,
    /// Since when it runs.
    pub since_ms: i64,
    /// This device, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// `local` or `internet`.
    pub network: String,
    /// The disk below the state directory.
    pub disk: Disk,
}

/// Use of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that the state directory takes.
    pub used: u64,
    /// Bytes free on its filesystem.
    pub free: u64,
}

/// One share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its id, in hexadecimal.
    pub share: String,
    /// What this device may do.
    pub role: Role,
    /// Where it is, or was, shown.
    pub dirs: Vec<Showing>,
    /// The document's heads, in hexadecimal, sorted. Equal heads and equal `digest` mean equal trees.
    pub heads: Vec<String>,
    /// Of which change of which actor this device has heard, as one hexadecimal hash.
    pub digest: String,
    /// Entries in the tree.
    pub entries: u64,
    /// Bytes of the files in the tree.
    pub bytes: u64,
    /// What this device still lacks.
    pub missing: Missing,
    /// Every member, this device first.
    pub devices: Vec<Device>,
    /// What is under way, at most the first 100.
    pub transfers: Vec<Transfer>,
    /// What the user should know.
    pub problems: Vec<Problem>,
}

/// A directory that shows a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Showing {
    /// Where.
    #[serde(flatten)]
    pub dir: DirText,
    /// How.
    pub mode: Mode,
    /// Whether it can be used.
    pub state: ShowState,
    /// Whether local changes are refused.
    pub read_only: bool,
    /// Whether contents are fetched when they are read: what was not is not counted as missing.
    #[serde(default)]
    pub on_demand: bool,
}

/// Whether a directory shows its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShowState {
    /// Not yet.
    Starting,
    /// Yes.
    Ready,
    /// Not now: hidden by the user, resumed by `mount` or `watch`.
    Stopped,
    /// It should, but cannot: see the problems.
    Failed,
}

/// Content that is not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Files that are not whole.
    pub files: u64,
    /// Bytes that they lack.
    pub bytes: u64,
}

/// How a device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// Straight.
    Direct,
    /// Through a relay.
    Relayed,
    /// Both at once.
    Mixed,
}

/// A member of a share, as this device knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its key, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether it is this device.
    pub me: bool,
    /// Whether it is reached now.
    pub connected: bool,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Whether it holds what this device holds, heads and content; unknown if it never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync: Option<bool>,
    /// What it said that it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// Why it is not connected, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was last connected; now if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<i64>,
}

/// Content under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The file, relative to the share's root.
    #[serde(flatten)]
    pub path: PathText,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Something that the user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path it is about, absolute where one is shown.
    #[serde(flatten)]
    pub path: Option<PathText>,
    /// What happened and what to do about it.
    pub message: String,
}
