//! What the user did: the difference between the last synced tree and an observation, as a pure function.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::node::{Kind, Xattrs};
use crdtfs_core::port::Hold;

use crate::disk::{Ident, Stamp};
use crate::observe::{Found, Observation};
use crate::plan::{Changes, Step, steps};
use crate::synced::{Place, Synced, SyncedTree};

/// A file's bytes, as read in a state that did not change meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    /// What the store knows the file by.
    pub(crate) key: InodeId,
    /// The bytes.
    pub(crate) content: ContentRef,
    /// The `user.*` attributes; `None` where the filesystem keeps none.
    pub(crate) xattrs: Option<Arc<Xattrs>>,
    /// The state.
    pub(crate) stamp: Stamp,
    /// Keeps what the store has of it until it is published.
    pub(crate) hold: Hold,
}

/// A file or directory that stayed what it is and has another state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    /// The node.
    pub(crate) id: InodeId,
    /// One of its names.
    pub(crate) at: Place,
    /// What was found.
    pub(crate) found: Found,
    /// Its bytes, where they had to be read again.
    pub(crate) bytes: Option<Indexed>,
}

/// What the user did.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalPlan {
    /// Names that came, went and moved.
    pub(crate) steps: Vec<Step>,
    /// States that changed, to be looked at after the steps.
    pub(crate) touched: Vec<Touched>,
    /// What each new node is.
    pub(crate) new: HashMap<InodeId, (Found, Option<Indexed>)>,
}

impl LocalPlan {
    /// Whether the user did nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.touched.is_empty()
    }
}

/// Whether a file that was found must be read: it is new, or its state is not explained by what leaves the bytes alone
/// (other permission bits, one link more or less, another name), or what is known of it is doubted, or it was `written` to,
/// says the watcher.
pub(crate) fn must_read(synced: &SyncedTree, place: &Place, found: &Found, written: &HashSet<Place>) -> bool {
    if found.kind != Kind::File {
        return false;
    }
    let Some(node) = synced.node(found.id).filter(|_| found.known) else { return true };
    let (before, now) = (&node.stamp, &found.stamp);
    if before.ident.is_void() {
        return before.ident.is_doubted() || !before.looks_like(now) || written.contains(place);
    }
    if !before.same_bytes(now) || written.contains(place) {
        return true;
    }
    let explained = before.mode != now.mode || before.nlink != now.nlink || synced.child(place) != Some(found.id);
    before.ctime != now.ctime && !explained
}

/// The difference. Files that must be read and are not in `indexed` in exactly the state that was found are left for later,
/// as if nothing were known of them yet.
pub(crate) fn plan(
    synced: &SyncedTree,
    obs: &Observation,
    indexed: &HashMap<Ident, Indexed>,
    written: &HashSet<Place>,
) -> LocalPlan {
    let mut diff = Diff {
        written,
        synced,
        obs,
        indexed,
        removed: BTreeMap::new(),
        added: Vec::new(),
        plan: LocalPlan::default(),
        elsewhere: elsewhere(synced, obs),
        seen: HashSet::new(),
        instead: HashMap::new(),
    };
    for (place, found) in &obs.places {
        diff.compare(place, found.as_ref());
    }
    diff.finish()
}

/// Nodes of the last synced tree that were found at a name that was not theirs.
fn elsewhere(synced: &SyncedTree, obs: &Observation) -> HashSet<InodeId> {
    let found = obs.places.iter().filter_map(|(place, found)| Some((place, found.as_ref()?)));
    found.filter(|(place, f)| f.known && synced.child(place) != Some(f.id)).map(|(_, f)| f.id).collect()
}

struct Diff<'a> {
    written: &'a HashSet<Place>,
    synced: &'a SyncedTree,
    obs: &'a Observation,
    indexed: &'a HashMap<Ident, Indexed>,
    removed: BTreeMap<Place, InodeId>,
    added: Vec<(Place, InodeId)>,
    plan: LocalPlan,
    elsewhere: HashSet<InodeId>,
    seen: HashSet<InodeId>,
    /// New files that are new states of known ones.
    instead: HashMap<InodeId, InodeId>,
}

impl Diff<'_> {
    fn bytes(&self, found: &Found) -> Option<Indexed> {
        self.indexed.get(&found.stamp.ident).filter(|i| i.stamp == found.stamp).cloned()
    }

    fn compare(&mut self, place: &Place, found: Option<&Found>) {
        let before = self.synced.child(place);
        let Some(found) = found else {
            self.remove(place, before);
            return;
        };
        let bytes = self.bytes(found);
        let unread = must_read(self.synced, place, found, self.written) && bytes.is_none();
        if before == Some(found.id) {
            if !unread {
                self.touch(found.id, place, found, bytes);
            }
            return;
        }
        if self.is_new_state(place, before, found) {
            // Written anew under the old name: an edit of what had the name.
            let id = before.expect("a new state of something");
            if !unread {
                self.instead.insert(found.id, id);
                self.touch(id, place, found, bytes);
            }
            return;
        }
        if unread && !found.known {
            if before.is_some_and(|b| self.elsewhere.contains(&b)) {
                self.remove(place, before);
            }
            return;
        }
        self.remove(place, before);
        self.added.push((place.clone(), found.id));
        if found.known {
            if !unread {
                self.touch(found.id, place, found, bytes);
            }
        } else {
            self.plan.new.insert(found.id, (found.clone(), bytes));
        }
    }

    fn is_new_state(&self, place: &Place, before: Option<InodeId>, found: &Found) -> bool {
        let Some(node) = before.and_then(|b| self.synced.node(b)) else { return false };
        let id = before.expect("it has a node");
        // Of a file with several names all of them are this one's.
        let is_this = |name: &Place| matches!(self.obs.places.get(name), Some(Some(there)) if there.id == found.id);
        let names = self.synced.names(id);
        let alone = names == std::slice::from_ref(place) || names.iter().all(is_this);
        !found.known && alone && !self.elsewhere.contains(&id) && node.kind == Kind::File && found.kind == Kind::File
    }

    fn touch(&mut self, id: InodeId, at: &Place, found: &Found, bytes: Option<Indexed>) {
        let Some(node) = self.synced.node(id) else { return };
        let changed = match found.kind {
            // A directory's times, size and links follow from its entries.
            Kind::Dir => node.stamp.mode != found.stamp.mode,
            _ => node.stamp != found.stamp || bytes.as_ref().is_some_and(|b| b.content.hash != node.content.hash),
        };
        if changed && self.seen.insert(id) {
            self.plan.touched.push(Touched { id, at: at.clone(), found: found.clone(), bytes });
        } else if changed
            && self.obs.through.contains(at)
            && let Some(touched) = self.plan.touched.iter_mut().find(|touched| touched.id == id)
        {
            touched.at = at.clone();
        }
    }

    fn remove(&mut self, place: &Place, before: Option<InodeId>) {
        if let Some(id) = before {
            self.removed.insert(place.clone(), id);
        }
    }

    fn finish(mut self) -> LocalPlan {
        self.remove_below();
        let rank: HashMap<InodeId, usize> =
            self.obs.new_dirs.iter().enumerate().map(|(at, dir)| (*dir, at + 1)).collect();
        let mut added: Vec<(Place, InodeId)> =
            self.added.into_iter().map(|(p, id)| (p, self.instead.get(&id).copied().unwrap_or(id))).collect();
        added.sort_by_key(|(place, _)| rank.get(&place.0).copied().unwrap_or(0));
        let new_dirs: BTreeSet<InodeId> =
            self.plan.new.iter().filter(|(_, (f, _))| f.kind == Kind::Dir).map(|(id, _)| *id).collect();
        let changes = Changes { removed: self.removed.into_iter().collect(), added, new_dirs };
        self.plan.steps = steps(self.synced, &changes);
        self.plan
    }

    /// What lay in a directory that is gone is gone, but for what was found elsewhere.
    fn remove_below(&mut self) {
        let gone = |id: &InodeId| self.synced.is_dir(*id) && !self.obs.moved.contains_key(id);
        let mut todo: Vec<InodeId> = self.removed.values().copied().filter(gone).collect();
        while let Some(dir) = todo.pop() {
            for (name, id) in self.synced.children(dir) {
                if self.removed.insert((dir, name.clone()), id).is_none() && gone(&id) {
                    todo.push(id);
                }
            }
        }
    }
}

/// The state that a node has on disk, as the last synced tree keeps it, when its bytes are these.
pub(crate) fn state_of(found: &Found, bytes: Option<&Indexed>, fresh: InodeId) -> Synced {
    Synced {
        kind: found.kind,
        stamp: found.stamp,
        key: bytes.map_or(fresh, |b| b.key),
        content: bytes.map_or(ContentRef::empty(), |b| b.content),
        basis: Arc::new([]),
        mode: found.stamp.mode,
        mtime: found.stamp.mtime,
        xattrs: bytes.and_then(|b| b.xattrs.clone()).unwrap_or_default(),
        target: found.target.clone().into(),
    }
}
