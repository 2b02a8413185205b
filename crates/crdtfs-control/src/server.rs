//! The engine's end of the socket.
//!
//! Every connection has one task that reads, writes and notices a client that hangs up, and, while a request runs, one
//! task that runs it; items between them go through a bounded queue, so a client that does not read holds up its own
//! request only. All of them end with [`Listener::serve`].

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::failure::{Failure, FailureKind};
use crate::frame::{Answer, Asked, AskedVersion, MAX_REQUEST, line};
use crate::reply::{Item, Reply};
use crate::request::Request;
use crate::socket::{address, socket_path};
use crate::{PROTOCOL, SOCKET_NAME};

/// A client is told that the engine lives at least this often.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Requests under way at the end of [`Listener::serve`] get this long.
const GRACE: Duration = Duration::from_secs(2);

/// Items of one request that wait for its client.
const QUEUE: usize = 256;

/// Connections at one time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What answers requests: the engine.
pub trait Service: Send + Sync + 'static {
    /// Does what is asked. Runs to its end also when the client has left; what waits for long listens to [`Talk::closed`].
    fn call<'a>(&'a self, request: Request, talk: &'a mut Talk) -> BoxFuture<'a, Result<Reply, Failure>>;
}

/// The client has hung up, or the engine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nobody listens any more")]
pub struct Gone;

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Failure::failed(gone.to_string())
    }
}

/// The way from a running request to its client.
#[derive(Clone, Debug)]
pub struct Talk {
    items: mpsc::Sender<Item>,
    closed: watch::Receiver<bool>,
}

impl Talk {
    /// A talk and the items that are sent to it, for tests of a [`Service`]. Closed once the receiver is dropped.
    pub fn pair() -> (Self, mpsc::Receiver<Item>) {
        let (items, receiver) = mpsc::channel(QUEUE);
        let (keep_open, closed) = watch::channel(false);
        let watched = items.clone();
        drop(tokio::spawn(async move {
            watched.closed().await;
            keep_open.send_replace(true);
        }));
        (Self { items, closed }, receiver)
    }

    /// Sends an item; waits while the client is slow.
    pub async fn send(&mut self, item: Item) -> Result<(), Gone> {
        self.items.send(item).await.map_err(|_| Gone)
    }

    /// Sends an item unless the client is slow: for progress, where only the latest counts.
    pub fn offer(&mut self, item: Item) {
        // A full queue loses this item, which the next one makes good.
        drop(self.items.try_send(item));
    }

    /// Returns when the client has hung up or the engine stops.
    pub async fn closed(&self) {
        // An error means that the connection's task is gone, which is the same.
        drop(self.closed.clone().wait_for(|closed| *closed).await);
    }

    /// Whether the client has hung up or the engine stops.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.items.is_closed()
    }
}

/// Why the socket cannot be served.
#[derive(Debug, Error)]
#[error("cannot {what} the control socket {path}: {source}", path = path.display())]
pub struct ServeError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The socket, bound.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket in a state directory, with mode 0600, in place of one that a dead engine left. The caller holds
    /// the directory's lock: that is what makes sure that the other engine is dead. To be called within a tokio runtime.
    pub fn bind(state_dir: &Path) -> Result<Self, ServeError> {
        let path = socket_path(state_dir);
        let failed = |what| move |path: &PathBuf, source| ServeError { what, path: path.clone(), source };
        // Under another name first: nobody ever finds a socket that refuses, or that others may open.
        let fresh = format!("{SOCKET_NAME}.new");
        let fresh_path = state_dir.join(&fresh);
        match std::fs::remove_file(&fresh_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(&fresh_path, error)),
            _ => {}
        }
        let listener = address(state_dir, &fresh)
            .and_then(|(address, _dir)| UnixListener::bind(address))
            .map_err(|error| failed("make")(&fresh_path, error))?;
        let owner_only = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::chmod(&fresh_path, owner_only).map_err(|error| failed("protect")(&fresh_path, error.into()))?;
        std::fs::rename(&fresh_path, &path).map_err(|error| failed("make")(&path, error))?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop` is done; then removes the socket, lets requests under way know and gives them two seconds.
    pub async fn serve(self, service: Arc<dyn Service>, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        if may_talk(&stream) {
                            connections.spawn(connection(stream, service.clone(), stopped.clone()));
                        }
                    }
                    // Out of descriptors, for instance: the clients that are there have to end first.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        // It may be the next engine's already; then its name is no longer ours, but removing it needs its lock.
        drop(std::fs::remove_file(&self.path));
        drop(self.listener);
        stopping.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// Whether the other side runs as the same user, or as root.
fn may_talk(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Answers the requests of one client, one after the other.
async fn connection(stream: UnixStream, service: Arc<dyn Service>, mut stopped: watch::Receiver<bool>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut asked = Vec::new();
        let mut limited = (&mut read).take(MAX_REQUEST);
        tokio::select! {
            read = limited.read_until(b'\n', &mut asked) => if !read.is_ok_and(|n| n > 0) { return },
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let whole = asked.ends_with(b"\n");
        let answer = match if whole { parse(&asked) } else { Err(too_long()) } {
            Ok(request) => match run(request, &service, &mut read, &mut write, &mut stopped).await {
                Ok(answer) => answer,
                Err(Gone) => return,
            },
            Err(failure) => Answer::Failure { failure },
        };
        if write.write_all(&line(&answer)).await.is_err() || !whole {
            return;
        }
    }
}

/// Runs one request: passes its items on, keeps the client assured, tells the request when nobody listens any more.
async fn run(
    request: Request,
    service: &Arc<dyn Service>,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
    stopped: &mut watch::Receiver<bool>,
) -> Result<Answer, Gone> {
    let (items, mut queue) = mpsc::channel(QUEUE);
    let (close, closed) = watch::channel(false);
    let service = service.clone();
    // A set of one: dropped with this task, it takes the call along.
    let mut call = JoinSet::new();
    call.spawn(async move {
        let mut talk = Talk { items, closed };
        service.call(request, &mut talk).await
    });
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.reset();
    let mut quiet = false;
    let mut told = false;
    let ended = loop {
        let item = tokio::select! {
            biased;
            Some(item) = queue.recv() => item,
            Some(ended) = call.join_next() => break ended,
            _ = alive.tick() => Item::Alive,
            more = read.fill_buf(), if !quiet => {
                // More bytes are the next request, which waits. None: the client has hung up, or has nothing more to ask
                // and still reads; the next line to it tells which.
                quiet = true;
                if !more.is_ok_and(|bytes| !bytes.is_empty()) {
                    close.send_replace(true);
                }
                continue;
            }
            _ = stopped.wait_for(|stopped| *stopped), if !told => {
                told = true;
                close.send_replace(true);
                continue;
            }
        };
        if write.write_all(&line(&Answer::Item(item))).await.is_err() {
            return abandon(close, queue, call).await;
        }
    };
    while let Ok(item) = queue.try_recv() {
        if write.write_all(&line(&Answer::Item(item))).await.is_err() {
            return Err(Gone);
        }
    }
    Ok(match ended {
        Ok(Ok(reply)) => Answer::Reply(reply),
        Ok(Err(failure)) => Answer::Failure { failure },
        Err(_) => Answer::Failure {
            failure: Failure::failed("the engine failed while it worked on this (an error in the program)")
                .with_hint("see log/engine.log in the state directory"),
        },
    })
}

/// Lets a request whose client has left come to its end.
async fn abandon<T: 'static>(
    close: watch::Sender<bool>,
    queue: mpsc::Receiver<Item>,
    mut call: JoinSet<T>,
) -> Result<Answer, Gone> {
    close.send_replace(true);
    drop(queue);
    call.join_next().await;
    Err(Gone)
}

/// A line as a request.
fn parse(asked: &[u8]) -> Result<Request, Failure> {
    let malformed = |error: serde_json::Error| Failure::new(FailureKind::Usage, format!("not a request: {error}"));
    let AskedVersion { version } = serde_json::from_slice(asked).map_err(malformed)?;
    if version != PROTOCOL {
        let message =
            format!("the engine speaks version {PROTOCOL} of the control protocol, the command version {version}");
        return Err(Failure::new(FailureKind::Version, message).with_hint("run `crdtfs stop`, then the command again"));
    }
    serde_json::from_slice(asked).map(|Asked { request, .. }| request).map_err(malformed)
}

/// For a line beyond the limit.
fn too_long() -> Failure {
    Failure::new(FailureKind::Usage, format!("a request has at most {MAX_REQUEST} bytes and ends with a newline"))
}
