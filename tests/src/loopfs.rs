//! A small filesystem of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::command::tool;
use crate::lab::Lab;
use crate::mounts::unmount_below;

/// An ext4 filesystem in a file of the lab, mounted through a loop device. Declare it before the devices that use it, so
/// that it is taken away after them.
#[derive(Debug)]
pub struct LoopFs {
    dir: PathBuf,
}

impl LoopFs {
    /// One of so many MiB, mounted at `name` in the lab's directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(lab: &Lab, name: &str, mib: u64) -> Self {
        let image = lab.root().join(format!("{name}.img"));
        let dir = lab.root().join(name);
        fs::create_dir(&dir).expect("a fresh lab");
        File::create_new(&image).and_then(|file| file.set_len(mib << 20)).expect("a fresh lab");
        // No blocks for root: full is full.
        tool("mkfs.ext4", ["-q", "-F", "-m", "0", &image.to_string_lossy()]);
        // The loop device goes away with the mount (autoclear).
        tool("mount", ["-o", "loop", &image.to_string_lossy(), &dir.to_string_lossy()]);
        Self { dir }
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that a write could still take.
    ///
    /// # Panics
    /// If it is not mounted any more.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.dir).expect("mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes up all but so many bytes with a file; its path, to be removed.
    ///
    /// # Panics
    /// If the file cannot be made.
    pub fn fill(&self, leaves: u64) -> PathBuf {
        let path = self.dir.join("ballast");
        let file = File::create(&path).expect("a directory of ours");
        let taken = self.free().saturating_sub(leaves);
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, taken).expect("it is free");
        path
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        unmount_below(&self.dir);
    }
}
