//! Checking a store, served by a mountd or on its own.

use std::path::Path;

use durdir_fs::FsError;
use durdir_fs::check::{self, Repair};
use durdir_fs::store::{Store, StoreOptions};

use crate::proto::{CheckResponse, Issue};

/// Checks an open store. One that was mended, or needed no mending, has no flags any more: whoever asked for it has seen
/// them.
pub(super) fn check(store: &Store, repair: bool) -> Result<CheckResponse, FsError> {
    let report = check::check(store, if repair { Repair::Yes } else { Repair::No })?;
    if repair && report.issues.iter().all(|issue| issue.repaired()) {
        for volume in store.volumes()?.into_iter().filter(|volume| volume.flag.is_some()) {
            store.unflag_volume(volume.id)?;
        }
    }
    let issues = report.issues.into_iter().map(|issue| Issue {
        kind: issue.kind().to_owned(),
        volume: issue.volume(),
        inode: issue.inode(),
        path: issue.path(),
        detail: issue.to_string(),
        repaired: issue.repaired(),
    });
    Ok(CheckResponse { issues: issues.collect(), records: report.records })
}

/// Checks a store that no mountd has open. There must be one: opening would make it.
pub(crate) fn check_offline(dir: &Path, repair: bool) -> Result<CheckResponse, FsError> {
    let options = StoreOptions { background: false, ..StoreOptions::default() };
    let store = Store::open(dir, &options)?;
    let answer = check(&store, repair)?;
    store.close()?;
    Ok(answer)
}
