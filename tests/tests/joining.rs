//! Joining with files already there, what is ignored, and what must not be taken from here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, needs, same_trees, until};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(20);

fn put(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn with_files_already_there() {
    needs!("with_files_already_there");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    put(
        &one,
        &[("same", "the same\n"), ("d/same", "the same, too\n"), ("differs", "anna's\n"), ("d/annas", "only anna's\n")],
    );
    put(
        &other,
        &[("same", "the same\n"), ("d/same", "the same, too\n"), ("differs", "bert's\n"), ("e/berts", "only bert's\n")],
    );
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], LIMIT);
    let names: Vec<_> = tree.names().into_iter().filter(|name| !name.contains("(conflict ")).collect();
    assert_eq!(names, ["d", "d/annas", "d/same", "differs", "e", "e/berts", "same"]);
    assert_eq!(tree.0.len(), names.len() + 1, "one conflict copy: {:?}", tree.names());
    assert!(tree.holder(b"anna's\n").is_some() && tree.holder(b"bert's\n").is_some());
    a.stop();
    b.stop();
}

#[test]
fn what_is_ignored_stays_here() {
    needs!("what_is_ignored_stays_here");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    put(
        &one,
        &[
            (".crdtfsignore", "*.o\ntarget/\n"),
            ("main.c", "int main;\n"),
            ("main.o", "object\n"),
            ("target/x", "built\n"),
        ],
    );
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    put(&one, &[("later.o", "object\n"), ("later.c", "int later;\n")]);
    until("the rest arrives", LIMIT, || fs::read(other.join("later.c")).map_err(|e| e.to_string()));
    a.wait(&one, "all");
    let mut names: Vec<_> =
        fs::read_dir(&other).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [".crdtfsignore", "later.c", "main.c"]);
    assert_eq!(fs::read_to_string(one.join("target/x")).unwrap(), "built\n");
    a.stop();
    b.stop();
}

#[test]
fn a_read_only_folder_gives_nothing() {
    needs!("a_read_only_folder_gives_nothing");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    put(&one, &[("f", "one\n")]);
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show_with(Mode::Watch, Some(&ticket), &other, &["--read-only"]);
    a.wait(&one, "all");
    put(&other, &[("mine", "stays here\n")]);
    until("it is reported", LIMIT, || {
        let said = b.status()["shares"][0]["problems"].to_string();
        if said.contains("mine") { Ok(()) } else { Err(said) }
    });
    put(&one, &[("f", "two\n")]);
    until("what others do arrives", LIMIT, || {
        let text = fs::read_to_string(other.join("f")).map_err(|e| e.to_string())?;
        if text == "two\n" { Ok(()) } else { Err(text) }
    });
    assert!(!one.join("mine").exists());
    assert_eq!(fs::read_to_string(other.join("mine")).unwrap(), "stays here\n");
    a.stop();
    b.stop();
}

/// The engine is killed at any moment of a join: the ticket, or the directory, leads on from there.
#[test]
fn who_is_killed_while_joining_goes_on() {
    needs!("who_is_killed_while_joining_goes_on");
    const ROUNDS: u64 = 16;
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let one = a.dir("s");
    put(&one, &[("f", "the first's\n")]);
    a.show(Mode::Watch, None, &one);
    for round in 0..ROUNDS {
        let (dir, state) = (b.dir(&format!("s{round}")), b.dir(&format!("state{round}")));
        let path = dir.to_str().unwrap();
        b.set_state_dir(state);
        let ticket = a.invite(&one, &[]);
        b.ok(&["start"]);
        let pid = b.status()["engine"]["pid"].as_i64().unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| b.run(&["watch", &ticket, path]));
            // Anywhere between the call and its end, which is some tens of milliseconds off.
            std::thread::sleep(Duration::from_millis(round * 4));
            kill_process(pid, Signal::KILL).unwrap();
        });
        b.ok(&["start"]);
        let again = b.run(&["watch", &ticket, path]);
        if again.code != Some(0) {
            assert!(again.stderr.contains(&format!("`crdtfs watch {path}` shows it there again")), "{again}");
            b.ok(&["watch", path]);
        }
        b.wait(&dir, "1");
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "the first's\n");
        assert_eq!(b.status()["shares"].as_array().unwrap().len(), 1);
        b.ok(&["stop"]);
    }
    a.stop();
}

/// The command is killed while the engine that it started starts (Ctrl-C): the same command again waits for that engine.
#[test]
fn who_is_killed_while_starting_an_engine_can_begin_again() {
    needs!("who_is_killed_while_starting_an_engine_can_begin_again");
    const ROUNDS: u64 = 16;
    let lab = Lab::new();
    let (_segment, [mut a, _b]) = lab.on_one_segment(["a", "b"]);
    for round in 0..ROUNDS {
        let (dir, state) = (a.dir(&format!("s{round}")), a.dir(&format!("state{round}")));
        put(&dir, &[("f", "mine\n")]);
        a.set_state_dir(state);
        let mut first = a.crdtfs(&["watch".as_ref(), dir.as_os_str()]);
        let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Anywhere in the start of an engine, which takes some tens of milliseconds.
        std::thread::sleep(Duration::from_millis(round * 4));
        first.kill().unwrap();
        first.wait().unwrap();
        a.ok(&["watch".as_ref(), dir.as_os_str()]);
        assert_eq!(a.status()["shares"].as_array().unwrap().len(), 1);
        a.ok(&["stop"]);
    }
}

/// A share of which it is not known where it is to be shown.
#[test]
fn a_ticket_of_a_share_that_nothing_shows_shows_it() {
    needs!("a_ticket_of_a_share_that_nothing_shows_shows_it");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (one, other) = (a.dir("s"), b.dir("s"));
    put(&one, &[("f", "the first's\n")]);
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &[]);
    b.show(Mode::Watch, Some(&ticket), &other);
    b.wait(&other, "all");
    b.stop();
    let shares: Vec<_> = fs::read_dir(b.state_dir().join("shares")).unwrap().collect();
    fs::remove_file(shares[0].as_ref().unwrap().path().join("shown.json")).unwrap();
    // It is spent, which does not matter.
    b.show(Mode::Watch, Some(&ticket), &other);
    assert_eq!(b.status()["shares"].as_array().unwrap().len(), 1);
    fs::write(one.join("g"), "another\n").unwrap();
    a.wait(&one, "all");
    same_trees(&[&one, &other], LIMIT);
    a.stop();
    b.stop();
}
