//! Doing what `crdtfs restore` found out: having the bytes, then the operations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crdtfs_control::reply::{Progress, Restored, Unit};
use crdtfs_control::{Failure, FailureKind, Item, PathText, Talk};
use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, PlaceId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node, Time};
use crdtfs_core::op::{NewNode, Op, OpError};
use crdtfs_core::port::{Adapter, Content, Reader, Tree};
use crdtfs_store::Urgency;

use crate::share::Share;

/// Contents that are fetched at a time.
const BATCH: usize = 256;

/// An entry as it was: its names below what is restored, and what it was.
pub(crate) struct Was {
    pub(crate) below: Vec<Name>,
    pub(crate) node: Node,
}

/// What is to be restored, and to where.
pub(crate) struct Plan {
    /// Depth first; the first is what was asked for.
    pub(crate) entries: Vec<Was>,
    /// Where that is to be, below the share's root.
    pub(crate) dest: Vec<Name>,
}

/// Contents that cannot be had, with the reason.
pub(crate) type Gone = BTreeMap<Hash, String>;

/// The names of a path below the root.
pub(crate) fn names(path: &[u8]) -> Result<Vec<Name>, Failure> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(Name::new);
    names.collect::<Result<_, _>>().map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// A path of these names.
pub(crate) fn joined<'a>(names: impl Iterator<Item = &'a Name>) -> Vec<u8> {
    names.map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
}

impl Plan {
    /// Names from the root.
    fn path(&self, was: &Was) -> Vec<Name> {
        [&self.dest[..], &was.below[..]].concat()
    }
}

impl Share {
    fn at(&self, path: &[Name]) -> Option<Node> {
        let mut at = self.node(InodeId::ROOT)?;
        for name in path {
            at = self.child(at.inode, name)?;
        }
        Some(at)
    }

    /// Refuses a plan by which something would have to become another kind of thing.
    pub(crate) fn refuse_clashes(&self, plan: &Plan) -> Result<(), Failure> {
        let clash = |path: &[Name]| {
            let path = PathText::from_bytes(&joined(path.iter()));
            Failure::new(FailureKind::Busy, format!("something else is now at {path} in the share"))
                .with_hint("restore it to another place with --to")
        };
        for depth in 1..plan.dest.len() {
            let above = &plan.dest[..depth];
            if self.at(above).is_some_and(|node| node.kind != Kind::Dir) {
                return Err(clash(above));
            }
        }
        for was in &plan.entries {
            let path = plan.path(was);
            if self.at(&path).is_some_and(|node| node.kind != was.node.kind) {
                return Err(clash(&path));
            }
        }
        Ok(())
    }

    /// Brings the bytes here that the plan needs, and holds them until the value is dropped; what cannot be had.
    pub(crate) fn have(&self, plan: &Plan, talk: &mut Talk) -> (Vec<Arc<dyn Reader>>, Gone) {
        let files = plan.entries.iter().filter(|was| was.node.kind == Kind::File && was.node.content.size > 0);
        let contents: BTreeSet<ContentRef> = files.map(|was| was.node.content).collect();
        // An open reader keeps a content from being collected.
        let held = contents.iter().filter_map(|content| self.content().open(content).ok()).collect();
        let (here, missing): (Vec<_>, Vec<_>) =
            contents.into_iter().partition(|content| self.store().is_local(content));
        let mut done = here.len();
        let total = done + missing.len();
        let mut gone = Gone::new();
        for batch in missing.chunks(BATCH) {
            for (content, outcome) in batch.iter().zip(self.content().fetch(batch, Urgency::Read)) {
                if let Err(error) = outcome {
                    gone.insert(content.hash, error.to_string());
                }
            }
            done += batch.len();
            talk.offer(Item::Progress(Progress {
                what: "fetching".into(),
                done: done as u64,
                total: Some(total as u64),
                unit: Unit::Items,
            }));
        }
        (held, gone)
    }

    /// Makes the tree at the plan's place as it was, but for what is gone.
    pub(crate) fn put_back(&self, plan: &Plan, gone: &Gone) -> Result<Restored, OpError> {
        let path = PathText::from_bytes(&joined(plan.dest.iter()));
        let mut restored = Restored { path, entries: 0, changed: 0, bytes: 0, lost: 0 };
        let mut work = PutBack { share: self, by: self.new_adapter(), dirs: BTreeMap::new(), made: BTreeMap::new() };
        for was in plan.entries.iter().filter(|was| !gone.contains_key(&was.node.content.hash)) {
            let path = plan.path(was);
            let Some((name, above)) = path.split_last() else { continue };
            let dir = work.dir(above)?;
            restored.entries += 1;
            if work.put(dir, name, &was.node)? {
                restored.changed += 1;
                restored.bytes += was.node.content.size;
            }
        }
        Ok(restored)
    }
}

/// A restoration under way.
struct PutBack<'a> {
    share: &'a Share,
    by: Adapter,
    /// Directories that are there.
    dirs: BTreeMap<Vec<Name>, InodeId>,
    /// What was made anew, by what it was: further names of it become links.
    made: BTreeMap<InodeId, InodeId>,
}

impl PutBack<'_> {
    /// A directory, made with those above it where it is not there.
    fn dir(&mut self, path: &[Name]) -> Result<InodeId, OpError> {
        let Some((name, above)) = path.split_last() else { return Ok(InodeId::ROOT) };
        if let Some(dir) = self.dirs.get(path) {
            return Ok(*dir);
        }
        let parent = self.dir(above)?;
        let dir = match self.share.child(parent, name) {
            Some(node) if node.kind == Kind::Dir => node.inode,
            Some(_) => return Err(OpError::NotDir),
            None => {
                let ms = self.share.history_options.clock.now_ms();
                let nanos = u32::try_from(ms.rem_euclid(1_000) * 1_000_000).expect("below a second");
                self.create(parent, name, new_dir(Time { secs: ms.div_euclid(1_000), nanos }))?
            }
        };
        self.dirs.insert(path.to_vec(), dir);
        Ok(dir)
    }

    /// Makes an entry as it was; true if it was otherwise.
    fn put(&mut self, dir: InodeId, name: &Name, was: &Node) -> Result<bool, OpError> {
        let Some(now) = self.share.child(dir, name) else {
            match self.made.get(&was.inode).copied().filter(|_| was.kind != Kind::Dir) {
                Some(inode) => self.link(inode, dir, name)?,
                None => {
                    let inode = self.create(dir, name, as_new(was))?;
                    self.made.insert(was.inode, inode);
                }
            }
            return Ok(true);
        };
        let inode = now.inode;
        self.made.insert(was.inode, inode);
        let mut changed = false;
        match was.kind {
            Kind::File if now.content.hash != was.content.hash => {
                let via = Some((dir, name.clone()));
                self.apply(Op::Edit { inode, via, basis: None, content: was.content, mtime: was.mtime })?;
                changed = true;
            }
            Kind::Symlink if now.target != was.target => {
                self.apply(Op::Unlink { dir, name: name.clone() })?;
                self.create(dir, name, as_new(was))?;
                return Ok(true);
            }
            _ => {}
        }
        let same =
            now.mode == was.mode && *now.xattrs == *was.xattrs && (was.owner.is_none() || now.owner == was.owner);
        if !same {
            let xattrs = Some((*was.xattrs).clone());
            self.apply(Op::SetAttr { inode, mode: Some(was.mode), owner: was.owner, mtime: None, xattrs })?;
            changed = true;
        }
        Ok(changed)
    }

    fn create(&self, dir: InodeId, name: &Name, node: NewNode) -> Result<InodeId, OpError> {
        let inode = InodeId(self.share.fresh_id());
        let place = PlaceId(self.share.fresh_id());
        self.apply(Op::Create { dir, name: name.clone(), inode, place, node, beside: None })?;
        Ok(inode)
    }

    fn link(&self, inode: InodeId, dir: InodeId, name: &Name) -> Result<(), OpError> {
        let place = PlaceId(self.share.fresh_id());
        self.apply(Op::Link { inode, dir, name: name.clone(), place })
    }

    fn apply(&self, op: Op) -> Result<(), OpError> {
        self.share.apply(self.by, op).map(drop)
    }
}

fn as_new(was: &Node) -> NewNode {
    NewNode {
        kind: was.kind,
        mode: was.mode,
        owner: was.owner,
        mtime: was.mtime,
        xattrs: (*was.xattrs).clone(),
        content: was.content,
        target: was.target.to_vec(),
        rdev: was.rdev,
    }
}

/// A directory above what is restored that is there no more.
fn new_dir(now: Time) -> NewNode {
    NewNode {
        kind: Kind::Dir,
        mode: 0o755,
        owner: None,
        mtime: now,
        xattrs: Default::default(),
        content: ContentRef::empty(),
        target: Vec::new(),
        rdev: 0,
    }
}
