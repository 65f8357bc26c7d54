//! Finding the inodes that can have pages which the store has not seen.
//!
//! # Overview
//! Each process is asked once for its shared file mappings, and, for a mount with a writeback
//! cache, for the files it has open for writing. Every inode is reported once.
//!
//! Which processes can see the mount is not asked: a descriptor can be sent to a process that
//! cannot, and gVisor's sentry is one.
//!
//! # Invariants
//! - Nothing here follows a link into a mount: what is known of a file comes from `/proc` alone.
//! - A process that is exiting has no memory map to show, while the kernel still writes back what
//!   it had mapped. It is waited for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::maps::{SharedMapping, parse_shared};
use super::open_file::{MountIds, OpenFile};
use super::process::{Phase, phase_of, processes};
use super::query::shared_mappings;
use super::{DrainError, DrainedMount, Scope};
use crate::fuse::{CacheMode, DeviceId, unescape};

/// How long to wait before looking again at a process that is exiting.
const EXIT_POLL: Duration = Duration::from_millis(1);

/// An inode that may have dirty pages, and a way to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaybeDirty {
    /// A process that uses it.
    pub pid: u32,
    /// The link below `/proc/<pid>` that leads to it: `map_files/<range>` or `fd/<number>`.
    pub link: String,
    /// The mount.
    pub device: DeviceId,
    /// `st_ino`
    pub inode: u64,
    /// Its name as the process sees it, if it has one; for messages, and where the link may not be
    /// followed.
    pub path: PathBuf,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The inodes, each once.
    pub maybe_dirty: Vec<MaybeDirty>,
    /// How many processes were looked at.
    pub processes: usize,
    /// How many could not be looked at, for lack of permission.
    pub unreadable: usize,
    /// How many were still exiting at the deadline.
    pub exiting: usize,
}

/// Looks for inodes of `mounts` that processes in `scope` may have dirty pages of.
///
/// Waits for processes that are exiting, until `deadline` at most.
pub fn find_maybe_dirty(
    mounts: &[DrainedMount],
    scope: &Scope,
    deadline: Instant,
) -> Result<Scan, DrainError> {
    let mut scanner = Scanner {
        devices: mounts.iter().map(|mount| mount.device).collect(),
        writeback: mounts.iter().filter(|m| m.cache == CacheMode::Writeback).map(|m| m.device).collect(),
        seen: HashSet::new(),
        mount_ids: MountIds::default(),
        asks: true,
        buffer: vec![0; 64 << 10],
        scan: Scan::default(),
    };
    let pids = processes(scope)?;
    let mut exiting = Vec::new();
    for pid in pids {
        scanner.look_at(pid, &mut exiting);
    }
    while !exiting.is_empty() && Instant::now() < deadline {
        std::thread::sleep(EXIT_POLL);
        exiting.retain(|pid| matches!(phase_of(*pid), Phase::Exiting));
    }
    scanner.scan.exiting = exiting.len();
    Ok(scanner.scan)
}

struct Scanner {
    devices: Vec<DeviceId>,
    writeback: Vec<DeviceId>,
    seen: HashSet<(DeviceId, u64)>,
    mount_ids: MountIds,
    /// Whether the kernel answers questions about mappings, or all of them must be read.
    asks: bool,
    buffer: Vec<u8>,
    scan: Scan,
}

impl Scanner {
    fn look_at(&mut self, pid: u32, exiting: &mut Vec<u32>) {
        let task = match self.mappings_of(pid) {
            Ok(Memory::Shown) => Some(pid),
            Ok(Memory::None) => match phase_of(pid) {
                Phase::Exiting => {
                    exiting.push(pid);
                    None
                }
                // Its first thread has exited, and others go on with its memory.
                Phase::Leaderless(tid) => self.mappings_of(tid).is_ok().then_some(tid),
                Phase::WithoutMemory => None,
            },
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.scan.unreadable += 1;
                None
            }
            // It is gone.
            Err(_) => None,
        };
        self.scan.processes += 1;
        if let Some(task) = task
            && !self.writeback.is_empty()
        {
            self.open_files_of(task);
        }
    }

    fn mappings_of(&mut self, pid: u32) -> io::Result<Memory> {
        let mut maps = File::open(format!("/proc/{pid}/maps"))?;
        let mut found = Vec::new();
        if self.asks {
            match shared_mappings(&maps, |mapping| found.push(mapping)) {
                Ok(()) => {
                    found.into_iter().for_each(|mapping| self.note_mapping(pid, mapping));
                    return Ok(Memory::Shown);
                }
                Err(Errno::ESRCH) => return Ok(Memory::None),
                Err(errno) => {
                    tracing::debug!(%errno, "mappings cannot be asked for, reading all of them");
                    self.asks = false;
                    found.clear();
                }
            }
        }
        let memory = for_each_line(&mut maps, &mut self.buffer, |line| found.extend(parse_shared(line)))?;
        found.into_iter().for_each(|mapping| self.note_mapping(pid, mapping));
        Ok(memory)
    }

    fn note_mapping(&mut self, pid: u32, mapping: SharedMapping) {
        if !self.devices.contains(&mapping.device) || self.seen.contains(&(mapping.device, mapping.inode)) {
            return;
        }
        let link = format!("map_files/{:x}-{:x}", mapping.range.start, mapping.range.end);
        let place = format!("/proc/{pid}/{link}");
        // A mapping that cannot be written now may have been written before `mprotect(2)`, if its
        // file is open for writing: the link's own mode tells. One that has just been removed is
        // gone on with.
        let written = mapping.writable
            || fs::symlink_metadata(&place).map_or(true, |metadata| metadata.mode() & 0o200 != 0);
        if !written {
            return;
        }
        let path = match mapping.path.is_empty() {
            true => fs::read_link(&place).unwrap_or_default(),
            false => PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(&mapping.path))),
        };
        self.note(MaybeDirty { pid, link, device: mapping.device, inode: mapping.inode, path });
    }

    fn open_files_of(&mut self, pid: u32) {
        // Both vanish with the process, which has then closed its files and so written them back.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return;
        };
        self.mount_ids.learn(pid, &self.writeback);
        for descriptor in descriptors.flatten() {
            let Ok(info) = fs::read_to_string(descriptor.path()) else {
                continue;
            };
            let Some(open) = OpenFile::parse(&info) else {
                continue;
            };
            let Some(device) = self.mount_ids.device_of(open.mount_id) else {
                continue;
            };
            if open.writable && !self.seen.contains(&(device, open.inode)) {
                let link = format!("fd/{}", descriptor.file_name().to_string_lossy());
                let path = fs::read_link(format!("/proc/{pid}/{link}")).unwrap_or_default();
                self.note(MaybeDirty { pid, link, device, inode: open.inode, path });
            }
        }
    }

    fn note(&mut self, found: MaybeDirty) {
        if self.seen.insert((found.device, found.inode)) {
            self.scan.maybe_dirty.push(found);
        }
    }
}

/// Whether a process has memory to look at.
enum Memory {
    Shown,
    None,
}

/// Calls `each` with every line of `file`.
fn for_each_line(file: &mut File, buffer: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> io::Result<Memory> {
    let mut filled = 0;
    let mut memory = Memory::None;
    loop {
        if filled == buffer.len() {
            // A line longer than any path: let it grow rather than lose its end.
            buffer.resize(buffer.len() * 2, 0);
        }
        let length = match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The process has exited since.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Memory::None),
            Err(error) => return Err(error),
        };
        memory = Memory::Shown;
        filled += length;
        let end = buffer[..filled].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        buffer[..end].split(|byte| *byte == b'\n').for_each(&mut each);
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
    each(&buffer[..filled]);
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_the_buffer() {
        let mut file = tempfile::tempfile().unwrap();
        let text = "first\n\na line that is longer than the buffer\nlast, without an end";
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        for size in [1, 4, 7, 1000] {
            io::Seek::rewind(&mut file).unwrap();
            let mut lines = Vec::new();
            let memory = for_each_line(&mut file, &mut vec![0; size], |line| {
                if !line.is_empty() {
                    lines.push(String::from_utf8(line.to_vec()).unwrap());
                }
            });
            assert!(matches!(memory, Ok(Memory::Shown)));
            let expected: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
            assert_eq!(lines, expected, "buffer of {size}");
        }
    }
}
