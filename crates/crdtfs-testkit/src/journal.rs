//! What one operation did on the device that did it: who was shown where before and after, and which texts.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::id::{Hash, InodeId, PlaceId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Shown};
use crdtfs_core::op::{Op, RenameMode};
use crdtfs_core::record::{PlaceState, Record};

use crate::Device;

/// An operation that was done.
pub(crate) struct Done {
    pub(crate) op: Op,
    /// Nodes that it named.
    pub(crate) named: Vec<InodeId>,
    /// The file whose text it may take away.
    pub(crate) target: Option<InodeId>,
    /// Files shown before, each with what it is shown as now and the text that it had.
    pub(crate) before: Vec<(InodeId, InodeId, Hash)>,
    /// Files shown now, and their texts.
    pub(crate) after: BTreeMap<InodeId, Hash>,
    /// The record that first names the bytes that it brought.
    pub(crate) brought: Option<(RecordId, Hash)>,
    /// Records by which it put bytes that there were under the name of another file: the end of a save.
    pub(crate) saved: Vec<(RecordId, Hash)>,
    /// Its records that can take something away: contents and deletions.
    pub(crate) taking: Vec<RecordId>,
    /// Names of the target that it says are removed: one, and those that were before.
    pub(crate) removed: Vec<PlaceId>,
    /// Names of the target that are still shown.
    pub(crate) left: Vec<PlaceId>,
    /// Files that waited for bytes.
    pub(crate) pending: BTreeSet<InodeId>,
    /// What became of entries that it did not name: not where they were, new, or with other permissions.
    pub(crate) moves: Vec<String>,
}

impl Done {
    /// Whether it may have put the text of one file under the name of another: the end of an editor's save.
    pub(crate) fn is_save(&self) -> bool {
        matches!(self.op, Op::Unlink { .. } | Op::Rename { mode: RenameMode::Replace | RenameMode::NoReplace, .. })
    }
}

/// What was shown before an operation.
pub(crate) struct Before {
    entries: Vec<(InodeId, Name, InodeId, Kind)>,
    texts: BTreeMap<InodeId, Hash>,
    /// The permissions of files.
    modes: BTreeMap<InodeId, u32>,
    /// Files that wait for bytes: what becomes of them is not decided yet, and may be while one of them is worked on.
    pending: BTreeSet<InodeId>,
    named: Vec<InodeId>,
    target: Option<InodeId>,
}

impl Before {
    pub(crate) fn of(device: &Device, op: &Op) -> Self {
        let entries = device.entries();
        let texts = texts(device, &entries);
        let child = |dir: &InodeId, name: &Name| device.view.child(*dir, name.as_bytes());
        let (mut named, mut target) = (Vec::new(), None);
        match op {
            Op::Create { .. } => {}
            Op::Edit { inode, .. } => target = device.view.node(*inode).map(|node| node.inode),
            Op::SetAttr { .. } => {}
            Op::Link { inode, .. } => named.push(*inode),
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => {
                target = child(dir, name);
                named.extend(target);
            }
            Op::Rename { from_dir, from, to_dir, to, mode } => {
                named.extend(child(from_dir, from));
                let over = child(to_dir, to);
                named.extend(over);
                target = over.filter(|_| *mode == RenameMode::Replace);
            }
        }
        let is_pending = |id: &InodeId| device.view.node(*id).is_some_and(|node| node.shown == Shown::Pending);
        let pending = texts.keys().copied().filter(is_pending).collect();
        let modes = texts.keys().filter_map(|id| Some((*id, device.view.node(*id)?.mode))).collect();
        Self { entries, texts, modes, pending, named, target }
    }

    /// `first`: where the operation's records begin in the log.
    pub(crate) fn done(self, device: &Device, op: &Op, first: usize) -> Done {
        let entries = device.entries();
        let shown = |id: InodeId| device.view.node(id).map_or(id, |node| node.inode);
        let content = match op {
            Op::Edit { content, .. } => Some(content.hash),
            Op::Create { node, .. } if node.kind == Kind::File => Some(node.content.hash),
            _ => None,
        };
        let mut brought = None;
        let (mut taking, mut saved) = (Vec::new(), Vec::new());
        let may_save = matches!(op, Op::Rename { .. } | Op::Unlink { .. });
        let mut removed = Vec::new();
        for (id, record) in &device.log[first..] {
            match record {
                Record::Content(record) => {
                    taking.push(*id);
                    if may_save && record.bytes_stamp.is_none() {
                        saved.extend(record.bytes.map(|bytes| (*id, bytes.hash)));
                    }
                    if brought.is_none() && content.is_some_and(|hash| record.bytes.is_some_and(|b| b.hash == hash)) {
                        brought = content.map(|hash| (*id, hash));
                    }
                }
                Record::Place(record) if matches!(record.state, PlaceState::Deleted { .. }) => {
                    taking.push(*id);
                    removed.push(record.place);
                }
                _ => {}
            }
        }
        let mut moves = self.moves(device, op, &entries);
        let after = texts(device, &entries);
        // What was shown as one has its own permissions each until it is made one.
        let united =
            |(_, record): &(RecordId, Record)| matches!(record, Record::Place(record) if is_merge(&record.state));
        if !device.log[first..].iter().any(united) {
            moves.extend(self.permissions(device, op, after.len()));
        }
        moves.extend(without_effect(device, op));
        Done {
            op: op.clone(),
            target: self.target,
            before: self.texts.iter().map(|(id, hash)| (*id, shown(*id), *hash)).collect(),
            after,
            brought,
            saved,
            taking,
            removed,
            left: self.target.map(|id| device.view.places(id)).unwrap_or_default(),
            moves,
            pending: self.pending,
            named: self.named,
        }
    }

    /// Files that have other permissions than before, although the operation sets none.
    fn permissions(&self, device: &Device, op: &Op, files: usize) -> Vec<String> {
        let set = match op {
            // An editor's save may bring those of the new file.
            Op::Rename { .. } | Op::Unlink { .. } => return Vec::new(),
            // A concurrent edit that left a conflict copy: the name may have another version than before.
            Op::Edit { basis: Some(_), .. } if files != self.texts.len() => return Vec::new(),
            Op::SetAttr { inode, .. } => device.view.node(*inode).map(|node| node.inode),
            _ => None,
        };
        let changed = self.modes.iter().filter_map(|(id, before)| {
            let node = device.view.node(*id)?;
            let meant = Some(node.inode) == set || self.pending.contains(id) || node.mode == *before;
            (!meant).then(|| format!("{op:?} changed the permissions of {id} from {before:o} to {:o}", node.mode))
        });
        changed.collect()
    }

    /// Entries that moved or appeared without being named.
    fn moves(&self, device: &Device, op: &Op, after: &[(InodeId, Name, InodeId, Kind)]) -> Vec<String> {
        let mut named: Vec<(InodeId, &Name)> = Vec::new();
        match op {
            Op::Create { dir, name, .. } | Op::Link { dir, name, .. } => named.push((*dir, name)),
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => named.push((*dir, name)),
            Op::Rename { from_dir, from, to_dir, to, .. } => named.extend([(*from_dir, from), (*to_dir, to)]),
            Op::Edit { .. } | Op::SetAttr { .. } => {}
        }
        // An edit of what is removed is a merge: the directories that come back with it may take names from others.
        if matches!(op, Op::Edit { basis: Some(_), .. }) && self.target.is_none() {
            return Vec::new();
        }
        let shown = |id: InodeId| device.view.node(id).map_or(id, |node| node.inode);
        let mut moves = Vec::new();
        for (dir, name, inode, _) in &self.entries {
            let now = device.view.child(*dir, name.as_bytes());
            let moved = now.is_none_or(|now| now != shown(*inode));
            if moved && !self.pending.contains(inode) && !named.contains(&(*dir, name)) {
                moves.push(format!("{op:?} moved {name:?} ({inode})"));
            }
        }
        // An edit of what was read earlier is a concurrent one: it may leave a conflict copy.
        if matches!(op, Op::Edit { basis: Some(_), .. }) {
            return moves;
        }
        let old: BTreeSet<_> = self.entries.iter().map(|(dir, name, ..)| (shown(*dir), name)).collect();
        for (dir, name, inode, _) in after {
            if !old.contains(&(*dir, name)) && !named.iter().any(|(at, it)| shown(*at) == *dir && *it == name) {
                moves.push(format!("{op:?} made {name:?} ({inode}) appear"));
            }
        }
        moves
    }
}

fn is_merge(state: &PlaceState) -> bool {
    matches!(state, PlaceState::Merged { .. })
}

fn texts(device: &Device, entries: &[(InodeId, Name, InodeId, Kind)]) -> BTreeMap<InodeId, Hash> {
    let files = entries.iter().filter(|(.., kind)| *kind == Kind::File);
    files.filter_map(|(_, _, inode, _)| Some((*inode, device.view.node(*inode)?.content.hash))).collect()
}

/// A chmod after which other permissions are shown than those that it set.
fn without_effect(device: &Device, op: &Op) -> Option<String> {
    let Op::SetAttr { inode, mode: Some(mode), .. } = op else { return None };
    let shown = device.view.node(*inode)?.mode;
    (shown != *mode).then(|| format!("{op:?} was without effect: {shown:o}"))
}
