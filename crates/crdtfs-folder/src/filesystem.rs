//! Which filesystem a directory lies on, and whether a folder makes sense there.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

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
