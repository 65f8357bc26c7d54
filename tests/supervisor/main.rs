//! mountd is a supervisor and a worker. Here the worker dies, hangs, ends and is replaced by another version, and it is
//! clients of the API who must not notice; what programs on a mount notice is tested with the mounts.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod lifetime;
mod restart;
mod systemd;
mod upgrade;
