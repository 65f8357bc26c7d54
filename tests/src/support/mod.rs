//! The pieces that tests are written with. Everything is re-exported here, so that a test file
//! begins with `use durdir_tests::support::*`.

mod acl;
mod cgroup;
mod daemon;
mod dirents;
mod disk;
mod errno;
mod layout;
mod mapping;
mod mount;
mod pattern;
mod posix;
mod process;
mod program;
mod store;
mod tree;
mod user;
mod wait;
mod watchdog;
mod xattr;

pub use acl::{Acl, AclEntry, AclTag};
pub use cgroup::MemoryLimit;
pub use dirents::{DirStream, Dirent, names_in};
pub use disk::SmallDisk;
pub use errno::{Failure, errno_of};
pub use layout::{Item, Layout, LowerDir, device, dir, fifo, file, hard_link, socket, sparse, symlink_to};
pub use mapping::Mapping;
pub use mount::{Mount, is_mounted, on_both};
pub use pattern::{noise, read_noise_at};
pub use posix::*;
pub use process::{Finished, is_running, run, signal, wait_for_exit};
pub use program::{Background, Program, copy_program, program, program_at, write_script};
pub use store::{Store, binary};
pub use tree::{Record, Tree, allocated_bytes, assert_same_tree, differences};
pub use user::{User, as_user, with_umask};
pub use wait::{eventually, next_tick};
pub use xattr::{get_xattr, list_xattrs, remove_xattr, set_xattr, set_xattr_with};

/// The number of bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// The number of bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// The number of bytes in a GiB.
pub const GIB: u64 = 1 << 30;
