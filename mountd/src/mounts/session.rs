//! A mount that outlives the worker: what is kept of it with the keeper, and what a successor makes of that.
//!
//! # Overview
//! Two descriptors are kept for each mount: `session.ID`, its memory, which also says what is mounted and where, and
//! `device.ID`, its `/dev/fuse`.
//!
//! ```text
//!   memory kept ──▶ device kept ──▶ mounted ──▶ INIT answered: serving ──▶ unmounting ──▶ both released
//!   └───────────── undone ─────────────────┘    └────────── adopted ──────────────┘
//! ```
//!
//! # Crash consistency
//! A worker that dies while it makes a mount leaves one that nobody was told of: its successor takes it away, and the client
//! asks again. Once it is served, also while it is being unmounted, a successor goes on with it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use durdir_fs::failpoint;
use durdir_fs::fuse::{CacheMode, Mount, MountError, Phase, SessionMemory, Succession};
use durdir_fs::ids::{BranchId, Epoch, SessionId, VolumeId};
use durdir_fs::store::Store;
use serde::{Deserialize, Serialize};

use super::plan::MountPlan;
use super::registry::{MountView, Source};
use crate::exit::one_line;
use crate::keeper::Keeper;
use crate::socket;

/// Keeps descriptors over the death of this process.
pub(crate) trait Keep: Send + Sync {
    /// Keeps a duplicate under a name; it has it when this returns.
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;
    /// Closes what is kept under a name.
    fn release(&self, name: &str) -> io::Result<()>;
}

impl Keep for Keeper {
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Keeper::keep(self, name, &[descriptor])
    }

    fn release(&self, name: &str) -> io::Result<()> {
        Keeper::release(self, name)
    }
}

/// What a successor must know to mount the same thing: the description in a session's memory, as JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// The number of the volume: its name may change.
    volume: u32,
    /// The epoch of the snapshot that is mounted.
    snapshot: Option<u64>,
    mountpoint: Vec<u8>,
    read_only: bool,
    writeback: bool,
    allow_other: bool,
}

impl Description {
    pub(super) fn of(view: &MountView, plan: &MountPlan) -> Description {
        Description {
            volume: view.volume_id.0,
            snapshot: match view.source {
                Source::Head => None,
                Source::Snapshot(epoch) => Some(epoch.0),
            },
            mountpoint: plan.mountpoint.as_os_str().as_bytes().to_vec(),
            read_only: plan.read_only,
            writeback: plan.cache == CacheMode::Writeback,
            allow_other: plan.allow_other,
        }
    }

    pub(super) fn volume(&self) -> VolumeId {
        VolumeId(self.volume)
    }

    pub(super) fn source(&self) -> Source {
        self.snapshot.map_or(Source::Head, |epoch| Source::Snapshot(Epoch(epoch)))
    }

    pub(super) fn plan(&self) -> MountPlan {
        MountPlan {
            mountpoint: PathBuf::from(OsString::from_vec(self.mountpoint.clone())),
            read_only: self.read_only,
            cache: if self.writeback { CacheMode::Writeback } else { CacheMode::WriteThrough },
            allow_other: self.allow_other,
        }
    }

    pub(super) fn read(memory: &SessionMemory) -> io::Result<Description> {
        Ok(serde_json::from_slice(&memory.description()?)?)
    }
}

/// The session of a mount, as the keeper has it.
pub(super) struct Session {
    keeper: Arc<dyn Keep>,
    pub(super) memory: Arc<SessionMemory>,
    released: AtomicBool,
}

impl Session {
    /// Begins one: its memory is kept from here on.
    pub(super) fn begin(
        keeper: &Arc<dyn Keep>,
        branch: Option<BranchId>,
        description: &Description,
    ) -> io::Result<Session> {
        let memory = Arc::new(SessionMemory::create(branch, &serde_json::to_vec(description)?)?);
        keeper.keep(&memory_name(memory.session()), memory.as_fd())?;
        failpoint::hit("mount.kept");
        Ok(Session::of(keeper, memory))
    }

    /// Goes on with one that is kept.
    pub(super) fn of(keeper: &Arc<dyn Keep>, memory: Arc<SessionMemory>) -> Session {
        Session { keeper: Arc::clone(keeper), memory, released: AtomicBool::new(false) }
    }

    pub(super) fn keep_device(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.keeper.keep(&device_name(self.memory.session()), device)
    }

    /// Ends it: nothing is kept of it any more.
    pub(super) fn release(&self) {
        if self.released.swap(true, Ordering::SeqCst) {
            return;
        }
        let session = self.memory.session();
        // The device first: a memory without a device is nothing.
        for name in [device_name(session), memory_name(session)] {
            if let Err(error) = self.keeper.release(&name)
                // Whoever is gone keeps nothing.
                && !socket::is_absent(&error)
            {
                tracing::warn!(%error, name, "a descriptor of a mount that has ended stays kept");
            }
        }
    }
}

/// Mounts with what `session` keeps, if there is one.
pub(super) fn with_succession<T>(
    session: Option<&Session>,
    mount: impl FnOnce(Option<Succession<'_>>) -> T,
) -> T {
    let keep = |device: BorrowedFd<'_>| session.map_or(Ok(()), |session| session.keep_device(device));
    mount(session.map(|session| Succession { memory: Arc::clone(&session.memory), keep: &keep }))
}

/// A mount, and what is kept of it.
pub(super) struct KeptMount {
    pub(super) mount: Mount,
    store: Arc<Store>,
    session: Option<Session>,
}

impl KeptMount {
    pub(super) fn new(mount: Mount, store: &Arc<Store>, session: Option<Session>) -> KeptMount {
        KeptMount { mount, store: Arc::clone(store), session }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn unmount(&self) -> Result<(), MountError> {
        self.set_phase(Phase::Unmounting);
        match self.mount.unmount() {
            Ok(()) => {
                self.end();
                Ok(())
            }
            Err(error) => {
                self.set_phase(Phase::Serving);
                Err(error)
            }
        }
    }

    /// Waits for the end of a mount that was taken away, and tells whether it has come. Nothing is kept of it after this: the kernel
    /// has ended it already, its last requests may still be worked on.
    pub(super) fn end_by(&self, deadline: Instant) -> bool {
        let ended = self.mount.wait_for_end(deadline.saturating_duration_since(Instant::now()));
        self.end();
        ended
    }

    fn set_phase(&self, phase: Phase) {
        if let Some(session) = &self.session {
            session.memory.set_phase(phase);
        }
    }

    fn end(&self) {
        let Some(session) = &self.session else { return };
        session.release();
        if let Err(error) = self.store.forget_session(session.memory.session()) {
            tracing::warn!(error = one_line(&error), "answers of a mount that has ended stay stored");
        }
    }
}

impl Drop for KeptMount {
    fn drop(&mut self) {
        // Somebody else ended it.
        if !self.mount.is_alive() {
            self.end();
        }
    }
}

/// What is kept of one session.
#[derive(Default)]
pub(super) struct Inherited {
    pub(super) memory: Option<OwnedFd>,
    pub(super) device: Option<OwnedFd>,
}

/// Descriptors as a keeper has them, each with its name.
type Named = Vec<(String, OwnedFd)>;

/// Sorts kept descriptors by session. What has another name is returned beside them.
pub(super) fn by_session(kept: Named) -> (Vec<(SessionId, Inherited)>, Named) {
    let mut sessions: Vec<(SessionId, Inherited)> = Vec::new();
    let mut others = Vec::new();
    for (name, descriptor) in kept {
        let parsed =
            name.split_once('.').and_then(|(what, id)| Some((what, u64::from_str_radix(id, 16).ok()?)));
        let Some((what @ ("session" | "device"), id)) = parsed else {
            others.push((name, descriptor));
            continue;
        };
        let id = SessionId(id);
        let at = sessions.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            sessions.push((id, Inherited::default()));
            sessions.len() - 1
        });
        if let Some((_, inherited)) = sessions.get_mut(at) {
            match what {
                "session" => inherited.memory = Some(descriptor),
                _ => inherited.device = Some(descriptor),
            }
        }
    }
    (sessions, others)
}

pub(super) fn memory_name(session: SessionId) -> String {
    format!("session.{:016x}", session.0)
}

pub(super) fn device_name(session: SessionId) -> String {
    format!("device.{:016x}", session.0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_description_survives_with_odd_mount_points() {
        let description = Description {
            volume: 7,
            snapshot: Some(3),
            mountpoint: b"/mnt/\xff \n".to_vec(),
            read_only: true,
            writeback: false,
            allow_other: true,
        };
        let memory = SessionMemory::create(None, &serde_json::to_vec(&description).unwrap()).unwrap();
        let read = Description::read(&memory).unwrap();
        assert_eq!(read, description);
        assert_eq!(read.plan().mountpoint.as_os_str().as_bytes(), b"/mnt/\xff \n");
        assert_eq!(read.source(), Source::Snapshot(Epoch(3)));
    }

    /// A keeper whose process has ended.
    struct Gone(io::ErrorKind);

    impl Keep for Gone {
        fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
            Err(self.0.into())
        }

        fn release(&self, _: &str) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_keeper_that_is_gone_is_told_from_one_that_takes_no_more() {
        let begin = |kind| {
            let keeper: Arc<dyn Keep> = Arc::new(Gone(kind));
            let description = Description {
                volume: 1,
                snapshot: None,
                mountpoint: Vec::new(),
                read_only: false,
                writeback: false,
                allow_other: false,
            };
            let error = Session::begin(&keeper, None, &description).err().unwrap();
            socket::is_absent(&error)
        };
        assert!(begin(io::ErrorKind::ConnectionRefused) && begin(io::ErrorKind::NotFound));
        assert!(!begin(io::ErrorKind::QuotaExceeded) && !begin(io::ErrorKind::TimedOut));
    }

    #[test]
    fn descriptors_are_sorted_by_session() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let (one, two) = (SessionId(1), SessionId(u64::MAX));
        let kept = vec![
            (device_name(two), null()),
            (memory_name(one), null()),
            ("api".to_owned(), null()),
            ("session.xyz".to_owned(), null()),
            (memory_name(two), null()),
        ];
        let (sessions, others) = by_session(kept);
        let seen: Vec<_> =
            sessions.iter().map(|(id, kept)| (*id, kept.memory.is_some(), kept.device.is_some())).collect();
        assert_eq!(seen, [(two, true, true), (one, true, false)]);
        assert_eq!(others.len(), 2);
    }
}
