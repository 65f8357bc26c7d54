//! The merged view: which layer answers, and the read-only layers themselves.
//!
//! [`merged`] is the whole of it: what a view of the store and a stack of lowers show together. The rest are its parts:
//! [`resolve`] decides between layers, [`lower`] is what a read-only layer offers, [`host`] one that is a host
//! directory, [`stack`] several of them, [`lowers`] those of a volume with their inode numbers. [`names`] finds what leads to an inode.

pub mod host;
pub mod lower;
pub mod lowers;
pub mod merged;
pub mod resolve;
pub mod stack;

pub(crate) mod diff;
mod names;
mod sides;
