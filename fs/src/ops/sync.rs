//! Durability on request, and how full the volume is.

use super::VolumeFs;
use crate::error::FsError;
use crate::ids::NodeId;
use crate::store::record::PAGE_SIZE;

/// What has to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Datasync {
    /// The content, and what is needed to read it.
    Yes,
    /// All of it.
    No,
}

/// What `statfs` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks in all: the quota, or the disk under the store.
    pub blocks: u64,
    /// Blocks that are free.
    pub free: u64,
    /// Blocks that can be written.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes that can be made.
    pub files_free: u64,
    /// The longest name.
    pub name_max: u32,
}

/// Inodes to show where no quota limits them.
const UNLIMITED_FILES: u64 = 1 << 40;

impl VolumeFs {
    /// Makes a file durable, with everything else the volume did before. Concurrent callers share a sync.
    pub fn fsync(&self, node: NodeId, _datasync: Datasync) -> Result<(), FsError> {
        let node = self.node(node)?;
        match &node.tree.head {
            Some(head) => self.store.sync_head(head),
            None => Ok(()),
        }
    }

    /// Makes the names of a directory durable, with everything else the volume did before.
    pub fn fsyncdir(&self, node: NodeId) -> Result<(), FsError> {
        if self.snapshots_dir_attr(node)?.is_some() {
            return Ok(());
        }
        self.fsync(node, Datasync::No)
    }

    /// Returns how full the volume is: of its quota where it has one, else of the disk under the store.
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        self.settle();
        let tree = self.root.read().clone();
        let (disk, disk_available) = self.store.space.available()?;
        let (used, quota) = match &tree.head {
            Some(head) => (head.usage(), head.quota()),
            None => (crate::store::record::Usage::default(), (None, None)),
        };
        let used_bytes = u64::try_from(used.bytes).unwrap_or(0);
        let used_inodes = u64::try_from(used.inodes).unwrap_or(0);
        let (total, free) = match quota.0 {
            Some(quota) => (quota, quota.saturating_sub(used_bytes).min(disk_available)),
            None => (disk, disk_available),
        };
        let (files, files_free) = match quota.1 {
            Some(quota) => (quota, quota.saturating_sub(used_inodes)),
            None => (UNLIMITED_FILES, UNLIMITED_FILES.saturating_sub(used_inodes)),
        };
        let block = PAGE_SIZE as u64;
        Ok(StatFs {
            block_size: PAGE_SIZE as u32,
            blocks: total / block,
            free: free / block,
            available: free / block,
            files,
            files_free,
            name_max: super::NAME_MAX as u32,
        })
    }
}
