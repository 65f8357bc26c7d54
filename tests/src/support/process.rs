//! Programs with a deadline: one that hangs is killed and reported, and never hangs the suite.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Finished {
    /// Returns the exit code; `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Finished {
        assert!(self.status.success(), "{self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ending = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        write!(
            f,
            "`{}`: {ending}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.text(),
            self.complaint()
        )
    }
}

/// Runs a program to its end.
///
/// Its output goes to files, not to pipes, so that a daemon it leaves behind cannot keep us waiting.
///
/// # Panics
/// When it cannot be started, or does not end within `limit` (it is killed first).
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let shown = shown(command);
    let started = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|err| panic!("start `{shown}`: {err}"));
    let in_time = wait_for_exit(pid_of(&child), limit);
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let finished = Finished {
        command: shown,
        status,
        stdout: content(&mut stdout),
        stderr: content(&mut stderr),
        elapsed: started.elapsed(),
    };
    assert!(in_time, "killed after {limit:?}: {finished}");
    finished
}

/// Waits until a process has ended, child of ours or not. Returns false where it has not in time.
pub fn wait_for_exit(pid: i32, limit: Duration) -> bool {
    // SAFETY: takes plain integers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(raw) = i32::try_from(raw).and_then(u32::try_from) else {
        // Gone already; -1 is all the call says then.
        return true;
    };
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(raw.cast_signed()) };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(err) => panic!("poll a process: {err}"),
        }
    }
}

/// Sends a signal. A process that is gone already is not an error.
pub fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(err) => panic!("send {signal} to {pid}: {err}"),
    }
}

/// Returns whether a process is there and not a zombie.
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(super) fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("process ids are positive and small")
}

pub(super) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Returns an empty standard input.
pub(super) fn nothing() -> Stdio {
    Stdio::null()
}

fn content(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}
