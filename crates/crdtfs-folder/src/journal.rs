//! What was published, or put into the folder, since the synced tree was last saved.
//!
//! After a crash between the two the view has versions that the tree knows nothing of, though they were made of what lay in this
//! very folder: an edit that follows them would stand beside them, as if others had made them. So would what is saved over a
//! version that came from elsewhere, and a file that was moved, and moved again since. A row here says of each that it was here:
//! written before it is published, and after it was put here. Of published directories, too: one may stand where another stood. The
//! rows are not synced. While the machine has not gone down since, everything that they say is so; else some of what they say of the
//! disk may not have been kept by it: that costs such a conflict copy at worst.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crdtfs_core::id::{Hash, InodeId};
use crdtfs_engine::boot;

/// An inode and what stands for its content, for its new place, or for the file on disk that it is (`synced` has them); of the root,
/// which never changes, the hash of the kernel's name for the time since the machine went up.
const ROW: usize = InodeId::LEN + 32;

/// Rows that the last run left, and whether the machine has been up since.
pub(crate) type Left = BTreeMap<(InodeId, Hash), bool>;

/// The file of rows.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    boot: Option<Hash>,
}

impl Journal {
    /// Opens or makes the file; the rows that the last run left.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Left)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let boot = boot::id().map(|id| Hash::of(id.as_bytes()));
        let (mut left, mut is_up) = (Left::new(), false);
        // A row that was cut short announced what did not happen.
        for row in bytes.chunks_exact(ROW) {
            let (inode, hash) = row.split_at(InodeId::LEN);
            let (Some(inode), Some(hash)) = (InodeId::from_slice(inode), Hash::from_slice(hash)) else { continue };
            if inode == InodeId::ROOT {
                is_up = boot == Some(hash);
            } else {
                *left.entry((inode, hash)).or_default() |= is_up;
            }
        }
        file.set_len((bytes.len() / ROW * ROW) as u64)?;
        let journal = Self { file, boot };
        journal.begin()?;
        Ok((journal, left))
    }

    /// What follows was done while this machine is up.
    fn begin(&self) -> io::Result<()> {
        self.boot.map_or(Ok(()), |boot| self.note(&[(InodeId::ROOT, boot)]))
    }

    /// Writes some down.
    pub(crate) fn note(&self, rows: &[(InodeId, Hash)]) -> io::Result<()> {
        let bytes: Vec<u8> = rows.iter().flat_map(|(inode, hash)| inode.0.into_iter().chain(hash.0)).collect();
        (&self.file).write_all(&bytes)
    }

    /// The tree was saved: it knows all of this.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rows_are_there_until_the_tree_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let [one, two] = [1, 2].map(|n| (InodeId([n; 16]), Hash([n; 32])));
        let (journal, left) = Journal::open(&path).unwrap();
        assert!(left.is_empty());
        journal.note(&[one]).unwrap();
        journal.note(&[two]).unwrap();
        (&journal.file).write_all(b"cut short").unwrap();
        let (journal, left) = Journal::open(&path).unwrap();
        assert_eq!(left, [(one, true), (two, true)].into());
        journal.note(&[(one.0, two.1)]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1.len(), 3);
        journal.clear().unwrap();
        journal.note(&[two]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [(two, true)].into());
    }

    #[test]
    fn what_was_done_before_the_machine_went_down_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let [one, two] = [1, 2].map(|n| (InodeId([n; 16]), Hash([n; 32])));
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.note(&[two]).unwrap();
        journal.boot = Some(Hash::of(b"another time"));
        journal.clear().unwrap();
        journal.note(&[one]).unwrap();
        let (journal, left) = Journal::open(&path).unwrap();
        assert_eq!(left, [(one, false)].into());
        journal.note(&[two]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [(one, false), (two, true)].into());
    }
}
