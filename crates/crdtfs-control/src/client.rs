//! The command's end of the socket. Blocking: commands do one thing at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::failure::Failure;
use crate::frame::{Answer, Asked, MAX_REPLY, line};
use crate::reply::Item;
use crate::request::{Call, Request};
use crate::server::ALIVE_EVERY;
use crate::socket::{address, socket_path};
use crate::{PROTOCOL, SOCKET_NAME};

/// An engine that says nothing for so long is taken for dead: it owes a line every [`ALIVE_EVERY`].
const SILENCE: Duration = Duration::from_secs(6 * ALIVE_EVERY.as_secs());

/// Why a request has no reply.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No engine runs on this state directory.
    #[error("no engine runs on {state_dir}", state_dir = state_dir.display())]
    NotRunning {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// The socket is there and cannot be used.
    #[error("cannot reach the engine over {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The engine left, or was killed, before it answered.
    #[error("the engine went away before it answered")]
    Lost,
    /// The engine said nothing for half a minute.
    #[error("the engine has not answered for {} seconds", SILENCE.as_secs())]
    Silent,
    /// The connection failed.
    #[error("the connection to the engine failed: {0}")]
    Io(io::Error),
    /// The engine sent what is no answer to this request.
    #[error("the engine sent what is no answer: {0}")]
    Garbled(String),
    /// The engine said why it did not do it.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Who received the items failed.
    #[error("cannot pass on what the engine sent: {0}")]
    Receiver(io::Error),
}

/// A connection to a running engine.
#[derive(Debug)]
pub struct Client {
    read: BufReader<UnixStream>,
    write: UnixStream,
}

impl Client {
    /// Connects to the engine of a state directory.
    pub fn connect(state_dir: &Path) -> Result<Self, ClientError> {
        let path = socket_path(state_dir);
        let connect = || {
            let (address, _dir) = address(state_dir, SOCKET_NAME)?;
            let write = UnixStream::connect(address)?;
            if is_dead(&write) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            write.set_read_timeout(Some(SILENCE))?;
            write.set_write_timeout(Some(SILENCE))?;
            Ok(Self { read: BufReader::new(write.try_clone()?), write })
        };
        connect().map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { state_dir: state_dir.to_owned() }
            }
            _ => ClientError::Connect { path, source },
        })
    }

    /// Asks, passing over what comes before the reply.
    pub fn call<C: Call>(&mut self, request: C) -> Result<C::Reply, ClientError> {
        self.call_with(request, |_| Ok(()))
    }

    /// Asks; `receive` gets what comes before the reply, in order. Its error ends the call and makes the connection
    /// useless for another one.
    pub fn call_with<C: Call>(
        &mut self,
        request: C,
        mut receive: impl FnMut(Item) -> io::Result<()>,
    ) -> Result<C::Reply, ClientError> {
        let request: Request = request.into();
        self.write.write_all(&line(&Asked { version: PROTOCOL, request })).map_err(lost)?;
        loop {
            match self.answer()? {
                Answer::Item(Item::Alive | Item::Unknown) => {}
                Answer::Item(item) => receive(item).map_err(ClientError::Receiver)?,
                Answer::Failure { failure } => return Err(failure.into()),
                Answer::Reply(reply) => {
                    let of_another = |_| ClientError::Garbled("the reply to another request".to_owned());
                    return C::Reply::try_from(reply).map_err(of_another);
                }
            }
        }
    }

    /// Returns once the engine has closed the connection, which its end does at the latest. `patience` bounds the wait;
    /// true if it is closed.
    pub fn wait_closed(self, patience: Duration) -> bool {
        let Self { mut read, write } = self;
        // Without a timeout the engine's end is still the end of this wait.
        drop(write.set_read_timeout(Some(patience.max(Duration::from_millis(1)))));
        let mut rest = [0; 4096];
        loop {
            match read.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
        }
    }

    /// The next line.
    fn answer(&mut self) -> Result<Answer, ClientError> {
        let mut answer = Vec::new();
        (&mut self.read).take(MAX_REPLY).read_until(b'\n', &mut answer).map_err(lost)?;
        if answer.last() != Some(&b'\n') {
            let whole = answer.len() as u64 == MAX_REPLY;
            return Err(if whole { ClientError::Garbled("a line without end".to_owned()) } else { ClientError::Lost });
        }
        serde_json::from_slice(&answer).map_err(|error| ClientError::Garbled(error.to_string()))
    }
}

/// Whether the process that listens was killed: its socket may outlive it for as long as one of its threads cannot end
/// (proc_pid_stat(5)).
fn is_dead(stream: &UnixStream) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid)).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// What an error of the connection means.
fn lost(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Lost,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent,
        _ => ClientError::Io(error),
    }
}
