//! What was published, or put into the folder, since the synced tree was last saved.
//!
//! After a crash between the two the view has versions that the tree knows nothing of, though they were made of what lay in this
//! very folder: an edit that follows them would stand beside them, as if others had made them. So would what is saved over a
//! version that came from elsewhere, and a file that was moved, and moved again since. A row here says of each that it was here:
//! written before it is published, and after it was put here. It survives the end of the process, not that of the machine: that
//! costs such a conflict copy at worst.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crdtfs_core::id::{Hash, InodeId};

/// An inode and a hash that stands for its content, or for its new place ([`crate::synced`] has them).
const ROW: usize = InodeId::LEN + 32;

/// The file of rows.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Opens or makes the file; the rows that the last run left.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, BTreeSet<(InodeId, Hash)>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let row =
            |row: &[u8]| Some((InodeId::from_slice(&row[..InodeId::LEN])?, Hash::from_slice(&row[InodeId::LEN..])?));
        // A row that was cut short announced what did not happen.
        let rows = bytes.chunks_exact(ROW).filter_map(row).collect();
        file.set_len((bytes.len() / ROW * ROW) as u64)?;
        Ok((Self { file }, rows))
    }

    /// Writes one down.
    pub(crate) fn note(&self, inode: &InodeId, content: &Hash) -> io::Result<()> {
        (&self.file).write_all(&[&inode.0[..], &content.0].concat())
    }

    /// The tree was saved: it knows all of this.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
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
        journal.note(&one.0, &one.1).unwrap();
        journal.note(&two.0, &two.1).unwrap();
        (&journal.file).write_all(b"cut short").unwrap();
        let (journal, left) = Journal::open(&path).unwrap();
        assert_eq!(left, [one, two].into());
        journal.note(&one.0, &two.1).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1.len(), 3);
        journal.clear().unwrap();
        journal.note(&two.0, &two.1).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [two].into());
    }
}
