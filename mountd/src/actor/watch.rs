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
        if let Some(seen) = seen {
            return started_at(seen.pid) != Some(seen.started);
        }
        let found = actors.pid_of(actor).and_then(|pid| Some(Seen { pid, started: started_at(pid)? }));
        match found {
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

/// Returns when a process that lives was started, in ticks since the boot.
fn started_at(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have anything in it, also parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let is_dead = matches!(state, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !is_dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_is_gone() {
        let own = started_at(std::process::id());
        assert!(own.is_some_and(|ticks| ticks > 0));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(started_at(child.id()), None);
    }
}
