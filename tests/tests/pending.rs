//! Content that is not here yet is pending, not decided (law 5): what mounts on demand show, and take, while who has the bytes is
//! gone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, same_trees, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const LARGE: usize = 3 << 20;
const EIO: i32 = 5;

/// What `crdtfs ls` says of each entry.
fn listed(device: &Device, dir: &Path) -> Vec<Value> {
    match device.json(&["ls".as_ref(), "--recursive".as_ref(), dir.as_os_str()]) {
        Value::Array(entries) => entries,
        one => vec![one],
    }
}

fn field<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().unwrap()
}

fn problems(device: &Device) -> String {
    device.status()["shares"][0]["problems"].to_string()
}

fn until_gone(device: &Device, name: &str) {
    until("it is known to be gone", LIMIT, || {
        let status = device.status();
        let devices = status["shares"][0]["devices"].as_array().unwrap().clone();
        let other = devices.iter().find(|other| other["name"] == name).unwrap();
        if other["connected"] == false { Ok(()) } else { Err(status.to_string()) }
    });
}

/// A read blocks for as long as somebody may appear who has the bytes, then fails; never are there wrong ones, or fewer.
fn nobody_has(paths: &[&Path]) {
    std::thread::scope(|scope| {
        let whole = paths.iter().map(|path| (*path, scope.spawn(move || fs::read(path).map(|bytes| bytes.len()))));
        let part = paths.iter().map(|path| {
            let read = move || File::open(path)?.read_at(&mut [0; 7], 1);
            (*path, scope.spawn(read))
        });
        for (path, reader) in whole.chain(part).collect::<Vec<_>>() {
            let error = reader.join().unwrap().expect_err(&format!("{} cannot be read", path.display()));
            assert_eq!(error.raw_os_error(), Some(EIO), "{}: {error}", path.display());
        }
    });
}

#[test]
fn bytes_that_only_a_device_has_that_is_gone() {
    needs!("bytes_that_only_a_device_has_that_is_gone", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, b]) = lab.on_one_segment(["anna", "bert"]);
    let (folder, mount) = (a.dir("s"), b.dir("s"));
    fs::create_dir_all(folder.join("dir")).unwrap();
    let content = |name: &str| {
        let seed = u64::from(blake3::hash(name.as_bytes()).as_bytes()[0]);
        if name.ends_with(".txt") { format!("{name}\n").repeat(40).into_bytes() } else { bytes(seed, LARGE) }
    };
    let names = ["read.txt", "read.bin", "append.txt", "append.bin", "cut.bin", "grow.bin", "inside.bin", "chmod.bin"];
    let others =
        ["move.bin", "gone.bin", "gone.txt", "over.bin", "over.txt", "link.bin", "dir/inner.bin", "dir/inner.txt"];
    for name in names.iter().chain(&others) {
        fs::write(folder.join(name), content(name)).unwrap();
    }
    a.show(Mode::Watch, None, &folder);
    let ticket = a.invite(&folder, &[]);
    b.ok(&["mount", &ticket, mount.to_str().unwrap(), "--on-demand"]);
    a.wait(&folder, "all");
    a.stop();
    until_gone(&b, "anna");

    // The whole tree is there, with its sizes, and nothing of what is in it; which is said.
    for name in names.iter().chain(&others) {
        assert_eq!(fs::metadata(mount.join(name)).unwrap().len(), content(name).len() as u64, "{name}");
    }
    let entries = listed(&b, &mount);
    let files: Vec<_> = entries.iter().filter(|entry| field(entry, "kind") == "file").collect();
    assert_eq!(files.len(), names.len() + others.len());
    for entry in &files {
        assert_eq!(field(entry, "local"), "absent", "{entry}");
        assert_eq!(field(entry, "blake3"), blake3::hash(&content(field(entry, "path"))).to_hex().as_str(), "{entry}");
    }
    let said = b.ok(&["status"]);
    assert!(said.contains("mount, on demand") && !said.contains("has everything"), "{said}");
    nobody_has(&["read.txt", "read.bin", "dir/inner.txt"].map(|name| mount.join(name)).each_ref().map(|p| &**p));
    let told = problems(&b);
    assert!(["read.txt", "read.bin", "dir/inner.txt", "anna"].iter().all(|word| told.contains(word)), "{told}");
    assert!(!told.contains("gone.bin"), "nobody asked for it: {told}");

    // What needs no bytes is done.
    fs::rename(mount.join("move.bin"), mount.join("dir/moved.bin")).unwrap();
    fs::remove_file(mount.join("gone.bin")).unwrap();
    fs::remove_file(mount.join("gone.txt")).unwrap();
    fs::hard_link(mount.join("link.bin"), mount.join("linked.bin")).unwrap();
    fs::set_permissions(mount.join("chmod.bin"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(mount.join("over.bin"), b"new\n").unwrap();
    fs::write(mount.join("over.txt"), b"new\n").unwrap();
    fs::rename(mount.join("dir"), mount.join("moved dir")).unwrap();
    // What does need some fails, or is done once they are here; what comes of it is never a part of the file.
    let write = |name: &str, write: &dyn Fn(&File) -> std::io::Result<()>| {
        let done = OpenOptions::new().write(true).open(mount.join(name)).and_then(|file| write(&file));
        if let Err(error) = &done {
            assert_eq!(error.raw_os_error(), Some(EIO), "{name}: {error}");
        }
        done.is_ok()
    };
    let appended = |name: &str| {
        let opened = OpenOptions::new().append(true).open(mount.join(name));
        opened.and_then(|mut file| file.write_all(b"tail\n")).is_ok()
    };
    let mut expected: Vec<(&str, Vec<u8>)> = Vec::new();
    for name in ["append.txt", "append.bin"] {
        let tail: &[u8] = if appended(name) { b"tail\n" } else { b"" };
        expected.push((name, [&content(name)[..], tail].concat()));
    }
    let mut cut = content("cut.bin");
    if write("cut.bin", &|file| file.set_len(1_500_000)) {
        cut.truncate(1_500_000);
    }
    expected.push(("cut.bin", cut));
    let mut grown = content("grow.bin");
    if write("grow.bin", &|file| file.set_len(LARGE as u64 + 5)) {
        grown.extend([0; 5]);
    }
    expected.push(("grow.bin", grown));
    let mut inside = content("inside.bin");
    if write("inside.bin", &|file| file.write_all_at(b"inside", 1_000_000)) {
        inside[1_000_000..1_000_006].copy_from_slice(b"inside");
    }
    expected.push(("inside.bin", inside));
    b.check();

    // It comes back, and has edited meanwhile.
    fs::write(folder.join("gone.txt"), b"edited\n").unwrap();
    fs::write(folder.join("over.bin"), b"edited\n").unwrap();
    a.show(Mode::Watch, None, &folder);
    a.wait(&folder, "all");
    b.wait(&mount, "all");
    for (name, bytes) in &expected {
        assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name}");
    }
    let tree = same_trees(&[&folder, &mount], LIMIT);
    for name in ["read.txt", "read.bin", "chmod.bin", "link.bin"] {
        assert!(fs::read(mount.join(name)).unwrap() == content(name), "{name}");
    }
    assert!(fs::read(folder.join("linked.bin")).unwrap() == content("link.bin"));
    assert!(fs::read(folder.join("moved dir/moved.bin")).unwrap() == content("move.bin"));
    assert!(fs::read(folder.join("moved dir/inner.bin")).unwrap() == content("dir/inner.bin"));
    assert_eq!(fs::read(mount.join("gone.txt")).unwrap(), b"edited\n", "edited there, deleted here");
    assert_eq!(fs::read(mount.join("over.txt")).unwrap(), b"new\n");
    assert!(!tree.has("gone.bin") && !tree.has("dir") && !tree.has("move.bin"), "{:?}", tree.names());
    let over: Vec<_> =
        tree.names().into_iter().filter(|name| name.starts_with("over") && name.ends_with(".bin")).collect();
    let texts: BTreeSet<_> = over.iter().map(|name| fs::read(mount.join(name)).unwrap()).collect();
    assert_eq!(texts, BTreeSet::from([b"edited\n".to_vec(), b"new\n".to_vec()]), "{over:?}");
    assert_eq!(problems(&b), "[]");
    a.check();
    b.check();
    b.ok(&["stop"]);
    a.stop();
}

const TEXTS: [&str; 6] = ["merged.txt", "both.txt", "edited.txt", "renamed.txt", "deleted.txt", "kept.txt"];

/// Twenty lines, of which one says who edited it.
fn edited(name: &str, by: Option<&str>, line: usize) -> String {
    let text = |at: usize| match by {
        Some(by) if at == line => format!("{by} edited {name}\n"),
        _ => format!("line {at} of {name}\n"),
    };
    (0..20).map(text).collect()
}

/// Names that begin like this text's.
fn versions_of(dir: &Path, name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".txt").unwrap();
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|other| other.starts_with(stem)).collect();
    names.sort();
    names
}

/// The two versions of a text that waits to be merged: that whose bytes are here, and the other one.
fn here_and_away(device: &Device, dir: &Path, name: &str) -> [String; 2] {
    let entries = listed(device, dir);
    let of = |name: &str| field(entries.iter().find(|entry| entry["path"] == name).unwrap(), "local").to_owned();
    let [one, other] = &versions_of(dir, name)[..] else { panic!("{name}: {:?}", versions_of(dir, name)) };
    match (&*of(one), &*of(other)) {
        ("whole", "absent") => [one.clone(), other.clone()],
        ("absent", "whole") => [other.clone(), one.clone()],
        local => panic!("{name}: {local:?}"),
    }
}

/// Two mounts on demand know of a third device's edits, and have none of the bytes; one of them edited the same files.
#[test]
fn merges_whose_bytes_only_a_device_has_that_is_gone() {
    needs!("merges_whose_bytes_only_a_device_has_that_is_gone", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b, mut c]) = lab.on_one_segment(["anna", "bert", "carl"]);
    let [one, two, three] = [&a, &b, &c].map(|device| device.dir("s"));
    fs::create_dir(&one).unwrap();
    for name in TEXTS {
        fs::write(one.join(name), edited(name, None, 0)).unwrap();
    }
    a.show(Mode::Watch, None, &one);
    let ticket = a.invite(&one, &["--uses", "2"]);
    b.show_with(Mode::Mount, Some(&ticket), &two, &["--on-demand"]);
    c.show_with(Mode::Mount, Some(&ticket), &three, &["--on-demand"]);
    a.wait(&one, "all");
    segment.cut(&b);
    for name in TEXTS {
        let line = if name == "both.txt" { 0 } else { 19 };
        fs::write(two.join(name), edited(name, Some("bert"), line)).unwrap();
        fs::write(one.join(name), edited(name, Some("anna"), 0)).unwrap();
    }
    a.wait(&one, "1");
    a.stop();
    segment.heal(&b);
    let pending = |device: &Device, dir: &Path| {
        let entries = listed(device, dir);
        let pending = entries.iter().filter(|entry| entry["pending"] == true).count();
        if pending == 2 * TEXTS.len() { Ok(()) } else { Err(format!("{entries:#?}")) }
    };
    until("both versions are shown here", LIMIT, || pending(&b, &two));
    until("both versions are shown there", LIMIT, || pending(&c, &three));

    // The versions as they are, under the same names everywhere. What is here is right, what is not cannot be read.
    for name in TEXTS {
        assert_eq!(versions_of(&two, name), versions_of(&three, name));
        let [here, away] = here_and_away(&b, &two, name);
        let line = if name == "both.txt" { 0 } else { 19 };
        assert_eq!(fs::read_to_string(two.join(&here)).unwrap(), edited(name, Some("bert"), line));
        assert_eq!(fs::metadata(two.join(away)).unwrap().len(), edited(name, Some("anna"), 0).len() as u64);
    }
    nobody_has(&TEXTS.map(|name| two.join(&here_and_away(&b, &two, name)[1])).each_ref().map(|path| &**path));
    let conflicts = b.json(&["conflicts".as_ref(), two.as_os_str()]);
    let undecided = conflicts.as_array().unwrap().iter().filter(|conflict| conflict["pending"] == true).count();
    assert_eq!(undecided, TEXTS.len(), "{conflicts:#}");
    let shown = b.ok(&["ls".as_ref(), two.as_os_str()]);
    assert_eq!(shown.matches("(pending)").count(), 2 * TEXTS.len(), "{shown}");
    for (device, dir) in [(&b, &two), (&c, &three)] {
        until("it is said what for, and who may have them", LIMIT, || {
            let told = problems(device);
            let all = TEXTS.iter().chain(&["merged", "anna"]).all(|word| told.contains(word));
            if all { Ok(()) } else { Err(told) }
        });
        let said = device.fails(3, &["wait", dir.to_str().unwrap(), "--devices", "connected", "--timeout", "1s"]);
        assert!(TEXTS.iter().any(|name| said.contains(name)), "{said}");
    }

    // Work goes on with what is pending; no version is lost, and none that nobody touched is decided.
    let [here, away] = here_and_away(&b, &two, "renamed.txt");
    fs::rename(two.join(&here), two.join("new name.md")).unwrap();
    assert!(fs::metadata(two.join(&away)).is_ok(), "{away} stays where it is");
    let [here, away] = here_and_away(&b, &two, "deleted.txt");
    fs::remove_file(two.join(&here)).unwrap();
    assert!(fs::metadata(two.join(&away)).is_ok(), "{away} stays where it is");
    let [went_on, _] = here_and_away(&b, &two, "edited.txt");
    let mut file = OpenOptions::new().append(true).open(two.join(&went_on)).unwrap();
    file.write_all(b"bert went on\n").unwrap();
    drop(file);
    let hash = blake3::hash(&fs::read(two.join(&went_on)).unwrap()).to_hex();
    until("it is published", LIMIT, || {
        let entries = listed(&b, &two);
        let found = entries.iter().any(|entry| entry["path"] == *went_on && entry["blake3"] == hash.as_str());
        if found { Ok(()) } else { Err(format!("{entries:#?}")) }
    });
    assert_eq!(versions_of(&two, "edited.txt").len(), 2);
    // On the other device nothing of this one is here.
    let kept = versions_of(&three, "kept.txt").into_iter().find(|name| name.contains("conflict")).unwrap();
    fs::rename(three.join(&kept), three.join("copy.md")).unwrap();
    assert_eq!(fs::metadata(three.join("no such")).unwrap_err().kind(), ErrorKind::NotFound);

    // She comes back, and all is there.
    a.show(Mode::Watch, None, &one);
    a.wait(&one, "all");
    let tree = same_trees(&[&one, &two, &three], LIMIT);
    let text = |name: &str| fs::read_to_string(one.join(name)).unwrap();
    let both =
        edited("merged.txt", Some("anna"), 0).lines().take(19).map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!(text("merged.txt"), both + "bert edited merged.txt\n");
    assert_eq!(versions_of(&one, "merged.txt").len(), 1);
    assert_eq!(versions_of(&one, "both.txt").len(), 2);
    let all: Vec<String> = tree.names().iter().map(|name| text(name)).collect();
    for name in TEXTS {
        assert!(all.iter().any(|text| text.contains(&format!("anna edited {name}"))), "{name}: {:?}", tree.names());
        let bert = all.iter().any(|text| text.contains(&format!("bert edited {name}")));
        assert_eq!(bert, name != "deleted.txt", "{name}: {:?}", tree.names());
    }
    if went_on == "edited.txt" {
        assert_eq!(versions_of(&one, "edited.txt"), ["edited.txt"]);
        let edits = ["anna edited", "bert edited edited.txt\nbert went on\n"];
        assert!(edits.iter().all(|edit| text("edited.txt").contains(edit)), "{}", text("edited.txt"));
    }
    assert!(all.iter().any(|text| text.contains("bert went on\n")), "{:?}", tree.names());
    assert!(tree.has("new name.md") && tree.has("copy.md"), "{:?}", tree.names());
    for device in [&a, &b, &c] {
        assert_eq!(problems(device), "[]");
        device.check();
    }
    [a, b, c].iter_mut().for_each(Device::stop);
}
