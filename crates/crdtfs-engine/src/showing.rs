//! One directory that shows a share, while it does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::present::{Mode, PresentError, PresentOptions, Presented, Problem};
use crate::share::Share;

/// Where a showing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Being set up.
    Starting,
    /// Can be used.
    Ready,
    /// Over; the reason, if nobody asked for it.
    Ended(Option<String>),
    /// Could not be shown.
    Failed(String),
}

/// A share at a directory.
pub(crate) struct Showing {
    pub(crate) share: Arc<Share>,
    pub(crate) dir: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) options: PresentOptions,
    presented: Mutex<Option<Arc<dyn Presented>>>,
    state: watch::Sender<State>,
}

impl Showing {
    pub(crate) fn new(share: Arc<Share>, dir: PathBuf, mode: Mode, options: PresentOptions) -> Arc<Self> {
        let (state, _) = watch::channel(State::Starting);
        Arc::new(Self { share, dir, mode, options, presented: Mutex::new(None), state })
    }

    /// It can be used from now on.
    pub(crate) fn ready(&self, presented: Box<dyn Presented>) {
        *self.presented.lock() = Some(Arc::from(presented));
        self.state.send_replace(State::Ready);
    }

    /// It could not be shown, for the first time or again.
    pub(crate) fn failed(&self, why: String) {
        let ended = matches!(self.state(), State::Ended(Some(_)));
        self.state.send_replace(if ended { State::Ended(Some(why)) } else { State::Failed(why) });
    }

    /// Whether it is to be tried again: what could not be shown may be so now; of what ended by itself only the very same
    /// counts, for something else may lie there.
    pub(crate) fn may_be_shown(&self) -> bool {
        match self.state() {
            State::Failed(_) => true,
            State::Ended(Some(_)) => self.presented().is_some_and(|presented| presented.is_back()),
            State::Starting | State::Ready | State::Ended(None) => false,
        }
    }

    /// Whether it is not shown, though somebody wants it.
    pub(crate) fn is_wanted(&self) -> bool {
        matches!(self.state(), State::Failed(_) | State::Ended(Some(_)))
    }

    /// See [`Presented::look`].
    pub(crate) fn look(&self) {
        if let Some(presented) = self.presented().filter(|_| self.is_alive()) {
            presented.look();
        }
    }

    /// See [`Presented::misplaced`].
    pub(crate) fn misplaced(&self) -> Option<String> {
        self.presented().filter(|_| self.is_alive())?.misplaced()
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows the state.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether this directory is, or is about to be, shown.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.state(), State::Starting | State::Ready)
    }

    /// The adapter's side, while it can be used.
    pub(crate) fn presented(&self) -> Option<Arc<dyn Presented>> {
        self.presented.lock().clone()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let alive = self.presented().filter(|_| self.is_alive());
        let mut problems = alive.map(|presented| presented.problems()).unwrap_or_default();
        let why = match self.state() {
            State::Failed(why) => Some(format!("{why} (it is tried again every few seconds)")),
            State::Ended(why) => why,
            State::Starting | State::Ready => None,
        };
        problems.extend(why.map(|message| Problem { path: String::new(), message }));
        problems
    }

    /// Whether something in the view is not shown yet. Of what cannot be shown, though somebody wants it, nothing is; nor is it
    /// known what was done there.
    pub(crate) fn behind(&self) -> bool {
        match self.state() {
            State::Ready => self.presented().is_some_and(|presented| presented.behind()),
            State::Starting | State::Failed(_) | State::Ended(Some(_)) => true,
            State::Ended(None) => false,
        }
    }

    /// See [`Presented::settle`]; a showing that is not alive is settled.
    pub(crate) fn settle(&self, deadline: Instant) -> bool {
        match self.presented() {
            Some(presented) if self.is_alive() => presented.settle(deadline),
            _ => true,
        }
    }

    /// See [`Presented::is_seen`].
    pub(crate) fn is_seen(&self, deadline: Instant) -> bool {
        match self.presented() {
            Some(presented) if self.is_alive() => presented.is_seen(deadline),
            _ => true,
        }
    }

    /// Ends it on request.
    pub(crate) fn stop(&self) -> Result<(), PresentError> {
        self.end(|presented| presented.stop())
    }

    /// Ends it with the engine: [`Presented::leave`].
    pub(crate) fn leave(&self) -> Result<Option<String>, PresentError> {
        self.end(|presented| presented.leave())
    }

    fn end<T: Default>(&self, end: impl FnOnce(&dyn Presented) -> Result<T, PresentError>) -> Result<T, PresentError> {
        let presented = self.presented();
        let mut said = T::default();
        if let Some(presented) = presented {
            said = end(&*presented)?;
            *self.presented.lock() = None;
        }
        self.state.send_replace(State::Ended(None));
        Ok(said)
    }

    /// Notices that it ended by itself (unmounted by hand); true if it did so since the last look.
    pub(crate) fn notice_end(&self) -> bool {
        if self.state() != State::Ready {
            return false;
        }
        let Some(presented) = self.presented() else { return false };
        let Some(why) = presented.ended() else { return false };
        // The adapter's threads are gone or going: this only waits for them. It is kept to be asked whether it is back.
        if let Err(error) = presented.stop() {
            tracing::warn!(dir = %self.dir.display(), %error, "a showing that ended left something behind");
        }
        self.state.send_replace(State::Ended(Some(why)));
        true
    }

    /// Whether `path` lies in this directory (or is it).
    pub(crate) fn contains(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }
}
