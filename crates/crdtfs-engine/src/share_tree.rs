//! A share as adapters see its tree.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;
use crdtfs_core::node::{Delta, Entry, Node};
use crdtfs_core::op::{Applied, Op, OpError};
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_core::view::View;
use rand::RngCore;

use crate::held_back::Done;
use crate::share::{Share, Subscriber};

impl Tree for Share {
    fn node(&self, inode: InodeId) -> Option<Node> {
        self.replica.read().view().node(inode)
    }

    fn child(&self, dir: InodeId, name: &Name) -> Option<Node> {
        let replica = self.replica.read();
        let inode = replica.view().child(dir, name.as_bytes())?;
        replica.view().node(inode)
    }

    fn entries(&self, dir: InodeId, after: Option<&Name>, limit: usize) -> Vec<Entry> {
        self.replica.read().view().entries(dir, after, limit)
    }

    fn names(&self, inode: InodeId) -> Vec<(InodeId, Name)> {
        self.replica.read().view().names(inode)
    }

    fn apply(&self, by: Adapter, op: Op) -> Result<Applied, OpError> {
        while needs_room(&op) && self.space.is_low() {
            if !self.events.make_room() {
                return Err(OpError::NoSpace);
            }
        }
        let mut replica = self.replica.write();
        let before = replica.queued();
        let applied = replica.apply(&op, self.history_options.clock.now_ms());
        let due = match &applied {
            Ok(applied) => {
                self.announce(&replica, Some(by), &applied.delta);
                let view = replica.view();
                let node = match &op {
                    Op::Create { dir, name, .. } => view.child(*dir, name.as_bytes()),
                    _ => None,
                };
                let done = Done { node, records: replica.queued() - before };
                self.held_back.lock().note(&op, done, |dir| lies_in_git(view, dir), Instant::now())
            }
            Err(_) => {
                let delta = replica.take_begun();
                self.announce(&replica, None, &delta);
                if replica.queued() == before {
                    return applied;
                }
                self.held_back.lock().clear();
                None
            }
        };
        let queued = replica.queued() > 0;
        drop(replica);
        match due {
            Some(when) => self.events.later(self, when),
            None if queued => self.events.uncommitted(self),
            None => {}
        }
        applied
    }

    fn await_merge(&self, inode: InodeId, patience: Duration) {
        self.wait_for_merge(inode, patience);
    }

    fn keep_apart(&self, inode: InodeId) {
        self.replica.write().keep_apart(inode);
    }

    fn fresh_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        id
    }

    fn sync(&self) -> io::Result<()> {
        loop {
            let Err(error) = self.make_durable() else { return Ok(()) };
            let kind = error.io_kind();
            if kind != io::ErrorKind::StorageFull || !self.events.make_room() {
                return Err(io::Error::new(kind, error.to_string()));
            }
        }
    }

    fn subscribe(&self, by: Adapter) -> Receiver<Arc<Delta>> {
        let (sender, receiver) = channel();
        // With the replica locked, so that a look at the tree after this misses nothing.
        let _replica = self.replica.read();
        self.subscribers.lock().push(Subscriber { adapter: by, sender, sent: 0 });
        receiver
    }

    fn sent(&self, by: Adapter) -> u64 {
        // With the replica locked: what it shows has been sent.
        let _replica = self.replica.read();
        let subscribers = self.subscribers.lock();
        subscribers.iter().find(|subscriber| subscriber.adapter == by).map_or(0, |subscriber| subscriber.sent)
    }

    fn totals(&self) -> (u64, u64) {
        self.replica.read().view().totals()
    }

    fn writable(&self) -> bool {
        self.replica.read().writable()
    }
}

/// Whether a directory is, or lies in, one that git calls its own.
fn lies_in_git(view: &View, dir: InodeId) -> bool {
    let mut at = dir;
    while let Some((above, name)) = view.names(at).into_iter().next() {
        if name.as_bytes() == b".git" {
            return true;
        }
        at = above;
    }
    false
}

/// Whether an operation is refused on a full disk: all but those by which a user makes room.
fn needs_room(op: &Op) -> bool {
    match op {
        Op::Create { .. } | Op::Link { .. } => true,
        Op::Edit { content, .. } => content.size > 0,
        // What brings nothing new is what the reserve is for: who makes room moves things about first.
        Op::Rename { .. } | Op::SetAttr { .. } | Op::Unlink { .. } | Op::Rmdir { .. } => false,
    }
}
