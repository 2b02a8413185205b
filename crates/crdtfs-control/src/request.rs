//! What can be asked of an engine. Directories and paths are absolute; any path inside a shown directory names its share.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::reply::{self, Reply};
use crate::status;
use crate::text::{DirText, PathText, ToText};

/// The ways to show a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A FUSE filesystem.
    Mount,
    /// A plain folder kept in sync.
    Watch,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything, changes nothing.
    Read,
    /// Reads and changes.
    #[default]
    Write,
    /// Writes, invites and revokes.
    Admin,
}

/// Whose the files of a mount are shown to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The user that mounts.
    #[default]
    Mounter,
    /// As recorded.
    Keep,
    /// This user and group.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// How to show a share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowOptions {
    /// Local changes are refused (mount) or reported and not taken (watch).
    pub read_only: bool,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Owners shown.
    pub owner: Owner,
    /// Contents are fetched when they are read, not all in the background (mount).
    pub on_demand: bool,
    /// Bytes of fetched contents that an on-demand mount keeps; all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<u64>,
}

impl fmt::Display for ShowOptions {
    /// As the flags of the command line; nothing if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |given: bool, flag: &str| given.then(|| flag.to_owned());
        let owner = match self.owner {
            Owner::Mounter => None,
            Owner::Keep => Some("--owner keep".to_owned()),
            Owner::Fixed { uid, gid } => Some(format!("--owner {uid}:{gid}")),
        };
        let flags = [
            word(self.read_only, "--read-only"),
            word(self.allow_other, "--allow-other"),
            owner,
            word(self.on_demand, "--on-demand"),
            self.cache.map(|bytes| format!("--cache {}", exact_size(bytes))),
        ];
        f.write_str(&flags.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// A size without rounding, in the largest unit that has it whole.
fn exact_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, bits)| bytes != 0 && bytes.trailing_zeros() >= *bits);
    whole.map_or_else(|| bytes.to_string(), |(unit, bits)| format!("{}{unit}", bytes >> bits))
}

/// Which other members a wait is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Every other member.
    #[default]
    All,
    /// At least one, and all that are connected: not those that are only being dialled.
    Connected,
    /// So many.
    Count(u32),
}

/// A request with the type of its reply.
pub trait Call: Into<Request> {
    /// What the engine answers.
    type Reply: TryFrom<Reply>;
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident => $reply:ident($type:ty)),+ $(,)?) => {
        /// Everything that can be asked.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "request", rename_all = "snake_case")]
        pub enum Request {
            $($(#[$doc])* $name($name),)+
        }

        $(
            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }

            impl Call for $name {
                type Reply = $type;
            }
        )+
    };
}

requests! {
    /// Who is there?
    Ping => Pong(reply::Pong),
    /// Show a share at a directory.
    Show => Shown(reply::Shown),
    /// Show it no more.
    Hide => Hidden(reply::Hidden),
    /// A ticket.
    Invite => Invited(reply::Invited),
    /// Everything about shares and devices.
    Status => Status(status::Status),
    /// Until others have what we have.
    Wait => Waited(reply::Waited),
    /// Connections.
    Peers => Peers(reply::Peers),
    /// Who may do what.
    Members => Members(reply::Members),
    /// The tree with what is local.
    Ls => Listed(reply::Listed),
    /// Who did what when.
    Log => Logged(reply::Logged),
    /// What stands beside another because two devices disagreed.
    Conflicts => ConflictsListed(reply::ConflictsListed),
    /// Settle a conflict.
    Keep => Kept(reply::Kept),
    /// Bring back what was.
    Restore => Restored(reply::Restored),
    /// Verify what is stored.
    Check => Checked(reply::Checked),
    /// End the engine.
    Stop => Stopped(reply::Stopped),
}

/// Asks who answers; also the cheapest proof that an engine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Answer when all that was shown when the engine before ended is shown again, or it is known why it cannot be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shown: bool,
}

/// Shows a share at a directory. Without a ticket: the share that the directory showed before, else a new one.
///
/// Sends [`crate::Item::Progress`] while it works. With `attach` it sends [`crate::Item::Ready`] once the tree can be used,
/// and replies when the showing has ended; if the client hangs up before, the showing goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Show {
    /// How.
    pub mode: Mode,
    /// The invitation, if it is to join a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Where; made if it is not there.
    #[serde(flatten)]
    pub dir: DirText,
    /// How exactly.
    #[serde(default)]
    pub options: ShowOptions,
    /// Stay until the showing ends.
    #[serde(default)]
    pub attach: bool,
}

/// Shows a share no more: flushes, unmounts or ceases to watch. The share itself stays known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hide {
    /// The directory that shows it.
    #[serde(flatten)]
    pub dir: DirText,
}

/// Asks for a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Any path in a directory that shows the share.
    #[serde(flatten)]
    pub dir: DirText,
    /// What the new member may do.
    pub role: Role,
    /// When the ticket ends: milliseconds from now.
    pub expires_ms: u64,
    /// How many devices may use it, at least 1.
    pub uses: u32,
}

/// Asks for everything about one share, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Any path in a directory that shows the share; all shares without it.
    #[serde(flatten)]
    pub dir: Option<DirText>,
}

/// Waits until other members hold the same heads and the content they want, and so do we.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Any path in a directory that shows the share; all shares without it.
    #[serde(flatten)]
    pub dir: Option<DirText>,
    /// Which members.
    pub devices: WaitFor,
    /// At most so many milliseconds.
    pub timeout_ms: u64,
}

/// Asks for the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {}

/// Asks who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Any path in a directory that shows the share.
    #[serde(flatten)]
    pub dir: DirText,
}

/// Lists an entry, or what is in a directory, one [`crate::Item::Entry`] each, names in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ls {
    /// Any path in a directory that shows the share.
    #[serde(flatten)]
    pub path: PathText,
    /// All below, depth first, not only the first level.
    #[serde(default)]
    pub recursive: bool,
}

/// Lists what was done to an entry and, of a directory, to all below it: one [`crate::Item::Event`] each, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Any path in a directory that shows the share, also of what is there no more.
    #[serde(flatten)]
    pub path: PathText,
}

/// Lists what stands beside another entry because two devices disagreed: one [`crate::Item::Conflict`] each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflicts {
    /// A directory of a share: those below it; those of all shares without it.
    #[serde(flatten)]
    pub dir: Option<DirText>,
}

/// Settles a conflict: what is shown at this path keeps the name, or gets it; the other versions go, into the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// A conflict copy, or the entry that has one beside it.
    #[serde(flatten)]
    pub path: PathText,
}

/// Brings back a file or directory as it was, as a new operation. At most one of `version_id` and `at_ms` says when; without
/// either, what is there no more comes back as it last was, and a file as it was before its present version, when it was not
/// empty. What was not
/// there then stays. One [`crate::Item::Lost`] each for what has to be left out because nobody reachable has its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// What: any path in a directory that shows the share, also of what is there no more.
    #[serde(flatten)]
    pub path: PathText,
    /// The version's id as [`Log`] tells it, or its first digits: the state right after it; of a deletion, right before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// The state at this time, by the clocks of the devices that made the changes: milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Where to put it instead, in the same share; nothing may be there.
    #[serde(flatten)]
    pub to: Option<ToText>,
}

/// Verifies every stored byte and reference: one [`crate::Item::Finding`] each for what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Any path in a directory that shows the share; all shares without it.
    #[serde(flatten)]
    pub dir: Option<DirText>,
    /// Mend what can be mended: rebuild indexes, fetch damaged chunks again.
    #[serde(default)]
    pub repair: bool,
}

/// Ends the engine: everything is flushed and hidden before the reply, the process leaves right after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {}
