//! Who goes first when memory runs out: the worker, not the supervisor.
//!
//! A worker that is killed is replaced. With the supervisor go the descriptors of all mounts. It is small, but a worker that
//! just begins is smaller.

use std::io;

/// `proc_pid_oom_score_adj(5)`: a child has what its parent has.
const SETTING: &str = "/proc/self/oom_score_adj";
/// Never.
const LEAST: i32 = -1000;
/// First of all.
const MOST: i32 = 1000;
/// A fifth of all memory: more than a supervisor has.
const BEFORE_SUPERVISOR: i32 = 200;

/// Takes this process out of the kernel's choice, where it may. Returns what its workers are to have.
pub(super) fn spare_this_process() -> Option<i32> {
    let before = read().inspect_err(|error| tracing::debug!(%error, "cannot tell who goes first")).ok()?;
    match std::fs::write(SETTING, LEAST.to_string()) {
        Ok(()) => Some(before),
        // Whoever may not spare one can still name the other.
        Err(_) => Some((before + BEFORE_SUPERVISOR).min(MOST)),
    }
}

/// Gives this process, a worker, its place in the order.
pub(crate) fn stand_for(score: i32) -> io::Result<()> {
    std::fs::write(SETTING, score.to_string())
}

fn read() -> io::Result<i32> {
    let text = std::fs::read_to_string(SETTING)?;
    text.trim().parse().map_err(io::Error::other)
}
