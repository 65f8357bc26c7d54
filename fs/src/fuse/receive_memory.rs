//! The memory into which the kernel copies requests is there before the kernel needs it.
//!
//! # Overview
//! fuser reads each request into a buffer of its own, which comes as zeroed memory: pages that do not exist until something is
//! written to them. When that is the kernel, and it has none to give, because the process is just being killed for lack of memory,
//! then it ends the request, which nobody has seen, with EIO. So an allocation of that very size gets its pages at once, as far
//! as requests reach.
//!
//! # Invariants
//! - Beyond the first [`MOST`] buffers nothing is done: each takes a MiB, and a node may have hundreds of mounts.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::adapter::MAX_WRITE;

/// fuser's `BUFFER_SIZE`, whatever size of requests was agreed on.
const BUFFER: usize = (16 << 20) + 4096;
/// How far a request reaches: its header, and what it brings.
const USED: usize = MAX_WRITE as usize + 4096;
/// Smaller than, or as large as, a page of any machine.
const PAGE: usize = 4096;
/// Buffers that are prepared.
const MOST: usize = 64;

/// An allocator that prepares the memory of requests.
#[derive(Debug)]
pub struct ReceiveMemory<A>(A, AtomicUsize);

impl<A> ReceiveMemory<A> {
    /// Wraps the allocator that does the work.
    pub const fn over(allocator: A) -> ReceiveMemory<A> {
        ReceiveMemory(allocator, AtomicUsize::new(0))
    }
}

// SAFETY: every call is handed on as it came, and what is written to zeroed memory are zeros.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ReceiveMemory<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() == BUFFER {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        let memory = unsafe { self.0.alloc_zeroed(layout) };
        if layout.size() == BUFFER && !memory.is_null() && self.1.fetch_add(1, Ordering::Relaxed) < MOST {
            for at in (0..USED).step_by(PAGE) {
                // SAFETY: `USED` is less than the size of what was just allocated, and nobody else knows it yet.
                unsafe { memory.add(at).write_volatile(0) };
            }
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { self.0.realloc(memory, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    /// Returns how many pages of the part that is used are there.
    fn resident(memory: *mut u8) -> usize {
        let start = memory.map_addr(|address| address.next_multiple_of(PAGE));
        let mut pages = vec![0u8; USED / PAGE - 1];
        // SAFETY: the range is a part of what was allocated, and there is a byte for each of its pages.
        let done = unsafe { libc::mincore(start.cast(), pages.len() * PAGE, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn the_first_buffers_are_there_and_further_ones_are_not() {
        let allocator = ReceiveMemory::over(System);
        let layout = Layout::from_size_align(BUFFER, 1).unwrap();
        // SAFETY: the size is not 0.
        let allocate = || unsafe { allocator.alloc_zeroed(layout) };
        let buffers: Vec<_> = (0..=MOST).map(|_| allocate()).collect();
        assert_eq!(resident(buffers[0]), USED / PAGE - 1);
        assert_eq!(resident(buffers[MOST]), 0);
        for buffer in buffers {
            // SAFETY: it was allocated here, with this layout.
            unsafe { allocator.dealloc(buffer, layout) };
        }
        // Their place is free again.
        let again = allocate();
        assert_eq!(resident(again), USED / PAGE - 1);
        // SAFETY: as above.
        unsafe { allocator.dealloc(again, layout) };
    }
}
