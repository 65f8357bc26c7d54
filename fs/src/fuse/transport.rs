//! What it takes to mount a volume, whichever way requests then travel.
//!
//! A [`Transport`] carries requests between the kernel and [`VolumeFs`]. There is one,
//! [`Classic`], on `/dev/fuse` through fuser. Another brings an implementation of the trait and an
//! adapter of its own; operations never see which one runs.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::handover::Death;
use super::mount::Mount;
use super::session::Classic;
use super::session_memory::SessionMemory;
use crate::ops::VolumeFs;

/// Where data rests that a program has written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// In the store: a `write` that returned has reached it.
    #[default]
    WriteThrough,
    /// In the page cache until the kernel writes it back. Faster for many tiny appends to a file
    /// that stays open; a cut must drain it first, see [`drain`](crate::drain).
    Writeback,
}

/// How a volume is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// Whether users other than the one who mounts may enter. File permissions apply either way.
    pub allow_other: bool,
    /// Whether the kernel refuses changes.
    pub read_only: bool,
    /// Where unsynced data rests.
    pub cache: CacheMode,
    /// What mount tables show as the source, see [`mount_source`](super::mount_source::mount_source).
    pub fs_name: String,
    /// How many threads answer requests; by default as many as there are CPUs to use.
    pub threads: Option<usize>,
}

/// How a mount that is being made gets to outlive its process.
#[derive(Clone)]
pub struct Succession<'k> {
    /// What a successor will find, kept already.
    pub memory: Arc<SessionMemory>,
    /// Has the descriptor of the device kept. Called once, as soon as there is one; what it fails with fails the mount.
    pub keep: &'k dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
}

/// A mount whose process died.
#[derive(Debug)]
pub struct Adoption {
    /// The memory of its session.
    pub memory: Arc<SessionMemory>,
    /// Its `/dev/fuse`.
    pub device: OwnedFd,
    /// How the process ended.
    pub death: Death,
}

/// Carries requests between the kernel and a volume.
pub trait Transport: Send + Sync {
    /// Returns its name for logs and statistics.
    fn name(&self) -> &'static str;

    /// Mounts `fs`. It is served until the returned [`Mount`] is unmounted or dropped, or somebody
    /// else removes the mount; with a `succession`, also by processes that come after this one.
    fn mount(
        &self,
        fs: Arc<VolumeFs>,
        options: &MountOptions,
        succession: Option<Succession<'_>>,
    ) -> Result<Mount, MountError>;

    /// Goes on with a mount that another process served until it died; `options` are those it was made with. `fs` was
    /// opened for that. The calls that were in flight are answered, each once.
    ///
    /// # Errors
    /// The mount stays as it is, and may be adopted again.
    fn adopt(
        &self,
        fs: Arc<VolumeFs>,
        options: &MountOptions,
        adoption: Adoption,
    ) -> Result<Mount, MountError>;
}

/// Mounts `fs` with the transport that suits this machine.
pub fn mount(
    fs: Arc<VolumeFs>,
    options: &MountOptions,
    succession: Option<Succession<'_>>,
) -> Result<Mount, MountError> {
    Classic.mount(fs, options, succession)
}

/// Goes on with a mount, on the transport that it was made with.
pub fn adopt(fs: Arc<VolumeFs>, options: &MountOptions, adoption: Adoption) -> Result<Mount, MountError> {
    Classic.adopt(fs, options, adoption)
}

/// Why a mount was not made or not removed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint does not exist.
    #[error("mount point {} does not exist; create the directory first", mountpoint.display())]
    Missing {
        /// As it was given.
        mountpoint: PathBuf,
    },
    /// The mountpoint is something else than a directory.
    #[error("mount point {} is not a directory", mountpoint.display())]
    NotDirectory {
        /// As it was given.
        mountpoint: PathBuf,
    },
    /// A volume is mounted there.
    #[error("a volume is already mounted at {}; unmount it first", mountpoint.display())]
    AlreadyMounted {
        /// The place.
        mountpoint: PathBuf,
    },
    /// The mountpoint lies in a mounted volume, where the daemon would have to wait for itself.
    #[error("mount point {} lies inside the volume mounted at {}; choose a directory outside of it", mountpoint.display(), outer.display())]
    InsideVolume {
        /// The place.
        mountpoint: PathBuf,
        /// The mount it lies in.
        outer: PathBuf,
    },
    /// What is mounted there belongs to a daemon that is gone.
    #[error("the daemon that served {} is gone; run `durdir umount {}` to clear the mount point", mountpoint.display(), mountpoint.display())]
    Dead {
        /// The place.
        mountpoint: PathBuf,
    },
    /// The mountpoint cannot be looked at.
    #[error("mount point {}", mountpoint.display())]
    Unusable {
        /// As it was given.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This machine cannot mount FUSE filesystems.
    #[error("FUSE is not available, {what}; load the kernel module (`modprobe fuse`) and check {path}")]
    NoFuse {
        /// What was missing.
        what: &'static str,
        /// The device or program.
        path: &'static str,
    },
    /// The helper for ordinary users refused.
    #[error("mount at {}: {message}", mountpoint.display())]
    Refused {
        /// The place.
        mountpoint: PathBuf,
        /// What it said, on one line.
        message: String,
    },
    /// The kernel refused, or the session could not be set up.
    #[error("{step} {}", mountpoint.display())]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The place.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is needed to go on with the mount does not fit this program.
    #[error("go on with the mount at {}", mountpoint.display())]
    CannotAdopt {
        /// The place.
        mountpoint: PathBuf,
        /// What is wrong.
        source: Box<crate::FsError>,
    },
    /// Files in the mount are in use.
    #[error("{} is in use by open files, running programs or other mounts; `fuser -vm {}` lists them", mountpoint.display(), mountpoint.display())]
    Busy {
        /// The place.
        mountpoint: PathBuf,
    },
    /// Something is mounted over the volume.
    #[error("another filesystem is mounted over {}; unmount that first", mountpoint.display())]
    Covered {
        /// The place.
        mountpoint: PathBuf,
    },
    /// The mount is gone from here, but is still mounted elsewhere and therefore served.
    #[error("unmounted {}, but it is still mounted elsewhere, such as in the mount namespace of a sandbox; stop that first", mountpoint.display())]
    HeldElsewhere {
        /// Where it was mounted.
        mountpoint: PathBuf,
    },
}
