//! Processes as `/proc` shows them (see `proc_pid_stat(5)`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// A thread that waits for the kernel at this many looks, and has not run in between, is stuck: a slow disk takes less.
const LOOKS: u32 = 10;

/// A process that was there when it was looked for.
pub(super) struct Process {
    pid: u32,
    root: PathBuf,
}

impl Process {
    /// Returns the process if there is one.
    pub(super) fn of(pid: u32) -> Option<Process> {
        let root = PathBuf::from(format!("/proc/{pid}"));
        root.is_dir().then_some(Process { pid, root })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether it was stopped by a signal or a debugger.
    pub(super) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(self.root.join("stat"));
        stat.is_ok_and(|stat| matches!(Stat::parse(&stat), Some(Stat { state: 'T' | 't', .. })))
    }

    /// Returns the pid of the supervisor that started this worker, if it is gone.
    pub(super) fn lost_supervisor(&self) -> Option<u32> {
        let line = std::fs::read(self.root.join("cmdline")).ok()?;
        let status = std::fs::read_to_string(self.root.join("status")).ok()?;
        let (supervisor, parent) = (supervisor_of(&line)?, parent_of(&status)?);
        (supervisor != parent).then_some(supervisor)
    }

    /// Describes the threads that wait for the kernel and do not get on.
    pub(super) fn stuck_threads(&self) -> Vec<String> {
        let mut waiting = self.waiting_threads();
        for _ in 0..LOOKS {
            if waiting.is_empty() {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            let now = self.waiting_threads();
            waiting.retain(|thread, then| now.get(thread).is_some_and(|now| then.switches == now.switches));
        }
        let mut stuck: Vec<_> = waiting
            .into_iter()
            .map(|(thread, Waiting { name, place, .. })| {
                format!("thread {name} ({thread}) is stuck in {place}")
            })
            .collect();
        stuck.sort();
        stuck
    }

    fn waiting_threads(&self) -> HashMap<u32, Waiting> {
        let Ok(tasks) = std::fs::read_dir(self.root.join("task")) else { return HashMap::new() };
        tasks
            .flatten()
            .filter_map(|task| Some((task.file_name().to_str()?.parse().ok()?, waiting(&task.path())?)))
            .collect()
    }
}

/// Returns who started a worker, from its command line.
fn supervisor_of(line: &[u8]) -> Option<u32> {
    let mut words = line.split(|&byte| byte == 0).skip_while(|&word| word != b"--worker");
    std::str::from_utf8(words.nth(1)?).ok()?.parse().ok()
}

/// Returns the parent of a process, from `/proc/PID/status`. A process that lost its own has another one.
fn parent_of(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// A thread in uninterruptible sleep.
struct Waiting {
    name: String,
    /// The function of the kernel, where it tells.
    place: String,
    /// How often it has been switched to and from: whether it ran between two looks.
    switches: String,
}

fn waiting(task: &Path) -> Option<Waiting> {
    let read = |name: &str| std::fs::read_to_string(task.join(name)).ok();
    let Stat { name, state: 'D' } = Stat::parse(&read("stat")?)? else { return None };
    let place = read("wchan").filter(|place| !place.is_empty() && place != "0");
    let status = read("status")?;
    let switches: Vec<_> = status.lines().filter(|line| line.contains("ctxt_switches")).collect();
    Some(Waiting {
        name,
        place: place.unwrap_or_else(|| "the kernel".to_owned()),
        switches: switches.concat(),
    })
}

/// The beginning of `/proc/PID/stat`.
struct Stat {
    name: String,
    state: char,
}

impl Stat {
    /// `123 (na) me) D 1 …`: the name may hold anything, so it ends at the last parenthesis.
    fn parse(text: &str) -> Option<Stat> {
        let (before, after) = text.rsplit_once(") ")?;
        let (_, name) = before.split_once('(')?;
        Some(Stat { name: name.to_owned(), state: after.chars().next()? })
    }
}

/// Returns who has the store open: the process named in its lock file, if it has that file open.
pub(super) fn holder_of_lock(store: &Path) -> Option<u32> {
    let lock = store.join("LOCK.durdir");
    let pid: u32 = std::fs::read_to_string(&lock).ok()?.trim().parse().ok()?;
    let lock = lock.canonicalize().ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut targets = descriptors.flatten().filter_map(|one| std::fs::read_link(one.path()).ok());
    targets.any(|target| target == lock).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_state() {
        let stat = Stat::parse("123 (a) b (c) D 1 2 3").unwrap();
        assert_eq!((stat.name.as_str(), stat.state), ("a) b (c", 'D'));
        assert!(Stat::parse("123 (a").is_none());
    }

    #[test]
    fn a_running_process_is_neither_stopped_nor_stuck() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(!own.is_stopped());
        assert!(Process::of(0).is_none());
    }

    #[test]
    fn a_worker_says_who_started_it_and_the_kernel_who_its_parent_is() {
        assert_eq!(supervisor_of(b"mountd\0--store\0/s\0--worker\x0012\0--idle\x001ms\0"), Some(12));
        assert_eq!(supervisor_of(b"mountd\0--store\0/s\0"), None);
        assert_eq!(parent_of("Name:\tmountd\nPPid:\t7\nTracerPid:\t0\n"), Some(7));
        // Of a process that is no worker nothing is said.
        assert_eq!(Process::of(std::process::id()).unwrap().lost_supervisor(), None);
    }

    #[test]
    fn a_lock_file_that_nobody_has_open_has_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder_of_lock(dir.path()), None);
        let lock = dir.path().join("LOCK.durdir");
        std::fs::write(&lock, std::process::id().to_string()).unwrap();
        assert_eq!(holder_of_lock(dir.path()), None);
        let _open = std::fs::File::open(&lock).unwrap();
        assert_eq!(holder_of_lock(dir.path()), Some(std::process::id()));
    }
}
