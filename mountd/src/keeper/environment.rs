//! What a process is told by whoever started it: the variables of systemd's protocol, and two of our own.
//!
//! Our supervisor puts its own pid into `LISTEN_PID`, where systemd puts that of the process it starts: the pid of a
//! process that does not exist yet is hard to tell. So a worker takes what is addressed to itself or to its parent.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The names of the variables.
pub(crate) mod variable {
    /// Where to send messages.
    pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
    /// Whom the descriptors are for.
    pub(crate) const LISTEN_PID: &str = "LISTEN_PID";
    /// How many descriptors there are, from number 3 on.
    pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
    /// Their names, between colons.
    pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
    /// How long the keeper waits for a sign of life.
    pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
    /// Whom it expects that of.
    pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";
    /// How many descriptors the keeper takes; systemd tells since version 255.
    pub(crate) const FDSTORE: &str = "FDSTORE";
    /// Ours: how the previous worker ended.
    pub(crate) const PREDECESSOR: &str = "DURDIR_PREDECESSOR";
    /// Ours: how many workers were replaced so far.
    pub(crate) const TAKEOVERS: &str = "DURDIR_TAKEOVERS";
}

/// What became of the worker before this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Predecessor {
    /// There was none: this is a first start.
    None,
    /// It ended.
    Ended {
        /// The signal that killed it.
        signal: Option<i32>,
        /// Its exit code, if no signal killed it.
        code: Option<i32>,
    },
    /// There was one, and the keeper does not tell what became of it.
    Unknown,
}

/// What our supervisor tells a worker about the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handover {
    pub(crate) predecessor: Predecessor,
    /// How many workers were replaced since the supervisor started.
    pub(crate) takeovers: u64,
}

impl Handover {
    /// Returns the variables that say this.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        [
            (variable::PREDECESSOR, self.predecessor.to_string()),
            (variable::TAKEOVERS, self.takeovers.to_string()),
        ]
    }
}

impl Predecessor {
    fn parse(text: &str) -> Option<Predecessor> {
        match text.split_once(' ') {
            None if text == "none" => Some(Predecessor::None),
            None if text == "unknown" => Some(Predecessor::Unknown),
            Some(("signal", number)) => {
                Some(Predecessor::Ended { signal: Some(number.parse().ok()?), code: None })
            }
            Some(("code", number)) => {
                Some(Predecessor::Ended { signal: None, code: Some(number.parse().ok()?) })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Predecessor::None => f.write_str("none"),
            Predecessor::Ended { signal: Some(signal), .. } => write!(f, "signal {signal}"),
            Predecessor::Ended { code: Some(code), .. } => write!(f, "code {code}"),
            Predecessor::Ended { .. } | Predecessor::Unknown => f.write_str("unknown"),
        }
    }
}

/// The environment of a process, understood.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Environment {
    pub(super) notify_socket: Option<PathBuf>,
    /// The names of the descriptors from number 3 on that are for this process.
    pub(super) descriptors: Vec<String>,
    pub(super) watchdog: Option<Duration>,
    pub(super) limit: Option<usize>,
    pub(super) handover: Option<Handover>,
}

impl Environment {
    pub(super) fn of_this_process() -> Environment {
        let var = |name: &str| std::env::var(name).ok();
        Environment::parse([std::process::id(), std::os::unix::process::parent_id()], var)
    }

    /// `pids` are those of this process and of its parent.
    fn parse(pids: [u32; 2], var: impl Fn(&str) -> Option<String>) -> Environment {
        let number = |name: &str| var(name).and_then(|text| text.trim().parse::<u64>().ok());
        let is_for_us =
            |name: &str| number(name).is_some_and(|pid| pids.iter().any(|own| u64::from(*own) == pid));
        let count = if is_for_us(variable::LISTEN_PID) { number(variable::LISTEN_FDS) } else { None };
        let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let names = var(variable::LISTEN_FDNAMES).unwrap_or_default();
        let mut descriptors: Vec<String> = names.split(':').take(count).map(str::to_owned).collect();
        // One without a name is ours to close, all the same.
        descriptors.resize(count, String::new());
        let watched = var(variable::WATCHDOG_PID).is_none() || is_for_us(variable::WATCHDOG_PID);
        let predecessor = var(variable::PREDECESSOR).as_deref().and_then(Predecessor::parse);
        Environment {
            notify_socket: var(variable::NOTIFY_SOCKET).filter(|path| !path.is_empty()).map(PathBuf::from),
            descriptors,
            watchdog: number(variable::WATCHDOG_USEC)
                .filter(|micros| watched && *micros > 0)
                .map(Duration::from_micros),
            limit: number(variable::FDSTORE).and_then(|limit| usize::try_from(limit).ok()),
            handover: predecessor.map(|predecessor| Handover {
                predecessor,
                takeovers: number(variable::TAKEOVERS).unwrap_or(0),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        Environment::parse([100, 99], find)
    }

    #[test]
    fn a_process_without_a_keeper_has_none() {
        assert_eq!(parse(&[]), Environment::default());
        assert_eq!(parse(&[("NOTIFY_SOCKET", "")]), Environment::default());
    }

    #[test]
    fn descriptors_are_taken_by_whom_they_are_for() {
        let names = |pid: &str| {
            parse(&[("LISTEN_PID", pid), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")]).descriptors
        };
        assert_eq!(names("100"), ["a", "b"]);
        assert_eq!(names("99"), ["a", "b"]);
        assert!(names("98").is_empty());
        assert!(names("").is_empty());
    }

    #[test]
    fn descriptors_without_names_are_counted() {
        let environment = parse(&[("LISTEN_PID", "100"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "a::c")]);
        assert_eq!(environment.descriptors, ["a", "", "c"]);
        let environment = parse(&[("LISTEN_PID", "100"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a")]);
        assert_eq!(environment.descriptors, ["a", ""]);
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let watchdog = |pid: &str| parse(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", pid)]).watchdog;
        assert_eq!(watchdog("100"), Some(Duration::from_secs(2)));
        assert_eq!(watchdog("1"), None);
        assert_eq!(parse(&[("WATCHDOG_USEC", "500")]).watchdog, Some(Duration::from_micros(500)));
        assert_eq!(parse(&[("WATCHDOG_USEC", "0")]).watchdog, None);
    }

    #[test]
    fn the_end_of_the_predecessor_is_told() {
        let ended = |signal, code| Predecessor::Ended { signal, code };
        for predecessor in
            [Predecessor::None, Predecessor::Unknown, ended(Some(9), None), ended(None, Some(1))]
        {
            let handover = Handover { predecessor, takeovers: 7 };
            let variables = handover.variables();
            let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(parse(&variables).handover, Some(handover));
        }
    }
}
