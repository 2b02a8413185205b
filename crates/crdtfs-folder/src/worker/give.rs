//! Giving: the share's changes into the folder.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::node::Shown;

use super::Worker;
use super::problems::Of;
use super::todo::Why;
use crate::apply::{Applier, ApplyError, Done, intent, temporary_name};
use crate::crew::{FetchJob, Fetched, LARGE};
use crate::plan::Step;
use crate::remote::{self, Inputs, Item, RemotePlan, ViewDirty, Want};
use crate::synced::SyncedTree;

/// A batch of small files that is fetched at once.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 16 << 20;
/// Pause before what failed is tried again, at first.
const FAILED_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Brings the folder to what the view shows, as far as it is known to differ.
    pub(super) fn give(&mut self) {
        if !self.check_root() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.view);
        self.unite(&mut dirty);
        self.drop_unwanted();
        let staged: HashMap<InodeId, ContentRef> = self.staged.iter().map(|(id, s)| (*id, s.content)).collect();
        let plan = {
            let synced = self.synced.read();
            let listed = |item: &Item| self.todo.has(item);
            let listed: Option<&dyn Fn(&Item) -> bool> = if self.todo.is_empty() { None } else { Some(&listed) };
            remote::plan(&Inputs { listed, ..self.inputs(&synced, &dirty, &staged) })
        };
        self.tell_unshown(&plan);
        let done = if self.announce(&plan) {
            Applier::new(&self.root, &self.ports, &self.synced, &mut self.watcher, &mut self.staged, &mut self.serial)
                .apply(&plan)
        } else {
            Done::default()
        };
        self.want(&plan.wants);
        self.note_done(&dirty, &plan, done);
    }

    fn inputs<'a>(
        &'a self,
        synced: &'a SyncedTree,
        dirty: &'a ViewDirty,
        staged: &'a HashMap<InodeId, ContentRef>,
    ) -> Inputs<'a> {
        let abilities = self.root.abilities();
        Inputs { synced, tree: &*self.ports.tree, dirty, staged, ignores: &self.ignores, abilities, listed: None }
    }

    /// Tells the user of entries that cannot be shown here, for as long as they are there.
    fn tell_unshown(&mut self, plan: &RemotePlan) {
        for (place, why) in &plan.unshown {
            let path = self.path_of(place);
            self.shown.problems.say(&path, Of::Giving, (*why).to_owned());
            if let Some(before) = self.unshown.insert(place.clone(), path.clone())
                && before != path
            {
                self.shown.problems.end(&before, Of::Giving);
            }
        }
        if self.unshown.is_empty() {
            return;
        }
        let (none, staged) = (ViewDirty::default(), HashMap::new());
        let mut unshown = std::mem::take(&mut self.unshown);
        unshown.retain(|place, path| {
            let still = remote::why_unshown(&self.inputs(&self.synced.read(), &none, &staged), place).is_some();
            if !still {
                self.shown.problems.end(path, Of::Giving);
            }
            still
        });
        self.unshown = unshown;
    }

    /// Puts what was looked at, and is still not as the view has it, on the list, and takes off what is.
    fn keep_list(&mut self, dirty: &ViewDirty, plan: &RemotePlan, failed: &HashMap<Item, Why>) {
        // What is on the list and was not even looked at, for want of its directory.
        let asked = dirty.places.iter().cloned().map(Item::Place).chain(dirty.nodes.iter().copied().map(Item::Node));
        let known = asked.chain(failed.keys().cloned()).filter(|item| !plan.looked.contains_key(item));
        let asked = known.filter(|item| self.todo.has(item) || failed.contains_key(item));
        let mut items: Vec<Item> = plan.looked.keys().cloned().chain(asked).collect();
        if dirty.all {
            items.extend(self.todo.items().filter(|item| !plan.looked.contains_key(item)).cloned());
        }
        self.check_items(items, failed);
    }

    /// Looks whether these differ (still): the only way onto the list and off it.
    fn check_items(&mut self, items: Vec<Item>, failed: &HashMap<Item, Why>) {
        let now = Instant::now();
        let (none, staged) = (ViewDirty::default(), HashMap::new());
        let checked: Vec<(Item, Option<Why>)> = {
            let synced = self.synced.read();
            let inputs = self.inputs(&synced, &none, &staged);
            let check = |item: Item| {
                let differs = remote::differs(&inputs, &item) || failed.contains_key(&item);
                let why = differs.then(|| failed.get(&item).copied().unwrap_or_else(|| self.waits_for(&item)));
                (item, why)
            };
            items.into_iter().map(check).collect()
        };
        for (item, why) in checked {
            match why {
                Some(why) => self.todo.put_off(item, why, now),
                None => {
                    if let Some(path) = self.todo.done(&item) {
                        self.shown.problems.end(&path, Of::Giving);
                    }
                }
            }
        }
    }

    /// What something waits for that was not even tried.
    fn waits_for(&self, item: &Item) -> Why {
        let node = match item {
            Item::Place(place) => remote::child(&*self.ports.tree, place),
            Item::Node(id) => self.ports.tree.node(*id),
        };
        match node {
            Some(node) if self.wanted.get(&node.inode).is_some_and(|c| c.hash == node.content.hash) => Why::Bytes,
            Some(node) if node.shown == Shown::Pending => Why::Merge,
            _ => Why::Others,
        }
    }

    /// Something happened that what is on the list may have waited for.
    pub(super) fn wake_others(&mut self) {
        for item in self.todo.waiting_for_others() {
            self.view.item(item);
        }
    }

    /// Takes over identities from the view.
    pub(super) fn unite(&mut self, dirty: &mut ViewDirty) {
        let staged = HashMap::new();
        let rekeys = {
            let synced = self.synced.read();
            remote::rekeys(&self.inputs(&synced, dirty, &staged))
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
        self.local.names.extend(done.local.names);
        self.local.dirs.extend(done.local.dirs);
        self.written.extend(done.written);
        self.view.merge(done.view);
        for key in &done.stale {
            self.bench.forget(*key);
        }
        let mut failed = HashMap::new();
        for (item, error) in &done.failed {
            failed.insert(item.clone(), why_failed(error));
        }
        self.keep_list(dirty, plan, &failed);
        for (item, error) in done.failed {
            if let ApplyError::Busy | ApplyError::Io { .. } = error {
                self.tell(item, error.to_string());
            }
        }
        if done.steps > 0 {
            self.progress = true;
            self.save_soon();
        }
        self.bench.keys.release_placed();
    }

    /// Tells the user of something on the list, until it is off it.
    fn tell(&mut self, item: Item, message: String) {
        let place = match &item {
            Item::Place(place) => Some(place.clone()),
            Item::Node(id) => {
                let here = self.synced.read().names(*id).first().cloned();
                here.or_else(|| self.ports.tree.names(*id).into_iter().next())
            }
        };
        if let Some(path) = place.map(|place| self.path_of(&place)).filter(|_| self.todo.has(&item)) {
            self.shown.problems.say(&path, Of::Giving, message);
            self.todo.told(&item, path);
        }
    }

    /// Has contents fetched, unless they are being fetched.
    fn want(&mut self, wants: &[Want]) {
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
                node: want.node.clone(),
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
            let failure = match result {
                Ok(staged) => {
                    self.progress = true;
                    self.view.nodes.insert(inode);
                    self.view.places.extend(places);
                    if let Some(old) = self.staged.insert(inode, staged) {
                        self.discard(&old);
                    }
                    continue;
                }
                // What there was no room for, or nobody had, is still on the list if it is still wanted.
                Err(error) => error,
            };
            tracing::debug!(%inode, error = %failure, "a content cannot be fetched now");
            let items = places.into_iter().map(Item::Place).chain([Item::Node(inode)]);
            let items: Vec<Item> = items.filter(|item| self.todo.has(item)).collect();
            let failed = items.iter().map(|item| (item.clone(), Why::Failed(FAILED_AGAIN))).collect();
            self.check_items(items.clone(), &failed);
            if let Some(item) = items.into_iter().next() {
                self.tell(item, why_not_fetched(&failure));
            }
        }
    }
}

/// Why a content is not here, and what to do about it.
fn why_not_fetched(failure: &io::Error) -> String {
    match failure.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "there is no room on the disk for its content: free some, and it is fetched".into()
        }
        _ => {
            format!("its content cannot be fetched now ({failure}); tried again when a device that has it is reachable")
        }
    }
}

fn why_failed(error: &ApplyError) -> Why {
    match error {
        ApplyError::Raced | ApplyError::Stale => Why::Raced,
        ApplyError::Busy => Why::Open,
        // What is in it is ignored or unknown to the share: kept until that changes.
        ApplyError::Io { source, .. } if source.kind() == ErrorKind::DirectoryNotEmpty => Why::Kept,
        ApplyError::Io { .. } => Why::Failed(FAILED_AGAIN),
    }
}
