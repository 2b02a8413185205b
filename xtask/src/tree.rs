//! Directory trees, read to be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A directory.
    Dir,
    /// A file: its permission bits, its size, and the blake3 of its bytes.
    File(u32, u64, blake3::Hash),
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// Something else.
    Other,
}

/// A tree: every entry by its path below the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads what is below a directory.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(below) = todo.pop() {
            let dir = root.join(&below);
            for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
                let entry = entry?;
                let path = below.join(entry.file_name());
                let read = read_entry(&entry.path()).with_context(|| format!("cannot read {}", path.display()))?;
                if read == Entry::Dir {
                    todo.push(path.clone());
                }
                tree.insert(path, read);
            }
        }
        Ok(Self(tree))
    }

    /// Number of files.
    pub(crate) fn files(&self) -> usize {
        self.0.values().filter(|entry| matches!(entry, Entry::File(..))).count()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|entry| if let Entry::File(_, size, _) = entry { *size } else { 0 }).sum()
    }

    /// An error that names the first differences, if there are any.
    pub(crate) fn same_as(&self, other: &Self) -> Result<()> {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differ: Vec<_> = paths.into_iter().filter(|path| self.0.get(*path) != other.0.get(*path)).collect();
        if differ.is_empty() {
            return Ok(());
        }
        let mut message = format!("{} of {} entries differ:", differ.len(), self.0.len().max(other.0.len()));
        for path in differ.iter().take(10) {
            write!(message, "\n  {}: {:?} | {:?}", path.display(), self.0.get(*path), other.0.get(*path))?;
        }
        bail!("{message}")
    }
}

fn read_entry(path: &Path) -> Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        return Ok(Entry::Dir);
    }
    if meta.is_symlink() {
        return Ok(Entry::Link(fs::read_link(path)?.into_os_string().into_vec()));
    }
    if !meta.is_file() {
        return Ok(Entry::Other);
    }
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(Entry::File(meta.permissions().mode() & 0o7777, size, hasher.finalize()))
}
