//! The worker is out of descriptors.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

use crate::wait_for_recovery;

/// Lets a process open no more files, until it is dropped.
struct NoMoreFiles {
    pid: i32,
    before: libc::rlimit,
}

impl NoMoreFiles {
    fn of(pid: i32) -> NoMoreFiles {
        let before = limit_files(pid, None);
        // The kernel limits the number that a new descriptor gets. Those below are the standard streams.
        limit_files(pid, Some(libc::rlimit { rlim_cur: 3, ..before }));
        NoMoreFiles { pid, before }
    }
}

impl Drop for NoMoreFiles {
    fn drop(&mut self) {
        if is_running(self.pid) {
            limit_files(self.pid, Some(self.before));
        }
    }
}

/// Sets the limit of open files of a process. Returns what it was.
fn limit_files(pid: i32, new: Option<libc::rlimit>) -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the one is null or a limit that outlives the call, the other a place for one.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, &mut old) };
    assert_eq!(done, 0, "prlimit: {}", std::io::Error::last_os_error());
    old
}

/// What needs no descriptor is served; what needs one fails as on a machine that is out of them.
#[test]
fn what_needs_a_descriptor_is_enfile_and_everything_else_goes_on() {
    let store = Store::new();
    store.expect_alarm("Too many open files");
    let over =
        store.mount_over_layout("over", lower! { "low" => noise(1, 0, 300_000), "dir/deep" => "deep" });
    let plain = store.mount("plain");
    plain.write("kept", noise(2, 0, 100_000));
    let open = open(plain.path("kept"), libc::O_RDWR, 0).unwrap();
    let fresh = store.mount("fresh");
    let worker = store.worker_pid();
    let limit = NoMoreFiles::of(worker);
    // The first page of a volume makes a segment, and a file of a lower has to be opened.
    assert_errno!(fs::write(fresh.path("first"), noise(3, 0, 100_000)), ENFILE);
    assert_errno!(fs::read(over.path("dir/deep")), ENFILE);
    assert!(plain.read("kept") == noise(2, 0, 100_000));
    open.write_all_at(b"in place", 5000).unwrap();
    open.sync_all().unwrap();
    fresh.write("small", "in its record");
    mkdir(plain.path("new"), 0o755).unwrap();
    fs::rename(plain.path("new"), plain.path("renamed")).unwrap();
    // A client cannot be let in, and waits.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.durdir(["volume", "ls"]));
        assert_errno!(fs::read(over.path("dir/deep")), ENFILE);
        drop(limit);
        waiting.join().unwrap().ok();
    });
    assert_eq!(over.text("dir/deep"), "deep");
    fresh.write("first", noise(3, 0, 100_000));
    assert_eq!(store.worker_pid(), worker, "it need not be replaced");
    drop(open);
    plain.unmount();
    over.unmount();
    let fresh = fresh.restart();
    assert!(fresh.read("first") == noise(3, 0, 100_000));
    assert_eq!(fresh.text("small"), "in its record");
}

/// RocksDB needs files in the background, and takes no writes any more when it gets none.
#[test]
fn store_that_stopped_for_lack_of_descriptors_goes_on_when_there_are_some() {
    let store = Store::new();
    for alarm in [
        "Too many open files",
        "stopped after a failed write",
        "store stops",
        "the worker died",
        "the store stopped",
    ] {
        store.expect_alarm(alarm);
    }
    let mount = store.mount("v");
    let mut held = File::create(mount.path("held")).unwrap();
    let worker = store.worker_pid();
    let limit = NoMoreFiles::of(worker);
    let mut made = Vec::new();
    // Some MiB of records: a memtable is full, and its table cannot be made.
    let refused = loop {
        let name = format!("{}-{}", made.len(), "n".repeat(200));
        match fs::create_dir(mount.path(&name)) {
            Ok(()) => made.push(name),
            Err(error) => break error,
        }
        assert!(made.len() < 200_000, "writes never failed");
    };
    assert!([Some(libc::ENFILE), Some(libc::EIO)].contains(&refused.raw_os_error()), "{refused}");
    // Reads go on, writes do not.
    assert_eq!(mount.names("/").len(), made.len() + 1);
    assert_errno!(fs::create_dir(mount.path("later")), EIO | ENFILE);
    drop(limit);
    wait_for_recovery(&mount, "again");
    assert_ne!(store.worker_pid(), worker);
    std::io::Write::write_all(&mut held, b"the handle goes on").unwrap();
    let mut text = String::new();
    File::open(mount.path("held")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "the handle goes on");
    // What was acknowledged is there; what was refused is there or not, and the kernel does not believe otherwise.
    let names = mount.names("/");
    assert!(made.iter().all(|name| names.contains(&name.into())), "a directory is missing");
    for name in &names {
        fs::symlink_metadata(mount.path(name)).unwrap();
    }
    drop(held);
    let count = names.len();
    assert_eq!(mount.restart().names("/").len(), count);
}
