//! What happened in a share: its records as a list of events, oldest first, as people read it.
//!
//! A record says what is so from then on; an event says what became different for its author. Both are told apart by what
//! came before in one causal order of the changes, so devices that have the same changes list the same events, though
//! concurrent ones may stand in another order.
//!
//! A save that programs make of several operations (a temporary file renamed over the old one; moved aside and written again;
//! removed and created again) is one update. What had been told of its steps before it was seen to be a save is taken back, but
//! for versions with bytes of their own, and for what had been so for a while under a name that is none for temporary files.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::ContentRef;
use crate::id::{DeviceId, InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::Kind;
use crate::record::{self, Content, Place, PlaceState, Record, birth_id};
use crate::temporary::looks_temporary;

/// Directories that a path is followed up through before it is taken for a cycle.
const DEPTH_MAX: usize = 4096;

/// What was done so long before the end of a save, in milliseconds, others have seen: it is told. Names for temporary files are not.
const SAVE_MS: i64 = 5000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A new entry.
    Create,
    /// Other bytes or attributes.
    Update,
    /// Another name or directory.
    Move,
    /// Gone.
    Delete,
}

/// One thing that somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The author's clock, milliseconds since 1970.
    pub time_ms: i64,
    /// The author.
    pub device: DeviceId,
    /// Its name at that time.
    pub device_name: String,
    /// What.
    pub action: Action,
    /// To which inode.
    pub inode: InodeId,
    /// What kind that is.
    pub kind: Kind,
    /// Path below the root, of a move where it went.
    pub path: Vec<u8>,
    /// Of a move, where it was.
    pub from: Option<Vec<u8>>,
    /// The bytes from then on, of files.
    pub content: Option<ContentRef>,
    /// The record that did it.
    pub version: RecordId,
}

impl Event {
    /// Whether it is about this path or something below it, before or after. Everything is below the empty path.
    pub fn concerns(&self, path: &[u8]) -> bool {
        let below =
            |at: &[u8]| path.is_empty() || at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        below(&self.path) || self.from.as_deref().is_some_and(below)
    }
}

/// Where one name of an inode is.
#[derive(Clone, Debug)]
struct Known {
    inode: InodeId,
    kind: Kind,
    parent: InodeId,
    name: Name,
    alive: bool,
}

/// A removal or a move of an entry whose name another one was given, too, or that lay in such a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The directory and the name that it had by its records.
    pub stood: (InodeId, Name),
    /// The places of those others.
    pub rivals: BTreeSet<PlaceId>,
}

/// Reads records one after the other.
#[derive(Debug, Default)]
pub struct History {
    places: BTreeMap<PlaceId, Known>,
    /// Which places that live were given a name in a directory.
    given: BTreeMap<(InodeId, Name), BTreeSet<PlaceId>>,
    /// See [`History::take_contested`].
    contested: BTreeMap<RecordId, Contested>,
    /// The name that an inode was last seen under.
    name_of: BTreeMap<InodeId, PlaceId>,
    contents: BTreeMap<InodeId, Content>,
    /// The inode of every version, and the bytes: a conflict copy that became an inode of its own has those of the one it was.
    versions: BTreeMap<RecordId, (InodeId, Option<ContentRef>)>,
    /// What is told; `None` where it was taken back.
    events: Vec<Option<Event>>,
    /// Which of the events are of an inode.
    events_of: BTreeMap<InodeId, Vec<usize>>,
    /// The inode whose deletion was the record before.
    removed: Option<InodeId>,
    /// Contents that settle those of other inodes, and which.
    joined: BTreeMap<RecordId, BTreeSet<InodeId>>,
    /// The inode that was saved by the record before, and the event of that.
    saved: Option<(InodeId, usize)>,
    /// Saves that left a file empty for now: what is written next is what was saved.
    emptied: BTreeMap<InodeId, usize>,
}

/// Who made the change that a record is in, and when.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The author.
    pub device: DeviceId,
    /// Its clock, milliseconds since 1970.
    pub time_ms: i64,
}

impl History {
    /// Takes the next record in a causal order.
    pub fn take(&mut self, stamp: Stamp, id: RecordId, record: &Record) {
        let (removed, saved) = (self.removed.take(), self.saved.take());
        match record {
            Record::Place(place) if saved.is_some_and(|saved| is_back(place, saved.0)) => {
                self.end_save(saved.map_or(0, |saved| saved.1), place);
            }
            // A deletion says again of the names that were gone that they are.
            Record::Place(place) if removed == Some(place.inode) && self.is_gone(place) => self.removed = removed,
            Record::Place(place) => self.take_place(stamp, id, place),
            Record::Content(content) => self.take_content(stamp, id, content),
            Record::Birth(birth) => {
                let new = birth_id(&birth.origin, &birth.version);
                if let Some(content) = self.contents.get(&birth.origin).cloned() {
                    let bytes = self.versions.get(&birth.version).and_then(|(_, bytes)| *bytes).or(content.bytes);
                    self.contents.insert(InodeId(new), Content { inode: InodeId(new), bytes, ..content });
                }
            }
            Record::Pin(pin) => self.take_pin(pin),
        }
    }

    /// The events, in the order of the records.
    pub fn into_events(self) -> Vec<Event> {
        self.events.into_iter().flatten().collect()
    }

    /// The removals and moves of which only a view knows the name that was left: the paths of their events are by the names that
    /// were given, without suffixes.
    pub fn take_contested(&mut self) -> BTreeMap<RecordId, Contested> {
        std::mem::take(&mut self.contested)
    }

    /// Notes where a name is from now on.
    fn know(&mut self, place: PlaceId, known: Known) {
        if known.alive {
            self.given.entry((known.parent, known.name.clone())).or_default().insert(place);
            self.name_of.insert(known.inode, place);
        }
        let now = known.alive.then(|| (known.parent, known.name.clone()));
        let before = self.places.insert(place, known).filter(|before| before.alive);
        if let Some(before) =
            before.map(|before| (before.parent, before.name)).filter(|before| Some(before) != now.as_ref())
            && let Some(places) = self.given.get_mut(&before)
        {
            places.remove(&place);
            if places.is_empty() {
                self.given.remove(&before);
            }
        }
    }

    /// Other places with this name, and with that of a directory above.
    fn rivals(&self, known: &Known) -> BTreeSet<PlaceId> {
        let mut rivals = BTreeSet::new();
        let mut at = Some(known);
        for _ in 0..DEPTH_MAX {
            let Some(known) = at else { break };
            let same = self.given.get(&(known.parent, known.name.clone())).into_iter().flatten();
            let is_other = |place: &&PlaceId| self.places.get(place).is_some_and(|other| other.inode != known.inode);
            rivals.extend(same.filter(is_other));
            at = self.name_of.get(&known.parent).and_then(|place| self.places.get(place));
        }
        rivals
    }

    /// Whether a record deletes a name that was gone before.
    fn is_gone(&self, place: &Place) -> bool {
        matches!(place.state, PlaceState::Deleted { .. })
            && self.places.get(&place.place).is_some_and(|known| !known.alive)
    }

    fn take_place(&mut self, stamp: Stamp, id: RecordId, place: &Place) {
        self.removed = matches!(place.state, PlaceState::Deleted { .. }).then_some(place.inode);
        let before = self.places.get(&place.place).cloned();
        let from = before.as_ref().filter(|known| known.alive).and_then(|known| self.path(known));
        let alive = matches!(place.state, PlaceState::Live);
        let (inode, kind) = (place.inode, place.kind);
        let known = Known { inode, kind, parent: place.parent, name: place.name.clone(), alive };
        let leaves = |before: &Known| match place.state {
            PlaceState::Deleted { .. } => true,
            PlaceState::Live => (before.parent, &before.name) != (place.parent, &place.name),
            PlaceState::Merged { .. } => false,
        };
        if let Some(before) = before.as_ref().filter(|before| before.alive && leaves(before)) {
            let rivals = self.rivals(before);
            if !rivals.is_empty() {
                self.contested.insert(id, Contested { stood: (before.parent, before.name.clone()), rivals });
            }
        }
        self.know(place.place, known.clone());
        let path = self.path(&known).unwrap_or_default();
        let content = self.contents.get(&place.inode).and_then(|content| content.bytes);
        let action = match (&place.state, &from) {
            (PlaceState::Merged { seen, .. }, _) => return self.take_merged(place.inode, seen),
            (PlaceState::Deleted { .. }, _) => Action::Delete,
            (PlaceState::Live, Some(from)) if *from == path => return,
            (PlaceState::Live, Some(_)) => Action::Move,
            // A new inode's event comes with its bytes and attributes, the next record.
            (PlaceState::Live, None) if !self.contents.contains_key(&place.inode) => return,
            (PlaceState::Live, None) => Action::Create,
        };
        let from = if action == Action::Move { from } else { None };
        let content = content.filter(|_| place.kind == Kind::File && action != Action::Delete);
        let node = (inode, kind);
        self.push(stamp, id, &place.device, action, node, path, from, content);
    }

    fn take_content(&mut self, stamp: Stamp, id: RecordId, content: &Content) {
        let before = self.contents.insert(content.inode, content.clone());
        self.versions.insert(id, (content.inode, content.bytes));
        let settled = content.replaces.iter().filter_map(|id| Some(self.versions.get(id)?.0));
        let others: BTreeSet<_> = settled.filter(|inode| *inode != content.inode).collect();
        if !others.is_empty() {
            self.joined.insert(id, others);
        }
        self.write_saved(stamp.device, content.inode);
        let known = self.name_of.get(&content.inode).and_then(|place| self.places.get(place));
        let via = self.places.get(&content.via).or(known);
        let Some((path, kind)) = via.and_then(|known| Some((self.path(known)?, known.kind))) else { return };
        let action = if before.is_some() { Action::Update } else { Action::Create };
        self.push(stamp, id, &content.device, action, (content.inode, kind), path, None, content.bytes);
    }

    /// A place became one with another. If a content says so, too, it is a save: what it was made of is told no more.
    fn take_merged(&mut self, source: InodeId, seen: &[(RecordId, RecordId)]) {
        let joins = |id: &&RecordId| self.joined.get(id).is_some_and(|inodes| inodes.contains(&source));
        let Some(edit) = seen.iter().flat_map(|(a, b)| [a, b]).find(joins) else { return };
        let Some((inode, bytes)) = self.versions.get(edit).copied() else { return };
        let of_inode = self.events_of.get(&inode).into_iter().flatten().rev();
        let told = of_inode.copied().find(|at| self.events[*at].as_ref().is_some_and(|event| event.version == *edit));
        let Some(told) = told else { return };
        for at in self.events_of.remove(&source).unwrap_or_default() {
            let own = |content: ContentRef| content.size > 0 && Some(content.hash) != bytes.map(|bytes| bytes.hash);
            let has_own = self.events[at].as_ref().and_then(|event| event.content).is_some_and(own);
            if !has_own && !self.was_long_before(at, told) {
                self.events[at] = None;
            }
        }
        self.saved = Some((inode, told));
        if bytes.is_some_and(|bytes| bytes.size == 0) {
            self.emptied.insert(inode, told);
        }
    }

    /// A file that was moved aside or removed to be saved has its place again: that it was gone is told no more.
    fn end_save(&mut self, told: usize, back: &Place) {
        let known =
            Known { inode: back.inode, kind: back.kind, parent: back.parent, name: back.name.clone(), alive: true };
        let path = self.path(&known).unwrap_or_default();
        self.know(back.place, known);
        let Some(author) = self.events[told].as_ref().map(|event| event.device) else { return };
        let own = |at: &usize| *at < told && self.events[*at].as_ref().is_some_and(|event| event.device == author);
        let last = self.events_of.get(&back.inode).into_iter().flatten().rev().copied().find(own);
        if let Some(last) = last.filter(|last| !self.was_long_before(*last, told))
            && let Some(event) = &self.events[last]
            && match event.action {
                Action::Delete => event.path == path,
                Action::Move => event.from.as_ref() == Some(&path),
                Action::Create | Action::Update => false,
            }
        {
            self.events[last] = None;
        }
        if let Some(event) = &mut self.events[told] {
            event.path = path;
        }
    }

    /// Whether an event was so long before the end of a save that others have seen what it tells.
    fn was_long_before(&self, at: usize, end: usize) -> bool {
        let (Some(event), Some(end)) = (&self.events[at], &self.events[end]) else { return false };
        let name = event.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        end.time_ms - event.time_ms > SAVE_MS && !looks_temporary(name, false)
    }

    /// Who saved a file by making it anew writes on it: the save is told once, with what is written.
    fn write_saved(&mut self, author: DeviceId, inode: InodeId) {
        let Some(told) = self.emptied.remove(&inode) else { return };
        let is_last = self.events_of.get(&inode).and_then(|events| events.last()) == Some(&told);
        if is_last && self.events[told].as_ref().is_some_and(|event| event.device == author) {
            self.events[told] = None;
        }
    }

    /// Nobody's doing: only where the entry is from then on.
    fn take_pin(&mut self, pin: &record::Pin) {
        // A place that is not known yet is a birth's, and only files have those.
        let before = self.places.get(&pin.place);
        let (inode, kind) = before.map_or((InodeId(pin.place.0), Kind::File), |known| (known.inode, known.kind));
        let known = Known { inode, kind, parent: pin.parent, name: pin.name.clone(), alive: true };
        self.know(pin.place, known);
    }

    #[allow(clippy::too_many_arguments, reason = "one for each field of the event")]
    fn push(
        &mut self,
        stamp: Stamp,
        version: RecordId,
        device_name: &str,
        action: Action,
        (inode, kind): (InodeId, Kind),
        path: Vec<u8>,
        from: Option<Vec<u8>>,
        content: Option<ContentRef>,
    ) {
        self.events_of.entry(inode).or_default().push(self.events.len());
        self.events.push(Some(Event {
            time_ms: stamp.time_ms,
            device: stamp.device,
            device_name: device_name.to_owned(),
            action,
            inode,
            kind,
            path,
            from,
            content,
            version,
        }));
    }

    /// The path of a name; `None` if it does not lead to the root.
    fn path(&self, known: &Known) -> Option<Vec<u8>> {
        let mut names = vec![known.name.as_bytes()];
        let mut at = known.parent;
        while at != InodeId::ROOT {
            if names.len() > DEPTH_MAX {
                return None;
            }
            let known = self.places.get(self.name_of.get(&at)?)?;
            names.push(known.name.as_bytes());
            at = known.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }
}

/// Whether a record gives an inode the place that it had: with the stamps of then, so that nobody has chosen it now.
fn is_back(place: &Place, inode: InodeId) -> bool {
    let stamped = place.parent_stamp.is_some() && place.name_stamp.is_some();
    place.inode == inode && place.state == PlaceState::Live && stamped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::Time;
    use crate::op::{NewNode, Op, RenameMode};
    use crate::view::{Author, View};

    struct World {
        view: View,
        history: History,
        now: i64,
    }

    impl World {
        fn act(&mut self, op: Op) {
            self.now += 1;
            let author = Author { device: "desk", now_ms: u64::try_from(self.now).unwrap() };
            let outcome = self.view.apply(&op, &author).unwrap();
            let stamp = Stamp { device: DeviceId([1; 32]), time_ms: self.now };
            for (id, bytes) in outcome.records {
                self.history.take(stamp, id, &Record::decode(&bytes).unwrap());
            }
        }

        fn create(&mut self, dir: InodeId, name: &str, id: u8, kind: Kind) -> InodeId {
            let node = NewNode::new(kind, 0o644);
            let name = Name::try_from(name).unwrap();
            self.act(Op::Create { dir, name, inode: InodeId([id; 16]), place: PlaceId([id; 16]), node, beside: None });
            InodeId([id; 16])
        }
    }

    #[test]
    fn a_name_is_deleted_once() {
        let mut world = World { view: View::new(), history: History::default(), now: 0 };
        let file = world.create(InodeId::ROOT, "f", 1, Kind::File);
        let name = |text: &str| Name::try_from(text).unwrap();
        world.act(Op::Link { inode: file, dir: InodeId::ROOT, name: name("g"), place: PlaceId([9; 16]) });
        world.act(Op::Unlink { dir: InodeId::ROOT, name: name("f") });
        let content = ContentRef::single(b"x");
        world.act(Op::Edit { inode: file, via: None, basis: None, content, mtime: Time::default() });
        world.act(Op::Unlink { dir: InodeId::ROOT, name: name("g") });
        let events = world.history.into_events();
        let deleted: Vec<_> = events.iter().filter(|event| event.action == Action::Delete).collect();
        let paths: Vec<_> = deleted.iter().map(|event| std::str::from_utf8(&event.path).unwrap()).collect();
        assert_eq!(paths, ["f", "g"]);
    }

    #[test]
    fn what_others_had_the_name_of_is_found() {
        let mut history = History::default();
        let mut take = |n: u8, place: u8, inode: u8, parent: InodeId, name: &str, state: PlaceState| {
            let place = Place {
                place: PlaceId([place; 16]),
                inode: InodeId([inode; 16]),
                kind: if name == "d" { Kind::Dir } else { Kind::File },
                parent,
                parent_stamp: None,
                name: Name::try_from(name).unwrap(),
                name_stamp: None,
                device: "desk".into(),
                state,
                replaces: Vec::new(),
                saw: Vec::new(),
            };
            history.take(Stamp { device: DeviceId([1; 32]), time_ms: 0 }, RecordId([n; 16]), &Record::Place(place));
        };
        let gone = || PlaceState::Deleted { seen: Vec::new() };
        let (root, dir) = (InodeId::ROOT, InodeId([1; 16]));
        take(1, 1, 1, root, "d", PlaceState::Live);
        take(2, 2, 2, dir, "f", PlaceState::Live);
        take(3, 2, 2, dir, "f", gone());
        take(4, 3, 3, root, "d", PlaceState::Live);
        take(5, 4, 4, dir, "g", PlaceState::Live);
        take(6, 4, 4, dir, "g", gone());
        take(7, 3, 3, root, "elsewhere", PlaceState::Live);
        take(8, 5, 5, dir, "h", PlaceState::Live);
        take(9, 5, 5, dir, "h", gone());
        take(10, 6, 5, root, "h", PlaceState::Live);
        take(11, 7, 5, root, "h", PlaceState::Live);
        take(12, 7, 5, root, "h", gone());
        let contested = history.take_contested();
        let with = |dir, name: &str, rival: u8| Contested {
            stood: (dir, Name::try_from(name).unwrap()),
            rivals: BTreeSet::from([PlaceId([rival; 16])]),
        };
        let expected = [(RecordId([6; 16]), with(dir, "g", 3)), (RecordId([7; 16]), with(root, "d", 1))];
        assert_eq!(contested, BTreeMap::from(expected));
    }

    #[test]
    fn a_life_is_told_in_order() {
        let mut world = World { view: View::new(), history: History::default(), now: 0 };
        let dir = world.create(InodeId::ROOT, "d", 1, Kind::Dir);
        let file = world.create(dir, "f", 2, Kind::File);
        let (name, other) = (Name::try_from("f").unwrap(), Name::try_from("g").unwrap());
        let content = ContentRef::single(b"x");
        world.act(Op::Edit { inode: file, via: None, basis: None, content, mtime: Time::default() });
        world.act(Op::Rename {
            from_dir: dir,
            from: name,
            to_dir: InodeId::ROOT,
            to: other.clone(),
            mode: RenameMode::Replace,
        });
        world.act(Op::Unlink { dir: InodeId::ROOT, name: other });
        let events = world.history.into_events();
        let told: Vec<_> =
            events.iter().map(|e| (e.action, std::str::from_utf8(&e.path).unwrap(), e.time_ms)).collect();
        assert_eq!(
            told,
            [
                (Action::Create, "d", 1),
                (Action::Create, "d/f", 2),
                (Action::Update, "d/f", 3),
                (Action::Move, "g", 4),
                (Action::Delete, "g", 5),
            ]
        );
        assert_eq!(events[3].from.as_deref(), Some(&b"d/f"[..]));
        assert_eq!(events[2].content, Some(content));
        assert!(events[3].concerns(b"d") && events[3].concerns(b"g") && !events[4].concerns(b"d"));
        assert!(!events[1].concerns(b"d/") && events.iter().all(|event| event.concerns(b"")));
    }
}
