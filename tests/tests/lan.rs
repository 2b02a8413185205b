//! The local network: devices find each other, and nothing leaves it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, needs, run, same_trees, until};

const LIMIT: Duration = Duration::from_secs(30);

fn nft(device: &Device, words: &str) -> String {
    let mut command = device.program("nft");
    command.args(words.split(' '));
    run(command, LIMIT).ok()
}

#[test]
fn found_again_at_new_addresses() {
    needs!("found_again_at_new_addresses");
    let lab = Lab::new();
    let (segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let dirs = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &dirs.0);
    let ticket = a.invite(&dirs.0, &[]);
    b.show(Mode::Watch, Some(&ticket), &dirs.1);
    fs::write(dirs.0.join("f"), "one\n").unwrap();
    a.wait(&dirs.0, "all");
    // Neither is where the other remembers it: only the network itself can tell.
    a.stop();
    b.stop();
    segment.readdress(&a, 101);
    segment.readdress(&b, 102);
    fs::write(dirs.1.join("g"), "two\n").unwrap();
    a.show(Mode::Watch, None, &dirs.0);
    b.show(Mode::Watch, None, &dirs.1);
    a.wait(&dirs.0, "all");
    same_trees(&[&dirs.0, &dirs.1], LIMIT);

    // And while they run.
    segment.readdress(&a, 111);
    segment.readdress(&b, 112);
    fs::write(dirs.0.join("h"), "three\n").unwrap();
    until("synced over the new addresses", Duration::from_secs(60), || {
        fs::read(dirs.1.join("h")).map_err(|e| e.to_string())
    });
    a.wait(&dirs.0, "all");
    a.stop();
    b.stop();
}

#[test]
fn nothing_leaves_the_local_network() {
    needs!("nothing_leaves_the_local_network", Tool("nft"));
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    for device in [&a, &b] {
        nft(device, "add table inet watch");
        nft(device, "add chain inet watch out { type filter hook output priority 0 ; }");
        nft(
            device,
            "add rule inet watch out ip daddr != { 10.77.0.0/16, 127.0.0.0/8, 224.0.0.0/24, 239.0.0.0/8 } counter",
        );
        nft(device, "add rule inet watch out ip6 daddr != { ::1, fe80::/10, ff00::/12 } counter");
    }
    let dirs = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &dirs.0);
    let ticket = a.invite(&dirs.0, &[]);
    b.show(Mode::Watch, Some(&ticket), &dirs.1);
    fs::write(dirs.0.join("f"), "between us\n").unwrap();
    a.wait(&dirs.0, "all");
    same_trees(&[&dirs.0, &dirs.1], LIMIT);
    for device in [&mut a, &mut b] {
        device.stop();
        let rules = nft(device, "list table inet watch");
        assert_eq!(rules.matches("counter packets 0 ").count(), 2, "{}: {rules}", device.name());
    }
}
