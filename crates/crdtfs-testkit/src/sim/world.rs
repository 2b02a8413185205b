//! The world: devices, the changes that they made, and what is on its way between them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Node};
use crdtfs_core::op::{Op, OpError};
use crdtfs_core::record::Record;
use crdtfs_core::view::Mutation;

use super::{Action, Step};
use crate::Device;
use crate::journal::Done;

/// The mark of one version: a word that stands in no other version that was not made from it.
pub(super) type Token = u32;

/// Records that leave a device together.
pub(super) struct Change {
    pub(super) records: Vec<(RecordId, Record)>,
    /// The last changes that its author had.
    pub(super) needs: Vec<usize>,
}

/// The tree of a device as its deltas told it.
#[derive(Default)]
pub(super) struct Mirror {
    pub(super) entries: BTreeMap<(InodeId, Name), InodeId>,
    pub(super) nodes: BTreeMap<InodeId, Node>,
}

/// A device, and what it holds.
pub(super) struct Site {
    pub(super) device: Device,
    pub(super) mirror: Mirror,
    /// A file that is open for writing: its inode, basis and text then.
    pub(super) open: Option<(InodeId, Basis, String)>,
    /// Changes, in the order in which they came.
    order: Vec<usize>,
    have: BTreeSet<usize>,
    /// Changes that came before one that they need.
    waiting: BTreeSet<usize>,
    /// How many changes are on the disk.
    durable: usize,
    /// Which side of a broken network it is on.
    side: bool,
}

/// An operation that took tokens away, or one name of the file that has them.
pub(super) struct Taken {
    pub(super) op: Op,
    /// Its records: it counts if one of them is there in the end.
    pub(super) by: Vec<RecordId>,
    pub(super) tokens: BTreeSet<Token>,
    /// Of those, what its author did not see any more, if it was more than one name that was removed.
    pub(super) gone: BTreeSet<Token>,
    /// Of the removal of one of several names: the name, with those that its author knew to be gone, and those that were
    /// left.
    pub(super) names: Option<(Vec<PlaceId>, Vec<PlaceId>)>,
}

/// A node as it was created.
pub(super) struct Created {
    pub(super) by: PlaceId,
    pub(super) dir: InodeId,
    pub(super) name: Name,
}

pub(super) struct World {
    pub(super) sites: Vec<Site>,
    pub(super) changes: Vec<Change>,
    /// Messages: to whom, and which change.
    messages: Vec<(usize, usize)>,
    pub(super) tokens: Token,
    /// Tokens that were written, and the record that did it.
    pub(super) written: BTreeMap<Token, RecordId>,
    pub(super) taken: Vec<Taken>,
    /// Records by which users put bytes under a name.
    pub(super) brought: Vec<(RecordId, Hash)>,
    pub(super) created: BTreeMap<InodeId, Created>,
    /// Nodes that somebody moved, linked or removed.
    pub(super) named: BTreeSet<InodeId>,
    /// Whether somebody lost changes, and with them perhaps the end of an operation.
    pub(super) cut: bool,
    words: BTreeMap<Hash, Rc<BTreeSet<Token>>>,
    pub(super) thorough: bool,
    pub(super) rule: Option<Mutation>,
}

impl World {
    pub(super) fn new(seed: u64, steps: &[Step], thorough: bool, rule: Option<Mutation>) -> Self {
        let count = steps.iter().map(|step| step.device + 1).max().unwrap_or(0).max(2);
        let site = |i: usize| {
            let mut device = Device::without(&format!("dev{i}"), seed, rule);
            device.journal = Some(Vec::new());
            Site {
                device,
                mirror: Mirror::default(),
                open: None,
                order: Vec::new(),
                have: BTreeSet::new(),
                waiting: BTreeSet::new(),
                durable: 0,
                side: false,
            }
        };
        Self {
            sites: (0..count).map(site).collect(),
            changes: Vec::new(),
            messages: Vec::new(),
            tokens: 0,
            written: BTreeMap::new(),
            taken: Vec::new(),
            brought: Vec::new(),
            created: BTreeMap::new(),
            named: BTreeSet::new(),
            cut: false,
            words: BTreeMap::new(),
            thorough,
            rule,
        }
    }

    pub(super) fn token(&mut self) -> String {
        self.tokens += 1;
        format!("t{}.", self.tokens)
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        let Step { device: at, picks, .. } = *step;
        let count = self.sites.len();
        let other = (at + 1 + picks[0] as usize % (count - 1)) % count;
        match step.action {
            Action::Sync => self.meet(at, other, picks),
            Action::Deliver => self.deliver(at, picks),
            Action::Drop => {
                if !self.messages.is_empty() {
                    self.messages.swap_remove(picks[0] as usize % self.messages.len());
                }
                Ok(())
            }
            Action::Partition => {
                for (i, site) in self.sites.iter_mut().enumerate() {
                    site.side = picks[0] >> i & 1 == 1;
                }
                // What was on its way across is lost, or came through at the last moment.
                let sites = &self.sites;
                self.messages.retain(|(to, change)| sites[*to].side == picks[1].is_multiple_of(2) || change % 2 == 0);
                Ok(())
            }
            Action::Mend => {
                self.sites.iter_mut().for_each(|site| site.side = false);
                Ok(())
            }
            Action::Fetch => {
                if self.sites[at].side == self.sites[other].side {
                    let (to, from) = pair(&mut self.sites, at, other);
                    to.device.sync_bytes(&from.device);
                }
                self.check_device(at, self.thorough)
            }
            Action::Persist => {
                self.sites[at].durable = self.sites[at].order.len();
                Ok(())
            }
            Action::Reopen => {
                self.sites[at].open = None;
                self.sites[at].device.reopen();
                self.check_device(at, self.thorough)
            }
            Action::Crash => {
                let (durable, all) = (self.sites[at].durable, self.sites[at].order.len());
                self.restart(at, durable + picks[0] as usize % (all - durable + 1))
            }
            Action::Restore => {
                let all = self.sites[at].order.len();
                self.restart(at, picks[0] as usize % (all + 1))
            }
            Action::Clone => {
                self.cut = true;
                self.sites[at].order = self.sites[other].order.clone();
                self.sites[at].device.name = self.sites[other].device.name.clone();
                let (to, from) = pair(&mut self.sites, at, other);
                to.device.sync_bytes(&from.device);
                let all = self.sites[at].order.len();
                self.restart(at, all - picks[1] as usize % (all + 1) / 2)
            }
            _ => self.operate(step),
        }
    }

    /// Does what a user does, and sends it off.
    fn operate(&mut self, step: &Step) -> Result<(), String> {
        let at = step.device;
        let logged = self.sites[at].device.log.len();
        let before = if self.thorough { self.sites[at].device.dump() } else { String::new() };
        match self.act(step) {
            Ok(()) | Err(OpError::NotFound | OpError::Exists | OpError::Invalid | OpError::NotEmpty) => {}
            Err(OpError::IsDir | OpError::NotDir | OpError::NotPermitted) => {}
            Err(other) => return Err(format!("refused: {other}")),
        }
        let journal = self.sites[at].device.journal.as_mut().map(std::mem::take).unwrap_or_default();
        for done in journal {
            self.account(at, &done).map_err(|why| {
                let device = &self.sites[at].device;
                let new: Vec<_> = device.log[logged..].iter().map(|(id, record)| format!("{id} {record:?}")).collect();
                format!("{why}\nbefore:\n{before}after:\n{}new:\n{}", device.dump(), new.join("\n"))
            })?;
        }
        self.publish(at, logged, step.picks);
        self.check_device(at, self.thorough)
    }

    /// Puts new records into changes, cut anywhere, and sends them to all that can be reached.
    fn publish(&mut self, at: usize, logged: usize, picks: [u32; 3]) {
        let new: Vec<_> = self.sites[at].device.log[logged..].to_vec();
        let mut cuts = picks[1] ^ picks[2].rotate_left(13);
        // Most operations leave as they are; some are cut, as long ones are.
        let whole = !cuts.is_multiple_of(3);
        let mut records = Vec::new();
        let last = new.len();
        for (i, record) in new.into_iter().enumerate() {
            records.push(record);
            cuts = cuts.rotate_right(1);
            if i + 1 == last || (!whole && cuts & 1 == 1) {
                let site = &mut self.sites[at];
                let change = self.changes.len();
                let needs = maximal(&self.changes, &site.order);
                self.changes.push(Change { records: std::mem::take(&mut records), needs });
                site.order.push(change);
                site.have.insert(change);
                for to in (0..self.sites.len()).filter(|to| *to != at) {
                    if self.sites[to].side == self.sites[at].side {
                        self.messages.push((to, change));
                    }
                }
            }
        }
    }

    /// Takes over what another device has, often all, sometimes the first part only.
    fn meet(&mut self, to: usize, from: usize, picks: [u32; 3]) -> Result<(), String> {
        if self.sites[to].side != self.sites[from].side {
            return Ok(());
        }
        let missing = self.missing(to, from);
        let part = if picks[1].is_multiple_of(3) { picks[2] as usize % (missing.len() + 1) } else { missing.len() };
        // Bytes come behind the records that speak of them.
        if !(picks[0] >> 8).is_multiple_of(8) {
            let (to, from) = pair(&mut self.sites, to, from);
            to.device.sync_bytes(&from.device);
        }
        self.receive(to, &missing[..part])
    }

    fn missing(&self, to: usize, from: usize) -> Vec<usize> {
        let have = &self.sites[to].have;
        self.sites[from].order.iter().copied().filter(|change| !have.contains(change)).collect()
    }

    fn deliver(&mut self, at: usize, picks: [u32; 3]) -> Result<(), String> {
        for i in 0..=picks[1] % 4 {
            let mine: Vec<_> = (0..self.messages.len()).filter(|i| self.messages[*i].0 == at).collect();
            if mine.is_empty() {
                break;
            }
            let chosen = mine[picks[0].rotate_left(7 * i) as usize % mine.len()];
            let change = self.messages[chosen].1;
            // One in eight comes again.
            if !picks[2].rotate_left(3 * i).is_multiple_of(8) {
                self.messages.remove(chosen);
            }
            self.receive(at, &[change])?;
        }
        Ok(())
    }

    /// Changes arrive: those that can be taken are, with what waited for them.
    fn receive(&mut self, at: usize, changes: &[usize]) -> Result<(), String> {
        let site = &mut self.sites[at];
        site.waiting.extend(changes.iter().copied().filter(|change| !site.have.contains(change)));
        // What is here already changes nothing.
        let mut records: Vec<_> = changes
            .iter()
            .filter(|change| site.have.contains(change))
            .flat_map(|change| self.changes[*change].records.iter().cloned())
            .collect();
        while let Some(next) = site
            .waiting
            .iter()
            .copied()
            .find(|change| self.changes[*change].needs.iter().all(|need| site.have.contains(need)))
        {
            site.waiting.remove(&next);
            site.have.insert(next);
            site.order.push(next);
            records.extend(self.changes[next].records.iter().cloned());
        }
        let before = site.device.log.len();
        site.device.receive(&records);
        let sent: BTreeSet<_> = records.iter().map(|(id, _)| id).collect();
        if site.device.log[before..].iter().any(|(id, _)| !sent.contains(id)) {
            return Err("law 3: a receiver wrote records".into());
        }
        self.check_device(at, self.thorough)
    }

    /// Starts a device again with the first `keep` of its changes; what runs in memory only is forgotten.
    fn restart(&mut self, at: usize, keep: usize) -> Result<(), String> {
        let site = &mut self.sites[at];
        self.cut |= keep < site.order.len();
        site.order.truncate(keep);
        site.durable = keep;
        site.have = site.order.iter().copied().collect();
        site.waiting.clear();
        site.open = None;
        site.mirror = Mirror::default();
        let log: Vec<_> = site.order.iter().flat_map(|change| self.changes[*change].records.iter().cloned()).collect();
        let device = std::mem::replace(&mut site.device, Device::new("", 0));
        site.device = device.restarted(&log);
        self.check_device(at, self.thorough)
    }

    /// Lets all devices meet, and checks that they agree and that nothing was lost.
    pub(super) fn heal(mut self) -> Result<super::Digest, String> {
        self.messages.clear();
        self.sites.iter_mut().for_each(|site| site.side = false);
        // What waits on one device for what waits on another takes a round each.
        loop {
            let held = self.held();
            for to in 0..self.sites.len() {
                for from in (0..self.sites.len()).filter(|from| *from != to) {
                    self.meet(to, from, [1 << 8, 1, 0]).map_err(|why| format!("healing: {why}"))?;
                }
            }
            if self.held() == held {
                return self.check_end();
            }
        }
    }

    /// How many changes the devices hold in all.
    fn held(&self) -> usize {
        self.sites.iter().map(|site| site.order.len()).sum()
    }

    /// Tokens in the bytes with this hash.
    pub(super) fn words(&mut self, at: usize, hash: &Hash) -> Rc<BTreeSet<Token>> {
        if let Some(words) = self.words.get(hash) {
            return words.clone();
        }
        let own = self.sites[at].device.bytes_of(hash);
        let bytes = own.or_else(|| self.sites.iter().find_map(|site| site.device.bytes_of(hash)));
        let words: Rc<BTreeSet<Token>> =
            Rc::new(bytes.map(|bytes| tokens_in(&bytes).into_iter().collect()).unwrap_or_default());
        self.words.insert(*hash, words.clone());
        words
    }

    /// The bytes of all versions that an edit was made of.
    fn made_of(&self, at: usize, done: &Done) -> BTreeSet<Hash> {
        let log = &self.sites[at].device.log;
        let (mut found, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        let mut left: Vec<RecordId> = done.brought.iter().map(|(record, _)| *record).collect();
        while let Some(id) = left.pop() {
            if let Some((_, Record::Content(content))) = log.iter().find(|(known, _)| *known == id)
                && found.insert(id)
            {
                hashes.extend(content.bytes.map(|bytes| bytes.hash));
                left.extend(content.replaces.iter().copied());
            }
        }
        hashes
    }

    /// Whether somebody who had seen it edited every version with these bytes: it is only shown, for what was set on it besides,
    /// as long as there is nothing else, since those edits became files of their own.
    fn was_edited(&self, at: usize, hash: &Hash) -> bool {
        let sets = |record: &Record| match record {
            Record::Content(content) if content.bytes_stamp.is_none() => content.bytes.map(|bytes| bytes.hash),
            _ => None,
        };
        let log = &self.sites[at].device.log;
        let edited = |version: &RecordId| {
            log.iter().any(|(_, record)| {
                sets(record).is_some() && matches!(record, Record::Content(by) if by.replaces.contains(version))
            })
        };
        let mut versions = log.iter().filter(|(_, record)| sets(record) == Some(*hash)).peekable();
        versions.peek().is_some() && versions.all(|(id, _)| edited(id))
    }

    /// Takes down what an operation wrote and what it took away, and checks that it touched nothing else.
    fn account(&mut self, at: usize, done: &Done) -> Result<(), String> {
        if let Some(moved) = done.moves.first() {
            return Err(format!("law 4: {moved}"));
        }
        self.named.extend(&done.named);
        if let Op::Create { dir, name, inode, place, .. } = &done.op {
            self.created.insert(*inode, Created { by: *place, dir: *dir, name: name.clone() });
        }
        self.brought.extend(done.brought.iter().chain(&done.saved));
        if let Some((record, hash)) = done.brought {
            for token in self.words(at, &hash).iter() {
                self.written.entry(*token).or_insert(record);
            }
        }
        let mut now = BTreeSet::new();
        for hash in done.after.values() {
            now.extend(self.words(at, hash).iter().copied());
        }
        let mut may_go: BTreeSet<Token> = BTreeSet::new();
        let mut kept: BTreeSet<Token> = BTreeSet::new();
        for (inode, shown, hash) in &done.before {
            let written = Some(*inode) == done.target || done.is_save() || done.pending.contains(inode);
            if !written && done.after.get(shown).is_some_and(|now| now != hash) {
                return Err(format!("law 4: {:?} changed the text of {inode}, which it did not name", done.op));
            }
            if Some(*inode) == done.target {
                may_go.extend(self.words(at, hash).iter());
                if let Some(after) = done.after.get(shown) {
                    kept.extend(self.words(at, after).iter());
                }
            }
        }
        if let Op::Edit { basis: Some(_), .. } = &done.op {
            // Its author saw what was there when it was opened, not what came since.
            let seen = self.sites[at].open.take().map(|(_, _, text)| text).unwrap_or_default();
            let mut seen: BTreeSet<_> = tokens_in(seen.as_bytes()).into_iter().collect();
            // So had the authors of what it was made of: a merge takes what they changed as changed.
            for hash in self.made_of(at, done) {
                seen.extend(self.words(at, &hash).iter());
            }
            may_go.retain(|token| seen.contains(token));
        }
        // Work on what waits for bytes may decide what becomes of the others that wait with it: a merge, of which lines are gone
        // that somebody else had changed.
        let decides = done.target.is_some_and(|target| done.pending.contains(&target));
        for (inode, _, hash) in &done.before {
            if decides && Some(*inode) != done.target && done.pending.contains(inode) {
                continue;
            }
            if let Some(token) =
                self.words(at, hash).iter().find(|token| !now.contains(token) && !may_go.contains(token))
                && !(Some(*inode) == done.target && self.was_edited(at, hash))
            {
                return Err(format!("law 2: {:?} took t{token}. away, which it did not name or see", done.op));
            }
        }
        let partly = !done.removed.is_empty() && !done.left.is_empty();
        let names = partly.then(|| (done.removed.clone(), done.left.clone()));
        let tokens: BTreeSet<_> = match names {
            Some(_) => may_go,
            None => may_go.difference(&kept).copied().collect(),
        };
        if !tokens.is_empty() {
            let gone = if names.is_none() { tokens.difference(&now).copied().collect() } else { BTreeSet::new() };
            self.taken.push(Taken { op: done.op.clone(), by: done.taking.clone(), tokens, gone, names });
        }
        Ok(())
    }
}

/// Two sites at once.
fn pair(sites: &mut [Site], to: usize, from: usize) -> (&mut Site, &Site) {
    let (low, high) = sites.split_at_mut(to.max(from));
    if to < from { (&mut low[to], &high[0]) } else { (&mut high[0], &low[from]) }
}

/// Of changes that somebody has, those that no other needs.
fn maximal(changes: &[Change], have: &[usize]) -> Vec<usize> {
    let needed: BTreeSet<_> = have.iter().flat_map(|change| &changes[*change].needs).collect();
    have.iter().copied().filter(|change| !needed.contains(change)).collect()
}

/// Tokens in a text, in order.
pub(super) fn tokens_in(text: &[u8]) -> Vec<Token> {
    let words = text.split(|c| c.is_ascii_whitespace() || *c == 0);
    let number = |word: &[u8]| std::str::from_utf8(word.strip_prefix(b"t")?.strip_suffix(b".")?).ok()?.parse().ok();
    words.filter_map(number).collect()
}
