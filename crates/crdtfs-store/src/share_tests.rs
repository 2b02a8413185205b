//! Tests of a share's window: folder files, fetching, reading, write files.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, ShareId};
use crdtfs_core::port::{Content, FileOpener, FolderContent, RESERVE, WriteFile};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::store_tests::noise;
use crate::{ChunkList, ChunkSink, ChunkSource, ShareContent, Space, Store, StoreOptions, Urgency, Want};

/// Another device: gives what its store has, out of order, from two threads, and counts what it would have sent.
#[derive(Default)]
pub(crate) struct Peer {
    store: Mutex<Option<Store>>,
    given: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Refuses after so many chunks.
    pub(crate) limit: AtomicU64,
    lies: std::sync::atomic::AtomicBool,
    /// Of one file, as the view would have them.
    pub(crate) versions: Mutex<Vec<ContentRef>>,
    /// The disk of who fetches.
    pub(crate) space: std::sync::OnceLock<Arc<Space>>,
}

impl Peer {
    pub(crate) fn of(store: &Store) -> Arc<Self> {
        Arc::new(Self { store: Mutex::new(Some(store.clone())), limit: AtomicU64::new(u64::MAX), ..Self::default() })
    }

    pub(crate) fn nobody() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

impl ChunkSource for Peer {
    fn fetch(&self, want: &[Want], _: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
        let Some(store) = self.store.lock().clone() else { return Err(io::ErrorKind::HostUnreachable.into()) };
        let half = |odd: usize| -> io::Result<()> {
            for at in (0..want.len()).rev().filter(|at| at % 2 == odd) {
                let mut bytes = store.read_part(&want[at].chunk)?.ok_or(io::ErrorKind::HostUnreachable)?;
                if self.given.fetch_add(1, Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let base = want[at].base.as_ref().and_then(|base| store.read_part(base).unwrap());
                let delta = base.and_then(|base| crdtfs_core::wire::delta(&base, &bytes));
                self.bytes.fetch_add(delta.as_ref().unwrap_or(&bytes).len() as u64, Ordering::Relaxed);
                if self.lies.load(Ordering::Relaxed) {
                    bytes[0] ^= 1;
                }
                sink.accept(at, &bytes)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| half(1));
            half(0).and(other.join().unwrap())
        })
    }

    fn other_versions(&self, content: &ContentRef) -> Vec<ContentRef> {
        self.versions.lock().iter().filter(|version| *version != content).copied().collect()
    }

    fn space(&self) -> Option<&Arc<Space>> {
        self.space.get()
    }
}

pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn path(&self, key: InodeId) -> PathBuf {
        self.0.join(key.to_string())
    }
}

impl FileOpener for Folder {
    fn open(&self, key: InodeId) -> io::Result<File> {
        File::open(self.path(key))
    }
}

pub(crate) struct Device {
    dir: TempDir,
    pub(crate) share: ShareContent,
    pub(crate) folder: Arc<Folder>,
}

fn share_on(dir: &Path, peer: Arc<Peer>) -> ShareContent {
    // Without the cache of verified chunks, so that each read looks at the disk.
    let options = StoreOptions { cache_bytes: 0, ..StoreOptions::default() };
    let store = Store::open(&dir.join("store"), options).unwrap();
    ShareContent::new(store, ShareId([7; 32]), peer).unwrap()
}

pub(crate) fn device(peer: Arc<Peer>) -> Device {
    let dir = tempfile::tempdir().unwrap();
    let share = share_on(dir.path(), peer);
    let folder = Arc::new(Folder(dir.path().join("folder")));
    fs::create_dir(&folder.0).unwrap();
    share.set_opener(folder.clone());
    Device { dir, share, folder }
}

impl Device {
    pub(crate) fn restart(self, peer: Arc<Peer>) -> Self {
        let Self { dir, share, folder } = self;
        drop(share);
        let share = share_on(dir.path(), peer);
        share.set_opener(folder.clone());
        Self { dir, share, folder }
    }

    /// Where its store is.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.share.store().inner.dir.clone()
    }

    /// Ends it; its directory stays as long as what is given.
    pub(crate) fn end(self) -> tempfile::TempDir {
        self.dir
    }

    pub(crate) fn write_and_index(&self, key: InodeId, bytes: &[u8]) -> ContentRef {
        self.write_over(key, bytes, None)
    }

    pub(crate) fn write_over(&self, key: InodeId, bytes: &[u8], like: Option<&ContentRef>) -> ContentRef {
        fs::write(self.folder.path(key), bytes).unwrap();
        self.share.index_file(key, &File::open(self.folder.path(key)).unwrap(), like).unwrap()
    }

    pub(crate) fn problems(&self, live: &[ContentRef]) -> Vec<crate::Problem> {
        let report = self.share.store().check(false, &mut || live.to_vec()).unwrap();
        assert_eq!(report.incomplete, vec![]);
        report.problems
    }
}

pub(crate) fn id(n: u8) -> InodeId {
    InodeId([n; 16])
}

pub(crate) fn read(share: &ShareContent, content: &ContentRef) -> io::Result<Vec<u8>> {
    share.read_all(content, Urgency::Read)
}

fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("line {n} of a text that compresses\n").into_bytes()).collect()
}

#[test]
fn a_folders_file_is_served_in_place_and_not_copied() {
    let device = device(Peer::nobody());
    let bytes = noise(5 << 20, 1);
    let content = device.write_and_index(id(1), &bytes);
    assert_eq!(content.hash, Hash::of(&bytes));
    assert!(device.share.is_local(&content));
    assert!(read(&device.share, &content).unwrap() == bytes);
    let usage = device.share.store().usage();
    assert!(usage.packs + usage.objects < 20_000, "no second copy: {usage:?}");
    assert_eq!(device.problems(&[content]), vec![]);
    let device = device.restart(Peer::nobody());
    assert!(read(&device.share, &content).unwrap() == bytes, "after a restart");
    device.share.store().sync().unwrap();
    let device = {
        let Device { dir, share, folder } = device;
        drop(share);
        fs::remove_file(dir.path().join("store/index.redb")).unwrap();
        let share = share_on(dir.path(), Peer::nobody());
        share.set_opener(folder.clone());
        Device { dir, share, folder }
    };
    assert!(read(&device.share, &content).unwrap() == bytes, "without its index");
    device.share.forget_file(id(1)).unwrap();
    assert!(!device.share.is_local(&content));
    let device = device.restart(Peer::nobody());
    assert!(!device.share.is_local(&content), "forgotten for good");
}

#[test]
fn a_folders_file_that_changed_is_absent_and_a_copy_elsewhere_serves() {
    let device = device(Peer::nobody());
    let bytes = noise(2 << 20, 1);
    let content = device.write_and_index(id(1), &bytes);
    device.write_and_index(id(2), &bytes);
    fs::write(device.folder.path(id(1)), noise(2 << 20, 2)).unwrap();
    assert!(read(&device.share, &content).unwrap() == bytes, "the other file has it");
    fs::write(device.folder.path(id(2)), b"short").unwrap();
    let error = read(&device.share, &content).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);
    assert!(!device.share.is_local(&content), "noticed when it was read");
    fs::write(device.folder.path(id(2)), &bytes).unwrap();
    device.share.index_file(id(2), &File::open(device.folder.path(id(2))).unwrap(), None).unwrap();
    assert!(read(&device.share, &content).unwrap() == bytes, "indexed again");
}

#[test]
fn what_is_small_outlives_its_file_as_a_merge_base() {
    let device = device(Peer::nobody());
    let (small, large, binary) = (text(50), text(20_000), noise(5000, 1));
    assert!(large.len() > 300_000);
    let contents = [small.clone(), large.clone(), binary.clone()].map(|bytes| device.write_and_index(id(1), &bytes));
    device.share.forget_file(id(1)).unwrap();
    assert_eq!(read(&device.share, &contents[0]).unwrap(), small);
    assert_eq!(read(&device.share, &contents[1]).unwrap(), large);
    assert_eq!(read(&device.share, &contents[2]).unwrap(), binary, "that it is no text is known by its bytes only");
    let content = device.write_and_index(id(1), &noise(2 << 20, 2));
    device.share.forget_file(id(1)).unwrap();
    assert!(!device.share.is_local(&content), "of what is large only its file has the bytes");
    device.share.store().sync().unwrap();
    assert!(device.share.store().usage().packs < large.len() as u64 / 2, "compressed");
}

#[test]
fn contents_are_fetched_into_files_without_a_second_copy() {
    let source = device(Peer::nobody());
    let bytes = noise(9 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let peer = Peer::of(source.share.store());
    let device = device(peer.clone());
    let temporary = device.folder.0.join("temporary");
    let file = File::create(&temporary).unwrap();
    device.share.fetch_into(id(9), &content, &file).unwrap();
    assert!(fs::read(&temporary).unwrap() == bytes);
    assert!(device.share.is_local(&content));
    fs::rename(&temporary, device.folder.path(id(9))).unwrap();
    assert!(read(&device.share, &content).unwrap() == bytes);
    let usage = device.share.store().usage();
    assert!(usage.packs + usage.objects < 30_000, "{usage:?}");
    assert_eq!(device.problems(&[content]), vec![]);
    let device = device.restart(Peer::nobody());
    assert!(read(&device.share, &content).unwrap() == bytes);

    // A new version that shares most of the bytes: only what is new is fetched.
    let mut newer = bytes.clone();
    newer.splice(0..0, *b"inserted");
    let content = source.write_and_index(id(2), &newer);
    let peer = Peer::of(source.share.store());
    let device = device.restart(peer.clone());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary).unwrap();
    device.share.fetch_into(id(9), &content, &file).unwrap();
    assert!(fs::read(&temporary).unwrap() == newer);
    let given = peer.bytes.load(Ordering::Relaxed);
    assert!(given < 1_100_000, "{given} bytes for 8 inserted ones");
}

/// Others' changes take a file away: the store keeps what nothing else has.
#[test]
fn what_others_replace_or_remove_stays_with_the_store() {
    let device = device(Peer::nobody());
    let give_up = |key: InodeId, content: &ContentRef, instead: Option<InodeId>| {
        let file = File::open(device.folder.path(key)).unwrap();
        device.share.keep_file(content, &file, instead)?;
        fs::remove_file(device.folder.path(key)).unwrap();
        device.share.forget_file(key)
    };
    let packs = || {
        device.share.store().sync().unwrap();
        device.share.store().usage().packs
    };
    // Removed: a small one goes into the packs, a large one becomes an object, without a copy of its bytes.
    let (small, large) = (noise(5000, 1), noise(3 << 20, 2));
    let (of_small, of_large) = (device.write_and_index(id(1), &small), device.write_and_index(id(2), &large));
    give_up(id(1), &of_small, None).unwrap();
    let before = packs();
    give_up(id(2), &of_large, None).unwrap();
    assert!(read(&device.share, &of_small).unwrap() == small && read(&device.share, &of_large).unwrap() == large);
    assert!(packs() - before < 20_000, "no second copy");
    // Another name of it stays with somebody who may write to it: then it is copied.
    let linked = noise(3 << 20, 3);
    let of_linked = device.write_and_index(id(3), &linked);
    fs::hard_link(device.folder.path(id(3)), device.folder.path(id(4))).unwrap();
    give_up(id(3), &of_linked, None).unwrap();
    fs::write(device.folder.path(id(4)), b"other").unwrap();
    assert!(read(&device.share, &of_linked).unwrap() == linked);
    // Replaced by what has most of its bytes: only the others are kept.
    let old = noise(6 << 20, 5);
    let new = [&noise(100, 6)[..], &old[..]].concat();
    let of_old = device.write_and_index(id(5), &old);
    device.write_and_index(id(6), &new);
    let before = packs();
    give_up(id(5), &of_old, Some(id(6))).unwrap();
    assert!(read(&device.share, &of_old).unwrap() == old);
    assert!(packs() - before < 2 << 20, "only what the new version lacks");
    // Not what it was: nothing is taken from it.
    let of_changed = device.write_and_index(id(7), &noise(2 << 20, 7));
    fs::write(device.folder.path(id(7)), noise(2 << 20, 8)).unwrap();
    assert_eq!(give_up(id(7), &of_changed, None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(device.problems(&[of_small, of_large, of_linked, of_old]), vec![]);
}

/// Between the fetch of a new version and the folder's rename its old file is still in the place.
#[test]
fn a_fetched_file_that_is_not_in_its_place_yet_is_not_given_up() {
    let source = device(Peer::nobody());
    for size in [5000, 300_000, 3_000_000] {
        let (old, new) = (noise(size, 1), noise(size, 2));
        let content = source.write_and_index(id(1), &new);
        let device = device(Peer::of(source.share.store()));
        device.write_and_index(id(9), &old);
        let temporary = device.folder.0.join("temporary");
        let file = File::create(&temporary).unwrap();
        device.share.fetch_into(id(9), &content, &file).unwrap();
        device.share.store().inner.close_folder_files();
        let ChunkList::Whole(spans) = device.share.store().chunk_list(&content).unwrap() else { panic!("local") };
        assert_eq!(device.share.store().read_chunk(&spans[0].hash).unwrap(), None, "the old file is in its place");
        fs::rename(&temporary, device.folder.path(id(9))).unwrap();
        assert!(device.share.is_local(&content));
        assert!(device.share.store().read_chunk(&spans[0].hash).unwrap().is_some(), "{size} bytes");
    }
}

#[test]
fn an_interrupted_fetch_goes_on_where_it_was() {
    let source = device(Peer::nobody());
    let bytes = noise(12 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let peer = Peer::of(source.share.store());
    peer.limit.store(20, Ordering::Relaxed);
    let device = device(peer.clone());
    let path = device.folder.0.join("temporary");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let error = device.share.fetch_into(id(9), &content, &file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(device.share.fetch(&[content], Urgency::Prefetch)[0].is_err(), "into the store, too");
    let given = peer.bytes.swap(0, Ordering::Relaxed);
    assert!(given > 2_000_000);
    peer.limit.store(u64::MAX, Ordering::Relaxed);
    let device = device.restart(peer.clone());
    device.share.fetch_into(id(9), &content, &file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let again = peer.bytes.load(Ordering::Relaxed);
    assert!(given + again < bytes.len() as u64 + 100_000, "{given} and {again} of {}", bytes.len());
}

#[test]
fn what_is_fetched_together_fits_together() {
    let source = device(Peer::nobody());
    let contents = [1, 2].map(|n| source.write_and_index(id(n as u8), &noise(6 << 20, n)));
    let small = [3, 4].map(|n| source.write_and_index(id(n as u8), &noise(700 << 10, n)));
    let peer = Peer::of(source.share.store());
    let begins = |room: u64| RESERVE + (1 << 20) + room;
    // Each of two is measured against a disk that has not been written to yet, as if both went on at the same time.
    let free = Arc::new(AtomicU64::new(begins(8 << 20)));
    let disk = free.clone();
    peer.space.set(Arc::new(Space::told(move || disk.load(Ordering::Relaxed)))).unwrap();
    let device = device(peer.clone());
    let full = |outcome: &io::Result<()>| outcome.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull);
    let whole = device.share.fetch(&contents, Urgency::Prefetch);
    assert!(whole[0].is_ok() && full(&whole[1]), "objects: {whole:?}");
    free.store(begins(800 << 10), Ordering::Relaxed);
    let packed = device.share.fetch(&small, Urgency::Prefetch);
    assert!(packed[0].is_ok() && full(&packed[1]), "packs: {packed:?}");
    let [one, other] = ["one", "other"].map(|name| {
        let path = device.folder.0.join(name);
        OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
    });
    free.store(begins(8 << 20), Ordering::Relaxed);
    let staged = device.share.fetch_many(&[(id(8), contents[0], &one), (id(9), contents[1], &other)]);
    assert!(staged[0].is_ok() && full(&staged[1]), "a folder's files: {staged:?}");
    // Who ended gave back what it had set aside.
    assert!(device.share.fetch(&contents[1..], Urgency::Prefetch)[0].is_ok());
    assert!(device.share.fetch(&small[1..], Urgency::Prefetch)[0].is_ok());
}

/// It is read all the same, and takes the room of nothing that fits.
#[test]
fn what_does_not_fit_is_read_and_not_kept() {
    let source = device(Peer::nobody());
    let bytes = noise(12 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let small = source.write_and_index(id(2), &noise(2 << 20, 2));
    let peer = Peer::of(source.share.store());
    peer.space.set(Arc::new(Space::told(|| RESERVE + (1 << 20) + (4 << 20)))).unwrap();
    let device = device(peer.clone());
    let reader = device.share.open(&content).unwrap();
    let mut got = vec![0; bytes.len()];
    for (at, part) in got.chunks_mut(100_000).enumerate() {
        reader.read_at(part, at as u64 * 100_000).unwrap();
    }
    assert!(got == bytes);
    let usage = device.share.store().usage();
    assert!(usage.packs + usage.objects < 1 << 20, "{usage:?}");
    assert_eq!(fs::read_dir(device.dir.path().join("store/objects")).unwrap().count(), 0);
    device.share.fetch(&[small], Urgency::Prefetch).pop().unwrap().unwrap();
    // So is what is written to it alone kept.
    let file = device.share.write_file(Some(&content)).unwrap();
    file.write_at(b"appended", content.size).unwrap();
    let appended = device.share.seal(&*file, &|| true).unwrap().unwrap();
    assert_eq!(appended, source.share.put(&[&bytes[..], b"appended"].concat()).unwrap());
    let usage = device.share.store().usage();
    assert!(usage.packs + usage.objects < 5 << 20, "{usage:?}");
    assert!(read(&device.share, &appended).unwrap().ends_with(b"appended"));
}

/// What an interrupted fetch left goes when its room is wanted, but not of what is open; a later fetch brings it all.
#[test]
fn what_a_fetch_left_gives_its_room_back() {
    let source = device(Peer::nobody());
    let bytes = noise(12 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let peer = Peer::of(source.share.store());
    let device = device(peer.clone());
    let store = device.share.store();
    let interrupted = || {
        peer.limit.store(20, Ordering::Relaxed);
        peer.given.store(0, Ordering::Relaxed);
        assert!(device.share.fetch(&[content], Urgency::Prefetch)[0].is_err());
        peer.limit.store(u64::MAX, Ordering::Relaxed);
        assert!(store.holds(&content).unwrap() > 1_000_000);
    };
    let lacks = || store.room_for(&content).unwrap();
    interrupted();
    assert_eq!(store.give_up_parts_beyond(lacks()), 0, "the rest fits");
    assert!(store.give_up_parts_beyond(lacks() - 1) > 1_000_000);
    assert!(lacks() >= 12 << 20 && store.holds(&content).unwrap() == 0);
    interrupted();
    let reader = device.share.open(&content).unwrap();
    assert_eq!(store.give_up_parts(), 0, "it is open");
    drop(reader);
    assert!(store.give_up_parts() > 1_000_000);
    interrupted();
    let mut live = || vec![content];
    assert_eq!(store.gc(&mut live).unwrap().freed, 0);
    assert!(store.gc(&mut Vec::new).unwrap().freed > 1_000_000, "nobody wants it");
    device.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    assert!(read(&device.share, &content).unwrap() == bytes);
}

#[test]
fn a_partial_object_goes_on_after_a_restart() {
    let source = device(Peer::nobody());
    let bytes = noise(12 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let peer = Peer::of(source.share.store());
    peer.limit.store(20, Ordering::Relaxed);
    let device = device(peer.clone());
    assert!(device.share.fetch(&[content], Urgency::Prefetch)[0].is_err());
    let given = peer.bytes.swap(0, Ordering::Relaxed);
    let device = device.restart(peer.clone());
    let room = device.share.store().room_for(&content).unwrap();
    assert!(room + given < content.size + 100_000, "{room} for the rest, and {given} are here");
    peer.limit.store(u64::MAX, Ordering::Relaxed);
    device.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    assert_eq!(device.share.store().room_for(&content).unwrap(), 0);
    let again = peer.bytes.load(Ordering::Relaxed);
    assert!(given > 1_000_000 && given + again < bytes.len() as u64 + 100_000, "{given} and {again}");
    device.share.store().sync().unwrap();
    let device = device.restart(Peer::nobody());
    assert!(read(&device.share, &content).unwrap() == bytes);
    assert_eq!(device.problems(&[content]), vec![]);
    let usage = device.share.store().usage();
    assert!(usage.packs < 50_000 && usage.objects < 13 << 20, "{usage:?}");
    assert!(device.share.open(&content).unwrap().backing().is_some());
}

#[test]
fn many_small_contents_come_together_and_fail_alone() {
    let source = device(Peer::nobody());
    let mut wanted = Vec::new();
    for n in 0..40_u8 {
        let bytes = if n % 4 == 0 { text(30 + n as usize) } else { noise(usize::from(n) * 4000, u64::from(n) / 2) };
        wanted.push((id(n), source.write_and_index(id(n), &bytes), bytes));
    }
    let device = device(Peer::of(source.share.store()));
    let unknown = ContentRef { hash: Hash([1; 32]), size: 10, manifest: None };
    let files: Vec<File> = (0..=40).map(|n| File::create(device.folder.path(id(n))).unwrap()).collect();
    let mut list: Vec<_> = wanted.iter().map(|(key, content, _)| (*key, *content, &files[key.0[0] as usize])).collect();
    let outcomes = device.share.fetch_many(&list);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for (key, content, bytes) in &wanted {
        assert_eq!(fs::read(device.folder.path(*key)).unwrap(), *bytes);
        assert_eq!(read(&device.share, content).unwrap(), *bytes);
    }
    list.push((id(40), unknown, &files[40]));
    let outcomes = device.share.fetch_many(&list);
    assert!(outcomes[..40].iter().all(Result::is_ok) && outcomes[40].is_err(), "only what nobody has fails");
}

#[test]
fn a_liar_changes_nothing() {
    let source = device(Peer::nobody());
    let content = source.write_and_index(id(1), &noise(300_000, 1));
    let peer = Peer::of(source.share.store());
    peer.lies.store(true, Ordering::Relaxed);
    let device = device(peer.clone());
    assert_eq!(
        device.share.fetch(&[content], Urgency::Read)[0].as_ref().unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(read(&device.share, &content).is_err());
    assert_eq!(device.share.store().usage().chunks, 0);
    peer.lies.store(false, Ordering::Relaxed);
    assert!(read(&device.share, &content).is_ok());
}

/// A member whose record names bytes and a manifest that do not belong together.
#[test]
fn a_manifest_of_other_bytes_is_no_content() {
    let source = device(Peer::nobody());
    for size in [300_000, 3 << 20] {
        let real = source.write_and_index(id(1), &noise(size, 1));
        let lie = ContentRef { hash: Hash([3; 32]), ..real };
        let device = device(Peer::of(source.share.store()));
        assert_eq!(
            device.share.fetch(&[lie], Urgency::Prefetch)[0].as_ref().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let file = File::create(device.folder.path(id(1))).unwrap();
        assert!(device.share.fetch_into(id(1), &lie, &file).is_err());
        assert!(!device.share.is_local(&ContentRef { manifest: None, ..lie }));
    }
}

#[test]
fn readers_wait_for_what_lacks_and_it_is_fetched_once() {
    let source = device(Peer::nobody());
    let bytes = noise(6 << 20, 1);
    let content = source.write_and_index(id(1), &bytes);
    let peer = Peer::of(source.share.store());
    let device = device(peer.clone());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (share, bytes, content) = (&device.share, &bytes, &content);
            scope.spawn(move || {
                let reader = share.open(content).unwrap();
                let mut buf = vec![0; 100_000];
                let mut at = thread * 1000;
                while at < bytes.len() {
                    let n = reader.read_at(&mut buf, at as u64).unwrap();
                    assert_eq!(buf[..n], bytes[at..at + n]);
                    at += n;
                }
                assert_eq!(reader.read_at(&mut buf, bytes.len() as u64 + 5).unwrap(), 0);
            });
        }
    });
    let given = peer.bytes.load(Ordering::Relaxed);
    assert!(given < bytes.len() as u64 + 50_000, "{given} bytes were fetched");
    assert!(device.share.is_local(&content));
    assert!(device.share.open(&content).unwrap().backing().is_some(), "it became an object as it was read");
}

/// A plain model of a write file.
fn apply(model: &mut Vec<u8>, file: &dyn WriteFile, step: u64, random: u64) {
    let size = model.len() as u64;
    let offset = (random >> 8) % (size + 50_000);
    match step % 8 {
        0..=3 => {
            let bytes = noise((random % 60_000) as usize, random);
            file.write_at(&bytes, offset).unwrap();
            if !bytes.is_empty() {
                let end = offset as usize + bytes.len();
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&bytes);
            }
        }
        4 => {
            file.set_len(offset).unwrap();
            model.resize(offset as usize, 0);
        }
        5 => {
            let end = (offset + 30_000).min(size) as usize;
            file.allocate(3, offset, 30_000).unwrap();
            model[(offset as usize).min(end)..end].fill(0);
        }
        6 => {
            file.allocate(0, offset, 10_000).unwrap();
            model.resize(model.len().max(offset as usize + 10_000), 0);
        }
        _ => {
            file.allocate(16, offset, 20_000).unwrap();
            let end = offset as usize + 20_000;
            model.resize(model.len().max(end), 0);
            model[offset as usize..end].fill(0);
        }
    }
}

fn same(model: &[u8], file: &dyn WriteFile) {
    assert_eq!(file.size(), model.len() as u64);
    let mut bytes = vec![1; model.len() + 100];
    let mut done = 0;
    loop {
        let n = file.read_at(&mut bytes[done..], done as u64).unwrap();
        if n == 0 {
            break;
        }
        done += n;
    }
    assert!(done == model.len() && bytes[..done] == *model, "the bytes differ");
    // What the file calls a hole is zeros, and it finds all data.
    let mut at = 0;
    while let Some(data) = file.seek(at, true).unwrap() {
        assert!(model[at as usize..data as usize].iter().all(|byte| *byte == 0));
        at = file.seek(data, false).unwrap().unwrap();
    }
    assert!(model[(at as usize).min(model.len())..].iter().all(|byte| *byte == 0));
}

/// Random operations, seals and syncs on write files over every kind of base, against a plain vector.
#[test]
fn write_files_are_plain_files() {
    for seed in 0..16_u64 {
        let device = device(Peer::nobody());
        let base = match seed % 4 {
            0 => None,
            1 => Some(noise(10_000, seed)),
            2 => Some(noise(1_500_000, seed)),
            _ => Some(noise(400_000, seed)),
        };
        let mut model = base.clone().unwrap_or_default();
        let content = base.map(|bytes| {
            if seed % 8 == 3 { device.write_and_index(id(1), &bytes) } else { device.share.put(&bytes).unwrap() }
        });
        let mut file = device.share.write_file(content.as_ref()).unwrap();
        same(&model, &*file);
        let mut sealed: Vec<(ContentRef, Vec<u8>)> = Vec::new();
        let mut random = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut device = device;
        for step in 0..40 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            apply(&mut model, &*file, random >> 40, random);
            same(&model, &*file);
            if random % 5 == 0 {
                let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
                assert_eq!(content.hash, Hash::of(&model));
                sealed.push((content, model.clone()));
            }
            if random % 7 == 0 {
                file.sync(format!("note {step}").as_bytes()).unwrap();
            }
            if random % 11 == 0 {
                // The engine is killed: what was synced comes back.
                file.sync(b"the last").unwrap();
                let image = tempfile::tempdir().unwrap();
                copy_tree(device.dir.path(), image.path());
                let share = share_on(image.path(), Peer::nobody());
                let folder = Arc::new(Folder(image.path().join("folder")));
                share.set_opener(folder.clone());
                let next = Device { dir: image, share, folder };
                let mut recovered = next.share.recover().unwrap();
                assert_eq!(recovered.len(), 1, "seed {seed}, step {step}");
                let (note, again) = recovered.pop().unwrap();
                assert_eq!(note, b"the last");
                same(&model, &*again);
                device.share.discard(file);
                (device, file) = (next, again);
                sealed.clear();
            }
        }
        for (content, bytes) in &sealed {
            assert_eq!(read(&device.share, content).unwrap(), *bytes, "later writes do not reach what was sealed");
        }
        device.share.discard(file);
        let left = fs::read_dir(device.dir.path().join("store/write")).unwrap().flatten();
        assert_eq!(left.flat_map(|dir| fs::read_dir(dir.path()).unwrap()).count(), 0, "no file is left");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_tree(&path, &target) } else { _ = fs::copy(path, target).unwrap() }
    }
}

#[test]
fn a_large_sealed_file_becomes_the_object_without_a_copy() {
    let device = device(Peer::nobody());
    let bytes = noise(8 << 20, 1);
    let file = device.share.write_file(None).unwrap();
    for (at, piece) in bytes.chunks(1 << 20).enumerate() {
        file.write_at(piece, (at as u64) << 20).unwrap();
    }
    let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
    let usage = device.share.store().usage();
    assert!(usage.objects + usage.write_files < 9 << 20, "one copy in all: {usage:?}");
    assert!(usage.packs < 20_000);
    let object = device.share.open(&content).unwrap().backing().unwrap();
    file.write_at(b"written after the seal", 1000).unwrap();
    let mut seen = vec![0; 22];
    object.read_exact_at(&mut seen, 1000).unwrap();
    assert_eq!(seen, bytes[1000..1022], "the object does not change");
    let newer = device.share.seal(&*file, &|| true).unwrap().unwrap();
    assert_ne!(newer.hash, content.hash);
    let usage = device.share.store().usage();
    assert!(usage.packs < 2 << 20, "of the second version only what changed is stored: {usage:?}");
    device.share.discard(file);
    device.share.store().sync().unwrap();
    let device = device.restart(Peer::nobody());
    assert!(read(&device.share, &content).unwrap() == bytes);
    assert!(device.share.is_local(&newer));
    assert_eq!(device.problems(&[content, newer]), vec![]);
}

#[test]
fn a_file_that_was_given_out_is_copied_before_it_is_sealed() {
    let device = device(Peer::nobody());
    let bytes = noise(2 << 20, 1);
    let file = device.share.write_file(None).unwrap();
    file.write_at(&bytes, 0).unwrap();
    let given = file.backing().unwrap();
    let first = device.share.seal(&*file, &|| true).unwrap().unwrap();
    given.write_all_at(b"behind its back", 500).unwrap();
    given.write_all_at(b"and longer", 2 << 20).unwrap();
    assert_eq!(file.size(), (2 << 20) + 10);
    let second = device.share.seal(&*file, &|| true).unwrap().unwrap();
    assert_eq!(read(&device.share, &first).unwrap(), bytes);
    let mut changed = bytes;
    changed[500..515].copy_from_slice(b"behind its back");
    changed.extend_from_slice(b"and longer");
    assert_eq!(read(&device.share, &second).unwrap(), changed);
}

#[test]
fn a_small_write_into_a_large_base_copies_neither() {
    let device = device(Peer::nobody());
    let file = device.share.write_file(None).unwrap();
    // A sparse base: 300 MiB that take no room.
    file.write_at(b"begin", 0).unwrap();
    file.set_len(300 << 20).unwrap();
    let base = device.share.seal(&*file, &|| true).unwrap().unwrap();
    device.share.discard(file);
    let before = device.share.store().usage();
    let file = device.share.write_file(Some(&base)).unwrap();
    file.write_at(&noise(4096, 1), 200 << 20).unwrap();
    file.sync(b"note").unwrap();
    let after = device.share.store().usage();
    let growth = after.objects + after.write_files - before.objects - before.write_files;
    assert!(growth < 64 << 10, "{growth} bytes for 4 KiB");
    let mut begin = [0; 5];
    file.read_at(&mut begin, 0).unwrap();
    assert_eq!(&begin, b"begin");
}

#[test]
fn what_was_not_synced_leaves_no_trace_and_what_was_sealed_is_not_given_back() {
    let device = device(Peer::nobody());
    let forgotten = device.share.write_file(None).unwrap();
    forgotten.write_at(&noise(600_000, 1), 0).unwrap();
    let sealed = device.share.write_file(None).unwrap();
    sealed.write_at(&noise(600_000, 2), 0).unwrap();
    sealed.sync(b"note").unwrap();
    device.share.seal(&*sealed, &|| true).unwrap().unwrap();
    let kept = device.share.write_file(None).unwrap();
    kept.write_at(b"small", 0).unwrap();
    kept.sync(b"kept").unwrap();
    drop((forgotten, sealed, kept));
    let device = device.restart(Peer::nobody());
    let recovered = device.share.recover().unwrap();
    assert_eq!(recovered.iter().map(|(note, _)| &note[..]).collect::<Vec<_>>(), [b"kept"]);
    assert!(device.share.recover().unwrap().is_empty(), "each is given once");
    same(b"small", &*recovered[0].1);
}

#[test]
fn an_object_that_no_pack_names_is_looked_into_again() {
    let source = device(Peer::nobody());
    let bytes = noise(4 << 20, 1);
    let content = source.share.put(&bytes).unwrap();
    let peer = Peer::of(source.share.store());
    let device = device(peer.clone());
    device.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    // A crash before the sync: the object is there, nothing speaks of it, and a part of it never reached the disk.
    let image = tempfile::tempdir().unwrap();
    let objects = device.dir.path().join("store/objects");
    copy_tree(&objects, &image.path().join("store/objects"));
    let object = fs::read_dir(image.path().join("store/objects")).unwrap().next().unwrap().unwrap().path();
    let file = OpenOptions::new().write(true).open(object).unwrap();
    file.write_all_at(&[0; 100], 1 << 20).unwrap();
    peer.bytes.store(0, Ordering::Relaxed);
    let share = share_on(image.path(), peer.clone());
    assert!(!share.is_local(&content));
    share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    assert_eq!(read(&share, &content).unwrap(), bytes);
    assert!(peer.bytes.load(Ordering::Relaxed) < 1_200_000, "only the torn chunk and the manifest were fetched");
}

#[test]
fn damage_in_an_object_is_found_repaired_and_fetched_again() {
    let source = device(Peer::nobody());
    let bytes = noise(4 << 20, 1);
    let content = source.share.put(&bytes).unwrap();
    let device = device(Peer::of(source.share.store()));
    device.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    let store = device.share.store();
    store.sync().unwrap();
    let object = fs::read_dir(device.dir.path().join("store/objects")).unwrap().next().unwrap().unwrap().path();
    OpenOptions::new().write(true).open(object).unwrap().write_all_at(b"rot", 3 << 20).unwrap();
    let report = store.check(false, &mut || vec![content]).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].place.starts_with("objects/"));
    store.check(true, &mut || vec![content]).unwrap();
    assert!(!device.share.is_local(&content));
    assert!(read(&device.share, &content).unwrap() == bytes);
    device.share.fetch(&[content], Urgency::Prefetch).pop().unwrap().unwrap();
    assert_eq!(device.problems(&[content]), vec![]);
}

#[test]
fn sparse_contents_stay_sparse() {
    let source = device(Peer::nobody());
    let path = source.folder.path(id(1));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&noise(200_000, 1), 40 << 20).unwrap();
    let content = source.share.index_file(id(1), &file, None).unwrap();
    let device = device(Peer::of(source.share.store()));
    let file = File::create(device.folder.path(id(1))).unwrap();
    device.share.fetch_into(id(1), &content, &file).unwrap();
    let meta = file.metadata().unwrap();
    assert!(meta.len() == 64 << 20 && meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
    assert_eq!(fs::read(device.folder.path(id(1))).unwrap(), fs::read(path).unwrap());
}

#[test]
fn what_a_file_was_is_no_burden_to_what_it_is() {
    let device = device(Peer::nobody());
    let file = device.share.write_file(None).unwrap();
    let left = || {
        let dirs = fs::read_dir(device.dir.path().join("store/write")).unwrap();
        let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    for n in 0..6 {
        let bytes = noise(2 << 20, n);
        file.set_len(0).unwrap();
        file.write_at(&bytes, 0).unwrap();
        if n % 2 == 0 {
            file.sync(b"note").unwrap();
        }
        let content = device.share.seal(&*file, &|| true).unwrap().unwrap();
        assert_eq!(read(&device.share, &content).unwrap(), bytes);
        let store = device.share.store();
        (0..2).for_each(|_| _ = store.gc(&mut || vec![content]).unwrap());
        assert!(left() <= 5 << 20, "{} bytes after {n}", left());
    }
    // What the journal speaks of is what comes back, whatever was written and sealed since.
    let bytes = noise(2 << 20, 100);
    file.set_len(0).unwrap();
    file.write_at(&bytes, 0).unwrap();
    file.sync(b"last").unwrap();
    device.share.seal(&*file, &|| true).unwrap().unwrap();
    file.write_at(b"more", 0).unwrap();
    file.sync(b"edited").unwrap();
    let image = tempfile::tempdir().unwrap();
    copy_tree(device.dir.path(), image.path());
    let next = share_on(image.path(), Peer::nobody());
    let recovered = next.recover().unwrap();
    let (note, again) = &recovered[0];
    assert_eq!(note, b"edited");
    let mut got = vec![0; bytes.len()];
    again.read_at(&mut got, 0).unwrap();
    assert_eq!(got, [b"more", &bytes[4..]].concat());
}

#[test]
fn collection_spares_what_is_open_and_removes_dead_objects() {
    let device = device(Peer::nobody());
    let contents: HashMap<u64, ContentRef> =
        (0..3).map(|n| (n, device.share.put(&noise(100_000, n)).unwrap())).collect();
    let file = device.share.write_file(None).unwrap();
    file.write_at(&noise(2 << 20, 9), 0).unwrap();
    let object = device.share.seal(&*file, &|| true).unwrap().unwrap();
    device.share.discard(file);
    let store = device.share.store();
    store.gc(&mut Vec::new).unwrap();
    let open = device.share.open(&contents[&1]).unwrap();
    let report = store.gc(&mut || vec![contents[&0]]).unwrap();
    assert_eq!((report.objects, report.freed), (1, 2 << 20));
    assert!(!device.share.is_local(&object) && !device.share.is_local(&contents[&2]));
    assert!(device.share.is_local(&contents[&0]));
    let mut byte = [0];
    open.read_at(&mut byte, 99_999).unwrap();
    let device = {
        drop(open);
        device.restart(Peer::nobody())
    };
    assert!(!device.share.is_local(&object), "after a restart, too");
    assert_eq!(device.problems(&[contents[&0]]), vec![]);
}

/// For those who want to bring back what they write over themselves.
#[test]
fn a_copy_of_a_folders_file_outlives_what_is_written_over_it() {
    let device = device(Peer::nobody());
    let (old, new) = (noise(5 << 20, 1), noise(3 << 20, 2));
    let content = device.write_and_index(id(1), &old);
    let file = File::open(device.folder.path(id(1))).unwrap();
    device.share.keep_copy(&content, &file).unwrap();
    let packs = || {
        device.share.store().sync().unwrap();
        device.share.store().usage().packs
    };
    let once = packs();
    device.share.keep_copy(&content, &file).unwrap();
    assert_eq!(packs(), once, "it is kept already");
    fs::write(device.folder.path(id(1)), &new).unwrap();
    device.share.forget_file(id(1)).unwrap();
    assert!(read(&device.share, &content).unwrap() == old);
    // What is no more what it was is left out, whatever it became.
    let late = device.write_and_index(id(2), &noise(2 << 20, 3));
    fs::write(device.folder.path(id(2)), b"short").unwrap();
    let before = packs();
    device.share.keep_copy(&late, &File::open(device.folder.path(id(2))).unwrap()).unwrap();
    assert_eq!(packs(), before);
}
