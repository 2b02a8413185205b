//! What an engine answers. Times are milliseconds since the Unix epoch.

use serde::{Deserialize, Serialize};

use crate::request::{Mode, Role, ShowOptions};
use crate::status::{Missing, Route, Status};
use crate::text::{DirText, FromText, PathText};

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Everything that ends a request well.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "reply", rename_all = "snake_case")]
        pub enum Reply {
            $($(#[$doc])* $name($name),)+
        }

        $(
            impl From<$name> for Reply {
                fn from(reply: $name) -> Self {
                    Self::$name(reply)
                }
            }

            impl TryFrom<Reply> for $name {
                type Error = Reply;

                fn try_from(reply: Reply) -> Result<Self, Reply> {
                    match reply {
                        Reply::$name(reply) => Ok(reply),
                        other => Err(other),
                    }
                }
            }
        )+
    };
}

replies! {
    /// To [`crate::request::Ping`].
    Pong,
    /// To [`crate::request::Show`].
    Shown,
    /// To [`crate::request::Hide`].
    Hidden,
    /// To [`crate::request::Invite`].
    Invited,
    /// To [`crate::request::Status`].
    Status,
    /// To [`crate::request::Wait`].
    Waited,
    /// To [`crate::request::Peers`].
    Peers,
    /// To [`crate::request::Members`].
    Members,
    /// To [`crate::request::Ls`], after the entries.
    Listed,
    /// To [`crate::request::Log`], after the events.
    Logged,
    /// To [`crate::request::Conflicts`], after the conflicts.
    ConflictsListed,
    /// To [`crate::request::Keep`].
    Kept,
    /// To [`crate::request::Restore`], after what was lost.
    Restored,
    /// To [`crate::request::Check`], after the findings.
    Checked,
    /// To [`crate::request::Stop`].
    Stopped,
}

/// What comes before the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Item {
    /// How far the work is.
    Progress(Progress),
    /// Something that the user should know while it goes on.
    Note(Note),
    /// The tree can be used (a [`crate::request::Show`] that stays attached).
    Ready(Shown),
    /// An entry of [`crate::request::Ls`].
    Entry(Entry),
    /// An event of [`crate::request::Log`].
    Event(Event),
    /// An entry of [`crate::request::Conflicts`].
    Conflict(Box<Conflict>),
    /// What [`crate::request::Restore`] has to leave out.
    Lost(Lost),
    /// A finding of [`crate::request::Check`].
    Finding(Finding),
    /// Nothing new; sent every few seconds, so that a silent engine is known to be dead.
    Alive,
    /// An item of a later version: to be ignored.
    #[serde(other)]
    Unknown,
}

/// Something that the user should know while it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// A sentence without its full stop.
    pub message: String,
}

/// How far the work is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done ("fetching", "scanning").
    pub what: String,
    /// So much of it.
    pub done: u64,
    /// Of so much, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Unit,
}

/// What a progress counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files, entries, changes.
    Items,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The protocol it speaks.
    pub protocol: u32,
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// This device, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// `local` or `internet`.
    pub network: String,
}

/// A share that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The share, in hexadecimal.
    pub share: String,
    /// Where, absolute and without links.
    #[serde(flatten)]
    pub dir: DirText,
    /// How.
    pub mode: Mode,
    /// How it came about.
    pub how: How,
    /// What this device may do.
    pub role: Role,
    /// With which options; what is shown already keeps those that it has.
    #[serde(default)]
    pub options: ShowOptions,
}

/// How a showing came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A new share.
    Created,
    /// By the ticket.
    Joined,
    /// It was shown here before.
    Resumed,
    /// It is being shown here already.
    Already,
}

/// A share that is shown no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// The share, in hexadecimal.
    pub share: String,
    /// Where it was.
    #[serde(flatten)]
    pub dir: DirText,
}

/// A ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The ticket: one word, starting with `crdtfs`.
    pub ticket: String,
    /// The share, in hexadecimal.
    pub share: String,
    /// What the new member may do.
    pub role: Role,
    /// When it ends.
    pub expires_ms: i64,
    /// How many devices may use it.
    pub uses: u32,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Whether what was waited for is so; else the time ran out.
    pub done: bool,
    /// Every member that was looked at, with what it lacks; this device too.
    pub devices: Vec<Lacking>,
}

/// What one device lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// The share, in hexadecimal.
    pub share: String,
    /// Where this device shows it, or did last.
    #[serde(flatten)]
    pub dir: Option<DirText>,
    /// The device, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Whether it is this device.
    pub me: bool,
    /// Whether it is reached now.
    pub connected: bool,
    /// Whether its heads are ours.
    pub same_heads: bool,
    /// For how long it has not answered what it was asked, or the call if it is not reached, since this wait began; absent if it
    /// has, or is taken for away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_ms: Option<u64>,
    /// Content that it lacks.
    pub missing: Missing,
    /// Some of the files, at most 10, relative to the share's root.
    #[serde(default)]
    pub paths: Vec<PathText>,
}

/// The connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Every other device that this one knows, connected ones first.
    pub peers: Vec<Peer>,
}

/// One other device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its key, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Whether it is reached now.
    pub connected: bool,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Addresses known, the one in use first.
    pub addresses: Vec<String>,
    /// Round trip, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Bytes a second received, lately.
    pub rate_in: u64,
    /// Bytes a second sent, lately.
    pub rate_out: u64,
    /// Bytes received on this connection.
    pub bytes_in: u64,
    /// Bytes sent on this connection.
    pub bytes_out: u64,
    /// Since when it is connected, or when it last was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Why it is not connected, or was not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The share, in hexadecimal.
    pub share: String,
    /// Every member, the creator first.
    pub members: Vec<Member>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key, in hexadecimal.
    pub device: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether it is this device.
    pub me: bool,
    /// Whose ticket admitted it, by name; nobody's for the creator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited_by: Option<String>,
    /// Whether its membership has been taken back.
    #[serde(default)]
    pub revoked: bool,
}

/// What kind an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character or block device.
    Device,
}

/// How much of an entry's content is on this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Local {
    /// All.
    Whole,
    /// Some.
    Partly,
    /// Nothing.
    Absent,
}

/// An entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the share's root.
    #[serde(flatten)]
    pub path: PathText,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file; 0 of anything else.
    pub size: u64,
    /// Permission bits (`07777`).
    pub mode: u32,
    /// Last modification.
    pub mtime_ms: i64,
    /// What of it is here.
    pub local: Local,
    /// Whether it is a conflict copy.
    pub conflict: bool,
    /// Whether it stands for versions whose merge needs bytes that are not here yet.
    pub pending: bool,
    /// blake3 of the bytes of a file, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new entry.
    Create,
    /// New bytes or attributes.
    Update,
    /// Another name or directory.
    Move,
    /// Gone.
    Delete,
}

/// One thing that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the clock of the device that did it.
    pub time_ms: i64,
    /// The device's name at that time.
    pub device: String,
    /// The device's key, in hexadecimal.
    pub device_id: String,
    /// What.
    pub event: Action,
    /// To what, relative to the share's root; of a move, where it went.
    #[serde(flatten)]
    pub path: PathText,
    /// Of a move, where it was.
    #[serde(flatten)]
    pub from: Option<FromText>,
    /// blake3 of the bytes it has from then on (files), in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Size of those bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The record that did it, in hexadecimal: the version's id.
    pub version: String,
}

/// The end of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// How many entries.
    pub entries: u64,
}

/// The end of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// How many events.
    pub events: u64,
}

/// One side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Relative to the share's root.
    #[serde(flatten)]
    pub path: PathText,
    /// What it is.
    pub kind: EntryKind,
    /// Name of the device that made it, at that time.
    pub device: String,
    /// The device's key, in hexadecimal.
    pub device_id: String,
    /// When, by the clock of that device.
    pub time_ms: i64,
    /// The record that made it, in hexadecimal: the version's id.
    pub version: String,
    /// blake3 of the bytes of a file, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Size of those bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// An entry that stands beside another because two devices disagreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The share, in hexadecimal.
    pub share: String,
    /// Where it is shown, or was last.
    #[serde(flatten)]
    pub dir: DirText,
    /// The one that stands beside.
    #[serde(flatten)]
    pub copy: Side,
    /// The one that it stands beside: what has the name.
    pub of: Side,
    /// Whether it is not decided yet, since a merge needs bytes that are not here.
    pub pending: bool,
}

/// The end of a list of conflicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictsListed {
    /// How many.
    pub conflicts: u64,
}

/// A conflict that was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where what was kept is now, relative to the share's root.
    #[serde(flatten)]
    pub path: PathText,
    /// What went.
    pub removed: Vec<PathText>,
}

/// A version whose bytes nobody reachable has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Relative to the share's root, as it was then.
    #[serde(flatten)]
    pub path: PathText,
    /// blake3 of the bytes, in hexadecimal.
    pub blake3: String,
    /// How many.
    pub size: u64,
    /// Names of the devices that may have them and are not connected, the one that wrote them first.
    pub devices: Vec<String>,
    /// Why they could not be had.
    pub reason: String,
}

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Where, relative to the share's root.
    #[serde(flatten)]
    pub path: PathText,
    /// Files, directories and other entries that are as they were again.
    pub entries: u64,
    /// Of these, changed now; the others were so already.
    pub changed: u64,
    /// Bytes of the files that were changed.
    pub bytes: u64,
    /// Files that were left out.
    pub lost: u64,
}

/// Something that a check found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The share, in hexadecimal, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// What is wrong with what, and what to do.
    pub message: String,
    /// Whether it was mended.
    pub repaired: bool,
}

/// The end of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Shares looked at.
    pub shares: u64,
    /// Chunks read and verified.
    pub chunks: u64,
    /// Bytes read and verified.
    pub bytes: u64,
    /// Changes read and verified.
    pub changes: u64,
    /// Findings, all in all.
    pub findings: u64,
    /// Of these, mended.
    pub repaired: u64,
}

/// The engine leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {}
