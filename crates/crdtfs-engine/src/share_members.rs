//! Who belongs to a share, and what this device knows of them.

use std::net::SocketAddr;

use crdtfs_control::{Failure, FailureKind};
use crdtfs_core::id::{DeviceId, Hash};
use crdtfs_core::membership::MembershipError;
use crdtfs_core::share::Role;
use crdtfs_core::sync::PeerState;
use crdtfs_core::vector::Vector;
use crdtfs_core::wire::{Join, JoinAnswer, Refusal};

use crate::invites::parse_addresses;
use crate::share::{Share, now_ms};
use crate::state::StateError;

/// One member or former member.
pub(crate) struct MemberInfo {
    pub(crate) device: DeviceId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) invited_by: Option<DeviceId>,
    pub(crate) revoked: bool,
}

/// What a member has, as far as it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// It has exactly the changes that are here, and what it lacks was counted by them.
    pub(crate) same_heads: bool,
    pub(crate) missing_files: u64,
    pub(crate) missing_bytes: u64,
    /// It wants only what is read there.
    pub(crate) partial: bool,
}

impl Held {
    /// Whether it lacks nothing that is here and that it wants.
    pub(crate) fn is_all(&self) -> bool {
        self.same_heads && self.missing_files == 0
    }
}

impl Share {
    /// Whether a connected member says that it has all changes that are here, and all contents.
    pub(crate) fn is_held_by(&self, device: &DeviceId) -> bool {
        self.held_by(device, true, &self.vector()).is_some_and(|held| held.is_all() && !held.partial)
    }

    /// What a member has: as it says now, if it is connected, else as it last said to anybody. `None` if nothing is known.
    pub(crate) fn held_by(&self, device: &DeviceId, connected: bool, own: &Vector) -> Option<Held> {
        if connected {
            let state = self.peer_state(device)?;
            let holding = state.holding?;
            return Some(Held {
                same_heads: state.vector.as_ref() == Some(own) && holding.vector == *own,
                missing_files: holding.missing_files,
                missing_bytes: holding.missing_bytes,
                partial: holding.partial,
            });
        }
        let said = self.statement(device)?;
        Some(Held {
            same_heads: said.epoch == self.read(|replica| replica.epoch()) && said.heads == own.digest(),
            missing_files: said.missing_files,
            missing_bytes: said.missing_bytes,
            partial: said.partial,
        })
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        self.read(|replica| {
            let membership = replica.membership();
            let creator = replica.genesis().creator;
            let mut members: Vec<MemberInfo> = membership
                .state()
                .members
                .iter()
                .map(|(device, member)| {
                    let issuer = membership.record(&member.since).map(|record| record.issuer);
                    MemberInfo {
                        device: *device,
                        name: member.name.clone(),
                        role: member.role,
                        invited_by: issuer.filter(|_| *device != creator),
                        revoked: false,
                    }
                })
                .collect();
            members.sort_by_key(|member| member.device != creator);
            members
        })
    }

    pub(crate) fn member_devices(&self) -> Vec<DeviceId> {
        self.read(|replica| replica.membership().state().members.keys().copied().collect())
    }

    pub(crate) fn is_member(&self, device: &DeviceId) -> bool {
        self.read(|replica| replica.membership().state().members.contains_key(device))
    }

    /// Issues an invitation; its id.
    pub(crate) fn invite(&self, ticket: DeviceId, role: Role, uses: u32, expires_ms: i64) -> Result<Hash, Failure> {
        if self.role() != Role::Admin {
            let message = format!("this device may not invite others: its role in the share is {}", word(self.role()));
            return Err(Failure::new(FailureKind::Denied, message).with_hint("ask an admin of the share for a ticket"));
        }
        let mut replica = self.replica.write();
        let (issued, delta) =
            replica.with_membership(|members, key| members.invite(key, ticket, role, uses, expires_ms, now_ms()));
        self.announce_all(&replica, &delta);
        drop(replica);
        let (id, _) = issued.map_err(|error| Failure::failed(format!("cannot make a ticket: {error}")))?;
        self.keep_membership().map_err(|error| Failure::failed(error.to_string()))?;
        self.events.changed(self);
        Ok(id)
    }

    /// Answers a device that shows a ticket.
    pub(crate) fn admit(&self, join: &Join, from: &DeviceId) -> JoinAnswer {
        let mut replica = self.replica.write();
        let (admitted, delta) = replica.with_membership(|members, key| members.admit(key, join, *from, now_ms()));
        self.announce_all(&replica, &delta);
        let genesis = replica.genesis().encode();
        let membership = replica.membership().records().map(|record| record.to_vec().into()).collect();
        drop(replica);
        match admitted {
            Err(reason) => return JoinAnswer::Refused { reason },
            Ok(Some(_)) => {
                // The joiner is told only what this device will still know after a crash.
                if let Err(error) = self.keep_membership() {
                    tracing::error!(share = %self.id(), %error, "an admission cannot be kept");
                    return JoinAnswer::Refused { reason: Refusal::Unable };
                }
                tracing::info!(share = %self.id(), device = %from, "admitted");
                self.events.changed(self);
            }
            Ok(None) => {}
        }
        JoinAnswer::Welcome { genesis, membership }
    }

    /// Writes all membership records down.
    pub(crate) fn keep_membership(&self) -> Result<(), StateError> {
        // One at a time, so that an older list never replaces a newer one.
        let _order = self.order.lock();
        let records: Vec<Vec<u8>> = self.read(|replica| replica.membership().records().map(<[u8]>::to_vec).collect());
        self.dir().write_membership(&records)
    }

    /// Tells the others when this device has another name than they know.
    pub(crate) fn take_name(&self, name: &str) {
        if self.read(|replica| replica.role()).is_none() {
            return;
        }
        let mut replica = self.replica.write();
        let (renamed, delta): (Result<Option<Vec<u8>>, MembershipError>, _) =
            replica.with_membership(|members, key| members.rename(key, name, now_ms()));
        self.announce_all(&replica, &delta);
        drop(replica);
        match renamed {
            Ok(None) => {}
            Ok(Some(_)) => {
                if let Err(error) = self.keep_membership() {
                    tracing::error!(share = %self.id(), %error, "this device's new name cannot be kept");
                }
            }
            Err(error) => tracing::warn!(share = %self.id(), %error, "this device's new name was not taken"),
        }
    }

    /// What a connected member says that it has.
    pub(crate) fn note_peer(&self, device: &DeviceId, state: &PeerState) {
        let before = self.peers.lock().states.insert(*device, state.clone());
        let got_more = before.and_then(|before| before.holding) != state.holding;
        if got_more {
            self.forget_in_vain();
            self.retry_fetches();
        }
        self.events.progressed();
    }

    /// What a member last said that it has.
    pub(crate) fn peer_state(&self, device: &DeviceId) -> Option<PeerState> {
        self.peers.lock().states.get(device).cloned()
    }

    /// A member is connected, from these addresses.
    pub(crate) fn note_connected(&self, device: &DeviceId, addresses: &[SocketAddr]) {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut peers = self.peers.lock();
        peers.seen.insert(*device, now_ms());
        let changed = !addresses.is_empty() && peers.addresses.get(&device.to_string()) != Some(&addresses);
        if changed {
            peers.addresses.insert(device.to_string(), addresses);
            if let Err(error) = self.dir().write_peers(&peers.addresses) {
                tracing::warn!(share = %self.id(), %error, "a peer's addresses cannot be kept");
            }
        }
        drop(peers);
        self.forget_in_vain();
        self.merging.somebody_came();
        self.retry_fetches();
    }

    pub(crate) fn note_disconnected(&self, device: &DeviceId) {
        self.peers.lock().seen.insert(*device, now_ms());
    }

    /// When a member was last connected, as far as this run knows.
    pub(crate) fn last_seen(&self, device: &DeviceId) -> Option<i64> {
        self.peers.lock().seen.get(device).copied()
    }

    /// Where members were last seen.
    pub(crate) fn known_addresses(&self) -> Vec<(DeviceId, Vec<SocketAddr>)> {
        let peers = self.peers.lock();
        let known = peers.addresses.iter();
        known.filter_map(|(device, kept)| Some((DeviceId::from_hex(device)?, parse_addresses(kept)))).collect()
    }
}

/// A role as users read it.
pub(crate) fn word(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Write => "write",
        Role::Admin => "admin",
    }
}
