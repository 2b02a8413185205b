//! The store's formats on disk are to last: each has its bytes in `golden/formats.txt`. A change that is meant is blessed
//! with `BLESS=1`, and has to come with a new version number.

#![allow(clippy::unwrap_used)]

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{ActorId, Hash, InodeId, ShareId};

use crate::index::Note;
use crate::journal::{BaseRecord, BodyRecord, Record};
use crate::pack::{Codec, Header, Kind};

fn content() -> ContentRef {
    ContentRef { hash: Hash([1; 32]), size: 70_000, manifest: Some(Hash([2; 32])) }
}

fn formats() -> Vec<(&'static str, Vec<u8>)> {
    let nonce = [7; 16];
    let header =
        |kind, codec| Header { kind, codec, stored: 5, raw: 9, hash: Hash([3; 32]) }.encode(&nonce, 32).to_vec();
    let overlay = BodyRecord::Overlay {
        base: BaseRecord::Content { content: content() },
        base_len: 70_000,
        cut: Some(60_000),
        extents: vec![(0, 10), (20, 30)],
    };
    let below = BodyRecord::Overlay {
        base: BaseRecord::Generation { generation: 1 },
        base_len: 5,
        cut: None,
        extents: Vec::new(),
    };
    let record =
        |body, note: Option<&[u8]>| Record { generation: 2, body, size: 9, note: note.map(|n| n.to_vec().into()) };
    let memory = BodyRecord::Memory { bytes: b"bytes".to_vec().into() };
    vec![
        ("pack segment, head", crate::pack::segment_header(&nonce).to_vec()),
        ("pack entry, chunk, raw", header(Kind::Chunk, Codec::Raw)),
        ("pack entry, chunk, zstd", header(Kind::Chunk, Codec::Zstd)),
        ("pack entry, note", header(Kind::Note, Codec::Raw)),
        ("pack entry, void", header(Kind::Void, Codec::Raw)),
        ("note, content", Note::Content { content: content() }.encode()),
        ("note, object", Note::Object { id: 5, content: content() }.encode()),
        (
            "note, folder file",
            Note::Folder { id: 6, share: ShareId([4; 32]), key: InodeId([5; 16]), content: content() }.encode(),
        ),
        ("note, gone", Note::Gone { id: 7 }.encode()),
        ("journal, memory", crate::journal::frame(&[record(memory, Some(b"note"))])),
        ("journal, plain", crate::journal::frame(&[record(BodyRecord::Plain, Some(b"note"))])),
        ("journal, overlay", crate::journal::frame(&[record(below, None), record(overlay, Some(b"note"))])),
        ("log, head", crate::log::file_header(&nonce).to_vec()),
        ("log entry", crate::log::header(&nonce, 28, &ActorId([8; 32]), 3, 28, b"envelope").to_vec()),
        ("log entry, void", crate::log::header(&nonce, 28, &ActorId([0; 32]), 0, 28, b"damaged").to_vec()),
        ("snapshot", [&crate::log::snapshot_header(b"snapshot")[..], b"snapshot"].concat()),
    ]
}

#[test]
fn formats_on_disk_stay() {
    let text: String = formats()
        .into_iter()
        .map(|(name, bytes)| format!("{name}: {}\n", data_encoding::HEXLOWER.encode(&bytes)))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/formats.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (now, then) in text.lines().zip(golden.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(text, golden);
}
