//! What happened in a share, read from its log: the tree as it was.

mod as_shown;

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::document::Schema;
use crdtfs_core::envelope::{Envelope, Trust};
use crdtfs_core::history::{self, History, Stamp};
use crdtfs_core::id::{ChangeHash, DeviceId, InodeId, RecordId};
use crdtfs_core::node::Kind;
use crdtfs_core::record::Record;
use crdtfs_core::view::{Suffixed, View};
use crdtfs_store::{LogEntry, Urgency};

use crate::share::{Share, ShareError};

/// A path as it would be if everything on it had the name that it was to have, and the version that its name tells of.
///
/// Records have the names that entries were given; the suffixes of what stood beside another entry are the view's.
pub(crate) struct Unsuffixed<'a> {
    names: Vec<(&'a [u8], Option<Suffixed<'a>>)>,
}

impl<'a> Unsuffixed<'a> {
    /// `None` if no name of the path has a suffix.
    pub(crate) fn parse(path: &'a [u8]) -> Option<Self> {
        let names: Vec<_> = path.split(|byte| *byte == b'/').map(|name| (name, Suffixed::parse(name))).collect();
        if names.iter().all(|(_, suffixed)| suffixed.is_none()) {
            return None;
        }
        Some(Self { names })
    }

    /// Whether this is the path without suffixes.
    pub(crate) fn is_of(&self, path: &[u8]) -> bool {
        let mut wanted = path.split(|byte| *byte == b'/');
        let all = self.names.iter().all(|(name, suffixed)| {
            let of = |wanted: &[u8]| suffixed.as_ref().map_or(wanted == *name, |suffixed| suffixed.is_of(wanted));
            wanted.next().is_some_and(of)
        });
        all && wanted.next().is_none()
    }

    /// What a view has at the path without suffixes.
    pub(crate) fn walk(&self, view: &View) -> Option<InodeId> {
        self.names.iter().try_fold(InodeId::ROOT, |at, (name, suffixed)| {
            let Some(suffixed) = suffixed else { return view.child(at, name) };
            let cut = || {
                let mut entries = view.entries(at, None, usize::MAX).into_iter();
                entries.find(|entry| suffixed.is_of(entry.name.as_bytes())).map(|entry| entry.inode)
            };
            view.child(at, &suffixed.base).or_else(cut)
        })
    }

    /// The suffix of the last name.
    fn last(&self) -> Option<&Suffixed<'a>> {
        self.names.last()?.1.as_ref()
    }

    /// Whether the last name is that of a conflict copy, and of this version.
    pub(crate) fn tells_of(&self, event: &history::Event) -> bool {
        self.last()
            .is_some_and(|last| last.device == event.device_name && event.version.to_string().starts_with(last.digits))
    }

    /// The last removal of what may have stood under this name, from the end.
    fn removals<'e>(&'e self, events: &'e [history::Event]) -> impl Iterator<Item = &'e history::Event> {
        let made: BTreeSet<_> = events.iter().filter(|event| self.tells_of(event)).map(|event| event.inode).collect();
        let removals = events.iter().rev().filter(|event| event.action == history::Action::Delete);
        removals.filter(move |event| self.is_of(&event.path) && (self.last().is_none() || made.contains(&event.inode)))
    }
}

/// One change of the past.
struct Change {
    hash: ChangeHash,
    deps: Vec<ChangeHash>,
    device: DeviceId,
    time_ms: i64,
    records: Vec<(RecordId, Record)>,
}

/// All changes of a share, in a causal order.
pub(crate) struct Past {
    changes: Vec<Change>,
    /// What they did.
    pub(crate) events: Vec<history::Event>,
}

/// A point of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Right before a record.
    Before(RecordId),
    /// Right after it.
    After(RecordId),
    /// All that was done up to then by the clocks of those who did it, in milliseconds since 1970, and all that they had
    /// seen when they did it, whatever the clocks say.
    At(i64),
}

impl Share {
    /// Calls `each` with every change of the log that counts.
    fn each_change(&self, each: &mut dyn FnMut(Envelope)) -> Result<(), ShareError> {
        self.each_wanted(0, &mut |_, _| true, each)
    }

    /// Calls `each` with the changes of the log that count and are wanted by their place in it, from the `from`-th on.
    pub(crate) fn each_wanted(
        &self,
        from: u64,
        wanted: &mut dyn FnMut(u64, &LogEntry) -> bool,
        each: &mut dyn FnMut(Envelope),
    ) -> Result<(), ShareError> {
        let schema = Schema::new(&self.id());
        let mut unread = None;
        let mut place = from;
        self.log().for_each(from, &mut |entry| {
            place += 1;
            if !wanted(place - 1, &entry) {
                return true;
            }
            match Envelope::decode(&self.id(), &schema, &entry.bytes, Trust::Stored) {
                // One that lost against another of its number is told no more.
                Ok(envelope) if !self.read(|replica| replica.chains().knows(&envelope.hash)) => {}
                Ok(envelope) => each(envelope),
                Err(error) => unread = Some(error.to_string()),
            }
            true
        })?;
        match unread {
            Some(reason) => Err(ShareError::Damaged { share: self.id(), reason }),
            None => Ok(()),
        }
    }

    /// All that happened, by the log.
    pub(crate) fn history(&self) -> Result<Vec<history::Event>, ShareError> {
        self.commit_all();
        let mut history = History::default();
        self.each_change(&mut |change| {
            let stamp = Stamp { device: change.device, time_ms: change.body.time_ms };
            change.records.iter().for_each(|(id, record)| history.take(stamp, *id, record));
        })?;
        self.told(history)
    }

    /// What a history tells, by the names that people saw.
    fn told(&self, mut history: History) -> Result<Vec<history::Event>, ShareError> {
        let contested = history.take_contested();
        let mut events = history.into_events();
        self.tell_as_shown(&contested, &mut events)?;
        Ok(events)
    }

    /// Who made these records, and when.
    pub(crate) fn stamps(&self, wanted: &BTreeSet<RecordId>) -> Result<BTreeMap<RecordId, Stamp>, ShareError> {
        self.commit_all();
        let mut stamps = BTreeMap::new();
        self.each_change(&mut |change| {
            let stamp = Stamp { device: change.device, time_ms: change.body.time_ms };
            let found = change.records.iter().map(|(id, _)| *id).filter(|id| wanted.contains(id));
            for id in found {
                // A record may be in several changes, published again: the first made it.
                stamps.entry(id).or_insert(stamp);
            }
        })?;
        Ok(stamps)
    }

    /// Reads all that happened.
    pub(crate) fn past(&self) -> Result<Past, ShareError> {
        self.commit_all();
        let mut history = History::default();
        let mut changes = Vec::new();
        self.each_change(&mut |change| {
            let stamp = Stamp { device: change.device, time_ms: change.body.time_ms };
            change.records.iter().for_each(|(id, record)| history.take(stamp, *id, record));
            changes.push(Change {
                hash: change.hash,
                deps: change.body.deps,
                device: change.device,
                time_ms: change.body.time_ms,
                records: change.records,
            });
        })?;
        Ok(Past { changes, events: self.told(history)? })
    }

    /// Gives a view of the past the bytes that its merges need, as far as they can be had; what it merged is kept here.
    pub(crate) fn complete(&self, view: &mut View, fetch: bool) {
        loop {
            let mut supplied = false;
            for content in view.wanted() {
                if !fetch && !self.store().is_local(&content) {
                    continue;
                }
                match self.content().read_all(&content, Urgency::Read) {
                    Ok(bytes) => {
                        view.supply(content.hash, bytes.into());
                        supplied = true;
                    }
                    Err(error) => tracing::debug!(content = %content.hash, %error, "a merge of the past lacks bytes"),
                }
            }
            if !supplied {
                return;
            }
        }
    }
}

impl Past {
    /// The tree at a moment; merges that need bytes are undecided.
    pub(crate) fn view(&self, moment: Moment) -> View {
        let mut view = View::new();
        view.load(&self.records(moment));
        view
    }

    fn records(&self, moment: Moment) -> Vec<(RecordId, Record)> {
        match moment {
            Moment::At(time_ms) => {
                let included = self.up_to(time_ms);
                let changes = self.changes.iter().zip(included).filter(|(_, included)| *included);
                changes.flat_map(|(change, _)| change.records.iter().cloned()).collect()
            }
            Moment::Before(id) | Moment::After(id) => {
                let all = self.changes.iter().flat_map(|change| &change.records);
                let mut before: Vec<_> = all.clone().take_while(|(record, _)| *record != id).cloned().collect();
                if let Moment::After(_) = moment {
                    before.extend(all.filter(|(record, _)| *record == id).take(1).cloned());
                }
                before
            }
        }
    }

    /// For each change whether it was made by then, or was seen by somebody who made one by then.
    fn up_to(&self, time_ms: i64) -> Vec<bool> {
        let mut seen: BTreeSet<ChangeHash> = BTreeSet::new();
        let mut included = vec![false; self.changes.len()];
        for (change, included) in self.changes.iter().zip(&mut included).rev() {
            if change.time_ms <= time_ms || seen.contains(&change.hash) {
                *included = true;
                seen.extend(&change.deps);
            }
        }
        included
    }

    /// The records of the deletions that went on without a pause up to this one, by the same device, at or below the same
    /// path: what `rm -r` made of a directory. The first of them.
    pub(crate) fn first_of_removal(&self, last: &history::Event, path: &[u8]) -> RecordId {
        /// A pause longer than this (by the clock of who removed it) is between two removals.
        const PAUSE_MS: i64 = 60_000;
        let mut first = last;
        let until = self.events.iter().position(|event| event.version == last.version).unwrap_or(0);
        for event in self.events[..until].iter().rev() {
            if event.device != last.device || !event.concerns(path) {
                continue;
            }
            if event.action != history::Action::Delete || first.time_ms.saturating_sub(event.time_ms) > PAUSE_MS {
                break;
            }
            first = event;
        }
        first.version
    }

    /// The moment before a path was removed, and the inode that it named.
    pub(crate) fn removed(&self, path: &[u8]) -> Option<(Moment, InodeId)> {
        let before = |event: &history::Event| match event.kind {
            Kind::Dir => Moment::Before(self.first_of_removal(event, &event.path)),
            _ => Moment::Before(event.version),
        };
        let of_it = |event: &&history::Event| event.action == history::Action::Delete && event.path == path;
        if let Some(event) = self.events.iter().rev().find(of_it) {
            return Some((before(event), event.inode));
        }
        // It stood beside another entry: whether under this name, the view of then tells.
        let unsuffixed = Unsuffixed::parse(path)?;
        let stood = |event: &history::Event| {
            let moment = before(event);
            (walk(&self.view(moment), path) == Some(event.inode)).then_some((moment, event.inode))
        };
        unsuffixed.removals(&self.events).find_map(stood)
    }

    /// The device that made a content first.
    pub(crate) fn author_of(&self, content: &crdtfs_core::content::ContentRef) -> Option<DeviceId> {
        let made = |change: &&Change| {
            change.records.iter().any(|(_, record)| {
                matches!(record, Record::Content(of) if of.bytes.is_some_and(|bytes| bytes.hash == content.hash))
            })
        };
        self.changes.iter().find(made).map(|change| change.device)
    }

    /// A record.
    pub(crate) fn record(&self, id: &RecordId) -> Option<&Record> {
        let mut all = self.changes.iter().flat_map(|change| &change.records);
        all.find(|(record, _)| record == id).map(|(_, record)| record)
    }
}

/// The versions of what was removed at a path, under whatever names it had, until it was.
///
/// Of a file that had another name then, too, what was done to it later is not among them.
pub(crate) fn removed_at(events: &[history::Event], path: &[u8]) -> BTreeSet<RecordId> {
    let mut removed = BTreeSet::new();
    let mut versions = BTreeSet::new();
    for event in events.iter().rev() {
        if event.action == history::Action::Delete && event.path == path {
            removed.insert(event.inode);
        }
        if removed.contains(&event.inode) {
            versions.insert(event.version);
        }
    }
    versions
}

/// The inode at a path of a view.
pub(crate) fn walk(view: &View, path: &[u8]) -> Option<InodeId> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.into_iter().try_fold(InodeId::ROOT, |at, name| view.child(at, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(hash: u8, deps: &[u8], time_ms: i64) -> Change {
        let of = |byte: &u8| ChangeHash([*byte; 32]);
        Change {
            hash: of(&hash),
            deps: deps.iter().map(of).collect(),
            device: DeviceId([1; 32]),
            time_ms,
            records: Vec::new(),
        }
    }

    #[test]
    fn what_somebody_had_seen_was_there_whatever_its_authors_clock_says() {
        // The second was made by a device whose clock is fast; the third had seen it, the fourth had not.
        let changes = vec![change(1, &[], 10), change(2, &[1], 500), change(3, &[2], 20), change(4, &[1], 30)];
        let past = Past { changes, events: Vec::new() };
        assert_eq!(past.up_to(9), [false, false, false, false]);
        assert_eq!(past.up_to(10), [true, false, false, false]);
        assert_eq!(past.up_to(25), [true, true, true, false]);
        assert_eq!(past.up_to(30), [true, true, true, true]);
        let past = Past { changes: vec![change(1, &[], 10), change(2, &[1], 500)], events: Vec::new() };
        assert_eq!(past.up_to(499), [true, false], "nobody had seen it");
    }

    fn event(version: u8, device: u8, action: history::Action, path: &str, time_ms: i64) -> history::Event {
        history::Event {
            time_ms,
            device: DeviceId([device; 32]),
            device_name: String::new(),
            action,
            inode: InodeId([version; 16]),
            kind: Kind::File,
            path: path.into(),
            from: None,
            content: None,
            version: RecordId([version; 16]),
        }
    }

    #[test]
    fn a_path_is_known_by_the_names_that_were_wanted_also_where_they_were_cut() {
        let dir = "d".repeat(255);
        let shown = format!("{} (conflict lap 12345678)/e/f (conflict lap 0b000000).txt", &dir[..231]);
        let unsuffixed = Unsuffixed::parse(shown.as_bytes()).expect("suffixed");
        assert!(unsuffixed.is_of(format!("{dir}/e/f.txt").as_bytes()));
        for other in [
            format!("{dir}/e"),
            format!("{dir}/e/f.txt/g"),
            format!("{dir}/x/f.txt"),
            "d/e/f.txt".into(),
            shown.clone(),
        ] {
            assert!(!unsuffixed.is_of(other.as_bytes()), "{other}");
        }
        assert!(Unsuffixed::parse(b"d/e/f.txt").is_none());
    }

    #[test]
    fn what_was_removed_at_a_path_is_known_by_its_earlier_names_and_not_by_what_its_other_names_became() {
        use history::Action::{Create, Delete, Move, Update};
        let of = |inode: u8, version: u8, action: history::Action, path: &str| history::Event {
            inode: InodeId([inode; 16]),
            ..event(version, 1, action, path, 0)
        };
        let events = vec![
            of(1, 1, Create, "f"),
            of(2, 2, Create, "other"),
            of(1, 3, Update, "f"),
            of(1, 4, Move, "d/g"),
            of(1, 5, Delete, "d/g"),
            // Brought back, removed again.
            of(3, 6, Create, "d/g"),
            of(3, 7, Delete, "d/g"),
            // One of two names of a file, the other of which goes on.
            of(4, 8, Create, "one"),
            of(4, 9, Create, "d/g"),
            of(4, 10, Delete, "d/g"),
            of(4, 11, Update, "one"),
            // It was there, and is elsewhere.
            of(2, 12, Move, "d/g"),
            of(2, 13, Move, "other"),
            of(5, 14, Delete, "d/g/below"),
        ];
        let removed = |path: &[u8]| removed_at(&events, path).into_iter().map(|id| id.0[0]).collect::<Vec<_>>();
        assert_eq!(removed(b"d/g"), [1, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(removed(b"f"), [0; 0], "it was removed under another name");
    }

    #[test]
    fn one_removal_is_what_one_device_removed_without_a_pause() {
        use history::Action::{Delete, Update};
        let events = vec![
            event(1, 1, Delete, "d/long-ago", 0),
            event(2, 1, Update, "d/a", 100_000),
            event(3, 1, Delete, "d/a", 200_000),
            event(4, 2, Update, "d/b", 200_001),
            event(5, 1, Delete, "elsewhere", 200_002),
            event(6, 1, Delete, "d/b", 250_000),
            event(7, 1, Delete, "d", 250_001),
        ];
        let past = Past { changes: Vec::new(), events };
        let first = |last: usize| past.first_of_removal(&past.events[last], b"d");
        assert_eq!(first(6), RecordId([3; 16]), "what others did and what is elsewhere is passed over");
        assert_eq!(first(2), RecordId([3; 16]), "an edit is no part of a removal");
        assert_eq!(first(0), RecordId([1; 16]));
        // The pause between the first two is too long.
        let events =
            vec![event(1, 1, Delete, "d/x", 0), event(2, 1, Delete, "d/y", 60_001), event(3, 1, Delete, "d", 60_002)];
        let past = Past { changes: Vec::new(), events };
        assert_eq!(past.first_of_removal(&past.events[2], b"d"), RecordId([2; 16]));
    }
}
