//! Which versions and names were about to be published since the synced tree was last saved.
//!
//! After a crash between the two the view has versions that the tree knows nothing of, though they were made of what lay in this
//! very folder: an edit that follows them would stand beside them, as if others had made them. So would a file that was moved,
//! and moved again since. A row here, written before each, says which they are. It survives the end of the process, not that of
//! the machine: that costs such a conflict copy at worst.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crdtfs_core::id::{Hash, InodeId};

/// An inode and the hash of its content, or of its new place.
const ROW: usize = InodeId::LEN + 32;

/// The file of rows.
#[derive(Debug)]
pub(crate) struct Published {
    file: File,
}

impl Published {
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

    /// A version, or a name, is about to be published.
    pub(crate) fn note(&self, inode: &InodeId, content: &Hash) -> io::Result<()> {
        (&self.file).write_all(&[&inode.0[..], &content.0].concat())
    }

    /// The tree was saved: it knows all that was published.
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
        let path = dir.path().join("published");
        let [one, two] = [1, 2].map(|n| (InodeId([n; 16]), Hash([n; 32])));
        let (published, left) = Published::open(&path).unwrap();
        assert!(left.is_empty());
        published.note(&one.0, &one.1).unwrap();
        published.note(&two.0, &two.1).unwrap();
        (&published.file).write_all(b"cut short").unwrap();
        let (published, left) = Published::open(&path).unwrap();
        assert_eq!(left, [one, two].into());
        published.note(&one.0, &two.1).unwrap();
        assert_eq!(Published::open(&path).unwrap().1.len(), 3);
        published.clear().unwrap();
        published.note(&two.0, &two.1).unwrap();
        assert_eq!(Published::open(&path).unwrap().1, [two].into());
    }
}
