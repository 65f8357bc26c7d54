//! Failpoints: named places at which a test has the process die, panic, wait, or meet an error of the system.
//!
//! # Overview
//! A place calls [`hit`] with its name, or [`fail`] where the system may refuse. It does nothing unless the environment armed
//! it before the process began:
//!
//! ```text
//! DURDIR_FAILPOINTS=api.before-batch:kill,api.after-batch:sleep=50@3      name:action[@hit], …
//! DURDIR_FAILPOINT_DIR=/tmp/x                                             each of them fires once
//! DURDIR_FAILPOINT_SWITCHES=/tmp/y                                        each fires while /tmp/y/NAME is there
//! ```
//!
//! | action | |
//! |---|---|
//! | `kill` | SIGKILL: nothing is cleaned up |
//! | `abort` | SIGABRT, as a failed allocation ends the process |
//! | `segv` | SIGSEGV, as a bug in RocksDB ends it |
//! | `panic` | a panic: the thread unwinds, the process may go on |
//! | `sleep=MS` | waits so many milliseconds |
//! | `errno=N` | the system refuses with this number; only where the place can fail |
//!
//! With `@N` only the N-th time that this process reaches the place counts, else every time.
//!
//! # Invariants
//! - Not armed, a place costs one relaxed load.
//! - With `DURDIR_FAILPOINT_DIR`, a place first makes the file of its name there, and does nothing if it exists: a process that
//!   is started again in the same environment does not die again in the same place.
//! - With `DURDIR_FAILPOINT_SWITCHES`, an end or a panic takes the switch away first: one file, one death, whichever worker
//!   comes to it.
//! - What cannot be understood ends the process: a test that believes to have armed something must not pass.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;

/// What is armed: `name:action[@hit],…`.
pub const POINTS_VARIABLE: &str = "DURDIR_FAILPOINTS";
/// Where a place that fires leaves a mark, so that it fires once.
pub const MARKS_VARIABLE: &str = "DURDIR_FAILPOINT_DIR";
/// Where a place finds the file of its name while it is to fire.
pub const SWITCHES_VARIABLE: &str = "DURDIR_FAILPOINT_SWITCHES";

const UNKNOWN: u8 = 0;
const IDLE: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Reaches the place `name`: does what the environment armed it for, which is nothing by default.
#[inline]
pub fn hit(name: &str) {
    #[cfg(test)]
    meanwhile::run(name);
    if STATE.load(Ordering::Relaxed) != IDLE
        && let Err(error) = hit_armed(name)
    {
        give_up(&format!("{name} cannot fail with {error}"));
    }
}

/// As [`hit`], at a place where the system may refuse.
///
/// # Errors
/// What the environment armed it for, which is nothing by default.
#[inline]
pub fn fail(name: &str) -> io::Result<()> {
    if STATE.load(Ordering::Relaxed) == IDLE { Ok(()) } else { hit_armed(name) }
}

#[cold]
fn hit_armed(name: &str) -> io::Result<()> {
    let plan = PLAN.get_or_init(Plan::of_environment);
    STATE.store(if plan.points.is_empty() { IDLE } else { ARMED }, Ordering::Relaxed);
    plan.hit(name)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Kill,
    Abort,
    Segv,
    Panic,
    Sleep(Duration),
    Refuse(i32),
}

/// One place that is armed.
#[derive(Debug)]
struct Point {
    name: String,
    action: Action,
    /// Which hit counts; `None`: every one.
    at: Option<u64>,
    hits: AtomicU64,
}

#[derive(Default, Debug)]
struct Plan {
    points: Vec<Point>,
    marks: Option<PathBuf>,
    switches: Option<PathBuf>,
}

impl Plan {
    fn of_environment() -> Plan {
        let Some(spec) = std::env::var_os(POINTS_VARIABLE) else {
            return Plan::default();
        };
        match parse(&spec.to_string_lossy()) {
            Ok(points) => {
                let dir = |variable| std::env::var_os(variable).map(PathBuf::from);
                Plan { points, marks: dir(MARKS_VARIABLE), switches: dir(SWITCHES_VARIABLE) }
            }
            Err(error) => give_up(&format!("{POINTS_VARIABLE}: {error}")),
        }
    }

    fn hit(&self, name: &str) -> io::Result<()> {
        for point in self.points.iter().filter(|point| point.name == name) {
            let hit = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
            if point.at.is_none_or(|at| at == hit) && self.is_on(point) && self.mark(name) {
                point.action.run(name)?;
            }
        }
        Ok(())
    }

    /// Tells whether a place is switched on. Of several threads that are about to die there, one is.
    fn is_on(&self, point: &Point) -> bool {
        let Some(dir) = &self.switches else { return true };
        let path = dir.join(&point.name);
        match point.action {
            Action::Sleep(_) | Action::Refuse(_) => path.exists(),
            Action::Kill | Action::Abort | Action::Segv | Action::Panic => {
                std::fs::remove_file(&path).is_ok()
            }
        }
    }

    /// Leaves the mark of a place, and tells whether there was none.
    fn mark(&self, name: &str) -> bool {
        let Some(dir) = &self.marks else { return true };
        let path = dir.join(name);
        match std::fs::File::options().write(true).create_new(true).open(&path) {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => give_up(&format!("{MARKS_VARIABLE}: {}: {error}", path.display())),
        }
    }
}

impl Action {
    fn run(self, name: &str) -> io::Result<()> {
        match self {
            Action::Sleep(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Action::Refuse(errno) => Err(io::Error::from_raw_os_error(errno)),
            Action::Panic => panic!("failpoint {name}"),
            Action::Abort => std::process::abort(),
            Action::Kill => {
                kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
                // The signal is on its way; nothing that follows the place may still happen.
                loop {
                    std::thread::park();
                }
            }
            Action::Segv => loop {
                // The handler that Rust has for stack overflows takes the first one for a fault of somebody else: it puts
                // the default back and returns. The second ends the process.
                raise(Signal::SIGSEGV).expect("a process may signal itself");
            },
        }
    }
}

fn parse(spec: &str) -> Result<Vec<Point>, String> {
    spec.split(',').filter(|part| !part.is_empty()).map(parse_point).collect()
}

fn parse_point(text: &str) -> Result<Point, String> {
    let wrong = |why: &str| format!("{text:?}: {why}");
    let (name, rest) = text.split_once(':').ok_or_else(|| wrong("name:action[@hit] is expected"))?;
    // It becomes the name of a file.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(wrong("a name consists of letters, digits, '.', '-' and '_'"));
    }
    let (action, at) = match rest.split_once('@') {
        None => (rest, None),
        Some((action, at)) => {
            let at = at.parse().ok().filter(|&at| at > 0);
            (action, Some(at.ok_or_else(|| wrong("hits are counted from 1"))?))
        }
    };
    let action = match action.split_once('=') {
        None if action == "kill" => Action::Kill,
        None if action == "abort" => Action::Abort,
        None if action == "segv" => Action::Segv,
        None if action == "panic" => Action::Panic,
        Some(("sleep", millis)) => {
            let millis = millis.parse().map_err(|_| wrong("sleep=MS takes milliseconds"))?;
            Action::Sleep(Duration::from_millis(millis))
        }
        Some(("errno", number)) => {
            let number = number.parse().ok().filter(|&number| number > 0);
            Action::Refuse(number.ok_or_else(|| wrong("errno=N takes the number of an error"))?)
        }
        _ => return Err(wrong("the action is none of kill, abort, segv, panic, sleep=MS and errno=N")),
    };
    Ok(Point { name: name.to_owned(), action, at, hits: AtomicU64::new(0) })
}

fn give_up(why: &str) -> ! {
    eprintln!("failpoint: {why}");
    std::process::exit(2)
}

/// What a unit test has happen while an operation of its own thread is at a place.
#[cfg(test)]
pub(crate) mod meanwhile {
    use std::cell::RefCell;

    type Work = Box<dyn FnOnce()>;

    thread_local! {
        static WORK: RefCell<Vec<(&'static str, Work)>> = RefCell::default();
    }

    /// Has `work` done when this thread reaches the place the next time.
    pub(crate) fn at(name: &'static str, work: impl FnOnce() + 'static) {
        WORK.with_borrow_mut(|all| all.push((name, Box::new(work))));
    }

    pub(super) fn run(name: &str) {
        let due = WORK.with_borrow_mut(|all| {
            let at = all.iter().position(|(place, _)| *place == name)?;
            Some(all.remove(at).1)
        });
        // Outside the borrow: it may reach places itself.
        if let Some(work) = due {
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    fn plan(spec: &str) -> Plan {
        Plan { points: parse(spec).unwrap(), ..Plan::default() }
    }

    fn panics(plan: &Plan, name: &str) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plan.hit(name).unwrap())).is_err()
    }

    #[test]
    fn each_place_has_its_action() {
        let points = parse("a.b-c:kill,,d:sleep=20@3,e:segv,f:abort,g:panic@1").unwrap();
        let seen: Vec<_> = points.iter().map(|point| (point.name.as_str(), point.action, point.at)).collect();
        let sleep = Action::Sleep(Duration::from_millis(20));
        let expected = [
            ("a.b-c", Action::Kill, None),
            ("d", sleep, Some(3)),
            ("e", Action::Segv, None),
            ("f", Action::Abort, None),
            ("g", Action::Panic, Some(1)),
        ];
        assert_eq!(seen, expected);
        for wrong in ["a", "a:", "a:die", ":kill", "a/b:kill", "..:kill", "a:kill@0", "a:kill@x", "a:sleep=x"]
            .into_iter()
            .chain(["a:errno=x", "a:errno=0", "a:kill=1"])
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_hit_that_was_asked_for_counts() {
        let plan = plan("x:panic@3");
        assert!(!panics(&plan, "x") && !panics(&plan, "other") && !panics(&plan, "x"));
        assert!(panics(&plan, "x"));
        assert!(!panics(&plan, "x"));
    }

    #[test]
    fn a_mark_lets_a_place_fire_once() {
        let dir = tempfile::tempdir().unwrap();
        let marked = || Plan { marks: Some(dir.path().to_owned()), ..plan("x:panic,y:panic") };
        assert!(panics(&marked(), "x"));
        // Another process.
        assert!(!panics(&marked(), "x"));
        assert!(panics(&marked(), "y"));
    }

    #[test]
    fn a_place_fires_while_its_switch_is_there_and_a_death_takes_it_away() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan { switches: Some(dir.path().to_owned()), ..plan("x:panic,y:errno=5") };
        let switch = |name: &str| dir.path().join(name);
        assert!(!panics(&plan, "x"));
        plan.hit("y").unwrap();
        std::fs::write(switch("x"), "").unwrap();
        assert!(panics(&plan, "x") && !switch("x").exists() && !panics(&plan, "x"));
        std::fs::write(switch("y"), "").unwrap();
        for _ in 0..2 {
            assert_eq!(plan.hit("y").unwrap_err().raw_os_error(), Some(5));
        }
        std::fs::remove_file(switch("y")).unwrap();
        plan.hit("y").unwrap();
    }

    /// The test is its own child: with the variable set, it only reaches a place.
    #[test]
    fn a_process_dies_as_it_was_told_to() {
        if std::env::var_os(POINTS_VARIABLE).is_some() {
            hit("here");
            std::process::exit(0);
        }
        let run = |spec: &str| {
            let name = "failpoint::tests::a_process_dies_as_it_was_told_to";
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", name, "--nocapture"]).env(POINTS_VARIABLE, spec);
            child.env_remove(MARKS_VARIABLE).env_remove(SWITCHES_VARIABLE).output().unwrap().status
        };
        assert_eq!(run("here:kill").signal(), Some(libc::SIGKILL));
        assert_eq!(run("here:abort").signal(), Some(libc::SIGABRT));
        assert_eq!(run("here:segv").signal(), Some(libc::SIGSEGV));
        assert_eq!(run("here:kill@2").code(), Some(0));
        assert_eq!(run("there:kill").code(), Some(0));
        assert_eq!(run("here:sleep=1").code(), Some(0));
        assert_eq!(run("here:explode").code(), Some(2));
        // The place cannot refuse.
        assert_eq!(run("here:errno=5").code(), Some(2));
    }
}
