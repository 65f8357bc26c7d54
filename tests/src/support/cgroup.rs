//! A limit of memory for some processes: a control group, of whichever version the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The names of the files of one version.
#[derive(Clone, Copy, Debug)]
struct Version {
    limit: &'static str,
    /// Holds the line `oom_kill N`.
    events: &'static str,
}

const V1: Version = Version { limit: "memory.limit_in_bytes", events: "memory.oom_control" };
const V2: Version = Version { limit: "memory.max", events: "memory.events" };

/// A group of processes that may have so much memory together. What is left in it goes back to the group above on drop.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: PathBuf,
    version: Version,
}

static MADE: AtomicU32 = AtomicU32::new(0);

impl MemoryLimit {
    /// Makes an empty one.
    ///
    /// # Panics
    /// Where the machine has no controller for memory, or this process may not use it.
    pub fn new(bytes: u64) -> MemoryLimit {
        let (parent, version) = controller();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("durdir-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap_or_else(|err| panic!("make the control group {}: {err}", dir.display()));
        let limit = MemoryLimit { dir, version };
        fs::write(limit.dir.join(version.limit), bytes.to_string()).unwrap();
        limit
    }

    /// Puts a process under the limit. What it has already counts elsewhere; what it forks comes along.
    pub fn take_in(&self, pid: i32) {
        fs::write(self.members(), pid.to_string()).unwrap();
    }

    /// Returns the file to which a process writes its pid to come in.
    pub fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Returns how many processes the kernel has killed here for lack of memory.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join(self.version.events)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kernel counts what it kills").parse().unwrap()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let above = self.dir.parent().expect("it was made in another").join("cgroup.procs");
        for pid in fs::read_to_string(self.members()).unwrap_or_default().lines() {
            // One that has ended meanwhile needs no place.
            drop(fs::write(&above, pid));
        }
        let removed = fs::remove_dir(&self.dir);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Returns the group of this process that memory is limited in, and how.
fn controller() -> (PathBuf, Version) {
    let of_this_process = fs::read_to_string("/proc/self/cgroup").unwrap();
    let place = |line: &str| line.splitn(3, ':').nth(2).unwrap_or("/").trim_start_matches('/').to_owned();
    let is_v1 =
        |line: &&str| line.split(':').nth(1).is_some_and(|all| all.split(',').any(|one| one == "memory"));
    if let Some(line) = of_this_process.lines().find(is_v1) {
        return (Path::new("/sys/fs/cgroup/memory").join(place(line)), V1);
    }
    let line = of_this_process.lines().find(|line| line.starts_with("0::")).expect("a control group");
    let mut dir = Path::new("/sys/fs/cgroup").join(place(line));
    // In version 2 a group with processes of its own has no limits for those in it: its parent's do.
    while !fs::read_to_string(dir.join("cgroup.subtree_control")).is_ok_and(|on| on.contains("memory")) {
        assert!(dir.pop() && dir.starts_with("/sys/fs/cgroup"), "no control group limits memory here");
    }
    (dir, V2)
}
