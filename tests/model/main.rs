//! Random sequences of operations against the product and a reference model at the same time.
//!
//! # Overview
//! ```text
//!   op.rs         a sequence, from a seed
//!   plan.rs       calls and expected answers, from the model (world.rs, reference.rs, content.rs, clock.rs)
//!   walk.rs       the comparison of a whole tree
//!   run.rs        carries the calls out in batches and compares (expect.rs)
//!   backend.rs    … in this process, in a worker that gets killed (worker.rs, executor.rs), on ext4 (local_dir.rs)
//!   shrink.rs     makes a failing sequence small
//! ```
//! `DURDIR_MODEL_SEQUENCES` and `DURDIR_MODEL_OPS` say how many sequences of how many operations,
//! `DURDIR_MODEL_SEED` the seed of the first (the next has the next number). `DURDIR_MODEL_PER_STORE` says how many
//! sequences share a store before it must be empty and clean: with 1, what a sequence leaves behind is its own failure. `DURDIR_MODEL_TRIES` is how often the shrinker tries a
//! sequence before it believes that it does not fail. `DURDIR_MODEL_WITHOUT=Diff,Kill` leaves operations out. `DURDIR_MODEL_DIR` is where stores are made; without it,
//! in memory where there is room, as a kill loses nothing there either, and a disk only makes it slow.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod backend;
mod clock;
mod content;
mod differences;
mod executor;
mod expect;
mod host;
mod local_dir;
mod lower;
mod op;
mod plan;
mod prng;
mod reference;
mod regressions;
mod run;
mod shrink;
mod walk;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lower::Layers;
use op::{Op, Repertoire, generate};
use run::{Bench, Beside, Failure, Scenario, Tally};

/// A store serves this many sequences, so that later ones meet what earlier ones left behind.
const SEQUENCES_PER_STORE: u64 = 100;
/// A sequence that takes longer hangs.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// Snapshots, forks, rollbacks, remounts, kills: every answer, every tree and every snapshot is what the model says.
#[test]
fn random_sequences_agree_with_the_model() {
    campaign("model", |seed| {
        let layers = [Layers::Empty, Layers::One, Layers::Two, Layers::Two][(seed / 4 % 4) as usize];
        // A kill costs as much as a hundred other operations.
        let repertoire = if seed % 4 == 0 { Repertoire::Kills } else { Repertoire::Snapshots };
        Plan { layers, repertoire, beside: Beside::Nothing }
    });
}

/// Without what only durdir can do, the model and the product also agree with the machine's own filesystem.
#[test]
fn random_sequences_agree_with_a_local_directory() {
    let place = run::scratch(Beside::LocalDirectory);
    let kind = nix::sys::statfs::statfs(&place).unwrap().filesystem_type();
    assert!(
        kind == nix::sys::statfs::EXT4_SUPER_MAGIC,
        "{} is not on ext4, which the comparison is with; point TMPDIR or DURDIR_MODEL_DIR at a directory that is",
        place.display()
    );
    campaign("local", |seed| Plan {
        layers: [Layers::Empty, Layers::One][(seed % 2) as usize],
        repertoire: Repertoire::Posix,
        beside: Beside::LocalDirectory,
    });
}

#[derive(Clone, Copy)]
struct Plan {
    layers: Layers,
    repertoire: Repertoire,
    beside: Beside,
}

impl Plan {
    fn killable(self) -> bool {
        self.repertoire == Repertoire::Kills
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

fn campaign(name: &str, plan: impl Fn(u64) -> Plan + Sync) {
    let count = from_env("DURDIR_MODEL_SEQUENCES", 300);
    let length = from_env("DURDIR_MODEL_OPS", 200) as usize;
    let now = clock::wall_clock();
    let first = from_env("DURDIR_MODEL_SEED", now.secs as u64 * 1000 + u64::from(now.nanos / 1_000_000));
    println!("{name}: {count} sequences of {length} operations, DURDIR_MODEL_SEED={first}");

    let started = Instant::now();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut benches = Benches::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let seed = first + index;
                    match one(&mut benches, seed, plan(seed), length) {
                        Ok(done) => tally.lock().unwrap().add(done),
                        Err(report) => {
                            if !failed.swap(true, Ordering::Relaxed) {
                                println!("{report}");
                            }
                        }
                    }
                    if (index + 1).is_multiple_of(1000) {
                        println!("{name}: {} sequences in {:.0?}", index + 1, started.elapsed());
                    }
                }
                if !failed.load(Ordering::Relaxed)
                    && let Err(why) = benches.retire()
                {
                    println!("{why}");
                    failed.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    let done = tally.into_inner().unwrap();
    println!(
        "{name}: {} calls, {} kills ({} in the middle of a call: {} had happened, {} were half-written) in {:.1?}",
        done.calls,
        done.kills,
        done.interrupted,
        done.happened,
        done.torn,
        started.elapsed()
    );
    assert!(!failed.load(Ordering::Relaxed), "a sequence failed, see above");
}

/// The stores that one thread works with.
#[derive(Default)]
struct Benches {
    here: Option<Bench>,
    killable: Option<Bench>,
}

impl Benches {
    fn take(&mut self, killable: bool, beside: Beside) -> Bench {
        let place = if killable { &mut self.killable } else { &mut self.here };
        place.take().unwrap_or_else(|| Bench::new(killable, beside))
    }

    fn put(&mut self, bench: Bench, killable: bool) -> Result<(), String> {
        if u64::from(bench.used()) >= from_env("DURDIR_MODEL_PER_STORE", SEQUENCES_PER_STORE) {
            return bench.retire();
        }
        let place = if killable { &mut self.killable } else { &mut self.here };
        *place = Some(bench);
        Ok(())
    }

    fn retire(self) -> Result<(), String> {
        for bench in [self.here, self.killable].into_iter().flatten() {
            bench.retire()?;
        }
        Ok(())
    }
}

/// Runs the sequence of a seed; on failure returns what to print.
fn one(benches: &mut Benches, seed: u64, plan: Plan, length: usize) -> Result<Tally, String> {
    let mut ops = generate(seed, length, plan.repertoire);
    if let Ok(without) = std::env::var("DURDIR_MODEL_WITHOUT") {
        ops.retain(|op| !without.split(',').any(|name| format!("{op:?}").starts_with(name)));
    }
    let scenario = Scenario { layers: plan.layers, lower_seed: seed };
    let attempt = |benches: &mut Benches, ops: &[Op]| {
        let mut bench = benches.take(plan.killable(), plan.beside);
        let tally = guarded(seed, || run::run(scenario, ops, &mut bench, plan.beside))?;
        benches.put(bench, plan.killable()).map_err(|why| Failure { op: ops.len(), why })?;
        Ok(tally)
    };
    let failure: Failure = match attempt(benches, &ops) {
        Ok(tally) => return Ok(tally),
        Err(failure) => failure,
    };
    println!("seed {seed} failed, shrinking: {failure}");
    let mut kept = Benches::default();
    let mut again = |ops: &[Op]| {
        // Where a kill hits is luck, and what the background does meanwhile.
        let tries = if ops.iter().any(|op| matches!(op, Op::Kill { .. })) { 4 } else { 1 };
        let tries = from_env("DURDIR_MODEL_TRIES", tries);
        (0..tries).find_map(|_| attempt(&mut kept, ops).err())
    };
    let (ops, failure) = match again(&ops) {
        Some(failure) => shrink::shrink(&ops, failure, &mut again),
        None => {
            println!(
                "seed {seed} does not fail on a fresh store: it takes what the sequences before it left"
            );
            (ops, failure)
        }
    };
    Err(report(seed, plan, scenario, &ops, &failure))
}

/// Runs something that must not take for ever.
fn guarded<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(HANGS_AFTER) {
            println!("seed {seed} hangs");
            std::process::abort();
        }
    });
    let result = work();
    drop(done);
    watch.join().unwrap();
    result
}

/// Describes a failure so that it can be run again and kept.
fn report(seed: u64, plan: Plan, scenario: Scenario, ops: &[Op], failure: &Failure) -> String {
    let mut text = format!(
        "\nDURDIR_MODEL_SEED={seed} DURDIR_MODEL_SEQUENCES=1 fails at {failure}\n\nAs a test of its own, for tests/model/regressions.rs:\n\n\
         #[test]\nfn regression_() {{\n    let scenario = Scenario {{ layers: Layers::{:?}, lower_seed: {} }};\n    \
         replay(scenario, Beside::{:?}, &[\n",
        scenario.layers, scenario.lower_seed, plan.beside
    );
    for op in ops {
        text.push_str(&format!("        {},\n", op::rust(op)));
    }
    text.push_str("    ]);\n}\n");
    text
}
