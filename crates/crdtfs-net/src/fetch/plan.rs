//! Which chunk is asked of whom: pure bookkeeping, time passed in.
//!
//! A *job* is one call of `fetch`: chunks wanted from one share. A *flight* is one request on its way to one peer; it may
//! carry chunks of several jobs of the same share and urgency, so that thousands of small files do not become thousands
//! of requests. Work stealing falls out of small flights: who answers fast asks for more. What a slow peer sits on is asked of
//! another one as well, and whichever answer comes first counts.
//!
//! Invariants: a chunk that nobody has delivered is either queued in its job or in a flight; a chunk is claimed once; what is in
//! flight is bounded by requests and bytes a peer and by bytes in all.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, ShareId};

use super::request::{Assignment, Claim, Ended, FlightId, JobId, Landing, Slot, Urgency, Want};
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
/// What a chunk of unknown length counts as.
const GUESS: u64 = 256 << 10;
const STALL: Duration = Duration::from_secs(8);
const STALL_MAX: Duration = Duration::from_secs(60);
const SLOW_PENALTY: Duration = Duration::from_secs(10);
const LIE_PENALTY: Duration = Duration::from_secs(60);
const NEWS_EVERY: Duration = Duration::from_millis(300);
/// Absent answers are asked again after this, for peers that gained something without saying so.
const ASK_AGAIN: Duration = Duration::from_secs(3);

struct Item {
    want: Want,
    claimed: bool,
    queued: bool,
    flying: u8,
    /// Peers that said they lack it, with their generation at that time.
    absent: Vec<(DeviceId, u64)>,
}

impl Item {
    fn bytes(&self) -> u64 {
        self.want.len.map_or(GUESS, u64::from)
    }
}

struct Job {
    share: ShareId,
    urgency: Urgency,
    items: Vec<Item>,
    queue: VecDeque<u32>,
    queued_bytes: u64,
    flying_bytes: u64,
    left: usize,
    exhausted: HashSet<DeviceId>,
    progress: Instant,
    asked_again: Instant,
}

#[derive(Default)]
struct Peer {
    shares: HashSet<ShareId>,
    flights: usize,
    bytes: u64,
    target: u64,
    /// Raised when the peer may have gained chunks.
    generation: u64,
    news: bool,
    news_at: Option<Instant>,
    avoid_until: Option<Instant>,
    stalls: u32,
}

struct Flight {
    device: DeviceId,
    urgency: Urgency,
    slots: Vec<Slot>,
    /// Which slots were answered.
    answered: Vec<bool>,
    bytes: u64,
    started: Instant,
    progress: Instant,
}

impl Flight {
    /// Slots that were not answered.
    fn open(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().zip(&self.answered).filter(|(_, answered)| !**answered).map(|(slot, _)| *slot)
    }
}

/// The state of all fetches of a node.
#[derive(Default)]
pub(crate) struct Plan {
    jobs: BTreeMap<JobId, Job>,
    peers: HashMap<DeviceId, Peer>,
    flights: BTreeMap<FlightId, Flight>,
    bytes: u64,
    last: u64,
}

impl Plan {
    /// Adds a job; `None` if nothing is wanted.
    pub(crate) fn add(&mut self, share: ShareId, wants: Vec<Want>, urgency: Urgency, now: Instant) -> Option<JobId> {
        if wants.is_empty() {
            return None;
        }
        let items: Vec<Item> = wants
            .into_iter()
            .map(|want| Item { want, claimed: false, queued: true, flying: 0, absent: Vec::new() })
            .collect();
        let job = Job {
            share,
            urgency,
            queue: (0..items.len() as u32).collect(),
            queued_bytes: items.iter().map(Item::bytes).sum(),
            flying_bytes: 0,
            left: items.len(),
            items,
            exhausted: HashSet::new(),
            progress: now,
            asked_again: now,
        };
        let id = JobId::new(self.fresh());
        self.jobs.insert(id, job);
        Some(id)
    }

    /// Forgets a job; gives the flights that nobody needs any more.
    pub(crate) fn remove(&mut self, job: JobId) -> Ended {
        self.jobs.remove(&job);
        Ended { done: Vec::new(), needless: self.needless() }
    }

    /// Chunks of a job that did not arrive, and since when nothing did and nobody could be asked either.
    pub(crate) fn state(&self, job: JobId) -> Option<(usize, Instant)> {
        self.jobs.get(&job).map(|job| (job.left, job.progress))
    }

    /// Whether anything is wanted at all.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.flights.is_empty()
    }

    /// A peer can be asked for chunks of a share.
    pub(crate) fn peer_up(&mut self, device: DeviceId, share: ShareId) {
        let peer = self.peers.entry(device).or_default();
        if peer.target == 0 {
            peer.target = TARGET_FIRST;
        }
        peer.shares.insert(share);
        self.renew(device);
    }

    /// A peer can no longer be asked for chunks of a share (`None`: of any). Its flights end by themselves.
    pub(crate) fn peer_down(&mut self, device: DeviceId, share: Option<ShareId>) {
        if let Some(peer) = self.peers.get_mut(&device) {
            match share {
                Some(share) => {
                    peer.shares.remove(&share);
                }
                None => peer.shares.clear(),
            }
        }
    }

    /// How many peers can be asked for chunks of a share now.
    pub(crate) fn sources(&self, share: &ShareId) -> usize {
        self.peers.values().filter(|peer| peer.shares.contains(share)).count()
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
                peer.shares.contains(&job.share)
                    && !job.exhausted.contains(device)
                    && peer.avoid_until.is_none_or(|until| now >= until)
            };
            if job.flying_bytes > 0 || self.peers.iter().any(asks) {
                job.progress = now;
            }
            if !job.queue.is_empty() && job.flying_bytes == 0 && now >= job.asked_again + ASK_AGAIN {
                job.asked_again = now;
                job.exhausted.clear();
                for item in &mut job.items {
                    item.absent.clear();
                }
            }
        }
        let stalled = |flight: &Flight| {
            let stalls = self.peers.get(&flight.device).map_or(0, |peer| peer.stalls);
            now >= flight.progress + STALL.saturating_mul(1 << stalls.min(3)).min(STALL_MAX)
        };
        self.flights.iter().filter(|(_, flight)| stalled(flight)).map(|(id, _)| *id).collect()
    }

    /// The next request to send, if a peer has room for one: to the peer with the least on its way.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Assignment> {
        if self.jobs.is_empty() {
            return None;
        }
        let mut devices: Vec<(u64, DeviceId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.shares.is_empty() && peer.avoid_until.is_none_or(|until| now >= until))
            .map(|(device, peer)| (peer.bytes, *device))
            .collect();
        devices.sort_unstable();
        devices
            .iter()
            .find_map(|(_, device)| self.next_for(*device, now))
            .or_else(|| devices.iter().find_map(|(_, device)| self.steal_for(*device, now)))
    }

    /// A flight of queued chunks for this peer: the most urgent ones, of the job that has least on its way first.
    fn next_for(&mut self, device: DeviceId, now: Instant) -> Option<Assignment> {
        let peer = self.peers.get(&device)?;
        let mut order: Vec<(Urgency, u64, JobId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| {
                !job.queue.is_empty()
                    && peer.shares.contains(&job.share)
                    && !job.exhausted.contains(&device)
                    && has_room(peer, self.bytes, job.urgency)
            })
            .map(|(id, job)| (job.urgency, job.flying_bytes, *id))
            .collect();
        order.sort_unstable();
        let mut first: Option<(ShareId, Urgency, u64)> = None;
        let (mut slots, mut bytes) = (Vec::new(), 0);
        for (urgency, _, id) in order.iter().copied() {
            let share = self.jobs.get(&id)?.share;
            let (flight_share, flight_urgency, target) =
                *first.get_or_insert_with(|| (share, urgency, self.target(&device, &share, urgency)));
            if share != flight_share || urgency != flight_urgency {
                if slots.is_empty() {
                    first = None;
                }
                continue;
            }
            self.take(device, id, target, &mut slots, &mut bytes);
            if bytes >= target || slots.len() >= MAX_REQUEST {
                break;
            }
            if slots.is_empty() {
                first = None;
            }
        }
        let (share, urgency, _) = first?;
        if slots.is_empty() { None } else { Some(self.launch(device, share, urgency, slots, bytes, now)) }
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
    fn take(&mut self, device: DeviceId, id: JobId, target: u64, slots: &mut Vec<Slot>, bytes: &mut u64) {
        let generation = self.peers.get(&device).map_or(0, |peer| peer.generation);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let before = slots.len();
        for _ in 0..job.queue.len() {
            if slots.len() >= MAX_REQUEST || *bytes >= target {
                break;
            }
            let Some(index) = job.queue.pop_front() else { break };
            let item = &mut job.items[index as usize];
            if item.claimed {
                item.queued = false;
                job.queued_bytes -= item.bytes();
            } else if item.absent.contains(&(device, generation)) {
                job.queue.push_back(index);
            } else {
                item.queued = false;
                item.flying += 1;
                job.queued_bytes -= item.bytes();
                job.flying_bytes += item.bytes();
                *bytes += item.bytes();
                slots.push((id, index));
            }
        }
        if slots.len() == before {
            job.exhausted.insert(device);
        }
    }

    /// A second flight for what a slower peer was asked long ago.
    fn steal_for(&mut self, device: DeviceId, now: Instant) -> Option<Assignment> {
        let peer = self.peers.get(&device)?;
        let generation = peer.generation;
        let (share, urgency, slots) = self.flights.values().find_map(|flight| {
            let patience = match flight.urgency {
                Urgency::Waiting => Duration::from_millis(150),
                Urgency::Soon | Urgency::Background => Duration::from_secs(1),
            };
            if flight.device == device || now < flight.started + patience || !has_room(peer, self.bytes, flight.urgency)
            {
                return None;
            }
            let mut share = None;
            let open: Vec<Slot> = flight
                .open()
                .filter(|(id, index)| {
                    self.jobs.get(id).is_some_and(|job| {
                        let item = &job.items[*index as usize];
                        let free = !item.claimed && item.flying < 2 && !item.absent.contains(&(device, generation));
                        share = share.or(free.then_some(job.share));
                        free && peer.shares.contains(&job.share)
                    })
                })
                .collect();
            let share = share.filter(|_| !open.is_empty())?;
            Some((share, flight.urgency, open))
        })?;
        let mut bytes = 0;
        for (id, index) in &slots {
            if let Some(job) = self.jobs.get_mut(id) {
                let item = &mut job.items[*index as usize];
                item.flying += 1;
                job.flying_bytes += item.bytes();
                bytes += item.bytes();
            }
        }
        Some(self.launch(device, share, urgency, slots, bytes, now))
    }

    fn launch(
        &mut self,
        device: DeviceId,
        share: ShareId,
        urgency: Urgency,
        slots: Vec<Slot>,
        bytes: u64,
        now: Instant,
    ) -> Assignment {
        let flight = FlightId::new(self.fresh());
        let wants = slots
            .iter()
            .filter_map(|(id, index)| self.jobs.get(id).map(|job| job.items[*index as usize].want))
            .collect();
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.flights += 1;
            peer.bytes += bytes;
        }
        self.bytes += bytes;
        let answered = vec![false; slots.len()];
        let state = Flight { device, urgency, slots: slots.clone(), answered, bytes, started: now, progress: now };
        self.flights.insert(flight, state);
        Assignment { flight, device, share, urgency, slots, wants }
    }

    /// Bytes arrived for a flight; false if it is not needed any more.
    pub(crate) fn progress(&mut self, flight: FlightId, now: Instant) -> bool {
        match self.flights.get_mut(&flight) {
            Some(flight) => {
                flight.progress = now;
                true
            }
            None => false,
        }
    }

    /// A slot of a flight was answered with its chunk, verified.
    pub(crate) fn arrived(&mut self, flight: FlightId, slot: usize, now: Instant) -> Claim {
        let Some((id, index)) = self.answer(flight, slot, now) else { return Claim::Late };
        let Some(job) = self.jobs.get_mut(&id) else { return Claim::Late };
        job.progress = now;
        let item = &mut job.items[index as usize];
        if item.claimed {
            Claim::Late
        } else {
            item.claimed = true;
            Claim::First
        }
    }

    /// A slot of a flight was answered: the peer lacks it.
    pub(crate) fn absent(&mut self, flight: FlightId, slot: usize, now: Instant) {
        let device = self.flights.get(&flight).map(|flight| flight.device);
        let (Some(device), Some((id, index))) = (device, self.answer(flight, slot, now)) else { return };
        let generation = self.peers.get(&device).map_or(0, |peer| peer.generation);
        if let Some(job) = self.jobs.get_mut(&id) {
            let item = &mut job.items[index as usize];
            item.absent.retain(|(other, _)| *other != device);
            item.absent.push((device, generation));
            job.requeue(index, Some(device));
        }
    }

    /// Counts an answer; the chunk is in this flight no more.
    fn answer(&mut self, flight: FlightId, slot: usize, now: Instant) -> Option<Slot> {
        let flight = self.flights.get_mut(&flight)?;
        if std::mem::replace(flight.answered.get_mut(slot)?, true) {
            return None;
        }
        flight.progress = now;
        let slot = flight.slots[slot];
        self.jobs.get_mut(&slot.0)?.unfly(slot.1);
        Some(slot)
    }

    /// A claimed chunk was given to its fetch.
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
        for (id, index) in flight.open() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.unfly(index);
                job.requeue(index, None);
            }
        }
    }

    /// Flights all of whose open slots are claimed or unwanted. They stay until they land.
    fn needless(&self) -> Vec<FlightId> {
        let wanted = |(id, index): Slot| self.jobs.get(&id).is_some_and(|job| !job.items[index as usize].claimed);
        let needless = |flight: &Flight| flight.open().next().is_some() && !flight.open().any(wanted);
        self.flights.iter().filter(|(_, flight)| needless(flight)).map(|(id, _)| *id).collect()
    }

    fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Job {
    fn unfly(&mut self, index: u32) {
        let item = &mut self.items[index as usize];
        item.flying -= 1;
        self.flying_bytes -= item.bytes();
    }

    /// Queues a chunk again, for all but the one that has just said that it lacks it.
    fn requeue(&mut self, index: u32, lacking: Option<DeviceId>) {
        let item = &mut self.items[index as usize];
        if item.claimed || item.queued || item.flying > 0 {
            return;
        }
        item.queued = true;
        self.queued_bytes += item.bytes();
        self.queue.push_back(index);
        self.exhausted.retain(|device| Some(*device) == lacking);
    }
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
