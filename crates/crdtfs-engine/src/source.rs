//! Chunks from the network for the store: the seam between its blocking calls and the node's asynchronous ones.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_net::{FetchError, Node, Sink};
use crdtfs_store::{ChunkSink, ChunkSource, Space, Store, Urgency, Want};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::core::Core;
use crate::landed::{Arrived, Landed};
use crate::replaced::{Gone, Waiting, content_of};

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

impl NetSource {
    pub(crate) fn new(core: Weak<Core>, share: ShareId, space: Arc<Space>, runtime: Handle) -> Self {
        Self { core, share, space, runtime, landed: Arc::default(), gone: Gone::default() }
    }
}

impl ChunkSource for NetSource {
    fn fetch(&self, want: &[Want], urgency: Urgency, sink: &dyn ChunkSink) -> io::Result<()> {
        let call = Call { want, urgency, sink };
        let lost = self.fetch_some(&call, (0..want.len()).collect(), true)?;
        if lost.is_empty() {
            return Ok(());
        }
        // What the index has and the disk has not.
        self.fetch_some(&call, lost, false).map(drop)
    }

    fn other_versions(&self, content: &ContentRef) -> Vec<ContentRef> {
        let share = self.core.upgrade().and_then(|core| core.share(&self.share));
        share.map_or_else(Vec::new, |share| share.read(|replica| replica.view().other_versions(content, VERSIONS)))
    }

    fn space(&self) -> Option<&Arc<Space>> {
        Some(&self.space)
    }
}

/// One call of the store.
struct Call<'a> {
    want: &'a [Want],
    urgency: Urgency,
    sink: &'a dyn ChunkSink,
}

impl NetSource {
    /// Hands over those of what is wanted that stand at these `places`, and fetches what is not here; what is in the store
    /// counts only if it is `trusted`. Gives the places of what the store has and cannot read.
    fn fetch_some(&self, call: &Call<'_>, places: Vec<usize>, trusted: bool) -> io::Result<Vec<usize>> {
        let Some(core) = self.core.upgrade() else { return Err(closed()) };
        // A share that is being opened while the engine starts fetches once the network is there: members that connect are
        // the reason to try again.
        let Some(node) = core.node_if_started().cloned() else { return Err(starting()) };
        let wants = places.iter().map(|place| as_net(&call.want[*place])).collect();
        let lookup = Arc::new(Lookup {
            chunks: places.into_iter().map(|place| (place, call.want[place].chunk.hash)).collect(),
            landed: self.landed.clone(),
            store: core.store().clone(),
            trusted,
            found: Mutex::default(),
        });
        let read = (call.urgency == Urgency::Read).then(|| self.begin_read(&core, &node, call, &lookup)).flatten();
        drop(core);
        let (urgency, mut patience) = translate(call.urgency);
        if read.as_ref().is_some_and(|read| self.gone.is_recent(&read.content, &read.asking)) {
            patience = GONE_PATIENCE;
        }
        let (to, receiver) = sync_channel(QUEUE);
        let came = Arc::new(AtomicUsize::new(0));
        let hand = Hand { lookup: lookup.clone(), came: came.clone(), to };
        let fetching = node.fetch(self.share, wants, urgency, patience, hand);
        let (gone, waiting) = read.map(|read| ((read.content, read.asking), read.waiting)).unzip();
        let fetched = self.runtime.spawn(async move {
            let Some(waiting) = waiting else { return fetching.await.map_err(|error| as_io(&error)) };
            tokio::select! {
                fetched = fetching => fetched.map_err(|error| as_io(&error)),
                () = waiting.until_replaced(&came) => Err(replaced()),
            }
        });
        let outcome = self.hand_over(call, &lookup, receiver);
        if outcome.is_err() {
            fetched.abort();
        }
        let lost = outcome?;
        match self.runtime.block_on(fetched) {
            Ok(Err(error)) => {
                if let Some((content, asking)) = gone.filter(|_| error.kind() == io::ErrorKind::HostUnreachable) {
                    self.gone.note(&content, asking);
                }
                Err(error)
            }
            Ok(Ok(())) => Ok(lost),
            Err(_) => Err(closed()),
        }
    }

    /// Somebody waits in a read; `None` if all that it wants is here.
    fn begin_read(&self, core: &Arc<Core>, node: &Node, call: &Call<'_>, lookup: &Lookup) -> Option<Read> {
        let lacks = |(_, hash): &&(usize, Hash)| lookup.find(hash).is_none();
        let content = content_of(&call.want[lookup.chunks.iter().find(lacks)?.0]);
        let asking = node.connected().into_iter().collect();
        Some(Read { content, asking, waiting: Waiting::new(core, self.share, content) })
    }

    /// Hands over what was found here, and then what comes until nothing more can. Gives the places of what was found and
    /// cannot be read.
    fn hand_over(
        &self,
        call: &Call<'_>,
        lookup: &Lookup,
        receiver: Receiver<(usize, Arrived)>,
    ) -> io::Result<Vec<usize>> {
        let found = std::mem::take(&mut *lookup.found.lock());
        let left = lookup.chunks.len() - found.len();
        let mut lost = Vec::new();
        for (place, hash, found) in found {
            let bytes = match found {
                Found::Landed(bytes) => Ok(Some(bytes)),
                Found::Stored => lookup.store.read_chunk(&hash).map(|bytes| bytes.map(Bytes::from)),
            };
            match bytes {
                Ok(Some(bytes)) => call.sink.accept(place, &bytes)?,
                Ok(None) | Err(_) => lost.push(place),
            }
        }
        keep(&Mutex::new(Some(receiver)), left, call.sink)?;
        Ok(lost)
    }
}

/// What somebody waits for in a read.
struct Read {
    content: ContentRef,
    /// Who is connected as it begins.
    asking: BTreeSet<DeviceId>,
    waiting: Waiting,
}

/// Where a chunk is that need not be fetched.
enum Found {
    Landed(Bytes),
    Stored,
}

/// The chunks of a fetch, and which of them were here when it began.
struct Lookup {
    /// With their places in what the store wants.
    chunks: Vec<(usize, Hash)>,
    landed: Arc<Landed>,
    store: Store,
    /// Whether what the store says that it has is here.
    trusted: bool,
    found: Mutex<Vec<(usize, Hash, Found)>>,
}

impl Lookup {
    fn find(&self, hash: &Hash) -> Option<Found> {
        // In this order: what is kept has landed until it is.
        let landed = self.landed.get(hash).map(Found::Landed);
        landed.or_else(|| (self.trusted && self.store.has_chunk(hash)).then_some(Found::Stored))
    }
}

/// Where the network hands over the chunks of a fetch.
struct Hand {
    lookup: Arc<Lookup>,
    /// How many came.
    came: Arc<AtomicUsize>,
    to: SyncSender<(usize, Arrived)>,
}

impl Sink for Hand {
    fn take(&self, index: usize, bytes: Bytes) -> io::Result<()> {
        self.came.fetch_add(1, Ordering::Relaxed);
        let (place, hash) = self.lookup.chunks[index];
        let arrived = self.lookup.landed.enter(hash, bytes);
        // Nobody receives any more: keeping a chunk failed, and that error is the one to be returned.
        self.to.send((place, arrived)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn has(&self, index: usize) -> bool {
        let (place, hash) = self.lookup.chunks[index];
        let found = self.lookup.find(&hash);
        let has = found.is_some();
        self.lookup.found.lock().extend(found.map(|found| (place, hash, found)));
        has
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

type Queue = Mutex<Option<Receiver<(usize, Arrived)>>>;

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
        let Ok((place, arrived)) = next else { return Ok(()) };
        if let Err(error) = sink.accept(place, arrived.bytes()) {
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
