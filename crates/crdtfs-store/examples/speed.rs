//! How fast the store is on this machine: `cargo run --release -p crdtfs-store --example speed DIR`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crdtfs_core::id::{Hash, InodeId, ShareId};
use crdtfs_core::port::{Content, FileOpener, FolderContent};
use crdtfs_store::{ChunkSink, ChunkSource, ShareContent, Store, StoreOptions, Urgency, Want};

struct Peer(Store);

impl ChunkSource for Peer {
    fn fetch(&self, want: &[Want], _: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
        for (at, want) in want.iter().enumerate() {
            let bytes = self.0.read_chunk(&want.hash)?.ok_or(io::ErrorKind::HostUnreachable)?;
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

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what:50} {:8.1} ms", start.elapsed().as_secs_f64() * 1000.0);
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

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/store-speed".into()));
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
    let sealed = timed("seal 1 GiB", || a.seal(&*file).unwrap());
    a.discard(file);
    timed("sync", || store.sync().unwrap());
    timed("read 1 GiB through a reader, 128 KiB pieces", || {
        let reader = a.open(&sealed).unwrap();
        let mut buf = vec![0; 128 << 10];
        (0..1 << 30).step_by(buf.len()).for_each(|at| _ = reader.read_at(&mut buf, at).unwrap());
    });

    fs::write(dir.join("folder").join(id(1).to_string()), &big).unwrap();
    let indexed = File::open(dir.join("folder").join(id(1).to_string())).unwrap();
    let content = timed("index 1 GiB in place", || a.index_file(id(1), &indexed).unwrap());
    for (n, bytes) in (10..).zip(&small) {
        fs::write(dir.join("folder").join(id(n).to_string()), bytes).unwrap();
    }
    let contents = timed("index 10,000 x 4 KiB in place", || -> Vec<_> {
        (10..10_010)
            .map(|n| a.index_file(id(n), &File::open(dir.join("folder").join(id(n).to_string())).unwrap()).unwrap())
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
}
