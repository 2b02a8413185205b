//! `crdtfs check`: what is missing is said, what is on its way is not.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, bytes, needs, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_nobody_reachable_has_is_named() {
    needs!("what_nobody_reachable_has_is_named", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, b]) = lab.on_one_segment(["anna", "b"]);
    let (folder, mount) = (a.dir("s"), b.dir("s"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("far-away"), bytes(1, 300_000)).unwrap();
    fs::write(folder.join("read"), bytes(2, 300_000)).unwrap();
    a.show(Mode::Watch, None, &folder);
    let (ticket, dir) = (a.invite(&folder, &[]), mount.to_str().unwrap());
    b.ok(&["mount", &ticket, dir, "--on-demand"]);
    until("one is read", LIMIT, || match fs::read(mount.join("read")) {
        Ok(got) if got == bytes(2, 300_000) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // What is not wanted is not missed.
    a.stop();
    b.check();
    b.ok(&["unmount", dir]);
    b.ok(&["mount", dir]);
    let done = b.run(&["check", "--json"]);
    assert_eq!(done.code, Some(1), "{done}");
    let said: Value = serde_json::from_str(&done.text()).unwrap();
    let details = said["details"].as_array().unwrap();
    assert_eq!(details.len(), 1, "{said}");
    let message = details[0]["message"].as_str().unwrap();
    assert!(message.contains("far-away") && message.contains("anna"), "{said}");
    assert_eq!((&details[0]["repaired"], &said["repaired"]), (&false.into(), &0.into()), "nobody can repair it");
    assert_eq!(b.run(&["check", "--repair"]).code, Some(1), "not so either");
    a.show(Mode::Watch, None, &folder);
    b.wait(&mount, "all");
    b.check();
    assert_eq!(fs::read(mount.join("far-away")).unwrap(), bytes(1, 300_000));
    // Nothing was wrong, nothing was repaired.
    let said = b.json(&["check", "--repair"]);
    assert_eq!((&said["findings"], &said["repaired"]), (&0.into(), &0.into()), "{said}");
    b.ok(&["stop"]);
    a.stop();
}
