//! `main` of mountd: from the command line to a running worker, and the one line that a failed
//! start reports.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use durdir_fs::store::StoreError;

use super::arguments::{Arguments, Command};
use super::store_directory::StoreDirectoryError;
use super::{DetachError, READY, log, self_check, start_detached, store_directory, worker};
use crate::api::exit_class_of;
use crate::config::{AtTheEnd, Config, ConfigError};
use crate::exit::{ExitClass, one_line};
use crate::keeper::{Inheritance, Keeper, Predecessor};
use crate::paths::{self, Endpoint};
use crate::{actor, supervisor, usage};

/// A mountd that did not get to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} is for a mountd that is to serve, and none is started by a command; see --help", word.to_string_lossy())]
    Misplaced { word: std::ffi::OsString },
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
    #[error("read what is stored of actors")]
    Actors { source: Box<crate::api::ApiError> },
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
    #[error(
        "shutdown.mounts: keep needs a service manager that keeps descriptors, such as systemd with FileDescriptorStoreMax=, and --no-supervisor"
    )]
    NobodyKeeps,
    #[error("the supervisor that started this worker is gone")]
    SupervisorGone,
    #[error(transparent)]
    Detach(#[from] DetachError),
    #[error(transparent)]
    Control(#[from] supervisor::ControlError),
    #[error(transparent)]
    SelfCheck(#[from] self_check::SelfCheckError),
}

impl StartError {
    fn exit_class(&self) -> ExitClass {
        match self {
            StartError::Misplaced { .. } => ExitClass::Usage,
            StartError::Config(ConfigError::Read { .. }) => ExitClass::NotFound,
            StartError::Config(ConfigError::Invalid { .. }) | StartError::NobodyKeeps => ExitClass::Refused,
            StartError::StoreDirectory(error) => error.exit_class(),
            StartError::OpenStore { source, .. } => exit_class_of(source),
            StartError::StoreInUse { .. } | StartError::SocketInUse { .. } => ExitClass::Conflict,
            StartError::ListenMetrics { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                ExitClass::Conflict
            }
            StartError::Endpoint { .. }
            | StartError::SupervisorGone
            | StartError::Listen { .. }
            | StartError::ListenMetrics { .. }
            | StartError::Actors { .. }
            | StartError::System { .. } => ExitClass::Failed,
            StartError::Detach(error) => error.exit_class(),
            StartError::Control(error) => error.exit_class(),
            StartError::SelfCheck(error) => error.exit_class(),
        }
    }
}

/// Runs mountd with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments: Arguments = match usage::parse("mountd") {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let on_its_own = arguments.is_on_its_own();
    match run(arguments) {
        Ok(exit) => exit,
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

fn run(arguments: Arguments) -> Result<ExitCode, StartError> {
    if let Some(word) = arguments.misplaced() {
        return Err(StartError::Misplaced { word });
    }
    let store = arguments.store.as_deref();
    match &arguments.command {
        Some(Command::Upgrade(asked)) => return Ok(supervisor::ask_to_upgrade(store, asked)?),
        Some(Command::Status(asked)) => return Ok(supervisor::ask_for_status(store, asked)?),
        None => {}
    }
    if arguments.self_check {
        return self_check::run(&arguments);
    }
    if arguments.thaw {
        return thaw(&arguments);
    }
    // Started through a descriptor, and then called after its number.
    nix::sys::prctl::set_name(c"mountd")
        .map_err(|errno| StartError::System { what: "take a name", source: errno.into() })?;
    if let Some(state) = arguments.resume_supervisor {
        return supervisor::resume(arguments, state);
    }
    if arguments.worker.is_some() {
        // Its supervisor receives signals otherwise, and a mask is inherited.
        nix::sys::signal::SigSet::empty()
            .thread_set_mask()
            .map_err(|errno| StartError::System { what: "unblock signals", source: errno.into() })?;
        if let Some(score) = arguments.oom_score_adj {
            supervisor::stand_for_oom(score)
                .map_err(|source| StartError::System { what: "set oom_score_adj", source })?;
        }
    }
    // First of all, before anything is opened and any thread is started.
    let (keeper, inheritance) =
        if arguments.worker.is_some() || !arguments.is_on_its_own() && arguments.no_supervisor {
            Keeper::from_environment()
                .map_err(|source| StartError::System { what: "take over what was kept", source })?
        } else {
            if arguments.is_on_its_own() {
                let_go_of_inherited_files()?;
            }
            (Keeper::none(), Inheritance::none())
        };
    if arguments.worker.is_some_and(|supervisor| supervisor != std::os::unix::process::parent_id()) {
        // What it kept is not addressed to an orphan: serving without it would hang every program on a mount.
        return Err(StartError::SupervisorGone);
    }
    let config = match load_config(&arguments) {
        // Programs wait on the mounts of a dead worker: better to serve with other settings than not at all.
        Err(error) if inheritance.predecessor != Predecessor::None => {
            eprintln!("mountd: {}; going on without", one_line(&error));
            load_config(&Arguments { config: None, ..arguments.clone() })?
        }
        loaded => loaded?,
    };
    let outlived = arguments.no_supervisor && keeper.is_present();
    // A worker under a supervisor that began with other settings goes on, and unmounts at its end.
    if config.shutdown.mounts == AtTheEnd::Keep && !outlived && arguments.worker.is_none() {
        return Err(StartError::NobodyKeeps);
    }
    let endpoint = Endpoint::resolve(config.store.as_deref(), config.socket.as_deref())
        .map_err(|source| StartError::Endpoint { source })?;
    if !arguments.is_on_its_own() && !arguments.foreground {
        return detach(&endpoint).map(|()| ExitCode::SUCCESS);
    }
    // Before the first file is made: nothing of a store is for others.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let store = store_directory::prepare(&endpoint.store)?;
    let endpoint = Endpoint { store, ..endpoint };
    // Told before the working directory changes: a reload, and the next worker, read it again.
    let config_file = arguments.config.as_ref().map(|path| resolve(path));
    if arguments.is_on_its_own() && arguments.worker.is_none() {
        leave_session()?;
    }
    if arguments.worker.is_none() && !arguments.no_supervisor {
        let arguments = Arguments {
            config: config_file,
            store: Some(endpoint.store),
            socket: Some(endpoint.socket),
            metrics: config.metrics,
            ..arguments
        };
        log::start(&config);
        return supervisor::run(arguments);
    }
    worker::run(worker::Assignment {
        config,
        config_file,
        endpoint,
        idle: arguments.private.then_some(arguments.idle),
        report: match (arguments.is_on_its_own(), arguments.worker.is_some()) {
            (false, _) => worker::Report::Nobody,
            (true, false) => worker::Report::Starter,
            (true, true) => worker::Report::StarterOfSupervisor,
        },
        keeper,
        outlived,
        inheritance,
    })
    .map(|()| ExitCode::SUCCESS)
}

/// Lets sandboxes go on that a dead mountd left paused.
fn thaw(arguments: &Arguments) -> Result<ExitCode, StartError> {
    log::start(&load_config(arguments).unwrap_or_else(|_| Config::default()));
    let endpoint = Endpoint::resolve(arguments.store.as_deref(), None)
        .map_err(|source| StartError::Endpoint { source })?;
    let is_there = paths::is_store(&endpoint.store)
        .map_err(|source| StartError::System { what: "look into the store", source })?;
    if !is_there {
        return Ok(ExitCode::SUCCESS);
    }
    let thawed = actor::thaw(&endpoint.store).map_err(|error| match error {
        StoreError::Locked { dir, pid } => StartError::StoreInUse { dir, pid },
        error => StartError::OpenStore { dir: endpoint.store.clone(), source: error.into() },
    })?;
    Ok(if thawed.failed == 0 { ExitCode::SUCCESS } else { ExitClass::Failed.into() })
}

fn resolve(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the settings: the command line goes before the file.
pub(crate) fn load_config(arguments: &Arguments) -> Result<Config, ConfigError> {
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
pub(crate) fn report_ready() -> Result<(), StartError> {
    say(READY);
    let_go_of_standard_output()
}

/// Lets go of the pipe of whoever started this process, who waits until nobody has it any more.
pub(crate) fn let_go_of_standard_output() -> Result<(), StartError> {
    let io = |source| StartError::System { what: "let go of standard output", source };
    let null = std::fs::File::options().write(true).open("/dev/null").map_err(io)?;
    nix::unistd::dup2_stdout(null).map_err(|errno| io(errno.into()))
}

/// A store has a descriptor per table and segment, lowers have theirs, and a supervisor keeps some for every mount.
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
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
