//! `crdtfs start`.

use anyhow::Result;
use crdtfs_control::request::Ping;

use super::App;
use crate::background;
use crate::failure::DONE;
use crate::output::say;
use crate::progress::Bar;

/// Start the engine in the background, if none runs.
///
/// It shows again what was shown when it ended. `mount` and `watch` start it by themselves.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs start        at login, for instance")]
pub(crate) struct Args {}

pub(crate) fn run(app: &mut App, _: &Args) -> Result<u8> {
    let mut bar = Bar::new(app.out.bars(), "starting the engine");
    let (mut engine, new) = background::connect_or_start(&app.settings, None)?;
    // A new one has shown everything again; one that runs may be about to.
    let pong = if new { engine.pong } else { engine.client.call(Ping { shown: true })? };
    bar.clear();
    if app.settings.json {
        app.out.json(&pong)?;
    } else if new {
        say(&format!("the engine runs (process {})", pong.pid));
    } else {
        say(&format!("the engine runs already (process {})", pong.pid));
    }
    Ok(DONE)
}
