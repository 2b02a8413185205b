//! The pure heart of crdtfs: what a share is, what its records mean, and how two devices agree.
//!
//! Nothing in this crate touches a file, a socket, a clock or a source of randomness: time, entropy and bytes are
//! passed in, decisions come out. Maps whose order could reach an output are ordered maps.
//!
//! The words are those of `docs/ARCHITECTURE.md`: a share's *document* is a grow-only set of immutable [`record`]s; the
//! *view* is the tree that such a set means; an *operation* ([`op::Op`]) is what a user did, and becomes records.

pub mod chains;
pub mod content;
pub mod document;
pub mod envelope;
pub mod history;
pub mod id;
pub mod key;
pub mod membership;
pub mod merge;
pub mod name;
pub mod node;
pub mod op;
pub mod port;
pub mod record;
pub mod replica;
pub mod share;
pub mod snapshot;
pub mod sync;
pub mod temporary;
pub mod text;
pub mod ticket;
pub mod vector;
pub mod view;
pub mod wire;
