//! What is wrong with a node, found out without asking anything that may hang with it.
//!
//! # Overview
//! ```text
//!   /proc/self/mountinfo ─┐                          FORMAT, lock, statvfs of the store
//!   /proc/PID, /sys/fs/fuse ─▶ problems, each with a remedy ◀─ the daemon, if it answers in time
//!                                                    └─ if not: the records, read beside it
//! ```
//!
//! # Invariants
//! - No mount is touched: not by `stat`, not by `statfs`, not by its path. What hangs would hang the doctor.
//! - No daemon is started, nothing is written.
//! - The daemon has [`PATIENCE`] in all. What it does not tell in that time is looked for elsewhere.

mod mounts;
mod problem;
mod processes;
mod store;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use problem::Problem;

use crate::client::{Client, ClientError, Patience};
use crate::paths::Endpoint;
use crate::proto::{
    Actor, GetStatsRequest, GetStatsResponse, ListActorsRequest, ListMountsRequest, ListVolumesRequest,
    MountInfo, Volume, VolumeStats,
};
use processes::Process;

/// How long the daemon may take to answer. It takes milliseconds, or as long as a slow disk, or is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the records may take to be read beside the daemon.
const PEEK: Duration = Duration::from_secs(5);
/// A request that is worked on for longer is worth a look.
const LONG: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) supervisor_pid: Option<u32>,
    pub(crate) worker_pid: Option<u32>,
    pub(crate) takeovers: u64,
    pub(crate) problems: Vec<Problem>,
}

/// What the daemon said.
enum Daemon {
    /// Nobody listens at the socket.
    Absent,
    /// It did not answer in time, or not as it should.
    Silent(String),
    Told(Told),
}

struct Told {
    pid: u32,
    store: PathBuf,
    mounts: Vec<MountInfo>,
    volumes: Vec<Volume>,
    actors: Vec<Actor>,
    stats: GetStatsResponse,
}

/// Looks at the node of a store.
pub(crate) async fn examine(endpoint: &Endpoint) -> Report {
    let daemon = ask(endpoint).await;
    let endpoint = &match &daemon {
        // Only a socket was named: whatever store is behind it is meant.
        Daemon::Told(told) if endpoint.any_store => {
            Endpoint { store: told.store.clone(), ..endpoint.clone() }
        }
        _ => endpoint.clone(),
    };
    let mut problems = Vec::new();
    let supervisor = supervisor::ask(endpoint).unwrap_or_else(|error| {
        problems.push(Problem::supervisor_silent(&crate::exit::one_line(&error)));
        None
    });
    let holder = processes::holder_of_lock(&endpoint.store);
    let worker_pid = match (&daemon, supervisor.and_then(|state| state.worker_pid)) {
        (Daemon::Told(told), _) => Some(told.pid),
        (_, told) => told.or(holder),
    };
    let is_known = store::examine_format(endpoint, &mut problems);
    store::examine_disk(endpoint, &mut problems);
    match &daemon {
        Daemon::Told(told) => {
            examine_requests(&told.stats.volumes, &told.mounts, &mut problems);
            store::examine_records(counter(&told.stats, "quarantined_records"), &mut problems);
            if counter(&told.stats, "store_stopped") > 0 {
                problems.push(Problem::store_stopped(&endpoint.log()));
            }
            examine_flags(&told.volumes, &mut problems);
            let unreadable = told.actors.iter().filter(|actor| actor.state == "unreadable");
            problems.extend(unreadable.map(|actor| Problem::unreadable_actor(&actor.id, &endpoint.log())));
        }
        Daemon::Absent | Daemon::Silent(_) if is_known => {
            store::peek(endpoint.store.clone(), &mut problems).await;
        }
        // What is in it is not for this version to read.
        Daemon::Absent | Daemon::Silent(_) => {}
    }
    if let Some(worker) = worker_pid.and_then(Process::of) {
        examine_worker(&worker, &daemon, endpoint, &mut problems);
    }
    let served: Vec<PathBuf> = match &daemon {
        Daemon::Told(told) => told.mounts.iter().map(|mount| path_of(&mount.mountpoint)).collect(),
        Daemon::Absent | Daemon::Silent(_) => Vec::new(),
    };
    let answers = matches!(daemon, Daemon::Told(_));
    mounts::examine(&endpoint.store, &served, answers, &mut problems);
    Report {
        supervisor_pid: supervisor.map(|state| state.supervisor_pid),
        worker_pid,
        takeovers: match (supervisor, &daemon) {
            (Some(state), _) => state.takeovers,
            // A service manager is its supervisor.
            (None, Daemon::Told(told)) => counter(&told.stats, "takeovers"),
            (None, Daemon::Absent | Daemon::Silent(_)) => 0,
        },
        problems,
    }
}

async fn ask(endpoint: &Endpoint) -> Daemon {
    let asking = async {
        let Some(client) = Client::connect_if_running(endpoint).await? else { return Ok(None) };
        let usual = Patience::Usual;
        let mounts = client
            .call(usual, ListMountsRequest {}, async |to, request| to.mounts().list_mounts(request).await)
            .await?;
        let volumes = client
            .call(usual, ListVolumesRequest {}, async |to, request| to.volumes().list_volumes(request).await)
            .await?;
        let actors = client
            .call(usual, ListActorsRequest {}, async |to, request| to.actors().list_actors(request).await)
            .await?;
        let stats = client
            .call(usual, GetStatsRequest::default(), async |to, request| to.node().get_stats(request).await)
            .await?;
        Ok::<_, ClientError>(Some(Told {
            pid: client.hello().pid,
            store: path_of(&client.hello().store),
            mounts: mounts.mounts,
            volumes: volumes.volumes,
            actors: actors.actors,
            stats,
        }))
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(Some(told))) => Daemon::Told(told),
        Ok(Ok(None)) => Daemon::Absent,
        Ok(Err(error)) => Daemon::Silent(crate::exit::one_line(&error)),
        Err(_) => Daemon::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn counter(stats: &GetStatsResponse, name: &str) -> u64 {
    stats.counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value)
}

fn examine_flags(volumes: &[Volume], problems: &mut Vec<Problem>) {
    for volume in volumes {
        if let Some(flag) = &volume.flag {
            problems.push(Problem::flagged_volume(&volume.name, &flag.what, flag.count));
        }
    }
}

fn examine_requests(stats: &[VolumeStats], mounts: &[MountInfo], problems: &mut Vec<Problem>) {
    for volume in stats {
        let Some(oldest) =
            volume.oldest.as_ref().filter(|oldest| u128::from(oldest.age_us) >= LONG.as_micros())
        else {
            continue;
        };
        let is_it = |mount: &&MountInfo| *mount.snapshot.as_ref().unwrap_or(&mount.volume) == volume.volume;
        let place = mounts.iter().find(is_it).map(|mount| path_of(&mount.mountpoint));
        problems.push(Problem::stuck_request(
            &volume.volume,
            &oldest.operation,
            oldest.age_us,
            place.as_deref(),
        ));
    }
}

fn examine_worker(worker: &Process, daemon: &Daemon, endpoint: &Endpoint, problems: &mut Vec<Problem>) {
    let pid = worker.pid();
    match (worker.is_stopped(), daemon) {
        (true, _) => problems.push(Problem::daemon_stopped(pid)),
        (false, Daemon::Silent(why)) => problems.push(Problem::daemon_silent(pid, why, &endpoint.log())),
        (false, Daemon::Absent) => problems.push(Problem::daemon_unreachable(pid, &endpoint.socket)),
        (false, Daemon::Told(_)) => {}
    }
    if let Some(supervisor) = worker.lost_supervisor() {
        problems.push(Problem::supervisor_gone(pid, supervisor));
    }
    problems.extend(worker.stuck_threads().iter().map(|thread| Problem::stuck_thread(pid, thread)));
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
