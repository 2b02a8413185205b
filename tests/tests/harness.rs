//! The harness itself: what the other tests rely on, without the binary.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crdtfs_tests::{Device, Kind, Lab, LoopFs, Tree, clone, git, is_mounted, needs, origin, run, same_trees, until};

/// Whether a datagram gets from the one to the other.
fn reaches(from: &Device, to: &Device, address: &str) -> bool {
    let receiver = to.inside(|| UdpSocket::bind((address, 0))).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let target = receiver.local_addr().unwrap();
    // No route and no neighbour are errors of the sender.
    let sent = from.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", target));
    sent.is_ok() && receiver.recv(&mut [0; 16]).is_ok()
}

fn until_reaches(from: &Device, to: &Device, address: &str) {
    until("a datagram arrives", Duration::from_secs(5), || {
        reaches(from, to, address).then_some(()).ok_or("none".into())
    });
}

#[test]
fn links_are_cut_and_healed() {
    needs!("links_are_cut_and_healed");
    let lab = Lab::new();
    let (segment, [a, b]) = lab.on_one_segment(["a", "b"]);
    until_reaches(&a, &b, "10.77.0.2");
    segment.cut(&b);
    assert!(!reaches(&a, &b, "10.77.0.2"));
    segment.heal(&b);
    until_reaches(&a, &b, "10.77.0.2");
    segment.unplug(&b);
    assert!(!reaches(&a, &b, "10.77.0.2"));
    segment.plug(&b);
    until_reaches(&b, &a, "10.77.0.1");
}

#[test]
fn the_middle_does_not_forward() {
    needs!("the_middle_does_not_forward");
    let lab = Lab::new();
    let (left, right) = (lab.segment(), lab.segment());
    let a = lab.device("a", &[&left]);
    let b = lab.device("b", &[&left, &right]);
    let c = lab.device("c", &[&right]);
    until_reaches(&a, &b, "10.77.0.2");
    until_reaches(&c, &b, "10.77.1.3");
    assert!(reaches(&b, &c, "10.77.1.4"));
    assert!(!reaches(&a, &c, "10.77.1.4"));
}

#[test]
fn a_lab_leaves_nothing() {
    needs!("a_lab_leaves_nothing", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let (_, [device]) = lab.on_one_segment(["gone"]);
    let small = LoopFs::new(&lab, "small", 16);
    let root = lab.root().to_owned();
    assert!(is_mounted(small.dir()));
    assert!(small.free() > 1 << 20 && small.free() < 16 << 20);
    let mine = |name: &str| {
        let prefix = format!("ct-{}-", root.file_name().unwrap().to_str().unwrap());
        fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
            .any(|e| e.file_name().to_string_lossy() == format!("{prefix}{name}"))
    };
    assert!(mine("hub") && mine("gone"));
    drop((lab, device, small));
    assert!(!mine("hub") && !mine("gone"));
    assert!(!root.exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(root.to_str().unwrap()));
}

#[test]
fn a_full_disk_is_full() {
    needs!("a_full_disk_is_full", Loop, Tool("mkfs.ext4"));
    let lab = Lab::new();
    let small = LoopFs::new(&lab, "small", 8);
    let error = fs::write(small.dir().join("f"), vec![1; 16 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn an_ordinary_user_is_one() {
    needs!("an_ordinary_user_is_one");
    let lab = Lab::new();
    let (_, [mut device]) = lab.on_one_segment(["user"]);
    let root = run(id(&device), Duration::from_secs(5)).ok();
    assert_eq!(root.trim(), "0");
    device.become_user(65_534);
    assert_eq!(run(id(&device), Duration::from_secs(5)).ok().trim(), "65534");
    fs::create_dir(device.dir("mine")).unwrap();
    fs::set_permissions(device.dir("mine"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut ls = device.program("ls");
    ls.arg(device.dir("mine"));
    assert_ne!(run(ls, Duration::from_secs(5)).code, Some(0), "the directory is root's");
}

fn id(device: &Device) -> Command {
    let mut id = device.program("id");
    id.arg("-u");
    id
}

#[test]
fn trees_differ_where_they_do() {
    needs!("trees_differ_where_they_do");
    let lab = Lab::new();
    let make = |name: &str| {
        let root = lab.root().join(name);
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("d/f"), "same").unwrap();
        fs::File::open(root.join("d/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        symlink("d", root.join("l")).unwrap();
        root
    };
    let (a, b) = (make("a"), make("b"));
    let tree = same_trees(&[&a, &b], Duration::ZERO);
    assert_eq!(tree.names(), ["d", "d/f", "l"]);
    assert_eq!(tree.0[Path::new("l")].kind, Kind::Symlink("d".into()));
    assert_eq!(tree.holder(b"same").unwrap(), Path::new("d/f"));
    assert!(tree.holder(b"other").is_none());
    let differ = |why: &str| {
        let lines = Tree::read(&a).unwrap().differences(&Tree::read(&b).unwrap());
        assert_eq!(lines.len(), 1, "{why}: {lines:?}");
    };
    fs::set_permissions(b.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    differ("mode");
    fs::set_permissions(b.join("d/f"), fs::metadata(a.join("d/f")).unwrap().permissions()).unwrap();
    fs::File::open(b.join("d/f")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    differ("mtime");
    fs::File::open(b.join("d/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    rustix::fs::setxattr(b.join("d/f"), "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    differ("attribute");
    rustix::fs::removexattr(b.join("d/f"), "user.colour").unwrap();
    fs::write(b.join("d/f"), "sane").unwrap();
    fs::File::open(b.join("d/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    differ("bytes");
    fs::remove_file(b.join("d/f")).unwrap();
    differ("absent");
    fs::write(b.join("d/f"), "same").unwrap();
    fs::File::open(b.join("d/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::remove_file(b.join("l")).unwrap();
    symlink("e", b.join("l")).unwrap();
    differ("target");
}

#[test]
fn the_repository_is_the_same_each_time() {
    needs!("the_repository_is_the_same_each_time", Tool("git"));
    let lab = Lab::new();
    let heads: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let dir = lab.root().join(name);
            origin(&dir, 200);
            let mut head = git(&dir);
            head.args(["rev-parse", "main"]);
            run(head, Duration::from_secs(20)).ok()
        })
        .collect();
    assert_eq!(heads[0], heads[1]);
    clone(&lab.root().join("one"), &lab.root().join("clone"));
    assert!(Tree::read(&lab.root().join("clone")).unwrap().0.len() > 200);
}
