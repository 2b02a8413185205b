//! Tests of large contents that change a little.

#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::sync::atomic::Ordering;

use crdtfs_core::content::{ChunkRef, ContentRef};
use crdtfs_core::id::Hash;
use crdtfs_core::port::{Content, FolderContent, WriteFile};

use crate::share_tests::{Peer, device, id, read};
use crate::store_tests::noise;
use crate::{ChunkList, Urgency};

#[test]
fn what_lacks_of_an_edited_large_content_goes_to_the_packs() {
    let (here, tail) = (device(Peer::nobody()), noise(300_000, 61));
    let bytes = noise(12 << 20, 60);
    let first = here.share.store().put_bytes(&bytes).unwrap();
    let appended = [&bytes[..], &tail].concat();
    let second = here.share.store().put_bytes(&appended).unwrap();
    let peer = Peer::of(here.share.store());
    let there = device(peer.clone());
    let fetch = |content| there.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    fetch(first);
    assert!(peer.bytes.load(Ordering::Relaxed) >= 12 << 20);
    let usage = there.share.store().usage();
    assert!(usage.objects >= 12 << 20, "most of it lacked: it is an object");
    peer.bytes.store(0, Ordering::Relaxed);
    fetch(second);
    assert!(peer.bytes.load(Ordering::Relaxed) < 3 << 20, "only the end is fetched");
    assert_eq!(there.share.store().usage().objects, usage.objects, "and nothing is copied");
    assert_eq!(read(&there.share, &second).unwrap(), appended);
    assert!(there.share.store().is_local(&second));
    // A reader does it the same way.
    let inserted = [b"x", &appended[..]].concat();
    let third = here.share.store().put_bytes(&inserted).unwrap();
    assert_eq!(read(&there.share, &third).unwrap(), inserted);
    assert_eq!(there.share.store().usage().objects, usage.objects);
    assert_eq!(there.problems(&[first, second, third]), vec![]);
}

#[test]
fn of_an_edited_file_little_more_than_the_edit_is_sent() {
    let here = device(Peer::nobody());
    let first = noise(40 << 20, 80);
    let appended = [&first[..], &noise(1 << 20, 81)].concat();
    let mut overwritten = appended.clone();
    overwritten[20 << 20..][..4096].copy_from_slice(&noise(4096, 82));
    let inserted = [b"x", &overwritten[..]].concat();
    let versions = [(first, 41 << 20), (appended, (1 << 20) + 4096), (overwritten, 8192), (inserted, 4096)];
    let contents: Vec<_> =
        versions.iter().map(|(bytes, most)| (here.share.store().put_bytes(bytes).unwrap(), *most)).collect();
    for in_folder in [false, true] {
        let peer = Peer::of(here.share.store());
        let there = device(peer.clone());
        for (n, (content, most)) in contents.iter().enumerate() {
            peer.bytes.store(0, Ordering::Relaxed);
            if in_folder {
                let path = there.folder.path(id(1)).with_extension("new");
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
                there.share.fetch_into(id(1), content, &file).unwrap();
                fs::rename(path, there.folder.path(id(1))).unwrap();
            } else {
                there.share.fetch(&[*content], Urgency::Prefetch).pop().unwrap().unwrap();
            }
            let sent = peer.bytes.load(Ordering::Relaxed);
            assert!(sent < *most, "version {n}: {sent} bytes sent, at most {most} (in a folder: {in_folder})");
            assert!(read(&there.share, content).unwrap() == versions[n].0);
            peer.versions.lock().push(*content);
        }
    }
}

#[test]
fn what_a_file_written_over_in_place_still_holds_of_its_earlier_version_can_be_a_base() {
    let here = device(Peer::nobody());
    let first = noise(10 << 20, 95);
    let appended = [&first[..], &noise(1 << 20, 96)].concat();
    let inserted = [b"x", &appended[..]].concat();
    let mut contents: Vec<ContentRef> = vec![];
    for (n, bytes) in (1..).zip([&first, &appended, &inserted]) {
        // A folder knows each state of a file by another key.
        let earlier = contents.last().copied();
        contents.push(here.write_over(id(n), bytes, earlier.as_ref()));
        here.share.forget_file(id(n - 1)).unwrap();
    }
    let store = here.share.store();
    let ChunkList::Whole(spans) = store.chunk_list(&contents[1]).unwrap() else { panic!("a manifest is missing") };
    for span in &spans {
        let chunk = ChunkRef::within(&contents[1], span.offset, span.hash);
        assert!(store.read_part(&chunk).unwrap().is_some(), "the chunk at {} is lost", span.offset);
    }
    assert_eq!(here.problems(&contents[2..]), vec![]);
    // What is no longer in the file is not taken for it.
    let other = here.write_over(id(3), &noise(10 << 20, 97), Some(&contents[2]));
    let chunk = ChunkRef::within(&contents[1], spans[0].offset, spans[0].hash);
    assert_eq!(store.read_part(&chunk).unwrap(), None);
    assert_eq!(here.problems(&[other]), vec![]);
}

#[test]
fn a_chunk_is_given_as_part_of_its_own_content_only() {
    let here = device(Peer::nobody());
    let store = here.share.store();
    let (one, other) = (noise(30 << 20, 90), noise(3 << 20, 91));
    let (one, other) = (store.put_bytes(&one).unwrap(), store.put_bytes(&other).unwrap());
    let ChunkList::Whole(spans) = store.chunk_list(&one).unwrap() else { panic!("a manifest is missing") };
    for span in &spans {
        let part = ChunkRef::within(&one, span.offset, span.hash);
        assert_eq!(store.read_part(&part).unwrap().unwrap().len(), span.len as usize);
        let elsewhere = ChunkRef::within(&one, span.offset + 1, span.hash);
        assert_eq!(store.read_part(&elsewhere).unwrap(), None, "at another place");
        let of_another = ChunkRef::within(&other, span.offset, span.hash);
        assert_eq!(store.read_part(&of_another).unwrap(), None, "of another content");
    }
    let root = other.manifest.unwrap();
    assert!(store.read_part(&ChunkRef::within(&other, 0, root)).unwrap().is_some(), "a node of its manifest");
    assert_eq!(store.read_part(&ChunkRef::within(&one, 0, root)).unwrap(), None, "a node of another one's");
    let past = ChunkRef::within(&one, one.size, spans[0].hash);
    assert_eq!(store.read_part(&past).unwrap(), None, "past the end");
}

#[test]
fn a_chunk_that_only_the_index_has_is_fetched() {
    let here = device(Peer::nobody());
    let there = device(Peer::of(here.share.store()));
    let bytes = noise(12 << 20, 62);
    let whole = here.share.store().put_bytes(&bytes).unwrap();
    // Most of it lies in a folder's file, which changes without a word.
    there.write_and_index(id(1), &bytes[..9 << 20]);
    fs::write(there.folder.path(id(1)), noise(9 << 20, 63)).unwrap();
    there.share.fetch(&[whole], Urgency::Prefetch).pop().unwrap().unwrap();
    assert_eq!(read(&there.share, &whole).unwrap(), bytes);
}

#[test]
fn a_seal_of_an_edited_content_is_that_of_its_bytes() {
    let (device, other) = (device(Peer::nobody()), device(Peer::nobody()));
    let mut model = noise(7 << 20, 70);
    let sealed = |file: &dyn WriteFile, model: &[u8]| {
        let content = device.share.seal(file, &|| true).unwrap().unwrap();
        assert_eq!(content, other.share.store().put_bytes(model).unwrap());
        assert_eq!(read(&device.share, &content).unwrap(), model);
        content
    };
    let file = device.share.write_file(None).unwrap();
    file.write_at(&model, 0).unwrap();
    let first = sealed(&*file, &model);
    let file = device.share.write_file(Some(&first)).unwrap();
    let random = |n: u64| u64::from_le_bytes(Hash::of(&n.to_le_bytes()).0[..8].try_into().unwrap());
    for step in 0..24 {
        let (what, place) = (random(step), random(step + 1000) % (9 << 20));
        match what % 4 {
            0 => {
                file.set_len(place.max(3 << 20)).unwrap();
                model.resize(place.max(3 << 20) as usize, 0);
            }
            _ => {
                let piece = noise((what % 100_000) as usize + 1, step);
                let at = if what % 4 == 1 { model.len() } else { (place as usize).min(model.len()) };
                file.write_at(&piece, at as u64).unwrap();
                model.resize(model.len().max(at + piece.len()), 0);
                model[at..at + piece.len()].copy_from_slice(&piece);
            }
        }
        if step % 3 != 0 {
            sealed(&*file, &model);
        }
    }
    // Written anew, with a byte in front.
    model.insert(0, b'x');
    file.set_len(0).unwrap();
    file.write_at(&model, 0).unwrap();
    let last = sealed(&*file, &model);
    assert_eq!(device.problems(&[first, last]), vec![]);
}

#[test]
fn a_folders_file_that_is_edited_is_indexed_as_its_bytes() {
    let (here, other) = (device(Peer::nobody()), device(Peer::nobody()));
    let peer = Peer::of(here.share.store());
    let there = device(peer);
    let mut bytes = noise(8 << 20, 80);
    for step in 0..6_u64 {
        let content = here.write_and_index(id(1), &bytes);
        assert_eq!(content, other.share.store().put_bytes(&bytes).unwrap());
        let part = there.folder.0.join("part");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part).unwrap();
        there.share.fetch_into(id(1), &content, &file).unwrap();
        fs::rename(&part, there.folder.path(id(1))).unwrap();
        assert_eq!(fs::read(there.folder.path(id(1))).unwrap(), bytes);
        match step % 3 {
            0 => bytes.extend(noise(200_000, step)),
            1 => bytes.insert(0, b'X'),
            _ => _ = bytes.drain(4 << 20..5 << 20),
        }
    }
}
