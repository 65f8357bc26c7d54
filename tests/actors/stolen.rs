//! What other machines take of this one's CPUs, where it is a virtual one: a measurement beside them says less.

use std::fs;

/// Ticks of all CPUs since the machine started (proc_stat(5)).
pub(crate) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    pub(crate) fn now() -> Ticks {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let ticks = stat.lines().next().unwrap().split_whitespace().skip(1);
        // Those of guests are in the first ones.
        let ticks: Vec<u64> = ticks.take(8).map(|ticks| ticks.parse().unwrap()).collect();
        Ticks { all: ticks.iter().sum(), stolen: ticks[7] }
    }

    /// Returns which part was stolen since then, in percent.
    pub(crate) fn stolen_since(&self) -> f64 {
        let now = Ticks::now();
        100.0 * (now.stolen - self.stolen) as f64 / (now.all - self.all).max(1) as f64
    }
}
