//! What a node asks of the engine.

use std::net::SocketAddr;

use bytes::Bytes;
use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::sync::{PeerState, SyncHost};
use crdtfs_core::wire::{Join, JoinAnswer};
use tokio_util::task::TaskTracker;

/// The shares of this device. Calls come from threads that may block, several at once, with no lock held.
pub trait Host: Send + Sync + 'static {
    /// The shares that are here.
    fn shares(&self) -> Vec<ShareId>;

    /// The devices that are members of a share now, this one too; none for an unknown share.
    fn members(&self, share: &ShareId) -> Vec<DeviceId>;

    /// Whether a device is a member of a share now. Asked at each handshake, share opening and chunk request.
    fn is_member(&self, share: &ShareId, device: &DeviceId) -> bool {
        self.members(share).contains(device)
    }

    /// A view of a share for the session with one device; `None` if the share is not here (any more).
    fn sync(&self, share: &ShareId) -> Option<Box<dyn SyncHost + Send>>;

    /// A chunk, if it is here: bytes that have this hash. Only of contents that the share names: a store may have chunks of
    /// other shares, too, and who asks need not be a member of those.
    fn read_chunk(&self, share: &ShareId, chunk: &ChunkRef) -> Option<Bytes>;

    /// A device shows a ticket for a share that is here; `from` is authenticated, the claim in `join` is not checked yet. A
    /// device that lost the answer asks again with the same ticket: it is to be welcomed again.
    fn admit(&self, share: &ShareId, join: &Join, from: &DeviceId) -> JoinAnswer;

    /// What a connected member now says that it has of a share.
    fn peer_state(&self, share: &ShareId, device: &DeviceId, state: &PeerState);

    /// A member is connected; `addresses` are worth remembering for [`crate::Node::remember`].
    fn connected(&self, device: &DeviceId, addresses: &[SocketAddr]);

    /// A member is not connected any more.
    fn disconnected(&self, device: &DeviceId);
}

/// Runs a host call on a thread that may block; the node's end waits for it. `None` if it panicked or the runtime is ending.
pub(crate) async fn blocking<T: Send + 'static>(
    tasks: &TaskTracker,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // What is logged there is about the same share and peer.
    let span = tracing::Span::current();
    tasks.spawn_blocking(move || span.in_scope(call)).await.ok()
}
