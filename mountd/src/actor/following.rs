//! Hashing a file while it is being written.
//!
//! What is only ever appended to is hashed as it grows: when it is complete little is left to be read, however large it is. Programs stand
//! still over that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use durdir_snapshot::open_regular;

/// How long to wait for more. What a runtime writes meanwhile is what is left at the end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A file that was hashed up to its end.
pub(super) struct Followed {
    file: File,
    hasher: blake3::Hasher,
}

/// Hashes a file, which need not be there yet, until `complete` says that nothing more comes. `None` if it never does, or there is no file.
pub(super) fn follow(path: &Path, complete: &Receiver<()>) -> io::Result<Option<Followed>> {
    let mut followed: Option<Followed> = None;
    let mut is_complete = false;
    loop {
        if followed.is_none() {
            followed = match open_regular(path) {
                Ok(file) => Some(Followed { file, hasher: blake3::Hasher::new() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        if let Some(Followed { file, hasher }) = &mut followed {
            hasher.update_reader(file)?;
        }
        if is_complete {
            return Ok(followed);
        }
        match complete.recv_timeout(LOOK_EVERY) {
            Ok(()) => is_complete = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

impl Followed {
    /// Returns the hash of the file and its bytes; `None` if another one has its name by now, or it became shorter.
    pub(super) fn hash_of(&self, path: &Path) -> io::Result<Option<(blake3::Hash, u64)>> {
        let (named, own, bytes) = (fs::symlink_metadata(path)?, self.file.metadata()?, self.hasher.count());
        let is_all = (named.dev(), named.ino(), named.len()) == (own.dev(), own.ino(), bytes);
        Ok(is_all.then(|| (self.hasher.finalize(), bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_appended_is_hashed_as_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let (complete, completed) = channel();
        std::thread::scope(|scope| {
            let path = &path;
            let following = scope.spawn(move || follow(path, &completed));
            let mut file = File::create(path).unwrap();
            for piece in 0..50u8 {
                file.write_all(&vec![piece; 10_007]).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
            complete.send(()).unwrap();
            let followed = following.join().unwrap().unwrap().unwrap();
            let all = fs::read(path).unwrap();
            assert_eq!(followed.hash_of(path).unwrap(), Some((blake3::hash(&all), all.len() as u64)));
        });
    }

    #[test]
    fn a_file_that_became_another_is_not_taken_for_it() {
        for change in [
            |path: &Path| fs::remove_file(path).and_then(|()| fs::write(path, "1234")),
            |path: &Path| fs::write(path, "12"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("memory");
            fs::write(&path, "1234").unwrap();
            let (complete, completed) = channel();
            complete.send(()).unwrap();
            let followed = follow(&path, &completed).unwrap().unwrap();
            assert!(followed.hash_of(&path).unwrap().is_some());
            change(&path).unwrap();
            assert_eq!(followed.hash_of(&path).unwrap(), None);
        }
    }

    #[test]
    fn nobody_follows_a_file_that_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (complete, completed) = channel::<()>();
        drop(complete);
        assert!(follow(&dir.path().join("never"), &completed).unwrap().is_none());
    }
}
