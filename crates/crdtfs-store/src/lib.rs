//! Bytes on disk: chunks and the containers that they lie in, write files, the envelope log, snapshots, recovery.
//!
//! A [`Store`] belongs to one state directory and holds the chunks of all its shares; [`ShareContent`] is one share's
//! window on it (the ports [`Content`](crdtfs_core::port::Content) and
//! [`FolderContent`](crdtfs_core::port::FolderContent)); a [`Log`] holds one share's envelopes and snapshots.
//!
//! A chunk lies in a *container* at an offset: a pack segment, a whole object, or a file of a watched folder. Pack
//! segments are the truth about all containers: they also carry the notes that say which objects and folder files hold
//! what. The index (redb) is a cache of them and is rebuilt when it is missing or wrong. Order on disk: an object's bytes,
//! then the note that names it, then the envelope that speaks of the content ([`Store::sync`] before [`Log::sync`]).
//!
//! What a crash may lose: what was put since the last [`Store::sync`] or [`Log::sync`]. It never tears what was there.

mod base;
mod cache;
mod check;
mod chunker;
#[cfg(test)]
mod edit_tests;
mod error;
#[cfg(test)]
mod fault;
mod fetch;
mod fill;
mod gc;
#[cfg(test)]
mod gc_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod hole_tests;
mod index;
mod index_file;
mod journal;
mod keeper;
mod known;
mod layer;
mod log;
mod manifest;
mod object;
mod own;
mod pack;
mod read;
mod reader;
mod recover;
mod share;
#[cfg(test)]
mod share_tests;
mod source;
mod space;
mod storage;
mod store;
#[cfg(test)]
mod store_tests;
mod text;
mod write;
mod zeros;

pub use check::{Problem, Report};
pub use error::StoreError;
pub use gc::{GcReport, Lease};
pub use log::{Log, LogEntry, Recovered, Staged};
pub use share::ShareContent;
pub use source::{ChunkSink, ChunkSource, Urgency, Want};
pub use space::{Space, Taken};
pub use store::{ChunkList, ChunkSpan, Missing, Store, StoreOptions, Usage};
