//! The Unix socket that clients and the daemon meet at, whatever the length of its path.
//!
//! `sun_path` holds 107 bytes. A longer path is reached through a descriptor of its directory,
//! `/proc/self/fd/N/NAME`, which names the same socket.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that `sockaddr_un` takes, without its final NUL.
const LONGEST: usize = 107;

/// Listens at `path` with mode 0600, replacing a socket that nobody listens at any more.
///
/// # Errors
/// `AddrInUse` where somebody does; `AlreadyExists` where `path` is not a socket.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let listener = through_short_path(path, |short| UnixListener::bind(short))?;
    // The daemon's umask made it private from the start; this covers a caller with another umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells the socket at a path from another one that took its place. A socket keeps its number for as long as
/// somebody listens at it, even after its name is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketId {
    device: u64,
    inode: u64,
}

/// Returns which socket is at `path`.
pub fn identify(path: &Path) -> io::Result<SocketId> {
    let found = std::fs::symlink_metadata(path)?;
    Ok(SocketId { device: found.dev(), inode: found.ino() })
}

/// Removes the socket at `path` if it is `own`: a store may have been deleted and made anew, with another
/// mountd, while this one was still there.
pub fn remove_own(path: &Path, own: SocketId) -> io::Result<()> {
    match identify(path) {
        Ok(found) if found == own => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connects to the socket at `path`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    through_short_path(path, |short| UnixStream::connect(short))
}

/// Returns a datagram socket whose messages go to the socket at `path`.
pub fn connect_datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    through_short_path(path, |short| socket.connect(short))?;
    Ok(socket)
}

/// Receives datagrams at `path`, with mode 0600, in place of whatever socket was there.
pub fn bind_datagram(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = through_short_path(path, |short| UnixDatagram::bind(short))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Returns whether an error of [`connect`] means that nobody listens there.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "exists and is not a socket"));
        }
        Ok(_) => {}
    }
    match connect(path) {
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        Err(error) if is_absent(&error) => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn through_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // Held until `act` is done: the short path leads through it.
    let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    act(&short)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_long_path_connects_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("mountd.sock");
        let listener = listen(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        connect(&path).unwrap().write_all(b"x").unwrap();
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(listen(&path).unwrap());
        let live = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(is_absent(&connect(&path).unwrap_err()));
        assert!(is_absent(&connect(&dir.path().join("none")).unwrap_err()));
    }

    #[test]
    fn only_the_own_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _old = listen(&path).unwrap();
        let own = identify(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        remove_own(&path, own).unwrap();
        let _new = listen(&path).unwrap();
        remove_own(&path, own).unwrap();
        assert!(path.exists());
        remove_own(&path, identify(&path).unwrap()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn something_else_at_the_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
