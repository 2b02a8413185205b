//! `crdtfs conflicts`: what stands beside another entry because two devices disagreed, and how a user settles it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_control::reply::{Conflict, ConflictsListed, Kept, Side};
use crdtfs_control::{DirText, Failure, FailureKind, Item, PathText, Reply, Talk, request};
use crdtfs_core::id::{DeviceId, InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node};
use crdtfs_core::op::{Op, OpError, RenameMode};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_core::view;

use crate::convert;
use crate::core::Core;
use crate::share::Share;
use crate::shows::{Found, blocking};

/// How long a command that changes the tree waits for what the user did before it.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);

/// One conflict and the two nodes.
struct Pair {
    conflict: view::Conflict,
    copy: Node,
    holder: Node,
}

impl Core {
    pub(crate) async fn conflicts(
        self: &Arc<Self>,
        asked: request::Conflicts,
        talk: &mut Talk,
    ) -> Result<Reply, Failure> {
        let core = self.clone();
        let found = blocking(move || match asked.dir {
            Some(dir) => {
                let found = core.find(&dir.to_path())?;
                found.share.commit_all();
                let listed = core.conflicts_of(&found.share, &path_bytes(&found))?;
                if listed.is_empty() && found.share.walk(&found.below).is_none() {
                    return Err(not_in_the_share(&dir.to_path().display()));
                }
                Ok(listed)
            }
            None => {
                let mut all = Vec::new();
                for share in core.shares() {
                    all.extend(core.conflicts_of(&share, b"")?);
                }
                Ok(all)
            }
        })
        .await?;
        let listed = ConflictsListed { conflicts: found.len() as u64 };
        for conflict in found {
            talk.send(Item::Conflict(Box::new(conflict))).await?;
        }
        Ok(Reply::ConflictsListed(listed))
    }

    /// The conflicts at or below a path, in the order of their paths.
    fn conflicts_of(&self, share: &Share, below: &[u8]) -> Result<Vec<Conflict>, Failure> {
        let pairs = share.pairs();
        let versions: BTreeSet<RecordId> =
            pairs.iter().flat_map(|pair| [Some(pair.conflict.version), version_of(&pair.holder)]).flatten().collect();
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let stamps = share.stamps(&versions).map_err(|error| Failure::failed(error.to_string()))?;
        let names: BTreeMap<DeviceId, String> =
            share.members().into_iter().map(|member| (member.device, member.name)).collect();
        let dir = self.dir_of(share);
        let side = |path: Vec<u8>, node: &Node, version: Option<RecordId>, device: Option<&str>| {
            let stamp = version.and_then(|version| stamps.get(&version));
            let file = node.kind == Kind::File;
            let known = || stamp.and_then(|stamp| names.get(&stamp.device)).cloned().unwrap_or_default();
            Side {
                path: PathText::from_bytes(&path),
                kind: convert::kind_out(node.kind),
                device: device.map_or_else(known, str::to_owned),
                device_id: stamp.map(|stamp| stamp.device.to_string()).unwrap_or_default(),
                time_ms: stamp.map_or(0, |stamp| stamp.time_ms),
                version: version.map(|version| version.to_string()).unwrap_or_default(),
                blake3: file.then(|| node.content.hash.to_string()),
                size: file.then_some(node.content.size),
            }
        };
        let mut found = Vec::new();
        for pair in &pairs {
            let conflict = &pair.conflict;
            let Some(path) = share.path_in(conflict.dir, &conflict.name) else { continue };
            let inside = below.is_empty() || path.strip_prefix(below).is_some_and(|r| r.is_empty() || r[0] == b'/');
            let Some(holder) = share.path_beside(pair).filter(|holder| inside || holder == below) else { continue };
            found.push(Conflict {
                share: share.id().to_string(),
                dir: dir.clone(),
                copy: side(path, &pair.copy, Some(conflict.version), Some(&conflict.device)),
                of: side(holder, &pair.holder, version_of(&pair.holder), None),
                pending: conflict.pending,
            });
        }
        found.sort_by(|a, b| a.copy.path.cmp(&b.copy.path));
        Ok(found)
    }

    /// The directory that shows a share, or did last.
    pub(crate) fn dir_of(&self, share: &Share) -> DirText {
        let shown = share.dir().shown().unwrap_or_default();
        let best = shown.iter().rev().max_by_key(|shown| shown.active);
        best.map(|shown| DirText::from(&shown.dir)).unwrap_or_default()
    }

    pub(crate) fn keep(self: &Arc<Self>, asked: &request::Keep) -> Result<Reply, Failure> {
        let found = self.find(&asked.path.to_path())?;
        let share = &found.share;
        self.settle(std::slice::from_ref(share), Instant::now() + SETTLE);
        let kept = share.keep(&found).map_err(|error| explained(error, &asked.path))?;
        share.commit_all();
        self.settle(std::slice::from_ref(share), Instant::now() + SETTLE);
        Ok(Reply::Kept(kept))
    }
}

fn not_in_the_share(path: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::NotFound, format!("{path}: no such file or directory in the share"))
        .with_hint("`crdtfs conflicts` lists what there is")
}

/// Why a conflict was not settled.
enum KeepError {
    /// Said in full.
    Said(Failure),
    /// An operation was refused.
    Op(OpError),
}

impl From<OpError> for KeepError {
    fn from(error: OpError) -> Self {
        Self::Op(error)
    }
}

fn explained(error: KeepError, path: &PathText) -> Failure {
    match error {
        KeepError::Said(failure) => failure,
        KeepError::Op(error) => refused("settle the conflict of", path, error),
    }
}

/// An operation that the share refuses, for the user.
pub(crate) fn refused(what: &str, path: &PathText, error: OpError) -> Failure {
    let message = format!("cannot {what} {path}: {error}");
    match error {
        OpError::ReadOnly => Failure::new(FailureKind::Denied, message)
            .with_hint("ask an admin of the share for a ticket that lets you write"),
        OpError::NoSpace => Failure::failed(message).with_hint("free some room, and try again"),
        _ => Failure::failed(message).with_hint("it was changed meanwhile: try again"),
    }
}

impl Share {
    fn pairs(&self) -> Vec<Pair> {
        self.read(|replica| {
            let view = replica.view();
            let pair = |conflict: view::Conflict| {
                let holder = view.node(conflict.holder?)?;
                Some(Pair { copy: view.node(conflict.inode)?, holder, conflict })
            };
            view.conflicts().into_iter().filter_map(pair).collect()
        })
    }

    /// The path of a name in a directory, below the root.
    fn path_in(&self, dir: InodeId, name: &Name) -> Option<Vec<u8>> {
        let mut path = self.path_of(dir)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        Some(path)
    }

    /// The name of what a conflict copy stands beside, in the same directory if it has one there.
    fn name_beside(&self, pair: &Pair) -> Option<(InodeId, Name)> {
        let names = self.read(|replica| replica.view().names(pair.holder.inode));
        let same = names.iter().find(|(dir, _)| *dir == pair.conflict.dir);
        same.or(names.first()).cloned()
    }

    fn path_beside(&self, pair: &Pair) -> Option<Vec<u8>> {
        let (dir, name) = self.name_beside(pair)?;
        self.path_in(dir, &name)
    }

    /// Settles the conflict that the entry at a path is a side of, in favour of that.
    fn keep(&self, found: &Found) -> Result<Kept, KeepError> {
        let shown = || PathText::from_bytes(&path_bytes(found));
        let said = |kind, message: String, hint: &str| KeepError::Said(Failure::new(kind, message).with_hint(hint));
        let inode = self.walk(&found.below).ok_or_else(|| KeepError::Said(not_in_the_share(&shown())))?;
        let mut pairs = self.pairs();
        let own = pairs.iter().position(|pair| pair.conflict.inode == inode).map(|at| pairs.remove(at));
        let holder = own.as_ref().map_or(inode, |own| own.holder.inode);
        pairs.retain(|pair| pair.holder.inode == holder);
        let Some(any) = own.as_ref().or(pairs.first()) else {
            let message = format!("{} has no conflict copy and is none", shown());
            return Err(said(FailureKind::NotFound, message, "`crdtfs conflicts` lists what there is"));
        };
        let (dir, name) = self.name_beside(any).ok_or(OpError::NotFound)?;
        let mut goes: Vec<(InodeId, Name, Node)> =
            pairs.into_iter().map(|pair| (pair.conflict.dir, pair.conflict.name, pair.copy)).collect();
        if let Some(own) = &own {
            let beside = (own.conflict.dir, own.conflict.name.clone(), own.copy.clone());
            let files = own.copy.kind == Kind::File && own.holder.kind == Kind::File;
            goes.push(if files { beside } else { (dir, name.clone(), own.holder.clone()) });
        }
        for (dir, name, node) in &goes {
            let filled = node.kind == Kind::Dir && !self.entries(node.inode, None, 1).is_empty();
            if filled {
                let path = self.path_in(*dir, name).unwrap_or_default();
                let message = format!("{} is a directory with something in it", PathText::from_bytes(&path));
                return Err(said(
                    FailureKind::Busy,
                    message,
                    "move what you want out of it, remove it, then try again",
                ));
            }
        }
        let by = self.new_adapter();
        if let Some(own) = own.as_ref().filter(|own| own.copy.kind == Kind::File && own.holder.kind == Kind::File) {
            self.take_over(by, (dir, &name), own)?;
        }
        let mut removed = Vec::new();
        for (dir, name, node) in goes {
            removed.extend(self.path_in(dir, &name).map(|path| PathText::from_bytes(&path)));
            let is_dir = node.kind == Kind::Dir;
            match self.apply(by, if is_dir { Op::Rmdir { dir, name } } else { Op::Unlink { dir, name } }) {
                // Two files of one name and the same bytes are one: it went when what it is was taken over.
                Ok(_) | Err(OpError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(own) = own.filter(|own| own.copy.kind != Kind::File || own.holder.kind != Kind::File) {
            let (from_dir, from) = (own.conflict.dir, own.conflict.name);
            let op = Op::Rename { from_dir, from, to_dir: dir, to: name.clone(), mode: RenameMode::NoReplace };
            self.apply(by, op)?;
        }
        let path = self.path_in(dir, &name).unwrap_or_default();
        Ok(Kept { path: PathText::from_bytes(&path), removed })
    }

    /// Gives the file that has the name the bytes and attributes of the one beside it.
    fn take_over(&self, by: Adapter, (dir, name): (InodeId, &Name), own: &Pair) -> Result<(), OpError> {
        let (inode, copy) = (own.holder.inode, &own.copy);
        let via = Some((dir, name.clone()));
        let (content, mtime) = (copy.content, copy.mtime);
        self.apply(by, Op::Edit { inode, via, basis: None, content, mtime })?;
        let xattrs = Some((*copy.xattrs).clone());
        self.apply(by, Op::SetAttr { inode, mode: Some(copy.mode), owner: copy.owner, mtime: None, xattrs })?;
        Ok(())
    }
}

/// The record that made what a node shows: of several that were merged, the one that ranks highest.
fn version_of(node: &Node) -> Option<RecordId> {
    node.basis.first().copied()
}

/// A found path below the share's root.
pub(crate) fn path_bytes(found: &Found) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    found.below.as_os_str().as_bytes().to_vec()
}
