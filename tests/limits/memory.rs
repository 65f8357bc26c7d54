//! The kernel kills the worker for lack of memory.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;

const LIMIT: u64 = 256 * MIB;

/// Nearly all memory of a group, as what a process of it has put into files in memory: nobody can be killed for it.
struct Hog(PathBuf);

impl Hog {
    /// Fills a group that nobody else is in: who fills it could be short of memory itself, and then the kernel chooses
    /// among all that are there.
    fn in_group(limit: &MemoryLimit, bytes: u64) -> Hog {
        assert_eq!(fs::read_to_string(limit.members()).unwrap(), "");
        const FILL: &str = "echo 0 > \"$1\" && exec head -c \"$3\" /dev/zero > \"$2\"";
        let hog = Hog(PathBuf::from(format!("/dev/shm/durdir-hog-{}", std::process::id())));
        let mut command = Command::new("sh");
        command.args(["-c", FILL, "sh"]).arg(limit.members()).arg(&hog.0).arg(bytes.to_string());
        run(&mut command, Duration::from_secs(60)).ok();
        hog
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn oom_score_adj(pid: i32) -> i32 {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// Whether this process, and whatever it starts, may take itself out of the kernel's choice: CAP_SYS_RESOURCE.
fn may_spare_itself() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

#[test]
fn for_lack_of_memory_the_worker_goes_before_the_supervisor() {
    let store = Store::new();
    store.start_daemon([""; 0]);
    let own = oom_score_adj(i32::try_from(std::process::id()).unwrap());
    let expected = if may_spare_itself() { (-1000, own) } else { (own, (own + 200).min(1000)) };
    let scores = || (oom_score_adj(store.supervisor_pid()), oom_score_adj(store.worker_pid()));
    assert_eq!(scores(), expected);
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "ls"]);
    assert_eq!(scores(), expected);
    // Clients are served a moment before the supervisor is told.
    eventually("the next worker is ready", Duration::from_secs(60), || {
        (store.status()["ready"] == true).then_some(())
    });
    run(&mut store.mountd(["upgrade".as_ref(), binary("mountd").as_os_str()]), Duration::from_secs(120)).ok();
    assert_eq!(scores(), expected);
}

#[test]
fn workers_that_are_killed_for_lack_of_memory_are_replaced_and_nobody_sees_an_error() {
    let store = Store::new();
    store.expect_alarm("the worker died");
    let mount = store.mount("v");
    mount.write("kept", noise(1, 0, 1 << 20));
    let limit = MemoryLimit::new(LIMIT);
    // Room for the supervisor, but for no worker.
    let hog = Hog::in_group(&limit, LIMIT - 6 * MIB);
    let stop = AtomicBool::new(false);
    let (done, workers, held) = std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut log = fs::File::create(mount.path("log")).unwrap();
            let mut rounds = 0u64;
            while !stop.load(Ordering::SeqCst) {
                writeln!(log, "{rounds}").unwrap();
                fs::create_dir(mount.path(format!("d{rounds}"))).unwrap();
                rounds += 1;
            }
            rounds
        });
        let stopping = StopOnDrop(&stop);
        let before = store.takeovers();
        let begun = Instant::now();
        // The next workers begin in there. This one has its memory elsewhere, and is killed for more of it.
        limit.take_in(store.supervisor_pid());
        limit.take_in(store.worker_pid());
        eventually("a worker is killed at work", Duration::from_secs(60), || {
            (limit.kills() >= 1).then_some(())
        });
        // One after the other is killed, with pauses that grow.
        eventually("several workers were killed", Duration::from_secs(60), || {
            (limit.kills() >= 7).then_some(())
        });
        let (held, workers) = (begun.elapsed(), store.takeovers() - before);
        assert!(!working.is_finished(), "a program was told of it");
        drop(hog);
        store.ok(["volume", "show", "v"]);
        let made = mount.names("/").len();
        eventually("work goes on", Duration::from_secs(60), || {
            (mount.names("/").len() > made + 100).then_some(())
        });
        drop(stopping);
        (working.join().unwrap(), workers, held)
    });
    println!("{workers} workers in {held:?}, {} killed; {done} rounds of work", limit.kills());
    // No crash loop: the pauses between workers that do not get ready grow to a second.
    let most = 8 + 2 * held.as_secs();
    assert!(workers <= most, "{workers} workers in {held:?}");
    let expected: String = (0..done).map(|round| format!("{round}\n")).collect();
    assert!(mount.text("log") == expected, "lines are missing or doubled");
    assert_eq!(mount.names("/").len() as u64, done + 2);
    assert!(mount.read("kept") == noise(1, 0, 1 << 20));
    drop(mount);
    // Its last process leaves the group before the group goes.
    store.stop_daemon();
}

/// Ends the work also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
