//! How real programs save a file, as recorded by `strace -f -y -e trace=%file,%desc` (calls that change nothing left out, the
//! directory named `/w`), while another device edits it: one file with both edits, wherever the program leaves one file.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use crdtfs_core::id::InodeId;
use crdtfs_core::node::Basis;
use crdtfs_core::op::RenameMode;
use crdtfs_testkit::Device;

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
const SAVED: &str = "1\ntwo\n3\n4\n5\n6\n7\n8\n9\n";
const ELSEWHERE: &str = "1\n2\n3\n4\n5\n6\n7\neight\n9\n";
const BOTH: &str = "1\ntwo\n3\n4\n5\n6\n7\neight\n9\n";

/// A file that the program has open for writing.
struct Handle {
    inode: InodeId,
    basis: Basis,
    text: String,
    dirty: bool,
}

/// A program at work on a device, call by call, as a mount would be told.
struct Replay<'d> {
    device: &'d mut Device,
    handles: BTreeMap<String, Handle>,
}

impl Replay<'_> {
    /// One line of a trace: `call(arguments) = result`.
    fn call(&mut self, line: &str) {
        let (call, rest) = line.split_once('(').unwrap();
        let (arguments, result) = rest.rsplit_once(") = ").unwrap();
        let paths: Vec<_> = strings(arguments).iter().map(|path| relative(path)).collect();
        let fd = |text: &str| text.split('<').next().unwrap().to_string();
        match call {
            "openat" => self.open(&fd(result), &relative(result.split(['<', '>']).nth(1).unwrap()), arguments),
            "write" => self.write(&fd(arguments), &strings(arguments)[0]),
            "copy_file_range" if result != "0" => self.write(&fd(arguments.split(", ").nth(2).unwrap()), SAVED),
            "ftruncate" => {
                let handle = self.handles.get_mut(&fd(arguments)).unwrap();
                (handle.text, handle.dirty) = (String::new(), true);
            }
            "close" => self.close(&fd(arguments)),
            "rename" | "renameat" => _ = self.device.rename(&paths[0], &paths[1], RenameMode::Replace).unwrap(),
            "unlink" | "unlinkat" => _ = self.device.unlink(&paths[0]).unwrap(),
            "symlink" => _ = self.device.symlink(&strings(arguments)[0], &paths[1]).unwrap(),
            "chmod" | "fchmodat" => self.chmod(&paths[0], arguments),
            "fchmod" => self.chmod(&relative(arguments.split(['<', '>']).nth(1).unwrap()), arguments),
            "copy_file_range" => {}
            other => panic!("a call that this test does not know: {other}"),
        }
    }

    fn open(&mut self, fd: &str, path: &str, arguments: &str) {
        for (at, _) in path.match_indices('/') {
            if self.device.find(&path[..at]).is_none() {
                self.device.mkdir(&path[..at]).unwrap();
            }
        }
        if self.device.find(path).is_none() {
            assert!(arguments.contains("O_CREAT"), "{path} is not there");
            self.device.write_new(path, "").unwrap();
        }
        let node = self.device.find(path).unwrap();
        let cut = arguments.contains("O_TRUNC");
        let text = if cut { String::new() } else { self.device.read(path).unwrap() };
        let handle = Handle { inode: node.inode, basis: node.basis, text, dirty: cut };
        self.handles.insert(fd.into(), handle);
    }

    /// All programs write from the beginning on.
    fn write(&mut self, fd: &str, text: &str) {
        let handle = self.handles.get_mut(fd).unwrap();
        handle.text.push_str(text);
        handle.dirty = true;
    }

    fn close(&mut self, fd: &str) {
        if let Some(handle) = self.handles.remove(fd)
            && handle.dirty
        {
            // A file that was removed while it was open is not published.
            _ = self.device.close_write(handle.inode, handle.text.as_bytes(), handle.basis);
        }
    }

    fn chmod(&mut self, path: &str, arguments: &str) {
        let mode = arguments.rsplit(", ").next().unwrap();
        self.device.chmod(path, u32::from_str_radix(mode, 8).unwrap() & 0o7777).unwrap();
    }
}

/// The string literals among the arguments, unescaped as far as the traces need it.
fn strings(arguments: &str) -> Vec<String> {
    arguments.split('"').skip(1).step_by(2).map(|text| text.replace("\\n", "\n").replace("\\0", "\0")).collect()
}

fn relative(path: &str) -> String {
    path.trim_start_matches("/w/").trim_start_matches("./").to_string()
}

/// Runs a trace on one device, while another, which is told of every call at once if it is `online`, has edited the file.
fn run(trace: &str, online: bool) -> Device {
    let (mut a, mut b) = (Device::new("ann", 1), Device::new("bob", 2));
    a.write("f.txt", LINES).unwrap();
    b.sync_from(&a);
    // What was made long before is not part of a save.
    a.now_ms += 3_600_000;
    b.write("f.txt", ELSEWHERE).unwrap();
    let mut replay = Replay { device: &mut a, handles: BTreeMap::new() };
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        replay.call(line);
        if online {
            b.sync_from(replay.device);
        }
    }
    assert_eq!(a.read("f.txt").unwrap(), SAVED, "the trace saves the file");
    b.sync_from(&a);
    a.sync_from(&b);
    assert_eq!(a.dump(), b.dump());
    a
}

/// The names that are left in the directory but for git's own.
fn names(device: &Device) -> Vec<String> {
    device.ls("").into_iter().filter(|name| name != ".git").collect()
}

#[track_caller]
fn is_an_edit(trace: &str) {
    for online in [false, true] {
        let device = run(trace, online);
        assert_eq!(names(&device), ["f.txt"], "online: {online}");
        assert_eq!(device.read("f.txt").unwrap(), BOTH, "online: {online}");
    }
}

#[test]
fn vim() {
    is_an_edit(include_str!("traces/vim.strace"));
}

/// With `backupcopy=no`: the old file is moved aside, and removed when the new one is written.
#[test]
fn vim_that_moves_aside() {
    is_an_edit(include_str!("traces/vim-aside.strace"));
}

#[test]
fn nano() {
    is_an_edit(include_str!("traces/nano.strace"));
}

#[test]
fn sed() {
    is_an_edit(include_str!("traces/sed.strace"));
}

#[test]
fn git_checkout() {
    is_an_edit(include_str!("traces/git.strace"));
}

#[test]
fn rsync() {
    is_an_edit(include_str!("traces/rsync.strace"));
}

#[test]
fn cp() {
    is_an_edit(include_str!("traces/cp.strace"));
}

#[test]
fn cp_that_removes_first() {
    is_an_edit(include_str!("traces/cp-remove.strace"));
}

/// The backup is the old file, and stays: what was edited elsewhere is in it, and nothing is lost.
#[test]
fn emacs_keeps_the_old_file_as_a_backup() {
    for online in [false, true] {
        let device = run(include_str!("traces/emacs.strace"), online);
        assert_eq!(names(&device), ["f.txt", "f.txt~"]);
        assert_eq!(device.read("f.txt").unwrap(), SAVED);
        assert_eq!(device.read("f.txt~").unwrap(), ELSEWHERE);
    }
}
