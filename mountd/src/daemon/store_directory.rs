//! The directory of a store: private to its user, and really a store.
//!
//! # Invariants
//! - A directory that holds something else is refused, not made into a store: a mistyped `--store /tmp` must
//!   not close `/tmp` to everybody else.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::exit::ExitClass;
use crate::paths;

/// A directory that cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreDirectoryError {
    /// The system refused something.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another user, and is not open to them alone.
    #[error("store {} belongs to user {owner}; run as that user, or pass another --store", path.display())]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// There is something in it, but no store.
    #[error(
        "{} holds {example:?} and no durdir store; pass an empty or a new directory as --store",
        path.display()
    )]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// Something that was found in it.
        example: std::ffi::OsString,
    },
}

impl StoreDirectoryError {
    /// Returns the class of exit code for this.
    pub(super) fn exit_class(&self) -> ExitClass {
        match self {
            StoreDirectoryError::Io { .. } => ExitClass::Failed,
            StoreDirectoryError::OtherOwner { .. } | StoreDirectoryError::NotAStore { .. } => {
                ExitClass::Refused
            }
        }
    }
}

/// Creates the directory if it is missing, and makes sure that it is ours, private, and a store or
/// fit to become one. Returns its path without symbolic links.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, StoreDirectoryError> {
    let io = |what| move |source| StoreDirectoryError::Io { what, path: path.to_owned(), source };
    paths::create_private_directory(path).map_err(io("create the store directory"))?;
    let path_buf = path.canonicalize().map_err(io("find the store directory"))?;
    let found = std::fs::metadata(path).map_err(io("look at the store directory"))?;
    // Root may serve another user's store; the other way round would not work anyway.
    let own = nix::unistd::geteuid();
    if found.uid() != own.as_raw() && !own.is_root() {
        return Err(StoreDirectoryError::OtherOwner { path: path_buf, owner: found.uid() });
    }
    if let Some(example) = paths::foreign_content(&path_buf).map_err(io("list the store directory"))? {
        return Err(StoreDirectoryError::NotAStore { path: path_buf, example });
    }
    if found.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(io("make private the store directory"))?;
    }
    Ok(path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(prepare(&path).unwrap(), path.canonicalize().unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn an_open_store_is_made_private_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("FORMAT"), "").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_with_something_else_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = prepare(dir.path()).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o755);
    }
}
