//! mountd: a worker that owns a store and its mounts, under a [supervisor](crate::supervisor) that starts it, and
//! starts it again.
//!
//! ```text
//! arguments ─▶ store directory ─▶ supervisor
//!                                     └─▶ worker: open store ─▶ listen ─▶ ready ─▶ serve ─▶ unmount all ─▶ close store
//! ```
//!
//! # Invariants
//! - Of all processes, only the one that holds the store's lock touches its socket.
//! - Ready is reported when clients can connect, not before; a failure before it is reported as
//!   one line with the exit code of its class.
//!
//! # Crash consistency
//! Nothing here is on disk but the socket, which the next mountd replaces. Acknowledged work is in
//! the store's log; a start after a crash is an ordinary start.
//!
//! # Concurrency
//! Handlers run on tokio; what touches the store or the kernel's mounts runs on its blocking
//! threads. File operations run on the threads of the FUSE sessions and never meet tokio.

pub mod arguments;
mod detach;
mod heartbeat;
mod idle;
mod listeners;
pub(crate) mod log;
mod node;
mod reopening;
pub(crate) mod self_check;
mod start;
mod store_directory;
mod tally;
mod worker;

pub(crate) use detach::{DetachError, start_detached};
pub(crate) use node::Node;
pub(crate) use start::{StartError, load_config, raise_file_limit, report_ready};
pub(crate) use tally::Tally;

/// What a mountd that runs on its own writes on its standard output once clients can connect.
/// Anything else that it writes there is what went wrong.
pub const READY: &str = "ready";

pub use start::main;
