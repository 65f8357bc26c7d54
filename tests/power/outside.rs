//! The log outside of the filesystem under test: one line per sector, behind the filesystem on the same disk.
//!
//! The disk is written with direct I/O and its writes are recorded in order, so a line stands in that record before any
//! write that the step it announces causes, and after every write that the writer's earlier steps waited for.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const SECTOR: usize = 512;

/// Direct I/O wants its memory aligned.
#[repr(align(4096))]
struct Sector([u8; SECTOR]);

/// Where lines go.
pub(crate) struct Outside {
    disk: File,
    area: u64,
    next: AtomicU64,
}

impl Outside {
    /// Opens the disk; lines go from byte `area` on.
    pub(crate) fn open(disk: &Path, area: u64) -> io::Result<Outside> {
        let disk = File::options().write(true).custom_flags(libc::O_DIRECT).open(disk)?;
        Ok(Outside { disk, area, next: AtomicU64::new(0) })
    }

    /// Tells a line. It is outside on return.
    pub(crate) fn tell(&self, line: &str) {
        let mut sector = Sector([0; SECTOR]);
        let line = line.as_bytes();
        let length = line.len().min(SECTOR - 1);
        sector.0[..length].copy_from_slice(&line[..length]);
        let offset = self.area + self.next.fetch_add(1, Ordering::SeqCst) * SECTOR as u64;
        self.disk.write_all_at(&sector.0, offset).expect("the disk takes the line");
    }
}
