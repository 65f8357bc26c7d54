//! The durdir overlay filesystem: a RocksDB-backed upper over read-only lowers, with snapshots and
//! forks that cost the same whatever the size.
//!
//! Layers, arrows down only: [`fuse`] (protocol) → [`ops`] (POSIX meaning) → [`overlay`] (which
//! layer answers) → [`store`] (bytes, durability). Only `fuse` knows fuser, only `store` knows
//! RocksDB. Start reading at [`ops::VolumeFs`].

pub mod attr;
pub mod check;
pub mod drain;
pub mod error;
pub mod failpoint;
pub mod fuse;
pub mod ids;
pub mod ops;
pub mod overlay;
pub mod request;
pub mod store;

pub use error::FsError;
pub use ops::VolumeFs;
pub use store::{Store, StoreOptions};
