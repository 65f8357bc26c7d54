//! The command line of mountd.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::units::parse_duration;

/// The node daemon of durdir: owns a store and its mounts.
#[derive(Parser, Clone, Debug, Default)]
#[command(name = "mountd", version, after_help = AFTER_HELP)]
#[command(subcommand_negates_reqs = true)]
pub struct Arguments {
    /// What to ask a mountd that runs; without it, this is to be one
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Read settings from this file; the command line goes before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of the store [default: /var/lib/durdir as root, else $XDG_STATE_HOME/durdir]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Where to listen for clients [default: mountd.sock in the store]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer /healthz and /metrics over HTTP at this address
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    pub foreground: bool,
    /// Be one process, without a supervisor that restarts it: for a service manager that keeps descriptors itself
    #[arg(long)]
    pub no_supervisor: bool,

    /// Run on its own: report on standard output, log to standard error
    #[arg(long, hide = true)]
    pub detached: bool,
    /// As --detached, and end some time after the last mount and client are gone
    #[arg(long, hide = true)]
    pub private: bool,
    /// How long a private mountd outlives its last mount and client
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub idle: Duration,
    /// How long a worker may give no sign of life before it is killed and replaced
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub watchdog: Duration,

    /// Serve, under the supervisor with this pid, which started this process
    #[arg(long, hide = true, value_name = "PID")]
    pub worker: Option<u32>,
    /// What a worker sets its oom_score_adj to
    #[arg(long, hide = true, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    /// Say whether this program could take over the store, and end
    #[arg(long, hide = true)]
    pub self_check: bool,
    /// Let sandboxes go on that a mountd left paused which is dead since, and end; nothing while a mountd has the store
    #[arg(long, hide = true)]
    pub thaw: bool,
    /// Be the supervisor that another program was in this process; its state is in this descriptor
    #[arg(long, hide = true, value_name = "FD")]
    pub resume_supervisor: Option<i32>,
}

/// What can be asked of a mountd that runs.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Replace the running mountd by another version, newer or older, while programs use its mounts
    Upgrade(UpgradeArgs),
    /// Tell how the running mountd is, even if it hangs
    Status(StatusArgs),
}

/// Replace the running mountd by another version, newer or older, while programs use its mounts.
///
/// The other program first checks that it can read the store. Then it takes over; if it is not ready in time, the
/// one that ran before goes on.
#[derive(Args, Clone, Debug)]
pub struct UpgradeArgs {
    /// The mountd to run from now on
    #[arg(value_name = "PATH")]
    pub program: PathBuf,
    /// How long its check may take, and then its start
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub limit: Duration,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Tell how the running mountd is, even if it hangs.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// Whether somebody waits on standard output for word of how the start went.
    pub fn is_on_its_own(&self) -> bool {
        self.private || self.detached
    }

    /// Returns the first word that says how to serve although somebody else is asked.
    pub(crate) fn misplaced(&self) -> Option<OsString> {
        self.command.as_ref()?;
        let serving = Arguments { store: None, command: None, ..self.clone() };
        let usual = Arguments::parse_from(["mountd"]).to_command_line();
        serving.to_command_line().into_iter().find(|word| !usual.contains(word))
    }

    /// Returns a command line that says the same as this one.
    pub(crate) fn to_command_line(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: Option<OsString>| {
            words.push(format!("--{name}").into());
            words.extend(value);
        };
        let paths = [("config", &self.config), ("store", &self.store), ("socket", &self.socket)];
        for (name, path) in paths {
            if let Some(path) = path {
                add(name, Some(path.clone().into_os_string()));
            }
        }
        if let Some(address) = self.metrics {
            add("metrics", Some(address.to_string().into()));
        }
        for (name, time) in [("idle", self.idle), ("watchdog", self.watchdog)] {
            add(name, Some(format!("{}ms", time.as_millis()).into()));
        }
        if let Some(supervisor) = self.worker {
            add("worker", Some(supervisor.to_string().into()));
        }
        if let Some(score) = self.oom_score_adj {
            add("oom-score-adj", Some(score.to_string().into()));
        }
        if let Some(descriptor) = self.resume_supervisor {
            add("resume-supervisor", Some(descriptor.to_string().into()));
        }
        let flags = [
            ("foreground", self.foreground),
            ("no-supervisor", self.no_supervisor),
            ("detached", self.detached),
            ("private", self.private),
            ("self-check", self.self_check),
            ("thaw", self.thaw),
        ];
        for (name, is_set) in flags {
            if is_set {
                add(name, None);
            }
        }
        words
    }
}

const AFTER_HELP: &str = "\
mountd is two processes: a supervisor, and a worker that it starts again whenever that dies. SIGTERM
and SIGINT to the supervisor pause actors, unmount everything, close the store and end the daemon;
how is told by shutdown.mounts of the configuration: drain (programs that use a mount have the time of
shutdown.grace), unmount (they have none), or keep (nothing is paused or unmounted: a service manager
keeps it for the next mountd). SIGHUP reads the configuration file again and takes over its log filter
and shutdown section.

Without --foreground the daemon detaches once clients can connect and logs to mountd.log in the
store. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the store or socket is in use,
5 refused (not a store, or of a newer format), 6 the store is damaged.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_command_line_says_what_it_was_made_from() {
        let words = [
            "mountd",
            "--store",
            "/s",
            "--metrics",
            "[::1]:80",
            "--private",
            "--idle",
            "5s",
            "--watchdog",
            "1500ms",
            "--resume-supervisor",
            "7",
            "--worker",
            "12",
            "--oom-score-adj",
            "-17",
            "--config",
            "/c",
            "--socket",
            "/x y",
        ];
        let arguments = Arguments::try_parse_from(words).unwrap();
        let mut line = arguments.to_command_line();
        line.insert(0, "mountd".into());
        let again = Arguments::try_parse_from(line).unwrap();
        assert_eq!(format!("{again:?}"), format!("{arguments:?}"));
        for flag in ["--foreground", "--no-supervisor", "--detached", "--private", "--self-check", "--thaw"] {
            let arguments = Arguments::try_parse_from(["mountd", flag]).unwrap();
            assert!(arguments.to_command_line().iter().any(|word| word == flag), "{flag}");
        }
    }

    #[test]
    fn commands_are_told_from_a_start() {
        let parse = |args: &[&str]| Arguments::try_parse_from(args).map(|arguments| arguments.command);
        assert!(matches!(parse(&["mountd"]), Ok(None)));
        let upgrade = parse(&["mountd", "upgrade", "/new", "--store", "/s"]);
        let Ok(Some(Command::Upgrade(upgrade))) = upgrade else { panic!("{upgrade:?}") };
        assert_eq!(upgrade.program, PathBuf::from("/new"));
        assert!(matches!(parse(&["mountd", "status", "--json"]), Ok(Some(Command::Status(_)))));
        assert!(parse(&["mountd", "upgrade"]).is_err());
    }

    #[test]
    fn the_store_is_named_before_or_after_a_command_and_nothing_else_is_before_it() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).unwrap();
        for line in [
            "mountd --store /s status --json",
            "mountd status --store /s",
            "mountd --store /s upgrade /new",
            "mountd upgrade /new --store /s --limit 1s",
        ] {
            let arguments = parse(line);
            assert!(arguments.command.is_some(), "{line}");
            assert_eq!(
                (arguments.store.as_deref(), arguments.misplaced()),
                (Some("/s".as_ref()), None),
                "{line}"
            );
        }
        for (line, word) in [
            ("mountd --foreground status", "--foreground"),
            ("mountd --store /s --idle 1s status", "1000ms"),
            ("mountd --socket /x upgrade /new", "--socket"),
        ] {
            assert_eq!(parse(line).misplaced(), Some(word.into()), "{line}");
        }
        assert_eq!(parse("mountd --store /s --foreground").misplaced(), None);
    }

    #[test]
    fn a_private_mountd_lingers_ten_seconds_unless_told_otherwise() {
        let parse = |args: &[&str]| Arguments::try_parse_from(args).unwrap();
        assert_eq!(parse(&["mountd", "--private"]).idle, Duration::from_secs(10));
        assert_eq!(parse(&["mountd", "--private", "--idle", "100ms"]).idle, Duration::from_millis(100));
    }
}
