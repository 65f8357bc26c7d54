//! The mountd of a store, seen from outside: which processes it is, and what it logged.
//!
//! It is a supervisor, and a worker that the supervisor starts again when it dies. To kill the daemon is to kill both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::{is_running, signal, wait_for_exit};

/// Returns the processes that run `mountd` for this store, supervisors first.
pub(super) fn pids_of(store: &Path) -> Vec<i32> {
    let (workers, supervisors): (Vec<i32>, Vec<i32>) =
        all_of(store).into_iter().partition(|pid| words_of(*pid).iter().any(|word| word == WORKER));
    supervisors.into_iter().chain(workers).collect()
}

/// Returns the processes that serve this store.
pub(super) fn workers_of(store: &Path) -> Vec<i32> {
    let mut pids = all_of(store);
    pids.retain(|pid| words_of(*pid).iter().any(|word| word == WORKER));
    pids
}

/// What tells a worker from its supervisor.
const WORKER: &[u8] = b"--worker";

fn words_of(pid: i32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

fn all_of(store: &Path) -> Vec<i32> {
    let wanted = store.as_os_str().as_encoded_bytes();
    let is_ours = |pid: &i32| {
        let words = words_of(*pid);
        let program = words.first().map_or(&[][..], |word| word.as_slice());
        program.rsplit(|&byte| byte == b'/').next().is_some_and(|name| name.starts_with(b"mountd"))
            && words.iter().any(|word| word == wanted || word.ends_with(&[b"=", wanted].concat()))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pids: Vec<i32> = pids.filter(is_ours).filter(|pid| is_running(*pid)).collect();
    // A program that one of them starts looks like its parent until it is executed.
    let is_copy = |pid: i32| {
        parent_of(pid).is_some_and(|parent| pids.contains(&parent) && words_of(parent) == words_of(pid))
    };
    pids.iter().copied().filter(|pid| !is_copy(*pid)).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Kills the daemon of this store the hard way, supervisor and worker alike.
pub(super) fn kill(store: &Path) {
    // The supervisor first: a worker that it starts between our look and our signal is seen at the next look.
    loop {
        let pids = pids_of(store);
        if pids.is_empty() {
            return;
        }
        for &pid in &pids {
            signal(pid, Signal::SIGKILL);
        }
        for pid in pids {
            assert!(wait_for_exit(pid, Duration::from_secs(20)), "mountd {pid} survived SIGKILL");
        }
    }
}

/// Asks the daemon of this store to end, and waits until it did.
pub(super) fn stop(store: &Path) -> Result<(), String> {
    let pids = pids_of(store);
    for &pid in &pids {
        signal(pid, Signal::SIGTERM);
    }
    let late: Vec<i32> =
        pids.into_iter().filter(|&pid| !wait_for_exit(pid, Duration::from_secs(30))).collect();
    if late.is_empty() {
        return Ok(());
    }
    kill(store);
    Err(format!("mountd {late:?} did not end within 30 s of SIGTERM"))
}

/// Returns the log of the daemon; empty where there is none.
pub(super) fn log_of(store: &Path) -> String {
    let candidates: [PathBuf; 2] = [store.join("mountd.log"), store.join("log/mountd.log")];
    let logs = candidates.iter().filter_map(|path| fs::read(path).ok());
    logs.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

/// Returns the lines of a log that a person would have to look at.
pub(super) fn alarms(log: &str) -> Vec<&str> {
    let loud = [" WARN ", " ERROR ", "\"WARN\"", "\"ERROR\"", "panicked at"];
    log.lines().filter(|line| loud.iter().any(|level| line.contains(level))).collect()
}
