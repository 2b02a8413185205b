//! `crdtfs ls` and `crdtfs log`: the tree with what of it is here, and how it came about.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crdtfs_control::reply::{Action, Entry, Event, Listed, Local, Logged};
use crdtfs_control::{Failure, FailureKind, FromText, Item, PathText, Reply, Talk, request};
use crdtfs_core::history;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node, Shown};

use crate::convert;
use crate::core::Core;
use crate::past::{self, Unsuffixed};
use crate::share::Share;
use crate::shows::blocking;

/// Entries that are read at a time.
const PAGE: usize = 1024;

impl Core {
    pub(crate) async fn ls(self: &Arc<Self>, asked: request::Ls, talk: &mut Talk) -> Result<Reply, Failure> {
        let core = self.clone();
        let (share, start, path) = blocking(move || {
            let found = core.find(&asked.path.to_path())?;
            let inode = found.share.walk(&found.below).ok_or_else(|| not_found(&asked.path))?;
            Ok((found.share, inode, found.below))
        })
        .await?;
        let node = share.read(|replica| replica.view().node(start));
        if let Some(node) = node.filter(|node| node.kind != Kind::Dir) {
            talk.send(Item::Entry(entry(&share, &node, path.as_os_str().as_bytes()))).await?;
            return Ok(Reply::Listed(Listed { entries: 1 }));
        }
        let mut listed = 0;
        // The directories from the start down to where we are, each with what of it was read and not listed yet.
        let mut open = vec![Walk::new(start, path.as_os_str().as_bytes().to_vec())];
        while let Some(walk) = open.last_mut() {
            let Some((name, node)) = walk.next(&share) else {
                open.pop();
                continue;
            };
            let path = join(&walk.path, &name);
            talk.send(Item::Entry(entry(&share, &node, &path))).await?;
            listed += 1;
            if asked.recursive && node.kind == Kind::Dir {
                open.push(Walk::new(node.inode, path));
            }
        }
        Ok(Reply::Listed(Listed { entries: listed }))
    }

    pub(crate) async fn log(self: &Arc<Self>, asked: request::Log, talk: &mut Talk) -> Result<Reply, Failure> {
        let core = self.clone();
        let events = blocking(move || {
            let found = core.find(&asked.path.to_path())?;
            let events = found.share.history().map_err(|error| Failure::failed(error.to_string()))?;
            let path = found.below.as_os_str().as_bytes().to_vec();
            let events = found.share.concerned(events, &path);
            let now = found.share.walk(&found.below);
            if events.is_empty() && now.is_none() {
                return Err(nothing_of_this_name(&asked.path));
            }
            Ok(events)
        })
        .await?;
        let mut logged = 0;
        for event in events {
            talk.send(Item::Event(self::event(event))).await?;
            logged += 1;
        }
        Ok(Reply::Logged(Logged { events: logged }))
    }
}

/// A directory that is being listed, a page at a time.
struct Walk {
    dir: InodeId,
    path: Vec<u8>,
    page: std::vec::IntoIter<(Name, Node)>,
    last: Option<Name>,
    whole: bool,
}

impl Walk {
    fn new(dir: InodeId, path: Vec<u8>) -> Self {
        Self { dir, path, page: Vec::new().into_iter(), last: None, whole: false }
    }

    fn next(&mut self, share: &Share) -> Option<(Name, Node)> {
        if self.page.len() == 0 && !self.whole {
            let page = page(share, self.dir, self.last.as_ref());
            self.whole = page.len() < PAGE;
            self.last = page.last().map(|(name, _)| name.clone());
            self.page = page.into_iter();
        }
        self.page.next()
    }
}

/// Entries of a directory with their nodes, from the first after `after` on.
fn page(share: &Share, dir: InodeId, after: Option<&Name>) -> Vec<(Name, Node)> {
    share.read(|replica| {
        let view = replica.view();
        let entries = view.entries(dir, after, PAGE).into_iter();
        entries.filter_map(|entry| view.node(entry.inode).map(|node| (entry.name, node))).collect()
    })
}

fn entry(share: &Share, node: &Node, path: &[u8]) -> Entry {
    let file = node.kind == Kind::File;
    Entry {
        path: PathText::from_bytes(path),
        kind: convert::kind_out(node.kind),
        size: node.content.size,
        mode: node.mode,
        mtime_ms: convert::time_out(node.mtime),
        local: share.local(node),
        conflict: node.shown == Shown::ConflictCopy,
        pending: node.shown == Shown::Pending,
        blake3: file.then(|| node.content.hash.to_string()),
    }
}

impl Share {
    /// The events that tell of a path: what happened there and below; to what is there now wherever it was, and to what was
    /// removed there until then; of a file also the versions that stand or stood beside it as its conflict copies, and of a
    /// conflict copy the version that it is.
    fn concerned(&self, events: Vec<history::Event>, path: &[u8]) -> Vec<history::Event> {
        let walk = |path: &[u8]| self.read(|replica| past::walk(replica.view(), path));
        let mut inodes: BTreeSet<InodeId> = walk(path).into_iter().filter(|now| *now != InodeId::ROOT).collect();
        let unsuffixed = Unsuffixed::parse(path);
        let holder = unsuffixed.as_ref().and_then(|of| self.read(|replica| of.walk(replica.view())));
        let told = |event: &history::Event| unsuffixed.as_ref().is_some_and(|unsuffixed| unsuffixed.tells_of(event));
        // One that could not have its name is a file of its own; another version of a file is in that one's history.
        inodes.extend(
            events.iter().filter(|event| told(event)).map(|event| event.inode).filter(|of| Some(*of) != holder),
        );
        let beside = |event: &history::Event| Unsuffixed::parse(&event.path).is_some_and(|of| of.is_of(path));
        let removed = past::removed_at(&events, path);
        let of_it = |event: &history::Event| inodes.contains(&event.inode) || removed.contains(&event.version);
        let concerned = |event: &history::Event| event.concerns(path) || of_it(event) || told(event) || beside(event);
        events.into_iter().filter(concerned).collect()
    }

    /// What of a node's bytes is here.
    pub(crate) fn local(&self, node: &Node) -> Local {
        if node.kind != Kind::File || self.has_whole(&node.content) {
            return Local::Whole;
        }
        match self.store().missing(&node.content) {
            Ok(missing) if missing.bytes == 0 && missing.manifest_nodes.is_empty() => Local::Whole,
            Ok(missing) if missing.bytes < node.content.size => Local::Partly,
            _ => Local::Absent,
        }
    }

    /// The node at a path below the root.
    pub(crate) fn walk(&self, below: &Path) -> Option<InodeId> {
        self.read(|replica| {
            let mut at = InodeId::ROOT;
            for component in below.components() {
                at = replica.view().child(at, component.as_os_str().as_bytes())?;
            }
            Some(at)
        })
    }

    /// A path of a node below the root; empty for the root.
    pub(crate) fn path_of(&self, inode: InodeId) -> Option<Vec<u8>> {
        self.read(|replica| {
            let mut names = Vec::new();
            let mut at = inode;
            while at != InodeId::ROOT {
                let (dir, name) = replica.view().names(at).into_iter().next()?;
                names.push(name);
                at = dir;
            }
            let names: Vec<&[u8]> = names.iter().rev().map(Name::as_bytes).collect();
            Some(names.join(&b'/'))
        })
    }

    /// Some of the paths that lack bytes that are wanted here: those of merges that wait for some, then others.
    pub(crate) fn missing_paths(&self, limit: usize) -> Vec<PathText> {
        let mut lacking = self.read(|replica| {
            let view = replica.view();
            view.wanted().iter().flat_map(|content| view.waiting_for(&content.hash)).collect::<Vec<_>>()
        });
        if !self.holding().partial {
            lacking.extend(self.missing_contents(limit).into_iter().map(|(inode, _)| inode));
        }
        let mut paths: Vec<PathText> = Vec::new();
        for path in lacking.into_iter().filter_map(|inode| self.path_of(inode)) {
            let path = PathText::from_bytes(&path);
            if paths.len() < limit && !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

fn join(dir: &[u8], name: &Name) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}

fn not_found(path: &PathText) -> Failure {
    Failure::new(FailureKind::NotFound, format!("{path}: no such file or directory in the share"))
}

fn event(event: history::Event) -> Event {
    Event {
        time_ms: event.time_ms,
        device: event.device_name,
        device_id: event.device.to_string(),
        event: match event.action {
            history::Action::Create => Action::Create,
            history::Action::Update => Action::Update,
            history::Action::Move => Action::Move,
            history::Action::Delete => Action::Delete,
        },
        path: PathText::from_bytes(&event.path),
        from: event.from.as_deref().map(FromText::from_bytes),
        blake3: event.content.map(|content| content.hash.to_string()),
        size: event.content.map(|content| content.size),
        version: event.version.to_string(),
    }
}

/// Neither there nor in the history.
pub(crate) fn nothing_of_this_name(path: &PathText) -> Failure {
    Failure::new(FailureKind::NotFound, format!("{path}: nothing of this name is in the share, nor ever was"))
}
