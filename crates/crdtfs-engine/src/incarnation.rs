//! Which life of this device writes to a share.
//!
//! A device's changes form one chain for each incarnation. Two different changes at one place of a chain would be two
//! truths, so a chain is only continued where its end is certain to be here: the same file (not a copy: its inode number
//! is in it), and either the same boot of the machine (a killed process loses nothing that it wrote) or an orderly end
//! before. In every other case the device starts a new chain, which costs 48 bytes in a version vector and nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crdtfs_core::id::Incarnation;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::boot;
use crate::state::{StateError, io_at};

/// What is kept of the chain that this device writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    incarnation: String,
    /// Empty where that is not known.
    boot: String,
    /// Inode number of the file itself: a copy has another.
    ino: u64,
    clean: bool,
}

/// The incarnation file of one share.
#[derive(Debug)]
pub struct IncarnationFile<'a> {
    path: &'a Path,
}

impl<'a> IncarnationFile<'a> {
    /// The file at this path, which need not exist.
    pub fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// The incarnation to write under from now on, and whether it is a fresh one. The file is marked as in use.
    pub fn take_up(&self) -> Result<(Incarnation, bool), StateError> {
        let boot = boot::id();
        if let Some(kept) = self.read()
            && (kept.clean || boot.as_ref() == Some(&kept.boot))
            && let Some(incarnation) = Incarnation::from_hex(&kept.incarnation)
        {
            self.write(&incarnation, boot.as_deref(), false)?;
            return Ok((incarnation, false));
        }
        self.renew().map(|incarnation| (incarnation, true))
    }

    /// Starts a new chain: the old one turned out to be written by somebody else, too.
    pub fn renew(&self) -> Result<Incarnation, StateError> {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let incarnation = Incarnation(bytes);
        self.write(&incarnation, boot::id().as_deref(), false)?;
        Ok(incarnation)
    }

    /// Says that the log is durable to its end and nothing will be written until [`IncarnationFile::take_up`].
    pub fn close(&self, incarnation: &Incarnation) -> Result<(), StateError> {
        self.write(incarnation, boot::id().as_deref(), true)
    }

    /// What was kept, if it is of this very file.
    fn read(&self) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&fs::read(self.path).ok()?).ok()?;
        (fs::metadata(self.path).ok()?.ino() == kept.ino).then_some(kept)
    }

    /// Written in place, since the file's inode number is part of it; a torn file reads as none, which is safe.
    fn write(&self, incarnation: &Incarnation, boot: Option<&str>, clean: bool) -> Result<(), StateError> {
        let write = || -> io::Result<()> {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(self.path)?;
            let kept = Kept {
                incarnation: incarnation.to_string(),
                boot: boot.unwrap_or_default().to_owned(),
                ino: file.metadata()?.ino(),
                clean,
            };
            io::Write::write_all(&mut &file, &serde_json::to_vec(&kept).map_err(io::Error::other)?)?;
            file.sync_all()
        };
        write().map_err(io_at("write", self.path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_restart_goes_on_and_a_copy_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation.json");
        let (first, fresh) = IncarnationFile::new(&path).take_up().unwrap();
        assert!(fresh);
        assert_eq!(IncarnationFile::new(&path).take_up().unwrap(), (first, false), "killed, same boot");
        IncarnationFile::new(&path).close(&first).unwrap();
        let copy = dir.path().join("copy.json");
        fs::copy(&path, &copy).unwrap();
        let (other, fresh) = IncarnationFile::new(&copy).take_up().unwrap();
        assert!(fresh && other != first);
    }

    /// As it is written, to the byte, and read.
    #[test]
    fn golden_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation.json");
        fs::write(&path, "").unwrap();
        let ino = fs::metadata(&path).unwrap().ino();
        let text = format!(
            r#"{{"incarnation":"0102030405060708090a0b0c0d0e0f10","boot":"another boot","ino":{ino},"clean":true}}"#
        );
        fs::write(&path, &text).unwrap();
        let incarnation = Incarnation(std::array::from_fn(|i| i as u8 + 1));
        let file = IncarnationFile::new(&path);
        assert_eq!(file.take_up().unwrap(), (incarnation, false));
        file.write(&incarnation, Some("another boot"), true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn another_boot_goes_on_only_after_an_orderly_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation.json");
        let file = IncarnationFile::new(&path);
        let (first, _) = file.take_up().unwrap();
        file.write(&first, Some("another boot"), false).unwrap();
        let (second, fresh) = file.take_up().unwrap();
        assert!(fresh && second != first);
        file.write(&second, Some("another boot"), true).unwrap();
        assert_eq!(file.take_up().unwrap(), (second, false));
    }
}
