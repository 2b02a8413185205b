//! Tests of the store on a disk that fails.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;

use crate::fault::FaultStorage;
use crate::store::{ChunkList, Store, StoreOptions};
use crate::{StoreError, chunker};

/// Bytes without a pattern, the same on every run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn options() -> StoreOptions {
    StoreOptions { segment_bytes: 300_000, ..StoreOptions::default() }
}

fn open(storage: &FaultStorage, dir: &Path) -> Result<Store, StoreError> {
    Store::open_on(Arc::new(storage.clone()), dir, options())
}

fn content_bytes(store: &Store, content: &ContentRef) -> Option<Vec<u8>> {
    let ChunkList::Whole(spans) = store.chunk_list(content).unwrap() else { return None };
    let mut bytes = Vec::new();
    for span in spans {
        bytes.extend(store.read_chunk(&span.hash).unwrap()?);
    }
    Some(bytes)
}

fn no_contents() -> Vec<ContentRef> {
    Vec::new()
}

#[test]
fn what_was_put_is_there_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let contents: Vec<(ContentRef, Vec<u8>)> = {
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let sizes = [0, 1, 4096, 65_536, 65_537, 700_000, 3_000_000];
        let put = sizes.map(|len| {
            let bytes = noise(len, len as u64);
            (store.put_bytes(&bytes).unwrap(), bytes)
        });
        for (content, bytes) in &put {
            assert_eq!(content.hash, Hash::of(bytes));
            assert_eq!(content.manifest.is_some(), bytes.len() > 65_536);
            assert_eq!(content_bytes(&store, content).unwrap(), *bytes);
            assert!(store.is_local(content));
        }
        store.sync().unwrap();
        put.into()
    };
    for pass in ["with the index", "without it"] {
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        for (content, bytes) in &contents {
            assert_eq!(content_bytes(&store, content).unwrap(), *bytes, "{pass}");
            let unnamed = ContentRef { manifest: None, ..*content };
            assert!(store.is_local(&unnamed), "{pass}: the manifest is found by the content's hash");
        }
        let report = store.check(false, &mut || contents.iter().map(|(content, _)| *content).collect()).unwrap();
        assert_eq!((report.problems, report.incomplete), (vec![], vec![]), "{pass}");
        drop(store);
        std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    }
}

#[test]
fn a_chunk_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let bytes = noise(3_000_000, 1);
    for _ in 0..5 {
        store.put_bytes(&bytes).unwrap();
    }
    store.sync().unwrap();
    assert!(store.usage().packs < 3_200_000, "{:?}", store.usage());
}

/// How far a run came.
#[derive(Default)]
struct Ran {
    /// What has to be there, whatever happens.
    kept: Vec<ContentRef>,
    /// Segments that were compacted away.
    rewritten: u32,
    /// Bytes that were given back by holes.
    punched: u64,
}

/// The `n`-th content of a run.
fn nth(n: u64) -> Vec<u8> {
    noise(if n % 5 == 4 { 150_000 } else { 3000 }, n)
}

/// All that a store does: puts, syncs, commits its index, collects, compacts, makes room on a full disk.
fn work(storage: &FaultStorage, dir: &Path, ran: &mut Ran) -> Result<(), StoreError> {
    let store = open(storage, dir)?;
    let mut put = Vec::new();
    for n in 0..24 {
        put.push(store.put_bytes(&nth(n))?);
        if n % 4 == 3 {
            store.sync()?;
            ran.kept = put.clone();
        }
        if n == 13 {
            store.inner.checkpoint()?;
        }
    }
    // The first collection spares all that was put before it.
    store.gc(&mut || put.clone())?;
    let live: Vec<ContentRef> = put.iter().copied().step_by(3).collect();
    ran.kept = live.clone();
    store.gc(&mut || live.clone())?;
    while store.compact()? {
        ran.rewritten += 1;
    }
    let more = (24..27).map(|n| store.put_bytes(&nth(n))).collect::<Result<Vec<_>, _>>()?;
    store.sync()?;
    let live: Vec<ContentRef> =
        live.iter().filter(|content| content.manifest.is_none()).chain(&more).copied().collect();
    ran.kept = live.clone();
    for _ in 0..2 {
        ran.punched += store.reclaim(&mut || live.clone())?.freed;
    }
    Ok(())
}

/// Every write of a run is a crash point, each with several ways in which unsynced writes reach the disk.
#[test]
fn after_a_crash_at_any_write_what_was_synced_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let mut ran = Ran::default();
    work(&storage, dir.path(), &mut ran).unwrap();
    assert!(ran.rewritten >= 1, "compacting is a crash point");
    assert!(ran.punched > 100_000, "making holes is a crash point: {}", ran.punched);
    let operations = storage.operations();
    assert!(operations > 80, "{operations}");
    for at in 1..=operations {
        let storage = FaultStorage::new();
        storage.crash_at(Some(at));
        let mut ran = Ran::default();
        // The last operations are of the store's end.
        let _ = work(&storage, dir.path(), &mut ran);
        for seed in 0..3 {
            let after = storage.after_crash(at * 131 + seed);
            let case = format!("crash at {at} of {operations}, {seed}");
            if seed == 2 {
                let _ = crate::storage::Storage::remove(&after, "index.redb");
            }
            goes_on(&after, dir.path(), &ran.kept, &case);
        }
    }
}

/// What has to be there is, nothing is damaged, and what is put is there after the next crash, also what was there before.
fn goes_on(storage: &FaultStorage, dir: &Path, kept: &[ContentRef], case: &str) {
    let store = open(storage, dir).unwrap_or_else(|error| panic!("{case}: {error}"));
    for content in kept {
        let bytes = content_bytes(&store, content).unwrap_or_else(|| panic!("{case}: lost"));
        assert_eq!(Hash::of(&bytes), content.hash, "{case}");
    }
    let report = store.check(false, &mut || kept.to_vec()).unwrap();
    assert_eq!((report.problems, report.incomplete), (vec![], vec![]), "{case}");
    let again: Vec<ContentRef> = (0..28).map(|n| store.put_bytes(&nth(n)).unwrap()).collect();
    store.sync().unwrap();
    let store = open(&storage.after_crash(1), dir).unwrap();
    for content in &again {
        assert!(content_bytes(&store, content).is_some(), "{case}: put again, and lost");
    }
}

/// Where begins of segments fail, a sync still is one.
#[test]
fn what_was_put_before_there_was_no_room_for_a_segment_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    store.inner.checkpoint().unwrap();
    let mut put = Vec::new();
    while store.inner.packs.position().1 < 300_000 - 60_000 {
        put.push(store.put_bytes(&noise(50_000, put.len() as u64)).unwrap());
    }
    store.flush().unwrap();
    storage.set_capacity(Some(0));
    assert_eq!(store.put_bytes(&noise(64_000, 99)).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    store.sync().unwrap();
    let after = open(&storage.after_crash(3), dir.path()).unwrap();
    assert!(put.iter().all(|content| content_bytes(&after, content).is_some()));
}

/// What a killed process left with the system and no disk has yet is durable once somebody syncs.
#[test]
fn what_is_found_at_a_start_is_synced_by_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let killed = open(&storage, dir.path()).unwrap();
    let put: Vec<_> = (0..12).map(|n| killed.put_bytes(&noise(60_000, n)).unwrap()).collect();
    killed.flush().unwrap();
    // It is not dropped, which would commit.
    std::mem::forget(killed);
    let store = open(&storage, dir.path()).unwrap();
    store.sync().unwrap();
    for seed in 0..8 {
        let after = open(&storage.after_crash(seed), dir.path()).unwrap();
        assert!(put.iter().all(|content| content_bytes(&after, content).is_some()), "{seed}");
    }
}

/// On a disk so full that not even the index can be written, room is made all the same, and nothing is taken for stored
/// afterwards that was given up, though the process ends before the index could be written.
#[test]
fn room_is_made_where_the_index_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    let put: Vec<_> = (0..40).map(|n| store.put_bytes(&noise(60_000, n)).unwrap()).collect();
    store.sync().unwrap();
    store.inner.checkpoint().unwrap();
    store.gc(&mut || put.clone()).unwrap();
    storage.freeze("index.redb");
    let report = store.reclaim(&mut Vec::new);
    assert_eq!(report.unwrap_err().kind(), std::io::ErrorKind::StorageFull, "the index still does not fit");
    let holes: u64 = storage.holes();
    assert!(holes > 1_000_000, "{holes}");
    std::mem::forget(store);
    for seed in 0..4 {
        let after = storage.after_crash(seed);
        goes_on(&after, dir.path(), &[], &format!("{seed}"));
        let store = open(&after, dir.path()).unwrap();
        let again: Vec<_> = (0..40).map(|n| store.put_bytes(&noise(60_000, n)).unwrap()).collect();
        assert!(again.iter().all(|content| content_bytes(&store, content).is_some()), "{seed}");
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    let first = store.put_bytes(&noise(200_000, 1)).unwrap();
    store.inner.checkpoint().unwrap();
    storage.set_capacity(Some(2_500_000));
    let mut put = Vec::new();
    let mut failed = false;
    for n in 0..100 {
        match store.put_bytes(&noise(60_000, 100 + n)) {
            Ok(content) => put.push(content),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                failed = true;
            }
        }
    }
    assert!(failed, "the disk was full");
    assert_eq!(store.sync().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(put.iter().all(|content| content_bytes(&store, content).is_some()), "what was taken is readable");
    let (segment, _) = store.inner.packs.position();
    let scanned = store.inner.packs.scan(segment, 0, &mut |_, _, _| ()).unwrap();
    assert_eq!(scanned.gaps, [], "the part that reached the disk of what did not fit is no damage");
    let after = open(&storage.after_crash(7), dir.path()).unwrap();
    assert!(content_bytes(&after, &first).is_some());
    drop(after);
    storage.set_capacity(None);
    store.sync().unwrap();
    store.inner.checkpoint().unwrap();
    let after = open(&storage.after_crash(8), dir.path()).unwrap();
    assert!(put.iter().all(|content| content_bytes(&after, content).is_some()));
    assert_eq!(after.check(false, &mut || put.clone()).unwrap().problems, vec![]);
}

#[test]
fn rot_is_found_named_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    let good = store.put_bytes(&noise(50_000, 1)).unwrap();
    let bad = store.put_bytes(&noise(50_000, 2)).unwrap();
    let header = store.put_bytes(&noise(40_000, 3)).unwrap();
    let last = store.put_bytes(&noise(40_000, 4)).unwrap();
    store.sync().unwrap();
    storage.rot("packs/00000001.pack", 32 + 50_056 + 1000);
    storage.rot("packs/00000001.pack", 32 + 2 * 50_056 + 5);
    assert_eq!(store.read_chunk(&good.hash).unwrap().unwrap().len(), 50_000);
    let live = [good, bad, header, last];
    let report = store.check(false, &mut || live.to_vec()).unwrap();
    assert!(report.problems.len() >= 2, "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.place == "packs/00000001.pack"), "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.mended.is_none()), "{report:?}");
    let mut told = 0;
    let report = store.check_telling(true, &mut || live.to_vec(), &mut |bytes| told = bytes).unwrap();
    assert_eq!(told, report.bytes);
    assert!(report.problems.iter().all(|problem| problem.mended.is_some()), "{report:?}");
    assert_eq!(report.incomplete.iter().map(|(content, _)| *content).collect::<Vec<_>>(), [bad, header]);
    assert!(store.read_chunk(&bad.hash).unwrap().is_none());
    store.put_bytes(&noise(50_000, 2)).unwrap();
    store.put_bytes(&noise(40_000, 3)).unwrap();
    let report = store.check(false, &mut || live.to_vec()).unwrap();
    assert_eq!((report.incomplete, report.problems), (vec![], vec![]), "fetched again, all is there");
    assert_eq!(content_bytes(&store, &last).unwrap(), noise(40_000, 4), "what lies behind the damage is still found");
}

#[test]
fn a_bad_chunk_is_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    let hash = store.put_chunk(&noise(9000, 1)).unwrap();
    store.sync().unwrap();
    storage.rot("packs/00000001.pack", 32 + 56 + 77);
    assert!(store.has_chunk(&hash));
    assert_eq!(store.read_chunk(&hash).unwrap(), None);
    assert!(!store.has_chunk(&hash), "and it is wanted again");
}

#[test]
fn collection_keeps_what_is_live_or_young_and_compaction_gives_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() }).unwrap();
    let contents: Vec<_> = (0..60).map(|n| store.put_bytes(&noise(100_000, n)).unwrap()).collect();
    store.sync().unwrap();
    let live: Vec<_> = contents.iter().copied().filter(|content| content.hash.0[0] % 3 == 0).collect();
    assert_eq!(store.gc(&mut || live.clone()).unwrap().chunks, 0, "all is young");
    let young = store.put_bytes(&noise(100_000, 1000)).unwrap();
    let report = store.gc(&mut || live.clone()).unwrap();
    assert!(report.chunks as usize >= contents.len() - live.len(), "{report:?}");
    let before = store.usage().packs;
    while store.compact().unwrap() {}
    let after = store.usage().packs;
    assert!(after < before * 2 / 3, "{before} to {after}");
    for pass in 0..2 {
        let store = if pass == 0 { store.clone() } else { Store::open(dir.path(), StoreOptions::default()).unwrap() };
        for content in live.iter().chain([&young]) {
            assert!(content_bytes(&store, content).is_some());
        }
        assert_eq!(store.check(false, &mut || live.clone()).unwrap().problems, vec![]);
        let gone = contents.iter().find(|content| !live.contains(content)).unwrap();
        assert!(!store.is_local(gone));
    }
}

#[test]
fn a_pack_inside_a_chunk_is_no_pack() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FaultStorage::new();
    let store = open(&storage, dir.path()).unwrap();
    store.put_bytes(b"the inner one").unwrap();
    store.sync().unwrap();
    let file = crate::storage::Storage::open(&storage, "packs/00000001.pack", false).unwrap();
    let mut pack = vec![0; file.len().unwrap() as usize];
    crate::storage::read_full(file.as_ref(), &mut pack, 0).unwrap();
    let outer = store.put_bytes(&pack).unwrap();
    store.sync().unwrap();
    // The outer entry's header goes bad: the search for the next entry comes upon the inner pack.
    storage.rot("packs/00000001.pack", pack.len() as u64 + 3);
    let report = store.check(true, &mut no_contents).unwrap();
    assert_eq!(report.problems.len(), 2, "one damaged place, one chunk that is not there: {report:?}");
    assert!(!store.is_local(&outer));
}

#[test]
fn manifests_that_lie_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let real = store.put_bytes(&noise(200_000, 1)).unwrap();
    let longer = ContentRef { size: 300_000, hash: Hash([9; 32]), ..real };
    assert!(matches!(store.chunk_list(&longer), Err(StoreError::Malformed { .. })));
    let chunk = store.put_chunk(&noise(70_000, 2)).unwrap();
    let no_node = ContentRef { hash: Hash([8; 32]), size: 200_000, manifest: Some(chunk) };
    assert!(matches!(store.chunk_list(&no_node), Err(StoreError::Malformed { .. })));
    let endless = ContentRef { hash: Hash([7; 32]), size: u64::MAX, manifest: real.manifest };
    assert!(store.chunk_list(&endless).is_err() && !store.is_local(&endless));
    let unknown = ContentRef { hash: Hash([6; 32]), size: 200_000, manifest: Some(Hash([5; 32])) };
    assert_eq!(store.chunk_list(&unknown).unwrap(), ChunkList::Needs(vec![Hash([5; 32])]));
    assert_eq!(store.missing(&unknown).unwrap().bytes, 200_000);
    assert!(store.put_chunk(&vec![0; chunker::MAX_CHUNK + 1]).is_err());
}

#[test]
fn many_threads_put_read_and_sync_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { segment_bytes: 400_000, ..StoreOptions::default() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..100 {
                    let bytes = noise(5000, (thread % 2) * 1000 + n);
                    let hash = store.put_chunk(&bytes).unwrap();
                    assert_eq!(store.read_chunk(&hash).unwrap().unwrap(), bytes);
                    if n % 25 == 0 {
                        store.sync().unwrap();
                        store.inner.checkpoint().unwrap();
                    }
                }
            });
        }
    });
    drop(store);
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    for n in 0..100 {
        assert!(store.has_chunk(&Hash::of(&noise(5000, n))) && store.has_chunk(&Hash::of(&noise(5000, 1000 + n))));
    }
}

#[test]
fn what_was_flushed_survives_the_end_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("live"), StoreOptions::default()).unwrap();
    let content = store.put_bytes(b"a few bytes").unwrap();
    store.flush().unwrap();
    // What the files hold now is what a killed process would leave: nothing was synced, nothing was closed.
    let left = dir.path().join("left");
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.path().join("live")).arg(&left).status().unwrap();
    assert!(copied.success());
    let store = Store::open(&left, StoreOptions::default()).unwrap();
    assert!(store.is_local(&content));
    assert_eq!(store.read_chunk(&content.hash).unwrap().as_deref(), Some(&b"a few bytes"[..]));
}
