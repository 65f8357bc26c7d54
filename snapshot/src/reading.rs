//! Reading files that somebody may have put something else in the place of: a link, a pipe that nobody writes to, a device without an end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// More than any file has that describes something.
const SMALL: u64 = 16 << 20;

/// Opens a regular file to read it. Neither follows a link nor waits.
///
/// # Errors
/// `InvalidInput` if it is anything but a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Reads a small regular file.
///
/// # Errors
/// `FileTooLarge` beyond 16 MiB.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(SMALL + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        assert_eq!(read_small(&path("file")).unwrap(), b"x");
        std::os::unix::fs::symlink("/dev/zero", path("link")).unwrap();
        assert!(read_small(&path("link")).is_err());
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        for not_a_file in [path("pipe"), "/dev/zero".into(), dir.path().to_owned()] {
            let refused = read_small(&not_a_file).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{}", not_a_file.display());
        }
        File::create(path("large")).unwrap().set_len(100 << 30).unwrap();
        assert_eq!(read_small(&path("large")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
