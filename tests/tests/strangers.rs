//! Who is no member changes nothing, whatever it sends.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, same_trees};

const LIMIT: Duration = Duration::from_secs(30);

/// The UDP ports that the device's engine listens on.
fn ports(device: &Device) -> Vec<u16> {
    let table = fs::read_to_string(format!("/proc/{}/net/udp", device.pid().unwrap())).unwrap();
    let local = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    local
        .filter_map(|address| u16::from_str_radix(address.rsplit(':').next()?, 16).ok())
        .filter(|port| *port != 5353)
        .collect()
}

#[test]
fn noise_and_strangers_change_nothing() {
    needs!("noise_and_strangers_change_nothing", Fuse);
    let lab = Lab::new();
    let (segment, [mut a, mut b, mut stranger]) = lab.on_one_segment(["a", "b", "stranger"]);
    let (mount, folder) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &mount);
    fs::write(mount.join("f"), "of members\n").unwrap();
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    a.wait(&mount, "all");
    let tree = same_trees(&[&mount, &folder], LIMIT);
    let digest = a.status()["shares"][0]["digest"].clone();
    assert!(digest.is_string());

    // A stranger with a share of its own, on the same network: it finds us, we do not meet.
    let own = stranger.dir("s");
    stranger.show(Mode::Watch, None, &own);
    fs::write(own.join("f"), "of a stranger\n").unwrap();

    // Noise at the port: short, long, and with the first bytes of QUIC's packets (RFC 9000, 17.2).
    let found = ports(&a);
    assert!(!found.is_empty(), "the engine listens nowhere");
    stranger.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for n in 0..600 {
            let mut noise = bytes(n, [0, 1, 21, 300, 1200, 1452][(n % 6) as usize]);
            let head: &[u8] = [&[][..], &[0xc0, 0, 0, 0, 1, 8], &[0x40], &[0xf0, 0, 0, 0, 0, 20]][(n % 4) as usize];
            let len = head.len().min(noise.len());
            noise[..len].copy_from_slice(&head[..len]);
            for port in &found {
                socket.send_to(&noise, ("10.77.0.1", *port)).unwrap();
            }
        }
    });

    // Members go on as if nothing had been.
    fs::write(mount.join("g"), "goes on\n").unwrap();
    fs::write(folder.join("h"), "here, too\n").unwrap();
    a.wait(&mount, "all");
    let after = same_trees(&[&mount, &folder], LIMIT);
    assert_eq!(after.names(), ["f", "g", "h"]);
    assert!(tree.0.iter().all(|(path, item)| after.0.get(path) == Some(item)));
    let status = a.status();
    let devices = status["shares"][0]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "{devices:?}");
    assert_eq!(fs::read_to_string(own.join("f")).unwrap(), "of a stranger\n");
    a.check();

    // Nor is a member's address worth anything: the stranger takes the other's place on the wire.
    segment.unplug(&b);
    stranger.stop();
    stranger.show(Mode::Watch, None, &own);
    let said = a.fails(3, &["wait", mount.to_str().unwrap(), "--timeout", "1s"]);
    assert!(said.contains('b'), "{said}");
    segment.plug(&b);
    a.wait(&mount, "all");
    for device in [&mut a, &mut b, &mut stranger] {
        device.stop();
    }
}
