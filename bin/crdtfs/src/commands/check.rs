//! `crdtfs check`.

use std::path::PathBuf;

use anyhow::Result;
use crdtfs_control::reply::{Checked, Finding};
use crdtfs_control::request::Check;
use crdtfs_control::{DirText, Item};
use serde::Serialize;

use super::App;
use crate::failure::{DONE, FAILED};
use crate::output::{Tone, plain, say};
use crate::progress::Bar;
use crate::{paths, quantity};

/// Verify every stored byte and reference.
///
/// Reads all chunks against their hashes, all changes against their signatures, and looks for references to what is not
/// there. Exit 1 with a line for each thing that is wrong and was not mended; records that need a newer crdtfs are told, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  crdtfs check\n  crdtfs check ~/Shared --repair")]
pub(crate) struct Args {
    /// The directory that shows the share, or any path in it; without it: all shares
    dir: Option<PathBuf>,
    /// Mend what can be mended: rebuild indexes, fetch damaged content again
    #[arg(long)]
    repair: bool,
}

/// A check for scripts.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    checked: Checked,
    details: Vec<Finding>,
}

pub(crate) fn run(app: &mut App, args: &Args) -> Result<u8> {
    let dir = args.dir.as_deref().map(paths::resolve).transpose()?;
    let request = Check { dir: dir.as_ref().map(DirText::from), repair: args.repair };
    let mut bar = Bar::new(app.out.bars(), "checking");
    let mut findings = Vec::new();
    let checked = app.client()?.call_with(request, |item| {
        match item {
            Item::Progress(progress) => bar.update(&progress),
            Item::Finding(finding) => findings.push(finding),
            _ => {}
        }
        Ok(())
    })?;
    bar.clear();
    let code = if checked.findings > checked.repaired { FAILED } else { DONE };
    if app.settings.json {
        app.out.json(&Report { checked, details: findings })?;
        return Ok(code);
    }
    for finding in &findings {
        let (tone, word) = if finding.repaired { (Tone::Good, "mended") } else { (Tone::Bad, "wrong") };
        let line = format!("{}: {}", app.out.tone(tone, word), plain(&finding.message));
        app.out.line(&line)?;
    }
    app.out.flush()?;
    say(&summary(&checked));
    Ok(code)
}

fn summary(checked: &Checked) -> String {
    let looked = format!(
        "{} in {}, {}, {}",
        quantity::counted(checked.chunks, "chunk"),
        quantity::size(checked.bytes),
        quantity::counted(checked.changes, "change"),
        quantity::counted(checked.shares, "share"),
    );
    match (checked.findings, checked.repaired) {
        (0, _) => format!("all is well: {looked}"),
        (found, mended) if found == mended => format!("{found} found and mended: {looked}"),
        (found, mended) => format!("{} wrong, {mended} mended: {looked}", found - mended),
    }
}
