//! Starting a private mountd where none runs.
//!
//! # Concurrency
//! Whoever starts a mountd holds an exclusive lock on `mountd.start` until it is ready, and looks
//! again after getting the lock: of two clients, the second finds the daemon of the first. A
//! private mountd that ends takes the same lock and keeps it until its process is gone, so a
//! client never starts one while the store is still being closed.
//!
//! # Crash consistency
//! The lock goes with its holder. A client that dies while its daemon starts leaves a daemon that
//! ends by itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::ClientError;
use crate::daemon::start_detached;
use crate::paths::{self, Endpoint};
use crate::socket;

/// Longer than a start may take.
const LOCK_LIMIT: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(10);

/// Returns a connection to the mountd of a store, starting one if none runs.
pub(super) fn connect_or_start(endpoint: &Endpoint) -> Result<UnixStream, ClientError> {
    if let Some(stream) = try_connect(endpoint)? {
        return Ok(stream);
    }
    let dir = &endpoint.store;
    let fail = |what| move |source| ClientError::StoreDirectory { what, path: dir.clone(), source };
    paths::create_private_directory(dir).map_err(fail("create the store directory"))?;
    // The daemon asks again, but by then its log would be in there.
    if let Some(example) = paths::foreign_content(dir).map_err(fail("list the store directory"))? {
        return Err(ClientError::NotAStore { path: dir.clone(), example });
    }
    let _starting = lock(endpoint)?;
    if let Some(stream) = try_connect(endpoint)? {
        return Ok(stream);
    }
    let arguments = [
        "--private".as_ref(),
        "--store".as_ref(),
        endpoint.store.as_os_str(),
        "--socket".as_ref(),
        endpoint.socket.as_os_str(),
    ];
    start_detached(&find_program()?, arguments, &endpoint.log())?;
    socket::connect(&endpoint.socket)
        .map_err(|source| ClientError::Connect { socket: endpoint.socket.clone(), source })
}

/// Returns a connection if a mountd listens.
pub(super) fn try_connect(endpoint: &Endpoint) -> Result<Option<UnixStream>, ClientError> {
    match socket::connect(&endpoint.socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if socket::is_absent(&error) => Ok(None),
        Err(source) => Err(ClientError::Connect { socket: endpoint.socket.clone(), source }),
    }
}

fn lock(endpoint: &Endpoint) -> Result<Flock<File>, ClientError> {
    let path = endpoint.start_lock();
    let fail = |source| ClientError::StoreDirectory { what: "lock", path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let mut file = options.open(&path).map_err(fail)?;
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(fail(errno.into())),
        }
        if begun.elapsed() >= LOCK_LIMIT {
            let store = endpoint.store.clone();
            return Err(ClientError::StartBusy { store, after: LOCK_LIMIT });
        }
        std::thread::sleep(POLL);
    }
}

/// Returns the mountd that belongs to this program: the one beside it, else the first in `PATH`.
fn find_program() -> Result<PathBuf, ClientError> {
    let own = std::env::current_exe().map_err(|source| ClientError::OwnPath { source })?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside.to_owned())
        .chain(std::env::split_paths(&in_path).filter(|directory| directory.is_absolute()))
        .map(|directory| directory.join("mountd"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| ClientError::NoProgram { beside: beside.to_owned() })
}
