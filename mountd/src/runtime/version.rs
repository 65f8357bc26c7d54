//! Which version of a runtime a sandbox runs on, noted beside it.
//!
//! An upgrade puts another version in the place of the one that runs. What is on the disk says nothing of a sandbox that was made before.
//!
//! # Crash consistency
//! It is noted before the sandbox is made, as a whole or not at all, and removed with it.

use std::path::PathBuf;

use super::files::{self, at};
use super::{RuntimeError, Sandbox};

fn path(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("version")
}

/// Takes note of the version that a sandbox is about to be made by.
pub(super) fn note(sandbox: &Sandbox, version: &str) -> Result<(), RuntimeError> {
    let (path, draft) = (path(sandbox), sandbox.directory.join("version.new"));
    files::write(&draft, format!("{version}\n"))?;
    std::fs::rename(&draft, &path).map_err(at("write", &path))
}

/// Returns the version that a sandbox was made by.
pub(super) fn noted(sandbox: &Sandbox, runtime: &'static str) -> Result<String, RuntimeError> {
    let noted = files::read(&path(sandbox))?.map(|text| text.trim().to_owned());
    noted.filter(|version| !version.is_empty()).ok_or_else(|| RuntimeError::Unsupported {
        runtime,
        what: "save memory",
        why: "it is not known which version of it the sandbox runs on, which was made by an older mountd; capture with \
              scope Data, or start the actor anew"
            .to_owned(),
    })
}

/// Forgets it.
pub(super) fn forget(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    files::remove(&path(sandbox))
}
