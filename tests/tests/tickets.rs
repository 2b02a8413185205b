//! Tickets that do not admit, and what the others do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crdtfs_tests::{Device, Lab, Mode, is_mounted, needs, same_trees, until};
use data_encoding::BASE32_NOPAD;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

fn members(device: &Device, dir: &Path) -> usize {
    let said = device.json(&["members", dir.to_str().unwrap()]);
    said["members"].as_array().unwrap_or_else(|| panic!("{said}")).len()
}

/// Tries to join; it has to be refused, and to leave nothing behind. What was said.
fn refused(device: &Device, ticket: &str, name: &str) -> String {
    let dir = device.dir(name);
    let said = device.fails(1, &["watch", ticket, dir.to_str().unwrap()]);
    assert!(!is_mounted(&dir));
    assert!(!dir.exists(), "{dir:?} was left behind");
    let status = device.run(&["status", "--json"]);
    if status.code == Some(0) {
        let status: Value = serde_json::from_str(&status.text()).unwrap();
        assert_eq!(status["shares"].as_array().unwrap().len(), 0, "a share that was not joined is kept: {status}");
    }
    said.to_lowercase()
}

fn says(said: &str, words: &[&str]) {
    assert!(words.iter().any(|word| said.contains(word)), "none of {words:?} in: {said}");
}

/// The same ticket as another version would write it: its version byte changed, its checksum right (docs/FORMAT.md).
fn of_version(ticket: &str, version: u8) -> String {
    let body = ticket.strip_prefix("crdtfs1").unwrap().to_ascii_uppercase();
    let mut bytes = BASE32_NOPAD.decode(body.as_bytes()).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes[0] = version;
    let sum = blake3::derive_key("crdtfs 2026 ticket checksum v1", &bytes);
    bytes.extend(&sum[..4]);
    format!("crdtfs1{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

#[test]
fn tickets_that_do_not_admit() {
    needs!("tickets_that_do_not_admit");
    let lab = Lab::new();
    let (_segment, [mut a, mut b, c]) = lab.on_one_segment(["a", "b", "c"]);
    let dir = a.dir("shared");
    a.show(Mode::Watch, None, &dir);
    fs::write(dir.join("secret.txt"), "only for members\n").unwrap();

    // Mistyped: one character, a lost end, something else altogether.
    let good = a.invite(&dir, &["--uses", "1"]);
    let middle = good.len() / 2;
    let other = if &good[middle..=middle] == "a" { "b" } else { "a" };
    let mut said = Vec::new();
    for bad in
        [format!("{}{other}{}", &good[..middle], &good[middle + 1..]), good[..good.len() - 5].into(), "crdtfsx".into()]
    {
        let words = refused(&c, &bad, "mistyped");
        says(&words, &["mistyped", "not a ticket", "no ticket", "damaged", "not a crdtfs ticket", "no crdtfs ticket"]);
        said.push(words);
    }
    let mistyped = said.remove(0);

    // Of a version to come: well made, but not for this program.
    let version = refused(&c, &of_version(&good, 2), "version");
    says(&version, &["version"]);
    assert_ne!(version, mistyped);

    // Spent: the right one still works, for one device.
    let there = b.dir("shared");
    b.show(Mode::Watch, Some(&good), &there);
    assert_eq!(members(&a, &dir), 2);
    let spent = refused(&c, &good, "spent");
    says(&spent, &["spent", "used"]);

    // Its own share, known already.
    let own = a.invite(&dir, &[]);
    let own = b.fails(1, &["watch", &own, b.dir("again").to_str().unwrap()]).to_lowercase();
    says(&own, &["already", "own"]);
    let creators = a.invite(&dir, &[]);
    says(&a.fails(1, &["watch", &creators, a.dir("again").to_str().unwrap()]).to_lowercase(), &["already", "own"]);

    // Expired.
    let late = a.invite(&dir, &["--expires", "1s"]);
    let issued = SystemTime::now();
    until("a second has passed", LIMIT, || {
        let passed = issued.elapsed().unwrap_or_default();
        if passed > Duration::from_millis(1100) { Ok(()) } else { Err(format!("{passed:?}")) }
    });
    let expired = refused(&c, &late, "expired");
    says(&expired, &["expired"]);

    for (one, other) in
        [(&mistyped, &spent), (&spent, &own), (&own, &expired), (&expired, &mistyped), (&spent, &expired)]
    {
        assert_ne!(one, other, "each has a message of its own");
    }
    assert_eq!(members(&a, &dir), 2, "who was refused is no member");
    fs::write(dir.join("after.txt"), "goes on\n").unwrap();
    a.wait(&dir, "all");
    same_trees(&[&dir, &there], LIMIT);
    a.stop();
    b.stop();
}

#[test]
fn a_ticket_for_two() {
    needs!("a_ticket_for_two");
    let lab = Lab::new();
    let (_segment, [mut a, mut b, mut c, d]) = lab.on_one_segment(["a", "b", "c", "d"]);
    let dirs = [a.dir("s"), b.dir("s"), c.dir("s")];
    a.show(Mode::Watch, None, &dirs[0]);
    fs::write(dirs[0].join("f"), "for two\n").unwrap();
    let ticket = a.invite(&dirs[0], &["--uses", "2"]);
    b.show(Mode::Watch, Some(&ticket), &dirs[1]);
    c.show(Mode::Watch, Some(&ticket), &dirs[2]);
    says(&refused(&d, &ticket, "s"), &["spent", "used"]);
    a.wait(&dirs[0], "all");
    same_trees(&dirs.each_ref().map(|dir| dir.as_path()), LIMIT);
    assert_eq!(members(&a, &dirs[0]), 3);
    for device in [&mut a, &mut b, &mut c] {
        device.stop();
    }
}

#[test]
fn nobody_answers() {
    needs!("nobody_answers");
    let lab = Lab::new();
    let (_segment, [mut a, b]) = lab.on_one_segment(["a", "b"]);
    let dir = a.dir("s");
    a.show(Mode::Watch, None, &dir);
    let ticket = a.invite(&dir, &[]);
    a.stop();
    let said = b.fails(3, &["watch", &ticket, b.dir("s").to_str().unwrap()]);
    says(&said.to_lowercase(), &["reach", "answer", "connect"]);
    assert!(!b.dir("s").exists(), "nothing is left behind");
}

#[test]
fn a_reader_reads() {
    needs!("a_reader_reads", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (dir, mount) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &dir);
    fs::write(dir.join("f"), "read me\n").unwrap();
    let ticket = a.invite(&dir, &["--role", "read"]);
    b.show(Mode::Mount, Some(&ticket), &mount);
    a.wait(&dir, "all");
    let tree = same_trees(&[&dir, &mount], LIMIT);
    for result in [fs::write(mount.join("f"), "x"), fs::write(mount.join("new"), "x"), fs::remove_file(mount.join("f"))]
    {
        let error = result.expect_err("a reader changes nothing");
        // EPERM, EACCES or EROFS.
        assert!(matches!(error.raw_os_error(), Some(1 | 13 | 30)), "{error}");
    }
    says(
        &b.fails(1, &["invite", mount.to_str().unwrap()]).to_lowercase(),
        &["role", "admin", "may not", "not allowed"],
    );
    // What the other writes still arrives.
    fs::write(dir.join("f"), "read this\n").unwrap();
    a.wait(&dir, "all");
    assert_ne!(same_trees(&[&dir, &mount], LIMIT), tree);
    let role = &b.status()["shares"][0]["role"];
    assert_eq!(role, "read");
    a.stop();
    b.stop();
}
