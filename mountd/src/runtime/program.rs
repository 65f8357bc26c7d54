//! Running other programs: to their end, bounded by a deadline, or into the background.
//!
//! # Invariants
//! - What is waited for is over when the call returns: ended by itself, or killed and buried. The exception is what must not be cut off
//!   in the middle, see [`Tool::finish_or_leave`].
//! - What runs in the background is nobody's child, so it outlives a worker and leaves no zombie behind. It carries [`VARIABLE`] in its
//!   environment, by which [`super::processes`] finds it again, and nothing that mountd has for itself, see [`ordinary`].

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

use super::files::at;
use super::{Deadline, RuntimeError, Sandbox};

/// Names the directory of the sandbox that a process was started for.
pub(super) const VARIABLE: &str = "DURDIR_SANDBOX";

/// How many characters of what a program said about a failure are passed on.
const DETAIL_LIMIT: usize = 2000;

/// Where programs are that no user starts by name.
const ELSEWHERE: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/libexec"];

/// A program that is needed, and what to do where it is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    /// What it is called, or its path.
    pub(super) name: &'static str,
    /// What provides it.
    pub(super) remedy: &'static str,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(super) struct Finished {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Its standard output, where that was not sent elsewhere.
    pub(super) stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub(super) stderr: Vec<u8>,
}

impl Tool {
    /// Returns an error if it is not installed.
    pub(super) fn check(&self) -> Result<(), RuntimeError> {
        self.find().map(drop)
    }

    /// Returns where it is.
    pub(super) fn find(&self) -> Result<PathBuf, RuntimeError> {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        self.find_in(std::env::split_paths(&directories).chain(ELSEWHERE.map(PathBuf::from)))
            .ok_or_else(|| self.missing())
    }

    fn find_in(&self, directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
        let can_be_run = |path: &PathBuf| {
            path.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        directories.map(|directory| directory.join(self.name)).find(can_be_run)
    }

    /// Returns the error of a command that was not started: it may begin with another program.
    fn not_started(&self, program: &Path, source: io::Error) -> RuntimeError {
        // A directory that it is to start in may also be what is missing.
        if source.kind() != io::ErrorKind::NotFound || program.is_file() {
            return at("start", program)(source);
        }
        if program.file_name() == Some(self.name.as_ref()) {
            return match self.find() {
                Ok(found) => at("start", &found)(source),
                Err(missing) => missing,
            };
        }
        let remedy = "install it, or name its directory in PATH";
        RuntimeError::Missing { program: program.display().to_string(), remedy }
    }

    fn missing(&self) -> RuntimeError {
        RuntimeError::Missing { program: self.name.to_owned(), remedy: self.remedy }
    }

    /// Returns a command of it.
    pub(super) fn plain_command(&self) -> Command {
        // Where it is nowhere, that is told when it is run.
        Command::new(self.find().unwrap_or_else(|_| self.name.into()))
    }

    /// Returns a command of it, for a sandbox.
    pub(super) fn command(&self, sandbox: &Sandbox) -> Command {
        let mut command = self.plain_command();
        command.env(VARIABLE, &sandbox.directory);
        command
    }

    /// Runs a command of it to its end.
    pub(super) fn finish(
        &self,
        command: &mut Command,
        action: &str,
        deadline: Deadline,
    ) -> Result<Finished, RuntimeError> {
        self.run(command, action, deadline, Late::Kill)
    }

    fn run(
        &self,
        command: &mut Command,
        action: &str,
        deadline: Deadline,
        late: Late,
    ) -> Result<Finished, RuntimeError> {
        let spawned = command.stdin(Stdio::null()).spawn();
        let child = spawned.map_err(|source| self.not_started(Path::new(command.get_program()), source))?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(io::Error::from);
        let waited = wait(child, process, deadline, late);
        waited.map_err(at("wait for", Path::new(self.name)))?.ok_or_else(|| RuntimeError::TimedOut {
            program: self.name.to_owned(),
            action: action.to_owned(),
        })
    }

    /// Runs a command of it that must not be cut off in the middle: when the deadline passes, it goes on by itself. What comes of it is
    /// not known where an error is returned, nor where it was killed.
    pub(super) fn finish_or_leave(
        &self,
        command: &mut Command,
        action: &str,
        deadline: Deadline,
    ) -> Result<Finished, RuntimeError> {
        self.run(command.stdout(Stdio::piped()).stderr(Stdio::piped()), action, deadline, Late::Leave)
    }

    /// Runs a command of it to its end, and returns what it printed. Anything but success is an error.
    pub(super) fn output(
        &self,
        command: &mut Command,
        action: &str,
        deadline: Deadline,
    ) -> Result<Vec<u8>, RuntimeError> {
        let finished =
            self.finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()), action, deadline)?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        Err(self.failed(action, &finished.stderr, finished.status))
    }

    /// Returns the error of a command that ended badly.
    pub(super) fn failed(&self, action: &str, said: &[u8], status: ExitStatus) -> RuntimeError {
        let said = last_lines(said);
        let detail = if said.is_empty() { status.to_string() } else { said };
        RuntimeError::Failed { program: self.name.to_owned(), action: action.to_owned(), detail }
    }
}

/// Starts a program as nobody's child, in a session of its own. Whether it runs, it has to show by itself.
pub(super) fn start_in_background(
    sandbox: &Sandbox,
    log: &Path,
    adjust: impl FnOnce(&mut Command),
    deadline: Deadline,
) -> Result<(), RuntimeError> {
    const SETSID: Tool = Tool { name: "setsid", remedy: "it is part of util-linux" };
    let mut command = ordinary(&SETSID.command(sandbox));
    let output = append_to(log)?;
    let error = output.try_clone().map_err(at("write", log))?;
    command.arg("--fork").stdout(output).stderr(error);
    adjust(&mut command);
    let finished = SETSID.finish(&mut command, "--fork", deadline)?;
    if finished.status.success() {
        return Ok(());
    }
    Err(SETSID.failed("--fork", &finished.stderr, finished.status))
}

/// Returns a command for what stays when its starter is gone, and so must not have what mountd has for itself: its place in the order in
/// which processes are killed when memory is short, and room for more descriptors than programs expect that wait with `select(2)`. Only program,
/// arguments, environment and directory are taken over.
pub(super) fn ordinary(command: &Command) -> Command {
    const SCRIPT: &str = "echo 0 >/proc/self/oom_score_adj; ulimit -S -n \"$0\"; exec \"$@\"";
    /// What systemd gives a service, and a kernel its first process.
    const FILES: u64 = 1024;
    let files = getrlimit(Resource::Nofile).maximum.map_or(FILES, |most| most.min(FILES));
    // Not between fork and exec: that would have to copy the page tables of a process that serves mounts.
    let mut ordinary = Command::new("sh");
    ordinary.args(["-c", SCRIPT, &files.to_string()]).arg(command.get_program()).args(command.get_args());
    ordinary.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        ordinary.current_dir(directory);
    }
    ordinary
}

/// Opens a file that collects what programs print.
pub(super) fn append_to(path: &Path) -> Result<File, RuntimeError> {
    File::options().append(true).create(true).open(path).map_err(at("write", path))
}

/// Returns the end of what a program said, on one line.
pub(super) fn last_lines(said: &[u8]) -> String {
    // Where a program of Go broke says less than why.
    let text = String::from_utf8_lossy(said);
    let text = text.split("\ngoroutine ").next().unwrap_or_default();
    let text =
        text.char_indices().rev().nth(DETAIL_LIMIT).and_then(|(begin, _)| text.get(begin..)).unwrap_or(text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or(&lines).join("; ")
}

/// What becomes of a program that has not ended at the deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Late {
    Kill,
    Leave,
}

/// Waits for a child and reads what it says. Returns `None` when the deadline passes. One that cannot be waited for is killed: nobody may
/// go on without it being known.
fn wait(
    mut child: Child,
    process: io::Result<OwnedFd>,
    deadline: Deadline,
    late: Late,
) -> io::Result<Option<Finished>> {
    let mut pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)]
        .map(|pipe| Pipe { open: pipe.map(File::from), read: Vec::new() });
    let ended = process.and_then(|process| await_end(&process, &mut pipes, deadline));
    match ended {
        Ok(true) => {
            let status = child.wait()?;
            let [stdout, stderr] = pipes.map(|pipe| pipe.read);
            Ok(Some(Finished { status, stdout, stderr }))
        }
        Ok(false) if late == Late::Leave => bury_later(child, pipes).map(|()| None),
        Ok(false) => end(child).map(|()| None),
        Err(error) => end(child).and(Err(error)),
    }
}

/// Reads what a child says until it ends. `false` if it does not before the deadline.
///
/// What it started may hold its pipes open for longer than it lives: its own end is what counts.
fn await_end(process: &OwnedFd, pipes: &mut [Pipe; 2], deadline: Deadline) -> io::Result<bool> {
    for pipe in pipes.iter().filter_map(|pipe| pipe.open.as_ref()) {
        ioctl_fionbio(pipe, true)?;
    }
    loop {
        let ended = {
            let mut events: Vec<_> =
                pipes.iter().filter_map(|pipe| pipe.open.as_ref()).map(readable).collect();
            events.push(readable(process));
            if !await_one(&mut events, deadline)? {
                return Ok(false);
            }
            events.last().is_some_and(|process| !process.revents().is_empty())
        };
        for pipe in pipes.iter_mut() {
            pipe.drain()?;
        }
        if ended {
            return Ok(true);
        }
    }
}

fn end(mut child: Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// Has a child that goes on waited for. Its pipes are kept open meanwhile: what it says last must not kill it.
fn bury_later(child: Child, pipes: [Pipe; 2]) -> io::Result<()> {
    // Handed over once the thread is there: with a thread that is not, it would be lost.
    let (give, take) = mpsc::channel::<(Child, [Pipe; 2])>();
    let bury = move || {
        if let Ok((mut child, pipes)) = take.recv() {
            let status = child.wait();
            drop(pipes);
            tracing::debug!(?status, "a program has ended after its deadline");
        }
    };
    match thread::Builder::new().name("bury".to_owned()).spawn(bury) {
        Ok(_) => give.send((child, pipes)).map_err(io::Error::other),
        Err(error) => end(child).and(Err(error)),
    }
}

/// One end of a pipe, and what came out of it.
struct Pipe {
    open: Option<File>,
    read: Vec<u8>,
}

impl Pipe {
    /// Reads what is there.
    fn drain(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.open else { return Ok(()) };
        match file.read_to_end(&mut self.read) {
            Ok(_) => self.open = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns what to wait for: that there is something to be read, or that a process ended.
pub(super) fn readable<F: AsFd>(file: &F) -> PollFd<'_> {
    PollFd::new(file, PollFlags::IN)
}

/// Waits until one of several things happened. `false` if none did before the deadline.
pub(super) fn await_one(events: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<bool> {
    loop {
        // Rounded up, so as not to ask again and again for the last fraction.
        let left = Timespec::try_from(deadline.left()).map_err(io::Error::other)?;
        match poll(events, Some(&left)) {
            Ok(0) if deadline.passed() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const SH: Tool = Tool { name: "sh", remedy: "install dash" };

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn what_a_program_prints_is_returned_whole() {
        let printed = SH.output(&mut sh("seq 100000"), "count", soon()).unwrap();
        assert_eq!(printed.iter().filter(|byte| **byte == b'\n').count(), 100_000);
    }

    #[test]
    fn a_failure_carries_the_last_words() {
        let error = SH.output(&mut sh("echo one >&2; echo two >&2; exit 3"), "try", soon()).unwrap_err();
        assert_eq!(error.to_string(), "sh try: one; two");
        let error = SH.output(&mut sh("exit 3"), "try", soon()).unwrap_err();
        assert_eq!(error.to_string(), "sh try: exit status: 3");
    }

    #[test]
    fn where_a_program_of_go_broke_does_not_hide_why() {
        let said = format!("warning\nbroke: why\ngoroutine 1 [running]:\n{}", "main.go:1\n".repeat(1000));
        assert_eq!(last_lines(said.as_bytes()), "warning; broke: why");
        assert_eq!(last_lines("é".repeat(5000).as_bytes()).chars().count(), DETAIL_LIMIT + 1);
    }

    #[test]
    fn what_does_not_end_in_time_is_killed() {
        let started = Instant::now();
        let error = SH.output(&mut sh("exec sleep 60"), "wait", Deadline::after(Duration::from_millis(50)));
        assert!(matches!(error, Err(RuntimeError::TimedOut { .. })), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_cannot_be_waited_for_is_killed() {
        for late in [Late::Kill, Late::Leave] {
            let child = sh("exec sleep 60").spawn().unwrap();
            let held = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            let lost = Err(io::Error::from(rustix::io::Errno::MFILE));
            wait(child, lost, soon(), late).unwrap_err();
            assert!(await_one(&mut [readable(&held)], Deadline::after(Duration::ZERO)).unwrap(), "{late:?}");
        }
    }

    #[test]
    fn what_must_not_be_cut_off_goes_on_after_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        let mut command = sh("sleep 0.2; echo said; : >\"$1\"");
        command.arg("sh").arg(&made);
        let late = SH.finish_or_leave(&mut command, "wait", Deadline::after(Duration::from_millis(20)));
        assert!(matches!(late, Err(RuntimeError::TimedOut { .. })), "{late:?}");
        let end = Instant::now() + Duration::from_secs(20);
        while !made.exists() {
            assert!(Instant::now() < end, "it was ended");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_pipe_that_is_held_open_does_not_delay_the_end() {
        let started = Instant::now();
        let printed = SH.output(&mut sh("sleep 30 & echo $!"), "leave", soon()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        SH.output(&mut sh(&format!("kill {}", String::from_utf8(printed).unwrap())), "kill", soon()).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_remedy() {
        let tool = Tool { name: "no-such-program", remedy: "write it" };
        let expected = "no-such-program is not installed: write it";
        assert_eq!(tool.check().unwrap_err().to_string(), expected);
        let error = tool.output(&mut Command::new(tool.name), "x", soon()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        // By its own name, though it was run for another.
        let error = SH.output(&mut Command::new("/nowhere/other"), "x", soon()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/other is not installed: "), "{error}");
        let error = SH.output(sh("true").current_dir("/nowhere"), "x", soon()).unwrap_err();
        assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let directories = ["none", "plain", "directory", "good"].map(|name| dir.path().join(name));
        let [_, plain, directory, good] = &directories;
        for made in [plain, &directory.join("x"), good] {
            std::fs::create_dir_all(made).unwrap();
        }
        for (file, mode) in [(plain.join("x"), 0o644), (good.join("x"), 0o755)] {
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let tool = Tool { name: "x", remedy: "" };
        assert_eq!(tool.find_in(directories.clone().into_iter()), Some(good.join("x")));
        assert_eq!(tool.find_in(directories.into_iter().take(3)), None);
    }
}
