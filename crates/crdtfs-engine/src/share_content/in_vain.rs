//! Bytes that were asked for in vain: nobody who was connected has them. `status` says of what, and who may have them.
//!
//! What a program reads here and what a merge waits for is noted; what is fetched in the background is only counted as missing.
//! A note ends when the bytes are here, when nothing needs them any more, or when somebody came or got more, who may have them:
//! who needs them still asks again then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crdtfs_control::PathText;
use crdtfs_control::status::Problem;
use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId};
use crdtfs_core::node::Shown;
use crdtfs_core::port::Reader;

use crate::core::Core;
use crate::share::Share;

/// Files that a status names.
const NAMED: usize = 20;

/// What was asked for in vain, by the hash.
pub(crate) type InVain = BTreeMap<Hash, ContentRef>;

/// A reader that notes how it fares.
pub(super) struct Noting {
    pub(super) share: Arc<Share>,
    pub(super) content: ContentRef,
    pub(super) inner: Arc<dyn Reader>,
}

impl Reader for Noting {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset).inspect_err(|error| self.share.note_in_vain(&self.content, error))
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        self.inner.seek(offset, data)
    }

    fn backing(&self) -> Option<Arc<File>> {
        self.inner.backing()
    }
}

impl Share {
    /// Notes that bytes were asked for, if it was in vain.
    pub(crate) fn note_in_vain(&self, content: &ContentRef, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut) {
            self.in_vain.lock().insert(content.hash, *content);
            self.merging.changed();
            self.events.progressed();
        }
    }

    /// Somebody came, or got more: what was asked for in vain may be there.
    pub(crate) fn forget_in_vain(&self) {
        self.in_vain.lock().clear();
    }

    /// The files that were read in vain, and those whose merges wait in vain.
    pub(crate) fn asked_in_vain(&self) -> (BTreeSet<InodeId>, BTreeSet<InodeId>) {
        let asked: Vec<ContentRef> = self.in_vain.lock().values().copied().collect();
        let (here, lacking): (Vec<_>, Vec<_>) = asked.into_iter().partition(|content| self.has_whole(content));
        let merging: BTreeSet<_> =
            self.read(|replica| lacking.iter().flat_map(|content| replica.view().waiting_for(&content.hash)).collect());
        // What stands beside a file until it is merged is told with that.
        let pending = |file: &InodeId| {
            let node = self.read(|replica| replica.view().node(*file));
            node.is_some_and(|node| node.shown == Shown::Pending)
        };
        let read = lacking.iter().flat_map(|content| self.lacked_by(&content.hash));
        let read = read.filter(|file| !pending(file)).collect();
        let mut noted = self.in_vain.lock();
        here.iter().for_each(|content| _ = noted.remove(&content.hash));
        (read, merging)
    }
}

impl Core {
    /// What was asked for in vain, and who may have it.
    pub(crate) fn lacked(&self, share: &Share) -> Vec<Problem> {
        let (read, merging) = share.asked_in_vain();
        if read.is_empty() && merging.is_empty() {
            return Vec::new();
        }
        let away = match &self.may_have(share).join(", ") {
            none if none.is_empty() => "no other device is a member".to_owned(),
            away => format!("not connected, and may have them: {away}"),
        };
        let read = read.into_iter().map(|file| (file, "its bytes are not here, and nobody who is connected has them"));
        let merging = merging.into_iter().map(|file| {
            let why = "two versions are shown until they can be merged: bytes for that are not here, and nobody who is connected \
                       has them";
            (file, why)
        });
        let dir = self.dir_of(share).to_path();
        let all: Vec<_> = merging.chain(read).collect();
        let named = all.iter().take(NAMED).filter_map(|(file, why)| {
            let path = dir.join(OsStr::from_bytes(&share.path_of(*file)?));
            Some(Problem { path: Some(PathText::from(&path)), message: format!("{why}; {away}") })
        });
        let mut problems: Vec<_> = named.collect();
        if all.len() > NAMED {
            let message = format!(
                "of {} more files bytes are not here, and nobody who is connected has them; {away}",
                all.len() - NAMED
            );
            problems.push(Problem { path: None, message });
        }
        problems
    }

    /// The members that are not connected, by name: first those that had everything when they last said so, the last seen first.
    fn may_have(&self, share: &Share) -> Vec<String> {
        let (connected, own) = (self.connected(&share.id()), share.vector());
        let mut away: Vec<_> = share.members();
        away.retain(|member| !member.revoked && member.device != share.device() && !connected.contains(&member.device));
        away.sort_by_cached_key(|member| {
            let held = share.held_by(&member.device, false, &own);
            let had_all = held.is_some_and(|held| held.missing_files == 0 && !held.partial);
            std::cmp::Reverse((had_all, share.last_seen(&member.device)))
        });
        away.into_iter().map(|member| member.name).collect()
    }
}
