//! A share as the sync session with one device sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crdtfs_core::id::{ActorId, ChangeHash, DeviceId, Hash};
use crdtfs_core::sync::{Fault, Numbered, Settling, SyncHost};
use crdtfs_core::vector::Vector;
use crdtfs_core::wire::{Holding, Statement};

use crate::share::Share;

/// See the module.
pub(crate) struct ShareSync {
    share: Arc<Share>,
}

impl ShareSync {
    pub(crate) fn new(share: Arc<Share>) -> Self {
        Self { share }
    }
}

impl SyncHost for ShareSync {
    fn epoch(&self) -> u32 {
        self.share.read(|replica| replica.epoch())
    }

    fn vector(&self) -> Vector {
        self.share.vector()
    }

    fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        self.share.read(|replica| replica.chains().change(actor, seq))
    }

    fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered> {
        self.share.envelopes_after(known, max_bytes)
    }

    fn receive(&mut self, from: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault> {
        self.share.receive(from, envelopes)
    }

    fn membership_heads(&self) -> Vec<Hash> {
        self.share.read(|replica| replica.membership().heads())
    }

    fn membership_after(&self, known: &[Hash]) -> Vec<Vec<u8>> {
        self.share.read(|replica| replica.membership().records_after(known))
    }

    fn receive_membership(&mut self, from: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault> {
        self.share.receive_membership(from, records)
    }

    fn holding(&self) -> Holding {
        self.share.holding()
    }

    fn statements_after(&self, known: &BTreeMap<DeviceId, u64>, max_bytes: usize) -> Vec<Statement> {
        self.share.statements_after(known, max_bytes)
    }

    fn receive_statements(&mut self, _: &DeviceId, statements: Vec<Vec<u8>>) -> Result<Vec<Statement>, Fault> {
        self.share.receive_statements(&statements)
    }

    fn probe(&self) -> Option<u64> {
        self.share.probe()
    }

    fn settle(&mut self) -> u64 {
        self.share.begin_settling()
    }

    fn settling(&self, number: u64) -> Settling {
        self.share.settling(number)
    }
}
