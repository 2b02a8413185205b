//! The plan on its own, with a clock of the tests' own.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crdtfs_core::content::ChunkRef;
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::Plan;
use super::request::*;

const SHARE: ShareId = ShareId([1; 32]);
const A: DeviceId = DeviceId([1; 32]);
const B: DeviceId = DeviceId([2; 32]);
const SESSION: SessionId = SessionId::new(1);
const KIB: u32 = 1024;

impl Plan {
    /// Begins a job of which nothing is here.
    fn add(&mut self, share: ShareId, wants: Vec<Want>, urgency: Urgency, now: Instant) -> Option<JobId> {
        self.begin(share, wants, urgency, now, |_| false)
    }
}

fn wants(count: u32, len: u32) -> Vec<Want> {
    wants_of(0, count, len)
}

/// Wants of a kind: those of one kind are the same chunks, those of another are others.
fn wants_of(kind: u32, count: u32, len: u32) -> Vec<Want> {
    (0..count).map(|i| want(&[kind, i].map(u32::to_le_bytes).concat(), Some(len))).collect()
}

fn want(bytes: &[u8], len: Option<u32>) -> Want {
    Want { chunk: ChunkRef::whole(Hash::of(bytes)), len, base: None }
}

fn plan(peers: &[DeviceId]) -> Plan {
    let mut plan = Plan::default();
    peers.iter().for_each(|peer| plan.session_up(*peer, SHARE, SESSION));
    plan
}

fn drain(plan: &mut Plan, now: Instant) -> Vec<Assignment> {
    std::iter::from_fn(|| plan.next(now)).collect()
}

/// One chunk of a flight comes and is given to all that want it: where it went.
fn give(plan: &mut Plan, flight: FlightId, position: usize, now: Instant) -> Vec<(Slot, Ended)> {
    let Some(chunk) = plan.arrived(flight, position, now) else { return Vec::new() };
    std::iter::from_fn(|| plan.taker(chunk).map(|slot| (slot, plan.delivered(slot, now)))).collect()
}

/// Answers a flight with all its chunks; where they went, and the jobs that were done.
fn answer(plan: &mut Plan, assignment: &Assignment, now: Instant) -> (Vec<Slot>, Vec<JobId>) {
    let (mut slots, mut done) = (Vec::new(), Vec::new());
    for position in 0..assignment.wants.len() {
        for (slot, ended) in give(plan, assignment.flight, position, now) {
            slots.push(slot);
            done.extend(ended.done);
        }
    }
    plan.landed(assignment.flight, Landing::Complete, now);
    (slots, done)
}

#[test]
fn a_connection_that_ends_after_its_successor_began_takes_nothing_away() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let later = SessionId::new(2);
    plan.session_up(A, SHARE, later);
    plan.session_down(A, SHARE, SESSION);
    assert_eq!(plan.sources(&SHARE), 1);
    plan.add(SHARE, wants(1, KIB), Urgency::Background, now).unwrap();
    assert_eq!(drain(&mut plan, now).len(), 1);
    plan.session_down(A, SHARE, later);
    assert_eq!(plan.sources(&SHARE), 0);
}

#[test]
fn a_peer_whose_connection_went_is_asked_again_when_it_has_another() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1, KIB), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap().flight;
    plan.landed(flight, Landing::Gone, now);
    assert!(plan.next(now).is_none(), "not at once, again and again");
    assert!(plan.next(now + Duration::from_secs(1)).is_some());
}

#[test]
fn many_small_jobs_share_a_request() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let jobs: Vec<JobId> = wants(1000, 4 * KIB)
        .into_iter()
        .map(|want| plan.add(SHARE, vec![want], Urgency::Background, now).unwrap())
        .collect();
    let flights = drain(&mut plan, now);
    assert!(flights.len() <= 8, "{}", flights.len());
    let carried: usize = flights.iter().map(|flight| flight.wants.len()).sum();
    assert!(carried >= 800, "{carried}");
    let mut done: Vec<JobId> = Vec::new();
    let mut open = flights;
    while let Some(flight) = open.pop() {
        done.extend(answer(&mut plan, &flight, now).1);
        open.extend(drain(&mut plan, now));
    }
    done.sort();
    assert_eq!(done, jobs);
    assert!(plan.is_idle());
}

#[test]
fn what_is_in_flight_is_bounded_and_more_urgent_chunks_still_go() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1000, 1024 * KIB), Urgency::Background, now).unwrap();
    let flights = drain(&mut plan, now);
    let bytes: usize = flights.iter().flat_map(|flight| &flight.wants).map(|want| want.len.unwrap() as usize).sum();
    assert!(flights.len() <= 8 && bytes <= 20 << 20, "{} flights, {bytes} bytes", flights.len());
    plan.add(SHARE, wants_of(2, 1, 64 * KIB), Urgency::Waiting, now).unwrap();
    let urgent = drain(&mut plan, now);
    assert_eq!(urgent.len(), 1);
    assert_eq!(urgent[0].urgency, Urgency::Waiting);
}

#[test]
fn the_most_urgent_goes_first_and_equals_take_turns() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let (large, small, waiting) = (wants_of(1, 400, 256 * KIB), wants_of(2, 1, 256 * KIB), wants_of(3, 1, 256 * KIB));
    plan.add(SHARE, large.clone(), Urgency::Background, now).unwrap();
    plan.add(SHARE, small.clone(), Urgency::Background, now).unwrap();
    plan.add(SHARE, waiting.clone(), Urgency::Waiting, now).unwrap();
    let flights = drain(&mut plan, now);
    assert_eq!(flights[0].wants, waiting);
    assert_eq!(flights[1].wants[0], large[0]);
    assert!(flights[2].wants.contains(&small[0]), "a small file does not wait behind a large one");
}

#[test]
fn a_chunk_whose_base_is_gone_is_asked_for_as_a_whole() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let mut wanted = wants(1, 256 * KIB);
    wanted[0].base = Some(ChunkRef::whole(Hash::of(b"base")));
    plan.add(SHARE, wanted.clone(), Urgency::Soon, now).unwrap();
    let first = plan.next(now).unwrap();
    assert_eq!(first.wants, wanted);
    plan.baseless(first.flight, 0, now);
    let second = plan.next(now).unwrap();
    assert_eq!(second.wants, wants(1, 256 * KIB), "of the same peer, at once");
    plan.landed(first.flight, Landing::Complete, now);
    assert_eq!(answer(&mut plan, &second, now).0.len(), 1);
    assert!(plan.is_idle());
}

#[test]
fn absent_chunks_are_asked_of_others_and_again_after_news() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(3, 256 * KIB), Urgency::Soon, now).unwrap();
    let first = drain(&mut plan, now);
    let asked: usize = first.iter().map(|flight| flight.wants.len()).sum();
    assert_eq!(asked, 3);
    for flight in &first {
        (0..flight.wants.len()).for_each(|position| plan.absent(flight.flight, position, now));
        plan.landed(flight.flight, Landing::Complete, now);
    }
    assert!(plan.next(now).is_none(), "a has said no");
    plan.session_up(B, SHARE, SESSION);
    let others = drain(&mut plan, now);
    assert!(others.iter().all(|flight| flight.device == B));
    for flight in &others {
        (0..flight.wants.len()).for_each(|position| plan.absent(flight.flight, position, now));
        plan.landed(flight.flight, Landing::Complete, now);
    }
    assert!(plan.next(now).is_none());
    plan.news(A, now);
    let again = drain(&mut plan, now);
    assert!(!again.is_empty() && again.iter().all(|flight| flight.device == A));
    again.iter().for_each(|flight| plan.landed(flight.flight, Landing::Broken, now));
}

#[test]
fn news_come_at_most_every_so_often_but_are_not_lost() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1, 256 * KIB), Urgency::Soon, now).unwrap();
    let deny = |plan: &mut Plan, now| {
        let flight = plan.next(now).unwrap();
        plan.absent(flight.flight, 0, now);
        plan.landed(flight.flight, Landing::Complete, now);
        assert!(plan.next(now).is_none());
    };
    deny(&mut plan, now);
    plan.news(A, now);
    deny(&mut plan, now);
    plan.news(A, now + Duration::from_millis(10));
    assert!(plan.next(now + Duration::from_millis(10)).is_none(), "too soon after the last news");
    plan.tick(now + Duration::from_millis(20));
    assert!(plan.next(now + Duration::from_millis(20)).is_none());
    plan.tick(now + Duration::from_millis(400));
    deny(&mut plan, now + Duration::from_millis(400));
    plan.tick(now + Duration::from_secs(20));
    deny(&mut plan, now + Duration::from_secs(20));
}

#[test]
fn what_a_peer_left_undone_is_queued_again() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(4, 64 * KIB);
    let job = plan.add(SHARE, list.clone(), Urgency::Soon, now).unwrap();
    let flight = plan.next(now).unwrap();
    assert_eq!(flight.wants, list);
    assert_eq!(give(&mut plan, flight.flight, 2, now), [((job, 2), Ended::default())]);
    plan.landed(flight.flight, Landing::Broken, now);
    let again = plan.next(now).unwrap();
    assert_eq!(again.wants, [list[0], list[1], list[3]]);
    assert_eq!(plan.arrived(flight.flight, 0, now), None, "from a flight that has landed");
}

#[test]
fn a_liar_and_a_staller_are_left_alone_for_a_while() {
    for (landing, while_) in [(Landing::Lied, 60), (Landing::Stalled, 10)] {
        let (mut plan, now) = (plan(&[A]), Instant::now());
        plan.add(SHARE, wants(1, 64 * KIB), Urgency::Waiting, now).unwrap();
        let flight = plan.next(now).unwrap();
        plan.landed(flight.flight, landing, now);
        assert!(plan.next(now + Duration::from_secs(while_ - 1)).is_none());
        assert!(plan.next(now + Duration::from_secs(while_)).is_some());
    }
}

#[test]
fn stalls_are_seen_and_patience_grows() {
    let (mut plan, mut now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1, 64 * KIB), Urgency::Waiting, now).unwrap();
    for seconds in [8, 16, 32, 60, 60] {
        let flight = plan.next(now).unwrap().flight;
        assert!(plan.tick(now + Duration::from_secs(seconds) - Duration::from_millis(1)).is_empty());
        now += Duration::from_secs(seconds);
        assert_eq!(plan.tick(now), [flight]);
        assert!(plan.progress(flight, now));
        assert!(plan.tick(now).is_empty(), "bytes came");
        plan.landed(flight, Landing::Stalled, now);
        now += Duration::from_secs(10);
    }
}

#[test]
fn what_a_slow_peer_sits_on_is_asked_of_another_and_the_first_answer_counts() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let job = plan.add(SHARE, wants(2, 64 * KIB), Urgency::Waiting, now).unwrap();
    let slow = plan.next(now).unwrap();
    plan.session_up(B, SHARE, SESSION);
    assert!(plan.next(now).is_none(), "all is on its way");
    let later = now + Duration::from_millis(150);
    let thief = plan.next(later).unwrap();
    assert_eq!((thief.device, &thief.wants), (B, &slow.wants));
    assert!(plan.next(later).is_none(), "two are enough");
    assert_eq!(give(&mut plan, slow.flight, 0, later), [((job, 0), Ended::default())]);
    assert_eq!(give(&mut plan, thief.flight, 0, later), []);
    let ended = Ended { done: vec![job], needless: vec![slow.flight] };
    assert_eq!(give(&mut plan, thief.flight, 1, later), [((job, 1), ended)]);
    plan.landed(slow.flight, Landing::Needless, later);
    plan.landed(thief.flight, Landing::Complete, later);
    assert!(plan.is_idle());
}

/// A link that was cut is known to be only when its connection ends, seconds later. Until then everything would first be asked
/// of who does not answer.
#[test]
fn who_did_not_answer_is_asked_after_those_who_do() {
    let (mut plan, now) = (plan(&[A, B]), Instant::now());
    plan.add(SHARE, wants_of(1, 1, KIB), Urgency::Soon, now).unwrap();
    let silent = plan.next(now).unwrap();
    let later = now + Duration::from_millis(300);
    let thief = plan.next(later).unwrap();
    assert_eq!((silent.device, thief.device), (A, B), "what nothing comes of is asked of another soon");
    answer(&mut plan, &thief, later);
    plan.landed(silent.flight, Landing::Needless, later);
    for kind in 2..4 {
        plan.add(SHARE, wants_of(kind, 1, KIB), Urgency::Soon, later).unwrap();
        let next = plan.next(later).unwrap();
        assert_eq!(next.device, B);
        answer(&mut plan, &next, later);
    }
    plan.session_down(B, SHARE, SESSION);
    plan.add(SHARE, wants_of(4, 1, KIB), Urgency::Soon, later).unwrap();
    let again = plan.next(later).unwrap();
    assert_eq!(again.device, A, "nobody else is there");
    plan.session_up(B, SHARE, SESSION);
    answer(&mut plan, &again, later);
    plan.add(SHARE, wants_of(5, 1, KIB), Urgency::Soon, later).unwrap();
    assert_eq!(plan.next(later).unwrap().device, A, "it answers");
}

/// One that is slow, but sends, is not taken for one that is gone.
#[test]
fn who_sends_slowly_is_given_more_time() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1, 1024 * KIB), Urgency::Soon, now).unwrap();
    let slow = plan.next(now).unwrap();
    plan.session_up(B, SHARE, SESSION);
    let later = now + Duration::from_millis(300);
    plan.progress(slow.flight, now + Duration::from_millis(200));
    assert!(plan.next(later).is_none());
    assert_eq!(plan.next(now + Duration::from_secs(1)).unwrap().device, B);
}

#[test]
fn a_caller_that_goes_away_leaves_nothing_behind() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let job = plan.add(SHARE, wants(2, 64 * KIB), Urgency::Waiting, now).unwrap();
    let flight = plan.next(now).unwrap();
    assert_eq!(plan.remove(job).needless, [flight.flight]);
    assert_eq!(give(&mut plan, flight.flight, 0, now), [], "it comes for nobody");
    plan.landed(flight.flight, Landing::Needless, now);
    assert!(plan.is_idle());
}

/// What waits for its turn behind others does not lose patience; what nobody has does.
#[test]
fn waiting_for_a_turn_is_no_waiting_in_vain() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1000, 1024 * KIB), Urgency::Background, now).unwrap();
    let behind = plan.add(SHARE, wants_of(2, 1, 1024 * KIB), Urgency::Background, now).unwrap();
    let flights = drain(&mut plan, now);
    let later = now + Duration::from_secs(5);
    plan.tick(later);
    assert_eq!(plan.state(behind).unwrap().1, later);
    plan.session_down(A, SHARE, SESSION);
    flights.iter().for_each(|flight| plan.landed(flight.flight, Landing::Broken, later));
    plan.tick(later + Duration::from_secs(5));
    assert_eq!(plan.state(behind).unwrap().1, later, "nobody is there");
}

fn urgency(rng: &mut StdRng) -> Urgency {
    [Urgency::Waiting, Urgency::Soon, Urgency::Background][rng.random_range(0..3)]
}

/// A world of peers that have random chunks, lie, stall, leave and come back.
struct World {
    rng: StdRng,
    seed: u64,
    plan: Plan,
    now: Instant,
    peers: Vec<DeviceId>,
    has: HashMap<(DeviceId, Hash), bool>,
    open: Vec<Assignment>,
    delivered: BTreeSet<Slot>,
    left: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let peers: Vec<DeviceId> = (1..=rng.random_range(1..=4)).map(|i| DeviceId([i; 32])).collect();
        let (plan, now) = (plan(&peers), Instant::now());
        let mut world = Self {
            rng,
            seed,
            plan,
            now,
            peers,
            has: HashMap::new(),
            open: Vec::new(),
            delivered: BTreeSet::new(),
            left: 0,
        };
        (0..world.rng.random_range(1..4)).for_each(|job| world.add(job));
        world
    }

    /// A job, some of whose chunks others want as well; the first peer has all of it.
    fn add(&mut self, job: u32) {
        let list: Vec<Want> = (0..self.rng.random_range(1..200))
            .map(|i| {
                let kind = if self.rng.random_bool(0.5) { job } else { 99 };
                wants_of(kind, i + 1, 1 + i * 5000).pop().unwrap()
            })
            .collect();
        for want in &list {
            for (at, peer) in self.peers.iter().enumerate() {
                let has = at == 0 || self.rng.random_bool(0.5);
                self.has.entry((*peer, want.chunk.hash)).or_insert(has);
            }
        }
        self.left += list.len();
        self.plan.add(SHARE, list, urgency(&mut self.rng), self.now).unwrap();
    }

    fn land(&mut self, flight: FlightId, landing: Landing) {
        self.open.retain(|assignment| assignment.flight != flight);
        self.plan.landed(flight, landing, self.now);
    }

    fn all_up(&mut self) {
        self.peers.iter().for_each(|peer| self.plan.session_up(*peer, SHARE, SESSION));
    }

    /// One flight is answered, in part or whole.
    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..50));
        for flight in self.plan.tick(self.now) {
            self.land(flight, Landing::Stalled);
        }
        self.open.extend(drain(&mut self.plan, self.now));
        if self.open.is_empty() {
            self.now += Duration::from_secs(3);
            return self.all_up();
        }
        let assignment = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
        let all = assignment.wants.len();
        let answered = if self.rng.random_bool(0.8) { all } else { self.rng.random_range(0..=all) };
        (0..answered).for_each(|position| self.answer(&assignment, position));
        let landing = match (answered == all, self.rng.random_range(0..4)) {
            (true, _) => Landing::Complete,
            (_, 0) => Landing::Lied,
            (_, 1) => Landing::Stalled,
            _ => Landing::Broken,
        };
        self.land(assignment.flight, landing);
        match self.rng.random_range(0..20) {
            0 => self.plan.session_down(assignment.device, SHARE, SESSION),
            1 | 2 => self.all_up(),
            3 => self.plan.news(assignment.device, self.now),
            _ => {}
        }
    }

    fn answer(&mut self, assignment: &Assignment, position: usize) {
        if !self.has[&(assignment.device, assignment.wants[position].chunk.hash)] {
            return self.plan.absent(assignment.flight, position, self.now);
        }
        for (slot, ended) in give(&mut self.plan, assignment.flight, position, self.now) {
            assert!(self.delivered.insert(slot), "seed {}: {slot:?} came twice", self.seed);
            self.left -= 1;
            for needless in ended.needless {
                self.land(needless, Landing::Needless);
            }
        }
    }
}

/// Every chunk that somebody has is delivered exactly once, and nothing is left in flight.
#[test]
fn whatever_peers_do_each_chunk_comes_once() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        let mut steps = 0;
        while world.left > 0 {
            world.step();
            steps += 1;
            assert!(steps < 20_000, "seed {seed}: {} chunks never come", world.left);
        }
        for assignment in std::mem::take(&mut world.open) {
            world.land(assignment.flight, Landing::Needless);
        }
        assert!(world.plan.is_idle(), "seed {seed}");
    }
}

#[test]
fn a_chunk_in_flight_for_one_job_is_given_to_another_that_wants_it() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(3, 64 * KIB);
    let prefetch = plan.add(SHARE, list.clone(), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap();
    let read = plan.add(SHARE, vec![list[1], list[1]], Urgency::Waiting, now).unwrap();
    assert!(plan.next(now).is_none(), "all of it is on its way");
    let (slots, done) = answer(&mut plan, &flight, now);
    assert_eq!(slots[1..4], [(read, 1), (read, 0), (prefetch, 1)], "who waits gets it first");
    assert_eq!(done, [read, prefetch]);
    assert!(plan.is_idle());
}

#[test]
fn what_is_here_is_found_out_as_a_job_begins_and_of_what_nobody_waits_for_only() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(4, 64 * KIB);
    let prefetch = plan.add(SHARE, list[..2].to_vec(), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let has = |index| {
        asked.borrow_mut().push(index);
        index == 2
    };
    let read = plan.begin(SHARE, list.clone(), Urgency::Waiting, now, has).unwrap();
    assert_eq!(asked.take(), [2, 3], "the others come");
    assert_eq!(plan.state(read).unwrap().0, 3);
    let own = plan.next(now).unwrap();
    assert_eq!(own.wants, [list[3]]);
    assert_eq!(answer(&mut plan, &own, now), (vec![(read, 3)], vec![]));
    // What is on its way for nobody is not waited for if it is here.
    plan.remove(prefetch);
    plan.remove(read);
    assert_eq!(plan.begin(SHARE, list[..2].to_vec(), Urgency::Soon, now, |_| true), None);
    answer(&mut plan, &flight, now);
    assert!(plan.is_idle());
}

#[test]
fn a_chunk_that_is_queued_for_a_prefetch_is_asked_for_when_a_read_wants_it() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(1000, 1024 * KIB);
    plan.add(SHARE, list.clone(), Urgency::Background, now).unwrap();
    let background = drain(&mut plan, now);
    let read = plan.add(SHARE, vec![list[999]], Urgency::Waiting, now).unwrap();
    let urgent = plan.next(now).unwrap();
    assert_eq!((urgent.urgency, &urgent.wants[..]), (Urgency::Waiting, &list[999..]));
    let (slots, done) = answer(&mut plan, &urgent, now);
    assert_eq!((slots.len(), done), (2, vec![read]));
    // It is not asked for again when the prefetch comes to it.
    let mut open = background;
    let mut carried = 0;
    while let Some(flight) = open.pop() {
        assert!(!flight.wants.contains(&list[999]));
        carried += answer(&mut plan, &flight, now).0.len();
        open.extend(drain(&mut plan, now));
    }
    assert_eq!(carried, 999);
    assert!(plan.is_idle());
}

#[test]
fn a_shared_flight_outlives_one_of_its_jobs_and_its_failure_queues_for_the_rest() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(1, 64 * KIB);
    let prefetch = plan.add(SHARE, list.clone(), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap();
    let read = plan.add(SHARE, list.clone(), Urgency::Waiting, now).unwrap();
    assert_eq!(plan.remove(prefetch), Ended::default(), "the read still needs it");
    plan.landed(flight.flight, Landing::Broken, now);
    let again = plan.next(now).unwrap();
    assert_eq!((again.urgency, &again.wants), (Urgency::Waiting, &list));
    assert_eq!(answer(&mut plan, &again, now), (vec![(read, 0)], vec![read]));
    assert!(plan.is_idle());
}

#[test]
fn what_is_wanted_again_while_its_flight_goes_on_is_not_asked_for_again() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(2, 64 * KIB);
    let first = plan.add(SHARE, list[..1].to_vec(), Urgency::Soon, now).unwrap();
    plan.add(SHARE, list[1..].to_vec(), Urgency::Soon, now).unwrap();
    let flight = plan.next(now).unwrap();
    assert_eq!(flight.wants, list);
    assert_eq!(plan.remove(first), Ended::default());
    let again = plan.add(SHARE, list[..1].to_vec(), Urgency::Waiting, now).unwrap();
    assert!(plan.next(now).is_none());
    assert!(answer(&mut plan, &flight, now).0.contains(&(again, 0)));
    assert!(plan.is_idle());
}

#[test]
fn a_read_that_waits_too_long_in_a_less_urgent_flight_asks_for_itself() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let list = wants(3, 64 * KIB);
    plan.add(SHARE, list.clone(), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap();
    let joined = now + Duration::from_secs(7);
    plan.add(SHARE, vec![list[2]], Urgency::Waiting, joined).unwrap();
    assert!(plan.next(joined + Duration::from_millis(1999)).is_none());
    let urgent = plan.next(joined + Duration::from_secs(2)).unwrap();
    assert_eq!((urgent.device, urgent.urgency, &urgent.wants[..]), (A, Urgency::Waiting, &list[2..]));
    assert!(plan.next(joined + Duration::from_secs(9)).is_none(), "two are enough");
    assert_eq!(answer(&mut plan, &urgent, joined).0.len(), 2);
    assert_eq!(answer(&mut plan, &flight, joined).0.len(), 2);
    assert!(plan.is_idle());
}

#[test]
fn who_begins_to_want_a_chunk_while_it_is_given_away_gets_it_too() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let first = plan.add(SHARE, wants(1, 64 * KIB), Urgency::Background, now).unwrap();
    let flight = plan.next(now).unwrap();
    let chunk = plan.arrived(flight.flight, 0, now).unwrap();
    assert_eq!(plan.taker(chunk), Some((first, 0)));
    let late = plan.add(SHARE, wants(1, 64 * KIB), Urgency::Waiting, now).unwrap();
    assert!(plan.next(now).is_none());
    assert_eq!(plan.delivered((first, 0), now).done, [first]);
    assert_eq!(plan.taker(chunk), Some((late, 0)));
    assert_eq!(plan.delivered((late, 0), now).done, [late]);
    assert_eq!(plan.taker(chunk), None);
    plan.landed(flight.flight, Landing::Complete, now);
    assert!(plan.is_idle());
    plan.add(SHARE, wants(1, 64 * KIB), Urgency::Waiting, now).unwrap();
    assert!(plan.next(now).is_some(), "afterwards it is a new want");
}

#[test]
fn other_lengths_and_other_shares_are_other_chunks() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let other = ShareId([2; 32]);
    plan.session_up(A, other, SESSION);
    for (share, len) in [(SHARE, Some(5)), (SHARE, Some(6)), (SHARE, None), (other, Some(5))] {
        plan.add(share, vec![want(b"x", len)], Urgency::Soon, now).unwrap();
    }
    let wants: usize = drain(&mut plan, now).iter().map(|flight| flight.wants.len()).sum();
    assert_eq!(wants, 4);
}

/// Jobs that want much the same come, are cancelled and are answered, and flights break: while there is one source and no
/// time passes, no chunk is in two flights at once, none is asked for that came while somebody wanted it, whoever still
/// wants it gets it once, and what a read wants goes as a read's.
#[test]
fn what_many_want_at_once_is_carried_once() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut plan, now) = (plan(&[A]), Instant::now());
        let mut open: Vec<Assignment> = Vec::new();
        let mut jobs: BTreeMap<JobId, (Vec<Want>, Urgency, BTreeSet<u32>)> = BTreeMap::new();
        for step in 0..200 {
            if step < 100 && rng.random_bool(0.3) {
                let len = rng.random_range(1..40);
                let pool = wants(40, 300 * KIB);
                let list: Vec<Want> = (0..len).map(|_| pool[rng.random_range(0..pool.len())]).collect();
                let urgency = urgency(&mut rng);
                let job = plan.add(SHARE, list.clone(), urgency, now).unwrap();
                jobs.insert(job, (list, urgency, BTreeSet::new()));
            }
            if rng.random_bool(0.05)
                && let Some(job) = jobs.keys().nth(rng.random_range(0..jobs.len().max(1))).copied()
            {
                jobs.remove(&job);
                for flight in plan.remove(job).needless {
                    open.retain(|open| open.flight != flight);
                    plan.landed(flight, Landing::Needless, now);
                }
            }
            for flight in drain(&mut plan, now) {
                for want in &flight.wants {
                    let wanted = |(list, _, got): &&(Vec<Want>, Urgency, BTreeSet<u32>)| {
                        list.iter().enumerate().any(|(i, w)| w == want && !got.contains(&(i as u32)))
                    };
                    let most = jobs.values().filter(wanted).map(|(_, urgency, _)| *urgency).min();
                    assert_eq!(most, Some(flight.urgency), "seed {seed}: asked for with the highest urgency");
                    assert!(open.iter().all(|open| !open.wants.contains(want)), "seed {seed}: carried twice");
                }
                open.push(flight);
            }
            if open.is_empty() {
                continue;
            }
            let flight = open.swap_remove(rng.random_range(0..open.len()));
            let whole = rng.random_bool(0.7);
            let answered = if whole { flight.wants.len() } else { rng.random_range(0..flight.wants.len()) };
            for position in 0..answered {
                let want = flight.wants[position];
                for ((job, index), ended) in give(&mut plan, flight.flight, position, now) {
                    let (list, _, got) = jobs.get_mut(&job).unwrap();
                    assert!(list[index as usize] == want && got.insert(index), "seed {seed}");
                    assert_eq!(ended.done.contains(&job), got.len() == list.len(), "seed {seed}");
                }
                let waits = |(list, _, got): &(Vec<Want>, Urgency, BTreeSet<u32>)| {
                    list.iter().enumerate().any(|(i, w)| *w == want && !got.contains(&(i as u32)))
                };
                assert!(!jobs.values().any(waits), "seed {seed}: it came, and somebody still waits for it");
            }
            plan.landed(flight.flight, if whole { Landing::Complete } else { Landing::Broken }, now);
            jobs.retain(|_, (list, _, got)| got.len() < list.len());
        }
        assert!(open.is_empty() && jobs.is_empty() && plan.is_idle(), "seed {seed}: {} left", jobs.len());
    }
}
