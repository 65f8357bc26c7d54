//! mountd, the node daemon of durdir. See [`durdir_mountd::daemon`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

use durdir_fs::fuse::ReceiveMemory;
use tikv_jemallocator::Jemalloc;

/// With a million files referenced the daemon holds some hundred MiB in small pieces, and frees them
/// when the kernel forgets the files. glibc would keep most of that: its arenas shrink only from the
/// top. jemalloc returns free pages wherever they lie, and a thread of its own does so also while
/// nothing allocates. It replaces `malloc` too, so that RocksDB's memory is treated the same.
#[global_allocator]
static ALLOCATOR: ReceiveMemory<Jemalloc> = ReceiveMemory::over(Jemalloc);

fn main() -> ExitCode {
    durdir_mountd::help_drain().unwrap_or_else(durdir_mountd::daemon::main)
}
