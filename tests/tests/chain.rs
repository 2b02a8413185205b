//! Three devices, the middle one the only link between the others.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use crdtfs_tests::{Lab, Mode, bytes, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_middle_passes_on_what_the_first_wrote() {
    needs!("the_middle_passes_on_what_the_first_wrote", Fuse);
    let lab = Lab::new();
    let (left, right) = (lab.segment(), lab.segment());
    let mut first = lab.device("first", &[&left]);
    let mut middle = lab.device("middle", &[&left, &right]);
    let mut third = lab.device("third", &[&right]);
    let dirs = [first.dir("shared"), middle.dir("shared"), third.dir("shared")];
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.as_path()).collect();

    first.show(Mode::Mount, None, dirs[0]);
    fs::write(dirs[0].join("early.bin"), bytes(1, 3_000_000)).unwrap();
    fs::create_dir_all(dirs[0].join("many")).unwrap();
    for n in 0..200 {
        fs::write(dirs[0].join(format!("many/{n}")), format!("file {n}\n")).unwrap();
    }
    let ticket = first.invite(dirs[0], &["--role", "admin"]);
    middle.show(Mode::Watch, Some(&ticket), dirs[1]);
    // The third reaches the middle only; so the middle invites it.
    let ticket = middle.invite(dirs[1], &[]);
    third.show(Mode::Mount, Some(&ticket), dirs[2]);
    // The ends have never met: they know of each other what the middle passes on.
    for (device, dir) in [(&first, dirs[0]), (&middle, dirs[1]), (&third, dirs[2])] {
        device.wait(dir, "all");
    }
    same_trees(&dirs, LIMIT);

    // From end to end, both ways, while all are there.
    fs::write(dirs[2].join("from-the-third.txt"), "hello\n").unwrap();
    until("the first has it", LIMIT, || {
        fs::read_to_string(dirs[0].join("from-the-third.txt")).map_err(|e| e.to_string())
    });
    first.wait(dirs[0], "all");
    third.wait(dirs[2], "all");
    same_trees(&dirs, LIMIT);

    // The third is away; the first writes, and leaves for good. The middle has what it wrote.
    third.stop();
    first.stop();
    first.show(Mode::Mount, None, dirs[0]);
    first.wait(dirs[0], "2");
    third.show(Mode::Mount, None, dirs[2]);
    middle.wait(dirs[1], "all");
    right.unplug(&third);
    fs::write(dirs[0].join("late.bin"), bytes(2, 3_000_000)).unwrap();
    fs::write(dirs[0].join("many/0"), "rewritten\n").unwrap();
    fs::rename(dirs[0].join("many"), dirs[0].join("lots")).unwrap();
    first.wait(dirs[0], "1");
    let said = first.fails(3, &["wait", dirs[0].to_str().unwrap(), "--timeout", "500ms"]);
    assert!(said.contains("third is not connected, has not said that it has all changes"), "{said}");
    first.stop();
    right.plug(&third);
    same_trees(&dirs[1..], LIMIT);
    assert_eq!(fs::read(dirs[2].join("late.bin")).unwrap(), bytes(2, 3_000_000));
    assert_eq!(fs::read_to_string(dirs[2].join("lots/0")).unwrap(), "rewritten\n");
    assert!(!dirs[2].join("many").exists());

    // What the others did meanwhile reaches the first when it comes back.
    fs::write(dirs[2].join("while-you-were-away.txt"), "news\n").unwrap();
    first.show(Mode::Mount, None, dirs[0]);
    first.wait(dirs[0], "all");
    same_trees(&dirs, LIMIT);
    for device in [&mut first, &mut middle, &mut third] {
        device.check();
        device.stop();
    }
}
