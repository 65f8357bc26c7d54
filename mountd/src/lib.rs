//! mountd, the node daemon of durdir, and durdir, its client.
//!
//! ```text
//! durdir (cli → client) ──gRPC over a Unix socket──▶ mountd (daemon → api → mounts, Store)
//! ```
//!
//! There is one code path: where no mountd runs on a store, [`client`] starts a private one.
//! Everything a caller may rely on is written in `proto/durdir/v1`. Start reading at [`daemon`]
//! for the service, at [`cli`] for the commands.

#![forbid(unsafe_code)]

mod actor;
mod api;
mod boot;
mod bundle;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
mod descriptor;
mod doctor;
pub mod exit;
mod keeper;
mod mounts;
pub mod paths;
pub mod proto;
mod runtime;
pub mod socket;
mod supervisor;
mod template;
#[cfg(test)]
mod testing;
pub mod units;
mod usage;

use std::process::ExitCode;

/// Does the work of the process that writes out mapped files before a cut, if this process was
/// started as one. Both programs ask this first: whichever drains starts itself again.
pub fn help_drain() -> Option<ExitCode> {
    let is_helper = std::env::args_os().nth(1)? == durdir_fs::drain::HELPER_ARGUMENT;
    is_helper.then(durdir_fs::drain::helper_main)
}
