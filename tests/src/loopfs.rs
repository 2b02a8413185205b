//! A small filesystem of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FallocateFlags;

use crate::command::tool;
use crate::lab::Lab;
use crate::mounts::{is_mounted, unmount_below};
use crate::poll::until;

/// A filesystem in a file of the lab, mounted through a loop device. Declare it before the devices that use it, so that it
/// is taken away after them.
#[derive(Debug)]
pub struct LoopFs {
    image: PathBuf,
    dir: PathBuf,
    kind: LoopKind,
}

/// Which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// ext4, all of it for ordinary users.
    Ext4,
    /// exFAT, by `mount.exfat-fuse`: names that differ in case are one, `:` and its like are refused; no links, no
    /// permission bits, times in steps of 2 s, and other inode numbers at every mount.
    Exfat,
    /// btrfs, of at least 109 MiB: subvolumes, whose roots all have one inode number.
    Btrfs,
}

impl LoopFs {
    /// An ext4 of so many MiB, mounted at `name` in the lab's directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(lab: &Lab, name: &str, mib: u64) -> Self {
        Self::of(LoopKind::Ext4, lab, name, mib)
    }

    /// One of so many MiB, mounted at `name` in the lab's directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn of(kind: LoopKind, lab: &Lab, name: &str, mib: u64) -> Self {
        let image = lab.root().join(format!("{name}.img"));
        let dir = lab.root().join(name);
        fs::create_dir(&dir).expect("a fresh lab");
        File::create_new(&image).and_then(|file| file.set_len(mib << 20)).expect("a fresh lab");
        match kind {
            // No blocks for root: full is full.
            LoopKind::Ext4 => tool("mkfs.ext4", ["-q", "-F", "-m", "0", &image.to_string_lossy()]),
            LoopKind::Exfat => tool("mkfs.exfat", [&image]),
            LoopKind::Btrfs => tool("mkfs.btrfs", ["--quiet".as_ref(), image.as_os_str()]),
        };
        let made = Self { image, dir, kind };
        made.mount();
        made
    }

    /// The loop device goes away with the mount.
    fn mount(&self) {
        let (image, dir) = (self.image.to_string_lossy(), self.dir.to_string_lossy());
        match self.kind {
            LoopKind::Ext4 | LoopKind::Btrfs => _ = tool("mount", ["-o", "loop", &image, &dir]),
            LoopKind::Exfat => {
                let device = tool("losetup", ["--find", "--show", &image]);
                tool("mount.exfat-fuse", [device.trim(), &dir]);
                // It is in use, so it goes when it is no more.
                tool("losetup", ["--detach", device.trim()]);
            }
        }
    }

    /// Unmounts it and mounts it again, as if it had been taken out and put in.
    ///
    /// # Panics
    /// If something in it is still in use.
    pub fn remount(&self) {
        tool("umount", [&self.dir]);
        self.mount_again();
    }

    /// Mounts it again, after it was unmounted.
    ///
    /// # Panics
    /// If something in it is still in use.
    pub fn mount_again(&self) {
        assert!(!is_mounted(&self.dir), "{} is mounted twice", self.dir.display());
        // Its process writes back what it holds before it lets go of the device.
        until("the device is free", Duration::from_secs(10), || {
            let left = tool("losetup", ["--associated", &self.image.to_string_lossy()]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        self.mount();
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
