//! What the host has none of: descriptors, memory, room, a disk that can be written. The operation that needs it fails with
//! the right errno or waits, what was there before is intact, and work goes on when there is some again.
//!
//! * `files`: the worker may open no more files.
//! * `memory`: the kernel kills the worker for lack of memory, once and again.
//! * `errors`: writes and syncs of the log and of segments fail.
//! * `frozen_disk`: who writes waits.
//! * `read_only`: the filesystem under the store stops taking writes.
//! * `supervisor`: whoever keeps the mounts is gone.
//!
//! A full disk is in `bad_input`.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod errors;
mod files;
mod frozen_disk;
mod memory;
mod read_only;
mod supervisor;

use std::time::Duration;

use durdir_tests::support::*;

/// Longer than a worker takes to find out that it could go on, and to be replaced.
const RECOVERY: Duration = Duration::from_secs(60);

/// Returns the kinds of problems that the doctor finds.
fn problems(store: &Store) -> Vec<String> {
    let finished = store.durdir(["--json", "doctor"]);
    let diagnosis: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    let problems = diagnosis["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["kind"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a file can be written, and reads it.
fn wait_for_recovery(mount: &Mount, name: &str) {
    eventually("writes succeed again", RECOVERY, || {
        std::fs::write(mount.path(name), noise(7, 0, 100_000)).ok()
    });
    assert!(mount.read(name) == noise(7, 0, 100_000));
}
