//! The socket at which a supervisor can be asked how it is, and to upgrade. It answers while the worker hangs.
//!
//! # Invariants
//! - Nobody is waited for: a client that does not ask is dropped, one that does not read its answer misses it.
//! - Only the user that mountd runs as, and root, are answered.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};

use super::frame::{self, Answer, Request};
use crate::exit::ExitClass;
use crate::socket::{self, SocketId};

/// A question is one write away from its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nobody needs more at once.
const CLIENTS: usize = 32;

/// The socket, and who connected to it and has not asked yet.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
    own: SocketId,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    deadline: Instant,
}

impl Control {
    /// Listens at `path`, in place of whoever did: the caller has the store, so whoever did is dead or about to be.
    pub(super) fn open(path: &Path) -> io::Result<Control> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Control::over(socket::listen(path)?, path)
    }

    /// Takes over the socket that this process had before it became another program.
    pub(super) fn adopt(listener: OwnedFd, path: &Path) -> io::Result<Control> {
        Control::over(UnixListener::from(listener), path)
    }

    fn over(listener: UnixListener, path: &Path) -> io::Result<Control> {
        listener.set_nonblocking(true)?;
        let own = socket::identify(path)?;
        Ok(Control { listener, path: path.to_owned(), own, clients: Vec::new() })
    }

    /// Removes the socket.
    pub(super) fn close(self) {
        if let Err(error) = socket::remove_own(&self.path, self.own) {
            tracing::warn!(%error, socket = %self.path.display(), "cannot remove the socket");
        }
    }

    /// Returns the socket itself.
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Readable when there is something to do.
    pub(super) fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let room = (self.clients.len() < CLIENTS).then(|| self.listener.as_fd());
        room.into_iter().chain(self.clients.iter().map(|client| client.stream.as_fd()))
    }

    /// Returns when somebody is to be dropped.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.deadline).min()
    }

    /// Lets in who has come, and returns who has asked for what.
    pub(super) fn questions(&mut self) -> Vec<(UnixStream, Request)> {
        self.let_in();
        let now = Instant::now();
        let mut questions = Vec::new();
        for mut client in std::mem::take(&mut self.clients) {
            match client.read() {
                Ok(Some(request)) => questions.push((client.stream, request)),
                Ok(None) if client.deadline > now => self.clients.push(client),
                Ok(None) => {}
                Err(message) => {
                    let exit = ExitClass::Usage.code();
                    answer(client.stream, &Answer::Failed { exit, message });
                }
            }
        }
        questions
    }

    fn let_in(&mut self) {
        while self.clients.len() < CLIENTS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::error!(%error, "cannot accept a client");
                    return;
                }
            };
            if let Err(error) = admit(&stream) {
                tracing::warn!(%error, "refused a client");
                continue;
            }
            let deadline = Instant::now() + PATIENCE;
            self.clients.push(Client { stream, input: Vec::new(), deadline });
        }
    }
}

fn admit(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        let message = format!("user {} may not ask (pid {})", peer.uid(), peer.pid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

impl Client {
    /// Returns the question, `None` while it has not come in full.
    fn read(&mut self) -> Result<Option<Request>, String> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(request) = frame::decode(&self.input).map_err(|error| error.to_string())? {
                return Ok(Some(request));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("a question ended before its end".to_owned()),
                Ok(length) => self.input.extend(buffer.iter().take(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Answers a client, and closes its connection.
pub(super) fn answer(mut stream: UnixStream, answer: &Answer) {
    let sent = frame::encode(answer).map_err(io::Error::other).and_then(|frame| stream.write_all(&frame));
    if let Err(error) = sent {
        // It went away, or does not read what would fit into the socket's buffer.
        tracing::info!(%error, "a client did not wait for its answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_in_pieces_is_answered_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut control = Control::open(&path).unwrap();
        let (mut slow, mut foreign) = (socket::connect(&path).unwrap(), socket::connect(&path).unwrap());
        let question = frame::encode(&Request::Status).unwrap();
        slow.write_all(&question[..5]).unwrap();
        foreign.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(control.questions().is_empty());
        let mut bytes = Vec::new();
        foreign.read_to_end(&mut bytes).unwrap();
        let refusal = frame::decode(&bytes).unwrap().unwrap();
        assert!(matches!(refusal, Answer::Failed { exit: 2, .. }), "{refusal:?}");

        slow.write_all(&question[5..]).unwrap();
        let (stream, request) = control.questions().pop().unwrap();
        assert_eq!(request, Request::Status);
        let told = Answer::Failed { exit: 1, message: "no".to_owned() };
        answer(stream, &told);
        let mut bytes = Vec::new();
        slow.read_to_end(&mut bytes).unwrap();
        assert_eq!(frame::decode(&bytes).unwrap(), Some(told));
        control.close();
        assert!(!path.exists());
    }

    #[test]
    fn who_does_not_ask_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut control = Control::open(&path).unwrap();
        let mut silent = socket::connect(&path).unwrap();
        assert!(control.questions().is_empty());
        assert!(control.deadline().is_some());
        control.clients[0].deadline = Instant::now();
        assert!(control.questions().is_empty());
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        assert_eq!(control.deadline(), None);
    }

    #[test]
    fn a_socket_that_another_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let old = Control::open(&path).unwrap();
        let new = Control::open(&path).unwrap();
        old.close();
        assert!(path.exists());
        new.close();
    }
}
