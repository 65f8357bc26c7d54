//! How long the phases of operations took.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use durdir_tests::support::MIB;
use serde_json::Value;

/// What the runtime does by itself, and nobody who uses it can do without.
const OF_THE_RUNTIME: [&str; 5] = ["quiesce", "save", "tear_down", "resume", "ready"];

/// How many of each operation are shown one by one.
const SLOWEST: usize = 4;

/// How long each phase of each operation took, in milliseconds, and how large the memory images were.
#[derive(Default)]
pub(crate) struct Times {
    phases: BTreeMap<String, Vec<f64>>,
    /// Of each operation those of which most was ours, most first: how much, the how manieth, and all of its phases.
    slowest: BTreeMap<String, Vec<(f64, usize, Value)>>,
    images: Vec<f64>,
}

/// The name under which is what remains of an operation without what the runtime does.
const OURS: &str = "(ours)";

impl Times {
    /// Adds what the answer to an operation says.
    pub(crate) fn add(&mut self, operation: &str, answer: &Value) {
        let phases = answer["phases_ms"].as_object().unwrap();
        for (phase, took) in phases {
            self.phases.entry(key(operation, phase)).or_default().push(took.as_f64().unwrap());
        }
        let total = phases["total"].as_f64().unwrap();
        let runtimes: f64 = OF_THE_RUNTIME.iter().filter_map(|phase| phases.get(*phase)?.as_f64()).sum();
        let ours = total - runtimes;
        for (share, took) in [("(the runtime's)", runtimes), (OURS, ours)] {
            self.phases.entry(key(operation, share)).or_default().push(took);
        }
        let number = self.phases[&key(operation, OURS)].len();
        let slowest = self.slowest.entry(operation.to_owned()).or_default();
        slowest.push((ours, number, answer["phases_ms"].clone()));
        slowest.sort_by(|one, other| other.0.total_cmp(&one.0));
        slowest.truncate(SLOWEST);
    }

    /// Adds how long the disk alone takes for what an operation brings there.
    pub(crate) fn add_disk(&mut self, operation: &str, took: Duration) {
        self.phases.entry(key(operation, "(the disk alone)")).or_default().push(took.as_secs_f64() * 1e3);
    }

    /// Adds the memory image of a capture.
    pub(crate) fn add_image(&mut self, capture: &Path) {
        let files = fs::read_dir(capture.join("image")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        self.images.push(bytes as f64 / MIB as f64);
    }

    /// Returns what is ours of an operation, for half of them at most.
    pub(crate) fn ours(&self, operation: &str) -> f64 {
        self.phases.get(&key(operation, OURS)).map_or(f64::NAN, |times| percentile(times, 50))
    }

    pub(crate) fn print(&self) {
        println!("{:28} {:>9} {:>9}", "", "p50 ms", "p99 ms");
        for (phase, times) in &self.phases {
            println!("{phase:28} {:9.2} {:9.2}", percentile(times, 50), percentile(times, 99));
        }
        for (operation, slowest) in &self.slowest {
            for (ours, number, phases) in slowest {
                println!(
                    "{operation:12} number {number}, one of the slowest: {ours:.2} ms are ours, {phases}"
                );
            }
        }
        if !self.images.is_empty() {
            let [half, most] = [50, 99].map(|percent| percentile(&self.images, percent));
            println!("{:28} {half:9.2} {most:9.2}", "memory image, MiB");
        }
    }
}

fn key(operation: &str, phase: &str) -> String {
    format!("{operation:12} {phase}")
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)]
}
