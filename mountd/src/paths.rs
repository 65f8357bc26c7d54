//! Where a store and what belongs to it lie.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::socket;

/// A store directory and the socket of its mountd, both absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The directory of the store.
    pub store: PathBuf,
    /// Where its mountd listens.
    pub socket: PathBuf,
    /// Whether only a socket was named: then whatever store its mountd serves is meant.
    pub any_store: bool,
}

impl Endpoint {
    /// Returns the endpoint for what the command line says, with defaults for what it leaves out.
    ///
    /// # Errors
    /// A relative path cannot be made absolute, or there is no home to put a store into.
    pub fn resolve(store: Option<&Path>, socket: Option<&Path>) -> io::Result<Endpoint> {
        let any_store = store.is_none() && socket.is_some();
        let store = match store {
            Some(store) => std::path::absolute(store)?,
            None => default_store(nix::unistd::geteuid().is_root(), |name| {
                std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
            })
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "no HOME to keep a store in; pass --store DIR")
            })?,
        };
        let socket = match socket {
            Some(socket) => std::path::absolute(socket)?,
            None => store.join(SOCKET),
        };
        Ok(Endpoint { store, socket, any_store })
    }

    /// The log of a mountd that a client started.
    pub fn log(&self) -> PathBuf {
        self.store.join(LOG)
    }

    /// Whoever starts or ends a private mountd holds a lock on this file.
    pub fn start_lock(&self) -> PathBuf {
        self.store.join(START_LOCK)
    }
}

const SOCKET: &str = "mountd.sock";
const LOG: &str = "mountd.log";
const OLD_LOG: &str = "mountd.log.1";
const START_LOCK: &str = "mountd.start";
const SUPERVISOR_SOCKET: &str = "supervisor.sock";
const SUPERVISOR_FILES: &str = "supervisor.";
const NOTIFY_SOCKET: &str = ".notify";

/// Where the supervisor of a store can be asked.
pub fn supervisor_socket(store: &Path) -> PathBuf {
    store.join(SUPERVISOR_SOCKET)
}

/// Where the worker of a supervisor tells how it is. Each supervisor has a socket of its own: one that was started on a
/// store in use must not disturb the one that serves it.
pub fn notify_socket(store: &Path, supervisor: u32) -> PathBuf {
    store.join(format!("{SUPERVISOR_FILES}{supervisor}{NOTIFY_SOCKET}"))
}

/// Removes the notify sockets of supervisors that are gone. Losing one costs nothing but the name.
pub(crate) fn remove_stale_notify_sockets(store: &Path) {
    let Ok(entries) = std::fs::read_dir(store) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_stale = name.starts_with(SUPERVISOR_FILES)
            && name.ends_with(NOTIFY_SOCKET)
            && socket::connect_datagram(&path).is_err_and(|error| socket::is_absent(&error));
        if is_stale && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove a stale socket");
        }
    }
}

/// The name that the log before the present one is kept under.
pub fn rotated(log: &Path) -> PathBuf {
    log.with_file_name(OLD_LOG)
}

/// One of these is in every store that was ever opened.
const STORE_FILES: [&str; 2] = ["LOCK.durdir", "FORMAT"];

/// Returns whether there is a store in a directory. Fails where one may not look.
pub fn is_store(dir: &Path) -> io::Result<bool> {
    for own in STORE_FILES {
        if dir.join(own).try_exists()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks into a directory that is, or is to become, a store, and returns something that it holds
/// if it holds no store but other things. A mistyped `--store /tmp` must not close `/tmp` to
/// everybody else, nor leave anything in it.
pub fn foreign_content(dir: &Path) -> io::Result<Option<std::ffi::OsString>> {
    let own = [SOCKET, LOG, OLD_LOG, START_LOCK, "lost+found"];
    let mut foreign = None;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if STORE_FILES.iter().any(|mark| name == *mark) {
            return Ok(None);
        }
        let is_supervisors = name.to_str().is_some_and(|name| name.starts_with(SUPERVISOR_FILES));
        if !is_supervisors && !own.iter().any(|own| name == *own) {
            foreign = Some(name);
        }
    }
    Ok(foreign)
}

/// Creates a directory, and what is missing above it, for this user only.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn default_store(root: bool, var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/var/lib/durdir"));
    }
    // The XDG specification has relative values ignored.
    let state = var("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(var("HOME")?.join(".local/state")))?;
    Some(state.join("durdir"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_store_follows_the_user() {
        let var = |state: Option<&'static str>, home: Option<&'static str>| {
            move |name: &str| match name {
                "XDG_STATE_HOME" => state.map(PathBuf::from),
                "HOME" => home.map(PathBuf::from),
                _ => None,
            }
        };
        let is = |found: Option<PathBuf>, path: &str| assert_eq!(found, Some(PathBuf::from(path)));
        is(default_store(true, var(Some("/s"), Some("/h"))), "/var/lib/durdir");
        is(default_store(false, var(Some("/s"), Some("/h"))), "/s/durdir");
        is(default_store(false, var(None, Some("/h"))), "/h/.local/state/durdir");
        is(default_store(false, var(Some("relative"), Some("/h"))), "/h/.local/state/durdir");
        assert_eq!(default_store(false, var(None, None)), None);
    }

    #[test]
    fn a_directory_with_other_things_is_told_from_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let content = || foreign_content(dir.path()).unwrap();
        let add = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
        assert_eq!(content(), None);
        add("mountd.log");
        add("mountd.start");
        add("supervisor.12.notify");
        assert_eq!(content(), None);
        add("thesis.tex");
        assert_eq!(content(), Some("thesis.tex".into()));
        assert!(!is_store(dir.path()).unwrap());
        add("FORMAT");
        assert_eq!(content(), None);
        assert!(is_store(dir.path()).unwrap());
    }

    #[test]
    fn only_sockets_of_supervisors_that_are_gone_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [live, stale] = [1, 2].map(|pid| notify_socket(dir.path(), pid));
        let _listening = socket::bind_datagram(&live).unwrap();
        drop(socket::bind_datagram(&stale).unwrap());
        std::fs::write(supervisor_socket(dir.path()), "").unwrap();
        remove_stale_notify_sockets(dir.path());
        assert!(live.exists() && !stale.exists() && supervisor_socket(dir.path()).exists());
    }

    #[test]
    fn the_socket_lies_in_the_store_unless_told_otherwise() {
        let endpoint = Endpoint::resolve(Some(Path::new("/s")), None).unwrap();
        assert_eq!(endpoint.socket, Path::new("/s/mountd.sock"));
        let endpoint = Endpoint::resolve(Some(Path::new("/s")), Some(Path::new("/r/x"))).unwrap();
        assert_eq!(endpoint.socket, Path::new("/r/x"));
        assert!(!endpoint.any_store);
        assert!(Endpoint::resolve(None, Some(Path::new("/r/x"))).unwrap().any_store);
    }
}
