//! The commands of `durdir`. Names, JSON fields and exit codes are a contract.
//!
//! One file per command family holds its arguments, its calls, and both of its outputs: for people,
//! and with `--json` exactly one document. Errors are one line on standard error.

mod actor;
mod arguments;
mod bundle;
mod check;
mod doctor;
mod document;
mod error;
mod fork;
mod graph;
mod log;
mod mount;
mod output;
mod run;
mod shell;
mod snapshot;
mod stats;
mod table;
mod top;
mod validate;
mod verify;
mod volume;

pub use run::main;
