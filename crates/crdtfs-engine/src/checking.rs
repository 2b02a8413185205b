//! `crdtfs check`: every stored byte and reference, verified.

use std::sync::Arc;

use crdtfs_control::reply::{Checked, Finding};
use crdtfs_control::{Failure, Item, Reply, Talk, request};

use crate::core::Core;
use crate::retention::Keep;
use crate::share::Share;
use crate::shows::blocking;

impl Core {
    pub(crate) async fn check(self: &Arc<Self>, asked: request::Check, talk: &mut Talk) -> Result<Reply, Failure> {
        let core = self.clone();
        let (mut checked, findings) = blocking(move || {
            let shares = core.shares_of(asked.dir.as_ref())?;
            core.check_now(&shares, asked.repair)
        })
        .await?;
        for finding in findings {
            checked.findings += 1;
            checked.repaired += u64::from(finding.repaired);
            talk.send(Item::Finding(finding)).await?;
        }
        Ok(Reply::Checked(checked))
    }

    fn check_now(&self, shares: &[Arc<Share>], repair: bool) -> Result<(Checked, Vec<Finding>), Failure> {
        let mut findings = Vec::new();
        let mut checked = Checked { shares: shares.len() as u64, ..Checked::default() };
        let report = self.store().check(repair, &mut || self.kept(Keep::Retained)).map_err(|e| Failure::failed(e.to_string()))?;
        if repair {
            self.collect().map_err(|e| Failure::failed(e.to_string()))?;
        }
        checked.chunks = report.chunks;
        checked.bytes = report.bytes;
        let places = report.problems.into_iter().map(|problem| format!("{}: {}", problem.place, problem.message));
        findings.extend(places.map(|message| Finding { share: None, message, repaired: repair }));
        let repaired = report.repaired.into_iter();
        findings.extend(repaired.map(|message| Finding { share: None, message, repaired: true }));
        for share in shares {
            let found = share.check().map_err(|e| Failure::failed(e.to_string()))?;
            checked.changes += share.log().len();
            let id = Some(share.id().to_string());
            findings.extend(found.into_iter().map(|message| Finding { share: id.clone(), message, repaired: false }));
        }
        Ok((checked, findings))
    }
}
