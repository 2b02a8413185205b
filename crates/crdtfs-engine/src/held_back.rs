//! Holds changes back while all that they bring is of names that look temporary.
//!
//! Editors save by writing a temporary file and renaming it over the old one, or by moving the old one aside; tools make locks
//! and remove them. Between two of their steps the tree is in a state that nobody is meant to see. So a change that consists
//! of such steps alone waits for the next one: until what looks temporary is gone or has its real name, for
//! [`HOLD`] at most. It then goes out as one change, in which others see the save only. Anything else that happens sends
//! everything at once, and so do `fsync`, `wait`, unmounting and the engine's end: nothing is less durable for this.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::op::{Op, RenameMode};
use crdtfs_core::temporary::looks_temporary;

/// For how long at most.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

type Entry = (InodeId, Name);

/// What an operation has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// The node behind the name that was created. It is not always the one that the operation names: what was removed a moment
    /// ago and is made anew goes on as what it was.
    pub(crate) node: Option<InodeId>,
    /// How many records it made.
    pub(crate) records: usize,
}

/// What was done and not sent yet, as far as it may be held back.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    /// When the first of it was done; `None` if nothing is held back.
    since: Option<Instant>,
    /// Entries under temporary names that are there.
    temporary: BTreeSet<Entry>,
    /// Real names whose entries were moved to temporary ones.
    moved_aside: BTreeSet<Entry>,
    /// Nodes that were created: nobody has heard of what they are now.
    inodes: BTreeSet<InodeId>,
    /// How many records it made, the last of those that wait to be committed.
    records: usize,
}

impl HeldBack {
    /// Notes what was done; the time at which it has to go out, or `None` if that is now, with all that was held back.
    /// `in_git` says whether a directory is or lies in one called `.git`.
    pub(crate) fn note(
        &mut self,
        op: &Op,
        done: Done,
        in_git: impl Fn(InodeId) -> bool,
        now: Instant,
    ) -> Option<Instant> {
        if self.is_over(now) || !self.may_wait(op, in_git) {
            self.clear();
            return None;
        }
        self.inodes.extend(done.node);
        self.records += done.records;
        Some(*self.since.get_or_insert(now) + HOLD)
    }

    /// How many of the records that wait to be committed, the last ones, go on waiting.
    pub(crate) fn records(&mut self, now: Instant) -> usize {
        if self.is_over(now) {
            self.clear();
        }
        self.records
    }

    /// All of it goes out.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether something waits for as long as it may.
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now >= since + HOLD)
    }

    fn may_wait(&mut self, op: &Op, in_git: impl Fn(InodeId) -> bool) -> bool {
        let is_temporary = |dir: InodeId, name: &Name| {
            let bytes = name.as_bytes();
            looks_temporary(bytes, false) || (looks_temporary(bytes, true) && in_git(dir))
        };
        match op {
            Op::Create { dir, name, .. } | Op::Link { dir, name, .. } => {
                let entry = (*dir, name.clone());
                if is_temporary(*dir, name) {
                    self.temporary.insert(entry);
                } else if !self.moved_aside.contains(&entry) {
                    return false;
                }
                true
            }
            Op::Edit { inode, .. } | Op::SetAttr { inode, .. } => self.inodes.contains(inode),
            Op::Rename { from_dir, from, to_dir, to, mode } => {
                let source = (*from_dir, from.clone());
                if *mode == RenameMode::Exchange || !is_temporary(*to_dir, to) {
                    return false;
                }
                if !self.temporary.remove(&source) {
                    self.moved_aside.insert(source);
                }
                self.temporary.insert((*to_dir, to.clone()))
            }
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => {
                // The last one: what is left is what was meant.
                self.temporary.remove(&(*dir, name.clone())) && !self.temporary.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crdtfs_core::content::ContentRef;
    use crdtfs_core::id::PlaceId;
    use crdtfs_core::node::{Kind, Time};
    use crdtfs_core::op::NewNode;

    use super::*;

    fn name(text: &str) -> Name {
        Name::try_from(text).unwrap()
    }

    /// One step in words: `+name` creates, `!name` edits or changes the attributes of what was created so, `-name` removes, `a>b`
    /// renames.
    fn op(step: &str) -> Op {
        let dir = InodeId::ROOT;
        let inode = |text: &str| InodeId(*blake3_of(text));
        if let Some((from, to)) = step.split_once('>') {
            return Op::Rename {
                from_dir: dir,
                from: name(from),
                to_dir: dir,
                to: name(to),
                mode: RenameMode::Replace,
            };
        }
        let (kind, rest) = step.split_at(1);
        match kind {
            "+" => {
                let (inode, place) = (inode(rest), PlaceId([1; 16]));
                Op::Create { dir, name: name(rest), inode, place, node: NewNode::new(Kind::File, 0o644), beside: None }
            }
            "!" => {
                let (content, mtime) = (ContentRef::empty(), Time::default());
                Op::Edit { inode: inode(rest), via: None, basis: None, content, mtime }
            }
            "-" => Op::Unlink { dir, name: name(rest) },
            _ => panic!("{step}"),
        }
    }

    fn done(op: &Op) -> Done {
        match op {
            Op::Create { inode, .. } => Done { node: Some(*inode), records: 1 },
            _ => Done { node: None, records: 1 },
        }
    }

    fn blake3_of(text: &str) -> Box<[u8; 16]> {
        let hash = crdtfs_core::id::Hash::of(text.as_bytes());
        Box::new(hash.0[..16].try_into().unwrap())
    }

    /// After which of the steps everything goes out.
    fn sent(steps: &str) -> Vec<String> {
        let (mut held, now) = (HeldBack::default(), Instant::now());
        let sent = |step: &&str| held.note(&op(step), done(&op(step)), |_| false, now).is_none();
        steps.split_whitespace().filter(sent).map(str::to_owned).collect()
    }

    #[test]
    fn ordinary_changes_go_out_one_by_one() {
        assert_eq!(sent("+f !f f>g -g"), ["+f", "!f", "f>g", "-g"]);
    }

    #[test]
    fn a_save_goes_out_when_it_is_done() {
        for (program, steps, done) in [
            (
                "gedit",
                "+.goutputstream-A1B2C3 !.goutputstream-A1B2C3 .goutputstream-A1B2C3>f",
                ".goutputstream-A1B2C3>f",
            ),
            ("sed -i", "+sedA1b2C3 !sedA1b2C3 sedA1b2C3>f", "sedA1b2C3>f"),
            ("rsync", "+.f.A1b2C3 !.f.A1b2C3 !.f.A1b2C3 .f.A1b2C3>f", ".f.A1b2C3>f"),
            ("vim, with a swap file open", "+.f.swp +4913 -4913 f>f~ +f !f !f -f~ -.f.swp", "-.f.swp"),
            ("vim, moving aside", "f>f~ +f !f -f~", "-f~"),
            ("emacs", "+.#f f>f~ +f !f -.#f -f~", "-f~"),
            ("a lock", "+.~lock.f# -.~lock.f#", "-.~lock.f#"),
            ("an editor by two names", "+a.tmp a.tmp>b.tmp !a.tmp b.tmp>f", "b.tmp>f"),
        ] {
            assert_eq!(sent(steps), [done], "{program}");
        }
    }

    #[test]
    fn what_else_happens_sends_everything() {
        assert_eq!(sent("+a.tmp +g !a.tmp"), ["+g", "!a.tmp"], "others have heard of it");
        assert_eq!(sent("f>f~ +f !g -f~"), ["!g", "-f~"]);
    }

    #[test]
    fn nothing_waits_for_longer_than_a_moment() {
        let (mut held, now) = (HeldBack::default(), Instant::now());
        let due = held.note(&op("+a.tmp"), done(&op("+a.tmp")), |_| false, now).unwrap();
        let later = now + HOLD / 2;
        assert_eq!(held.note(&op("!a.tmp"), done(&op("!a.tmp")), |_| false, later), Some(due));
        assert_eq!((held.records(later), held.records(due)), (2, 0));
        assert_eq!(held.note(&op("!a.tmp"), done(&op("!a.tmp")), |_| false, due), None);
        held.clear();
        assert_eq!(held.records(later), 0);
    }

    #[test]
    fn locks_of_git_are_known_where_they_are_its_own() {
        let now = Instant::now();
        let lock = op("+index.lock");
        let held = |in_git: bool| HeldBack::default().note(&lock, done(&lock), move |_| in_git, now).is_some();
        assert!(held(true) && !held(false));
    }
}
