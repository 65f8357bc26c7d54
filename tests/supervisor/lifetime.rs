//! How a supervised mountd starts and ends.

use std::fs;
use std::time::Duration;

use durdir_tests::support::*;
use nix::sys::signal::Signal;

use crate::served;

const MINUTE: Duration = Duration::from_secs(60);

/// Starts a mountd that cannot serve, in the foreground and on its own; both must say why on one line.
#[track_caller]
fn refused(store: &Store, code: i32, args: &[&str]) -> String {
    let run_with = |mode: &[&str]| {
        let finished = run(&mut store.mountd(args.iter().chain(mode)), MINUTE);
        assert_eq!(finished.code(), Some(code), "{finished}");
        // In the foreground the log is there, too.
        let complaint = finished.complaint();
        let told: Vec<&str> = complaint.lines().filter(|line| line.starts_with("mountd: ")).collect();
        assert_eq!(told.len(), 1, "{finished}");
        told[0].to_owned()
    };
    let complaint = run_with(&[]);
    assert_eq!(complaint, run_with(&["--foreground"]));
    complaint
}

#[test]
fn a_start_that_fails_ends_the_supervisor_with_the_code_of_its_class() {
    let store = Store::new();
    let config = store.side_dir().join("mountd.toml");
    let file = config.to_str().unwrap();
    refused(&store, 3, &["--config", file]);
    fs::write(&config, "stoer = '/x'\n").unwrap();
    refused(&store, 5, &["--config", file]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let complaint = refused(&store, 4, &["--metrics", &address]);
    assert!(complaint.contains(&address), "{complaint}");
    assert!(store.daemon().is_empty());
    drop(taken);
    store.start_daemon(["--metrics", &address]);
}

#[test]
fn a_running_mountd_is_asked_whichever_way_its_store_is_named() {
    let store = served();
    let dir = store.path().to_str().unwrap();
    let mountd = |args: &[&str]| run(std::process::Command::new(binary("mountd")).args(args), MINUTE);
    for args in [["--store", dir, "status", "--json"], ["status", "--json", "--store", dir]] {
        let status: serde_json::Value = serde_json::from_slice(&mountd(&args).ok().stdout).unwrap();
        assert_eq!(status["supervisor_pid"], store.supervisor_pid(), "{args:?}");
    }
    store.expect_alarm("upgrade failed");
    let upgrade = mountd(&["--store", dir, "upgrade", "/nonexistent/mountd"]);
    assert!(upgrade.complaint().contains("/nonexistent/mountd"), "{upgrade}");
    // How to serve is nothing to be said to one that does.
    let finished = mountd(&["--store", dir, "--foreground", "status"]);
    assert_eq!(finished.code(), Some(2), "{finished}");
    assert!(finished.complaint().contains("--foreground"), "{finished}");
}

#[test]
fn a_second_supervisor_leaves_the_first_one_alone() {
    let store = served();
    let daemon = store.daemon();
    let complaint = refused(&store, 4, &[]);
    assert!(complaint.contains(&store.worker_pid().to_string()), "{complaint}");
    assert_eq!(store.daemon(), daemon);
    assert_eq!(store.status()["supervisor_pid"], daemon[0]);
    // Its worker is still heard: a successor gets what it kept.
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "ls"]);
    assert_eq!(store.status()["descriptors"], 1);
}

#[test]
fn asking_either_process_to_end_ends_both_and_leaves_no_socket() {
    for ask_worker in [false, true] {
        for signal_sent in [Signal::SIGTERM, Signal::SIGINT] {
            let store = served();
            let pids = store.daemon();
            signal(if ask_worker { pids[1] } else { pids[0] }, signal_sent);
            for pid in pids {
                assert!(wait_for_exit(pid, MINUTE), "{pid} goes on after {signal_sent}");
            }
            let left: Vec<_> = names_in(store.path()).unwrap();
            let is_socket = |name: &std::ffi::OsString| {
                let name = name.to_string_lossy();
                name.ends_with(".sock") || name.ends_with(".notify")
            };
            assert!(!left.iter().any(is_socket), "{left:?}");
        }
    }
}

#[test]
fn a_supervisor_in_the_foreground_ends_with_0_when_asked_to() {
    let store = Store::new();
    let mut child = store.mountd(["--foreground"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("clients can connect", MINUTE, || store.path().join("supervisor.sock").exists().then_some(()));
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(store.supervisor_pid(), pid);
    signal(pid, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(store.daemon().is_empty());
}

#[test]
fn a_reload_reaches_the_worker() {
    let store = Store::new();
    let file = store.side_dir().join("mountd.toml");
    fs::write(&file, "").unwrap();
    store.start_daemon(["--config".as_ref(), file.as_os_str()]);
    signal(store.supervisor_pid(), Signal::SIGHUP);
    eventually("it is read again", MINUTE, || store.log().contains("configuration reloaded").then_some(()));
}

#[test]
fn a_private_mountd_that_nobody_needs_ends_with_its_supervisor() {
    let store = Store::new();
    let mut command = store.mountd(["--private", "--idle", "100ms"]);
    let finished = run(&mut command, MINUTE);
    assert_eq!((finished.code(), finished.text().as_str()), (Some(0), "ready\n"), "{finished}");
    assert!(store.daemon().is_empty());
    // The next one finds nothing in its way.
    store.ok(["volume", "ls"]);
}

#[test]
fn a_worker_whose_supervisor_is_gone_goes_on_and_says_so() {
    let store = Store::new();
    store.start_daemon(["--watchdog", "15s"]);
    let mount = store.mount("v");
    store.expect_alarm("whoever watched over this process is gone");
    let (supervisor, worker) = (store.supervisor_pid(), store.worker_pid());
    signal(supervisor, Signal::SIGKILL);
    assert!(wait_for_exit(supervisor, MINUTE));
    eventually("the worker notices", MINUTE, || store.log().contains("is gone: it goes on").then_some(()));
    mount.write("file", "x");
    assert_eq!(mount.text("file"), "x");
    assert_eq!(store.worker_pid(), worker);
    // What it would have kept from now on is not kept, which is told, and no reason not to mount.
    store.ok(["volume", "show", "v"]);
    let finished = run(&mut store.mountd(["status"]), MINUTE);
    assert_eq!(finished.code(), Some(3), "{finished}");
    let complaint = refused(&store, 4, &[]);
    assert!(complaint.contains(&worker.to_string()), "{complaint}");
    store.expect_alarm("Connection refused");
    mount.unmount();
    store.stop_daemon();
}

#[test]
fn only_the_owner_reaches_the_sockets() {
    use std::os::unix::fs::PermissionsExt;
    let store = served();
    for name in names_in(store.path()).unwrap() {
        let path = store.path().join(&name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o077 == 0 || path.is_dir(), "{name:?} has mode {mode:o}");
    }
    assert!(names_in(store.path()).unwrap().iter().any(|name| name == "supervisor.sock"));
}

#[test]
fn a_daemon_on_a_store_with_a_long_path_is_supervised_as_well() {
    let base = Store::new();
    let dir = base.side_dir().join("d".repeat(120)).join("store");
    let store = Store::in_dir(&dir);
    store.start_daemon([""; 0]);
    store.create_volume("v");
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "show", "v"]);
    assert_eq!(store.status()["takeovers"], 1);
}
