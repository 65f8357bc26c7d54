//! Actors in real sandboxes over real mounts: what their programs believe they wrote is in their volumes, and nothing later, over
//! pauses, commits, forks, and the death of the daemon at every step.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod agent;
mod ballast;
mod containers;
mod cycles;
mod deaths;
mod disk;
mod forks;
mod frozen;
mod machines;
mod neighbours;
mod pairing;
mod processes;
mod refusals;
mod shims;
mod steps;
mod stolen;
mod times;
