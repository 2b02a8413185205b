//! A bar on stderr for what takes longer than a second.

use std::time::{Duration, Instant};

use crdtfs_control::reply::{Progress, Unit};
use indicatif::{ProgressBar, ProgressStyle};

/// What is quicker than this needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Draws what an engine says of its progress, where stderr is a terminal.
#[derive(Debug)]
pub(crate) struct Bar {
    since: Instant,
    wanted: bool,
    drawn: Option<ProgressBar>,
}

impl Bar {
    /// `wanted`: whether stderr can show bars.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { since: Instant::now(), wanted, drawn: None }
    }

    /// Takes the latest.
    pub(crate) fn update(&mut self, progress: &Progress) {
        if !self.wanted || self.since.elapsed() < PATIENCE {
            return;
        }
        let bar = self.drawn.get_or_insert_with(|| ProgressBar::new(0));
        bar.set_style(style(progress.unit, progress.total.is_some()));
        bar.set_message(crate::output::plain(&progress.what));
        match progress.total {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        bar.set_position(progress.done);
    }

    /// Takes the bar away, before something else is printed.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.drawn.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(unit: Unit, known: bool) -> ProgressStyle {
    let template = match (unit, known) {
        (Unit::Bytes, true) => "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        (Unit::Bytes, false) => "{spinner} {msg} {binary_bytes}, {binary_bytes_per_sec}",
        (Unit::Items, true) => "{msg} {wide_bar} {human_pos} of {human_len}",
        (Unit::Items, false) => "{spinner} {msg} {human_pos}",
    };
    ProgressStyle::with_template(template).expect("a template of this file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_sound() {
        for unit in [Unit::Bytes, Unit::Items] {
            for known in [true, false] {
                drop(style(unit, known));
            }
        }
    }

    #[test]
    fn nothing_is_drawn_early_or_unwanted() {
        let progress = Progress { what: "fetching".to_owned(), done: 1, total: Some(2), unit: Unit::Items };
        let mut early = Bar::new(true);
        early.update(&progress);
        assert!(early.drawn.is_none());
        let mut unwanted = Bar { since: Instant::now() - 2 * PATIENCE, wanted: false, drawn: None };
        unwanted.update(&progress);
        assert!(unwanted.drawn.is_none());
        let mut late = Bar { since: Instant::now() - 2 * PATIENCE, wanted: true, drawn: None };
        late.update(&progress);
        assert_eq!(late.drawn.as_ref().map(|bar| (bar.position(), bar.length())), Some((1, Some(2))));
    }
}
