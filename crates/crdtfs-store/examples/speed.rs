//! How fast the store is on this machine: `cargo run --release -p crdtfs-store --example speed DIR [edits]`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{Hash, InodeId, ShareId};
use crdtfs_core::port::{Content, FileOpener, FolderContent};
use crdtfs_store::{ChunkSink, ChunkSource, ShareContent, Store, StoreOptions, Urgency, Want};

struct Peer(Store);

impl ChunkSource for Peer {
    fn fetch(&self, want: &[Want], _: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
        for (at, want) in want.iter().enumerate() {
            let bytes = self.0.read_chunk(&want.chunk.hash)?.ok_or(io::ErrorKind::HostUnreachable)?;
            sink.accept(at, &bytes)?;
        }
        Ok(())
    }
}

struct Nobody;

impl ChunkSource for Nobody {
    fn fetch(&self, _: &[Want], _: Urgency, _: &dyn ChunkSink) -> io::Result<()> {
        Err(io::ErrorKind::HostUnreachable.into())
    }
}

struct Folder(PathBuf);

impl FileOpener for Folder {
    fn open(&self, key: InodeId) -> io::Result<File> {
        File::open(self.0.join(key.to_string()))
    }
}

/// Seconds of processor time of all threads, in steps of 10 ms: on a busy machine the figure to compare.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (start, busy) = (Instant::now(), cpu());
    let result = run();
    let (wall, busy) = (start.elapsed().as_secs_f64() * 1000.0, (cpu() - busy) * 1000.0);
    println!("{what:50} {wall:8.1} ms {busy:8.0} ms cpu");
    result
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn id(n: u64) -> InodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_le_bytes());
    InodeId(id)
}

/// A large file changes a little: mounts on both sides, then folders on both sides.
fn edits(dir: &Path, big: &[u8]) {
    let _ = fs::remove_dir_all(dir);
    for part in ["folder", "folder2"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    let share = ShareId([1; 32]);
    let open = |name: &str, source: Arc<dyn ChunkSource>, folder: &str| {
        let store = Store::open(&dir.join(name), StoreOptions::default()).unwrap();
        let content = ShareContent::new(store.clone(), share, source).unwrap();
        content.set_opener(Arc::new(Folder(dir.join(folder))));
        (store, content)
    };
    let (store_a, a) = open("a", Arc::new(Nobody), "folder");
    let (_, b) = open("b", Arc::new(Peer(store_a.clone())), "folder2");
    let fetch = |content| b.fetch(&[content], Urgency::Prefetch).remove(0).unwrap();
    let read = |of: &ShareContent, content: &ContentRef| {
        let (reader, mut buf) = (of.open(content).unwrap(), vec![0; 128 << 10]);
        (0..content.size).step_by(buf.len()).for_each(|at| _ = reader.read_at(&mut buf, at).unwrap());
    };
    let tail = noise(1 << 20, 78);

    let file = a.write_file(None).unwrap();
    big.chunks(1 << 20).enumerate().for_each(|(at, piece)| _ = file.write_at(piece, (at as u64) << 20).unwrap());
    let first = a.seal(&*file, &|| true).unwrap().unwrap();
    a.discard(file);
    timed("mount: fetch 1 GiB", || fetch(first));
    let file = a.write_file(Some(&first)).unwrap();
    file.write_at(&tail, first.size).unwrap();
    let second = timed("mount, 1 MiB appended: seal", || a.seal(&*file, &|| true).unwrap().unwrap());
    timed("mount, 1 MiB appended: fetch", || fetch(second));
    timed("mount, 1 MiB appended: read all where it was sealed", || read(&a, &second));
    timed("mount, 1 MiB appended: read all where it was fetched", || read(&b, &second));
    file.write_at(b"x", 0).unwrap();
    timed("mount, 1 byte written over the same file: seal", || a.seal(&*file, &|| true).unwrap().unwrap());
    a.discard(file);
    let file = a.write_file(None).unwrap();
    file.write_at(b"X", 0).unwrap();
    big.chunks(1 << 20).enumerate().for_each(|(at, piece)| _ = file.write_at(piece, ((at as u64) << 20) + 1).unwrap());
    let third = timed("mount, 1 byte inserted: seal", || a.seal(&*file, &|| true).unwrap().unwrap());
    a.discard(file);
    timed("mount, 1 byte inserted: fetch", || fetch(third));
    timed("mount, 1 byte inserted: read all where it was fetched", || read(&b, &third));
    drop((a, b, store_a));
    for part in ["a", "b"] {
        fs::remove_dir_all(dir.join(part)).unwrap();
    }

    let (store_a, a) = open("a", Arc::new(Nobody), "folder");
    let (_, b) = open("b", Arc::new(Peer(store_a)), "folder2");
    let (here, there) = (dir.join("folder").join(id(1).to_string()), dir.join("folder2").join(id(1).to_string()));
    let part = dir.join("folder2/part");
    let arrive = |what: &str, content: &ContentRef| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part).unwrap();
        timed(what, || b.fetch_into(id(1), content, &file).unwrap());
        fs::rename(&part, &there).unwrap();
    };
    fs::write(&here, big).unwrap();
    let index = |what: &str, like: Option<&ContentRef>| {
        timed(what, || a.index_file(id(1), &File::open(&here).unwrap(), like).unwrap())
    };
    let first = index("folder: index 1 GiB", None);
    arrive("folder: fetch 1 GiB", &first);
    OpenOptions::new().append(true).open(&here).unwrap().write_all(&tail).unwrap();
    let appended = index("folder, 1 MiB appended: index", Some(&first));
    arrive("folder, 1 MiB appended: fetch", &appended);
    let bytes = [b"X", big].concat();
    fs::write(&here, &bytes).unwrap();
    let inserted = index("folder, 1 byte inserted: index", Some(&appended));
    arrive("folder, 1 byte inserted: fetch", &inserted);
    assert!(fs::read(&there).unwrap() == bytes);
    drop((a, b));
    fs::remove_dir_all(dir).unwrap();
}

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/store-speed".into()));
    if std::env::args().nth(2).is_some_and(|part| part == "edits") {
        return edits(&dir, &noise(1 << 30, 77));
    }
    let _ = fs::remove_dir_all(&dir);
    for part in ["folder", "folder2"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    let share = ShareId([1; 32]);
    let store = Store::open(&dir.join("a"), StoreOptions::default()).unwrap();
    let a = ShareContent::new(store.clone(), share, Arc::new(Nobody)).unwrap();
    a.set_opener(Arc::new(Folder(dir.join("folder"))));
    let small: Vec<Vec<u8>> = (0..10_000).map(|n| noise(4096, n)).collect();
    timed("put 10,000 x 4 KiB", || small.iter().for_each(|bytes| _ = store.put_bytes(bytes).unwrap()));
    timed("sync", || store.sync().unwrap());
    let hashes: Vec<Hash> = small.iter().map(|bytes| Hash::of(bytes)).collect();
    timed("has_chunk x 1,000,000", || (0..100).for_each(|_| assert!(hashes.iter().all(|hash| store.has_chunk(hash)))));

    let big = noise(1 << 30, 77);
    timed("blake3 of 1 GiB, one thread", || blake3::hash(&big));
    let file = a.write_file(None).unwrap();
    timed("write file: write 1 GiB in 1 MiB pieces", || {
        big.chunks(1 << 20).enumerate().for_each(|(at, piece)| _ = file.write_at(piece, (at as u64) << 20).unwrap());
    });
    let sealed = timed("seal 1 GiB", || a.seal(&*file, &|| true).unwrap().unwrap());
    a.discard(file);
    let hole = a.write_file(None).unwrap();
    hole.set_len(100 << 30).unwrap();
    timed("seal a hole of 100 GiB", || a.seal(&*hole, &|| true).unwrap().unwrap());
    a.discard(hole);
    timed("sync", || store.sync().unwrap());
    timed("read 1 GiB through a reader, 128 KiB pieces", || {
        let reader = a.open(&sealed).unwrap();
        let mut buf = vec![0; 128 << 10];
        (0..1 << 30).step_by(buf.len()).for_each(|at| _ = reader.read_at(&mut buf, at).unwrap());
    });

    fs::write(dir.join("folder").join(id(1).to_string()), &big).unwrap();
    let indexed = File::open(dir.join("folder").join(id(1).to_string())).unwrap();
    let content = timed("index 1 GiB in place", || a.index_file(id(1), &indexed, None).unwrap());
    for (n, bytes) in (10..).zip(&small) {
        fs::write(dir.join("folder").join(id(n).to_string()), bytes).unwrap();
    }
    let contents = timed("index 10,000 x 4 KiB in place", || -> Vec<_> {
        (10..10_010)
            .map(|n| {
                a.index_file(id(n), &File::open(dir.join("folder").join(id(n).to_string())).unwrap(), None).unwrap()
            })
            .collect()
    });

    let b = Store::open(&dir.join("b"), StoreOptions::default()).unwrap();
    let b = ShareContent::new(b, share, Arc::new(Peer(store.clone()))).unwrap();
    b.set_opener(Arc::new(Folder(dir.join("folder2"))));
    let to = |n: u64| {
        let path = dir.join("folder2").join(id(n).to_string());
        OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
    };
    timed("fetch 1 GiB into a folder (reads it there, too)", || b.fetch_into(id(1), &content, &to(1)).unwrap());
    let files: Vec<File> = (10..10_010).map(to).collect();
    timed("fetch 10,000 x 4 KiB into a folder", || {
        let wanted: Vec<_> = (0..10_000).map(|n| (id(n as u64 + 10), contents[n], &files[n])).collect();
        assert!(b.fetch_many(&wanted).iter().all(Result::is_ok));
    });
    timed("close and commit", || drop(b));
    timed("open again", || Store::open(&dir.join("b"), StoreOptions::default()).unwrap());
    fs::remove_file(dir.join("b/index.redb")).unwrap();
    timed("open without an index", || Store::open(&dir.join("b"), StoreOptions::default()).unwrap());
    drop((a, store));
    fs::remove_dir_all(&dir).unwrap();
    edits(&dir, &big);
}
