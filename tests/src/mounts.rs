//! What is mounted, and taking it away.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The mount points of this process' namespace, oldest first.
fn mount_points() -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .collect()
}

/// Undoes the octal escapes of mountinfo (proc_pid_mountinfo(5)).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        if let Some(digits) = digits {
            out.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Whether something is mounted exactly there. Asks nothing of the filesystem, which may hang.
pub fn is_mounted(dir: &Path) -> bool {
    mount_points().iter().any(|point| point.as_os_str().as_bytes() == dir.as_os_str().as_bytes())
}

/// Unmounts all at or below `dir`, the newest first; detaches lazily what is busy.
pub fn unmount_below(dir: &Path) {
    for point in mount_points().iter().rev().filter(|point| point.starts_with(dir)) {
        // Forced, or what a killed engine left may hold us up.
        if !quiet("umount", &[Path::new("-f"), point.as_path()]) {
            quiet("umount", &[Path::new("-l"), point.as_path()]);
        }
    }
}

fn quiet(program: &str, args: &[&Path]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(br"/a\04"), Path::new("/a\\04"));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(is_mounted(Path::new("/")));
        assert!(!is_mounted(Path::new("/no such mount point")));
    }
}
