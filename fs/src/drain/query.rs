//! Asking the kernel for the shared mappings of a process, without reading all of them as text.
//!
//! `PROCMAP_QUERY` (Linux 6.11) is an ioctl on `/proc/<pid>/maps`: "the next mapping from this
//! address on that is shared and of a file". A process without any costs one call, however many
//! mappings it has.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::maps::SharedMapping;
use crate::fuse::DeviceId;

const WRITABLE: u64 = 0x02;
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;

/// `struct procmap_query` of `include/uapi/linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

nix::ioctl_readwrite!(procmap_query, b'f', 17, ProcmapQuery);

/// Calls `found` with each shared file mapping of the process that `maps` belongs to.
///
/// Paths are left empty. Fails with `ENOTTY` on a kernel that does not know the question, and with
/// `ESRCH` when the process has no memory any more.
pub(super) fn shared_mappings(maps: &File, mut found: impl FnMut(SharedMapping)) -> Result<(), Errno> {
    let mut address = 0;
    loop {
        let mut query = ProcmapQuery {
            size: size_of::<ProcmapQuery>() as u64,
            query_flags: SHARED | FILE_BACKED | COVERING_OR_NEXT,
            query_addr: address,
            ..ProcmapQuery::default()
        };
        // SAFETY: `query` has the layout and the size that this ioctl reads and writes, and
        // outlives the call. No buffers are given, so the kernel writes nowhere else.
        match unsafe { procmap_query(maps.as_raw_fd(), &raw mut query) } {
            Ok(_) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        found(SharedMapping {
            range: query.vma_start..query.vma_end,
            writable: query.vma_flags & WRITABLE != 0,
            device: DeviceId { major: query.dev_major, minor: query.dev_minor },
            inode: query.inode,
            path: Vec::new(),
        });
        if query.vma_end <= address {
            return Ok(());
        }
        address = query.vma_end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_has_the_size_the_kernel_knows() {
        assert_eq!(size_of::<ProcmapQuery>(), 104);
    }

    #[test]
    fn this_process_has_the_same_mappings_either_way() {
        let looked = || {
            let text = std::fs::read("/proc/self/maps").unwrap();
            let lines = text.split(|byte| *byte == b'\n');
            let parsed: Vec<_> = lines
                .filter_map(super::super::maps::parse_shared)
                .map(|mapping| SharedMapping { path: Vec::new(), ..mapping })
                .collect();
            let mut asked = Vec::new();
            let done =
                shared_mappings(&File::open("/proc/self/maps").unwrap(), |mapping| asked.push(mapping));
            (done, asked, parsed)
        };
        // Another test may map or unmap something in between.
        for tries_left in (0..100).rev() {
            match looked() {
                (Ok(()), asked, parsed) if tries_left == 0 => assert_eq!(asked, parsed),
                (Ok(()), asked, parsed) if asked != parsed => continue,
                (Ok(()), ..) => {}
                (Err(errno), ..) => assert_eq!(errno, Errno::ENOTTY),
            }
            break;
        }
    }
}
