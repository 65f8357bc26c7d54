//! What the store shows of itself: plain values, free of locks and keys.

use std::path::PathBuf;

use super::record::Flag;
use crate::attr::Timestamp;
use crate::ids::{Epoch, VolumeId};

/// What a new volume is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Host directories, top first.
    pub lowers: Vec<PathBuf>,
    /// Most bytes its head may store.
    pub quota_bytes: Option<u64>,
    /// Most inodes its head may store.
    pub quota_inodes: Option<u64>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: VolumeId,
    /// The epoch that is written.
    pub epoch: Epoch,
    /// The snapshot it was forked from, `VOLUME@EPOCH` as it is called now. `None` also if that is gone.
    pub parent: Option<String>,
    /// Host directories, top first.
    pub lowers: Vec<PathBuf>,
    /// Bytes of file data that the head stores above its lowers.
    pub used_bytes: u64,
    /// Inodes that the head stores above its lowers.
    pub used_inodes: u64,
    /// Most bytes its head may store.
    pub quota_bytes: Option<u64>,
    /// Most inodes its head may store.
    pub quota_inodes: Option<u64>,
    /// When it was made.
    pub created: Timestamp,
    /// What a person should know of it.
    pub flag: Option<Flag>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Name of its volume.
    pub volume: String,
    /// `VOLUME@EPOCH`
    pub snapshot: String,
    /// The name it was given.
    pub name: Option<String>,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// When it was cut.
    pub created: Timestamp,
    /// Bytes of file data that would go if it was removed alone.
    pub exclusive_bytes: u64,
    /// Bytes of file data that it shares with the head or other snapshots.
    pub shared_bytes: u64,
    /// Inodes that changed since the snapshot before it.
    pub files_changed: u64,
}

/// One difference between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path in the newer tree, in the older one for what was removed.
    pub path: Vec<u8>,
    /// What happened.
    pub change: ChangeKind,
    /// The path it had in the older tree, where it was renamed.
    pub from: Option<Vec<u8>>,
    /// Bytes of data that differ, in whole pages.
    pub bytes_changed: u64,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content differs.
    Modified,
    /// It has another path.
    Renamed,
    /// Only attributes differ.
    Metadata,
}

/// One cut or head in the history of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Name of its volume.
    pub volume: String,
    /// `VOLUME@EPOCH`
    pub snapshot: String,
    /// The name it was given.
    pub name: Option<String>,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// When it was cut.
    pub created: Timestamp,
    /// The snapshot before it in its ancestry.
    pub parent: Option<String>,
    /// Volumes that were forked from it.
    pub forks: Vec<String>,
    /// The volume whose head comes right after it.
    pub head_of: Option<String>,
}

/// How large a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes of segments on the disk.
    pub segment_bytes: u64,
    /// Bytes of RocksDB's tables.
    pub table_bytes: u64,
    /// Bytes of blocks of tables that are kept in memory.
    pub cache_bytes: u64,
    /// Bytes of records in memory that are not in a table yet.
    pub memtable_bytes: u64,
    /// Records that could not be read when the store was opened, and were passed over.
    pub quarantined: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// What may still be written, the reserve left out.
    pub disk_available: u64,
    /// Ranges of epochs that are still to be looked through for what nobody sees any more.
    pub sweeps_left: u64,
}
