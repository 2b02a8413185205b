//! Applying: what others did is done in the folder, each step only onto exactly the state that the plan saw.
//!
//! Nothing is overwritten: new names are taken only if they are free, files are replaced by exchanging them with what is
//! ready beside them and looking at what came out, and what is removed is first taken aside and looked at. What turns out
//! otherwise is put back, and the place is observed and planned again.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Node, Time, Xattrs};
use crdtfs_core::port::{FolderContent, Tree};
use crdtfs_engine::present::SharePorts;
use parking_lot::RwLock;
use thiserror::Error;

use crate::aside::{self, Aside};
use crate::disk::{self, Dir, Meta, Root, Stamp, TEMPORARY};
use crate::observe::Dirty;
use crate::plan::Step;
use crate::publish::mode_mask;
use crate::remote::{Item, RemotePlan, ViewDirty, attrs_differ};
use crate::synced::{Intent, Place, Synced, SyncedTree};
use crate::watch::Watcher;

/// A content that lies, whole, durable and with its attributes, under a temporary name.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    /// The temporary name, in the root.
    pub(crate) name: Name,
    /// What the store knows the file by.
    pub(crate) key: InodeId,
    /// The bytes.
    pub(crate) content: ContentRef,
    /// Its state on disk.
    pub(crate) stamp: Stamp,
    /// The share's permission bits.
    pub(crate) mode: u32,
    /// The time of modification.
    pub(crate) mtime: Time,
    /// Extended attributes.
    pub(crate) xattrs: Arc<Xattrs>,
}

/// Why a step was not done.
#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    /// The folder is not as the plan saw it: to be observed and planned again.
    #[error("changed meanwhile")]
    Raced,
    /// Some program has the file open for writing.
    #[error("a program has it open for writing; the newer version waits until it is closed")]
    Busy,
    /// The view is not as the plan saw it.
    #[error("no longer wanted")]
    Stale,
    /// The system refuses.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

pub(crate) type Result<T, E = ApplyError> = std::result::Result<T, E>;

pub(crate) fn tried(what: &'static str) -> impl Fn(io::Error) -> ApplyError {
    move |source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => ApplyError::Raced,
        _ => ApplyError::Io { what, source },
    }
}

/// What happened to a plan.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What must be observed again.
    pub(crate) local: Dirty,
    /// What must be compared with the view again, at once.
    pub(crate) view: ViewDirty,
    /// What must be compared with the view again, later, and why it was not done.
    pub(crate) failed: Vec<(Item, ApplyError)>,
    /// Names whose files hold something else than their times say: to be read again.
    pub(crate) written: Vec<Place>,
    /// Keys whose files are gone.
    pub(crate) stale: Vec<InodeId>,
    /// Steps that were done.
    pub(crate) steps: usize,
}

/// Works on the folder.
pub(crate) struct Applier<'a> {
    /// The folder.
    pub(crate) root: &'a Root,
    /// The view.
    pub(crate) tree: &'a dyn Tree,
    /// The store, which keeps what is lost here.
    pub(crate) content: &'a dyn FolderContent,
    /// This device's name, for what has to be put beside its place.
    pub(crate) device: &'a str,
    /// The last synced tree, written as each step is done.
    pub(crate) synced: &'a RwLock<SyncedTree>,
    /// The watcher.
    pub(crate) watcher: &'a mut Watcher,
    /// Contents that are ready; those that were put into place are taken out.
    pub(crate) staged: &'a mut HashMap<InodeId, Staged>,
    /// A number that no temporary name had yet.
    pub(crate) serial: &'a mut u64,
    /// What came of it.
    pub(crate) done: Done,
    dirs: HashMap<InodeId, Rc<Dir>>,
}

/// A temporary name of this process.
pub(crate) fn temporary_name(serial: &mut u64) -> Name {
    *serial += 1;
    let name = [TEMPORARY, format!("{}-{serial}", std::process::id()).as_bytes()].concat();
    Name::new(&name).expect("short and without a separator")
}

/// What a staged content will be once it is in place.
pub(crate) fn intent(inode: InodeId, staged: &Staged, node: &Node) -> Intent {
    Intent { inode, state: state(staged, node) }
}

fn state(staged: &Staged, node: &Node) -> Synced {
    let same = node.content.hash == staged.content.hash;
    Synced {
        kind: Kind::File,
        stamp: staged.stamp,
        key: staged.key,
        content: staged.content,
        basis: if same { node.basis.clone() } else { Arc::from([]) },
        mode: staged.mode,
        mtime: staged.mtime,
        xattrs: staged.xattrs.clone(),
        target: Arc::from([]),
    }
}

impl<'a> Applier<'a> {
    /// An applier.
    pub(crate) fn new(
        root: &'a Root,
        ports: &'a SharePorts,
        synced: &'a RwLock<SyncedTree>,
        watcher: &'a mut Watcher,
        staged: &'a mut HashMap<InodeId, Staged>,
        serial: &'a mut u64,
    ) -> Self {
        let (tree, content, device) = (&*ports.tree, &*ports.content, &*ports.device_name);
        let (done, dirs) = (Done::default(), HashMap::new());
        Self { root, tree, content, device, synced, watcher, staged, serial, done, dirs }
    }

    /// Does the plan, as far as the folder is as it was.
    pub(crate) fn apply(mut self, plan: &RemotePlan) -> Done {
        let mut failed = Vec::new();
        for step in &plan.steps {
            let (result, place) = match step {
                Step::Create { at, id, over } => (self.create(at, *id, *over).inspect_err(|_| failed.push(*id)), at),
                Step::Link { id, at } => (self.link(*id, at), at),
                Step::Move { id, from, to, over } => (self.rename(*id, from, to, *over), to),
                Step::Swap { a, b } => (self.swap(a, b), a),
                Step::Remove { id, at } => (self.remove(*id, at), at),
            };
            let other = match step {
                Step::Move { from: other, .. } | Step::Swap { b: other, .. } => Some(other),
                _ => None,
            };
            self.note(result, Item::Place(place.clone()), [Some(place), other].into_iter().flatten());
        }
        for id in &plan.replace {
            let result = self.replace(*id).inspect_err(|_| failed.push(*id));
            self.note_node(result, *id);
        }
        for id in &plan.attrs {
            let result = self.attrs(*id);
            self.note_node(result, *id);
        }
        for id in &plan.rebase {
            self.rebase(*id);
        }
        failed.into_iter().for_each(|id| self.check_staged(id));
        self.done
    }

    fn note_node(&mut self, result: Result<()>, id: InodeId) {
        let names = self.synced.read().names(id).to_vec();
        self.note(result, Item::Node(id), names.iter());
    }

    fn note<'p>(&mut self, result: Result<()>, item: Item, places: impl Iterator<Item = &'p Place>) {
        match result {
            Ok(()) => self.done.steps += 1,
            Err(error) => {
                tracing::debug!(?item, %error, "not applied");
                self.done.local.names.extend(places.cloned());
                self.done.failed.push((item, error));
            }
        }
    }

    pub(crate) fn dir(&mut self, id: InodeId) -> Result<Rc<Dir>> {
        if let Some(dir) = self.dirs.get(&id) {
            return Ok(dir.clone());
        }
        let (path, ident) = {
            let synced = self.synced.read();
            (synced.path(id).ok_or(ApplyError::Raced)?, synced.node(id).map(|n| n.stamp.ident))
        };
        let dir = self.root.dir(&path).map_err(tried("cannot open its directory"))?;
        let is = dir.meta().map_err(tried("cannot look at its directory"))?.stamp.ident;
        if ident.is_some_and(|i| i != is) {
            return Err(ApplyError::Raced);
        }
        let dir = Rc::new(dir);
        if self.dirs.len() >= 256 {
            self.dirs.clear();
        }
        self.dirs.insert(id, dir.clone());
        Ok(dir)
    }

    pub(crate) fn stat(&self, dir: &Dir, name: &Name) -> Result<Meta> {
        dir.stat(name).map_err(tried("cannot look at it"))?.ok_or(ApplyError::Raced)
    }

    pub(crate) fn state(&self, id: InodeId) -> Result<Synced> {
        self.synced.read().node(id).cloned().ok_or(ApplyError::Stale)
    }

    pub(crate) fn view(&self, id: InodeId) -> Result<Node> {
        self.tree.node(id).ok_or(ApplyError::Stale)
    }

    /// That a name has exactly the file that we know, unchanged and with nobody writing to it.
    pub(crate) fn check_exact(&self, dir: &Dir, name: &Name, state: &Synced) -> Result<()> {
        let now = self.stat(dir, name)?;
        if now.kind != state.kind || !now.stamp.same_bytes(&state.stamp) || now.stamp.ctime != state.stamp.ctime {
            return Err(ApplyError::Raced);
        }
        self.check_idle(dir, name, state.kind)
    }

    pub(crate) fn check_idle(&self, dir: &Dir, name: &Name, kind: Kind) -> Result<()> {
        if kind != Kind::File {
            return Ok(());
        }
        match dir.open(name) {
            Ok(file) if disk::has_writer(&file) => Err(ApplyError::Busy),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(tried("cannot open it")(error)),
        }
    }

    /// That a file which was taken aside is still what we know (moving it changed only its ctime).
    fn check_aside(&self, dir: &Dir, name: &Name, state: &Synced) -> Result<()> {
        if !self.stat(dir, name)?.stamp.same_bytes(&state.stamp) {
            return Err(ApplyError::Raced);
        }
        self.check_idle(dir, name, state.kind)
    }

    /// Has a file that we know, and that lies aside, be no more, unless it is not what we know.
    pub(crate) fn give_up(
        &mut self,
        root: &Dir,
        name: &Name,
        at: &Place,
        old: &Synced,
        instead: Option<InodeId>,
    ) -> Result<()> {
        self.check_aside(root, name, old)?;
        match (Aside { root, name }).give_up(old, self.content, instead) {
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                self.done.written.push(at.clone());
                Err(ApplyError::Raced)
            }
            other => other.map_err(tried("what it holds cannot be kept by the store")),
        }
    }

    /// What lies aside goes back to its place or, if that has something else by now, beside it.
    pub(crate) fn put_back(&self, back: io::Result<()>, root: &Dir, name: &Name) -> Result<()> {
        back.or_else(|_| (Aside { root, name }).rescue(self.root, &self.synced.read(), self.device))
            .map_err(tried("cannot be put back"))
    }

    /// Puts what lies at `temp` in the root in the place of a file that we know, and gives that one up.
    fn take_place(&mut self, temp: &Name, at: &Place, of: InodeId, old: &Synced, key: Option<InodeId>) -> Result<()> {
        let (root, dir) = (self.dir(InodeId::ROOT)?, self.dir(at.0)?);
        self.check_exact(&dir, &at.1, old)?;
        if !self.root.abilities().exchanges {
            return self.take_place_stepwise(temp, at, of, old, key);
        }
        // From here on the name says that what lies there may be the user's.
        let aside = self.aside_name(of);
        root.rename(temp, &root, &aside).map_err(tried("cannot be put into place"))?;
        let exchanged = root.exchange(&aside, &dir, &at.1).map_err(tried("cannot be replaced"));
        let result = match exchanged {
            Ok(()) => self.give_up(&root, &aside, at, old, key).inspect_err(|_| {
                let back = root.exchange(&aside, &dir, &at.1);
                if back.is_err() {
                    // Its place is empty, or not to be had.
                    let back = root.rename(&aside, &dir, &at.1);
                    if let Err(error) = self.put_back(back, &root, &aside) {
                        tracing::warn!(name = %aside, %error, "the next start looks after it");
                    }
                }
            }),
            failed => failed,
        };
        if result.is_err() {
            // Ours again, if it came back.
            let _ = root.rename(&aside, &root, temp);
        }
        result
    }

    /// What was ready and is gone from under its name (somebody tidied up, or took it from its place in the wrong instant)
    /// is fetched again.
    fn check_staged(&mut self, id: InodeId) {
        let gone = |staged: &Staged| {
            let root = self.root.dir(&[]);
            root.is_ok_and(|root| matches!(root.stat(&staged.name), Ok(found) if found.is_none_or(|f| f.stamp.ident != staged.stamp.ident)))
        };
        if self.staged.get(&id).is_some_and(gone)
            && let Some(staged) = self.staged.remove(&id)
        {
            self.done.stale.push(staged.key);
        }
    }

    pub(crate) fn aside_name(&mut self, of: InodeId) -> Name {
        *self.serial += 1;
        aside::name(of, *self.serial)
    }

    fn create(&mut self, at: &Place, id: InodeId, over: Option<InodeId>) -> Result<()> {
        let node = self.view(id)?;
        let dir = self.dir(at.0)?;
        let old = over.map(|o| self.state(o)).transpose()?;
        match node.kind {
            Kind::Dir => return self.create_dir(&dir, at, id, &node),
            Kind::Symlink => {
                let (root, temp) = (self.dir(InodeId::ROOT)?, temporary_name(self.serial));
                root.symlink(&temp, &node.target).map_err(tried("cannot create it"))?;
                if let Err(error) = self.put(&temp, at, over.zip(old.as_ref()), None) {
                    let _ = root.unlink(&temp);
                    return Err(error);
                }
                let stamp = self.stat(&dir, &at.1)?.stamp;
                self.keep(at, id, over, Synced { target: node.target.clone(), ..Synced::of(&node, stamp) });
            }
            _ => {
                let staged = self.staged.get(&id).cloned().ok_or(ApplyError::Stale)?;
                if staged.content.hash != node.content.hash {
                    return Err(ApplyError::Stale);
                }
                self.put(&staged.name, at, over.zip(old.as_ref()), Some(staged.key))?;
                self.finish(at, id, over, &staged, &node, &dir)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, temp: &Name, at: &Place, old: Option<(InodeId, &Synced)>, key: Option<InodeId>) -> Result<()> {
        match old {
            Some((of, old)) => self.take_place(temp, at, of, old, key),
            None => {
                let (root, dir) = (self.dir(InodeId::ROOT)?, self.dir(at.0)?);
                root.rename(temp, &dir, &at.1).map_err(tried("cannot be put into place"))
            }
        }
    }

    /// A staged file is in place: writes that down.
    fn finish(
        &mut self,
        at: &Place,
        id: InodeId,
        over: Option<InodeId>,
        staged: &Staged,
        node: &Node,
        dir: &Dir,
    ) -> Result<()> {
        self.staged.remove(&id);
        let mut state = state(staged, node);
        match self.stat(dir, &at.1) {
            Ok(now) if now.stamp.same_bytes(&staged.stamp) && now.stamp.mode == staged.stamp.mode => {
                state.stamp = now.stamp;
            }
            // Edited in this instant: seen as an edit of what we put there.
            _ => {
                self.done.local.names.insert(at.clone());
            }
        }
        self.keep(at, id, over, state);
        self.synced.read().is_given(id, &staged.content.hash, at, &staged.stamp.ident);
        if attrs_differ(&self.state(id)?, node) {
            self.done.view.nodes.insert(id);
        }
        Ok(())
    }

    fn keep(&mut self, at: &Place, id: InodeId, over: Option<InodeId>, state: Synced) {
        let mut synced = self.synced.write();
        if let Some(before) = synced.node(id)
            && before.key != state.key
            && before.kind == Kind::File
        {
            self.done.stale.push(before.key);
        }
        if let Some(over) = over {
            synced.unplace(at);
            let stale = synced.forget_nameless(over);
            self.done.stale.extend(stale);
        }
        synced.set(id, state);
        synced.place(id, at.clone());
    }

    fn create_dir(&mut self, dir: &Dir, at: &Place, id: InodeId, node: &Node) -> Result<()> {
        dir.mkdir(&at.1).map_err(tried("cannot create it"))?;
        let mode = node.mode & mode_mask(node.kind);
        if let Err(error) = dir.chmod(&at.1, mode) {
            tracing::debug!(name = %at.1, %error, "cannot set permissions");
        }
        let stamp = self.stat(dir, &at.1)?.stamp;
        self.keep(at, id, None, Synced::of(node, stamp));
        let new = self.dir(id)?;
        if let Ok(wd) = self.watcher.add(&new) {
            self.watcher.register(id, wd);
        }
        // What was put there before it was watched.
        self.done.local.dirs.insert(id);
        self.done.view.dir(id);
        Ok(())
    }

    /// Writes down a node's state on disk after we changed it, if it is what we left.
    fn restamp(&mut self, id: InodeId, dir: &Dir, name: &Name) {
        let Ok(now) = self.stat(dir, name) else { return };
        let mut synced = self.synced.write();
        let Some(mut state) = synced.node(id).cloned() else { return };
        let unchanged = state.kind == Kind::Dir || now.stamp.same_bytes(&state.stamp);
        if now.stamp.ident == state.stamp.ident && unchanged {
            if now.stamp.mode != state.stamp.mode {
                // The user's, in this instant.
                self.done.local.names.extend(synced.names(id).iter().cloned());
            }
            state.stamp = Stamp { mode: state.stamp.mode, ..now.stamp };
            synced.set(id, state);
        }
    }

    fn link(&mut self, id: InodeId, at: &Place) -> Result<()> {
        let state = self.state(id)?;
        let from = self.synced.read().names(id).first().cloned();
        let Some(from) = from else {
            // Nothing is known of it any more: it is made anew.
            self.synced.write().forget_nameless(id);
            return Err(ApplyError::Stale);
        };
        let (source, dir) = (self.dir(from.0)?, self.dir(at.0)?);
        self.check_ident(&source, &from.1, &state)?;
        source.link(&from.1, &dir, &at.1).map_err(tried("cannot be linked"))?;
        if self.stat(&dir, &at.1)?.stamp.ident != state.stamp.ident {
            dir.unlink(&at.1).map_err(tried("cannot be unlinked"))?;
            return Err(ApplyError::Raced);
        }
        self.synced.write().place(id, at.clone());
        self.restamp(id, &dir, &at.1);
        Ok(())
    }

    pub(crate) fn check_ident(&self, dir: &Dir, name: &Name, state: &Synced) -> Result<()> {
        if self.stat(dir, name)?.stamp.ident == state.stamp.ident { Ok(()) } else { Err(ApplyError::Raced) }
    }

    fn rename(&mut self, id: InodeId, from: &Place, to: &Place, over: Option<InodeId>) -> Result<()> {
        let state = self.state(id)?;
        let (source, dir) = (self.dir(from.0)?, self.dir(to.0)?);
        self.check_ident(&source, &from.1, &state)?;
        if let Some(over) = over {
            let old = self.state(over)?;
            self.check_exact(&dir, &to.1, &old)?;
            if self.root.abilities().exchanges {
                source.exchange(&from.1, &dir, &to.1).map_err(tried("cannot be renamed"))?;
                let right =
                    self.check_ident(&dir, &to.1, &state).and_then(|()| self.check_aside(&source, &from.1, &old));
                if let Err(error) = right.and_then(|()| self.discard(&source, from, over, &old)) {
                    source.exchange(&from.1, &dir, &to.1).map_err(tried("cannot be put back"))?;
                    return Err(error);
                }
            } else {
                self.discard(&dir, to, over, &old)?;
                self.rename_free(&source, from, &dir, to, &state)?;
            }
        } else {
            self.rename_free(&source, from, &dir, to, &state)?;
        }
        let mut synced = self.synced.write();
        if let Some(over) = over {
            synced.unplace(to);
            let stale = synced.forget_nameless(over);
            self.done.stale.extend(stale);
        }
        synced.rename(from, to.clone());
        synced.is_placed(id, to);
        drop(synced);
        self.left(from.0);
        self.restamp(id, &dir, &to.1);
        Ok(())
    }

    fn rename_free(&self, source: &Dir, from: &Place, dir: &Dir, to: &Place, state: &Synced) -> Result<()> {
        source.rename(&from.1, dir, &to.1).map_err(tried("cannot be renamed"))?;
        self.check_ident(dir, &to.1, state).or_else(|error| {
            dir.rename(&to.1, source, &from.1).map_err(tried("cannot be put back"))?;
            Err(error)
        })
    }

    fn swap(&mut self, a: &Place, b: &Place) -> Result<()> {
        let ids = {
            let synced = self.synced.read();
            synced.child(a).zip(synced.child(b))
        };
        let (x, y) = ids.ok_or(ApplyError::Stale)?;
        let (in_a, in_b) = (self.dir(a.0)?, self.dir(b.0)?);
        let (x_state, y_state) = (self.state(x)?, self.state(y)?);
        self.check_ident(&in_a, &a.1, &x_state)?;
        self.check_ident(&in_b, &b.1, &y_state)?;
        self.exchange((x, &in_a, &a.1), (&in_b, &b.1)).map_err(tried("cannot be exchanged"))?;
        let right = self.check_ident(&in_a, &a.1, &y_state).and_then(|()| self.check_ident(&in_b, &b.1, &x_state));
        if let Err(error) = right {
            self.exchange((x, &in_a, &a.1), (&in_b, &b.1)).map_err(tried("cannot be put back"))?;
            return Err(error);
        }
        let mut synced = self.synced.write();
        synced.unplace(a);
        synced.unplace(b);
        for (id, place) in [(x, b), (y, a)] {
            synced.place(id, place.clone());
            synced.is_placed(id, place);
        }
        drop(synced);
        self.restamp(x, &in_b, &b.1);
        self.restamp(y, &in_a, &a.1);
        Ok(())
    }

    /// Removes a file that we know: aside, looked at, gone; or back where it was.
    fn discard(&mut self, dir: &Dir, at: &Place, of: InodeId, state: &Synced) -> Result<()> {
        let (root, aside) = (self.dir(InodeId::ROOT)?, self.aside_name(of));
        dir.rename(&at.1, &root, &aside).map_err(tried("cannot be removed"))?;
        let result = self.give_up(&root, &aside, at, state, None);
        if result.is_err() {
            self.put_back(root.rename(&aside, dir, &at.1), &root, &aside)?;
        }
        result
    }

    fn remove(&mut self, id: InodeId, at: &Place) -> Result<()> {
        let state = self.state(id)?;
        let dir = self.dir(at.0)?;
        if state.kind == Kind::Dir {
            self.check_ident(&dir, &at.1, &state)?;
            match dir.rmdir(&at.1) {
                Ok(()) => self.watcher.remove(id),
                Err(source) => {
                    // Something is in it that we do not know, or that is not ours to remove.
                    self.done.local.dirs.insert(id);
                    return Err(match source.kind() {
                        io::ErrorKind::DirectoryNotEmpty => {
                            ApplyError::Io { what: "removed elsewhere, kept here for what is in it", source }
                        }
                        _ => tried("cannot be removed")(source),
                    });
                }
            }
        } else {
            self.check_exact(&dir, &at.1, &state)?;
            self.discard(&dir, at, id, &state)?;
        }
        let mut synced = self.synced.write();
        synced.unplace(at);
        let stale = synced.forget_nameless(id);
        self.done.stale.extend(stale);
        let other = synced.names(id).first().cloned();
        drop(synced);
        self.left(at.0);
        if let Some(other) = other {
            let dir = self.dir(other.0)?;
            self.restamp(id, &dir, &other.1);
        }
        Ok(())
    }

    /// Something went from a directory. If that is to go, too, and could not for what was in it, it may be able to now.
    fn left(&mut self, dir: InodeId) {
        if dir != InodeId::ROOT && self.tree.node(dir).is_none() {
            self.done.view.places.extend(self.synced.read().names(dir).iter().cloned());
        }
    }

    /// New bytes for a file, at all its names.
    fn replace(&mut self, id: InodeId) -> Result<()> {
        let (node, old) = (self.view(id)?, self.state(id)?);
        let staged = self.staged.get(&id).cloned().ok_or(ApplyError::Stale)?;
        if staged.content.hash != node.content.hash {
            return Err(ApplyError::Stale);
        }
        let names = self.synced.read().names(id).to_vec();
        let (first, others) = names.split_first().ok_or(ApplyError::Stale)?;
        let (root, dir) = (self.dir(InodeId::ROOT)?, self.dir(first.0)?);
        self.take_place(&staged.name, first, id, &old, Some(staged.key))?;
        self.finish(first, id, None, &staged, &node, &dir)?;
        for other in others {
            let at = self.dir(other.0)?;
            let temp = temporary_name(self.serial);
            dir.link(&first.1, &root, &temp).map_err(tried("cannot be linked"))?;
            // Taking the first name off the old file changed its ctime and link count, nothing else.
            let now = self.stat(&at, &other.1)?.stamp;
            let rest = Synced { stamp: Stamp { ctime: now.ctime, ..old.stamp }, ..old.clone() };
            if let Err(error) = self.take_place(&temp, other, id, &rest, Some(staged.key)) {
                let _ = root.unlink(&temp);
                self.synced.write().unplace(other);
                self.done.local.names.insert(other.clone());
                return Err(error);
            }
        }
        self.restamp(id, &dir, &first.1);
        Ok(())
    }

    fn attrs(&mut self, id: InodeId) -> Result<()> {
        let (node, old) = (self.view(id)?, self.state(id)?);
        let at = self.synced.read().names(id).first().cloned().ok_or(ApplyError::Stale)?;
        let dir = self.dir(at.0)?;
        let mut new = old.clone();
        new.mode = node.mode;
        if old.kind == Kind::Dir {
            self.check_ident(&dir, &at.1, &old)?;
            dir.chmod(&at.1, node.mode & mode_mask(node.kind)).map_err(tried("cannot set permissions"))?;
        } else {
            self.check_exact(&dir, &at.1, &old)?;
            let keeps = self.set_file(&dir, &at.1, &node, &old)?;
            (new.mtime, new.xattrs) = (node.mtime, node.xattrs.clone());
            if !keeps {
                tracing::debug!(name = %at.1, "the filesystem cannot keep its extended attributes");
            }
        }
        new.stamp = self.stat(&dir, &at.1)?.stamp;
        if new.stamp.ident != old.stamp.ident || (old.kind == Kind::File && new.stamp.size != old.stamp.size) {
            return Err(ApplyError::Raced);
        }
        self.synced.write().set(id, new);
        Ok(())
    }

    fn set_file(&self, dir: &Dir, name: &Name, node: &Node, old: &Synced) -> Result<bool> {
        let fail = tried("cannot set its attributes");
        let mode = node.mode & mode_mask(node.kind);
        let keeps = match dir.open(name) {
            Ok(file) => {
                if self.root.stamp_of(&file).map_err(&fail)?.ident != old.stamp.ident {
                    return Err(ApplyError::Raced);
                }
                let keeps = old.xattrs == node.xattrs || disk::set_xattrs(&file, &node.xattrs).map_err(&fail)?;
                disk::set_attrs(&file, mode, node.mtime).map_err(&fail)?;
                keeps
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                dir.chmod(name, mode).map_err(&fail)?;
                dir.set_mtime(name, node.mtime).map_err(&fail)?;
                old.xattrs == node.xattrs
            }
            Err(error) => return Err(fail(error)),
        };
        Ok(keeps)
    }

    fn rebase(&mut self, id: InodeId) {
        let Some(node) = self.tree.node(id) else { return };
        let mut synced = self.synced.write();
        if let Some(mut state) = synced.node(id).cloned()
            && state.content.hash == node.content.hash
        {
            state.basis = node.basis;
            synced.set(id, state);
        }
    }
}
