//! `crdtfs restore`: what was, brought back as a new operation, which other devices merge as any other.
//!
//! First it is found out what there was (from the log, as a view of the past), then its bytes are had (from here, or from
//! who has them), then it is done. What was not there then stays, and so does what cannot be had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crdtfs_control::reply::{Lost, Restored};
use crdtfs_control::{Failure, FailureKind, Item, PathText, Reply, Talk, ToText, request};
use crdtfs_core::content::ContentRef;
use crdtfs_core::history::{Action, Event};
use crdtfs_core::id::{DeviceId, InodeId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Kind, Node, Shown};
use crdtfs_core::op::OpError;
use crdtfs_core::port::Tree;
use crdtfs_core::record::{Content, Record};
use crdtfs_core::view::View;

use crate::conflicts::{SETTLE, path_bytes, refused};
use crate::core::Core;
use crate::listing::nothing_of_this_name;
use crate::past::{Moment, Past, Unsuffixed, removed_at, walk};
use crate::put_back::{Gone, Plan, Was, joined, names};
use crate::share::{Share, ShareError};
use crate::shows::{Found, blocking};

impl Core {
    pub(crate) async fn restore(self: &Arc<Self>, asked: request::Restore, talk: &mut Talk) -> Result<Reply, Failure> {
        let (core, told) = (self.clone(), talk.clone());
        let (restored, lost) = blocking(move || core.restore_now(&asked, told)).await?;
        for lost in lost {
            talk.send(Item::Lost(lost)).await?;
        }
        Ok(Reply::Restored(restored))
    }

    fn restore_now(&self, asked: &request::Restore, mut talk: Talk) -> Result<(Restored, Vec<Lost>), Failure> {
        if asked.version_id.is_some() && asked.at_ms.is_some() {
            return Err(Failure::new(FailureKind::Usage, "a version has its time: leave one of the two out"));
        }
        let found = self.find(&asked.path.to_path())?;
        let share = &found.share;
        if !share.writable() {
            return Err(refused("restore", &asked.path, OpError::ReadOnly));
        }
        self.settle(std::slice::from_ref(share), Instant::now() + SETTLE);
        let past = share.past().map_err(|error| Failure::failed(error.to_string()))?;
        let entries = share.chosen(&past, &found, asked)?;
        let dest = match &asked.to {
            Some(to) => self.free_place(share, to)?,
            None => names(&path_bytes(&found))?,
        };
        let plan = Plan { entries, dest };
        share.refuse_clashes(&plan)?;
        let (held, gone) = share.have(&plan, &mut talk);
        let lost = self.lost(share, &past, &plan, &gone);
        if let (Some(only), Kind::File) = (lost.first(), plan.entries[0].node.kind) {
            return Err(out_of_reach(only, &asked.path));
        }
        let mut restored = share.put_back(&plan, &gone).map_err(|error| refused("restore", &asked.path, error))?;
        drop(held);
        restored.lost = lost.len() as u64;
        share.commit_all();
        self.settle(std::slice::from_ref(share), Instant::now() + SETTLE);
        Ok((restored, lost))
    }

    /// Where something is to be restored to: in the same share, and nothing is there.
    fn free_place(&self, share: &Share, to: &ToText) -> Result<Vec<Name>, Failure> {
        let found = self.find(&to.to_path())?;
        if found.share.id() != share.id() {
            let message = format!("{to} is in another share");
            return Err(Failure::new(FailureKind::Usage, message).with_hint("restore it in its own share, and copy it"));
        }
        if share.walk(&found.below).is_some() {
            let message = format!("{to} is there already");
            return Err(Failure::new(FailureKind::Busy, message).with_hint("choose a name that is free"));
        }
        names(&path_bytes(&found))
    }

    /// What cannot be restored, and who may have it.
    fn lost(&self, share: &Share, past: &Past, plan: &Plan, gone: &Gone) -> Vec<Lost> {
        let connected = self.connected(&share.id());
        let members = share.members();
        let away = |device: &DeviceId| *device != share.device() && !connected.contains(device);
        let files = plan.entries.iter().filter(|was| was.node.kind == Kind::File);
        files
            .filter_map(|was| {
                let content = &was.node.content;
                let reason = gone.get(&content.hash)?.clone();
                let author = past.author_of(content);
                let mut devices: Vec<_> = members.iter().filter(|member| away(&member.device)).collect();
                devices.sort_by_key(|member| Some(member.device) != author);
                Some(Lost {
                    path: PathText::from_bytes(&joined(plan.dest.iter().chain(&was.below))),
                    blake3: content.hash.to_string(),
                    size: content.size,
                    devices: devices.into_iter().map(|member| member.name.clone()).collect(),
                    reason,
                })
            })
            .collect()
    }
}

fn out_of_reach(lost: &Lost, path: &PathText) -> Failure {
    let short = &lost.blake3[..12];
    let message =
        format!("the bytes of this version of {path} ({} bytes, blake3 {short}…) are not on this device", lost.size);
    if lost.devices.is_empty() {
        return Failure::new(FailureKind::NotFound, format!("{message}, and no other device of the share has them"))
            .with_hint("`crdtfs log` lists other versions; `retention` in config.toml says how long they are kept");
    }
    let devices = lost.devices.join(", ");
    Failure::new(FailureKind::NotFound, format!("{message}; not connected, and may have them: {devices}"))
        .with_hint(format!("connect {devices}, then try again"))
}

impl Share {
    /// What was asked for, as it was.
    fn chosen(&self, past: &Past, found: &Found, asked: &request::Restore) -> Result<Vec<Was>, Failure> {
        let path = path_bytes(found);
        let absent = |what: String| {
            Failure::new(FailureKind::NotFound, what)
                .with_hint(format!("`crdtfs log {}` tells what happened", asked.path))
        };
        let (moment, inode) = match (&asked.version_id, asked.at_ms) {
            (Some(id), _) => {
                let event = version(past, id)?;
                let now = self.walk(&found.below);
                let plain = Unsuffixed::parse(&path).is_some_and(|plain| plain.is_of(&event.path));
                let itself = plain
                    || event.path == path
                    || event.from.as_ref() == Some(&path)
                    || now == Some(event.inode)
                    || removed_at(&past.events, &path).contains(&event.version);
                if itself && let Some(Record::Content(content)) = past.record(&event.version) {
                    return Ok(vec![Was { below: Vec::new(), node: as_it_was(content, event.kind) }]);
                }
                if !itself && !event.concerns(&path) {
                    return Err(of_another(event, id, asked));
                }
                let moment = match event.action {
                    Action::Delete => Moment::Before(event.version),
                    _ => Moment::After(event.version),
                };
                (moment, Some(event.inode).filter(|_| itself))
            }
            (None, Some(at_ms)) => (Moment::At(at_ms), None),
            (None, None) => match self.walk(&found.below) {
                Some(inode) if self.is_dir(inode) => (self.before_emptied(past, inode, &path, asked)?, Some(inode)),
                Some(inode) => {
                    let node = self.before_present(past, inode, &path, asked)?;
                    return Ok(vec![Was { below: Vec::new(), node }]);
                }
                None => {
                    let (moment, inode) = past.removed(&path).ok_or_else(|| never_removed(past, &path, asked))?;
                    (moment, Some(inode))
                }
            },
        };
        let mut view = past.view(moment);
        let start = inode.filter(|inode| view.node(*inode).is_some()).or_else(|| walk(&view, &path));
        let start = start.ok_or_else(|| absent(format!("{} was not there then", asked.path)))?;
        let mut entries = entries_of(&view, start);
        for fetch in [false, true] {
            if entries.iter().any(|was| was.node.shown == Shown::Pending) {
                self.complete(&mut view, fetch);
                entries = entries_of(&view, start);
            }
        }
        self.keep_results(&view, &mut entries).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(entries)
    }

    fn is_dir(&self, inode: InodeId) -> bool {
        self.read(|replica| replica.view().node(inode)).is_some_and(|node| node.kind == Kind::Dir)
    }

    /// The moment before a directory that is there was emptied. While something is in it, which state is meant has to be said.
    fn before_emptied(
        &self,
        past: &Past,
        inode: InodeId,
        path: &[u8],
        asked: &request::Restore,
    ) -> Result<Moment, Failure> {
        if !self.entries(inode, None, 1).is_empty() {
            let message = format!("{} is there, and something is in it: say as it was when", asked.path);
            let hint =
                format!("add --at TIME or --version ID; `crdtfs log {}` tells what was removed when", asked.path);
            return Err(Failure::new(FailureKind::Usage, message).with_hint(hint));
        }
        let of_it = |event: &&Event| event.action == Action::Delete && event.path != path && event.concerns(path);
        let last = past.events.iter().rev().find(of_it).ok_or_else(|| {
            let message = format!("{} is there and empty, and nothing was ever removed from it", asked.path);
            Failure::new(FailureKind::NotFound, message)
                .with_hint(format!("`crdtfs log {}` tells what happened", asked.path))
        })?;
        Ok(Moment::Before(past.first_of_removal(last, path)))
    }

    /// The version of a file or link before the one that is shown, also of what was removed there before it was made.
    fn before_present(
        &self,
        past: &Past,
        inode: InodeId,
        path: &[u8],
        asked: &request::Restore,
    ) -> Result<Node, Failure> {
        let gone = || refused("restore", &asked.path, OpError::NotFound);
        let (now, beside) = self.read(|replica| {
            let view = replica.view();
            let copies = view.conflicts().into_iter().filter(|conflict| conflict.holder == Some(inode));
            let beside: BTreeSet<_> = copies.filter_map(|copy| Some(view.node(copy.inode)?.content.hash)).collect();
            (view.node(inode), beside)
        });
        let now = now.ok_or_else(gone)?;
        let removed = removed_at(&past.events, path);
        let of_it = |event: &&Event| event.inode == inode || event.path == path || removed.contains(&event.version);
        let of_it = past.events.iter().rev().filter(of_it);
        let mut versions = of_it.filter_map(|event| match past.record(&event.version)? {
            Record::Content(content) => Some(as_it_was(content, event.kind)),
            _ => None,
        });
        // There is nothing to bring back from an empty one: a mount tells of a new file twice, made and then written.
        let filled = |was: &Node| was.kind != Kind::File || was.content.size > 0;
        let other =
            |was: &Node| was.kind != now.kind || was.content.hash != now.content.hash || was.target != now.target;
        // What stands beside it is there, and was never what it had.
        let copy = |was: &Node| was.kind == Kind::File && beside.contains(&was.content.hash);
        versions.find(|was| filled(was) && other(was) && !copy(was)).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("{} has no earlier version", asked.path))
                .with_hint(format!("`crdtfs log {}` tells what happened", asked.path))
        })
    }

    /// What the view of the past merged is nobody's version: it is kept here, so that others can get it.
    fn keep_results(&self, view: &View, entries: &mut [Was]) -> Result<(), ShareError> {
        for was in entries.iter_mut().filter(|was| was.node.kind == Kind::File) {
            if let Some(bytes) = view.merged(&was.node.content.hash) {
                was.node.content = self.store().put_bytes(&bytes)?;
            }
        }
        Ok(())
    }
}

/// The state that a record sets.
fn as_it_was(content: &Content, kind: Kind) -> Node {
    Node {
        inode: content.inode,
        kind,
        mode: content.mode,
        owner: content.owner,
        mtime: content.mtime,
        xattrs: Arc::new(content.xattrs.clone()),
        content: content.bytes.unwrap_or_else(ContentRef::empty),
        target: content.target.clone().unwrap_or_default().into(),
        rdev: content.rdev.unwrap_or_default(),
        nlink: 1,
        basis: Basis::default(),
        shown: Shown::Plain,
    }
}

/// Why there is nothing to bring back to a path at which nothing is.
fn never_removed(past: &Past, path: &[u8], asked: &request::Restore) -> Failure {
    let Some(last) = past.events.iter().rev().find(|event| event.concerns(path)) else {
        return nothing_of_this_name(&asked.path);
    };
    let message = match &last.from {
        Some(from) if from == path => {
            format!("{} was not removed: it was moved to {}", asked.path, PathText::from_bytes(&last.path))
        }
        _ => format!("{} was never removed from the share", asked.path),
    };
    Failure::new(FailureKind::NotFound, message).with_hint(format!("`crdtfs log {}` tells what happened", asked.path))
}

fn of_another(event: &Event, id: &str, asked: &request::Restore) -> Failure {
    let other = PathText::from_bytes(&event.path);
    Failure::new(FailureKind::Usage, format!("version {id} is one of {other}, not of {}", asked.path))
        .with_hint(format!("name that path, with `--to {}` to put it there", asked.path))
}

/// A node of a view and all below it, depth first.
fn entries_of(view: &View, start: InodeId) -> Vec<Was> {
    let mut entries = Vec::new();
    let mut left: Vec<(Vec<Name>, InodeId)> = vec![(Vec::new(), start)];
    while let Some((below, inode)) = left.pop() {
        let Some(node) = view.node(inode) else { continue };
        if node.kind == Kind::Dir {
            let children = view.entries(node.inode, None, usize::MAX).into_iter().rev();
            left.extend(children.map(|entry| ([&below[..], &[entry.name]].concat(), entry.inode)));
        }
        entries.push(Was { below, node });
    }
    entries
}

/// The event with this version id, or the beginning of one.
fn version<'a>(past: &'a Past, id: &str) -> Result<&'a Event, Failure> {
    let id = id.to_ascii_lowercase();
    let mut found: Vec<&Event> =
        past.events.iter().filter(|event| event.version.to_string().starts_with(&id)).collect();
    // A record that was published twice is one version.
    let mut seen = BTreeSet::new();
    found.retain(|event| seen.insert(event.version));
    match found[..] {
        [] => Err(Failure::new(FailureKind::NotFound, format!("no version {id} is known"))
            .with_hint("`crdtfs log --json` prints the ids of versions")),
        [event] => Ok(event),
        _ => Err(Failure::new(FailureKind::Usage, format!("{id} is the beginning of {} versions", found.len()))
            .with_hint("give more digits of it")),
    }
}
