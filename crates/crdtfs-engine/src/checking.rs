//! `crdtfs check`: every stored byte and reference, verified.
//!
//! A finding is what somebody has to do something about. What may still come is none, and what was never accepted is not here.
//! Records of a newer format are one: nothing is damaged, but what they say is not shown until this device has a newer crdtfs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_control::reply::{Checked, Finding, Progress, Unit};
use crdtfs_control::{Failure, Item, Reply, Talk, request};
use crdtfs_core::id::Hash;

use crate::core::Core;
use crate::retention::Keep;
use crate::share::Share;
use crate::shows::blocking;
use crate::verify::Wrong;

impl Core {
    pub(crate) async fn check(self: &Arc<Self>, asked: request::Check, talk: &mut Talk) -> Result<Reply, Failure> {
        let core = self.clone();
        let mut telling = Telling { talk: talk.clone(), told: Instant::now(), total: self.disk_used() };
        let (mut checked, findings) = blocking(move || {
            let shares = core.shares_of(asked.dir.as_ref())?;
            core.check_now(&shares, asked.repair, &mut |bytes| telling.tell(bytes))
        })
        .await?;
        for finding in findings {
            checked.findings += 1;
            checked.repaired += u64::from(finding.repaired);
            talk.send(Item::Finding(finding)).await?;
        }
        Ok(Reply::Checked(checked))
    }

    fn check_now(
        &self,
        shares: &[Arc<Share>],
        repair: bool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(Checked, Vec<Finding>), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        let mut findings = Vec::new();
        let mut checked = Checked { shares: shares.len() as u64, ..Checked::default() };
        let report =
            self.store().check_telling(repair, &mut || self.kept(Keep::Retained), tell).map_err(|e| failed(&e))?;
        if repair {
            self.collect().map_err(|e| failed(&e))?;
            for share in self.shares() {
                share.take_stock();
                share.retry_fetches();
            }
        }
        checked.chunks = report.chunks;
        checked.bytes = report.bytes;
        findings.extend(report.problems.into_iter().map(|problem| Wrong::from(problem).found_in(None)));
        let incomplete: BTreeMap<Hash, u64> =
            report.incomplete.iter().map(|(content, lacks)| (content.hash, *lacks)).collect();
        for share in shares {
            let before = checked.bytes;
            let mut found = share
                .check(repair, &mut |bytes| {
                    checked.bytes = before + bytes;
                    tell(checked.bytes);
                })
                .map_err(|e| failed(&e))?;
            checked.changes += share.log().len();
            found.extend(self.unreachable(share, &incomplete).into_iter().map(Wrong::from));
            findings.extend(found.into_iter().map(|wrong| wrong.found_in(Some(share))));
        }
        Ok((checked, findings))
    }

    /// The files that this device should have all of, has not, and can get from nobody. While there are other members, what is
    /// missed may still come, and is for `status` to say.
    fn unreachable(&self, share: &Share, incomplete: &BTreeMap<Hash, u64>) -> Vec<String> {
        let wanted = share.missing_contents(usize::MAX);
        let wanted: Vec<_> = wanted.iter().filter_map(|(inode, c)| Some((inode, incomplete.get(&c.hash)?))).collect();
        if wanted.is_empty() || share.holding().partial || self.lacking(share).iter().any(|device| !device.me) {
            return Vec::new();
        }
        let hope = "no other device is a member";
        let mut found: Vec<String> = wanted
            .iter()
            .take(UNREACHABLE)
            .map(|(inode, lacks)| {
                let path = share.path_of(**inode).unwrap_or_default();
                format!("{}: {lacks} bytes are not here, and {hope}", String::from_utf8_lossy(&path))
            })
            .collect();
        if wanted.len() > UNREACHABLE {
            found.push(format!("{} more files are not all here, and {hope}", wanted.len() - UNREACHABLE));
        }
        found
    }
}

impl Share {
    /// What only a newer crdtfs understands of who may do what.
    pub(crate) fn newer_membership(&self) -> Option<String> {
        let unknown = self.read(|replica| replica.membership().state().unknown);
        (unknown > 0).then(|| {
            format!(
                "{unknown} statements on who is a member were made by a newer crdtfs: update this one to follow them"
            )
        })
    }
}

impl Wrong {
    /// As the answer has it; the store is of no share.
    fn found_in(self, share: Option<&Share>) -> Finding {
        Finding { share: share.map(|share| share.id().to_string()), message: self.message, repaired: self.repaired }
    }
}

/// Files that a check names because nobody reachable has them.
const UNREACHABLE: usize = 20;

/// How far a check is.
struct Telling {
    talk: Talk,
    told: Instant,
    total: u64,
}

impl Telling {
    fn tell(&mut self, done: u64) {
        if self.told.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.told = Instant::now();
        // What lies in folders is verified, too, and not counted.
        let total = (done <= self.total).then_some(self.total);
        self.talk.offer(Item::Progress(Progress { what: "checking".into(), done, total, unit: Unit::Bytes }));
    }
}
