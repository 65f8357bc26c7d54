//! Captures in a directory of this host.
//!
//! ```text
//! DIR/ID/manifest.json     the last that appears
//!        files/NAME        what it names: hard links where they can be, copies otherwise
//! ```
//!
//! # Crash consistency
//! Files first, on the disk, then the manifest by a rename: a capture without a manifest is none, and publishing it again begins
//! anew. Whatever was published is never changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable::{sync_directory, sync_files, write_durably};
use crate::reading::read_small;
use crate::target::{Opened, Publication, Target, TargetError};

const MANIFEST: &str = "manifest.json";
const FILES: &str = "files";

/// A directory that captures are published to.
#[derive(Clone, Debug)]
pub struct LocalDirectory(PathBuf);

impl LocalDirectory {
    /// Returns the one at an absolute path. It need not exist yet.
    pub fn at(path: &Path) -> LocalDirectory {
        LocalDirectory(path.to_owned())
    }

    fn of(&self, id: &str) -> Result<PathBuf, TargetError> {
        let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain { Ok(self.0.join(id)) } else { Err(TargetError::BadName { name: id.to_owned() }) }
    }

    /// Brings the names of a capture to the disk.
    fn sync(&self, directory: &Path) -> Result<(), TargetError> {
        for directory in [directory, &self.0] {
            sync_directory(directory).map_err(|error| failed("sync", directory, error))?;
        }
        Ok(())
    }
}

impl Target for LocalDirectory {
    fn check(&self) -> Result<(), TargetError> {
        create(&self.0)?;
        // Only writing tells whether it can be written: a disk may be full, or read-only.
        static PROBES: AtomicU64 = AtomicU64::new(0);
        let number = PROBES.fetch_add(1, Ordering::Relaxed);
        let probe = self.0.join(format!(".probe-{}-{number}", std::process::id()));
        File::create(&probe)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(|error| failed("write", &probe, error))
    }

    fn publish(&self, publication: Publication<'_>) -> Result<(), TargetError> {
        let directory = self.of(publication.id)?;
        let manifest = directory.join(MANIFEST);
        match read_small(&manifest) {
            // Who gave it its name may have died before that was on the disk.
            Ok(there) if there == publication.manifest => return self.sync(&directory),
            Ok(_) => {
                return Err(TargetError::Other { id: publication.id.to_owned(), place: self.0.clone() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &manifest, error)),
        }
        let files = directory.join(FILES);
        match std::fs::remove_dir_all(&files) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &files, error));
            }
            Ok(()) | Err(_) => {}
        }
        create(&files)?;
        for name in publication.names {
            let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
            if !plain {
                return Err(TargetError::BadName { name: name.clone() });
            }
            take(&publication.files.join(name), &files.join(name))?;
        }
        sync_files(&files).map_err(|error| failed("sync", &files, error))?;
        write_durably(&manifest, publication.manifest).map_err(|error| failed("write", &manifest, error))?;
        self.sync(&directory)
    }

    fn withdraw(&self, id: &str) -> Result<(), TargetError> {
        let directory = self.of(id)?;
        // The manifest first: half of a capture is none.
        for removed in [std::fs::remove_file(directory.join(MANIFEST)), std::fs::remove_dir_all(&directory)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &directory, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn open(&self, id: &str) -> Result<Opened, TargetError> {
        let directory = self.of(id)?;
        let manifest = directory.join(MANIFEST);
        match read_small(&manifest) {
            Ok(manifest) => Ok(Opened { manifest, files: directory.join(FILES) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(TargetError::NotFound { id: id.to_owned(), place: self.0.clone() })
            }
            Err(error) => Err(failed("read", &manifest, error)),
        }
    }
}

/// Gives a file another name, or copies it: to another file system, or where one may not have more names.
fn take(from: &Path, to: &Path) -> Result<(), TargetError> {
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map(drop).map_err(|error| failed("copy", from, error))
}

fn create(path: &Path) -> Result<(), TargetError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("create", path, error))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> TargetError {
    TargetError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        target: LocalDirectory,
        files: PathBuf,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("memory"), "m").unwrap();
        let target = LocalDirectory::at(&dir.path().join("a/b"));
        Fixture { _dir: dir, target, files }
    }

    fn publish(fixture: &Fixture, id: &str, manifest: &str, name: &str) -> Result<(), TargetError> {
        let names = [name.to_owned()];
        let manifest = manifest.as_bytes();
        fixture.target.publish(Publication { id, manifest, files: &fixture.files, names: &names })
    }

    #[test]
    fn what_was_published_comes_back() {
        let fixture = fixture();
        fixture.target.check().unwrap();
        publish(&fixture, "c-1", "manifest", "memory").unwrap();
        publish(&fixture, "c-1", "manifest", "memory").unwrap();
        let opened = fixture.target.open("c-1").unwrap();
        assert_eq!(opened.manifest, b"manifest");
        assert_eq!(std::fs::read(opened.files.join("memory")).unwrap(), b"m");
        assert!(matches!(fixture.target.open("c-2"), Err(TargetError::NotFound { .. })));
    }

    #[test]
    fn what_was_published_is_never_changed() {
        let fixture = fixture();
        publish(&fixture, "c-1", "manifest", "memory").unwrap();
        let refused = publish(&fixture, "c-1", "other", "memory").unwrap_err();
        assert!(matches!(refused, TargetError::Other { .. }), "{refused}");
        assert_eq!(fixture.target.open("c-1").unwrap().manifest, b"manifest");
    }

    #[test]
    fn half_of_a_capture_is_none_and_is_begun_anew() {
        let fixture = fixture();
        assert!(publish(&fixture, "c-1", "manifest", "missing").is_err());
        assert!(fixture.target.open("c-1").is_err());
        publish(&fixture, "c-1", "manifest", "memory").unwrap();
        let names = std::fs::read_dir(fixture.target.open("c-1").unwrap().files).unwrap();
        assert_eq!(names.count(), 1);
    }

    #[test]
    fn what_is_withdrawn_leaves_nothing() {
        let fixture = fixture();
        publish(&fixture, "c-1", "manifest", "memory").unwrap();
        publish(&fixture, "c-2", "manifest", "memory").unwrap();
        assert!(publish(&fixture, "c-3", "manifest", "missing").is_err());
        for id in ["c-1", "c-3", "c-4"] {
            fixture.target.withdraw(id).unwrap();
            assert!(fixture.target.open(id).is_err());
        }
        let left: Vec<_> = std::fs::read_dir(&fixture.target.0).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fixture.target.open("c-2").unwrap();
        assert!(matches!(fixture.target.withdraw(".."), Err(TargetError::BadName { .. })));
    }

    #[test]
    fn two_may_check_at_the_same_time() {
        let fixture = fixture();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| fixture.target.check().unwrap()));
            }
        });
        assert_eq!(std::fs::read_dir(&fixture.target.0).unwrap().count(), 0);
    }

    #[test]
    fn no_name_leads_elsewhere() {
        let fixture = fixture();
        for id in ["", "..", "a/b", ".", "a\0"] {
            assert!(
                matches!(publish(&fixture, id, "m", "memory"), Err(TargetError::BadName { .. })),
                "{id:?}"
            );
            assert!(fixture.target.open(id).is_err());
        }
        for name in ["..", "../x", "a/b"] {
            let refused = publish(&fixture, "c", "m", name).unwrap_err();
            assert!(matches!(refused, TargetError::BadName { .. }), "{name}");
        }
    }
}
