//! The volumes of an actor.

use std::path::PathBuf;

use serde::Serialize;

use super::label::Label;

/// A volume that is made with the actor, kept over everything that happens to it, and removed with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    /// Its name, unique in the template; several actors have a volume of this name each.
    pub(crate) name: Label,
    /// What it is made of.
    pub(crate) durable_dir: DurableDir,
}

/// The source of a volume. There is no other kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DurableDir {
    /// Host directories that show through where nothing was written, the topmost first; absolute, and never written.
    pub(crate) lowers: Vec<PathBuf>,
    /// The most bytes it may store. `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quota_bytes: Option<u64>,
    /// The most files and directories it may store. `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quota_inodes: Option<u64>,
}
