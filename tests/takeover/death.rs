//! The ways in which a worker ends while programs work, for the storm.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);
/// A request that began so long after a worker was ready is none that the worker before it had.
const NEW: Duration = Duration::from_millis(100);
/// Less than a worker has at any time: the next page it asks for is one too many.
const NO_MEMORY: u64 = 64 * KIB;

/// A way to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// SIGKILL from outside.
    Kill,
    /// SIGSEGV, as from a fault in RocksDB.
    Segv,
    /// SIGABRT, as from an allocation that failed.
    Abort,
    /// A panic in the middle of an operation.
    Panic,
    /// SIGSEGV between the execution of an operation and its answer.
    SegvBeforeAnswer,
    /// The kernel kills it for lack of memory.
    OutOfMemory,
    /// Another version takes over, there or back; both processes become it.
    Upgrade,
    /// The supervisor becomes the program that it is, and the worker is replaced.
    Reexec,
}

impl Death {
    /// All of them, the plain kill as often as all others together.
    pub(crate) const MIX: [Death; 14] = [
        Death::Kill,
        Death::Kill,
        Death::Kill,
        Death::Kill,
        Death::Kill,
        Death::Kill,
        Death::Kill,
        Death::Segv,
        Death::Abort,
        Death::Panic,
        Death::SegvBeforeAnswer,
        Death::OutOfMemory,
        Death::Upgrade,
        Death::Reexec,
    ];

    /// Returns the one that the environment asks for, to look for what it alone does.
    pub(crate) fn only() -> Option<Death> {
        let name = std::env::var("DURDIR_DEATH").ok()?;
        let found = Death::MIX.into_iter().find(|death| format!("{death:?}") == name);
        Some(found.unwrap_or_else(|| panic!("DURDIR_DEATH={name} is no death")))
    }

    /// Whether it is the worker's own fault: a request that is executed in two such deaths is condemned, as it should be.
    fn is_crash(self) -> bool {
        matches!(self, Death::Segv | Death::Abort | Death::Panic | Death::SegvBeforeAnswer)
    }
}

/// Brings workers of a store to their end.
pub(crate) struct Executioner<'a> {
    store: &'a Store,
    switches: PathBuf,
    /// The program that runs now, and the other one.
    programs: [PathBuf; 2],
    /// The last worker that died by a fault of its own.
    crashed: i32,
}

/// Operations in which a worker may panic, and after which it may die.
const PLACES: [&str; 5] = ["write", "mkdir", "rename", "unlink", "fsync"];

impl<'a> Executioner<'a> {
    /// Starts a mountd on the store whose workers can be brought to any end.
    pub(crate) fn of(store: &'a Store) -> Executioner<'a> {
        let switches = store.side_dir();
        let points: Vec<String> = PLACES
            .iter()
            .flat_map(|name| [format!("fuse.{name}.before:panic"), format!("fuse.{name}.after:segv")])
            .collect();
        let mut mountd = store.mountd::<&str>([]);
        mountd.env("DURDIR_FAILPOINTS", points.join(",")).env("DURDIR_FAILPOINT_SWITCHES", &switches);
        run(&mut mountd, LIMIT).ok();
        let copy = store.side_dir().join("mountd");
        copy_program(binary("mountd"), &copy);
        for alarm in ["the worker died", "panicked"] {
            store.expect_alarm(alarm);
        }
        Executioner { store, switches, programs: [binary("mountd"), copy], crashed: 0 }
    }

    /// Ends the worker that runs, and returns when that was. `chance` chooses among the places of one kind.
    pub(crate) fn end_worker(&mut self, death: Death, chance: u64) -> Instant {
        let place = PLACES[usize::try_from(chance).unwrap() % PLACES.len()];
        let begun = Instant::now();
        match death {
            Death::Kill => drop(self.store.kill_worker(Signal::SIGKILL)),
            Death::Segv => self.crashed = self.store.kill_worker(Signal::SIGSEGV),
            Death::Abort => self.crashed = self.store.kill_worker(Signal::SIGABRT),
            Death::Panic => return self.switch_on(&format!("fuse.{place}.before")),
            Death::SegvBeforeAnswer => return self.switch_on(&format!("fuse.{place}.after")),
            Death::OutOfMemory => {
                let worker = self.store.worker_pid();
                let limit = MemoryLimit::new(NO_MEMORY);
                limit.take_in(worker);
                assert!(wait_for_exit(worker, LIMIT), "the kernel did not kill the worker {worker}");
                eventually("the group is empty", LIMIT, || (limit.kills() > 0).then_some(()));
            }
            Death::Upgrade => {
                self.programs.swap(0, 1);
                return self.upgrade();
            }
            Death::Reexec => return self.upgrade(),
        }
        begun
    }

    /// Waits for the worker that is about to die at a place, and returns when it did.
    fn switch_on(&mut self, place: &str) -> Instant {
        let (switch, worker) = (self.switches.join(place), self.store.worker_pid());
        self.crashed = worker;
        fs::write(&switch, "").unwrap();
        eventually(&format!("{place} is reached"), LIMIT, || (!switch.exists()).then_some(()));
        let died = Instant::now();
        assert!(wait_for_exit(worker, LIMIT), "the worker {worker} survived {place}");
        died
    }

    /// Has the program take over that is the first now. Returns when the worker before it was gone.
    fn upgrade(&self) -> Instant {
        // One that just begins cannot be replaced yet.
        let is_ready = || self.store.status()["ready"].as_bool().filter(|ready| *ready);
        eventually("a worker is ready", LIMIT, is_ready);
        let worker = self.store.worker_pid();
        let args = ["upgrade".as_ref(), self.programs[0].as_os_str()];
        let mut upgrading = self.store.mountd(args);
        std::thread::scope(|scope| {
            let upgrading = scope.spawn(|| run(&mut upgrading, LIMIT).ok());
            assert!(wait_for_exit(worker, LIMIT), "the worker {worker} was not replaced");
            let died = Instant::now();
            upgrading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            died
        })
    }

    /// After a crash, waits until what was executed then is answered: in the next one it would be condemned.
    pub(crate) fn settle(&self, death: Death) {
        if !death.is_crash() {
            return;
        }
        eventually("the next worker is ready", LIMIT, || {
            let status = self.store.status();
            (status["ready"] == true && status["worker_pid"] != self.crashed).then_some(())
        });
        let ready = Instant::now();
        // What the kernel sent again waits its turn, and is not seen while it does: so one look is not enough.
        let mut looks = 0;
        eventually("what was executed is answered", LIMIT, || {
            let since = ready.elapsed();
            let stats = self.store.json(["stats"]);
            let oldest = stats["oldest_requests"].as_object().unwrap().values();
            let oldest = oldest.map(|one| Duration::from_micros(one["age_us"].as_u64().unwrap())).max();
            looks = if oldest.unwrap_or_default() + NEW < since { looks + 1 } else { 0 };
            (looks == 4).then_some(())
        });
    }
}
