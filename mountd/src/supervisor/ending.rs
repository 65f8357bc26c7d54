//! How a worker ended, and what follows from it.

use std::fmt;

use nix::sys::signal::Signal;
use rustix::process::WaitIdStatus;
use serde::{Deserialize, Serialize};

use crate::keeper::Predecessor;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// It ended by itself, with this exit code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl End {
    pub(super) fn of(status: &WaitIdStatus) -> End {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Code(code),
            (None, Some(signal)) => End::Signal(signal),
            // Only ends are waited for; this is what is left.
            (None, None) => End::Code(1),
        }
    }

    pub(super) fn predecessor(self) -> Predecessor {
        match self {
            End::Code(code) => Predecessor::Ended { signal: None, code: Some(code) },
            End::Signal(signal) => Predecessor::Ended { signal: Some(signal), code: None },
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Code(code) => write!(f, "exit code {code}"),
            End::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// What the supervisor does when a worker has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// It ends as well, with this exit code.
    Exit(u8),
    /// It starts another worker.
    Restart,
}

/// What is known when a worker has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// Whether any worker was ever ready.
    pub(super) ever_ready: bool,
    /// Whether mountd was asked to end.
    pub(super) ending: bool,
    /// Whether this one was started to see if it works.
    pub(super) on_trial: bool,
}

/// Returns what to do.
pub(super) fn after(end: End, when: Circumstances) -> Next {
    let code = match end {
        // A worker on trial that does not serve has failed, whatever it says of itself.
        End::Code(0) if when.on_trial && !when.ending => return Next::Restart,
        End::Code(0) => return Next::Exit(0),
        End::Code(code) => u8::try_from(code).unwrap_or(1),
        // Asked to end before it could listen to that.
        End::Signal(signal) if when.ending && [libc::SIGTERM, libc::SIGINT].contains(&signal) => 0,
        End::Signal(_) => 1,
    };
    if when.ending || !when.ever_ready { Next::Exit(code) } else { Next::Restart }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_replaced_if_and_only_if_it_is_missed() {
        use End::{Code, Signal};
        use Next::{Exit, Restart};
        let when = |ever_ready, ending, on_trial| Circumstances { ever_ready, ending, on_trial };
        let (starting, serving, ending, trial) = (
            when(false, false, false),
            when(true, false, false),
            when(true, true, false),
            when(true, false, true),
        );
        let table = [
            (Code(5), starting, Exit(5)),
            (Signal(9), starting, Exit(1)),
            (Code(0), starting, Exit(0)),
            (Signal(15), when(false, true, false), Exit(0)),
            (Code(0), serving, Exit(0)),
            (Code(1), serving, Restart),
            (Signal(9), serving, Restart),
            (Signal(15), serving, Restart),
            (Code(0), ending, Exit(0)),
            (Code(3), ending, Exit(3)),
            (Signal(9), ending, Exit(1)),
            (Signal(15), ending, Exit(0)),
            (Code(0), trial, Restart),
            (Code(5), trial, Restart),
            (Code(0), when(true, true, true), Exit(0)),
        ];
        for (end, circumstances, next) in table {
            assert_eq!(after(end, circumstances), next, "{end} {circumstances:?}");
        }
    }

    #[test]
    fn an_end_is_told_by_its_name() {
        assert_eq!(End::Signal(9).to_string(), "SIGKILL");
        assert_eq!(End::Signal(64).to_string(), "signal 64");
        assert_eq!(End::Code(101).to_string(), "exit code 101");
    }
}
