//! What people do with a folder: a repository of 5,000 files, a build, a database.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crdtfs_tests::{Device, Lab, Mode, clone, git, needs, origin, run, same_trees};

const LIMIT: Duration = Duration::from_secs(120);

/// A mount on the one and a watched folder on the other, joined.
fn mount_and_folder(a: &mut Device, b: &mut Device) -> (std::path::PathBuf, std::path::PathBuf) {
    let (mount, folder) = (a.dir("shared"), b.dir("shared"));
    a.show(Mode::Mount, None, &mount);
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    (mount, folder)
}

fn git_says(dir: &Path, args: &[&str]) -> String {
    let mut command = git(dir);
    command.args(args);
    run(command, LIMIT).ok()
}

#[test]
fn a_repository_of_5000_files() {
    needs!("a_repository_of_5000_files", Fuse, Tool("git"));
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let source = lab.root().join("origin.git");
    origin(&source, 5_200);
    let (mount, folder) = mount_and_folder(&mut a, &mut b);

    let start = Instant::now();
    clone(&source, &mount.join("repo"));
    let cloned = start.elapsed();
    a.wait(&mount, "all");
    eprintln!("cloned in {cloned:.2?}, on the other device after {:.2?}", start.elapsed());

    // `wait` said that it is all there.
    let tree = same_trees(&[&mount, &folder], Duration::from_secs(10));
    let files = tree.names().iter().filter(|name| !name.starts_with("repo/.git/")).count();
    assert!(files > 5_200, "{files} entries");
    let there = folder.join("repo");
    git_says(&there, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(git_says(&there, &["status", "--porcelain"]), "");
    assert_eq!(git_says(&there, &["rev-parse", "HEAD"]), git_says(&source, &["rev-parse", "main"]));

    // And back: a commit made in the folder is whole in the mount.
    fs::write(there.join("src/mod00/new.rs"), "// new\n").unwrap();
    git_says(&there, &["add", "-A"]);
    git_says(&there, &["commit", "-q", "-m", "from the other side"]);
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], Duration::from_secs(10));
    git_says(&mount.join("repo"), &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(git_says(&mount.join("repo"), &["status", "--porcelain"]), "");
    assert_eq!(git_says(&mount.join("repo"), &["log", "-1", "--format=%s"]).trim(), "from the other side");

    a.check();
    b.check();
    a.stop();
    b.stop();
}

#[test]
fn a_crate_builds_in_the_mount() {
    needs!("a_crate_builds_in_the_mount", Fuse, Tool("cargo"));
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (mount, folder) = mount_and_folder(&mut a, &mut b);
    let root = mount.join("hello");
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
        .unwrap();
    fs::write(root.join("build.rs"), "fn main() { println!(\"cargo:rustc-env=BUILT=yes\"); }\n").unwrap();
    fs::write(root.join("src/lib.rs"), "pub fn word() -> &'static str { env!(\"BUILT\") }\n").unwrap();
    fs::write(root.join("src/main.rs"), "fn main() { println!(\"built: {}\", hello::word()); }\n").unwrap();
    assert_eq!(cargo(&root).trim(), "built: yes");
    // Nothing changed: nothing is built, which takes exact times.
    let before = fs::metadata(root.join("target/debug/hello")).unwrap().modified().unwrap();
    assert_eq!(cargo(&root).trim(), "built: yes");
    assert_eq!(fs::metadata(root.join("target/debug/hello")).unwrap().modified().unwrap(), before);

    a.wait(&mount, "all");
    same_trees(&[&mount, &folder], Duration::from_secs(20));
    let there = run(Command::new(folder.join("hello/target/debug/hello")), LIMIT);
    assert_eq!(there.ok().trim(), "built: yes");
    a.stop();
    b.stop();
}

fn cargo(dir: &Path) -> String {
    let mut command = Command::new("cargo");
    command.args(["run", "-q", "--offline"]).current_dir(dir);
    for (key, _) in std::env::vars_os().filter(|(key, _)| {
        let key = key.to_string_lossy();
        (key.starts_with("CARGO") && key != "CARGO_HOME") || key.starts_with("RUSTC") || key == "RUSTFLAGS"
    }) {
        command.env_remove(key);
    }
    run(command, LIMIT).ok()
}

#[test]
fn a_database_is_written_while_it_is_read() {
    needs!("a_database_is_written_while_it_is_read", Fuse, Tool("sqlite3"));
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (mount, folder) = mount_and_folder(&mut a, &mut b);
    for journal in ["delete", "wal"] {
        let path = mount.join(format!("{journal}.db"));
        sql(&path, &format!("pragma journal_mode={journal}; create table t(n integer primary key, v blob);"));
        // 200 transactions of 5 rows each, in a process of its own.
        let script: String = (0..200)
            .map(|i| format!("begin immediate; insert into t(v) select randomblob(2000 + {i}) from generate_series(1,5); commit;\n"))
            .collect();
        let mut writer = Command::new("sqlite3");
        writer.arg("-bail").arg(&path).args(["-cmd", ".timeout 20000"]).arg(script);
        let mut writer = writer.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut counts = Vec::new();
        let status = loop {
            let ended = writer.try_wait().unwrap();
            counts.push(sql(&path, "select count(*) from t;").trim().parse::<u64>().unwrap());
            if let Some(status) = ended {
                break status;
            }
        };
        assert!(status.success(), "the writer failed: {status}");
        eprintln!("{journal}: read {} times while it was written", counts.len());
        assert!(counts.is_sorted(), "the reader saw it shrink: {counts:?}");
        assert!(counts.iter().all(|count| count % 5 == 0), "the reader saw half a transaction: {counts:?}");
        assert_eq!(counts.last(), Some(&1000));
        assert_eq!(sql(&path, "pragma integrity_check;").trim(), "ok");
    }
    a.wait(&mount, "all");
    same_trees(&[&mount, &folder], Duration::from_secs(20));
    for journal in ["delete", "wal"] {
        let path = folder.join(format!("{journal}.db"));
        assert_eq!(sql(&path, "pragma integrity_check; select count(*) from t;").trim(), "ok\n1000");
    }
    a.stop();
    b.stop();
}

fn sql(path: &Path, statements: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(path).args(["-cmd", ".timeout 20000"]).arg(statements);
    run(command, LIMIT).ok()
}
