//! `cargo xtask demo`: three devices on this machine, over loopback only.
//!
//! A laptop and a tablet mount the share, a desk watches a folder (without FUSE all three watch). This project's own source
//! tree is copied in; the laptop and the desk edit while they are apart; everything heals, and the three trees are compared
//! byte for byte. All of it lies in a temporary directory that is gone afterwards, also after a failure or Ctrl-C.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::device::{Device, Mode};
use crate::process::run as run_command;
use crate::tree::Tree;
use crate::{build_program, machine, root};

/// What happened, and how long it took.
struct Story {
    rows: Vec<(String, Option<Duration>)>,
}

impl Story {
    /// Does a step and tells it.
    fn step<T>(&mut self, what: impl Into<String>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let what = what.into();
        eprintln!("… {what}");
        let start = Instant::now();
        let result = act().with_context(|| what.clone())?;
        self.rows.push((what, Some(start.elapsed())));
        Ok(result)
    }

    fn print(&self) {
        let width = self.rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        println!();
        for (what, took) in &self.rows {
            match took {
                Some(took) => println!("{what:width$}  {:>8.3} s", took.as_secs_f64()),
                None => println!("{what}"),
            }
        }
    }
}

pub(crate) fn run() -> Result<()> {
    let program = build_program()?;
    survive_interrupt()?;
    let scratch = tempfile::Builder::new().prefix("crdtfs-demo-").tempdir()?;
    let mounted = match machine::no_fuse() {
        None => Mode::Mount,
        Some(why) => {
            eprintln!("no FUSE here ({why}): all three devices watch a folder");
            Mode::Watch
        }
    };
    let mut story = Story { rows: Vec::new() };
    // Declared after the directory, so gone before it.
    let mut laptop = Device::new(scratch.path(), "laptop", mounted, &program)?;
    let mut tablet = Device::new(scratch.path(), "tablet", mounted, &program)?;
    let mut desk = Device::new(scratch.path(), "desk", Mode::Watch, &program)?;
    together(&mut story, &mut laptop, &mut tablet, &mut desk)?;
    apart(&mut story, &mut laptop, &mut tablet, &mut desk)?;
    for device in [&mut laptop, &mut tablet, &mut desk] {
        let name = device.name;
        story.step(format!("{name} leaves"), || device.stop())?;
    }
    story.print();
    println!("\nthe three trees were equal byte for byte after each step that syncs; nothing is left behind");
    Ok(())
}

/// Ctrl-C goes to the devices, too; here it must not end the program before they are taken away: the step that is under way
/// fails because its device is gone, and everything is cleaned up on the way out.
fn survive_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    });
    Ok(())
}

fn together(story: &mut Story, laptop: &mut Device, tablet: &mut Device, desk: &mut Device) -> Result<()> {
    story.step(format!("laptop makes a share ({})", laptop.mode.word()), || laptop.start(None))?;
    for device in [&mut *tablet, &mut *desk] {
        let ticket = laptop.invite()?;
        story.step(format!("{} joins by a ticket ({})", device.name, device.mode.word()), || {
            device.start(Some(&ticket))
        })?;
    }
    story.step("this source tree is copied into the laptop's", || copy_sources(&laptop.dir.join("source")))?;
    story.step("all three have it", || laptop.wait_in_sync())?;
    let tree = same(&[laptop, tablet, desk])?;
    story.rows.push((format!("  ({} files, {} KiB)", tree.files(), tree.bytes() >> 10), None));
    Ok(())
}

fn apart(story: &mut Story, laptop: &mut Device, tablet: &mut Device, desk: &mut Device) -> Result<()> {
    let note = |device: &Device| device.dir.join("note.txt");
    let lines = |first: &str, last: &str| format!("{first}\n{}{last}\n", "a line that stays\n".repeat(20));
    fs::write(note(laptop), lines("first", "last"))?;
    story.step("a note is seen by all", || laptop.wait_in_sync())?;

    story.step("the desk's engine is killed", || desk.kill())?;
    story.step("laptop: edits the note's first line, adds a file, renames a directory", || {
        fs::write(note(laptop), lines("first, as the laptop has it", "last"))?;
        fs::write(laptop.dir.join("from-the-laptop"), "laptop\n")?;
        fs::rename(laptop.dir.join("source/crates"), laptop.dir.join("source/boxes")).context("rename")
    })?;
    story.step("desk, meanwhile: edits the note's last line, edits below that directory, deletes a file", || {
        fs::write(note(desk), lines("first", "last, as the desk has it"))?;
        fs::write(desk.dir.join("source/crates/from-the-desk"), "desk\n")?;
        fs::remove_file(desk.dir.join("source/rustfmt.toml")).context("delete")
    })?;
    story.step("the tablet is killed, too, and both come back", || {
        tablet.kill()?;
        tablet.start(None)?;
        desk.start(None)
    })?;
    story.step("healed: all three agree", || laptop.wait_in_sync())?;
    same(&[laptop, tablet, desk])?;

    let merged = fs::read_to_string(note(tablet))?;
    ensure!(merged == lines("first, as the laptop has it", "last, as the desk has it"), "not merged: {merged}");
    let there = |path: &str| tablet.dir.join(path).exists();
    ensure!(there("from-the-laptop") && there("source/boxes/from-the-desk"), "something that was written is missing");
    ensure!(!there("source/rustfmt.toml") && !there("source/crates"), "something that was deleted or renamed is back");
    story.rows.push(("  (one note with both edits, the new file in the renamed directory)".to_owned(), None));
    Ok(())
}

/// What git knows of this project.
fn copy_sources(to: &Path) -> Result<()> {
    let root = root()?;
    let listed = run_command(Command::new("git").current_dir(&root).args(["ls-files", "-z"]))?.stdout;
    for name in String::from_utf8(listed)?.split('\0').filter(|name| !name.is_empty()) {
        let file = to.join(name);
        fs::create_dir_all(file.parent().context("it has a directory")?)?;
        match fs::copy(root.join(name), &file) {
            // Deleted, but not committed yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.with_context(|| format!("cannot copy {name}"))?),
        }
    }
    Ok(())
}

/// The tree that all devices have, or the differences.
fn same(devices: &[&Device]) -> Result<Tree> {
    let first = Tree::read(&devices[0].dir)?;
    for other in &devices[1..] {
        let tree = Tree::read(&other.dir)?;
        first.same_as(&tree).with_context(|| format!("{} and {} differ", devices[0].name, other.name))?;
    }
    Ok(first)
}
