//! The end of the daemon: actors that run are paused, since their volumes are about to be unmounted.

use std::sync::Arc;

use durdir_fs::store::Receipt;

use super::driver::Request;
use super::registry::{Actors, Claim};
use super::state::{CaptureKind, OperationKind, Standing};
use crate::exit::one_line;
use crate::template::Scope;

impl Actors {
    /// Pauses every actor that runs, all at the same time. One that cannot be paused ends; its volumes stay as it leaves them.
    pub(crate) fn shut_down(self: &Arc<Self>) {
        // Whoever has a turn now comes to an end, and is stopped then; nobody else gets one.
        self.close();
        std::thread::scope(|scope| {
            for attended in self.to_be_looked_after() {
                scope.spawn(move || self.stop(&attended.actor.id));
            }
        });
    }

    /// Lets clients begin nothing new, and waits for what is in hand. What runs runs on.
    pub(crate) fn come_to_rest(&self) {
        self.close();
        for attended in self.to_be_looked_after().into_iter().filter(|attended| attended.busy) {
            self.await_end(&attended.actor.id);
        }
    }

    fn stop(self: &Arc<Self>, id: &str) {
        let begin = |_: &str| Receipt::none();
        let request = Request { begin: &begin, begun: None, at_the_end: true };
        self.await_end(id);
        let running = self.get(id).is_ok_and(|actor| actor.document.standing == Standing::Running);
        if !running {
            return;
        }
        let pause = |scope| self.make_capture(id, CaptureKind::Pause, scope, &request, Receipt::none());
        let paused = pause(None).or_else(|error| {
            // Its volumes, if it cannot be with its memory.
            tracing::warn!(actor = id, error = one_line(&error), "cannot be paused as its template says");
            pause(Some(Scope::Data))
        });
        match paused {
            Ok(_) => {
                tracing::info!(actor = id, "paused, since mountd ends");
                self.await_end(id);
            }
            Err(error) => {
                tracing::error!(
                    actor = id,
                    error = one_line(&error),
                    "cannot be paused at the end of mountd: it is ended"
                );
                if let Some(turn) = self.try_take_own(id)
                    && let Err(error) = super::driver::Driver::new(self, turn).lose("mountd was stopped")
                {
                    tracing::error!(actor = id, error = one_line(&error), "an actor is left behind");
                }
            }
        }
    }

    /// Waits until what is in hand has ended, or is undone.
    fn await_end(&self, id: &str) {
        drop(self.take(id, OperationKind::Remove, Claim::AtTheEnd));
    }
}
