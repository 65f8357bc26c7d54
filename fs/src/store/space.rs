//! Whether the host's disk has room: growth stops while enough is left for deletes to succeed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::FsError;

/// How old a look at the disk may be.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What may be written before the next look, whatever its age.
const LOOK_AFTER: u64 = 4 << 20;

/// Watches the disk under a store.
pub(crate) struct Space {
    dir: PathBuf,
    /// When the disk was last looked at.
    looked: Mutex<Instant>,
    /// Bytes that may be written until the next look.
    allowance: AtomicU64,
}

impl Space {
    pub(crate) fn new(dir: PathBuf) -> Space {
        Space { dir, looked: Mutex::new(Instant::now()), allowance: AtomicU64::new(0) }
    }

    /// Refuses growth by `bytes` if that would eat into the reserve.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), FsError> {
        let taken =
            self.allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes));
        let mut looked = match (taken, self.looked.try_lock()) {
            // Somebody else is looking right now, and there was allowance.
            (Ok(_), None) => return Ok(()),
            (Ok(_), Some(looked)) if looked.elapsed() < LOOK_AGAIN => return Ok(()),
            (_, Some(looked)) => looked,
            (Err(_), None) => self.looked.lock(),
        };
        let (total, available) = self.look()?;
        *looked = Instant::now();
        let spare = available.saturating_sub(reserve(total));
        self.allowance.store(spare.min(LOOK_AFTER), Ordering::SeqCst);
        if spare > bytes { Ok(()) } else { Err(FsError::NoSpace) }
    }

    /// Returns bytes in all and bytes that may be written, as `statfs` shows them.
    pub(crate) fn look(&self) -> Result<(u64, u64), FsError> {
        let stat = nix::sys::statvfs::statvfs(&self.dir).map_err(|errno| super::StoreError::Io {
            action: "statvfs",
            path: self.dir.clone(),
            source: errno.into(),
        })?;
        Ok((stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size()))
    }

    /// Returns bytes in all and bytes that may still be written.
    pub(crate) fn available(&self) -> Result<(u64, u64), FsError> {
        let (total, available) = self.look()?;
        Ok((total, available.saturating_sub(reserve(total))))
    }
}

/// A twentieth of a small disk, 128 MiB of a large one: room for the log, for memtables that have
/// to be written out, and for the whiteouts of deletes.
fn reserve(total: u64) -> u64 {
    (total / 20).min(128 << 20)
}
