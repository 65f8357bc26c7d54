//! Directory streams with their offsets: what `readdir`, `telldir` and `seekdir` are made of.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// One entry as the kernel returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// Inode number.
    pub ino: u64,
    /// Where to continue after this entry.
    pub next: i64,
    /// `DT_REG` and its like.
    pub kind: u8,
    /// Name, `.` and `..` included.
    pub name: OsString,
}

/// An open directory.
#[derive(Debug)]
pub struct DirStream {
    file: File,
}

impl DirStream {
    /// Opens a directory without changing its access time where that is allowed.
    pub fn open(path: impl AsRef<Path>) -> io::Result<DirStream> {
        let open =
            |flags| OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | flags).open(path.as_ref());
        let file = match open(libc::O_NOATIME) {
            Err(err) if err.raw_os_error() == Some(libc::EPERM) => open(0),
            other => other,
        }?;
        Ok(DirStream { file })
    }

    /// Returns the next entries, as many as fit into `capacity` bytes; none at the end.
    pub fn next_batch(&mut self, capacity: usize) -> io::Result<Vec<Dirent>> {
        let mut buffer = vec![0u8; capacity];
        // SAFETY: `buffer` is writable for `capacity` bytes and the descriptor is open.
        let filled = unsafe {
            libc::syscall(libc::SYS_getdents64, self.file.as_raw_fd(), buffer.as_mut_ptr(), capacity)
        };
        let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        Ok(parse(&buffer[..filled]))
    }

    /// Returns everything from here to the end.
    pub fn rest(&mut self) -> io::Result<Vec<Dirent>> {
        let mut all = Vec::new();
        loop {
            let batch = self.next_batch(64 << 10)?;
            if batch.is_empty() {
                return Ok(all);
            }
            all.extend(batch);
        }
    }

    /// Continues at `offset`, which an entry's `next` gave (0: the beginning).
    pub fn seek(&mut self, offset: i64) -> io::Result<()> {
        // SAFETY: takes plain integers and an open descriptor.
        let at = unsafe { libc::lseek(self.file.as_raw_fd(), offset, libc::SEEK_SET) };
        if at == offset { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Returns the open directory itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Returns the names in a directory, sorted, without `.` and `..`.
pub fn names_in(path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> =
        DirStream::open(path)?.rest()?.into_iter().map(|entry| entry.name).collect();
    names.retain(|name| name != "." && name != "..");
    names.sort();
    Ok(names)
}

/// `struct linux_dirent64`: ino u64, off i64, reclen u16, type u8, name NUL-terminated.
fn parse(mut bytes: &[u8]) -> Vec<Dirent> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let record = usize::from(u16::from_ne_bytes([bytes[16], bytes[17]]));
        let (entry, rest) = bytes.split_at(record);
        let name = &entry[19..];
        let end = name.iter().position(|&byte| byte == 0).expect("the kernel terminates names");
        entries.push(Dirent {
            ino: u64::from_ne_bytes(entry[..8].try_into().unwrap()),
            next: i64::from_ne_bytes(entry[8..16].try_into().unwrap()),
            kind: entry[18],
            name: OsString::from_vec(name[..end].to_vec()),
        });
        bytes = rest;
    }
    entries
}
