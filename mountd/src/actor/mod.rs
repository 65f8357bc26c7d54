//! Actors: sandboxed workloads with an identity that outlives their processes.
//!
//! ```text
//!   api/actors.rs ──▶ registry ── queue: may it be done now? ──▶ driver, which has the turn
//!                                                                  │ making    create, fork, rm
//!                                                                  │ restore   start, resume
//!                                                                  │ capture   pause, suspend, commit
//!                                                                  └ recovery  what a worker left that died
//!                                                                  │ thaw      what none comes to bring out of a pause
//!        store: records, cuts, forks ◀── world: mounts, drain ──┤ ├── runtime: sandboxes
//! ```
//!
//! # Invariants
//! - Memory and volumes of a capture belong to one instant, and are bound by a manifest; nothing is restored that does not fit.
//! - What is about to be done is stored first. Whenever the worker dies, the actor runs as before or the capture is complete.
//! - Volumes are mounted before the sandbox is made, and unmounted before anything around them is removed.
//!
//! Start reading at [`state`].

mod capture;
mod captures;
mod directory;
mod driver;
mod dropping;
mod error;
mod following;
mod image;
mod left_behind;
mod making;
mod manifest;
mod names;
mod phases;
mod place;
mod queue;
mod recipe;
mod record;
mod recovery;
mod registry;
mod restore;
mod shutdown;
mod state;
#[cfg(test)]
mod tests;
mod thaw;
mod unlinked;
mod watch;
mod world;

pub(crate) use capture::Preview;
pub(crate) use driver::{Outcome, Request};
pub(crate) use error::ActorError;
pub(crate) use names::check_not_reserved;
pub(crate) use phases::Phases;
pub(crate) use record::{Actor, CaptureView, newer_document};
pub(crate) use registry::{Actors, Turn};
pub(crate) use state::{CaptureKind, Standing};
pub(crate) use thaw::{PATIENCE, thaw};
pub(crate) use watch::Watch;
pub(crate) use world::NodeWorld;
