//! Both ends of the control socket, joined by a real socket and a service that does as the test says.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crdtfs_control::reply::{Checked, Entry, EntryKind, Hidden, Listed, Local, Stopped};
use crdtfs_control::request::{Check, Hide, Ls, Peers, Ping, Stop, Wait};
use crdtfs_control::{
    BoxFuture, Client, ClientError, DirText, Failure, FailureKind, Item, Listener, PathText, Reply, Request, Service,
    Talk, socket_path,
};
use tokio::sync::{Notify, oneshot};

/// What the tests need of an engine.
#[derive(Default)]
struct Fake {
    /// Woken when a request was told that nobody listens.
    told: Notify,
    /// Woken when a wait has begun.
    waiting: Notify,
    calls: AtomicUsize,
}

impl Service for Fake {
    fn call<'a>(&'a self, request: Request, talk: &'a mut Talk) -> BoxFuture<'a, Result<Reply, Failure>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match request {
                Request::Ls(ls) => list(ls, talk).await,
                Request::Hide(hide) => Ok(Hidden { share: "aa".to_owned(), dir: hide.dir }.into()),
                Request::Wait(_) => {
                    self.waiting.notify_one();
                    talk.closed().await;
                    self.told.notify_one();
                    Ok(Stopped {}.into())
                }
                Request::Check(_) => panic!("an error in the program"),
                Request::Stop(_) => Ok(Checked::default().into()),
                _ => Err(Failure::new(FailureKind::Busy, "busy").with_hint("later")),
            }
        })
    }
}

/// As many entries as the path says.
async fn list(ls: Ls, talk: &mut Talk) -> Result<Reply, Failure> {
    let entries: u64 = ls.path.as_str().parse().unwrap();
    for number in 0..entries {
        let entry = Entry {
            path: PathText::from_bytes(format!("\u{e4}{number}").as_bytes()),
            kind: EntryKind::File,
            size: number,
            mode: 0o644,
            mtime_ms: -1,
            local: Local::Whole,
            conflict: false,
            pending: false,
            blake3: None,
        };
        talk.send(Item::Entry(entry)).await?;
    }
    Ok(Listed { entries }.into())
}

/// Serves a fake on a state directory while `client`, a blocking function, runs; then stops it.
async fn with_engine<T: Send + 'static>(
    dir: &Path,
    fake: Arc<Fake>,
    client: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let listener = Listener::bind(dir).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(listener.serve(fake, async {
        drop(stopped.await);
    }));
    let state_dir = dir.to_owned();
    let result = tokio::task::spawn_blocking(move || client(&state_dir)).await.unwrap();
    drop(stop);
    serving.await.unwrap();
    assert!(!socket_path(dir).exists(), "the socket is left");
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_each_other_on_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    with_engine(dir.path(), Arc::default(), |dir| {
        let mut client = Client::connect(dir).unwrap();
        let name = DirText::from_bytes(b"/d\xff");
        let hidden = client.call(Hide { dir: name.clone() }).unwrap();
        assert_eq!(hidden, Hidden { share: "aa".to_owned(), dir: name });
        let refused = client.call(Peers::default()).unwrap_err();
        assert!(matches!(&refused, ClientError::Failed(f) if f.kind == FailureKind::Busy && f.hint.is_some()));
        let mut seen = Vec::new();
        let request = Ls { path: "2000".into(), recursive: false };
        let listed = client
            .call_with(request, |item| {
                let Item::Entry(entry) = item else { panic!("{item:?}") };
                seen.push(entry.size);
                Ok(())
            })
            .unwrap();
        assert_eq!(listed.entries, 2_000);
        assert_eq!(seen, (0..2_000).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_open_the_socket_also_under_a_long_path() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    // What a dead engine left is replaced.
    std::fs::write(long.join("control.sock"), b"").unwrap();
    let mode = with_engine(&long, Arc::default(), |dir| {
        assert!(Client::connect(dir).unwrap().call(Hide { dir: "/d".into() }).is_ok());
        std::fs::metadata(socket_path(dir)).unwrap().permissions().mode()
    })
    .await;
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_hears_that_its_client_hung_up() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::<Fake>::default();
    let heard = fake.clone();
    with_engine(dir.path(), fake, move |dir| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stream = UnixStream::connect(socket_path(dir)).unwrap();
        stream.write_all(b"{\"version\":1,\"request\":\"wait\",\"devices\":\"all\",\"timeout_ms\":1}\n").unwrap();
        runtime.block_on(heard.waiting.notified());
        drop(stream);
        runtime.block_on(heard.told.notified());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_nothing_more_to_ask_is_still_answered() {
    let dir = tempfile::tempdir().unwrap();
    let lines = with_engine(dir.path(), Arc::default(), |dir| {
        let mut stream = UnixStream::connect(socket_path(dir)).unwrap();
        stream.write_all(b"{\"version\":1,\"request\":\"ls\",\"path\":\"1000\"}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        BufReader::new(stream).lines().map(Result::unwrap).collect::<Vec<_>>()
    })
    .await;
    assert_eq!(lines.len(), 1_001);
    assert_eq!(lines[1_000], r#"{"reply":"listed","entries":1000}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_engine_ends_its_requests() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::<Fake>::default();
    let begun = fake.clone();
    let state_dir = dir.path().to_owned();
    let (answer, answered) = oneshot::channel();
    with_engine(dir.path(), fake, move |_| {
        std::thread::spawn(move || {
            let mut client = Client::connect(&state_dir).unwrap();
            drop(answer.send(client.call(Wait::default())));
        });
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(begun.waiting.notified());
    })
    .await;
    // The fake answers a wait with the reply to another request, which the client must not take for its own.
    assert!(matches!(answered.await.unwrap(), Err(ClientError::Garbled(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_panics_is_answered_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    with_engine(dir.path(), Arc::default(), |dir| {
        let mut client = Client::connect(dir).unwrap();
        let failed = client.call(Check::default()).unwrap_err();
        assert!(matches!(&failed, ClientError::Failed(f) if f.message.contains("error in the program")), "{failed}");
        assert!(client.call(Hide { dir: "/d".into() }).is_ok());
        assert!(matches!(client.call(Stop::default()), Err(ClientError::Garbled(_))), "a reply of another request");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_reaches_no_service() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::<Fake>::default();
    let calls = fake.clone();
    let lines = [
        "{}",
        "nonsense",
        "{\"version\":2,\"request\":\"ping\"}",
        "{\"version\":1,\"request\":\"fly\"}",
        "{\"version\":1,\"request\":\"hide\"}",
    ];
    let answers = with_engine(dir.path(), fake, move |dir| {
        let mut stream = UnixStream::connect(socket_path(dir)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines {
            writeln!(stream, "{line}").unwrap();
            said.push(answers.next().unwrap().unwrap());
        }
        said
    })
    .await;
    for (answer, kind) in answers.iter().zip(["usage", "usage", "version", "usage", "usage"]) {
        assert!(answer.starts_with(&format!("{{\"failure\":{{\"kind\":\"{kind}\"")), "{answer}");
    }
    assert_eq!(calls.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let answer = with_engine(dir.path(), Arc::default(), |dir| {
        let mut stream = UnixStream::connect(socket_path(dir)).unwrap();
        let mut read = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            // Refused at the latest when the other end closes.
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        });
        let mut answer = Vec::new();
        // What was sent and never read makes the end of it a reset.
        drop(read.read_to_end(&mut answer));
        answer
    })
    .await;
    assert!(String::from_utf8_lossy(&answer).contains("at most 1048576 bytes"));
}

#[test]
fn no_engine_is_told_from_a_dead_one() {
    let dir = tempfile::tempdir().unwrap();
    let not_running = |error: ClientError| matches!(error, ClientError::NotRunning { .. });
    assert!(not_running(Client::connect(dir.path()).unwrap_err()));
    assert!(not_running(Client::connect(&dir.path().join("nowhere")).unwrap_err()));
    let listener = std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap();
    let mut client = Client::connect(dir.path()).unwrap();
    drop(listener);
    assert!(not_running(Client::connect(dir.path()).unwrap_err()));
    assert!(matches!(client.call(Ping::default()), Err(ClientError::Lost)));
}
