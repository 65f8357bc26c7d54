//! Messages to the keeper: one datagram each, with descriptors where there are some.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::socket;

/// The keeper does nothing but answer; if it does not, it is stopped or the machine is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where messages go.
#[derive(Debug)]
pub(super) struct Channel {
    address: Address,
}

#[derive(Debug)]
enum Address {
    Path(PathBuf),
    Abstract(SocketAddr),
}

impl Channel {
    /// `address` is a path, or `@` and an abstract name.
    pub(super) fn new(address: &Path) -> io::Result<Channel> {
        let address = match address.as_os_str().as_bytes().split_first() {
            Some((b'@', name)) => Address::Abstract(SocketAddr::from_abstract_name(name)?),
            Some((b'/', _)) => Address::Path(address.to_owned()),
            _ => {
                let message = format!("cannot send to the NOTIFY_SOCKET {}", address.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        };
        Ok(Channel { address })
    }

    /// Sends a message, and duplicates of descriptors with it.
    pub(super) fn send(&self, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "one descriptor per message"));
        }
        // A socket of its own each time: the keeper may have made its own anew, as systemd does.
        let socket = self.connect()?;
        let message = [io::IoSlice::new(message.as_bytes())];
        rustix::io::retry_on_intr(|| sendmsg(&socket, &message, &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Returns when the keeper has taken everything that was sent before: it closes the pipe that comes with this
    /// message, and it takes messages in order.
    pub(super) fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = io::pipe()?;
        self.send("BARRIER=1", &[std::os::fd::AsFd::as_fd(&theirs)])?;
        drop(theirs);
        let mut watched = [PollFd::new(&ours, PollFlags::empty())];
        let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&patience)))? == 0 {
            let message = format!("no answer within {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        // The pipe is also closed by the death of the keeper, which then has nothing.
        self.connect().map(drop)
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = match &self.address {
            Address::Path(path) => socket::connect_datagram(path)?,
            Address::Abstract(name) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect_addr(name)?;
                socket
            }
        };
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }
}
