//! The programs of an actor.

use std::path::PathBuf;

use serde::Serialize;

use super::label::Label;
use super::mount_path::MountPath;
use super::readyz::Readyz;

/// A program with a root file system and volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    /// Its name, unique in the template.
    pub(crate) name: Label,
    /// The image that `rootfs` was unpacked from, with its digest. Only kept: nothing is pulled here. `None`: not from an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// The host directory that is its root. `None`: its sandbox brings one, a microVM's initramfs; any other cannot be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs: Option<PathBuf>,
    /// The program, and the first of its arguments; no shell takes part, and nothing is replaced in it.
    pub(crate) command: Vec<String>,
    /// The rest of its arguments. Together they are at least one word, or it cannot be started.
    pub(crate) args: Vec<String>,
    /// Its environment, and nothing else; names are unique.
    pub(crate) env: Vec<Variable>,
    /// Where it starts.
    pub(crate) working_dir: PathBuf,
    /// As whom it runs.
    pub(crate) user: User,
    /// What it sees of the volumes, at paths that are unique and not nested.
    pub(crate) volume_mounts: Vec<VolumeMount>,
    /// How it is found to be ready. `None`: it counts as ready when it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) readyz: Option<Readyz>,
}

/// A variable of an environment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Variable {
    /// Printable ASCII but for `=`; at least one character.
    pub(crate) name: String,
    /// Anything but NUL.
    pub(crate) value: String,
}

/// A user and a group, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct User {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
}

/// A volume in a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeMount {
    /// The volume: one of the template's.
    pub(crate) name: Label,
    /// Where the container sees it.
    pub(crate) mount_path: MountPath,
}
