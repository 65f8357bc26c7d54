//! The process that serves: opens the store, listens, answers, and puts everything away at the end.
//!
//! # Crash consistency
//! A kill at any point leaves what an unplugged machine would leave less the unsynced: the store recovers at the next open.
//! What was kept with the keeper, mounts and listening sockets, the next worker goes on with. Without a keeper dead mount
//! points are detached when they are next mounted or unmounted, and a stale socket is replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durdir_fs::FsError;
use durdir_fs::failpoint;
use durdir_fs::fuse::{Death, leave_mounts};
use durdir_fs::store::{Store, StoreError, StoreOptions};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::idle::Ending;
use super::log::LogFilter;
use super::start::{self, StartError};
use super::{Node, Tally, heartbeat, idle, listeners, log, reopening};
use crate::actor::{Actors, NodeWorld, Watch};
use crate::api::{self, Connections, InFlight};
use crate::config::{AtTheEnd, Config, Shutdown};
use crate::exit::one_line;
use crate::keeper::{Inheritance, Keeper, Predecessor};
use crate::mounts::{Keep, Mounts};
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
    pub(super) report: Report,
    pub(super) keeper: Keeper,
    /// Whether the keeper keeps what it has when this process ends of itself, and not only when it dies.
    pub(super) outlived: bool,
    pub(super) inheritance: Inheritance,
}

/// How a worker ends.
enum End {
    /// Everything is put away. The start lock of a private mountd goes with the process, after all of that.
    PutAway { _lock: Option<Ending> },
    /// Mounts, and actors that run, are left to the next.
    Left,
}

/// Who waits on standard output for word of how the start went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Report {
    /// Nobody.
    Nobody,
    /// Whoever started mountd: it hears that clients can connect.
    Starter,
    /// The same, but it is the supervisor that tells.
    StarterOfSupervisor,
}

/// Serves until a signal, or until a private mountd is needed no longer.
pub(super) fn run(mut assignment: Assignment) -> Result<(), StartError> {
    let log_filter = log::start(&assignment.config);
    start::raise_file_limit();
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
    failpoint::fail("worker.open")
        .map_err(|source| StartError::System { what: "open the store, as a test has it", source })?;
    let store = open_store(&assignment)?;
    // Before anything else: programs on the mounts are waiting.
    let mounts = Arc::new(take_over_mounts(&store, &mut assignment));
    let actors = load_actors(&store, &mounts)?;
    // Nor is anything left paused that need not be.
    actors.recover();
    let node = Arc::new(Node {
        store,
        mounts,
        actors,
        watch: Watch::default(),
        endpoint: assignment.endpoint.clone(),
        keeper: assignment.keeper.clone(),
        takeovers: assignment.inheritance.takeovers,
        private: assignment.idle.is_some(),
        started: Instant::now(),
        tally: Tally::default(),
        in_flight: InFlight::default(),
    });
    let served = runtime.block_on(serve(&node, &mut assignment, signals, log_filter));
    if let Err(error) = &served
        && assignment.inheritance.predecessor != Predecessor::None
    {
        // Programs are waiting on the mounts. Another worker may have more luck with its clients, and gets everything as this one did. As after
        // a kill: no request had a part in it.
        tracing::error!(error = one_line(error), "cannot serve clients: giving way to another worker");
        nix::sys::signal::kill(Pid::this(), nix::sys::signal::Signal::SIGKILL)
            .map_err(|errno| StartError::System { what: "end this worker", source: errno.into() })?;
    }
    if matches!(served, Ok(End::Left)) {
        leave(&node);
    }
    put_away(&node);
    // Whoever still looks into the store is waited for: a process that ends while RocksDB is in use aborts. Calls that do
    // not end in time end with the process.
    runtime.shutdown_timeout(LAST_CALLS);
    drop(node);
    served.map(drop)
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

/// Goes on with the mounts of the predecessor, if there was one.
fn take_over_mounts(store: &Arc<Store>, assignment: &mut Assignment) -> Mounts {
    let keeper = Some(&assignment.keeper).filter(|keeper| keeper.is_present());
    let mounts = Mounts::kept_with(keeper.map(|keeper| Arc::new(keeper.clone()) as Arc<dyn Keep>));
    let inheritance = &mut assignment.inheritance;
    let gave_way = !inheritance.remove(reopening::MARK).is_empty();
    let kept = std::mem::take(&mut inheritance.descriptors);
    let death = if gave_way { Death::GaveWay } else { death_of(inheritance.predecessor) };
    inheritance.descriptors = mounts.adopt_all(store, kept, death);
    if gave_way {
        tracing::info!("opened a store anew that had stopped after a failed write");
        // Only now: who dies before has told the kernel nothing.
        if let Err(error) = assignment.keeper.release(reopening::MARK) {
            tracing::warn!(%error, "the next worker will believe the same of this one");
        }
    }
    mounts
}

fn load_actors(store: &Arc<Store>, mounts: &Arc<Mounts>) -> Result<Arc<Actors>, StartError> {
    let world = NodeWorld::new(Arc::clone(store), Arc::clone(mounts));
    let loaded = Actors::load(Arc::clone(store), Box::new(world));
    loaded.map(Arc::new).map_err(|source| StartError::Actors { source: Box::new(source) })
}

/// Tells a fault of the predecessor's own from a kill, which says nothing of what it was doing.
fn death_of(predecessor: Predecessor) -> Death {
    use nix::libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    match predecessor {
        Predecessor::Ended {
            signal: Some(SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP),
            ..
        } => Death::Crashed,
        Predecessor::None | Predecessor::Ended { .. } | Predecessor::Unknown => Death::Killed,
    }
}

async fn serve(
    node: &Arc<Node>,
    assignment: &mut Assignment,
    mut signals: Signals,
    log_filter: LogFilter,
) -> Result<End, StartError> {
    let path = &node.endpoint.socket;
    failpoint::fail("worker.listen").map_err(|source| StartError::Listen { socket: path.clone(), source })?;
    let inheritance = &mut assignment.inheritance;
    let listener = listeners::api(&node.keeper, inheritance, path)?;
    let own_socket =
        socket::identify(path).map_err(|source| StartError::Listen { socket: path.clone(), source })?;
    let metrics = match listeners::metrics(&node.keeper, inheritance, assignment.config.metrics) {
        // Those who wait for their files need no metrics.
        Err(error) if inheritance.predecessor != Predecessor::None => {
            tracing::error!(error = one_line(&error), "there are no metrics until the next start");
            None
        }
        listener => listener?,
    };
    let connections = Connections::default();
    let (stop, stopped) = watch::channel(false);
    let api = api::serve(Arc::clone(node), listener, connections.clone(), stopped.clone())
        .map_err(|source| StartError::Listen { socket: path.clone(), source })?;
    let metrics = metrics
        .map(|listener| api::serve_http(Arc::clone(node), listener, stopped.clone()))
        .transpose()
        .map_err(|source| StartError::System { what: "serve metrics", source })?;
    let api = tokio::spawn(api);
    let_go_of_the_rest(node, &mut assignment.inheritance);
    announce(node, assignment)?;
    let reopening = tokio::spawn(reopening::watch(Arc::clone(node), stopped.clone()));
    let heartbeat = tokio::spawn(heartbeat::beat(Arc::clone(node), stopped));

    let idle = idle::watch(Arc::clone(node), connections, assignment.idle);
    tokio::pin!(idle);
    let mut shutdown = assignment.config.shutdown;
    let end = loop {
        tokio::select! {
            ending = &mut idle => break End::PutAway { _lock: ending },
            asked = signals.next() => match asked {
                Asked::Reload => reload(assignment, &log_filter, &mut shutdown),
                Asked::Prepare => drop(tokio::task::spawn_blocking({
                    let node = Arc::clone(node);
                    move || prepare(&node)
                })),
                Asked::End(signal) => {
                    tracing::info!(signal, "asked to end");
                    let keeps = shutdown.mounts == AtTheEnd::Keep && assignment.outlived;
                    break if keeps && may_leave(node) { End::Left } else { End::PutAway { _lock: None } };
                }
            }
        }
    };
    node.mounts.set_grace(match shutdown.mounts {
        AtTheEnd::Unmount => Duration::ZERO,
        AtTheEnd::Drain | AtTheEnd::Keep => shutdown.grace,
    });

    let leaves = matches!(end, End::Left);
    let status = if leaves { "leaving mounts to the next" } else { "unmounting" };
    let told = node.keeper.status(status).and_then(|()| node.keeper.stopping());
    let told = told.and_then(|()| node.keeper.more_time(heartbeat::MORE_TIME));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell that this is the end");
    }
    // Nobody finds the socket any more, unless it is left to the next as well; then calls in flight end, then the rest.
    if !leaves {
        if let Err(error) = socket::remove_own(path, own_socket) {
            tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
        }
        listeners::release_all(&node.keeper);
    }
    stop.send_replace(true);
    if tokio::time::timeout(LAST_CALLS, api).await.is_err() {
        tracing::warn!(limit = ?LAST_CALLS, "calls in flight did not end in time");
    }
    if let Some(metrics) = metrics {
        metrics.abort();
        // Cancelled, as it should be; what matters is that it holds nothing of the store any more.
        drop(metrics.await);
    }
    for looking in [heartbeat, reopening] {
        if tokio::time::timeout(LAST_CALLS, looking).await.is_err() {
            tracing::warn!(limit = ?LAST_CALLS, "the last look into the store did not end in time");
        }
    }
    // Unmounting may take as long as the grace. This ends with the runtime.
    drop(tokio::spawn(heartbeat::beat_to_the_end(node.keeper.clone())));
    Ok(end)
}

/// What a predecessor kept and nobody has taken over by now would be kept for ever.
fn let_go_of_the_rest(node: &Node, inheritance: &mut Inheritance) {
    for (name, descriptor) in std::mem::take(&mut inheritance.descriptors) {
        drop(descriptor);
        match node.keeper.release(&name) {
            Ok(()) => tracing::warn!(name, "let go of an inherited descriptor that nobody wants"),
            Err(error) => tracing::warn!(name, %error, "cannot let go of an inherited descriptor"),
        }
    }
}

/// Tells everybody concerned that clients can connect.
fn announce(node: &Node, assignment: &Assignment) -> Result<(), StartError> {
    match assignment.report {
        Report::Nobody => {}
        Report::Starter => start::report_ready()?,
        Report::StarterOfSupervisor => start::let_go_of_standard_output()?,
    }
    let version = env!("CARGO_PKG_VERSION");
    let (store, socket) = (node.endpoint.store.display(), node.endpoint.socket.display());
    let supervised = node.keeper.is_present();
    match assignment.inheritance.predecessor {
        Predecessor::None => tracing::info!(version, %store, %socket, supervised, "mountd is ready"),
        Predecessor::Ended { .. } | Predecessor::Unknown => {
            let takeovers = node.takeovers;
            tracing::info!(version, %store, %socket, takeovers, "mountd is ready again");
        }
    }
    let told = node.keeper.status("serving").and_then(|()| node.keeper.ready());
    if let Err(error) = told {
        tracing::error!(%error, "cannot tell whoever started this process that it is ready");
    }
    Ok(())
}

/// Unmounts everything, then closes the store. Mounts that stay in use are taken away from their
/// users after the grace.
fn put_away(node: &Node) {
    node.actors.shut_down();
    node.mounts.shut_down();
    match node.store.close() {
        Ok(()) => tracing::info!("store closed"),
        Err(error) => {
            tracing::error!(error = %one_line(&error), "cannot close the store")
        }
    }
}

/// Tells whether the next worker would go on with all that this one serves.
fn may_leave(node: &Node) -> bool {
    if !node.mounts.are_kept() {
        tracing::error!("mounts are not left to the next mountd: nobody keeps one of them");
        return false;
    }
    // What failed may be done all the same, which the kernel must be told by the next.
    let marked = node.store.stopped().map_or(Ok(()), |_| reopening::mark(&node.keeper));
    if let Err(error) = &marked {
        tracing::error!(%error, "mounts of a store that stopped are not left to the next mountd");
    }
    marked.is_ok()
}

/// Ends this process with everything that it serves left to the next, as after a kill, but at a good moment: what clients asked for is done,
/// and there is little of the log to read.
fn leave(node: &Node) -> ! {
    node.actors.come_to_rest();
    if let Err(error) = node.store.write_out() {
        tracing::warn!(error = one_line(&error), "a successor will have all of the log to read");
    }
    tracing::info!("mounts are left to the next mountd");
    leave_mounts()
}

/// Leaves a successor little of the log to read: programs wait while it does.
fn prepare(node: &Node) {
    let begun = Instant::now();
    match node.store.write_out() {
        Ok(bytes) => {
            tracing::info!(
                bytes,
                micros = begun.elapsed().as_micros(),
                "wrote memtables out for a successor"
            );
        }
        Err(error) => {
            tracing::warn!(error = one_line(&error), "a successor will have all of the log to read")
        }
    }
    if let Err(error) = node.keeper.prepared() {
        tracing::warn!(%error, "cannot tell that this worker may be replaced");
    }
}

fn reload(assignment: &Assignment, log_filter: &LogFilter, shutdown: &mut Shutdown) {
    let Some(file) = &assignment.config_file else {
        tracing::info!("asked to reload, but there is no configuration file");
        return;
    };
    let applied = Config::load(file).map_err(|error| one_line(&error)).and_then(|config| {
        let filter = EnvFilter::try_new(&config.log_filter).map_err(|error| error.to_string())?;
        if config.shutdown.mounts == AtTheEnd::Keep && !assignment.outlived {
            return Err(StartError::NobodyKeeps.to_string());
        }
        log_filter.reload(filter).map_err(|error| error.to_string())?;
        *shutdown = config.shutdown;
        Ok(config.beyond_reload(&assignment.config))
    });
    match applied {
        Ok(beyond) if beyond.is_empty() => tracing::info!(file = %file.display(), "configuration reloaded"),
        Ok(beyond) => tracing::warn!(
            file = %file.display(),
            keys = beyond.join(", "),
            "configuration reloaded; these take a new start of mountd, and its command line goes before them"
        ),
        Err(error) => tracing::error!(error, "configuration is left as it was"),
    }
}

/// The signals that a daemon answers.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, StartError> {
        let on = |kind| signal(kind).map_err(|source| StartError::System { what: "handle signals", source });
        Ok(Signals {
            term: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            user: on(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Prepare,
        }
    }
}

/// What a signal asks for.
enum Asked {
    End(&'static str),
    Reload,
    /// To be ready to be replaced.
    Prepare,
}
