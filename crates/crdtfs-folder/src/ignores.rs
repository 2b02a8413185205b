//! What the user does not want synced: `.crdtfsignore` files at any level, in gitignore's syntax.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crdtfs_core::name::Name;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::disk::{ASIDE, Dir, PARKED, TEMPORARY};

/// The file with rules; it is synced like any other.
pub(crate) const FILE: &str = ".crdtfsignore";

/// Rules of more bytes than this are not read.
const MAX_LEN: u64 = 1 << 20;

/// The rules of all directories, by the directory's path.
#[derive(Debug, Default)]
pub(crate) struct Ignores {
    rules: BTreeMap<Vec<Name>, Gitignore>,
}

/// Whether a name is ours and never an entry.
pub(crate) fn is_temporary(name: &Name) -> bool {
    name.as_bytes().starts_with(TEMPORARY) || is_aside(name)
}

/// Whether a name is ours and stands for what was taken from its place.
pub(crate) fn is_aside(name: &Name) -> bool {
    name.as_bytes().starts_with(ASIDE)
}

/// Whether a name is ours and stands for an entry on its way.
pub(crate) fn is_parked(name: &Name) -> bool {
    name.as_bytes().starts_with(PARKED)
}

fn path_of(names: &[Name]) -> PathBuf {
    names.iter().map(|n| OsStr::from_bytes(n.as_bytes())).collect()
}

impl Ignores {
    /// Reads the rules of one directory again; whether they are others than before.
    pub(crate) fn load(&mut self, path: &[Name], dir: &Dir) -> bool {
        let name = Name::try_from(FILE).expect("a legal name");
        let mut text = String::new();
        let read = dir.open(&name).map(|file| file.take(MAX_LEN).read_to_string(&mut text));
        if !matches!(read, Ok(Ok(_))) || text.trim().is_empty() {
            return self.rules.remove(path).is_some();
        }
        let mut builder = GitignoreBuilder::new("/");
        for line in text.lines() {
            // A line that is no pattern has no effect, as in git.
            let _ = builder.add_line(None, line);
        }
        match builder.build() {
            Ok(rules) => {
                self.rules.insert(path.to_vec(), rules);
                true
            }
            Err(_) => self.rules.remove(path).is_some(),
        }
    }

    /// Whether there are no rules at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether an entry is left alone. Only its own name is looked at, against the rules from the root down to its
    /// directory, the deepest having the last word; what lies in an ignored directory is never asked for.
    pub(crate) fn ignored(&self, dir: &[Name], name: &Name, is_dir: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        for depth in (0..=dir.len()).rev() {
            let Some(rules) = self.rules.get(&dir[..depth]) else { continue };
            let mut path = path_of(&dir[depth..]);
            path.push(OsStr::from_bytes(name.as_bytes()));
            match rules.matched(&path, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Root;

    fn names(path: &str) -> Vec<Name> {
        path.split('/').filter(|n| !n.is_empty()).map(|n| Name::try_from(n).expect("legal")).collect()
    }

    #[test]
    fn the_deepest_rule_decides() {
        let tmp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(tmp.path().join("sub")).expect("makes");
        std::fs::write(tmp.path().join(FILE), "*.o\n/target\nbuild/\n").expect("writes");
        std::fs::write(tmp.path().join("sub").join(FILE), "!keep.o\n").expect("writes");
        let root = Root::open(tmp.path()).expect("opens");
        let mut ignores = Ignores::default();
        for path in ["", "sub"] {
            let path = names(path);
            assert!(ignores.load(&path, &root.dir(&path).expect("opens")));
        }
        let ignored =
            |dir: &str, name: &str, is_dir| ignores.ignored(&names(dir), &Name::try_from(name).expect("legal"), is_dir);
        assert!(ignored("", "a.o", false) && ignored("sub", "a.o", false) && ignored("x/y", "a.o", false));
        assert!(!ignored("sub", "keep.o", false) && ignored("", "keep.o", false));
        assert!(ignored("", "target", true) && !ignored("sub", "target", true));
        assert!(ignored("sub", "build", true) && !ignored("sub", "build", false));
        assert!(!ignored("", "a.c", false));
    }
}
