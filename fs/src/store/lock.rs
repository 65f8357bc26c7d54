//! Only one process at a time has a store open.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::StoreError;

/// Returns the file that is locked while a store is open: it is there as long as the store is.
pub fn lock_file(store: &Path) -> PathBuf {
    store.join("LOCK.durdir")
}

/// The lock of an open store; gone with the process, however it ends. Who has it without the store keeps others from opening that.
pub struct StoreLock {
    _file: Flock<File>,
}

impl StoreLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process has it, and is named; or the file cannot be opened or written.
    pub fn take(dir: &Path) -> Result<StoreLock, StoreError> {
        let path = lock_file(dir);
        let io = |action, source| StoreError::Io { action, path: path.clone(), source };
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| io("open", source))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(|source| io("write", source))?;
                file.seek(SeekFrom::Start(0)).map_err(|source| io("write", source))?;
                write!(file, "{}", std::process::id()).map_err(|source| io("write", source))?;
                Ok(StoreLock { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // Who holds it is a courtesy: an unreadable number is shown as 0.
                let pid =
                    file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0);
                Err(StoreError::Locked { dir: dir.to_owned(), pid })
            }
            Err((_, errno)) => Err(io("lock", errno.into())),
        }
    }
}
