//! The store as its directory shows it.

use std::path::PathBuf;

use durdir_fs::store::{self, StorePeek};

use super::{PEEK, Problem};
use crate::exit::one_line;
use crate::paths::Endpoint;

/// Of a full disk so much is kept for deletes; the store refuses to grow into it.
const RESERVE: u64 = 128 << 20;

pub(super) fn examine_format(endpoint: &Endpoint, problems: &mut Vec<Problem>) {
    if let Err(error) = store::check_format(&endpoint.store) {
        problems.push(Problem::store_unreadable(&one_line(&error)));
    }
}

pub(super) fn examine_disk(endpoint: &Endpoint, problems: &mut Vec<Problem>) {
    // The disk of the store is never one of our mounts.
    let Ok(disk) = nix::sys::statvfs::statvfs(&endpoint.store) else { return };
    let size = disk.blocks() * disk.fragment_size();
    let available = disk.blocks_available() * disk.fragment_size();
    if available <= RESERVE.min(size / 20) {
        problems.push(Problem::disk_full(&endpoint.store, available));
    }
}

pub(super) fn examine_records(quarantined: u64, problems: &mut Vec<Problem>) {
    if quarantined > 0 {
        problems.push(Problem::quarantined_records(quarantined));
    }
}

/// Reads the records beside whoever has the store open. What cannot be read in time is not told.
pub(super) async fn peek(store: PathBuf) -> StorePeek {
    let reading = tokio::task::spawn_blocking(move || store::peek(&store));
    match tokio::time::timeout(PEEK, reading).await {
        Ok(Ok(Ok(seen))) => seen,
        _ => StorePeek::default(),
    }
}
