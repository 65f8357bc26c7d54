//! A private store, with the daemon that `durdir` starts for it, and nothing left of either when
//! the test is over.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::layout::{Layout, LowerDir};
use super::mount::Mount;
use super::process::{Finished, nothing, run, signal, wait_for_exit};
use super::tree::allocated_bytes;
use super::wait::eventually;
use super::{daemon, mount};

/// Longer than any command should take, `gc` of a full store included.
const LIMIT: Duration = Duration::from_secs(120);

/// A store in a directory of its own. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    base: TempDir,
    dir: PathBuf,
    mountpoints: AtomicU32,
    expected: Mutex<Vec<String>>,
    damaged: AtomicBool,
    /// Kept as long as the store, whose volumes need them; checked for changes when it is gone.
    lowers: Mutex<Vec<Arc<LowerDir>>>,
}

impl Store {
    /// Makes room for a store; the first command creates it.
    ///
    /// # Panics
    /// Without root, without /dev/fuse, or without the binaries: there is no way to run these tests then.
    pub fn new() -> Store {
        let base = temporary_directory("store");
        let dir = base.path().join("store");
        Store::with_base(base, dir)
    }

    /// Makes a store in a directory that somebody else made, e.g. on a small disk.
    pub fn in_dir(dir: impl AsRef<Path>) -> Store {
        Store::with_base(temporary_directory("store"), dir.as_ref().to_owned())
    }

    fn with_base(base: TempDir, dir: PathBuf) -> Store {
        assert!(
            plain_dir().is_none(),
            "this test needs a store: DURDIR_TEST_PLAIN_DIR is for the POSIX families only"
        );
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests mount, change owners and make devices: run them as root"
        );
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: `modprobe fuse`, or start the container with it"
        );
        let inner = Inner {
            base,
            dir,
            mountpoints: AtomicU32::new(0),
            expected: Mutex::default(),
            damaged: AtomicBool::new(false),
            lowers: Mutex::default(),
        };
        Store { inner: Arc::new(inner) }
    }

    /// Returns the directory of the store.
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }

    /// Returns a fresh empty directory to mount on.
    pub fn mountpoint(&self) -> PathBuf {
        let number = self.inner.mountpoints.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.base.path().join(format!("m{number}"));
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Returns a directory for whatever the test needs outside the volume.
    pub fn side_dir(&self) -> PathBuf {
        self.mountpoint()
    }

    /// Returns a `durdir` command for this store, without arguments yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary("durdir"));
        command.arg("--store").arg(self.path()).stdin(nothing());
        command
    }

    /// Runs `durdir` with these arguments, whatever comes of it.
    pub fn durdir<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        run(self.command().args(args), LIMIT)
    }

    /// Runs `durdir` with these arguments; it must succeed.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        let finished = self.durdir(args);
        assert!(finished.status.success(), "{finished}\n{}", self.log_tail());
        finished
    }

    /// Runs `durdir --json` with these arguments; it must succeed and print one JSON document.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let finished = self.ok(std::iter::once("--json".into()).chain(args));
        serde_json::from_slice(&finished.stdout)
            .unwrap_or_else(|err| panic!("not one JSON document ({err}): {finished}"))
    }

    /// Runs `durdir` with these arguments; it must fail with this exit code and one line of complaint.
    #[track_caller]
    pub fn refused<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let finished = self.durdir(args);
        assert_eq!(finished.code(), Some(code), "{finished}");
        let complaint = finished.complaint().trim_end().to_owned();
        assert!(!complaint.is_empty() && !complaint.contains("panicked"), "{finished}");
        // Wrong usage is answered by the argument parser, which shows the usage as well.
        assert!(code == 2 || complaint.lines().count() == 1, "an error is one line: {finished}");
        complaint
    }

    /// Creates a volume without mounting it.
    pub fn create_volume(&self, name: &str) {
        self.ok(["volume", "create", name]);
    }

    /// Mounts a volume, creating it where it does not exist.
    pub fn mount(&self, volume: &str) -> Mount {
        self.mount_with(volume, &[])
    }

    /// Mounts a volume with more options.
    pub fn mount_with(&self, volume: &str, options: &[&str]) -> Mount {
        let mut args: Vec<String> = ["--create", "--allow-other"].map(str::to_owned).to_vec();
        args.extend(options.iter().map(|&option| option.to_owned()));
        mount::of_volume(self, volume, args)
    }

    /// Mounts a volume over lowers, the first one on top.
    pub fn mount_over(&self, volume: &str, lowers: &[&Path]) -> Mount {
        let mut options = Vec::new();
        for lower in lowers {
            options.extend(["--lower", lower.to_str().expect("a path of ours")]);
        }
        self.mount_with(volume, &options)
    }

    /// Makes a volume over a lower with this content, and mounts it.
    pub fn mount_over_layout(&self, volume: &str, layout: Layout) -> Mount {
        let lower = Arc::new(layout.build());
        self.keep(Arc::clone(&lower));
        self.mount_over(volume, &[lower.path()])
    }

    /// Mounts a snapshot of a volume.
    pub fn mount_snapshot(&self, snapshot: &str) -> Mount {
        let (volume, _) = snapshot.split_once('@').expect("VOLUME@NAME");
        mount::of_volume(self, volume, ["--snapshot", snapshot, "--allow-other"].map(str::to_owned).to_vec())
    }

    /// Takes a named snapshot of one volume.
    pub fn snapshot(&self, volume: &str, name: &str) -> Value {
        self.json(["snapshot", "create", volume, "--name", name])
    }

    /// Forks a snapshot into a new volume.
    pub fn fork(&self, snapshot: &str, volume: &str) {
        self.ok(["fork", snapshot, volume]);
    }

    /// Returns what `volume show` says.
    pub fn volume(&self, name: &str) -> Value {
        self.json(["volume", "show", name])
    }

    /// Returns the bytes the store takes on its disk.
    pub fn allocated(&self) -> u64 {
        allocated_bytes(self.path())
    }

    /// Returns a `mountd` command with these arguments, for this store.
    pub fn mountd<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary("mountd"));
        command.args(args).arg("--store").arg(self.path()).stdin(nothing());
        command
    }

    /// Starts a mountd that runs on its own; returns once it is ready.
    pub fn start_daemon<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) {
        run(&mut self.mountd(args), LIMIT).ok();
    }

    /// Returns what the supervisor says of itself and of its worker.
    #[track_caller]
    pub fn status(&self) -> Value {
        let finished = run(&mut self.mountd(["status", "--json"]), LIMIT).ok();
        serde_json::from_slice(&finished.stdout).unwrap()
    }

    /// Returns the process ids of the daemon, that of the supervisor first; none where it is not running.
    pub fn daemon(&self) -> Vec<i32> {
        daemon::pids_of(self.path())
    }

    /// Kills the daemon at once (`kill -9`). Its mounts are dead then: see [`Mount::after_kill`].
    pub fn kill_daemon(&self) {
        assert!(!self.daemon().is_empty(), "no mountd runs for {}", self.path().display());
        daemon::kill(self.path());
    }

    /// Returns the process id of the worker, the process that serves.
    ///
    /// # Panics
    /// When there is not exactly one, which must never be.
    #[track_caller]
    pub fn worker_pid(&self) -> i32 {
        // Between two there is none for a moment.
        let pids = eventually("a worker", Duration::from_secs(20), || {
            Some(daemon::workers_of(self.path())).filter(|pids| !pids.is_empty())
        });
        assert_eq!(pids.len(), 1, "workers of {}", self.path().display());
        pids[0]
    }

    /// Returns the process id of the supervisor.
    #[track_caller]
    pub fn supervisor_pid(&self) -> i32 {
        let workers = daemon::workers_of(self.path());
        let supervisors: Vec<i32> = self.daemon().into_iter().filter(|pid| !workers.contains(pid)).collect();
        assert_eq!(supervisors.len(), 1, "supervisors of {}", self.path().display());
        supervisors[0]
    }

    /// Ends the worker with a signal, as a crash would, and waits until it is gone. The supervisor starts the next.
    /// Returns the pid that the worker had.
    #[track_caller]
    pub fn kill_worker(&self, with: Signal) -> i32 {
        let pid = self.worker_pid();
        self.expect_alarm("the worker died");
        signal(pid, with);
        if !wait_for_exit(pid, Duration::from_millis(200)) {
            // Rust's handler lets the first SIGSEGV and SIGBUS pass, expecting the instruction to cause it once more.
            signal(pid, with);
            assert!(wait_for_exit(pid, Duration::from_secs(20)), "the worker {pid} survived {with}");
        }
        pid
    }

    /// Returns how many workers have gone on where another had died.
    #[track_caller]
    pub fn takeovers(&self) -> u64 {
        self.status()["takeovers"].as_u64().expect("the supervisor counts takeovers")
    }

    /// Asks the daemon to end, and waits for it.
    pub fn stop_daemon(&self) {
        daemon::stop(self.path()).unwrap();
    }

    /// Returns what the daemon logged.
    pub fn log(&self) -> String {
        daemon::log_of(self.path())
    }

    /// Returns the end of the log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- mountd's log\n{}", lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    /// Keeps a lower as long as this store.
    pub(super) fn keep(&self, lower: Arc<LowerDir>) {
        self.inner.lowers.lock().unwrap().push(lower);
    }

    /// Says that the test damages the store: it is not checked at the end then.
    pub fn expect_damage(&self) {
        self.inner.damaged.store(true, Ordering::Relaxed);
    }

    /// Allows warnings and errors in the daemon's log that contain this text; any other fails the test.
    pub fn expect_alarm(&self, text: &str) {
        self.inner.expected.lock().unwrap().push(text.to_owned());
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Inner {
    /// Whatever a test did, the store it leaves is sound.
    fn check(&self) {
        if self.damaged.load(Ordering::Relaxed) || !self.dir.join("FORMAT").exists() {
            return;
        }
        let mut command = Command::new(binary("durdir"));
        command.arg("--store").arg(&self.dir).args(["--json", "fsck", "--offline"]).stdin(nothing());
        run(&mut command, LIMIT).ok();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let stopped = daemon::stop(&self.dir);
        let log = daemon::log_of(&self.dir);
        let expected = self.expected.lock().unwrap();
        let mut alarms = daemon::alarms(&log);
        alarms.retain(|line| !expected.iter().any(|text| line.contains(text)));
        // The disk of a machine with much to do; what is never answered, the test itself waits for.
        alarms.retain(|line| !line.contains("a request is not answered"));
        if std::thread::panicking() {
            eprintln!("--- warnings and errors of mountd\n{}", alarms.join("\n"));
            return;
        }
        assert!(alarms.is_empty(), "unexpected in mountd's log:\n{}", alarms.join("\n"));
        stopped.unwrap();
        self.check();
    }
}

/// Returns where a binary of durdir is: `DURDIR_BIN_DIR`, else beside the running test's directory.
///
/// # Panics
/// When it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("DURDIR_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.parent().and_then(Path::parent).expect("target/release/deps/test").to_owned()
        },
        PathBuf::from,
    );
    let file = dir.join(name);
    assert!(
        file.is_file(),
        "{} is missing: `cargo build --release -p durdir-mountd`, or set DURDIR_BIN_DIR",
        file.display()
    );
    file
}

/// Returns the directory to try the tests themselves on, where one is set.
pub(super) fn plain_dir() -> Option<PathBuf> {
    std::env::var_os("DURDIR_TEST_PLAIN_DIR").map(PathBuf::from)
}

/// Makes a directory that other users can pass through. `DURDIR_TEST_DIR` moves them all.
pub(super) fn temporary_directory(purpose: &str) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let parent = std::env::var_os("DURDIR_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix(&format!("durdir-{purpose}-")).tempdir_in(parent).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}
