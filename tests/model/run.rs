//! Runs one sequence: plans it on the model, carries it out in batches, compares every answer, and after
//! a kill finds out which of the two possible histories happened.
//!
//! # Crash consistency
//! A worker writes each answer before it begins the next call. So after a kill everything answered has
//! happened, nothing after the first unanswered call has, and that one call has happened entirely or not at all.
//! Only bytes rewritten in place may be old here and new there, as after any interrupted `write`.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::{Backend, Worker};
use crate::executor::Executor;
use crate::expect::{Expect, Observer};
use crate::local_dir::LocalDir;
use crate::lower::{self, Layers};
use crate::op::Op;
use crate::wire::{Call, Reply};
use crate::world::{Step, World};

/// What a sequence starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) layers: Layers,
    pub(crate) lower_seed: u64,
}

/// What the same sequence is carried out on at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    LocalDirectory,
}

/// Where and why a sequence went wrong.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The operation; past the last one, the final comparison.
    pub(crate) op: usize,
    pub(crate) why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: {}", self.op, self.why)
    }
}

/// What a sequence did.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) kills: u64,
    /// Kills that left a call without an answer.
    pub(crate) interrupted: u64,
    /// Of those, the ones whose call had happened.
    pub(crate) happened: u64,
    /// Of those, the ones that left a write half done.
    pub(crate) torn: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.calls += other.calls;
        self.kills += other.kills;
        self.interrupted += other.interrupted;
        self.happened += other.happened;
        self.torn += other.torn;
    }
}

/// More calls than this are not held back for one round trip.
const BATCH: usize = 100;

/// One place that the sequence is carried out at, and what its answers have settled.
struct Side<'a> {
    backend: &'a mut Backend,
    observer: Observer,
}

struct Run<'a> {
    world: World,
    sides: Vec<Side<'a>>,
    /// Planned, not yet carried out: the operation and its step.
    pending: Vec<(usize, Step)>,
    /// The world before each operation in `pending`, where a kill may need it.
    before: Vec<(usize, World)>,
    keeps_history: bool,
    tally: Tally,
}

/// Runs a sequence in a volume of its own of the store that `bench` has, and in a local directory beside it
/// if so asked.
pub(crate) fn run(
    scenario: Scenario,
    ops: &[Op],
    bench: &mut Bench,
    beside: Beside,
) -> Result<Tally, Failure> {
    let (prefix, at) = bench.fresh();
    let lowers = lower::make(scenario.layers, scenario.lower_seed, &at);
    let prints: Vec<_> = lowers.iter().map(|path| lower::fingerprint(path)).collect();
    let mut local = match beside {
        Beside::Nothing => None,
        Beside::LocalDirectory => Some(Backend::Directory(local_twin(scenario, &at))),
    };
    let backend = &mut bench.backend;

    let alone = local.is_none();
    let keeps_history =
        matches!(backend, Backend::Worker(_)) && ops.iter().any(|op| matches!(op, Op::Kill { .. }));
    let mut sides = vec![Side { backend, observer: Observer::default() }];
    if let Some(backend) = &mut local {
        sides.push(Side { backend, observer: Observer::of_local_directory() });
    }
    let mut steps = Vec::new();
    let world = World::new(
        &prefix,
        &lowers,
        |clock, next_id| lower::load(&lowers, alone, clock, next_id),
        &mut steps,
    );
    let mut run =
        Run { world, sides, pending: Vec::new(), before: Vec::new(), keeps_history, tally: Tally::default() };
    run.pending.extend(steps.into_iter().map(|step| (0, step)));
    run.flush()?;
    for (index, op) in ops.iter().enumerate() {
        run.op(index, op)?;
    }
    run.finish(ops.len(), alone)?;

    for (path, before) in lowers.iter().zip(&prints) {
        let after = lower::fingerprint(path);
        if after != *before {
            let changed = after.iter().zip(before).find(|(after, before)| after != before);
            return Err(Failure {
                op: ops.len(),
                why: format!("the lower {path:?} has changed: {changed:?}"),
            });
        }
    }
    let tally = run.tally;
    drop(local);
    std::fs::remove_dir_all(&at).unwrap();
    Ok(tally)
}

/// Makes a local directory that looks like the volume of the scenario.
fn local_twin(scenario: Scenario, at: &Path) -> LocalDir {
    let root = at.join("local");
    match scenario.layers {
        Layers::Empty => {
            std::fs::create_dir(&root).unwrap();
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Layers::One => lower::make_one(scenario.lower_seed, &root, false),
        Layers::Two => unreachable!("no local directory has layers"),
    }
    LocalDir::open(&root)
}

impl Run<'_> {
    fn op(&mut self, index: usize, op: &Op) -> Result<(), Failure> {
        if let (Op::Kill { replies, micros }, true) = (op, self.keeps_history) {
            return self.kill(index, usize::from(*replies), Duration::from_micros(u64::from(*micros)));
        }
        if self.keeps_history {
            self.before.push((index, self.world.clone()));
        }
        let mut steps = Vec::new();
        self.world.plan(op, &mut steps);
        self.pending.extend(steps.into_iter().map(|step| (index, step)));
        if self.pending.len() >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Carries out what is planned and compares the answers.
    fn flush(&mut self) -> Result<(), Failure> {
        self.before.clear();
        let pending = std::mem::take(&mut self.pending);
        let calls: Vec<&Call> = pending.iter().map(|(_, step)| &step.call).collect();
        let first = pending.first().map_or(0, |(op, _)| *op);
        for side in &mut self.sides {
            let replies = side.backend.run(&calls).map_err(|why| Failure { op: first, why })?;
            compare(&self.world, side, &pending, &replies)?;
        }
        self.tally.calls += pending.len() as u64;
        Ok(())
    }

    fn finish(&mut self, end: usize, with_snapshots: bool) -> Result<(), Failure> {
        let mut steps = Vec::new();
        if with_snapshots {
            self.world.plan_check_heads(&mut steps);
            self.world.plan_check_snapshots(&mut steps);
        } else {
            self.world.plan_check_files(&mut steps);
        }
        let killed = matches!(self.sides[0].backend, Backend::Worker(_));
        steps.push(Step { call: Call::Check { killed }, expect: Expect::Done, main: false });
        self.world.unmount_all();
        self.world.plan_cleanup(&mut steps);
        self.pending.extend(steps.into_iter().map(|step| (end, step)));
        self.flush()
    }

    fn kill(&mut self, index: usize, replies: usize, delay: Duration) -> Result<(), Failure> {
        let fail = |why| Failure { op: index, why };
        let pending = std::mem::take(&mut self.pending);
        let before = std::mem::take(&mut self.before);
        let calls: Vec<&Call> = pending.iter().map(|(_, step)| &step.call).collect();
        let side = &mut self.sides[0];
        let Backend::Worker(worker) = &mut *side.backend else {
            unreachable!("history is kept for workers only")
        };
        let given = worker.kill_during(&calls, replies, delay).map_err(fail)?;
        compare(&self.world, side, &pending[..given.len()], &given)?;
        self.tally.calls += given.len() as u64;
        self.tally.kills += 1;

        // The worlds that may be there now: before and after the operation that was cut.
        let world_before = |op: usize| {
            let next = before.iter().find(|(index, _)| *index >= op);
            next.map_or_else(|| self.world.clone(), |(_, world)| world.clone())
        };
        let mut candidates = Vec::new();
        match pending.get(given.len()) {
            None => candidates.push(self.world.clone()),
            Some((op, step)) => {
                let answered = pending[..given.len()].iter().any(|(other, step)| other == op && step.main);
                if !answered {
                    candidates.push(world_before(*op));
                }
                if answered || step.main {
                    candidates.push(world_before(op + 1));
                }
                self.tally.interrupted += 1;
            }
        }
        for candidate in &mut candidates {
            candidate.unmount_all();
        }
        let mut reasons = Vec::new();
        for (position, candidate) in candidates.iter().enumerate() {
            match self.matches(candidate) {
                Ok(observer) => {
                    self.tally.happened += u64::from(position == 1);
                    return self.go_on_from(candidate.clone(), &candidates, observer);
                }
                Err(why) => reasons.push(why),
            }
        }
        if let ([first, second], Some((_, step))) = (&candidates[..], pending.get(given.len())) {
            for mixed in self.torn(first, second, &step.call) {
                if let Ok(observer) = self.matches(&mixed) {
                    self.tally.torn += 1;
                    return self.go_on_from(mixed, &candidates, observer);
                }
            }
        }
        let cut = pending.get(given.len()).map(|(op, step)| format!(" in operation {op}, {:?}", step.call));
        Err(fail(format!(
            "after {} of {} answers the worker was killed{}; what is there now is neither side of it: {}",
            given.len(),
            pending.len(),
            cut.unwrap_or_default(),
            reasons.join(" / ")
        )))
    }

    /// Compares the reopened store with a world; returns what the comparison has settled.
    fn matches(&mut self, world: &World) -> Result<Observer, String> {
        let mut steps = Vec::new();
        for volume in &world.volumes {
            let call = Call::AttachHead { view: volume.view, name: volume.name.clone() };
            steps.push(Step { call, expect: Expect::Done, main: false });
        }
        world.plan_check_heads(&mut steps);
        let calls: Vec<&Call> = steps.iter().map(|step| &step.call).collect();
        let side = &mut self.sides[0];
        let replies = side.backend.run(&calls)?;
        let mut observer = side.observer.clone();
        for (step, reply) in steps.iter().zip(&replies) {
            if let Err(why) = observer.check(&world.clock, &step.expect, reply) {
                // The walk broke off with references held: begin the next one afresh.
                side.backend.run(&[&Call::Remount {}])?;
                return Err(format!("{:?}: {why}", step.call));
            }
        }
        Ok(observer)
    }

    fn go_on_from(
        &mut self,
        mut world: World,
        candidates: &[World],
        observer: Observer,
    ) -> Result<(), Failure> {
        for other in candidates {
            world.doubt(other);
        }
        self.world = world;
        self.sides[0].observer = observer;
        Ok(())
    }

    /// Returns the worlds between two that fit the bytes which an interrupted write has left.
    fn torn(&mut self, before: &World, after: &World, call: &Call) -> Vec<World> {
        let mut steps = Vec::new();
        let Some(torn) = before.plan_torn(call, &mut steps) else { return Vec::new() };
        let calls: Vec<&Call> = steps.iter().map(|step| &step.call).collect();
        let backend = &mut self.sides[0].backend;
        let Ok(replies) = backend.run(&calls) else { return Vec::new() };
        match (replies.last(), backend.run(&[&Call::Remount {}])) {
            (Some(Reply::Data { bytes }), Ok(_)) => before.torn_towards(after, &torn, &bytes.0),
            _ => Vec::new(),
        }
    }
}

fn compare(
    world: &World,
    side: &mut Side<'_>,
    steps: &[(usize, Step)],
    replies: &[Reply],
) -> Result<(), Failure> {
    for ((op, step), reply) in steps.iter().zip(replies) {
        side.observer.check(&world.clock, &step.expect, reply).map_err(|why| {
            let place = if side.observer.local_directory { " on the local directory" } else { "" };
            Failure { op: *op, why: format!("{:?}{place}: {why}", step.call) }
        })?;
    }
    Ok(())
}

/// Returns where to make stores, lowers and local directories.
pub(crate) fn scratch(beside: Beside) -> PathBuf {
    const ROOM: u64 = 4 << 30;
    if let Some(dir) = std::env::var_os("DURDIR_MODEL_DIR") {
        return dir.into();
    }
    let memory = PathBuf::from("/dev/shm");
    let room =
        nix::sys::statvfs::statvfs(&memory).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    if beside == Beside::LocalDirectory || room < ROOM { std::env::temp_dir() } else { memory }
}

/// A store in a directory of its own, with a place for lowers beside it.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) backend: Backend,
    used: u32,
}

impl Bench {
    /// Makes an empty store, in this process or in a worker.
    pub(crate) fn new(killable: bool, beside: Beside) -> Bench {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("durdir-model-").tempdir_in(scratch(beside)).unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let backend = if killable {
            Backend::Worker(Worker::start(&store))
        } else {
            Backend::Here(Box::new(Executor::open(&store, false).unwrap()))
        };
        Bench { dir, backend, used: 0 }
    }

    /// Returns a name that no volume had and an empty directory.
    pub(crate) fn fresh(&mut self) -> (String, PathBuf) {
        self.used += 1;
        let path = self.dir.path().join(format!("run{}", self.used));
        std::fs::create_dir(&path).unwrap();
        (format!("v{}", self.used), path)
    }

    /// How many sequences it has served.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Says whether an empty store is really empty: nothing is left of the volumes removed, and fsck is content.
    pub(crate) fn retire(mut self) -> Result<(), String> {
        let killed = matches!(self.backend, Backend::Worker(_));
        for reply in self.backend.run(&[
            &Call::Reclaim {},
            &Call::Check { killed },
            &Call::Reclaim {},
            &Call::Usage {},
        ])? {
            match reply {
                Reply::Done {} => {}
                other => return Err(format!("a store without volumes: {other:?}")),
            }
        }
        Ok(())
    }
}
