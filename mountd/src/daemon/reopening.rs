//! Opening a store anew that stopped after a failed write: this worker ends, and the next one opens it.
//!
//! A store that stopped answers every change with an error, because nobody knows what its disk holds. The log does, and whoever
//! opens the store reads it. Mounts outlive the worker, so programs see errors until the cause has gone, and then
//! a pause.
//!
//! # Invariants
//! - Without a keeper that answers nothing is done: the mounts would end with this process.
//! - Nor is anything done while the host still refuses what a store needs.
//!
//! # Crash consistency
//! The end is a kill, which every other moment of a worker has to survive too. An orderly one would unmount.
//!
//! What failed may be in the log all the same: then it is done, and the kernel believes that it was not. Hence the mark that is kept for
//! the next worker, which has the kernel ask again for everything.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Node;
use crate::exit::one_line;
use crate::keeper::Keeper;

/// The name of what is kept for the next worker.
pub(super) const MARK: &str = "reopened";

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A worker serves at least for so long, whatever its store says: what stops one after the other must not become a loop.
const LEAST_AGE: Duration = Duration::from_secs(2);

/// Watches the store until `stopped` says so, and ends this process when the store could go on with the next one.
pub(super) async fn watch(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An error means that the sender is gone, which is an end just as well.
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = ticks.tick() => {}
        }
        if !node.keeper.is_present() || node.started.elapsed() < LEAST_AGE {
            continue;
        }
        let Some(why) = node.store.stopped() else { continue };
        let looking = Arc::clone(&node);
        let looked = tokio::task::spawn_blocking(move || give_way(&looking, &why)).await;
        if let Err(error) = looked {
            tracing::error!(%error, "cannot see whether the store could go on");
        }
    }
}

/// Ends this process if the next one is likely to be better off.
fn give_way(node: &Node, why: &str) {
    if let Err(error) = node.store.try_host() {
        tracing::debug!(error = one_line(&error), "the store stays as it is");
        return;
    }
    if let Err(error) = mark(&node.keeper) {
        tracing::debug!(%error, "nobody would go on with the mounts");
        return;
    }
    tracing::warn!(why, "the store stopped and could go on: this worker ends, the next one opens it anew");
    if let Err(error) = kill(Pid::this(), Signal::SIGKILL) {
        tracing::error!(%error, "cannot end");
    }
}

/// Has the next worker know that the store stopped before it.
pub(super) fn mark(keeper: &Keeper) -> io::Result<()> {
    let anything = File::open("/dev/null")?;
    match keeper.keep(MARK, &[anything.as_fd()]) {
        // One that was to end before and is still here.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        kept => kept,
    }
}
