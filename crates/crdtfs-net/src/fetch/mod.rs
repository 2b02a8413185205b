//! Fetching chunks from all members that have them.
//!
//! [`plan`] decides, [`flight`] carries. A request is a stream of its own: it costs no round trip to open, its cancellation is
//! the stream's, and the streams' windows add up on long fat links. What arrives is hashed and handed to its fetch on threads that may
//! block, so that a slow disk slows the stream down and nothing else.

mod chunk;
mod flight;
mod plan;
#[cfg(test)]
mod plan_tests;
mod request;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crdtfs_core::id::{DeviceId, ShareId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::request::{Urgency, Want};

use self::plan::Plan;
use self::request::{Assignment, Ended, FlightId, JobId, Landing, SessionId};
use crate::error::FetchError;
use crate::link::SlotHandle;
use crate::node::Inner;

/// Where the chunks of a fetch go. A closure that takes chunks is one.
pub trait Sink: Send + Sync + 'static {
    /// Takes a chunk that came: its index in the list of wants, and its verified bytes. Called on threads that may block,
    /// several at once, once for each chunk that is fetched.
    fn take(&self, index: usize, bytes: Bytes) -> io::Result<()>;

    /// Whether a chunk is here already: then it is not fetched, and never taken. Asked by [`crate::Node::fetch`] itself, for
    /// each chunk that no other fetch waits for. Whatever came for others has been taken by their sinks then, and nothing comes
    /// between the answer and what follows from it, so that no chunk is sent twice. All fetches wait meanwhile: it has to be
    /// quick, and must not fetch anything.
    fn has(&self, _index: usize) -> bool {
        false
    }
}

impl<F: Fn(usize, Bytes) -> io::Result<()> + Send + Sync + 'static> Sink for F {
    fn take(&self, index: usize, bytes: Bytes) -> io::Result<()> {
        self(index, bytes)
    }
}

/// How often stalls and thieves are looked for while something is on its way, and while nothing is.
const TICK_BUSY: Duration = Duration::from_millis(100);
const TICK_WAITING: Duration = Duration::from_millis(500);

struct Job {
    sink: Arc<dyn Sink>,
    done: oneshot::Sender<Result<(), FetchError>>,
}

/// How a flight was cut short.
#[derive(Default)]
struct Cut {
    token: CancellationToken,
    landing: Option<Landing>,
}

#[derive(Default)]
struct State {
    plan: Plan,
    jobs: HashMap<JobId, Job>,
    flights: HashMap<FlightId, Cut>,
    closed: bool,
}

/// All fetches of a node.
#[derive(Default)]
pub(crate) struct Fetcher {
    state: Mutex<State>,
    /// There is something to look after.
    busy: Notify,
}

/// What a fetch wants.
pub(crate) struct Order {
    pub(crate) share: ShareId,
    pub(crate) wants: Vec<Want>,
    pub(crate) urgency: Urgency,
    /// How long nobody may be there to ask before it fails.
    pub(crate) patience: Duration,
}

/// A fetch that has begun; it ends when this is dropped.
pub(crate) struct Fetching {
    inner: Arc<Inner>,
    job: JobId,
    share: ShareId,
    wanted: usize,
    patience: Duration,
    finished: oneshot::Receiver<Result<(), FetchError>>,
}

/// A session through which a peer can be asked for chunks.
pub(crate) struct Source {
    inner: Arc<Inner>,
    device: DeviceId,
    share: ShareId,
    session: SessionId,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.inner.fetcher.state.lock().plan.session_down(self.device, self.share, self.session);
        self.inner.fetcher.pump(&self.inner);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut state = self.inner.fetcher.state.lock();
        state.jobs.remove(&self.job);
        let ended = state.plan.remove(self.job);
        state.settle(ended);
    }
}

impl State {
    /// Tells jobs that are done, and stops flights that nobody needs.
    fn settle(&mut self, ended: Ended) {
        for job in ended.done {
            if let Some(job) = self.jobs.remove(&job) {
                // The caller may have gone away.
                let _ = job.done.send(Ok(()));
            }
        }
        for flight in ended.needless {
            self.cut(flight, Landing::Needless);
        }
    }

    fn cut(&mut self, flight: FlightId, landing: Landing) {
        if let Some(cut) = self.flights.get_mut(&flight) {
            cut.landing.get_or_insert(landing);
            cut.token.cancel();
        }
    }
}

impl Fetching {
    /// Waits until all is taken; see [`crate::Node::fetch`].
    pub(crate) async fn end(mut self) -> Result<(), FetchError> {
        loop {
            let plan_state = self.inner.fetcher.state.lock().plan.state(self.job);
            let Some((missing, progress)) = plan_state else {
                return (&mut self.finished).await.unwrap_or(Err(FetchError::Closed));
            };
            let deadline = progress + self.patience;
            if Instant::now() >= deadline {
                let sources = self.inner.fetcher.state.lock().plan.sources(&self.share);
                return Err(FetchError::Unavailable { share: self.share, missing, wanted: self.wanted, sources });
            }
            tokio::select! {
                result = &mut self.finished => return result.unwrap_or(Err(FetchError::Closed)),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }
}

impl Fetcher {
    /// Begins a fetch, and asks for what may be asked for now; `None` if all of it is here.
    pub(crate) fn begin(inner: &Arc<Inner>, order: Order, sink: Arc<dyn Sink>) -> Result<Option<Fetching>, FetchError> {
        let Order { share, wants, urgency, patience } = order;
        let wanted = wants.len();
        let (done, finished) = oneshot::channel();
        let fetcher = &inner.fetcher;
        let job = {
            let mut state = fetcher.state.lock();
            if state.closed {
                return Err(FetchError::Closed);
            }
            let Some(job) = state.plan.begin(share, wants, urgency, Instant::now(), |index| sink.has(index)) else {
                return Ok(None);
            };
            state.jobs.insert(job, Job { sink, done });
            job
        };
        fetcher.busy.notify_one();
        fetcher.pump(inner);
        Ok(Some(Fetching { inner: inner.clone(), job, share, wanted, patience, finished }))
    }

    /// A peer can be asked for chunks of a share, as long as the session in this slot, whose guard this is.
    pub(crate) fn source(inner: &Arc<Inner>, device: DeviceId, slot: &SlotHandle) -> Source {
        let (share, session) = (slot.share, SessionId::new(slot.id));
        inner.fetcher.state.lock().plan.session_up(device, share, session);
        inner.fetcher.pump(inner);
        Source { inner: inner.clone(), device, share, session }
    }

    /// A peer may have gained chunks.
    pub(crate) fn news(&self, inner: &Arc<Inner>, device: DeviceId) {
        self.state.lock().plan.news(device, Instant::now());
        self.pump(inner);
    }

    /// Ends all fetches.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for (id, job) in std::mem::take(&mut state.jobs) {
            let _ = job.done.send(Err(FetchError::Closed));
            state.plan.remove(id);
        }
        for cut in state.flights.values() {
            cut.token.cancel();
        }
    }

    /// Looks after stalls, thieves and held-back news while there are fetches.
    pub(crate) async fn watch(&self, inner: &Arc<Inner>) {
        loop {
            let pause = {
                let state = self.state.lock();
                match (state.plan.is_idle(), state.flights.is_empty()) {
                    (true, _) => None,
                    (false, true) => Some(TICK_WAITING),
                    (false, false) => Some(TICK_BUSY),
                }
            };
            match pause {
                None => self.busy.notified().await,
                Some(pause) => tokio::time::sleep(pause).await,
            }
            {
                let mut state = self.state.lock();
                for flight in state.plan.tick(Instant::now()) {
                    state.cut(flight, Landing::Stalled);
                }
            }
            self.pump(inner);
        }
    }

    /// Sends as many requests as may be on their way.
    fn pump(&self, inner: &Arc<Inner>) {
        loop {
            let (assignment, token) = {
                let mut state = self.state.lock();
                if state.closed {
                    return;
                }
                let Some(assignment) = state.plan.next(Instant::now()) else { return };
                let cut = Cut::default();
                let token = cut.token.clone();
                state.flights.insert(assignment.flight, cut);
                (assignment, token)
            };
            let inner = inner.clone();
            // A fetch may begin on a thread that is not the runtime's.
            let (tasks, runtime) = (inner.tasks.clone(), inner.runtime.clone());
            tasks.spawn_on(async move { fly(inner, assignment, token).await }, &runtime);
        }
    }

    /// Bytes came for a flight.
    fn progress(&self, flight: FlightId) {
        self.state.lock().plan.progress(flight, Instant::now());
    }

    /// The peer lacks a chunk.
    fn absent(&self, flight: FlightId, slot: usize) {
        self.state.lock().plan.absent(flight, slot, Instant::now());
    }

    /// What differs from a base came, and the base is not here any more.
    fn baseless(&self, flight: FlightId, position: usize) {
        self.state.lock().plan.baseless(flight, position, Instant::now());
    }

    /// A verified chunk came: gives it to all that want it if it is the first. Blocks as long as their sinks do.
    fn arrived(&self, flight: FlightId, position: usize, bytes: &Bytes) {
        let mut state = self.state.lock();
        let Some(chunk) = state.plan.arrived(flight, position, Instant::now()) else { return };
        while let Some(slot) = state.plan.taker(chunk) {
            let Some(sink) = state.jobs.get(&slot.0).map(|job| job.sink.clone()) else { continue };
            let outcome = MutexGuard::unlocked(&mut state, || sink.take(slot.1 as usize, bytes.clone()));
            match outcome {
                Ok(()) => {
                    let ended = state.plan.delivered(slot, Instant::now());
                    state.settle(ended);
                }
                Err(error) => {
                    if let Some(job) = state.jobs.remove(&slot.0) {
                        // The caller may have gone away.
                        let _ = job.done.send(Err(FetchError::Sink(error)));
                    }
                    let ended = state.plan.remove(slot.0);
                    state.settle(ended);
                }
            }
        }
    }

    fn landed(&self, flight: FlightId, landing: Landing) {
        let mut state = self.state.lock();
        let cut = state.flights.remove(&flight).and_then(|cut| cut.landing);
        state.plan.landed(flight, cut.unwrap_or(landing), Instant::now());
    }
}

/// Carries one request to its end.
async fn fly(inner: Arc<Inner>, assignment: Assignment, token: CancellationToken) {
    let (flight, device) = (assignment.flight, assignment.device);
    let landing = match inner.peers.link(&device) {
        None => Landing::Gone,
        Some(link) => tokio::select! {
            flown = flight::carry(&inner, &link, assignment) => match flown {
                Ok(landing) => landing,
                Err(error) => {
                    tracing::debug!(peer = %device, %error, "a chunk request broke");
                    if error.is_fault() {
                        inner.offended(&link, &error.to_string());
                    }
                    if link.is_alive() { Landing::Broken } else { Landing::Gone }
                }
            },
            () = token.cancelled() => Landing::Needless,
        },
    };
    if landing == Landing::Lied {
        let why = "it sent wrong bytes for a chunk; it is not asked for a minute".to_owned();
        tracing::warn!(peer = %device, "{why}");
        inner.peers.with(&device, |peer| peer.last_error = Some(why));
    }
    inner.fetcher.landed(flight, landing);
    inner.fetcher.pump(&inner);
}
