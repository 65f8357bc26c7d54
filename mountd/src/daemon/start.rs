//! `main` of mountd: from the command line to a running worker, and the one line that a failed
//! start reports.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::arguments::Arguments;
use super::store_directory::StoreDirectoryError;
use super::{DetachError, READY, start_detached, store_directory, worker};
use crate::api::exit_class_of;
use crate::config::{Config, ConfigError};
use crate::exit::{ExitClass, one_line};
use crate::paths::Endpoint;
use crate::usage;

/// A mountd that did not get to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("find the store")]
    Endpoint { source: std::io::Error },
    #[error(transparent)]
    StoreDirectory(#[from] StoreDirectoryError),
    #[error(
        "store {} is in use by process {pid}; end that, or reach it through its --socket",
        dir.display()
    )]
    StoreInUse { dir: PathBuf, pid: i32 },
    #[error("open store {}", dir.display())]
    OpenStore { dir: PathBuf, source: durdir_fs::FsError },
    #[error(
        "another process listens at {}; stop it, or pass another --socket", socket.display()
    )]
    SocketInUse { socket: PathBuf },
    #[error("listen at {}", socket.display())]
    Listen { socket: PathBuf, source: std::io::Error },
    #[error("listen at {address} for metrics")]
    ListenMetrics { address: std::net::SocketAddr, source: std::io::Error },
    #[error("{what}")]
    System { what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Detach(#[from] DetachError),
}

impl StartError {
    fn exit_class(&self) -> ExitClass {
        match self {
            StartError::Config(ConfigError::Read { .. }) => ExitClass::NotFound,
            StartError::Config(ConfigError::Invalid { .. }) => ExitClass::Refused,
            StartError::StoreDirectory(error) => error.exit_class(),
            StartError::OpenStore { source, .. } => exit_class_of(source),
            StartError::StoreInUse { .. } | StartError::SocketInUse { .. } => ExitClass::Conflict,
            StartError::ListenMetrics { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                ExitClass::Conflict
            }
            StartError::Endpoint { .. }
            | StartError::Listen { .. }
            | StartError::ListenMetrics { .. }
            | StartError::System { .. } => ExitClass::Failed,
            StartError::Detach(error) => error.exit_class(),
        }
    }
}

/// Runs mountd with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments: Arguments = match usage::parse("mountd") {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let on_its_own = arguments.private || arguments.detached;
    match run(&arguments, on_its_own) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = one_line(&error);
            eprintln!("mountd: {line}");
            if on_its_own {
                say(&line);
            }
            error.exit_class().into()
        }
    }
}

fn run(arguments: &Arguments, on_its_own: bool) -> Result<(), StartError> {
    if on_its_own {
        // First of all: nothing of ours is open yet.
        let_go_of_inherited_files()?;
    }
    let config = load_config(arguments)?;
    let endpoint = Endpoint::resolve(config.store.as_deref(), config.socket.as_deref())
        .map_err(|source| StartError::Endpoint { source })?;
    if !on_its_own && !arguments.foreground {
        return detach(&endpoint);
    }
    // Before the first file is made: nothing of a store is for others.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let store = store_directory::prepare(&endpoint.store)?;
    let endpoint = Endpoint { store, ..endpoint };
    // Told before the working directory changes: a reload reads it again.
    let config_file = arguments.config.as_ref().map(|path| resolve(path));
    if on_its_own {
        leave_session()?;
    }
    worker::run(worker::Assignment {
        config,
        config_file,
        endpoint,
        idle: arguments.private.then_some(arguments.idle),
        on_its_own,
    })
}

fn resolve(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the settings: the command line goes before the file.
pub(super) fn load_config(arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    config.store = arguments.store.clone().or(config.store);
    config.socket = arguments.socket.clone().or(config.socket);
    config.metrics = arguments.metrics.or(config.metrics);
    Ok(config)
}

/// Runs this program again with the same arguments, on its own.
fn detach(endpoint: &Endpoint) -> Result<(), StartError> {
    let io = |what| move |source| StartError::System { what, source };
    // The log lies in the store, so this must be found out here already.
    store_directory::prepare(&endpoint.store)?;
    let program = std::env::current_exe().map_err(io("find the program that is running"))?;
    let arguments = std::env::args_os().skip(1).chain([std::ffi::OsString::from("--detached")]);
    Ok(start_detached(&program, arguments, &endpoint.log())?)
}

/// Closes what the starter left open by accident, such as the descriptor of a lock that a script
/// holds: a daemon would hold it for good.
fn let_go_of_inherited_files() -> Result<(), StartError> {
    let io = |source| StartError::System { what: "list open files", source };
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        open.extend(name.to_str().and_then(|name| name.parse::<std::os::fd::RawFd>().ok()));
    }
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // Fails for the directory that was just listed, which is closed already.
        nix::unistd::close(descriptor).ok();
    }
    Ok(())
}

/// Leaves the terminal and the working directory of whoever started this process.
fn leave_session() -> Result<(), StartError> {
    let io = |what| move |errno: nix::Error| StartError::System { what, source: errno.into() };
    // Started by `Command`, so never a group leader already, for which this is refused.
    nix::unistd::setsid().map_err(io("start a session"))?;
    nix::unistd::chdir("/").map_err(io("change to /"))?;
    Ok(())
}

/// Tells whoever started this process that clients can connect, and lets go of its pipe.
pub(super) fn report_ready() -> Result<(), StartError> {
    say(READY);
    let io = |source| StartError::System { what: "let go of standard output", source };
    let null = std::fs::File::options().write(true).open("/dev/null").map_err(io)?;
    nix::unistd::dup2_stdout(null).map_err(|errno| io(errno.into()))
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    // Whoever started us may be gone: then nobody waits for this line.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_command_line_goes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mountd.toml");
        std::fs::write(&file, "store = '/a'\nsocket = '/b'\n").unwrap();
        let file = file.to_str().unwrap();
        let arguments = Arguments::try_parse_from(["mountd", "--config", file, "--store", "/c"]).unwrap();
        let config = load_config(&arguments).unwrap();
        assert_eq!(config.store.as_deref(), Some(Path::new("/c")));
        assert_eq!(config.socket.as_deref(), Some(Path::new("/b")));
    }

    #[test]
    fn a_missing_configuration_is_not_found_and_a_wrong_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mountd.toml");
        let load = || {
            let arguments =
                Arguments::try_parse_from(["mountd", "--config", file.to_str().unwrap()]).unwrap();
            load_config(&arguments).map_err(|error| StartError::from(error).exit_class())
        };
        assert_eq!(load(), Err(ExitClass::NotFound));
        std::fs::write(&file, "stoer = '/a'\n").unwrap();
        assert_eq!(load(), Err(ExitClass::Refused));
    }
}
