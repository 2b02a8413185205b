//! What somebody took away who saw it does not come back by itself.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::id::{InodeId, PlaceId, RecordId};
use crdtfs_core::record::{PlaceState, Record};

use super::world::{Token, World};

impl World {
    /// A text that is shown although somebody wrote over it or removed it for good: somebody else, who had not seen that, must
    /// have written what has it, or have moved, linked or made a file of what has it, or made it one with another. A chmod is
    /// none of those.
    pub(super) fn check_gone(&mut self, shown: &BTreeSet<Token>, dump: &str) -> Result<(), String> {
        if self.cut {
            return Ok(());
        }
        let taken = std::mem::take(&mut self.taken);
        for taken in &taken {
            let back: Vec<Token> = taken.gone.intersection(shown).copied().collect();
            if back.is_empty() {
                continue;
            }
            let Some(known) = self.known_at(&taken.by) else { continue };
            for token in back {
                if !self.is_kept(token, &known) {
                    let log: Vec<_> = self.sites[0].device.log.iter().map(|record| format!("{record:?}")).collect();
                    let log = if self.thorough { log.join("\n") } else { String::new() };
                    return Err(format!("{:?} took t{token}., and it is back, in\n{dump}{log}", taken.op));
                }
            }
        }
        self.taken = taken;
        Ok(())
    }

    /// The records that were known to who made these, with themselves.
    fn known_at(&self, by: &[RecordId]) -> Option<BTreeSet<RecordId>> {
        let (mut known, mut seen, mut stack) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for (at, change) in self.changes.iter().enumerate() {
            // What is behind them in their change was done later.
            if let Some(last) = change.records.iter().rposition(|(id, _)| by.contains(id)) {
                known.extend(change.records[..=last].iter().map(|(id, _)| *id));
                stack.push(at);
            }
        }
        if stack.is_empty() {
            return None;
        }
        while let Some(at) = stack.pop() {
            for need in self.changes[at].needs.iter().copied().filter(|need| seen.insert(*need)) {
                known.extend(self.changes[need].records.iter().map(|(id, _)| *id));
                stack.push(need);
            }
        }
        Some(known)
    }

    /// Whether somebody who did not know of these records did something that keeps a token.
    fn is_kept(&mut self, token: Token, known: &BTreeSet<RecordId>) -> bool {
        let brought: Vec<_> =
            self.brought.iter().filter(|(id, _)| !known.contains(id)).map(|(_, hash)| *hash).collect();
        if brought.iter().any(|hash| self.words(0, hash).contains(&token)) {
            return true;
        }
        let files = self.files_of(token);
        let log = &self.sites[0].device.log;
        log.iter().filter(|(id, _)| !known.contains(id)).any(|(_, record)| match record {
            Record::Place(place) => !matches!(place.state, PlaceState::Deleted { .. }) && files.contains(&place.inode),
            // Where each of two versions became a file of its own on one side, their file has none left, and shows one again.
            Record::Birth(birth) => files.contains(&birth.origin) || files.contains(&InodeId(record.subject())),
            _ => false,
        })
    }

    /// Inodes that ever had a token in them, by themselves or by what they became one with.
    fn files_of(&mut self, token: Token) -> BTreeSet<InodeId> {
        let log = self.sites[0].device.log.clone();
        let mut files = BTreeSet::new();
        let mut versions = BTreeSet::new();
        let inodes: BTreeMap<PlaceId, InodeId> = log
            .iter()
            .filter_map(|(_, record)| match record {
                Record::Place(place) => Some((place.place, place.inode)),
                Record::Birth(_) => Some((PlaceId(record.subject()), InodeId(record.subject()))),
                _ => None,
            })
            .collect();
        loop {
            let before = files.len();
            for (id, record) in &log {
                match record {
                    Record::Content(content) => {
                        let has = content.bytes.is_some_and(|bytes| self.words(0, &bytes.hash).contains(&token));
                        if has {
                            files.insert(content.inode);
                            versions.insert(*id);
                        }
                    }
                    Record::Birth(birth) if versions.contains(&birth.version) => {
                        files.insert(InodeId(record.subject()));
                    }
                    Record::Place(place) => {
                        if let PlaceState::Merged { into, .. } = place.state {
                            let both = [Some(place.inode), inodes.get(&into).copied()];
                            if both.into_iter().flatten().any(|inode| files.contains(&inode)) {
                                files.extend(both.into_iter().flatten());
                            }
                        }
                    }
                    _ => {}
                }
            }
            if files.len() == before {
                return files;
            }
        }
    }
}
