//! Repositories of any size, the same each time.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{COMMAND_LIMIT, run};
use crate::random::bytes;

/// git in a directory, with nobody's configuration but this.
pub fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).args(["-c", "safe.directory=*", "-c", "gc.auto=0"]);
    for (key, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        // Looking never writes: `status` would refresh the index.
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
    ] {
        command.env(key, value);
    }
    command
}

/// Makes a bare repository with `files` source files in three commits, an executable, a symlink and a binary of 3 MiB.
///
/// # Panics
/// If git fails.
pub fn origin(dir: &Path, files: usize) {
    let mut init = git(Path::new("/"));
    init.args(["init", "-q", "--bare", "-b", "main"]).arg(dir);
    run(init, COMMAND_LIMIT).ok();
    let mut import = git(dir);
    let mut import = import.args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().expect("git is needed");
    let mut stdin = import.stdin.take().expect("piped");
    stdin.write_all(&stream(files)).expect("git reads it");
    drop(stdin);
    assert!(import.wait().expect("a child of ours").success(), "git fast-import failed");
}

/// The stream of git-fast-import(1).
fn stream(files: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (commit, share) in [(1, 0..files * 3 / 4), (2, files * 3 / 4..files), (3, 0..files / 20)] {
        let message = format!("commit {commit}");
        let head = format!(
            "commit refs/heads/main\ncommitter A <a@example.org> {} +0000\ndata {}\n{message}\n",
            1_700_000_000 + commit * 60,
            message.len()
        );
        out.extend_from_slice(head.as_bytes());
        for index in share {
            let path = format!("src/mod{:02}/part{}/file{index:05}.rs", index % 61, index % 3);
            file(&mut out, "100644", &path, source(index, commit).as_bytes());
        }
        if commit == 1 {
            file(&mut out, "100755", "tools/run.sh", b"#!/bin/sh\nexec true\n");
            file(&mut out, "120000", "docs", b"src/mod00");
            file(&mut out, "100644", "assets/picture.bin", &bytes(7, 3 << 20));
        }
        out.push(b'\n');
    }
    out
}

fn file(out: &mut Vec<u8>, mode: &str, path: &str, data: &[u8]) {
    out.extend_from_slice(format!("M {mode} inline {path}\ndata {}\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.push(b'\n');
}

fn source(index: usize, commit: usize) -> String {
    let mut text = format!("//! Module {index}, as of commit {commit}.\n");
    for line in 0..index % 90 {
        writeln!(text, "pub const VALUE_{line}: u64 = {};", index * 7919 + line * 31 + commit)
            .expect("a string takes it");
    }
    text
}

/// Clones as over a network, without links between the two.
///
/// # Panics
/// If git fails.
pub fn clone(from: &Path, to: &Path) {
    let mut command = git(Path::new("/"));
    command.args(["clone", "-q"]).arg(format!("file://{}", from.display())).arg(to);
    run(command, COMMAND_LIMIT).ok();
}
