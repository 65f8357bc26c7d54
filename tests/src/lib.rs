//! What the black-box tests of durdir stand on: a private store, mounts that always go away again,
//! trees to put below them, and comparisons that name the path and the attribute that differ.
//!
//! Nothing here links the filesystem. The tests drive the `durdir` and `mountd` binaries and look
//! at the result through system calls, as any user would. See `README.md` for how to run them, and
//! for the plain-directory mode that tries the tests themselves against the host's filesystem.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

pub mod support;
