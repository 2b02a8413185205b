//! The network of crdtfs: finding the other members of a share, one authenticated connection to each, the core's sync driven over
//! it, and chunks fetched from everyone who has them.
//!
//! [`Node`] is what the engine holds; [`Host`] is what it asks of the engine. The node touches no file: bytes come from and go to
//! the host.
//!
//! # Connections
//! A member is dialled at every address that is known of it: from its ticket, from mDNS, from its last connection, in
//! `internet` mode from iroh's lookup services. Each pair keeps one connection; if it ends it is made again, after waits
//! that grow. Three gates stand before a share: iroh's handshake hook drops whoever is no member of anything here; after the hellos
//! the membership is asked again; and each stream begins with a proof that the opener knows the share, bound to this TLS
//! session, so that nobody learns of a share that he is not in. A device with a ticket comes over a protocol of its own, on which it
//! can only ask to join.
//!
//! # Tasks and their owners
//! Every task is spawned on one tracker and selects on the node's cancellation, or on that of its connection or session, which are
//! its children; [`Node::shutdown`] cancels, closes the endpoint and waits for all. Calls to the host run on blocking threads and
//! are waited for as well. A crash loses nothing: all state here is about connections.
//!
//! # Bounds
//! Handshakes, joins, served streams a connection, chunk readers, requests and bytes in flight are each limited; messages
//! are read up to their own limit; a sync message is made only when the one before it was taken by the stream.

mod address;
mod backoff;
mod config;
mod dial;
mod discover;
mod endpoint;
mod error;
mod fetch;
mod frame;
mod host;
mod info;
mod introduce;
mod join;
mod link;
mod lookout;
mod node;
mod peers;
mod roster;
mod serve;
mod session;

pub use self::config::{NetConfig, Network};
pub use self::error::{FetchError, JoinError, NetError};
pub use self::fetch::{Sink, Urgency, Want};
pub use self::host::Host;
pub use self::info::{PathKind, PeerInfo};
pub use self::join::{JoinRequest, Welcome};
pub use self::node::Node;
