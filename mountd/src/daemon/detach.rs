//! Starting a mountd that outlives its starter, and hearing how its start went.
//!
//! The child reports over its standard output, a pipe: the line [`READY`](super::READY), or what
//! went wrong. Its standard error is its log.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::READY;
use crate::exit::ExitClass;
use crate::paths;

/// Opening a store replays its log; a big one on a slow disk takes a while.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A log of this size is moved aside when the next daemon starts.
const LOG_LIMIT: u64 = 8 << 20;

/// A mountd that was to run on its own, and does not.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Its log cannot be opened.
    #[error("open the log {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It gave up, and said why.
    #[error("{message}")]
    GaveUp {
        /// The class of its exit code.
        exit: ExitClass,
        /// The line that it reported.
        message: String,
    },
    /// It was neither ready nor gone in time, and was ended.
    #[error("mountd was not ready within {} s and was ended; see {}", START_LIMIT.as_secs(), log.display())]
    TimedOut {
        /// What it logged.
        log: PathBuf,
    },
}

impl DetachError {
    /// Returns the class of exit code for this.
    pub fn exit_class(&self) -> ExitClass {
        match self {
            DetachError::Log { .. } | DetachError::Spawn { .. } => ExitClass::Failed,
            DetachError::GaveUp { exit, .. } => *exit,
            DetachError::TimedOut { .. } => ExitClass::TimedOut,
        }
    }
}

/// Starts a mountd with the given arguments and returns once it is ready.
pub(crate) fn start_detached<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    log: &Path,
) -> Result<(), DetachError> {
    let log_file = open_log(log).map_err(|source| DetachError::Log { path: log.to_owned(), source })?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(|source| DetachError::Spawn { program: program.to_owned(), source })?;
    let Some(report) = read_report(&mut child, START_LIMIT) else {
        end(&mut child);
        return Err(DetachError::TimedOut { log: log.to_owned() });
    };
    let report = report.trim();
    if report == READY {
        return Ok(());
    }
    // It closed its standard output without being ready, so it is ending.
    let exit = child.wait().ok().and_then(|status| status.code()).and_then(ExitClass::from_code);
    Err(DetachError::GaveUp {
        exit: exit.unwrap_or(ExitClass::Failed),
        message: if report.is_empty() {
            format!("mountd ended while it started; see {}", log.display())
        } else {
            report.to_owned()
        },
    })
}

/// Returns what the child writes before it closes its standard output; `None` if it does not in
/// time. The reader is a thread of its own, since a pipe has no time-out.
fn read_report(child: &mut Child, limit: Duration) -> Option<String> {
    let mut pipe = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut report = Vec::new();
        // What came before an error is all there is to report.
        drop(pipe.read_to_end(&mut report));
        // The receiver is gone after the time-out; then nobody wants the report.
        drop(sender.send(report));
    });
    let report = receiver.recv_timeout(limit).ok()?;
    Some(String::from_utf8_lossy(&report).into_owned())
}

fn end(child: &mut Child) {
    // Both fail only if the child has ended already, which is what is wanted.
    drop(child.kill());
    drop(child.wait());
}

fn open_log(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > LOG_LIMIT) {
        std::fs::rename(path, paths::rotated(path))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_shell(script: &str) -> Result<(), DetachError> {
        let dir = tempfile::tempdir().unwrap();
        start_detached(Path::new("/bin/sh"), ["-c", script], &dir.path().join("log"))
    }

    #[test]
    fn ready_is_heard_though_the_daemon_goes_on() {
        start_shell("echo ready; exec >&-; sleep 0.1").unwrap();
    }

    #[test]
    fn a_failure_is_heard_with_its_class() {
        let error = start_shell("echo store is in use; exit 4").unwrap_err();
        assert_eq!(error.exit_class(), ExitClass::Conflict);
        assert_eq!(error.to_string(), "store is in use");
    }

    #[test]
    fn a_daemon_that_dies_silently_points_to_its_log() {
        let error = start_shell("kill -9 $$").unwrap_err();
        assert_eq!(error.exit_class(), ExitClass::Failed);
        assert!(error.to_string().contains("see /"), "{error}");
    }

    #[test]
    fn a_silent_child_is_given_up() {
        let mut child = Command::new("sleep").arg("10").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(read_report(&mut child, Duration::from_millis(20)), None);
        end(&mut child);
    }

    #[test]
    fn a_big_log_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mountd.log");
        drop(open_log(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        drop(open_log(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        let moved = std::fs::metadata(dir.path().join("mountd.log.1")).unwrap();
        assert_eq!(moved.len(), LOG_LIMIT + 1);
    }
}
