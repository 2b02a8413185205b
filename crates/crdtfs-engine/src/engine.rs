//! The engine: opens a state directory, runs its shares, answers the control socket, and ends in order.
//!
//! Tasks and their owners: the engine's runtime (network, control socket) and its threads (the committer, one fetcher a
//! share, each adapter's own) end with [`Engine::shutdown`], in the order adapters, committer, fetchers, network, store.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_control::request::Show;
use crdtfs_control::{Listener, ServeError, Service};
use crdtfs_net::{NetError, Network};
use crdtfs_store::StoreError;
use thiserror::Error;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::core::Core;
use crate::present::Presenter;
use crate::retention::HistoryOptions;
use crate::service::EngineService;
use crate::share::ShareError;
use crate::state::StateError;

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The state directory; made if it is not there.
    pub state_dir: PathBuf,
    /// How far traffic may go.
    pub network: Network,
    /// Relays of the user's own.
    pub relays: Vec<String>,
    /// This device's name, as the user has it.
    pub name: String,
    /// Version of the program, for `status`.
    pub version: String,
    /// What becomes of old versions.
    pub history: HistoryOptions,
    /// The request that it is started for, and that will come over the socket: if its directory was shown before in this way,
    /// it is shown again with the options that this one names.
    pub first: Option<Show>,
}

#[cfg(test)]
impl EngineConfig {
    /// A device called `a` that keeps to this machine.
    pub(crate) fn for_tests(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            network: Network::Local,
            relays: Vec::new(),
            name: "a".to_owned(),
            version: "test".to_owned(),
            history: HistoryOptions::default(),
            first: None,
        }
    }
}

/// Why an engine cannot run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The chunk store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The control socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A share.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The system refuses threads.
    #[error("cannot start the engine's threads: {0}")]
    Threads(std::io::Error),
}

/// What an engine that ends has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    /// What the user may want to know, though everything is safe: whole sentences.
    pub notes: Vec<String>,
    /// What could not be made durable, or is still there.
    pub failures: Vec<String>,
}

/// A running engine. Dropping it without [`Engine::shutdown`] is like a crash: nothing durable is lost.
pub struct Engine {
    core: Arc<Core>,
    runtime: Runtime,
    server: JoinHandle<()>,
    end_server: watch::Sender<bool>,
}

impl Engine {
    /// Opens the state directory, starts the network and the control socket, and shows again what was shown.
    pub fn start(config: EngineConfig, presenters: Vec<Arc<dyn Presenter>>) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("crdtfs-net")
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        let core = Core::open(config, presenters, &runtime)?;
        let listener = {
            let _guard = runtime.enter();
            Listener::bind(core.state().path())?
        };
        let (end_server, ended) = watch::channel(false);
        let service: Arc<dyn Service> = Arc::new(EngineService(core.clone()));
        let server = runtime.spawn(async move {
            let mut ended = ended;
            let stop = async move {
                // An error means that the engine was dropped: the same.
                drop(ended.wait_for(|end| *end).await);
            };
            listener.serve(service, stop).await;
        });
        core.resume_all();
        Ok(Self { core, runtime, server, end_server })
    }

    /// Answers requests as the control socket does; calls must be made on [`Engine::handle`]'s runtime.
    pub fn service(&self) -> Arc<dyn Service> {
        Arc::new(EngineService(self.core.clone()))
    }

    /// The engine's runtime.
    pub fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Done when a stop request came ([`crdtfs_control::request::Stop`]), on any runtime.
    pub fn stop_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.core.stop();
        async move {
            // An error means that the engine is gone: the same.
            drop(stop.wait_for(|stop| *stop).await);
        }
    }

    /// Hides everything that is shown, flushes, ends the network, within `limit`. What is busy is let go of once everything
    /// in it is safe.
    pub fn shutdown(self, limit: Duration) -> LastWords {
        let deadline = Instant::now() + limit;
        let words = self.core.close(deadline);
        self.end_server.send_replace(true);
        let server = self.server;
        self.runtime.block_on(async move {
            let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
            // Too slow or failed: the process ends all the same.
            drop(tokio::time::timeout(rest, server).await);
        });
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        words
    }
}
