//! Generates the gRPC messages, server and client from `proto/`. Needs `protoc` (Debian:
//! `protobuf-compiler`).

const FILES: [&str; 7] = [
    "proto/durdir/v1/actors.proto",
    "proto/durdir/v1/error.proto",
    "proto/durdir/v1/intents.proto",
    "proto/durdir/v1/mounts.proto",
    "proto/durdir/v1/node.proto",
    "proto/durdir/v1/snapshots.proto",
    "proto/durdir/v1/volumes.proto",
];

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&FILES, &["proto"])
}
