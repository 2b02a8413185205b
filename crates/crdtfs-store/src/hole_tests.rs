//! Tests of large write files: sparse ones are sealed as the bytes that they stand for without being read, and sealing can be
//! given up without losing anything.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::port::{Content, FolderContent, RESERVE, WriteFile};

use crate::share_tests::{Device, Peer, device, read};
use crate::space::Space;
use crate::store_tests::noise;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 40 * MIB + 12_345;
/// What lies between the holes: at odd places, at the ends of chunks of zeros, alone and side by side.
const WRITTEN: [(u64, usize); 6] =
    [(0, 5), (3 * MIB, 1), (5 * MIB - 1, 2), (17 * MIB + 77, 300_000), (17 * MIB + 300_077, 9), (39 * MIB, 70_000)];

fn seal(device: &Device, file: &dyn WriteFile) -> ContentRef {
    device.share.seal(file, &|| true).unwrap().unwrap()
}

fn sparse(device: &Device, base: Option<&ContentRef>) -> Arc<dyn WriteFile> {
    let file = device.share.write_file(base).unwrap();
    file.set_len(SIZE).unwrap();
    for (at, len) in WRITTEN {
        file.write_at(&noise(len, at), at).unwrap();
    }
    file
}

fn written_out() -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    for (at, len) in WRITTEN {
        bytes[at as usize..at as usize + len].copy_from_slice(&noise(len, at));
    }
    bytes
}

fn bytes_of(file: &dyn WriteFile) -> Vec<u8> {
    let mut bytes = vec![0; file.size() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// Asks so many times, then no more.
fn times(n: u32) -> impl Fn() -> bool {
    let asked = Cell::new(0);
    move || asked.replace(asked.get() + 1) < n
}

#[test]
fn a_sparse_file_is_the_content_of_its_bytes() {
    let bytes = written_out();
    let plain = device(Peer::nobody());
    let expected = plain.share.put(&bytes).unwrap();
    let device = device(Peer::nobody());
    let content = seal(&device, &*sparse(&device, None));
    assert_eq!(content, expected, "hash and manifest");
    assert!(read(&device.share, &content).unwrap() == bytes);
    // Over a content that is sparse itself, and over what was sealed and is written on.
    let base = device.share.write_file(None).unwrap();
    base.set_len(SIZE - MIB).unwrap();
    let base = seal(&device, &*base);
    assert_eq!(base, plain.share.put(&vec![0; (SIZE - MIB) as usize]).unwrap());
    let file = sparse(&device, Some(&base));
    assert_eq!(seal(&device, &*file), expected);
    file.set_len(7 * MIB).unwrap();
    file.set_len(SIZE).unwrap();
    for (at, len) in WRITTEN.into_iter().filter(|(at, _)| *at > 7 * MIB) {
        file.write_at(&noise(len, at), at).unwrap();
    }
    assert_eq!(seal(&device, &*file), expected);
}

#[test]
fn a_sparse_object_has_its_holes_where_it_is_fetched_too() {
    let source = device(Peer::nobody());
    let content = seal(&source, &*sparse(&source, None));
    let device = device(Peer::of(source.share.store()));
    device.share.fetch(&[content], crate::Urgency::Apply).pop().unwrap().unwrap();
    assert!(read(&device.share, &content).unwrap() == written_out());
    for share in [&source.share, &device.share] {
        let allocated = share.allocated(&content).unwrap();
        assert!(allocated < 800 << 10, "{allocated} bytes");
        let reader = share.open(&content).unwrap();
        assert!(reader.seek(7 * MIB, true).unwrap().unwrap() > 15 * MIB);
    }
}

/// Room is wanted for the bytes that are not zeros, before the list of chunks is here as well as after it.
#[test]
fn a_sparse_content_is_fetched_where_there_is_no_room_for_its_holes() {
    let source = device(Peer::nobody());
    let content = seal(&source, &*sparse(&source, None));
    let peer = Peer::of(source.share.store());
    let room = 10 * MIB;
    peer.space.set(Arc::new(Space::told(move || RESERVE + MIB + room))).unwrap();
    let device = device(peer.clone());
    let store = device.share.store();
    assert!(store.room_for(&content).unwrap() <= room);
    peer.limit.store(3, Ordering::Relaxed);
    assert!(device.share.fetch(&[content], crate::Urgency::Prefetch)[0].is_err());
    let lacks = store.room_for(&content).unwrap();
    assert!(lacks > 300_000 && lacks <= room, "{lacks} bytes");
    peer.limit.store(u64::MAX, Ordering::Relaxed);
    device.share.fetch(&[content], crate::Urgency::Prefetch).pop().unwrap().unwrap();
    assert_eq!(store.room_for(&content).unwrap(), 0);
    assert!(read(&device.share, &content).unwrap() == written_out());
}

/// Chunks begin in the middle of blocks: one with bytes makes data of a block that the zeros beside it have a part of.
#[test]
fn zeros_beside_data_take_no_room_and_what_was_left_among_them_goes() {
    let source = device(Peer::nobody());
    let content = seal(&source, &*sparse(&source, None));
    let device = device(Peer::of(source.share.store()));
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    for (at, len) in WRITTEN {
        file.write_all_at(&noise(len, at), at).unwrap();
    }
    file.write_all_at(b"torn", 25 * MIB + 33).unwrap();
    device.share.fetch_into(InodeId([1; 16]), &content, &file).unwrap();
    let mut bytes = vec![0; SIZE as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == written_out());
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!(allocated < 800 << 10, "{allocated} bytes");
}

#[test]
fn what_is_given_up_can_be_sealed_later() {
    let device = device(Peer::nobody());
    let bytes = written_out();
    let file = sparse(&device, None);
    for asked in 0..3 {
        assert_eq!(device.share.seal(&*file, &times(asked)).unwrap(), None);
        assert!(bytes_of(&*file) == bytes);
    }
    let content = seal(&device, &*file);
    assert_eq!(content, device.share.put(&bytes).unwrap());
    let usage = device.share.store().usage();
    assert!(usage.packs < MIB, "it became the object: {usage:?}");
}

#[test]
fn what_is_written_while_it_is_sealed_is_the_next_state() {
    let device = device(Peer::nobody());
    let (mut bytes, file) = (written_out(), sparse(&device, None));
    let expected = device.share.put(&bytes).unwrap();
    let go_on = || {
        file.write_at(b"written on", 2 * MIB).unwrap();
        true
    };
    assert_eq!(device.share.seal(&*file, &go_on).unwrap(), Some(expected));
    bytes[2 * MIB as usize..][..10].copy_from_slice(b"written on");
    let next = seal(&device, &*file);
    assert_eq!(next, device.share.put(&bytes).unwrap());
}

#[test]
fn what_was_left_is_given_back_in_this_life_and_in_the_next() {
    let mut device = device(Peer::nobody());
    let bytes = written_out();
    let file = sparse(&device, None);
    // Sealed, but no change speaks of it: what is left stays all the same.
    seal(&device, &*file);
    device.share.leave(file, b"one").unwrap();
    let mut recovered = device.share.recover().unwrap();
    let (note, file) = recovered.pop().unwrap();
    assert_eq!((&note[..], recovered.len(), bytes_of(&*file) == bytes), (&b"one"[..], 0, true));
    assert!(device.share.recover().unwrap().is_empty());
    assert_eq!(device.share.seal(&*file, &times(2)).unwrap().map(|content| content.size), Some(SIZE));
    file.write_at(b"more", 0).unwrap();
    assert_eq!(device.share.seal(&*file, &times(1)).unwrap(), None, "given up with something below");
    device.share.leave(file, b"two").unwrap();
    device = device.restart(Peer::nobody());
    let (note, file) = device.share.recover().unwrap().pop().unwrap();
    let mut changed = bytes;
    changed[..4].copy_from_slice(b"more");
    assert_eq!((&note[..], bytes_of(&*file) == changed), (&b"two"[..], true));
    assert_eq!(seal(&device, &*file), device.share.put(&changed).unwrap());
    device.share.discard(file);
    device = device.restart(Peer::nobody());
    assert!(device.share.recover().unwrap().is_empty());
}
