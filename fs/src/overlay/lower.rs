//! Lower layers: the read-only trees beneath the writable upper.
//!
//! # Overview
//! [`Lower`] is all the overlay knows of a lower, whether it is a host directory
//! ([`HostLower`](super::host::HostLower)) or a committed snapshot. A lower is addressed by
//! [`LowerPath`] and answers for itself alone: merging several is [`resolve`](super::resolve::resolve)'s work.
//!
//! # Invariants
//! - Nothing in this interface writes: a lower's bytes, attributes and access times stay as they were.
//! - "The lower has no such name" is [`LayerSays::Absent`]; "the lower could not be asked" is a [`LowerError`].
//! - A caller that remembers something about a lower file remembers its [`LowerStamp`] too. Data is
//!   handed out only while the file still bears that stamp, so bytes of two versions are never mixed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::resolve::LayerSays;
use crate::attr::{FileKind, Timestamp};

/// One read-only tree beneath the upper.
pub trait Lower: Send + Sync {
    /// Asks what this layer says about `path`.
    ///
    /// A path whose parent is missing, or is not a directory here, is [`LayerSays::Absent`]. A symbolic
    /// link is a file and is never followed; one in the middle of `path` is [`LowerError::Escapes`].
    fn lookup(&self, path: &LowerPath) -> Result<LayerEntry, LowerError>;

    /// Shows every entry of the directory `path` to `sink`, whiteouts included, without `.` and `..`.
    fn entries(&self, path: &LowerPath, sink: &mut dyn FnMut(LowerDirEntry<'_>)) -> Result<(), LowerError>;

    /// Returns the target of the symbolic link `path`.
    fn readlink(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError>;

    /// Reads the regular file `path` at `offset` until `buf` is full or the file ends.
    ///
    /// Returns how much of `buf` was filled; less than all of it only at the end of the file. Answers
    /// [`LowerError::Changed`] unless the file bore the stamp `expected` after the last byte was read.
    fn read_at(
        &self,
        path: &LowerPath,
        expected: &LowerStamp,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LowerError>;

    /// Returns the first offset at or after `offset` that is data or a hole, as `to` asks.
    ///
    /// The end of the file counts as a hole. `None` when there is nothing left: `offset` is at or past
    /// the end, or only a hole follows it and data was asked for.
    fn seek(
        &self,
        path: &LowerPath,
        expected: &LowerStamp,
        offset: u64,
        to: SeekTo,
    ) -> Result<Option<u64>, LowerError>;

    /// Returns the names and values of all extended attributes of `path`, overlay-private ones left out.
    fn xattrs(&self, path: &LowerPath) -> Result<Xattrs, LowerError>;

    /// Returns one extended attribute of `path`; `None` when it is not set or is overlay-private.
    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError>;

    /// Returns what to call this lower in messages, such as its directory or its snapshot id.
    fn identity(&self) -> String;
}

/// What a lower says about a path.
pub type LayerEntry = LayerSays<LowerInode>;

/// Extended attributes: names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What [`Lower::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not stored and reads as zero.
    Hole,
}

/// What a file of a lower looked like when it was last looked at.
///
/// Two looks with the same stamp saw the same content: a write changes `mtime` and `ctime`, a
/// replacement changes `host_ino`, and a write whose `mtime` was set back still changes `ctime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LowerStamp {
    /// The inode number in the lower.
    pub host_ino: u64,
    /// The size in bytes.
    pub size: u64,
    /// When the content last changed.
    pub mtime: Timestamp,
    /// When the content or the attributes last changed.
    pub ctime: Timestamp,
}

/// The attributes of a file or directory in a lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerInode {
    /// What to compare a later look with.
    pub stamp: LowerStamp,
    /// The device of the lower's filesystem; `host_ino` is unique only within it.
    pub host_dev: u64,
    /// The file type.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`07777`).
    pub perm: u16,
    /// Number of hard links in the lower.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device a device node stands for, in the kernel's 32-bit encoding; else 0.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Birth; the zero time where the lower does not record it.
    pub btime: Timestamp,
}

/// One entry of a lower directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerDirEntry<'a> {
    /// The name, any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// What the name stands for.
    pub kind: LowerEntryKind,
    /// The inode number in the lower.
    pub host_ino: u64,
}

/// What a name in a lower directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowerEntryKind {
    /// The name is deleted here and in the layers beneath.
    Whiteout,
    /// A file or directory of this type.
    Of(FileKind),
}

/// A path inside a lower, relative to its root.
///
/// Components are separated by one `/`; none is empty, `.` or `..`, and no byte is NUL. The root is the
/// empty path. Components are bytes, not text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LowerPath(Box<[u8]>);

impl LowerPath {
    /// Returns the root of a lower.
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Takes `bytes` for a path; `None` unless it keeps every rule of [`LowerPath`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(is_component);
        valid.then(|| Self(bytes.into()))
    }

    /// Returns the path of `name` in the directory `self`.
    ///
    /// `name` has been checked by the caller to be one valid component.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(is_component(name), "not a single path component: {}", name.escape_ascii());
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// Returns the directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| Self(parent.into()))
    }

    /// Returns the last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.split().map(|(_, name)| name)
    }

    /// Returns the bytes of the parent's path and the last component; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None => Some((&[], &self.0)),
        }
    }

    /// Returns whether this is the root of the lower.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path as bytes, without a leading or trailing slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for LowerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str("/") } else { write!(f, "{}", self.0.escape_ascii()) }
    }
}

impl fmt::Debug for LowerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LowerPath(\"{}\")", self.0.escape_ascii())
    }
}

/// Returns whether `name` can be one component of a path.
pub(super) fn is_component(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Why a lower could not answer.
#[derive(Debug, Error)]
pub enum LowerError {
    /// The directory that should become a lower could not be opened.
    #[error("open lower {}", dir.display())]
    Open {
        /// The directory.
        dir: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host refused or failed an access.
    #[error("lower {lower}: {path}")]
    Io {
        /// The lower's identity.
        lower: String,
        /// What was accessed.
        path: LowerPath,
        /// What the host said.
        source: io::Error,
    },
    /// Something that an earlier look found is no longer there.
    #[error("lower {lower}: {path} is gone; a lower must not change while it is in use")]
    NotFound {
        /// The lower's identity.
        lower: String,
        /// What is missing.
        path: LowerPath,
    },
    /// A file is not the one that an earlier look found.
    #[error("lower {lower}: {path} changed; a lower must not change while it is in use")]
    Changed {
        /// The lower's identity.
        lower: String,
        /// The file that differs.
        path: LowerPath,
    },
    /// The path leads through a symbolic link or out of the lower.
    #[error("lower {lower}: {path} leads through a symbolic link or out of the lower")]
    Escapes {
        /// The lower's identity.
        lower: String,
        /// The path that was refused.
        path: LowerPath,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parse_refuses_every_path_that_is_not_plain() {
        let refused: [&[u8]; 12] =
            [b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/.", b"./a", b"a/..", b"../a", b"a/../b", b"a\0b"];
        for bytes in refused {
            assert_eq!(LowerPath::parse(bytes), None, "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"a", b"a/b", b"..a/b..", b"...", b"\xff/\x01\n"] {
            assert_eq!(LowerPath::parse(bytes).unwrap().as_bytes(), bytes);
        }
    }

    #[test]
    fn the_root_has_neither_parent_nor_name() {
        let root = LowerPath::root();
        assert!(root.is_root());
        assert_eq!((root.parent(), root.name()), (None, None));
        assert_eq!(root.to_string(), "/");
        assert_eq!(root.join(b"a").parent(), Some(root));
    }

    proptest! {
        #[test]
        fn parse_is_total_and_join_undoes_split(bytes in prop::collection::vec(prop::sample::select(&b"ab./\0\xff"[..]), 0..12)) {
            if let Some(path) = LowerPath::parse(&bytes) {
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
                if let (Some(parent), Some(name)) = (path.parent(), path.name()) {
                    prop_assert_eq!(&parent.join(name), &path);
                    prop_assert_eq!(LowerPath::parse(parent.as_bytes()), Some(parent));
                }
            }
        }
    }
}
