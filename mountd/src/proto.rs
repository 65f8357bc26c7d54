//! The generated gRPC messages, servers and clients of `proto/durdir/v1`.

// Generated code: its comments are the comments of the .proto files.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("durdir.v1");

/// The metadata entry of a failed call that holds an encoded [`ErrorDetail`].
pub const ERROR_DETAIL_KEY: &str = "durdir-error-bin";

/// The metadata entry with the id that a client gives to one of its requests: a UUID as text. Calls that change something
/// need it.
pub const REQUEST_ID_KEY: &str = "durdir-request-id";

/// What [`HelloResponse::api_revision`] says in this build. 2: calls that change something need an id.
pub const API_REVISION: u32 = 2;
