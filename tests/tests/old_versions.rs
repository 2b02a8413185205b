//! A small disk that is full of old versions has room for new ones.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;

use crdtfs_tests::{Lab, LoopFs, Mode, bytes, needs};

#[test]
fn a_file_is_written_again_and_again_on_a_small_disk() {
    needs!("a_file_is_written_again_and_again_on_a_small_disk", Fuse, Loop, Tool("mkfs.ext4"));
    const SIZE: usize = 4 << 20;
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 64);
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    a.set_state_dir(small.dir().join("state"));
    let mount = a.dir("shared");
    a.show(Mode::Mount, None, &mount);
    // Three times what the disk holds: each version is as large, and none is like the one before.
    for n in 0..48 {
        let mut file = File::create(mount.join("one")).unwrap();
        file.write_all(&bytes(n, SIZE)).unwrap_or_else(|error| panic!("version {n}: {error}"));
        file.sync_all().unwrap_or_else(|error| panic!("version {n}, made durable: {error}"));
        drop(file);
        fs::write(mount.join(format!("small-{}", n % 3)), bytes(100 + n, 3_000)).unwrap();
    }
    assert_eq!(fs::read(mount.join("one")).unwrap(), bytes(47, SIZE));
    a.check();
    a.kill();
    a.show(Mode::Mount, None, &mount);
    assert_eq!(fs::read(mount.join("one")).unwrap(), bytes(47, SIZE));
    a.check();
    a.stop();
}
