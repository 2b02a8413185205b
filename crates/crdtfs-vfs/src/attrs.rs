//! Attributes: `stat`, `chmod`, `chown`, `utimensat`, `truncate`, extended attributes, `statfs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crdtfs_core::id::InodeId;
use crdtfs_core::node::{Kind, Node, Owner, Time, Xattrs};
use crdtfs_core::op::Op;

use crate::attr::{Attr, Owners, now};
use crate::error::{Error, Result};
use crate::inodes::{Inode, Pending};
use crate::vfs::Vfs;

/// A time as `utimensat` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This one.
    At(Time),
}

impl SetTime {
    fn resolve(self) -> Time {
        match self {
            Self::Now => now(),
            Self::At(time) => time,
        }
    }
}

/// New attributes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// The handle that it is done through.
    pub handle: Option<u64>,
}

/// Numbers of `statfs`, in bytes and nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the filesystem that holds the content.
    pub total: u64,
    /// Free there.
    pub free: u64,
    /// Free there for ordinary users.
    pub available: u64,
    /// Nodes of the share.
    pub nodes: u64,
}

/// What `setxattr` does about an attribute that is or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it.
    Any,
    /// Fails if it is there.
    Create,
    /// Fails if it is not.
    Replace,
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o0010;

/// All extended attributes of a node together, names and values; a record holds little more.
const XATTRS_MAX: usize = 128 * 1024;

impl Vfs {
    /// What `stat` tells.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let inode = self.inode(ino)?;
        self.attr(&inode)
    }

    /// Sets attributes. `privileged` callers keep suid and sgid bits on truncation.
    pub fn setattr(&self, ino: u64, set: SetAttr, privileged: bool) -> Result<Attr> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        if let Some(size) = set.size {
            self.resize(&inode, size, set.handle, privileged)?;
        }
        self.change_node(&inode, |node| {
            let mut mode = set.mode.map(|mode| mode & 0o7777);
            let mut owner = None;
            if set.uid.is_some() || set.gid.is_some() {
                owner = self.new_owner(node, set.uid, set.gid)?;
                if node.kind != Kind::Dir {
                    let cleared = without_privileges(mode.unwrap_or(node.mode));
                    if cleared != mode.unwrap_or(node.mode) {
                        mode = Some(cleared);
                    }
                }
            }
            Ok(Pending { mode, owner, xattrs: None })
        })?;
        self.set_times(&inode, set)?;
        if set.size.is_none() {
            self.times.changed(inode.id);
        }
        match set.handle {
            Some(handle) => self.getattr_handle(handle),
            None => self.attr(&inode),
        }
    }

    fn resize(&self, inode: &Arc<Inode>, size: u64, handle: Option<u64>, privileged: bool) -> Result<()> {
        match handle {
            Some(handle) => {
                let handle = self.handle(handle)?;
                self.truncate(inode, &handle.version, size, privileged)
            }
            None => {
                let node = self.node(inode)?;
                match node.kind {
                    Kind::File => self.truncate_inode(inode, size, privileged),
                    Kind::Dir => Err(Error::IsDir),
                    _ => Err(Error::Invalid),
                }
            }
        }
    }

    /// The owner to record; `None` if none is recorded. Where the mount shows one owner, that cannot be changed.
    fn new_owner(&self, node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<Option<Owner>> {
        let shown = self.options.owner.shown(node.owner);
        let wanted = Owner { uid: uid.unwrap_or(shown.uid), gid: gid.unwrap_or(shown.gid) };
        match self.options.owner {
            Owners::Fixed(_) if wanted != shown => Err(Error::NotPermitted),
            Owners::Fixed(_) => Ok(None),
            Owners::Keep(_) => Ok(Some(wanted)),
        }
    }

    /// Records the attributes that `change` makes of those it is given: with the bytes that wait to be published, at once
    /// if there are none. Nobody else changes them between.
    fn change_node(&self, inode: &Arc<Inode>, change: impl FnOnce(&Node) -> Result<Pending>) -> Result<()> {
        let mut state = inode.state.lock();
        let node = self.node_in(inode, &state)?;
        let new = change(&node)?;
        if new.is_empty() {
            return Ok(());
        }
        let waiting = state.current.as_ref().is_some_and(|version| {
            let body = version.body.lock();
            body.dirty() && !body.dead
        });
        if waiting {
            state.pending.get_or_insert_default().add(new);
            return Ok(());
        }
        if node.nlink == 0 {
            // Its last name is gone: what is set lives as long as the handles.
            let Some(last) = &mut state.last else { return Err(Error::NotFound) };
            new.put_into(last);
            return Ok(());
        }
        if inode.id == InodeId::ROOT && new.xattrs.is_none() {
            // No record speaks of the root: it belongs to each device. `cp -a` and `rsync` set its mode, and go on.
            self.times.update(inode.id, |times| times.mode = new.mode.or(times.mode));
            return Ok(());
        }
        // With the state locked, or one of two changes at a time would be lost.
        // What still waits though the bytes are published goes with it, or it would come after.
        let mut all = state.pending.as_deref().cloned().unwrap_or_default();
        all.add(new);
        let applied = self.apply(all.into_op(inode.id))?;
        state.pending = None;
        drop(state);
        self.side_effects(&applied.delta, &[], &[inode.id]);
        Ok(())
    }

    fn set_times(&self, inode: &Arc<Inode>, set: SetAttr) -> Result<()> {
        if let Some(atime) = set.atime {
            let atime = atime.resolve();
            self.times.update(inode.id, |times| times.atime = Some(atime));
        }
        let Some(mtime) = set.mtime.map(SetTime::resolve) else { return Ok(()) };
        if self.node(inode)?.kind == Kind::Dir {
            self.times.update(inode.id, |times| times.mtime = Some(mtime));
            if inode.id == InodeId::ROOT {
                return Ok(());
            }
        }
        let version = match set.handle {
            Some(handle) => Some(self.handle(handle)?.version.clone()),
            None => inode.state.lock().current.clone(),
        };
        if version.is_some_and(|version| version.set_mtime(mtime)) {
            return Ok(());
        }
        if self.tree.node(inode.id).is_none() {
            if let Some(last) = &mut inode.state.lock().last {
                last.mtime = mtime;
            }
            return Ok(());
        }
        let op = Op::SetAttr { inode: inode.id, mode: None, owner: None, mtime: Some(mtime), xattrs: None };
        let applied = self.apply(op)?;
        self.side_effects(&applied.delta, &[], &[inode.id]);
        Ok(())
    }

    /// Clears suid, and sgid where it is a privilege, as a write by somebody unprivileged does.
    pub(crate) fn clear_privileges(&self, inode: &Arc<Inode>) -> Result<()> {
        self.change_node(inode, |node| {
            let cleared = without_privileges(node.mode);
            Ok(Pending { mode: (cleared != node.mode).then_some(cleared), ..Pending::default() })
        })
    }

    /// An extended attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        if let Namespace::Refused(error) = namespace(name) {
            return Err(if matches!(error, Error::Invalid) { Error::NoAttribute } else { error });
        }
        let node = self.node(&*self.inode(ino)?)?;
        node.xattrs.get(name).cloned().ok_or(Error::NoAttribute)
    }

    /// The names of all extended attributes, each with a NUL after it.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let node = self.node(&*self.inode(ino)?)?;
        Ok(node.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_writable()?;
        if let Namespace::Refused(_) = namespace(name) {
            return Err(Error::Unsupported);
        }
        self.change_xattrs(ino, |xattrs| {
            match mode {
                XattrMode::Create if xattrs.contains_key(name) => return Err(Error::Exists),
                XattrMode::Replace if !xattrs.contains_key(name) => return Err(Error::NoAttribute),
                _ => {}
            }
            xattrs.insert(name.to_vec(), value.to_vec());
            let size: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            if size > XATTRS_MAX { Err(Error::NoSpace) } else { Ok(()) }
        })
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.change_xattrs(ino, |xattrs| xattrs.remove(name).map(drop).ok_or(Error::NoAttribute))
    }

    fn change_xattrs(&self, ino: u64, change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<()> {
        let inode = self.inode(ino)?;
        self.change_node(&inode, |node| {
            let mut xattrs: BTreeMap<_, _> = (*node.xattrs).clone();
            change(&mut xattrs)?;
            Ok(Pending { xattrs: Some(xattrs), ..Pending::default() })
        })?;
        self.times.changed(inode.id);
        Ok(())
    }

    /// How much room there is.
    pub fn statfs(&self) -> Result<Space> {
        let stat = rustix::fs::statvfs(&self.options.state).map_err(std::io::Error::from)?;
        let (_, nodes) = self.tree.totals();
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            nodes,
        })
    }
}

fn without_privileges(mode: u32) -> u32 {
    let group = if mode & GROUP_EXEC != 0 { SET_GID } else { 0 };
    mode & !(SET_UID | group)
}

/// Whether a namespace of extended attributes is kept.
enum Namespace {
    Kept,
    Refused(Error),
}

/// `user.` and, for root as the kernel sees to, `trusted.` and `security.` are kept; file capabilities would give
/// privileges on other devices, and ACLs are not offered.
fn namespace(name: &[u8]) -> Namespace {
    if name == b"security.capability" {
        Namespace::Refused(Error::NoAttribute)
    } else if [&b"user."[..], b"trusted.", b"security."].iter().any(|kept| name.starts_with(kept)) {
        Namespace::Kept
    } else {
        Namespace::Refused(Error::Unsupported)
    }
}
