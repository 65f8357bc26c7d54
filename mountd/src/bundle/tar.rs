//! Writing an archive of plain files, as POSIX.1-1988 `ustar` has it.

use std::io::{self, Write};

const BLOCK: usize = 512;
/// The longest name that needs no prefix field.
const MAX_NAME: usize = 100;

/// An archive that is being written.
pub(super) struct Archive<'a, W> {
    out: &'a mut W,
    /// When all files changed, in seconds since 1970.
    modified: u64,
}

impl<'a, W: Write> Archive<'a, W> {
    pub(super) fn new(out: &'a mut W, modified: u64) -> Archive<'a, W> {
        Archive { out, modified }
    }

    /// Adds a file that only its owner may read.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if name.len() > MAX_NAME {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: the name is too long")));
        }
        self.out.write_all(&header(name, content.len(), self.modified))?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// Writes the end.
    pub(super) fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

fn header(name: &str, size: usize, modified: u64) -> Vec<u8> {
    // name, mode, uid, gid, size, mtime
    let mut header = name.as_bytes().to_vec();
    header.resize(MAX_NAME, 0);
    header.extend_from_slice(format!("{:07o}\0{:07o}\0{:07o}\0", 0o600, 0, 0).as_bytes());
    header.extend_from_slice(format!("{size:011o}\0{:011o}\0", modified & 0o77_777_777_777).as_bytes());
    // The checksum is that of the header with spaces in its place; then the type, a name of a link, and what format it is.
    let mut tail = b"0".to_vec();
    tail.resize(1 + MAX_NAME, 0);
    tail.extend_from_slice(b"ustar\x0000");
    tail.resize(BLOCK - header.len() - 8, 0);
    let sum: u32 = header.iter().chain(&tail).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    header.extend_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(&tail);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        let mut out = std::fs::File::create(&file).unwrap();
        let mut archive = Archive::new(&mut out, 1_700_000_000);
        archive.file("top/empty", b"").unwrap();
        archive.file("top/block", &[b'x'; 512]).unwrap();
        archive.file("top/a name", b"hello").unwrap();
        archive.finish().unwrap();
        let listed =
            std::process::Command::new("tar").arg("-tvf").arg(&file).env("TZ", "UTC").output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.starts_with("-rw------- 0/0") && listed.contains("2023-11-14 22:13"), "{listed}");
        assert_eq!(listed.lines().count(), 3, "{listed}");
        let read =
            std::process::Command::new("tar").arg("-xOf").arg(&file).arg("top/a name").output().unwrap();
        assert_eq!(read.stdout, b"hello");
        assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 0);
    }

    #[test]
    fn a_long_name_is_refused() {
        let mut out = Vec::new();
        assert!(Archive::new(&mut out, 0).file(&"x".repeat(101), b"").is_err());
        Archive::new(&mut out, 0).file(&"x".repeat(100), b"").unwrap();
    }
}
