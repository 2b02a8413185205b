//! What the kernel has cached of a mount is taken back when another device changes it: no polling, no remount.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, bytes, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(10);

fn seen<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    until(what, LIMIT, || look().ok_or_else(|| "not yet".into()))
}

#[test]
fn remote_changes_appear() {
    needs!("remote_changes_appear", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["a", "b"], [Mode::Mount, Mode::Mount]);

    // A name that was looked up in vain, and a listing that was empty.
    assert!(fs::metadata(other.join("f")).is_err());
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    fs::write(one.join("f"), "one\n").unwrap();
    seen("a new name", || fs::metadata(other.join("f")).ok());
    seen("a new listing", || (fs::read_dir(&other).unwrap().count() == 1).then_some(()));
    seen("its bytes", || (fs::read(other.join("f")).ok()? == b"one\n").then_some(()));

    // Bytes, size and times that were read before.
    let large = bytes(1, 2_000_000);
    fs::write(one.join("f"), &large).unwrap();
    seen("other bytes", || (fs::read(other.join("f")).ok()? == large).then_some(()));
    let mut changed = large.clone();
    changed[1_000_000] ^= 1;
    File::options()
        .write(true)
        .open(one.join("f"))
        .unwrap()
        .write_all_at(&changed[1_000_000..1_000_001], 1_000_000)
        .unwrap();
    seen("one other byte in the middle", || (fs::read(other.join("f")).ok()? == changed).then_some(()));
    fs::set_permissions(one.join("f"), fs::Permissions::from_mode(0o711)).unwrap();
    seen("another mode", || (fs::metadata(other.join("f")).ok()?.mode() & 0o777 == 0o711).then_some(()));

    // Names: renamed, replaced, turned into another kind, gone.
    fs::rename(one.join("f"), one.join("g")).unwrap();
    seen("the old name gone", || fs::metadata(other.join("f")).is_err().then_some(()));
    seen("the new name there", || (fs::read(other.join("g")).ok()? == changed).then_some(()));
    fs::remove_file(one.join("g")).unwrap();
    symlink("elsewhere", one.join("g")).unwrap();
    seen("a symlink in its place", || (fs::read_link(other.join("g")).ok()? == Path::new("elsewhere")).then_some(()));
    fs::create_dir_all(one.join("d/e")).unwrap();
    fs::write(one.join("d/e/h"), "deep\n").unwrap();
    seen("a tree", || fs::read(other.join("d/e/h")).ok());
    fs::rename(one.join("d"), one.join("moved")).unwrap();
    seen("all of it elsewhere", || (fs::read(other.join("moved/e/h")).ok()? == b"deep\n").then_some(()));
    assert!(fs::metadata(other.join("d/e/h")).is_err());
    fs::remove_dir_all(one.join("moved")).unwrap();
    seen("nothing of it", || (fs::read_dir(&other).unwrap().count() == 1).then_some(()));

    // A process that stands in a directory that goes, and one that follows a file.
    fs::write(one.join("log"), "first\n").unwrap();
    let mut follower =
        File::open(seen("the log", || fs::metadata(other.join("log")).ok().map(|_| other.join("log")))).unwrap();
    let mut text = String::new();
    follower.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\n");
    File::options().append(true).open(one.join("log")).unwrap().write_all(b"second\n").unwrap();
    seen("the new line, opened again", || (fs::read(other.join("log")).ok()? == b"first\nsecond\n").then_some(()));
    // Who had it open before may see the old bytes still; that must not show to who opens it now.
    follower.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    follower.read_to_string(&mut text).unwrap();
    assert!(["first\n", "first\nsecond\n"].contains(&text.as_str()), "{text}");
    assert_eq!(fs::read_to_string(other.join("log")).unwrap(), "first\nsecond\n");
    drop(follower);
    a.wait(&one, "all");
    same_trees(&[&one, &other], LIMIT);
    a.stop();
    b.stop();
}

#[test]
fn an_open_file_keeps_its_bytes() {
    needs!("an_open_file_keeps_its_bytes", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["a", "b"], [Mode::Mount, Mode::Mount]);
    fs::write(one.join("f.bin"), bytes(1, 100_000)).unwrap();
    a.wait(&one, "all");

    // Being written here while another version arrives: neither is lost.
    let mut writer = File::options().write(true).truncate(true).open(other.join("f.bin")).unwrap();
    writer.write_all(&bytes(2, 50_000)).unwrap();
    fs::write(one.join("f.bin"), bytes(3, 60_000)).unwrap();
    fs::write(one.join("marker"), "").unwrap();
    seen("the other's changes", || fs::metadata(other.join("marker")).ok());
    writer.write_all(&bytes(4, 50_000)).unwrap();
    drop(writer);
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], LIMIT);
    let mine = [bytes(2, 50_000), bytes(4, 50_000)].concat();
    assert!(tree.holder(&mine).is_some() && tree.holder(&bytes(3, 60_000)).is_some(), "{:?}", tree.names());

    // Removed there while it is open here: its bytes can be read to the end.
    fs::write(one.join("gone"), bytes(5, 1_000_000)).unwrap();
    a.wait(&one, "all");
    let mut reader = File::open(other.join("gone")).unwrap();
    let mut head = vec![0; 1000];
    reader.read_exact(&mut head).unwrap();
    fs::remove_file(one.join("gone")).unwrap();
    seen("it is gone", || fs::metadata(other.join("gone")).is_err().then_some(()));
    reader.read_to_end(&mut head).unwrap();
    assert_eq!(blake3::hash(&head), blake3::hash(&bytes(5, 1_000_000)));
    drop(reader);
    a.check();
    b.check();
    a.stop();
    b.stop();
}
