//! System calls on the machine's own files that `std` does not have, with an errno as the error.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::wire::{Stamp, Stat};

/// A result whose error is an errno.
pub(crate) type Sys<T> = Result<T, i32>;

/// Returns the bytes as a C string; names in these tests hold no NUL.
pub(crate) fn c(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap()
}

pub(crate) fn path_c(path: &Path) -> CString {
    c(path.as_os_str().as_bytes())
}

fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// Turns the -1 of a system call into its errno.
pub(crate) fn ok(result: i64) -> Sys<i64> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// Opens relative to a directory descriptor.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> Sys<OwnedFd> {
    // SAFETY: the name is NUL-terminated and both outlive the call.
    let fd =
        ok(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())?;
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a path.
pub(crate) fn open(path: &CStr, flags: i32) -> Sys<OwnedFd> {
    // SAFETY: AT_FDCWD is always a valid directory argument.
    open_at(unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }, path, flags, 0)
}

/// Returns the attributes of what a descriptor stands for.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Sys<Stat> {
    statx(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// Returns the attributes of a path, not following a symlink.
pub(crate) fn lstat(path: &Path) -> Sys<Stat> {
    statx(libc::AT_FDCWD, &path_c(path), libc::AT_SYMLINK_NOFOLLOW)
}

fn statx(dir: i32, path: &CStr, flags: i32) -> Sys<Stat> {
    // SAFETY: all-zero is a valid statx buffer.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the path is NUL-terminated and the buffer is ours.
    ok(unsafe { libc::statx(dir, path.as_ptr(), flags, mask, &raw mut raw) }.into())?;
    let time = |time: libc::statx_timestamp| Stamp { secs: time.tv_sec, nanos: time.tv_nsec };
    Ok(Stat {
        ino: raw.stx_ino,
        mode: raw.stx_mode.into(),
        nlink: raw.stx_nlink,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        rdev: libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor) as u32,
        size: raw.stx_size,
        blocks: raw.stx_blocks,
        atime: time(raw.stx_atime),
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        btime: time(raw.stx_btime),
    })
}

/// Sets an extended attribute, not following a symlink.
pub(crate) fn lsetxattr(path: &Path, name: &[u8], value: &[u8]) -> Sys<()> {
    // SAFETY: both strings are NUL-terminated and the value has the length given.
    ok(unsafe {
        libc::lsetxattr(path_c(path).as_ptr(), c(name).as_ptr(), value.as_ptr().cast(), value.len(), 0)
    }
    .into())?;
    Ok(())
}

/// Returns all extended attributes, not following a symlink.
pub(crate) fn lxattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = path_c(path);
    let mut names = vec![0u8; 65536];
    // SAFETY: the buffer has the length given.
    let len = ok(unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) } as i64)
        .unwrap();
    names[..len as usize]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 65536];
            // SAFETY: the buffer has the length given.
            let len = ok(unsafe {
                libc::lgetxattr(path.as_ptr(), c(name).as_ptr(), value.as_mut_ptr().cast(), value.len())
            } as i64)
            .unwrap();
            value.truncate(len as usize);
            (name.to_vec(), value)
        })
        .collect()
}

/// Sets times, not following a symlink.
pub(crate) fn lutimens(path: &Path, atime: Stamp, mtime: Stamp) {
    let spec = |stamp: Stamp| libc::timespec { tv_sec: stamp.secs, tv_nsec: stamp.nanos.into() };
    let times = [spec(atime), spec(mtime)];
    // SAFETY: the path is NUL-terminated and there are two times.
    ok(unsafe {
        libc::utimensat(libc::AT_FDCWD, path_c(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    }
    .into())
    .unwrap();
}

/// Makes a FIFO, socket or device.
pub(crate) fn mknod(path: &Path, mode: u32, rdev: u64) {
    // SAFETY: the path is NUL-terminated.
    ok(unsafe { libc::mknod(path_c(path).as_ptr(), mode, rdev) }.into()).unwrap();
}

/// Opens a file for reading without touching its access time.
pub(crate) fn open_quietly(path: &Path) -> File {
    File::from(open(&path_c(path), libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW).unwrap())
}

/// Returns the names in a directory without touching its access time, sorted.
pub(crate) fn names_in(path: &Path) -> Vec<Vec<u8>> {
    let fd = open(&path_c(path), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME).unwrap();
    let mut directory = nix::dir::Dir::from_fd(fd).unwrap();
    let mut names: Vec<Vec<u8>> = directory
        .iter()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect();
    names.sort();
    names
}
