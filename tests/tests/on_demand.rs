//! Mounts on demand: contents come when they are read, and no more of them stay than the user said.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, until};

const LIMIT: Duration = Duration::from_secs(60);
const LARGE: usize = 3 << 20;
const SMALL: usize = 200_000;

fn text(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// The names of what is all here.
fn whole(device: &Device, dir: &Path) -> Vec<String> {
    let said = device.json(&["ls", text(dir)]);
    let entries = said.as_array().unwrap().iter().filter(|entry| entry["local"] == "whole");
    entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
}

fn content(n: u64) -> Vec<u8> {
    bytes(n, if n < 4 { LARGE } else { SMALL })
}

#[test]
fn what_was_read_stays_as_far_as_there_is_a_cache_for_it() {
    needs!("what_was_read_stays_as_far_as_there_is_a_cache_for_it", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, b]) = lab.on_one_segment(["a", "b"]);
    let (folder, mount) = (a.dir("s"), b.dir("s"));
    fs::create_dir(&folder).unwrap();
    for n in 0..20 {
        fs::write(folder.join(format!("f{n}")), content(n)).unwrap();
    }
    a.show(Mode::Watch, None, &folder);
    let ticket = a.invite(&folder, &[]);
    b.ok(&["mount", &ticket, text(&mount), "--on-demand", "--cache", "7MiB"]);
    until("the tree is there", LIMIT, || match fs::read_dir(&mount).map(Iterator::count) {
        Ok(20) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(whole(&b, &mount), Vec::<String>::new(), "nothing was read");
    let read = |n: u64| assert!(fs::read(mount.join(format!("f{n}"))).unwrap() == content(n), "f{n}");
    (0..20).for_each(read);
    read(3);
    until("the cache is as small as it is to be", LIMIT, || {
        let here = whole(&b, &mount);
        let bytes: usize =
            here.iter().map(|name| if ["f0", "f1", "f2", "f3"].contains(&name.as_str()) { LARGE } else { SMALL }).sum();
        if bytes <= 7 << 20 { Ok(()) } else { Err(format!("{here:?}")) }
    });
    assert!(whole(&b, &mount).contains(&"f3".to_owned()), "it was used last: {:?}", whole(&b, &mount));
    assert!(!whole(&b, &mount).contains(&"f0".to_owned()), "{:?}", whole(&b, &mount));
    (0..20).for_each(read);
    b.check();

    // What only this device has stays, however much it is.
    b.wait(&mount, "all");
    a.stop();
    until("the other one is gone", LIMIT, || match b.status()["shares"][0]["devices"][1]["connected"].as_bool() {
        Some(false) => Ok(()),
        _ => Err(b.status().to_string()),
    });
    for n in 0..4 {
        fs::write(mount.join(format!("mine{n}")), content(n + 100)).unwrap();
        fs::write(mount.join(format!("mine-large{n}")), bytes(200 + n, LARGE)).unwrap();
    }
    for round in 0..3 {
        // Every look of the engine at its caches is after a use.
        for n in 0..4 {
            assert!(fs::read(mount.join(format!("mine-large{n}"))).unwrap() == bytes(200 + n, LARGE), "{round}");
        }
        b.ok(&["check"]);
    }
    a.show(Mode::Watch, None, &folder);
    a.wait(&folder, "all");
    for n in 0..4 {
        assert!(fs::read(folder.join(format!("mine-large{n}"))).unwrap() == bytes(200 + n, LARGE), "{n}");
    }
    let said = b.fails(2, &["mount", text(&b.dir("t")), "--cache", "1GiB"]);
    assert!(said.contains("--on-demand"), "{said}");
    b.ok(&["stop"]);
    a.stop();
}
