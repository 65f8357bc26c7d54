//! Checking a store, served by a mountd or on its own.

use std::path::Path;

use durdir_fs::FsError;
use durdir_fs::check::{self, CheckReport, Progress, Repair, Sample};
use durdir_fs::store::{Store, StoreOptions};
use uuid::Uuid;

use crate::proto::{CheckResponse, Issue, VerifyRequest, VerifyResponse};

/// Checks an open store. One that was mended, or needed no mending, has no flags any more: whoever asked for it has seen
/// them.
pub(super) fn check(store: &Store, repair: bool) -> Result<CheckResponse, FsError> {
    let report = check::check(store, if repair { Repair::Yes } else { Repair::No })?;
    if repair && report.issues.iter().all(|issue| issue.repaired()) {
        for volume in store.volumes()?.into_iter().filter(|volume| volume.flag.is_some()) {
            store.unflag_volume(volume.id)?;
        }
    }
    let records = report.records;
    Ok(CheckResponse { issues: issues(report), records })
}

/// Reads an open store, or a sample of it that chance chooses anew each time.
pub(super) fn verify(
    store: &Store,
    request: VerifyRequest,
    progress: &Progress,
) -> Result<VerifyResponse, FsError> {
    let sample = match request.sample_per_million {
        None => Sample::EVERYTHING,
        Some(per_million) => Sample::of(per_million, Uuid::new_v4().as_u64_pair().0),
    };
    let report = check::verify(store, sample, progress)?;
    let (omitted, records, pages) = (report.omitted, report.records, report.pages);
    Ok(VerifyResponse { issues: issues(report), omitted, records, pages })
}

fn issues(report: CheckReport) -> Vec<Issue> {
    let issues = report.issues.into_iter().map(|issue| Issue {
        kind: issue.kind().to_owned(),
        volume: issue.volume(),
        inode: issue.inode(),
        path: issue.path(),
        detail: issue.to_string(),
        repaired: issue.repaired(),
        repairable: issue.is_repairable(),
    });
    issues.collect()
}

/// Checks a store that no mountd has open. There must be one: opening would make it.
pub(crate) fn check_offline(dir: &Path, repair: bool) -> Result<CheckResponse, FsError> {
    let options = StoreOptions { background: false, ..StoreOptions::default() };
    let store = Store::open(dir, &options)?;
    let answer = check(&store, repair)?;
    store.close()?;
    Ok(answer)
}
