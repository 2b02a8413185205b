//! One device: a namespace, a state directory, and the engine that runs in it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::command::{COMMAND_LIMIT, Done, run, tool};
use crate::lab::Lab;
use crate::mounts::unmount_below;
use crate::poll::until;

/// How a share is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As a FUSE filesystem.
    Mount,
    /// As a watched folder.
    Watch,
}

impl Mode {
    /// The command's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Watch => "watch",
        }
    }
}

/// How long an engine may take to leave (10 s by contract).
const LEAVE_LIMIT: Duration = Duration::from_secs(12);

/// How long a tree may take until it can be used.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A device. When it is dropped its engine is ended and its mounts are taken away; if the test is failing, its log is shown.
#[derive(Debug)]
pub struct Device {
    lab: Lab,
    name: String,
    root: PathBuf,
    state: PathBuf,
    user: Option<u32>,
    /// Stands for `/dev/fuse`.
    own_fuse: Option<PathBuf>,
    engine: Option<Child>,
    /// Killed.
    dead: Vec<Child>,
}

impl Device {
    pub(crate) fn new(lab: Lab, name: &str) -> Self {
        let root = lab.root().join(name);
        fs::create_dir(&root).expect("device names are unique in a lab");
        Self {
            lab,
            name: name.into(),
            state: root.join("state"),
            root,
            user: None,
            own_fuse: None,
            engine: None,
            dead: Vec::new(),
        }
    }

    /// Its name, also as crdtfs knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path in its own directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where its engine keeps its state.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Moves its state elsewhere, before the first use.
    pub fn set_state_dir(&mut self, dir: PathBuf) {
        self.state = dir;
    }

    /// Runs everything from now on as an ordinary user, to whom its directory is given. Where `/dev/fuse` is root's alone
    /// (udev would give it to all), this user sees one of its own.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn become_user(&mut self, user: u32) {
        std::os::unix::fs::chown(&self.root, Some(user), Some(user)).expect("the harness runs as root");
        self.user = Some(user);
        let fuse = fs::metadata("/dev/fuse");
        if fuse.is_ok_and(|fuse| fuse.permissions().mode() & 0o666 != 0o666) {
            let (root, own) = (self.root.to_string_lossy().into_owned(), self.dir("fuse"));
            tool("mknod", ["-m", "666", &own.to_string_lossy(), "c", "10", "229"]);
            // What is mounted below in the user's view of the machine is seen from outside, too.
            tool("mount", ["--bind", &root, &root]);
            tool("mount", ["--make-shared", &root]);
            self.own_fuse = Some(own);
        }
    }

    /// Any program in its namespace, as its user.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(program.as_ref(), &[])
    }

    /// Calls a function on a thread of this process that has moved into its network.
    ///
    /// # Panics
    /// If the function does.
    #[track_caller]
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(Path::new("/run/netns").join(self.lab.netns(&self.name))).expect("made with the device");
        let moved = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the harness runs as root");
            act()
        };
        std::thread::scope(|scope| scope.spawn(moved).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// `nsenter` first (it takes root), `setpriv` second: it drops root, and its death signal survives both `exec`s.
    fn enter(&self, program: &OsStr, setpriv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.lab.netns(&self.name)));
        if let Some(fuse) = &self.own_fuse {
            // `/dev` first, else all of the machine would see it.
            let script = "mount --make-rprivate /dev && mount --bind \"$0\" /dev/fuse && exec \"$@\"";
            command.args(["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script]).arg(fuse);
        }
        let user =
            self.user.map(|user| [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
        if user.is_some() || !setpriv.is_empty() {
            command.arg("setpriv").args(user.iter().flatten()).args(setpriv).arg("--");
        }
        command.arg(program);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("CRDTFS_")) {
            command.env_remove(key);
        }
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_RUNTIME_DIR").env("HOME", self.dir("home"));
        command.current_dir(&self.root);
        command
    }

    /// `crdtfs` with its global flags.
    pub fn crdtfs<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        self.with_globals(self.program(crate::binary()), args)
    }

    fn with_globals<S: AsRef<OsStr>>(&self, mut command: Command, args: &[S]) -> Command {
        command.arg("--state-dir").arg(&self.state).args(["--network", "local", "--name", &self.name]).args(args);
        command
    }

    /// Runs `crdtfs ARGS` to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Done {
        run(self.crdtfs(args), COMMAND_LIMIT)
    }

    /// Runs `crdtfs ARGS`, which has to succeed; its stdout.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        self.run(args).ok()
    }

    /// Runs `crdtfs ARGS --json`, which has to succeed; what it says. Several lines are an array.
    ///
    /// # Panics
    /// If it fails, or says what is no JSON.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        let mut args: Vec<OsString> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        args.push("--json".into());
        let text = self.ok(&args);
        serde_json::from_str(&text).unwrap_or_else(|_| Value::Array(json_lines(&text)))
    }

    /// Runs `crdtfs ARGS`, which has to end with this exit code, and say why on stderr and nothing on stdout; what it said.
    ///
    /// # Panics
    /// If it ends otherwise.
    #[track_caller]
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, args: &[S]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, Some(code), "{done}");
        assert!(done.stdout.is_empty(), "talk belongs on stderr: {done}");
        assert!(!done.stderr.trim().is_empty(), "a failure without a word: {done}");
        assert!(!done.stderr.contains("panicked"), "{done}");
        done.stderr
    }

    /// Shows a share with `--foreground`, in an engine that this device owns; returns once the tree can be used.
    ///
    /// # Panics
    /// If an engine runs already, or it does not come up.
    #[track_caller]
    pub fn show(&mut self, mode: Mode, ticket: Option<&str>, dir: &Path) {
        self.show_with(mode, ticket, dir, &[]);
    }

    /// As [`Device::show`], with further flags.
    ///
    /// # Panics
    /// As [`Device::show`].
    #[track_caller]
    pub fn show_with(&mut self, mode: Mode, ticket: Option<&str>, dir: &Path, flags: &[&str]) {
        assert!(self.engine.is_none(), "{} has an engine", self.name);
        let mut args: Vec<OsString> = vec![mode.word().into(), "--foreground".into()];
        args.extend(flags.iter().map(Into::into));
        args.extend(ticket.map(Into::into));
        args.push(dir.into());
        let from = fs::metadata(self.log_path()).map_or(0, |meta| meta.len() as usize);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a lab of ours");
        // The engine dies with the test, however that ends.
        let mut command = self.with_globals(self.enter(crate::binary().as_os_str(), &["--pdeathsig=KILL"]), &args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.engine = Some(command.spawn().expect("nsenter is needed"));
        let ready = || {
            let said = fs::read(self.log_path()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said[from.min(said.len())..]).into_owned();
            if said.lines().any(|line| line.trim() == "ready") {
                return Ok(());
            }
            match self.engine.as_mut().expect("just started").try_wait().expect("a child of ours") {
                Some(status) => panic!("{}: crdtfs {args:?} ended ({status}) before it was ready:\n{said}", self.name),
                None => Err(format!("{} said: {said}", self.name)),
            }
        };
        until("ready on stderr", READY_LIMIT, ready);
    }

    /// Whether its foreground engine runs.
    ///
    /// # Panics
    /// Never in practice.
    pub fn is_running(&mut self) -> bool {
        self.engine.as_mut().is_some_and(|child| child.try_wait().expect("a child of ours").is_none())
    }

    /// `kill -9` of its foreground engine. What it had mounted stays, dead, as after a real crash. Its process may stay for
    /// a moment longer, until the next engine has taken away what holds it up.
    ///
    /// # Panics
    /// If none was started, or it had ended before.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.engine.take().expect("an engine to kill");
        let ended = child.try_wait().expect("a child of ours");
        assert_eq!(ended, None, "{}'s engine had ended before\n{}", self.name, self.log());
        child.kill().expect("a child of ours");
        let pid = Pid::from_child(&child);
        until("the engine is dead", LEAVE_LIMIT, || if lives(pid) { Err("alive".into()) } else { Ok(()) });
        self.dead.push(child);
    }

    /// SIGTERM to its foreground engine, which has to flush and leave within its time, with exit code 0.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.leave(Signal::TERM);
        assert_eq!(status.code(), Some(0), "{} did not leave well: {status}\n{}", self.name, self.log());
    }

    /// Sends a signal to its foreground engine; how it ended.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn leave(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.engine.take().expect("an engine to stop");
        kill_process(Pid::from_child(&child), signal).expect("a child of ours");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                return status;
            }
            if start.elapsed() > LEAVE_LIMIT {
                self.engine = Some(child);
                panic!("{} did not leave within {LEAVE_LIMIT:?} of {signal:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process of its foreground engine.
    pub fn pid(&self) -> Option<u32> {
        self.engine.as_ref().map(Child::id)
    }

    /// A ticket for the share at `dir`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn invite(&self, dir: &Path, flags: &[&str]) -> String {
        let mut args: Vec<OsString> = vec!["invite".into(), dir.into()];
        args.extend(flags.iter().map(Into::into));
        let said = self.ok(&args);
        let ticket = said.trim_end_matches('\n');
        assert!(
            !ticket.is_empty() && !ticket.contains(char::is_whitespace),
            "the ticket alone belongs on stdout: {said:?}"
        );
        ticket.to_owned()
    }

    /// Waits until all other members, or as `devices` says, hold what this device holds, and it what they hold.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub fn wait(&self, dir: &Path, devices: &str) {
        let words = ["wait".as_ref(), dir.as_os_str()];
        let flags = ["--devices", devices, "--timeout", "60s"].map(OsStr::new);
        self.ok(&[&words[..], &flags[..]].concat());
    }

    /// What `status --json` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// `check` has to find nothing wrong.
    ///
    /// # Panics
    /// If it finds something.
    #[track_caller]
    pub fn check(&self) {
        let done = self.run(&["check"]);
        assert_eq!(done.code, Some(0), "{}: {done}", self.name);
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("engine.log")
    }

    /// What its engines said, the foreground ones and those in the background.
    pub fn log(&self) -> String {
        let mut text = fs::read_to_string(self.log_path()).unwrap_or_default();
        for entry in fs::read_dir(self.state.join("log")).into_iter().flatten().flatten() {
            text += &fs::read_to_string(entry.path()).unwrap_or_default();
        }
        text
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- log of {} (its end; {})\n{tail}\n---", self.name, self.log_path().display());
            if let Some(minutes) = std::env::var("CRDTFS_PAUSE").ok().and_then(|text| text.parse::<u64>().ok()) {
                eprintln!("everything is left as it is for {minutes} minutes: {}", self.root.display());
                std::thread::sleep(Duration::from_secs(minutes * 60));
            }
        }
        if let Some(mut child) = self.engine.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let start = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        kill_engine_of(&self.state);
        unmount_below(&self.root);
        for mut child in self.dead.drain(..) {
            let _ = child.wait();
        }
    }
}

/// Each line of a listing as JSON.
fn json_lines(text: &str) -> Vec<Value> {
    let parsed = text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// Ends the engine that holds the lock of a state directory, if one does.
pub(crate) fn kill_engine_of(state: &Path) {
    let Ok(lock) = File::open(state.join("lock")) else { return };
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
        return;
    }
    // The lock is held, so the process that wrote its number there is alive, and no other has that number.
    let pid =
        fs::read_to_string(state.join("lock")).ok().and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::KILL);
        let start = Instant::now();
        while lives(pid) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a process lives: one that only waits for its parent to hear of its end does not.
pub fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state may hold anything but a newline (proc_pid_stat(5)).
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next())
        .is_some_and(|state| !"ZX".contains(state))
}
