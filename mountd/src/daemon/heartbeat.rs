//! Telling whoever watches over this process that it is well, for as long as it is.
//!
//! # Invariants
//! - A sign of life takes the way of an API call: over the runtime, a blocking thread, and a look into the store. What
//!   hangs one of them for good ends the signs, and the process is replaced.
//! - Nobody looks into the store any more when it is closed: a process that ends while RocksDB is in use aborts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::Node;
use crate::exit::one_line;
use crate::keeper::Keeper;

/// What is asked for at a time while the process ends.
pub(super) const MORE_TIME: Duration = Duration::from_secs(60);

/// How long it may take altogether: twice what a save, the longest phase of a capture, may.
const LONGEST_END: Duration = Duration::from_secs(600);

/// Gives signs of life, if anybody wants them, until `stopped` says so.
pub(super) async fn beat(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let Some(mut ticks) = ticks(&node.keeper) else { return };
    let mut listener = Listener::default();
    loop {
        tokio::select! {
            // An error means that the sender is gone, which is an end just as well.
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = ticks.tick() => {}
        }
        let looking = Arc::clone(&node);
        let looked = tokio::task::spawn_blocking(move || {
            // The list is locked by everything that changes volumes, and the size asks RocksDB and the disk.
            let store = looking.store.volumes_at_once().and_then(|_| looking.store.usage());
            if let Err(error) = store {
                // A store that answers with an error is not a hung one; who calls hears of it.
                tracing::warn!(error = one_line(&error), "the store does not answer as it should");
            }
            looking.keeper.alive()
        });
        match looked.await {
            Ok(told) => listener.note(told),
            Err(error) => tracing::error!(%error, "cannot give a sign of life"),
        }
    }
}

/// Gives signs of life while the process ends, and asks for the time that takes: memory of actors may have to be written, and mounts be in
/// use. A service manager that is asked no more ends the process when its own limit is over.
pub(super) async fn beat_to_the_end(keeper: Keeper) {
    let begun = Instant::now();
    let period = keeper.watchdog().map_or(MORE_TIME / 3, |period| period.min(MORE_TIME / 3));
    let mut ticks = interval(period);
    let mut listener = Listener::default();
    loop {
        ticks.tick().await;
        if keeper.watchdog().is_some() {
            listener.note(keeper.alive());
        }
        if begun.elapsed() < LONGEST_END {
            listener.note(keeper.more_time(MORE_TIME));
        }
    }
}

fn ticks(keeper: &Keeper) -> Option<Interval> {
    keeper.watchdog().map(interval)
}

fn interval(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whether somebody listens; that nobody does is told once.
#[derive(Default)]
struct Listener {
    gone: bool,
}

impl Listener {
    fn note(&mut self, told: std::io::Result<()>) {
        match told {
            Ok(()) => self.gone = false,
            Err(error) if !self.gone => {
                self.gone = true;
                tracing::error!(%error, "whoever watched over this process is gone: it goes on, but nobody replaces it");
            }
            Err(_) => {}
        }
    }
}
