//! The command line of mountd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::units::parse_duration;

/// The node daemon of durdir: owns a store and its mounts.
#[derive(Parser, Clone, Debug)]
#[command(name = "mountd", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Read settings from this file; the command line goes before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of the store [default: /var/lib/durdir as root, else $XDG_STATE_HOME/durdir]
    #[arg(long, value_name = "DIR")]
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

    /// Run on its own: report on standard output, log to standard error
    #[arg(long, hide = true)]
    pub detached: bool,
    /// As --detached, and end some time after the last mount and client are gone
    #[arg(long, hide = true)]
    pub private: bool,
    /// How long a private mountd outlives its last mount and client
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub idle: Duration,
}

const AFTER_HELP: &str = "\
SIGTERM and SIGINT unmount everything, close the store and end the daemon. SIGHUP reads the
configuration file again and takes over its log filter and shutdown grace.

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
    fn a_private_mountd_lingers_ten_seconds_unless_told_otherwise() {
        let parse = |args: &[&str]| Arguments::try_parse_from(args).unwrap();
        assert_eq!(parse(&["mountd", "--private"]).idle, Duration::from_secs(10));
        assert_eq!(parse(&["mountd", "--private", "--idle", "100ms"]).idle, Duration::from_millis(100));
    }
}
