//! Giving: the share's changes into the folder.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId};

use super::Worker;
use crate::apply::{Applier, ApplyError, Done, intent, temporary_name};
use crate::crew::{FetchJob, Fetched, LARGE};
use crate::plan::Step;
use crate::remote::{self, Inputs, RemotePlan, ViewDirty, Want};
use crate::synced::{Place, SyncedTree};

/// A batch of small files that is fetched at once.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 16 << 20;
/// Pauses before what failed is tried again, at first.
const RACED_AGAIN: Duration = Duration::from_millis(20);
const BUSY_AGAIN: Duration = Duration::from_millis(500);
const FAILED_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Brings the folder to what the view shows, as far as it is known to differ.
    pub(super) fn give(&mut self) {
        if !self.check_root() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.view);
        if dirty.all {
            self.view_waiting = ViewDirty::default();
        }
        self.unite(&mut dirty);
        self.drop_unwanted();
        let staged: HashMap<InodeId, ContentRef> = self.staged.iter().map(|(id, s)| (*id, s.content)).collect();
        let plan = {
            let synced = self.synced.read();
            let inputs = Inputs {
                synced: &synced,
                tree: &*self.ports.tree,
                dirty: &dirty,
                staged: &staged,
                awaited: &|| self.awaited(&synced),
                ignores: &self.ignores,
            };
            remote::plan(&inputs)
        };
        for (place, why) in &plan.unshown {
            self.problem(&self.path_of(place), why.clone());
        }
        self.view_waiting.merge(plan.waiting.clone());
        if self.announce(&plan) {
            let done = Applier::new(
                &self.root,
                &*self.ports.tree,
                &self.synced,
                &mut self.watcher,
                &mut self.staged,
                &mut self.serial,
            )
            .apply(&plan);
            self.note_done(&dirty, &plan, done);
        } else {
            self.view_waiting.merge(dirty);
        }
        self.want(plan.wants);
    }

    /// Contents that are to come into the folder, whether or not this is the time for them: what has them is not replaced.
    fn awaited(&self, here: &SyncedTree) -> HashSet<Hash> {
        let tree = &self.ports.tree;
        let places = self.view_waiting.places.iter().filter_map(|place| tree.child(place.0, &place.1));
        let nodes = self.view_waiting.nodes.iter().copied().chain(self.retries.values().map(|retry| retry.id));
        let waiting = places.chain(nodes.filter_map(|id| tree.node(id)));
        let waiting =
            waiting.filter(|node| here.node(node.inode).is_none_or(|has| has.content.hash != node.content.hash));
        self.wanted.values().map(|content| content.hash).chain(waiting.map(|node| node.content.hash)).collect()
    }

    /// What waits for bytes is looked at again once nothing is being fetched; what still waits then (for a merge, for a
    /// program to close a file) comes by a change of the view or a retry.
    pub(super) fn recheck_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.view_waiting);
        let pending =
            |id: &InodeId| self.ports.tree.node(*id).is_some_and(|n| n.shown == crdtfs_core::node::Shown::Pending);
        let mut again = ViewDirty { all: waiting.all, dirs: waiting.dirs, ..ViewDirty::default() };
        again.nodes = waiting.nodes.into_iter().filter(|id| !pending(id)).collect();
        let child = |p: &Place| self.ports.tree.child(p.0, &p.1).map(|n| n.inode);
        again.places = waiting.places.into_iter().filter(|p| !child(p).is_some_and(|id| pending(&id))).collect();
        again.places.retain(|p| !self.retries.contains_key(p));
        let retried: HashSet<InodeId> = self.retries.values().map(|r| r.id).collect();
        again.nodes.retain(|id| !retried.contains(id));
        self.view.merge(again);
    }

    /// Takes over identities from the view.
    pub(super) fn unite(&mut self, dirty: &mut ViewDirty) {
        let staged = HashMap::new();
        let rekeys = {
            let synced = self.synced.read();
            let inputs = Inputs {
                synced: &synced,
                tree: &*self.ports.tree,
                dirty,
                staged: &staged,
                awaited: &HashSet::new,
                ignores: &self.ignores,
            };
            remote::rekeys(&inputs)
        };
        for (from, to) in rekeys {
            tracing::debug!(%from, %to, "united");
            self.synced.write().rekey(from, to);
            self.goes_by(from, to);
            dirty.dirs.insert(to);
            dirty.nodes.insert(to);
            self.save_soon();
        }
    }

    /// Throws away what was fetched and is not what the view shows any more, or was found in the folder meanwhile.
    pub(super) fn drop_unwanted(&mut self) {
        let tree = &self.ports.tree;
        let unwanted: Vec<InodeId> = {
            let synced = self.synced.read();
            let wanted = |id: &InodeId, content: &ContentRef| {
                // Under an identity that is part of another by now (saved by rename, twins) nothing is put into place.
                tree.node(*id).is_some_and(|node| node.inode == *id && node.content.hash == content.hash)
                    && synced.node(*id).is_none_or(|has| has.content.hash != content.hash)
            };
            self.staged.iter().filter(|(id, s)| !wanted(id, &s.content)).map(|(id, _)| *id).collect()
        };
        for id in unwanted {
            if let Some(staged) = self.staged.remove(&id) {
                self.discard(&staged);
            }
        }
    }

    /// Says durably what is about to be put into place, so that it is recognised after a crash.
    fn announce(&mut self, plan: &RemotePlan) -> bool {
        let created = plan.steps.iter().filter_map(|step| match step {
            Step::Create { id, .. } => Some(*id),
            _ => None,
        });
        let mut any = false;
        for id in created.chain(plan.replace.iter().copied()) {
            if let (Some(staged), Some(node)) = (self.staged.get(&id), self.ports.tree.node(id)) {
                self.synced.write().intend(intent(id, staged, &node));
                any = true;
            }
        }
        if !any {
            return true;
        }
        self.save()
    }

    fn note_done(&mut self, dirty: &ViewDirty, plan: &RemotePlan, done: Done) {
        let failed: HashSet<&Place> = done.failed.iter().map(|(place, ..)| place).collect();
        let fetching: HashSet<InodeId> = plan.wants.iter().map(|w| w.inode).collect();
        let tried = |place: &Place| (dirty.all || dirty.places.contains(place)) && !failed.contains(place);
        let over = self.retries.iter().filter(|(place, retry)| tried(place) && !fetching.contains(&retry.id));
        let over: Vec<Place> = over.map(|(place, _)| place.clone()).collect();
        for place in over {
            self.retries.remove(&place);
            self.no_problem(&self.path_of(&place));
        }
        self.local.names.extend(done.local.names);
        self.local.dirs.extend(done.local.dirs);
        self.view.merge(done.view);
        for key in &done.stale {
            self.bench.forget(*key);
        }
        for (place, id, error) in done.failed {
            self.note_failed(place, id, &error);
        }
        if done.steps > 0 {
            self.progress = true;
            self.save_soon();
        }
        self.bench.keys.release_placed();
    }

    fn note_failed(&mut self, place: Place, id: InodeId, error: &ApplyError) {
        match error {
            ApplyError::Raced | ApplyError::Stale => self.retry(place, id, RACED_AGAIN),
            ApplyError::Busy => {
                self.problem(&self.path_of(&place), error.to_string());
                self.retry(place, id, BUSY_AGAIN);
            }
            ApplyError::Io { source, .. } => {
                self.problem(&self.path_of(&place), error.to_string());
                let kept = source.kind() == std::io::ErrorKind::DirectoryNotEmpty;
                let tries = self.retries.get(&place).map_or(0, |r| r.tries);
                if kept && tries >= 3 {
                    // What is in it is ignored or unknown to the share: kept until that changes.
                    self.retries.remove(&place);
                } else {
                    self.retry(place, id, if kept { RACED_AGAIN } else { FAILED_AGAIN });
                }
            }
        }
    }

    /// Has contents fetched, unless they are being fetched.
    fn want(&mut self, wants: Vec<Want>) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for want in wants {
            let content = want.node.content;
            let under_way = self.wanted.get(&want.inode).is_some_and(|c| c.hash == content.hash);
            let here = self.staged.get(&want.inode).is_some_and(|s| s.content.hash == content.hash);
            if under_way || here {
                continue;
            }
            self.wanted.insert(want.inode, content);
            let job = FetchJob {
                inode: want.inode,
                name: temporary_name(&mut self.serial),
                key: InodeId(self.ports.tree.fresh_id()),
                node: want.node,
            };
            if content.size > LARGE {
                self.crew.fetch(vec![job]);
                continue;
            }
            bytes += content.size;
            batch.push(job);
            if batch.len() >= BATCH_FILES || bytes >= BATCH_BYTES {
                self.crew.fetch(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.crew.fetch(batch);
        }
    }

    /// The crew fetched contents, or could not.
    pub(super) fn was_fetched(&mut self, fetched: Vec<Fetched>) {
        for Fetched { inode, content, result } in fetched {
            if self.wanted.get(&inode).is_some_and(|c| c.hash == content.hash) {
                self.wanted.remove(&inode);
            }
            let places = self.ports.tree.names(inode);
            match result {
                Ok(staged) => {
                    self.progress = true;
                    self.view.nodes.insert(inode);
                    self.view.places.extend(places);
                    if let Some(old) = self.staged.insert(inode, staged) {
                        self.discard(&old);
                    }
                }
                // The directory for it is gone or elsewhere: another will do.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if let Some(place) = places.into_iter().next() {
                        self.retry(place, inode, RACED_AGAIN);
                    }
                }
                Err(error) => {
                    tracing::debug!(%inode, %error, "a content cannot be fetched now");
                    if let Some(place) = places.into_iter().next() {
                        self.problem(
                            &self.path_of(&place),
                            format!("its content cannot be fetched now ({error}); tried again when a device that has it is reachable"),
                        );
                        self.retry(place, inode, FAILED_AGAIN);
                    }
                }
            }
        }
    }
}
