//! The processes that belong to a sandbox, found without having been remembered.
//!
//! # Invariants
//! - What is ended is held by a descriptor, not by a number: a pid that was given to another process meanwhile is never hit.
//! - When [`end`] returned `Ok`, none is left: neither those that were started for the sandbox nor what these started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::program::{VARIABLE, await_one, readable};
use super::{Deadline, RuntimeError, Sandbox};

/// By what the processes of a sandbox are told from others.
pub(super) struct Mark {
    /// `NAME=VALUE` in the environment.
    variable: Vec<u8>,
    /// An argument that a program passes on to what it starts with an environment of their own.
    argument: Option<Vec<u8>>,
}

impl Mark {
    /// Returns the mark that everything carries which [`super::program`] started for the sandbox.
    pub(super) fn of(sandbox: &Sandbox) -> Mark {
        let variable = [VARIABLE.as_bytes(), b"=", sandbox.directory.as_os_str().as_bytes()].concat();
        Mark { variable, argument: None }
    }

    /// Adds processes that have exactly this argument.
    pub(super) fn or_argument(self, argument: &std::ffi::OsStr) -> Mark {
        Mark { argument: Some(argument.as_bytes().to_vec()), ..self }
    }

    fn is_on(&self, process: &Path) -> bool {
        let has = |file: &str, wanted: &[u8]| {
            // A process that is gone, or is just going, has none.
            let words = fs::read(process.join(file)).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == wanted)
        };
        self.argument.as_ref().is_some_and(|argument| has("cmdline", argument))
            || has("environ", &self.variable)
    }
}

/// A process that is held on to.
pub(super) struct Held {
    pid: u32,
    descriptor: OwnedFd,
}

impl Held {
    /// Returns it, if it is there.
    pub(super) fn of(pid: u32) -> io::Result<Option<Held>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Some(Held { pid, descriptor })),
            // A number that is a thread's, or nobody's.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it. That it has ended already is no error.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended. `false` if it has not before the deadline.
    pub(super) fn wait(&self, deadline: Deadline) -> io::Result<bool> {
        await_one(&mut [readable(&self.descriptor)], deadline)
    }
}

/// Returns whether a process is there and carries the mark.
pub(super) fn is_marked(pid: u32, mark: &Mark) -> bool {
    pid != std::process::id() && mark.is_on(&PathBuf::from(format!("/proc/{pid}")))
}

/// Waits for a process that seems to be ending. `false` if it goes on.
pub(super) fn ends_within(pid: u32, deadline: Deadline) -> Result<bool, RuntimeError> {
    let ended = Held::of(pid).and_then(|held| held.map_or(Ok(true), |held| held.wait(deadline)));
    ended.map_err(|source| RuntimeError::Io { action: "wait for a process in", path: "/proc".into(), source })
}

/// Waits for the marked processes that have one more argument, so that what they do is over. `false` if it is not at the deadline.
pub(super) fn await_marked(mark: &Mark, argument: &str, deadline: Deadline) -> Result<bool, RuntimeError> {
    let wait = || {
        for process in find(mark)? {
            let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            if words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
                && !process.wait(deadline)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    };
    wait().map_err(|source| RuntimeError::Io {
        action: "wait for processes in",
        path: "/proc".into(),
        source,
    })
}

/// Returns a process and what descends from it; `None` where the kernel does not tell (`CONFIG_PROC_CHILDREN`).
pub(super) fn with_descendants(pid: u32) -> Option<Vec<u32>> {
    if !Path::new("/proc/thread-self/children").exists() {
        return None;
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        // Whichever thread started it is its parent. One that is gone has no children any more.
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    Some(found)
}

/// Ends all processes of a sandbox, and waits until they are gone.
pub(super) fn end(mark: &Mark, deadline: Deadline) -> Result<(), RuntimeError> {
    let in_proc = |source| RuntimeError::Io { action: "end processes in", path: "/proc".into(), source };
    loop {
        // Those that are marked may be starting others right now: hence once more, until there are none.
        let found = find(mark).map_err(in_proc)?;
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            process.kill().map_err(in_proc)?;
        }
        for process in &found {
            if !process.wait(deadline).map_err(in_proc)? {
                let program = format!("process {}", process.pid);
                return Err(RuntimeError::TimedOut { program, action: "dying".to_owned() });
            }
        }
    }
}

/// Returns the marked processes and what descends from them, but for this one.
fn find(mark: &Mark) -> io::Result<Vec<Held>> {
    let mut parents = HashMap::new();
    let mut marked = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some((parent, state)) = parent_and_state(&entry.path()) else { continue };
        // One that is dead and waits for being buried holds nothing any more.
        if pid == std::process::id() || matches!(state, 'Z' | 'X') {
            continue;
        }
        parents.insert(pid, parent);
        if mark.is_on(&entry.path()) {
            marked.insert(pid);
        }
    }
    let belongs = |mut pid: u32| {
        // As long as the chain of ancestors is at most: numbers may be reused while they are read.
        for _ in 0..parents.len() {
            if marked.contains(&pid) {
                return true;
            }
            match parents.get(&pid) {
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    let mut found = Vec::new();
    for pid in parents.keys().copied().filter(|pid| belongs(*pid)) {
        let Some(held) = Held::of(pid)? else { continue };
        // The number may have been given away since it was looked at. Descendants are not marked themselves, but their parent is
        // still what it was.
        let path = PathBuf::from(format!("/proc/{pid}"));
        let same = parent_and_state(&path).is_some_and(|(parent, _)| parents.get(&pid) == Some(&parent));
        if mark.is_on(&path) || same {
            found.push(held);
        }
    }
    Ok(found)
}

/// Reads `PID (NAME) STATE PARENT …`; a name may hold anything, and so ends at the last parenthesis.
fn parent_and_state(process: &Path) -> Option<(u32, char)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    Some((words.next()?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn mark(name: &str) -> Mark {
        Mark { variable: format!("{VARIABLE}={name}").into_bytes(), argument: None }
    }

    #[test]
    fn marked_processes_and_what_they_started_are_ended_and_no_others() {
        let start = |name: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "env -i sleep 1000 & echo $!; wait"]).env(VARIABLE, name);
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        };
        let name = format!("/test/{}", std::process::id());
        let (mut ours, mut others) = (start(&name), start(&format!("{name}0")));
        let mut grandchild = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(ours.stdout.take().unwrap()), &mut grandchild)
            .unwrap();
        let grandchild = Held::of(grandchild.trim().parse().unwrap()).unwrap().unwrap();
        end(&mark(&name), Deadline::after(Duration::from_secs(20))).unwrap();
        assert_eq!(ours.wait().unwrap().code(), None);
        assert!(grandchild.wait(Deadline::after(Duration::from_secs(20))).unwrap());
        assert!(others.try_wait().unwrap().is_none(), "the other sandbox's process was ended");
        assert!(is_marked(others.id(), &mark(&format!("{name}0"))));
        end(&mark(&format!("{name}0")), Deadline::after(Duration::from_secs(20))).unwrap();
        others.wait().unwrap();
    }

    #[test]
    fn descendants_are_found_whichever_thread_started_them() {
        let script = "sleep 1000 & sh -c 'echo $$; exec sleep 1000'";
        let child = std::thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let mut grandchild = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut grandchild)
            .unwrap();
        let found = with_descendants(child.id()).unwrap();
        let own = with_descendants(std::process::id()).unwrap();
        let descendants: Vec<_> = found.iter().map(|pid| Held::of(*pid).unwrap().unwrap()).collect();
        descendants.iter().for_each(|process| process.kill().unwrap());
        child.wait().unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.contains(&grandchild.trim().parse().unwrap()), "{found:?} has {grandchild}");
        assert!(found.iter().all(|pid| own.contains(pid)), "{own:?} has {found:?}");
    }

    #[test]
    fn a_number_that_is_nobodys_is_no_process() {
        assert!(Held::of(0).unwrap().is_none());
        assert!(Held::of(u32::MAX).unwrap().is_none());
    }
}
