//! A host directory as a lower.
//!
//! # Overview
//! Every access starts at one descriptor of the directory, walks with `openat2(2)` to the parent and from
//! there names a single component. Parents and files being read stay open for a while in a process-wide
//! bounded cache, so a lookup is one system call (two for a directory) and a read is two.
//!
//! The kernel's overlay conventions are honoured, see
//! <https://docs.kernel.org/filesystems/overlayfs.html>: a character device 0/0 is a whiteout, and a
//! directory whose `trusted.overlay.opaque` or `user.overlay.opaque` is `y` is opaque. The root is never
//! opaque: it is where the stack begins.
//!
//! # Invariants
//! - Nothing is written. With CAP_SYS_ADMIN all access goes through a private, read-only, access-time-free
//!   copy of the mount, where the kernel enforces it. Without, files are opened for reading only, with
//!   O_NOATIME where the host permits (own files); `readlink` then updates a link's access time as the
//!   host's mount options say, since Linux has no way to avoid it.
//! - No symbolic link is followed and no `..` is walked: nothing outside the directory can be reached.
//! - What is mounted beneath the directory is not part of the lower. (Without CAP_SYS_ADMIN it shows.)

mod descriptors;
mod sys;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

use self::descriptors::{DESCRIPTORS, LowerNumber, Purpose};
use super::lower::{
    LayerEntry, Lower, LowerDirEntry, LowerEntryKind, LowerError, LowerInode, LowerPath, LowerStamp, SeekTo,
    Xattrs, is_component,
};
use super::resolve::LayerSays;
use crate::attr::{FileKind, Timestamp};

/// Overlay-private extended attributes: never shown.
const PRIVATE_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// The extended attributes that make a directory opaque when their value is `y`.
const OPAQUE_XATTRS: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];
/// Longest path given to one system call; the kernel takes 4095 bytes.
const LONGEST_WALK: usize = 4000;

/// A host directory as a lower.
#[derive(Debug)]
pub struct HostLower {
    dir: PathBuf,
    number: LowerNumber,
    root: Arc<OwnedFd>,
    access: Access,
}

/// How the lower is kept from changing through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Through a private read-only copy of the mount.
    Private,
    /// Through the host's own mount: every open asks for O_NOATIME.
    Shared,
}

impl HostLower {
    /// Opens the directory `dir` as a lower. Links in `dir` itself are followed.
    pub fn open(dir: &Path) -> Result<Self, LowerError> {
        Self::try_open(dir).map_err(|source| LowerError::Open { dir: dir.to_owned(), source })
    }

    fn try_open(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (root, access) = match sys::clone_read_only(dir) {
            Ok(root) => (root, Access::Private),
            // Not privileged, or a kernel or mount that does not allow it; a bad `dir` fails again.
            Err(_) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                (open(dir, flags, Mode::empty())?, Access::Shared)
            }
        };
        if inode(&sys::stat(root.as_fd(), b"")?)?.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        // Else every directory would be missing, as its extended attributes are reached through /proc.
        has_opaque_mark(root.as_fd(), b".").map_err(|errno| match errno {
            Errno::ENOENT => io::Error::new(io::ErrorKind::Unsupported, "/proc is not mounted"),
            errno => errno.into(),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            number: LowerNumber(NEXT.fetch_add(1, Ordering::Relaxed)),
            root: Arc::new(root),
            access,
        })
    }

    /// Returns the directory that holds `path` and the name of `path` in it; for the root, itself and `.`.
    fn locate<'a>(&self, path: &'a LowerPath) -> Result<(Arc<OwnedFd>, &'a [u8]), Failure> {
        let Some((parent, name)) = path.split() else {
            return Ok((Arc::clone(&self.root), b"."));
        };
        // `name` is about to be given to calls that do not confine `..`.
        if !is_component(name) {
            return Err(Failure::Escapes);
        }
        if parent.is_empty() {
            return Ok((Arc::clone(&self.root), name));
        }
        if let Some(found) = DESCRIPTORS.get(self.number, Purpose::Walk, parent) {
            return Ok((found, name));
        }
        let found = Arc::new(self.walk(parent)?);
        DESCRIPTORS.put(self.number, Purpose::Walk, parent, Arc::clone(&found));
        Ok((found, name))
    }

    /// Opens the directory `path`, which is not the root, to look up names in.
    fn walk(&self, path: &[u8]) -> Result<OwnedFd, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut reached: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let (step, beyond) = match rest.get(..LONGEST_WALK) {
                None => (rest, None),
                Some(start) => {
                    let slash = start.iter().rposition(|byte| *byte == b'/');
                    let slash = slash.ok_or(Failure::Host(Errno::ENAMETOOLONG))?;
                    (&rest[..slash], Some(&rest[slash + 1..]))
                }
            };
            let from = reached.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let next = openat2(from, step, confined(flags)).map_err(|errno| match errno {
                Errno::ELOOP | Errno::EXDEV => Failure::Escapes,
                errno => Failure::Host(errno),
            })?;
            match beyond {
                None => return Ok(next),
                Some(beyond) => rest = beyond,
            }
            reached = Some(next);
        }
    }

    /// Opens `name` in `dir` for reading, without touching its access time where that can be had.
    fn open_to_read(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<OwnedFd, Failure> {
        // Should a FIFO or a terminal have taken the file's place: do not wait for it, do not adopt it.
        let flags = flags
            | OFlag::O_RDONLY
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let opened = match self.access {
            Access::Private => openat2(dir, name, confined(flags)),
            Access::Shared => match openat2(dir, name, confined(flags | OFlag::O_NOATIME)) {
                // Only the owner of a file may read it without leaving a trace.
                Err(Errno::EPERM) => openat2(dir, name, confined(flags)),
                opened => opened,
            },
        };
        opened.map_err(|errno| match errno {
            // A link, a device, a socket or a file is now where something else was.
            Errno::ELOOP | Errno::EXDEV | Errno::EACCES | Errno::ENXIO | Errno::ENOTDIR
                if self.is_no_longer(dir, name, flags) =>
            {
                Failure::Changed
            }
            errno => Failure::Host(errno),
        })
    }

    /// Returns whether `name` is something else than what `flags` say it was.
    fn is_no_longer(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> bool {
        let expected =
            if flags.contains(OFlag::O_DIRECTORY) { FileKind::Directory } else { FileKind::Regular };
        sys::stat(dir, name).and_then(|found| inode(&found)).is_ok_and(|inode| inode.kind != expected)
    }

    /// Does `work` with a descriptor of the regular file `path`, and returns its result if the file still
    /// bears the stamp `expected` afterwards.
    fn with_file<T>(
        &self,
        path: &LowerPath,
        expected: &LowerStamp,
        mut work: impl FnMut(BorrowedFd<'_>) -> nix::Result<T>,
    ) -> Result<T, Failure> {
        // The stamp is compared after the work: a change that came before or during it is seen.
        let mut attempt = |file: BorrowedFd<'_>| -> Result<T, Failure> {
            let result = work(file);
            let found = inode(&sys::stat(file, b"")?)?;
            if found.stamp != *expected || found.kind != FileKind::Regular {
                return Err(Failure::Changed);
            }
            Ok(result?)
        };
        if let Some(file) = DESCRIPTORS.get(self.number, Purpose::Read, path.as_bytes()) {
            match attempt(file.as_fd()) {
                // The path may by now lead to another file, which is the one expected.
                Err(Failure::Changed) => {}
                done => return done,
            }
        }
        let (dir, name) = self.locate(path)?;
        let file = Arc::new(self.open_to_read(dir.as_fd(), name, OFlag::empty())?);
        let result = attempt(file.as_fd())?;
        DESCRIPTORS.put(self.number, Purpose::Read, path.as_bytes(), file);
        Ok(result)
    }

    fn try_lookup(&self, path: &LowerPath) -> Result<LayerEntry, Failure> {
        let (dir, name) = self.locate(path)?;
        let inode = inode(&sys::stat(dir.as_fd(), name)?)?;
        Ok(match inode.kind {
            FileKind::Directory => {
                LayerSays::Directory { inode, opaque: !path.is_root() && has_opaque_mark(dir.as_fd(), name)? }
            }
            _ if is_whiteout(&inode) => LayerSays::Whiteout,
            _ => LayerSays::File(inode),
        })
    }

    fn try_entries(&self, path: &LowerPath, sink: &mut dyn FnMut(LowerDirEntry<'_>)) -> Result<(), Failure> {
        let (parent, name) = self.locate(path)?;
        let dir = self.open_to_read(parent.as_fd(), name, OFlag::O_DIRECTORY)?;
        let mut dir = Dir::from_fd(dir)?;
        // Only a look tells a whiteout from a device, and what a host does not tell.
        let mut unclear = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match entry.file_type().and_then(kind_of) {
                Some(kind) => {
                    sink(LowerDirEntry { name, kind: LowerEntryKind::Of(kind), host_ino: entry.ino() })
                }
                None => unclear.push(entry),
            }
        }
        for entry in unclear {
            let name = entry.file_name().to_bytes();
            let inode = match sys::stat(dir.as_fd(), name) {
                // Removed since it was listed.
                Err(Errno::ENOENT) => continue,
                found => inode(&found?)?,
            };
            sink(LowerDirEntry {
                name,
                kind: match is_whiteout(&inode) {
                    true => LowerEntryKind::Whiteout,
                    false => LowerEntryKind::Of(inode.kind),
                },
                host_ino: entry.ino(),
            });
        }
        Ok(())
    }

    fn try_readlink(&self, path: &LowerPath) -> Result<Vec<u8>, Failure> {
        let (dir, name) = self.locate(path)?;
        match readlinkat(dir.as_fd(), name) {
            // Not a link (any more).
            Err(Errno::EINVAL) => Err(Failure::Changed),
            target => Ok(target?.into_vec()),
        }
    }

    fn try_xattrs(&self, path: &LowerPath) -> Result<Xattrs, Failure> {
        let (dir, name) = self.locate(path)?;
        let keys = match filled(|buf| sys::list_xattrs(dir.as_fd(), name, buf)) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            keys => keys?,
        };
        let mut xattrs = Vec::new();
        for key in keys.split_inclusive(|byte| *byte == 0) {
            let Ok(key) = CStr::from_bytes_with_nul(key) else {
                continue;
            };
            if let Some(value) = xattr(dir.as_fd(), name, key)? {
                xattrs.push((key.to_bytes().to_vec(), value));
            }
        }
        Ok(xattrs)
    }

    fn try_xattr(&self, path: &LowerPath, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        // No attribute has a NUL in its name.
        let Ok(key) = CString::new(key) else {
            return Ok(None);
        };
        let (dir, name) = self.locate(path)?;
        let found = xattr(dir.as_fd(), name, &key)?;
        Ok(found)
    }

    /// Says what went wrong with `path`, for every question but "is it there".
    fn error(&self, path: &LowerPath, failure: Failure) -> LowerError {
        let (lower, path) = (self.identity(), path.clone());
        match failure {
            Failure::Escapes => LowerError::Escapes { lower, path },
            // A file is now where a directory was.
            Failure::Changed | Failure::Host(Errno::ENOTDIR) => LowerError::Changed { lower, path },
            Failure::Host(Errno::ENOENT) => LowerError::NotFound { lower, path },
            Failure::Host(errno) => LowerError::Io { lower, path, source: errno.into() },
        }
    }
}

impl Lower for HostLower {
    fn lookup(&self, path: &LowerPath) -> Result<LayerEntry, LowerError> {
        match self.try_lookup(path) {
            // A name that is too long for the host cannot be there either.
            Err(Failure::Host(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG)) => Ok(LayerSays::Absent),
            found => found.map_err(|failure| self.error(path, failure)),
        }
    }

    fn entries(&self, path: &LowerPath, sink: &mut dyn FnMut(LowerDirEntry<'_>)) -> Result<(), LowerError> {
        let done = self.try_entries(path, sink);
        done.map_err(|failure| self.error(path, failure))
    }

    fn readlink(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        let target = self.try_readlink(path);
        target.map_err(|failure| self.error(path, failure))
    }

    fn read_at(
        &self,
        path: &LowerPath,
        expected: &LowerStamp,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LowerError> {
        // A file of the expected stamp ends where the stamp says.
        let left = expected.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let wanted = &mut buf[..len];
        let read = self.with_file(path, expected, |file| read_full(file, offset, wanted));
        read.map_err(|failure| self.error(path, failure))
    }

    fn seek(
        &self,
        path: &LowerPath,
        expected: &LowerStamp,
        offset: u64,
        to: SeekTo,
    ) -> Result<Option<u64>, LowerError> {
        let whence = match to {
            SeekTo::Data => Whence::SeekData,
            SeekTo::Hole => Whence::SeekHole,
        };
        let found = self.with_file(path, expected, |file| {
            let Ok(offset) = i64::try_from(offset) else {
                return Ok(None);
            };
            // Moves the shared offset of the descriptor, which nothing uses.
            match lseek(file, offset, whence) {
                Err(Errno::ENXIO) => Ok(None),
                found => found.map(|offset| Some(offset.unsigned_abs())),
            }
        });
        found.map_err(|failure| self.error(path, failure))
    }

    fn xattrs(&self, path: &LowerPath) -> Result<Xattrs, LowerError> {
        let xattrs = self.try_xattrs(path);
        xattrs.map_err(|failure| self.error(path, failure))
    }

    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        let value = self.try_xattr(path, name);
        value.map_err(|failure| self.error(path, failure))
    }

    fn identity(&self) -> String {
        self.dir.display().to_string()
    }
}

impl Drop for HostLower {
    fn drop(&mut self) {
        DESCRIPTORS.forget(self.number);
    }
}

/// Why an access failed, before it is known what the caller expected of the path.
#[derive(Debug)]
enum Failure {
    /// What is there is not what was expected.
    Changed,
    /// The path leads through a link or out of the lower.
    Escapes,
    /// The host refused.
    Host(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Host(errno)
    }
}

/// Returns how to open something without leaving the directory that the walk starts at.
fn confined(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    )
}

/// Reads at `offset` until `buf` is full or the file ends.
fn read_full(file: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> nix::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let at = i64::try_from(offset + done as u64).map_err(|_| Errno::EOVERFLOW)?;
        match pread(file, &mut buf[done..], at) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Returns whether the overlay's opaque mark is on the directory `name` in `dir`.
fn has_opaque_mark(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
    // Nearly every directory has no attributes at all, which one call tells.
    let mut buf = [0; 1024];
    let keys = match sys::list_xattrs(dir, name, &mut buf) {
        Ok(len) => Some(&buf[..len]),
        Err(Errno::EOPNOTSUPP) => return Ok(false),
        Err(Errno::ERANGE) => None,
        Err(errno) => return Err(errno),
    };
    for mark in OPAQUE_XATTRS {
        let listed = |keys: &[u8]| {
            let mut keys = keys.split(|byte| *byte == 0);
            keys.any(|key| key == mark.to_bytes())
        };
        if keys.is_none_or(listed) {
            let mut value = [0; 1];
            match sys::get_xattr(dir, name, mark, &mut value) {
                Ok(1) if value == *b"y" => return Ok(true),
                Ok(_) | Err(Errno::ENODATA | Errno::ERANGE) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(false)
}

/// Returns the value of one attribute of `name` in `dir`, unless it is not set or not to be shown.
fn xattr(dir: BorrowedFd<'_>, name: &[u8], key: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let private = |prefix: &&[u8]| key.to_bytes().starts_with(prefix);
    if PRIVATE_XATTRS.iter().any(private) {
        return Ok(None);
    }
    match filled(|buf| sys::get_xattr(dir, name, key, buf)) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        value => value.map(Some),
    }
}

/// Returns what `fill` writes to a buffer that is large enough for any list or value of attributes.
fn filled(mut fill: impl FnMut(&mut [u8]) -> nix::Result<usize>) -> nix::Result<Vec<u8>> {
    const LARGEST: usize = 1 << 16;
    for size in [1 << 10, LARGEST] {
        let mut buf = vec![0; size];
        match fill(&mut buf) {
            Err(Errno::ERANGE) => {}
            len => {
                buf.truncate(len?);
                return Ok(buf);
            }
        }
    }
    Err(Errno::E2BIG)
}

/// Returns the kind that a directory entry's type stands for, unless that needs a closer look.
fn kind_of(entry: Type) -> Option<FileKind> {
    match entry {
        Type::File => Some(FileKind::Regular),
        Type::Directory => Some(FileKind::Directory),
        Type::Symlink => Some(FileKind::Symlink),
        Type::Fifo => Some(FileKind::Fifo),
        Type::Socket => Some(FileKind::Socket),
        Type::BlockDevice => Some(FileKind::BlockDevice),
        Type::CharacterDevice => None,
    }
}

/// Returns whether this is how the kernel's overlay marks a deleted name.
fn is_whiteout(inode: &LowerInode) -> bool {
    inode.kind == FileKind::CharDevice && inode.rdev == 0
}

/// Returns what the host says about an inode, in our terms.
fn inode(found: &libc::statx) -> nix::Result<LowerInode> {
    let time = |time: &libc::statx_timestamp| Timestamp { secs: time.tv_sec, nanos: time.tv_nsec };
    let mode = found.stx_mode;
    let (mtime, ctime) = (time(&found.stx_mtime), time(&found.stx_ctime));
    Ok(LowerInode {
        stamp: LowerStamp { host_ino: found.stx_ino, size: found.stx_size, mtime, ctime },
        host_dev: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        kind: FileKind::from_mode(mode.into()).ok_or(Errno::EIO)?,
        perm: mode & 0o7777,
        nlink: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: device(found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        blocks: found.stx_blocks,
        atime: time(&found.stx_atime),
        mtime,
        ctime,
        btime: match found.stx_mask & libc::STATX_BTIME {
            0 => Timestamp { secs: 0, nanos: 0 },
            _ => time(&found.stx_btime),
        },
    })
}

/// Encodes a device number as the kernel does in 32 bits.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests;
