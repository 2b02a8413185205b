//! Mounting and unmounting: directly where the kernel lets us (root), else through `fusermount3`.
//!
//! fuser's own mounting is not used: 0.18 takes a mount with a request waiting for one that is gone and then leaves it, and
//! gives up its handle when the kernel says that the mount is busy.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Type of our mounts in the mount table.
pub(crate) const FS_TYPE: &str = "fuse.crdtfs";

/// Largest request for data, in bytes.
pub(crate) const MAX_IO: u32 = 1 << 20;

/// The helper that mounts for ordinary users.
const HELPER: &str = "fusermount3";

/// How to mount.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
}

/// One line of the mount table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountedAt {
    pub(crate) dir: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) device: String,
}

/// Mounts at `dir` and gives the kernel's end of it. A dead mount of ours there is replaced.
///
/// Where the kernel lets us, without ever uncovering the directory below: what goes on writing gets errors until the new
/// mount takes what it writes.
pub(crate) fn mount(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    let mounted = if is_dead(dir)? { replace_directly(dir, flags) } else { mount_directly(dir, flags) };
    match mounted {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::ACCESS)) => {
            mount_by_helper(dir, flags)
        }
        done => done,
    }
}

/// Puts a new mount in the place of a dead one.
fn replace_directly(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    match mount_beneath(dir, flags) {
        Ok(device) => {
            unmount(dir, true)?;
            Ok(device)
        }
        // Linux before 6.5 mounts only on top: the dead one below goes when this one does ([`unmount_all`]).
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOSYS)) => {
            mount_directly(dir, flags)
        }
        failed => failed,
    }
}

/// Mounts below what is mounted at `dir` (fsopen(2), move_mount(2)).
fn mount_beneath(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    let device = open_device()?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    for (key, value) in [
        ("source", "crdtfs".to_owned()),
        ("subtype", "crdtfs".to_owned()),
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", format!("{:o}", rustix::fs::FileType::Directory.as_raw_mode())),
        ("user_id", uid.as_raw().to_string()),
        ("group_id", gid.as_raw().to_string()),
        ("max_read", MAX_IO.to_string()),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    let switches = [("default_permissions", true), ("allow_other", flags.allow_other), ("ro", flags.read_only)];
    for (key, _) in switches.into_iter().filter(|(_, wanted)| *wanted) {
        fsconfig_set_flag(&context, key)?;
    }
    fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    if flags.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH;
    move_mount(&mount, "", CWD, dir, how)?;
    Ok(device)
}

fn open_device() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into())
}

fn mount_directly(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    let device = open_device()?;
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},max_read={MAX_IO},default_permissions{}",
        device.as_raw_fd(),
        // Its type only: the filesystem says the rest when it is asked.
        rustix::fs::FileType::Directory.as_raw_mode(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if flags.allow_other { ",allow_other" } else { "" },
    );
    let mut mount_flags = MountFlags::NODEV | MountFlags::NOSUID;
    if flags.read_only {
        mount_flags |= MountFlags::RDONLY;
    }
    let data = CString::new(data)?;
    rustix::mount::mount("crdtfs", dir, FS_TYPE, mount_flags, data.as_c_str())?;
    Ok(device)
}

/// As [`ask_helper`], in the place of a dead mount if there is one. The helper does not mount on a dead one, so the
/// directory is uncovered for the few milliseconds between its two calls.
pub(crate) fn mount_by_helper(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    if !is_dead(dir)? {
        return ask_helper(dir, flags);
    }
    while is_dead(dir)? {
        unmount(dir, true)?;
    }
    let below = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir)?;
    let device = ask_helper(dir, flags)?;
    let entries = rustix::fs::Dir::read_from(&below)?;
    if entries.flatten().any(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")) {
        tracing::warn!(
            dir = %dir.display(),
            "something was written to the directory while its mount was replaced; it lies below, and shows after `crdtfs unmount`"
        );
    }
    Ok(device)
}

/// The helper mounts and sends the device over a socket, which it finds as its standard input.
fn ask_helper(dir: &Path, flags: Flags) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut options = format!("fsname=crdtfs,subtype=crdtfs,nodev,nosuid,max_read={MAX_IO},default_permissions");
    if flags.read_only {
        options.push_str(",ro");
    }
    if flags.allow_other {
        options.push_str(",allow_other");
    }
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let device = receive_device(&ours);
    let output = child.wait_with_output()?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(error) => Err(error),
        _ => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn receive_device(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut devices) => devices.next(),
        _ => None,
    }))
}

/// Takes the mount at `dir` away. `lazily`: also if it is in use, and then as soon as it is not.
///
/// Errors: `EBUSY` while it is in use; `EINVAL` if nothing is mounted there.
pub(crate) fn unmount(dir: &Path, lazily: bool) -> io::Result<()> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unmount_by_helper(dir, lazily),
        Err(error) => Err(error.into()),
    }
}

/// As [`unmount`] without force, and then takes away dead mounts of ours that lay below.
pub(crate) fn unmount_all(dir: &Path) -> io::Result<()> {
    unmount(dir, false)?;
    while is_dead(dir)? {
        unmount(dir, true)?;
    }
    Ok(())
}

/// Whether what is mounted at `dir` is a mount of ours whose engine has gone.
///
/// Errors: `ENOTCONN` if it is another program's dead mount.
pub(crate) fn is_dead(dir: &Path) -> io::Result<bool> {
    // The kernel may still answer for the attributes of the root itself; the state of the filesystem is not cached.
    let Err(error @ (Errno::NOTCONN | Errno::CONNABORTED)) = rustix::fs::statfs(dir) else { return Ok(false) };
    match mounted_at(&real(dir))? {
        Some(mount) if mount.fs_type == FS_TYPE => Ok(true),
        _ => Err(error.into()),
    }
}

/// `dir` without links; where it cannot be resolved, being dead, what is above it can.
pub(crate) fn real(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| {
        match (dir.parent().and_then(|above| above.canonicalize().ok()), dir.file_name()) {
            (Some(above), Some(name)) => above.join(name),
            _ => dir.to_path_buf(),
        }
    })
}

/// Fails all requests to the mount of ours at `dir`, answered or not, for good; false if there is none.
///
/// Errors: of the last way that was tried: root may force an unmount, the owner may write to the kernel's control files
/// where they are mounted.
pub(crate) fn abort(dir: &Path) -> io::Result<bool> {
    let Some(mount) = mounted_at(dir)?.filter(|mount| mount.fs_type == FS_TYPE) else { return Ok(false) };
    // Held, the mount is busy, so it stays, and the directory below is not uncovered. Forcing begins with the abort.
    let held = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let forced = rustix::mount::unmount(dir, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
    drop(held);
    match forced {
        Ok(()) | Err(Errno::BUSY) => return Ok(true),
        Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let minor = mount.device.split(':').nth(1).unwrap_or_default();
    std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1")?;
    Ok(true)
}

fn unmount_by_helper(dir: &Path, lazily: bool) -> io::Result<()> {
    let output = Command::new(HELPER)
        .arg(if lazily { "-uz" } else { "-u" })
        .arg("--")
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        Err(Errno::BUSY.into())
    } else if said.contains("not found in") || said.contains("Invalid argument") {
        Err(Errno::INVAL.into())
    } else {
        Err(io::Error::other(said))
    }
}

/// What is mounted at a directory, the topmost; the directory as the mount table writes it (absolute, without links).
pub(crate) fn mounted_at(dir: &Path) -> io::Result<Option<MountedAt>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.dir == dir))
}

/// Where a device is mounted, in the order of the mount table.
pub(crate) fn places_of(device: &str) -> io::Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().filter(|mount| mount.device == device).map(|mount| mount.dir).collect())
}

/// The mount table, in its order.
fn mounts() -> io::Result<Vec<MountedAt>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse_mount).collect())
}

/// Reads a line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse_mount(line: &[u8]) -> Option<MountedAt> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let dir = unescape(fields.nth(1)?);
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountedAt { dir, fs_type: String::from_utf8_lossy(fs_type).into_owned(), device })
}

/// Space, tab, newline and backslash stand there as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Why no mount can be made here, before it is tried: the sentence for the user.
pub(crate) fn missing() -> Option<String> {
    let hint = "or keep a plain folder in sync with `crdtfs watch`";
    if let Err(error) = std::fs::metadata("/dev/fuse") {
        return Some(format!(
            "this system has no FUSE (/dev/fuse: {error}): load the kernel's module with `modprobe fuse` and install the \
             package fuse3, {hint}"
        ));
    }
    let direct =
        File::options().read(true).write(true).open("/dev/fuse").is_ok() && rustix::process::geteuid().is_root();
    if !direct && !helper_is_there() {
        return Some(format!("mounting needs {HELPER}: install the package fuse3, {hint}"));
    }
    None
}

fn helper_is_there() -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(HELPER).is_file()))
}

/// Lets the kernel read ahead by whole requests. Only root may, and nothing depends on it.
pub(crate) fn raise_read_ahead(device: &str) {
    let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), (MAX_IO / 1024).to_string());
}

/// A path as text for a sentence.
pub(crate) fn shown(dir: &Path) -> String {
    String::from_utf8_lossy(dir.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read() {
        let line = b"36 35 0:52 / /mnt/a\\040b\\134c rw,noatime shared:1 master:2 - fuse.crdtfs crdtfs rw,user_id=0";
        let mount = parse_mount(line).expect("a mount");
        assert_eq!(mount.dir, Path::new("/mnt/a b\\c"));
        assert_eq!(mount.fs_type, FS_TYPE);
        assert_eq!(mount.device, "0:52");
        assert_eq!(parse_mount(b""), None);
        assert_eq!(parse_mount(b"36 35"), None);
    }

    #[test]
    fn a_backslash_without_digits_is_itself() {
        assert_eq!(unescape(b"a\\b"), Path::new("a\\b"));
        assert_eq!(unescape(b"a\\09"), Path::new("a\\09"));
    }
}
