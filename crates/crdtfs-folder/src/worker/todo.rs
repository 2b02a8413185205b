//! What of the folder is not as the view has it: the one list that the folder's progress rests on.
//!
//! A difference that was found and is not mended when its turn ends is on this list, with the time at which it is looked
//! at again. It leaves the list in one way only: it is looked at, and is no more. What may end a wait sooner (bytes that
//! came, a step that was done, a change of the view) makes it due, nothing else: a wake-up that is missed costs a pause of
//! at most [`PAUSE_MAX`], never progress. And the folder is behind exactly as long as something is on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::remote::Item;

/// Longest pause before something is looked at again.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The same for what only met a change of the folder or the view.
const RACED_MAX: Duration = Duration::from_secs(1);
/// First pause before a file is looked at again that was open: what says that it is closed comes an instant before it is so.
const OPEN_FIRST: Duration = Duration::from_millis(20);
/// A directory that is kept for what is in it is tried so often; then it stays until something changes.
const KEPT_AFTER: u32 = 3;

/// What a difference waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Bytes that are being fetched: their coming makes it due.
    Bytes,
    /// A merge that is not decided: the view's change makes it due.
    Merge,
    /// Something else in the folder: every step that is done makes it due.
    Others,
    /// The folder or the view was not as planned.
    Raced,
    /// A program has it open for writing: its closing makes it due.
    Open,
    /// It failed, first pause.
    Failed(Duration),
    /// A directory that has something in it which is not ours to remove.
    Kept,
}

#[derive(Debug)]
struct Waits {
    why: Why,
    /// Attempts that failed one after the other.
    tries: u32,
    /// `None`: until something changes.
    due: Option<Instant>,
    /// The path under which the user was told of it.
    told: Option<Vec<u8>>,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Todo {
    items: BTreeMap<Item, Waits>,
    due: BTreeSet<(Instant, Item)>,
    /// Those that wait for something else in the folder.
    others: BTreeSet<Item>,
    /// How many stay until something changes.
    kept: usize,
}

impl Todo {
    /// Whether there is nothing that is still to be done.
    pub(super) fn is_done(&self) -> bool {
        self.items.len() == self.kept
    }

    /// Whether there is nothing on the list.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether a difference is on the list.
    pub(super) fn has(&self, item: &Item) -> bool {
        self.items.contains_key(item)
    }

    /// All differences.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.keys()
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// There is a difference, and it was not mended for this reason.
    pub(super) fn put_off(&mut self, item: Item, why: Why, now: Instant) {
        let before = self.take(&item);
        let tries = before.as_ref().map_or(0, |b| b.tries);
        let doubled = |first: Duration| first * 2u32.saturating_pow(tries.min(12));
        let (tries, why, pause) = match why {
            Why::Kept if tries >= KEPT_AFTER => (tries, why, None),
            Why::Raced | Why::Kept => (tries + 1, Why::Raced, Some(doubled(Duration::from_millis(20)).min(RACED_MAX))),
            Why::Open => (tries + 1, why, Some(doubled(OPEN_FIRST).min(PAUSE_MAX))),
            Why::Failed(first) => (tries + 1, why, Some(doubled(first).min(PAUSE_MAX))),
            Why::Bytes | Why::Merge | Why::Others => (tries, why, Some(PAUSE_MAX)),
        };
        let due = pause.map(|pause| now + pause);
        self.put(item, Waits { why, tries, due, told: before.and_then(|b| b.told) });
    }

    fn put(&mut self, item: Item, waits: Waits) {
        match waits.due {
            Some(at) => _ = self.due.insert((at, item.clone())),
            None => self.kept += 1,
        }
        if waits.due.is_none() || waits.why == Why::Others {
            self.others.insert(item.clone());
        }
        self.items.insert(item, waits);
    }

    fn take(&mut self, item: &Item) -> Option<Waits> {
        let waits = self.items.remove(item)?;
        self.others.remove(item);
        match waits.due {
            Some(at) => _ = self.due.remove(&(at, item.clone())),
            None => self.kept -= 1,
        }
        Some(waits)
    }

    /// Something happened to a file: if it was open, it is looked at now and, if that is in vain, soon again. (If it was not,
    /// what happened may be what we did, in vain.)
    pub(super) fn may_be_closed(&mut self, item: &Item, now: Instant) {
        if self.items.get(item).is_some_and(|waits| waits.why == Why::Open)
            && let Some(waits) = self.take(item)
        {
            self.put(item.clone(), Waits { tries: 0, due: Some(now), ..waits });
        }
    }

    /// The user was told of it under this path.
    pub(super) fn told(&mut self, item: &Item, path: Vec<u8>) {
        if let Some(waits) = self.items.get_mut(item) {
            waits.told = Some(path);
        }
    }

    /// It is no more; the path under which the user was told of it.
    pub(super) fn done(&mut self, item: &Item) -> Option<Vec<u8>> {
        self.take(item).and_then(|waits| waits.told)
    }

    /// What is due now. It stays on the list.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Item> {
        let due: Vec<Item> = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, item)| item.clone()).collect();
        for item in &due {
            // Looked at in this turn, which sets another time; this one is for a turn that could not.
            if let Some(waits) = self.take(item) {
                self.put(item.clone(), Waits { due: Some(now + PAUSE_MAX), ..waits });
            }
        }
        due
    }

    /// What may have waited for something else that happened in the folder.
    pub(super) fn waiting_for_others(&self) -> Vec<Item> {
        self.others.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use crdtfs_core::id::InodeId;

    use super::*;

    #[test]
    fn what_is_on_the_list_is_always_looked_at_again() {
        let now = Instant::now();
        let item = |n: u8| Item::Node(InodeId([n; 16]));
        for (n, why) in
            [Why::Bytes, Why::Merge, Why::Others, Why::Raced, Why::Open, Why::Failed(Duration::from_secs(1))]
                .into_iter()
                .enumerate()
        {
            let mut todo = Todo::default();
            let item = item(n as u8);
            let mut at = now;
            for _ in 0..20 {
                todo.put_off(item.clone(), why, at);
                assert!(!todo.is_done() && todo.take_due(at).is_empty());
                at = todo.next_due().expect("a time");
                assert!(at <= now + PAUSE_MAX * 40);
                assert_eq!(todo.take_due(at), std::slice::from_ref(&item));
                assert!(todo.next_due().is_some_and(|next| next > at), "also if nobody looks");
            }
            todo.told(&item, b"path".to_vec());
            assert_eq!(todo.done(&item), Some(b"path".to_vec()));
            assert!(todo.is_done() && todo.next_due().is_none() && !todo.has(&item));
        }
    }

    #[test]
    fn what_was_open_is_looked_at_when_it_may_be_closed() {
        let (mut todo, now) = (Todo::default(), Instant::now());
        let item = |n: u8| Item::Node(InodeId([n; 16]));
        for _ in 0..10 {
            todo.put_off(item(1), Why::Open, now);
            todo.put_off(item(2), Why::Failed(PAUSE_MAX), now);
        }
        assert_eq!(todo.next_due(), Some(now + PAUSE_MAX));
        todo.may_be_closed(&item(1), now);
        todo.may_be_closed(&item(2), now);
        assert_eq!(todo.take_due(now), [item(1)]);
        todo.put_off(item(1), Why::Open, now);
        assert_eq!(todo.next_due(), Some(now + OPEN_FIRST));
    }

    #[test]
    fn a_directory_that_is_kept_holds_nobody_up() {
        let mut todo = Todo::default();
        let item = Item::Node(InodeId([1; 16]));
        for _ in 0..KEPT_AFTER {
            todo.put_off(item.clone(), Why::Kept, Instant::now());
            assert!(!todo.is_done());
        }
        todo.put_off(item.clone(), Why::Kept, Instant::now());
        assert!(todo.is_done() && todo.next_due().is_none());
        assert_eq!(todo.waiting_for_others(), std::slice::from_ref(&item));
        todo.put_off(item.clone(), Why::Others, Instant::now());
        assert!(!todo.is_done());
        todo.done(&item);
        assert!(todo.is_done());
    }
}
