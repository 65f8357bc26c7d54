//! Telling whoever watches over this process that it is well, for as long as it is.
//!
//! # Invariants
//! - A sign of life takes the way of an API call: over the runtime, a blocking thread, and a look into the store. What
//!   hangs one of them for good ends the signs, and the process is replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Node;
use crate::exit::one_line;

/// Gives signs of life until the process ends, if anybody wants them.
pub(super) async fn beat(node: Arc<Node>) {
    let Some(interval) = node.keeper.watchdog() else { return };
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = true;
    loop {
        ticks.tick().await;
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
            Ok(Ok(())) => heard = true,
            Ok(Err(error)) if heard => {
                heard = false;
                tracing::error!(%error, "whoever watched over this process is gone: it goes on, but nobody replaces it");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!(%error, "cannot give a sign of life"),
        }
    }
}
