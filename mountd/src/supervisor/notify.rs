//! The socket on which one worker tells its supervisor how it is and what to keep.
//!
//! # Invariants
//! - Each worker has a socket of its own. Nothing that an earlier one said is taken for the word of the present one.
//! - Of a worker that died, everything it had sent is read before the next is started: see [`NotifySocket::receive`].

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::keeper::PREPARED;
use crate::socket;

/// Longer than any message of ours, and than what systemd takes.
const LONGEST: usize = 4096;
/// One message brings one descriptor; who sends more is not our worker.
const DESCRIPTORS: usize = 16;

/// Where the messages of one worker arrive.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

/// Lines of a message, understood, and the descriptors that came with it.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) ready: bool,
    pub(super) stopping: bool,
    pub(super) alive: bool,
    /// It needs so many microseconds more to come to an end.
    pub(super) more_time: Option<u64>,
    /// Ours: it may be replaced with little left to be read again.
    pub(super) prepared: bool,
    pub(super) status: Option<String>,
    pub(super) store: bool,
    pub(super) remove: bool,
    pub(super) name: Option<String>,
    /// Closed when the message is dropped: that is what whoever sent `BARRIER=1` waits for.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl NotifySocket {
    /// Makes the socket for the next worker.
    pub(super) fn bind(path: &Path) -> io::Result<NotifySocket> {
        let socket = socket::bind_datagram(path)?;
        socket.set_nonblocking(true)?;
        Ok(NotifySocket { socket: socket.into(), path: path.to_owned() })
    }

    /// Takes over a socket that was bound to `path` by this process before it became another program.
    pub(super) fn adopt(socket: OwnedFd, path: &Path) -> NotifySocket {
        NotifySocket { socket, path: path.to_owned() }
    }

    /// Returns what the worker is to have in `NOTIFY_SOCKET`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the next message, `None` if none has come.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        let mut text = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        Ok(Some(Message { descriptors, ..Message::parse(&text) }))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Message {
    /// Understands the assignments that matter here; others are for other keepers.
    fn parse(text: &str) -> Message {
        let mut message = Message::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => message.ready = true,
                Some(("STOPPING", "1")) => message.stopping = true,
                Some(("WATCHDOG", "1")) => message.alive = true,
                Some(("EXTEND_TIMEOUT_USEC", micros)) => message.more_time = micros.parse().ok(),
                Some(("FDSTORE", "1")) => message.store = true,
                Some(("FDSTOREREMOVE", "1")) => message.remove = true,
                Some(("FDNAME", name)) => message.name = Some(name.to_owned()),
                Some((PREPARED, "1")) => message.prepared = true,
                Some(("STATUS", status)) => message.status = Some(status.to_owned()),
                _ => {}
            }
        }
        message
    }
}
