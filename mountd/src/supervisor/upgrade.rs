//! Replacing the running version by another one.
//!
//! ```text
//!   asked ─▶ checking ─▶ preparing ─▶ replacing ─▶ trial ─▶ exec of the supervisor ─▶ answered
//!               │       the worker     it ends       │
//!               ▼       writes out                   ▼ not ready: the old version is started again
//!            refused    what is in memory         refused
//! ```
//!
//! # Invariants
//! - Until the other version is ready, the next worker after any end is of the version that ran before.
//! - The file that was checked is the file that is run.
//! - A worker that does not get prepared is replaced all the same: what it has in memory is in its log.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::ending::End;
use super::program::Program;
use super::supervise::Supervisor;
use super::worker::Worker;
use crate::daemon::arguments::Arguments;
use crate::daemon::self_check::{self, Abilities};
use crate::exit::{ExitClass, printable};

/// Memtables are written out in well under a second, unless the disk is very busy.
const PREPARATION: Duration = Duration::from_secs(10);

/// What is read of what a check has to say.
const REPORT: u64 = 16 << 10;

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    client: Option<UnixStream>,
    candidate: Program,
    limit: Duration,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The other program looks whether it could take over.
    Checking(Check),
    /// The worker of the old version was asked to leave its successor little to read.
    Preparing { deadline: Instant },
    /// The worker of the old version was killed.
    Replacing,
    /// The worker of the other version was started.
    Trial { deadline: Instant },
    /// It was not ready in time, and was killed.
    Overdue,
}

#[derive(Debug)]
struct Check {
    child: Child,
    process: std::os::fd::OwnedFd,
    deadline: Instant,
}

impl Upgrade {
    /// Readable when the check has ended.
    pub(super) fn event(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Checking(check) => Some(check.process.as_fd()),
            Phase::Preparing { .. } | Phase::Replacing | Phase::Trial { .. } | Phase::Overdue => None,
        }
    }

    /// Returns when it has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Checking(check) => Some(check.deadline),
            Phase::Preparing { deadline } | Phase::Trial { deadline } => Some(*deadline),
            Phase::Replacing | Phase::Overdue => None,
        }
    }

    /// Returns whether a worker that is not ready yet is the other version's.
    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial { .. } | Phase::Overdue)
    }
}

impl Supervisor {
    /// Has another program check whether it could take over.
    pub(super) fn begin_upgrade(&mut self, client: UnixStream, path: &Path, limit: Duration) {
        if self.upgrade.is_some() {
            return self.refuse(Some(client), ExitClass::Conflict, "another upgrade is under way");
        }
        if !self.worker.as_ref().is_some_and(Worker::is_ready) {
            return self.refuse(Some(client), ExitClass::Conflict, "the worker is not ready; try again");
        }
        let candidate = match Program::open(path) {
            Ok(candidate) => candidate,
            Err(error) => {
                let exit = match error.kind() {
                    io::ErrorKind::NotFound => ExitClass::NotFound,
                    _ => ExitClass::Failed,
                };
                return self.refuse(Some(client), exit, &format!("open {}: {error}", path.display()));
            }
        };
        let check = Check::start(&candidate, &self.arguments, limit);
        match check {
            Ok(check) => {
                tracing::info!(program = %path.display(), "asked to upgrade");
                let phase = Phase::Checking(check);
                self.upgrade = Some(Upgrade { client: Some(client), candidate, limit, phase });
            }
            Err(error) => {
                self.refuse(Some(client), ExitClass::Failed, &format!("run {}: {error}", path.display()));
            }
        }
    }

    /// Goes on with an upgrade whose check has ended, or that has taken too long.
    pub(super) fn advance_upgrade(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let now = Instant::now();
        match &mut upgrade.phase {
            Phase::Checking(check) => match check.outcome(now) {
                None => {}
                Some(Ok(abilities)) => {
                    tracing::info!(version = abilities.version, "the other program can take over");
                    upgrade.phase = Phase::Preparing { deadline: now + upgrade.limit.min(PREPARATION) };
                    match &self.worker {
                        // One that is not ready does not know this signal yet, and has written nothing.
                        Some(worker) if worker.is_ready() => worker.signal(Signal::USR1),
                        Some(_) | None => self.replace_worker(),
                    }
                }
                Some(Err((exit, message))) => self.fail_upgrade(exit, &message),
            },
            Phase::Preparing { deadline } if *deadline <= now => {
                tracing::info!("the worker did not get prepared in time");
                self.replace_worker();
            }
            Phase::Trial { deadline } if *deadline <= now => {
                upgrade.phase = Phase::Overdue;
                if let Some(worker) = &mut self.worker {
                    worker.kill();
                }
            }
            Phase::Preparing { .. } | Phase::Replacing | Phase::Trial { .. } | Phase::Overdue => {}
        }
    }

    /// Notes that the worker leaves its successor little to read.
    pub(super) fn note_prepared(&mut self) {
        if self.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.phase, Phase::Preparing { .. })) {
            self.replace_worker();
        }
    }

    fn replace_worker(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        upgrade.phase = Phase::Replacing;
        match &mut self.worker {
            Some(worker) => worker.kill(),
            // The next one waits for its turn: it is the other version's.
            None => upgrade.phase = Phase::Trial { deadline: Instant::now() + upgrade.limit },
        }
    }

    /// Returns whether the end of the worker is part of an upgrade.
    pub(super) fn is_replacing(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.phase, Phase::Replacing))
    }

    /// Returns what the next worker runs.
    pub(super) fn next_program(&self) -> Program {
        match &self.upgrade {
            Some(upgrade) if upgrade.is_on_trial() => upgrade.candidate.clone(),
            Some(_) | None => self.program.clone(),
        }
    }

    /// Notes that a worker ended, and another is about to be started.
    pub(super) fn note_end(&mut self, end: End) {
        let Some(upgrade) = &mut self.upgrade else { return };
        match upgrade.phase {
            // The old version's worker died by itself; the next is still of the old version.
            Phase::Checking(_) => {}
            // Whether it was killed for it or died before: it has passed its check, and it is its turn.
            Phase::Preparing { .. } | Phase::Replacing => {
                upgrade.phase = Phase::Trial { deadline: Instant::now() + upgrade.limit };
            }
            Phase::Trial { .. } => {
                let message = format!("its worker ended before it was ready ({end})");
                self.fail_upgrade(ExitClass::Failed, &message);
            }
            Phase::Overdue => {
                let message = format!("its worker was not ready within {:?}", upgrade.limit);
                self.fail_upgrade(ExitClass::TimedOut, &message);
            }
        }
    }

    /// Notes that a worker could not even be started.
    pub(super) fn note_failed_start(&mut self, error: &io::Error) {
        if self.upgrade.as_ref().is_some_and(Upgrade::is_on_trial) {
            self.fail_upgrade(ExitClass::Failed, &format!("its worker cannot be started: {error}"));
            self.next_start = Some(Instant::now());
        }
    }

    /// If the worker that got ready is the other version's: it stays, and this process becomes that version, too.
    pub(super) fn conclude_upgrade(&mut self) {
        if !self.upgrade.as_ref().is_some_and(Upgrade::is_on_trial) {
            return;
        }
        let Some(upgrade) = self.upgrade.take() else { return };
        self.program = upgrade.candidate;
        let error = self.become_another(upgrade.client.as_ref());
        // Only failure comes back. The worker is replaced, and so will be the next.
        tracing::error!(%error, "the worker was upgraded, but the supervisor remains the old version");
        let message = format!("the worker was upgraded, but the supervisor remains the old version: {error}");
        if let Some(client) = upgrade.client {
            let answer = super::frame::Answer::Failed { exit: ExitClass::Failed.code(), message };
            super::control::answer(client, &answer);
        }
    }

    /// Gives up an upgrade, if one is under way.
    pub(super) fn abandon_upgrade(&mut self, why: &str) {
        if let Some(upgrade) = self.upgrade.take() {
            self.refuse(upgrade.client, ExitClass::Failed, why);
        }
    }

    fn fail_upgrade(&mut self, exit: ExitClass, message: &str) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let program = upgrade.candidate.name();
        let message = format!("{}: {message}; mountd goes on as before", program.display());
        self.refuse(upgrade.client, exit, &message);
    }
}

impl Check {
    fn start(candidate: &Program, arguments: &Arguments, limit: Duration) -> io::Result<Check> {
        // The very command line that its worker will have, so that it is known to be understood.
        let worker = Arguments { worker: Some(std::process::id()), self_check: true, ..arguments.clone() };
        let mut command: Command = candidate.command();
        let mut child = command
            .args(worker.to_command_line())
            .envs(self_check::questions())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(process) => Ok(Check { child, process, deadline: Instant::now() + limit }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Returns what came of it; `None` while nothing did.
    fn outcome(&mut self, now: Instant) -> Option<Result<Abilities, (ExitClass, String)>> {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) if self.deadline > now => return None,
            Ok(None) => return Some(Err((ExitClass::TimedOut, "its self-check does not end".to_owned()))),
            Err(error) => return Some(Err((ExitClass::Failed, format!("wait for its self-check: {error}")))),
        };
        let report = said(self.child.stdout.take());
        if status.success() {
            return Some(Abilities::parse(&report).ok_or_else(|| {
                (ExitClass::Refused, "it does not answer as a mountd that can be upgraded to".to_owned())
            }));
        }
        let exit = status.code().and_then(ExitClass::from_code).unwrap_or(ExitClass::Failed);
        let complaint = said(self.child.stderr.take());
        let complaint =
            complaint.lines().next().map_or_else(String::new, |line| format!(": {}", printable(line)));
        Some(Err((exit, format!("its self-check failed ({status}){complaint}"))))
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns what is in a pipe. What a child of the check may still have to say is not waited for.
fn said(pipe: Option<impl Read + AsFd>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let unblocked = rustix::io::ioctl_fionbio(&pipe, true).map_err(io::Error::from);
        // An error is the end of what there is to read.
        drop(unblocked.and_then(|()| pipe.take(REPORT).read_to_end(&mut text)));
    }
    String::from_utf8_lossy(&text).into_owned()
}
