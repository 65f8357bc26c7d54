//! `mountd upgrade` and `mountd status`: asking the supervisor of a store.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::frame::{self, Answer, FrameError, Request, Status};
use crate::daemon::arguments::{StatusArgs, UpgradeArgs};
use crate::exit::ExitClass;
use crate::paths::{self, Endpoint};
use crate::socket;
use crate::units::format_second;

/// A supervisor answers at once, whatever its worker does.
const PATIENCE: Duration = Duration::from_secs(10);

/// A supervisor that was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// There is none.
    #[error("no supervised mountd runs on the store {}", store.display())]
    Absent {
        /// The store.
        store: PathBuf,
    },
    /// It cannot be asked.
    #[error("ask the supervisor of the store {}", store.display())]
    Ask {
        /// The store.
        store: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its answer makes no sense.
    #[error("ask the supervisor of the store {}", store.display())]
    Frame {
        /// The store.
        store: PathBuf,
        /// What is wrong with it.
        source: FrameError,
    },
    /// It answered something else.
    #[error("the supervisor answered something else than it was asked")]
    Unexpected,
    /// It was not done.
    #[error("{message}")]
    Failed {
        /// The class of its exit code.
        exit: ExitClass,
        /// Why.
        message: String,
    },
    /// The store cannot be told.
    #[error("find the store")]
    Endpoint {
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be told to the supervisor.
    #[error("the path {} is not text", path.display())]
    Path {
        /// The program.
        path: PathBuf,
    },
    /// Nobody reads what was asked for.
    #[error("write to standard output")]
    Output {
        /// What the system said.
        source: io::Error,
    },
}

impl ControlError {
    /// Returns the class of exit code for this.
    pub(crate) fn exit_class(&self) -> ExitClass {
        match self {
            ControlError::Absent { .. } => ExitClass::NotFound,
            ControlError::Failed { exit, .. } => *exit,
            ControlError::Ask { source, .. } if is_late(source) => ExitClass::TimedOut,
            ControlError::Path { .. } => ExitClass::Usage,
            ControlError::Ask { .. }
            | ControlError::Frame { .. }
            | ControlError::Unexpected
            | ControlError::Endpoint { .. }
            | ControlError::Output { .. } => ExitClass::Failed,
        }
    }
}

/// Has the mountd of a store replaced by another version.
pub(crate) fn ask_to_upgrade(store: Option<&Path>, asked: &UpgradeArgs) -> Result<ExitCode, ControlError> {
    let path = std::path::absolute(&asked.program).unwrap_or_else(|_| asked.program.clone());
    let program = path.to_str().ok_or_else(|| ControlError::Path { path: path.clone() })?.to_owned();
    let limit_ms = u64::try_from(asked.limit.as_millis()).unwrap_or(u64::MAX);
    // The check, the end of the old worker, the start of the new one, or again of the old one.
    let patience = asked.limit.saturating_mul(2).saturating_add(PATIENCE);
    match ask(store, &Request::Upgrade { program, limit_ms }, patience)? {
        Answer::Upgraded(status) => print(&status, asked.json),
        Answer::Status(_) | Answer::Failed { .. } => Err(ControlError::Unexpected),
    }
}

/// Tells how the mountd of a store is.
pub(crate) fn ask_for_status(store: Option<&Path>, asked: &StatusArgs) -> Result<ExitCode, ControlError> {
    match ask(store, &Request::Status, PATIENCE)? {
        Answer::Status(status) => print(&status, asked.json),
        Answer::Upgraded(_) | Answer::Failed { .. } => Err(ControlError::Unexpected),
    }
}

/// What a supervisor says of itself and its worker, to whoever looks for what is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Supervised {
    pub(crate) supervisor_pid: u32,
    /// `None` while the next worker waits for its turn.
    pub(crate) worker_pid: Option<u32>,
    pub(crate) takeovers: u64,
}

/// Asks the supervisor of a store, which answers whatever its worker does.
pub(crate) fn supervised(store: &Path) -> Result<Supervised, ControlError> {
    match ask(Some(store), &Request::Status, PATIENCE)? {
        Answer::Status(status) => Ok(Supervised {
            supervisor_pid: status.supervisor_pid,
            worker_pid: status.worker_pid.and_then(|pid| u32::try_from(pid).ok()),
            takeovers: status.takeovers,
        }),
        Answer::Upgraded(_) | Answer::Failed { .. } => Err(ControlError::Unexpected),
    }
}

fn ask(store: Option<&Path>, request: &Request, patience: Duration) -> Result<Answer, ControlError> {
    let endpoint = Endpoint::resolve(store, None).map_err(|source| ControlError::Endpoint { source })?;
    let store = endpoint.store;
    let framed = |source| ControlError::Frame { store: store.clone(), source };
    let question = frame::encode(request).map_err(framed)?;
    let asked = exchange(&paths::supervisor_socket(&store), &question, patience);
    let bytes = asked.map_err(|source| match source {
        source if socket::is_absent(&source) => ControlError::Absent { store: store.clone() },
        source => ControlError::Ask { store: store.clone(), source },
    })?;
    match frame::decode(&bytes).map_err(framed)? {
        Some(Answer::Failed { exit, message }) => {
            let exit = ExitClass::from_code(exit.into()).unwrap_or(ExitClass::Failed);
            Err(ControlError::Failed { exit, message })
        }
        Some(answer) => Ok(answer),
        None => {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it went away before it answered");
            Err(ControlError::Ask { store, source })
        }
    }
}

fn exchange(path: &Path, question: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = socket::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(question)?;
    let mut bytes = Vec::new();
    stream.take(2 * frame::LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn print(status: &Status, json: bool) -> Result<ExitCode, ControlError> {
    let text =
        if json { serde_json::to_string(status).map_err(io::Error::from) } else { Ok(describe(status)) };
    let mut stdout = io::stdout().lock();
    text.and_then(|text| writeln!(stdout, "{text}"))
        .and_then(|()| stdout.flush())
        .map_err(|source| ControlError::Output { source })?;
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let time = |ms: u64| format_second(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000));
    let worker = match (status.worker_pid, status.worker_since_ms) {
        (Some(pid), Some(since)) => {
            let state = if status.ready { "serves" } else { "is starting" };
            format!("worker {pid} {state}, started {}", time(since))
        }
        _ => "no worker: the next one waits for its turn".to_owned(),
    };
    let said = status.worker_status.as_ref().map_or_else(String::new, |line| format!(" ({line})"));
    let takeovers = match status.takeovers {
        1 => "1 takeover".to_owned(),
        count => format!("{count} takeovers"),
    };
    let death = status.last_death.as_ref().map_or_else(String::new, |death| {
        format!("; worker {} ended {}: {}", death.pid, time(death.at_ms), death.how)
    });
    format!(
        "mountd {}, supervisor {}\n{worker}{said}\n{takeovers}{death}",
        status.version, status.supervisor_pid
    )
}
