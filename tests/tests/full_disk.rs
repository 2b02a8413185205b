//! The state directory's disk is full: the writer hears of it, nothing that was there is lost, and it goes on.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Lab, LoopFs, Mode, Tree, bytes, needs, same_trees, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes and makes durable.
fn durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

#[test]
fn the_writer_gets_enospc_and_nothing_is_lost() {
    needs!("the_writer_gets_enospc_and_nothing_is_lost", Fuse, Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 96);
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    a.set_state_dir(small.dir().join("state"));
    let (mount, folder) = (a.dir("shared"), b.dir("shared"));
    a.show(Mode::Mount, None, &mount);
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    for n in 0..8 {
        durable(&mount.join(format!("before-{n}")), &bytes(n, 500_000)).unwrap();
    }
    a.wait(&mount, "all");
    let before = same_trees(&[&mount, &folder], LIMIT);

    // Somebody else fills the disk, but for a little.
    let ballast = small.fill(6 << 20);

    // Large and small writers run into it, and hear of it.
    let error = durable(&mount.join("large"), &bytes(100, 16 << 20)).expect_err("16 MiB do not fit into 6");
    assert!(is_full(&error), "{error:?}");
    let mut written = Vec::new();
    let error = (0..4_000u64)
        .find_map(|n| match durable(&mount.join(format!("small-{n}")), &bytes(1_000 + n, 20_000)) {
            Ok(()) => {
                written.push(n);
                None
            }
            Err(error) => Some(error),
        })
        .expect("80 MB do not fit");
    assert!(is_full(&error), "{error:?}");
    eprintln!("{} small files fitted", written.len());

    // All that was there, and all that was said to be durable, is there; the engine answers, and knows why.
    let now = Tree::read(&mount).unwrap();
    for (path, item) in &before.0 {
        assert_eq!(now.0.get(path), Some(item), "{path:?}");
    }
    for n in &written {
        assert_eq!(fs::read(mount.join(format!("small-{n}"))).unwrap(), bytes(1_000 + n, 20_000), "small-{n}");
    }
    a.check();
    let status = a.run(&["status", "--json"]);
    assert_eq!(status.code, Some(0), "{status}");

    // What the other writes meanwhile comes when there is room, without a restart.
    durable(&folder.join("from-b"), &bytes(200, 4 << 20)).unwrap();
    fs::remove_file(&ballast).unwrap();
    until("there is room again", LIMIT, || {
        durable(&mount.join("after"), &bytes(300, 3 << 20)).map_err(|error| error.to_string())
    });
    a.wait(&mount, "all");
    let after = same_trees(&[&mount, &folder], LIMIT);
    assert!(after.holder(&bytes(200, 4 << 20)).is_some() && after.holder(&bytes(300, 3 << 20)).is_some());
    a.check();

    // Nor does a restart on a full disk lose anything.
    let ballast = small.fill(1 << 20);
    a.kill();
    a.show(Mode::Mount, None, &mount);
    assert_eq!(Tree::read(&mount).unwrap(), after);
    fs::remove_file(&ballast).unwrap();
    a.check();
    a.stop();
    b.stop();
}

#[test]
fn a_folder_whose_disk_is_full() {
    needs!("a_folder_whose_disk_is_full", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 32);
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (folder, there) = (small.dir().join("folder"), b.dir("shared"));
    a.show(Mode::Watch, None, &folder);
    let ticket = a.invite(&folder, &[]);
    b.show(Mode::Watch, Some(&ticket), &there);
    durable(&folder.join("mine"), &bytes(1, 1 << 20)).unwrap();
    a.wait(&folder, "all");
    // More than the folder's disk can take, and something that still fits.
    durable(&there.join("too-large"), &bytes(2, 64 << 20)).unwrap();
    durable(&there.join("fits"), &bytes(3, 100_000)).unwrap();
    until("what fits arrives", LIMIT, || {
        let got = fs::read(folder.join("fits")).map_err(|error| error.to_string())?;
        if got == bytes(3, 100_000) { Ok(()) } else { Err("other bytes".into()) }
    });
    until("the user is told", LIMIT, || {
        let status = a.status();
        let said = status["shares"][0]["problems"].to_string();
        if said.contains("too-large") { Ok(()) } else { Err(status.to_string()) }
    });
    assert!(!folder.join("too-large").exists(), "half a file is none");
    assert_eq!(fs::read(folder.join("mine")).unwrap(), bytes(1, 1 << 20));
    // It is no longer wanted: all is well again.
    fs::remove_file(there.join("too-large")).unwrap();
    b.wait(&there, "all");
    same_trees(&[&folder, &there], LIMIT);
    assert_eq!(a.status()["shares"][0]["problems"].as_array().map(Vec::len), Some(0));
    a.stop();
    b.stop();
}
