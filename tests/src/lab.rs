//! A network of its own for a test, and what is left when a test is killed.
//!
//! Below `CRDTFS_TEST_DIR` (or the temporary directory) a lab has the directory `crdtfs-tests/PID-N`, and namespaces named
//! `ct-PID-N-…`: a hub with one bridge a segment, and one for each device. All of it goes when the last handle does. The
//! first lab of a process also removes what belongs to processes that are no more: engines that hold the lock of a state
//! directory in such a lab, mounts, namespaces, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use crate::command::tool;
use crate::device::{Device, Mode, kill_engine_of};
use crate::mounts::unmount_below;

/// A network with its devices' directories.
#[derive(Debug, Clone)]
pub struct Lab(pub(crate) Arc<Inner>);

/// What goes when the last handle does.
#[derive(Debug)]
pub(crate) struct Inner {
    prefix: String,
    root: PathBuf,
    segments: AtomicU32,
    ports: AtomicU32,
}

/// A bridge: all devices on it reach each other, and nobody else.
#[derive(Debug)]
pub struct Segment {
    lab: Lab,
    index: u32,
}

impl Lab {
    /// An empty one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[allow(clippy::new_without_default, reason = "it makes namespaces; no default does")]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(|| sweep(&base()));
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = base().join(&name);
        fs::create_dir_all(&root).unwrap_or_else(|e| panic!("cannot make {}: {e}", root.display()));
        let root = root.canonicalize().expect("just made");
        let prefix = format!("ct-{name}-");
        let lab = Self(Arc::new(Inner { prefix, root, segments: AtomicU32::new(0), ports: AtomicU32::new(0) }));
        lab.add_netns("hub");
        lab
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// A new bridge.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn segment(&self) -> Segment {
        let index = self.0.segments.fetch_add(1, Ordering::Relaxed);
        // Without querier and snooping the bridge floods multicast, as a plain switch does.
        ip(&self.netns("hub"), &format!("link add br{index} type bridge mcast_snooping 0 forward_delay 0"));
        ip(&self.netns("hub"), &format!("link set br{index} up"));
        Segment { lab: self.clone(), index }
    }

    /// A segment with one device for each name.
    pub fn on_one_segment<const N: usize>(&self, names: [&str; N]) -> (Segment, [Device; N]) {
        let segment = self.segment();
        let devices = names.map(|name| self.device(name, &[&segment]));
        (segment, devices)
    }

    /// Two devices on one segment, and the directory `s` of each, in which they show a share: the first made it, the second came
    /// by a ticket.
    ///
    /// # Panics
    /// If it cannot be shown.
    #[track_caller]
    pub fn pair(&self, names: [&str; 2], modes: [Mode; 2]) -> (Segment, [Device; 2], [PathBuf; 2]) {
        let (segment, [mut first, mut second]) = self.on_one_segment(names);
        let dirs = [first.dir("s"), second.dir("s")];
        first.show(modes[0], None, &dirs[0]);
        let ticket = first.invite(&dirs[0], &[]);
        second.show(modes[1], Some(&ticket), &dirs[1]);
        (segment, [first, second], dirs)
    }

    /// A new device, on these segments.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn device(&self, name: &str, segments: &[&Segment]) -> Device {
        self.add_netns(name);
        for (metric, segment) in segments.iter().enumerate() {
            self.attach(name, segment, metric);
        }
        Device::new(self.clone(), name)
    }

    pub(crate) fn netns(&self, name: &str) -> String {
        format!("{}{name}", self.0.prefix)
    }

    fn add_netns(&self, name: &str) {
        let netns = self.netns(name);
        tool("ip", ["netns", "add", &netns]);
        // Addresses are unique here by construction; the search for duplicates would take seconds.
        let keys = ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"];
        tool("ip", ["netns", "exec", &netns, "sysctl", "-q", "-w"].into_iter().chain(keys));
        ip(&netns, "link set lo up");
    }

    fn attach(&self, device: &str, segment: &Segment, metric: usize) {
        let (hub, netns, index) = (self.netns("hub"), self.netns(device), segment.index);
        let port = self.0.ports.fetch_add(1, Ordering::Relaxed);
        let outer = port_name(device, index);
        ip(&hub, &format!("link add {outer} type veth peer name eth{index} netns {netns}"));
        ip(&hub, &format!("link set {outer} master br{index}"));
        ip(&hub, &format!("link set {outer} up"));
        ip(&netns, &format!("addr add 10.77.{index}.{}/24 dev eth{index}", port + 1));
        ip(&netns, &format!("link set eth{index} up"));
        ip(&netns, &format!("route add default dev eth{index} metric {}", metric + 1));
    }
}

impl Segment {
    /// Takes the device off, without a sign on its own interface: packets just get lost.
    pub fn cut(&self, device: &Device) {
        ip(&self.lab.netns("hub"), &format!("link set {} nomaster", port_name(device.name(), self.index)));
    }

    /// Undoes [`Segment::cut`].
    pub fn heal(&self, device: &Device) {
        ip(
            &self.lab.netns("hub"),
            &format!("link set {} master br{}", port_name(device.name(), self.index), self.index),
        );
    }

    /// Gives the device another address here, as a new lease would.
    pub fn readdress(&self, device: &Device, host: u8) {
        let (netns, index) = (self.lab.netns(device.name()), self.index);
        ip(&netns, &format!("addr flush dev eth{index} scope global"));
        ip(&netns, &format!("addr add 10.77.{index}.{host}/24 dev eth{index}"));
        ip(&netns, &format!("route replace default dev eth{index} metric 1"));
    }

    /// Pulls the cable: the device sees its carrier go.
    pub fn unplug(&self, device: &Device) {
        ip(&self.lab.netns("hub"), &format!("link set {} down", port_name(device.name(), self.index)));
    }

    /// Undoes [`Segment::unplug`].
    pub fn plug(&self, device: &Device) {
        ip(&self.lab.netns("hub"), &format!("link set {} up", port_name(device.name(), self.index)));
    }
}

/// The bridge's end of a device's cable: at most 15 bytes, as the kernel wants.
fn port_name(device: &str, segment: u32) -> String {
    format!("{}-{segment}", &device[..device.len().min(12)])
}

fn ip(netns: &str, words: &str) {
    tool("ip", ["-n", netns].into_iter().chain(words.split(' ')));
}

impl Drop for Inner {
    fn drop(&mut self) {
        unmount_below(&self.root);
        remove_netns(&self.prefix);
        if std::thread::panicking() && std::env::var_os("CRDTFS_KEEP").is_some() {
            eprintln!("kept: {}", self.root.display());
        } else {
            // Best effort: what stays is swept by the next run.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

fn base() -> PathBuf {
    std::env::var_os("CRDTFS_TEST_DIR").map(PathBuf::from).unwrap_or_else(std::env::temp_dir).join("crdtfs-tests")
}

fn remove_netns(prefix: &str) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(prefix) {
            let mut command = std::process::Command::new("ip");
            // Failing means that somebody else sweeps it, too.
            let _ = command.args(["netns", "del"]).arg(name).stderr(std::process::Stdio::null()).status();
        }
    }
}

/// Removes the labs of processes that are no more.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.split_once('-') else { continue };
        if pid.parse::<u32>().is_err() || Path::new("/proc").join(pid).exists() {
            continue;
        }
        for device in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            kill_engine_of(&device.path().join("state"));
        }
        unmount_below(&entry.path());
        remove_netns(&format!("ct-{name}-"));
        // Another process may be at it, too.
        let _ = fs::remove_dir_all(entry.path());
    }
}
