//! mountd is a supervisor and a worker. Here the worker dies, hangs, ends and is replaced by another version, and it is
//! clients of the API who must not notice; what programs on a mount notice is tested with the mounts.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod lifetime;
mod restart;
mod systemd;
mod upgrade;

use durdir_tests::support::Store;

/// Returns a store with a volume `v` and a mountd that does not end by itself.
fn served() -> Store {
    let store = Store::new();
    store.start_daemon([""; 0]);
    store.create_volume("v");
    store
}
