//! `crdtfs check`: every stored byte and reference, verified.
//!
//! A finding is what somebody has to do something about. What may still come is none, and what was never accepted is not here.
//! Records of a newer format are one: nothing is damaged, but what they say is not shown until this device has a newer crdtfs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_control::reply::{Checked, Finding, Progress, Unit};
use crdtfs_control::{Failure, Item, Reply, Talk, request};
use crdtfs_core::document::Schema;
use crdtfs_core::envelope::{Envelope, Trust};
use crdtfs_core::id::{DeviceId, Hash, RecordId};

use crate::core::Core;
use crate::retention::Keep;
use crate::share::{Share, ShareError};
use crate::shows::blocking;

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
        findings.extend(report.problems.into_iter().map(|problem| Finding {
            share: None,
            repaired: problem.mended.is_some(),
            message: match problem.mended {
                Some(how) => format!("{}: {}: {how}", problem.place, problem.message),
                None => format!("{}: {}", problem.place, problem.message),
            },
        }));
        let incomplete: BTreeMap<Hash, u64> =
            report.incomplete.iter().map(|(content, lacks)| (content.hash, *lacks)).collect();
        for share in shares {
            let mut found = share.check().map_err(|e| failed(&e))?;
            checked.changes += share.log().len();
            found.extend(self.unreachable(share, &incomplete));
            let id = Some(share.id().to_string());
            findings.extend(found.into_iter().map(|message| Finding { share: id.clone(), message, repaired: false }));
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

/// Records of a format that this program does not know, by author and format.
type Newer = BTreeMap<(DeviceId, u8), BTreeSet<RecordId>>;

impl Share {
    /// Verifies the log: that it is whole, that each of its changes reads and is signed, and what its records mean.
    pub(crate) fn check(&self) -> Result<Vec<String>, ShareError> {
        let mut findings = self.log().check()?;
        let schema = Schema::new(&self.id());
        let mut newer = Newer::new();
        self.log().for_each(0, &mut |entry| {
            match Envelope::decode(&self.id(), &schema, &entry.bytes, Trust::Nothing) {
                // One that lost against another of its number says nothing.
                Ok(envelope) if self.read(|replica| replica.chains().knows(&envelope.hash)) => {
                    note_newer(&envelope, &mut newer);
                }
                Ok(_) => {}
                Err(error) => findings.push(format!("change {} of {} in the log: {error}", entry.seq, entry.actor)),
            }
            true
        })?;
        let names: BTreeMap<_, _> = self.members().into_iter().map(|member| (member.device, member.name)).collect();
        findings.extend(newer.iter().map(|((device, format), records)| {
            let by = names.get(device).cloned().unwrap_or_else(|| device.to_string());
            explain_newer(&by, *format, records)
        }));
        findings.extend(self.newer_membership());
        let problems = self.read(|replica| replica.view().problems());
        findings.extend(problems.iter().map(ToString::to_string));
        Ok(findings)
    }

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

fn note_newer(envelope: &Envelope, newer: &mut Newer) {
    if envelope.records.len() == envelope.body.records.len() {
        return;
    }
    let known: BTreeSet<_> = envelope.records.iter().map(|(id, _)| *id).collect();
    for record in envelope.body.records.iter().filter(|record| !known.contains(&record.id)) {
        // A record begins with the number of its format.
        let format = record.bytes.first().copied().unwrap_or_default();
        newer.entry((envelope.device, format)).or_default().insert(record.id);
    }
}

fn explain_newer(by: &str, format: u8, records: &BTreeSet<RecordId>) -> String {
    let first = records.first().map(ToString::to_string).unwrap_or_default();
    let which = match records.len() {
        1 => format!("the record {first} of {by} is"),
        many => format!("{many} records of {by} (one is {first}) are"),
    };
    format!(
        "{which} of format {format}, which needs a newer crdtfs: nothing is damaged, but what is said there is not shown on \
         this device until crdtfs is updated here"
    )
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
