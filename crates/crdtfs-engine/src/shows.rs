//! Showing and hiding shares: what `mount`, `watch` and `unmount` ask for.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crdtfs_control::request::{self, Hide, Show};
use crdtfs_control::{DirText, Failure, FailureKind, Item, Reply, Talk, reply};
use crdtfs_core::id::ShareId;

use crate::convert;
use crate::core::Core;
use crate::invites::Use;
use crate::present::{Mode, PresentError, PresentOptions, Presenter, SharePorts};
use crate::registry::ShownDir;
use crate::share::Share;
use crate::showing::{Showing, State};

/// A directory that is known, and the path below it.
pub(crate) struct Found {
    pub(crate) share: Arc<Share>,
    pub(crate) shown: ShownDir,
    /// The path's components below the directory.
    pub(crate) below: PathBuf,
}

impl Core {
    /// Shows a share at a directory.
    pub(crate) async fn show(self: &Arc<Self>, asked: Show, talk: &mut Talk) -> Result<Reply, Failure> {
        let attach = asked.attach;
        let dir = blocking({
            let dir = asked.dir.to_path();
            move || resolve(&dir)
        })
        .await?;
        // What the engine before showed here is shown with its options, whoever comes first.
        self.resumed(Some(&dir)).await;
        // Who unmounted or moved it by hand just now need not wait for the next look. Before anything is locked: a filesystem may
        // never answer.
        let (core, at) = (self.clone(), dir.clone());
        let noticed = move || {
            core.alive_at(&at).iter().for_each(|showing| showing.look());
            core.notice_ends();
            Ok(())
        };
        blocking(noticed).await?;
        let (showing, how) = {
            let _one_at_a_time = self.changing.lock().await;
            self.show_now(asked, dir, talk).await?
        };
        let shown = reply::Shown {
            share: showing.share.id().to_string(),
            dir: DirText::from(&showing.dir),
            mode: convert::mode_out(showing.mode),
            how,
            role: convert::role_out(showing.share.role()),
            options: convert::options_out(&showing.options),
        };
        if attach {
            talk.send(Item::Ready(shown.clone())).await?;
            let mut state = showing.watch();
            tokio::select! {
                // The sender lives in the showing, which this task holds.
                _ = state.wait_for(|state| matches!(state, State::Ended(_) | State::Failed(_))) => {}
                () = talk.closed() => {}
            }
            if let State::Ended(Some(why)) | State::Failed(why) = showing.state() {
                return Err(Failure::failed(why));
            }
        }
        Ok(Reply::Shown(shown))
    }

    async fn show_now(
        self: &Arc<Self>,
        asked: Show,
        dir: PathBuf,
        talk: &mut Talk,
    ) -> Result<(Arc<Showing>, reply::How), Failure> {
        let core = self.clone();
        let mode = convert::mode_in(asked.mode);
        let presenter = self.presenter(mode)?;
        if let Some(showing) = self.alive_at(&dir) {
            // A ticket for what is shown here has a message of its own.
            asked.ticket.as_deref().map(|text| self.read_ticket(text)).transpose()?;
            already(&showing, &asked)?;
            let at = showing.clone();
            return match blocking(move || Ok(at.misplaced())).await? {
                Some(why) => Err(Failure::new(FailureKind::Busy, why)),
                None => Ok((showing, reply::How::Already)),
            };
        }
        self.refuse_nested(&dir)?;
        let ticket = asked.ticket.as_deref().map(|text| self.read_ticket(text)).transpose()?;
        let known = if ticket.is_none() { self.known_at(&dir, mode)? } else { None };
        let options = match &known {
            // It cannot be shown at the moment, but is to be.
            Some((_, shown)) if shown.active => options_for(&asked, shown),
            _ => convert::options_in(&asked.options),
        };
        let made = missing_from(&dir);
        let prepared = {
            let (presenter, dir, options, known) = (presenter.clone(), dir.clone(), options.clone(), known.is_some());
            blocking(move || presenter.prepare(&dir, &options, known).map_err(|e| present_failure(&e))).await
        };
        if let Err(failure) = prepared {
            unmake(&made);
            return Err(failure);
        }
        // What prepare made may have another name than what was asked for.
        let dir = blocking(move || resolve(&dir)).await?;
        let shown = ShownDir::new(mode, &dir, &options);
        let (share, how) = match (ticket, known) {
            (Some(Use::Show(share)), _) => (share, reply::How::Resumed),
            (Some(Use::Join(ticket)), _) => {
                let progress =
                    reply::Progress { what: "joining".into(), done: 0, total: None, unit: reply::Unit::Items };
                talk.offer(Item::Progress(progress));
                // A ticket that did not work leaves nothing behind.
                let joined = self.join(&ticket, shown.clone()).await.inspect_err(|_| unmake(&made));
                (joined?, reply::How::Joined)
            }
            (None, Some((share, _))) => (share, reply::How::Resumed),
            (None, None) => {
                let (core, shown) = (core.clone(), shown.clone());
                let created = blocking(move || core.create_share(Some(&shown))).await.inspect_err(|_| unmake(&made));
                (created?, reply::How::Created)
            }
        };
        if mode == Mode::Watch {
            let what = "looking at what lies in the directory".into();
            talk.offer(Item::Progress(reply::Progress { what, done: 0, total: None, unit: reply::Unit::Items }));
        }
        let present = move || {
            let before = if how == reply::How::Resumed { core.to_be_shown(&share, &shown.dir)? } else { None };
            core.present(&presenter, share.clone(), shown, before, true).inspect_err(|_| {
                // A share that was made to be shown here, and cannot be, is nobody's.
                if how == reply::How::Created && core.discard(&share) {
                    unmake(&made);
                }
            })
        };
        Ok((blocking(present).await?, how))
    }

    /// Has the adapter show the share; remembers the directory. On an error it is not shown, and what was to be shown there
    /// `before` is remembered again. `asked`: see [`SharePorts`].
    fn present(
        self: &Arc<Self>,
        presenter: &Arc<dyn Presenter>,
        share: Arc<Share>,
        to_be: ShownDir,
        before: Option<ShownDir>,
        asked: bool,
    ) -> Result<Arc<Showing>, Failure> {
        let ShownDir { mode, dir, options, .. } = to_be.clone();
        // The adapter's threads take it over: what they log is about this share.
        let _span = tracing::info_span!("show", share = %share.id(), dir = %dir.display()).entered();
        let state = share.dir().adapter_dir(&to_be).map_err(|e| Failure::failed(e.to_string()))?;
        // Before it is shown: where it cannot be written down it is refused, not shown and forgotten by the next engine.
        self.remember(&share, to_be.clone())?;
        // What failed or ended here before has a successor now.
        self.showings.lock().retain(|other| other.dir != dir || other.is_alive());
        let showing = Showing::new(share.clone(), dir.clone(), mode, options.clone());
        self.showings.lock().push(showing.clone());
        self.rethink_keeping(&share);
        match presenter.present(self.ports(&share, state, asked), &dir, &options) {
            Ok(presented) => {
                showing.ready(presented);
                share.take_stock_again();
                self.showing_progressed(&share.id());
                Ok(showing)
            }
            Err(error) => {
                let failure = present_failure(&error);
                showing.failed(failure.message.clone());
                // What was to be shown still is, as it was, and is tried again; a failure adds nothing to it.
                if before.is_none() {
                    self.showings.lock().retain(|other| !Arc::ptr_eq(other, &showing));
                }
                let as_before = before.unwrap_or(ShownDir { active: false, ..to_be });
                if let Err(failure) = self.remember(&share, as_before) {
                    tracing::warn!(error = %failure.message, "the next engine will try to show it");
                }
                self.rethink_keeping(&share);
                self.showing_progressed(&share.id());
                Err(failure)
            }
        }
    }

    /// What an adapter gets of a share; `state` is its own directory.
    fn ports(self: &Arc<Self>, share: &Arc<Share>, state: PathBuf, asked: bool) -> SharePorts {
        let (weak, id) = (Arc::downgrade(self), share.id());
        SharePorts {
            share: id,
            adapter: share.new_adapter(),
            tree: share.clone(),
            content: share.ports(),
            device_name: self.config.name.clone(),
            state,
            asked,
            progressed: Arc::new(move || {
                if let Some(core) = weak.upgrade() {
                    core.showing_progressed(&id);
                }
            }),
        }
    }

    /// How the user has a directory show the share, also while it cannot.
    fn to_be_shown(&self, share: &Share, dir: &Path) -> Result<Option<ShownDir>, Failure> {
        let shown = share.dir().shown().map_err(|e| Failure::failed(e.to_string()))?;
        Ok(shown.into_iter().find(|shown| shown.dir == dir && shown.active))
    }

    /// Keeps what is known of a directory of a share. What is known already is not written: a full disk is no reason not to
    /// show it again.
    fn remember(&self, share: &Share, shown: ShownDir) -> Result<(), Failure> {
        let keep = || -> Result<(), crate::state::StateError> {
            let mut all = share.dir().shown()?;
            if all.contains(&shown) {
                return Ok(());
            }
            all.retain(|other| other.dir != shown.dir);
            all.push(shown);
            share.dir().write_shown(&all)
        };
        keep().map_err(|e| Failure::failed(e.to_string()))
    }

    /// Shows a share no more.
    pub(crate) async fn hide(self: &Arc<Self>, asked: Hide) -> Result<Reply, Failure> {
        let _one_at_a_time = self.changing.lock().await;
        let core = self.clone();
        blocking(move || {
            let found = core.find(&asked.dir.to_path())?;
            if !found.below.as_os_str().is_empty() {
                let message = format!("{} shows no share, it lies in {}", asked.dir, found.shown.dir.display());
                return Err(Failure::new(FailureKind::NotFound, message)
                    .with_hint(format!("run `crdtfs unmount {}`", found.shown.dir.display())));
            }
            let showing = core.alive_at(&found.shown.dir);
            if let Some(showing) = showing {
                showing.stop().map_err(|e| present_failure(&e))?;
                core.forget_showing(&showing);
            }
            // What was tried again and again is not any more, and nothing waits that was done there.
            core.showings.lock().retain(|other| other.dir != found.shown.dir);
            found.share.commit_all();
            core.remember(&found.share, ShownDir { active: false, ..found.shown.clone() })?;
            core.showing_progressed(&found.share.id());
            let dir = DirText::from(&found.shown.dir);
            Ok(Reply::Hidden(reply::Hidden { share: found.share.id().to_string(), dir }))
        })
        .await
    }

    /// Takes a showing that ended out of the list.
    pub(crate) fn forget_showing(&self, showing: &Arc<Showing>) {
        self.showings.lock().retain(|other| !Arc::ptr_eq(other, showing));
        self.rethink_keeping(&showing.share);
    }

    /// Returns when what was shown when the engine before ended, at `dir` or anywhere, is shown again, or it is known why it
    /// cannot be.
    pub(crate) async fn resumed(&self, dir: Option<&Path>) {
        let mut progress = self.progress();
        while self.resuming.lock().iter().any(|(_, resuming)| dir.is_none_or(|dir| resuming == dir)) {
            // The sender lives as long as the engine.
            let _ = progress.changed().await;
        }
    }

    /// Shows again what was shown when the engine ended, each on a thread of its own; what fails is said in `status`.
    pub(crate) fn resume_all(self: &Arc<Self>) {
        for share in self.shares() {
            let shown = share.dir().shown().unwrap_or_else(|error| {
                tracing::error!(share = %share.id(), %error, "not resumed");
                self.resuming.lock().retain(|(of, _)| *of != share.id());
                Vec::new()
            });
            for shown in shown.into_iter().filter(|shown| shown.active) {
                let (core, resumed, dir) = (self.clone(), share.clone(), shown.dir.clone());
                // Mounts may take their time; the first request must not wait for all of them.
                let resume = move || {
                    core.resume_one(resumed.clone(), &shown);
                    core.has_resumed(&resumed, &shown.dir);
                };
                if let Err(error) = std::thread::Builder::new().name("crdtfs-resume".into()).spawn(resume) {
                    tracing::error!(%error, "cannot start a thread to resume what was shown");
                    self.has_resumed(&share, &dir);
                }
            }
        }
    }

    fn has_resumed(&self, share: &Share, dir: &Path) {
        self.resuming.lock().retain(|(of, resuming)| (*of, resuming.as_path()) != (share.id(), dir));
        self.showing_progressed(&share.id());
    }

    /// Tries again, on a thread, what could not be shown or vanished: the disk that it lies on may be there by now.
    pub(crate) fn retry_failed(self: &Arc<Self>) {
        let wanted = |showing: &&Arc<Showing>| showing.is_wanted();
        let failed: Vec<Arc<Showing>> = self.showings.lock().iter().filter(wanted).cloned().collect();
        if failed.is_empty() || self.retrying.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = self.clone();
        let retry = move || {
            failed.iter().for_each(|showing| core.retry(showing));
            core.retrying.store(false, Ordering::Release);
        };
        if let Err(error) = std::thread::Builder::new().name("crdtfs-resume".into()).spawn(retry) {
            tracing::warn!(%error, "cannot start a thread to show what could not be shown");
            self.retrying.store(false, Ordering::Release);
        }
    }

    fn retry(self: &Arc<Self>, failed: &Arc<Showing>) {
        // A directory that is gone is not made anew: what belongs there is somewhere else. Looked at before anything is locked: a
        // filesystem may never answer.
        if !failed.dir.exists() || !failed.may_be_shown() {
            return;
        }
        let _one_at_a_time = self.changing.blocking_lock();
        let stopping = *self.stop().borrow();
        // Somebody may have hidden it, or shown it, meanwhile.
        let listed = self.showings.lock().iter().any(|showing| Arc::ptr_eq(showing, failed));
        if stopping || !listed {
            return;
        }
        match self.present_again(failed, false) {
            Ok(()) => tracing::info!(dir = %failed.dir.display(), "shown, now that it can be"),
            Err(failure) => {
                tracing::debug!(dir = %failed.dir.display(), error = %failure.message, "still cannot be shown");
                self.keep_failed(failed.clone(), failure.message);
            }
        }
    }

    /// Has a directory that showed a share before show it again, as `like` says.
    fn present_again(self: &Arc<Self>, like: &Showing, asked: bool) -> Result<(), Failure> {
        let presenter = self.presenter(like.mode)?;
        presenter.prepare(&like.dir, &like.options, true).map_err(|e| present_failure(&e))?;
        let before = self.to_be_shown(&like.share, &like.dir)?;
        let to_be = ShownDir::new(like.mode, &like.dir, &like.options);
        self.present(&presenter, like.share.clone(), to_be, before, asked).map(|_| ())
    }

    /// What could not be shown stays on the list, with the reason.
    fn keep_failed(&self, showing: Arc<Showing>, why: String) {
        showing.failed(why);
        let share = showing.share.id();
        let mut showings = self.showings.lock();
        showings.retain(|other| other.dir != showing.dir || other.is_alive());
        showings.push(showing);
        drop(showings);
        self.showing_progressed(&share);
    }

    fn resume_one(self: &Arc<Self>, share: Arc<Share>, shown: &ShownDir) {
        let _one_at_a_time = self.changing.blocking_lock();
        if self.alive_at(&shown.dir).is_some() {
            return;
        }
        let first = self.config.first.as_ref().filter(|first| {
            let same_dir = || resolve(&first.dir.to_path()).is_ok_and(|dir| dir == shown.dir);
            first.ticket.is_none() && convert::mode_in(first.mode) == shown.mode && same_dir()
        });
        let options = first.map_or_else(|| shown.options.clone(), |first| options_for(first, shown));
        let showing = Showing::new(share.clone(), shown.dir.clone(), shown.mode, options);
        if let Err(failure) = self.present_again(&showing, true) {
            tracing::error!(dir = %shown.dir.display(), error = %failure.message, "cannot show the share again");
            self.keep_failed(showing, failure.message);
            // Not given up: it is tried again, by the next engine, too.
            if let Err(failure) = self.remember(&share, shown.clone()) {
                tracing::error!(error = %failure.message, "cannot remember what is to be shown");
            }
        }
    }

    /// Finds out what ended by itself since the last look.
    pub(crate) fn notice_ends(&self) {
        let showings = self.showings.lock().clone();
        for showing in showings {
            if showing.notice_end() {
                tracing::info!(dir = %showing.dir.display(), "no longer shown");
                // Whoever unmounts knows it; that a folder has gone has to be said, and it is waited for.
                if showing.mode == Mode::Mount {
                    self.forget_showing(&showing);
                    self.deactivate(&showing);
                }
                self.progressed_now();
            }
        }
    }

    /// The showing at exactly this directory, while it lives.
    pub(crate) fn alive_at(&self, dir: &Path) -> Option<Arc<Showing>> {
        self.showings.lock().iter().find(|showing| showing.dir == dir && showing.is_alive()).cloned()
    }

    /// The share that this directory showed before, in this way, and how.
    fn known_at(&self, dir: &Path, mode: Mode) -> Result<Option<(Arc<Share>, ShownDir)>, Failure> {
        for share in self.shares() {
            let shown = share.dir().shown().map_err(|e| Failure::failed(e.to_string()))?;
            if let Some(shown) = shown.into_iter().find(|shown| shown.dir == dir) {
                if shown.mode == mode {
                    return Ok(Some((share, shown)));
                }
                let (was, now) = (convert::mode_word(shown.mode), convert::mode_word(mode));
                return Err(Failure::failed(format!("{} belongs to a share that is shown by `{was}`", dir.display()))
                    .with_hint(format!(
                        "run `crdtfs {was} {dir}`, or choose another directory to {now}",
                        dir = dir.display()
                    )));
            }
        }
        Ok(None)
    }

    /// Shares do not lie in each other, nor in the state directory.
    fn refuse_nested(&self, dir: &Path) -> Result<(), Failure> {
        let state = self.state().path();
        if dir.starts_with(state) || state.starts_with(dir) {
            return Err(Failure::failed(format!(
                "{} and the state directory {} lie in each other",
                dir.display(),
                state.display()
            ))
            .with_hint("choose another directory, or another --state-dir"));
        }
        let showings = self.showings.lock();
        let other =
            showings.iter().find(|s| s.is_alive() && s.dir != dir && (s.contains(dir) || s.dir.starts_with(dir)));
        match other {
            Some(other) => Err(Failure::failed(format!(
                "{} and {}, which shows a share already, lie in each other",
                dir.display(),
                other.dir.display()
            ))
            .with_hint("choose a directory beside it")),
            None => Ok(()),
        }
    }

    fn presenter(&self, mode: Mode) -> Result<Arc<dyn Presenter>, Failure> {
        self.presenters.iter().find(|presenter| presenter.mode() == mode).cloned().ok_or_else(|| {
            Failure::new(FailureKind::Missing, format!("this crdtfs was built without `{}`", convert::mode_word(mode)))
        })
    }

    /// The known directory that a path lies in. Blocks on the file system.
    pub(crate) fn find(&self, path: &Path) -> Result<Found, Failure> {
        let mut known = Vec::new();
        for share in self.shares() {
            let shown = share.dir().shown().map_err(|e| Failure::failed(e.to_string()))?;
            known.extend(shown.into_iter().map(|shown| (share.clone(), shown)));
        }
        // By its words first: looking at a path inside a mount would come back to this very engine.
        let mut candidates = vec![lexical(path)];
        for attempt in 0..2 {
            let candidate = &candidates[attempt];
            let best = known
                .iter()
                .filter(|(_, shown)| candidate.starts_with(&shown.dir))
                .max_by_key(|(_, shown)| (shown.dir.components().count(), shown.active));
            if let Some((share, shown)) = best {
                let below = candidate.strip_prefix(&shown.dir).unwrap_or(Path::new("")).to_owned();
                return Ok(Found { share: share.clone(), shown: shown.clone(), below });
            }
            if attempt == 0 {
                candidates.push(resolve(path)?);
            }
        }
        Err(Failure::new(FailureKind::NotFound, format!("{} is not in a share of this device", path.display()))
            .with_hint("run `crdtfs status` to see the shares, or `crdtfs mount DIR` to make one"))
    }

    /// The shares that a request is about: the one of `dir`, or all.
    pub(crate) fn shares_of(&self, dir: Option<&DirText>) -> Result<Vec<Arc<Share>>, Failure> {
        match dir {
            Some(dir) => Ok(vec![self.find(&dir.to_path())?.share]),
            None => Ok(self.shares()),
        }
    }

    /// The showings of a share.
    pub(crate) fn showings_of(&self, share: &ShareId) -> Vec<Arc<Showing>> {
        self.showings.lock().iter().filter(|showing| showing.share.id() == *share).cloned().collect()
    }
}

/// The directories of a path that are not there, the path itself first.
fn missing_from(dir: &Path) -> Vec<PathBuf> {
    dir.ancestors().take_while(|dir| std::fs::symlink_metadata(dir).is_err()).map(Path::to_owned).collect()
}

/// Takes directories away again that were made for nothing; one in which something lies stays.
fn unmake(made: &[PathBuf]) {
    for dir in made {
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

/// With which options a directory is to be shown that is on the list of those to be shown: who names none takes those of before.
fn options_for(asked: &Show, shown: &ShownDir) -> PresentOptions {
    match asked.options == request::ShowOptions::default() {
        true => shown.options.clone(),
        false => convert::options_in(&asked.options),
    }
}

/// Whether asking for what is there already makes sense. Who names no options takes those that it is shown with.
fn already(showing: &Showing, asked: &Show) -> Result<(), Failure> {
    let dir = showing.dir.display();
    if asked.ticket.is_some() {
        return Err(Failure::new(FailureKind::Busy, format!("{dir} shows a share already"))
            .with_hint(format!("choose another directory, or run `crdtfs unmount {dir}` first")));
    }
    let word = convert::mode_word(showing.mode);
    if showing.mode != convert::mode_in(asked.mode) {
        return Err(Failure::new(FailureKind::Busy, format!("{dir} is in use already, by `{word}`"))
            .with_hint(format!("run `crdtfs unmount {dir}` first")));
    }
    let with = convert::options_out(&showing.options);
    if asked.options != request::ShowOptions::default() && asked.options != with {
        let with = if with == request::ShowOptions::default() { "no options".into() } else { format!("`{with}`") };
        let message =
            format!("{dir} is shown by `{word}` already, with {with}; that only changes when it is shown anew");
        return Err(Failure::new(FailureKind::Busy, message)
            .with_hint(format!("run `crdtfs unmount {dir}`, then `crdtfs {word} {} {dir}`", asked.options)));
    }
    Ok(())
}

/// An adapter's refusal for the user.
pub(crate) fn present_failure(error: &PresentError) -> Failure {
    let kind = match error {
        PresentError::Directory(_) => FailureKind::Busy,
        PresentError::Missing(_) => FailureKind::Missing,
        PresentError::Io { .. } => FailureKind::Failed,
    };
    Failure::new(kind, error.to_string())
}

/// Runs what may block away from the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::failed("the engine failed while it worked on this (an error in the program)")
            .with_hint("see log/engine.log in the state directory")),
    }
}

/// An absolute path without `.` and `..`, by its words alone.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// An absolute path without links, of something that need not exist: its nearest ancestor that does is resolved. The last
/// component is not followed into a mount that may be dead.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    if !path.is_absolute() {
        return Err(Failure::new(FailureKind::Usage, format!("{} is not an absolute path", path.display())));
    }
    let path = lexical(path);
    let mut rest: Vec<&OsStr> = Vec::new();
    let mut known = path.as_path();
    loop {
        match known.canonicalize() {
            Ok(real) => {
                let mut real = real;
                real.extend(rest.iter().rev());
                return Ok(real);
            }
            Err(error) => match (known.parent(), known.file_name()) {
                (Some(parent), Some(name)) => {
                    rest.push(name);
                    known = parent;
                }
                _ => return Err(Failure::failed(format!("cannot look at {}: {error}", path.display()))),
            },
        }
    }
}

#[cfg(test)]
mod tests;
