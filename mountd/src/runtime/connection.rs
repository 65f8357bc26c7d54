//! A connection to a port inside a sandbox.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Deadline, RuntimeError};

/// The shortest time that the system does not take for an endless one.
const SHORTEST: Duration = Duration::from_millis(1);

/// A stream to a program that listens inside a sandbox. How it gets there differs: straight over a network, or through the
/// runtime, which hands over a Unix socket.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Over a network that the host has a way into.
    Tcp(TcpStream),
    /// Through the runtime.
    Unix(UnixStream),
}

impl Connection {
    /// Connects to an address of the network that this thread is in.
    pub(super) fn tcp(
        runtime: &'static str,
        address: SocketAddr,
        deadline: Deadline,
    ) -> Result<Connection, RuntimeError> {
        let (program, action) = (runtime.to_owned(), format!("connect to {address}"));
        // Zero is not taken for a time.
        let left = deadline.left().max(SHORTEST);
        TcpStream::connect_timeout(&address, left).map(Connection::Tcp).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => RuntimeError::TimedOut { program, action },
            _ => RuntimeError::Failed { program, action, detail: error.to_string() },
        })
    }

    /// Bounds each later read and write. A time of zero is taken for the shortest there is: the system's zero means for ever.
    pub(crate) fn set_timeout(&self, time: Duration) -> io::Result<()> {
        let time = Some(time.max(SHORTEST));
        match self {
            Connection::Tcp(stream) => {
                stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time))
            }
            Connection::Unix(stream) => {
                stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time))
            }
        }
    }
}

/// Connects to a Unix socket. Who listens there may take nobody in for ever: that ends with the deadline.
pub(super) fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let stream =
        UnixStream::from(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?);
    loop {
        if deadline.passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Bounds how long a connection waits as well, see `unix(7)`.
        stream.set_write_timeout(Some(deadline.left().max(SHORTEST)))?;
        match connect(&stream, &address) {
            Ok(()) => return Ok(stream),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.read(buffer),
            Connection::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.write(buffer),
            Connection::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Tcp(stream) => stream.flush(),
            Connection::Unix(stream) => stream.flush(),
        }
    }
}
