//! durdir, the client of mountd. See [`durdir_mountd::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    durdir_mountd::help_drain().unwrap_or_else(durdir_mountd::cli::main)
}
