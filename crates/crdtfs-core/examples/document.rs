//! Times the document: `cargo run --release -p crdtfs-core --example document -- [RECORDS] [RECORDS-PER-CHANGE]`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use crdtfs_core::document::{Body, Document, Filed, GENESIS_OPS, Schema};
use crdtfs_core::id::{ActorId, Hash, RecordId, ShareId};
use crdtfs_core::record::Family;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (records, batch) = (args.next().unwrap_or(100_000), args.next().unwrap_or(1000));
    let share = ShareId([7; 32]);
    let schema = Schema::new(&share);
    let mut document = Document::new(&share);
    let (actor, context) = (ActorId([1; 32]), Hash([0; 32]));
    let mut start_op = GENESIS_OPS + 1;
    let (mut make, mut apply, mut slowest) = (0.0, 0.0, 0.0_f64);
    for (seq, first) in (0..records).step_by(batch).enumerate() {
        let filed = (first..records.min(first + batch)).map(|n| {
            let hash = Hash::of(&n.to_be_bytes());
            let mut bytes = hash.0.repeat(3);
            bytes.extend(b"some text that compresses");
            let subject = hash.0[..16].try_into().expect("16");
            let family = if n % 2 == 0 { Family::Place } else { Family::Content };
            Filed { family, subject, id: RecordId::of(&bytes), bytes }
        });
        let body = Body {
            actor,
            seq: seq as u64 + 1,
            start_op,
            deps: document.heads(),
            time_ms: 1,
            context,
            records: filed.collect(),
        };
        start_op += body.records.len() as u64;
        let at = Instant::now();
        let made = schema.make(&body).expect("fits");
        make += at.elapsed().as_secs_f64();
        let at = Instant::now();
        document.apply(vec![made]).expect("applies");
        let took = at.elapsed().as_secs_f64();
        slowest = slowest.max(took);
        apply += took;
    }
    println!("{records} records, {batch} a change: make {make:.3} s, apply {apply:.3} s, slowest {slowest:.4} s");
    let at = Instant::now();
    let saved = document.save();
    println!("save {:.3} s, {} bytes", at.elapsed().as_secs_f64(), saved.len());
    let at = Instant::now();
    let mut loaded = Document::load(&share, &saved).expect("loads");
    println!("load {:.3} s", at.elapsed().as_secs_f64());
    let at = Instant::now();
    let count: usize = loaded.bodies().map(|(_, body)| body.records.len()).sum();
    println!("bodies {:.3} s, {count} records", at.elapsed().as_secs_f64());
    for n in 0..3 {
        let bytes = vec![n; 90];
        let filed = Filed { family: Family::Place, subject: [n; 16], id: RecordId::of(&bytes), bytes };
        let seq = u64::from(n) + 1;
        let body = Body {
            actor: ActorId([2; 32]),
            seq,
            start_op,
            deps: loaded.heads(),
            time_ms: 1,
            context,
            records: vec![filed],
        };
        start_op += 1;
        let at = Instant::now();
        let made = schema.make(&body).expect("fits");
        loaded.apply(vec![made]).expect("applies");
        println!("one change after the load {:.6} s", at.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident: Vec<_> =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect();
    println!("{}", resident.join(", "));
}
