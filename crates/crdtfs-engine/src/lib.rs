//! What runs the shares of one state directory: their life, the scheduling of fetches, the budgets.
//!
//! Adapters ([`present::Presenter`]) show a share to the user; the engine gives them the share's ports and knows nothing
//! of FUSE or of watched folders. [`Engine`] is what a program starts.

mod ages;
pub mod boot;
mod cache;
mod checking;
mod clock;
mod collecting;
mod committer;
mod conflicts;
mod convert;
mod core;
mod engine;
mod fetcher;
mod held_back;
mod host;
pub mod incarnation;
mod invites;
mod landed;
mod listing;
mod load;
mod merging;
mod past;
pub mod present;
mod probes;
mod put_back;
pub mod registry;
mod replaced;
mod report;
mod restore;
mod retention;
mod service;
mod share;
mod share_content;
mod share_log;
mod share_members;
mod share_sync;
mod share_tree;
mod showing;
mod shows;
mod source;
pub mod state;
mod statements;
mod verify;
mod waiting;
mod wants;

pub use clock::Clock;
pub use crdtfs_net::Network;
pub use engine::{Engine, EngineConfig, EngineError, LastWords};
pub use retention::{DEFAULT_RETENTION, HistoryOptions};
pub use share::ShareError;
