//! Figures of two nodes on loopback in one process: `cargo bench -p crdtfs-net` (arguments: `large small push idle`, default all;
//! `meet=1` and `meet=2` in two namespaces).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crdtfs_net::{NetConfig, Node, Urgency};
use world::*;

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn pair() -> (Arc<FakeHost>, Node, Arc<FakeHost>, Node) {
    let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
    let (node_a, node_b) = (start(1, &a).await, start(2, &b).await);
    introduce(&node_a, &node_b);
    in_session(&a, &genesis(9).share(), device(2)).await;
    in_session(&b, &genesis(9).share(), device(1)).await;
    (a, node_a, b, node_b)
}

async fn transfer(what: &str, count: usize, len: usize) {
    let (_, node_a, b, node_b) = pair().await;
    let share = genesis(9).share();
    let content = chunks(count, len, 1);
    b.put(&share, &content);
    for _ in 0..3 {
        let taken = Arc::new(AtomicUsize::new(0));
        let (sink, begun, before) = (taken.clone(), Instant::now(), cpu());
        node_a
            .fetch(share, wants(&content), Urgency::Background, LONG, move |_, bytes: bytes::Bytes| {
                sink.fetch_add(bytes.len(), Ordering::Relaxed);
                Ok(())
            })
            .await
            .unwrap();
        let (wall, used) = (begun.elapsed().as_secs_f64(), cpu() - before);
        assert_eq!(taken.load(Ordering::Relaxed), count * len);
        println!("{what}: {wall:.2} s, {:.0} MB/s, {used:.2} s of CPU", (count * len) as f64 / wall / 1e6);
    }
    let sent = node_b.peers()[0].sent;
    println!("  sent {:.3} x the bytes", sent as f64 / (3 * count * len) as f64);
    node_a.shutdown().await;
    node_b.shutdown().await;
}

async fn push() {
    let (a, node_a, b, node_b) = pair().await;
    let share = genesis(9).share();
    let mut times: Vec<Duration> = Vec::new();
    for seq in 1..=200 {
        let begun = Instant::now();
        a.make(&share, 1, 300);
        b.until("pushed", |b| b.has(&share, 1, seq)).await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("a change seen by the other: median {:?}, 99% {:?}", times[100], times[197]);
    let mut times: Vec<Duration> = Vec::new();
    let content = chunks(100, 64 << 10, 1);
    b.put(&share, &content);
    for chunk in &content {
        let begun = Instant::now();
        node_a.fetch(share, wants(std::slice::from_ref(chunk)), Urgency::Waiting, LONG, |_, _| Ok(())).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    println!("one chunk of 64 KiB fetched: median {:?}, 99% {:?}", times[50], times[98]);
    node_a.shutdown().await;
    node_b.shutdown().await;
}

async fn idle() {
    for discovery in [false, true] {
        let (a, b) = (host(9, &[1, 2]), host(9, &[1, 2]));
        let share = genesis(9).share();
        let mut nodes = Vec::new();
        for (number, host) in [(1, &a), (2, &b)] {
            let config = NetConfig { discovery, ..NetConfig::local(secret(number)) };
            nodes.push(start_with(number, host, config).await);
        }
        introduce(&nodes[0], &nodes[1]);
        in_session(&a, &share, device(2)).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let before = cpu();
        tokio::time::sleep(Duration::from_secs(20)).await;
        println!("idle, both nodes, discovery {discovery}: {:.3} s of CPU in 10 s", (cpu() - before) / 2.0);
        println!("  paths: {:?}", nodes[0].peers());
        for node in nodes {
            node.shutdown().await;
        }
    }
}

/// One of two processes, say in two network namespaces, that are to find each other by mDNS alone.
async fn meet(number: u8) {
    let own = host(9, &[1, 2]);
    let share = genesis(9).share();
    let begun = Instant::now();
    let node = start_with(number, &own, NetConfig::local(secret(number))).await;
    let other = device(3 - number);
    in_session(&own, &share, other).await;
    println!("found the other after {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = cpu();
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!("idle: {:.3} s of CPU in 10 s", (cpu() - before) / 2.0);
    let begun = Instant::now();
    while node.connected() == [other] && begun.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("the other was there for {:?} more; {:?}", begun.elapsed(), node.peers());
    node.shutdown().await;
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |what: &str| chosen.is_empty() || chosen.iter().any(|arg| arg == what);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("large") {
            transfer("1 GiB in chunks of 256 KiB", 4096, 256 << 10).await;
        }
        if wanted("small") {
            transfer("10,000 chunks of 4 KiB", 10_000, 4 << 10).await;
        }
        if wanted("push") {
            push().await;
        }
        if wanted("idle") {
            idle().await;
        }
        if let Some(number) = chosen.iter().find_map(|arg| arg.strip_prefix("meet=")) {
            meet(number.parse().unwrap()).await;
        }
    });
}
