//! How long the phases of an operation took.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long the phases of an operation took, in microseconds and in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Phases(Vec<(String, u64)>);

impl Phases {
    /// Adds a phase.
    pub(crate) fn add(&mut self, name: &str, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += micros,
            None => self.0.push((name.to_owned(), micros)),
        }
    }

    /// Returns them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, micros)| (name.as_str(), *micros))
    }
}

/// Measures phases.
pub(super) struct Clock {
    begun: Instant,
    phases: Phases,
    /// What was measured before, by a worker that died.
    before: Duration,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock::going_on(Phases::default())
    }

    /// Goes on with what another worker has measured so far.
    pub(super) fn going_on(phases: Phases) -> Clock {
        let before = Duration::from_micros(phases.iter().map(|(_, micros)| micros).sum());
        Clock { begun: Instant::now(), phases, before }
    }

    /// Does something and adds how long it took.
    pub(super) fn time<T>(&mut self, phase: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.phases.add(phase, begun.elapsed());
        done
    }

    /// Returns the phases so far.
    pub(super) fn phases(&self) -> Phases {
        self.phases.clone()
    }

    /// Returns the phases, and how long everything took.
    pub(super) fn total(&self) -> Phases {
        let mut phases = self.phases.clone();
        phases.add("total", self.before + self.begun.elapsed());
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_one_phase_add_up() {
        let mut phases = Phases::default();
        phases.add("save", Duration::from_micros(3));
        phases.add("cut", Duration::from_micros(1));
        phases.add("save", Duration::from_micros(4));
        assert_eq!(phases.iter().collect::<Vec<_>>(), [("save", 7), ("cut", 1)]);
    }

    #[test]
    fn what_another_worker_has_measured_counts() {
        let mut measured = Phases::default();
        measured.add("save", Duration::from_secs(5));
        let mut clock = Clock::going_on(measured);
        clock.time("publish", || ());
        let total = clock.total().iter().find(|(name, _)| *name == "total").unwrap().1;
        assert!((5_000_000..65_000_000).contains(&total), "{total}");
    }
}
