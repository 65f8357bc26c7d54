//! Checking a store, served by a mountd or on its own.

use std::path::Path;
use std::sync::Arc;

use durdir_fs::FsError;
use durdir_fs::store::{Store, StoreOptions};

use crate::proto::CheckResponse;

/// Checks an open store.
pub(super) fn check(_store: &Arc<Store>, _repair: bool) -> Result<CheckResponse, FsError> {
    Err(FsError::Unsupported { what: "fsck" })
}

/// Checks a store that no mountd has open. There must be one: opening would make it.
pub(crate) fn check_offline(dir: &Path, repair: bool) -> Result<CheckResponse, FsError> {
    let options = StoreOptions { background: false, ..StoreOptions::default() };
    let store = Store::open(dir, &options)?;
    let answer = check(&store, repair)?;
    store.close()?;
    Ok(answer)
}
