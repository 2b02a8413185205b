//! Three devices work at random on the same names, with links cut now and then: they converge, and keep what nobody removed.
//!
//! `CRDTFS_SEED` chooses the operations; their timing is the machine's.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crdtfs_tests::{Device, Lab, Mode, Segment, bytes, needs, same_trees, seed};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LIMIT: Duration = Duration::from_secs(60);

/// What people do, without looking at what others do.
struct Worker {
    name: String,
    root: PathBuf,
    rng: ChaCha8Rng,
    /// Contents of the files that nobody touches after they were written: they must all be there in the end.
    kept: Vec<Vec<u8>>,
    done: u64,
}

impl Worker {
    /// The directories that move about, but are never removed; the root is one.
    fn homes(&self) -> Vec<PathBuf> {
        let mut homes = vec![self.root.clone()];
        let mut next = 0;
        while let Some(dir) = homes.get(next).cloned() {
            next += 1;
            let inside = fs::read_dir(dir).into_iter().flatten().flatten();
            homes.extend(inside.map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("home") && path.is_dir()
            }));
        }
        homes
    }

    fn home(&mut self) -> PathBuf {
        self.homes().choose(&mut self.rng).cloned().unwrap_or_else(|| self.root.clone())
    }

    /// A name that the others use as well.
    fn contested(&mut self) -> PathBuf {
        let name =
            ["text-1.txt", "text-2.txt", "text-3.txt", "data-1.bin", "data-2.bin"].choose(&mut self.rng).unwrap();
        self.home().join(name)
    }

    fn step(&mut self) -> io::Result<()> {
        self.done += 1;
        match self.rng.random_range(0..100) {
            0..25 => {
                let text = format!("{} wrote this as its number {}\n", self.name, self.done);
                let path = self.home().join(format!("keep-{}-{}", self.name, self.done));
                fs::write(path, &text)?;
                self.kept.push(text.into_bytes());
                Ok(())
            }
            25..45 => {
                let path = self.contested();
                let old =
                    fs::read_to_string(&path).unwrap_or_else(|_| (0..20).map(|n| format!("line {n}\n")).collect());
                let at = self.rng.random_range(0..20);
                let mark = format!("{} {}", self.name, self.done);
                let lines = old.lines().enumerate().map(|(n, line)| if n == at { mark.as_str() } else { line });
                fs::write(path, lines.map(|line| format!("{line}\n")).collect::<String>())
            }
            45..52 => {
                let path = self.contested();
                let len = self.rng.random_range(0..150_000);
                fs::write(path, bytes(self.rng.random(), len))
            }
            52..60 => fs::rename(self.contested(), self.contested()),
            60..66 => fs::remove_file(self.contested()),
            66..74 => {
                let name = format!("home-{}", self.rng.random_range(0..6));
                fs::create_dir(self.home().join(name))
            }
            74..84 => {
                // Never over a directory that exists: that would be its removal.
                let (from, into) = (self.home(), self.home());
                let to = into.join(format!("home-{}", self.rng.random_range(0..6)));
                if from == self.root || to.exists() { Ok(()) } else { fs::rename(from, to) }
            }
            84..93 => {
                let scratch = self.root.join(format!("scratch-{}", self.rng.random_range(0..3)));
                fs::create_dir_all(scratch.join("in/side"))?;
                fs::write(scratch.join("in/side").join(format!("{}", self.done % 7)), "scratch\n")
            }
            _ => fs::remove_dir_all(self.root.join(format!("scratch-{}", self.rng.random_range(0..3)))),
        }
    }

    fn work(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            if let Err(error) = self.step() {
                // What the others do meanwhile makes some steps impossible; nothing else may.
                // (Stale: a directory of a mount that went, or became part of another, twice while it was looked up.)
                use io::ErrorKind::{
                    AlreadyExists, DirectoryNotEmpty, InvalidInput, IsADirectory, NotADirectory, NotFound,
                    StaleNetworkFileHandle,
                };
                let expected = [
                    AlreadyExists,
                    DirectoryNotEmpty,
                    InvalidInput,
                    IsADirectory,
                    NotADirectory,
                    NotFound,
                    StaleNetworkFileHandle,
                ];
                assert!(expected.contains(&error.kind()), "{}: {error}", self.name);
            }
            // People are slower than the disk, and the more so for a test of two seconds.
            let pause = self.rng.random_range(0..8);
            thread::sleep(Duration::from_millis(pause));
        }
        self
    }
}

fn storm(modes: [Mode; 3]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let lab = Lab::new();
    let (segment, mut devices) = lab.on_one_segment(["anna", "bert", "carl"]);
    let dirs: Vec<_> = devices.iter().map(|device| device.dir("s")).collect();
    devices[0].show(modes[0], None, &dirs[0]);
    let ticket = devices[0].invite(&dirs[0], &["--uses", "2"]);
    for n in 1..3 {
        devices[n].show(modes[n], Some(&ticket), &dirs[n]);
    }
    let mut kept = Vec::new();
    for round in 0..3 {
        kept.extend(work_apart(&segment, &devices, &dirs, round, &mut rng));
        for (device, dir) in devices.iter().zip(&dirs) {
            device.wait(dir, "all");
        }
        let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let tree = same_trees(&paths, LIMIT);
        for text in &kept {
            let text: &Vec<u8> = text;
            assert!(
                tree.holder(text).is_some(),
                "lost: {}; there is {:#?}",
                String::from_utf8_lossy(text),
                tree.names()
            );
        }
        let copies = tree.names().iter().filter(|name| name.contains("(conflict ")).count();
        eprintln!("round {round}: {} kept, {} entries, {copies} conflict copies", kept.len(), tree.0.len());
    }
    for device in &mut devices {
        device.check();
        device.stop();
    }
}

/// All work for two seconds; meanwhile each is off the network for a while.
fn work_apart(
    segment: &Segment,
    devices: &[Device; 3],
    dirs: &[PathBuf],
    round: u64,
    rng: &mut ChaCha8Rng,
) -> Vec<Vec<u8>> {
    let until = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        let workers: Vec<_> = dirs
            .iter()
            .zip(devices)
            .map(|(root, device)| {
                let worker = Worker {
                    name: format!("{}-{round}", device.name()),
                    root: root.clone(),
                    rng: ChaCha8Rng::seed_from_u64(rng.random()),
                    kept: Vec::new(),
                    done: 0,
                };
                scope.spawn(move || worker.work(until))
            })
            .collect();
        while Instant::now() < until {
            let victim = &devices[rng.random_range(0..3)];
            segment.cut(victim);
            thread::sleep(Duration::from_millis(rng.random_range(0..400)));
            segment.heal(victim);
            thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        }
        workers.into_iter().flat_map(|worker| worker.join().unwrap().kept).collect()
    })
}

#[test]
fn three_mounts() {
    needs!("three_mounts", Fuse);
    storm([Mode::Mount, Mode::Mount, Mode::Mount]);
}

#[test]
fn three_folders() {
    needs!("three_folders");
    storm([Mode::Watch, Mode::Watch, Mode::Watch]);
}

#[test]
fn of_both_kinds() {
    needs!("of_both_kinds", Fuse);
    storm([Mode::Mount, Mode::Watch, Mode::Mount]);
}
