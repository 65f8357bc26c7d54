//! Why a call was not done, in the words of the API.

use std::path::PathBuf;

use durdir_fs::FsError;
use durdir_fs::drain::DrainError;
use durdir_fs::fuse::MountError;
use durdir_fs::ids::RequestId;

use crate::actor::ActorError;
use crate::exit::ExitClass;
use crate::template::TemplateError;

/// A call that was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The store or the filesystem refused or failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The kernel would not mount or unmount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Something was not done with an actor.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// A template is wrong.
    #[error("the template is not valid")]
    Template(#[from] TemplateError),
    /// Shared mappings could not be written out before a cut.
    #[error("write out shared mappings")]
    Drain(#[from] DrainError),
    /// A request lacks a field, or has a value that makes no sense.
    #[error("malformed request: {what}")]
    Malformed {
        /// Which.
        what: &'static str,
    },
    /// A path in a request is not absolute, or has `.` or `..` in it.
    #[error("{what} {} must be an absolute path without . and ..", path.display())]
    BadPath {
        /// What the path is for.
        what: &'static str,
        /// As it was given.
        path: PathBuf,
    },
    /// Something of ours is mounted there, or about to be.
    #[error("{} is the mount point of {what}; `durdir umount` it first", mountpoint.display())]
    MountpointTaken {
        /// The mount point.
        mountpoint: PathBuf,
        /// What is mounted there.
        what: String,
    },
    /// The daemon would have to go through one of its own mounts.
    #[error(
        "{} lies inside the mount of {outer} at {}; a mountd cannot use its own mounts, choose a place outside",
        path.display(), mountpoint.display()
    )]
    InsideOwnMount {
        /// The lower, root, kernel, or place for commits.
        path: PathBuf,
        /// What is mounted around it.
        outer: String,
        /// Where.
        mountpoint: PathBuf,
    },
    /// The daemon would have nothing left to serve from, or would have to go through a mount of its own to it.
    #[error(
        "{} {} the store of this mountd, {}; choose another place to mount at",
        mountpoint.display(), if mountpoint.starts_with(store) { "lies in" } else { "would hide" }, store.display()
    )]
    PlaceOfStore {
        /// Where something was to be mounted.
        mountpoint: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// What is mounted below could not be unmounted any more.
    #[error(
        "{} would hide {what}, which is mounted at {}; `durdir umount` that first",
        mountpoint.display(), inner.display()
    )]
    Hides {
        /// Where something was to be mounted.
        mountpoint: PathBuf,
        /// What is mounted in there.
        what: String,
        /// Where.
        inner: PathBuf,
    },
    /// Without root's rights the daemon sees what is mounted in a lower: it would have to go through its own mount.
    #[error(
        "{} lies in {}, a lower of volume {volume}, where a mountd without root's rights would meet its own mount; \
         choose places apart",
        mountpoint.display(), lower.display()
    )]
    MountedInLower {
        /// What is mounted there, or was to be.
        mountpoint: PathBuf,
        /// The lower.
        lower: PathBuf,
        /// Whose lower it is.
        volume: String,
    },
    /// The head of a volume can be mounted once: two kernels' caches of it would not agree.
    #[error(
        "volume {volume} is mounted at {}; unmount it first, or mount one of its snapshots with --snapshot",
        mountpoint.display()
    )]
    HeadMounted {
        /// The volume.
        volume: String,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// A volume or snapshot cannot go while it is mounted.
    #[error("{what} is mounted at {}; `durdir umount {}` first", mountpoint.display(), mountpoint.display())]
    InUse {
        /// The volume or snapshot.
        what: String,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// Nothing of that name is mounted.
    #[error("nothing of this store is mounted as {target}")]
    NotMounted {
        /// What was asked for.
        target: String,
    },
    /// A call on the same mount is under way.
    #[error("{what} at {} is just being mounted or unmounted; try again", mountpoint.display())]
    MountInTransition {
        /// What is mounted.
        what: String,
        /// Where.
        mountpoint: PathBuf,
    },
    /// A volume that exists was to be mounted over other lowers than it has.
    #[error("volume {volume} exists with {existing}; leave out --lower, or choose another name")]
    OtherLowers {
        /// The volume.
        volume: String,
        /// Its lowers, for people.
        existing: String,
    },
    /// The volume to be mounted does not exist, and was not to be created.
    #[error("volume {volume} does not exist; `durdir volume ls` lists what does, --create creates it")]
    NoVolumeToMount {
        /// The volume.
        volume: String,
    },
    /// A snapshot stands where the volume to be mounted should.
    #[error(
        "{volume}@{snapshot} is no volume; `durdir mount {volume} MOUNTPOINT --snapshot {snapshot}` mounts a snapshot"
    )]
    SnapshotAsVolume {
        /// The volume that the snapshot would be of.
        volume: String,
        /// Its name or epoch.
        snapshot: String,
    },
    /// The snapshot to be mounted belongs to another volume.
    #[error("snapshot {snapshot} is not one of volume {volume}")]
    ForeignSnapshot {
        /// The snapshot.
        snapshot: String,
        /// The volume.
        volume: String,
    },
    /// A snapshot is not mounted with what only a head can have.
    #[error("{what} makes no sense for a snapshot")]
    NotForSnapshots {
        /// What was asked for.
        what: &'static str,
    },
    /// FUSE over io_uring is not there yet.
    #[error("the io_uring transport is not available in this version; use --transport auto or classic")]
    NoUring,
    /// The same volume twice in one cut.
    #[error("volume {volume} is named twice")]
    NamedTwice {
        /// The volume.
        volume: String,
    },
    /// The id of the request was given to another one.
    #[error("request id {id} was used for another request; give each request its own")]
    OtherRequest {
        /// The id.
        id: RequestId,
    },
    /// The same request came before and was not done: what its client was told, or would have been.
    #[error("{message}")]
    Recorded {
        /// Its class.
        exit: ExitClass,
        /// What went wrong.
        message: String,
        /// Why, nearest first.
        causes: Vec<String>,
    },
    /// The daemon is ending.
    #[error("mountd is shutting down; try again")]
    ShuttingDown,
    /// A bug: the handler panicked. The log has the details.
    #[error("internal error in {call}; the log of mountd has the details")]
    Panicked {
        /// Which call.
        call: &'static str,
    },
}
