//! The part of the OCI runtime specification that a bundle's `config.json` is made of (see
//! <https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md>). Written, never read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// A whole `config.json`.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) oci_version: &'static str,
    pub(super) hostname: String,
    pub(super) process: Process,
    pub(super) root: Root,
    pub(super) mounts: Vec<Mount>,
    pub(super) linux: Linux,
    pub(super) annotations: BTreeMap<&'static str, String>,
}

/// The first program of a container.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    pub(super) user: User,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) capabilities: Capabilities,
    pub(super) no_new_privileges: bool,
}

#[derive(Serialize, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

#[derive(Serialize, Debug)]
pub(super) struct Capabilities {
    pub(super) bounding: &'static [&'static str],
    pub(super) effective: &'static [&'static str],
    pub(super) permitted: &'static [&'static str],
}

#[derive(Serialize, Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) readonly: bool,
}

#[derive(Serialize, Debug)]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) source: PathBuf,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) options: &'static [&'static str],
}

#[derive(Serialize, Debug)]
pub(super) struct Linux {
    pub(super) namespaces: Vec<Namespace>,
}

#[derive(Serialize, Debug)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// One that exists; a new one otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<PathBuf>,
}
