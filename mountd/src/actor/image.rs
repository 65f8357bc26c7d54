//! The files that a runtime saved memory into.

use std::fs::File;
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle};

use durdir_snapshot::sync_files;
use serde::{Deserialize, Serialize};

use super::error::ActorError;

/// A file of a memory image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

impl ImageFile {
    /// Reads and hashes a file.
    pub(super) fn of(image: &Path, name: &str) -> Result<ImageFile, ActorError> {
        let path = image.join(name);
        let failed = |source| ActorError::Io { action: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(failed)?;
        let (bytes, blake3) = (hasher.count(), hasher.finalize().to_hex().to_string());
        Ok(ImageFile { name: name.to_owned(), bytes, blake3 })
    }

    /// Describes all files of an image.
    pub(super) fn all(image: &Path) -> Result<Vec<ImageFile>, ActorError> {
        names_in(image)?.iter().map(|name| ImageFile::of(image, name)).collect()
    }
}

/// An image that is being hashed, and brought to the disk, while something else is done.
#[derive(Debug)]
pub(super) struct Storing<'scope> {
    hashed: ScopedJoinHandle<'scope, Result<Vec<ImageFile>, ActorError>>,
    synced: Synced<'scope>,
}

/// Ends when the image is on the disk.
pub(super) type Synced<'scope> = ScopedJoinHandle<'scope, Result<(), ActorError>>;

impl<'scope> Storing<'scope> {
    /// Begins with both.
    pub(super) fn begin<'env>(scope: &'scope Scope<'scope, 'env>, image: &'env Path) -> Storing<'scope> {
        let failed = |source| ActorError::Io { action: "sync", path: image.to_owned(), source };
        Storing {
            hashed: scope.spawn(|| ImageFile::all(image)),
            synced: scope.spawn(move || sync_files(image).map_err(failed)),
        }
    }

    /// Waits until the files are hashed, and describes them. What is left is to wait until they are on the disk.
    pub(super) fn files(self) -> Result<(Vec<ImageFile>, Synced<'scope>), ActorError> {
        Ok((joined(self.hashed)?, self.synced))
    }
}

/// Returns the names of the files of an image, in order.
pub(super) fn names_in(image: &Path) -> Result<Vec<String>, ActorError> {
    let failed = |source| ActorError::Io { action: "list", path: image.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(image).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Returns what a thread has come to.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
