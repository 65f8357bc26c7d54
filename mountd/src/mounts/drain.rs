//! Before a cut: having programs' dirty shared mappings written out.

use std::time::Duration;

use durdir_fs::drain::{Drain, DrainReport, Helper, Scope};
use durdir_fs::ids::VolumeId;

use super::Mounts;
use crate::api::ApiError;
use crate::exit::one_line;

/// A program may have dirtied gigabytes; half the time that clients wait.
const LIMIT: Duration = Duration::from_secs(30);

impl Mounts {
    /// Writes out what programs have in the page cache only of the heads of `volumes`, and returns
    /// how many files that were.
    pub(crate) fn drain(&self, volumes: &[VolumeId]) -> Result<u64, ApiError> {
        self.drain_of(volumes, &Scope::All, None)
    }

    /// The same for some programs alone.
    pub(crate) fn drain_of(
        &self,
        volumes: &[VolumeId],
        scope: &Scope,
        helper: Option<Helper>,
    ) -> Result<u64, ApiError> {
        let mounts = self.registry().heads_to_drain(volumes);
        if mounts.is_empty() {
            return Ok(0);
        }
        let DrainReport { processes, unreadable, written, scan, writing } =
            drain().run(&mounts, scope, helper)?;
        tracing::debug!(processes, unreadable, written, ?scan, ?writing, "drained");
        Ok(u64::try_from(written).unwrap_or(u64::MAX))
    }
}

fn drain() -> Drain {
    Drain::by_this_program(LIMIT)
}

/// Starts what a drain may need, for those who will want to have it at once. Without it a drain only takes longer.
pub(crate) fn start_helper() -> Option<Helper> {
    let started = drain().start_helper();
    started.inspect_err(|error| tracing::warn!(error = one_line(error), "a drain will take longer")).ok()
}
