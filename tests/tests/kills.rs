//! `kill -9` of engines at random moments: what was fsynced is there, `check` is clean, devices converge.
//!
//! `CRDTFS_KILLS` rounds in all (100 by default), `CRDTFS_SEED` to have a run again (the moments of the kills are as exact
//! as the machine's clock).
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, Tree, bytes, needs, same_trees, seed, until};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LIMIT: Duration = Duration::from_secs(60);

/// A share of all rounds, in percent.
fn rounds(percent: u64) -> u64 {
    let all: u64 = std::env::var("CRDTFS_KILLS").map_or(100, |text| text.parse().expect("CRDTFS_KILLS is a number"));
    (all * percent / 100).max(1)
}

/// What a writer was told to be durable, and what it was at when it was cut off.
#[derive(Debug, Default)]
struct Promised {
    /// Path and seed of the bytes; nothing if it was removed.
    files: BTreeMap<PathBuf, Option<u64>>,
    /// What the step that was cut off would have made of a path.
    under_way: Option<(PathBuf, Option<u64>)>,
    /// Lines of the log that are durable.
    log_lines: u64,
    steps: u64,
}

fn made_of(seed: u64) -> Vec<u8> {
    bytes(seed, (seed % 97) as usize * 1_500)
}

fn log_line(n: u64) -> String {
    format!("{n:06} {}\n", blake3::hash(&n.to_le_bytes()).to_hex())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Works in `dir` as programs do, until the filesystem fails under it.
struct Writer {
    dir: PathBuf,
    rng: ChaCha8Rng,
    promised: Promised,
}

impl Writer {
    fn step(&mut self) -> io::Result<()> {
        match self.rng.random_range(0..10) {
            0..=3 => {
                let path = self.dir.join(format!("new-{}", self.promised.steps));
                self.change(path, |path, seed| write_durably(path, &made_of(seed)))
            }
            4..=6 => {
                // Saved as editors save: the name has the old or the new bytes, never anything else.
                let path = self.dir.join(format!("saved-{}", self.rng.random_range(0..3)));
                self.change(path, |path, seed| {
                    let temporary = path.with_extension("tmp");
                    write_durably(&temporary, &made_of(seed))?;
                    fs::rename(&temporary, path)
                })
            }
            7..=8 => {
                let line = log_line(self.promised.log_lines);
                let mut log = OpenOptions::new().append(true).create(true).open(self.dir.join("log"))?;
                log.write_all(line.as_bytes())?;
                log.sync_all()?;
                sync_dir(&self.dir)?;
                self.promised.log_lines += 1;
                Ok(())
            }
            _ => {
                let there: Vec<_> = self.promised.files.iter().filter(|(_, seed)| seed.is_some()).collect();
                if there.is_empty() {
                    return Ok(());
                }
                let path = there[self.rng.random_range(0..there.len())].0.clone();
                self.promised.under_way = Some((path.clone(), None));
                fs::remove_file(&path)?;
                sync_dir(&self.dir)?;
                self.promised.files.insert(path, None);
                self.promised.under_way = None;
                Ok(())
            }
        }
    }

    fn change(&mut self, path: PathBuf, act: impl FnOnce(&Path, u64) -> io::Result<()>) -> io::Result<()> {
        let seed = self.rng.random();
        self.promised.under_way = Some((path.clone(), Some(seed)));
        act(&path, seed)?;
        sync_dir(&self.dir)?;
        self.promised.files.insert(path, Some(seed));
        self.promised.under_way = None;
        Ok(())
    }
}

/// Every promise, looked up in the reopened mount.
fn kept(promised: &Promised, dir: &Path) {
    for (path, seed) in &promised.files {
        let found = match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => panic!("{}: {e}", path.display()),
        };
        let promise = seed.map(made_of);
        let under_way = promised.under_way.as_ref().filter(|(at, _)| at == path).map(|(_, seed)| seed.map(made_of));
        assert!(
            found == promise || under_way.is_some_and(|bytes| found == bytes),
            "{}: fsynced {:?} bytes, found {:?}",
            path.display(),
            promise.map(|bytes| bytes.len()),
            found.map(|bytes| bytes.len()),
        );
    }
    if promised.log_lines > 0 {
        let log = fs::read_to_string(dir.join("log")).unwrap();
        let durable: String = (0..promised.log_lines).map(log_line).collect();
        assert!(log.starts_with(&durable), "{} lines were fsynced; the log: {log}", promised.log_lines);
    }
}

#[test]
fn during_writes() {
    needs!("during_writes", Fuse);
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [mount, folder]) = lab.pair(["a", "b"], [Mode::Mount, Mode::Watch]);
    let rounds = rounds(50);
    for round in 0..rounds {
        let dir = mount.join(format!("round-{round}"));
        let after = Duration::from_millis(rng.random_range(0..250));
        let mut writer =
            Writer { dir: dir.clone(), rng: ChaCha8Rng::seed_from_u64(rng.random()), promised: Promised::default() };
        fs::create_dir(&dir).unwrap();
        sync_dir(&mount).unwrap();
        let killed = AtomicBool::new(false);
        let steps = AtomicU64::new(0);
        let promised = thread::scope(|scope| {
            let work = scope.spawn(|| {
                while !killed.load(Ordering::SeqCst) {
                    match writer.step() {
                        Ok(()) => writer.promised.steps = steps.fetch_add(1, Ordering::Relaxed) + 1,
                        Err(error) => {
                            assert!(killed.load(Ordering::SeqCst), "before the kill: {error}");
                            break;
                        }
                    }
                }
                writer.promised
            });
            // The moment is counted from the first step, so that there is something to lose.
            while steps.load(Ordering::Relaxed) == 0 && !work.is_finished() {
                thread::yield_now();
            }
            thread::sleep(after);
            killed.store(true, Ordering::SeqCst);
            a.kill();
            // The writer may hang in the mount until the next engine takes it away.
            a.show(Mode::Mount, None, &mount);
            work.join().unwrap()
        });
        eprintln!("round {round}: killed after {after:?}, {} steps done", promised.steps);
        kept(&promised, &dir);
        a.check();
        // What was removed before the last rounds is garbage, for the store to collect.
        if round >= 3 {
            fs::remove_dir_all(mount.join(format!("round-{}", round - 3))).unwrap();
        }
        if round % 10 == 9 || round + 1 == rounds {
            a.wait(&mount, "all");
            same_trees(&[&mount, &folder], LIMIT);
            b.check();
        }
    }
    a.stop();
    b.stop();
}

/// What the only share of a device lacks, in bytes.
fn missing(receiver: &Device) -> u64 {
    receiver.status()["shares"][0]["missing"]["bytes"].as_u64().unwrap()
}

/// What the large files of `during_a_transfer` have: enough that the kill meets one on its way, also on a quick machine.
const LARGE: usize = 96 << 20;

/// Whether a device shows a file with the time that it has elsewhere.
fn shows(device: &Device, file: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    time(&device.dir("s").join(file.file_name().unwrap())) == time(file)
}

#[test]
fn during_a_transfer() {
    needs!("during_a_transfer", Fuse);
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let lab = Lab::new();
    let (_segment, mut devices) = lab.on_one_segment(["a", "b", "c"]);
    let dirs: Vec<_> = devices.iter().map(|device| device.dir("s")).collect();
    let modes = [Mode::Watch, Mode::Mount, Mode::Watch];
    devices[0].show(modes[0], None, &dirs[0]);
    let ticket = devices[0].invite(&dirs[0], &["--uses", "2"]);
    for n in 1..3 {
        devices[n].show(modes[n], Some(&ticket), &dirs[n]);
    }
    let (rounds, mut met) = (rounds(25), 0);
    for round in 0..rounds {
        // Two large files take turns, and a handful of small ones come along.
        let large = dirs[0].join(format!("large-{}", round % 2));
        fs::write(&large, bytes(rng.random(), LARGE)).unwrap();
        for n in 0..20 {
            fs::write(dirs[0].join(format!("small-{n}")), bytes(rng.random(), 9_000)).unwrap();
        }
        // It has begun when somebody lacks something, and is over when nobody does and the file is there.
        until("the change has come", LIMIT, || match devices[1..].iter().map(missing).max() {
            Some(bytes) if bytes > 0 => Ok(()),
            _ if devices[1..].iter().all(|device| shows(device, &large)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        thread::sleep(Duration::from_millis(rng.random_range(0..200)));
        // Any of them, or several.
        let victims = rng.random_range(1..8);
        let lacks = devices[1..].iter().map(missing).max().unwrap();
        met += u64::from(lacks > 0);
        eprintln!("round {round}: {victims:03b} killed, {lacks} bytes are on their way");
        let hit = |n: usize| victims & (1 << n) != 0;
        for n in (0..3).filter(|n| hit(*n)) {
            devices[n].kill();
        }
        for n in (0..3).filter(|n| hit(*n)) {
            devices[n].show(modes[n], None, &dirs[n]);
        }
        for device in &devices {
            device.check();
        }
        devices[0].wait(&dirs[0], "all");
        let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let tree = same_trees(&paths, LIMIT);
        assert!(tree.names().iter().all(|name| !name.contains("conflict")), "{:?}", tree.names());
    }
    assert!(met * 3 >= rounds, "{met} of {rounds} kills met a transfer");
    for device in &mut devices {
        device.stop();
    }
}

/// The pack segments of a device.
fn packs(device: &Device) -> BTreeSet<String> {
    let entries = fs::read_dir(device.state_dir().join("store/packs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Most of what is in the packs is garbage at once, so that they are worth compacting; the collection and the compactions of
/// `check --repair` are killed.
#[test]
fn during_a_compaction() {
    needs!("during_a_compaction", Fuse);
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (mount, other) = (a.dir("s"), b.dir("s"));
    for device in [&a, &b] {
        fs::DirBuilder::new().mode(0o700).create(device.state_dir()).unwrap();
        // What is removed is garbage.
        fs::write(device.state_dir().join("config.toml"), "retention = '0s'\n").unwrap();
    }
    a.show(Mode::Mount, None, &mount);
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Mount, Some(&ticket), &other);
    let (rounds, mut compacted) = (rounds(25), [0; 2]);
    for round in 0..rounds {
        let dir = mount.join(format!("round-{round}"));
        fs::create_dir(&dir).unwrap();
        for n in 0..120 {
            fs::write(dir.join(format!("{n}")), bytes(rng.random(), 20_000)).unwrap();
        }
        sync_dir(&dir).unwrap();
        a.wait(&mount, "all");
        let keep: BTreeSet<u32> = (0..10).map(|_| rng.random_range(0..120)).collect();
        for n in (0..120).filter(|n| !keep.contains(n)) {
            fs::remove_file(dir.join(format!("{n}"))).unwrap();
        }
        sync_dir(&dir).unwrap();
        a.wait(&mount, "all");
        // A collection spares what came since the one before: this one drops nothing, the next one all.
        for device in [&a, &b] {
            device.ok(&["check", "--repair"]);
        }
        let before = Tree::read(&mount).unwrap();
        let segments = [packs(&a), packs(&b)];
        // What it repairs with is a collection and as many compactions as there are segments worth one.
        let repair = [a.crdtfs(&["check", "--repair"]), b.crdtfs(&["check", "--repair"])];
        let mut under_way =
            repair.map(|mut command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        if round % 2 == 0 {
            // What it moves goes to a new segment: from then on it is under way.
            for ((device, before), command) in [&a, &b].into_iter().zip(&segments).zip(&mut under_way) {
                while packs(device).is_subset(before) && command.try_wait().unwrap().is_none() {}
            }
        } else {
            thread::sleep(Duration::from_millis(rng.random_range(0..150)));
        }
        eprintln!("round {round}: killed");
        a.kill();
        b.kill();
        for mut command in under_way {
            // It may have been done by then.
            command.wait().unwrap();
        }
        a.show(Mode::Mount, None, &mount);
        b.show(Mode::Mount, None, &other);
        for ((device, before), compacted) in [&a, &b].into_iter().zip(&segments).zip(&mut compacted) {
            let (now, done) = (packs(device), before.difference(&packs(device)).next().is_some());
            *compacted += u64::from(now != *before);
            eprintln!("{}: {}", device.name(), if done { "compacted" } else { "not to the end" });
        }
        assert_eq!(before.differences(&Tree::read(&mount).unwrap()), Vec::<String>::new());
        a.check();
        b.check();
        a.wait(&mount, "all");
        same_trees(&[&mount, &other], LIMIT);
        if round >= 3 {
            fs::remove_dir_all(mount.join(format!("round-{}", round - 3))).unwrap();
        }
    }
    eprintln!("{compacted:?} of {rounds} kills met a compaction, or came after one");
    assert!(compacted.iter().all(|compacted| *compacted * 3 >= rounds), "{compacted:?} of {rounds}");
    a.stop();
    b.stop();
}
