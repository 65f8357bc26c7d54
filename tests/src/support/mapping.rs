//! Memory mappings of files, accessed by copying in and out.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A mapping of the first bytes of a file; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access is a volatile copy.
unsafe impl Send for Mapping {}
// SAFETY: as above; racing accesses are those of the kernel's page cache, byte by byte.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes shared, readable and writable: stores reach the file.
    pub fn shared(file: &File, len: usize) -> io::Result<Mapping> {
        Self::map(file, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    }

    /// Maps `len` bytes shared and read-only.
    pub fn shared_read_only(file: &File, len: usize) -> io::Result<Mapping> {
        Self::map(file, len, libc::PROT_READ, libc::MAP_SHARED)
    }

    /// Maps `len` bytes private: stores stay in this process.
    pub fn private(file: &File, len: usize) -> io::Result<Mapping> {
        Self::map(file, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
    }

    fn map(file: &File, len: usize, protection: i32, flags: i32) -> io::Result<Mapping> {
        // SAFETY: a null hint lets the kernel choose the place, so no existing mapping is touched.
        let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).expect("mmap without MAP_FIXED never maps page 0");
        Ok(Mapping { address, len })
    }

    /// Copies `len` bytes out, beginning at `offset`.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "read beyond the mapping");
        let byte = |at: usize| {
            // SAFETY: `at` is inside the mapping, checked above; the pages stay mapped until drop.
            unsafe { self.address.add(at).read_volatile() }
        };
        (offset..offset + len).map(byte).collect()
    }

    /// Stores `data`, beginning at `offset`.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len, "write beyond the mapping");
        for (at, &byte) in data.iter().enumerate() {
            // SAFETY: inside the mapping, checked above; the pages stay mapped until drop.
            unsafe { self.address.add(offset + at).write_volatile(byte) };
        }
    }

    /// Waits until all stores reached the file (`msync` with `MS_SYNC`).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the one that was mapped.
        let done = unsafe { libc::msync(self.address.as_ptr().cast(), self.len, libc::MS_SYNC) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the one that was mapped, and nothing borrows from it.
        let done = unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
        debug_assert_eq!(done, 0, "munmap of our own mapping");
    }
}
