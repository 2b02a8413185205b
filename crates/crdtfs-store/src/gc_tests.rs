//! Tests of collections: what they spare, and the room they give back.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use crdtfs_core::content::ContentRef;
use crdtfs_core::port::Content;

use crate::share_tests::{Peer, device};
use crate::store_tests::noise;
use crate::{ChunkList, Store, StoreOptions};

/// What the packs take on disk.
fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let packs = std::fs::read_dir(dir.join("packs")).unwrap().flatten();
    packs.map(|pack| pack.metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn reclaiming_gives_room_back_without_needing_any() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let contents: Vec<ContentRef> = (0..60).map(|n| store.put_bytes(&noise(100_000, n)).unwrap()).collect();
    let (live, dead): (Vec<_>, Vec<_>) = contents.iter().partition(|content| content.hash.0[0] % 4 == 0);
    store.sync().unwrap();
    let before = on_disk(dir.path());
    store.reclaim(&mut || live.clone()).unwrap();
    assert!(contents.iter().all(|content| store.is_local(content)), "all is young");
    let report = store.reclaim(&mut || live.clone()).unwrap();
    let freed = before - on_disk(dir.path());
    assert!(freed > dead.len() as u64 * 90_000, "{freed} of {before} for {}", dead.len());
    assert!(report.freed >= freed, "{report:?}");
    for pass in 0..2 {
        let store = if pass == 0 { store.clone() } else { Store::open(dir.path(), StoreOptions::default()).unwrap() };
        let found = store.check(false, &mut || live.clone()).unwrap();
        assert_eq!((found.problems, found.incomplete), (vec![], vec![]));
        assert!(dead.iter().all(|content| !store.is_local(content)));
    }
    // The holes are passed over when the index is made again, and when the rest is moved elsewhere.
    drop(store);
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = Store::open(dir.path(), StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() }).unwrap();
    store.put_bytes(&noise(100_000, 1000)).unwrap();
    while store.compact().unwrap() {}
    let found = store.check(false, &mut || live.clone()).unwrap();
    assert_eq!((found.problems, found.incomplete), (vec![], vec![]));
}

/// Who has little gets room back, too: the segment that is being written is compacted where that pays.
#[test]
fn the_segment_that_is_written_is_compacted_where_that_pays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let put: Vec<ContentRef> = (0..60).map(|n| store.put_bytes(&noise(50_000, n)).unwrap()).collect();
    let live: Vec<ContentRef> = put.iter().copied().step_by(3).collect();
    store.gc(&mut || put.clone()).unwrap();
    assert!(!store.compact().unwrap(), "nothing is garbage");
    store.gc(&mut || live.clone()).unwrap();
    assert!(store.compact().unwrap());
    assert!(!store.compact().unwrap(), "once is enough");
    assert!(store.usage().packs < 1_200_000, "{:?}", store.usage());
    for pass in 0..2 {
        let store = if pass == 0 { store.clone() } else { Store::open(dir.path(), StoreOptions::default()).unwrap() };
        let found = store.check(false, &mut || live.clone()).unwrap();
        assert_eq!((found.problems, found.incomplete), (vec![], vec![]));
    }
}

#[test]
fn what_is_put_during_a_lease_stays_until_it_ends() {
    let device = device(Peer::nobody());
    let store = device.share.store();
    let again = store.put_bytes(&noise(50_000, 1)).unwrap();
    let lease = store.lease();
    let small = store.put_bytes(&noise(50_000, 2)).unwrap();
    store.put_bytes(&noise(50_000, 1)).unwrap();
    let file = device.share.write_file(None).unwrap();
    file.write_at(&noise(2 << 20, 3), 0).unwrap();
    let large = device.share.seal(&*file, &|| true).unwrap().unwrap();
    device.share.discard(file);
    for _ in 0..4 {
        store.reclaim(&mut Vec::new).unwrap();
    }
    assert!([again, small, large].iter().all(|content| store.is_local(content)));
    // One that began later holds nothing of it.
    let later = store.lease();
    drop(lease);
    for _ in 0..3 {
        store.reclaim(&mut Vec::new).unwrap();
    }
    assert!(![small, large].iter().any(|content| store.is_local(content)));
    drop(later);
    for _ in 0..2 {
        store.reclaim(&mut Vec::new).unwrap();
    }
    assert!(!store.is_local(&again));
}

#[test]
fn an_object_that_stays_keeps_its_manifest() {
    let device = device(Peer::nobody());
    let store = device.share.store();
    let file = device.share.write_file(None).unwrap();
    file.write_at(&noise(2 << 20, 3), 0).unwrap();
    let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
    device.share.discard(file);
    store.reclaim(&mut Vec::new).unwrap();
    // Somebody counts on one of its chunks.
    let ChunkList::Whole(spans) = store.chunk_list(&content).unwrap() else { panic!("it is all here") };
    let chunk = store.read_chunk(&spans[0].hash).unwrap().unwrap();
    store.put_chunk(&chunk).unwrap();
    store.reclaim(&mut Vec::new).unwrap();
    assert!(store.is_local(&content), "the object is still there");
    let found = store.check(false, &mut Vec::new).unwrap();
    assert_eq!((found.problems, found.incomplete), (vec![], vec![]));
}

#[test]
fn what_is_put_again_counts_as_new() {
    let device = device(Peer::nobody());
    let store = device.share.store();
    let write = |seed| {
        let file = device.share.write_file(None).unwrap();
        file.write_at(&noise(2 << 20, seed), 0).unwrap();
        let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
        device.share.discard(file);
        content
    };
    let (small, large) = (store.put_bytes(&noise(100_000, 1)).unwrap(), write(2));
    store.gc(&mut Vec::new).unwrap();
    assert_eq!(store.put_bytes(&noise(100_000, 1)).unwrap(), small);
    assert_eq!(write(2), large);
    store.gc(&mut Vec::new).unwrap();
    assert!(store.is_local(&small) && store.is_local(&large), "their change may be made now");
    store.gc(&mut Vec::new).unwrap();
    store.gc(&mut Vec::new).unwrap();
    assert!(!store.is_local(&small) && !store.is_local(&large), "it was not made");
}

#[test]
fn what_was_sealed_stays_as_long_as_its_write_file() {
    let device = device(Peer::nobody());
    let store = device.share.store();
    for len in [1000, 100_000, 2 << 20] {
        let file = device.share.write_file(None).unwrap();
        file.write_at(&noise(len, len as u64), 0).unwrap();
        let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
        for _ in 0..3 {
            store.reclaim(&mut Vec::new).unwrap();
        }
        // The change that was refused for want of room is tried again.
        assert_eq!(device.share.seal(&*file, &|| true).unwrap().unwrap(), content);
        assert!(store.is_local(&content), "{len}");
        device.share.discard(file);
        for _ in 0..2 {
            store.reclaim(&mut Vec::new).unwrap();
        }
        assert!(!store.is_local(&content), "{len}");
    }
}

/// What is said of a container that is no more is never taken for said of another.
#[test]
fn no_id_is_given_twice() {
    let device = device(Peer::nobody());
    let store = device.share.store().clone();
    store.put_bytes(b"so that there is a pack with a lower id").unwrap();
    let file = device.share.write_file(None).unwrap();
    file.write_at(&noise(2 << 20, 1), 0).unwrap();
    device.share.seal(&*file, &|| true).unwrap().unwrap();
    device.share.discard(file);
    for _ in 0..2 {
        store.reclaim(&mut Vec::new).unwrap();
    }
    drop(store);
    let options = || StoreOptions { segment_bytes: 300_000, ..StoreOptions::default() };
    let (dir, index) = (device.store_dir(), device.store_dir().join("index.redb"));
    let kept = device.end();
    let store = Store::open(&dir, options()).unwrap();
    let put: Vec<ContentRef> = (0..40).map(|n| store.put_bytes(&noise(50_000, n)).unwrap()).collect();
    store.sync().unwrap();
    drop(store);
    std::fs::remove_file(index).unwrap();
    let store = Store::open(&dir, options()).unwrap();
    assert_eq!(put.iter().filter(|content| !store.is_local(content)).count(), 0);
    let found = store.check(false, &mut || put.clone()).unwrap();
    assert_eq!((found.problems, found.incomplete), (vec![], vec![]));
    drop(kept);
}
