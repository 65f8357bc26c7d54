//! Another version takes over, or does not, and nobody is without a mountd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use durdir_tests::support::*;
use nix::sys::signal::Signal;

use crate::served;

const MINUTE: Duration = Duration::from_secs(60);

fn upgrade(store: &Store, program: &Path, limit: &str) -> Finished {
    let args =
        ["upgrade".as_ref(), program.as_os_str(), "--limit".as_ref(), limit.as_ref(), "--json".as_ref()];
    run(&mut store.mountd(args), MINUTE * 2)
}

/// Returns a copy of mountd in a directory of its own.
fn copy_of_mountd(store: &Store, name: &str) -> PathBuf {
    let path = store.side_dir().join(name);
    copy_program(binary("mountd"), &path);
    path
}

fn script(store: &Store, text: &str) -> PathBuf {
    let path = store.side_dir().join("mountd-script");
    write_script(&path, &format!("#!/bin/sh\n{text}\n"));
    path
}

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// A program is refused with this code, and the worker that ran goes on.
#[track_caller]
fn refused(store: &Store, program: &Path, limit: &str, code: i32) -> String {
    store.expect_alarm("upgrade failed");
    let daemon = store.daemon();
    let finished = upgrade(store, program, limit);
    assert_eq!(finished.code(), Some(code), "{finished}");
    assert_eq!(finished.complaint().trim_end().lines().count(), 1, "{finished}");
    assert_eq!(store.daemon(), daemon);
    store.ok(["volume", "ls"]);
    finished.complaint()
}

/// A program passes its check and is not ready then: the version that ran before is started again.
#[track_caller]
fn taken_back(store: &Store, program: &Path, limit: &str, code: i32) -> String {
    store.expect_alarm("upgrade failed");
    store.expect_alarm("the worker died");
    let (supervisor, worker) = (store.supervisor_pid(), store.worker_pid());
    let finished = upgrade(store, program, limit);
    assert_eq!(finished.code(), Some(code), "{finished}");
    store.ok(["volume", "ls"]);
    assert_eq!(store.supervisor_pid(), supervisor);
    assert_ne!(store.worker_pid(), worker);
    for pid in store.daemon() {
        assert_eq!(program_of(pid), binary("mountd"));
    }
    finished.complaint()
}

#[test]
fn both_processes_become_the_other_version_and_keep_what_was_kept() {
    let store = served();
    let supervisor = store.supervisor_pid();
    let mut programs = Vec::new();
    for number in 1..=3 {
        let program = copy_of_mountd(&store, &format!("mountd-{number}"));
        let before = (store.worker_pid(), store.status()["descriptors"].clone());
        let finished = upgrade(&store, &program, "60s").ok();
        let told: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
        assert_eq!(told["takeovers"], number, "{told}");
        assert_eq!(told["descriptors"], before.1, "{told}");
        assert_eq!(store.supervisor_pid(), supervisor);
        assert_ne!(store.worker_pid(), before.0);
        for pid in store.daemon() {
            assert_eq!(program_of(pid), program);
        }
        assert_eq!(store.json(["volume", "ls"])[0]["name"], "v");
        programs.push(program);
    }
    // It supervises as before: clients wait, the next worker is of the new version, and both end when asked.
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "show", "v"]);
    assert_eq!(Some(&program_of(store.worker_pid())), programs.last());
    let pids = store.daemon();
    signal(supervisor, Signal::SIGTERM);
    for pid in pids {
        assert!(wait_for_exit(pid, MINUTE), "{pid} still runs");
    }
}

#[test]
fn nothing_piles_up_over_upgrades() {
    let store = served();
    let program = copy_of_mountd(&store, "mountd-next");
    let open = |pid: i32| names_in(format!("/proc/{pid}/fd")).unwrap().len();
    upgrade(&store, &program, "60s").ok();
    let before = open(store.supervisor_pid());
    for _ in 0..3 {
        upgrade(&store, &program, "60s").ok();
    }
    assert_eq!(open(store.supervisor_pid()), before);
}

#[test]
fn clients_wait_during_an_upgrade() {
    let store = served();
    let program = copy_of_mountd(&store, "mountd-next");
    std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| upgrade(&store, &program, "60s"));
        let socket = store.path().join("mountd.sock");
        while !upgrading.is_finished() {
            std::os::unix::net::UnixStream::connect(&socket).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        upgrading.join().unwrap().ok();
    });
    store.ok(["volume", "show", "v"]);
}

#[test]
fn the_program_that_ran_is_started_again_though_its_path_is_taken() {
    let store = served();
    let program = copy_of_mountd(&store, "mountd-next");
    upgrade(&store, &program, "60s").ok();
    fs::remove_file(&program).unwrap();
    copy_program("/bin/false", &program);
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "show", "v"]);
    for pid in store.daemon() {
        assert!(program_of(pid).to_str().unwrap().ends_with("(deleted)"), "{:?}", program_of(pid));
    }
}

#[test]
fn a_program_that_is_no_mountd_is_refused() {
    let store = served();
    refused(&store, Path::new("/bin/false"), "60s", 1);
    let complaint = refused(&store, Path::new("/bin/true"), "60s", 5);
    assert!(complaint.contains("does not answer as a mountd"), "{complaint}");
    refused(&store, &store.side_dir().join("missing"), "60s", 3);
    refused(&store, &store.side_dir(), "60s", 1);
    assert_eq!(store.status()["takeovers"], 0);
}

#[test]
fn a_check_that_does_not_end_is_given_up() {
    let store = served();
    let complaint = refused(&store, &script(&store, "exec sleep 1000"), "300ms", 7);
    assert!(complaint.contains("self-check does not end"), "{complaint}");
}

#[test]
fn a_version_that_cannot_read_the_store_is_refused() {
    let store = served();
    let format = store.path().join("FORMAT");
    let own = fs::read_to_string(&format).unwrap();
    // To any other mountd the store is of a later format now; the one that runs has read it before.
    fs::write(&format, "durdir store format 9999\n").unwrap();
    let complaint = refused(&store, &binary("mountd"), "60s", 5);
    assert!(complaint.contains("9999"), "{complaint}");
    fs::write(&format, own).unwrap();
}

#[test]
fn a_version_that_cannot_open_the_database_is_refused_and_the_one_that_has_it_goes_on() {
    let store = served();
    let mount = store.mount("v");
    let (current, aside) = (store.path().join("db/CURRENT"), store.side_dir().join("CURRENT"));
    fs::rename(&current, &aside).unwrap();
    let complaint = refused(&store, &binary("mountd"), "60s", 1);
    assert!(complaint.contains("open the store") && complaint.contains("CURRENT"), "{complaint}");
    mount.write("file", "all the same");
    fs::rename(&aside, &current).unwrap();
    upgrade(&store, &binary("mountd"), "60s").ok();
    assert_eq!(mount.text("file"), "all the same");
}

/// What is in memory only would have to be read from the log again, while programs wait.
#[test]
fn memory_is_written_out_before_the_worker_is_replaced() {
    let store = served();
    let mount = store.mount("v");
    for number in 0..2000 {
        fs::write(mount.path(format!("file {number}")), number.to_string()).unwrap();
    }
    upgrade(&store, &binary("mountd"), "60s").ok();
    let log = store.log();
    let line = log.lines().find(|line| line.contains("wrote memtables out for a successor"));
    let bytes = line.and_then(|line| line.split("bytes=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes > 1 << 20), "{bytes:?} in {line:?}");
    for number in (0..2000).step_by(7) {
        assert_eq!(mount.text(format!("file {number}")), number.to_string());
    }
}

/// Answers the check as mountd does, and does something else when it is to serve.
fn impostor(store: &Store, instead: &str) -> PathBuf {
    let mountd = binary("mountd");
    let text = format!(
        "case \" $* \" in *' --self-check '*) exec {mountd:?} \"$@\";; *) {instead};; esac",
        mountd = mountd.to_str().unwrap()
    );
    script(store, &text)
}

#[test]
fn a_version_whose_worker_does_not_get_ready_is_taken_back() {
    let store = served();
    let complaint = taken_back(&store, &impostor(&store, "exit 3"), "60s", 1);
    assert!(complaint.contains("exit code 3"), "{complaint}");
    let complaint = taken_back(&store, &impostor(&store, "kill -SEGV $$"), "60s", 1);
    assert!(complaint.contains("SIGSEGV"), "{complaint}");
    taken_back(&store, &impostor(&store, "exit 0"), "60s", 1);
}

#[test]
fn a_version_whose_worker_hangs_is_taken_back() {
    let store = served();
    // Longer than the check takes, shorter than anybody would wait.
    let complaint = taken_back(&store, &impostor(&store, "exec sleep 1000"), "20s", 7);
    assert!(complaint.contains("not ready within 20s"), "{complaint}");
}

#[test]
fn a_script_that_runs_another_mountd_is_upgraded_to() {
    let store = served();
    let program = copy_of_mountd(&store, "mountd-next");
    let wrapper = script(&store, &format!("exec {:?} \"$@\"", program.to_str().unwrap()));
    let supervisor = store.supervisor_pid();
    upgrade(&store, &wrapper, "60s").ok();
    assert_eq!(store.supervisor_pid(), supervisor);
    for pid in store.daemon() {
        assert_eq!(program_of(pid), program);
    }
}

#[test]
fn there_is_nothing_to_upgrade_where_no_mountd_runs() {
    let store = Store::new();
    let finished = upgrade(&store, &binary("mountd"), "60s");
    assert_eq!(finished.code(), Some(3), "{finished}");
}
