//! Where the socket is, also where its path is longer than a socket address can hold.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::SOCKET_NAME;

/// The longest path in a `sockaddr_un`, without its NUL (unix(7)).
const MAX_ADDRESS: usize = 107;

/// The control socket of a state directory.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET_NAME)
}

/// A path to `name` in `dir` that fits a socket address: through an open descriptor of the directory where the plain one
/// is too long. Valid as long as the second value lives.
pub(crate) fn address(dir: &Path, name: &str) -> std::io::Result<(PathBuf, Option<OwnedFd>)> {
    let plain = dir.join(name);
    if plain.as_os_str().len() <= MAX_ADDRESS {
        return Ok((plain, None));
    }
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()));
    Ok((short, Some(fd)))
}
