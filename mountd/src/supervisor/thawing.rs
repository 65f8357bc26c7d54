//! What is done for sandboxes that a dead worker left paused, while no other gets ready.
//!
//! The supervisor does not do it itself: it looks into no file of the store, and waits for nothing. It runs its worker's program, which
//! [lets them go on](crate::actor::thaw) and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::program::Program;
use super::supervise::Supervisor;
use crate::actor::PATIENCE;
use crate::daemon::arguments::Arguments;

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);

/// While no worker is ready.
#[derive(Debug)]
pub(super) struct Thawing {
    due: Option<Instant>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    process: OwnedFd,
}

impl Thawing {
    /// Begins to wait: the worker has just died.
    pub(super) fn begin() -> Thawing {
        // A note is at least as old as the worker is dead.
        Thawing { due: Some(Instant::now() + PATIENCE), running: None }
    }

    /// Readable when what runs has ended.
    pub(super) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|running| running.process.as_fd())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| self.running.is_none())
    }

    /// Does what is due.
    fn advance(&mut self, program: &Program, arguments: &Arguments) -> io::Result<()> {
        let now = Instant::now();
        if let Some(running) = &mut self.running {
            let Some(status) = running.child.try_wait()? else { return Ok(()) };
            self.running = None;
            // Otherwise a worker has the store, on its way to get ready or to fail, or a sandbox does not go on yet.
            self.due = (!status.success()).then_some(now + AGAIN);
        } else if self.due.is_some_and(|due| due <= now) {
            self.due = Some(now + AGAIN);
            self.running = Some(Running::start(program, arguments)?);
        }
        Ok(())
    }
}

impl Running {
    fn start(program: &Program, arguments: &Arguments) -> io::Result<Running> {
        let arguments = Arguments { thaw: true, ..arguments.clone() };
        let mut command = program.command();
        let mut child =
            command.args(arguments.to_command_line()).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(process) => Ok(Running { child, process }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for, which is what is wanted. A worker is ready, and sees to everything.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Supervisor {
    /// Goes on with what is done while no worker is ready.
    pub(super) fn advance_thawing(&mut self) {
        let Some(thawing) = &mut self.thawing else { return };
        if let Err(error) = thawing.advance(&self.program, &self.arguments) {
            tracing::error!(%error, "cannot let sandboxes go on that were left paused");
        }
    }
}
