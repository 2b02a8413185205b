#![allow(clippy::unwrap_used)]
use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crdtfs_control::status::ShowState;
use crdtfs_control::{Client, ClientError, request};
use tokio::runtime::Runtime;

use super::*;
use crate::engine::{Engine, EngineConfig, LastWords};
use crate::present::{Presented, Problem};

#[test]
fn paths_are_resolved_as_far_as_they_exist() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    fs::create_dir(real.join("a")).unwrap();
    std::os::unix::fs::symlink(real.join("a"), real.join("link")).unwrap();
    assert_eq!(resolve(&real.join("link/x/../y")).unwrap(), real.join("a/y"));
    assert_eq!(resolve(&real.join("none/b")).unwrap(), real.join("none/b"));
    assert!(resolve(Path::new("relative")).is_err());
}

/// Shows a share, or cannot.
#[derive(Default)]
struct Switch(AtomicBool);

impl Presenter for Switch {
    fn mode(&self) -> Mode {
        Mode::Watch
    }

    fn prepare(&self, dir: &Path, _: &PresentOptions, _: bool) -> Result<(), PresentError> {
        fs::create_dir_all(dir).map_err(|source| PresentError::Io { what: "make", path: dir.to_owned(), source })
    }

    fn present(&self, _: SharePorts, _: &Path, _: &PresentOptions) -> Result<Box<dyn Presented>, PresentError> {
        if self.0.load(Ordering::Relaxed) {
            return Ok(Box::new(Shown));
        }
        Err(PresentError::Directory("it is held by somebody else".into()))
    }
}

struct Shown;

impl Presented for Shown {
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    fn settle(&self, _: Instant) -> bool {
        true
    }

    fn stop(&self) -> Result<(), PresentError> {
        Ok(())
    }

    fn ended(&self) -> Option<String> {
        None
    }
}

#[test]
fn a_share_that_was_made_to_be_shown_and_could_not_be_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (state, folder) = (dir.path().join("state"), dir.path().join("new/folder"));
    let switch = Arc::new(Switch::default());
    let engine = Engine::start(EngineConfig::for_tests(state.clone()), vec![switch.clone()]).unwrap();
    let mut client = Client::connect(&state).unwrap();
    let show = Show {
        mode: request::Mode::Watch,
        ticket: None,
        dir: DirText::from(&folder),
        options: request::ShowOptions::default(),
        attach: false,
    };
    let shares = |client: &mut Client| client.call(request::Status::default()).unwrap().shares;
    for _ in 0..2 {
        let error = client.call(show.clone()).unwrap_err();
        assert!(matches!(&error, ClientError::Failed(failure) if failure.message.contains("somebody else")), "{error}");
        assert!(shares(&mut client).is_empty());
        assert_eq!(fs::read_dir(state.join("shares")).unwrap().count(), 0, "nor after a restart");
        assert!(!dir.path().join("new").exists(), "the directory was made for nothing, too");
    }
    // One that was shown stays, whatever happens later.
    switch.0.store(true, Ordering::Relaxed);
    let first = client.call(show.clone()).unwrap();
    client.call(Hide { dir: DirText::from(&folder) }).unwrap();
    switch.0.store(false, Ordering::Relaxed);
    client.call(show.clone()).unwrap_err();
    assert_eq!(shares(&mut client).len(), 1);
    switch.0.store(true, Ordering::Relaxed);
    let again = client.call(show).unwrap();
    assert_eq!((again.share, again.how), (first.share, reply::How::Resumed));
    drop(client);
    engine.shutdown(Duration::from_secs(10));
}

#[test]
fn what_is_shown_keeps_its_options_until_it_is_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (state, folder) = (dir.path().join("state"), dir.path().join("folder"));
    let switch = Arc::new(Switch(AtomicBool::new(true)));
    let read_only = request::ShowOptions { read_only: true, ..request::ShowOptions::default() };
    let other = request::ShowOptions { allow_other: true, ..read_only.clone() };
    let show = |state: &Path, options: &request::ShowOptions| {
        let (mode, dir, options) = (request::Mode::Watch, DirText::from(&folder), options.clone());
        Client::connect(state).unwrap().call(Show { mode, ticket: None, dir, options, attach: false })
    };
    let refused = |state: &Path, options: &request::ShowOptions, with: &str| {
        let error = show(state, options).unwrap_err();
        let ClientError::Failed(failure) = error else { panic!("{error}") };
        assert_eq!(failure.kind, FailureKind::Busy);
        assert!(failure.message.contains(with), "{failure}");
        assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("crdtfs unmount")), "{failure}");
    };
    let engine = Engine::start(EngineConfig::for_tests(state.clone()), vec![switch.clone()]).unwrap();
    assert_eq!(show(&state, &read_only).unwrap().options, read_only);
    engine.shutdown(Duration::from_secs(10));
    // The next engine shows it as this one did, whether it or the request comes first.
    let engine = Engine::start(EngineConfig::for_tests(state.clone()), vec![switch]).unwrap();
    refused(&state, &other, "`--read-only`");
    for same in [&read_only, &request::ShowOptions::default()] {
        let shown = show(&state, same).unwrap();
        assert_eq!((shown.how, shown.options), (reply::How::Already, read_only.clone()));
    }
    let hide = || Client::connect(&state).unwrap().call(Hide { dir: DirText::from(&folder) }).unwrap();
    hide();
    assert_eq!(show(&state, &other).unwrap().options, other);
    hide();
    assert_eq!(show(&state, &request::ShowOptions::default()).unwrap().options, request::ShowOptions::default());
    refused(&state, &read_only, "no options");
    engine.shutdown(Duration::from_secs(10));
}

/// Nobody serves a directory at the moment in which an engine begins: the command that it begins with may name other options.
#[test]
fn who_begins_an_engine_chooses_the_options() {
    let dir = tempfile::tempdir().unwrap();
    let (state, folder) = (dir.path().join("state"), dir.path().canonicalize().unwrap().join("folder"));
    let switch = Arc::new(Switch(AtomicBool::new(true)));
    let plain = request::ShowOptions::default();
    let read_only = request::ShowOptions { read_only: true, ..plain.clone() };
    let other = request::ShowOptions { allow_other: true, ..plain.clone() };
    let ask = |options: &request::ShowOptions| {
        let (mode, dir, options) = (request::Mode::Watch, DirText::from(&folder), options.clone());
        Show { mode, ticket: None, dir, options, attach: false }
    };
    let begin = |first: Option<&Show>| {
        let config = EngineConfig { first: first.cloned(), ..EngineConfig::for_tests(state.clone()) };
        Engine::start(config, vec![switch.clone()]).unwrap()
    };
    let call = |show: &Show| Client::connect(&state).unwrap().call(show.clone());
    let run = |options: &request::ShowOptions| {
        let show = ask(options);
        let engine = begin(Some(&show));
        let shown = call(&show).map(|shown| shown.options);
        // Others are refused what is shown now.
        if shown.is_ok() {
            assert!(call(&ask(&request::ShowOptions { owner: request::Owner::Keep, ..other.clone() })).is_err());
        }
        engine.shutdown(Duration::from_secs(10));
        shown
    };
    assert_eq!(run(&read_only).unwrap(), read_only, "a new share");
    assert_eq!(run(&other).unwrap(), other);
    assert_eq!(run(&plain).unwrap(), other, "who names none takes those of before");
    // Options that cannot be had are not remembered.
    switch.0.store(false, Ordering::Relaxed);
    run(&read_only).unwrap_err();
    switch.0.store(true, Ordering::Relaxed);
    assert_eq!(run(&plain).unwrap(), other);
    // Where only trying again will show it, too.
    switch.0.store(false, Ordering::Relaxed);
    let engine = begin(None);
    call(&ask(&plain)).unwrap_err();
    switch.0.store(true, Ordering::Relaxed);
    assert_eq!(call(&ask(&plain)).unwrap().options, other);
    engine.shutdown(Duration::from_secs(10));
    // Of another way to show it nothing is taken.
    let engine = begin(Some(&Show { mode: request::Mode::Mount, ..ask(&read_only) }));
    assert_eq!(call(&ask(&plain)).unwrap().options, other);
    engine.shutdown(Duration::from_secs(10));
}

/// An engine's parts with a share that the engine before showed in a folder.
fn shown_before(dir: &Path, switch: &Arc<Switch>, runtime: &Runtime) -> (Arc<Core>, Arc<Share>, ShownDir) {
    let core = Core::open(EngineConfig::for_tests(dir.join("state")), vec![switch.clone()], runtime).unwrap();
    let share = core.create_share(None).unwrap();
    let folder = dir.join("folder");
    fs::create_dir(&folder).unwrap();
    let shown = ShownDir::new(Mode::Watch, &folder, &PresentOptions::default());
    share.dir().write_shown(std::slice::from_ref(&shown)).unwrap();
    (core, share, shown)
}

/// Where this is, `shown.json` cannot be written, as on a full disk.
fn in_the_way(share: &Share) -> PathBuf {
    share.dir().path().join("shown.new")
}

fn listed(core: &Core) -> Vec<ShowState> {
    let Reply::Status(status) = core.status(&request::Status::default()).unwrap() else { panic!("no status") };
    status.shares.iter().flat_map(|share| &share.dirs).map(|dir| dir.state).collect()
}

#[test]
fn a_directory_is_listed_once_also_where_nothing_can_be_written_down() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().canonicalize().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let switch = Arc::new(Switch::default());
    let (core, share, shown) = shown_before(&dir, &switch, &runtime);
    fs::create_dir(in_the_way(&share)).unwrap();
    core.resume_one(share.clone(), &shown);
    assert_eq!(listed(&core), [ShowState::Failed]);
    // What is known already need not be written to be shown again.
    switch.0.store(true, Ordering::Relaxed);
    let failed = core.showings.lock()[0].clone();
    core.retry(&failed);
    assert_eq!(listed(&core), [ShowState::Ready]);
    // Elsewhere it is not shown: the next engine would not know of it.
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    let presenter = core.presenter(Mode::Watch).unwrap();
    let elsewhere = ShownDir::new(Mode::Watch, &other, &PresentOptions::default());
    assert!(core.present(&presenter, share.clone(), elsewhere, None, true).is_err());
    assert_eq!(listed(&core), [ShowState::Ready]);
    assert_eq!(share.dir().shown().unwrap(), [shown]);
    fs::remove_dir(in_the_way(&share)).unwrap();
    assert_eq!(core.close(Instant::now() + Duration::from_secs(10)), LastWords::default());
}
