//! The paths of what was removed or moved while something else had its name, too.
//!
//! Records have the names that entries were given. What stood beside another entry was shown, and so removed or moved, under a name
//! with a suffix, which only the view knows: for these the log is read once more into one, up to each of them. It is the view of
//! this device's order of the changes; an operation whose author had not seen the other entry keeps the name of its record.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::envelope::Envelope;
use crdtfs_core::history::{Action, Contested, Event};
use crdtfs_core::id::{ChangeHash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::record::Record;
use crdtfs_core::view::{Suffixed, View};

use crate::share::{Share, ShareError};

impl Share {
    /// Gives removals and moves the paths under which their authors saw what they removed or moved. `contested`: those in
    /// question.
    pub(super) fn tell_as_shown(
        &self,
        contested: &BTreeMap<RecordId, Contested>,
        events: &mut [Event],
    ) -> Result<(), ShareError> {
        if contested.is_empty() {
            return Ok(());
        }
        let mut reading = Reading {
            contested,
            rivals: contested.values().flat_map(|contested| &contested.rivals).copied().collect(),
            made: BTreeMap::new(),
            numbers: BTreeMap::new(),
            deps: Vec::new(),
            view: View::new(),
            unread: Vec::new(),
            paths: BTreeMap::new(),
        };
        self.each_change(&mut |change| reading.take(change))?;
        for event in events {
            let shown = match event.action {
                Action::Delete => &mut event.path,
                Action::Move => event.from.get_or_insert_default(),
                Action::Create | Action::Update => continue,
            };
            if let Some(path) = reading.paths.remove(&event.version) {
                *shown = path;
            }
        }
        Ok(())
    }
}

/// The log, as far as it was read.
struct Reading<'a> {
    contested: &'a BTreeMap<RecordId, Contested>,
    rivals: BTreeSet<PlaceId>,
    /// The number of the change that made each of them.
    made: BTreeMap<PlaceId, usize>,
    /// Changes are numbered in the order of the log.
    numbers: BTreeMap<ChangeHash, usize>,
    /// What each depends on.
    deps: Vec<Vec<usize>>,
    view: View,
    /// Records that the view does not have yet.
    unread: Vec<(RecordId, Record)>,
    /// What was found out.
    paths: BTreeMap<RecordId, Vec<u8>>,
}

impl Reading<'_> {
    fn take(&mut self, change: Envelope) {
        let number = self.deps.len();
        self.deps.push(change.body.deps.iter().filter_map(|dep| self.numbers.get(dep)).copied().collect());
        self.numbers.insert(change.hash, number);
        let mut seen = None;
        for (id, record) in change.records {
            if let Record::Place(place) = &record {
                if let Some(Contested { stood, rivals }) = self.contested.get(&id) {
                    let seen = seen.get_or_insert_with(|| self.seen_by(number));
                    if rivals.iter().any(|rival| self.made.get(rival).is_some_and(|made| seen[*made])) {
                        self.view.load(&std::mem::take(&mut self.unread));
                        let path = path_of(&self.view, place.inode, stood);
                        path.into_iter().for_each(|path| _ = self.paths.entry(id).or_insert(path));
                    }
                }
                if self.rivals.contains(&place.place) {
                    self.made.entry(place.place).or_insert(number);
                }
            }
            self.unread.push((id, record));
        }
    }

    /// For each change whether the author of this one had seen it; this one itself is among them.
    fn seen_by(&self, number: usize) -> Vec<bool> {
        let mut seen = vec![false; number + 1];
        let mut left = vec![number];
        while let Some(at) = left.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                left.extend(&self.deps[at]);
            }
        }
        seen
    }
}

/// Where a view shows what stood in a directory under a name by its records.
fn path_of(view: &View, inode: InodeId, (parent, name): &(InodeId, Name)) -> Option<Vec<u8>> {
    let wanted = name.as_bytes();
    let names = view.names(inode).into_iter().filter(|(_, name)| {
        let name = name.as_bytes();
        name == wanted || Suffixed::parse(name).is_some_and(|suffixed| suffixed.is_of(wanted))
    });
    // Of several names of one file, the one in the same directory.
    let (mut dir, name) = names.max_by_key(|(dir, _)| dir == parent)?;
    let mut path = vec![name];
    while dir != InodeId::ROOT {
        let (above, name) = view.names(dir).into_iter().next()?;
        path.push(name);
        dir = above;
    }
    let names: Vec<&[u8]> = path.iter().rev().map(|name| name.as_bytes()).collect();
    Some(names.join(&b'/'))
}
