//! Which chunk is asked of whom: pure bookkeeping, time passed in.
//!
//! A *job* is one call of `fetch`: chunks wanted from one share. What several jobs of a share want is one chunk, queued in
//! each of them, taken by the most urgent, given to all ([`super::chunk`]). A *flight* is one request on its way to one peer; it
//! may carry chunks of several jobs of the same share and urgency, so that thousands of small files do not become thousands
//! of requests. Work stealing falls out of small flights: who answers fast asks for more. What a slow peer sits on is asked of
//! another one as well, and whichever answer comes first counts.
//!
//! What is here already is found out as the job begins, and not before: a chunk that no job waits for then has been taken by
//! all that waited for it. So no chunk is asked for that came while somebody was about to ask.
//!
//! Invariants: a chunk that nobody has delivered is either queued in the jobs that want it or in a flight; a chunk is claimed
//! once; what is in flight is bounded by requests and bytes a peer and by bytes in all.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, ShareId};

use super::chunk::{Chunk, Chunks};
use super::request::{Assignment, ChunkId, Ended, FlightId, JobId, Landing, SessionId, Slot, Urgency, Want};
use crate::config::MAX_REQUEST;

const TARGET_FIRST: u64 = 512 << 10;
const TARGET_MIN: u64 = 128 << 10;
const TARGET_MAX: u64 = 4 << 20;
/// Flights shorter than this grow the next ones, longer than [`LONG`] shrink them.
const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_millis(400);
const PEER_BYTES: u64 = 16 << 20;
const PEER_BYTES_WAITING: u64 = 32 << 20;
const ALL_BYTES: u64 = 64 << 20;
const STALL: Duration = Duration::from_secs(8);
const STALL_MAX: Duration = Duration::from_secs(60);
const SLOW_PENALTY: Duration = Duration::from_secs(10);
/// How long those who answer are asked before one that did not: longer than a connection outlives its link.
const QUIET: Duration = Duration::from_secs(10);
const LIE_PENALTY: Duration = Duration::from_secs(60);
/// How long a peer whose connection has just gone is not asked: its sessions are about to end, or another connection to begin.
const GONE_PENALTY: Duration = Duration::from_millis(100);
const NEWS_EVERY: Duration = Duration::from_millis(300);
/// Absent answers are asked again after this, for peers that gained something without saying so.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How long somebody waits for a chunk in a less urgent request before the same peer is asked for it more urgently.
const RAISE: Duration = Duration::from_secs(2);

struct Job {
    share: ShareId,
    urgency: Urgency,
    /// What it wants, each once.
    chunks: Vec<ChunkId>,
    /// Chunks that were queued when they were put here; some may have been taken by another job since.
    queue: VecDeque<ChunkId>,
    queued_bytes: u64,
    flying_bytes: u64,
    /// Places that wait for their chunk.
    left: usize,
    exhausted: HashSet<DeviceId>,
    progress: Instant,
    asked_again: Instant,
}

#[derive(Default)]
struct Peer {
    /// The sessions through which it can be asked. A connection that takes the place of another has sessions of its own, and
    /// those of the old one may end after they began.
    shares: HashMap<ShareId, HashSet<SessionId>>,
    flights: usize,
    bytes: u64,
    target: u64,
    /// Raised when the peer may have gained chunks.
    generation: u64,
    news: bool,
    news_at: Option<Instant>,
    avoid_until: Option<Instant>,
    /// It said nothing for so long that another one was asked; until then those who answer are asked first. A link that was
    /// cut looks like this until its connection ends.
    quiet_until: Option<Instant>,
    stalls: u32,
}

impl Peer {
    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }
}

struct Flight {
    device: DeviceId,
    urgency: Urgency,
    chunks: Vec<ChunkId>,
    /// Which were answered.
    answered: Vec<bool>,
    bytes: u64,
    started: Instant,
    progress: Instant,
}

impl Flight {
    /// Whether nothing at all has come.
    fn is_silent(&self) -> bool {
        self.progress == self.started
    }

    /// Chunks that were not answered.
    fn open(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.chunks.iter().zip(&self.answered).filter(|(_, answered)| !**answered).map(|(chunk, _)| *chunk)
    }
}

/// The state of all fetches of a node.
#[derive(Default)]
pub(crate) struct Plan {
    jobs: BTreeMap<JobId, Job>,
    chunks: Chunks,
    peers: HashMap<DeviceId, Peer>,
    flights: BTreeMap<FlightId, Flight>,
    bytes: u64,
    last: u64,
}

impl Plan {
    /// Begins a job; `None` if it wants nothing. `has` says which wants are here already, and is asked only about chunks that
    /// no other job waits for.
    pub(crate) fn begin(
        &mut self,
        share: ShareId,
        wants: Vec<Want>,
        urgency: Urgency,
        now: Instant,
        has: impl Fn(usize) -> bool,
    ) -> Option<JobId> {
        let id = JobId::new(self.fresh());
        let mut job = Job {
            share,
            urgency,
            chunks: Vec::with_capacity(wants.len()),
            queue: VecDeque::with_capacity(wants.len()),
            queued_bytes: 0,
            flying_bytes: 0,
            left: 0,
            exhausted: HashSet::new(),
            progress: now,
            asked_again: now,
        };
        for (index, want) in wants.into_iter().enumerate() {
            if !self.chunks.is_wanted(share, &want) && has(index) {
                continue;
            }
            job.left += 1;
            if let Some((chunk_id, chunk)) = self.chunks.want(share, want, urgency, (id, index as u32)) {
                job.enter(id, chunk_id, chunk, now);
            }
        }
        if job.left == 0 {
            return None;
        }
        self.jobs.insert(id, job);
        Some(id)
    }

    /// Forgets a job; gives the flights that nobody needs any more.
    pub(crate) fn remove(&mut self, id: JobId) -> Ended {
        if let Some(job) = self.jobs.remove(&id) {
            for chunk in job.chunks {
                self.chunks.unwant(chunk, id, |job| urgency_of(&self.jobs, job));
            }
        }
        Ended { done: Vec::new(), needless: self.needless() }
    }

    /// Chunks of a job that did not arrive, and since when nothing did and nobody could be asked either.
    pub(crate) fn state(&self, job: JobId) -> Option<(usize, Instant)> {
        self.jobs.get(&job).map(|job| (job.left, job.progress))
    }

    /// Whether anything is wanted at all.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.flights.is_empty() && self.chunks.is_empty()
    }

    /// A peer can be asked for chunks of a share, as long as this session lasts.
    pub(crate) fn session_up(&mut self, device: DeviceId, share: ShareId, session: SessionId) {
        let peer = self.peers.entry(device).or_default();
        if peer.target == 0 {
            peer.target = TARGET_FIRST;
        }
        peer.quiet_until = None;
        peer.shares.entry(share).or_default().insert(session);
        self.renew(device);
    }

    /// A session ended: without another one the peer can no longer be asked for chunks of the share. Its flights end by
    /// themselves.
    pub(crate) fn session_down(&mut self, device: DeviceId, share: ShareId, session: SessionId) {
        let Some(peer) = self.peers.get_mut(&device) else { return };
        if let Some(sessions) = peer.shares.get_mut(&share) {
            sessions.remove(&session);
            if sessions.is_empty() {
                peer.shares.remove(&share);
            }
        }
    }

    /// How many peers can be asked for chunks of a share now.
    pub(crate) fn sources(&self, share: &ShareId) -> usize {
        self.peers.values().filter(|peer| peer.shares.contains_key(share)).count()
    }

    /// A peer may have gained chunks; taken into account at once, but at most every 300 ms.
    pub(crate) fn news(&mut self, device: DeviceId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&device) else { return };
        if peer.news_at.is_some_and(|at| now < at + NEWS_EVERY) {
            peer.news = true;
        } else {
            peer.news_at = Some(now);
            self.renew(device);
        }
    }

    /// What a peer lacked it may have now.
    fn renew(&mut self, device: DeviceId) {
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.generation += 1;
            peer.news = false;
        }
        for job in self.jobs.values_mut() {
            job.exhausted.remove(&device);
        }
    }

    /// What time brings: news that were held back, absent answers that are asked again. Gives the flights that stalled.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<FlightId> {
        let due = |peer: &Peer| peer.news && peer.news_at.is_none_or(|at| now >= at + NEWS_EVERY);
        let renewed: Vec<DeviceId> = self.peers.iter().filter(|(_, peer)| due(peer)).map(|(id, _)| *id).collect();
        for device in renewed {
            if let Some(peer) = self.peers.get_mut(&device) {
                peer.news_at = Some(now);
            }
            self.renew(device);
        }
        for job in self.jobs.values_mut() {
            // What waits only for its turn is not waited for in vain.
            let asks = |(device, peer): (&DeviceId, &Peer)| {
                peer.shares.contains_key(&job.share)
                    && !job.exhausted.contains(device)
                    && peer.avoid_until.is_none_or(|until| now >= until)
            };
            if job.flying_bytes > 0 || self.peers.iter().any(asks) {
                job.progress = now;
            }
            if !job.queue.is_empty() && job.flying_bytes == 0 && now >= job.asked_again + ASK_AGAIN {
                job.asked_again = now;
                job.exhausted.clear();
                for chunk in &job.chunks {
                    if let Some(chunk) = self.chunks.get_mut(chunk) {
                        chunk.absent.clear();
                    }
                }
            }
        }
        let stalled = |flight: &Flight| {
            let stalls = self.peers.get(&flight.device).map_or(0, |peer| peer.stalls);
            now >= flight.progress + STALL.saturating_mul(1 << stalls.min(3)).min(STALL_MAX)
        };
        self.flights.iter().filter(|(_, flight)| stalled(flight)).map(|(id, _)| *id).collect()
    }

    /// The next request to send, if a peer has room for one: to the peer with the least on its way among those that answer.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Assignment> {
        if self.jobs.is_empty() {
            return None;
        }
        let mut devices: Vec<(bool, u64, DeviceId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.shares.is_empty() && peer.avoid_until.is_none_or(|until| now >= until))
            .map(|(device, peer)| (peer.is_quiet(now), peer.bytes, *device))
            .collect();
        devices.sort_unstable();
        devices
            .iter()
            .find_map(|(.., device)| self.next_for(*device, now))
            .or_else(|| devices.iter().find_map(|(.., device)| self.steal_for(*device, now)))
    }

    /// A flight of queued chunks for this peer: the most urgent ones, of the job that has least on its way first.
    fn next_for(&mut self, device: DeviceId, now: Instant) -> Option<Assignment> {
        let peer = self.peers.get(&device)?;
        let mut order: Vec<(Urgency, u64, JobId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| {
                !job.queue.is_empty()
                    && peer.shares.contains_key(&job.share)
                    && !job.exhausted.contains(&device)
                    && has_room(peer, self.bytes, job.urgency)
            })
            .map(|(id, job)| (job.urgency, job.flying_bytes, *id))
            .collect();
        order.sort_unstable();
        let mut first: Option<(ShareId, Urgency, u64)> = None;
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        for (urgency, _, id) in order.iter().copied() {
            let share = self.jobs.get(&id)?.share;
            let (flight_share, flight_urgency, target) =
                *first.get_or_insert_with(|| (share, urgency, self.target(&device, &share, urgency)));
            if share != flight_share || urgency != flight_urgency {
                if chunks.is_empty() {
                    first = None;
                }
                continue;
            }
            self.take(device, id, target, &mut chunks, &mut bytes);
            if bytes >= target || chunks.len() >= MAX_REQUEST {
                break;
            }
            if chunks.is_empty() {
                first = None;
            }
        }
        let (share, urgency, _) = first?;
        if chunks.is_empty() { None } else { Some(self.launch(device, share, urgency, chunks, bytes, now)) }
    }

    /// Bytes that the next flight should carry: what the peer answers in a fraction of a second, but no more than its share
    /// of what is queued, so that the end of a job is spread over all.
    fn target(&self, device: &DeviceId, share: &ShareId, urgency: Urgency) -> u64 {
        let queued: u64 = self
            .jobs
            .values()
            .filter(|job| job.share == *share && job.urgency == urgency)
            .map(|job| job.queued_bytes)
            .sum();
        let fair = queued / (2 * self.sources(share).max(1) as u64);
        self.peers.get(device).map_or(TARGET_FIRST, |peer| peer.target).min(fair.max(2 * TARGET_MIN))
    }

    /// Moves chunks of a job from its queue into a flight.
    fn take(&mut self, device: DeviceId, id: JobId, target: u64, chunks: &mut Vec<ChunkId>, bytes: &mut u64) {
        let generation = self.peers.get(&device).map_or(0, |peer| peer.generation);
        let before = chunks.len();
        let queued = self.jobs.get(&id).map_or(0, |job| job.queue.len());
        for _ in 0..queued {
            if chunks.len() >= MAX_REQUEST || *bytes >= target {
                break;
            }
            let Some(job) = self.jobs.get_mut(&id) else { return };
            let Some(chunk_id) = job.queue.pop_front() else { break };
            let Some(chunk) = self.chunks.get_mut(&chunk_id) else { continue };
            if chunk.queued && chunk.absent.contains(&(device, generation)) {
                job.queue.push_back(chunk_id);
                continue;
            }
            chunk.list(id, false);
            // Another job may have taken it.
            if chunk.queued {
                *bytes += chunk.bytes();
                chunks.push(chunk_id);
                self.fly(chunk_id);
            }
        }
        if let Some(job) = self.jobs.get_mut(&id)
            && chunks.len() == before
            && !job.queue.is_empty()
        {
            job.exhausted.insert(device);
        }
    }

    /// Counts a chunk as being in one more flight.
    fn fly(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        let (bytes, queued) = (chunk.bytes(), std::mem::take(&mut chunk.queued));
        chunk.flying += 1;
        for taker in &chunk.takers {
            if let Some(job) = self.jobs.get_mut(&taker.job) {
                job.queued_bytes -= if queued { bytes } else { 0 };
                job.flying_bytes += bytes;
            }
        }
    }

    /// Counts a chunk as being in one flight less.
    fn unfly(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get(&id) else { return };
        // Of one that came, jobs count nothing any more.
        for taker in chunk.takers.iter().filter(|_| !chunk.claimed) {
            if let Some(job) = self.jobs.get_mut(&taker.job) {
                job.flying_bytes -= chunk.bytes();
            }
        }
        self.chunks.unfly(id);
    }

    /// Queues a chunk again, for all but the one that has just said that it lacks it.
    fn requeue(&mut self, id: ChunkId, lacking: Option<DeviceId>) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        if chunk.claimed || chunk.queued || chunk.flying > 0 {
            return;
        }
        (chunk.queued, chunk.raised) = (true, None);
        let bytes = chunk.bytes();
        for taker in &mut chunk.takers {
            let Some(job) = self.jobs.get_mut(&taker.job) else { continue };
            job.queued_bytes += bytes;
            if !std::mem::replace(&mut taker.listed, true) {
                job.queue.push_back(id);
            }
            job.exhausted.retain(|device| Some(*device) == lacking);
        }
    }

    /// A second flight for what a slower peer was asked long ago, or what this one was asked less urgently.
    fn steal_for(&mut self, device: DeviceId, now: Instant) -> Option<Assignment> {
        let peer = self.peers.get(&device)?;
        let (slow, share, urgency, chunks) = self.flights.values().find_map(|flight| {
            let mut first = None;
            let chunks: Vec<ChunkId> = flight
                .open()
                .filter(|id| {
                    self.chunks.get(id).is_some_and(|chunk| {
                        may_steal(device, peer, flight, chunk, now)
                            && has_room(peer, self.bytes, chunk.urgency)
                            && *first.get_or_insert((chunk.share, chunk.urgency)) == (chunk.share, chunk.urgency)
                    })
                })
                .collect();
            let slow = (flight.is_silent() && flight.device != device).then_some(flight.device);
            first.map(|(share, urgency)| (slow, share, urgency, chunks))
        })?;
        if let Some(peer) = slow.and_then(|slow| self.peers.get_mut(&slow)) {
            peer.quiet_until = Some(now + QUIET);
        }
        let mut bytes = 0;
        for id in &chunks {
            bytes += self.chunks.get(id).map_or(0, Chunk::bytes);
            self.fly(*id);
        }
        Some(self.launch(device, share, urgency, chunks, bytes, now))
    }

    fn launch(
        &mut self,
        device: DeviceId,
        share: ShareId,
        urgency: Urgency,
        chunks: Vec<ChunkId>,
        bytes: u64,
        now: Instant,
    ) -> Assignment {
        let flight = FlightId::new(self.fresh());
        let wants = chunks.iter().filter_map(|id| self.chunks.get(id).map(|chunk| chunk.want)).collect();
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.flights += 1;
            peer.bytes += bytes;
        }
        self.bytes += bytes;
        let answered = vec![false; chunks.len()];
        let state = Flight { device, urgency, chunks, answered, bytes, started: now, progress: now };
        self.flights.insert(flight, state);
        Assignment { flight, device, share, urgency, wants }
    }

    /// Bytes arrived for a flight; false if it is not needed any more.
    pub(crate) fn progress(&mut self, flight: FlightId, now: Instant) -> bool {
        let Some(flight) = self.flights.get_mut(&flight) else { return false };
        flight.progress = now;
        if let Some(peer) = self.peers.get_mut(&flight.device) {
            peer.quiet_until = None;
        }
        true
    }

    /// A chunk of a flight came, verified. If it is the first time, the caller gives it to all its [`Plan::taker`]s.
    pub(crate) fn arrived(&mut self, flight: FlightId, position: usize, now: Instant) -> Option<ChunkId> {
        let id = self.answer(flight, position, now)?;
        let chunk = self.chunks.get_mut(&id).filter(|chunk| !chunk.claimed)?;
        chunk.claimed = true;
        let flying = chunk.bytes() * u64::from(chunk.flying);
        for taker in &chunk.takers {
            if let Some(job) = self.jobs.get_mut(&taker.job) {
                job.flying_bytes -= flying;
                job.progress = now;
            }
        }
        Some(id)
    }

    /// The next place to give a claimed chunk to, most urgent first, those too that began to want it meanwhile. To be asked
    /// until there is none.
    pub(crate) fn taker(&mut self, chunk: ChunkId) -> Option<Slot> {
        self.chunks.next_taker(chunk, |job| urgency_of(&self.jobs, job))
    }

    /// A chunk of a flight was answered: the peer lacks it.
    pub(crate) fn absent(&mut self, flight: FlightId, position: usize, now: Instant) {
        let device = self.flights.get(&flight).map(|flight| flight.device);
        let (Some(device), Some(id)) = (device, self.answer(flight, position, now)) else { return };
        let generation = self.peers.get(&device).map_or(0, |peer| peer.generation);
        if let Some(chunk) = self.chunks.get_mut(&id) {
            chunk.absent.retain(|(other, _)| *other != device);
            chunk.absent.push((device, generation));
            self.requeue(id, Some(device));
        }
    }

    /// A chunk of a flight came as what differs from its base, and that is not here any more: it is asked for as a whole.
    pub(crate) fn baseless(&mut self, flight: FlightId, position: usize, now: Instant) {
        let Some(id) = self.answer(flight, position, now) else { return };
        if let Some(chunk) = self.chunks.get_mut(&id) {
            chunk.want.base = None;
            self.requeue(id, None);
        }
    }

    /// Counts an answer; the chunk is in this flight no more.
    fn answer(&mut self, id: FlightId, position: usize, now: Instant) -> Option<ChunkId> {
        self.progress(id, now);
        let flight = self.flights.get_mut(&id)?;
        if std::mem::replace(flight.answered.get_mut(position)?, true) {
            return None;
        }
        let chunk = flight.chunks[position];
        self.unfly(chunk);
        Some(chunk)
    }

    /// A claimed chunk was given to a place of a fetch.
    pub(crate) fn delivered(&mut self, (id, _): Slot, now: Instant) -> Ended {
        let mut done = Vec::new();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.progress = now;
            job.left -= 1;
            if job.left == 0 {
                self.jobs.remove(&id);
                done.push(id);
            }
        }
        Ended { needless: if done.is_empty() { Vec::new() } else { self.needless() }, done }
    }

    /// A flight ended: what it did not bring is queued again.
    pub(crate) fn landed(&mut self, flight: FlightId, landing: Landing, now: Instant) {
        let Some(flight) = self.flights.remove(&flight) else { return };
        self.bytes -= flight.bytes;
        if let Some(peer) = self.peers.get_mut(&flight.device) {
            peer.flights -= 1;
            peer.bytes -= flight.bytes;
            let took = now.saturating_duration_since(flight.started);
            match landing {
                Landing::Complete => {
                    peer.stalls = 0;
                    if took < SHORT {
                        peer.target = (peer.target * 2).min(TARGET_MAX);
                    } else if took > LONG {
                        peer.target = (peer.target / 2).max(TARGET_MIN);
                    }
                }
                Landing::Gone => peer.avoid_until = peer.avoid_until.max(Some(now + GONE_PENALTY)),
                Landing::Broken => peer.target = (peer.target / 2).max(TARGET_MIN),
                Landing::Stalled => {
                    peer.stalls = peer.stalls.saturating_add(1);
                    peer.target = TARGET_MIN;
                    peer.avoid_until = Some(now + SLOW_PENALTY);
                }
                Landing::Lied => peer.avoid_until = Some(now + LIE_PENALTY),
                Landing::Needless => {}
            }
        }
        for id in flight.open() {
            self.unfly(id);
            self.requeue(id, None);
        }
    }

    /// Flights all of whose open chunks are claimed or unwanted. They stay until they land.
    fn needless(&self) -> Vec<FlightId> {
        let wanted = |id: ChunkId| self.chunks.get(&id).is_some_and(|chunk| !chunk.claimed && !chunk.takers.is_empty());
        let needless = |flight: &Flight| flight.open().next().is_some() && !flight.open().any(wanted);
        self.flights.iter().filter(|(_, flight)| needless(flight)).map(|(id, _)| *id).collect()
    }

    fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Job {
    /// Takes part in a chunk as it is now: queued, in a flight of another job, or being given away.
    fn enter(&mut self, own: JobId, id: ChunkId, chunk: &mut Chunk, now: Instant) {
        self.chunks.push(id);
        if chunk.queued {
            chunk.list(own, true);
            self.queue.push_back(id);
            self.queued_bytes += chunk.bytes();
        } else if !chunk.claimed {
            self.flying_bytes += chunk.bytes() * u64::from(chunk.flying);
            if self.urgency < chunk.urgency {
                chunk.raised = Some(now);
            }
        }
        chunk.urgency = chunk.urgency.min(self.urgency);
    }
}

/// How urgent a job is; one that is gone, not at all.
fn urgency_of(jobs: &BTreeMap<JobId, Job>, job: &JobId) -> Urgency {
    jobs.get(job).map_or(Urgency::Background, |job| job.urgency)
}

/// Whether a peer may be asked for a chunk that is in a flight already: another peer is slow with it, or this one was asked
/// less urgently than it is wanted now.
fn may_steal(device: DeviceId, peer: &Peer, flight: &Flight, chunk: &Chunk, now: Instant) -> bool {
    let patience = match chunk.urgency {
        Urgency::Waiting => Duration::from_millis(150),
        // Of a peer that sends, however slowly, more may come; one that sends nothing may be gone.
        Urgency::Soon if flight.is_silent() => Duration::from_millis(300),
        Urgency::Soon | Urgency::Background => Duration::from_secs(1),
    };
    let due = if flight.device == device {
        chunk.urgency < flight.urgency && chunk.raised.is_some_and(|at| now >= at + RAISE)
    } else {
        now >= flight.started + patience
    };
    due && !chunk.claimed
        && chunk.flying < 2
        && peer.shares.contains_key(&chunk.share)
        && !chunk.absent.contains(&(device, peer.generation))
}

/// Whether one more flight may go to a peer. More urgent ones have room of their own.
fn has_room(peer: &Peer, all: u64, urgency: Urgency) -> bool {
    let (flights, bytes) = match urgency {
        Urgency::Waiting => (16, PEER_BYTES_WAITING),
        Urgency::Soon => (12, PEER_BYTES),
        Urgency::Background => (8, PEER_BYTES),
    };
    peer.flights < flights && peer.bytes < bytes && (all < ALL_BYTES || urgency == Urgency::Waiting)
}
