//! System calls that `std::fs` does not offer, with paths and plain numbers for arguments.
//! A final symlink is never followed, except where a function says so.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, PosixFadviseAdvice, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence};

use super::xattr::c_path;

/// `open(2)` with the flags and the mode as given (plus close-on-exec).
pub fn open(path: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    Ok(nix::fcntl::open(path.as_ref(), flags, Mode::from_bits_retain(mode))?.into())
}

/// `openat(2)` below an open directory.
pub fn open_at(dir: &File, name: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    Ok(nix::fcntl::openat(dir, name.as_ref(), flags, Mode::from_bits_retain(mode))?.into())
}

/// `mkdir(2)`.
pub fn mkdir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    Ok(nix::unistd::mkdir(path.as_ref(), Mode::from_bits_retain(mode))?)
}

/// `mkfifo(3)`.
pub fn mkfifo(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    Ok(nix::unistd::mkfifo(path.as_ref(), Mode::from_bits_retain(mode))?)
}

/// `mknod(2)`: `kind` is `S_IFCHR` and its like.
pub fn mknod(path: impl AsRef<Path>, kind: u32, mode: u32, major: u64, minor: u64) -> io::Result<()> {
    let device = nix::sys::stat::makedev(major, minor);
    let mode = Mode::from_bits_retain(mode);
    Ok(nix::sys::stat::mknod(path.as_ref(), SFlag::from_bits_retain(kind), mode, device)?)
}

/// `chmod(2)`; follows symlinks, which have no mode of their own.
pub fn chmod(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_retain(mode);
    Ok(nix::sys::stat::fchmodat(AT_FDCWD, path.as_ref(), mode, FchmodatFlags::FollowSymlink)?)
}

/// `lchown(2)`; `None` leaves the owner, or the group, as it is.
pub fn chown(path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(nix::unistd::fchownat(AT_FDCWD, path.as_ref(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// `renameat2(2)` with `RENAME_NOREPLACE` and its like; 0 for a plain rename.
pub fn rename_with(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: u32) -> io::Result<()> {
    let flags = RenameFlags::from_bits_retain(flags);
    Ok(nix::fcntl::renameat2(AT_FDCWD, from.as_ref(), AT_FDCWD, to.as_ref(), flags)?)
}

/// `utimensat(2)`: access time, then modification time, in seconds and nanoseconds. The
/// nanoseconds may be `UTIME_NOW` or `UTIME_OMIT`.
pub fn set_times(path: impl AsRef<Path>, atime: (i64, i64), mtime: (i64, i64)) -> io::Result<()> {
    let (atime, mtime) = (TimeSpec::new(atime.0, atime.1), TimeSpec::new(mtime.0, mtime.1));
    let flags = UtimensatFlags::NoFollowSymlink;
    Ok(nix::sys::stat::utimensat(AT_FDCWD, path.as_ref(), &atime, &mtime, flags)?)
}

/// `truncate(2)`; follows symlinks.
pub fn truncate(path: impl AsRef<Path>, len: i64) -> io::Result<()> {
    Ok(nix::unistd::truncate(path.as_ref(), len)?)
}

/// `fallocate(2)` with `FALLOC_FL_KEEP_SIZE` and its like.
pub fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<()> {
    Ok(nix::fcntl::fallocate(file, FallocateFlags::from_bits_retain(mode), offset, len)?)
}

/// Returns where the next data at or after `offset` begins.
pub fn seek_data(file: &File, offset: i64) -> io::Result<i64> {
    Ok(nix::unistd::lseek(file, offset, Whence::SeekData)?)
}

/// Returns where the next hole at or after `offset` begins; the end of the file counts as one.
pub fn seek_hole(file: &File, offset: i64) -> io::Result<i64> {
    Ok(nix::unistd::lseek(file, offset, Whence::SeekHole)?)
}

/// Returns the data ranges of a file as its holes describe them.
pub fn data_ranges(file: &File) -> io::Result<Vec<(i64, i64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        match seek_data(file, at) {
            Ok(start) => {
                at = seek_hole(file, start)?;
                ranges.push((start, at));
            }
            Err(err) if err.raw_os_error() == Some(libc::ENXIO) => return Ok(ranges),
            Err(err) => return Err(err),
        }
    }
}

/// One call of `copy_file_range(2)`; returns how much it copied.
pub fn copy_range(from: &File, from_offset: i64, to: &File, to_offset: i64, len: usize) -> io::Result<usize> {
    let (mut from_offset, mut to_offset) = (from_offset, to_offset);
    // SAFETY: both descriptors are open, and both offsets are writable for the call.
    let copied = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut from_offset,
            to.as_raw_fd(),
            &raw mut to_offset,
            len,
            0,
        )
    };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// Copies a whole range with as many calls of `copy_file_range(2)` as it takes.
pub fn copy_whole_range(from: &File, to: &File, len: usize) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let offset = i64::try_from(done).expect("a file offset");
        match copy_range(from, offset, to, offset, len - done)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            copied => done += copied,
        }
    }
    Ok(())
}

/// Asks the kernel to forget its clean pages of this file, so that the next read asks the filesystem.
pub fn drop_cached_pages(file: &File) -> io::Result<()> {
    nix::unistd::fsync(file)?;
    Ok(nix::fcntl::posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Returns the birth time in seconds and nanoseconds, where the filesystem can tell it.
pub fn birth_time(path: impl AsRef<Path>) -> io::Result<Option<(i64, u32)>> {
    let path: CString = c_path(path.as_ref())?;
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    let (flags, mask) = (libc::AT_SYMLINK_NOFOLLOW, libc::STATX_BASIC_STATS | libc::STATX_BTIME);
    // SAFETY: the path is NUL-terminated and `answer` is writable for one `statx`.
    let done = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, answer.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid `statx`, and the call filled it in.
    let answer = unsafe { answer.assume_init() };
    let told = answer.stx_mask & libc::STATX_BTIME != 0;
    Ok(told.then_some((answer.stx_btime.tv_sec, answer.stx_btime.tv_nsec)))
}

/// One call of `sendfile(2)` from the current offsets; returns how much it moved.
pub fn send_file(from: &File, to: &File, len: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open; a null offset means the current one.
    let sent = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), len) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// `syncfs(2)`.
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: takes an open descriptor.
    let done = unsafe { libc::syncfs(file.as_raw_fd()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
