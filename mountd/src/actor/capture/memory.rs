//! How much memory a sandbox has, as an upper bound of the files that it would be saved into.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns the bytes that a process has in memory or swapped out: its own, and those of files in memory that it holds, in which gVisor
/// keeps the memory of programs. `None` if that cannot be told.
pub(super) fn memory_of(pid: u32) -> Option<u64> {
    let process = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let shared = field("RssShmem:")?.max(memory_files_of(&process)?);
    Some(field("RssAnon:")? + field("VmSwap:")? + shared)
}

/// Returns what the files without a name take that a process has made in memory (memfd_create(2)).
fn memory_files_of(process: &Path) -> Option<u64> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(process.join("fd")).ok()?.flatten() {
        let is_memory = |place: &Path| place.as_os_str().as_encoded_bytes().starts_with(b"/memfd:");
        // What was closed meanwhile takes nothing.
        let Ok(place) = std::fs::read_link(entry.path()) else { continue };
        if let (true, Ok(file)) = (is_memory(&place), std::fs::metadata(entry.path())) {
            files.insert((file.dev(), file.ino()), file.blocks() * 512);
        }
    }
    Some(files.values().sum())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn memory_of_a_process_is_what_it_has_touched() {
        let own = std::process::id();
        let looks = || {
            let before = memory_of(own).unwrap();
            let touched = vec![1u8; 128 << 20];
            let name = c"memory of a test";
            let file = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
            let mut file = std::fs::File::from(file);
            file.write_all(&touched).unwrap();
            let after = memory_of(own).unwrap();
            assert!(touched.iter().all(|byte| *byte == 1));
            (before, after)
        };
        // Other tests of this process come and go beside this one, with their memory.
        let looks: Vec<_> = (0..5).map(|_| looks()).collect();
        assert!(looks.iter().any(|(before, after)| *after >= before + (192 << 20)), "{looks:?}");
        assert_eq!(memory_of(u32::MAX), None);
    }
}
