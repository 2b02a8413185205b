//! The storage's failing twin: live against durable bytes, crashes at any write, torn writes, a full disk.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::{Storage, StorageFile};

/// A disk in memory. Writes are live at once and durable after a sync; names are durable after a sync of their directory.
#[derive(Clone, Debug)]
pub(crate) struct FaultStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: HashMap<u64, Data>,
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    next: u64,
    /// Operations that change something, so far.
    operations: u64,
    /// The operation that fails, and with it all that follow.
    crash_at: Option<u64>,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    /// A file for which there is no room any more.
    frozen: Option<u64>,
    /// Bytes given back by holes.
    holes: u64,
}

#[derive(Debug, Default, Clone)]
struct Data {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

impl FaultStorage {
    pub(crate) fn new() -> Self {
        Self { disk: Arc::default() }
    }

    /// How many changing operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// The `n`-th changing operation from the beginning fails, and all that follow.
    pub(crate) fn crash_at(&self, n: Option<u64>) {
        self.disk.lock().crash_at = n;
    }

    /// From now on the files may have this many bytes together.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// From now on nothing that is written to this file fits.
    pub(crate) fn freeze(&self, name: &str) {
        let mut disk = self.disk.lock();
        disk.frozen = Some(disk.live[name]);
    }

    /// Bytes that were given back by holes so far.
    pub(crate) fn holes(&self) -> u64 {
        self.disk.lock().holes
    }

    /// Flips a byte of a file, durably: a disk that rots.
    pub(crate) fn rot(&self, name: &str, offset: u64) {
        let mut disk = self.disk.lock();
        let id = disk.live[name];
        let data = disk.files.get_mut(&id).expect("a live name has a file");
        data.live[offset as usize] ^= 0x40;
        data.durable[offset as usize] ^= 0x40;
    }

    /// The disk after the power came back: what was synced, and of each unsynced write nothing, all, or a part, as `seed`
    /// has it; unsynced names are there or not.
    pub(crate) fn after_crash(&self, seed: u64) -> Self {
        let disk = self.disk.lock();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut after = Disk { next: disk.next, ..Disk::default() };
        for (name, id) in &disk.live {
            if disk.durable.get(name) == Some(id) || draw(2) == 0 {
                after.durable.insert(name.clone(), *id);
            }
        }
        for (name, id) in &disk.durable {
            if !disk.live.contains_key(name) && draw(2) == 0 {
                after.durable.insert(name.clone(), *id);
            }
        }
        after.live = after.durable.clone();
        let mut ids: Vec<_> = disk.files.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let data = &disk.files[&id];
            let mut bytes = data.durable.clone();
            for change in &data.pending {
                match (draw(3), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, new)) => {
                        let part = draw(new.len() as u64 + 1) as usize;
                        write(&mut bytes, *offset, &new[..part]);
                    }
                    (_, change) => change.apply(&mut bytes),
                }
            }
            after.files.insert(id, Data { live: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        Self { disk: Arc::new(Mutex::new(after)) }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, new) => write(bytes, *offset, new),
            Self::Len(len) => bytes.resize(*len as usize, 0),
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let end = offset as usize + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(new);
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.crash_at {
            Some(at) if self.operations >= at => Err(io::Error::other("the machine has crashed")),
            _ => Ok(()),
        }
    }
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Storage for FaultStorage {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk.lock();
        let id = match disk.live.get(name) {
            Some(id) => *id,
            None if create => {
                disk.step()?;
                disk.next += 1;
                let id = disk.next;
                disk.live.insert(name.into(), id);
                disk.files.insert(id, Data::default());
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(FaultFile { disk: self.disk.clone(), id }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        let names = disk.live.keys().filter(|name| dir_of(name) == dir);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.step()?;
        let id = disk.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.live.insert(to.into(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.step()?;
        disk.live.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.step()?;
        let Disk { live, durable, .. } = &mut *disk;
        durable.retain(|name, _| dir_of(name) != dir);
        durable.extend(live.iter().filter(|(name, _)| dir_of(name) == dir).map(|(name, id)| (name.clone(), *id)));
        Ok(())
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
}

impl FaultFile {
    fn change<T>(&self, change: impl FnOnce(&mut Data) -> T) -> T {
        change(self.disk.lock().files.get_mut(&self.id).expect("an open file has data"))
    }
}

impl StorageFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.change(|data| data.live.len() as u64))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.change(|data| {
            let rest = data.live.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            n
        }))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (room, crashed) = {
            let mut disk = self.disk.lock();
            let crashed = disk.step();
            let used: u64 = disk.files.values().map(|data| data.live.len() as u64).sum();
            let len = disk.files[&self.id].live.len() as u64;
            let room = disk.capacity.map_or(u64::MAX, |capacity| (capacity + len).saturating_sub(used));
            let room = if disk.frozen == Some(self.id) { 0 } else { room };
            (room, crashed)
        };
        let fits = (room.saturating_sub(offset)).min(buf.len() as u64) as usize;
        // A write that a crash interrupts has reached the disk in some part.
        self.change(|data| {
            write(&mut data.live, offset, &buf[..fits]);
            data.pending.push(Change::Write(offset, buf[..fits].to_vec()));
        });
        crashed?;
        if fits < buf.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.lock().step()?;
        self.change(|data| {
            data.live.resize(len as usize, 0);
            data.pending.push(Change::Len(len));
        });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        {
            let mut disk = self.disk.lock();
            disk.step()?;
            disk.holes += len;
        }
        self.change(|data| {
            let zeros = vec![0; len as usize];
            write(&mut data.live, offset, &zeros);
            data.pending.push(Change::Write(offset, zeros));
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().step()?;
        self.change(|data| {
            data.pending.clear();
            data.durable = data.live.clone();
        });
        Ok(())
    }
}
