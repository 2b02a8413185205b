//! Operations become records. Checks come first and change nothing; then the records are made and added one by one, what
//! has to be written down before the operation itself first: merges of what is shown as one, promotions of conflict
//! copies, the life of directories.

use std::collections::BTreeSet;

use super::arena::{Claimant, NodeEval, NodeIx, PlaceIx, RecIx};
use super::mutation::Mutation;
use super::record_of::NewPosition;
use super::{Author, Outcome, View};
use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::{Kind, Owner, Time, Xattrs};
use crate::op::{NewNode, Op, OpError, RenameMode};
use crate::record::{self, Content, Place, PlaceState, Record};

/// One operation under way.
pub(super) struct Planner<'v> {
    pub(super) view: &'v mut View,
    pub(super) device: String,
    pub(super) now_ms: u64,
    pub(super) records: Vec<(RecordId, Record)>,
    pub(super) encoded: Vec<(RecordId, Vec<u8>)>,
    /// The entries that the operation names: nothing else may move.
    pub(super) named: BTreeSet<(InodeId, Name)>,
    /// It was done apart from what came meanwhile: what moves is moved by that, as if it came from elsewhere.
    apart: bool,
}

impl View {
    pub(super) fn plan(&mut self, op: &Op, author: &Author<'_>) -> Result<Outcome, OpError> {
        let mut planner = Planner {
            device: record::clean_device_name(author.device),
            now_ms: author.now_ms,
            records: Vec::new(),
            encoded: Vec::new(),
            named: BTreeSet::new(),
            apart: false,
            view: self,
        };
        let done = planner.operate(op);
        if done.is_err() {
            // It moves nothing, then.
            planner.named.clear();
        }
        if planner.apart {
            planner.view.update();
        } else if done.is_ok() || !planner.records.is_empty() {
            planner.settle();
        }
        let (records, encoded) = (planner.records, planner.encoded);
        // An operation that turned out to be impossible after it had settled what its entries are: that stands.
        self.begun.extend(encoded);
        done?;
        self.note_local(op, author.now_ms, &records);
        Ok(self.take_begun())
    }
}

/// An entry that an operation is on.
#[derive(Clone)]
struct Target {
    inode: InodeId,
    kind: Kind,
    claimant: Claimant,
}

impl Planner<'_> {
    fn operate(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::Create { dir, name, inode, place, node, beside } => {
                self.create((*dir, name), *inode, *place, node, *beside)
            }
            Op::Edit { inode, via, basis, content, mtime } => {
                self.edit(*inode, via.as_ref(), basis.as_deref(), content, *mtime)
            }
            Op::SetAttr { inode, mode, owner, mtime, xattrs } => {
                self.set_attr(*inode, *mode, *owner, *mtime, xattrs.as_ref())
            }
            Op::Rename { from_dir, from, to_dir, to, mode } => self.rename(*from_dir, from, *to_dir, to, *mode),
            Op::Link { inode, dir, name, place } => self.link(*inode, *dir, name, *place),
            Op::Unlink { dir, name } => self.remove(*dir, name, false),
            Op::Rmdir { dir, name } => self.remove(*dir, name, true),
        }
    }

    /// Adds a record that is not known yet, or does not count as it is.
    pub(super) fn emit(&mut self, record: &Record) -> RecordId {
        let bytes = record.encode();
        let id = RecordId::of(&bytes);
        let masked = self.view.unmask(&id);
        if masked || !self.view.index.contains_key(&id) {
            self.view.ingest(id, record);
            self.records.push((id, record.clone()));
            self.encoded.push((id, bytes));
        }
        id
    }

    /// A shown directory.
    fn dir(&self, id: InodeId) -> Result<NodeIx, OpError> {
        let node = self.view.node(id).ok_or(OpError::NotFound)?;
        if node.kind != Kind::Dir {
            return Err(OpError::NotDir);
        }
        Ok(self.view.node_index[&node.inode])
    }

    fn target(&self, dir: NodeIx, name: &Name) -> Option<Target> {
        let (inode, claimant) = self.view.lookup(dir, name.as_bytes())?;
        let kind = self.view.node(inode)?.kind;
        Some(Target { inode, kind, claimant })
    }

    fn name_entry(&mut self, dir: NodeIx, name: &Name) {
        self.named.insert((self.view.nodes[dir.at()].id, name.clone()));
    }

    fn create(
        &mut self,
        (dir, name): (InodeId, &Name),
        inode: InodeId,
        place: PlaceId,
        node: &NewNode,
        beside: Option<InodeId>,
    ) -> Result<(), OpError> {
        let dir = self.dir(dir)?;
        let taken = self.view.lookup(dir, name.as_bytes()).map(|(inode, _)| inode);
        if taken.is_some() && taken != beside {
            return Err(OpError::Exists);
        }
        if self.is_known(inode, place) || node.mode > 0o7777 {
            return Err(OpError::Invalid);
        }
        let file = node.kind == Kind::File;
        let content = Record::Content(Content {
            inode,
            via: place,
            device: self.device.clone(),
            bytes: file.then_some(node.content),
            bytes_stamp: None,
            mode: node.mode,
            mode_stamp: None,
            owner: node.owner,
            owner_stamp: None,
            mtime: node.mtime,
            mtime_stamp: None,
            xattrs: node.xattrs.clone(),
            xattrs_stamp: None,
            target: (node.kind == Kind::Symlink).then(|| node.target.clone()),
            rdev: (node.rdev != 0).then_some(node.rdev),
            replaces: Vec::new(),
            saw: Vec::new(),
        });
        check_size(&content)?;
        self.name_entry(dir, name);
        self.revive_dir(dir);
        let parent = self.view.nodes[dir.at()].id;
        self.emit(&Record::Place(self.new_place(place, inode, node.kind, parent, name)));
        self.emit(&content);
        if file && taken.is_none() {
            self.save_anew(inode, dir, name);
        }
        Ok(())
    }

    fn is_known(&self, inode: InodeId, place: PlaceId) -> bool {
        let node = self.view.node_index.get(&inode).map(|ix| &self.view.nodes[ix.at()]);
        node.is_some_and(|node| node.kind.is_some() || !node.recs.is_empty())
            || inode == InodeId::ROOT
            || self.view.copies.contains_key(&inode)
            || self.view.place_index.get(&place).is_some_and(|ix| !self.view.places[ix.at()].recs.is_empty())
    }

    fn new_place(&self, place: PlaceId, inode: InodeId, kind: Kind, parent: InodeId, name: &Name) -> Place {
        Place {
            place,
            inode,
            kind,
            parent,
            parent_stamp: None,
            name: name.clone(),
            name_stamp: None,
            device: self.device.clone(),
            state: PlaceState::Live,
            replaces: Vec::new(),
            saw: Vec::new(),
        }
    }

    /// The inode that an operation is on, promoted if it is a conflict copy, merged with all that it is shown as one
    /// with.
    pub(super) fn own(&mut self, inode: InodeId) -> Result<NodeIx, OpError> {
        self.promote(inode);
        self.view.update();
        let node = self.view.node(inode).ok_or(OpError::NotFound)?.inode;
        let node = self.view.node_index[&node];
        if node == NodeIx::ROOT {
            return Err(OpError::NotPermitted);
        }
        self.merge_united(node);
        self.view.update();
        let inode = self.view.nodes[self.view.home(node).at()].id;
        Ok(self.view.node_index[&inode])
    }

    /// The place written through: the one named, if it shows the node, else its first.
    fn via(&self, node: NodeIx, named: Option<&(InodeId, Name)>) -> Option<PlaceIx> {
        let named = named.and_then(|(dir, name)| {
            let dir = self.view.home(*self.view.node_index.get(dir)?);
            match self.view.lookup(dir, name.as_bytes())?.1 {
                Claimant::Place(place) if self.view.node_of(place) == Some(node) => Some(place),
                _ => None,
            }
        });
        named.or_else(|| self.view.shown_places(node).first().copied())
    }

    fn edit(
        &mut self,
        inode: InodeId,
        via: Option<&(InodeId, Name)>,
        basis: Option<&[RecordId]>,
        content: &ContentRef,
        mtime: Time,
    ) -> Result<(), OpError> {
        let Some(shown) = self.view.node(inode) else {
            return self.edit_removed(inode, basis.ok_or(OpError::NotFound)?, content, mtime);
        };
        match shown.kind {
            Kind::File => {}
            Kind::Dir => return Err(OpError::IsDir),
            _ => return Err(OpError::Invalid),
        }
        let node = self.own(inode)?;
        self.leave_copies_of(node);
        self.view.update();
        let outdated = basis.and_then(|basis| self.outdated(node, basis));
        let replaces = outdated.unwrap_or_else(|| self.settled_heads(node));
        let place = self.via(node, via).ok_or(OpError::NotFound)?;
        let mut record = self.view.content_record(node, place, &self.device, &replaces);
        record.saw = self.view.left_beside(node, &replaces);
        (record.bytes, record.bytes_stamp) = (Some(*content), None);
        (record.mtime, record.mtime_stamp) = (mtime, None);
        self.pin_equals(node, content);
        self.emit(&Record::Content(record));
        self.pin_suffixed(node);
        Ok(())
    }

    /// An edit by an author who had the file open when it was removed elsewhere: as if they had been apart, it outlives the removal,
    /// which had not seen it.
    fn edit_removed(
        &mut self,
        inode: InodeId,
        basis: &[RecordId],
        content: &ContentRef,
        mtime: Time,
    ) -> Result<(), OpError> {
        let node = *self.view.node_index.get(&inode).ok_or(OpError::NotFound)?;
        let class = self.view.home(node);
        if self.view.nodes[class.at()].kind != Some(Kind::File) {
            return Err(OpError::NotFound);
        }
        let mut settled = self.basis_of(class, basis);
        settled.extend(self.made_into(class, &settled, self.view.content_heads(class)));
        let last = settled.last().copied().ok_or(OpError::NotFound)?;
        let via = self.view.content_rec(last).ok_or(OpError::NotFound)?.via;
        let mut record = self.view.content_record(class, via, &self.device, &settled);
        self.view.copy_fields(&mut record, [last; 5]);
        (record.bytes, record.bytes_stamp) = (Some(*content), None);
        (record.mtime, record.mtime_stamp) = (mtime, None);
        self.emit(&Record::Content(record));
        self.apart = true;
        Ok(())
    }

    /// If what is shown holds versions that an author with this basis had not seen: the records of the basis, which are
    /// all that its edit settles.
    fn outdated(&self, node: NodeIx, basis: &[RecordId]) -> Option<Vec<RecIx>> {
        let mut settled = self.basis_of(node, basis);
        let shown = self.view.shown_heads(node);
        let all = shown.len();
        let is_outdated = self.made_into(node, &settled, shown).len() < all;
        settled.extend(self.made_into(node, &settled, self.settled_heads(node)));
        is_outdated.then_some(settled)
    }

    /// The records of a basis as records of a node.
    fn basis_of(&self, node: NodeIx, basis: &[RecordId]) -> Vec<RecIx> {
        let known = basis.iter().filter_map(|id| self.view.index.get(id)).copied();
        known.filter_map(|ix| self.view.as_own(node, ix)).collect()
    }

    /// Those of `heads` that are settled with a basis: what it was made from may have been merged or chmodded since, or removed
    /// with what was set on it.
    fn made_into(&self, node: NodeIx, basis: &[RecIx], mut heads: Vec<RecIx>) -> Vec<RecIx> {
        let versions: Vec<_> = basis.iter().map(|ix| self.view.version_of(*ix)).collect();
        let equals = self.view.equals(node);
        heads.retain(|head| self.view.is_one_made_of(&versions, self.view.version_of(*head), &equals));
        heads
    }

    /// Heads that an edit of what is shown settles: also those that a deletion had seen, of a file that came back. What is shown
    /// beside it is not among them.
    pub(super) fn settled_heads(&self, node: NodeIx) -> Vec<RecIx> {
        match &self.view.nodes[node.at()].eval {
            NodeEval::Many(many) if many.revived.is_some() => {
                let beside = |head: &RecIx| many.copies.iter().any(|copy| copy.heads.contains(head));
                let mut heads = self.view.content_heads(node);
                heads.retain(|head| !beside(head));
                heads
            }
            _ => self.view.shown_heads(node),
        }
    }

    fn set_attr(
        &mut self,
        inode: InodeId,
        mode: Option<u32>,
        owner: Option<Owner>,
        mtime: Option<Time>,
        xattrs: Option<&Xattrs>,
    ) -> Result<(), OpError> {
        let shown = self.view.node(inode).ok_or(OpError::NotFound)?;
        if shown.inode == InodeId::ROOT {
            return Err(OpError::NotPermitted);
        }
        if mode.is_some_and(|mode| mode > 0o7777) || mtime.is_some_and(|time| time.nanos >= 1_000_000_000) {
            return Err(OpError::Invalid);
        }
        let mode = mode.filter(|mode| *mode != shown.mode);
        let owner = owner.filter(|owner| Some(*owner) != shown.owner);
        let mtime = mtime.filter(|time| *time != shown.mtime);
        let xattrs = xattrs.filter(|xattrs| **xattrs != *shown.xattrs);
        if mode.is_none() && owner.is_none() && mtime.is_none() && xattrs.is_none() {
            return Ok(());
        }
        if xattrs.is_some_and(|xattrs| xattrs_len(xattrs) > record::MAX_LEN / 2) {
            return Err(OpError::TooLarge);
        }
        let node = self.own(inode)?;
        let place = self.via(node, None).ok_or(OpError::NotFound)?;
        let mut heads = self.view.shown_heads(node);
        let equals = self.view.equals(node);
        let top = heads.first().map(|top| self.view.version_of(*top));
        let settled: Vec<_> = heads
            .iter()
            .copied()
            .filter(|head| top.is_some_and(|top| self.view.is_made_of(top, self.view.version_of(*head), &equals)))
            .collect();
        let mut record = self.view.content_record(node, place, &self.device, &settled);
        if !self.view.lacks(Mutation::Saw) {
            // Versions that are merged with this one stay so, with what was set on them; this was set in their sight.
            heads.retain(|head| !settled.contains(head));
            record.saw = self.view.ids(&heads);
        }
        if let Some(mode) = mode {
            (record.mode, record.mode_stamp) = (mode, None);
        }
        if owner.is_some() {
            (record.owner, record.owner_stamp) = (owner, None);
        }
        if let Some(mtime) = mtime {
            (record.mtime, record.mtime_stamp) = (mtime, None);
        }
        if let Some(xattrs) = xattrs {
            (record.xattrs, record.xattrs_stamp) = (xattrs.clone(), None);
        }
        self.emit(&Record::Content(record));
        self.pin_suffixed(node);
        Ok(())
    }

    fn rename(
        &mut self,
        from_dir: InodeId,
        from: &Name,
        to_dir: InodeId,
        to: &Name,
        mode: RenameMode,
    ) -> Result<(), OpError> {
        let (from_dir, to_dir) = (self.dir(from_dir)?, self.dir(to_dir)?);
        let source = self.target(from_dir, from).ok_or(OpError::NotFound)?;
        let target = self.target(to_dir, to);
        match (&target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(OpError::Exists),
            (None, RenameMode::Exchange) => return Err(OpError::NotFound),
            (Some(target), _) if target.inode == source.inode => return Ok(()),
            (Some(target), RenameMode::Beside(other)) if target.inode != other => return Err(OpError::Exists),
            _ => {}
        }
        let is_free = target.is_none();
        let target = target.filter(|_| !matches!(mode, RenameMode::Beside(_)));
        if source.kind == Kind::Dir && self.is_below(to_dir, source.inode) {
            return Err(OpError::Invalid);
        }
        match (&target, mode) {
            (Some(target), RenameMode::Exchange)
                if target.kind == Kind::Dir && self.is_below(from_dir, target.inode) =>
            {
                return Err(OpError::Invalid);
            }
            (Some(target), RenameMode::Replace) => self.check_replaced(&source, target)?,
            _ => {}
        }
        self.name_entry(from_dir, from);
        self.name_entry(to_dir, to);
        if let Some(target) = target.as_ref().filter(|_| mode == RenameMode::Replace)
            && self.save_by_rename(source.inode, target.inode, from_dir, (to_dir, to))
        {
            return Ok(());
        }
        if is_free && self.save_by_removal(source.inode, from_dir, to_dir, to) {
            self.revive_dir(self.view.home(to_dir));
            return Ok(());
        }
        self.pin_displaced(to_dir);
        self.hold(&source)?;
        if let Some(target) = &target {
            self.pin_displaced(from_dir);
            self.hold(target)?;
        }
        let (from_dir, to_dir) = (self.view.home(from_dir), self.view.home(to_dir));
        match &target {
            Some(target) if mode == RenameMode::Exchange => {
                let (a, b) = (self.place_of(&source)?, self.place_of(target)?);
                self.move_place(a, from_dir, from, to_dir, to);
                self.move_place(b, to_dir, to, from_dir, from);
            }
            Some(target) => {
                let (a, b) = (self.place_of(&source)?, self.place_of(target)?);
                self.delete_place(b);
                self.move_place(a, from_dir, from, to_dir, to);
            }
            None => {
                let place = self.place_of(&source)?;
                self.note_aside(place, from_dir, from);
                self.move_place(place, from_dir, from, to_dir, to);
            }
        }
        self.revive_dir(from_dir);
        self.revive_dir(to_dir);
        Ok(())
    }

    fn check_replaced(&self, source: &Target, target: &Target) -> Result<(), OpError> {
        match (source.kind == Kind::Dir, target.kind == Kind::Dir) {
            (false, true) => Err(OpError::IsDir),
            (true, false) => Err(OpError::NotDir),
            (true, true) if !self.view.entries(target.inode, None, 1).is_empty() => Err(OpError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Whether a shown directory is `above` or lies in it.
    fn is_below(&self, dir: NodeIx, above: InodeId) -> bool {
        let mut at = dir;
        for _ in 0..=self.view.nodes.len() {
            if self.view.nodes[at.at()].id == above {
                return true;
            }
            match self.view.shown_places(at).first().and_then(|place| self.view.places[place.at()].claim) {
                Some(claim) => at = claim.dir,
                None => return false,
            }
        }
        false
    }

    /// Makes an entry ready to be moved or removed: one inode, its conflict copies on their own.
    fn hold(&mut self, target: &Target) -> Result<(), OpError> {
        let node = self.own(target.inode)?;
        self.promote_copies_of(node);
        self.view.update();
        Ok(())
    }

    /// The place of an entry that was made ready, wherever it is shown by now: what it was one with may have taken it along,
    /// and a directory that was shown for its sake alone need not be there any more.
    fn place_of(&self, target: &Target) -> Result<PlaceIx, OpError> {
        let place = match target.claimant {
            Claimant::Place(place) => place,
            Claimant::Copy(id) => *self.view.place_index.get(&PlaceId(id.0)).ok_or(OpError::NotFound)?,
        };
        let root = self.view.places[place.at()].class;
        let stands = self.view.places[root.at()].claim.is_some();
        if stands { Ok(root) } else { Err(OpError::NotFound) }
    }

    /// Says that a place goes from one shown position to another.
    fn move_place(&mut self, place: PlaceIx, from_dir: NodeIx, from: &Name, to_dir: NodeIx, to: &Name) {
        self.live_again(place);
        let view = &*self.view;
        let eval = view.places[place.at()].eval.as_ref().expect("an entry's place");
        let node = view.node_of(place).expect("an entry's inode");
        let as_recorded = !eval.pinned && !view.displaced.contains_key(&node);
        let keep_parent = from_dir == to_dir && as_recorded && view.home(view.as_dir(eval.parent)) == to_dir;
        let keep_name = from == to && as_recorded && eval.name == *to;
        let new = NewPosition {
            parent: (!keep_parent).then(|| view.nodes[to_dir.at()].id),
            name: (!keep_name).then(|| to.clone()),
        };
        let record = view.place_record(place, &self.device, PlaceState::Live, new);
        self.emit(&Record::Place(record));
    }

    /// Settles that what a deletion had seen is no part of a file that came back. What is shown of several heads stays a
    /// merge of them.
    pub(super) fn live_again(&mut self, place: PlaceIx) {
        let Some(node) = self.view.node_of(place) else { return };
        let NodeEval::Many(many) = &self.view.nodes[node.at()].eval else { return };
        if many.revived.is_none() {
            return;
        }
        let mut settled = self.settled_heads(node);
        settled.retain(|head| !many.heads.contains(head));
        if !settled.is_empty() {
            settled.extend(many.heads.first());
            let record = self.view.content_record(node, place, &self.device, &settled);
            self.emit(&Record::Content(record));
        }
    }

    /// Says that a place is gone, with what was seen under its name; and of the names that are gone already, that they
    /// are so for what is seen now, too.
    fn delete_place(&mut self, place: PlaceIx) {
        let Some(node) = self.view.node_of(place) else { return };
        let versions: Vec<_> = self.settled_heads(node).into_iter().map(|head| self.view.version_of(head)).collect();
        let position = self.shown_position(place);
        self.emit_deletion(place, &versions, position);
        if self.view.nodes[node.at()].kind == Some(Kind::Dir) || self.view.lacks(Mutation::DeletionSaidAgain) {
            return;
        }
        for other in self.view.place_classes(node) {
            let view = &*self.view;
            let removed = other != place && view.places[other.at()].eval.as_ref().is_some_and(|eval| !eval.live);
            if removed && {
                let seen = view.seen_by_deletion(other);
                versions.iter().any(|version| !seen.contains(version))
            } {
                self.emit_deletion(other, &versions, NewPosition::default());
            }
        }
    }

    /// Where a place is shown that stands elsewhere by its records: under a suffix, or where a pin has it. A pin that does not cover
    /// its removal counts no more, and what an edit that had not seen that brings back is to be where it was.
    fn shown_position(&self, place: PlaceIx) -> NewPosition {
        let view = &*self.view;
        let (Some(eval), Some((_, name))) = (&view.places[place.at()].eval, view.shown_name(place)) else {
            return NewPosition::default();
        };
        if !eval.pinned && eval.name == name {
            return NewPosition::default();
        }
        let parent = eval.pinned.then(|| view.nodes[view.as_dir(eval.parent).at()].id);
        NewPosition { parent, name: Some(name) }
    }

    fn emit_deletion(&mut self, place: PlaceIx, seen: &[RecIx], position: NewPosition) {
        let state = PlaceState::Deleted { seen: self.view.ids(seen) };
        let record = self.view.place_record(place, &self.device, state, position);
        self.emit(&Record::Place(record));
    }

    fn link(&mut self, inode: InodeId, dir: InodeId, name: &Name, place: PlaceId) -> Result<(), OpError> {
        let shown = self.view.node(inode).ok_or(OpError::NotFound)?;
        let dir = self.dir(dir)?;
        if shown.kind == Kind::Dir {
            return Err(OpError::NotPermitted);
        }
        if self.view.lookup(dir, name.as_bytes()).is_some() {
            return Err(OpError::Exists);
        }
        if self.view.place_index.get(&place).is_some_and(|ix| !self.view.places[ix.at()].recs.is_empty()) {
            return Err(OpError::Invalid);
        }
        self.name_entry(dir, name);
        let node = self.own(inode)?;
        let revived = match &self.view.nodes[node.at()].eval {
            NodeEval::Many(many) => many.revived,
            _ => None,
        };
        if let Some(revived) = revived {
            // It settles what a deletion had seen; its conflict copies are not among that.
            self.leave_copies_of(node);
            self.view.update();
            self.live_again(revived);
            let record = self.view.place_record(revived, &self.device, PlaceState::Live, NewPosition::default());
            self.emit(&Record::Place(record));
        }
        self.revive_dir(dir);
        let parent = self.view.nodes[dir.at()].id;
        let inode = self.view.nodes[node.at()].id;
        // What stands beside one of the names that there are goes on to, whatever becomes of another.
        let saw = self.view.last_name(node);
        self.emit(&Record::Place(Place { saw, ..self.new_place(place, inode, shown.kind, parent, name) }));
        Ok(())
    }

    fn remove(&mut self, dir: InodeId, name: &Name, as_dir: bool) -> Result<(), OpError> {
        let dir = self.dir(dir)?;
        let target = self.target(dir, name).ok_or(OpError::NotFound)?;
        match (as_dir, target.kind == Kind::Dir) {
            (true, false) => return Err(OpError::NotDir),
            (false, true) => return Err(OpError::IsDir),
            (true, true) if !self.view.entries(target.inode, None, 1).is_empty() => return Err(OpError::NotEmpty),
            _ => {}
        }
        self.name_entry(dir, name);
        if !as_dir && self.end_of_rewrite(target.inode, dir, name) {
            return Ok(());
        }
        self.hold(&target)?;
        let place = self.place_of(&target)?;
        let stood = self.stands(place, self.view.home(dir), name);
        self.delete_place(place);
        self.note_removed(stood);
        self.revive_dir(self.view.home(dir));
        Ok(())
    }

    /// Makes a directory live that is only shown because of what stands in it.
    pub(super) fn revive_dir(&mut self, dir: NodeIx) {
        if dir == NodeIx::ROOT {
            return;
        }
        self.view.update_places();
        for place in self.view.place_classes(dir) {
            if self.view.is_live(place) {
                return;
            }
        }
        let Some(place) = self.view.primary(dir) else { return };
        let record = self.view.place_record(place, &self.device, PlaceState::Live, NewPosition::default());
        self.emit(&Record::Place(record));
    }
}

fn check_size(record: &Record) -> Result<(), OpError> {
    let fits = record.encode().len() <= record::MAX_LEN
        && !matches!(record, Record::Content(content)
            if content.target.as_ref().is_some_and(|target| target.len() > record::TARGET_MAX)
                || content.mtime.nanos >= 1_000_000_000);
    if fits { Ok(()) } else { Err(OpError::TooLarge) }
}

fn xattrs_len(xattrs: &Xattrs) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum()
}
