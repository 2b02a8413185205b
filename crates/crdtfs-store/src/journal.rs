//! A write file's journal: what makes a synced, not yet sealed write file come back after a crash.
//!
//! One file a write file, records appended: each says how the layers lie since the last. Torn records at the end are
//! passed over. Rewritten when it has grown. Format: `docs/FORMAT.md`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crdtfs_core::content::ContentRef;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::layer::Extents;

/// Beyond this many bytes it is written anew.
const REWRITE: u64 = 4 << 20;
const MAGIC: &[u8; 4] = b"CWJ1";
const HEADER: usize = 16;

/// One sync of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Record {
    #[n(0)]
    pub(crate) generation: u32,
    #[n(1)]
    pub(crate) body: BodyRecord,
    #[n(2)]
    pub(crate) size: u64,
    /// Set in the last record of a sync.
    #[n(3)]
    pub(crate) note: Option<ByteVec>,
}

/// How a layer's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum BodyRecord {
    /// Here.
    #[n(0)]
    Memory {
        #[n(0)]
        bytes: ByteVec,
    },
    /// In the layer's file.
    #[n(1)]
    Plain,
    /// In the layer's file as far as it was written, else below.
    #[n(2)]
    Overlay {
        #[n(0)]
        base: BaseRecord,
        #[n(1)]
        base_len: u64,
        /// The least size since the last record: what was written from there on before is gone.
        #[n(2)]
        cut: Option<u64>,
        /// Ranges written since the last record, as (start, end).
        #[n(3)]
        extents: Vec<(u64, u64)>,
    },
}

/// What lies below.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum BaseRecord {
    #[n(0)]
    Nothing,
    #[n(1)]
    Content {
        #[n(0)]
        content: ContentRef,
    },
    #[n(2)]
    Generation {
        #[n(0)]
        generation: u32,
    },
}

/// A layer as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    Memory(Vec<u8>),
    Plain,
    Overlay { base: BaseRecord, base_len: u64, extents: Extents },
}

/// What a journal says: the layers by generation with their sizes, the topmost synced one, and its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) layers: BTreeMap<u32, (Recovered, u64)>,
    pub(crate) top: u32,
    pub(crate) note: Vec<u8>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    len: u64,
}

impl Journal {
    /// Makes an empty one; its name is durable on return.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        sync_parent(path)?;
        Ok(Self { file, len: 0 })
    }

    /// Appends records and waits until they are durable.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes = frame(records);
        self.file.write_all_at(&bytes, self.len)?;
        self.file.sync_data()?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Whether it has grown so much that it should be written anew with [`Journal::rewrite`].
    pub(crate) fn is_long(&self) -> bool {
        self.len > REWRITE
    }

    /// Replaces it by records that say all.
    pub(crate) fn rewrite(path: &Path, records: &[Record]) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let mut journal =
            Self { file: OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?, len: 0 };
        journal.append(records)?;
        fs::rename(&temporary, path)?;
        sync_parent(path)?;
        Ok(journal)
    }
}

/// Makes the names beside `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

pub(crate) fn frame(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let body = minicbor::to_vec(record).expect("writing to memory cannot fail");
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&blake3::hash(&body).as_bytes()[..8]);
        out.extend_from_slice(&body);
    }
    out
}

/// Reads a journal; `None` if nothing was ever synced.
pub(crate) fn replay(bytes: &[u8]) -> Option<Replay> {
    let mut records = parse(bytes);
    // Records behind the last note are of a sync that a crash cut off.
    let end = records.iter().rposition(|record| record.note.is_some())?;
    records.truncate(end + 1);
    let (top, note) = (records[end].generation, records[end].note.clone()?.into());
    let mut layers: BTreeMap<u32, (Recovered, u64)> = BTreeMap::new();
    for Record { generation, body, size, .. } in records {
        let mut extents = match layers.remove(&generation) {
            Some((Recovered::Overlay { extents, .. }, _)) => extents,
            _ => Extents::default(),
        };
        let layer = match body {
            BodyRecord::Memory { bytes } => Recovered::Memory(bytes.into()),
            BodyRecord::Plain => Recovered::Plain,
            BodyRecord::Overlay { base, base_len, cut, extents: new } => {
                if let Some(cut) = cut {
                    extents.truncate(cut);
                }
                new.into_iter().for_each(|(start, end)| extents.insert(start, end));
                Recovered::Overlay { base, base_len, extents }
            }
        };
        layers.insert(generation, (layer, size));
    }
    Some(Replay { layers, top, note })
}

/// The good records from the beginning on.
fn parse(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER && rest[..4] == *MAGIC {
        let len = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let Some(body) = rest.get(HEADER..HEADER + len) else { break };
        if rest[8..16] != blake3::hash(body).as_bytes()[..8] {
            break;
        }
        let Ok(record) = minicbor::decode::<Record>(body) else { break };
        records.push(record);
        rest = &rest[HEADER + len..];
    }
    records
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn overlay(generation: u32, cut: Option<u64>, extents: &[(u64, u64)], note: Option<&[u8]>) -> Record {
        let base = BaseRecord::Content { content: ContentRef::single(b"base") };
        let body = BodyRecord::Overlay { base, base_len: 4, cut, extents: extents.to_vec() };
        Record { generation, body, size: 100, note: note.map(|note| note.to_vec().into()) }
    }

    #[test]
    fn a_torn_end_gives_the_sync_before() {
        let first = frame(&[overlay(1, None, &[(0, 10), (50, 60)], Some(b"one"))]);
        let second = frame(&[overlay(1, Some(55), &[(20, 30)], Some(b"two"))]);
        let whole = [first.clone(), second].concat();
        let Replay { layers, note, .. } = replay(&whole).unwrap();
        let (Recovered::Overlay { extents, .. }, 100) = &layers[&1] else { panic!("an overlay") };
        assert_eq!(extents.iter().collect::<Vec<_>>(), [(0, 10), (20, 30), (50, 55)]);
        assert_eq!(note, b"two");
        for cut in first.len()..whole.len() {
            assert_eq!(replay(&whole[..cut]).unwrap().note, b"one", "cut at {cut}");
        }
        for cut in 0..first.len() {
            assert_eq!(replay(&whole[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn records_without_a_note_belong_to_the_next_with_one() {
        let bytes = frame(&[overlay(1, None, &[(0, 1)], None), overlay(2, None, &[(1, 2)], Some(b"n"))]);
        let replayed = replay(&bytes).unwrap();
        assert_eq!((replayed.layers.len(), replayed.top), (2, 2));
    }
}
