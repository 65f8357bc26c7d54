//! Settings of mountd: command line over configuration file over defaults.
//!
//! A file is read as [`RawConfig`], which refuses unknown keys, and becomes a [`Config`] in which
//! everything is valid. All faults of a file are reported at once, each with its key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::units::parse_duration;

/// What a configuration file may say. Absent keys have the defaults of [`Config`].
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawConfig {
    store: Option<PathBuf>,
    socket: Option<PathBuf>,
    metrics: Option<String>,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    shutdown: RawShutdown,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawLog {
    filter: Option<String>,
    format: Option<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawShutdown {
    mounts: Option<String>,
    grace: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What becomes of mounts, and of actors that run, when mountd is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtTheEnd {
    /// Actors are paused and mounts unmounted. Programs that use one are waited for, as long as the grace says.
    Drain,
    /// The same, without any grace.
    Unmount,
    /// They stay: a service manager keeps them for the next mountd, and programs wait for that.
    Keep,
}

impl AtTheEnd {
    /// Returns how it is called in a configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AtTheEnd::Drain => "drain",
            AtTheEnd::Unmount => "unmount",
            AtTheEnd::Keep => "keep",
        }
    }
}

/// How mountd ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shutdown {
    /// `shutdown.mounts` (`drain`).
    pub mounts: AtTheEnd,
    /// `shutdown.grace` (`5s`): how long programs that use a mount may delay a shutdown, before the
    /// mount is taken from them.
    pub grace: Duration,
}

/// The valid settings of a mountd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `store`: the directory of the store; `None` is the default of the user.
    pub store: Option<PathBuf>,
    /// `socket`: where to listen; `None` is `mountd.sock` in the store.
    pub socket: Option<PathBuf>,
    /// `metrics`: where to answer `/healthz` and `/metrics` over HTTP; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
    /// `log.filter` (`info`): a level, or directives such as `info,durdir_fs=debug`.
    pub log_filter: String,
    /// `log.format` (`text`).
    pub log_format: LogFormat,
    /// `shutdown`: how it ends.
    pub shutdown: Shutdown,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            store: None,
            socket: None,
            metrics: None,
            log_filter: "info".to_owned(),
            log_format: LogFormat::Text,
            shutdown: Shutdown { mounts: AtTheEnd::Drain, grace: Duration::from_secs(5) },
        }
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what a configuration looks like.
    #[error("configuration {}: {}", path.display(), faults.join("; "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Every fault, with its key.
        faults: Vec<String>,
    },
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text).map_err(|faults| ConfigError::Invalid { path: path.to_owned(), faults })
    }

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text.get(..span.start).map_or(0, |before| before.matches('\n').count() + 1)
            });
            vec![format!("line {line}: {}", error.message())]
        })?;
        let mut faults = Vec::new();
        let mut config = Config::default();
        for (key, path) in [("store", &raw.store), ("socket", &raw.socket)] {
            // A daemon has no useful working directory to start from.
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                faults.push(format!("{key}: must be an absolute path"));
            }
        }
        config.store = raw.store;
        config.socket = raw.socket;
        if let Some(address) = raw.metrics {
            match address.parse() {
                Ok(address) => config.metrics = Some(address),
                Err(_) => faults.push(format!(
                    "metrics: {address:?} is not an address with a port, such as 127.0.0.1:9464"
                )),
            }
        }
        if let Some(filter) = raw.log.filter {
            match check_filter(&filter) {
                Ok(()) => config.log_filter = filter,
                Err(fault) => faults.push(format!("log.filter: {fault}")),
            }
        }
        match raw.log.format.as_deref() {
            None | Some("text") => {}
            Some("json") => config.log_format = LogFormat::Json,
            Some(other) => faults.push(format!("log.format: {other:?} is neither text nor json")),
        }
        match raw.shutdown.mounts.as_deref() {
            None | Some("drain") => {}
            Some("unmount") => config.shutdown.mounts = AtTheEnd::Unmount,
            Some("keep") => config.shutdown.mounts = AtTheEnd::Keep,
            Some(other) => {
                faults.push(format!("shutdown.mounts: {other:?} is none of drain, unmount and keep"));
            }
        }
        if let Some(grace) = raw.shutdown.grace {
            match parse_duration(&grace) {
                Ok(grace) => config.shutdown.grace = grace,
                Err(fault) => faults.push(format!("shutdown.grace: {fault}")),
            }
        }
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// Returns the keys that this file sets to something else than what `running` has, and that only a start takes over.
    pub(crate) fn beyond_reload(&self, running: &Config) -> Vec<&'static str> {
        let differs = [
            (
                "store",
                self.store.as_ref().is_some_and(|store| !is_same_directory(store, running.store.as_deref())),
            ),
            ("socket", self.socket.is_some() && self.socket != running.socket),
            ("metrics", self.metrics.is_some() && self.metrics != running.metrics),
            ("log.format", self.log_format != running.log_format),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// A store is known by its path without symbolic links.
fn is_same_directory(path: &Path, running: Option<&Path>) -> bool {
    running == Some(path) || path.canonicalize().is_ok_and(|path| running == Some(&*path))
}

fn check_filter(filter: &str) -> Result<(), String> {
    tracing_subscriber::EnvFilter::try_new(filter).map(drop).map_err(|error| format!("{filter:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            r#"
            store = "/s"
            socket = "/run/s.sock"
            metrics = "127.0.0.1:9464"
            [log]
            filter = "info,durdir_fs=debug"
            format = "json"
            [shutdown]
            mounts = "keep"
            grace = "500ms"
            "#,
        );
        let expected = Config {
            store: Some(PathBuf::from("/s")),
            socket: Some(PathBuf::from("/run/s.sock")),
            metrics: Some("127.0.0.1:9464".parse().unwrap()),
            log_filter: "info,durdir_fs=debug".to_owned(),
            log_format: LogFormat::Json,
            shutdown: Shutdown { mounts: AtTheEnd::Keep, grace: Duration::from_millis(500) },
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn all_faults_are_reported_with_their_keys() {
        let faults = Config::parse(
            "store = 's'\nmetrics = 'x'\n[log]\nformat = 'xml'\nfilter = 'a=b=c'\n[shutdown]\nmounts = 'leave'\ngrace = '5'\n",
        )
        .unwrap_err();
        let keys: Vec<_> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(
            keys,
            ["store", "metrics", "log.filter", "log.format", "shutdown.mounts", "shutdown.grace"]
        );
    }

    #[test]
    fn what_only_a_start_takes_over_is_told() {
        let parse = |text: &str| Config::parse(text).unwrap();
        let running = parse("store = '/a'\nmetrics = '127.0.0.1:1'");
        let beyond = |text: &str| parse(text).beyond_reload(&running);
        assert_eq!(beyond(""), [""; 0]);
        assert_eq!(beyond("store = '/a'\n[shutdown]\ngrace = '1s'\n[log]\nfilter = 'debug'"), [""; 0]);
        assert_eq!(
            beyond("store = '/b'\nsocket = '/x'\nmetrics = '127.0.0.1:2'\n[log]\nformat = 'json'"),
            ["store", "socket", "metrics", "log.format"]
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let faults = Config::parse("\n[log]\nfliter = 'info'\n").unwrap_err();
        assert!(faults[0].starts_with("line 3: unknown field `fliter`"), "{faults:?}");
    }
}
