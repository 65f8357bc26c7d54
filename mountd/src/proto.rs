//! The generated gRPC messages, servers and clients of `proto/durdir/v1`.

// Generated code: its comments are the comments of the .proto files.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("durdir.v1");

/// The metadata entry of a failed call that holds an encoded [`ErrorDetail`].
pub const ERROR_DETAIL_KEY: &str = "durdir-error-bin";

/// What [`HelloResponse::api_revision`] says in this build.
pub const API_REVISION: u32 = 1;
