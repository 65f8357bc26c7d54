//! One worker: how it is started, what it said of itself, and its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::ending::End;
use super::kept::{FIRST, Kept, LIMIT};
use super::notify::NotifySocket;
use super::program::Program;
use crate::daemon::arguments::Arguments;
use crate::keeper::{Handover, variable};

/// Opening a store replays its log; a big one on a slow disk takes a while. Less than who waits for the first start has.
const START_LIMIT: Duration = Duration::from_secs(110);

/// A process that serves, or is about to.
#[derive(Debug)]
pub(super) struct Worker {
    pid: Pid,
    process: OwnedFd,
    notify: NotifySocket,
    since_ms: u64,
    /// When it was started, or last said that it is well.
    last_sign: Instant,
    ready: bool,
    status: Option<String>,
    killed: bool,
}

/// What a worker is started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Program,
    pub(super) arguments: &'a Arguments,
    pub(super) kept: &'a Kept,
    pub(super) notify: &'a Path,
    pub(super) handover: Handover,
}

impl Worker {
    pub(super) fn start(start: &Start<'_>) -> io::Result<Worker> {
        let notify = NotifySocket::bind(start.notify)?;
        let own = std::process::id();
        let arguments = Arguments { worker: Some(own), resume_supervisor: None, ..start.arguments.clone() };
        let mut command = start.program.command();
        command
            .args(arguments.to_command_line())
            .env(variable::NOTIFY_SOCKET, notify.path())
            .env(variable::LISTEN_PID, own.to_string())
            .env(variable::LISTEN_FDS, start.kept.len().to_string())
            .env(variable::LISTEN_FDNAMES, start.kept.names())
            .env(variable::FDSTORE, LIMIT.to_string())
            .env(variable::WATCHDOG_USEC, start.arguments.watchdog.as_micros().to_string())
            .env_remove(variable::WATCHDOG_PID)
            .envs(start.handover.variables());
        // These duplicates take the lowest free numbers, so all numbers that the worker is to find something at are in use
        // by now. What `spawn` opens for itself gets a higher one, and is not overwritten between fork and exec.
        let mappings = start.kept.duplicates()?.into_iter().zip(FIRST..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        let pid = Pid::from_child(&command.spawn()?);
        Worker::of(pid, notify, unix_ms())
    }

    /// Takes over a worker that was started by this process before it became another program.
    pub(super) fn adopt(
        pid: Pid,
        notify: NotifySocket,
        since_ms: u64,
        status: Option<String>,
    ) -> io::Result<Worker> {
        Ok(Worker { ready: true, status, ..Worker::of(pid, notify, since_ms)? })
    }

    fn of(pid: Pid, notify: NotifySocket, since_ms: u64) -> io::Result<Worker> {
        // Nobody but this process reaps it, so the pid is still its own.
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let last_sign = Instant::now();
        Ok(Worker { pid, process, notify, since_ms, last_sign, ready: false, status: None, killed: false })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    pub(super) fn notify(&self) -> &NotifySocket {
        &self.notify
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }

    /// Readable when it said something, and when it ended.
    pub(super) fn events(&self) -> [BorrowedFd<'_>; 2] {
        [self.notify.as_fd(), self.process.as_fd()]
    }

    /// Notes that it serves.
    pub(super) fn note_ready(&mut self) {
        self.ready = true;
        self.note_alive();
    }

    /// Notes that it is well.
    pub(super) fn note_alive(&mut self) {
        self.last_sign = Instant::now();
    }

    /// Notes what it says it is doing.
    pub(super) fn note_status(&mut self, line: String) {
        self.status = Some(line);
    }

    /// Returns when it is to be taken for hung; `None` if that was done.
    pub(super) fn deadline(&self, watchdog: Duration) -> Option<Instant> {
        let limit = if self.ready { watchdog } else { START_LIMIT };
        (!self.killed).then(|| self.last_sign + limit)
    }

    /// Sends a signal. That it has ended meanwhile is no error: its end is noticed elsewhere.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.process, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(%error, pid = self.pid.as_raw_nonzero(), "cannot send a signal to the worker");
        }
    }

    /// Ends it the hard way. It is gone when [`has_ended`](Worker::has_ended) says so.
    pub(super) fn kill(&mut self) {
        self.killed = true;
        self.signal(Signal::KILL);
    }

    /// Returns whether it is dead, with all its threads.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::PidFd(self.process.as_fd()), options)?.is_some())
    }

    /// Buries it, once it is dead.
    pub(super) fn reap(self) -> io::Result<End> {
        let status = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED)?;
        status.as_ref().map(End::of).ok_or_else(|| io::Error::other("the worker ended without a status"))
    }
}

/// Returns the time for people, in milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
