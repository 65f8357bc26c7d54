//! The sockets that clients come to. They outlive a worker: who connects while there is none waits until there is one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::start::StartError;
use crate::keeper::{Inheritance, Keeper};
use crate::socket;

const API: &str = "api";
const METRICS: &str = "metrics";

/// Returns the listener for clients at `path`: the one that the worker before had, or a new one.
pub(super) fn api(
    keeper: &Keeper,
    inheritance: &mut Inheritance,
    path: &Path,
) -> Result<UnixListener, StartError> {
    if let Some(listener) = inheritance.remove(API).pop() {
        // Somebody may have removed the socket, and then nobody finds the one that was kept.
        if socket::identify(path).is_ok() {
            return Ok(UnixListener::from(listener));
        }
        release(keeper, API);
    }
    let listener = socket::listen(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::SocketInUse { socket: path.to_owned() },
        _ => StartError::Listen { socket: path.to_owned(), source },
    })?;
    keep(keeper, API, listener.as_fd());
    Ok(listener)
}

/// Returns the listener for health and metrics, likewise; `None` where none is configured.
pub(super) fn metrics(
    keeper: &Keeper,
    inheritance: &mut Inheritance,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    let inherited = inheritance.remove(METRICS).pop().map(TcpListener::from);
    let Some(address) = address else {
        if inherited.is_some() {
            release(keeper, METRICS);
        }
        return Ok(None);
    };
    match inherited {
        Some(listener) if is_at(&listener, address) => return Ok(Some(listener)),
        Some(_) => release(keeper, METRICS),
        None => {}
    }
    let listener =
        TcpListener::bind(address).map_err(|source| StartError::ListenMetrics { address, source })?;
    keep(keeper, METRICS, listener.as_fd());
    Ok(Some(listener))
}

/// Lets go of both for good: who connected and was not let in is told so at once.
pub(super) fn release_all(keeper: &Keeper) {
    release(keeper, API);
    release(keeper, METRICS);
}

fn is_at(listener: &TcpListener, address: SocketAddr) -> bool {
    let same_port = |own: SocketAddr| own.port() == address.port() || address.port() == 0;
    listener.local_addr().is_ok_and(|own| own.ip() == address.ip() && same_port(own))
}

fn keep(keeper: &Keeper, name: &str, listener: std::os::fd::BorrowedFd<'_>) {
    if let Err(error) = keeper.keep(name, &[listener]) {
        tracing::warn!(name, %error, "clients will be refused while this worker is replaced");
    }
}

fn release(keeper: &Keeper, name: &str) {
    if let Err(error) = keeper.release(name) {
        tracing::warn!(name, %error, "cannot take back a socket");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_taken_over_where_it_is_still_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        assert!(is_at(&listener, own));
        assert!(is_at(&listener, "127.0.0.1:0".parse().unwrap()));
        assert!(!is_at(&listener, SocketAddr::new(own.ip(), own.port() ^ 1)));
        assert!(!is_at(&listener, SocketAddr::new("127.0.0.2".parse().unwrap(), own.port())));
    }

    #[test]
    fn a_socket_that_was_removed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let old = socket::listen(&path).unwrap();
        let heir = |listener: &UnixListener| Inheritance {
            descriptors: vec![(API.to_owned(), listener.try_clone().unwrap().into())],
            ..Inheritance::none()
        };
        let kept = api(&Keeper::none(), &mut heir(&old), &path).unwrap();
        let waiting = socket::connect(&path).unwrap();
        kept.accept().unwrap();
        drop(waiting);
        std::fs::remove_file(&path).unwrap();
        let new = api(&Keeper::none(), &mut heir(&old), &path).unwrap();
        let waiting = socket::connect(&path).unwrap();
        new.accept().unwrap();
        drop(waiting);
    }
}
