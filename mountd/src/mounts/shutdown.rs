//! The end of the daemon: everything is unmounted, in the end also what is in use.
//!
//! # Crash consistency
//! A mount that is taken away from its users loses nothing that was written: writes go through to
//! the store, and shared mappings are written out first.

use std::time::{Duration, Instant};

use durdir_fs::fuse::{self, MountError};

use super::Mounts;
use super::registry::{MountView, Slot};
use crate::api::ApiError;
use crate::exit::one_line;

const RETRY: Duration = Duration::from_millis(100);

impl Mounts {
    /// Unmounts everything. Mounts in use are waited for, all together as long as the grace says;
    /// then calls on them fail.
    pub(crate) fn shut_down(&self) {
        self.registry().close();
        let deadline = Instant::now() + self.grace();
        loop {
            let left = self.unmount_idle();
            if left.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                self.take_away(left);
                return;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Unmounts what is not in use and returns the rest.
    fn unmount_idle(&self) -> Vec<(Slot, MountView)> {
        let mut mounts = self.registry().select(|_| true);
        mounts.retain(|(slot, view)| match self.unmount_slot(*slot) {
            Ok(()) | Err(ApiError::NotMounted { .. }) => false,
            Err(
                ApiError::MountInTransition { .. }
                | ApiError::Mount(MountError::Busy { .. } | MountError::HeldElsewhere { .. }),
            ) => true,
            Err(error) => {
                let mountpoint = view.mountpoint.display();
                tracing::warn!(%mountpoint, error = one_line(&error), "cannot unmount");
                true
            }
        });
        mounts
    }

    fn take_away(&self, mounts: Vec<(Slot, MountView)>) {
        let volumes: Vec<_> = mounts.iter().map(|(_, view)| view.volume_id).collect();
        if let Err(error) = self.drain(&volumes) {
            tracing::error!(error = one_line(&error), "shared mappings are not all written out");
        }
        for (slot, view) in mounts {
            let mountpoint = view.mountpoint.display();
            tracing::warn!(
                volume = view.volume,
                %mountpoint,
                "taken away from programs that use it: their calls will fail"
            );
            let taken = self
                .registry()
                .begin_unmount(slot)
                .and_then(|live| live.abort().map_err(ApiError::from))
                .and_then(|_| Ok(fuse::remove_dead_mount(&view.mountpoint)?));
            if let Err(error) = taken {
                tracing::error!(%mountpoint, error = one_line(&error), "cannot take it away");
            }
            let gone = self.registry().forget(slot);
            // What it still serves has ended after this, and what was kept of it is let go of: the store is closed next.
            drop(gone);
        }
    }
}
