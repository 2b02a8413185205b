//! The simulator: one seed is one world of a few devices that work apart, meet now and then, and in the end agree.
//!
//! A world is a list of [`Step`]s made from the seed before anything runs, so that a failing one can be shrunk by leaving
//! steps out. What is checked: the laws of the merge contract, and that deltas and incremental evaluation say the same
//! as looking at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crdtfs_core::id::{Hash, InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Basis, Kind, Node};
use crdtfs_core::op::{OpError, RenameMode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::Device;

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Most devices; at least two take part.
    pub devices: usize,
    /// Operations in all.
    pub operations: usize,
    /// Whether views are compared with views from scratch after every step rather than when devices meet.
    pub thorough: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { devices: 4, operations: 20, thorough: false }
    }
}

/// What all devices showed in the end, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub Hash);

/// One thing that happens. The numbers choose among what is there when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The device that acts.
    pub device: usize,
    /// What it does.
    pub action: Action,
    /// Choices.
    pub picks: [u32; 3],
}

/// What a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Create,
    CreateSame,
    Mkdir,
    Append,
    Rewrite,
    Binary,
    Open,
    Close,
    RenameInPlace,
    Move,
    MoveOver,
    Exchange,
    Unlink,
    RemoveTree,
    Link,
    Chmod,
    Symlink,
    SaveByRename,
    SaveAside,
    /// Takes over all, or the first part, of what another device has.
    Sync,
}

/// A world that broke a law.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Which law, and how.
    pub message: String,
    /// What happened, shrunk as far as it still fails.
    pub steps: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.message)?;
        writeln!(f, "#[test]\nfn seed_{}() {{\n    use Action::*;\n    let steps = [", self.seed)?;
        for Step { device, action, picks } in &self.steps {
            writeln!(f, "        Step {{ device: {device}, action: {action:?}, picks: {picks:?} }},")?;
        }
        writeln!(f, "    ];\n    replay({}, &steps, true).unwrap();\n}}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs the world of a seed. A failure is shrunk.
pub fn simulate(seed: u64, config: &SimConfig) -> Result<Digest, Failure> {
    let steps = generate(seed, config);
    replay(seed, &steps, config.thorough).map_err(|message| shrink(seed, steps, message))
}

/// The steps of a seed's world.
pub fn generate(seed: u64, config: &SimConfig) -> Vec<Step> {
    use Action::*;
    const WEIGHTS: [(Action, u32); 20] = [
        (Create, 14),
        (CreateSame, 5),
        (Mkdir, 9),
        (Append, 8),
        (Rewrite, 10),
        (Binary, 8),
        (Open, 3),
        (Close, 4),
        (RenameInPlace, 9),
        (Move, 12),
        (MoveOver, 4),
        (Exchange, 2),
        (Unlink, 8),
        (RemoveTree, 5),
        (Link, 4),
        (Chmod, 5),
        (Symlink, 2),
        (SaveByRename, 4),
        (SaveAside, 3),
        (Sync, 0),
    ];
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let devices = rng.random_range(2..=config.devices.max(2));
    let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    // Some worlds meet often, some hardly ever.
    let meet = rng.random_range(5..45);
    let mut steps = Vec::new();
    for _ in 0..config.operations {
        while rng.random_range(0..100) < meet {
            steps.push(Step { device: rng.random_range(0..devices), action: Sync, picks: rng.random() });
        }
        let mut at = rng.random_range(0..total);
        let action = WEIGHTS.iter().find(|(_, weight)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        });
        let action = action.map_or(Create, |(action, _)| *action);
        steps.push(Step { device: rng.random_range(0..devices), action, picks: rng.random() });
    }
    steps
}

/// Leaves steps out for as long as the world still fails.
fn shrink(seed: u64, mut steps: Vec<Step>, mut message: String) -> Failure {
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match replay(seed, &fewer, true) {
                Err(why) => (steps, message) = (fewer, why),
                Ok(_) => at += chunk,
            }
        }
        chunk /= 2;
    }
    Failure { seed, message, steps }
}

/// Runs steps; what law was broken, if one was.
pub fn replay(seed: u64, steps: &[Step], thorough: bool) -> Result<Digest, String> {
    let run = || {
        let mut world = World::new(seed, steps, thorough);
        for (at, step) in steps.iter().enumerate() {
            world.step(step).map_err(|why| format!("step {at} ({step:?}): {why}"))?;
        }
        world.heal()
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => Err(format!("panic: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

/// The tree of a device as its deltas told it.
#[derive(Default)]
struct Mirror {
    entries: BTreeMap<(InodeId, Name), InodeId>,
    nodes: BTreeMap<InodeId, Node>,
}

struct World {
    devices: Vec<Device>,
    mirrors: Vec<Mirror>,
    /// Files that were opened for writing: path at open, basis and text then.
    open: Vec<Option<(InodeId, Basis, String)>>,
    tokens: u32,
    /// Tokens that an operation took away whose author saw them.
    taken: BTreeSet<String>,
    thorough: bool,
}

impl World {
    fn new(seed: u64, steps: &[Step], thorough: bool) -> Self {
        let count = steps.iter().map(|step| step.device + 1).max().unwrap_or(0).max(2);
        Self {
            devices: (0..count).map(|i| Device::new(&format!("dev{i}"), seed)).collect(),
            mirrors: (0..count).map(|_| Mirror::default()).collect(),
            open: (0..count).map(|_| None).collect(),
            tokens: 0,
            taken: BTreeSet::new(),
            thorough,
        }
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("t{}.", self.tokens)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let at = step.device;
        if step.action == Action::Sync {
            let from = (at + 1 + step.picks[0] as usize % (self.devices.len() - 1)) % self.devices.len();
            // Often all, sometimes the first part only.
            let part = if step.picks[1].is_multiple_of(3) { step.picks[2] as usize } else { usize::MAX };
            return self.sync(at, from, part);
        }
        let seen = tokens_by_node(&self.devices[at]);
        self.devices[at].moves.clear();
        let before = self.tokens;
        let done = self.act(step);
        if done.is_err() {
            // Nothing was written, or only a part of a longer doing.
            self.taken.extend((before + 1..=self.tokens).map(|n| format!("t{n}.")));
        }
        match done {
            Ok(()) | Err(OpError::NotFound | OpError::Exists | OpError::Invalid | OpError::NotEmpty) => {}
            Err(OpError::IsDir | OpError::NotDir | OpError::NotPermitted) => {}
            Err(other) => return Err(format!("refused: {other}")),
        }
        let moves = std::mem::take(&mut self.devices[at].moves);
        if let Some(moved) = moves.first() {
            return Err(format!("law 4: {moved}"));
        }
        // What left a file was taken by an author that saw it, whether or not another file has it, too.
        let left = tokens_by_node(&self.devices[at]);
        for (inode, tokens) in seen {
            let now = self.devices[at].view.node(inode).and_then(|node| left.get(&node.inode));
            self.taken.extend(tokens.into_iter().filter(|token| now.is_none_or(|now| !now.contains(token))));
        }
        for text in std::mem::take(&mut self.devices[at].unlinked) {
            self.taken.extend(tokens_in(&text));
        }
        self.check_device(at, self.thorough)
    }

    fn sync(&mut self, to: usize, from: usize, part: usize) -> Result<(), String> {
        let (low, high) = self.devices.split_at_mut(to.max(from));
        let (to_device, from_device) = if to < from { (&mut low[to], &high[0]) } else { (&mut high[0], &low[from]) };
        let before = to_device.log.len();
        let new = to_device.sync_part(from_device, part);
        if to_device.log.len() != before + new {
            return Err("law 3: a receiver wrote records".into());
        }
        self.check_device(to, self.thorough)
    }

    /// Checks that what deltas told is what is there, and, if wanted, that a view from scratch is the same.
    fn check_device(&mut self, at: usize, scratch: bool) -> Result<(), String> {
        let device = &mut self.devices[at];
        let mirror = &mut self.mirrors[at];
        for (delta, nodes) in std::mem::take(&mut device.deltas) {
            for change in delta.entries {
                let key = (change.dir, change.name);
                if mirror.entries.get(&key).copied() != change.before {
                    return Err(format!("a delta says that {key:?} was {:?}, which nobody said before", change.before));
                }
                match change.after {
                    Some(after) => drop(mirror.entries.insert(key, after)),
                    None => drop(mirror.entries.remove(&key)),
                }
            }
            for (change, node) in delta.nodes.iter().zip(nodes) {
                match node {
                    Some(node) => drop(mirror.nodes.insert(change.inode, node)),
                    None => drop(mirror.nodes.remove(&change.inode)),
                }
            }
        }
        let mut entries = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        let mut stack = vec![InodeId::ROOT];
        while let Some(dir) = stack.pop() {
            let Some(node) = device.view.node(dir) else { return Err(format!("{dir} is named but not shown")) };
            let children = device.view.entries(dir, None, usize::MAX);
            let subdirs = children.iter().filter(|entry| entry.kind == Kind::Dir).count();
            if node.nlink as usize != 2 + subdirs {
                return Err(format!("directory {dir} has {} links and {subdirs} subdirectories", node.nlink));
            }
            if nodes.insert(dir, node).is_some() {
                return Err(format!("directory {dir} is in the tree twice"));
            }
            for entry in children {
                let child = device.view.node(entry.inode).ok_or_else(|| format!("{:?} names no node", entry.name))?;
                if child.inode != entry.inode || child.kind != entry.kind {
                    return Err(format!("{:?} is {:?} and {:?}", entry.name, entry, child));
                }
                if !device.view.names(entry.inode).contains(&(dir, entry.name.clone())) {
                    return Err(format!("{:?} is not among the names of its node", entry.name));
                }
                if entry.kind == Kind::Dir {
                    stack.push(entry.inode);
                } else {
                    nodes.insert(entry.inode, child);
                }
                entries.insert((dir, entry.name), entry.inode);
            }
        }
        let mut known = mirror.nodes.clone();
        known.entry(InodeId::ROOT).or_insert_with(|| nodes[&InodeId::ROOT].clone());
        if entries != mirror.entries {
            return Err(format!("deltas left out an entry: {:?} is {:?}", mirror.entries, entries));
        }
        if let Some((id, node)) = nodes.iter().find(|(id, node)| known.get(id) != Some(node)) {
            return Err(format!("deltas left out a node: {:?} is {node:?}", known.get(id)));
        }
        if let Some(id) = known.keys().find(|id| !nodes.contains_key(id)) {
            return Err(format!("deltas left a node in: {id}"));
        }
        let bytes: u64 = nodes.values().map(|node| node.content.size).sum();
        if device.view.totals() != (bytes, nodes.len() as u64) {
            return Err(format!("totals are {:?}, not {bytes} and {}", device.view.totals(), nodes.len()));
        }
        if scratch {
            let dump = device.dump();
            let mut fresh = Device::new("scratch", 0);
            fresh.sync_from(device);
            if fresh.dump() != dump {
                return Err(format!("incremental:\n{dump}from scratch:\n{}", fresh.dump()));
            }
        }
        Ok(())
    }

    /// Lets all devices meet, and checks that they agree and that nothing was lost.
    fn heal(mut self) -> Result<Digest, String> {
        for _ in 0..2 {
            for to in 0..self.devices.len() {
                for from in 0..self.devices.len() {
                    if to != from {
                        self.sync(to, from, usize::MAX).map_err(|why| format!("healing: {why}"))?;
                    }
                }
            }
        }
        let dump = self.devices[0].dump();
        for at in 0..self.devices.len() {
            if self.devices[at].dump() != dump {
                return Err(format!("law 1: dev0 shows\n{dump}dev{at} shows\n{}", self.devices[at].dump()));
            }
            self.check_device(at, true)?;
        }
        // The order of arrival must not matter, even where it breaks causality.
        let mut reversed = self.devices[0].log.clone();
        reversed.reverse();
        let mut fresh = Device::new("reversed", 0);
        fresh.sync_bytes(&self.devices[0]);
        fresh.receive(&reversed);
        if fresh.dump() != dump {
            return Err(format!("law 1: in order\n{dump}backwards\n{}", fresh.dump()));
        }
        let shown = tokens_of(&self.devices[0]);
        let lost = (1..=self.tokens).map(|n| format!("t{n}.")).find(|t| !shown.contains(t) && !self.taken.contains(t));
        if let Some(lost) = lost {
            return Err(format!("law 2: {lost} is lost from\n{dump}"));
        }
        if let Some(problem) = self.devices[0].view.problems().first() {
            return Err(format!("operations made a bad record: {problem:?}"));
        }
        let ids: BTreeSet<RecordId> = self.devices[0].log.iter().map(|(id, _)| *id).collect();
        let text = format!("{dump}{ids:?}");
        Ok(Digest(Hash::of(text.as_bytes())))
    }

    fn act(&mut self, step: &Step) -> Result<(), OpError> {
        let [a, b, c] = step.picks;
        let at = step.device;
        let walk = self.devices[at].walk();
        let of_kind = |kind: Kind| -> Vec<&String> {
            walk.iter().filter(|(_, node)| node.kind == kind).map(|(path, _)| path).collect()
        };
        let pick = |list: &[&String], n: u32| -> Option<String> {
            (!list.is_empty()).then(|| list[n as usize % list.len()].clone())
        };
        let files = of_kind(Kind::File);
        let all: Vec<_> = walk.iter().map(|(path, _)| path).collect();
        let root = String::new();
        let mut dirs = of_kind(Kind::Dir);
        dirs.insert(0, &root);
        let file = pick(&files, a).ok_or(OpError::NotFound);
        let any = pick(&all, a).ok_or(OpError::NotFound);
        let dir = pick(&dirs, b).unwrap_or_default();
        let join = |dir: &str, name: &str| if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") };
        let name = ["a", "b", "c.txt", "d"][c as usize % 4];
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
        let parent = |path: &str| path.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_string());
        match step.action {
            Action::Create => {
                let text = format!("{}\nl2\nl3\nl4\nl5\n", self.token());
                self.devices[at].write_new(&join(&dir, name), text)?;
            }
            Action::CreateSame => drop(self.devices[at].write_new(&join(&dir, name), "the same\n")?),
            Action::Mkdir => drop(self.devices[at].mkdir(&join(&dir, name))?),
            Action::Symlink => drop(self.devices[at].symlink(["x", "y"][a as usize % 2], &join(&dir, name))?),
            Action::Append | Action::Rewrite | Action::Binary => {
                let file = file?;
                let old = self.devices[at].read(&file).ok_or(OpError::NotFound)?;
                let new = changed(&old, &self.token(), step);
                self.devices[at].write(&file, new)?;
            }
            Action::Open => {
                let file = file?;
                let node = self.devices[at].find(&file).ok_or(OpError::NotFound)?;
                let text = self.devices[at].read(&file).ok_or(OpError::NotFound)?;
                self.open[at] = Some((node.inode, node.basis, text));
            }
            Action::Close => {
                let (inode, basis, old) = self.open[at].take().ok_or(OpError::NotFound)?;
                let new = changed(&old, &self.token(), step);
                if self.devices[at].close_write(inode, new.as_bytes(), basis).is_err() {
                    self.taken.insert(format!("t{}.", self.tokens));
                }
            }
            Action::RenameInPlace => {
                let any = any?;
                self.devices[at].rename(&any, &join(&parent(&any), name), RenameMode::NoReplace)?;
            }
            Action::Move => {
                let any = any?;
                self.devices[at].rename(&any, &join(&dir, &base(&any)), RenameMode::NoReplace)?;
            }
            Action::MoveOver => {
                let other = pick(&all, b).ok_or(OpError::NotFound)?;
                self.devices[at].mv(&any?, &other)?;
            }
            Action::Exchange => {
                let other = pick(&all, b).ok_or(OpError::NotFound)?;
                self.devices[at].rename(&any?, &other, RenameMode::Exchange)?;
            }
            Action::Unlink => drop(self.devices[at].unlink(&file?)?),
            Action::RemoveTree => drop(self.devices[at].rm_r(&any?)?),
            Action::Link => drop(self.devices[at].link(&file?, &join(&dir, name))?),
            Action::Chmod => drop(self.devices[at].chmod(&any?, 0o600 + b % 8)?),
            Action::SaveByRename | Action::SaveAside => self.save(step, &file?)?,
            Action::Sync => {}
        }
        Ok(())
    }

    /// Saves a file as editors do.
    fn save(&mut self, step: &Step, file: &str) -> Result<(), OpError> {
        let token = self.token();
        let device = &mut self.devices[step.device];
        let old = device.read(file).ok_or(OpError::NotFound)?;
        let new = changed(&old, &token, step);
        if step.action == Action::SaveByRename {
            let temp = format!("{file}.tmp");
            device.write_new(&temp, new)?;
            device.mv(&temp, file)?;
        } else {
            let backup = format!("{file}~");
            device.rename(file, &backup, RenameMode::NoReplace)?;
            device.write_new(file, new)?;
            device.unlink(&backup)?;
        }
        Ok(())
    }
}

/// A text with a token put in, as the step's picks say.
fn changed(old: &str, token: &str, step: &Step) -> String {
    match step.action {
        Action::Append => format!("{old}{token}\n"),
        Action::Binary => format!("\0{token}\n"),
        _ => {
            let mut lines: Vec<_> = old.lines().map(str::to_string).collect();
            if lines.is_empty() {
                return format!("{token}\n");
            }
            let at = step.picks[1] as usize % lines.len();
            lines[at] = format!("{} {token}", lines[at]);
            lines.join("\n") + "\n"
        }
    }
}

/// Tokens in the texts that a device shows.
fn tokens_of(device: &Device) -> BTreeSet<String> {
    tokens_by_node(device).into_values().flatten().collect()
}

/// Tokens in the text of each file that a device shows.
fn tokens_by_node(device: &Device) -> BTreeMap<InodeId, BTreeSet<String>> {
    let files = device.walk().into_iter().filter(|(_, node)| node.kind == Kind::File);
    files
        .filter_map(|(_, node)| {
            let bytes = device.bytes(&node.content)?;
            Some((node.inode, tokens_in(&String::from_utf8_lossy(&bytes)).into_iter().collect()))
        })
        .collect()
}

/// Tokens in a text.
fn tokens_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '\0');
    words.filter(|word| word.starts_with('t') && word.ends_with('.')).map(str::to_string).collect()
}
