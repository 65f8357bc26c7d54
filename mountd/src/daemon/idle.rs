//! Noticing that mounts went away, and ending a private mountd that nobody needs.
//!
//! # Concurrency
//! The end of a private mountd and the start of the next must not cross. It ends only with the
//! start lock in its hands, looks once more after getting it, and keeps it until its process is
//! gone. A client that holds the lock is about to connect: then it stays.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::Node;
use crate::api::Connections;

/// Short against anything that waits for a mount to be gone.
const TICK: Duration = Duration::from_millis(200);

/// Keeps other processes from starting a mountd on the store. Held until the process ends.
pub(super) struct Ending {
    _lock: Flock<File>,
}

/// Forgets mounts that were unmounted by others. Returns only for a private mountd, after
/// it had neither mount nor client for `limit`.
pub(super) async fn watch(
    node: Arc<Node>,
    connections: Connections,
    limit: Option<Duration>,
) -> Option<Ending> {
    let mut idle_since = Instant::now();
    let tick = limit.map_or(TICK, |limit| limit.clamp(Duration::from_millis(1), TICK));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reaper = Arc::clone(&node);
        // It asks sessions whether they are alive, which must not hold up the runtime.
        let reaped = tokio::task::spawn_blocking(move || {
            reaper.mounts.reap();
            reaper.mounts.watch_requests();
        })
        .await;
        if let Err(error) = reaped {
            tracing::error!(%error, "cannot look after mounts");
        }
        let Some(limit) = limit else { continue };
        if is_needed(&node, &connections) {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= limit
            && let Some(ending) = try_end(&node)
        {
            // Whoever connected before the lock was ours is served; who comes later waits for it.
            if node.mounts.is_empty() && connections.close_if_none() {
                tracing::info!(idle = ?limit, "nothing is mounted and nobody is connected");
                return Some(ending);
            }
        }
    }
}

fn is_needed(node: &Node, connections: &Connections) -> bool {
    connections.any() || !node.mounts.is_empty()
}

fn try_end(node: &Node) -> Option<Ending> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(node.endpoint.start_lock());
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(%error, "cannot open the start lock");
            return None;
        }
    };
    // Refused while a client starts or looks for a mountd: it is about to connect.
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(|lock| Ending { _lock: lock })
}
