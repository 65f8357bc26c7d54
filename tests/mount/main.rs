//! One file per family of operations, each on a real mount.
//!
//! The families of the first block are POSIX: they also run against any directory named by
//! `DURDIR_TEST_PLAIN_DIR`, which shows that they expect what a mature filesystem does. Those of the
//! second block are about what only durdir has. See `../README.md`.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

mod acl;
mod attr;
mod copy_file_range;
mod create;
mod fallocate;
mod io;
mod link;
mod locks;
mod lookup;
mod mkdir;
mod mmap;
mod owner;
mod readdir;
mod rename;
mod seek;
mod special;
mod statfs;
mod symlink;
mod sync;
mod times;
mod unlink;
mod xattr;

mod commands;
mod diff;
mod fork;
mod inodes;
mod kill;
mod lower_rename;
mod mounting;
mod overlay;
mod persistence;
mod quota;
mod rollback;
mod snapshot;
mod space;
