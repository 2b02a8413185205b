//! The harness of the end-to-end tests: the real binary, on real mounts, in network namespaces of its own.
//!
//! A [`Lab`] is a small network that lives as long as a test: [`Segment`]s (bridges) and [`Device`]s (a namespace, a state
//! directory and the engine that runs in it). Links are cut and restored, engines are killed and started again, and
//! [`Tree`]s are compared byte for byte. Nothing sleeps for luck: [`until`] waits for a condition, and says what it last saw
//! when the time runs out.
//!
//! Everything that a test makes outside its own directory (namespaces, mounts, loop devices, processes) is taken away when
//! its guard is dropped, also when the test fails; what a test left behind that was killed itself, the next one sweeps away
//! (`lab` says how).
//!
//! Where a test needs what this machine lacks (root, `/dev/fuse`, a tool), [`needs!`] says so and ends it; with
//! `CRDTFS_NO_SKIP=1`, as in CI, that is a failure.
//!
//! `cargo nextest run --release -p crdtfs -p crdtfs-tests` builds the binary, too, and the dependencies with the features that
//! it has, thus once.
//!
//! Environment: `CRDTFS_BIN` (the binary; else the one beside the test, built in the same profile), `CRDTFS_TEST_DIR` (where
//! labs lie; else the temporary directory), `CRDTFS_KEEP=1` (failed tests keep their directory), `CRDTFS_PAUSE=MINUTES`
//! (failed tests stand still before they tidy up, for a look at what runs), `CRDTFS_KILLS` (rounds of
//! the kill tests), `CRDTFS_SEED` (their seed).
#![allow(clippy::print_stderr, reason = "this crate talks to whoever runs the tests")]

mod command;
mod device;
mod git;
mod lab;
mod loopfs;
mod mounts;
pub mod needs;
mod poll;
mod random;
mod tree;

pub use command::{COMMAND_LIMIT, Done, run, tool};
pub use device::{Device, Mode, lives};
pub use git::{clone, git, origin};
pub use lab::{Lab, Segment};
pub use loopfs::{LoopFs, LoopKind};
pub use mounts::{is_mounted, unmount_below};
pub use poll::until;
pub use random::{bytes, seed};
pub use tree::{Item, Kind, Tree, same_trees};

/// The binary under test.
///
/// # Panics
/// If it is not there.
pub fn binary() -> std::path::PathBuf {
    let path = std::env::var_os("CRDTFS_BIN").map(std::path::PathBuf::from).unwrap_or_else(|| {
        let mut path = std::env::current_exe().expect("the test knows its own path");
        path.pop();
        if path.ends_with("deps") {
            path.pop();
        }
        path.join("crdtfs")
    });
    assert!(
        path.is_file(),
        "{} is not there: build it first (`cargo build --release`), or set CRDTFS_BIN",
        path.display()
    );
    path
}
