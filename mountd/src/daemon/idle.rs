//! Noticing that mounts went away, and ending a private mountd that nobody needs.
//!
//! # Concurrency
//! The end of a private mountd and the start of the next must not cross. It ends only with the
//! start lock in its hands, looks once more after getting it, and keeps it until its process is
//! gone. A client that holds the lock is about to connect: then it stays.
//!
//! One whose store was removed ends at once, mounts or not: no client finds it any more, and nothing it still serves can be kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::Node;
use crate::api::Connections;

/// Short against anything that waits for a mount to be gone.
const TICK: Duration = Duration::from_millis(200);

/// Keeps other processes from starting a mountd on the store. Held until the process ends.
pub(super) struct Ending {
    /// `None` if there is no store any more that somebody could start one on.
    _lock: Option<Flock<File>>,
}

/// Forgets mounts that were unmounted by others. Returns only for a private mountd, after
/// it had neither mount nor actor nor client for `limit`, or after its store was removed.
pub(super) async fn watch(
    node: Arc<Node>,
    connections: Connections,
    limit: Option<Duration>,
) -> Option<Ending> {
    let mut idle_since = Instant::now();
    let tick = limit.map_or(TICK, |limit| limit.clamp(Duration::from_millis(1), TICK));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mark = limit.is_some().then(|| StoreMark::of(node.store.dir())).flatten();
    loop {
        ticks.tick().await;
        let (reaper, looked_for) = (Arc::clone(&node), mark.clone());
        // It asks sessions whether they are alive, which must not hold up the runtime.
        let looked = tokio::task::spawn_blocking(move || {
            reaper.mounts.reap();
            reaper.mounts.watch_requests();
            reaper.watch.tick(&reaper.actors);
            looked_for.is_some_and(|mark| mark.is_gone())
        });
        match looked.await {
            Ok(false) => {}
            Ok(true) => {
                tracing::error!(store = %node.store.dir().display(), "the store was removed: ending, with what is mounted");
                return Some(Ending { _lock: None });
            }
            Err(error) => tracing::error!(%error, "cannot look after mounts"),
        }
        let Some(limit) = limit else { continue };
        if is_needed(&node, &connections) {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= limit
            && let Some(ending) = try_end(&node)
        {
            // Whoever connected before the lock was ours is served; who comes later waits for it.
            if node.mounts.is_empty() && !node.actors.any_at_work() && connections.close_if_none() {
                tracing::info!(idle = ?limit, "nothing is mounted and nobody is connected");
                return Some(ending);
            }
        }
    }
}

fn is_needed(node: &Node, connections: &Connections) -> bool {
    connections.any() || !node.mounts.is_empty() || node.actors.any_at_work()
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
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(|lock| Ending { _lock: Some(lock) })
}

/// The file that makes a store this process's own.
#[derive(Clone)]
struct StoreMark {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl StoreMark {
    /// `None`, and a word in the log, if it cannot be looked at.
    fn of(store: &Path) -> Option<StoreMark> {
        let path = durdir_fs::store::lock_file(store);
        match std::fs::metadata(&path) {
            Ok(found) => Some(StoreMark { path, device: found.dev(), inode: found.ino() }),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a removal of the store will not be noticed");
                None
            }
        }
    }

    /// Tells whether it was removed or replaced. Whatever else keeps it from being seen may pass.
    fn is_gone(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != (self.device, self.inode),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}
