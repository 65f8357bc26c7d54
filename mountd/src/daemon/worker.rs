//! The process that serves: opens the store, listens, answers, and puts everything away at the end.
//!
//! # Crash consistency
//! A kill at any point leaves what an unplugged machine would leave less the unsynced: the store
//! recovers at the next open, dead mount points are detached when they are next mounted or
//! unmounted, and a stale socket is replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durdir_fs::FsError;
use durdir_fs::store::{Store, StoreError, StoreOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::idle::Ending;
use super::start::{StartError, report_ready};
use super::{Node, Tally, idle};
use crate::api::{self, Connections, InFlight};
use crate::config::{Config, LogFormat};
use crate::mounts::Mounts;
use crate::paths::Endpoint;
use crate::socket;

/// The store has its own threads, FUSE sessions have theirs; what is left is a few calls a second.
const RUNTIME_THREADS: usize = 2;
/// How long calls in flight may take when the daemon is to end.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// How long a mountd that was killed may take to be gone.
const PREDECESSOR: Duration = Duration::from_secs(3);

/// What a worker is to do.
pub(super) struct Assignment {
    pub(super) config: Config,
    pub(super) config_file: Option<PathBuf>,
    pub(super) endpoint: Endpoint,
    /// Ends when it had neither mount nor client for so long.
    pub(super) idle: Option<Duration>,
    /// Whether somebody waits for its report.
    pub(super) on_its_own: bool,
}

type LogFilter = reload::Handle<EnvFilter, Registry>;

/// Serves until a signal, or until a private mountd is needed no longer.
pub(super) fn run(assignment: Assignment) -> Result<(), StartError> {
    let log_filter = start_log(&assignment.config);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("mountd-api")
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "start the runtime", source })?;
    // Signals from here on are answered in order, also those that come while the store opens.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let store = open_store(&assignment)?;
    let node = Arc::new(Node {
        store,
        mounts: Mounts::default(),
        endpoint: assignment.endpoint.clone(),
        private: assignment.idle.is_some(),
        started: Instant::now(),
        tally: Tally::default(),
        in_flight: InFlight::default(),
        // Nobody hands over yet: a successor begins anew.
        takeovers: 0,
    });
    let served = runtime.block_on(serve(&node, &assignment, signals, log_filter));
    put_away(&node);
    // Calls that did not end in time hold blocking threads; they end with the process.
    runtime.shutdown_background();
    // The start lock of a private mountd goes with the process, after all of the above.
    let _ending: Option<Ending> = served?;
    Ok(())
}

/// Opens the store. A mountd that was killed keeps it until the last of its threads is gone: that
/// is waited for, longer where the store's socket is known to be dead.
fn open_store(assignment: &Assignment) -> Result<Arc<Store>, StartError> {
    let dir = &assignment.endpoint.store;
    let patience = if assignment.idle.is_some() { PREDECESSOR } else { PREDECESSOR / 10 };
    let begun = Instant::now();
    loop {
        match Store::open(dir, &StoreOptions::default()) {
            Err(FsError::Store(StoreError::Locked { .. })) if begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(FsError::Store(StoreError::Locked { dir, pid })) => {
                return Err(StartError::StoreInUse { dir, pid });
            }
            Err(source) => return Err(StartError::OpenStore { dir: dir.clone(), source }),
            Ok(store) => return Ok(store),
        }
    }
}

async fn serve(
    node: &Arc<Node>,
    assignment: &Assignment,
    mut signals: Signals,
    log_filter: LogFilter,
) -> Result<Option<Ending>, StartError> {
    let path = &node.endpoint.socket;
    let listener = socket::listen(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::SocketInUse { socket: path.clone() },
        _ => StartError::Listen { socket: path.clone(), source },
    })?;
    let own_socket =
        socket::identify(path).map_err(|source| StartError::Listen { socket: path.clone(), source })?;
    let connections = Connections::default();
    let (stop, stopped) = watch::channel(false);
    let api = api::serve(Arc::clone(node), listener, connections.clone(), stopped.clone())
        .map_err(|source| StartError::Listen { socket: path.clone(), source })?;
    let metrics = match assignment.config.metrics {
        Some(address) => Some(
            api::serve_http(Arc::clone(node), address, stopped)
                .await
                .map_err(|source| StartError::ListenMetrics { address, source })?,
        ),
        None => None,
    };
    let api = tokio::spawn(api);
    if assignment.on_its_own {
        report_ready()?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %node.endpoint.store.display(),
        socket = %path.display(),
        "mountd is ready"
    );

    let idle = idle::watch(Arc::clone(node), connections, assignment.idle);
    tokio::pin!(idle);
    let mut grace = assignment.config.shutdown_grace;
    let ending = loop {
        tokio::select! {
            ending = &mut idle => break ending,
            asked = signals.next() => match asked {
                Asked::Reload => reload(assignment, &log_filter, &mut grace),
                Asked::End(signal) => {
                    tracing::info!(signal, "asked to end");
                    break None;
                }
            }
        }
    };
    node.mounts.set_grace(grace);

    // Nobody finds the socket any more, then calls in flight end, then the rest.
    if let Err(error) = socket::remove_own(path, own_socket) {
        tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
    }
    stop.send_replace(true);
    if tokio::time::timeout(LAST_CALLS, api).await.is_err() {
        tracing::warn!(limit = ?LAST_CALLS, "calls in flight did not end in time");
    }
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    Ok(ending)
}

/// Unmounts everything, then closes the store. Mounts that stay in use are taken away from their
/// users after the grace.
fn put_away(node: &Node) {
    node.mounts.shut_down();
    match node.store.close() {
        Ok(()) => tracing::info!("store closed"),
        Err(error) => {
            tracing::error!(error = %crate::exit::one_line(&error), "cannot close the store")
        }
    }
}

fn reload(assignment: &Assignment, log_filter: &LogFilter, grace: &mut Duration) {
    let Some(file) = &assignment.config_file else {
        tracing::info!("asked to reload, but there is no configuration file");
        return;
    };
    let applied = Config::load(file).map_err(|error| crate::exit::one_line(&error)).and_then(|config| {
        let filter = EnvFilter::try_new(&config.log_filter).map_err(|error| error.to_string())?;
        log_filter.reload(filter).map_err(|error| error.to_string())?;
        *grace = config.shutdown_grace;
        Ok(())
    });
    match applied {
        Ok(()) => tracing::info!(file = %file.display(), "configuration reloaded"),
        Err(error) => tracing::error!(error, "configuration is left as it was"),
    }
}

fn start_log(config: &Config) -> LogFilter {
    let directives = std::env::var("DURDIR_LOG").unwrap_or_else(|_| config.log_filter.clone());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if let Err(error) = started {
        eprintln!("mountd: log: {error}");
    }
    handle
}

/// A store has a descriptor per table and segment, and lowers have theirs.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// The signals that a daemon answers.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, StartError> {
        let on = |kind| signal(kind).map_err(|source| StartError::System { what: "handle signals", source });
        Ok(Signals {
            term: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// What a signal asks for.
enum Asked {
    End(&'static str),
    Reload,
}
