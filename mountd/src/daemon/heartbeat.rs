//! Telling whoever watches over this process that it is well, for as long as it is.
//!
//! # Invariants
//! - A sign of life takes the way of an API call: over the runtime, a blocking thread, and a look into the store. What
//!   hangs one of them for good ends the signs, and the process is replaced.
//! - Nobody looks into the store any more when it is closed: a process that ends while RocksDB is in use aborts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::Node;
use crate::exit::one_line;
use crate::keeper::Keeper;

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
            let store = looking.store.volumes().and_then(|_| looking.store.usage());
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

/// Gives signs of life while the process ends, which may take as long as mounts are in use.
pub(super) async fn beat_to_the_end(keeper: Keeper) {
    let Some(mut ticks) = ticks(&keeper) else { return };
    let mut listener = Listener::default();
    loop {
        ticks.tick().await;
        listener.note(keeper.alive());
    }
}

fn ticks(keeper: &Keeper) -> Option<Interval> {
    let mut ticks = tokio::time::interval(keeper.watchdog()?.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
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
