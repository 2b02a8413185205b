//! What the parts of an engine share: the state directory, the store, the network, the shares and their showings.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crdtfs_core::id::{DeviceId, ShareId};
use crdtfs_core::key::Key;
use crdtfs_net::{NetConfig, Network, Node};
use crdtfs_store::{Space, Store, StoreOptions};
use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use crate::collecting::Collecting;
use crate::committer::Committer;
use crate::engine::{EngineConfig, EngineError, LastWords};
use crate::fetcher::Fetcher;
use crate::host::EngineHost;
use crate::present::{Mode, Presenter};
use crate::registry::ShareDir;
use crate::share::{Events, Parts, Share, now_ms};
use crate::showing::Showing;
use crate::source::NetSource;
use crate::state::{StateDir, StateError, write_atomically};

/// How often what ends by itself is noticed and what is dirty is made durable.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// A disk that was full counts as full for so long: who removes something then wants the room.
const STAYS_FULL: Duration = Duration::from_secs(600);

/// The file of the state directory with the UDP port that was listened on last.
const PORT_FILE: &str = "port";

/// The parts of an engine.
pub(crate) struct Core {
    pub(crate) config: EngineConfig,
    pub(crate) device: DeviceId,
    pub(crate) started_ms: i64,
    pub(crate) presenters: Vec<Arc<dyn Presenter>>,
    pub(crate) showings: Mutex<Vec<Arc<Showing>>>,
    /// What the engine before showed and this one has yet to begin with. Its share is behind so long: what was done there is
    /// not known.
    pub(crate) resuming: Mutex<Vec<(ShareId, PathBuf)>>,
    /// Shows and hides one after the other.
    pub(crate) changing: tokio::sync::Mutex<()>,
    state: StateDir,
    store: Store,
    space: Arc<Space>,
    node: OnceLock<Node>,
    shares: RwLock<BTreeMap<ShareId, Arc<Share>>>,
    fetchers: Mutex<Vec<Fetcher>>,
    committer: Arc<Committer>,
    /// Counts whatever a wait may look at.
    progress: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    closed: watch::Sender<bool>,
    /// Held while it is found out whether a showing is behind.
    looking: Mutex<()>,
    collecting: Mutex<Collecting>,
    /// Held while room is made; what was removed from the views when that was last tried in vain.
    pub(crate) futile: Mutex<Option<u64>>,
    /// How often room was made.
    pub(crate) room_made: AtomicU64,
    /// Whether what could not be shown is being tried again.
    pub(crate) retrying: AtomicBool,
    /// See [`Parts::snapshot_turn`].
    snapshot_turn: Arc<Mutex<()>>,
    runtime: Handle,
}

impl Core {
    /// Opens the state directory with all its shares, and starts the network.
    pub(crate) fn open(
        config: EngineConfig,
        presenters: Vec<Arc<dyn Presenter>>,
        runtime: &Runtime,
    ) -> Result<Arc<Self>, EngineError> {
        let state = take_over(&config, &presenters)?;
        let space = Arc::new(Space::new(state.path().to_owned()));
        space.keep_spare();
        let store = Store::open(&state.path().join("store"), StoreOptions::default())?;
        let core = Arc::new(Self {
            device: Key::new(state.key()).id(),
            started_ms: now_ms(),
            presenters,
            showings: Mutex::default(),
            resuming: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            space,
            store,
            node: OnceLock::new(),
            shares: RwLock::default(),
            fetchers: Mutex::default(),
            committer: Arc::new(Committer::default()),
            progress: watch::channel(0).0,
            stop: watch::channel(false).0,
            closed: watch::channel(false).0,
            looking: Mutex::default(),
            collecting: Mutex::new(Collecting::new()),
            futile: Mutex::default(),
            room_made: AtomicU64::new(0),
            retrying: AtomicBool::new(false),
            snapshot_turn: Arc::default(),
            runtime: runtime.handle().clone(),
            state,
            config,
        });
        for (id, dir) in ShareDir::list(&core.state.shares())? {
            let share = core.open_share(id, dir)?;
            let shown = share.dir().shown()?.into_iter().filter(|shown| shown.active);
            core.resuming.lock().extend(shown.map(|shown| (id, shown.dir)));
            core.showing_progressed(&id);
        }
        let net = NetConfig {
            network: core.config.network,
            relays: core.config.relays.clone(),
            bind: remembered_bind(core.state.path()),
            ..NetConfig::local(*core.state.key())
        };
        let host = Arc::new(EngineHost::new(Arc::downgrade(&core)));
        let node = runtime.block_on(Node::start(net, host))?;
        remember_port(core.state.path(), &node.bound());
        assert!(core.node.set(node).is_ok(), "the network starts once");
        for share in core.shares() {
            core.introduce(&share);
        }
        core.committer.start(Arc::downgrade(&core), HOUSEKEEPING).map_err(EngineError::Threads)?;
        Ok(core)
    }

    pub(crate) fn state(&self) -> &StateDir {
        &self.state
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The network; there from the end of [`Core::open`] on.
    pub(crate) fn node(&self) -> &Node {
        self.node.get().expect("the network is started before anything asks for it")
    }

    /// The network, if it is there already: a share's threads run before it is.
    pub(crate) fn node_if_started(&self) -> Option<&Node> {
        self.node.get()
    }

    pub(crate) fn network_word(&self) -> &'static str {
        match self.config.network {
            Network::Local => "local",
            Network::Internet => "internet",
        }
    }

    /// Reads a share from its directory and lets it run.
    pub(crate) fn open_share(self: &Arc<Self>, id: ShareId, dir: ShareDir) -> Result<Arc<Share>, EngineError> {
        let source = Arc::new(NetSource::new(Arc::downgrade(self), id, self.space.clone(), self.runtime.clone()));
        let parts = Parts {
            key: Key::new(self.state.key()),
            name: self.config.name.clone(),
            store: self.store.clone(),
            source,
            space: self.space.clone(),
            events: Arc::new(CoreEvents { core: Arc::downgrade(self) }),
            history: self.config.history.clone(),
            snapshot_turn: self.snapshot_turn.clone(),
        };
        let share = Share::open(id, dir, parts)?;
        // A folder that is about to be shown again may have been changed meanwhile: nobody is to be told that all is
        // settled before it was looked at.
        let watched = share.dir().shown()?.iter().any(|shown| shown.active && shown.mode == Mode::Watch);
        share.set_behind(watched);
        self.fetchers.lock().push(Fetcher::start(share.clone()).map_err(EngineError::Threads)?);
        self.shares.write().insert(id, share.clone());
        Ok(share)
    }

    /// Lets a share run no more.
    pub(crate) fn close_share(&self, share: &Share) {
        self.shares.write().remove(&share.id());
        self.node().share_removed(share.id());
        let mut fetchers = self.fetchers.lock();
        let at = fetchers.iter().position(|fetcher| fetcher.is_of(share));
        let fetcher = at.map(|at| fetchers.swap_remove(at));
        drop(fetchers);
        if let Some(fetcher) = fetcher {
            fetcher.stop();
        }
        share.stop_settling();
        share.end_snapshots();
    }

    /// Makes the network know a share, and where its members were last seen.
    pub(crate) fn introduce(&self, share: &Share) {
        for (device, addresses) in share.known_addresses() {
            self.node().remember(device, &addresses);
        }
        self.node().share_added(share.id());
    }

    pub(crate) fn share(&self, id: &ShareId) -> Option<Arc<Share>> {
        self.shares.read().get(id).cloned()
    }

    pub(crate) fn shares(&self) -> Vec<Arc<Share>> {
        self.shares.read().values().cloned().collect()
    }

    /// Counts whatever a wait may look at.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    pub(crate) fn progressed_now(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// Follows whether the engine was asked to stop.
    pub(crate) fn stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Asks the engine to stop; returns when everything is hidden and flushed.
    pub(crate) async fn request_stop(&self) {
        self.stop.send_replace(true);
        // An error means that the engine is gone, which is what was asked for.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
    }

    /// A showing ended by itself: the next engine does not show it again.
    pub(crate) fn deactivate(&self, showing: &Showing) {
        let deactivate = || -> Result<(), StateError> {
            let mut shown = showing.share.dir().shown()?;
            shown.iter_mut().filter(|shown| shown.dir == showing.dir).for_each(|shown| shown.active = false);
            showing.share.dir().write_shown(&shown)
        };
        if let Err(error) = deactivate() {
            tracing::error!(dir = %showing.dir.display(), %error, "cannot remember that it is no longer shown");
        }
    }

    /// A showing of the share caught up with the view, or fell behind, or ended.
    pub(crate) fn showing_progressed(&self, share: &ShareId) {
        // One at a time: an older look must not overwrite a newer one.
        let looking = self.looking.lock();
        let resuming = self.resuming.lock().iter().any(|(of, _)| of == share);
        let behind = resuming || self.showings_of(share).iter().any(|showing| showing.behind());
        if let Some(share) = self.share(share) {
            share.take_stock_again();
            share.set_behind(behind);
        }
        drop(looking);
        self.progressed_now();
    }

    /// Finds out anew whether all content of a share is to be fetched, or a folder fetches for itself.
    pub(crate) fn rethink_keeping(&self, share: &Share) {
        let showings = self.showings_of(&share.id());
        let mut mounts = showings.iter().filter(|showing| showing.mode == Mode::Mount && showing.is_alive()).peekable();
        let mounted = mounts.peek().is_some();
        let partial = mounted && mounts.all(|mount| mount.options.on_demand);
        // The largest; one without a limit has it that way.
        let limit = |showing: &Arc<Showing>| showing.options.cache.unwrap_or(crate::cache::UNLIMITED);
        let cache = showings.iter().filter(|showing| showing.is_alive()).map(limit).max();
        share.set_keeping(mounted && !partial, partial, cache);
    }

    /// What is to be done every few seconds.
    pub(crate) fn chores(self: &Arc<Self>) {
        self.notice_ends();
        self.space.keep_spare();
        for share in self.shares() {
            self.showing_progressed(&share.id());
            share.chores();
            // What a link lost on its way is no news of anybody's: it is asked for again.
            if !self.connected(&share.id()).is_empty() {
                share.retry_fetches();
            }
            share.retry_what_fits();
            share.retry_flush();
        }
        self.retry_failed();
        self.collect_now_and_then();
    }

    fn collect_now_and_then(self: &Arc<Self>) {
        let removals = self.removals();
        let mut collecting = self.collecting.lock();
        let full = collecting.may_free(removals)
            && (self.space.is_low()
                || self.store.last_full().is_some_and(|when| when.elapsed() < STAYS_FULL)
                || self.shares().iter().any(|share| share.lacks_room())
                || self.could_free_more_than_is_free());
        let caches = self.shares().iter().any(|share| share.may_exceed());
        let Some(why) = collecting.due(full, removals).or_else(|| collecting.for_caches(caches)) else { return };
        let core = self.clone();
        let collect = move || {
            if let Err(error) = core.collect_for(why) {
                tracing::warn!(%error, "not collected");
            }
        };
        match std::thread::Builder::new().name("crdtfs-collect".into()).spawn(collect) {
            Ok(thread) => collecting.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a thread to collect what no version needs"),
        }
    }

    /// Counts what was removed from the views or replaced in them.
    pub(crate) fn removals(&self) -> u64 {
        self.shares().iter().map(|share| share.removals()).sum()
    }

    /// Whether what the trees do not need takes more room than is left.
    fn could_free_more_than_is_free(&self) -> bool {
        let free = self.space.free();
        // What the store takes is found by a walk over its files: not every few seconds on a disk that has room.
        self.space.taken() > free && self.spare() > free
    }

    /// About how many bytes of the store are of no file in the trees. What folders hold is not in the store.
    fn spare(&self) -> u64 {
        let mounted = |share: &Arc<Share>| self.showings_of(&share.id()).iter().any(|s| s.mode == Mode::Mount);
        let shown = self.shares().into_iter().filter(mounted);
        let needed: u64 = shown.map(|share| share.read(|replica| replica.view().totals().0)).sum();
        self.store.chunk_bytes().saturating_sub(needed)
    }

    /// Ends everything: showings first, then commits, the network, fetches; what is here is durable at the end.
    pub(crate) fn close(&self, deadline: Instant) -> LastWords {
        self.stop.send_replace(true);
        let mut words = LastWords::default();
        let showings = std::mem::take(&mut *self.showings.lock());
        // What is not done by then is kept for the next start; all that follows takes time, too.
        let flushed = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        for showing in &showings {
            showing.settle(flushed);
        }
        for showing in showings {
            match showing.leave() {
                Ok(None) => {}
                Ok(Some(note)) => words.notes.push(note),
                Err(error) => words.failures.push(error.to_string()),
            }
        }
        for share in self.shares() {
            share.stop_settling();
        }
        self.committer.stop();
        for share in self.shares() {
            share.commit_all();
        }
        let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
        if let Some(node) = self.node.get() {
            let ended = self.runtime.block_on(async { tokio::time::timeout(rest, node.shutdown()).await });
            if ended.is_err() {
                tracing::warn!("the network did not end in time");
            }
        }
        let collector = self.collecting.lock().thread.take();
        if let Some(thread) = collector
            && thread.join().is_err()
        {
            tracing::error!("the collector's thread panicked");
        }
        for fetcher in std::mem::take(&mut *self.fetchers.lock()) {
            fetcher.stop();
        }
        for share in self.shares() {
            if let Err(error) = share.close() {
                tracing::error!(share = %share.id(), %error, "not everything could be made durable");
                words.failures.push(error.to_string());
            }
        }
        self.closed.send_replace(true);
        words
    }
}

/// Where to listen: on the port of the last time, at which other devices look for this one first.
fn remembered_bind(state: &Path) -> Option<SocketAddr> {
    let port: u16 = fs::read_to_string(state.join(PORT_FILE)).ok()?.trim().parse().ok()?;
    Some((Ipv4Addr::UNSPECIFIED, port).into())
}

/// Keeps the port for the next start. Without it this device has to be found anew, which takes longer.
fn remember_port(state: &Path, bound: &[SocketAddr]) {
    let Some(socket) = bound.iter().find(|socket| socket.is_ipv4()) else { return };
    if remembered_bind(state).is_some_and(|kept| kept.port() == socket.port()) {
        return;
    }
    if let Err(error) = write_atomically(&state.join(PORT_FILE), format!("{}\n", socket.port()).as_bytes()) {
        tracing::warn!(%error, "the port is not remembered");
    }
}

/// How long a process that was killed may take to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Opens the state directory. If the engine before was killed and cannot end, for what it shows holds it up, that is let
/// go of by force.
fn take_over(config: &EngineConfig, presenters: &[Arc<dyn Presenter>]) -> Result<StateDir, StateError> {
    let deadline = Instant::now() + LAST_BREATH;
    let mut forced = false;
    loop {
        let (path, pid) = match StateDir::open(&config.state_dir) {
            Err(StateError::InUse(path, Some(pid))) if is_dead(pid) && Instant::now() < deadline => (path, pid),
            outcome => return outcome,
        };
        if !std::mem::replace(&mut forced, true) {
            tracing::info!(pid, "the engine before was killed and has not ended yet");
            for (_, share) in ShareDir::list(&path.join("shares")).unwrap_or_default() {
                for shown in share.shown().unwrap_or_default().into_iter().filter(|shown| shown.active) {
                    let fitting = presenters.iter().filter(|presenter| presenter.mode() == shown.mode);
                    fitting.for_each(|presenter| presenter.abandon(&shown.dir));
                }
            }
        }
        await_end(pid, deadline);
    }
}

/// Waits until all threads of a process have ended (pidfd_open(2)), or for a deadline.
fn await_end(pid: u32, deadline: Instant) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // That there is no such process any more is what was waited for.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let rest = deadline.saturating_duration_since(Instant::now());
    let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
    // A signal ends it early: then it is looked at again.
    let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&rest));
}

/// Whether a process was killed, though some of its threads may not have ended (proc_pid_stat(5)).
fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// What shares tell the engine, as long as it lives.
struct CoreEvents {
    core: Weak<Core>,
}

impl Events for CoreEvents {
    fn uncommitted(&self, share: &Share) {
        if let Some(core) = self.core.upgrade() {
            core.committer.wake(share.id());
        }
    }

    fn changed(&self, share: &Share) {
        if let Some(core) = self.core.upgrade() {
            if let Some(node) = core.node.get() {
                node.share_changed(share.id());
            }
            core.progressed_now();
        }
    }

    fn progressed(&self) {
        if let Some(core) = self.core.upgrade() {
            core.progressed_now();
        }
    }

    fn make_room(&self) -> bool {
        self.core.upgrade().is_some_and(|core| core.make_room())
    }

    fn settle(&self, share: &Share, deadline: Instant) -> bool {
        let Some(core) = self.core.upgrade() else { return false };
        core.share(&share.id()).is_some_and(|share| core.settle_for_others(share, deadline))
    }

    fn later(&self, share: &Share, when: Instant) {
        if let Some(core) = self.core.upgrade() {
            core.committer.wake_at(share.id(), when);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crdtfs_core::id::{InodeId, PlaceId};
    use crdtfs_core::node::Kind;
    use crdtfs_core::op::{NewNode, Op};
    use crdtfs_core::port::Tree;
    use crdtfs_core::sync::Settling;

    use super::*;
    use crate::engine::Engine;

    fn start(state_dir: &Path) -> Engine {
        Engine::start(EngineConfig::for_tests(state_dir.to_owned()), Vec::new()).unwrap()
    }

    /// What other devices' probes ask for: all is committed by a thread that is there only meanwhile.
    #[test]
    fn a_share_settles_for_others_as_often_as_they_ask_and_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let core = Core::open(EngineConfig::for_tests(dir.path().join("state")), Vec::new(), &runtime).unwrap();
        let share = core.create_share(None).unwrap();
        let mut progress = core.progress();
        for round in 1..=3_u8 {
            // A name that is held back: nothing but the settling commits it now.
            let name = format!("{round}.tmp").as_str().try_into().unwrap();
            let (inode, place) = (InodeId([round; 16]), PlaceId([round; 16]));
            let node = NewNode::new(Kind::File, 0o644);
            share
                .apply(share.new_adapter(), Op::Create { dir: InodeId::ROOT, name, inode, place, node, beside: None })
                .unwrap();
            let before = share.vector();
            let number = share.begin_settling();
            runtime.block_on(async {
                while share.settling(number) == Settling::Busy {
                    progress.changed().await.unwrap();
                }
            });
            assert_eq!((share.settling(number), share.vector() == before), (Settling::Done, false), "round {round}");
        }
        assert_eq!(core.close(Instant::now() + Duration::from_secs(10)), LastWords::default());
        let late = share.begin_settling();
        assert_eq!(share.settling(late), Settling::Busy, "nothing is begun at the end");
    }

    #[test]
    fn a_share_is_behind_until_what_showed_it_is_shown_again() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let open = || Core::open(EngineConfig::for_tests(dir.path().join("state")), Vec::new(), &runtime).unwrap();
        let close =
            |core: &Core| assert_eq!(core.close(Instant::now() + Duration::from_secs(10)), LastWords::default());
        let core = open();
        let share = core.create_share(None).unwrap();
        assert_eq!(share.holding().missing_files, 0);
        let shown = crate::registry::ShownDir {
            mode: Mode::Watch,
            dir: dir.path().join("folder"),
            options: crate::present::PresentOptions::default(),
            active: true,
            state: "0".to_owned(),
        };
        share.dir().write_shown(&[shown]).unwrap();
        close(&core);
        let id = share.id();
        drop((core, share));
        let core = open();
        let share = core.share(&id).unwrap();
        // As a `wait` does it, before the threads that resume got anywhere.
        assert!(core.settle(std::slice::from_ref(&share), Instant::now()));
        assert_eq!(share.holding().missing_files, 1, "the folder was not looked at yet");
        core.resume_all();
        let mut progress = core.progress();
        // Nothing here can show it: what it shows is not what the share has, until nobody wants it shown any more.
        runtime.block_on(async {
            while core.showings_of(&id).iter().all(|showing| showing.is_alive()) {
                progress.changed().await.unwrap();
            }
            core.resumed(None).await;
            assert_eq!(share.holding().missing_files, 1, "it is refused");
            let hide = crdtfs_control::request::Hide { dir: crdtfs_control::DirText::from(&dir.path().join("folder")) };
            core.hide(hide).await.unwrap();
            assert_eq!(share.holding().missing_files, 0);
        });
        close(&core);
    }

    fn port(state_dir: &Path) -> u16 {
        fs::read_to_string(state_dir.join(PORT_FILE)).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn an_engine_listens_where_it_did_unless_somebody_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        start(&state).shutdown(Duration::from_secs(10));
        let first = port(&state);
        let again = start(&state);
        assert_eq!(port(&state), first);
        std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first)).unwrap_err();
        again.shutdown(Duration::from_secs(10));
        let taken = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first)).unwrap();
        start(&state).shutdown(Duration::from_secs(10));
        assert_ne!(port(&state), first, "the new one is the one to be found at");
        drop(taken);
        fs::write(state.join(PORT_FILE), "nonsense").unwrap();
        start(&state).shutdown(Duration::from_secs(10));
        assert_ne!(port(&state), 0);
    }
}
