//! What the tests need of this machine, and how it gets there.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::see;

/// Programs that the tests start, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 13] = [
    ("fusermount3", "fuse3"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("fio", "fio"),
    ("git", "git"),
    ("sqlite3", "sqlite3"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("mkfs.exfat", "exfatprogs"),
    ("mount.exfat-fuse", "exfat-fuse"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
];

/// A program on the search path, to which the system's own directories are added.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why nothing can be mounted here, if that is so.
pub(crate) fn no_fuse() -> Option<String> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Err(error) => Some(format!("/dev/fuse: {error}")),
        Ok(_) if !is_root() && find("fusermount3").is_none() => Some("no fusermount3 (package fuse3)".to_owned()),
        Ok(_) => None,
    }
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Installs the missing packages where that is allowed; says what is missing where it is not. The tests that need them are
/// skipped then, so nothing here is an error.
pub(crate) fn provide() {
    let packages = missing_packages();
    if packages.is_empty() {
        return;
    }
    if is_root() && Path::new("/etc/debian_version").exists() && find("apt-get").is_some() {
        let install = || {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "--yes", "--no-install-recommends"]);
            apt.args(&packages);
            see(&mut apt)
        };
        // Lists that are missing or old are the usual reason for a first failure.
        let installed = install().or_else(|_| see(Command::new("apt-get").arg("update")).and_then(|()| install()));
        if let Err(error) = installed {
            eprintln!("xtask: {error:#}");
        }
    }
    let packages = missing_packages();
    if !packages.is_empty() {
        eprintln!(
            "xtask: some tests will be skipped; to run them, install: sudo apt-get install {}",
            packages.join(" ")
        );
    }
}
