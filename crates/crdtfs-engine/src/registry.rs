//! What the state directory keeps of a share beside its log: where it is shown, and where its peers were last seen.
//!
//! ```text
//! shares/<share id>/
//!   genesis            what the share's id is the hash of
//!   membership         the membership records, length-prefixed
//!   log/               envelopes and snapshots (crdtfs-store)
//!   incarnation.json   see [`crate::incarnation`]
//!   shown.json         the directories that show it
//!   peers.json         addresses by device
//!   ages.json          see [`crate::ages`]
//!   watch-…/ mount-…/  one directory for each shown one, its adapter's own
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crdtfs_core::id::ShareId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ages::Ages;
use crate::present::{Mode, PresentOptions};
use crate::state::{StateError, io_at, write_atomically};

/// A directory that shows the share, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownDir {
    /// How.
    pub mode: Mode,
    /// Where, absolute.
    #[serde(with = "path_in_json")]
    pub dir: PathBuf,
    /// As the user asked.
    pub options: PresentOptions,
    /// Whether a starting engine shows it again: until the user takes it away.
    pub active: bool,
    /// The name of its adapter's directory.
    pub state: String,
}

impl ShownDir {
    /// A directory that is to show a share from now on.
    pub fn new(mode: Mode, dir: &Path, options: &PresentOptions) -> Self {
        let word = match mode {
            Mode::Mount => "mount",
            Mode::Watch => "watch",
        };
        let digest = crdtfs_core::id::Hash::of(dir.as_os_str().as_bytes()).to_string();
        let state = format!("{word}-{}", &digest[..16]);
        Self { mode, dir: dir.to_owned(), options: options.clone(), active: true, state }
    }
}

/// A path as text, or as its bytes where it is no UTF-8.
mod path_in_json {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Kept {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let bytes = path.as_os_str().as_bytes();
        let kept = path.to_str().map_or_else(|| Kept::Bytes(bytes.to_owned()), |text| Kept::Text(text.to_owned()));
        kept.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Kept::deserialize(from)? {
            Kept::Text(text) => text.into(),
            Kept::Bytes(bytes) => OsStr::from_bytes(&bytes).into(),
        })
    }
}

/// The directory of one share in the state directory.
#[derive(Debug, Clone)]
pub struct ShareDir {
    path: PathBuf,
}

impl ShareDir {
    /// The directory of this share below `shares`, made if it is not there.
    pub fn create(shares: &Path, share: &ShareId) -> Result<Self, StateError> {
        let path = shares.join(share.to_string());
        fs::create_dir_all(&path).map_err(io_at("create", &path))?;
        Ok(Self { path })
    }

    /// The shares that are there: those with a genesis (one without was never finished).
    pub fn list(shares: &Path) -> Result<Vec<(ShareId, Self)>, StateError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(shares).map_err(io_at("read", shares))? {
            let path = entry.map_err(io_at("read", shares))?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(ShareId::from_hex);
            if let Some(id) = id
                && path.join("genesis").exists()
            {
                found.push((id, Self { path }));
            }
        }
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The encoded genesis.
    pub fn genesis(&self) -> Result<Vec<u8>, StateError> {
        let path = self.path.join("genesis");
        fs::read(&path).map_err(io_at("read", &path))
    }

    /// Keeps the genesis: from now on the share is there.
    pub fn write_genesis(&self, bytes: &[u8]) -> Result<(), StateError> {
        write_atomically(&self.path.join("genesis"), bytes)
    }

    /// Takes all of it away, the genesis first: without it the share is not there any more.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        let genesis = self.path.join("genesis");
        fs::remove_file(&genesis).map_err(io_at("remove", &genesis))?;
        fs::remove_dir_all(&self.path).map_err(io_at("remove", &self.path))
    }

    /// The membership records, as they were kept.
    pub fn membership(&self) -> Result<Vec<Vec<u8>>, StateError> {
        self.read_records("membership")
    }

    /// Keeps all membership records (they are few).
    pub fn write_membership(&self, records: &[Vec<u8>]) -> Result<(), StateError> {
        self.write_records("membership", records)
    }

    /// What members last said that they hold, encoded.
    pub(crate) fn statements(&self) -> Result<Vec<Vec<u8>>, StateError> {
        self.read_records("statements")
    }

    /// Keeps that.
    pub(crate) fn write_statements(&self, encoded: &[Vec<u8>]) -> Result<(), StateError> {
        self.write_records("statements", encoded)
    }

    /// Records behind each other, each after its length (32 bits, little endian); none if there is no such file.
    fn read_records(&self, name: &str) -> Result<Vec<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_at("read", &path)(e)),
        };
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            let Some(record) = body.get(..len) else {
                return Err(io_at("read", &path)(io::Error::new(io::ErrorKind::InvalidData, "cut short")));
            };
            records.push(record.to_vec());
            rest = &body[len..];
        }
        Ok(records)
    }

    fn write_records(&self, name: &str, records: &[Vec<u8>]) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        for record in records {
            let len = u32::try_from(record.len()).expect("such records are small");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(record);
        }
        write_atomically(&self.path.join(name), &bytes)
    }

    /// The directories that show the share or did.
    pub fn shown(&self) -> Result<Vec<ShownDir>, StateError> {
        self.read_json("shown.json")
    }

    /// Keeps them.
    pub fn write_shown(&self, shown: &[ShownDir]) -> Result<(), StateError> {
        self.write_json("shown.json", &shown)
    }

    /// Addresses (`ip:port`) by device id, as last seen.
    pub fn peers(&self) -> Result<BTreeMap<String, Vec<String>>, StateError> {
        self.read_json("peers.json")
    }

    /// Keeps them.
    pub fn write_peers(&self, peers: &BTreeMap<String, Vec<String>>) -> Result<(), StateError> {
        self.write_json("peers.json", peers)
    }

    /// How old the changes are.
    pub(crate) fn ages(&self) -> Result<Ages, StateError> {
        self.read_json("ages.json")
    }

    /// Keeps that.
    pub(crate) fn write_ages(&self, ages: &Ages) -> Result<(), StateError> {
        self.write_json("ages.json", ages)
    }

    /// The adapter's own directory for what is shown, made if it is not there.
    pub fn adapter_dir(&self, shown: &ShownDir) -> Result<PathBuf, StateError> {
        let path = self.path.join(&shown.state);
        fs::create_dir_all(&path).map_err(io_at("create", &path))?;
        Ok(path)
    }

    fn read_json<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, StateError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io_at("read", &path)(io::Error::other(e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(e) => Err(io_at("read", &path)(e)),
        }
    }

    fn write_json<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.path.join(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|e| io_at("write", &path)(io::Error::other(e)))?;
        write_atomically(&path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::present::OwnerPolicy;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let id = ShareId([7; 32]);
        let share = ShareDir::create(dir.path(), &id).unwrap();
        assert!(ShareDir::list(dir.path()).unwrap().is_empty(), "no genesis yet");
        share.write_genesis(b"genesis").unwrap();
        share.write_membership(&[b"one".to_vec(), Vec::new(), b"three".to_vec()]).unwrap();
        let shown = ShownDir::new(Mode::Watch, Path::new("/a"), &PresentOptions::default());
        assert!(share.adapter_dir(&shown).unwrap().is_dir());
        share.write_shown(std::slice::from_ref(&shown)).unwrap();
        let odd = ShownDir { dir: std::ffi::OsStr::from_bytes(b"/a\xff").into(), ..shown.clone() };
        share.write_shown(std::slice::from_ref(&odd)).unwrap();
        assert_eq!(share.shown().unwrap(), [odd]);
        share.write_shown(std::slice::from_ref(&shown)).unwrap();
        let listed = ShareDir::list(dir.path()).unwrap();
        assert_eq!(listed[0].0, id);
        assert_eq!(listed[0].1.genesis().unwrap(), b"genesis");
        assert_eq!(listed[0].1.membership().unwrap(), [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
        assert_eq!(listed[0].1.shown().unwrap(), [shown]);
        assert!(listed[0].1.peers().unwrap().is_empty());
    }

    /// One of each file as it is written, to the byte. Keys may be added, with a default for who reads what was written before.
    #[test]
    fn golden_files() {
        const SHOWN: &str = r#"[
  {
    "mode": "mount",
    "dir": "/home/ann/Shared",
    "options": {
      "read_only": true,
      "allow_other": false,
      "owner": {
        "fixed": {
          "uid": 1000,
          "gid": 100
        }
      },
      "on_demand": true,
      "cache": 1073741824
    },
    "active": true,
    "state": "mount-0123456789abcdef"
  },
  {
    "mode": "watch",
    "dir": [
      47,
      97,
      255
    ],
    "options": {
      "read_only": false,
      "allow_other": false,
      "owner": "mounter",
      "on_demand": false,
      "cache": null
    },
    "active": false,
    "state": "watch-0123456789abcdef"
  }
]"#;
        const PEERS: &str = "{\n  \"ab\": [\n    \"192.0.2.1:4433\",\n    \"[2001:db8::1]:4433\"\n  ]\n}";
        const AGES: &str = "[\n  {\n    \"time_ms\": 1800000000000,\n    \"envelopes\": 7\n  }\n]";
        let dir = tempfile::tempdir().unwrap();
        let share = ShareDir::create(dir.path(), &ShareId([7; 32])).unwrap();
        let text = |name: &str| fs::read_to_string(share.path().join(name)).unwrap();
        let mount = ShownDir {
            mode: Mode::Mount,
            dir: "/home/ann/Shared".into(),
            options: PresentOptions {
                read_only: true,
                allow_other: false,
                owner: OwnerPolicy::Fixed { uid: 1000, gid: 100 },
                on_demand: true,
                cache: Some(1 << 30),
            },
            active: true,
            state: "mount-0123456789abcdef".into(),
        };
        let watch = ShownDir {
            mode: Mode::Watch,
            dir: std::ffi::OsStr::from_bytes(b"/a\xff").into(),
            options: PresentOptions::default(),
            active: false,
            state: "watch-0123456789abcdef".into(),
        };
        share.write_shown(&[mount.clone(), watch.clone()]).unwrap();
        assert_eq!(text("shown.json"), SHOWN);
        assert_eq!(share.shown().unwrap(), [mount.clone(), watch]);
        share.write_peers(&[("ab".into(), vec!["192.0.2.1:4433".into(), "[2001:db8::1]:4433".into()])].into()).unwrap();
        assert_eq!(text("peers.json"), PEERS);
        assert_eq!(share.peers().unwrap()["ab"], ["192.0.2.1:4433", "[2001:db8::1]:4433"]);
        let mut ages = Ages::default();
        ages.note(1_800_000_000_000, 7);
        share.write_ages(&ages).unwrap();
        assert_eq!(text("ages.json"), AGES);
        assert_eq!(share.ages().unwrap(), ages);
        share.write_membership(&[b"one".to_vec(), Vec::new()]).unwrap();
        assert_eq!(fs::read(share.path().join("membership")).unwrap(), b"\x03\0\0\0one\0\0\0\0");
        // As the first programs wrote it.
        let first = r#"[{"mode": "mount", "dir": "/d", "options": {"read_only": false, "allow_other": true},
            "active": true, "state": "mount-0123456789abcdef"}]"#;
        fs::write(share.path().join("shown.json"), first).unwrap();
        let options = PresentOptions { allow_other: true, ..PresentOptions::default() };
        assert_eq!(share.shown().unwrap(), [ShownDir { dir: "/d".into(), options, ..mount }]);
    }

    #[test]
    fn a_torn_membership_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let share = ShareDir::create(dir.path(), &ShareId([7; 32])).unwrap();
        fs::write(share.path().join("membership"), [9, 0, 0, 0, 1]).unwrap();
        assert!(share.membership().is_err());
    }
}
