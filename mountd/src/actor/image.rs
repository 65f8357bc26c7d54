//! The files that a runtime saved memory into, and their way to the disk.
//!
//! # Overview
//! ```text
//!   save ──────────────────────────────▶ cut ─────────▶ manifest
//!    └ Saving: what is there is written out,  └ Storing: hashed ──┘ and synced
//!      and hashed if it is only appended to
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use durdir_snapshot::{open_regular, sync_files};
use serde::{Deserialize, Serialize};

use super::error::ActorError;
use super::following::{Followed, follow};

/// How often it is looked whether there is something to be written out while an image is being saved.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of an image may wait to be written out: for less it is not worth a wait for the disk of its own.
const MAY_WAIT: u64 = 16 << 20;

/// What is read at a time, so small that it is in a cache when it is hashed, and how many of these the reader may be ahead.
const PIECE: usize = 1 << 20;
const AHEAD: usize = 2;
/// From where on a second thread is worth its start.
const LARGE: u64 = 4 << 20;

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
        let hasher = hash(open_regular(&path).map_err(failed)?).map_err(failed)?;
        let (bytes, blake3) = (hasher.count(), hasher.finalize().to_hex().to_string());
        Ok(ImageFile { name: name.to_owned(), bytes, blake3 })
    }

    /// Returns how many bytes a file has.
    pub(super) fn size_of(image: &Path, name: &str) -> Result<u64, ActorError> {
        let path = image.join(name);
        let size = open_regular(&path).and_then(|file| Ok(file.metadata()?.len()));
        size.map_err(|source| ActorError::Io { action: "read", path, source })
    }

    /// Describes a file that was hashed while it was written.
    fn of_followed(image: &Path, name: &str, followed: &Followed) -> Result<ImageFile, ActorError> {
        let path = image.join(name);
        match followed.hash_of(&path) {
            Ok(Some((hash, bytes))) => {
                Ok(ImageFile { name: name.to_owned(), bytes, blake3: hash.to_hex().to_string() })
            }
            Ok(None) => ImageFile::of(image, name),
            Err(source) => Err(ActorError::Io { action: "look at", path, source }),
        }
    }

    /// Describes all files of an image.
    #[cfg(test)]
    pub(super) fn all(image: &Path) -> Result<Vec<ImageFile>, ActorError> {
        names_in(image)?.iter().map(|name| ImageFile::of(image, name)).collect()
    }
}

/// Hashes a file: programs stand still over that. A large one is read on one thread and hashed on another.
fn hash(mut file: File) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    if file.metadata()?.len() < LARGE {
        hasher.update_reader(file)?;
        return Ok(hasher);
    }
    let (give, take) = sync_channel::<Vec<u8>>(AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<()> {
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
                // Nobody takes any more if the other thread panics.
                if piece.is_empty() || give.send(piece).is_err() {
                    return Ok(());
                }
            }
        });
        for piece in take {
            hasher.update(&piece);
        }
        joined(reader)
    })?;
    Ok(hasher)
}

/// An image that is being saved. What is there already is brought to the disk, so that little is left for when it is complete: a cut that
/// comes then has the disk to itself.
#[derive(Debug)]
pub(super) struct Saving<'scope> {
    complete: [Sender<()>; 2],
    synced: Synced<'scope>,
    followed: ScopedJoinHandle<'scope, Result<Option<Followed>, ActorError>>,
    appended: Option<&'static str>,
}

impl<'scope> Saving<'scope> {
    /// Begins. If it is dropped, the save has failed, and nothing more is done. `appended`: the file that is only ever appended to, if
    /// there is one.
    pub(super) fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        image: &'env Path,
        appended: Option<&'static str>,
    ) -> Saving<'scope> {
        let (complete, completed) = channel();
        let (complete_too, completed_too) = channel();
        let followed = scope.spawn(move || {
            let Some(path) = appended.map(|name| image.join(name)) else { return Ok(None) };
            follow(&path, &completed_too).map_err(|source| ActorError::Io { action: "read", path, source })
        });
        let failed = |source| ActorError::Io { action: "sync", path: image.to_owned(), source };
        let synced = scope.spawn(move || {
            let mut written_out = 0;
            loop {
                match completed.recv_timeout(LOOK_EVERY) {
                    // The system tells an error once: it must not be lost here.
                    Err(RecvTimeoutError::Timeout) => {
                        let bytes = size(image)?;
                        if bytes >= written_out + MAY_WAIT {
                            write_out(image)?;
                            written_out = bytes;
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    Ok(()) => return sync_files(image).map_err(failed),
                }
            }
        });
        Saving { complete: [complete, complete_too], synced, followed, appended }
    }

    /// Notes that the image is complete.
    pub(super) fn complete<'env>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        image: &'env Path,
    ) -> Storing<'scope> {
        let Saving { complete, synced, followed, appended } = self;
        // Who has ended already has failed, and tells that to who waits for it, or had nothing to do.
        complete.iter().for_each(|complete| complete.send(()).unwrap_or_default());
        let hashed = scope.spawn(move || {
            let followed = joined(followed)?;
            let describe = |name: &String| match &followed {
                Some(followed) if appended == Some(name.as_str()) => {
                    ImageFile::of_followed(image, name, followed)
                }
                _ => ImageFile::of(image, name),
            };
            names_in(image)?.iter().map(describe).collect()
        });
        Storing { hashed, synced }
    }
}

/// Returns what an image takes so far, in bytes.
fn size(image: &Path) -> Result<u64, ActorError> {
    let mut bytes = 0;
    for name in names_in(image)? {
        let path = image.join(name);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => {
                bytes +=
                    found.map_err(|source| ActorError::Io { action: "look at", path, source })?.blocks() * 512
            }
        }
    }
    Ok(bytes)
}

/// Brings to the disk what a runtime has written so far. Files of its own may come and go.
fn write_out(image: &Path) -> Result<(), ActorError> {
    for name in names_in(image)? {
        let path = image.join(name);
        match File::open(&path).and_then(|file| file.sync_data()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(|source| ActorError::Io { action: "sync", path, source })?,
        }
    }
    Ok(())
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
        Saving::begin(scope, image, None).complete(scope, image)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_while_memory_is_saved_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (image, looping) = (dir.path(), dir.path().join("looping"));
        std::fs::write(image.join("memory"), vec![1; usize::try_from(MAY_WAIT).unwrap()]).unwrap();
        std::os::unix::fs::symlink(&looping, &looping).unwrap();
        std::thread::scope(|scope| {
            let saving = Saving::begin(scope, image, None);
            while !saving.synced.is_finished() {
                std::thread::yield_now();
            }
            std::fs::remove_file(&looping).unwrap();
            let (files, synced) = saving.complete(scope, image).files().unwrap();
            assert_eq!(files.len(), 1);
            assert!(matches!(joined(synced), Err(ActorError::Io { action: "sync", .. })));
        });
    }

    #[test]
    fn a_hash_does_not_depend_on_how_a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let large = usize::try_from(LARGE).unwrap();
        let bytes: Vec<u8> = (0..2 * large + 77_777).map(|at| (at % 251) as u8).collect();
        for length in [0, 1, 70_000, large - 1, large, large + 1, bytes.len()] {
            std::fs::write(dir.path().join("memory"), &bytes[..length]).unwrap();
            let file = ImageFile::of(dir.path(), "memory").unwrap();
            let expected = blake3::hash(&bytes[..length]).to_hex().to_string();
            assert_eq!((file.bytes, file.blake3), (length as u64, expected), "{length}");
        }
    }

    #[test]
    fn nothing_waits_for_a_save_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("gone");
        std::thread::scope(|scope| {
            let Saving { complete, synced, followed, .. } = Saving::begin(scope, &image, Some("memory"));
            drop(complete);
            joined(synced).unwrap();
            assert!(joined(followed).unwrap().is_none());
        });
    }
}
