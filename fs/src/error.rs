//! What can go wrong, in the words of a filesystem. No errno is chosen here: that is
//! `fuse/errno.rs`, and `mountd`'s `api/status.rs` for the control plane.

use std::path::PathBuf;

use crate::ids::{Ino, NodeId};
use crate::overlay::lower::LowerError;
use crate::store::StoreError;

impl FsError {
    /// Tells whether bytes of the store are not what was written.
    pub fn is_corruption(&self) -> bool {
        matches!(self, FsError::Store(error) if error.is_corruption())
    }
}

/// An operation that was not done, and why.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// There is no such name in the directory.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("inode {ino} is not a directory")]
    NotDirectory {
        /// What was found instead.
        ino: Ino,
    },
    /// Anything but a directory was needed.
    #[error("inode {ino} is a directory")]
    IsDirectory {
        /// The directory.
        ino: Ino,
    },
    /// A directory that must be empty is not.
    #[error("directory {ino} is not empty")]
    NotEmpty {
        /// The directory.
        ino: Ino,
    },
    /// The name is that of `.snapshots`, which the mount shows and the volume does not have.
    #[error("the name is in use by the mount")]
    Busy,
    /// A name is longer than 255 bytes, or a symlink target longer than 4095.
    #[error("a name of {length} bytes is too long")]
    NameTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// An argument is outside what the operation knows.
    #[error("invalid argument: {what}")]
    Invalid {
        /// Which.
        what: &'static str,
    },
    /// The caller may not do this at all (EPERM).
    #[error("not permitted: {what}")]
    NotPermitted {
        /// What was refused.
        what: &'static str,
    },
    /// A permission bit is missing (EACCES).
    #[error("access denied")]
    AccessDenied,
    /// The view is read-only: a snapshot, or a read-only mount.
    #[error("read-only view")]
    ReadOnly,
    /// The node is of a timeline that a rollback ended, or was never handed out.
    #[error("node {node} is stale")]
    Stale {
        /// The node.
        node: NodeId,
    },
    /// The head was taken away, by a rollback or by the removal of its volume, while the operation ran.
    #[error("the volume was rolled back or removed meanwhile")]
    Retired,
    /// The store's disk is full, but for the reserve that keeps deletes possible.
    #[error("no space left in the store")]
    NoSpace,
    /// The volume's quota of bytes or inodes is used up.
    #[error("quota of {what} exceeded")]
    QuotaExceeded {
        /// `bytes` or `inodes`.
        what: &'static str,
    },
    /// A file cannot have more names.
    #[error("too many links")]
    TooManyLinks,
    /// An offset or size is beyond what a file can have.
    #[error("file too big")]
    FileTooBig,
    /// The file has no such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// The value of an extended attribute is larger than 64 KiB.
    #[error("extended attribute too big")]
    XattrTooBig,
    /// There is no data, or no hole, at or after the offset (`SEEK_DATA`, `SEEK_HOLE`).
    #[error("no data at or after the offset")]
    NoData,
    /// The operation does not exist here.
    #[error("not supported: {what}")]
    Unsupported {
        /// What was asked.
        what: &'static str,
    },
    /// The files belong to different views.
    #[error("crosses a volume or snapshot boundary")]
    CrossVolume,
    /// A lower could not be read, or changed behind our back.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a successor must know of the session cannot be kept.
    #[error("keep the state of the session")]
    Session {
        /// What the system said.
        source: std::io::Error,
    },

    /// No volume of this name.
    #[error("volume {name} does not exist; `durdir volume ls` lists what does")]
    VolumeNotFound {
        /// As it was given.
        name: String,
    },
    /// The name of a new volume is taken.
    #[error("volume {name} exists already")]
    VolumeExists {
        /// As it was given.
        name: String,
    },
    /// The volume is in use by a mount.
    #[error("volume {name} is mounted; unmount it first")]
    VolumeMounted {
        /// Its name.
        name: String,
    },
    /// A volume or snapshot name breaks the rules.
    #[error("invalid name {name:?}: {why}")]
    BadName {
        /// As it was given.
        name: String,
        /// The rule.
        why: &'static str,
    },
    /// No snapshot of this name or epoch.
    #[error("snapshot {name} does not exist; `durdir snapshot ls` lists what does")]
    SnapshotNotFound {
        /// As it was given, `VOLUME@NAME` or `VOLUME@EPOCH`.
        name: String,
    },
    /// The volume has a snapshot of this name.
    #[error("snapshot {name} exists already")]
    SnapshotExists {
        /// `VOLUME@NAME`
        name: String,
    },
    /// The snapshot is mounted.
    #[error("snapshot {name} is mounted; unmount it first")]
    SnapshotMounted {
        /// `VOLUME@EPOCH`
        name: String,
    },
    /// A lower directory cannot be used.
    #[error("lower {}: {why}", path.display())]
    BadLower {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A lower directory is not there.
    #[error("lower {} does not exist", path.display())]
    LowerMissing {
        /// As it was given.
        path: PathBuf,
    },
    /// A volume is to be taken back to what is no snapshot of it.
    #[error(
        "{snapshot} is no snapshot of {volume}: a volume goes back to its own ones only, to have another's, fork it"
    )]
    OfAnotherVolume {
        /// The volume.
        volume: String,
        /// Whose snapshot it is is in its name.
        snapshot: String,
    },
    /// One side of a diff without a common history is the head of a volume, which would change while it is read.
    #[error("{from} and {to} have no common ancestor: take a snapshot of {to}, and compare with that")]
    UnrelatedHead {
        /// A snapshot.
        from: String,
        /// The volume.
        to: String,
    },
}
