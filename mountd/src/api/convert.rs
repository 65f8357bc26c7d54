//! Between the words of the API and those of the filesystem.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use durdir_fs::attr::Timestamp;
use durdir_fs::store::{self, ChangeKind, VolumeSpec};

use super::ApiError;
use crate::proto;

/// Returns a path of a request.
pub(crate) fn path(what: &'static str, bytes: Vec<u8>) -> Result<PathBuf, ApiError> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_bytes().contains(&0);
    if plain { Ok(path) } else { Err(ApiError::BadPath { what, path }) }
}

/// Returns a path as the API has it.
pub(super) fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Returns what a volume is to be created with.
pub(super) fn volume_spec(
    lowers: Vec<Vec<u8>>,
    quota_bytes: Option<u64>,
    quota_inodes: Option<u64>,
) -> Result<VolumeSpec, ApiError> {
    let lowers = lowers.into_iter().map(|lower| path("lower", lower));
    Ok(VolumeSpec {
        lowers: lowers.collect::<Result<_, _>>()?,
        quota_bytes: limit(quota_bytes)?,
        quota_inodes: limit(quota_inodes)?,
    })
}

/// Returns a limit of a request. One of 0 may be meant as none, or as nothing at all.
pub(super) fn limit(quota: Option<u64>) -> Result<Option<u64>, ApiError> {
    match quota {
        Some(0) => {
            Err(ApiError::Malformed { what: "a quota of 0; it is at least 1, or left out for no limit" })
        }
        quota => Ok(quota),
    }
}

/// Returns a volume as the API has it.
pub(super) fn volume(info: store::VolumeInfo, mounts: &[PathBuf]) -> proto::Volume {
    proto::Volume {
        name: info.name,
        id: u64::from(info.id.0),
        epoch: info.epoch.0,
        parent: info.parent,
        lowers: info.lowers.iter().map(|lower| path_bytes(lower)).collect(),
        used_bytes: info.used_bytes,
        used_inodes: info.used_inodes,
        quota_bytes: info.quota_bytes,
        quota_inodes: info.quota_inodes,
        mounts: mounts.iter().map(|mountpoint| path_bytes(mountpoint)).collect(),
        created_unix_ns: unix_ns(info.created),
        flag: info.flag.map(|flag| proto::VolumeFlag {
            since_unix_ns: unix_ns(flag.since),
            count: flag.count,
            what: flag.what,
        }),
    }
}

/// Returns a snapshot as the API has it.
pub(super) fn snapshot(info: store::SnapshotInfo) -> proto::Snapshot {
    proto::Snapshot {
        volume: info.volume,
        snapshot: info.snapshot,
        name: info.name,
        epoch: info.epoch.0,
        created_unix_ns: unix_ns(info.created),
        exclusive_bytes: info.exclusive_bytes,
        shared_bytes: info.shared_bytes,
        files_changed: info.files_changed,
    }
}

/// Returns the report of a cut as the API has it.
pub(super) fn cut(report: store::CutReport, drained: u64) -> proto::CreateSnapshotResponse {
    let snapshots = report.snapshots.into_iter().map(|snapshot| proto::CutSnapshot {
        volume: snapshot.volume,
        snapshot: snapshot.snapshot,
        epoch: snapshot.epoch.0,
        name: snapshot.name,
        changed: snapshot.changed,
    });
    proto::CreateSnapshotResponse {
        cut_id: report.id,
        held_us: micros(report.held),
        drained_inodes: drained,
        sync_us: micros(report.sync),
        snapshots: snapshots.collect(),
    }
}

/// Returns a difference as the API has it.
pub(super) fn change(change: store::Change) -> proto::Change {
    let kind = match change.change {
        ChangeKind::Added => proto::ChangeKind::Added,
        ChangeKind::Removed => proto::ChangeKind::Removed,
        ChangeKind::Modified => proto::ChangeKind::Modified,
        ChangeKind::Renamed => proto::ChangeKind::Renamed,
        ChangeKind::Metadata => proto::ChangeKind::Metadata,
    };
    proto::Change {
        path: change.path,
        change: kind.into(),
        from: change.from,
        bytes_changed: change.bytes_changed,
    }
}

/// Returns what a sweep freed as the API has it.
pub(super) fn reclaimed(report: store::ReclaimReport) -> proto::CollectGarbageResponse {
    let store::ReclaimReport { looked_at: _, versions, bytes, segments } = report;
    let counter = |name: &str, value| proto::Counter { name: name.to_owned(), value };
    proto::CollectGarbageResponse {
        bytes,
        dropped: vec![counter("versions", versions), counter("segments", segments)],
    }
}

/// Returns what a removal would do as the API has it.
pub(super) fn removal(preview: store::RemovalPreview) -> proto::RemovalPreview {
    let store::RemovalPreview { snapshots, bytes } = preview;
    proto::RemovalPreview { snapshots, bytes }
}

/// Returns what a rollback would do as the API has it: `changes` were made since the snapshot `since`, and would be lost.
pub(super) fn rollback(
    since: Option<String>,
    changes: &[store::Change],
    bytes: u64,
) -> proto::RollbackPreview {
    let count = |kind: ChangeKind| changes.iter().filter(|change| change.change == kind).count() as u64;
    proto::RollbackPreview {
        since,
        added: count(ChangeKind::Added),
        removed: count(ChangeKind::Removed),
        modified: count(ChangeKind::Modified),
        renamed: count(ChangeKind::Renamed),
        metadata: count(ChangeKind::Metadata),
        bytes,
    }
}

/// Returns one snapshot of the history as the API has it.
pub(super) fn log_entry(entry: store::LogEntry) -> proto::LogEntry {
    proto::LogEntry {
        volume: entry.volume,
        snapshot: entry.snapshot,
        name: entry.name,
        epoch: entry.epoch.0,
        created_unix_ns: unix_ns(entry.created),
        parent: entry.parent,
        forks: entry.forks,
        head_of: entry.head_of,
    }
}

/// Returns a duration in microseconds, rounded up: something that took time is never shown as 0.
pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Returns a time as the API has it.
pub(super) fn unix_ns(time: Timestamp) -> i64 {
    time.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_taken() {
        assert_eq!(path("x", b"/a/b\xff".to_vec()).unwrap().as_os_str().as_bytes(), b"/a/b\xff");
        for bad in [&b""[..], b"a", b"./a", b"/a/../b", b"/a\0b"] {
            let refused = path("lower", bad.to_vec()).unwrap_err();
            assert!(matches!(refused, ApiError::BadPath { .. }), "{bad:?}");
        }
    }

    #[test]
    fn times_keep_their_meaning() {
        assert_eq!(unix_ns(Timestamp { secs: -1, nanos: 999_999_999 }), -1);
        assert_eq!(unix_ns(Timestamp { secs: 2, nanos: 5 }), 2_000_000_005);
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_micros(7)), 7);
    }

    #[test]
    fn a_quota_of_nothing_is_refused() {
        assert_eq!((limit(None).unwrap(), limit(Some(1)).unwrap()), (None, Some(1)));
        for (bytes, inodes) in [(Some(0), None), (None, Some(0))] {
            let refused = volume_spec(Vec::new(), bytes, inodes).unwrap_err();
            assert!(matches!(refused, ApiError::Malformed { .. }), "{refused}");
        }
    }
}
