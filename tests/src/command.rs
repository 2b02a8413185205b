//! Running a command to its end, with a time limit.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long any command may take, unless said otherwise.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// As it was given.
    pub line: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Done {
    /// Stdout as text.
    ///
    /// # Panics
    /// If it failed, with all it said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.text()
    }

    /// Stdout as text, whatever the exit code.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both streams as text.
    pub fn said(&self) -> String {
        format!("{}{}", self.text(), self.stderr)
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}\nexit code {:?}", self.line, self.code)?;
        for (name, text) in [("stdout", &self.text()), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Runs it to its end.
///
/// # Panics
/// If it cannot be started, or takes longer than `limit`.
#[track_caller]
pub fn run(mut command: Command, limit: Duration) -> Done {
    let line = shown(&command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        if start.elapsed() > limit {
            // Failing here only means that it ended just now.
            let _ = child.kill();
            let _ = child.wait();
            panic!("$ {line}\nnot done within {limit:?}\n--- stderr\n{}", String::from_utf8_lossy(&stderr.so_far()));
        }
        thread::sleep(Duration::from_millis(3));
    };
    let stderr = String::from_utf8_lossy(&stderr.all()).into_owned();
    Done { line, code: status.code(), stdout: stdout.all(), stderr }
}

/// Runs a tool that has to succeed; its stdout.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    run(command, COMMAND_LIMIT).ok()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A stream that is read in the background. A grandchild that keeps it open does not hold us up for ever.
struct Drain {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: thread::JoinHandle<()>,
}

fn drain(mut from: impl Read + Send + 'static) -> Drain {
    let bytes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = bytes.clone();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().expect("no panic under it").extend_from_slice(&buffer[..n]);
        }
    });
    Drain { bytes, thread }
}

impl Drain {
    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic under it").clone()
    }

    fn all(self) -> Vec<u8> {
        // A background engine must not keep the pipes of the command that started it; scripts would hang.
        let start = Instant::now();
        while !self.thread.is_finished() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "something in the background keeps the command's output open"
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.so_far()
    }
}
