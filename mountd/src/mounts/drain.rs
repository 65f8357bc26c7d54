//! Before a cut: having programs' dirty shared mappings written out.

use std::time::Duration;

use durdir_fs::drain::{Drain, DrainReport, Scope};
use durdir_fs::ids::VolumeId;

use super::Mounts;
use crate::api::ApiError;

/// A program may have dirtied gigabytes; half the time that clients wait.
const LIMIT: Duration = Duration::from_secs(30);

impl Mounts {
    /// Writes out what programs have in the page cache only of the heads of `volumes`, and returns
    /// how many files that were.
    pub(crate) fn drain(&self, volumes: &[VolumeId]) -> Result<u64, ApiError> {
        let mounts = self.registry().heads_to_drain(volumes);
        if mounts.is_empty() {
            return Ok(0);
        }
        let DrainReport { processes, unreadable, synced, scan, sync } =
            Drain::by_this_program(LIMIT).run(&mounts, &Scope::All)?;
        tracing::debug!(processes, unreadable, synced, ?scan, ?sync, "drained");
        Ok(u64::try_from(synced).unwrap_or(u64::MAX))
    }
}
