//! The planner: how to get from one tree to another, step by step, as a pure function.
//!
//! Both directions use it. What the user did is the way from the last synced tree to the folder, step by step made
//! operations of the share; what others did is the way from the last synced tree to the view, step by step made on disk.
//! Each step can be done on the tree that the steps before it left: no name is taken twice, no directory goes below
//! itself, nothing is removed that still has entries. Moves in chains are ordered, swaps are swaps, and what is knotted
//! worse is undone by parking one entry under a name of ours in the root.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;

use crate::disk::PARKED;
use crate::synced::{Place, SyncedTree};

/// One step from one tree towards another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new node. `over` is a non-directory that has the name and goes away with it.
    Create {
        /// Its name.
        at: Place,
        /// The node.
        id: InodeId,
        /// What it replaces.
        over: Option<InodeId>,
    },
    /// One more name of a node that exists.
    Link {
        /// The node.
        id: InodeId,
        /// The new name.
        at: Place,
    },
    /// Another name for an entry. `over` is a non-directory that has the name and goes away with it.
    Move {
        /// The node.
        id: InodeId,
        /// Its name before.
        from: Place,
        /// Its name after.
        to: Place,
        /// What it replaces.
        over: Option<InodeId>,
    },
    /// Two entries take each other's name.
    Swap {
        /// One name.
        a: Place,
        /// The other.
        b: Place,
    },
    /// A name goes away; a directory has no entries any more.
    Remove {
        /// The node.
        id: InodeId,
        /// The name.
        at: Place,
    },
}

/// What is to be different.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Names that go, with what they stand for in the tree before.
    pub(crate) removed: Vec<(Place, InodeId)>,
    /// Names that come, with what they are to stand for; of a new directory before what lies in it.
    pub(crate) added: Vec<(Place, InodeId)>,
    /// Nodes among the added that are new and directories.
    pub(crate) new_dirs: BTreeSet<InodeId>,
}

impl Changes {
    /// Whether nothing is to be different.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

#[derive(Clone, Debug)]
enum Task {
    Create(InodeId, Place),
    Link(InodeId, Place),
    Move(InodeId, Place, Place),
}

impl Task {
    fn to(&self) -> &Place {
        match self {
            Self::Create(_, to) | Self::Link(_, to) | Self::Move(_, _, to) => to,
        }
    }
}

/// The tree before, with the steps so far done to it.
struct Sim<'a> {
    before: &'a SyncedTree,
    new_dirs: &'a BTreeSet<InodeId>,
    at: HashMap<Place, Option<InodeId>>,
    dirs: HashMap<InodeId, Option<Place>>,
    counts: HashMap<InodeId, usize>,
    made: BTreeSet<InodeId>,
}

impl Sim<'_> {
    fn child(&self, place: &Place) -> Option<InodeId> {
        self.at.get(place).copied().unwrap_or_else(|| self.before.child(place))
    }

    fn is_dir(&self, id: InodeId) -> bool {
        self.before.is_dir(id) || self.new_dirs.contains(&id)
    }

    /// Where a directory is, if it is anywhere.
    fn dir_place(&self, dir: InodeId) -> Option<Place> {
        self.dirs.get(&dir).cloned().unwrap_or_else(|| self.before.names(dir).first().cloned())
    }

    fn has_dir(&self, dir: InodeId) -> bool {
        dir == InodeId::ROOT || (self.is_dir(dir) && self.dir_place(dir).is_some())
    }

    fn exists(&self, id: InodeId) -> bool {
        self.before.node(id).is_some() || self.made.contains(&id)
    }

    fn is_below(&self, id: InodeId, above: InodeId) -> bool {
        let mut at = id;
        while at != above {
            match self.dir_place(at) {
                Some((parent, _)) if at != InodeId::ROOT => at = parent,
                _ => return false,
            }
        }
        true
    }

    fn count(&self, dir: InodeId) -> usize {
        self.counts.get(&dir).copied().unwrap_or_else(|| self.before.count(dir))
    }

    fn put(&mut self, place: Place, id: Option<InodeId>) {
        let before = self.child(&place);
        let count = self.count(place.0) + usize::from(id.is_some()) - usize::from(before.is_some());
        self.counts.insert(place.0, count);
        if let Some(gone) = before
            && self.is_dir(gone)
            && self.dir_place(gone).as_ref() == Some(&place)
        {
            self.dirs.insert(gone, None);
        }
        if let Some(id) = id {
            self.made.insert(id);
            if self.is_dir(id) {
                self.dirs.insert(id, Some(place.clone()));
            }
        }
        self.at.insert(place, id);
    }
}

struct Planner<'a> {
    sim: Sim<'a>,
    tasks: Vec<Task>,
    removals: BTreeMap<Place, InodeId>,
    /// How many names of each node were parked.
    parked: HashMap<InodeId, u32>,
    steps: Vec<Step>,
}

/// The steps that make these changes. Changes that cannot be made (into a directory that is nowhere) are left out.
pub(crate) fn steps(before: &SyncedTree, changes: &Changes) -> Vec<Step> {
    let (tasks, removals) = pair(before, changes);
    let sim = Sim {
        before,
        new_dirs: &changes.new_dirs,
        at: HashMap::new(),
        dirs: HashMap::new(),
        counts: HashMap::new(),
        made: BTreeSet::new(),
    };
    let mut planner = Planner { sim, tasks, removals, parked: HashMap::new(), steps: Vec::new() };
    planner.run();
    planner.steps
}

/// Names that come and go, node by node, as tasks: a name that went and one that came are a move.
fn pair(before: &SyncedTree, changes: &Changes) -> (Vec<Task>, BTreeMap<Place, InodeId>) {
    let mut gone: HashMap<InodeId, Vec<&Place>> = HashMap::new();
    for (place, id) in changes.removed.iter().rev() {
        gone.entry(*id).or_default().push(place);
    }
    let mut removals: BTreeMap<Place, InodeId> = changes.removed.iter().cloned().collect();
    let mut tasks = Vec::new();
    let mut created = BTreeSet::new();
    for (place, id) in &changes.added {
        let known = before.node(*id).is_some();
        if let Some(from) = gone.get_mut(id).and_then(Vec::pop) {
            removals.remove(from);
            tasks.push(Task::Move(*id, from.clone(), place.clone()));
        } else if known || !created.insert(*id) {
            tasks.push(Task::Link(*id, place.clone()));
        } else {
            tasks.push(Task::Create(*id, place.clone()));
        }
    }
    (tasks, removals)
}

impl Planner<'_> {
    fn run(&mut self) {
        loop {
            while self.pass() {}
            if self.tasks.is_empty() || !(self.remove_all() || self.untie()) {
                break;
            }
        }
        self.remove_all();
    }

    /// Does every task that can be done now; whether any was.
    fn pass(&mut self) -> bool {
        let mut done = false;
        let mut left = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            if self.can(&task) {
                self.act(task);
                done = true;
            } else {
                left.push(task);
            }
        }
        self.tasks = left;
        done
    }

    /// The non-directory that has a name and goes away anyway.
    fn going(&self, place: &Place) -> Option<InodeId> {
        self.removals.get(place).copied().filter(|id| !self.sim.is_dir(*id) && self.sim.child(place) == Some(*id))
    }

    fn can(&self, task: &Task) -> bool {
        let to = task.to();
        if !self.sim.has_dir(to.0) {
            return false;
        }
        let free = self.sim.child(to).is_none();
        match task {
            Task::Create(id, _) => free || (!self.sim.is_dir(*id) && self.going(to).is_some()),
            Task::Link(id, _) => free && self.sim.exists(*id),
            Task::Move(id, from, _) if self.sim.is_dir(*id) => {
                free && self.sim.child(from) == Some(*id) && !self.sim.is_below(to.0, *id)
            }
            Task::Move(id, from, _) => self.sim.child(from) == Some(*id) && (free || self.going(to).is_some()),
        }
    }

    fn act(&mut self, task: Task) {
        let over = self.going(task.to());
        if over.is_some() {
            self.removals.remove(task.to());
        }
        match task {
            Task::Create(id, at) => {
                self.sim.put(at.clone(), Some(id));
                self.steps.push(Step::Create { at, id, over });
            }
            Task::Link(id, at) => {
                self.sim.put(at.clone(), Some(id));
                self.steps.push(Step::Link { id, at });
            }
            Task::Move(id, from, to) => {
                self.sim.put(from.clone(), None);
                self.sim.put(to.clone(), Some(id));
                self.steps.push(Step::Move { id, from, to, over });
            }
        }
    }

    /// Removes what can be removed, entries before their directories; whether there was any.
    fn remove_all(&mut self) -> bool {
        let before = self.steps.len();
        loop {
            let ready: Vec<(Place, InodeId)> = self
                .removals
                .iter()
                .filter(|(_, id)| !self.sim.is_dir(**id) || self.sim.count(**id) == 0)
                .map(|(place, id)| (place.clone(), *id))
                .collect();
            if ready.is_empty() {
                return self.steps.len() > before;
            }
            for (at, id) in ready {
                self.removals.remove(&at);
                self.sim.put(at.clone(), None);
                self.steps.push(Step::Remove { id, at });
            }
        }
    }

    /// Nothing can be done as it is: swaps two entries that are in each other's way, or parks one.
    fn untie(&mut self) -> bool {
        self.swap() || self.park()
    }

    fn swap(&mut self) -> bool {
        let from: HashMap<Place, usize> = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, t)| matches!(t, Task::Move(..)))
            .map(|(i, t)| (source(t), i))
            .collect();
        for i in 0..self.tasks.len() {
            let Task::Move(x, a, b) = self.tasks[i].clone() else { continue };
            let Some(&j) = from.get(&b) else { continue };
            let Task::Move(y, _, target) = self.tasks[j].clone() else { continue };
            let placed = self.sim.child(&a) == Some(x) && self.sim.child(&b) == Some(y);
            if i == j || !placed || self.sim.is_below(a.0, y) || self.sim.is_below(b.0, x) {
                continue;
            }
            self.sim.put(a.clone(), None);
            self.sim.put(b.clone(), Some(x));
            self.sim.put(a.clone(), Some(y));
            self.tasks[j] = Task::Move(y, a.clone(), target.clone());
            let done = target == a;
            self.tasks.swap_remove(i);
            if done {
                self.tasks.retain(|t| !matches!(t, Task::Move(_, from, to) if from == to));
            }
            self.steps.push(Step::Swap { a, b });
            return true;
        }
        false
    }

    fn park(&mut self) -> bool {
        for i in 0..self.tasks.len() {
            let Task::Move(id, from, to) = self.tasks[i].clone() else { continue };
            if self.sim.child(&from) != Some(id) || from.1.as_bytes().starts_with(PARKED) {
                continue;
            }
            let before = self.parked.entry(id).or_default();
            let at = (InodeId::ROOT, parked_name(id, *before));
            *before += 1;
            self.sim.put(from.clone(), None);
            self.sim.put(at.clone(), Some(id));
            self.tasks[i] = Task::Move(id, at.clone(), to);
            self.steps.push(Step::Move { id, from, to: at, over: None });
            return true;
        }
        false
    }
}

fn source(task: &Task) -> Place {
    match task {
        Task::Move(_, from, _) => from.clone(),
        other => other.to().clone(),
    }
}

/// The name in the root under which a name of a node (its n-th to do so) waits for its place to become free.
pub(crate) fn parked_name(id: InodeId, n: u32) -> Name {
    Name::new(&[PARKED, format!("{id}-{n}").as_bytes()].concat()).expect("short and without a separator")
}

/// Whose name waits under this one.
pub(crate) fn parked_of(name: &Name) -> Option<InodeId> {
    let text = std::str::from_utf8(name.as_bytes().strip_prefix(PARKED)?).ok()?;
    InodeId::from_hex(text.split('-').next()?)
}
