//! Deaths that are not a single kill.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use durdir_tests::assert_errno;
use durdir_tests::support::*;
use nix::sys::signal::Signal;

use crate::{counter, start_with_failpoints};

#[test]
fn panic_in_an_operation_is_a_pause() {
    let store = Store::new();
    store.expect_alarm("the worker died");
    store.expect_alarm("panicked");
    start_with_failpoints(&store, "fuse.mkdir.before:panic,op.unlink:panic", true);
    let mount = store.mount("v");
    mkdir(mount.path("new"), 0o755).unwrap();
    assert_eq!(mount.names("/"), ["new"]);
    assert_eq!(store.takeovers(), 1);
}

#[test]
fn request_that_kills_every_worker_is_failed_and_its_volume_flagged() {
    let store = Store::new();
    for alarm in ["the worker died", "killed workers", "workers died over"] {
        store.expect_alarm(alarm);
    }
    start_with_failpoints(&store, "fuse.rmdir.before:abort", false);
    let (mount, other) = (store.mount("v"), store.mount("w"));
    mkdir(mount.path("poison"), 0o755).unwrap();
    other.write("file", "of another volume");
    assert!(store.volume("v")["flag"].is_null());
    assert_errno!(fs::remove_dir(mount.path("poison")), EIO);
    assert_eq!(store.takeovers(), 2);
    // Everything else goes on, on this volume and on others.
    mount.write("after", "all");
    other.write("file", "too");
    let flag = &store.volume("v")["flag"];
    assert_eq!(flag["count"], 1, "{flag}");
    let what = flag["what"].as_str().unwrap();
    assert!(what.contains("rmdir of node 1") && what.contains("706f69736f6e"), "{what}");
    assert!(store.volume("w")["flag"].is_null());
    assert!(store.log().contains("706f69736f6e"));
    let doctor = store.durdir(["--json", "doctor"]);
    assert!(doctor.text().contains("flagged-volume"), "{doctor}");
    store.ok(["fsck", "--repair"]);
    assert!(store.volume("v")["flag"].is_null());
}

#[test]
fn mount_that_was_half_made_is_undone_and_made_again() {
    for point in ["mount.kept", "mount.attached", "mount.serving"] {
        let store = Store::new();
        store.expect_alarm("the worker died");
        start_with_failpoints(&store, &format!("{point}:kill"), true);
        store.create_volume("v");
        let mountpoint = store.mountpoint();
        // The client asks again, by itself.
        store.ok([std::ffi::OsStr::new("mount"), "v".as_ref(), mountpoint.as_os_str()]);
        fs::write(mountpoint.join("file"), point).unwrap();
        assert_eq!(store.takeovers(), 1, "{point}");
        assert_eq!(store.volume("v")["mounts"][0], mountpoint.to_str().unwrap());
        store.umount("v");
        assert!(!is_mounted(&mountpoint));
    }
}

#[test]
fn worker_that_is_killed_while_it_begins_is_replaced() {
    let mount = Mount::empty();
    mount.write("file", "content");
    for _ in 0..3 {
        mount.store().kill_worker(Signal::SIGKILL);
    }
    assert_eq!(mount.text("file"), "content");
    assert_eq!(counter(mount.store(), "takeovers"), 3);
}

#[test]
fn mounts_end_when_the_last_worker_was_asked_to_end() {
    let mount = Mount::empty();
    mount.write("file", "content");
    mount.store().kill_worker(Signal::SIGKILL);
    let store = mount.store().clone();
    let root = mount.root().to_owned();
    mount.unmount();
    store.stop_daemon();
    assert!(!is_mounted(&root));
    // Nothing of the session is kept: a new daemon begins with nothing.
    store.ok(["volume", "ls"]);
    eventually("no mounts", Duration::from_secs(10), || {
        store.volume("v")["mounts"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn upgrade_under_load_is_a_pause() {
    let mount = Mount::empty();
    let store = mount.store();
    let copy = store.side_dir().join("mountd");
    copy_program(binary("mountd"), &copy);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut file = fs::File::create(mount.path("log")).unwrap();
            let mut lines = 0u64;
            while !stop.load(Ordering::SeqCst) {
                writeln!(file, "{lines}").unwrap();
                fs::create_dir(mount.path(format!("d{lines}"))).unwrap();
                lines += 1;
            }
            lines
        });
        // There, and back again.
        for program in [&copy, &binary("mountd"), &copy] {
            let args = ["upgrade".as_ref(), program.as_os_str()];
            run(&mut store.mountd(args), Duration::from_secs(120)).ok();
        }
        stop.store(true, Ordering::SeqCst);
        let lines = appending.join().unwrap();
        let expected: String = (0..lines).map(|line| format!("{line}\n")).collect();
        assert!(mount.text("log") == expected, "lines are missing or doubled");
        assert_eq!(mount.names("/").len() as u64, lines + 1);
    });
    assert_eq!(fs::read_link(format!("/proc/{}/exe", store.worker_pid())).unwrap(), copy);
    // Whoever is asked last ends it: the copy goes with the test.
    let store = store.clone();
    mount.unmount();
    store.stop_daemon();
}
