//! An engine in this process.
//!
//! The engine is synchronous and brings its own threads; here its start and its end are kept off the async tasks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use crdtfs_control::request::Show;
use crdtfs_engine::present::Presenter;
use crdtfs_engine::{Engine, EngineConfig, HistoryOptions};
use crdtfs_folder::FolderPresenter;
use crdtfs_mount::MountPresenter;
use tokio::task::spawn_blocking;

use crate::cli::Network;
use crate::output::say;
use crate::settings::Settings;

/// A running engine, its control socket included. To be ended with [`Host::shutdown`].
pub(crate) struct Host {
    engine: Engine,
    stop_requested: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Host {
    /// Starts the engine of the state directory, for a request that will come first if there is one; returns when its socket
    /// answers.
    pub(crate) async fn start(settings: &Settings, first: Option<Show>) -> Result<Self> {
        let config = EngineConfig {
            state_dir: settings.state_dir.clone(),
            network: match settings.network {
                Network::Local => crdtfs_engine::Network::Local,
                Network::Internet => crdtfs_engine::Network::Internet,
            },
            relays: settings.relays.clone(),
            name: settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            history: HistoryOptions {
                retention: settings.retention,
                keep_local: settings.keep_local_history,
                ..HistoryOptions::default()
            },
            first,
        };
        let presenters: Vec<Arc<dyn Presenter>> = vec![Arc::new(MountPresenter::new()), Arc::new(FolderPresenter)];
        let engine = spawn_blocking(move || Engine::start(config, presenters)).await??;
        let stop_requested = Box::pin(engine.stop_requested());
        Ok(Self { engine, stop_requested })
    }

    /// Returns when a client has asked the engine to stop.
    pub(crate) async fn stopped(&mut self) {
        self.stop_requested.as_mut().await;
    }

    /// Flushes and hides everything, answers those who wait for that, and ends the engine; says what was still in use.
    pub(crate) async fn shutdown(self, within: Duration) -> Result<()> {
        drop(self.stop_requested);
        let engine = self.engine;
        let words = spawn_blocking(move || engine.shutdown(within)).await?;
        words.notes.iter().for_each(|note| say(note));
        match words.failures.is_empty() {
            true => Ok(()),
            false => bail!("{}", words.failures.join("; ")),
        }
    }
}
