//! Which filesystem a directory lies on, whether a folder makes sense there, and what it can do.

use std::io;
use std::path::Path;

use crdtfs_core::name::Name;
use crdtfs_core::node::Time;
use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::alias::Platform;
use crate::disk::{Dir, Left, Root, TEMPORARY};

/// Filesystems whose files are the kernel's, as the mount table calls them: nothing in them is anybody's to keep.
const OF_THE_KERNEL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// What a mounted share is called there.
const SHARE: &str = "fuse.crdtfs";

/// Filesystems that number files anew at every mount (or whenever they come across them again), though they may keep times
/// of birth. Those in user space do, unless they keep such times.
const NUMBERED_ANEW: &[&str] = &["9p", "exfat", "msdos", "vfat"];

/// Filesystems that keep what is removed while it is open under names that begin so, by the beginning of their type
/// (fuse(8), `hard_remove`; nfs(5), "sillyrename").
const REMOVED: &[(&str, &[u8])] = &[("fuse", b".fuse_hidden"), ("nfs", b".nfs")];

/// What a filesystem can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// The names it holds.
    pub(crate) names: Platform,
    /// Renames that never replace anything, and exchanges (renameat2(2)).
    pub(crate) exchanges: bool,
    /// A file has its number for as long as it exists.
    pub(crate) numbers: bool,
    /// Permission bits are kept.
    pub(crate) modes: bool,
    /// There are symbolic links.
    pub(crate) symlinks: bool,
    /// A file can have several names.
    pub(crate) links: bool,
    /// How the names begin under which it keeps what was removed and is open still.
    pub(crate) removed: Option<&'static [u8]>,
}

impl Default for Abilities {
    /// All that a folder wants.
    fn default() -> Self {
        Self {
            names: Platform::default(),
            exchanges: true,
            numbers: true,
            modes: true,
            symlinks: true,
            links: true,
            removed: None,
        }
    }
}

impl Abilities {
    /// Finds out by trying, in a folder that may be written to.
    ///
    /// # Errors
    /// If nothing can be made there.
    pub(crate) fn probe(root: &Root) -> io::Result<Self> {
        let dir = root.dir(&[])?;
        // An earlier process of this number may have ended here.
        remove_tried(&dir)?;
        let names = Platform::probe(&dir)?;
        let one = name("one");
        let file = dir.create(&one)?;
        let modes = dir.stat(&one)?.is_some_and(|meta| meta.stamp.mode & 0o777 == 0o600);
        drop(file);
        let born = dir.stat(&one)?.is_some_and(|meta| meta.stamp.ident.born != Default::default());
        let exchanges = Self::try_exchange(&dir, &one);
        let links = !refused(&dir.link(&one, &dir, &name("link")));
        let symlinks = !refused(&dir.symlink(&name("symlink"), b"target"));
        remove_tried(&dir)?;
        let kind = kind_of(root.path()).ok().flatten().unwrap_or_default();
        let removed = REMOVED.iter().find(|(of, _)| kind.starts_with(of)).map(|(_, names)| *names);
        Ok(Self { names, exchanges, numbers: numbers_last(&kind, born), modes, symlinks, links, removed })
    }

    /// Whether a name is one that the filesystem gave to what is no entry any more.
    pub(crate) fn is_removed(self, name: &Name) -> bool {
        self.removed.is_some_and(|start| name.as_bytes().starts_with(start))
    }

    fn try_exchange(dir: &Dir, one: &Name) -> bool {
        let other = name("other");
        dir.create(&other).is_ok() && !refused(&dir.exchange(one, dir, &other))
    }

    /// What it lacks, in words, for people; `None`: nothing that they would miss.
    pub(crate) fn lacks(self) -> Option<String> {
        let lacks: Vec<&str> =
            [(self.modes, "permission bits"), (self.symlinks, "symbolic links"), (self.links, "hard links")]
                .into_iter()
                .filter_map(|(has, what)| (!has).then_some(what))
                .collect();
        (!lacks.is_empty()).then(|| {
            format!(
                "this filesystem has no {}; those of the share stay as they are on other devices",
                lacks.join(", no ")
            )
        })
    }
}

/// Whether files have their numbers for good, on a filesystem of a type, which keeps times of birth or does not.
fn numbers_last(kind: &str, born: bool) -> bool {
    !NUMBERED_ANEW.contains(&kind) && (born || !kind.starts_with("fuse"))
}

/// Whether a root that is empty was emptied by its user, and is not what shows where a disk is not mounted, was replaced, or was
/// put back from an older copy. `root`: it has not been touched since it was opened, and has the number and time of birth that it
/// had when it was `left`. Where there is any doubt it was not.
pub(crate) fn was_emptied(root: &Root, left: Option<Left>) -> bool {
    let (Some(left), Ok(now), Ok(meta), Ok(kind)) = (left, root.left(), root.meta(), kind_of(root.path())) else {
        return false;
    };
    let born = meta.stamp.ident.born != Time::default();
    let same = born && kind.is_some_and(|kind| numbers_last(&kind, born));
    // What was put back from a copy was changed before.
    same && now.filesystem != 0 && now.filesystem == left.filesystem && now.changed >= left.changed
}

fn remove_tried(dir: &Dir) -> io::Result<()> {
    for end in ["one", "other", "link", "symlink"] {
        match dir.unlink(&name(end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A name to try something with.
fn name(end: &str) -> Name {
    let own = format!("probe-{}-{end}", std::process::id());
    Name::new(&[TEMPORARY, own.as_bytes()].concat()).expect("short and without a separator")
}

/// Whether it is not for want of room, or the like, that something failed.
fn refused(result: &io::Result<()>) -> bool {
    use rustix::io::Errno;
    let no = [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::PERM];
    let code = result.as_ref().err().and_then(io::Error::raw_os_error);
    code.is_some_and(|code| no.iter().any(|errno| errno.raw_os_error() == code))
}

/// Why a folder makes no sense at `dir`, if it makes none. Where nothing is there yet, its nearest directory counts. What
/// cannot be found out is no reason.
pub(crate) fn unfit(dir: &Path) -> Option<String> {
    let kind = dir.ancestors().find_map(|at| match kind_of(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.ok().flatten()),
    })??;
    if kind == SHARE {
        return Some("lies in a share that is mounted, whose files are synced already".into());
    }
    OF_THE_KERNEL
        .contains(&&*kind)
        .then(|| format!("lies on a filesystem of type {kind}, whose files are the kernel's own"))
}

/// The type of the filesystem that `path` lies on, by the mount that statx(2) names.
fn kind_of(path: &Path) -> io::Result<Option<String>> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Ok(None);
    }
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(type_in(&table, stat.stx_mnt_id))
}

/// The type in a table of mounts (proc_pid_mountinfo(5)); of several mounts with one number the last line's.
fn type_in(table: &[u8], mount: u64) -> Option<String> {
    let number = mount.to_string();
    let lines = table.split(|b| *b == b'\n').rev();
    let mut words = lines
        .map(|line| line.split(|b| *b == b' '))
        .find_map(|mut words| (words.next() == Some(number.as_bytes())).then_some(words))?;
    words.find(|word| *word == b"-")?;
    words.next().map(|word| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read() {
        let table =
            b"21 1 0:20 / /proc rw,nosuid shared:12 - proc proc rw\n36 35 98:0 / /mnt rw - fuse.crdtfs crdtfs rw\n";
        assert_eq!(type_in(table, 21).as_deref(), Some("proc"));
        assert_eq!(type_in(table, 36).as_deref(), Some(SHARE));
        assert_eq!(type_in(table, 3), None);
    }

    #[test]
    fn what_the_kernel_shows_is_no_place_for_a_folder() {
        for dir in ["/proc", "/proc/self/none/here"] {
            assert!(unfit(Path::new(dir)).is_some_and(|why| why.contains("proc")), "{dir}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(unfit(dir.path()), None);
        assert_eq!(unfit(&dir.path().join("not/yet")), None);
    }
}
