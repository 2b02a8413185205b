//! `crdtfs check`: what is on its way, or may still come, is no finding.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, bytes, needs, until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_may_still_come_is_no_finding() {
    needs!("what_may_still_come_is_no_finding", Fuse);
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
    // Anna may have it: that is no finding, and `status` says what is missed.
    b.check();
    let status = b.status();
    assert_eq!(status["shares"][0]["missing"]["files"], 1, "{status}");
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
