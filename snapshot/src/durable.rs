//! Files that are on the disk when a call returns.
//!
//! # Crash consistency
//! A file written by [`write_durably`] is there as a whole or not at all: a temporary file, fsync, rename, fsync of the directory. A crash may leave
//! the temporary file, which the next attempt replaces. [`write_whole`] keeps that promise while the host is up.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

/// How many files are brought to the disk at once.
const AT_ONCE: usize = 8;

/// Writes a file, for this user only. It has its name, and is on the disk, on return.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let (file, temporary) = write_beside(path, content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// The same with one wait for the disk less: after a loss of power before it returned, a part of the file may be there under its name. Whoever
/// reads it has to notice.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let (file, temporary) = write_beside(path, content)?;
    std::fs::rename(&temporary, path)?;
    // Both are in one commit of the journal. Who waits for the second only after the first has the disk write its cache out once more.
    std::thread::scope(|scope| {
        let synced = match std::thread::Builder::new().spawn_scoped(scope, || file.sync_all()) {
            Ok(syncing) => Some(syncing),
            // One after the other, then.
            Err(_) => file.sync_all().map(|()| None)?,
        };
        let named = sync_parent(path);
        synced.map_or(Ok(()), |synced| synced.join().unwrap_or_else(|panic| resume_unwind(panic)))?;
        named
    })
}

/// Writes what is to be a file, under a name of its own.
fn write_beside(path: &Path, content: &[u8]) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = path.with_file_name(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    Ok((file, temporary))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Brings the files of a directory to the disk, and their names. What its directories hold is not looked at.
pub fn sync_files(directory: &Path) -> io::Result<()> {
    let entries: io::Result<Vec<_>> = std::fs::read_dir(directory)?.collect();
    let mut paths: Vec<PathBuf> = entries?.iter().map(std::fs::DirEntry::path).collect();
    paths.push(directory.to_owned());
    // Who syncs at the same time shares a commit of the journal.
    for some in paths.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let syncs: Vec<_> =
                some.iter().map(|path| scope.spawn(move || File::open(path)?.sync_all())).collect();
            let done = syncs.into_iter().map(|sync| sync.join().unwrap_or_else(|panic| resume_unwind(panic)));
            done.collect::<Vec<_>>().into_iter().collect::<io::Result<()>>()
        })?;
    }
    Ok(())
}

/// Brings the names in a directory to the disk.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_durably(&path, b"one").unwrap();
        // What a crash left.
        std::fs::write(dir.path().join("f.new"), "half of a longer text").unwrap();
        write_durably(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        sync_files(dir.path()).unwrap();
    }
}
