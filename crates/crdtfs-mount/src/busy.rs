//! Which processes keep a mount busy, for the user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that has something below a directory open, or works there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    pid: u32,
    name: String,
    path: PathBuf,
}

/// Who uses what below `dir`, as the end of a sentence. Processes of other users are only seen by root.
pub(crate) fn users_of(dir: &Path) -> String {
    const NAMED: usize = 3;
    let users = find(dir);
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

/// Looks at the links of `/proc` only, never at what they lead to: that could be the very mount that does not answer.
fn find(dir: &Path) -> Vec<User> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut users: Vec<User> = pids.filter_map(|pid| user(pid, dir)).collect();
    users.sort_by_key(|user| user.pid);
    users
}

/// What a process uses below `dir`, the first that is found (proc_pid_fd(5), proc_pid_cwd(5), proc_pid_maps(5)).
fn user(pid: u32, dir: &Path) -> Option<User> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let links = ["cwd", "root", "exe"].map(|link| process.join(link)).into_iter().chain(open);
    let mut used = links.filter_map(|link| fs::read_link(link).ok());
    let path = used.find(|path| path.starts_with(dir)).or_else(|| mapped(&process, dir))?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
    Some(User { pid, name, path })
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
        assert_eq!(find(&dir), []);
        assert!(users_of(&dir).contains("cannot be seen"));
        let path = dir.join("used");
        let file = fs::File::create(&path).unwrap();
        let users = find(&dir);
        assert_eq!((users[0].pid, &users[0].path), (std::process::id(), &path));
        assert!(users_of(&dir).contains(&format!("(process {}) uses {}", std::process::id(), path.display())));
        drop(file);
        assert_eq!(find(&dir), []);
    }
}
