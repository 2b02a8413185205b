//! The index file: redb, a cache of what the packs say.
//!
//! A commit names the position in the packs up to which it speaks; what lies behind is read from the packs at the next
//! start. Missing, damaged or older than it should be, it is made again from the packs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crdtfs_core::id::Hash;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::index::{Change, Index, Key, Note, Place};
use crate::pack::Position;
use crate::storage::{Storage, StorageFile, read_full};

const FILE: &str = "index.redb";
/// Its name while the packs no longer hold what it says.
const ASIDE: &str = "index.redb.aside";
/// 2: with the next id.
const VERSION: u64 = 2;
const CHUNKS: TableDefinition<'_, &[u8; 20], u64> = TableDefinition::new("chunks");
const CONTAINERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("containers");
const CONTENTS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("contents");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Bytes of memory for redb's own pages.
const PAGE_CACHE: usize = 4 << 20;

/// The redb file.
pub(crate) struct IndexFile {
    storage: Arc<dyn Storage>,
    database: Option<Database>,
    /// It has the name that no start looks for.
    aside: bool,
}

/// Up to where an index speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpTo {
    /// In the packs.
    pub(crate) position: Position,
    /// No container has had this id or one above.
    pub(crate) next: u32,
}

/// An index as it was read.
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) position: Position,
    pub(crate) next: u32,
}

impl std::fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexFile")
    }
}

impl IndexFile {
    /// Opens the file and reads it. `None`: there was none, or it was no good, and an empty one has been made.
    pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<(Self, Option<Loaded>), redb::Error> {
        let mut file = Self { storage, database: None, aside: false };
        file.remove(ASIDE)?;
        match file.load() {
            Ok(loaded) => return Ok((file, loaded)),
            Err(redb::Error::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(redb::Error::Io(error));
            }
            Err(error) => tracing::warn!(%error, "the index is no good; it is made again from the packs"),
        }
        file.reset()?;
        Ok((file, None))
    }

    /// Removes the file and makes an empty one.
    pub(crate) fn reset(&mut self) -> Result<(), redb::Error> {
        self.database = None;
        self.remove(self.name())?;
        self.database().map(|_| ())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        if self.aside { ASIDE } else { FILE }
    }

    /// Has a start make the index anew, until the next commit: for when the packs lose what rows here still name, and there
    /// is no room to write that they are gone. A new name takes none.
    pub(crate) fn put_aside(&mut self) -> io::Result<()> {
        match self.storage.rename(FILE, ASIDE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.aside = true,
        }
        self.storage.sync_dir("")
    }

    /// What it says is right again.
    fn put_back(&mut self) -> io::Result<()> {
        if self.aside {
            self.storage.rename(ASIDE, FILE)?;
            self.aside = false;
        }
        Ok(())
    }

    fn database(&mut self) -> Result<&Database, redb::Error> {
        if self.database.is_none() {
            let backend = Backend(self.storage.open(self.name(), true)?);
            self.database = Some(Database::builder().set_cache_size(PAGE_CACHE).create_with_backend(backend)?);
        }
        Ok(self.database.as_ref().expect("made above"))
    }

    fn load(&mut self) -> Result<Option<Loaded>, redb::Error> {
        let database = self.database()?;
        let read = database.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let number = |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
        if number("version")? != VERSION {
            return Err(redb::Error::Corrupted("of another version".into()));
        }
        let position = (number("segment")? as u32, number("offset")?);
        let next = number("next")? as u32;
        let mut index = Index::default();
        for row in read.open_table(CONTAINERS)?.iter()? {
            if let Some(note) = Note::decode(row?.1.value()) {
                index.add_container(&note);
            }
        }
        for row in read.open_table(CONTENTS)?.iter()? {
            let (row_key, value) = row?;
            if let Some((manifest, size)) = value.value().split_at_checked(32)
                && let (Some(manifest), Ok(size)) = (Hash::from_slice(manifest), size.try_into())
            {
                index.load_content(*row_key.value(), manifest, u64::from_le_bytes(size));
            }
        }
        let chunks = read.open_table(CHUNKS)?;
        let rows = redb::ReadableTableMetadata::len(&chunks)?;
        index.reserve(rows as usize);
        for row in chunks.iter()? {
            let (row_key, value) = row?;
            let (hash, container) = row_key.value().split_at(16);
            let (Ok(hash), Ok(container)) = (hash.try_into(), container.try_into()) else { continue };
            let place = Place::from_packed(u32::from_be_bytes(container), value.value());
            // Pack segments are no rows: which there are is seen in the directory.
            index.load_place(hash, place);
        }
        index.pending.clear();
        Ok(Some(Loaded { index, position, next }))
    }

    /// Writes changes, durably, with the position in the packs up to which they speak.
    pub(crate) fn commit(&mut self, changes: &[Change], upto: &UpTo) -> Result<(), redb::Error> {
        let result = self.try_commit(changes, upto);
        if result.is_err() {
            // After an error of the disk redb wants to be opened again.
            self.database = None;
        }
        result?;
        Ok(self.put_back()?)
    }

    fn try_commit(&mut self, changes: &[Change], upto: &UpTo) -> Result<(), redb::Error> {
        // The last change of a row stands; in the order of rows the tree is written once.
        let mut chunks = BTreeMap::new();
        let mut containers = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for change in changes {
            match change {
                Change::Chunk(key, place) => chunks.insert(row(key, place.container), Some(place.packed())),
                Change::DropChunk(key, container) => chunks.insert(row(key, *container), None),
                Change::Container(id, note) => {
                    containers.insert(*id, Some(note));
                    continue;
                }
                Change::DropContainer(id) => {
                    containers.insert(*id, None);
                    continue;
                }
                Change::Content(key, manifest, size) => {
                    contents.insert(*key, [&manifest.0[..], &size.to_le_bytes()].concat());
                    continue;
                }
            };
        }
        let write = self.database()?.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("version", VERSION)?;
            meta.insert("segment", u64::from(upto.position.0))?;
            meta.insert("offset", upto.position.1)?;
            meta.insert("next", u64::from(upto.next))?;
            let mut table = write.open_table(CHUNKS)?;
            for (row, value) in &chunks {
                match value {
                    Some(value) => table.insert(row, value).map(|_| ())?,
                    None => table.remove(row).map(|_| ())?,
                }
            }
            let mut table = write.open_table(CONTAINERS)?;
            for (id, note) in containers {
                match note {
                    Some(note) => table.insert(id, note.as_slice()).map(|_| ())?,
                    None => table.remove(id).map(|_| ())?,
                }
            }
            let mut table = write.open_table(CONTENTS)?;
            for (key, value) in &contents {
                table.insert(key, value.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }
}

fn row(key: &Key, container: u32) -> [u8; 20] {
    let mut row = [0; 20];
    row[..16].copy_from_slice(key);
    row[16..].copy_from_slice(&container.to_be_bytes());
    row
}

/// redb on the store's storage.
#[derive(Debug)]
struct Backend(Arc<dyn StorageFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if read_full(self.0.as_ref(), out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
