//! The plan on its own, with a clock of the tests' own.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, Hash, ShareId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::Plan;
use super::request::*;

const SHARE: ShareId = ShareId([1; 32]);
const A: DeviceId = DeviceId([1; 32]);
const B: DeviceId = DeviceId([2; 32]);
const KIB: u32 = 1024;

fn wants(count: u32, len: u32) -> Vec<Want> {
    (0..count).map(|i| Want { hash: Hash::of(&i.to_le_bytes()), len: Some(len) }).collect()
}

fn plan(peers: &[DeviceId]) -> Plan {
    let mut plan = Plan::default();
    peers.iter().for_each(|peer| plan.peer_up(*peer, SHARE));
    plan
}

fn drain(plan: &mut Plan, now: Instant) -> Vec<Assignment> {
    std::iter::from_fn(|| plan.next(now)).collect()
}

/// Answers all slots of a flight with chunks; how many were the first.
fn answer(plan: &mut Plan, assignment: &Assignment, now: Instant) -> (usize, Vec<JobId>) {
    let (mut firsts, mut done) = (0, Vec::new());
    for (position, slot) in assignment.slots.iter().enumerate() {
        if plan.arrived(assignment.flight, position, now) == Claim::First {
            firsts += 1;
            done.extend(plan.delivered(*slot, now).done);
        }
    }
    plan.landed(assignment.flight, Landing::Complete, now);
    (firsts, done)
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
    let carried: usize = flights.iter().map(|flight| flight.slots.len()).sum();
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
    plan.add(SHARE, wants(1, 64 * KIB), Urgency::Waiting, now).unwrap();
    let urgent = drain(&mut plan, now);
    assert_eq!(urgent.len(), 1);
    assert_eq!(urgent[0].urgency, Urgency::Waiting);
}

#[test]
fn the_most_urgent_goes_first_and_equals_take_turns() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let large = plan.add(SHARE, wants(400, 256 * KIB), Urgency::Background, now).unwrap();
    let small = plan.add(SHARE, wants(1, 256 * KIB), Urgency::Background, now).unwrap();
    let waiting = plan.add(SHARE, wants(1, 256 * KIB), Urgency::Waiting, now).unwrap();
    let flights = drain(&mut plan, now);
    assert_eq!(flights[0].slots, [(waiting, 0)]);
    assert_eq!(flights[1].slots[0].0, large);
    assert!(flights[2].slots.contains(&(small, 0)), "a small file does not wait behind a large one");
}

#[test]
fn absent_chunks_are_asked_of_others_and_again_after_news() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(3, 256 * KIB), Urgency::Soon, now).unwrap();
    let first = drain(&mut plan, now);
    let asked: usize = first.iter().map(|flight| flight.slots.len()).sum();
    assert_eq!(asked, 3);
    for flight in &first {
        (0..flight.slots.len()).for_each(|position| plan.absent(flight.flight, position, now));
        plan.landed(flight.flight, Landing::Complete, now);
    }
    assert!(plan.next(now).is_none(), "a has said no");
    plan.peer_up(B, SHARE);
    let others = drain(&mut plan, now);
    assert!(others.iter().all(|flight| flight.device == B));
    for flight in &others {
        (0..flight.slots.len()).for_each(|position| plan.absent(flight.flight, position, now));
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
    plan.add(SHARE, wants(4, 64 * KIB), Urgency::Soon, now).unwrap();
    let flight = plan.next(now).unwrap();
    assert_eq!(flight.slots.len(), 4);
    assert_eq!(plan.arrived(flight.flight, 2, now), Claim::First);
    plan.delivered(flight.slots[2], now);
    plan.landed(flight.flight, Landing::Broken, now);
    let again = plan.next(now).unwrap();
    let indexes: BTreeSet<u32> = again.slots.iter().map(|(_, index)| *index).collect();
    assert_eq!(indexes, [0, 1, 3].into());
    assert_eq!(plan.arrived(flight.flight, 0, now), Claim::Late, "from a flight that has landed");
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
    plan.peer_up(B, SHARE);
    assert!(plan.next(now).is_none(), "all is on its way");
    let later = now + Duration::from_millis(150);
    let thief = plan.next(later).unwrap();
    assert_eq!((thief.device, &thief.slots), (B, &slow.slots));
    assert!(plan.next(later).is_none(), "two are enough");
    assert_eq!(plan.arrived(slow.flight, 0, later), Claim::First);
    assert_eq!(plan.delivered(slow.slots[0], later), Ended::default());
    assert_eq!(plan.arrived(thief.flight, 0, later), Claim::Late);
    assert_eq!(plan.arrived(thief.flight, 1, later), Claim::First);
    let ended = plan.delivered(thief.slots[1], later);
    assert_eq!((ended.done, ended.needless), (vec![job], vec![slow.flight]));
    plan.landed(slow.flight, Landing::Needless, later);
    plan.landed(thief.flight, Landing::Complete, later);
    assert!(plan.is_idle());
}

#[test]
fn a_caller_that_goes_away_leaves_nothing_behind() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    let job = plan.add(SHARE, wants(2, 64 * KIB), Urgency::Waiting, now).unwrap();
    let flight = plan.next(now).unwrap();
    assert_eq!(plan.remove(job).needless, [flight.flight]);
    assert_eq!(plan.arrived(flight.flight, 0, now), Claim::Late);
    plan.landed(flight.flight, Landing::Needless, now);
    assert!(plan.is_idle());
}

/// What waits for its turn behind others does not lose patience; what nobody has does.
#[test]
fn waiting_for_a_turn_is_no_waiting_in_vain() {
    let (mut plan, now) = (plan(&[A]), Instant::now());
    plan.add(SHARE, wants(1000, 1024 * KIB), Urgency::Background, now).unwrap();
    let behind = plan.add(SHARE, wants(1, 1024 * KIB), Urgency::Background, now).unwrap();
    let flights = drain(&mut plan, now);
    let later = now + Duration::from_secs(5);
    plan.tick(later);
    assert_eq!(plan.state(behind).unwrap().1, later);
    plan.peer_down(A, None);
    flights.iter().for_each(|flight| plan.landed(flight.flight, Landing::Broken, later));
    plan.tick(later + Duration::from_secs(5));
    assert_eq!(plan.state(behind).unwrap().1, later, "nobody is there");
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

    /// A job; the first peer has all of it.
    fn add(&mut self, job: u32) {
        let list: Vec<Want> = (0..self.rng.random_range(1..200))
            .map(|i| Want {
                hash: Hash::of(&[job, i].map(u32::to_le_bytes).concat()),
                len: Some(self.rng.random_range(1..1 << 20)),
            })
            .collect();
        for want in &list {
            for (at, peer) in self.peers.iter().enumerate() {
                self.has.insert((*peer, want.hash), at == 0 || self.rng.random_bool(0.5));
            }
        }
        self.left += list.len();
        self.plan.add(SHARE, list, Urgency::Soon, self.now).unwrap();
    }

    fn land(&mut self, flight: FlightId, landing: Landing) {
        self.open.retain(|assignment| assignment.flight != flight);
        self.plan.landed(flight, landing, self.now);
    }

    fn all_up(&mut self) {
        self.peers.iter().for_each(|peer| self.plan.peer_up(*peer, SHARE));
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
        let all = assignment.slots.len();
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
            0 => self.plan.peer_down(assignment.device, None),
            1 | 2 => self.all_up(),
            3 => self.plan.news(assignment.device, self.now),
            _ => {}
        }
    }

    fn answer(&mut self, assignment: &Assignment, position: usize) {
        let slot = assignment.slots[position];
        if !self.has[&(assignment.device, assignment.wants[position].hash)] {
            return self.plan.absent(assignment.flight, position, self.now);
        }
        if self.plan.arrived(assignment.flight, position, self.now) == Claim::First {
            assert!(self.delivered.insert(slot), "seed {}: {slot:?} came twice", self.seed);
            self.left -= 1;
            for needless in self.plan.delivered(slot, self.now).needless {
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
