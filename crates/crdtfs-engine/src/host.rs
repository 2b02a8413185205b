//! What the network asks of the engine.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::sync::{PeerState, SyncHost};
use crdtfs_core::wire::{Join, JoinAnswer, Refusal};
use crdtfs_net::Host;

use crate::core::Core;
use crate::share::Share;
use crate::share_sync::ShareSync;

/// Answers for a [`Core`] as long as it lives.
pub(crate) struct EngineHost {
    core: Weak<Core>,
}

impl EngineHost {
    pub(crate) fn new(core: Weak<Core>) -> Self {
        Self { core }
    }

    fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    fn share(&self, share: &ShareId) -> Option<Arc<Share>> {
        self.core()?.share(share)
    }
}

impl Host for EngineHost {
    fn shares(&self) -> Vec<ShareId> {
        self.core().map(|core| core.shares().iter().map(|share| share.id()).collect()).unwrap_or_default()
    }

    fn members(&self, share: &ShareId) -> Vec<DeviceId> {
        self.share(share).map(|share| share.member_devices()).unwrap_or_default()
    }

    fn is_member(&self, share: &ShareId, device: &DeviceId) -> bool {
        self.share(share).is_some_and(|share| share.is_member(device))
    }

    fn sync(&self, share: &ShareId) -> Option<Box<dyn SyncHost + Send>> {
        Some(Box::new(ShareSync::new(self.share(share)?)))
    }

    fn read_chunk(&self, share: &ShareId, chunk: &ChunkRef) -> Option<Bytes> {
        let share = self.share(share)?;
        if !share.read(|replica| replica.view().names_content(&chunk.content())) {
            return None;
        }
        match share.store().read_part(chunk) {
            Ok(bytes) => bytes.map(Bytes::from),
            Err(error) => {
                tracing::warn!(share = %share.id(), chunk = %chunk.hash, %error, "cannot read a chunk that is asked for");
                None
            }
        }
    }

    fn admit(&self, share: &ShareId, join: &Join, from: &DeviceId) -> JoinAnswer {
        match self.share(share) {
            Some(share) => share.admit(join, from),
            None => JoinAnswer::Refused { reason: Refusal::Unknown },
        }
    }

    fn peer_state(&self, share: &ShareId, device: &DeviceId, state: &PeerState) {
        if let Some(share) = self.share(share) {
            share.note_peer(device, state);
        }
    }

    fn connected(&self, device: &DeviceId, addresses: &[SocketAddr]) {
        let Some(core) = self.core() else { return };
        for share in core.shares().iter().filter(|share| share.is_member(device)) {
            share.note_connected(device, addresses);
        }
        core.progressed_now();
    }

    fn disconnected(&self, device: &DeviceId) {
        let Some(core) = self.core() else { return };
        for share in core.shares().iter().filter(|share| share.is_member(device)) {
            share.note_disconnected(device);
        }
        core.progressed_now();
    }
}
