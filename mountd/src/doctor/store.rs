//! The store as its directory shows it.

use std::path::PathBuf;

use durdir_fs::store;

use super::{PEEK, Problem};
use crate::exit::one_line;
use crate::paths::Endpoint;

/// Of a full disk so much is kept for deletes; the store refuses to grow into it.
const RESERVE: u64 = 128 << 20;

/// Tells whether the store has a format that this version knows.
pub(super) fn examine_format(endpoint: &Endpoint, problems: &mut Vec<Problem>) -> bool {
    let checked = store::check_format(&endpoint.store);
    problems.extend(checked.as_ref().err().map(|error| Problem::store_unreadable(&one_line(error))));
    checked.is_ok()
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

/// Reads the records that are read when the store is opened, beside whoever has it open.
pub(super) async fn peek(store: PathBuf, problems: &mut Vec<Problem>) {
    let reading = tokio::task::spawn_blocking(move || store::unreadable_records(&store));
    let problem = match tokio::time::timeout(PEEK, reading).await {
        Ok(Ok(Ok(unreadable))) => return examine_records(unreadable, problems),
        Ok(Ok(Err(error))) if error.is_corruption() => Problem::store_damaged(&one_line(&error)),
        Ok(Ok(Err(error))) => Problem::records_unread(&one_line(&error)),
        Ok(Err(error)) => Problem::records_unread(&one_line(&error)),
        Err(_) => Problem::records_unread(&format!("that takes more than {} s", PEEK.as_secs())),
    };
    problems.push(problem);
}
