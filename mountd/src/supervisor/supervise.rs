//! The loop of a supervisor.
//!
//! # Concurrency
//! One thread. Whatever wakes it, it looks at everything, and never waits for one thing alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backoff::Backoff;
use super::control::{Control, answer};
use super::ending::{self, Circumstances, End, Next};
use super::frame::{Answer, Death, Request, Status};
use super::kept::Kept;
use super::oom;
use super::program::Program;
use super::thawing::Thawing;
use super::upgrade::Upgrade;
use super::worker::{Start, Worker, unix_ms};
use crate::daemon::arguments::Arguments;
use crate::daemon::{StartError, raise_file_limit, report_ready};
use crate::exit::ExitClass;
use crate::keeper::{Handover, Keeper, Predecessor};
use crate::paths;

/// How long to wait where the system refuses what cannot be refused for long.
const PAUSE: Duration = Duration::from_millis(100);

/// What a supervisor knows.
pub(super) struct Supervisor {
    pub(super) arguments: Arguments,
    pub(super) store: PathBuf,
    /// What the next worker runs.
    pub(super) program: Program,
    /// None while the next one waits for its turn.
    pub(super) worker: Option<Worker>,
    pub(super) next_start: Option<Instant>,
    pub(super) kept: Kept,
    /// There is one from the moment that a worker is ready: from then on the store is ours.
    pub(super) control: Option<Control>,
    pub(super) upgrade: Option<Upgrade>,
    /// There is one from the death of a worker until another is ready.
    pub(super) thawing: Option<Thawing>,
    pub(super) takeovers: u64,
    pub(super) last_death: Option<Death>,
    pub(super) ever_ready: bool,
    backoff: Backoff,
    /// Whether mountd was asked to end.
    ending: bool,
    signals: SignalFd,
    /// Who supervises the supervisor, and is told that it is ready.
    outer: Keeper,
}

impl Supervisor {
    /// Starts the first worker.
    pub(super) fn start(arguments: Arguments) -> Result<Supervisor, StartError> {
        let oom_score_adj = oom::spare_this_process();
        let mut supervisor = Supervisor::new(Arguments { oom_score_adj, ..arguments })?;
        let failed = |source| StartError::System { what: "start the worker", source };
        supervisor.try_start(&Program::Own).map_err(failed)?;
        Ok(supervisor)
    }

    /// Returns a supervisor without a worker.
    pub(super) fn new(arguments: Arguments) -> Result<Supervisor, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        raise_file_limit();
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().map_err(|errno| system("block signals")(errno.into()))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|errno| system("receive signals")(errno.into()))?;
        // One that was started in the background has nobody above it, whatever the environment says.
        let outer = if arguments.is_on_its_own() { Keeper::none() } else { Keeper::to_be_told() };
        Ok(Supervisor {
            store: arguments.store.clone().unwrap_or_default(),
            arguments,
            program: Program::Own,
            worker: None,
            next_start: None,
            kept: Kept::default(),
            control: None,
            upgrade: None,
            thawing: None,
            takeovers: 0,
            last_death: None,
            ever_ready: false,
            backoff: Backoff::default(),
            ending: false,
            signals,
            outer,
        })
    }

    /// Supervises to the end.
    pub(super) fn run(mut self) -> Result<ExitCode, StartError> {
        let exit = loop {
            if let Err(error) = self.wait() {
                tracing::error!(%error, "cannot wait for what happens");
                std::thread::sleep(PAUSE);
            }
            self.hear_signals();
            self.hear_worker();
            if let Some(exit) = self.bury_worker() {
                break exit;
            }
            self.answer_clients();
            self.advance_upgrade();
            self.advance_thawing();
            self.watch_time();
        };
        if let Some(control) = self.control.take() {
            control.close();
        }
        if let Err(error) = std::fs::remove_file(self.notify_path()) {
            tracing::debug!(%error, "cannot remove the notify socket");
        }
        Ok(exit)
    }

    /// Waits until something happens, or until it is time for something.
    fn wait(&self) -> io::Result<()> {
        let worker = self.worker.iter().flat_map(Worker::events);
        let control = self.control.iter().flat_map(Control::events);
        let upgrade = self.upgrade.iter().filter_map(Upgrade::event);
        let thawing = self.thawing.iter().filter_map(Thawing::event);
        let signals = std::iter::once(self.signals.as_fd());
        let sources: Vec<BorrowedFd<'_>> =
            signals.chain(worker).chain(control).chain(upgrade).chain(thawing).collect();
        let mut watched: Vec<PollFd<'_>> =
            sources.iter().map(|source| PollFd::new(source, PollFlags::IN)).collect();
        let left = self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut watched, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let worker = self.worker.as_ref().and_then(|worker| worker.deadline(self.arguments.watchdog));
        let control = self.control.as_ref().and_then(Control::deadline);
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::deadline);
        let thawing = self.thawing.as_ref().and_then(Thawing::deadline);
        [worker, control, upgrade, thawing, self.next_start].into_iter().flatten().min()
    }

    fn hear_signals(&mut self) {
        loop {
            let signal = match self.signals.read_signal() {
                Ok(Some(info)) => i32::try_from(info.ssi_signo).ok().and_then(|it| Signal::try_from(it).ok()),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot receive signals");
                    return;
                }
            };
            let forwarded = match signal {
                Some(Signal::SIGHUP) => rustix::process::Signal::HUP,
                Some(Signal::SIGINT) => rustix::process::Signal::INT,
                _ => rustix::process::Signal::TERM,
            };
            if forwarded != rustix::process::Signal::HUP {
                self.ending = true;
                self.tell_outer(Keeper::stopping);
            }
            if let Some(worker) = &self.worker {
                worker.signal(forwarded);
            }
        }
    }

    /// Takes what the worker has said.
    fn hear_worker(&mut self) {
        loop {
            let Some(worker) = &mut self.worker else { return };
            let message = match worker.notify().receive() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot hear the worker");
                    return;
                }
            };
            if message.alive {
                worker.note_alive();
            }
            if let Some(status) = message.status {
                worker.note_status(status);
            }
            if let Some(micros) = message.more_time {
                self.tell_outer(|outer| outer.more_time(Duration::from_micros(micros)));
                continue;
            }
            if message.ready && !worker.is_ready() {
                worker.note_ready();
                self.note_ready();
            }
            if message.prepared {
                self.note_prepared();
            }
            if let Some(name) = message.name {
                if message.store
                    && let Err(why) = self.kept.store(&name, message.descriptors)
                {
                    tracing::error!(name, "cannot keep a descriptor of the worker: {why}");
                } else if message.remove {
                    self.kept.remove(&name);
                }
            }
        }
    }

    fn note_ready(&mut self) {
        self.backoff.reset();
        self.thawing = None;
        if !self.ever_ready {
            self.ever_ready = true;
            self.tell_outer(Keeper::ready);
            paths::remove_stale_notify_sockets(&self.store);
            match Control::open(&paths::supervisor_socket(&self.store)) {
                Ok(control) => self.control = Some(control),
                Err(error) => tracing::error!(%error, "nobody can ask this supervisor for anything"),
            }
            // Last: whoever waits for this may ask at once.
            if self.arguments.is_on_its_own()
                && let Err(error) = report_ready()
            {
                tracing::error!(error = %crate::exit::one_line(&error), "cannot report that mountd is ready");
            }
        }
        self.conclude_upgrade();
    }

    /// If the worker is dead: takes what it had said, and sees what is to be done. Returns what to exit with, if that is it.
    fn bury_worker(&mut self) -> Option<ExitCode> {
        match self.worker.as_ref().map(Worker::has_ended) {
            None | Some(Ok(false)) => {
                // Asked to end while the next worker waits for its turn.
                return (self.ending && self.worker.is_none()).then_some(ExitCode::SUCCESS);
            }
            Some(Ok(true)) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "cannot see whether the worker is alive");
                return None;
            }
        }
        // It says nothing any more; what it said is all there.
        self.hear_worker();
        let worker = self.worker.take()?;
        let (pid, was_ready) = (worker.pid().as_raw_nonzero().get(), worker.is_ready());
        let end = worker.reap().unwrap_or_else(|error| {
            tracing::error!(%error, pid, "cannot tell how the worker ended");
            End::Code(1)
        });
        let when = Circumstances {
            ever_ready: self.ever_ready,
            ending: self.ending,
            on_trial: self.upgrade.as_ref().is_some_and(Upgrade::is_on_trial),
        };
        self.last_death = Some(Death { pid, end, how: end.to_string(), at_ms: unix_ms() });
        if let Next::Exit(code) = ending::after(end, when) {
            if code != 0 && self.ever_ready {
                tracing::error!(pid, %end, "the worker died while mountd was to end");
            }
            self.abandon_upgrade("mountd ended");
            return Some(ExitCode::from(code));
        }
        if self.is_replacing() {
            tracing::info!(pid, "the worker was stopped for an upgrade");
        } else {
            tracing::warn!(pid, %end, kept = self.kept.len(), "the worker died; starting the next");
        }
        self.thawing.get_or_insert_with(Thawing::begin);
        let delay = self.backoff.next(was_ready);
        self.next_start = Some(Instant::now() + delay);
        self.note_end(end);
        self.start_if_due();
        None
    }

    fn start_if_due(&mut self) {
        if self.worker.is_some() || self.next_start.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.next_start = None;
        let program = self.next_program();
        if let Err(error) = self.try_start(&program) {
            tracing::error!(%error, "cannot start a worker");
            self.next_start = Some(Instant::now() + self.backoff.next(false).max(PAUSE));
            self.note_failed_start(&error);
        }
    }

    fn try_start(&mut self, program: &Program) -> io::Result<()> {
        let predecessor = self.last_death.as_ref().map_or(Predecessor::None, |death| death.end.predecessor());
        // Counted with this one, but for the first.
        let takeovers = self.takeovers + u64::from(self.last_death.is_some());
        let worker = Worker::start(&Start {
            program,
            arguments: &self.arguments,
            kept: &self.kept,
            notify: &self.notify_path(),
            handover: Handover { predecessor, takeovers },
        })?;
        self.takeovers = takeovers;
        self.worker = Some(worker);
        Ok(())
    }

    fn notify_path(&self) -> PathBuf {
        paths::notify_socket(&self.store, std::process::id())
    }

    fn answer_clients(&mut self) {
        let Some(control) = &mut self.control else { return };
        for (client, request) in control.questions() {
            match request {
                Request::Status => answer(client, &Answer::Status(self.status())),
                Request::Upgrade { program, limit_ms } => {
                    self.begin_upgrade(client, Path::new(&program), Duration::from_millis(limit_ms));
                }
            }
        }
    }

    /// Returns how this mountd is.
    pub(super) fn status(&self) -> Status {
        let worker = self.worker.as_ref();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            supervisor_pid: std::process::id(),
            worker_pid: worker.map(|worker| worker.pid().as_raw_nonzero().get()),
            ready: worker.is_some_and(Worker::is_ready),
            worker_since_ms: worker.map(Worker::since_ms),
            worker_status: worker.and_then(Worker::status).map(str::to_owned),
            takeovers: self.takeovers,
            descriptors: self.kept.len(),
            last_death: self.last_death.clone(),
        }
    }

    /// Does what is due by now.
    fn watch_time(&mut self) {
        let now = Instant::now();
        if let Some(worker) = &mut self.worker
            && worker.deadline(self.arguments.watchdog).is_some_and(|deadline| deadline <= now)
        {
            let (pid, ready) = (worker.pid().as_raw_nonzero(), worker.is_ready());
            tracing::error!(pid, ready, "the worker gives no sign of life; it is killed");
            worker.kill();
        }
        self.start_if_due();
    }

    fn tell_outer(&self, tell: impl FnOnce(&Keeper) -> io::Result<()>) {
        if let Err(error) = tell(&self.outer) {
            tracing::warn!(%error, "cannot tell whoever supervises this supervisor");
        }
    }

    /// Refuses what a client wants.
    pub(super) fn refuse(&self, client: Option<UnixStream>, exit: ExitClass, message: &str) {
        tracing::warn!(why = message, "upgrade failed");
        if let Some(client) = client {
            answer(client, &Answer::Failed { exit: exit.code(), message: message.to_owned() });
        }
    }
}
