//! Tests of the log.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crdtfs_core::id::ActorId;

use super::*;
use crate::fault::FaultStorage;

fn actor(n: u8) -> ActorId {
    ActorId([n; 32])
}

fn open(storage: &FaultStorage) -> Result<(Log, Recovered), StoreError> {
    Log::open_on(Arc::new(storage.clone()), Path::new("log"))
}

fn check(log: &Log, repair: bool) -> Vec<crate::Problem> {
    log.check(repair, &mut |_| ()).unwrap()
}

fn all(log: &Log) -> Vec<(ActorId, u64, Vec<u8>)> {
    let mut out = Vec::new();
    log.for_each(0, &mut |entry| {
        out.push((entry.actor, entry.seq, entry.bytes));
        true
    })
    .unwrap();
    out
}

#[test]
fn what_was_appended_is_read_in_order_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = Log::open(dir.path()).unwrap();
    assert_eq!(recovered, Recovered::default());
    let entries: Vec<_> =
        (0..500u64).map(|n| (actor((n % 3) as u8), n / 3 + 1, vec![n as u8; n as usize * 7])).collect();
    for (actor, seq, bytes) in &entries {
        log.append(actor, *seq, bytes).unwrap();
    }
    assert_eq!(all(&log), entries, "before anything is written");
    log.sync().unwrap();
    drop(log);
    let (log, recovered) = Log::open(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { entries: 500, torn: 0, damaged: vec![] });
    assert_eq!(all(&log), entries);
    assert_eq!(log.get(&actor(1), 3).unwrap(), Some(entries[7].2.clone()));
    assert_eq!(log.get(&actor(1), 900).unwrap(), None);
    assert_eq!(log.vector()[&actor(0)], 167);
    assert_eq!(check(&log, false), vec![]);
}

/// What a killed process left with the system and no disk has yet is durable once it was read back.
#[test]
fn what_is_found_at_a_start_is_durable() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    for seq in 0..20 {
        log.append(&actor(1), seq, &[seq as u8; 1000]).unwrap();
    }
    log.flush().unwrap();
    drop(log);
    let (log, _) = open(&storage).unwrap();
    log.sync().unwrap();
    for seed in 0..8 {
        let (_, recovered) = open(&storage.after_crash(seed)).unwrap();
        assert_eq!(recovered, Recovered { entries: 20, torn: 0, damaged: vec![] }, "{seed}");
    }
}

#[test]
fn read_after_gives_what_lacks_in_append_order_and_in_pieces() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    for n in 0..90u64 {
        log.append(&actor((n % 3) as u8), n / 3, &[n as u8; 10]).unwrap();
    }
    let mut known = BTreeMap::from([(actor(0), 29), (actor(1), 14)]);
    let mut got = Vec::new();
    loop {
        let piece = log.read_after(&known, 35).unwrap();
        if piece.is_empty() {
            break;
        }
        assert!(piece.len() <= 3, "35 bytes hold three envelopes of 10");
        for entry in piece {
            known.insert(entry.actor, entry.seq);
            got.push(entry.bytes[0]);
        }
    }
    let want: Vec<u8> = (0..90).filter(|n| n % 3 == 2 || (n % 3 == 1 && n / 3 > 14)).collect();
    assert_eq!(got, want);
    assert_eq!(log.read_after(&BTreeMap::new(), 1).unwrap().len(), 1, "one envelope is given whatever its size");
}

/// Every write of a run is a crash point, each with several ways in which unsynced writes reach the disk.
#[test]
fn after_a_crash_at_any_write_what_was_synced_is_there() {
    let run = |storage: &FaultStorage| -> u64 {
        let mut synced = 0;
        let Ok((log, _)) = open(storage) else { return 0 };
        for n in 0..40u64 {
            let big = if n % 9 == 8 { 300_000 } else { 100 };
            if log.append(&actor(1), n, &vec![n as u8; big]).is_err() {
                return synced;
            }
            if n % 4 == 3 {
                if log.sync().is_err() {
                    return synced;
                }
                synced = n + 1;
            }
            if n == 20 && log.write_snapshot("document", &[7; 5000]).is_err() {
                return synced;
            }
        }
        synced
    };
    let storage = FaultStorage::new();
    run(&storage);
    let operations = storage.operations();
    assert!(operations > 20);
    for at in 1..=operations {
        for seed in 0..4 {
            let storage = FaultStorage::new();
            storage.crash_at(Some(at));
            let synced = run(&storage);
            let after = storage.after_crash(at * 31 + seed);
            let (log, recovered) = open(&after).unwrap();
            let got = all(&log);
            assert!(got.len() as u64 >= synced, "crash at {at}, seed {seed}: {} of {synced}", got.len());
            assert!(recovered.damaged.is_empty(), "a torn append is no damage (crash at {at}, seed {seed})");
            for (n, (_, seq, bytes)) in got.iter().enumerate() {
                assert_eq!((*seq, bytes[0]), (n as u64, n as u8), "no gap and no torn envelope");
            }
            assert!(check(&log, false).is_empty());
            log.append(&actor(2), 0, b"goes on").unwrap();
            log.sync().unwrap();
            let (log, _) = open(&after.after_crash(1)).unwrap();
            assert_eq!(log.get(&actor(2), 0).unwrap().unwrap(), b"goes on");
        }
    }
}

#[test]
fn bytes_that_went_bad_are_reported_and_what_follows_stays() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    for n in 0..10 {
        log.append(&actor(1), n, &[n as u8; 100]).unwrap();
        log.sync().unwrap();
    }
    for place in [FILE_HEADER + 180 * 3 + 10, FILE_HEADER + 180 * 6 + 120] {
        storage.rot(FILE, place);
    }
    let (log, recovered) = open(&storage).unwrap();
    assert_eq!(recovered.damaged, [(FILE_HEADER + 180 * 3, 180), (FILE_HEADER + 180 * 6, 180)]);
    assert_eq!((recovered.entries, recovered.torn), (8, 0));
    assert_eq!(log.get(&actor(1), 3).unwrap(), None);
    assert_eq!(log.get(&actor(1), 9).unwrap(), Some(vec![9; 100]));
    assert_eq!(check(&log, false).len(), 2);
    assert_eq!(log.lacks(&actor(1), 12), [(3, 3), (6, 6), (10, 12)]);
    assert!(check(&log, true).iter().all(|problem| problem.mended.is_some()));
    // What comes again is appended; nothing is wrong any more, now and later.
    for n in [3, 6] {
        log.append(&actor(1), n, &[n as u8; 100]).unwrap();
    }
    log.sync().unwrap();
    for log in [log, open(&storage).unwrap().0] {
        assert_eq!(check(&log, false), vec![]);
        assert_eq!((log.lacks(&actor(1), 9), all(&log).len()), (vec![], 10));
    }
    assert_eq!(open(&storage).unwrap().1, Recovered { entries: 10, torn: 0, damaged: vec![] });
}

#[test]
fn a_full_disk_refuses_and_then_goes_on() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    log.append(&actor(1), 0, &[1; 1000]).unwrap();
    log.sync().unwrap();
    storage.set_capacity(Some(1500));
    log.append(&actor(1), 1, &[2; 1000]).unwrap();
    assert_eq!(log.sync().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(all(&log).len(), 2, "it stays readable and is tried again");
    let (after, _) = open(&storage.after_crash(3)).unwrap();
    assert_eq!(after.get(&actor(1), 0).unwrap(), Some(vec![1; 1000]));
    storage.set_capacity(None);
    log.sync().unwrap();
    let (log, _) = open(&storage.after_crash(5)).unwrap();
    assert_eq!(all(&log).len(), 2);
}

#[test]
fn a_damaged_snapshot_is_passed_over() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    assert_eq!(log.read_snapshot("view").unwrap(), None);
    log.write_snapshot("view", b"the tree").unwrap();
    log.write_snapshot("view", b"the newer tree").unwrap();
    assert_eq!(log.read_snapshot("view").unwrap().unwrap(), b"the newer tree");
    storage.rot("view.snap", 55);
    assert_eq!(log.read_snapshot("view").unwrap(), None);
    assert_eq!(check(&log, true).len(), 1);
    assert_eq!(check(&log, false), vec![]);
}

#[test]
fn a_snapshot_counts_once_it_is_placed_and_until_it_is_removed() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    let read = |log: &Log| log.read_snapshot("document").unwrap();
    log.write_snapshot("document", b"old").unwrap();
    let staged = log.stage_snapshot("document", b"new").unwrap();
    assert_eq!(read(&log).unwrap(), b"old");
    log.remove_snapshots(&["view", "document"]).unwrap();
    assert_eq!(read(&log), None);
    for seed in 0..8 {
        assert_eq!(read(&open(&storage.after_crash(seed)).unwrap().0), None, "removed for good");
    }
    staged.place().unwrap();
    assert_eq!(read(&log).unwrap(), b"new");
    drop(log.stage_snapshot("document", b"newer").unwrap());
    assert_eq!(read(&log).unwrap(), b"new");
    assert_eq!(storage.list("").unwrap(), ["document.snap", FILE], "nothing else stays");
}

/// Bytes that go bad while the log is open are given up there, too.
#[test]
fn what_is_given_up_is_not_there() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    for n in 1..=5 {
        log.append(&actor(1), n, &[n as u8; 100]).unwrap();
    }
    log.sync().unwrap();
    storage.rot(FILE, FILE_HEADER + 180 * 2 + 100);
    assert_eq!((check(&log, true).len(), check(&log, false)), (1, vec![]));
    assert_eq!((log.lacks(&actor(1), 5), log.get(&actor(1), 3).unwrap()), (vec![(3, 3)], None));
    let seqs = |log: &Log| all(log).iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!(seqs(&log), [1, 2, 4, 5]);
    assert_eq!(seqs(&open(&storage).unwrap().0), [1, 2, 4, 5]);
}

/// What was left in order and goes bad later is damage, wherever it is, and no append that a crash cut off.
#[test]
fn what_is_left_in_order_is_never_cut_off() {
    let storage = FaultStorage::new();
    let (log, _) = open(&storage).unwrap();
    for n in 1..=5 {
        log.append(&actor(1), n, &[n as u8; 100]).unwrap();
    }
    log.attest().unwrap();
    let len = crate::storage::StorageFile::len(&*log.inner.file).unwrap();
    for log in [log, open(&storage).unwrap().0] {
        log.attest().unwrap();
        assert_eq!(crate::storage::StorageFile::len(&*log.inner.file).unwrap(), len, "once is enough");
        assert_eq!(check(&log, false), vec![]);
    }
    storage.rot(FILE, FILE_HEADER + 180 * 2 + 100);
    let (log, recovered) = open(&storage).unwrap();
    assert_eq!(recovered, Recovered { entries: 4, torn: 0, damaged: vec![(FILE_HEADER + 180 * 2, 180)] });
    assert_eq!(log.lacks(&actor(1), 5), [(3, 3)]);
    log.append(&actor(1), 3, &[3; 100]).unwrap();
    log.attest().unwrap();
    assert_eq!(open(&storage).unwrap().1.entries, 5);
}
