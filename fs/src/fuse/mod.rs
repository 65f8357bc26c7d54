//! The kernel side: a volume is mounted, and what the kernel asks is answered by
//! [`VolumeFs`](crate::ops::VolumeFs).
//!
//! ```text
//!  transport.rs   what a transport is: mount options in, a Mount out         no fuser type
//!  mount.rs       a mount from outside: unmount, abort, wait for its end     no fuser type
//!  mountpoint.rs  attaching to a directory and detaching, as root (or fusermount.rs)
//!  session.rs     the classic transport: fuser on /dev/fuse
//!  adapter.rs     decode, call, answer ── reply.rs ── errno.rs, stats.rs, in_flight.rs
//!  sync_pool.rs   where an fsync waits
//!  handover.rs    what a worker that dies leaves to the next ── session_memory.rs ── words.rs
//!  receive_memory.rs  where fuser receives requests
//!  wire.rs        what fuser cannot say ── invalidate.rs
//! ```
//!
//! Only this module knows fuser, and only `errno.rs` knows what errno a failure is.

mod adapter;
mod affinity;
mod errno;
mod fusermount;
mod handover;
mod in_flight;
mod invalidate;
mod leave;
mod mount;
mod mount_source;
mod mount_table;
mod mountpoint;
mod receive_memory;
mod reply;
mod session;
mod session_memory;
mod stats;
mod sync_pool;
mod transport;
mod wire;
mod words;

pub use handover::Death;
pub use in_flight::OldestRequest;
pub use leave::leave_mounts;
pub use mount::Mount;
pub use mount_source::mount_source;
pub use mount_table::{DeviceId, MountedVolume, mounted_below, mounted_volumes};
pub use mountpoint::{has_dead_mount, remove_dead_mount, resolve};
pub use receive_memory::ReceiveMemory;
pub use session::Classic;
pub use session_memory::{InFlight, Phase, SESSION_MEMORY_VERSION, SessionMemory, SessionMemoryError};
pub use stats::{Histogram, OpKind, OpSummary};
pub use transport::{Adoption, CacheMode, MountError, MountOptions, Succession, Transport, adopt, mount};

pub(crate) use mount_table::unescape;
