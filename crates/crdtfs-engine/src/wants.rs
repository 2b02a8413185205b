//! Which contents of the view are not on this device yet, and which of them to fetch next.
//!
//! A pure structure: the share's fetcher asks it for batches and tells it how they went. Small files never wait behind a
//! large one: a batch takes the smallest first.

use std::collections::{BTreeMap, BTreeSet};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId};

/// What is missing. An inode has at most one content here: the one that it shows.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    missing: BTreeMap<InodeId, ContentRef>,
    /// The same by content: what arrives serves all that show it.
    by_hash: BTreeSet<(Hash, InodeId)>,
    bytes: u64,
    /// By (size, inode): to be fetched.
    ready: BTreeSet<(u64, InodeId)>,
    /// Tried in vain; tried again after [`Wants::retry`].
    aside: BTreeSet<(u64, InodeId)>,
    /// The disk had no room for them; tried again after [`Wants::fits`].
    unfit: BTreeSet<(u64, InodeId)>,
}

impl Wants {
    /// The inode shows `content` (`None`: nothing any more), which is here or not.
    pub(crate) fn note(&mut self, inode: InodeId, content: Option<&ContentRef>, local: bool) {
        if let Some(old) = self.missing.remove(&inode) {
            self.bytes -= old.size;
            self.by_hash.remove(&(old.hash, inode));
            self.ready.remove(&(old.size, inode));
            self.aside.remove(&(old.size, inode));
            self.unfit.remove(&(old.size, inode));
        }
        if let Some(content) = content
            && !local
        {
            self.missing.insert(inode, *content);
            self.bytes += content.size;
            self.by_hash.insert((content.hash, inode));
            self.ready.insert((content.size, inode));
        }
    }

    /// A content is here: whatever shows it lacks it no more.
    pub(crate) fn arrived(&mut self, hash: &Hash) {
        for inode in self.of(hash).collect::<Vec<_>>() {
            self.note(inode, None, true);
        }
    }

    /// The inodes that show a content and lack it.
    pub(crate) fn of(&self, hash: &Hash) -> impl Iterator<Item = InodeId> {
        let all = (*hash, InodeId([0; 16]))..=(*hash, InodeId([0xff; 16]));
        self.by_hash.range(all).map(|(_, inode)| *inode)
    }

    /// There is no room for it now.
    pub(crate) fn put_unfit(&mut self, inode: InodeId, hash: &Hash) {
        if let Some(content) = self.missing.get(&inode)
            && content.hash == *hash
            && self.ready.remove(&(content.size, inode))
        {
            self.unfit.insert((content.size, inode));
        }
    }

    /// Those that there was no room for, the smallest first.
    pub(crate) fn unfit(&self) -> impl Iterator<Item = (InodeId, ContentRef)> {
        self.unfit.iter().map(|(_, inode)| (*inode, self.missing[inode]))
    }

    /// There may be room for it by now.
    pub(crate) fn fits(&mut self, inode: InodeId) {
        if let Some(content) = self.missing.get(&inode)
            && self.unfit.remove(&(content.size, inode))
        {
            self.ready.insert((content.size, inode));
        }
    }

    /// Nobody has it now.
    pub(crate) fn put_aside(&mut self, inode: InodeId, hash: &Hash) {
        if let Some(content) = self.missing.get(&inode)
            && content.hash == *hash
            && self.ready.remove(&(content.size, inode))
        {
            self.aside.insert((content.size, inode));
        }
    }

    /// Somebody came or got something: what was tried in vain is worth another try.
    pub(crate) fn retry(&mut self) {
        self.ready.append(&mut self.aside);
    }

    /// The smallest missing contents: at most `files`, of at most `bytes` together, but at least one if there is one.
    pub(crate) fn batch(&self, files: usize, bytes: u64) -> Vec<(InodeId, ContentRef)> {
        let mut sum = 0;
        let mut batch = Vec::new();
        for (size, inode) in self.ready.iter().take(files) {
            sum += size;
            if !batch.is_empty() && sum > bytes {
                break;
            }
            batch.push((*inode, self.missing[inode]));
        }
        batch
    }

    /// Number of files that lack bytes, and their sizes' sum.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.missing.len() as u64, self.bytes)
    }

    /// Every missing content.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&InodeId, &ContentRef)> {
        self.missing.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(byte: u8, size: u64) -> ContentRef {
        ContentRef { hash: Hash([byte; 32]), size, manifest: None }
    }

    fn id(byte: u8) -> InodeId {
        InodeId([byte; 16])
    }

    #[test]
    fn the_smallest_come_first_and_a_large_one_alone() {
        let mut wants = Wants::default();
        wants.note(id(1), Some(&content(1, 1000)), false);
        wants.note(id(2), Some(&content(2, 10)), false);
        wants.note(id(3), Some(&content(3, 20)), false);
        wants.note(id(4), Some(&content(4, 5)), true);
        assert_eq!(wants.totals(), (3, 1030));
        assert_eq!(wants.batch(9, 40), [(id(2), content(2, 10)), (id(3), content(3, 20))]);
        assert_eq!(wants.batch(1, 40), [(id(2), content(2, 10))]);
        wants.arrived(&content(2, 10).hash);
        wants.arrived(&content(3, 20).hash);
        assert_eq!(wants.batch(9, 40), [(id(1), content(1, 1000))]);
        wants.note(id(5), Some(&content(1, 1000)), false);
        wants.arrived(&content(1, 1000).hash);
        assert_eq!(wants.totals(), (0, 0), "both that show it have it");
    }

    #[test]
    fn another_version_takes_the_place_of_the_one_that_was_wanted() {
        let mut wants = Wants::default();
        wants.note(id(1), Some(&content(1, 10)), false);
        wants.note(id(1), Some(&content(2, 30)), false);
        wants.arrived(&content(1, 10).hash);
        assert_eq!(wants.totals(), (1, 30));
        wants.note(id(1), None, false);
        assert_eq!(wants.totals(), (0, 0));
        assert!(wants.batch(9, 9).is_empty());
    }

    #[test]
    fn what_has_no_room_waits_for_room() {
        let mut wants = Wants::default();
        wants.note(id(1), Some(&content(1, 10)), false);
        wants.note(id(2), Some(&content(2, 20)), false);
        wants.put_unfit(id(2), &content(2, 20).hash);
        wants.retry();
        assert_eq!(wants.batch(9, 99), [(id(1), content(1, 10))]);
        assert_eq!(wants.unfit().collect::<Vec<_>>(), [(id(2), content(2, 20))]);
        wants.fits(id(2));
        assert_eq!((wants.batch(9, 99).len(), wants.unfit().count()), (2, 0));
        wants.put_unfit(id(2), &content(2, 20).hash);
        wants.note(id(2), None, false);
        assert_eq!(wants.unfit().count(), 0, "it is not wanted any more");
    }

    #[test]
    fn what_nobody_has_waits_for_a_reason_to_try_again() {
        let mut wants = Wants::default();
        wants.note(id(1), Some(&content(1, 10)), false);
        wants.put_aside(id(1), &content(1, 10).hash);
        assert!(wants.batch(9, 99).is_empty() && wants.totals() == (1, 10));
        wants.retry();
        assert_eq!(wants.batch(9, 99).len(), 1);
    }
}
