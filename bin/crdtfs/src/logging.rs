//! Log lines, on stderr: of a command what `-v` asks for, of an engine at least what happens.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::cli::LogFormat;
use crate::settings::Settings;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A command: silent but for warnings.
    Command,
    /// An engine in the background: its log tells what happens.
    Engine,
}

/// Starts logging. `RUST_LOG` overrules the number of `-v`.
pub(crate) fn start(settings: &Settings, voice: Voice) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(settings.verbose, voice)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(SystemTime)
        // It would say so on the same stderr, with a macro that panics where that fails: the log's disk may be full.
        .log_internal_errors(false)
        .with_ansi(crate::output::Output::new().bars());
    let started = match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Fails only where logging has been started already, which then goes on.
    drop(started);
}

/// Our own crates at the level asked for, the network's a step quieter: they tell a lot. Discovery says with each try that a
/// network cannot be reached, every second or so, for as long as there is none.
fn directives(verbose: u8, voice: Voice) -> &'static str {
    match (verbose, voice) {
        (0, Voice::Command) => "error,crdtfs=warn",
        (0, Voice::Engine) | (1, _) => "warn,swarm_discovery=error,iroh::address_lookup=error,crdtfs=info",
        (2, _) => "info,crdtfs=debug",
        _ => "debug,crdtfs=trace",
    }
}
