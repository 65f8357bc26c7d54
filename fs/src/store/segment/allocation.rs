//! Pages that were handed out: until their operation is done, the synced mark must not cover them.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::{Segment, io};
use crate::store::error::StoreError;
use crate::store::record::{PAGE_SIZE, PageRun};

/// Bytes that one call writes. A host filesystem may keep them in one large folio, and ext4 walks all blocks of a folio for each
/// later write of a page in it: 15 us in one of 1 MiB.
const PIECE: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Allocation {
    pub(super) next: u32,
    /// Runs that were handed out, by their first page, and whose operation is not done.
    pub(super) underway: Vec<Underway>,
}

pub(super) struct Underway {
    pub(super) page: u32,
    pub(super) written: bool,
}

impl Allocation {
    /// Every page below this one was written.
    pub(super) fn written_up_to(&self) -> u32 {
        let unwritten = self.underway.iter().filter(|run| !run.written).map(|run| run.page);
        unwritten.min().unwrap_or(self.next)
    }
}

/// Pages that were handed out, to be written once.
pub(crate) struct Allocated {
    pub(super) segment: Arc<Segment>,
    pub(crate) run: PageRun,
}

impl Allocated {
    /// Writes the pages, one slice after the other.
    pub(crate) fn write<'b>(&self, pages: impl IntoIterator<Item = &'b [u8]>) -> Result<(), StoreError> {
        let mut piece = Vec::new();
        let (mut length, mut done) = (0, 0);
        for mut bytes in pages {
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(PIECE - length));
                piece.push(IoSlice::new(now));
                (length, bytes) = (length + now.len(), later);
                if length == PIECE {
                    self.write_piece(&piece, done, length)?;
                    (length, done) = (0, done + length);
                    piece.clear();
                }
            }
        }
        if length > 0 {
            self.write_piece(&piece, done, length)?;
        }
        debug_assert!(done + length <= self.run.count as usize * PAGE_SIZE);
        let mut allocation = self.segment.allocation.lock();
        if let Some(run) = allocation.underway.iter_mut().find(|run| run.page == self.run.page) {
            run.written = true;
        }
        drop(allocation);
        self.segment.written.notify_all();
        Ok(())
    }

    /// Writes `length` bytes in all, `skip` bytes after the beginning of the run.
    fn write_piece(&self, slices: &[IoSlice<'_>], skip: usize, length: usize) -> Result<(), StoreError> {
        let offset = i64::from(self.run.page) * PAGE_SIZE as i64 + skip as i64;
        let written = nix::sys::uio::pwritev(&self.segment.file, slices, offset)
            .map_err(|errno| io("write", &self.segment.path, errno.into()))?;
        self.segment.dirty.store(true, Ordering::SeqCst);
        if written < length {
            // Rare: a signal, or a disk that just filled up, which the second attempt then tells.
            let bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
            self.segment.write(self.run.page, skip + written, bytes.get(written..).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let mut allocation = self.segment.allocation.lock();
        let page = self.run.page;
        allocation.underway.retain(|run| run.page != page);
        drop(allocation);
        self.segment.written.notify_all();
    }
}
