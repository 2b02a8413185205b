//! `crdtfs status` and `crdtfs members`: what there is and how it stands.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_control::reply::{Member, Members};
use crdtfs_control::status::{
    Device, Disk, Engine, Missing, Problem, Share as ShareStatus, ShowState, Showing, Status, Transfer,
};
use crdtfs_control::{DirText, Failure, PathText, Reply, request};
use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_net::{PathKind, PeerInfo};

use crate::convert;
use crate::core::Core;
use crate::share::Share;
use crate::showing::State;

/// Transfers that a status lists.
const TRANSFERS: usize = 100;

impl Core {
    pub(crate) fn status(&self, asked: &request::Status) -> Result<Reply, Failure> {
        let shares = self.shares_of(asked.dir.as_ref())?;
        let peers: BTreeMap<DeviceId, PeerInfo> =
            self.node().peers().into_iter().map(|peer| (peer.device, peer)).collect();
        let engine = Engine {
            pid: std::process::id(),
            version: self.config.version.clone(),
            since_ms: self.started_ms,
            device: self.device.to_string(),
            name: self.config.name.clone(),
            network: self.network_word().to_owned(),
            disk: Disk { used: self.disk_used(), free: self.space().free() },
        };
        let mut problems = Vec::new();
        if self.space().is_low() {
            problems.push(Problem {
                path: Some(PathText::from(self.state().path())),
                message: "the disk of the state directory is full: new changes and contents are not taken; free some \
                          room, and everything goes on by itself"
                    .into(),
            });
        }
        let shares = shares.iter().map(|share| self.share_status(share, &peers)).collect();
        Ok(Reply::Status(Status { engine, shares, problems }))
    }

    fn share_status(&self, share: &Share, peers: &BTreeMap<DeviceId, PeerInfo>) -> ShareStatus {
        let (bytes, entries) = share.read(|replica| replica.view().totals());
        let holding = share.holding();
        ShareStatus {
            share: share.id().to_string(),
            role: convert::role_out(share.role()),
            dirs: self.dirs_status(share),
            heads: share.heads(),
            digest: share.digest(),
            // The root is no entry.
            entries: entries.saturating_sub(1),
            bytes,
            missing: Missing { files: holding.missing_files, bytes: holding.missing_bytes },
            devices: self.devices_status(share, peers),
            transfers: self.transfers(share),
            problems: self.problems(share),
        }
    }

    fn dirs_status(&self, share: &Share) -> Vec<Showing> {
        let mut dirs: Vec<Showing> = Vec::new();
        let showings = self.showings_of(&share.id());
        for showing in &showings {
            dirs.push(Showing {
                dir: DirText::from(&showing.dir),
                mode: convert::mode_out(showing.mode),
                state: match showing.state() {
                    State::Starting => ShowState::Starting,
                    State::Ready => ShowState::Ready,
                    State::Ended(_) => ShowState::Stopped,
                    State::Failed(_) => ShowState::Failed,
                },
                read_only: showing.options.read_only,
                on_demand: showing.options.on_demand,
            });
        }
        for shown in share.dir().shown().unwrap_or_default() {
            if !showings.iter().any(|showing| showing.dir == shown.dir) {
                dirs.push(Showing {
                    dir: DirText::from(&shown.dir),
                    mode: convert::mode_out(shown.mode),
                    state: ShowState::Stopped,
                    read_only: shown.options.read_only,
                    on_demand: shown.options.on_demand,
                });
            }
        }
        dirs
    }

    fn devices_status(&self, share: &Share, peers: &BTreeMap<DeviceId, PeerInfo>) -> Vec<Device> {
        let own = share.vector();
        let members = share.members().into_iter().filter(|member| !member.revoked);
        let mut devices: Vec<Device> = members
            .map(|member| {
                let me = member.device == share.device();
                let peer = peers.get(&member.device);
                let connected = me || peer.is_some_and(|peer| peer.shares.contains(&share.id()));
                let held = if me { None } else { share.held_by(&member.device, connected, &own) };
                Device {
                    device: member.device.to_string(),
                    name: member.name,
                    role: convert::role_out(member.role),
                    me,
                    connected,
                    route: peer.and_then(|peer| convert::route_out(peer.path)),
                    in_sync: held.map(|held| held.is_all()),
                    error: if connected { None } else { peer.and_then(|peer| peer.last_error.clone()) },
                    missing: held.map(|held| Missing { files: held.missing_files, bytes: held.missing_bytes }),
                    last_seen_ms: if connected {
                        Some(crate::share::now_ms())
                    } else {
                        share.last_seen(&member.device)
                    },
                }
            })
            .collect();
        devices.sort_by_key(|device| !device.me);
        devices
    }

    fn transfers(&self, share: &Share) -> Vec<Transfer> {
        let wanted = share.missing_contents(TRANSFERS);
        wanted
            .into_iter()
            .map(|(inode, content)| {
                let lacks = share.lacks(&content);
                let path = share.path_of(inode).unwrap_or_default();
                Transfer {
                    path: PathText::from_bytes(&path),
                    done: content.size.saturating_sub(lacks),
                    total: content.size,
                }
            })
            .filter(|transfer| transfer.done > 0)
            .collect()
    }

    fn problems(&self, share: &Share) -> Vec<Problem> {
        let mut problems = share.problems();
        problems.extend(self.lacked(share));
        problems.extend(self.shown_problems(share));
        problems
    }

    /// What stands in the way where the share is shown.
    pub(crate) fn shown_problems(&self, share: &Share) -> Vec<Problem> {
        let mut problems = Vec::new();
        for showing in self.showings_of(&share.id()) {
            for problem in showing.problems() {
                let path = match problem.path.as_str() {
                    "" => showing.dir.clone(),
                    below => showing.dir.join(below),
                };
                problems.push(Problem { path: Some(PathText::from(&path)), message: problem.message });
            }
        }
        problems
    }

    pub(crate) fn list_members(&self, asked: &request::Members) -> Result<Reply, Failure> {
        let share = self.find(&asked.dir.to_path())?.share;
        let members = share.members();
        let names: BTreeMap<_, _> = members.iter().map(|member| (member.device, member.name.clone())).collect();
        let members = members
            .into_iter()
            .map(|member| Member {
                device: member.device.to_string(),
                role: convert::role_out(member.role),
                me: member.device == share.device(),
                invited_by: member.invited_by.map(|by| names.get(&by).cloned().unwrap_or_else(|| by.to_string())),
                revoked: member.revoked,
                name: member.name,
            })
            .collect();
        Ok(Reply::Members(Members { share: share.id().to_string(), members }))
    }

    /// Names of all devices of all shares.
    pub(crate) fn device_names(&self) -> BTreeMap<DeviceId, String> {
        let members = self.shares().into_iter().flat_map(|share| share.members());
        members.map(|member| (member.device, member.name)).collect()
    }

    /// Members that the share is being synced with now.
    pub(crate) fn connected(&self, share: &ShareId) -> BTreeSet<DeviceId> {
        let peers = self.node().peers().into_iter();
        peers.filter(|p| p.path != PathKind::None && p.shares.contains(share)).map(|peer| peer.device).collect()
    }

    pub(crate) fn disk_used(&self) -> u64 {
        let usage = self.store().usage();
        let logs: u64 = self.shares().iter().map(|share| share.log_bytes()).sum();
        usage.packs + usage.objects + usage.write_files + usage.index + logs
    }
}
