//! Who is no member changes nothing, whatever it sends; a member that does not keep to the protocol loses its connection.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, bytes, needs, same_trees};
use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr};
use tokio::time::timeout;

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
    fs::write(mount.join("i"), "not for strangers\n").unwrap();
    let said = a.fails(3, &["wait", mount.to_str().unwrap(), "--timeout", "1s"]);
    assert!(said.contains('b'), "{said}");
    segment.plug(&b);
    a.wait(&mount, "all");
    assert!(!own.join("i").exists());
    for device in [&mut a, &mut b, &mut stranger] {
        device.stop();
    }
}

/// The protocols of the engine's endpoint (docs/FORMAT.md): of members, and of those who come with a ticket.
const PROTOCOLS: [&[u8]; 2] = [b"crdtfs/1", b"crdtfs/join/1"];

/// What is sent at the start of a stream instead of what belongs there.
fn malformed() -> Vec<Vec<u8>> {
    let framed = |body: &[u8]| [&(body.len() as u32).to_le_bytes()[..], body].concat();
    vec![
        Vec::new(),
        vec![0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // A length that nobody has memory for, and one that the stream does not hold.
        [&u32::MAX.to_le_bytes()[..], &bytes(1, 2_000)].concat(),
        [&1_000_u32.to_le_bytes()[..], &bytes(2, 10)].concat(),
        framed(&[]),
        framed(&bytes(3, 300)),
        // CBOR: maps and arrays that promise more than they hold, nested without end.
        framed(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        framed(&[0x9b, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff]),
        framed(&[0x81; 60_000]),
        framed(&bytes(4, 1 << 20)),
        (0..2_000_u64).flat_map(|n| framed(&bytes(n, 7))).collect(),
    ]
}

/// Connects, and sends each malformed beginning on a stream of its own, on a connection of its own. The connection has to
/// be closed by the other side, or the stream refused, in bounded time. How often it was let in, by protocol.
async fn attack(secret: [u8; 32], victim: EndpointId, at: SocketAddr) -> [usize; 2] {
    let endpoint = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .secret_key(SecretKey::from_bytes(&secret))
        .bind()
        .await
        .unwrap();
    let address = EndpointAddr::from_parts(victim, [TransportAddr::Ip(at)]);
    let mut let_in = [0; 2];
    for (protocol, let_in) in PROTOCOLS.into_iter().zip(&mut let_in) {
        for (n, bad) in malformed().into_iter().enumerate() {
            let connected = timeout(LIMIT, endpoint.connect(address.clone(), protocol)).await;
            let connected = connected.unwrap_or_else(|_| panic!("no answer to a connection, before case {n}"));
            // Not let in at all is as good.
            let Ok(connection) = connected else { continue };
            let answered = timeout(LIMIT, send(&connection, &bad)).await;
            *let_in += usize::from(matches!(answered, Ok(true)));
            assert!(answered.is_ok(), "case {n} of {}: kept open", String::from_utf8_lossy(protocol));
            connection.close(0_u32.into(), b"");
        }
    }
    endpoint.close().await;
    let_in
}

/// Returns once the other side has had enough of it; whether it took all of the bytes.
async fn send(connection: &Connection, bad: &[u8]) -> bool {
    let Ok((mut send, mut recv)) = connection.open_bi().await else { return false };
    // The other side may close before it has read all; that is its answer.
    let taken = send.write_all(bad).await.is_ok();
    let _ = send.finish();
    let _ = recv.read_to_end(1 << 20).await;
    taken
}

#[test]
fn malformed_messages_change_nothing() {
    needs!("malformed_messages_change_nothing", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a, mut b, stranger]) = lab.on_one_segment(["a", "b", "stranger"]);
    let (mount, folder) = (a.dir("s"), b.dir("s"));
    a.show(Mode::Mount, None, &mount);
    fs::write(mount.join("f"), "of members\n").unwrap();
    let ticket = a.invite(&mount, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    a.wait(&mount, "all");
    b.stop();
    let before = a.status();
    let id = before["engine"]["device"].as_str().unwrap();
    let id: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16).unwrap()).collect();
    let id = EndpointId::from_bytes(&id.try_into().unwrap()).unwrap();
    let port = ports(&a)[0];

    // A stranger; then a member that has gone mad, with the true key, from the true place.
    let mad = fs::read(b.state_dir().join("device.key")).unwrap().try_into().unwrap();
    let [stranger, member] = [(&stranger, [7; 32]), (&b, mad)].map(|(from, secret)| {
        from.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attack(secret, id, SocketAddr::new("10.77.0.1".parse().unwrap(), port)))
        })
    });
    // Else nothing of all that was read.
    assert!(stranger[1] > 0, "who has a ticket is let in: {stranger:?}");
    assert!(member[0] > 0, "a member is let in: {member:?}");
    let after = a.status();
    for field in ["heads", "digest", "entries", "bytes"] {
        assert_eq!(after["shares"][0][field], before["shares"][0][field], "{field}");
    }
    assert_eq!(after["engine"]["pid"], before["engine"]["pid"], "the engine lived through it");
    a.check();

    // The member comes to its senses.
    fs::write(folder.join("g"), "sane again\n").unwrap();
    b.show(Mode::Watch, None, &folder);
    b.wait(&folder, "all");
    same_trees(&[&mount, &folder], LIMIT);
    a.stop();
    b.stop();
}

/// CBOR (RFC 8949), as much of it as a member needs to ask for chunks (docs/FORMAT.md, "Wire").
mod cbor {
    fn head(major: u8, n: usize) -> Vec<u8> {
        match n {
            0..24 => vec![major << 5 | n as u8],
            24..256 => vec![major << 5 | 24, n as u8],
            _ => [&[major << 5 | 25][..], &(n as u16).to_be_bytes()].concat(),
        }
    }

    pub(crate) fn number(n: usize) -> Vec<u8> {
        head(0, n)
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Vec<u8> {
        [&head(2, bytes.len())[..], bytes].concat()
    }

    pub(crate) fn array(items: &[Vec<u8>]) -> Vec<u8> {
        [&head(4, items.len())[..], &items.concat()].concat()
    }

    pub(crate) fn map(items: &[Vec<u8>]) -> Vec<u8> {
        let fields: Vec<_> = items.iter().enumerate().flat_map(|(key, item)| [number(key), item.clone()]).collect();
        [&head(5, items.len())[..], &fields.concat()].concat()
    }
}

async fn write(send: &mut SendStream, body: &[u8]) {
    send.write_all(&(body.len() as u32).to_le_bytes()).await.unwrap();
    send.write_all(body).await.unwrap();
}

async fn read(recv: &mut RecvStream) -> Vec<u8> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.unwrap();
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    recv.read_exact(&mut body).await.unwrap();
    body
}

/// A member's connection, made by hand.
struct Member {
    connection: Connection,
    own: [u8; 32],
    nonces: [[u8; 32]; 2],
}

impl Member {
    async fn connect(secret: [u8; 32], to: EndpointId, at: SocketAddr) -> (Endpoint, Self) {
        let secret = SecretKey::from_bytes(&secret);
        let own = *secret.public().as_bytes();
        let endpoint = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_address_lookup();
        let endpoint = endpoint.secret_key(secret).bind().await.unwrap();
        let address = EndpointAddr::from_parts(to, [TransportAddr::Ip(at)]);
        let connection = timeout(LIMIT, endpoint.connect(address, PROTOCOLS[0])).await.unwrap().unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let nonce = [5; 32];
        let hello = [cbor::number(1), cbor::number(1), cbor::number(0), cbor::bytes(&nonce)];
        write(&mut send, &cbor::map(&hello)).await;
        let theirs = read(&mut recv).await;
        let their_nonce = theirs[theirs.len() - 32..].try_into().unwrap();
        (endpoint, Self { connection, own, nonces: [nonce, their_nonce] })
    }

    /// The proof that this device knows a share.
    fn tag(&self, share: &[u8]) -> [u8; 32] {
        let mut exporter = [0; 32];
        self.connection.export_keying_material(&mut exporter, b"crdtfs share", b"").unwrap();
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("crdtfs 2026 share tag v1", share));
        hasher.update(&self.own).update(self.connection.remote_id().as_bytes());
        hasher.update(&self.nonces[0]).update(&self.nonces[1]).update(&exporter).update(&self.own);
        *hasher.finalize().as_bytes()
    }

    /// Asks for a small file by the hash of its bytes: the answer to the opening, and to the request.
    async fn ask(&self, share: &[u8], hash: &[u8]) -> (u8, Option<Vec<u8>>) {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        let open = cbor::array(&[cbor::number(1), cbor::array(&[cbor::bytes(&self.tag(share))])]);
        write(&mut send, &open).await;
        let opened = read(&mut recv).await[1];
        if opened != 0 {
            return (opened, None);
        }
        let asked = cbor::array(&[cbor::array(&[cbor::bytes(hash)])]);
        let want = cbor::array(&[cbor::number(1), asked, cbor::array(&[])]);
        write(&mut send, &cbor::array(&[cbor::number(0), want])).await;
        (opened, Some(read(&mut recv).await))
    }
}

#[test]
fn a_member_gets_nothing_of_a_share_that_it_is_not_in() {
    needs!("a_member_gets_nothing_of_a_share_that_it_is_not_in");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (shared, private, folder) = (a.dir("shared"), a.dir("private"), b.dir("s"));
    let (of_both, secret) = (bytes(1, 5_000), bytes(2, 5_000));
    fs::create_dir_all(&shared).unwrap();
    fs::create_dir_all(&private).unwrap();
    fs::write(shared.join("f"), &of_both).unwrap();
    fs::write(private.join("f"), &secret).unwrap();
    a.show(Mode::Watch, None, &shared);
    let id_of = |device: &Device, n: usize| {
        let shares = device.status()["shares"].as_array().unwrap().clone();
        let ids: Vec<String> = shares.iter().map(|share| share["share"].as_str().unwrap().to_owned()).collect();
        ids.get(n).map(|id| data_encoding::HEXLOWER.decode(id.as_bytes()).unwrap())
    };
    let common = id_of(&a, 0).unwrap();
    let ticket = a.invite(&shared, &[]);
    b.show(Mode::Watch, Some(&ticket), &folder);
    a.wait(&shared, "all");
    a.ok(&["watch", private.to_str().unwrap()]);
    let other = (0..2).filter_map(|n| id_of(&a, n)).find(|id| *id != common).unwrap();
    b.stop();

    let victim = a.status()["engine"]["device"].as_str().unwrap().to_owned();
    let victim = data_encoding::HEXLOWER.decode(victim.as_bytes()).unwrap();
    let victim = EndpointId::from_bytes(&victim.try_into().unwrap()).unwrap();
    let at = SocketAddr::new("10.77.0.1".parse().unwrap(), ports(&a)[0]);
    let key = fs::read(b.state_dir().join("device.key")).unwrap().try_into().unwrap();
    b.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (endpoint, member) = Member::connect(key, victim, at).await;
            let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
            let (opened, answer) = member.ask(&common, &hash(&of_both)).await;
            let answer = answer.unwrap();
            assert_eq!((opened, answer[1]), (0, 0), "a member is given what is in its share");
            assert!(answer.ends_with(&of_both));
            let (opened, answer) = member.ask(&common, &hash(&secret)).await;
            assert_eq!((opened, answer.unwrap()[1]), (0, 1), "what is in another share is not here for it");
            let (opened, answer) = member.ask(&other, &hash(&secret)).await;
            assert_eq!((opened, answer), (1, None), "nor is that share");
            endpoint.close().await;
        });
    });
    a.check();
    a.stop();
}
