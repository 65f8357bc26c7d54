//! The worker dies; nobody on a mount can tell it from a slow disk.
//!
//! * `handles`: whatever was open, mapped, locked, half read or unlinked goes on.
//! * `once`: every operation that changes something takes effect once, wherever in it the worker dies.
//! * `deaths`: panics, requests that kill every worker, mounts that were half made.
//! * `storm`: many deaths of every kind under load, with figures. `scripts/kill-storm` is its long form.
//! * `many`: two hundred mounts come back.
//! * `sandbox`: a gVisor sandbox with open files goes on.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod death;
mod deaths;
mod handles;
mod many;
mod once;
mod sandbox;
mod steps;
mod storm;

use std::time::Duration;

use durdir_tests::support::*;

/// Longer than a start takes.
const START: Duration = Duration::from_secs(60);

/// Starts a mountd on the store whose workers reach these failpoints: all of them again and again, or each once.
fn start_with_failpoints(store: &Store, points: &str, once: bool) {
    let mut mountd = store.mountd::<&str>([]);
    mountd.env("DURDIR_FAILPOINTS", points);
    if once {
        mountd.env("DURDIR_FAILPOINT_DIR", store.side_dir());
    }
    run(&mut mountd, START).ok();
}

/// Returns a counter of the node.
fn counter(store: &Store, name: &str) -> u64 {
    store.json(["stats"])[name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}
