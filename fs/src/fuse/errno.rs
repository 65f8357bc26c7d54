//! The only place where an error becomes an errno, and a log level.
//!
//! # Invariants
//! - Every variant is named: a new kind of failure does not compile until it is decided here what a
//!   program sees and what the log says.
//! - `ENOSYS` is never an answer to a failure. The kernel takes it for "this operation does not
//!   exist" and stops sending it for the life of the mount.

use std::io;

use fuser::Errno;
use tracing::Level;

use crate::FsError;
use crate::overlay::lower::LowerError;
use crate::store::Shortage;

/// Returns what a program sees of a failure.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory { .. } => Errno::ENOTDIR,
        FsError::IsDirectory { .. } => Errno::EISDIR,
        FsError::NotEmpty { .. } => Errno::ENOTEMPTY,
        // rename(2), rmdir(2): as of a mount point.
        FsError::Busy => Errno::EBUSY,
        FsError::NameTooLong { .. } => Errno::ENAMETOOLONG,
        FsError::Invalid { .. } => Errno::EINVAL,
        FsError::NotPermitted { .. } => Errno::EPERM,
        FsError::AccessDenied => Errno::EACCES,
        FsError::ReadOnly => Errno::EROFS,
        // Makes the kernel, and programs that know it from NFS, resolve the path again.
        FsError::Stale { .. } | FsError::Retired => Errno::ESTALE,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::QuotaExceeded { .. } => Errno::EDQUOT,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::FileTooBig => Errno::EFBIG,
        FsError::NoXattr => Errno::NO_XATTR,
        // setxattr(2): the value is larger than XATTR_SIZE_MAX.
        FsError::XattrTooBig => Errno::E2BIG,
        // lseek(2): no data, or no hole, beyond the offset.
        FsError::NoData => Errno::ENXIO,
        FsError::Unsupported { .. } => Errno::EOPNOTSUPP,
        FsError::CrossVolume => Errno::EXDEV,
        FsError::Lower(error) => lower_errno(error),
        // The memory that outlives the worker is used up, or its limit of descriptors.
        FsError::Session { .. } => Errno::ENOMEM,
        FsError::Store(error) => match error.shortage() {
            Some(Shortage::Space) => Errno::ENOSPC,
            // The daemon ran out of descriptors, not the caller.
            Some(Shortage::Files) => Errno::ENFILE,
            Some(Shortage::Memory) => Errno::ENOMEM,
            Some(Shortage::Writing) => Errno::EROFS,
            // Whatever else went wrong with the store, the bytes cannot be had or kept.
            None => Errno::EIO,
        },
        // Answers of the control plane. No system call on a mount leads to them; were one to, the
        // program could do nothing about it.
        FsError::VolumeNotFound { .. }
        | FsError::VolumeExists { .. }
        | FsError::VolumeMounted { .. }
        | FsError::BadName { .. }
        | FsError::SnapshotNotFound { .. }
        | FsError::SnapshotExists { .. }
        | FsError::SnapshotMounted { .. }
        | FsError::BadLower { .. }
        | FsError::LowerMissing { .. }
        | FsError::OfAnotherVolume { .. }
        | FsError::UnrelatedHead { .. } => Errno::EIO,
    }
}

fn lower_errno(error: &LowerError) -> Errno {
    match error {
        LowerError::Open { source, .. } | LowerError::Io { source, .. } => host_errno(source),
        // The lower is not what it was when it was looked up. ESTALE would invite a second look
        // that finds another version: the caller must not get bytes of two versions as one file.
        LowerError::NotFound { .. } | LowerError::Changed { .. } => Errno::EIO,
        LowerError::Escapes { .. } => Errno::EIO,
    }
}

/// Returns what a program sees when a system call on the host failed underneath.
fn host_errno(source: &io::Error) -> Errno {
    match source.raw_os_error() {
        // Would turn the operation off for the life of the mount.
        Some(libc::ENOSYS) => Errno::EIO,
        // The daemon ran out of descriptors, not the caller.
        Some(libc::EMFILE) => Errno::ENFILE,
        // The kernel refuses answers outside this range, and the caller would wait for ever.
        Some(code @ 1..512) => Errno::from_i32(code),
        Some(_) | None => Errno::EIO,
    }
}

/// Returns how loudly a failure is logged where it is answered.
///
/// What programs provoke every day is `DEBUG`, what an operator may want to connect with a
/// complaint is `INFO`, what someone should look at is `WARN` or `ERROR`.
pub(super) fn severity(error: &FsError) -> Level {
    match error {
        FsError::NotFound
        | FsError::Exists
        | FsError::NotDirectory { .. }
        | FsError::IsDirectory { .. }
        | FsError::NotEmpty { .. }
        | FsError::Busy
        | FsError::NameTooLong { .. }
        | FsError::Invalid { .. }
        | FsError::NotPermitted { .. }
        | FsError::AccessDenied
        | FsError::TooManyLinks
        | FsError::FileTooBig
        | FsError::NoXattr
        | FsError::XattrTooBig
        | FsError::NoData
        | FsError::Unsupported { .. }
        | FsError::CrossVolume => Level::DEBUG,
        FsError::ReadOnly | FsError::Stale { .. } | FsError::Retired | FsError::QuotaExceeded { .. } => {
            Level::INFO
        }
        FsError::NoSpace => Level::WARN,
        // The same event: which of the two is met first is chance when somebody else fills the disk.
        FsError::Store(error) if error.shortage() == Some(Shortage::Space) => Level::WARN,
        FsError::Lower(_)
        | FsError::Store(_)
        | FsError::Session { .. }
        | FsError::VolumeNotFound { .. }
        | FsError::VolumeExists { .. }
        | FsError::VolumeMounted { .. }
        | FsError::BadName { .. }
        | FsError::SnapshotNotFound { .. }
        | FsError::SnapshotExists { .. }
        | FsError::SnapshotMounted { .. }
        | FsError::BadLower { .. }
        | FsError::LowerMissing { .. }
        | FsError::OfAnotherVolume { .. }
        | FsError::UnrelatedHead { .. } => Level::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Ino, NodeId};
    use crate::overlay::lower::LowerPath;
    use crate::store::StoreError;

    fn host(code: i32) -> FsError {
        let source = io::Error::from_raw_os_error(code);
        FsError::Lower(LowerError::Io { lower: "/l".into(), path: LowerPath::root(), source })
    }

    fn store(code: i32) -> FsError {
        let source = io::Error::from_raw_os_error(code);
        FsError::Store(StoreError::Io { action: "write", path: "/s".into(), source })
    }

    #[test]
    fn every_failure_has_its_errno_and_level() {
        let ino = Ino(7);
        let table = [
            (FsError::NotFound, libc::ENOENT, Level::DEBUG),
            (FsError::Exists, libc::EEXIST, Level::DEBUG),
            (FsError::NotDirectory { ino }, libc::ENOTDIR, Level::DEBUG),
            (FsError::IsDirectory { ino }, libc::EISDIR, Level::DEBUG),
            (FsError::NotEmpty { ino }, libc::ENOTEMPTY, Level::DEBUG),
            (FsError::NameTooLong { length: 256 }, libc::ENAMETOOLONG, Level::DEBUG),
            (FsError::Invalid { what: "x" }, libc::EINVAL, Level::DEBUG),
            (FsError::NotPermitted { what: "x" }, libc::EPERM, Level::DEBUG),
            (FsError::AccessDenied, libc::EACCES, Level::DEBUG),
            (FsError::ReadOnly, libc::EROFS, Level::INFO),
            (FsError::Stale { node: NodeId(1) }, libc::ESTALE, Level::INFO),
            (FsError::NoSpace, libc::ENOSPC, Level::WARN),
            (FsError::QuotaExceeded { what: "bytes" }, libc::EDQUOT, Level::INFO),
            (FsError::TooManyLinks, libc::EMLINK, Level::DEBUG),
            (FsError::FileTooBig, libc::EFBIG, Level::DEBUG),
            (FsError::NoXattr, libc::ENODATA, Level::DEBUG),
            (FsError::XattrTooBig, libc::E2BIG, Level::DEBUG),
            (FsError::NoData, libc::ENXIO, Level::DEBUG),
            (FsError::Unsupported { what: "x" }, libc::EOPNOTSUPP, Level::DEBUG),
            (FsError::CrossVolume, libc::EXDEV, Level::DEBUG),
            (FsError::VolumeNotFound { name: "v".into() }, libc::EIO, Level::ERROR),
            (host(libc::EACCES), libc::EACCES, Level::ERROR),
            (store(libc::ENOSPC), libc::ENOSPC, Level::WARN),
            (store(libc::EMFILE), libc::ENFILE, Level::ERROR),
            (store(libc::ENOMEM), libc::ENOMEM, Level::ERROR),
            (store(libc::EROFS), libc::EROFS, Level::ERROR),
            // A file of the store that is missing is not a file of the volume that is missing.
            (store(libc::ENOENT), libc::EIO, Level::ERROR),
            (FsError::Store(StoreError::Poisoned { first: "x".into() }), libc::EIO, Level::ERROR),
            (
                FsError::Lower(LowerError::Changed { lower: "/l".into(), path: LowerPath::root() }),
                libc::EIO,
                Level::ERROR,
            ),
        ];
        for (error, code, level) in table {
            assert_eq!(errno(&error).code(), code, "{error}");
            assert_eq!(severity(&error), level, "{error}");
        }
    }

    #[test]
    fn no_host_errno_disables_an_operation_or_is_refused_by_the_kernel() {
        for code in -1..1000 {
            let answer = errno(&host(code)).code();
            assert!((1..512).contains(&answer) && answer != libc::ENOSYS, "{code} became {answer}");
        }
        assert_eq!(errno(&host(libc::EMFILE)).code(), libc::ENFILE);
    }
}
