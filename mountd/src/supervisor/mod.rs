//! The process that starts the worker, keeps its descriptors, and starts it again when it dies.
//!
//! ```text
//!              signals          notify socket: READY, WATCHDOG, descriptors to keep
//!                 │                 ▲
//!                 ▼                 │
//!   durdir ─▶ supervisor ──────▶ worker ── mounts, store, API
//!   mountd    │   ▲   starts, kills, reaps
//!   upgrade ──┘   └── exec of the next version, in this very process
//! ```
//!
//! It does nothing that can fail for long: one thread, one loop over `poll`, no RocksDB, no runtime, no file of the
//! store but its sockets. It never touches a mount.
//!
//! # Invariants
//! - Never are there two workers: the next is started after the one before is dead, all threads of it, and reaped.
//! - Before the next is started, everything that the one before had sent is read: what a worker was promised to be kept
//!   is handed on.
//! - For lack of memory the worker is killed, not the supervisor.
//! - Where workers die and none gets ready, no sandbox stays paused that one of them has paused.
//! - A first worker that does not get ready ends the supervisor with its exit code; from then on a worker is replaced
//!   whatever happens to it, unless it ends with 0 or mountd was asked to end.
//!
//! # Crash consistency
//! Nothing here is on disk but two sockets, which the next supervisor replaces. A worker whose supervisor is gone goes
//! on; when it ends, its mounts end with it.

mod backoff;
mod client;
mod control;
mod ending;
mod frame;
mod kept;
mod notify;
mod oom;
mod program;
mod resumption;
mod supervise;
mod thawing;
mod upgrade;
mod worker;

use std::process::ExitCode;

use crate::daemon::StartError;
use crate::daemon::arguments::Arguments;

pub(crate) use client::{ControlError, Supervised, ask_for_status, ask_to_upgrade, supervised};
pub(crate) use oom::stand_for as stand_for_oom;
pub(crate) use resumption::STATE_VERSION;

use supervise::Supervisor;

/// Supervises a worker to its end. `arguments` name store and socket, and the configuration by its full path.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, StartError> {
    Supervisor::start(arguments)?.run()
}

/// Goes on where another program that was the supervisor in this process left off.
pub(crate) fn resume(arguments: Arguments, state: i32) -> Result<ExitCode, StartError> {
    Supervisor::resume(arguments, state)?.run()
}
