//! Which processes there are, and what one is that shows no memory.

use std::fs;

use super::{DrainError, Scope};

/// From `include/linux/sched.h`, as shown in `/proc/<pid>/stat`.
const PF_EXITING: u64 = 0x4;
const PF_KTHREAD: u64 = 0x20_0000;

/// Returns the processes in `scope` that exist now, or did.
pub(super) fn processes(scope: &Scope) -> Result<Vec<u32>, DrainError> {
    match scope {
        Scope::All => {
            let entries = fs::read_dir("/proc").map_err(|source| DrainError::List { source })?;
            Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        }
        Scope::Processes(pids) => Ok(pids.clone()),
    }
}

/// What a process without memory is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// On its way out: the kernel may still be writing back what it had mapped.
    Exiting,
    /// Its first thread is gone, the one given here is not.
    Leaderless(u32),
    /// A kernel thread, or dead.
    WithoutMemory,
}

/// Tells what `pid` is, which was found without memory.
pub(super) fn phase_of(pid: u32) -> Phase {
    let Some(status) = TaskStatus::load(&format!("/proc/{pid}/stat")) else {
        return Phase::WithoutMemory;
    };
    if status.flags & PF_KTHREAD != 0 {
        return Phase::WithoutMemory;
    }
    if !status.is_dead() {
        return if status.flags & PF_EXITING != 0 { Phase::Exiting } else { Phase::WithoutMemory };
    }
    if status.threads < 2 {
        return Phase::WithoutMemory;
    }
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let mut others = tids.filter(|tid| *tid != pid);
    let living = others.find_map(|tid| {
        let status = TaskStatus::load(&format!("/proc/{tid}/stat"))?;
        (!status.is_dead()).then_some((tid, status.flags & PF_EXITING != 0))
    });
    match living {
        Some((tid, false)) => Phase::Leaderless(tid),
        Some((_, true)) => Phase::Exiting,
        None => Phase::WithoutMemory,
    }
}

/// Some of `/proc/<pid>/stat`.
struct TaskStatus {
    state: u8,
    flags: u64,
    threads: u64,
}

impl TaskStatus {
    fn load(path: &str) -> Option<Self> {
        Self::parse(&fs::read(path).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses too.
        let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
        let fields: Vec<&str> =
            std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace().collect();
        // Fields are numbered from 3 here, the state: 9 is flags, 20 is num_threads.
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            flags: fields.get(6)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
        })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_disguise_its_state() {
        let text = b"77 (a) Z (b) S 1 77 77 0 -1 4194308 0 0 0 0 0 0 0 0 20 0 3 0 100 0 0";
        let status = TaskStatus::parse(text).unwrap();
        assert_eq!((status.state, status.flags & PF_EXITING, status.threads), (b'S', PF_EXITING, 3));
        assert!(TaskStatus::parse(b"77 (a").is_none());
        assert!(TaskStatus::parse(b"").is_none());
    }

    #[test]
    fn kernel_threads_and_this_process_are_told_apart() {
        // This process has memory, so its phase is never asked for; it is not exiting.
        assert_eq!(phase_of(std::process::id()), Phase::WithoutMemory);
        assert_eq!(phase_of(2), Phase::WithoutMemory);
        assert_eq!(phase_of(u32::MAX), Phase::WithoutMemory);
    }
}
