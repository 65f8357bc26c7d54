//! Becoming another program: the supervisor's own upgrade. Pid, children and descriptors stay.
//!
//! # Invariants
//! - The worker never notices. It has the same parent and the same notify socket before and after.
//! - A version of [`State`] that the other program does not know is found out by its self-check, before anything is done.
//!
//! # Crash consistency
//! The state travels in an anonymous file. If the exec is refused, this program goes on with everything it had.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::control::{Control, answer};
use super::frame::{Answer, Death};
use super::kept::Kept;
use super::notify::NotifySocket;
use super::supervise::Supervisor;
use super::worker::Worker;
use crate::config::Config;
use crate::daemon::arguments::Arguments;
use crate::daemon::{StartError, load_config, log};
use crate::descriptor;
use crate::paths;

/// The version of what one supervisor hands to the next.
pub(crate) const STATE_VERSION: u32 = 1;

/// What a supervisor hands to the program it becomes. Descriptors are numbers.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    worker: WorkerState,
    kept: Vec<(String, RawFd)>,
    control: Option<RawFd>,
    /// Who asked for the upgrade, and waits for an answer.
    client: Option<RawFd>,
    /// The file that the other program was run from: an interpreter may have had to read it. To be closed.
    program: Option<RawFd>,
    takeovers: u64,
    last_death: Option<Death>,
}

#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
struct WorkerState {
    pid: i32,
    notify: RawFd,
    since_ms: u64,
    status: Option<String>,
}

impl Supervisor {
    /// Becomes the program that the worker runs. Returns only if that is refused.
    pub(super) fn become_another(&self, client: Option<&UnixStream>) -> io::Error {
        match self.try_become(client) {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn try_become(&self, client: Option<&UnixStream>) -> io::Result<Infallible> {
        let worker = self.worker.as_ref().ok_or_else(|| io::Error::other("there is no worker"))?;
        let number = |descriptor: BorrowedFd<'_>| descriptor.as_raw_fd();
        let state = State {
            version: STATE_VERSION,
            worker: WorkerState {
                pid: worker.pid().as_raw_nonzero().get(),
                notify: number(worker.notify().as_fd()),
                since_ms: worker.since_ms(),
                status: worker.status().map(str::to_owned),
            },
            kept: self
                .kept
                .entries()
                .iter()
                .map(|(name, kept)| (name.clone(), number(kept.as_fd())))
                .collect(),
            control: self.control.as_ref().map(|control| number(control.listener())),
            client: client.map(|client| number(client.as_fd())),
            program: self.program.file().map(number),
            takeovers: self.takeovers,
            last_death: self.last_death.clone(),
        };
        let file = state.write()?;
        let arguments =
            Arguments { resume_supervisor: Some(file.as_raw_fd()), worker: None, ..self.arguments.clone() };
        let words = std::iter::once(self.program.name()).chain(arguments.to_command_line());
        let words: Vec<CString> = words
            .map(|word| CString::new(word.into_vec()))
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        let program =
            CString::new(self.program.executable().into_os_string().into_vec()).map_err(io::Error::other)?;
        let handed_on: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd())
            .chain([worker.notify().as_fd()])
            .chain(self.kept.entries().iter().map(|(_, kept)| kept.as_fd()))
            .chain(self.control.iter().map(Control::listener))
            .chain(client.map(AsFd::as_fd))
            .chain(self.program.file())
            .collect();
        set_flags(&handed_on, FdFlags::empty())?;
        // Signals stay blocked over this: those that come meanwhile are received by the other program.
        let refused = nix::unistd::execv(&program, &words);
        set_flags(&handed_on, FdFlags::CLOEXEC)?;
        Ok(refused?)
    }

    /// Goes on from what another program left in descriptor `number`.
    pub(super) fn resume(mut arguments: Arguments, number: RawFd) -> Result<Supervisor, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        arguments.resume_supervisor = None;
        // A configuration that was broken meanwhile is no reason to leave a worker alone.
        log::start(&load_config(&arguments).unwrap_or_else(|_| Config::default()));
        let mut supervisor = Supervisor::new(arguments)?;
        let taken = State::read(number).and_then(|state| state.restore(&mut supervisor));
        let client = taken.map_err(system("take over from another supervisor"))?;
        supervisor.ever_ready = true;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "upgraded");
        if let Some(client) = client {
            answer(client, &Answer::Upgraded(supervisor.status()));
        }
        Ok(supervisor)
    }
}

fn set_flags(descriptors: &[BorrowedFd<'_>], flags: FdFlags) -> io::Result<()> {
    descriptors.iter().try_for_each(|descriptor| Ok(fcntl_setfd(descriptor, flags)?))
}

impl State {
    fn write(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create("mountd-supervisor", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    fn read(number: RawFd) -> io::Result<State> {
        let mut text = Vec::new();
        for descriptor in descriptor::take_over(&[number])? {
            File::from(descriptor).read_to_end(&mut text)?;
        }
        let state: State = serde_json::from_slice(&text)?;
        if state.version != STATE_VERSION {
            let message = format!("its state is of version {}, not {STATE_VERSION}", state.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(state)
    }

    /// Takes over everything. Returns who waits for an answer.
    fn restore(self, supervisor: &mut Supervisor) -> io::Result<Option<UnixStream>> {
        let (names, kept): (Vec<String>, Vec<RawFd>) = self.kept.into_iter().unzip();
        let numbers =
            [Some(self.worker.notify), self.program, self.control, self.client].into_iter().flatten();
        let numbers: Vec<RawFd> = numbers.chain(kept).collect();
        let mut descriptors = descriptor::take_over(&numbers)?.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let notify = next()?;
        drop(self.program.map(|_| next()).transpose()?);
        let control = self.control.map(|_| next()).transpose()?;
        let client: Option<OwnedFd> = self.client.map(|_| next()).transpose()?;
        supervisor.kept = Kept::adopt(names.into_iter().zip(descriptors).collect());
        supervisor.takeovers = self.takeovers;
        supervisor.last_death = self.last_death;
        let store = supervisor.store.clone();
        let notify = NotifySocket::adopt(notify, &paths::notify_socket(&store, std::process::id()));
        let pid = Pid::from_raw(self.worker.pid).ok_or_else(|| io::Error::other("the worker has no pid"))?;
        supervisor.worker = Some(Worker::adopt(pid, notify, self.worker.since_ms, self.worker.status)?);
        if let Some(control) = control {
            supervisor.control = Some(Control::adopt(control, &paths::supervisor_socket(&store))?);
        }
        Ok(client.map(UnixStream::from))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;
    use crate::supervisor::ending::End;

    fn state() -> State {
        State {
            version: STATE_VERSION,
            worker: WorkerState { pid: 12, notify: 4, since_ms: 5, status: Some("busy".to_owned()) },
            kept: vec![("api_0of1".to_owned(), 7), ("mount-1_0of2".to_owned(), 8)],
            control: Some(9),
            client: None,
            program: Some(10),
            takeovers: 3,
            last_death: Some(Death { pid: 11, end: End::Signal(9), how: "SIGKILL".to_owned(), at_ms: 1 }),
        }
    }

    #[test]
    fn the_state_is_handed_on_whole() {
        let file = state().write().unwrap();
        assert_eq!(State::read(file.into_raw_fd()).unwrap(), state());
    }

    #[test]
    fn a_state_of_another_version_is_refused() {
        let file = State { version: STATE_VERSION + 1, ..state() }.write().unwrap();
        assert_eq!(State::read(file.into_raw_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
