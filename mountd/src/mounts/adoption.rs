//! Going on with the mounts of a worker that died.
//!
//! # Crash consistency
//! Adopting changes nothing that is kept: a worker that dies meanwhile leaves the same to the next one. What cannot be
//! served any more is let go of: its programs get ENOTCONN instead of waiting for ever, and the log says why.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use durdir_fs::fuse::{self, Adoption, Death, MountError, Phase, SessionMemory, SessionMemoryError};
use durdir_fs::ids::SessionId;
use durdir_fs::store::Store;

use super::Mounts;
use super::mounting::{mount_options, view_of};
use super::registry::Source;
use super::session::{
    Description, Inherited, Keep, KeptMount, Session, by_session, device_name, memory_name,
};
use crate::api::ApiError;
use crate::exit::one_line;

/// Why a mount of a predecessor cannot be gone on with.
#[derive(Debug, thiserror::Error)]
enum Unadoptable {
    #[error("only a part of it was kept")]
    Incomplete,
    #[error("it was not ready when the worker died")]
    Unfinished,
    #[error(transparent)]
    Memory(#[from] SessionMemoryError),
    #[error("read what it is")]
    Description(#[source] std::io::Error),
    #[error("its volume does not exist any more")]
    NoVolume,
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Mounts {
    /// Goes on with every mount that is among the descriptors `kept`, with all at once: one whose lower is slow keeps no other waiting.
    /// Returns the other descriptors.
    pub(crate) fn adopt_all(
        &self,
        store: &Arc<Store>,
        kept: Vec<(String, OwnedFd)>,
        death: Death,
    ) -> Vec<(String, OwnedFd)> {
        let (sessions, others) = by_session(kept);
        let Some(keeper) = self.keeper() else { return others };
        std::thread::scope(|scope| {
            for (session, inherited) in sessions {
                scope.spawn(move || {
                    if let Err(error) = self.adopt(store, keeper, inherited, death) {
                        self.give_up(keeper, session, &error);
                    }
                });
            }
        });
        others
    }

    fn give_up(&self, keeper: &Arc<dyn Keep>, session: SessionId, error: &Unadoptable) {
        let why = one_line(error);
        match error {
            Unadoptable::Incomplete | Unadoptable::Unfinished => {
                tracing::info!(%session, error = why, "a mount is not gone on with");
            }
            _ => tracing::error!(%session, error = why, "cannot go on with a mount: its programs get errors"),
        }
        self.let_go(keeper, session);
    }

    fn adopt(
        &self,
        store: &Arc<Store>,
        keeper: &Arc<dyn Keep>,
        inherited: Inherited,
        death: Death,
    ) -> Result<(), Unadoptable> {
        let (Some(memory), Some(device)) = (inherited.memory, inherited.device) else {
            return Err(Unadoptable::Incomplete);
        };
        let memory = Arc::new(SessionMemory::open(memory)?);
        let description = Description::read(&memory).map_err(Unadoptable::Description)?;
        let plan = description.plan();
        if memory.phase() == Phase::Mounting {
            drop(device);
            self.let_go(keeper, memory.session());
            // Nobody holds the device any more, so the mount is dead if it was made at all.
            self.remove_remains(&plan.mountpoint)?;
            return Err(Unadoptable::Unfinished);
        }
        let known = store.volumes().map_err(ApiError::from)?;
        let volume = known.into_iter().find(|volume| volume.id == description.volume());
        let volume = volume.ok_or(Unadoptable::NoVolume)?;
        let source = description.source();
        let view = view_of(&volume.name, volume.id, source, plan.read_only, &plan);
        let fs = match (source, memory.branch()) {
            (Source::Head, Some(branch)) => store.reopen_head(&volume.name, branch),
            (Source::Head, None) => store.open_head(&volume.name),
            (Source::Snapshot(epoch), _) => store.open_snapshot(&format!("{}@{}", volume.name, epoch.0)),
        };
        let fs = fs.map_err(ApiError::from)?;
        let options = mount_options(store, &view, &plan)?;
        let slot = self.registry().reserve_again(view)?;
        let adoption = Adoption { memory: Arc::clone(&memory), device, death };
        match fuse::adopt(fs, &options, adoption) {
            Ok(mount) => {
                let kept = KeptMount::new(mount, store, Some(Session::of(keeper, memory)));
                self.registry().up(slot, Arc::new(kept));
                Ok(())
            }
            Err(error) => {
                self.registry().forget(slot);
                Err(ApiError::from(error).into())
            }
        }
    }

    /// Has nothing kept of a session any more. Whoever waits for an answer gets ENOTCONN.
    fn let_go(&self, keeper: &Arc<dyn Keep>, session: SessionId) {
        for name in [device_name(session), memory_name(session)] {
            if let Err(error) = keeper.release(&name) {
                tracing::warn!(%error, name, "a descriptor that nobody uses stays kept");
            }
        }
    }
}

impl From<MountError> for Unadoptable {
    fn from(error: MountError) -> Unadoptable {
        Unadoptable::Api(error.into())
    }
}
