//! What `stat` shows, and what `setattr` changes.

use std::time::{SystemTime, UNIX_EPOCH};

/// The type of a file, as in `S_IFMT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// `S_IFREG`
    Regular,
    /// `S_IFDIR`
    Directory,
    /// `S_IFLNK`
    Symlink,
    /// `S_IFIFO`
    Fifo,
    /// `S_IFSOCK`
    Socket,
    /// `S_IFCHR`
    CharDevice,
    /// `S_IFBLK`
    BlockDevice,
}

impl FileKind {
    /// Returns the kind named by the type bits of a mode, `None` for bits POSIX does not know.
    /// No type bits mean a regular file, as `mknod(2)` has it.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Some(FileKind::Regular),
            libc::S_IFDIR => Some(FileKind::Directory),
            libc::S_IFLNK => Some(FileKind::Symlink),
            libc::S_IFIFO => Some(FileKind::Fifo),
            libc::S_IFSOCK => Some(FileKind::Socket),
            libc::S_IFCHR => Some(FileKind::CharDevice),
            libc::S_IFBLK => Some(FileKind::BlockDevice),
            _ => None,
        }
    }

    /// Returns the `S_IFMT` bits of this kind.
    pub fn type_bits(self) -> u32 {
        match self {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// A point in time with nanoseconds, as inodes carry it. Times before 1970 have negative seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999, always forward from `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// Returns the present.
    pub fn now() -> Timestamp {
        Timestamp::from(SystemTime::now())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp {
                secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Timestamp { secs: -secs, nanos: 0 },
                    nanos => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let nanos = std::time::Duration::from_nanos(u64::from(time.nanos));
        let whole = std::time::Duration::from_secs(time.secs.unsigned_abs());
        if time.secs >= 0 { UNIX_EPOCH + whole + nanos } else { UNIX_EPOCH - whole + nanos }
    }
}

/// What `stat` shows of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// `st_ino`
    pub ino: crate::ids::Ino,
    /// The type bits of `st_mode`.
    pub kind: FileKind,
    /// The permission bits of `st_mode`, `0o7777` at most.
    pub perm: u16,
    /// `st_nlink`
    pub nlink: u32,
    /// `st_uid`
    pub uid: u32,
    /// `st_gid`
    pub gid: u32,
    /// `st_rdev` in the encoding that FUSE and `mknod` use.
    pub rdev: u32,
    /// `st_size`, in bytes.
    pub size: u64,
    /// `st_blocks`, in units of 512 bytes.
    pub blocks: u64,
    /// Last access as far as it was set explicitly: reads do not update it.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
}

/// A time to be set: the present, or a given one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSet {
    /// `UTIME_NOW`
    Now,
    /// A given time.
    At(Timestamp),
}

impl TimeSet {
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            TimeSet::Now => now,
            TimeSet::At(time) => time,
        }
    }
}

/// The attributes a `setattr` changes; `None` leaves one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// `chmod`
    pub perm: Option<u16>,
    /// `chown`
    pub uid: Option<u32>,
    /// `chgrp`
    pub gid: Option<u32>,
    /// `truncate`
    pub size: Option<u64>,
    /// `utimensat`
    pub atime: Option<TimeSet>,
    /// `utimensat`
    pub mtime: Option<TimeSet>,
    /// Only a kernel with a writeback cache sets this.
    pub ctime: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_the_round_trip() {
        for time in [
            Timestamp { secs: -1, nanos: 999_999_999 },
            Timestamp { secs: -5, nanos: 0 },
            Timestamp { secs: 0, nanos: 1 },
            Timestamp { secs: 1 << 33, nanos: 5 },
        ] {
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
    }
}
