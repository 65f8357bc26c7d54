//! The end of the daemon: everything is unmounted, in the end also what is in use.
//!
//! # Crash consistency
//! A mount that is taken away from its users loses nothing that was written: writes go through to
//! the store, and shared mappings are written out first.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durdir_fs::fuse::{self, MountError};

use super::Mounts;
use super::live::LiveMount;
use super::registry::{MountView, Slot};
use crate::api::ApiError;
use crate::exit::one_line;

const RETRY: Duration = Duration::from_millis(100);
/// How long calls that make or unmount something may take longer than they were waited for already.
const LAST_CALLS: Duration = Duration::from_secs(10);
/// How long requests in flight may take after their mounts were taken away: a disk under load is waited for, one that hangs is not.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

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

    /// Takes what is mounted at a place away from whoever uses it: their calls fail. Returns whether nothing is mounted there any more.
    pub(crate) fn take_away_at(&self, mountpoint: &Path) -> bool {
        let mounts = self.registry().select(|view| view.mountpoint == mountpoint);
        self.take_away(mounts)
    }

    /// Takes mounts away from whoever uses them, and tells whether that was possible with all of them.
    fn take_away(&self, mounts: Vec<(Slot, MountView)>) -> bool {
        let deadline = Instant::now() + LAST_CALLS;
        let mut held = Vec::new();
        let mut all = true;
        for (slot, view) in mounts {
            match self.take_hold(slot, deadline) {
                Ok(live) => held.push((slot, view, live)),
                Err(ApiError::NotMounted { .. }) => {}
                Err(error) => {
                    all = false;
                    let mountpoint = view.mountpoint.display();
                    tracing::error!(%mountpoint, error = one_line(&error), "cannot take it away");
                }
            }
        }
        let volumes: Vec<_> = held.iter().map(|(_, view, _)| view.volume_id).collect();
        if let Err(error) = self.drain(&volumes) {
            tracing::error!(error = one_line(&error), "shared mappings are not all written out");
        }
        // All of them first: what hangs is waited for together.
        let count = held.len();
        held.retain(|(slot, view, live)| self.abort(*slot, view, live));
        all &= held.len() == count;
        let deadline = Instant::now() + LAST_REQUESTS;
        for (slot, view, live) in held {
            let mountpoint = view.mountpoint.display();
            let ended = live.end_by(deadline);
            if let Err(error) = fuse::remove_dead_mount(&view.mountpoint) {
                tracing::error!(%mountpoint, error = one_line(&error), "a dead mount stays");
            }
            // Dropped below, and not with the list in hand.
            drop(self.registry().forget(slot));
            if !ended {
                tracing::error!(%mountpoint, limit = ?LAST_REQUESTS, "a request does not end, though its mount has");
                // Whoever drops it waits for it once more.
                std::mem::forget(live);
            }
        }
        all
    }

    /// Ends a mount for the kernel: calls on it fail from here on. One for which that is not possible goes back into the list.
    fn abort(&self, slot: Slot, view: &MountView, live: &Arc<dyn LiveMount>) -> bool {
        let mountpoint = view.mountpoint.display();
        // One that has ended meanwhile has no number any more: another mount may have it.
        if !live.is_alive() {
            return true;
        }
        tracing::warn!(
            volume = view.volume,
            %mountpoint,
            "taken away from programs that use it: their calls will fail"
        );
        match live.abort() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%mountpoint, error = one_line(&error), "cannot take it away");
                self.registry().up(slot, Arc::clone(live));
                false
            }
        }
    }

    /// Takes a mount from whoever else is just making or unmounting it: a call that did not end in time.
    fn take_hold(&self, slot: Slot, deadline: Instant) -> Result<Arc<dyn LiveMount>, ApiError> {
        loop {
            // Not in the match: the list would be in hand for all of it.
            let begun = self.registry().begin_unmount(slot);
            match begun {
                Err(ApiError::MountInTransition { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                begun => return begun,
            }
        }
    }
}
