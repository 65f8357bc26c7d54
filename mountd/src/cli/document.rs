//! The JSON documents that several commands print.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use crate::exit::printable;
use crate::proto;
use crate::units::format_rfc3339;

/// A volume, as `volume show` prints it.
#[derive(Serialize, Debug)]
pub(super) struct VolumeDocument {
    pub(super) name: String,
    pub(super) id: u64,
    pub(super) epoch: u64,
    pub(super) parent: Option<String>,
    pub(super) lowers: Vec<String>,
    pub(super) used_bytes: u64,
    pub(super) used_inodes: u64,
    pub(super) quota_bytes: Option<u64>,
    pub(super) quota_inodes: Option<u64>,
    pub(super) mounts: Vec<String>,
    pub(super) created: String,
    /// What a person should know of it.
    pub(super) flag: Option<FlagDocument>,
    /// The exact lowers in hexadecimal, null for those that are UTF-8; only where one is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lowers_hex: Option<Vec<Option<String>>>,
    /// As `lowers_hex`, of `mounts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mounts_hex: Option<Vec<Option<String>>>,
}

/// What happened to a volume.
#[derive(Serialize, Debug)]
pub(super) struct FlagDocument {
    pub(super) since: String,
    pub(super) count: u32,
    pub(super) what: String,
}

impl From<proto::Volume> for VolumeDocument {
    fn from(volume: proto::Volume) -> VolumeDocument {
        VolumeDocument {
            name: volume.name,
            id: volume.id,
            epoch: volume.epoch,
            parent: volume.parent,
            lowers: volume.lowers.iter().map(|lower| text(lower)).collect(),
            used_bytes: volume.used_bytes,
            used_inodes: volume.used_inodes,
            quota_bytes: volume.quota_bytes,
            quota_inodes: volume.quota_inodes,
            mounts: volume.mounts.iter().map(|mount| text(mount)).collect(),
            created: format_rfc3339(volume.created_unix_ns),
            flag: volume.flag.map(|flag| FlagDocument {
                since: format_rfc3339(flag.since_unix_ns),
                count: flag.count,
                what: flag.what,
            }),
            lowers_hex: hex_unless_texts(&volume.lowers),
            mounts_hex: hex_unless_texts(&volume.mounts),
        }
    }
}

/// A mount, as `mount` prints it.
#[derive(Serialize, Debug)]
pub(super) struct MountDocument {
    /// Unknown where only the remains of a mount were left.
    pub(super) volume: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) mountpoint: String,
    pub(super) read_only: bool,
    pub(super) transport: Option<String>,
    pub(super) cache: Option<String>,
    /// The exact mount point in hexadecimal, only where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mountpoint_hex: Option<String>,
}

impl From<proto::MountInfo> for MountDocument {
    fn from(mount: proto::MountInfo) -> MountDocument {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        MountDocument {
            volume: known(mount.volume),
            snapshot: mount.snapshot,
            mountpoint: text(&mount.mountpoint),
            read_only: mount.read_only,
            transport: known(mount.transport),
            cache: known(mount.cache),
            mountpoint_hex: hex_unless_text(&mount.mountpoint),
        }
    }
}

impl MountDocument {
    /// Returns what is mounted, for people.
    pub(super) fn source(&self) -> String {
        match (&self.snapshot, &self.volume) {
            (Some(snapshot), _) => format!("snapshot {snapshot}"),
            (None, Some(volume)) => format!("volume {volume}"),
            (None, None) => "the mount of a daemon that is gone".to_owned(),
        }
    }

    /// Returns where it is mounted, for people.
    pub(super) fn place(&self) -> String {
        printable(&self.mountpoint)
    }
}

/// Returns a path or name as text. JSON has no bytes: what is not UTF-8 is shown as U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the exact bytes in hexadecimal if [`text`] does not tell them.
pub(super) fn hex_unless_text(bytes: &[u8]) -> Option<String> {
    if std::str::from_utf8(bytes).is_ok() {
        return None;
    }
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// As [`hex_unless_text`], of several.
fn hex_unless_texts(all: &[Vec<u8>]) -> Option<Vec<Option<String>>> {
    let hex: Vec<_> = all.iter().map(|bytes| hex_unless_text(bytes)).collect();
    Some(hex).filter(|hex| hex.iter().any(Option::is_some))
}

/// Returns a path as text.
pub(super) fn path_text(path: &Path) -> String {
    text(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_the_pinned_fields_with_nulls() {
        let volume = proto::Volume {
            name: "web".to_owned(),
            id: 7,
            epoch: 3,
            lowers: vec![b"/base".to_vec()],
            used_bytes: 10,
            used_inodes: 2,
            quota_inodes: Some(5),
            ..proto::Volume::default()
        };
        let json = serde_json::to_value(VolumeDocument::from(volume)).unwrap();
        let expected = serde_json::json!({
            "name": "web", "id": 7, "epoch": 3, "parent": null, "lowers": ["/base"],
            "used_bytes": 10, "used_inodes": 2, "quota_bytes": null, "quota_inodes": 5,
            "mounts": [], "created": "1970-01-01T00:00:00.000000000Z", "flag": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_exactly() {
        assert_eq!(hex_unless_text("ä".as_bytes()), None);
        assert_eq!(hex_unless_text(b"a\xff").as_deref(), Some("61ff"));
        assert_eq!(hex_unless_texts(&["ä".into()]), None);
        assert_eq!(hex_unless_texts(&["ä".into(), b"\xff".into()]), Some(vec![None, Some("ff".to_owned())]));
    }
}
