//! Directories and symlinks that have other numbers and are the same: they were copied, put back from a backup, moved to
//! a bigger disk, or lie where numbers do not last.
//!
//! A directory at the place of a known one is that one, with another number, if the known one's number is nowhere else in
//! the folder; else that was moved, and this is new. So is a symlink with the target that the known one has. (Of files the
//! bytes tell: `local`.) Nothing is published for a number, and what lies in such a directory is compared entry by entry,
//! as in any. What is nowhere is known only once all was seen: until then each is looked into as if it were new.

use std::collections::{BTreeSet, HashMap};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;

use crate::ignores::is_parked;
use crate::observe::{Found, Observation, Observer};
use crate::synced::Place;

/// What is known of what was seen, when all was seen.
pub(crate) struct Overview<'a> {
    /// Directories that may be others than they seem: new ones, since whose discovery what happened meanwhile was seen, too.
    pub(crate) new: &'a [InodeId],
    /// Of the new directories that were listed: names there of which nothing is said (ignored, another filesystem's).
    pub(crate) passed: &'a HashMap<InodeId, BTreeSet<Name>>,
    /// Everything in the folder was looked at.
    pub(crate) all: bool,
}

/// How often nodes of the last synced tree were found.
#[derive(Default)]
struct Counts(HashMap<InodeId, usize>);

impl Counts {
    fn add(&mut self, id: InodeId) {
        *self.0.entry(id).or_default() += 1;
    }

    fn take(&mut self, id: InodeId) {
        self.0.entry(id).and_modify(|count| *count = count.saturating_sub(1));
    }

    fn is_found(&self, id: InodeId) -> bool {
        self.0.get(&id).is_some_and(|count| *count > 0)
    }
}

impl Observer<'_> {
    /// Tells what is known by another number.
    pub(crate) fn recognise(&mut self, obs: &mut Observation, seen: &Overview<'_>) {
        let is_new_symlink = |found: &Found| found.kind == Kind::Symlink && !found.known;
        if seen.new.is_empty() && !obs.places.values().flatten().any(is_new_symlink) {
            return;
        }
        let mut counts = Counts::default();
        for found in obs.places.values().flatten().filter(|found| found.known) {
            counts.add(found.id);
        }
        let mut is = HashMap::new();
        let mut new = seen.new.to_vec();
        loop {
            let before = is.len();
            new.retain(|dir| {
                let known = self.known_there(*dir, obs, &counts, seen.all);
                if let Some(known) = known {
                    self.take_for(*dir, known, obs, &mut counts, seen.passed);
                    is.insert(*dir, known);
                }
                known.is_none()
            });
            // What lies in one that is known now may be so, too.
            if is.len() == before {
                break;
            }
        }
        if !is.is_empty() {
            obs.new_dirs.retain(|dir| !is.contains_key(dir));
            let written = obs.written.iter_mut();
            for place in written.chain(obs.respelled.iter_mut().flat_map(|(asked, real)| [asked, real])) {
                place.0 = is.get(&place.0).copied().unwrap_or(place.0);
            }
        }
        self.recognise_symlinks(obs, &counts);
    }

    /// The directory of the last synced tree that one which seems new is.
    fn known_there(&self, new: InodeId, obs: &Observation, counts: &Counts, all: bool) -> Option<InodeId> {
        let place = obs.moved.get(&new)?;
        let found = obs.places.get(place)?.as_ref().filter(|found| found.id == new)?;
        let known = self.synced.child(place).filter(|id| self.synced.is_dir(*id) && !counts.is_found(*id))?;
        // Where not all was looked at, the kernel knows: a watch ends with its directory.
        let is_gone = all || !self.watcher.has(known);
        // The last run published it in the place of the other, and ended before it saved that.
        let is_other = self.synced.was_made(&found.stamp.ident);
        (is_gone && !is_other).then_some(known)
    }

    /// What was seen of a directory was seen of one that is known.
    fn take_for(
        &mut self,
        new: InodeId,
        known: InodeId,
        obs: &mut Observation,
        counts: &mut Counts,
        passed: &HashMap<InodeId, BTreeSet<Name>>,
    ) {
        let found = obs.moved.remove(&new).and_then(|place| obs.places.get_mut(&place)?.as_mut());
        let Some(found) = found else { return };
        (found.id, found.known) = (known, true);
        obs.renumbered.push((known, found.stamp.ident));
        self.watcher.remove(known);
        self.watcher.rekey(new, known);
        counts.add(known);
        // What lay in it before it went, and was seen in time to be looked at.
        for (_, found) in take_entries(obs, known) {
            found.into_iter().for_each(|found| counts.take(found.id));
        }
        for (name, found) in take_entries(obs, new) {
            self.enter((known, name), found, obs, counts);
        }
        let Some((passed, path)) = passed.get(&new).zip(obs.path(self.synced, known)) else { return };
        for (name, inode) in self.synced.children(known) {
            let is_there = is_parked(name) || passed.contains(name);
            if !is_there && !self.ignores.ignored(&path, name, self.synced.is_dir(inode)) {
                obs.places.entry((known, name.clone())).or_default();
            }
        }
    }

    /// An entry is at this place, and not where it was seen.
    fn enter(&self, place: Place, mut found: Option<Found>, obs: &mut Observation, counts: &mut Counts) {
        if let Some(found) = &mut found {
            if found.kind == Kind::Dir {
                if self.synced.child(&place) == Some(found.id) {
                    obs.moved.remove(&found.id);
                } else {
                    obs.moved.insert(found.id, place.clone());
                }
            } else if !found.known
                && let Some(id) = self.by_name(&place, found.kind, &found.stamp)
            {
                (found.id, found.known) = (id, true);
                counts.add(id);
            }
        }
        obs.places.insert(place, found);
    }

    fn recognise_symlinks(&self, obs: &mut Observation, counts: &Counts) {
        for (place, found) in &mut obs.places {
            let Some(found) = found.as_mut().filter(|found| found.kind == Kind::Symlink && !found.known) else {
                continue;
            };
            let Some(known) = self.synced.child(place).filter(|id| !counts.is_found(*id)) else { continue };
            if self.synced.node(known).is_some_and(|is| is.kind == Kind::Symlink && *is.target == *found.target) {
                (found.id, found.known) = (known, true);
            }
        }
    }
}

/// Takes out what was seen in a directory.
fn take_entries(obs: &mut Observation, dir: InodeId) -> Vec<(Name, Option<Found>)> {
    let least = Name::new(&[1]).expect("one byte, no separator");
    let entries = obs.places.range((dir, least)..).take_while(|((at, _), _)| *at == dir);
    let places: Vec<Place> = entries.map(|(place, _)| place.clone()).collect();
    let entries = places.into_iter().filter_map(|place| obs.places.remove(&place).map(|found| (place.1, found)));
    entries.collect()
}
