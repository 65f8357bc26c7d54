//! One segment file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Condvar, Mutex};

use super::allocation::Allocation;
use crate::failpoint;
use crate::ids::{BranchId, Epoch};
use crate::store::error::StoreError;
use crate::store::group_sync::GroupSync;
use crate::store::record::{PAGE_SIZE, PageRun, SegmentMark};

/// One segment file.
pub(crate) struct Segment {
    pub(super) id: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Written since the last sync began.
    pub(super) dirty: AtomicBool,
    /// A sync is under way.
    pub(super) syncing: AtomicBool,
    /// A sync failed: the host tells that once, and from then on takes for written what it has dropped.
    pub(super) failed: AtomicBool,
    pub(super) sync: GroupSync,
    pub(super) writing_out: GroupSync,
    /// What the stored mark says at least.
    pub(super) stored_mark: AtomicU32,
    /// The directory entry was synced.
    pub(super) linked: AtomicBool,
    pub(super) synced_pages: AtomicU32,
    pub(super) boot: u128,
    pub(super) branch: BranchId,
    pub(super) loose_from: OnceLock<Epoch>,
    /// Being appended to, so not to be unlinked however empty it looks.
    pub(super) active: AtomicBool,
    pub(super) allocation: Mutex<Allocation>,
    /// A run was written, or given up.
    pub(super) written: Condvar,
}

impl Segment {
    pub(super) fn mark(&self) -> SegmentMark {
        SegmentMark {
            synced_pages: self.synced_pages.load(Ordering::SeqCst),
            branch: self.branch,
            loose_from: self.loose_from.get().copied(),
            boot: self.boot,
        }
    }

    /// Reads from a page on.
    pub(crate) fn read(&self, page: u32, skip: usize, buffer: &mut [u8]) -> Result<(), StoreError> {
        let offset = u64::from(page) * PAGE_SIZE as u64 + skip as u64;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                // Beyond the end of the file: pages that were handed out and lost with the power.
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(count) => done += count,
                Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(io("read", &self.path, source)),
            }
        }
        Ok(())
    }

    /// Tells whether the stored mark says less than what was synced.
    pub(super) fn is_behind(&self) -> bool {
        self.synced_pages.load(Ordering::SeqCst) > self.stored_mark.load(Ordering::SeqCst)
    }

    /// Waits until every page is written that was handed out so far, and returns how many those are.
    ///
    /// Otherwise one that is being written just now would keep the mark below others that are synced: those would be suspect, though they
    /// are on the disk, and count as lost once they were rewritten in place.
    pub(super) fn await_written(&self) -> u32 {
        let mut allocation = self.allocation.lock();
        let handed_out = allocation.next;
        while allocation.written_up_to() < handed_out {
            self.written.wait(&mut allocation);
        }
        allocation.written_up_to()
    }

    /// Tells whether the host has on its disk where every page lies that was handed out, and the log that it has.
    pub(super) fn is_settled(&self) -> bool {
        // What was handed out before is in `next`, and pages are below the mark only when their sync is over.
        let next = self.allocation.lock().next;
        self.stored_mark.load(Ordering::SeqCst) >= next
    }

    /// Tells whether everything that was written is on the disk.
    pub(super) fn is_clean(&self) -> bool {
        // In this order: a sync that begins says so before it takes the other mark away.
        !self.dirty.load(Ordering::SeqCst) && !self.syncing.load(Ordering::SeqCst)
    }

    /// Does what has the host bring data to the disk. Once that failed it fails, for everybody.
    pub(super) fn attempt(
        &self,
        action: &'static str,
        work: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let done = if self.failed.load(Ordering::SeqCst) {
            Err(std::io::Error::other(
                "an earlier attempt failed, and the host does not know any more what was lost",
            ))
        } else {
            failpoint::fail("segment.sync").and_then(|()| work())
        };
        done.map_err(|source| {
            self.failed.store(true, Ordering::SeqCst);
            io(action, &self.path, source)
        })
    }

    /// Has the host write to the disk what it has in memory, which may then still be in the disk's own cache. One caller after the
    /// other: the host tells only one of two that it failed.
    pub(super) fn write_out(&self) -> Result<(), StoreError> {
        self.writing_out.run(|| self.attempt("write out", || self.write_range_out()))
    }

    fn write_range_out(&self) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: the call takes no pointers, and the descriptor is open as long as `self.file`.
        let done = unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, flags) };
        match done {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Tells whether nobody appends to it any more and nothing that was handed out is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.active.load(Ordering::SeqCst) && self.allocation.lock().underway.is_empty()
    }

    /// Returns the next run of pages, from `page` on, for which the host stores anything.
    pub(crate) fn next_data(&self, page: u32) -> Result<Option<PageRun>, StoreError> {
        use nix::errno::Errno;
        use nix::unistd::{Whence, lseek};
        let failed = |errno: Errno| io("seek in", &self.path, errno.into());
        // Nobody uses the file's position: reads and writes name theirs.
        let start = match lseek(&self.file, i64::from(page) * PAGE_SIZE as i64, Whence::SeekData) {
            Ok(start) => start as u64 / PAGE_SIZE as u64,
            Err(Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let end =
            lseek(&self.file, (start * PAGE_SIZE as u64) as i64, Whence::SeekHole).map_err(failed)? as u64;
        let number = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
        let count = number(end.div_ceil(PAGE_SIZE as u64).saturating_sub(start));
        Ok((count > 0).then_some(PageRun { segment: self.id, page: number(start), count }))
    }

    /// Writes into a page and those after it.
    pub(crate) fn write(&self, page: u32, skip: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let offset = u64::from(page) * PAGE_SIZE as u64 + skip as u64;
        self.file.write_all_at(bytes, offset).map_err(|source| io("write", &self.path, source))?;
        self.dirty.store(true, Ordering::SeqCst);
        Ok(())
    }
}

pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}
