//! What stands in a write file's journal, so that a crash loses nothing of it: where its bytes belong.
//!
//! One byte for the format, then a CBOR map; the first programs wrote the map alone. The bytes themselves are the store's
//! affair.

use crdtfs_core::id::{InodeId, RecordId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Time;
use minicbor::{Decode, Encode};

/// Version of the format that this program writes.
const VERSION: u8 = 1;

/// What finishing a write file needs after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Note {
    #[n(0)]
    pub(crate) inode: InodeId,
    /// Directory and name that it was written through.
    #[n(1)]
    pub(crate) dir: Option<InodeId>,
    #[n(2)]
    pub(crate) name: Option<Name>,
    /// The versions that it settles.
    #[n(3)]
    pub(crate) basis: Vec<RecordId>,
    #[n(4)]
    pub(crate) mtime: Time,
}

impl Note {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        minicbor::encode(self, &mut out).expect("writing to memory does not fail");
        out
    }

    /// `None` for what is no note, or of another version: the bytes are then kept under a name of their own.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        /// A byte that begins a map, as notes without a version do.
        const MAP: std::ops::RangeInclusive<u8> = 0xa0..=0xbf;
        match bytes {
            [VERSION, map @ ..] => minicbor::decode(map).ok(),
            [first, ..] if MAP.contains(first) => minicbor::decode(bytes).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn notes() -> [Note; 2] {
        let named = Note {
            inode: InodeId([1; 16]),
            dir: Some(InodeId([2; 16])),
            name: Some(Name::try_from("f.txt").unwrap()),
            basis: vec![RecordId([3; 16]), RecordId([4; 16])],
            mtime: Time { secs: 1_800_000_000, nanos: 5 },
        };
        let unnamed =
            Note { dir: None, name: None, basis: vec![], mtime: Time { secs: -1, nanos: 0 }, ..named.clone() };
        [named, unnamed]
    }

    /// Fixed: a crash may lie between the program that wrote one and the one that reads it.
    const GOLDEN: [&str; 2] = [
        concat!(
            "01a50050010101010101010101010101010101010150020202020202020202020202020202020245662e747874",
            "03825003030303030303030303030303030303500404040404040404040404040404040404821a6b49d20005",
        ),
        "01a3005001010101010101010101010101010101038004822000",
    ];

    #[test]
    fn golden_and_back() {
        for (note, golden) in notes().into_iter().zip(GOLDEN) {
            let bytes = note.encode();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, golden);
            assert_eq!(Note::decode(&bytes), Some(note));
        }
    }

    #[test]
    fn a_note_of_the_first_programs_is_read() {
        for note in notes() {
            let bytes = note.encode();
            assert_eq!(Note::decode(&bytes[1..]), Some(note));
        }
    }

    #[test]
    fn what_is_no_note_is_none() {
        let bytes = notes()[0].encode();
        for end in 0..bytes.len() {
            assert_eq!(Note::decode(&bytes[..end]), None, "cut to {end} bytes");
        }
        let later = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(Note::decode(&later), None);
    }
}
