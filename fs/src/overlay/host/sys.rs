//! The host calls that have no safe wrapper elsewhere. None of them writes to a lower.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

/// Attaches a private, read-only, access-time-free copy of the mount at `dir` to a descriptor.
///
/// What is mounted beneath `dir` is not in it. The copy lives as long as the descriptor and is never
/// visible in any mount namespace. Needs CAP_SYS_ADMIN.
pub(super) fn clone_read_only(dir: &Path) -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let fd = dir.with_nix_path(|dir| {
        // SAFETY: open_tree(2) reads the NUL-terminated path `dir`, which outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, dir.as_ptr(), flags) }
    })?;
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: open_tree returned this descriptor just now, so nobody else owns it.
    let tree = unsafe { OwnedFd::from_raw_fd(fd) };

    let attributes = libc::mount_attr {
        // Device nodes stay visible; opening one, which could have effects, becomes impossible.
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOATIME
            | libc::MOUNT_ATTR_NODIRATIME
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        // Later mounts beneath `dir` must not show up in the copy.
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr(2) reads a NUL-terminated path and a mount_attr of the size given; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done)?;
    Ok(tree)
}

/// Returns the attributes of `name` in `dir`, or of `dir` itself for an empty name.
///
/// A symbolic link is not followed; `name` has no slash, so no path is walked.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<libc::statx> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let done = name.with_nix_path(|name| {
        // SAFETY: statx(2) reads the NUL-terminated `name` and writes one struct statx to `found`; both
        // outlive the call.
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, found.as_mut_ptr()) }
    })?;
    Errno::result(done)?;
    // SAFETY: every bit pattern is a valid struct statx, and all of it was zeroed before statx filled it.
    Ok(unsafe { found.assume_init() })
}

/// Writes the NUL-terminated names of the extended attributes of `name` in `dir` to `buf`.
///
/// Returns how many bytes they take; with an empty `buf`, how many they would take. A symbolic link is
/// not followed. `.` names `dir` itself.
pub(super) fn list_xattrs(dir: BorrowedFd<'_>, name: &[u8], buf: &mut [u8]) -> nix::Result<usize> {
    let len = proc_path(dir, name).as_slice().with_nix_path(|path| {
        // SAFETY: llistxattr(2) reads the NUL-terminated `path` and writes at most `buf.len()` bytes to
        // `buf`; both outlive the call.
        unsafe { libc::llistxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) }
    })?;
    Errno::result(len).map(isize::unsigned_abs)
}

/// Writes the value of the extended attribute `key` of `name` in `dir` to `buf`.
///
/// Returns its length; with an empty `buf`, the length it would have. A symbolic link is not followed.
/// `.` names `dir` itself.
pub(super) fn get_xattr(dir: BorrowedFd<'_>, name: &[u8], key: &CStr, buf: &mut [u8]) -> nix::Result<usize> {
    let len = proc_path(dir, name).as_slice().with_nix_path(|path| {
        // SAFETY: lgetxattr(2) reads the NUL-terminated `path` and `key` and writes at most `buf.len()`
        // bytes to `buf`; all three outlive the call.
        unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) }
    })?;
    Errno::result(len).map(isize::unsigned_abs)
}

/// Returns a path to `name` in `dir`; the calls for extended attributes take no directory descriptor
/// before Linux 6.13.
fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
