//! The gRPC service: who may call, what the calls do, and how they fail.
//!
//! A handler decodes its request, does its work on a blocking thread through
//! [`Node::answer`](crate::daemon), and encodes the answer. One that changes something goes through
//! [`Node::perform`](crate::daemon), which does each request once: [`requests`]. [`status`] is the only place where an error
//! becomes a gRPC status and an exit code.

mod actors;
mod checking;
mod convert;
mod error;
mod http;
mod listener;
mod metrics;
mod mounts;
mod node;
mod requests;
mod snapshots;
mod status;
mod volumes;

pub(crate) use checking::check_offline;
pub(crate) use convert::path as request_path;
pub(crate) use error::ApiError;
pub(crate) use http::serve_http;
pub(crate) use listener::{Connections, serve};
pub(crate) use requests::{Done, InFlight, Start, Ticket, id_of};
pub(crate) use status::{exit_class_of, report};
