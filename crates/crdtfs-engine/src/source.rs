//! Chunks from the network for the store: the seam between its blocking calls and the node's asynchronous ones.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_net::FetchError;
use crdtfs_store::{ChunkSink, ChunkSource, Store, Urgency, Want};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::core::Core;
use crate::replaced::{Gone, Waiting, content_of};
use crate::space::Space;

/// Chunks that wait to be kept: with 1 MiB each the most memory that one fetch takes.
const QUEUE: usize = 32;

/// Threads of one fetch that keep chunks: hashing and writing use both cores.
const KEEPERS: usize = 2;

/// How long a read waits for what nobody had a moment ago.
const GONE_PATIENCE: Duration = Duration::from_millis(500);

/// Versions of a file among which one is looked for that is like the one that is fetched.
const VERSIONS: usize = 4;

/// The network as a source of one share's chunks.
pub(crate) struct NetSource {
    core: Weak<Core>,
    share: ShareId,
    space: Arc<Space>,
    runtime: Handle,
    landed: Arc<Landed>,
    gone: Gone,
}

/// Chunks that came and wait to be kept. The store does not have them yet and nobody asks for them any more: another fetch
/// of the same gets them from here.
#[derive(Default)]
struct Landed(Mutex<HashMap<Hash, Bytes>>);

impl NetSource {
    pub(crate) fn new(core: Weak<Core>, share: ShareId, space: Arc<Space>, runtime: Handle) -> Self {
        Self { core, share, space, runtime, landed: Arc::default(), gone: Gone::default() }
    }
}

impl ChunkSource for NetSource {
    fn fetch(&self, want: &[Want], urgency: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
        let Some(core) = self.core.upgrade() else { return Err(closed()) };
        let (sender, receiver) = sync_channel::<(usize, Bytes)>(QUEUE);
        let asked = self.give_landed(core.store(), want, sink)?;
        let wants = asked.iter().map(|at| as_net(&want[*at])).collect();
        let read = asked.first().filter(|_| urgency == Urgency::Read).map(|at| content_of(&want[*at]));
        let (urgency, mut patience) = translate(urgency);
        // A share that is being opened while the engine starts fetches once the network is there: members that connect are
        // the reason to try again.
        let Some(node) = core.node_if_started().cloned() else { return Err(starting()) };
        let asking: BTreeSet<DeviceId> = node.connected().into_iter().collect();
        if read.is_some_and(|content| self.gone.is_recent(&content, &asking)) {
            patience = GONE_PATIENCE;
        }
        let share = self.share;
        let waiting = read.map(|content| Waiting::new(&core, share, content));
        drop(core);
        let hashes: Arc<[(usize, Hash)]> = asked.iter().map(|at| (*at, want[*at].chunk.hash)).collect();
        let (landed, arriving) = (self.landed.clone(), hashes.clone());
        let fetched = self.runtime.spawn(async move {
            let came = Arc::new(AtomicUsize::new(0));
            let counted = came.clone();
            let sink = move |index: usize, bytes: Bytes| {
                counted.fetch_add(1, Ordering::Relaxed);
                let (at, hash) = arriving[index];
                landed.0.lock().insert(hash, bytes.clone());
                send(&sender, at, bytes).inspect_err(|_| _ = landed.0.lock().remove(&hash))
            };
            let fetching = node.fetch(share, wants, urgency, patience, sink);
            let Some(waiting) = waiting else { return fetching.await.map_err(|error| as_io(&error)) };
            tokio::select! {
                fetched = fetching => fetched.map_err(|error| as_io(&error)),
                () = waiting.until_replaced(&came) => Err(replaced()),
            }
        });
        let sink = &Reserving { sink, space: &self.space };
        let kept = Kept { sink, want, landed: &self.landed };
        let outcome = keep(&receiver_of(receiver), asked.len(), &kept);
        // What came and was not kept since keeping failed. What comes from now on is not taken.
        let mut landed = self.landed.0.lock();
        hashes.iter().for_each(|(_, hash)| _ = landed.remove(hash));
        drop(landed);
        if outcome.is_err() {
            fetched.abort();
        }
        outcome?;
        match self.runtime.block_on(fetched) {
            Ok(Err(error)) => {
                if let Some(content) = read.filter(|_| error.kind() == io::ErrorKind::HostUnreachable) {
                    self.gone.note(&content, asking);
                }
                Err(error)
            }
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(closed()),
        }
    }

    fn other_versions(&self, content: &ContentRef) -> Vec<ContentRef> {
        let share = self.core.upgrade().and_then(|core| core.share(&self.share));
        share.map_or_else(Vec::new, |share| share.read(|replica| replica.view().other_versions(content, VERSIONS)))
    }
}

impl NetSource {
    /// Hands over what came for another fetch since the caller looked, kept or not; the indexes of the others.
    fn give_landed(&self, store: &Store, want: &[Want], sink: &dyn ChunkSink) -> io::Result<Vec<usize>> {
        let mut asked = Vec::with_capacity(want.len());
        for (at, one) in want.iter().enumerate() {
            let hash = &one.chunk.hash;
            // In this order: what is kept has landed until it is.
            let landed = self.landed.0.lock().get(hash).cloned();
            match landed {
                Some(bytes) => sink.accept(at, &bytes)?,
                None => match store.has_chunk(hash).then(|| store.read_chunk(hash)) {
                    Some(Ok(Some(bytes))) => sink.accept(at, &bytes)?,
                    _ => asked.push(at),
                },
            }
        }
        Ok(asked)
    }
}

/// Keeps a chunk, which then has not just landed any more.
struct Kept<'a> {
    sink: &'a dyn ChunkSink,
    want: &'a [Want],
    landed: &'a Landed,
}

impl ChunkSink for Kept<'_> {
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let outcome = self.sink.accept(index, bytes);
        self.landed.0.lock().remove(&self.want[index].chunk.hash);
        outcome
    }
}

/// Takes nothing that would eat into the reserve: the log and the index need it.
struct Reserving<'a> {
    sink: &'a dyn ChunkSink,
    space: &'a Space,
}

impl ChunkSink for Reserving<'_> {
    fn accept(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        if self.space.is_low() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.sink.accept(index, bytes)
    }
}

/// A want in the network's words: a store's length of 0 is none.
fn as_net(want: &Want) -> crdtfs_net::Want {
    crdtfs_net::Want { chunk: want.chunk, len: (want.len > 0).then_some(want.len), base: want.base }
}

/// The network's words for an urgency, and how long somebody who has the chunks may take to appear.
fn translate(urgency: Urgency) -> (crdtfs_net::Urgency, Duration) {
    match urgency {
        Urgency::Read => (crdtfs_net::Urgency::Waiting, Duration::from_secs(10)),
        Urgency::Merge => (crdtfs_net::Urgency::Soon, Duration::from_secs(1)),
        Urgency::Apply => (crdtfs_net::Urgency::Background, Duration::from_secs(5)),
        Urgency::Prefetch => (crdtfs_net::Urgency::Background, Duration::from_secs(1)),
    }
}

fn send(sender: &SyncSender<(usize, Bytes)>, index: usize, bytes: Bytes) -> io::Result<()> {
    // Nobody receives any more: keeping a chunk failed, and that error is the one to be returned.
    sender.send((index, bytes)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
}

type Queue = Mutex<Option<Receiver<(usize, Bytes)>>>;

fn receiver_of(receiver: Receiver<(usize, Bytes)>) -> Queue {
    Mutex::new(Some(receiver))
}

/// Hands over what arrives until nothing more can, on several threads where there is much.
fn keep(queue: &Queue, wanted: usize, sink: &dyn ChunkSink) -> io::Result<()> {
    if wanted <= KEEPERS {
        return keep_some(queue, sink);
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..KEEPERS).map(|_| scope.spawn(|| keep_some(queue, sink))).collect();
        let mut outcome = keep_some(queue, sink);
        for other in others {
            let theirs = other.join().unwrap_or_else(|_| Err(io::Error::other("a thread that keeps chunks panicked")));
            outcome = outcome.and(theirs);
        }
        outcome
    })
}

fn keep_some(queue: &Queue, sink: &dyn ChunkSink) -> io::Result<()> {
    loop {
        // The lock is held while waiting: the others wait for it as they would for the queue.
        let next = match &*queue.lock() {
            Some(receiver) => receiver.recv(),
            None => return Ok(()),
        };
        let Ok((index, bytes)) = next else { return Ok(()) };
        if let Err(error) = sink.accept(index, &bytes) {
            // With the receiver gone, the network's side fails at its next chunk instead of waiting for room.
            *queue.lock() = None;
            return Err(error);
        }
    }
}

fn starting() -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, "the network is not up yet")
}

fn replaced() -> io::Error {
    io::Error::new(
        io::ErrorKind::HostUnreachable,
        "it was replaced by a newer version before anybody else had it; open it again",
    )
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, "the engine is stopping")
}

fn as_io(error: &FetchError) -> io::Error {
    let kind = match error {
        FetchError::Unavailable { .. } | FetchError::Closed => io::ErrorKind::HostUnreachable,
        FetchError::Sink(error) => error.kind(),
    };
    io::Error::new(kind, error.to_string())
}
