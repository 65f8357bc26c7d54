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

/// What the host may have none of. It may have some again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Room on the disk.
    Space,
    /// Descriptors.
    Files,
    /// Memory.
    Memory,
    /// Permission to write: the filesystem under the store is read-only.
    Writing,
}

impl Shortage {
    const ALL: [Shortage; 4] = [Shortage::Space, Shortage::Files, Shortage::Memory, Shortage::Writing];

    fn errnos(self) -> &'static [i32] {
        match self {
            Shortage::Space => &[libc::ENOSPC, libc::EDQUOT],
            Shortage::Files => &[libc::EMFILE, libc::ENFILE],
            Shortage::Memory => &[libc::ENOMEM],
            Shortage::Writing => &[libc::EROFS],
        }
    }

    /// As `strerror(3)` says it.
    fn words(self) -> &'static str {
        match self {
            Shortage::Space => "No space left",
            Shortage::Files => "Too many open files",
            Shortage::Memory => "Cannot allocate memory",
            Shortage::Writing => "Read-only file system",
        }
    }
}

impl StoreError {
    /// Returns what the host had none of, if that is what failed.
    pub fn shortage(&self) -> Option<Shortage> {
        let known = Shortage::ALL.into_iter();
        match self {
            StoreError::Io { source, .. } => {
                let code = source.raw_os_error()?;
                known.into_iter().find(|shortage| shortage.errnos().contains(&code))
            }
            // RocksDB has the host's words in its message only.
            StoreError::Database { source } if source.kind() == rocksdb::ErrorKind::IOError => {
                known.into_iter().find(|shortage| source.as_ref().contains(shortage.words()))
            }
            StoreError::Database { .. }
            | StoreError::Locked { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Poisoned { .. } => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_none_of_is_told_from_other_failures() {
        let shortage = |code| {
            let source = io::Error::from_raw_os_error(code);
            StoreError::Io { action: "write", path: PathBuf::from("/s"), source }.shortage()
        };
        let table = [
            (libc::ENOSPC, Some(Shortage::Space)),
            (libc::EDQUOT, Some(Shortage::Space)),
            (libc::EMFILE, Some(Shortage::Files)),
            (libc::ENFILE, Some(Shortage::Files)),
            (libc::ENOMEM, Some(Shortage::Memory)),
            (libc::EROFS, Some(Shortage::Writing)),
            (libc::EIO, None),
            (libc::ENOENT, None),
        ];
        for (code, expected) in table {
            assert_eq!(shortage(code), expected, "{code}");
        }
        // After the first failure nobody knows what the disk holds: that is another thing than having no room.
        assert_eq!(StoreError::Poisoned { first: "No space left on device".into() }.shortage(), None);
    }

    #[test]
    fn the_words_are_those_of_the_host() {
        for shortage in Shortage::ALL {
            let said = shortage.errnos().iter().map(|&code| io::Error::from_raw_os_error(code).to_string());
            assert!(said.into_iter().any(|said| said.contains(shortage.words())), "{shortage:?}");
        }
    }
}
