//! The processes that belong to a sandbox, found without having been remembered.
//!
//! # Invariants
//! - What is ended is held by a descriptor, not by a number: a pid that was given to another process meanwhile is never hit.
//! - That something cannot be read is not taken for its being gone.
//! - When [`end`] returned `Ok`, none is left: neither those that were started for the sandbox nor what these started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::files::at;
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

    fn is_on(&self, process: &Path) -> io::Result<bool> {
        if let Some(argument) = &self.argument
            && has_word(&process.join("cmdline"), argument)?
        {
            return Ok(true);
        }
        has_word(&process.join("environ"), &self.variable)
    }
}

/// Tells whether a file of /proc has a word. One of a process that is gone, or is just going, has none.
fn has_word(file: &Path, wanted: &[u8]) -> io::Result<bool> {
    let words = unless_gone(fs::read(file))?.unwrap_or_default();
    Ok(words.split(|byte| *byte == 0).any(|word| word == wanted))
}

/// Returns what was read of a process; `None` if it is gone.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error)
            if [Errno::NOENT, Errno::SRCH]
                .iter()
                .any(|gone| error.raw_os_error() == Some(gone.raw_os_error())) =>
        {
            Ok(None)
        }
        read => read.map(Some),
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
pub(super) fn is_marked(pid: u32, mark: &Mark) -> Result<bool, RuntimeError> {
    let path = PathBuf::from(format!("/proc/{pid}"));
    let marked = if pid == std::process::id() { Ok(false) } else { mark.is_on(&path) };
    marked.map_err(at("read", &path))
}

/// Returns a process if it is there and carries the mark.
pub(super) fn marked(pid: Option<u32>, mark: &Mark) -> Result<Option<u32>, RuntimeError> {
    match pid {
        Some(pid) if is_marked(pid, mark)? => Ok(Some(pid)),
        _ => Ok(None),
    }
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
            let path = PathBuf::from(format!("/proc/{}/cmdline", process.pid));
            if has_word(&path, argument.as_bytes())? && !process.wait(deadline)? {
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

/// Returns a process and what descends from it; `None` where the kernel does not tell (`CONFIG_PROC_CHILDREN`), or not all of it.
pub(super) fn with_descendants(pid: u32) -> Option<Vec<u32>> {
    if !Path::new("/proc/thread-self/children").exists() {
        return None;
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        // Whichever thread started it is its parent. One that is gone has no children any more.
        let threads = unless_gone(fs::read_dir(format!("/proc/{pid}/task"))).ok()?;
        for thread in threads.into_iter().flatten() {
            let Some(thread) = unless_gone(thread).ok()? else { continue };
            let children = unless_gone(fs::read_to_string(thread.path().join("children"))).ok()?;
            found.extend(
                children
                    .iter()
                    .flat_map(|children| children.split_ascii_whitespace())
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
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
    let mut seen = HashMap::new();
    let mut marked = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that is dead and waits for being buried holds nothing any more.
        let Some(stat) = Stat::of(&entry.path())?.filter(|stat| pid != std::process::id() && !stat.is_dead())
        else {
            continue;
        };
        seen.insert(pid, stat);
        match mark.is_on(&entry.path()) {
            Ok(true) => drop(marked.insert(pid)),
            Ok(false) => {}
            // Of what was started for a sandbox everything may be read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    let belongs = |mut pid: u32| {
        // As long as the chain of ancestors is at most: numbers may be reused while they are read.
        for _ in 0..seen.len() {
            if marked.contains(&pid) {
                return true;
            }
            match seen.get(&pid) {
                Some(stat) => pid = stat.parent,
                None => return false,
            }
        }
        false
    };
    let mut found = Vec::new();
    for (pid, before) in seen.iter().filter(|(pid, _)| belongs(**pid)) {
        let Some(held) = Held::of(*pid)? else { continue };
        let now = Stat::of(&PathBuf::from(format!("/proc/{pid}")))?;
        if now.is_some_and(|now| before.is_same(&now)) {
            found.push(held);
        }
    }
    Ok(found)
}

/// Returns when a process that lives was started, in ticks since the boot; `None` if there is none.
pub(crate) fn started_at(pid: u32) -> io::Result<Option<u64>> {
    let stat = Stat::of(&PathBuf::from(format!("/proc/{pid}")))?;
    Ok(stat.filter(|stat| !stat.is_dead()).map(|stat| stat.started))
}

/// What the kernel says of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    state: char,
    parent: u32,
    /// In ticks since the boot.
    started: u64,
}

impl Stat {
    /// Reads that of a process, if it is there.
    fn of(process: &Path) -> io::Result<Option<Stat>> {
        let Some(text) = unless_gone(fs::read_to_string(process.join("stat")))? else { return Ok(None) };
        // A read that meets its end brings nothing.
        if text.is_empty() {
            return Ok(None);
        }
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} says nothing of a process"));
        Stat::parse(&text).map(Some).ok_or_else(malformed)
    }

    /// Parses `PID (NAME) STATE PARENT …`; a name may hold anything, and so ends at the last parenthesis.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(") ")?;
        let mut words = rest.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        let parent = words.next()?.parse().ok()?;
        Some(Stat { state, parent, started: words.nth(17)?.parse().ok()? })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Tells whether this is the same process a moment later: its number may have been given away, but not within the tick in which
    /// it was started. A parent may end meanwhile, and a mark be gone with another program.
    fn is_same(&self, now: &Stat) -> bool {
        self.started == now.started
    }
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
            // The shell does not end by itself when its child is ended before it.
            let script = "env -i sleep 1000 & echo $!; wait; exec sleep 1000";
            let mut command = Command::new("sh");
            command.args(["-c", script]).env(VARIABLE, name);
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
        assert!(is_marked(others.id(), &mark(&format!("{name}0"))).unwrap());
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
    fn what_cannot_be_read_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let process = |name: &str| dir.path().join(name);
        assert!(!mark("x").is_on(&process("gone")).unwrap());
        assert_eq!(Stat::of(&process("gone")).unwrap(), None);
        for file in ["environ", "cmdline", "stat"] {
            // As good an error as any.
            fs::create_dir_all(process("there").join(file)).unwrap();
        }
        assert!(mark("x").is_on(&process("there")).is_err());
        assert!(mark("x").or_argument("y".as_ref()).is_on(&process("there")).is_err());
        assert!(Stat::of(&process("there")).is_err());
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let line = |name: &str, parent: u32, started: u64| {
            let zeros = "0 ".repeat(17);
            Stat::parse(&format!("7 ({name}) S {parent} {zeros}{started} 0 0")).unwrap()
        };
        let before = line("a) Z 1 (", 5, 1000);
        assert_eq!(before, Stat { state: 'S', parent: 5, started: 1000 });
        // Its parent ended, or it runs another program by now.
        assert!(before.is_same(&line("b", 1, 1000)));
        // A new one of the same parent's, or one that was marked before, whose number it has.
        assert!(!before.is_same(&line("a", 5, 1001)));
        let own = Stat::of(Path::new("/proc/self")).unwrap().unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert_eq!(started_at(std::process::id()).unwrap(), Some(own.started));
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(started_at(child.id()).unwrap(), None);
    }

    #[test]
    fn a_number_that_is_nobodys_is_no_process() {
        assert!(Held::of(0).unwrap().is_none());
        assert!(Held::of(u32::MAX).unwrap().is_none());
    }
}
