//! What has to hold: of a device at any time, and of all when they have met.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::node::Kind;
use crdtfs_core::record::{Content, PlaceState, Record};
use crdtfs_core::view::{Problem, ProblemKind};

use super::Digest;
use super::world::{Mirror, Token, World, tokens_in};
use crate::Device;

/// Names that somebody removed who saw a token there, and those that were left.
type Removal<'w> = (BTreeSet<PlaceId>, &'w [PlaceId]);

impl World {
    /// Checks that what deltas told is what is there, and, if wanted, that a view from scratch is the same.
    pub(super) fn check_device(&mut self, at: usize, scratch: bool) -> Result<(), String> {
        let site = &mut self.sites[at];
        read_deltas(&mut site.device, &mut site.mirror)?;
        let now = read_tree(&site.device)?;
        let mirror = &mut site.mirror;
        mirror.nodes.entry(InodeId::ROOT).or_insert_with(|| now.nodes[&InodeId::ROOT].clone());
        if now.entries != mirror.entries {
            return Err(format!("deltas left out an entry: {:?} is {:?}", mirror.entries, now.entries));
        }
        if let Some((id, node)) = now.nodes.iter().find(|(id, node)| mirror.nodes.get(id) != Some(node)) {
            return Err(format!("deltas left out a node: {:?} is {node:?}", mirror.nodes.get(id)));
        }
        if let Some(id) = mirror.nodes.keys().find(|id| !now.nodes.contains_key(id)) {
            return Err(format!("deltas left a node in: {id}"));
        }
        let bytes: u64 = now.nodes.values().map(|node| node.content.size).sum();
        let totals = site.device.view.totals();
        if totals != (bytes, now.nodes.len() as u64) {
            return Err(format!("totals are {totals:?}, not {bytes} and {}", now.nodes.len()));
        }
        if scratch {
            let dump = site.device.dump();
            let fresh = scratch_dump(self.rule, &site.device, &site.device.log);
            if fresh != dump {
                return Err(format!("incremental:\n{dump}from scratch:\n{fresh}"));
            }
        }
        Ok(())
    }

    /// Checks what must hold when all devices have all.
    pub(super) fn check_end(mut self) -> Result<Digest, String> {
        let dump = self.sites[0].device.dump();
        for at in 0..self.sites.len() {
            let other = self.sites[at].device.dump();
            if other != dump {
                return Err(format!("law 1: dev0 shows\n{dump}dev{at} shows\n{other}"));
            }
        }
        self.check_device(0, true)?;
        // The order of arrival must not matter, even where it breaks causality.
        let device = &self.sites[0].device;
        let mut reversed = device.log.clone();
        reversed.reverse();
        let backwards = scratch_dump(self.rule, device, &reversed);
        if backwards != dump {
            return Err(format!("law 1: in order\n{dump}backwards\n{backwards}"));
        }
        if dump.contains("Pending") {
            return Err(format!("law 5: all bytes are here, and this waits for some:\n{dump}"));
        }
        // Half of an operation says less than its author meant.
        let half = |problem: &Problem| {
            self.cut && matches!(problem.kind, ProblemKind::NoContent | ProblemKind::ForeignReplaces)
        };
        if let Some(problem) = device.view.problems().iter().find(|problem| !half(problem)) {
            return Err(format!("operations made a bad record: {problem:?}"));
        }
        let shown = self.check_texts(&dump)?;
        self.check_gone(&shown, &dump)?;
        self.check_places(&dump)?;
        let ids: BTreeSet<RecordId> = self.sites[0].device.log.iter().map(|(id, _)| *id).collect();
        Ok(Digest(Hash::of(format!("{dump}{ids:?}").as_bytes())))
    }

    /// Law 2: what somebody wrote is there, or was taken away by those who saw it; and nothing is there twice.
    fn check_texts(&self, dump: &str) -> Result<BTreeSet<Token>, String> {
        let device = &self.sites[0].device;
        let mut shown: BTreeSet<Token> = BTreeSet::new();
        for (path, node) in device.walk().into_iter().filter(|(_, node)| node.kind == Kind::File) {
            let Some(bytes) = device.bytes(&node.content) else {
                return Err(format!("law 5: the bytes of {path} are nowhere, in\n{dump}"));
            };
            let words = tokens_in(&bytes);
            let once: BTreeSet<_> = words.iter().copied().collect();
            let twice = once.iter().any(|token| {
                words.iter().filter(|word| *word == token).count() > 1 && !self.was_cut_out(node.inode, *token)
            });
            if twice {
                return Err(format!("a merge made {path} say something twice: {words:?}, in\n{dump}"));
            }
            shown.extend(once);
        }
        let here: BTreeSet<RecordId> = device.log.iter().map(|(id, _)| *id).collect();
        let excused = self.excused(&here);
        let lost = self
            .written
            .iter()
            .find(|(token, by)| here.contains(by) && !shown.contains(token) && !excused.contains(token));
        match lost {
            Some((token, _)) => Err(format!("law 2: t{token}. is lost from\n{dump}")),
            None => Ok(shown),
        }
    }

    /// Whether a version of a file had lost a token that one before it had, as one has that was cut to nothing to be written anew.
    /// Two that go on from such a version may both bring the token with them.
    fn was_cut_out(&self, inode: InodeId, token: Token) -> bool {
        let device = &self.sites[0].device;
        let contents = device.log.iter().filter_map(|(id, record)| match record {
            Record::Content(content) => Some((*id, content)),
            _ => None,
        });
        let contents: BTreeMap<RecordId, &Content> = contents.collect();
        let says = |content: &Content| {
            let bytes = content.bytes.and_then(|bytes| device.bytes(&bytes));
            bytes.is_some_and(|bytes| tokens_in(&bytes).contains(&token))
        };
        let had_it = |content: &Content| {
            let (mut seen, mut next) = (BTreeSet::new(), content.replaces.clone());
            while let Some(id) = next.pop() {
                let Some(before) = contents.get(&id).filter(|_| seen.insert(id)) else { continue };
                if says(before) {
                    return true;
                }
                next.extend(&before.replaces);
            }
            false
        };
        let mut own = contents.values().filter(|content| content.inode == inode && content.bytes.is_some());
        own.any(|content| !says(content) && had_it(content))
    }

    /// Tokens that were taken away by who saw them: from a file altogether, or from all of its names.
    fn excused(&self, here: &BTreeSet<RecordId>) -> BTreeSet<Token> {
        let mut excused = BTreeSet::new();
        let mut by_name: BTreeMap<Token, Vec<Removal<'_>>> = BTreeMap::new();
        let classes = self.place_classes();
        let class = |place: &PlaceId| *classes.get(place).unwrap_or(place);
        for taken in self.taken.iter().filter(|taken| taken.by.iter().any(|id| here.contains(id))) {
            match &taken.names {
                None => excused.extend(&taken.tokens),
                Some((gone, left)) => {
                    let gone: BTreeSet<_> = gone.iter().map(class).collect();
                    for token in &taken.tokens {
                        by_name.entry(*token).or_default().push((gone.clone(), left));
                    }
                }
            }
        }
        for (token, mut removals) in by_name {
            // Each name that one left to the file, another took who saw the token there.
            loop {
                let gone: BTreeSet<_> = removals.iter().flat_map(|(places, _)| places).copied().collect();
                let before = removals.len();
                removals.retain(|(_, left)| left.iter().all(|place| gone.contains(&class(place))));
                if removals.len() == before {
                    break;
                }
            }
            if !removals.is_empty() {
                excused.insert(token);
            }
        }
        excused
    }

    /// Of places that were made one, each with the one that stands for it.
    fn place_classes(&self) -> BTreeMap<PlaceId, PlaceId> {
        let mut classes: BTreeMap<PlaceId, PlaceId> = BTreeMap::new();
        for (_, record) in &self.sites[0].device.log {
            let Record::Place(record) = record else { continue };
            let PlaceState::Merged { into, .. } = &record.state else { continue };
            let of = |place: &PlaceId| *classes.get(place).unwrap_or(place);
            let (a, b) = (of(&record.place), of(into));
            let (low, high) = (a.min(b), a.max(b));
            classes.values_mut().filter(|class| **class == high).for_each(|class| *class = low);
            classes.insert(high, low);
        }
        classes
    }

    /// Law 4: what nobody moved is where it was created, under its name or beside one that has it.
    fn check_places(&self, dump: &str) -> Result<(), String> {
        let device = &self.sites[0].device;
        let shown = |id: InodeId| device.view.node(id).map(|node| node.inode);
        let named: BTreeSet<_> = self.named.iter().flat_map(|id| shown(*id).into_iter().chain([*id])).collect();
        for (inode, created) in &self.created {
            if named.contains(inode) || shown(*inode) != Some(*inode) {
                continue;
            }
            let names = device.view.names(*inode);
            let stem = &created.name.to_string()[..1];
            let stays = |(dir, name): &(InodeId, _)| {
                let suffixed = |name: String| name.starts_with(stem) && name.contains("(conflict ");
                shown(created.dir) == Some(*dir)
                    && (*name == created.name || suffixed(<_ as ToString>::to_string(name)))
            };
            if !matches!(&names[..], [name] if stays(name)) {
                return Err(format!(
                    "law 4: nobody moved {} ({inode}, {}), and it is {names:?}, in\n{dump}",
                    created.name, created.by
                ));
            }
        }
        Ok(())
    }
}

/// What a view that is made at once of these records shows.
fn scratch_dump(rule: Option<crdtfs_core::view::Mutation>, like: &Device, log: &[(RecordId, Record)]) -> String {
    let mut fresh = Device::without("scratch", 0, rule);
    fresh.sync_bytes(like);
    fresh.receive(log);
    fresh.dump()
}

/// Brings the mirror up to date by what the view says that changed.
fn read_deltas(device: &mut Device, mirror: &mut Mirror) -> Result<(), String> {
    for (delta, nodes) in std::mem::take(&mut device.deltas) {
        for change in delta.entries {
            let key = (change.dir, change.name);
            if mirror.entries.get(&key).copied() != change.before {
                return Err(format!("a delta says that {key:?} was {:?}, which nobody said before", change.before));
            }
            match change.after {
                Some(after) => drop(mirror.entries.insert(key, after)),
                None => drop(mirror.entries.remove(&key)),
            }
        }
        for (change, node) in delta.nodes.iter().zip(nodes) {
            match node {
                Some(node) => drop(mirror.nodes.insert(change.inode, node)),
                None => drop(mirror.nodes.remove(&change.inode)),
            }
        }
    }
    Ok(())
}

/// The tree as it is read, checked in itself.
fn read_tree(device: &Device) -> Result<Mirror, String> {
    let mut found = Mirror::default();
    let mut links: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut stack = vec![InodeId::ROOT];
    while let Some(dir) = stack.pop() {
        let Some(node) = device.view.node(dir) else { return Err(format!("{dir} is named but not shown")) };
        let children = device.view.entries(dir, None, usize::MAX);
        let subdirs = children.iter().filter(|entry| entry.kind == Kind::Dir).count();
        if node.nlink as usize != 2 + subdirs {
            return Err(format!("directory {dir} has {} links and {subdirs} subdirectories", node.nlink));
        }
        if found.nodes.insert(dir, node).is_some() {
            return Err(format!("directory {dir} is in the tree twice"));
        }
        for entry in children {
            let child = device.view.node(entry.inode).ok_or_else(|| format!("{:?} names no node", entry.name))?;
            if child.inode != entry.inode || child.kind != entry.kind {
                return Err(format!("{:?} is {:?} and {:?}", entry.name, entry, child));
            }
            if !device.view.names(entry.inode).contains(&(dir, entry.name.clone())) {
                return Err(format!("{:?} is not among the names of its node", entry.name));
            }
            if entry.kind == Kind::Dir {
                stack.push(entry.inode);
            } else {
                *links.entry(entry.inode).or_default() += 1;
                found.nodes.insert(entry.inode, child);
            }
            found.entries.insert((dir, entry.name), entry.inode);
        }
    }
    match links.into_iter().find(|(id, count)| found.nodes[id].nlink != *count) {
        Some((id, count)) => Err(format!("{id} is shown {count} times and says {}", found.nodes[&id].nlink)),
        None => Ok(found),
    }
}
