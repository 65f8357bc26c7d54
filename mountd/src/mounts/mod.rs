//! What is mounted on this node.
//!
//! ```text
//!   (nothing) ──reserve──▶ mounting ──up──▶ mounted ──begin──▶ unmounting ──▶ (nothing)
//!                             └─ failed ─▶ (nothing)   └─────◀── busy ──┘
//! ```
//!
//! # Invariants
//! - The head of a volume is mounted once: the kernel caches it for hours, and two kernels' views
//!   of it would not agree. Snapshots do not change and may be mounted often.
//! - A volume or snapshot that is mounted, or about to be, is not removed: who mounts reserves
//!   first, who removes asks here.
//! - No lock is held while the kernel mounts or unmounts.
//!
//! # Crash consistency
//! Nothing is stored. With a keeper, mounts of a worker that was killed go on with the next: see [`session`] and
//! [`adoption`]. Without one they are dead, and are removed when something is mounted or unmounted there.

mod adoption;
mod drain;
mod live;
mod mounting;
mod plan;
mod registry;
mod session;
mod shutdown;
mod watch;

pub(crate) use drain::start_helper;
pub(crate) use mounting::{Mounts, Selector};
pub(crate) use plan::{MountPlan, cache_name};
pub(crate) use registry::{MountView, Source};
pub(crate) use session::Keep;
