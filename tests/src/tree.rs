//! A directory tree as it is, for comparison byte for byte.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::poll::until;

/// What an entry is, with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file: its length, the blake3 of its bytes, its modification time in nanoseconds since 1970.
    File(u64, blake3::Hash, i128),
    /// A directory.
    Dir,
    /// A symlink and where it points.
    Symlink(PathBuf),
    /// Something else.
    Other(&'static str),
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Permission bits; 0o777 for symlinks.
    pub mode: u32,
    /// The attributes `user.*` of a file.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All that is below a directory, by relative path. The directory itself is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Item>);

impl Tree {
    /// Reads all names, attributes and bytes.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.read_dir(root, Path::new(""))?;
        Ok(tree)
    }

    fn read_dir(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let relative = below.join(entry?.file_name());
            let path = root.join(&relative);
            let meta = fs::symlink_metadata(&path)?;
            let xattrs = if meta.is_file() { xattrs(&path)? } else { BTreeMap::new() };
            let item = Item { kind: kind(&path, &meta)?, mode: meta.mode() & 0o7777, xattrs };
            let is_dir = item.kind == Kind::Dir;
            self.0.insert(relative.clone(), item);
            if is_dir {
                self.read_dir(root, &relative)?;
            }
        }
        Ok(())
    }

    /// Where the two differ, one line each, at most 20 and a count of the rest.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for name in names {
            let (a, b) = (self.0.get(name), other.0.get(name));
            if a != b {
                lines.push(format!("{}: {} | {}", name.display(), told(a), told(b)));
            }
        }
        if lines.len() > 20 {
            let more = lines.len() - 20;
            lines.truncate(20);
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// The path of a file with exactly these bytes.
    pub fn holder(&self, bytes: &[u8]) -> Option<&Path> {
        let hash = blake3::hash(bytes);
        self.0
            .iter()
            .find(|(_, item)| matches!(&item.kind, Kind::File(_, h, _) if *h == hash))
            .map(|(path, _)| path.as_path())
    }

    /// Whether there is an entry of that name.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(Path::new(path))
    }

    /// The names, as text.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|path| path.to_string_lossy().into_owned()).collect()
    }
}

fn told(item: Option<&Item>) -> String {
    match item {
        None => "absent".into(),
        Some(Item { kind: Kind::File(len, hash, mtime), mode, xattrs }) => {
            format!("file {mode:o} {len} bytes {} mtime {mtime} {} xattrs", &hash.to_hex()[..12], xattrs.len())
        }
        Some(item) => format!("{:?} {:o}", item.kind, item.mode),
    }
}

fn kind(path: &Path, meta: &Metadata) -> io::Result<Kind> {
    let file_type = meta.file_type();
    Ok(if file_type.is_file() {
        let bytes = fs::read(path)?;
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Kind::File(bytes.len() as u64, blake3::hash(&bytes), mtime)
    } else if file_type.is_dir() {
        Kind::Dir
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(path)?)
    } else if file_type.is_fifo() {
        Kind::Other("fifo")
    } else if file_type.is_socket() {
        Kind::Other("socket")
    } else {
        Kind::Other("device")
    })
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = [0; 65_536];
    let len = match rustix::fs::llistxattr(path, &mut list[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        len => len?,
    };
    let names = list[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = [0; 65_536];
            let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
            Ok((name.to_vec(), value[..len].to_vec()))
        })
        .collect()
}

/// Waits until the directories have the same tree; returns it.
///
/// # Panics
/// After `limit`, with the differences.
#[track_caller]
pub fn same_trees(dirs: &[&Path], limit: Duration) -> Tree {
    until("the same tree everywhere", limit, || {
        let trees: Vec<_> = dirs
            .iter()
            .map(|dir| Tree::read(dir).map_err(|e| format!("{}: {e}", dir.display())))
            .collect::<Result<_, _>>()?;
        for (dir, tree) in dirs.iter().zip(&trees).skip(1) {
            let lines = trees[0].differences(tree);
            if !lines.is_empty() {
                return Err(format!("{} | {}:\n  {}", dirs[0].display(), dir.display(), lines.join("\n  ")));
            }
        }
        Ok(trees.into_iter().next().expect("at least one directory"))
    })
}
