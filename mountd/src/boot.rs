//! Which run of the host this is.

use std::io;
use std::path::Path;

/// Where the kernel tells it, see `random(4)`.
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns what tells this run of the host from any other: processes that were started in another one are gone, and so is what was only in memory.
pub(crate) fn this_boot() -> io::Result<String> {
    std::fs::read_to_string(Path::new(BOOT_ID))
}
