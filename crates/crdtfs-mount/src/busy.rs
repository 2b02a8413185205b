//! Which processes keep a mount busy, for the user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used<'a> {
    /// The directory at which it is mounted.
    pub(crate) dir: &'a Path,
    /// The number of its device, as the mount table writes it: what is mounted no more has no path to be known by.
    pub(crate) device: Option<&'a str>,
}

/// A process that has something below a directory open, or works there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    pid: u32,
    name: String,
    path: PathBuf,
}

/// Who uses what, as the end of a sentence. Processes of other users are only seen by root.
pub(crate) fn users_of(used: Used<'_>) -> String {
    const NAMED: usize = 3;
    let users = find(used);
    let mut said: Vec<String> = users
        .iter()
        .take(NAMED)
        .map(|user| format!("{} (process {}) uses {}", user.name, user.pid, user.path.display()))
        .collect();
    match users.len().saturating_sub(NAMED) {
        0 if users.is_empty() => said.push("a process that cannot be seen from here uses it".to_owned()),
        0 => {}
        more => said.push(format!("{more} more processes")),
    }
    said.join(", ")
}

/// Looks at the links of `/proc` only, and at what the kernel itself knows of what they lead to: that could be the very mount that
/// does not answer.
fn find(used: Used<'_>) -> Vec<User> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut users: Vec<User> = pids.filter_map(|pid| user(pid, used)).collect();
    users.sort_by_key(|user| user.pid);
    users
}

/// What a process uses, the first that is found (proc_pid_fd(5), proc_pid_cwd(5), proc_pid_maps(5)).
fn user(pid: u32, used: Used<'_>) -> Option<User> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut links = ["cwd", "root", "exe"].map(|link| process.join(link)).into_iter().chain(open);
    let linked = links.find_map(|link| {
        let path = fs::read_link(&link).ok()?;
        let is_used = path.starts_with(used.dir) || used.device.is_some_and(|device| lies_on(&link, device));
        is_used.then_some(path)
    });
    let path = linked.or_else(|| mapped(&process, used.dir))?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
    Some(User { pid, name, path })
}

/// Whether what a link leads to lies on this device; nobody but the kernel is asked.
fn lies_on(link: &Path, device: &str) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(CWD, link, flags, StatxFlags::empty())
        .is_ok_and(|is| format!("{}:{}", is.stx_dev_major, is.stx_dev_minor) == device)
}

/// A file below `dir` that a process has in memory.
fn mapped(process: &Path, dir: &Path) -> Option<PathBuf> {
    let maps = fs::read(process.join("maps")).ok()?;
    let files = maps.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        Some(Path::new(OsStr::from_bytes(&line[at..])))
    });
    files.into_iter().find(|path| path.starts_with(dir)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_has_a_file_open_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let used = Used { dir: &dir, device: None };
        assert_eq!(find(used), []);
        assert!(users_of(used).contains("cannot be seen"));
        let path = dir.join("used");
        let file = fs::File::create(&path).unwrap();
        let users = find(used);
        assert_eq!((users[0].pid, &users[0].path), (std::process::id(), &path));
        assert!(users_of(used).contains(&format!("(process {}) uses {}", std::process::id(), path.display())));
        drop(file);
        assert_eq!(find(used), []);
    }
}
