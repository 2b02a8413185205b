//! Verifying what a share keeps of its changes and members: that it reads, that it is signed, and that it is what is in
//! memory, which is what is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::thread;

use crdtfs_core::document::Schema;
use crdtfs_core::envelope::{Envelope, EnvelopeError, Trust};
use crdtfs_core::id::{ActorId, ChangeHash, DeviceId, RecordId, ShareId};
use crdtfs_core::membership::MemberRecord;
use crdtfs_core::replica::Replica;
use crdtfs_store::{LogEntry, Problem};

use crate::share::{Share, ShareError};

/// Envelopes are verified so many bytes at a time, by as many threads as there are processors.
const PORTION: usize = 4 << 20;

/// One thing that is wrong with a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    /// It was, and has been put right.
    pub(crate) repaired: bool,
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self { message, repaired: false }
    }
}

impl From<Problem> for Wrong {
    fn from(Problem { place, message, mended }: Problem) -> Self {
        match mended {
            Some(how) => Self { message: format!("{place}: {message}: {how}"), repaired: true },
            None => format!("{place}: {message}").into(),
        }
    }
}

/// Records of a format that this program does not know, by author and format.
type Newer = BTreeMap<(DeviceId, u8), BTreeSet<RecordId>>;

/// What an envelope of the log turned out to be.
struct Verified {
    hash: ChangeHash,
    device: DeviceId,
    /// With their formats.
    newer: Vec<(u8, RecordId)>,
}

impl Share {
    /// Verifies the log byte for byte, each of its changes as one that a stranger sent, that what is in memory is in the log
    /// and the other way round, the genesis and the membership records, and what the records mean. `tell` hears how many
    /// bytes were verified so far.
    ///
    /// With `repair` what can be mended is: damaged places of the log are given up, and what is in memory is written again.
    pub(crate) fn check(&self, repair: bool, tell: &mut dyn FnMut(u64)) -> Result<Vec<Wrong>, ShareError> {
        // What has to be on disk: what was known before anything was looked at. What comes meanwhile may be there, too.
        let logged = self.order.lock().logged.clone();
        let members = self.member_records();
        let damaged = self.log().check(repair, &mut |_| ())?;
        let mut found: Vec<Wrong> = damaged.into_iter().map(Wrong::from).collect();
        let mut newer = Newer::new();
        self.verify_changes(&mut newer, &mut found, tell)?;
        for (actor, tip) in logged.iter() {
            found
                .extend(self.log().lacks(actor, tip.seq).into_iter().map(|lacks| self.not_in_log(actor, lacks).into()));
        }
        let names = self.names();
        found.extend(newer.iter().map(|((device, format), records)| {
            let by = names.get(device).cloned().unwrap_or_else(|| device.to_string());
            Wrong::from(explain_newer(&by, *format, records))
        }));
        self.verify_members(&members, repair, &mut found);
        found.extend(self.newer_membership().map(Wrong::from));
        let problems = self.read(|replica| replica.view().problems());
        found.extend(problems.iter().map(|problem| Wrong::from(problem.to_string())));
        Ok(found)
    }

    fn verify_changes(
        &self,
        newer: &mut Newer,
        found: &mut Vec<Wrong>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), ShareError> {
        let (mut portion, mut bytes, mut told) = (Vec::new(), 0, 0);
        let mut judge = |portion: Vec<LogEntry>| {
            for (entry, verified) in portion.iter().zip(verify(&self.id(), &portion)) {
                found.extend(self.judge(entry, verified, newer).map(Wrong::from));
            }
        };
        self.log().for_each(0, &mut |entry| {
            bytes += entry.bytes.len();
            portion.push(entry);
            if bytes >= PORTION {
                judge(std::mem::take(&mut portion));
                told += std::mem::take(&mut bytes) as u64;
                tell(told);
            }
            true
        })?;
        judge(portion);
        tell(told + bytes as u64);
        Ok(())
    }

    /// What is wrong with an entry of the log.
    fn judge(&self, entry: &LogEntry, verified: Result<Verified, EnvelopeError>, newer: &mut Newer) -> Option<String> {
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                let change = self.change_name(&entry.actor, entry.seq);
                return Some(format!("{change} in the log is no good: {error}; `crdtfs check --repair` gives it up"));
            }
        };
        let known = |replica: &Replica| {
            (replica.chains().knows(&verified.hash), replica.chains().change(&entry.actor, entry.seq).is_some())
        };
        match self.read(known) {
            (true, _) => {
                for (format, record) in verified.newer {
                    newer.entry((verified.device, format)).or_default().insert(record);
                }
                None
            }
            // One that lost against another of its number says nothing.
            (false, true) => None,
            (false, false) => Some(format!(
                "{} is in the log and is not shown: a change that it builds on is not here; it counts once another device \
                 that has that is connected",
                self.change_name(&entry.actor, entry.seq)
            )),
        }
    }

    fn not_in_log(&self, actor: &ActorId, (first, last): (u64, u64)) -> String {
        let which = self.change_name(actor, first);
        let which = if first == last { which } else { format!("{which} (and those up to {last})") };
        format!(
            "{which} is shown and is not in the log: this device cannot give it to others. Keep a device that can: \
             `crdtfs members` lists them"
        )
    }

    /// A change as people know it: its number, and the name of the device that made it.
    fn change_name(&self, actor: &ActorId, seq: u64) -> String {
        let device = self.read(|replica| {
            let mut changes = replica.chains().iter();
            changes.find(|change| change.actor == *actor).map(|change| change.device)
        });
        let by = device.map(|device| self.names().remove(&device).unwrap_or_else(|| device.to_string()));
        match by {
            Some(by) => format!("change {seq} of {by}"),
            None => format!("change {seq} of a device that has no other here ({actor})"),
        }
    }

    fn names(&self) -> BTreeMap<DeviceId, String> {
        self.members().into_iter().map(|member| (member.device, member.name)).collect()
    }

    fn member_records(&self) -> Vec<Vec<u8>> {
        self.read(|replica| replica.membership().records().map(<[u8]>::to_vec).collect())
    }

    /// Genesis and membership records are few, and in memory; what is on disk has to be the same.
    fn verify_members(&self, members: &[Vec<u8>], repair: bool, found: &mut Vec<Wrong>) {
        let genesis = self.read(|replica| replica.genesis().encode());
        if self.dir().genesis().ok().as_deref() != Some(&genesis) {
            let mended = repair && self.dir().write_genesis(&genesis).is_ok();
            found.push(wrong("genesis: it is not what the share was made with", mended));
        }
        let unsigned = members.iter().filter(|record| MemberRecord::decode(&self.id(), record).is_err()).count();
        if unsigned > 0 {
            found.push(format!("{unsigned} statements on who is a member are not signed as they have to be").into());
        }
        let kept = self.dir().membership();
        let known = self.member_records();
        let whole = |kept: &Vec<Vec<u8>>| {
            members.iter().all(|record| kept.contains(record)) && kept.iter().all(|record| known.contains(record))
        };
        if !kept.as_ref().is_ok_and(whole) {
            let why = match kept {
                Ok(kept) => format!("{} statements on who is a member that are not what is known", kept.len()),
                Err(error) => error.to_string(),
            };
            let mended = repair && self.keep_membership().is_ok();
            found.push(wrong(&format!("membership: {why}"), mended));
        }
    }
}

fn wrong(what: &str, mended: bool) -> Wrong {
    let how = if mended { "written again" } else { "`crdtfs check --repair` writes it again, while this engine runs" };
    Wrong { message: format!("{what}: {how}"), repaired: mended }
}

/// Decodes envelopes as those of a stranger, in parallel.
fn verify(share: &ShareId, entries: &[LogEntry]) -> Vec<Result<Verified, EnvelopeError>> {
    let schema = Schema::new(share);
    let one = |entry: &LogEntry| -> Result<Verified, EnvelopeError> {
        let envelope = Envelope::decode(share, &schema, &entry.bytes, Trust::Nothing)?;
        if (envelope.body.actor, envelope.body.seq) != (entry.actor, entry.seq) {
            return Err(EnvelopeError::Malformed("it is another device's change, or of another number".into()));
        }
        Ok(Verified { hash: envelope.hash, device: envelope.device, newer: newer_records(&envelope) })
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let each = entries.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let work: Vec<_> =
            entries.chunks(each).map(|some| scope.spawn(|| some.iter().map(one).collect::<Vec<_>>())).collect();
        work.into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn newer_records(envelope: &Envelope) -> Vec<(u8, RecordId)> {
    if envelope.records.len() == envelope.body.records.len() {
        return Vec::new();
    }
    let known: BTreeSet<_> = envelope.records.iter().map(|(id, _)| *id).collect();
    let unknown = envelope.body.records.iter().filter(|record| !known.contains(&record.id));
    // A record begins with the number of its format.
    unknown.map(|record| (record.bytes.first().copied().unwrap_or_default(), record.id)).collect()
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
