//! `crdtfs unmount`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::DirText;
use crdtfs_control::request::Hide;

use super::App;
use crate::failure::DONE;
use crate::output::{plain, say};
use crate::paths;
use crate::progress::Bar;

/// Show a share no more, mounted or watched.
///
/// Everything written so far is kept and, once devices meet, synced. A mount's directory is empty afterwards; a watched
/// folder keeps its files. `mount DIR` or `watch DIR` shows the same share again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crdtfs unmount ~/Shared")]
pub(crate) struct Args {
    /// The directory that shows it
    dir: PathBuf,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let dir = DirText::from(&paths::resolve(&args.dir)?);
    let mut bar = Bar::new(app.out.bars(), "flushing what was written");
    let hidden = app.client()?.call(Hide { dir })?;
    bar.clear();
    match app.settings.json {
        true => app.out.json(&hidden)?,
        false => say(&format!("{} shows its share no more", plain(hidden.dir.as_str()))),
    }
    Ok(DONE)
}
