//! Real mounts over shares in memory. Where there is no FUSE they say so and test nothing.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::ShareId;
use crdtfs_core::port::Adapter;
use crdtfs_engine::present::{OwnerPolicy, PresentError, PresentOptions, Presented, Presenter, SharePorts};
use crdtfs_mount::MountPresenter;
use crdtfs_testkit::MemoryShare;
use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// A condition that has this long to come true; far more than it takes.
const SOON: Duration = Duration::from_secs(30);

fn no_fuse() -> bool {
    let error = rustix::process::geteuid().is_root().then(|| File::options().read(true).write(true).open("/dev/fuse"));
    let missing = match error {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(format!("/dev/fuse: {error}")),
        None if helper() => None,
        None => Some("not root, and there is no fusermount3".into()),
    };
    if let Some(why) = &missing {
        eprintln!("SKIPPED, there is no FUSE here: {why}");
    }
    missing.is_some()
}

fn helper() -> bool {
    Command::new("fusermount3").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED, there is no {program} here");
    }
    there
}

struct Mount {
    presented: Option<Box<dyn Presented>>,
    share: Arc<MemoryShare>,
    dir: PathBuf,
    _home: tempfile::TempDir,
}

impl Mount {
    fn new() -> Self {
        Self::of(MemoryShare::new("test", 1), &PresentOptions { owner: OwnerPolicy::Keep, ..Default::default() })
    }

    fn of(share: Arc<MemoryShare>, options: &PresentOptions) -> Self {
        Self::by(MountPresenter::new(), share, options)
    }

    fn by(presenter: MountPresenter, share: Arc<MemoryShare>, options: &PresentOptions) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("mount");
        let state = home.path().join("state");
        fs::create_dir(&state).unwrap();
        presenter.prepare(&dir, options, false).unwrap();
        let presented = presenter.present(ports(&share, state), &dir, options).unwrap();
        Self { presented: Some(presented), share, dir, _home: home }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    fn settle(&self) {
        assert!(self.presented.as_ref().unwrap().settle(Instant::now() + SOON));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.presented.take());
        // If that failed the temporary directory could not go either.
        let _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
    }
}

fn ports(share: &Arc<MemoryShare>, state: PathBuf) -> SharePorts {
    SharePorts {
        share: ShareId([7; 32]),
        adapter: Adapter(1),
        tree: share.clone(),
        content: share.clone(),
        device_name: "test".into(),
        state,
        asked: true,
        progressed: std::sync::Arc::new(|| {}),
    }
}

/// Waits for something that comes without being asked for.
fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::yield_now();
    }
}

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.current_dir(dir).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_directories_and_links() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    fs::write(mount.at("small"), b"hello").unwrap();
    fs::write(mount.at("big"), &big).unwrap();
    fs::create_dir_all(mount.at("a/b/c")).unwrap();
    std::os::unix::fs::symlink("../small", mount.at("a/link")).unwrap();
    fs::hard_link(mount.at("small"), mount.at("a/hard")).unwrap();
    assert_eq!(fs::read(mount.at("a/link")).unwrap(), b"hello");
    assert_eq!(fs::metadata(mount.at("a/hard")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(mount.at("a/hard")).unwrap().ino(), fs::metadata(mount.at("small")).unwrap().ino());
    assert_eq!(fs::metadata(mount.at("a")).unwrap().nlink(), 3);
    assert_eq!(fs::read(mount.at("big")).unwrap(), big);
    mount.settle();
    assert_eq!(fs::read(mount.at("big")).unwrap(), big);
    assert_eq!(listed(&mount.at("a")), ["b", "hard", "link"]);
    assert_eq!(fs::remove_dir(mount.at("a/b")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::remove_dir_all(mount.at("a")).unwrap();
    assert_eq!(fs::metadata(mount.at("small")).unwrap().nlink(), 1);
    rustix::fs::mknodat(CWD, mount.at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(mount.at("socket")).unwrap();
    assert_eq!(listed(&mount.dir), ["big", "fifo", "small", "socket"]);
    let long = "n".repeat(256);
    assert_eq!(fs::write(mount.at(&long), b"").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    fs::write(mount.at(&long[1..]), b"").unwrap();
    assert!(rustix::fs::statvfs(&mount.dir).unwrap().f_blocks > 0);
}

#[test]
fn open_files_outlive_their_names() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let mut file = File::options().read(true).write(true).create_new(true).open(mount.at("f")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(mount.at("f")).unwrap();
    file.write_all(b" after").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.len()), (0, 12));
    fs::write(mount.at("f"), b"another").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 12);
    drop(file);
    mount.settle();
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"another");
}

#[test]
fn renames_in_all_forms() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let at = |path: &str| mount.at(path);
    fs::write(at("a"), b"a").unwrap();
    fs::write(at("b"), b"b").unwrap();
    let rename = |from: &str, to: &str, flags| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags);
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"b");
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    fs::rename(at("a"), at("b")).unwrap();
    assert_eq!(listed(&mount.dir), ["b"]);
    assert_eq!(fs::read(at("b")).unwrap(), b"b");
    // Saved by rename while somebody reads the old state.
    let mut old = File::open(at("b")).unwrap();
    fs::write(at("tmp"), b"saved").unwrap();
    fs::rename(at("tmp"), at("b")).unwrap();
    assert_eq!(fs::read(at("b")).unwrap(), b"saved");
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");
    drop(old);
    mount.settle();
    assert_eq!(fs::read(at("b")).unwrap(), b"saved");
    fs::create_dir_all(at("d/e")).unwrap();
    assert_eq!(fs::rename(at("d"), at("d/e/f")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    fs::create_dir(at("empty")).unwrap();
    fs::rename(at("d"), at("empty")).unwrap();
    assert_eq!(listed(&at("empty")), ["e"]);
    let mut written = File::create(at("open")).unwrap();
    written.write_all(b"one ").unwrap();
    fs::rename(at("open"), at("empty/moved")).unwrap();
    written.write_all(b"two").unwrap();
    drop(written);
    assert_eq!(fs::read(at("empty/moved")).unwrap(), b"one two");
}

#[test]
fn attributes_times_and_xattrs() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let path = mount.at("f");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let stamps = Timestamps {
        last_access: Timespec { tv_sec: 1, tv_nsec: 2 },
        last_modification: Timespec { tv_sec: -7, tv_nsec: 999_999_999 },
    };
    rustix::fs::utimensat(CWD, &path, &stamps, AtFlags::empty()).unwrap();
    let check = || {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-7, 999_999_999));
        assert_eq!((metadata.atime(), metadata.atime_nsec()), (1, 2));
    };
    check();
    mount.settle();
    check();
    rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&path, "user.colour", b"red", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let mut buf = [0_u8; 100];
    let len = rustix::fs::getxattr(&path, "user.colour", &mut buf[..]).unwrap();
    assert_eq!(&buf[..len], b"blue");
    let short = rustix::fs::getxattr(&path, "user.colour", &mut buf[..2]);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let len = rustix::fs::listxattr(&path, &mut buf[..]).unwrap();
    assert_eq!(&buf[..len], b"user.colour\0");
    rustix::fs::removexattr(&path, "user.colour").unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut buf[..]), Err(rustix::io::Errno::NODATA));
}

#[test]
fn appends_truncation_holes_and_copies() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let path = mount.at("log");
    let mut writers: Vec<_> =
        (0..4).map(|_| OpenOptions::new().append(true).create(true).open(&path).unwrap()).collect();
    for round in 0..100 {
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.write_all(format!("{round} {number}\n").as_bytes()).unwrap();
        }
    }
    drop(writers);
    let lines = fs::read_to_string(&path).unwrap();
    let expected: String = (0..400).map(|at| format!("{} {}\n", at / 4, at % 4)).collect();
    assert_eq!(lines, expected);
    fs::write(&path, b"short").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(2).unwrap();
    let far = 5 << 30;
    file.write_at(b"end", far).unwrap();
    assert_eq!(file.metadata().unwrap().len(), far + 3);
    let mut buf = [1; 6];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"sh\0\0\0\0");
    file.read_exact_at(&mut buf[..3], far).unwrap();
    assert_eq!(&buf[..3], b"end");
    file.set_len(100_000).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 200_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 200_000);
    file.write_at(&[9; 1000], 0).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 500).unwrap();
    let copy = File::options().read(true).write(true).create_new(true).open(mount.at("copy")).unwrap();
    let (mut from, mut to) = (0, 0);
    let mut left = 200_000;
    while left > 0 {
        let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), left).unwrap();
        assert!(copied > 0);
        left -= copied;
    }
    drop((file, copy));
    assert_eq!(fs::read(mount.at("copy")).unwrap(), fs::read(&path).unwrap());
    assert_eq!(fs::read(&path).unwrap()[..1000], [[0; 500], [9; 500]].concat());
}

/// A file mapped shared.
struct Map(*mut u8, usize);

impl Map {
    #[allow(unsafe_code)]
    fn new(file: &File, len: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping chosen by the kernel; it is unmapped in `drop` and not used after.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast(), len)
    }

    #[allow(unsafe_code)]
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long as this and nothing else in this process refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

impl Drop for Map {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference outlives it.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

/// Set in the process that maps the file.
const MAPPED: &str = "CRDTFS_TEST_MAPPED";

/// Another process maps: while one unmaps, none of its threads can take a page fault, and those of a session may need to.
#[test]
fn mapped_files_are_written_and_read() {
    if let Some(path) = std::env::var_os(MAPPED) {
        return write_mapped(Path::new(&path));
    }
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let path = mount.at("f");
    fs::write(&path, vec![b'.'; 10_000]).unwrap();
    mount.settle();
    let mapping = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mapped_files_are_written_and_read"])
        .env(MAPPED, &path)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(mapping.success());
    mount.settle();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'X').count(), 1);
    assert_eq!(bytes.len(), 10_000);
}

fn write_mapped(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut map = Map::new(&file, 10_000);
    assert_eq!(map.bytes()[9_999], b'.');
    map.bytes()[5_000] = b'X';
    let mut one = [0];
    file.read_exact_at(&mut one, 5_000).unwrap();
    assert_eq!(one, *b"X");
}

#[test]
fn ten_thousand_files() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let dir = mount.at("many");
    fs::create_dir(&dir).unwrap();
    for number in 0..10_000 {
        fs::write(dir.join(format!("f{number}")), number.to_string()).unwrap();
    }
    assert_eq!(listed(&dir).len(), 10_000);
    mount.settle();
    for number in (0..10_000).step_by(97) {
        assert_eq!(fs::read_to_string(dir.join(format!("f{number}"))).unwrap(), number.to_string());
    }
    assert_eq!(mount.share.records().len(), 2 + 3 * 10_000, "two records for a creation and one for its bytes");
    fs::remove_dir_all(&dir).unwrap();
    assert!(listed(&mount.dir).is_empty());
}

#[test]
fn git_clones_and_finds_its_work_clean() {
    if no_fuse() || !has("git") {
        return;
    }
    let mount = Mount::new();
    let source = tempfile::tempdir().unwrap();
    run(source.path(), "git", &["init", "-q", "-b", "main"]);
    for number in 0..300 {
        let dir = source.path().join(format!("d{}", number % 17));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{number}")), format!("{number}\n").repeat(number % 50 + 1)).unwrap();
    }
    run(source.path(), "git", &["add", "-A"]);
    let commit = ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "all"];
    run(source.path(), "git", &commit);
    run(&mount.dir, "git", &["clone", "-q", "--no-hardlinks", source.path().to_str().unwrap(), "clone"]);
    let clone = mount.at("clone");
    run(&clone, "git", &["fsck", "--strict"]);
    assert_eq!(run(&clone, "git", &["status", "--porcelain"]), "");
    fs::write(clone.join("d1/new"), b"new").unwrap();
    run(&clone, "git", &["add", "-A"]);
    run(&clone, "git", &commit);
    run(&clone, "git", &["gc", "-q"]);
    run(&clone, "git", &["fsck", "--strict"]);
    mount.settle();
    assert_eq!(run(&clone, "git", &["status", "--porcelain"]), "");
}

#[test]
fn sqlite_is_written_by_one_process_and_read_by_another() {
    if no_fuse() || !has("sqlite3") {
        return;
    }
    let mount = Mount::new();
    let sqlite = |sql: &str| run(&mount.dir, "sqlite3", &["-cmd", ".timeout 20000", "db", sql]);
    sqlite("create table t(n integer primary key, x text)");
    let writer = Command::new("sqlite3")
        .current_dir(&mount.dir)
        .args(["-cmd", ".timeout 20000", "db"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.as_ref().unwrap();
    let mut last = 0;
    for round in 0..20 {
        for _ in 0..5 {
            writeln!(input, "insert into t(x) values (hex(randomblob(200)));").unwrap();
        }
        let count: u32 = sqlite("select count(*) from t").trim().parse().unwrap();
        assert!(count >= last && count <= (round + 1) * 5, "a reader sees whole transactions");
        last = count;
    }
    assert!(writer.wait_with_output().unwrap().status.success());
    assert_eq!(sqlite("select count(*) from t").trim(), "100");
    assert_eq!(sqlite("pragma integrity_check").trim(), "ok");
    mount.settle();
    assert_eq!(sqlite("pragma integrity_check").trim(), "ok");
}

#[test]
fn what_another_device_does_appears_by_itself() {
    if no_fuse() {
        return;
    }
    let options = PresentOptions::default();
    let (a, b) = (Mount::of(MemoryShare::new("a", 1), &options), Mount::of(MemoryShare::new("b", 2), &options));
    let exchange = || {
        a.settle();
        b.settle();
        MemoryShare::exchange(&a.share, &b.share);
    };
    fs::create_dir(a.at("d")).unwrap();
    fs::write(a.at("d/f"), b"one").unwrap();
    // Everything is in b's kernel: that there is no such name, then the listing, the attributes and the pages.
    assert!(!b.at("d").exists());
    assert_eq!(listed(&b.dir).len(), 0);
    exchange();
    soon("a new name", || b.at("d/f").exists());
    assert_eq!(listed(&b.dir), ["d"]);
    assert_eq!(fs::read(b.at("d/f")).unwrap(), b"one");
    assert!(!b.at("d/g").exists());
    let mut old = File::open(b.at("d/f")).unwrap();
    fs::write(a.at("d/f"), b"two, and longer").unwrap();
    fs::write(a.at("d/g"), b"g").unwrap();
    exchange();
    soon("new bytes", || fs::read(b.at("d/f")).unwrap() == b"two, and longer");
    assert_eq!(fs::metadata(b.at("d/f")).unwrap().len(), 15);
    soon("a name that was known not to be there", || b.at("d/g").exists());
    assert_eq!(listed(&b.at("d")), ["f", "g"]);
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert!(text == "one" || text.is_empty(), "an open handle sees nothing of it: {text:?}");
    drop(old);
    fs::rename(a.at("d/f"), a.at("moved")).unwrap();
    fs::remove_file(a.at("d/g")).unwrap();
    fs::set_permissions(a.at("moved"), fs::Permissions::from_mode(0o600)).unwrap();
    exchange();
    soon("a rename", || b.at("moved").exists() && !b.at("d/f").exists() && !b.at("d/g").exists());
    assert_eq!(listed(&b.at("d")).len(), 0);
    assert_eq!(fs::read(b.at("moved")).unwrap(), b"two, and longer");
    soon("a mode", || fs::metadata(b.at("moved")).unwrap().mode() & 0o777 == 0o600);
    // Both write the same file at once, and nothing is lost.
    let held = File::options().write(true).open(b.at("moved")).unwrap();
    held.write_all_at(b"B\0", 0).unwrap();
    fs::write(a.at("moved"), b"A\0").unwrap();
    exchange();
    drop(held);
    exchange();
    let mut both: Vec<_> =
        listed(&b.dir).iter().filter(|name| *name != "d").map(|name| fs::read(b.at(name)).unwrap()).collect();
    both.sort();
    assert_eq!(both, [b"A\0".to_vec(), b"B\0o, and longer".to_vec()]);
    soon("the same tree on both", || listed(&a.dir) == listed(&b.dir));
}

#[test]
fn content_that_nobody_has_is_an_error_and_stops_nothing_else() {
    if no_fuse() {
        return;
    }
    let (a, b) = (Mount::new(), MemoryShare::new("b", 2));
    fs::write(a.at("f"), b"here").unwrap();
    a.settle();
    b.pull_records(&a.share);
    let b = Mount::of(b, &PresentOptions::default());
    assert_eq!(fs::metadata(b.at("f")).unwrap().len(), 4);
    assert_eq!(fs::read(b.at("f")).unwrap_err().raw_os_error(), Some(libc::EIO));
    fs::write(b.at("g"), b"fine").unwrap();
    assert_eq!(fs::read(b.at("g")).unwrap(), b"fine");
    b.share.pull_contents(&a.share);
    assert_eq!(fs::read(b.at("f")).unwrap(), b"here");
}

#[test]
fn a_busy_mount_says_so_and_goes_on() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let mut file = File::create(mount.at("f")).unwrap();
    file.write_all(b"1").unwrap();
    let presented = mount.presented.as_ref().unwrap();
    let busy = presented.stop().unwrap_err().to_string();
    assert!(busy.contains("is busy"), "{busy}");
    file.write_all(b"2").unwrap();
    assert!(presented.ended().is_none());
    drop(file);
    presented.stop().unwrap();
    presented.stop().unwrap();
    assert_eq!(listed(&mount.dir).len(), 0, "the directory below is empty as before");
    let written = crdtfs_core::port::Tree::child(
        &*mount.share,
        crdtfs_core::id::InodeId::ROOT,
        &crdtfs_core::name::Name::try_from("f").unwrap(),
    );
    assert_eq!(&*mount.share.bytes(&written.unwrap().content).unwrap(), b"12", "what was written last is published");
}

#[test]
fn a_mount_that_is_taken_away_by_hand_has_ended() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    fs::write(mount.at("f"), b"1").unwrap();
    run(Path::new("/"), "umount", &[mount.dir.to_str().unwrap()]);
    let presented = mount.presented.as_ref().unwrap();
    soon("the end", || presented.ended().is_some());
    presented.stop().unwrap();
}

#[test]
fn a_read_only_mount_refuses_changes() {
    if no_fuse() {
        return;
    }
    let share = MemoryShare::new("test", 1);
    let options = PresentOptions { read_only: true, ..Default::default() };
    let mount = Mount::of(share, &options);
    assert_eq!(fs::write(mount.at("f"), b"").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn the_helper_mounts_and_unmounts() {
    if no_fuse() {
        return;
    }
    if !helper() {
        eprintln!("SKIPPED, there is no fusermount3 here");
        return;
    }
    let mount = Mount::by(MountPresenter::by_helper(), MemoryShare::new("test", 1), &PresentOptions::default());
    fs::write(mount.at("f"), b"1").unwrap();
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"1");
    mount.presented.as_ref().unwrap().stop().unwrap();
    assert!(!mount.at("f").exists());
}

#[test]
fn a_dead_mount_is_taken_away_and_others_are_named() {
    if no_fuse() || !rustix::process::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dead mount");
    fs::create_dir(&dir).unwrap();
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = CString::new(format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd())).unwrap();
    rustix::mount::mount("crdtfs", &dir, "fuse.crdtfs", MountFlags::empty(), data.as_c_str()).unwrap();
    drop(device);
    assert_eq!(fs::metadata(&dir).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let presenter = MountPresenter::new();
    let prepare = |dir: &Path| presenter.prepare(dir, &PresentOptions::default(), false);
    prepare(&dir).unwrap();
    let share = MemoryShare::new("test", 1);
    let shown = presenter.present(ports(&share, home.path().into()), &dir, &PresentOptions::default()).unwrap();
    assert!(fs::metadata(&dir).unwrap().is_dir(), "the new one is what is seen");
    fs::write(dir.join("in the share"), b"").unwrap();
    shown.stop().unwrap();
    assert!(listed(&dir).is_empty(), "the directory below, and nothing was written into it");

    let sentence = |result: Result<(), PresentError>| result.unwrap_err().to_string();
    fs::write(dir.join("x"), b"").unwrap();
    let full = sentence(prepare(&dir));
    assert!(full.contains("is not empty") && full.contains("crdtfs watch"), "{full}");
    let file = sentence(prepare(&dir.join("x")));
    assert!(file.contains("is not a directory"), "{file}");
    prepare(&home.path().join("made/on/demand")).unwrap();
    assert!(home.path().join("made/on/demand").is_dir());
    let mount = Mount::new();
    let mounted = sentence(prepare(&mount.dir));
    assert!(mounted.contains("already has a share mounted"), "{mounted}");
}

#[test]
fn synced_files_and_odd_opens() {
    if no_fuse() {
        return;
    }
    let mount = Mount::new();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(mount.at("f")).unwrap();
    file.write_all(b"1").unwrap();
    file.sync_all().unwrap();
    file.write_all(&vec![2; 300_000]).unwrap();
    file.sync_data().unwrap();
    File::open(&mount.dir).unwrap().sync_all().unwrap();
    assert_eq!(fs::metadata(mount.at("f")).unwrap().len(), 300_001);
    let exists = OpenOptions::new().write(true).create_new(true).open(mount.at("f")).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::AlreadyExists);
    assert_eq!(File::create(&mount.dir).unwrap_err().kind(), ErrorKind::IsADirectory);
    let tmpfile = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&mount.dir).unwrap_err();
    assert_eq!(tmpfile.raw_os_error(), Some(libc::EOPNOTSUPP), "refused, so that programs do without");
    drop(file);
    assert_eq!(fs::read(mount.at("f")).unwrap().len(), 300_001);
}
