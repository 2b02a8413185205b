#![allow(clippy::unwrap_used)]
use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::id::ShareId;
use crate::key::Key;
use crate::wire::{self, Said};

/// A host whose envelopes are `actor seq` in text, in the order in which it got them. Counts the questions it is asked.
#[derive(Clone, Default)]
struct Fake {
    log: Vec<Numbered>,
    vector: Vector,
    members: Vec<(Hash, Vec<u8>)>,
    holding: Holding,
    statements: BTreeMap<DeviceId, Statement>,
    /// What is to be answered by the others.
    probe: Option<u64>,
    /// Works that were asked for, by their numbers; those that still go on, and those that went wrong.
    works: u64,
    busy: BTreeSet<u64>,
    failed: BTreeSet<u64>,
    /// Settling takes a while.
    slow: bool,
    received: usize,
    asked: std::cell::Cell<usize>,
}

impl Fake {
    fn make(&mut self, actor: u8, payload: usize) {
        let actor = ActorId([actor; 32]);
        let seq = self.vector.seq(&actor) + 1;
        let mut bytes = actor.0.to_vec();
        bytes.extend(seq.to_be_bytes());
        bytes.extend(vec![0; payload]);
        self.push(bytes);
    }

    fn push(&mut self, bytes: Vec<u8>) {
        let actor = ActorId::from_slice(&bytes[..32]).unwrap();
        let seq = u64::from_be_bytes(bytes[32..40].try_into().unwrap());
        assert_eq!(self.vector.seq(&actor) + 1, seq, "in order of the chain");
        let tip = Tip { seq, hash: ChangeHash(Hash::of(&bytes).0) };
        self.vector.set(actor, tip);
        self.log.push(Numbered { actor, tip, bytes });
    }

    fn state(&mut self, statement: Statement) {
        let known = self.statements.entry(statement.device).or_insert_with(|| statement.clone());
        if known.number < statement.number {
            *known = statement;
        }
    }

    fn admit(&mut self, record: &[u8]) {
        let id = Hash::of(record);
        if !self.members.iter().any(|(known, _)| *known == id) {
            self.members.push((id, record.to_vec()));
        }
    }
}

impl SyncHost for Fake {
    fn epoch(&self) -> u32 {
        0
    }
    fn vector(&self) -> Vector {
        self.asked.set(self.asked.get() + 1);
        self.vector.clone()
    }
    fn change(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        self.log.iter().find(|e| e.actor == *actor && e.tip.seq == seq).map(|e| e.tip.hash)
    }
    fn envelopes_after(&self, known: &Vector, max_bytes: usize) -> Vec<Numbered> {
        self.asked.set(self.asked.get() + 1);
        let mut bytes = 0;
        let missing = self.log.iter().filter(|e| e.tip.seq > known.seq(&e.actor));
        missing
            .take_while(|e| {
                let first = bytes == 0;
                bytes += e.bytes.len();
                first || bytes <= max_bytes
            })
            .cloned()
            .collect()
    }
    fn receive(&mut self, _: &DeviceId, envelopes: Vec<Vec<u8>>) -> Result<(), Fault> {
        for bytes in envelopes {
            if bytes.is_empty() {
                return Err(Fault::Envelope("empty".into()));
            }
            self.received += 1;
            self.push(bytes);
        }
        Ok(())
    }
    fn membership_heads(&self) -> Vec<Hash> {
        let all: BTreeSet<Hash> = self.members.iter().map(|(id, _)| *id).collect();
        all.into_iter().collect()
    }
    fn membership_after(&self, known: &[Hash]) -> Vec<Vec<u8>> {
        self.members.iter().filter(|(id, _)| !known.contains(id)).map(|(_, record)| record.clone()).collect()
    }
    fn receive_membership(&mut self, _: &DeviceId, records: Vec<Vec<u8>>) -> Result<(), Fault> {
        records.iter().for_each(|record| self.admit(record));
        Ok(())
    }
    fn holding(&self) -> Holding {
        self.holding.clone()
    }
    fn statements_after(&self, known: &BTreeMap<DeviceId, u64>, _: usize) -> Vec<Statement> {
        let newer = |s: &&Statement| known.get(&s.device).is_none_or(|known| *known < s.number);
        self.statements.values().filter(newer).cloned().collect()
    }
    fn receive_statements(&mut self, _: &DeviceId, statements: Vec<Vec<u8>>) -> Result<Vec<Statement>, Fault> {
        let taken: Vec<_> = statements.iter().map(|bytes| Statement::decode(bytes).unwrap()).collect();
        taken.iter().for_each(|statement| self.state(statement.clone()));
        Ok(taken)
    }
    fn probe(&self) -> Option<u64> {
        self.probe
    }
    fn settle(&mut self) -> u64 {
        // One that has not begun serves all; here that is each second one.
        if self.busy.len() < 2 {
            self.works += 1;
            if self.slow {
                self.busy.insert(self.works);
            }
        }
        self.works
    }
    fn settling(&self, number: u64) -> Settling {
        match (self.busy.contains(&number), self.failed.contains(&number)) {
            (true, _) => Settling::Busy,
            (_, true) => Settling::Failed,
            _ => Settling::Done,
        }
    }
}

const FEATURES: u64 = FEATURE_STATEMENTS | FEATURE_PROBES;
const A: DeviceId = DeviceId([1; 32]);
const B: DeviceId = DeviceId([2; 32]);

/// Two sessions and what is on the way between them.
struct Link {
    ends: [Session; 2],
    flight: [VecDeque<Vec<u8>>; 2],
    sent: usize,
    bytes: usize,
}

impl Link {
    fn new() -> Self {
        Self {
            ends: [Session::new(B, FEATURES), Session::new(A, FEATURES)],
            flight: Default::default(),
            sent: 0,
            bytes: 0,
        }
    }

    /// One step of either side: deliver a message to it, or let it send. False if nothing was left to do.
    fn step(&mut self, hosts: &mut [Fake; 2], side: usize) -> bool {
        if let Some(bytes) = self.flight[side].pop_front() {
            self.ends[side].handle(wire::decode(&bytes).unwrap(), &mut hosts[side]).unwrap();
            return true;
        }
        match self.ends[side].poll(&mut hosts[side]) {
            Some(message) => {
                let bytes = wire::encode(&message);
                assert!(bytes.len() <= MESSAGE_MAX);
                self.sent += 1;
                self.bytes += bytes.len();
                self.flight[1 - side].push_back(bytes);
                true
            }
            None => false,
        }
    }

    /// Runs until both sides are silent, or for so many steps. True if silent.
    fn run(&mut self, hosts: &mut [Fake; 2], steps: usize) -> bool {
        for _ in 0..steps {
            if !self.step(hosts, 0) && !self.step(hosts, 1) {
                return true;
            }
        }
        false
    }
}

fn apart() -> [Fake; 2] {
    let mut hosts = [Fake::default(), Fake::default()];
    for n in 0..40 {
        hosts[0].make(1, 20_000);
        hosts[0].make(3, 10);
        hosts[1].make(2, 50_000);
        if n % 10 == 0 {
            hosts[0].admit(format!("a{n}").as_bytes());
            hosts[1].admit(format!("b{n}").as_bytes());
        }
    }
    hosts
}

fn assert_level(hosts: &[Fake; 2]) {
    assert_eq!(hosts[0].vector, hosts[1].vector);
    assert_eq!(hosts[0].membership_heads(), hosts[1].membership_heads());
}

/// What a side says now.
fn said(link: &mut Link, hosts: &mut [Fake; 2], side: usize) -> Vec<Message> {
    std::iter::from_fn(|| link.ends[side].poll(&mut hosts[side])).collect()
}

/// A message's kind in a letter.
fn kind(message: &Message) -> char {
    match message {
        Message::Have(_) => 'h',
        Message::Membership { .. } => 'm',
        Message::Envelopes { .. } => 'e',
        Message::Holding(_) => 'c',
        Message::Statements { .. } => 's',
        Message::Probe { .. } | Message::Probed { .. } => 'p',
    }
}

#[test]
fn two_that_were_apart_become_level_and_each_change_crosses_once() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    assert_level(&hosts);
    assert_eq!((hosts[0].received, hosts[1].received), (40, 80));
    for (end, host) in link.ends.iter().zip(&hosts) {
        assert!(end.level(&host.vector));
        assert_eq!(end.peer().holding, Some(Holding::default()));
    }
}

#[test]
fn a_connection_that_breaks_at_any_message_loses_nothing() {
    let whole = {
        let (mut hosts, mut link) = (apart(), Link::new());
        assert!(link.run(&mut hosts, 10_000));
        link.sent
    };
    let mut broken = 0;
    for steps in 0..whole * 2 {
        let mut hosts = apart();
        if !Link::new().run(&mut hosts, steps) {
            broken += 1;
        }
        assert!(Link::new().run(&mut hosts, 10_000), "broken after {steps} steps");
        assert_level(&hosts);
        assert_eq!((hosts[0].received, hosts[1].received), (40, 80), "broken after {steps} steps");
    }
    assert!(broken > whole, "the link was cut while messages were on their way");
}

#[test]
fn news_is_pushed_at_once_and_acknowledged_in_three_messages() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    let (sent, bytes) = (link.sent, link.bytes);
    hosts[0].make(1, 100);
    link.ends[0].changed();
    assert!(link.run(&mut hosts, 100));
    assert_level(&hosts);
    // What A has, the change, what B has then; holdings are as they were.
    assert_eq!(link.sent - sent, 3);
    assert!(link.bytes - bytes < 500, "{}", link.bytes - bytes);
    assert!(link.ends[0].level(&hosts[0].vector) && link.ends[1].level(&hosts[1].vector));
}

#[test]
fn an_idle_session_asks_its_host_nothing() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    let before = hosts[0].asked.get();
    for _ in 0..100 {
        assert!(link.ends[0].poll(&mut hosts[0]).is_none());
    }
    assert_eq!(hosts[0].asked.get(), before);
}

#[test]
fn a_session_sends_a_batch_only_when_polled() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    for _ in 0..100 {
        hosts[0].make(1, 20_000);
        link.ends[0].changed();
    }
    let asked = hosts[0].asked.get();
    assert!(matches!(link.ends[0].poll(&mut hosts[0]), Some(Message::Have(_))));
    let Some(Message::Envelopes { envelopes }) = link.ends[0].poll(&mut hosts[0]) else { panic!("a batch") };
    assert!(envelopes.iter().map(|e| e.len()).sum::<usize>() <= BATCH_BYTES);
    assert_eq!(hosts[0].asked.get() - asked, 2);
}

#[test]
fn membership_goes_before_changes() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    hosts[0].make(1, 1);
    hosts[0].admit(b"new");
    link.ends[0].changed();
    let kinds: String = said(&mut link, &mut hosts, 0).iter().map(kind).collect();
    assert_eq!(kinds, "hme");
}

#[test]
fn holding_is_said_when_it_changes_and_only_then() {
    let mut hosts = apart();
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    hosts[1].holding = Holding { missing_files: 3, missing_bytes: 12_288, ..Holding::default() };
    link.ends[1].changed();
    let sent = link.sent;
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.sent - sent, 1);
    assert_eq!(link.ends[0].peer().holding.as_ref().unwrap().missing_files, 3);
}

fn statement(device: u8, number: u64) -> Statement {
    let said = Said { epoch: 0, heads: Hash([1; 32]), missing_files: 0, missing_bytes: 0, partial: false };
    Statement::sign(&Key::new(&[device; 32]), &ShareId([9; 32]), number, said)
}

#[test]
fn what_others_said_is_passed_on_once_and_the_newest_counts() {
    let mut hosts = [Fake::default(), Fake::default()];
    hosts[0].state(statement(1, 5));
    hosts[0].state(statement(3, 7));
    hosts[1].state(statement(2, 1));
    hosts[1].state(statement(3, 8));
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(hosts[0].statements, hosts[1].statements);
    let mut numbers: Vec<_> = hosts[0].statements.values().map(|s| s.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 5, 8]);
    hosts[0].state(statement(1, 6));
    let sent = link.sent;
    link.ends[0].changed();
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!((link.sent - sent, hosts[0].statements == hosts[1].statements), (1, true));
}

#[test]
fn who_does_not_know_statements_gets_none() {
    let mut hosts = [Fake::default(), Fake::default()];
    hosts[0].state(statement(1, 5));
    let mut link = Link { ends: [Session::new(B, 0), Session::new(A, 0)], ..Link::new() };
    assert!(link.run(&mut hosts, 100));
    assert!(hosts[1].statements.is_empty());
    let unasked = Message::Statements { statements: Vec::new() };
    assert!(matches!(link.ends[0].handle(unasked, &mut hosts[0]), Err(Fault::Protocol(_))));
}

/// Both have said what they have; the first one probes, and the other takes its time.
fn probing() -> (Link, [Fake; 2]) {
    let (mut link, mut hosts) = (Link::new(), apart());
    assert!(link.run(&mut hosts, 10_000));
    assert_eq!([link.ends[0].peer().probed, link.ends[1].peer().probed], [Some(0); 2]);
    hosts[0].probe = Some(7);
    hosts[1].slow = true;
    link.ends[0].changed();
    assert!(link.run(&mut hosts, 100));
    (link, hosts)
}

#[test]
fn a_probe_is_answered_when_all_that_was_done_is_said() {
    let (mut link, mut hosts) = probing();
    assert_eq!((link.ends[0].peer().probed, hosts[1].works), (Some(0), 1), "it is under way");
    // Something else happens there: that is said, and the probe waits on.
    hosts[1].make(2, 10);
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.ends[0].peer().probed, Some(0));
    hosts[1].make(2, 10);
    hosts[1].holding.missing_files = 1;
    hosts[1].state(statement(2, 5));
    hosts[1].busy.clear();
    link.ends[1].changed();
    let messages = said(&mut link, &mut hosts, 1);
    assert!(matches!(messages.first(), Some(Message::Have(_))), "{messages:?}");
    assert!(messages.iter().any(|m| matches!(m, Message::Envelopes { .. })), "{messages:?}");
    assert!(messages.iter().any(|m| matches!(m, Message::Holding(_))), "{messages:?}");
    assert!(matches!(&messages[messages.len() - 2..], [Message::Statements { .. }, Message::Probed { number: 7 }]));
    for message in messages {
        link.ends[0].handle(message, &mut hosts[0]).unwrap();
    }
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.ends[0].peer().probed, Some(7));
    assert_level(&hosts);
    // Once is enough, and nobody asks again by itself.
    let sent = link.sent;
    link.ends[0].changed();
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.sent, sent);
}

#[test]
fn a_probe_goes_after_all_that_is_here() {
    let mut hosts = apart();
    hosts[0].probe = Some(1);
    let mut link = Link::new();
    let mut sent = String::new();
    loop {
        let before = link.sent;
        let stepped = link.step(&mut hosts, 0);
        if link.sent > before {
            sent.push(kind(&wire::decode(link.flight[1].back().unwrap()).unwrap()));
        }
        if !stepped && !link.step(&mut hosts, 1) {
            break;
        }
    }
    let probe = sent.find('p').unwrap();
    assert!(sent.rfind(['m', 'e']).is_some_and(|last| last < probe), "after the changes: {sent}");
    assert!(sent.find('c').is_some_and(|first| first < probe), "{sent}");
    assert_eq!(link.ends[0].peer().probed, Some(1));
    assert_eq!(link.ends[1].peer().probed, Some(0), "the other one asked nothing");
}

#[test]
fn probes_that_come_while_another_is_under_way_are_answered_together() {
    let (mut link, mut hosts) = probing();
    for number in 8..100 {
        hosts[0].probe = Some(number);
        link.ends[0].changed();
        assert!(link.run(&mut hosts, 100));
    }
    assert_eq!(hosts[1].works, 2, "the one under way, and one for all that came since");
    hosts[1].busy.remove(&1);
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.ends[0].peer().probed, Some(7));
    hosts[1].busy.remove(&2);
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.ends[0].peer().probed, Some(99));
}

#[test]
fn what_could_not_be_done_is_not_answered_and_the_next_probe_tries_again() {
    let (mut link, mut hosts) = probing();
    hosts[1].failed = std::mem::take(&mut hosts[1].busy);
    link.ends[1].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!(link.ends[0].peer().probed, Some(0));
    hosts[1].slow = false;
    hosts[0].probe = Some(8);
    link.ends[0].changed();
    assert!(link.run(&mut hosts, 100));
    assert_eq!((link.ends[0].peer().probed, hosts[1].works), (Some(8), 2));
}

#[test]
fn a_new_session_is_probed_anew_as_long_as_somebody_waits() {
    let (_, mut hosts) = probing();
    hosts[1].slow = false;
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    assert_eq!(link.ends[0].peer().probed, Some(7));
    hosts[0].probe = None;
    let mut link = Link::new();
    assert!(link.run(&mut hosts, 10_000));
    assert_eq!(link.ends[0].peer().probed, Some(0));
}

#[test]
fn who_does_not_know_probes_gets_none() {
    let mut hosts = apart();
    hosts[0].probe = Some(1);
    let ends = [Session::new(B, FEATURE_STATEMENTS), Session::new(A, FEATURE_STATEMENTS)];
    let mut link = Link { ends, ..Link::new() };
    assert!(link.run(&mut hosts, 10_000));
    assert_level(&hosts);
    assert_eq!((link.ends[0].peer().probed, hosts[1].works), (None, 0));
    for unasked in [Message::Probe { number: 1 }, Message::Probed { number: 1 }] {
        assert!(matches!(link.ends[0].handle(unasked, &mut hosts[0]), Err(Fault::Protocol(_))));
    }
}

#[test]
fn probes_rise_and_only_what_was_sent_is_answered() {
    let (mut link, mut hosts) = probing();
    let mut handle = |side: usize, message: Message| link.ends[side].handle(message, &mut hosts[side]);
    for number in [0, 6, 7] {
        assert!(matches!(handle(1, Message::Probe { number }), Err(Fault::Protocol(_))), "{number}");
    }
    for number in [0, 8, u64::MAX] {
        assert!(matches!(handle(0, Message::Probed { number }), Err(Fault::Protocol(_))), "{number}");
    }
    handle(0, Message::Probed { number: 7 }).unwrap();
    assert!(matches!(handle(0, Message::Probed { number: 7 }), Err(Fault::Protocol(_))), "twice");
    let mut fresh = Session::new(B, FEATURES);
    let early = Message::Probe { number: 1 };
    assert!(matches!(fresh.handle(early, &mut hosts[0]), Err(Fault::Protocol(_))), "before it said what it has");
}

#[test]
fn faults() {
    let mut host = Fake::default();
    let have = |epoch| Message::Have(Have { epoch, ..Have::default() });
    let early = Message::Holding(Holding::default());
    assert!(matches!(Session::new(B, FEATURE_STATEMENTS).handle(early, &mut host), Err(Fault::Protocol(_))));
    assert_eq!(Session::new(B, FEATURE_STATEMENTS).handle(have(1), &mut host), Err(Fault::Epoch { own: 0, theirs: 1 }));
    let mut session = Session::new(B, FEATURE_STATEMENTS);
    session.handle(have(0), &mut host).unwrap();
    let bad = Message::Envelopes { envelopes: vec![vec![].into()] };
    assert!(matches!(session.handle(bad, &mut host), Err(Fault::Envelope(_))));
    let many: Vector = (0..=ACTORS_MAX)
        .map(|n| (ActorId(Hash::of(&n.to_be_bytes()).0), Tip { seq: 1, hash: ChangeHash([0; 32]) }))
        .collect();
    let many = Message::Have(Have { vector: many, ..Have::default() });
    assert!(matches!(Session::new(B, FEATURE_STATEMENTS).handle(many, &mut host), Err(Fault::Protocol(_))));
}
