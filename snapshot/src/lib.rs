//! Where captures of actors go for good, and how they come back.
//!
//! So far that is a local directory, in the simplest layout that is sound: [`local`]. It stands behind [`Target`], which the
//! content-addressed format will implement too.

#![forbid(unsafe_code)]

mod durable;
mod local;
mod reading;
mod target;

pub use durable::{sync_directory, sync_files, write_durably, write_whole};
pub use local::LocalDirectory;
pub use reading::{open_regular, read_small};
pub use target::{Opened, Publication, Target, TargetError};
