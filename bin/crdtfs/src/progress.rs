//! A bar on stderr for what takes longer than a second.
//!
//! A thread of its own draws it: also what cannot tell how far it is shows after a second that it goes on, and what it is.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdtfs_control::reply::{Progress, Unit};
use indicatif::{ProgressBar, ProgressStyle};

/// What is quicker than this needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two steps of a spinner.
const STEP: Duration = Duration::from_millis(100);

/// Draws how far something is, where stderr is a terminal. Gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    progress: Option<Sender<Progress>>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// `wanted`: whether stderr can show bars; `what` is being done, until [`Bar::update`] says otherwise.
    pub(crate) fn new(wanted: bool, what: &str) -> Self {
        let (sender, receiver) = mpsc::channel();
        let first = Progress { what: what.to_owned(), done: 0, total: None, unit: Unit::Items };
        let draw = move || draw(first, &receiver, ProgressBar::new(0));
        // Without a thread there is no bar.
        let thread = wanted.then(|| std::thread::Builder::new().name("bar".into()).spawn(draw).ok()).flatten();
        Self { progress: thread.is_some().then_some(sender), thread }
    }

    /// Takes the latest.
    pub(crate) fn update(&mut self, progress: &Progress) {
        if let Some(sender) = &self.progress {
            // The thread lives as long as the sender.
            drop(sender.send(progress.clone()));
        }
    }

    /// Takes the bar away, before something else is printed.
    pub(crate) fn clear(&mut self) {
        self.progress = None;
        if let Some(thread) = self.thread.take() {
            // A bar that panicked is no bar.
            drop(thread.join());
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Draws until nothing more can come.
fn draw(mut latest: Progress, progress: &mpsc::Receiver<Progress>, bar: ProgressBar) {
    let begin = Instant::now() + PATIENCE;
    let mut shown = false;
    loop {
        let wait = if shown { STEP } else { begin.saturating_duration_since(Instant::now()) };
        match progress.recv_timeout(wait) {
            Ok(newer) => latest = newer,
            Err(RecvTimeoutError::Timeout) => shown = true,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown {
            show(&bar, &latest);
        }
    }
    bar.finish_and_clear();
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_style(style(progress.unit, progress.total.is_some(), progress.done > 0));
    bar.set_message(crate::output::plain(&progress.what));
    match progress.total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_position(progress.done);
    bar.tick();
}

fn style(unit: Unit, known: bool, counted: bool) -> ProgressStyle {
    let template = match (unit, known) {
        (Unit::Bytes, true) => "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        (Unit::Items, true) => "{msg} {wide_bar} {human_pos} of {human_len}",
        (_, false) if !counted => "{spinner} {msg}",
        (Unit::Bytes, false) => "{spinner} {msg} {binary_bytes}, {binary_bytes_per_sec}",
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
            for (known, counted) in [(true, true), (false, true), (false, false)] {
                drop(style(unit, known, counted));
            }
        }
    }

    #[test]
    fn what_came_last_is_shown() {
        let bar = ProgressBar::hidden();
        show(&bar, &Progress { what: "fetching".to_owned(), done: 1, total: Some(2), unit: Unit::Items });
        assert_eq!((bar.position(), bar.length(), bar.message()), (1, Some(2), "fetching".to_owned()));
        show(&bar, &Progress { what: "scanning".to_owned(), done: 3, total: None, unit: Unit::Bytes });
        assert_eq!((bar.position(), bar.length(), bar.message()), (3, None, "scanning".to_owned()));
    }

    #[test]
    fn a_bar_that_is_not_wanted_has_no_thread_and_one_that_is_ends_at_once() {
        let progress = Progress { what: "fetching".to_owned(), done: 1, total: None, unit: Unit::Items };
        let mut unwanted = Bar::new(false, "x");
        unwanted.update(&progress);
        assert!(unwanted.thread.is_none());
        let mut wanted = Bar::new(true, "x");
        wanted.update(&progress);
        wanted.clear();
        assert!(wanted.thread.is_none() && wanted.progress.is_none());
    }
}
