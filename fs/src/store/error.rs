//! What can go wrong below the overlay.

use std::io;
use std::path::PathBuf;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("store {} is in use by another mountd (pid {pid})", dir.display())]
    Locked {
        /// The store.
        dir: PathBuf,
        /// Who holds it, 0 if unknown.
        pid: i32,
    },
    /// The store was written by a newer durdir.
    #[error("store {} has format {found}, this durdir reads up to {supported}; use the newer durdir that wrote it", dir.display())]
    NewerFormat {
        /// The store.
        dir: PathBuf,
        /// What it says.
        found: u32,
        /// What we read.
        supported: u32,
    },
    /// Bytes are not what was written.
    #[error("corrupt {what}")]
    Corrupt {
        /// Which record, page or file.
        what: String,
    },
    /// RocksDB failed.
    #[error("rocksdb: {source}")]
    Database {
        /// Its words.
        #[from]
        source: rocksdb::Error,
    },
    /// The host failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What we were about.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The host's words.
        source: io::Error,
    },
    /// An earlier write or sync failed: nothing is believed until the store was opened anew.
    #[error("the store stopped after a failed write: {first}; restart mountd")]
    Poisoned {
        /// The first failure.
        first: String,
    },
}

impl StoreError {
    /// Tells whether the host's disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            StoreError::Io { source, .. } => source.raw_os_error() == Some(libc::ENOSPC),
            // RocksDB has the host's words in its message only.
            StoreError::Database { source } => {
                source.kind() == rocksdb::ErrorKind::IOError && source.as_ref().contains("No space left")
            }
            _ => false,
        }
    }

    /// Tells whether bytes are not what was written.
    pub fn is_corruption(&self) -> bool {
        match self {
            StoreError::Corrupt { .. } => true,
            StoreError::Database { source } => source.kind() == rocksdb::ErrorKind::Corruption,
            _ => false,
        }
    }
}
