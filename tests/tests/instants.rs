//! What the user of a folder does in the instant in which something comes from elsewhere.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crdtfs_tests::{Lab, Mode, needs};

/// A file is moved elsewhere, and its permissions are set here while the folder is given the move.
#[test]
fn permissions_that_are_set_while_a_file_is_moved_are_those_of_all() {
    needs!("permissions_that_are_set_while_a_file_is_moved_are_those_of_all");
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [here, there]) = lab.pair(["a", "b"], [Mode::Watch, Mode::Watch]);
    let (old, new) = (|n: u32| format!("x{n}"), |n: u32| format!("z{n}"));
    for n in 0..40 {
        fs::write(here.join(old(n)), n.to_string()).unwrap();
    }
    a.wait(&here, "all");
    b.wait(&there, "all");
    for n in 0..40 {
        fs::rename(there.join(old(n)), there.join(new(n))).unwrap();
        let set = |name: &str| fs::set_permissions(here.join(name), Permissions::from_mode(0o755));
        // Under one of its names it is there.
        while set(&old(n)).is_err() && set(&new(n)).is_err() {}
        // The instant is another one each time.
        if n % 4 == 3 {
            b.wait(&there, "all");
        }
    }
    a.wait(&here, "all");
    b.wait(&there, "all");
    let mode =
        |dir: &Path, n: u32| fs::metadata(dir.join(new(n))).map(|meta| meta.permissions().mode() & 0o777).unwrap();
    for n in 0..40 {
        assert_eq!((mode(&here, n), mode(&there, n)), (0o755, 0o755), "{}", new(n));
    }
    a.stop();
    b.stop();
}
