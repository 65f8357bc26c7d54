//! Noticing that a sandbox has ended by itself, and trying again what could not be undone.
//!
//! Asking a runtime costs a process; so what is looked at is the one process that stands for the sandbox, and the runtime is asked when
//! that is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::record::Actor;
use super::registry::{Actors, Attended, Settled};
use super::state::Standing;
use crate::runtime::started_at;

/// Between two attempts to bring an actor where it belongs, with nobody at work on it.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of actors from looks before.
#[derive(Default)]
pub(crate) struct Watch {
    /// The process that stood for each sandbox when it was looked at first.
    processes: Mutex<HashMap<String, Seen>>,
    /// When something that is to be done was seen first, or tried again.
    left: Mutex<HashMap<String, Instant>>,
}

/// A process, told from a later one with the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    pid: u32,
    started: u64,
}

impl Watch {
    /// Looks after every actor. What has to be done about one is done in the background: it may take long, and the others are not to wait.
    pub(crate) fn tick(&self, actors: &Arc<Actors>) {
        let mut seen = HashSet::new();
        actors.look(|Attended { actor, settled, busy }| {
            seen.insert(actor.id.clone());
            let runs = actor.document.operation.is_none() && actor.document.standing == Standing::Running;
            if *busy {
                // Whoever works on it looks after it. What is left after that is left from then on.
                self.left.lock().insert(actor.id.clone(), Instant::now());
                return false;
            }
            if !runs || *settled == Settled::No {
                return self.is_left(actor);
            }
            self.left.lock().remove(&actor.id);
            self.looks_dead(actors, actor)
        });
        self.left.lock().retain(|id, _| seen.contains(id));
    }

    /// Tells whether something has been left to be done for so long that it is worth another attempt.
    fn is_left(&self, actor: &Actor) -> bool {
        let mut left = self.left.lock();
        let since = left.entry(actor.id.clone()).or_insert_with(Instant::now);
        let is_due = since.elapsed() >= AGAIN;
        if is_due {
            *since = Instant::now();
        }
        is_due
    }

    fn looks_dead(&self, actors: &Actors, actor: &Actor) -> bool {
        // Another sandbox than the last time: a start, a resume.
        let key =
            actor.document.sandbox.clone() + actor.document.done.as_ref().map_or("", |done| done.id.as_str());
        let seen = self.processes.lock().get(&key).copied();
        let started_at = |pid| {
            // What cannot be told now is asked again the next time.
            let started = started_at(pid);
            started
                .inspect_err(|error| tracing::warn!(actor = actor.id, %error, "cannot look after an actor"))
        };
        if let Some(seen) = seen {
            return started_at(seen.pid).is_ok_and(|started| started != Some(seen.started));
        }
        let found = actors.pid_of(actor).map(|pid| Ok((pid, started_at(pid)?)));
        let Ok(found): std::io::Result<_> = found.transpose() else { return false };
        match found.and_then(|(pid, started)| Some(Seen { pid, started: started? })) {
            Some(found) => {
                let mut all = self.processes.lock();
                all.retain(|known, _| !known.starts_with(&actor.document.sandbox));
                all.insert(key, found);
                false
            }
            None => true,
        }
    }
}
