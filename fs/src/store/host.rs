//! What the filesystem under a store promises.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::segment::Flush;

/// Finds out whether a sync of the log makes durable, too, what was rewritten in place in a segment and written to the disk.
///
/// It does on ext4: blocks are rewritten where they are, nothing but them has to reach the disk for that, and the sync
/// ends with a flush of the disk's cache, which is one for all files. Not where ext4 puts data into its journal, and not where new
/// data goes elsewhere, as on btrfs.
pub(super) fn flush_of(dir: &Path) -> Flush {
    let ext4 = nix::sys::statfs::statfs(dir)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::EXT4_SUPER_MAGIC);
    // Somebody may have put one of them on a disk of its own.
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let one = ["db", "segments"].iter().all(|part| device(&dir.join(part)) == device(dir));
    match ext4 && one && ext4_options(dir).is_some_and(|options| shares_flush(&options)) {
        true => Flush::Shared,
        false => Flush::Own,
    }
}

/// Returns all options of the ext4 that a directory is on, one a line. `None` if the kernel does not say.
fn ext4_options(dir: &Path) -> Option<String> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let number = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let link = std::fs::read_link(Path::new("/sys/dev/block").join(number)).ok()?;
    std::fs::read_to_string(Path::new("/proc/fs/ext4").join(link.file_name()?).join("options")).ok()
}

fn shares_flush(options: &str) -> bool {
    let has = |option| options.lines().any(|line| line == option);
    // Without a journal there is no such line.
    has("barrier") && !has("data=journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_shared_only_where_data_stays_out_of_the_journal() {
        assert!(shares_flush("rw\nbarrier\ndata=ordered\n"));
        assert!(shares_flush("rw\nbarrier\ndata=writeback\n"));
        assert!(!shares_flush("rw\nbarrier\ndata=journal\n"));
        assert!(!shares_flush("rw\nnobarrier\ndata=ordered\n"));
        assert!(!shares_flush(""));
    }
}
