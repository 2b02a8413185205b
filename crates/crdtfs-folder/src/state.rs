//! The synced tree on disk: a redb database in the adapter's own directory.
//!
//! Written in batches, each one transaction: what a crash loses is at most the newest batches, and the next start finds that
//! out by comparing the folder with the view, or by an intent, which is always durable before what it announces.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, RecordId, ShareId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time, Xattrs};
use minicbor::{Decode, Encode};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use thiserror::Error;

use crate::disk::{Ident, Left, Root, Stamp};
use crate::journal::Journal;
use crate::synced::{Intent, Synced, SyncedTree};

const NODES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("nodes");
const PLACES: TableDefinition<'_, &[u8], &[u8; 16]> = TableDefinition::new("places");
const INTENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("intents");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Version of the tables.
const VERSION: u8 = 1;
/// Pages kept in memory: the tree itself is, so they serve writing only.
const CACHE: usize = 4 << 20;

/// Why the state cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    /// Another engine has it open.
    #[error("the folder's state is in use by another crdtfs; stop that one first")]
    InUse,
    /// The database fails.
    #[error("the folder's state: {0}")]
    Database(#[from] redb::Error),
    /// It was given up after an error, which was reported.
    #[error("the folder's state is closed; it is opened again when it is saved")]
    Closed,
    /// Written by a later program.
    #[error("the folder's state has format {0}: needs a newer crdtfs")]
    Newer(u8),
    /// Contents that this program never writes.
    #[error("the folder's state is damaged ({0}); remove it and watch the folder again, nothing in the folder is lost")]
    Damaged(String),
}

/// Turns each of redb's errors into one.
fn db<E: Into<redb::Error>>(error: E) -> StateError {
    StateError::Database(error.into())
}

/// Which folder the state is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Whose {
    /// The share.
    #[n(0)]
    pub(crate) share: ShareId,
    /// The root directory on disk.
    #[n(1)]
    pub(crate) root: Ident,
    /// Its filesystem, where that is needed to tell it from others: [`crate::disk::Root::ident`].
    #[n(2)]
    pub(crate) filesystem: Option<u64>,
}

impl Whose {
    /// The folder at a root.
    pub(crate) fn of(share: ShareId, root: &Root) -> io::Result<Self> {
        let (ident, filesystem) = root.ident()?;
        Ok(Self { share, root: ident, filesystem })
    }

    /// Whether number, birth and filesystem are those of `other`, which is there now.
    pub(crate) fn is(&self, other: &Self) -> bool {
        // What an older version wrote names none.
        (self.share, self.root) == (other.share, other.root)
            && (self.filesystem.is_none() || self.filesystem == other.filesystem)
    }

    /// Whether no other directory has these: without a time of birth the roots of all filesystems of a type have one number, and
    /// what `f_fsid` says is nothing (FUSE, NFS), or the number of the drive that a disk was put into (FAT).
    pub(crate) fn is_sure(&self) -> bool {
        self.root.born != Time::default()
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct NodeRow {
    #[n(0)]
    kind: Kind,
    #[n(1)]
    stamp: Stamp,
    #[n(2)]
    key: InodeId,
    #[n(3)]
    content: ContentRef,
    #[n(4)]
    basis: Vec<RecordId>,
    #[n(5)]
    mode: u32,
    #[n(6)]
    mtime: Time,
    #[n(7)]
    xattrs: Vec<(minicbor::bytes::ByteVec, minicbor::bytes::ByteVec)>,
    #[n(8)]
    target: minicbor::bytes::ByteVec,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct IntentRow {
    #[n(0)]
    inode: InodeId,
    #[n(1)]
    state: NodeRow,
}

impl From<&Synced> for NodeRow {
    fn from(node: &Synced) -> Self {
        Self {
            kind: node.kind,
            stamp: node.stamp,
            key: node.key,
            content: node.content,
            basis: node.basis.to_vec(),
            mode: node.mode,
            mtime: node.mtime,
            xattrs: node.xattrs.iter().map(|(n, v)| (n.clone().into(), v.clone().into())).collect(),
            target: node.target.to_vec().into(),
        }
    }
}

impl From<NodeRow> for Synced {
    fn from(row: NodeRow) -> Self {
        let xattrs: Xattrs = row.xattrs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Self {
            kind: row.kind,
            stamp: row.stamp,
            key: row.key,
            content: row.content,
            basis: row.basis.into(),
            mode: row.mode,
            mtime: row.mtime,
            xattrs: Arc::new(xattrs),
            target: Vec::from(row.target).into(),
        }
    }
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to memory cannot fail")
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, StateError> {
    minicbor::decode(bytes).map_err(|e| StateError::Damaged(e.to_string()))
}

/// The database.
pub(crate) struct StateDb {
    path: PathBuf,
    /// `None` after an error: to be opened anew.
    database: Option<Database>,
}

/// Opens the database, made first if there is none. Who is ended while it is made leaves none: the file gets its name when it
/// can be opened.
fn open(path: &Path) -> Result<Database, StateError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    if !path.try_exists().map_err(redb::Error::Io)? {
        let making = path.with_extension("making");
        match std::fs::remove_file(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(db(redb::Error::Io(error))),
            _ => {}
        }
        drop(builder.create(&making).map_err(db)?);
        std::fs::rename(&making, path).map_err(redb::Error::Io)?;
    }
    builder.open(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StateError::InUse,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            StateError::Damaged(format!("{}: {error}", path.display()))
        }
        other => db(other),
    })
}

impl StateDb {
    /// Opens or makes the database at `path`, and reads the tree and whose it is (`None`: new).
    pub(crate) fn open(path: &Path) -> Result<(Self, SyncedTree, Option<Whose>), StateError> {
        let database = open(path)?;
        let txn = database.begin_write().map_err(db)?;
        txn.open_table(INTENTS).map_err(db)?;
        txn.open_table(NODES).map_err(db)?;
        txn.open_table(PLACES).map_err(db)?;
        txn.open_table(META).map_err(db)?;
        txn.commit().map_err(db)?;
        let state = Self { path: path.to_owned(), database: Some(database) };
        let (mut tree, whose) = state.load()?;
        let (journal, unsaved) = Journal::open(&path.with_extension("published")).map_err(redb::Error::Io)?;
        (tree.journal, tree.unsaved) = (Some(journal), unsaved);
        Ok((state, tree, whose))
    }

    fn begin_read(&self) -> Result<ReadTransaction, StateError> {
        self.database.as_ref().ok_or(StateError::Closed)?.begin_read().map_err(db)
    }

    fn begin_write(&self) -> Result<WriteTransaction, StateError> {
        self.database.as_ref().ok_or(StateError::Closed)?.begin_write().map_err(db)
    }

    fn load(&self) -> Result<(SyncedTree, Option<Whose>), StateError> {
        let txn = self.begin_read()?;
        let meta = txn.open_table(META).map_err(db)?;
        if let Some(version) = meta.get("version").map_err(db)? {
            match version.value() {
                [VERSION] => {}
                [newer, ..] => return Err(StateError::Newer(*newer)),
                [] => return Err(StateError::Damaged("no version".into())),
            }
        }
        let whose = match meta.get("whose").map_err(db)? {
            Some(bytes) => Some(decode(bytes.value())?),
            None => None,
        };
        let mut tree = SyncedTree::default();
        for row in txn.open_table(NODES).map_err(db)?.iter().map_err(db)? {
            let (id, bytes) = row.map_err(db)?;
            tree.set(InodeId(*id.value()), decode::<NodeRow>(bytes.value())?.into());
        }
        for row in txn.open_table(PLACES).map_err(db)?.iter().map_err(db)? {
            let (key, inode) = row.map_err(db)?;
            let inode = InodeId(*inode.value());
            let (dir, name) = place(key.value())?;
            if tree.node(inode).is_some() {
                tree.place(inode, (dir, name));
            }
        }
        for row in txn.open_table(INTENTS).map_err(db)?.iter().map_err(db)? {
            let (_, bytes) = row.map_err(db)?;
            let row: IntentRow = decode(bytes.value())?;
            tree.intend(Intent { inode: row.inode, state: row.state.into() });
        }
        tree.changed = Default::default();
        Ok((tree, whose))
    }

    /// Says whose state it is.
    pub(crate) fn set_whose(&self, whose: &Whose) -> Result<(), StateError> {
        let txn = self.begin_write()?;
        {
            let mut meta = txn.open_table(META).map_err(db)?;
            meta.insert("version", &[VERSION][..]).map_err(db)?;
            meta.insert("whose", &encode(whose)[..]).map_err(db)?;
        }
        txn.commit().map_err(db)
    }

    /// How the folder was when the tree was last saved, if that is known.
    pub(crate) fn left(&self) -> Result<Option<Left>, StateError> {
        let txn = self.begin_read()?;
        let meta = txn.open_table(META).map_err(db)?;
        meta.get("left").map_err(db)?.map(|bytes| decode(bytes.value())).transpose()
    }

    /// Writes what changed in the tree, and how the folder is, durably, and clears that list. Costs nothing if nothing did.
    pub(crate) fn save(&mut self, tree: &mut SyncedTree, left: Option<Left>) -> Result<(), StateError> {
        if tree.changed.is_empty() {
            return Ok(());
        }
        if self.database.is_none() {
            self.database = Some(open(&self.path)?);
        }
        let saved = self.try_save(tree, left);
        if saved.is_err() {
            // After an error of the disk (that it is full) it refuses everything until it is opened anew.
            self.database = None;
        }
        saved
    }

    fn try_save(&self, tree: &mut SyncedTree, left: Option<Left>) -> Result<(), StateError> {
        let txn = self.begin_write()?;
        {
            let mut nodes = txn.open_table(NODES).map_err(db)?;
            for id in &tree.changed.nodes {
                match tree.node(*id) {
                    Some(node) => drop(nodes.insert(&id.0, &encode(&NodeRow::from(node))[..]).map_err(db)?),
                    None => drop(nodes.remove(&id.0).map_err(db)?),
                }
            }
            let mut places = txn.open_table(PLACES).map_err(db)?;
            for place in &tree.changed.places {
                let key = [&place.0.0[..], place.1.as_bytes()].concat();
                match tree.child(place) {
                    Some(inode) => drop(places.insert(&key[..], &inode.0).map_err(db)?),
                    None => drop(places.remove(&key[..]).map_err(db)?),
                }
            }
            let mut intents = txn.open_table(INTENTS).map_err(db)?;
            for ident in &tree.changed.intents {
                let key = encode(ident);
                match tree.intent(ident) {
                    Some(intent) => {
                        let row = IntentRow { inode: intent.inode, state: (&intent.state).into() };
                        intents.insert(&key[..], &encode(&row)[..]).map_err(db)?;
                    }
                    None => drop(intents.remove(&key[..]).map_err(db)?),
                }
            }
            let mut meta = txn.open_table(META).map_err(db)?;
            match left {
                Some(left) => drop(meta.insert("left", &encode(&left)[..]).map_err(db)?),
                None => drop(meta.remove("left").map_err(db)?),
            }
        }
        txn.commit().map_err(db)?;
        tree.changed = Default::default();
        if let Some(journal) = &tree.journal {
            journal.clear().map_err(redb::Error::Io)?;
        }
        Ok(())
    }
}

fn place(key: &[u8]) -> Result<(InodeId, Name), StateError> {
    let bad = || StateError::Damaged("a name".into());
    let (dir, name) = key.split_at_checked(InodeId::LEN).ok_or_else(bad)?;
    Ok((InodeId::from_slice(dir).ok_or_else(bad)?, Name::new(name).map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Left = Left { filesystem: 7, changed: Time { secs: 8, nanos: 9 } };

    fn node(ino: u64) -> Synced {
        Synced {
            kind: Kind::File,
            stamp: Stamp {
                ident: Ident { ino, born: Time { secs: 5, nanos: 6 } },
                size: 3,
                mtime: Time { secs: -1, nanos: 7 },
                ctime: Time::default(),
                mode: 0o644,
                nlink: 1,
            },
            key: InodeId([ino as u8; 16]),
            content: ContentRef::single(b"abc"),
            basis: vec![RecordId([1; 16])].into(),
            mode: 0o4644,
            mtime: Time { secs: -1, nanos: 7 },
            xattrs: Arc::new([(b"user.a".to_vec(), b"b".to_vec())].into()),
            target: b"".to_vec().into(),
        }
    }

    /// As redb leaves a file that it was ended over, and a full disk one that it had no room for.
    #[test]
    fn what_was_left_half_made_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        std::fs::write(path.with_extension("making"), [0; 4096]).expect("writes");
        let (_, tree, whose) = StateDb::open(&path).expect("opens");
        assert!(tree.is_empty() && whose.is_none());
        assert!(!path.with_extension("making").exists());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        std::fs::write(&path, [0; 4096]).expect("writes");
        let Err(error) = StateDb::open(&path) else { panic!("it is no database") };
        assert!(matches!(&error, StateError::Damaged(_)) && error.to_string().contains("state.redb"), "{error}");
        assert_eq!(std::fs::read(&path).expect("reads"), [0; 4096]);
    }

    #[test]
    fn what_was_saved_is_there_again_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let name = |n: &str| Name::try_from(n).expect("legal");
        let (a, b) = (InodeId([1; 16]), InodeId([2; 16]));
        let whose = Whose { share: ShareId([9; 32]), root: node(1).stamp.ident, filesystem: Some(7) };
        {
            let (mut state, mut tree, whose_before) = StateDb::open(&path).expect("opens");
            assert!(whose_before.is_none() && tree.is_empty());
            state.set_whose(&whose).expect("writes");
            for (id, n, ino) in [(a, "x", 11), (b, "y", 12)] {
                tree.set(id, node(ino));
                tree.place(id, (InodeId::ROOT, name(n)));
            }
            tree.intend(Intent { inode: a, state: node(77) });
            state.save(&mut tree, Some(LEFT)).expect("saves");
            assert_eq!(state.left().expect("reads"), Some(LEFT));
            tree.unplace(&(InodeId::ROOT, name("y")));
            assert_eq!(tree.forget_nameless(b), [node(12).key]);
            state.save(&mut tree, None).expect("saves");
            // Nothing changed: as it was.
            state.save(&mut tree, Some(LEFT)).expect("saves");
        }
        let (state, tree, again) = StateDb::open(&path).expect("opens again");
        assert_eq!(again, Some(whose));
        assert_eq!(state.left().expect("reads"), None);
        assert_eq!(tree.len(), 1);
        assert_eq!(tree.node(a), Some(&node(11)));
        assert_eq!(tree.child(&(InodeId::ROOT, name("x"))), Some(a));
        assert_eq!(tree.by_ident(&node(11).stamp.ident), Some(a));
        assert_eq!(tree.intent(&node(77).stamp.ident).map(|i| i.inode), Some(a));
    }
}
