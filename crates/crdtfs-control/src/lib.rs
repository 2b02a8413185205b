//! The control socket: what commands ask of a running engine, and what it answers.
//!
//! One JSON object a line over the Unix socket [`SOCKET_NAME`] in the state directory. A client sends a request; the
//! engine answers with any number of items (progress, entries of a long list) and then exactly one reply or failure; the
//! next request may follow on the same connection. docs/CONTROL.md has the protocol with an example of each message.
//!
//! This crate owns the types, the socket and both of its ends ([`Client`], [`Listener`]); it knows nothing of the engine,
//! which implements [`Service`]. It keeps no state: a crash loses the answers under way and nothing else.
//!
//! ```no_run
//! use crdtfs_control::{Client, request::Status};
//!
//! let mut client = Client::connect("/home/me/.local/share/crdtfs".as_ref())?;
//! let status = client.call(Status { dir: None })?;
//! println!("{} shares", status.shares.len());
//! # Ok::<(), crdtfs_control::ClientError>(())
//! ```

pub mod client;
pub mod failure;
mod frame;
pub mod reply;
pub mod request;
pub mod server;
mod socket;
pub mod status;
pub mod text;

pub use client::{Client, ClientError};
pub use failure::{Failure, FailureKind};
pub use reply::{Item, Reply};
pub use request::{Call, Request};
pub use server::{BoxFuture, Gone, Listener, ServeError, Service, Talk};
pub use socket::socket_path;
pub use text::{DirText, FromText, PathText, ToText};

/// The version of the protocol that this crate speaks. A request of another version is refused with
/// [`FailureKind::Version`]; fields that are added later do not raise it, and unknown fields are ignored.
pub const PROTOCOL: u32 = 1;

/// The socket's name in the state directory.
pub const SOCKET_NAME: &str = "control.sock";
