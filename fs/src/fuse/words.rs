//! Memory that is shared between the processes that serve a mount one after the other, as words that are loaded and
//! stored whole.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The first words of a file, mapped.
pub(super) struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the words are only ever used as atomics, which threads may share, and the mapping moves with its owner.
unsafe impl Send for Words {}
// SAFETY: as above: shared references give out `&AtomicU64` alone.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `count` words of `file`, which must be that long and must never be truncated.
    pub(super) fn map(file: &File, count: NonZeroUsize) -> io::Result<Words> {
        let bytes = count
            .checked_mul(NonZeroUsize::MIN.saturating_add(size_of::<AtomicU64>() - 1))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < bytes.get() as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "memory of a session is cut short"));
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces no other.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Words { start: start.cast(), count: count.get() })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `count` words long, readable and writable until `drop`, and the file is as
        // long; whoever else has it mapped uses atomic loads and stores as well.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU64>();
        // SAFETY: mapped by `map` with this address and length, and no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.cast(), bytes) } {
            tracing::warn!(%error, "memory of a session stays mapped");
        }
    }
}
